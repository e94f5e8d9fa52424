//! What outlives a job on a device of a simulated node, and the looks at it. Nothing may begin on such a device.
//! Does NOT decide anything: what follows from a look does the agent's core.

use mlctl_agent::core as agent;
use mlctl_proto::persist::DirtyDevice;

use super::keeper::Keeper;
use super::marks::Mark;
use super::world::{Event, Process, World};
use crate::checkers::{Key, ensure};

/// Between two looks at dirty devices, milliseconds.
const PERIOD_MS: u64 = 1_000;

impl World {
    /// The processes of an attempt are gone; sometimes one that escaped is still on a device.
    pub(super) fn check_devices(&mut self, who: usize, (job, epoch): Key, uuids: &[String]) {
        for uuid in uuids {
            if self.dice.chance(if self.storms() { 8 } else { 1 }) {
                let until = self.now + self.dice.between(200, 6_000);
                self.nodes[who].stuck.insert(uuid.clone(), until);
                self.marks.hit(Mark::DeviceDirty);
            }
        }
        let dirty = self.dirt(who, uuids);
        let delay = self
            .dice
            .between(1, if dirty.is_empty() { 5 } else { 1_100 });
        let (at, checked) = (
            self.process(who),
            agent::Event::DevicesChecked { job, epoch, dirty },
        );
        self.after(delay, Event::AgentHears(at, checked));
    }

    /// What an agent sees when it starts.
    pub(super) fn first_look(&mut self, who: usize) {
        let all: Vec<String> = self.nodes[who].stuck.keys().cloned().collect();
        let dirty = self.dirt(who, &all);
        let clean = Vec::new();
        self.step(who, agent::Event::DevicesSeen { dirty, clean });
    }

    /// Plans the next look, if there is something to look at.
    pub(super) fn look_later(&mut self, at: Process) {
        let wants = |agent: &mut super::node::Agent| agent.wants_look();
        if self.agent(at).is_some_and(wants) {
            self.after(PERIOD_MS, Event::Look(at));
        }
    }

    pub(super) fn on_look(&mut self, at: Process) {
        let Some(asked) = self.agent(at).map(super::node::Agent::looks) else {
            return;
        };
        let still = self.dirt(at.who, &asked);
        let on = |uuid: &String| still.iter().any(|device| device.uuid == *uuid);
        let clean = asked.into_iter().filter(|uuid| !on(uuid)).collect();
        let dirty = Vec::new();
        self.step(at.who, agent::Event::DevicesSeen { dirty, clean });
    }

    /// Nothing is prepared where something is on a device of it, or another attempt is.
    pub(super) fn check_free(&mut self, who: usize, start: &agent::Start) {
        let own = start.members.get(start.node_rank as usize);
        let uuids = own.map_or(&[][..], |member| &member.devices);
        let dirty = self.dirt(who, uuids);
        let checked = ensure(dirty.is_empty(), "devices", || {
            let node = &self.nodes[who].name;
            format!(
                "{node} prepares job {} although something is on {dirty:?}",
                start.job
            )
        });
        self.check(checked);
        let keepers = self.nodes[who].keepers.iter();
        let shares = |keeper: &Keeper| uuids.iter().any(|uuid| keeper.devices.contains(uuid));
        let other = keepers
            .into_iter()
            .find(|(_, keeper)| keeper.runs() && shares(keeper));
        let checked = ensure(other.is_none(), "devices", || {
            let (node, other) = (&self.nodes[who].name, other.map(|(key, _)| key));
            format!(
                "{node} prepares job {} while {other:?} runs on a device of it",
                start.job
            )
        });
        self.check(checked);
    }

    fn dirt(&self, who: usize, uuids: &[String]) -> Vec<DirtyDevice> {
        let stuck = |uuid: &&String| {
            let until = self.nodes[who].stuck.get(*uuid);
            until.is_some_and(|until| self.now < *until)
        };
        let device = |uuid: &String| DirtyDevice {
            uuid: uuid.clone(),
            why: "process 7 (python)".into(),
        };
        uuids.iter().filter(stuck).map(device).collect()
    }
}
