//! DropLate: jobs whose deadline is over are ended: those that were never begun by their `start_by`, and those that are not over by their `end_by`. Which
//! these are is decided here, by state time, whatever was proposed; the leader only says that it may be time.
use mlctl_proto::errors::Refusal;
use mlctl_proto::ids::JobId;
use mlctl_proto::spec::Moment;
use mlctl_proto::units::UtcMs;

use super::Context;
use super::cancel_jobs::end_job;
use crate::state::change::Change;
use crate::state::records::{Job, Reply};

/// Jobs that one command ends at most: apply stays short.
pub const DROP_LATE_MAX: u32 = 1_000;

/// Ends jobs that are too late.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DropLate {
    /// At most so many.
    pub most: u32,
}

impl DropLate {
    pub(super) fn apply(&self, change: &mut Change, context: &Context) -> Result<Reply, Refusal> {
        context.require_system()?;
        let most = self.most.min(DROP_LATE_MAX) as usize;
        let due = change.state().deadlines();
        let due = due.take_while(|(at, _)| *at <= context.now_ms).take(most);
        let due: Vec<(UtcMs, JobId)> = due.collect();
        for (at, id) in due {
            let job = change.job(id)?;
            let why = why(&job, at);
            end_job(change, job, "", why, context.now_ms)?;
            change.replan();
        }
        Ok(Reply::Done)
    }
}

fn why(job: &Job, at: UtcMs) -> String {
    let time = Moment::from_ms(at).map_or_else(String::new, |at| at.to_string());
    if job.epoch_counter == 0 && at == job.turn.start_by_ms {
        format!("it had not started by {time}, its `start_by`")
    } else {
        format!("it was not over by {time}, its `end_by`")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mlctl_proto::errors::Code;
    use mlctl_proto::spec::{JobSpec, parse_toml};

    use crate::state::Body;
    use crate::state::records::{EndKind, JobState};
    use crate::state::testing::{Cluster, command, person, submit_body, system};

    const DAY_MS: i64 = 86_400_000;
    /// 2030-01-01T00:00:00Z
    const START_MS: i64 = 1_893_456_000_000;

    fn spec(lines: &str) -> JobSpec {
        parse_toml(&format!("command = ['a']\n{lines}")).expect("good")
    }

    fn drop_late(cluster: &mut Cluster, now_ms: i64) {
        cluster.now_ms = now_ms;
        let applied = cluster.run(system(), Body::DropLate(DropLate { most: 10 }));
        assert_eq!(applied.reply, Reply::Done);
    }

    fn cluster() -> Cluster {
        let mut cluster = Cluster::new();
        cluster.gpu_node("a", 1);
        cluster.now_ms = START_MS;
        cluster
    }

    #[test]
    fn what_did_not_start_in_time_is_dropped_and_what_did_goes_on() {
        let mut cluster = cluster();
        let late = cluster.submitted_spec("ann", &spec("start_by = '2030-01-02T00:00:00Z'"));
        let runs = cluster.submitted_spec("ann", &spec("start_by = '2030-01-02T00:00:00Z'"));
        let held = cluster.submitted_spec(
            "ann",
            &spec("hold = true\nstart_by = '2030-01-02T00:00:00Z'"),
        );
        let waits = cluster.submitted_spec("ann", &spec(&format!("after = ['ok:{late}']")));
        cluster.started(runs, &["a"]);
        drop_late(&mut cluster, START_MS + DAY_MS - 10);
        assert_eq!(cluster.job(late).state, JobState::Pending, "not yet");
        drop_late(&mut cluster, START_MS + DAY_MS);
        for job in [late, held] {
            let job = cluster.job(job);
            assert_eq!(job.state, JobState::Cancelled);
            let end = job.outcome.expect("it is over");
            assert!(
                end.detail.contains("2030-01-02T00:00:00Z, its `start_by`"),
                "{}",
                end.detail
            );
        }
        assert_eq!(cluster.job(runs).state, JobState::Starting);
        assert_eq!(
            cluster.job(waits).state,
            JobState::Cancelled,
            "it waited for it"
        );
        assert_eq!(cluster.state.deadlines().count(), 0);
    }

    #[test]
    fn what_is_not_over_in_time_is_ended() {
        let mut cluster = cluster();
        let runs =
            cluster.submitted_spec("ann", &spec("gpus = 1\nend_by = '2030-01-02T00:00:00Z'"));
        let epoch = cluster.started(runs, &["a"]);
        cluster.running(runs, epoch);
        drop_late(&mut cluster, START_MS + DAY_MS);
        assert_eq!(cluster.job(runs).state, JobState::Stopping);
        drop_late(&mut cluster, START_MS + DAY_MS);
        cluster.ended("a", runs, epoch, EndKind::Cancelled);
        let job = cluster.job(runs);
        assert_eq!(job.state, JobState::Cancelled);
        assert!(
            job.outcome
                .is_some_and(|end| end.detail.contains("its `end_by`"))
        );
    }

    #[test]
    fn a_deadline_that_is_over_is_refused_and_people_do_not_drop() {
        let mut cluster = cluster();
        let past = spec("end_by = '2029-12-31T00:00:00Z'");
        let applied = cluster.run(person("ann", false), submit_body(&past));
        assert_eq!(
            applied.refusal().map(|refusal| refusal.code),
            Some(Code::BadRequest)
        );
        let body = Body::DropLate(DropLate { most: 1 });
        let applied = cluster.apply(&command(person("root", true), START_MS, body));
        assert_eq!(
            applied.refusal().map(|refusal| refusal.code),
            Some(Code::Denied)
        );
    }
}
