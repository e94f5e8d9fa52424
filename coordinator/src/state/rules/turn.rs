//! Whether it is a job's turn: its start time, and what has to become of other jobs first. Does NOT decide what becomes of a job whose turn never comes.
use mlctl_proto::spec::{After, AfterKind, Ranges};
use mlctl_proto::units::UtcMs;

use crate::state::State;
use crate::state::records::{Job, JobState};
use crate::state::view::jobs::Blocked;

/// What a job that waits has to wait for, whatever is free.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotYet {
    /// Its start time is ahead.
    Begin(UtcMs),
    /// Something has to become of another job.
    After(After),
}

/// For what a job waits at `now_ms`, if for anything of that. One that waits for another job is not told of its start time.
pub fn not_yet(job: &Job, now_ms: UtcMs) -> Option<NotYet> {
    if let Some(after) = job.turn.waits_for() {
        return Some(NotYet::After(after));
    }
    let begin = Some(job.turn.begin_ms).filter(|begin| *begin > now_ms);
    begin.map(NotYet::Begin)
}

/// The tasks of an array that need not wait for tasks of another one; `None`: no task has to.
pub fn ready_tasks(state: &State, job: &Job) -> Option<Ranges> {
    let paired = job
        .turn
        .after
        .iter()
        .filter(|one| one.kind == AfterKind::Corr);
    let ready = paired.map(|one| {
        let on = state.job(one.job).and_then(|on| on.array.as_deref());
        on.map_or_else(Ranges::new, |on| on.succeeded_tasks())
    });
    ready.reduce(|all, ready| all.and(&ready))
}

/// Why a job that waits cannot start at `now_ms`, whatever is free, in the scheduler's words; `None`: only room can be missing.
pub fn blocked(state: &State, job: &Job, now_ms: UtcMs) -> Option<Blocked> {
    if job.state == JobState::Held {
        return Some(Blocked::Held);
    }
    if job.state == JobState::Pending
        && let Some(not_yet) = not_yet(job, now_ms)
    {
        return Some(match not_yet {
            NotYet::Begin(at_ms) => Blocked::StartTime(at_ms),
            NotYet::After(after) => Blocked::Dependency(after.job),
        });
    }
    if job.retries.backs_off(now_ms) {
        return Some(Blocked::Backoff(job.retries.not_before_ms));
    }
    // Waves of an array run beside each other: none waits for the end of another.
    let ends = job.array.is_none() && state.ends_attempt(job.id);
    ends.then_some(Blocked::LastAttempt)
}

#[cfg(test)]
mod tests {
    use mlctl_proto::ids::JobId;
    use mlctl_proto::spec::parse_toml;

    use super::*;
    use crate::state::testing::Cluster;

    #[test]
    fn each_says_what_blocks_it() {
        let mut cluster = Cluster::new();
        let mut submit = |lines: &str| {
            let spec = parse_toml(&format!("command = ['a']\n{lines}")).expect("good");
            cluster.submitted_spec("ann", &spec)
        };
        let free = submit("");
        let held = submit("hold = true");
        let after = submit(&format!(
            "after = ['any:{free}']\nbegin = '2030-01-01T00:00:00Z'"
        ));
        let later = submit("begin = '2030-01-01T00:00:00Z'");
        let found = |id: JobId, now_ms| blocked(&cluster.state, &cluster.job(id), now_ms);
        assert_eq!(found(free, 5_000), None);
        assert_eq!(found(held, 5_000), Some(Blocked::Held));
        assert_eq!(found(after, 5_000), Some(Blocked::Dependency(free)));
        assert_eq!(
            found(later, 5_000),
            Some(Blocked::StartTime(1_893_456_000_000))
        );
        assert_eq!(found(later, 1_893_456_000_000), None, "the time has come");
        let mut failed = cluster.job(free);
        failed.retries.not_before_ms = 6_000;
        let backs_off = blocked(&cluster.state, &failed, 5_000);
        assert_eq!(backs_off, Some(Blocked::Backoff(6_000)));
    }
}
