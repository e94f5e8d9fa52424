//! What the state says of devices that are kept for jobs, and of what quotas come to when those that are being ended are gone. Reads only; who may be
//! ended for whom is the commands' business.
use std::sync::Arc;

use mlctl_proto::ids::{Epoch, JobId};
use mlctl_proto::units::UtcMs;

use super::State;
use super::records::{AllocationPhase, Attempt, DeviceHold};
use super::rules::quota::Ledger;
use super::rules::taking;

impl State {
    /// What is kept for a job.
    pub fn hold_of(&self, job: JobId) -> Option<&Arc<DeviceHold>> {
        self.holds.get(&job)
    }

    /// All devices that are kept, by job.
    pub fn holds(&self) -> impl Iterator<Item = &Arc<DeviceHold>> {
        self.holds.iter().map(|(_, hold)| hold)
    }

    /// Whether anything is kept for anybody.
    pub fn holds_anything(&self) -> bool {
        self.holds.len() > 0
    }

    /// For which job a device is kept.
    pub fn held_for(&self, node: &str, uuid: &str) -> Option<JobId> {
        self.indexes.holds.held_for(node, uuid)
    }

    /// Jobs for which something was kept until `time_ms` or before.
    pub fn holds_over(&self, time_ms: UtcMs) -> impl Iterator<Item = JobId> {
        self.indexes.holds.over(time_ms)
    }

    /// When somebody whose end a hold waits for will be gone.
    pub fn gone_by(&self, job: JobId, epoch: Epoch) -> Option<UtcMs> {
        let settings = self.scheduling();
        let waiting = self.holds().filter(|hold| hold.waits_for(job, epoch));
        let since_ms = waiting.map(|hold| hold.since_ms).min()?;
        let class = self.job(job)?.turn.class.into();
        let facts = self.job(job).and_then(|job| self.spec_facts(job));
        let grace = taking::grace_ms(&settings, facts.map(AsRef::as_ref), class);
        Some(taking::after(
            since_ms,
            grace.saturating_add(settings.kill_ms),
        ))
    }

    /// Attempts that hold something and are not being ended. What is in doubt is on a Lost node, and counts for nobody.
    pub fn lasting_attempts(&self) -> impl Iterator<Item = &Arc<Attempt>> {
        self.active_attempts()
            .filter(|attempt| !attempt.stopping && !attempt.in_doubt)
    }

    /// All teams with what their jobs will hold once those that are being ended are gone, and those for whom devices are kept have started. A start, like
    /// a preemption, has to be legal there too: nobody takes the quota that is to be somebody else's.
    pub fn promised_ledger(&self) -> Ledger {
        let mut ledger = self.ledger();
        let leaving = self
            .active_attempts()
            .filter(|attempt| attempt.stopping && !attempt.in_doubt);
        for attempt in leaving {
            let Some(job) = self.job(attempt.job) else {
                continue;
            };
            let open = attempt.allocations.iter();
            for allocation in open.filter(|one| one.phase != AllocationPhase::Ended) {
                for (flavor, units) in self.units_of(allocation) {
                    ledger.remove(&job.team, &flavor, units);
                }
            }
        }
        for hold in self.holds() {
            if let Some(job) = self.job(hold.job) {
                for (flavor, units) in self.units_held(hold) {
                    ledger.add(&job.team, &flavor, units);
                }
            }
        }
        ledger
    }
}
