//! What becomes of a job whose attempt failed: over, again at once, again after a while, or held for a person. What counts, how
//! long it waits, and which node it then avoids. Changes no state of a job: the commands do.
use mlctl_proto::limits::{
    BACKOFF_DEV_MS_MAX, BACKOFF_FIRST_DEV_MS, BACKOFF_FIRST_MS, BACKOFF_MS_MAX, EXCLUDED_NODES_MAX,
    INFRASTRUCTURE_RESTARTS_MAX, POISON_LOSSES, REQUEUES_AT_ONCE, UNSUSPECTED_MS,
};
use mlctl_proto::spec::{Cause, RetrySpec};
use mlctl_proto::units::UtcMs;

use crate::state::records::{Attempt, End, EndKind, ExcludedNode, Job, Retries};

/// What follows from the end of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It ended for good, well or badly.
    Over,
    /// Again, and nothing is counted: it was preempted.
    Again,
    /// Again by itself: the infrastructure failed, and that is bounded.
    Restarted,
    /// Again because its spec says so, and its spec says how often.
    Retried,
    /// It took down what it ran on too often: a person has to look.
    Held,
}

/// How an attempt ended, and how long its ranks had run.
#[derive(Debug, Clone, Copy)]
pub struct Ended<'a> {
    /// The end.
    pub end: &'a End,
    /// From when all ranks ran, 0 if they never did.
    pub ran_ms: i64,
    /// It was to go on from a checkpoint.
    pub resumes: bool,
}

impl<'a> Ended<'a> {
    /// An attempt that ends so at `now_ms`.
    pub fn of(attempt: &Attempt, end: &'a End, now_ms: UtcMs) -> Self {
        let ran_ms = match attempt.running_ms {
            0 => 0,
            since => now_ms.saturating_sub(since),
        };
        let resumes = !attempt.resume_from.is_empty();
        Self {
            end,
            ran_ms,
            resumes,
        }
    }

    /// How long its ranks had run, milliseconds.
    pub fn time_ms(&self) -> u64 {
        u64::try_from(self.ran_ms).unwrap_or(0)
    }

    /// What is held against the job so far. One that ran for long proves that it does not kill what it runs on.
    fn counted(&self, job: &Job) -> (u32, u32) {
        if self.ran_ms >= UNSUSPECTED_MS {
            (0, 0)
        } else {
            (job.infrastructure_restarts, job.retries.losses)
        }
    }

    /// The infrastructure failed, not the job. What has run before and made a checkpoint can be launched: that it could not be this time is
    /// the node's fault, or that of those that hold the checkpoint.
    fn infrastructure(&self) -> bool {
        let launch = self.end.kind == EndKind::LaunchFailed;
        self.end.kind.infrastructure() || (launch && self.resumes)
    }

    /// Whether the machine, or what owned the ranks there, is gone.
    fn loss(&self) -> bool {
        matches!(self.end.kind, EndKind::NodeLost | EndKind::KeeperLost)
    }
}

/// What becomes of `job` after an attempt that ended so. `retry`: what its spec asks for.
pub fn verdict(job: &Job, retry: Option<&RetrySpec>, ended: &Ended) -> Verdict {
    let end = ended.end;
    // Only who says so starts again after its time limit: `any` is about failures.
    let chained = retry.is_some_and(|retry| retry.on.contains(&Cause::TimeLimit));
    match end.kind {
        EndKind::Preempted => return Verdict::Again,
        EndKind::TimedOut if chained => {}
        EndKind::Cancelled | EndKind::TimedOut | EndKind::Superseded => return Verdict::Over,
        _ if end.success() => return Verdict::Over,
        _ => {}
    }
    let (restarts, losses) = ended.counted(job);
    let listed = retry.filter(|retry| retry.on.iter().any(|cause| covers(*cause, end)));
    let again = match listed {
        Some(retry) if job.retries.used < retry.max => Verdict::Retried,
        Some(_) => return Verdict::Over,
        None if !ended.infrastructure() => return Verdict::Over,
        None if restarts < INFRASTRUCTURE_RESTARTS_MAX => Verdict::Restarted,
        None => Verdict::Held,
    };
    if ended.loss() && losses.saturating_add(1) >= POISON_LOSSES {
        return Verdict::Held;
    }
    again
}

/// Whether a cause is that of a failure.
fn covers(cause: Cause, end: &End) -> bool {
    let is = |kind| end.kind == kind;
    match cause {
        Cause::Any => true,
        Cause::NodeLost => is(EndKind::NodeLost),
        Cause::KeeperLost => is(EndKind::KeeperLost),
        Cause::DeviceError => is(EndKind::DeviceError),
        Cause::Preempted => is(EndKind::Preempted),
        Cause::Hung => is(EndKind::Hung),
        Cause::OutOfMemory => is(EndKind::OutOfMemory),
        Cause::LaunchFailed => is(EndKind::LaunchFailed),
        Cause::TimeLimit => is(EndKind::TimedOut),
        Cause::Exit(code) => is(EndKind::Exited) && end.code == i32::from(code),
        Cause::Signal(signal) => is(EndKind::Signalled) && end.code == i32::from(signal),
    }
}

