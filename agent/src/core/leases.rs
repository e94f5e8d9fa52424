//! Leases of fenced attempts: their keepers count by themselves, and hear of each confirmed heartbeat when it was sent.
//! Ranks of such an attempt start only with a lease that still holds, for a heartbeat that listed the attempt: had it been closed, the
//! leader would have said so first. Does NOT end anything: the keeper does.
use mlctl_proto::ids::{Epoch, JobId};
use mlctl_proto::persist::EndKind;

use super::Core;
use super::attempt::Keeper;
use super::types::{Action, BoottimeMs, Phase, Stop};

impl Core {
    /// A heartbeat was confirmed: fenced attempts live on, and those that waited for a lease may begin.
    pub(super) fn pass_lease_on(&mut self, now: BoottimeMs) {
        let fenced = self.attempts.iter().filter(|(_, attempt)| {
            attempt.start.fence.is_some()
                && attempt.keeper == Keeper::Connected
                && attempt.ended.is_none()
        });
        let keys: Vec<(JobId, Epoch)> = fenced.map(|(key, _)| *key).collect();
        for key in keys {
            self.lease_of(key);
            // The keeper may have refused it when the last lease was over.
            self.go_on(key, now);
        }
    }

    /// A heartbeat lists every attempt that is journaled.
    pub(super) fn list_fenced(&mut self, now: BoottimeMs) {
        let synced = self.synced;
        for attempt in self.attempts.values_mut() {
            if attempt.start.fence.is_some() && attempt.begun_ticket <= synced {
                attempt.listed_at.get_or_insert(now);
            }
        }
    }

    /// Tells the keeper of a fenced attempt what is confirmed so far.
    pub(super) fn lease_of(&mut self, key: (JobId, Epoch)) {
        let attempt = self.attempts.get(&key);
        let fenced = attempt.is_some_and(|attempt| attempt.start.fence.is_some());
        if let Some(confirmed_at) = self.confirmed_at.filter(|_| fenced) {
            let (job, epoch) = key;
            self.actions.push(Action::KeeperLease {
                job,
                epoch,
                confirmed_at,
            });
        }
    }

    /// Has the keeper start the ranks, if the leader said so and they have not started. A fenced attempt waits for a lease.
    pub(super) fn go_on(&mut self, key: (JobId, Epoch), now: BoottimeMs) {
        let Some(attempt) = self.attempts.get(&key) else {
            return;
        };
        let waits = attempt.phase() == Phase::Ready;
        let Some(rendezvous) = attempt.go.clone().filter(|_| waits) else {
            return;
        };
        if let Some(fence) = attempt.start.fence {
            // An order may be of long ago, and so may what the leader knew when it confirmed an earlier heartbeat.
            let after = u64::from(fence.after_ms);
            let counts = |at: BoottimeMs| {
                now < at + after && attempt.listed_at.is_some_and(|listed| at >= listed)
            };
            if !self.confirmed_at.is_some_and(counts) {
                return;
            }
        }
        let (job, epoch) = key;
        self.actions.push(Action::KeeperGo {
            job,
            epoch,
            rendezvous,
        });
    }

    /// The keeper ended the ranks because no lease was confirmed: as if the node had been lost, and said by the node itself.
    pub(super) fn on_fenced(&mut self, job: JobId, epoch: Epoch, why: &str) {
        let Some(attempt) = self.connected((job, epoch)) else {
            return;
        };
        if attempt.stop.is_none() && attempt.first_failure.is_none() {
            attempt.stop = Some(Stop {
                reason: EndKind::NodeLost,
                grace_ms: 0,
                why: why.to_owned(),
            });
        }
    }
}
