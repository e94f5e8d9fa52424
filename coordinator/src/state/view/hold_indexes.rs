//! Indexes over devices that are kept for jobs: which, and until when. Kept by the hook of their table and rebuilt through it on load. Decides nothing.
use std::sync::Arc;

use imbl::{OrdMap, OrdSet};
use mlctl_proto::ids::JobId;
use mlctl_proto::units::UtcMs;

use crate::state::records::DeviceHold;

/// All of them. A clone is cheap.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HoldIndexes {
    /// By node and UUID.
    devices: OrdMap<(Arc<str>, Arc<str>), JobId>,
    until: OrdSet<(UtcMs, JobId)>,
}

impl HoldIndexes {
    /// For which job a device is kept.
    pub fn held_for(&self, node: &str, uuid: &str) -> Option<JobId> {
        if self.devices.is_empty() {
            return None;
        }
        let key = (Arc::from(node), Arc::from(uuid));
        self.devices.get(&key).copied()
    }

    /// Jobs for which something was kept until `time_ms` or before, the earliest first.
    pub fn over(&self, time_ms: UtcMs) -> impl Iterator<Item = JobId> {
        let over = self.until.iter();
        let over = over.take_while(move |(until, _)| *until <= time_ms);
        over.map(|(_, job)| *job)
    }

    /// Hook of the holds.
    pub fn hold(&mut self, old: Option<&DeviceHold>, new: Option<&DeviceHold>) {
        if let Some(old) = old {
            for (node, uuid) in old.devices() {
                self.devices.remove(&(Arc::from(node), Arc::from(uuid)));
            }
            self.until.remove(&(old.until_ms, old.job));
        }
        if let Some(new) = new {
            for (node, uuid) in new.devices() {
                self.devices
                    .insert((Arc::from(node), Arc::from(uuid)), new.job);
            }
            self.until.insert((new.until_ms, new.job));
        }
    }
}
