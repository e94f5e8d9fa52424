//! A pretended object store that outlives every node: uploads take a while and may fail, restores fetch from it what no node gives.
//! Does NOT decide anything: what is uploaded by whom does the leader, what is told the agent's core.

use std::collections::BTreeMap;

use mlctl_agent::core as agent;
use mlctl_coordinator::leader::copies::Word;
use mlctl_coordinator::state::records::PartKey;
use mlctl_proto::persist::CheckpointSealed;

use super::copies::{to_agent, to_leader};
use super::marks::Mark;
use super::world::{Event, Process, World};

/// What the store holds, by name.
pub(super) type Far = BTreeMap<agent::PartKey, CheckpointSealed>;

/// A part on its way to the store.
#[derive(Debug, Clone)]
pub(super) struct Uploading {
    pub(super) at: Process,
    part: agent::PartKey,
    url: String,
}

impl World {
    /// A leader wants a part to be uploaded.
    pub(super) fn begin_upload(&mut self, at: Process, key: PartKey, url: String) {
        let slow = self.storms() && self.dice.chance(10);
        let delay = self.dice.between(5, if slow { 20_000 } else { 600 });
        let part = to_agent(key);
        self.after(delay, Event::Uploaded(Uploading { at, part, url }));
    }

    /// All of it is there, or it failed on the way; an agent that died meanwhile says nothing.
    pub(super) fn on_uploaded(&mut self, uploading: Uploading) {
        let Uploading { at, part, url } = uploading;
        if self.agent(at).is_none() {
            return;
        }
        let works = !self.dice.chance(if self.storms() { 15 } else { 0 });
        let sealed = self.nodes[at.who].vault.get(&part).cloned();
        let error = match sealed.filter(|_| works) {
            Some(sealed) => {
                self.marks.hit(Mark::PartUploaded);
                self.checkers.checkpoints.uploaded(&to_leader(&part));
                self.far.insert(part.clone(), sealed);
                self.step(at.who, agent::Event::CopyUploaded(part.clone()));
                String::new()
            }
            None => "the store does not answer".to_owned(),
        };
        let key = to_leader(&part);
        self.say_of_copies(at, Word::Uploaded { key, url, error });
    }

    /// A part that no node gives, if it was said to be in the store. That answers mostly.
    pub(super) fn ask_store(
        &mut self,
        part: &agent::RestorePart,
        key: &agent::PartKey,
    ) -> Option<CheckpointSealed> {
        part.url.as_ref()?;
        if self.dice.chance(if self.storms() { 15 } else { 0 }) {
            return None;
        }
        let sealed = self.far.get(key).cloned()?;
        self.marks.hit(Mark::PartFromStore);
        Some(sealed)
    }
}