/// How long a job waits before it starts again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    first_ms: i64,
    most_ms: i64,
}

impl Backoff {
    /// That of a cluster; a throw-away one is impatient.
    pub fn of(dev: bool) -> Self {
        let (first_ms, most_ms) = if dev {
            (BACKOFF_FIRST_DEV_MS, BACKOFF_DEV_MS_MAX)
        } else {
            (BACKOFF_FIRST_MS, BACKOFF_MS_MAX)
        };
        Self { first_ms, most_ms }
    }

    /// After so many waits.
    fn after(self, waits: u32) -> i64 {
        let doubled = self.first_ms.saturating_mul(1_i64 << waits.min(32));
        doubled.min(self.most_ms)
    }

    /// When a job that failed so at `now_ms` may start again; 0: at once. Its own failures always wait, those of the
    /// infrastructure only when they pile up.
    pub fn until(self, retries: &Retries, kind: EndKind, now_ms: UtcMs) -> UtcMs {
        if kind.infrastructure() && retries.requeues < REQUEUES_AT_ONCE {
            return 0;
        }
        // Nothing failed: the next attempt of a chain follows at once.
        if kind == EndKind::TimedOut {
            return 0;
        }
        now_ms.saturating_add(self.after(retries.waits))
    }
}

/// Counts a failure after which `job` goes on, or is held. `until`: how long it waits, 0: not at all.
pub fn count(job: &mut Job, verdict: Verdict, ended: &Ended, until_ms: UtcMs) {
    if matches!(verdict, Verdict::Over | Verdict::Again) {
        return;
    }
    let (restarts, losses) = ended.counted(job);
    job.infrastructure_restarts = restarts;
    job.retries.losses = losses.saturating_add(u32::from(ended.loss()));
    if verdict == Verdict::Restarted {
        job.infrastructure_restarts = restarts.saturating_add(1);
    }
    let retries = &mut job.retries;
    if verdict == Verdict::Retried {
        retries.used = retries.used.saturating_add(1);
    }
    if verdict != Verdict::Held {
        retries.requeues = retries.requeues.saturating_add(1);
        retries.waits = retries.waits.saturating_add(u32::from(until_ms > 0));
    }
    retries.not_before_ms = until_ms;
    exclude(retries, ended.end);
}

