//! PURE: what is given time to save ends as soon as it has saved: an attempt whose ranks are being ended, and that has made a checkpoint since then
//! which is durable, has nothing left to wait for.
use std::collections::BTreeMap;

use mlctl_proto::ids::JobId;
use mlctl_proto::units::UtcMs;

use super::Term;
use crate::leader::gang::{Key, Phase, Report};
use crate::leader::orders::{self, Order};
use crate::state::State;
use crate::state::records::EndKind;
use crate::state::rules::{checkpoint_rules, is_shared, living_copies};

/// Attempts whose ranks are being ended, and since when, in state time.
#[derive(Debug, Default)]
pub(super) struct Early {
    since: BTreeMap<Key, UtcMs>,
}

impl Early {
    /// What a node says of one attempt.
    pub(super) fn said(&mut self, state: &State, report: &Report) {
        match report.phase {
            Phase::Stopping => {
                self.since.entry(report.key).or_insert(state.now_ms());
            }
            Phase::Ended => {
                self.since.remove(&report.key);
            }
            Phase::Preparing | Phase::Ready | Phase::Running => {}
        }
    }

    /// The attempt of `job` that has saved all it could since its ranks were told to end.
    fn has_saved(&mut self, state: &State, job: JobId) -> Option<Key> {
        let open = |key: &Key| {
            let attempt = state.attempt(key.0, key.1);
            attempt.is_some_and(|attempt| !attempt.closed())
        };
        self.since.retain(|key, _| open(key));
        let job = state.job(job)?;
        let key = (job.id, job.epoch()?);
        let since = *self.since.get(&key)?;
        let wanted = checkpoint_rules(state, job).replicas as usize;
        let mut newest_first = job.checkpoints.iter().rev();
        let saved = newest_first.any(|one| {
            let new = one.epoch == key.1 && one.sealed_ms >= since;
            let copied = || one.is_portable() && living_copies(state, one) >= wanted;
            // On a file system that every node sees it is as durable as it will be.
            new && one.is_whole() && (copied() || is_shared(state, job, one))
        });
        saved.then_some(key)
    }
}

impl Term {
    /// Checkpoints of this job have changed, or who holds them.
    pub(super) fn end_early(&mut self, state: &State, job: JobId) {
        let Some(key) = self.early.has_saved(state, job) else {
            return;
        };
        self.early.since.remove(&key);
        let Some(attempt) = state.attempt(key.0, key.1) else {
            return;
        };
        // The node keeps the reason that it has.
        let order = Order::Stop {
            job: key.0,
            epoch: key.1,
            reason: EndKind::TimedOut,
            grace_ms: 0,
            why: "it has saved since it was told to end".into(),
        };
        for node in orders::nodes(attempt) {
            self.tell(&node, order.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::commands::{CopyNews, Happening, PartOf, SealedPart};
    use crate::state::testing::Cluster;

    fn sealed(step: u64) -> SealedPart {
        SealedPart {
            name: format!("step-{step}"),
            step,
            part: Some(PartOf {
                index: 0,
                manifest: Some([9; 32]),
                bytes: 1,
            }),
            parts: 1,
            metric: None,
            save_ms: 0,
        }
    }

    fn report(key: Key, phase: Phase) -> Report {
        Report {
            key,
            phase,
            master_port: 0,
            moving_up_to: 0,
        }
    }

    #[test]
    fn only_a_durable_checkpoint_from_after_the_word_ends_it_early() {
        let mut cluster = Cluster::new();
        cluster.gpu_node("a", 1);
        cluster.gpu_node("b", 1);
        let job = cluster.submitted("ann", 1, 1);
        let epoch = cluster.started(job, &["a"]);
        cluster.running(job, epoch);
        let key = (job, epoch);
        let mut early = Early::default();
        let seal = |cluster: &mut Cluster, step| {
            let what = Happening::CheckpointSealed(sealed(step));
            cluster.event("a", job, epoch, what);
        };
        seal(&mut cluster, 1);
        cluster.copy("b", key, CopyNews::Held(sealed(1)));
        early.said(&cluster.state, &report(key, Phase::Running));
        assert_eq!(early.has_saved(&cluster.state, job), None, "it runs");
        cluster.silence("b");
        early.said(&cluster.state, &report(key, Phase::Stopping));
        assert_eq!(early.has_saved(&cluster.state, job), None, "an older one");
        seal(&mut cluster, 2);
        assert_eq!(early.has_saved(&cluster.state, job), None, "no copy yet");
        cluster.copy("b", key, CopyNews::Held(sealed(2)));
        assert_eq!(early.has_saved(&cluster.state, job), Some(key));
        early.said(&cluster.state, &report(key, Phase::Ended));
        assert_eq!(early.has_saved(&cluster.state, job), None, "it has ended");
    }
}
