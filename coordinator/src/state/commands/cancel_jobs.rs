//! CancelJobs: a person ends jobs: all that are named, or none. A pending job is Cancelled at once; one that holds devices is
//! stopped first and is Cancelled when its last node says that nothing is left.
use mlctl_proto::errors::{Code, Refusal};
use mlctl_proto::ids::{JobId, clip};
use mlctl_proto::mutants::{Mutant, planted};
use mlctl_proto::units::UtcMs;

use super::current::Current;
use super::selection::{Filter, Selection, owned};
use super::{Context, failures, in_doubt, kept, waves};
use crate::state::change::{Change, ended_long_ago};
use crate::state::records::{End, EndKind, Job, JobState, Reply};
use crate::state::transition::advance;

/// Which jobs to end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CancelJobs {
    /// Their ids.
    pub jobs: Vec<JobId>,
    /// Or what they have in common.
    pub filter: Option<Filter>,
}

impl CancelJobs {
    /// These jobs.
    pub fn of(jobs: Vec<JobId>) -> Self {
        Self { jobs, filter: None }
    }

    pub(super) fn apply(&self, change: &mut Change, context: &Context) -> Result<Reply, Refusal> {
        context.require_person()?;
        let which = Selection {
            jobs: self.jobs.clone(),
            filter: self.filter.clone(),
        };
        let ids = which.ids(change.state(), context.actor)?;
        let mut jobs = Vec::new();
        let mut already_ended = Vec::new();
        if let Some(one) = ids.iter().find(|id| change.state().is_archived(**id))
            && ids.iter().all(|id| change.state().is_archived(*id))
        {
            return Err(ended_long_ago(*one));
        }
        for id in ids {
            // Whose it was does not matter: nothing happens to it.
            if change.state().is_archived(id) {
                already_ended.push(id);
                continue;
            }
            let job = change.job(id)?;
            owned(&job, context.actor)?;
            if job.state.terminal() && !planted(Mutant::DoubleCompletion) {
                already_ended.push(id);
            } else {
                let by = &context.actor.name;
                let why = format!("cancelled by {}", clip(by));
                end_job(change, job, by, why, context.now_ms)?;
                jobs.push(id);
            }
        }
        Ok(Reply::Cancelled {
            jobs,
            already_ended,
        })
    }
}

