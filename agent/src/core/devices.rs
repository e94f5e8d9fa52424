//! What the agent makes of devices that are not free: an end is told with what it left on them, and nothing begins on such a device.
//! Does NOT ask the driver; does NOT hold back how a job ended.

use mlctl_proto::ids::{Epoch, JobId};
use mlctl_proto::persist::{AttemptEnd, DevicesClean, DevicesDirty, DirtyDevice, agent_event};

use super::Core;
use super::attempt::Keeper;
use super::types::{Action, Start};

impl Core {
    /// No process of the attempt is left that we know of: its end is said once its devices were looked at.
    pub(super) fn settle(&mut self, key: (JobId, Epoch), end: AttemptEnd) {
        let Some(attempt) = self.attempts.get_mut(&key) else {
            return;
        };
        let uuids = own_devices(&attempt.start).to_vec();
        if uuids.is_empty() {
            return self.close(key, end);
        }
        attempt.keeper = Keeper::Done;
        attempt.settling = Some(end);
        let (job, epoch) = key;
        self.actions
            .push(Action::CheckDevices { job, epoch, uuids });
    }

    pub(super) fn on_devices_checked(&mut self, key: (JobId, Epoch), dirty: Vec<DirtyDevice>) {
        let Some(attempt) = self.attempts.get_mut(&key) else {
            return;
        };
        if let Some(end) = attempt.settling.take() {
            // First, so that the cluster never holds them free.
            self.found_dirty(dirty);
            self.close(key, end);
        }
    }

    /// What was seen beside any attempt: at the start, and of dirty devices ever after.
    pub(super) fn on_devices_seen(&mut self, mut dirty: Vec<DirtyDevice>, clean: &[String]) {
        let open = self.attempts.values().filter(|one| one.ended.is_none());
        let held: Vec<&String> = open.flat_map(|one| own_devices(&one.start)).collect();
        dirty.retain(|device| !held.contains(&&device.uuid));
        self.found_dirty(dirty);
        let known = clean.iter().filter(|uuid| self.dirty.contains_key(*uuid));
        let uuids: Vec<String> = known.cloned().collect();
        if uuids.is_empty() {
            return;
        }
        uuids.iter().for_each(|uuid| drop(self.dirty.remove(uuid)));
        self.emit_of_node(agent_event::What::DevicesClean(DevicesClean { uuids }));
        // Somebody may have waited for them.
        self.prepare_begun();
    }

    fn found_dirty(&mut self, mut devices: Vec<DirtyDevice>) {
        devices.retain(|device| !self.dirty.contains_key(&device.uuid));
        if devices.is_empty() {
            return;
        }
        let known = devices
            .iter()
            .map(|one| (one.uuid.clone(), one.why.clone()));
        self.dirty.extend(known);
        self.emit_of_node(agent_event::What::DevicesDirty(DevicesDirty { devices }));
    }

    /// A device that `start` was given is dirty, or another attempt has not let go of it. The cluster may have given that one up
    /// long ago, when this node was silent.
    pub(super) fn is_taken(&self, start: &Start) -> bool {
        let mut own = own_devices(start).iter();
        own.any(|uuid| self.dirty.contains_key(uuid) || self.holds(uuid))
    }

    fn holds(&self, uuid: &String) -> bool {
        let mut begun = self.attempts.values().filter(|one| one.ended.is_none());
        begun.any(|one| one.keeper != Keeper::None && own_devices(&one.start).contains(uuid))
    }

    /// UUIDs of the devices that are to be looked at until nothing is on them.
    pub fn dirty(&self) -> impl ExactSizeIterator<Item = &String> {
        self.dirty.keys()
    }
}

/// The devices that this node gives to an attempt, by UUID.
fn own_devices(start: &Start) -> &[String] {
    let own = start.members.get(start.node_rank as usize);
    own.map_or(&[], |member| member.devices.as_slice())
}