/// Remembers the node that failed a job; what a rank did by itself is no node's fault.
fn exclude(retries: &mut Retries, end: &End) {
    let blamed = matches!(
        end.kind,
        EndKind::NodeLost
            | EndKind::KeeperLost
            | EndKind::DeviceError
            | EndKind::LaunchFailed
            | EndKind::Hung
    );
    if !blamed || end.node.is_empty() {
        return;
    }
    retries.excluded.retain(|one| one.node != end.node);
    retries.excluded.push(ExcludedNode {
        node: end.node.clone(),
        why: end.kind,
    });
    let surplus = retries.excluded.len().saturating_sub(EXCLUDED_NODES_MAX);
    retries.excluded.drain(..surplus);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::testing::Cluster;

    fn job() -> Job {
        let mut cluster = Cluster::new();
        let id = cluster.submitted("ann", 1, 0);
        cluster.job(id)
    }

    fn end(kind: EndKind, code: i32) -> End {
        End {
            code,
            node: "a".into(),
            ..End::of(kind)
        }
    }

    fn fails(job: &mut Job, retry: Option<&RetrySpec>, end: &End, ran_ms: i64) -> Verdict {
        let resumes = false;
        let ended = Ended {
            end,
            ran_ms,
            resumes,
        };
        let verdict = verdict(job, retry, &ended);
        let until = Backoff::of(false).until(&job.retries, end.kind, 1_000);
        count(job, verdict, &ended, until);
        verdict
    }

    #[test]
    fn what_has_run_before_and_cannot_be_launched_is_tried_again() {
        let job = job();
        let end = End::of(EndKind::LaunchFailed);
        for (resumes, wanted) in [(false, Verdict::Over), (true, Verdict::Restarted)] {
            let ended = Ended {
                end: &end,
                ran_ms: 0,
                resumes,
            };
            assert_eq!(verdict(&job, None, &ended), wanted);
        }
    }

    #[test]
    fn what_a_spec_lists_is_what_it_gets() {
        let on = |on: &[Cause], max| RetrySpec {
            max,
            on: on.to_vec(),
        };
        let exit = |code| end(EndKind::Exited, code);
        for (retry, end, want) in [
            (None, exit(1), Verdict::Over),
            (None, exit(0), Verdict::Over),
            (None, end(EndKind::DeviceError, 0), Verdict::Restarted),
            (None, end(EndKind::Preempted, 0), Verdict::Again),
            (Some(on(&[Cause::Exit(17)], 1)), exit(17), Verdict::Retried),
            (Some(on(&[Cause::Exit(17)], 1)), exit(18), Verdict::Over),
            (Some(on(&[Cause::Exit(17)], 0)), exit(17), Verdict::Over),
            (Some(on(&[Cause::Any], 1)), exit(0), Verdict::Over),
            (
                Some(on(&[Cause::Any], 1)),
                end(EndKind::Cancelled, 0),
                Verdict::Over,
            ),
            (
                Some(on(&[Cause::Any], 1)),
                end(EndKind::OutOfMemory, 0),
                Verdict::Retried,
            ),
            (
                Some(on(&[Cause::Signal(9)], 1)),
                end(EndKind::Signalled, 9),
                Verdict::Retried,
            ),
            (
                Some(on(&[Cause::Exit(9)], 1)),
                end(EndKind::Signalled, 9),
                Verdict::Over,
            ),
            // What is not listed is as it is without the table.
            (
                Some(on(&[Cause::Exit(17)], 0)),
                end(EndKind::NodeLost, 0),
                Verdict::Restarted,
            ),
            (
                Some(on(&[Cause::NodeLost], 0)),
                end(EndKind::NodeLost, 0),
                Verdict::Over,
            ),
            (
                Some(on(&[Cause::Preempted], 0)),
                end(EndKind::Preempted, 0),
                Verdict::Again,
            ),
        ] {
            let ended = Ended {
                end: &end,
                ran_ms: 5,
                resumes: false,
            };
            let found = verdict(&job(), retry.as_ref(), &ended);
            assert_eq!(found, want, "{retry:?} {end:?}");
        }
    }

    #[test]
    fn own_failures_wait_longer_each_time() {
        let retry = RetrySpec {
            max: 20,
            on: vec![Cause::Any],
        };
        let mut job = job();
        let waited: Vec<i64> = (0..9)
            .map(|_| {
                fails(&mut job, Some(&retry), &end(EndKind::Exited, 1), 0);
                job.retries.not_before_ms - 1_000
            })
            .collect();
        let seconds = [10, 20, 40, 80, 160, 320, 600, 600, 600].map(|one| one * 1_000);
        assert_eq!(waited, seconds);
        assert_eq!((job.retries.used, job.retries.losses), (9, 0));
        assert!(job.retries.excluded.is_empty(), "no node is to blame");
        assert_eq!(Backoff::of(true).after(u32::MAX), BACKOFF_DEV_MS_MAX);
    }

    #[test]
    fn failures_of_the_infrastructure_wait_when_they_pile_up() {
        let retry = RetrySpec {
            max: 9,
            on: vec![Cause::DeviceError],
        };
        let mut job = job();
        let mut waits = Vec::new();
        for _ in 0..5 {
            let verdict = fails(&mut job, Some(&retry), &end(EndKind::DeviceError, 0), 0);
            assert_eq!(verdict, Verdict::Retried);
            waits.push(job.retries.not_before_ms);
        }
        assert_eq!(waits, [0, 0, 0, 11_000, 21_000]);
    }

    #[test]
    fn the_third_loss_is_one_too_many_unless_it_ran_for_long() {
        for retry in [
            None,
            Some(RetrySpec {
                max: 9,
                on: vec![Cause::Any],
            }),
        ] {
            let mut job = job();
            for kind in [EndKind::NodeLost, EndKind::KeeperLost] {
                let verdict = fails(&mut job, retry.as_ref(), &end(kind, 0), 0);
                assert!(matches!(verdict, Verdict::Restarted | Verdict::Retried));
            }
            let mut other = job.clone();
            let lost = end(EndKind::NodeLost, 0);
            assert_eq!(fails(&mut job, retry.as_ref(), &lost, 0), Verdict::Held);
            assert_eq!(job.retries.losses, 3);
            let long = fails(&mut other, retry.as_ref(), &lost, UNSUSPECTED_MS);
            assert_ne!(long, Verdict::Held);
            assert_eq!(other.retries.losses, 1);
        }
    }

    #[test]
    fn the_newest_nodes_that_failed_it_are_remembered() {
        let mut job = job();
        let names = (0..20).chain([7]);
        for number in names {
            let failed = End {
                node: format!("n{number}"),
                ..end(EndKind::DeviceError, 0)
            };
            exclude(&mut job.retries, &failed);
        }
        let excluded = &job.retries.excluded;
        assert_eq!(excluded.len(), EXCLUDED_NODES_MAX);
        assert_eq!(excluded.first().map(|one| one.node.as_str()), Some("n4"));
        assert_eq!(excluded.last().map(|one| one.node.as_str()), Some("n7"));
    }
}