/// Ends a job: at once if it waits, else as soon as its nodes have. `by`: who asked, for people; empty: nobody. `why`: one sentence.
pub(super) fn end_job(
    change: &mut Change,
    mut job: Job,
    by: &str,
    why: String,
    now_ms: UtcMs,
) -> Result<(), Refusal> {
    if job.cancel_requested {
        return Ok(());
    }
    job.cancel_requested = true;
    job.cancelled_by = by.to_owned();
    let end = End {
        detail: why,
        ..End::of(EndKind::Cancelled)
    };
    if job.array.is_some() && !job.state.terminal() {
        return waves::cancel(change, job, &end, now_ms);
    }
    in_doubt::close(change, &mut job, now_ms, &end.detail);
    let waits = matches!(job.state, JobState::Pending | JobState::Held);
    if waits || (planted(Mutant::DoubleCompletion) && job.state.terminal()) {
        advance(&mut job, JobState::Cancelled)?;
        failures::release(&mut job);
        job.outcome = Some(end);
        job.ended_ms = now_ms;
        change.put_job(job);
        return Ok(());
    }
    let id = job.id;
    let epoch = job.epoch();
    change.put_job(job);
    let current = epoch.and_then(|epoch| Current::load(change, id, epoch, now_ms));
    let missing = || {
        Refusal::new(
            Code::Internal,
            format!("job {id} is active but has no attempt"),
        )
    };
    let mut current = current.ok_or_else(missing)?;
    current.hurry(change, end.kind);
    current.stop(change, end, None)?;
    kept::release(change, &mut current)?;
    current.store(change);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::testing::{Cluster, person};
    use crate::state::{Body, Effect};

    fn cancel_body(jobs: &[JobId]) -> Body {
        Body::CancelJobs(CancelJobs::of(jobs.to_vec()))
    }

    #[test]
    fn pending_at_once_and_running_when_its_nodes_say_so() {
        let mut cluster = Cluster::new();
        cluster.gpu_node("a", 1);
        let running = cluster.submitted("ann", 1, 1);
        let pending = cluster.submitted("ann", 1, 1);
        let epoch = cluster.started(running, &["a"]);
        cluster.running(running, epoch);
        let applied = cluster.run(
            person("ann", false),
            cancel_body(&[pending, running, running]),
        );
        assert_eq!(
            applied.reply,
            Reply::Cancelled {
                jobs: vec![running, pending],
                already_ended: vec![]
            }
        );
        let stop = Effect::Stop {
            node: "a".into(),
            job: running,
            epoch,
            reason: EndKind::Cancelled,
        };
        assert_eq!(applied.effects, [stop]);
        assert_eq!(cluster.job(pending).state, JobState::Cancelled);
        assert_eq!(cluster.job(running).state, JobState::Stopping);
        let again = cluster.run(person("ann", false), cancel_body(&[running, pending]));
        assert_eq!(
            again.reply,
            Reply::Cancelled {
                jobs: vec![running],
                already_ended: vec![pending]
            }
        );
        assert!(again.effects.is_empty() && again.changed.is_empty());

        cluster.ended("a", running, epoch, EndKind::NodeLost);
        let job = cluster.job(running);
        assert_eq!(
            (job.state, job.cancelled_by.as_str()),
            (JobState::Cancelled, "ann")
        );
        assert_eq!(
            job.outcome.map(|end| end.kind),
            Some(EndKind::Cancelled),
            "the first reason is the person's"
        );
    }

    #[test]
    fn a_job_that_is_about_to_start_again_ends() {
        let mut cluster = Cluster::new();
        cluster.gpu_node("a", 1);
        cluster.gpu_node("b", 1);
        let job = cluster.submitted("ann", 2, 1);
        let epoch = cluster.started(job, &["a", "b"]);
        cluster.ended("a", job, epoch, EndKind::KeeperLost);
        cluster.run(person("ann", false), cancel_body(&[job]));
        cluster.ended("b", job, epoch, EndKind::KeeperLost);
        let job = cluster.job(job);
        assert_eq!(
            (job.state, job.outcome.map(|end| end.kind)),
            (JobState::Cancelled, Some(EndKind::Cancelled))
        );
    }

    #[test]
    fn a_filter_cancels_what_is_ones_own() {
        let mut cluster = Cluster::new();
        let ann = cluster.submitted("ann", 1, 0);
        let bob = cluster.submitted("bob", 1, 0);
        let filter = Filter {
            state: Some(JobState::Pending),
            ..Filter::default()
        };
        let cancel = CancelJobs {
            jobs: Vec::new(),
            filter: Some(filter),
        };
        let applied = cluster.run(person("ann", false), Body::CancelJobs(cancel));
        assert_eq!(
            applied.reply,
            Reply::Cancelled {
                jobs: vec![ann],
                already_ended: vec![]
            }
        );
        assert_eq!(cluster.job(bob).state, JobState::Pending);
    }

    #[test]
    fn all_that_are_named_or_none() {
        let mut cluster = Cluster::new();
        let ann = cluster.submitted("ann", 1, 0);
        let bob = cluster.submitted("bob", 1, 0);
        let unknown = JobId::new(1, 99);
        for (actor, jobs, code, part) in [
            (
                person("ann", false),
                vec![ann, bob],
                Code::Denied,
                "belongs to bob",
            ),
            (
                person("ann", false),
                vec![ann, unknown],
                Code::NotFound,
                "no job 99",
            ),
            (
                person("ann", false),
                vec![],
                Code::BadRequest,
                "at least one",
            ),
        ] {
            let applied = cluster.run(actor, cancel_body(&jobs));
            let refusal = applied.refusal().expect(part);
            assert_eq!(refusal.code, code);
            assert!(refusal.message.contains(part), "{refusal}");
            assert_eq!(cluster.job(ann).state, JobState::Pending);
        }
        let applied = cluster.run(person("root", true), cancel_body(&[ann, bob]));
        assert_eq!(
            applied.reply,
            Reply::Cancelled {
                jobs: vec![ann, bob],
                already_ended: vec![]
            }
        );
    }
}
