//! PURE: what a node says it runs against what the state says it shall run; the difference as things to tell it.
//!
//! What the cluster never knew is named, not ended: it may be older than the cluster's memory.
#![deny(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::float_arithmetic
)]
use mlctl_proto::ids::{Epoch, JobId};
use mlctl_proto::mutants::{Mutant, planted};

use super::gang::{Key, Phase, Report};
use crate::state::State;
use crate::state::records::{AllocationPhase, Attempt, EndKind};

/// One difference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Correction {
    /// It shall run this and does not know it.
    Start(Key),
    /// It shall not run this, or not any more.
    Stop(Key, EndKind),
    /// The cluster never knew this: left alone, shown.
    Orphan(Key),
}

/// Every difference; for a stream that begins, so what it lacks is a difference too.
pub fn on_hello(state: &State, node: &str, reports: &[Report]) -> Vec<Correction> {
    let mut corrections = stale(state, node, reports);
    for key in state.open_allocations_on(node) {
        let known = reports.iter().any(|report| report.key == key);
        let attempt = state.attempt(key.0, key.1);
        let Some(attempt) = attempt.filter(|_| !known) else {
            continue;
        };
        let correction = match phase_on(attempt, node) {
            _ if attempt.stopping => Correction::Stop(key, reason(attempt)),
            Some(AllocationPhase::Assigned) => Correction::Start(key),
            // It ran here, and the node's journal does not know it any more: only its answer frees the devices.
            Some(AllocationPhase::Running) => Correction::Stop(key, EndKind::KeeperLost),
            Some(AllocationPhase::Ended) | None => continue,
        };
        corrections.push(correction);
    }
    corrections
}

/// What it runs and shall not run. Enough for a heartbeat: an order that is under way is no difference.
pub fn stale(state: &State, node: &str, reports: &[Report]) -> Vec<Correction> {
    let live = reports
        .iter()
        .filter(|report| report.phase <= Phase::Running && !planted(Mutant::StaleAttemptKept));
    live.filter_map(|report| judge(state, node, report.key))
        .collect()
}

fn judge(state: &State, node: &str, key: Key) -> Option<Correction> {
    let (job, epoch): (JobId, Epoch) = key;
    let Some(known) = state.job(job) else {
        // What is in history ended with all its epochs closed.
        return Some(if state.is_archived(job) {
            Correction::Stop(key, EndKind::Superseded)
        } else {
            Correction::Orphan(key)
        });
    };
    let Some(attempt) = state.attempt(job, epoch) else {
        let forgotten = known.epoch().is_some_and(|newest| epoch < newest);
        return Some(if forgotten {
            Correction::Stop(key, EndKind::Superseded)
        } else {
            Correction::Orphan(key)
        });
    };
    match phase_on(attempt, node) {
        None | Some(AllocationPhase::Ended) => Some(Correction::Stop(key, reason(attempt))),
        Some(_) if attempt.stopping => Some(Correction::Stop(key, reason(attempt))),
        Some(_) => None,
    }
}

fn phase_on(attempt: &Attempt, node: &str) -> Option<AllocationPhase> {
    let mut allocations = attempt.allocations.iter();
    allocations
        .find(|allocation| allocation.node == node)
        .map(|allocation| allocation.phase)
}

fn reason(attempt: &Attempt) -> EndKind {
    attempt
        .end
        .as_ref()
        .map_or(EndKind::Superseded, |end| end.kind)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::records::EndKind;
    use crate::state::testing::Cluster;

    fn running(key: Key) -> Report {
        Report {
            key,
            phase: Phase::Running,
            master_port: 1,
            moving_up_to: 0,
        }
    }

    fn cluster() -> (Cluster, Key) {
        let mut cluster = Cluster::new();
        cluster.gpu_node("a", 2);
        cluster.gpu_node("b", 2);
        let job = cluster.submitted("ann", 2, 1);
        let epoch = cluster.started(job, &["a", "b"]);
        (cluster, (job, epoch))
    }

    #[test]
    fn what_is_assigned_and_unknown_is_started() {
        let (mut cluster, key) = cluster();
        assert_eq!(on_hello(&cluster.state, "a", &[]), [Correction::Start(key)]);
        assert_eq!(on_hello(&cluster.state, "a", &[running(key)]), []);
        assert_eq!(on_hello(&cluster.state, "c", &[]), []);
        assert_eq!(
            stale(&cluster.state, "a", &[]),
            [],
            "an order may be under way"
        );
        cluster.running(key.0, key.1);
        let forgot = on_hello(&cluster.state, "a", &[]);
        assert_eq!(forgot, [Correction::Stop(key, EndKind::KeeperLost)]);
    }

    #[test]
    fn what_ends_is_stopped_until_the_node_says_so() {
        let (mut cluster, key) = cluster();
        cluster.running(key.0, key.1);
        cluster.ended("a", key.0, key.1, EndKind::KeeperLost);
        let stop = [Correction::Stop(key, EndKind::KeeperLost)];
        for reports in [&[][..], &[running(key)]] {
            assert_eq!(on_hello(&cluster.state, "b", reports), stop);
        }
        assert_eq!(stale(&cluster.state, "b", &[running(key)]), stop);
        let ended = Report {
            phase: Phase::Ended,
            ..running(key)
        };
        assert_eq!(
            stale(&cluster.state, "b", &[ended]),
            [],
            "its event is on the way"
        );
        assert_eq!(on_hello(&cluster.state, "a", &[]), []);
        assert_eq!(
            on_hello(&cluster.state, "a", &[running(key)]),
            stop,
            "it said that it ended"
        );
    }

    #[test]
    fn a_superseded_attempt_is_stopped_and_a_stranger_is_left_alone() {
        let (mut cluster, key) = cluster();
        cluster.running(key.0, key.1);
        cluster.lose("b");
        let back = on_hello(&cluster.state, "b", &[running(key)]);
        assert_eq!(back, [Correction::Stop(key, EndKind::NodeLost)]);
        let strangers = [
            (JobId::new(1, 77), Epoch::new(1, 1)),
            (key.0, Epoch::new(1, 9)),
        ];
        for stranger in strangers {
            assert_eq!(
                stale(&cluster.state, "b", &[running(stranger)]),
                [Correction::Orphan(stranger)]
            );
        }
        assert_eq!(
            stale(&cluster.state, "c", &[running(key)]),
            [Correction::Stop(key, EndKind::NodeLost)]
        );
    }

    #[test]
    fn what_is_in_history_is_stopped() {
        use crate::state::Body;
        use crate::state::commands::{ArchiveJobs, CancelJobs};
        use crate::state::testing::{person, system};
        let mut cluster = Cluster::new();
        let jobs: Vec<JobId> = (0..4).map(|_| cluster.submitted("ann", 1, 0)).collect();
        let cancel = CancelJobs::of(jobs.clone());
        cluster.run(person("ann", false), Body::CancelJobs(cancel));
        cluster.run(system(), Body::ArchiveJobs(ArchiveJobs { most: 9 }));
        let key = (jobs[0], Epoch::new(1, 1));
        assert!(cluster.state.is_archived(key.0));
        assert_eq!(
            stale(&cluster.state, "a", &[running(key)]),
            [Correction::Stop(key, EndKind::Superseded)]
        );
    }
}
