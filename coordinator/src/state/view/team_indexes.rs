//! Indexes over teams and charges: which flavors are named at all, whose jobs go where, and which commitments are renewed when. Kept by the hooks of their
//! tables and rebuilt through the same hooks on load. Decides nothing.
use std::sync::Arc;

use imbl::{OrdMap, OrdSet};
use mlctl_proto::ids::{Epoch, JobId};
use mlctl_proto::units::UtcMs;

use super::teams::Flavor;
use crate::state::records::{Attempt, Team};
use crate::state::rules::flavors::Flavors;

/// All of them. A clone is cheap.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TeamIndexes {
    /// How many teams name a flavor.
    named: OrdMap<Flavor, u32>,
    /// The same as a set, made anew when it changes.
    flavors: Arc<Flavors>,
    /// The team of each user's jobs.
    defaults: OrdMap<Arc<str>, Arc<str>>,
    /// Attempts with something committed, by when that is to be renewed.
    due: OrdSet<(UtcMs, (JobId, Epoch))>,
}

impl TeamIndexes {
    /// Every flavor that some team names.
    pub fn flavors(&self) -> &Arc<Flavors> {
        &self.flavors
    }

    /// The team of a user's jobs, if that was said.
    pub fn default_of(&self, user: &str) -> Option<&Arc<str>> {
        self.defaults.get(user)
    }

    /// Attempts whose commitments are to be renewed at `time_ms` or before, those first that are due first.
    pub fn due(&self, time_ms: UtcMs) -> impl Iterator<Item = (JobId, Epoch)> {
        let due = self
            .due
            .iter()
            .take_while(move |(until, _)| *until <= time_ms);
        due.map(|(_, key)| *key)
    }

    /// When the first of all commitments is to be renewed.
    pub fn next_due(&self) -> Option<UtcMs> {
        self.due.get_min().map(|(until, _)| *until)
    }

    /// Hook of the teams.
    pub fn team(&mut self, old: Option<&Team>, new: Option<&Team>) {
        let mut differs = false;
        for flavor in old.into_iter().flat_map(|team| team.flavors()) {
            let count = self.named.get(flavor).copied().unwrap_or(0);
            if count > 1 {
                self.named.insert(flavor.clone(), count - 1);
            } else {
                self.named.remove(flavor);
            }
            differs = true;
        }
        for flavor in new.into_iter().flat_map(|team| team.flavors()) {
            let count = self.named.get(flavor).copied().unwrap_or(0);
            self.named.insert(flavor.clone(), count.saturating_add(1));
            differs = true;
        }
        if differs {
            self.flavors = Arc::new(Flavors::new(self.named.keys().cloned()));
        }
        let defaults = |team: &Team| -> Vec<Arc<str>> {
            let members = team.members.iter().filter(|(_, member)| member.default);
            members.map(|(user, _)| Arc::from(user.as_str())).collect()
        };
        if let Some(old) = old {
            for user in defaults(old) {
                // Another team may have become his before this one was written.
                if self
                    .defaults
                    .get(&user)
                    .is_some_and(|team| **team == *old.name)
                {
                    self.defaults.remove(&user);
                }
            }
        }
        if let Some(new) = new {
            let name: Arc<str> = Arc::from(new.name.as_str());
            for user in defaults(new) {
                self.defaults.insert(user, name.clone());
            }
        }
    }

    /// Hook of the attempts.
    pub fn attempt(&mut self, old: Option<&Attempt>, new: &Attempt) {
        let key = (new.job, new.epoch);
        let (was, is) = (old.and_then(Attempt::renewed_by), new.renewed_by());
        if was == is {
            return;
        }
        if let Some(was) = was {
            self.due.remove(&(was, key));
        }
        if let Some(is) = is {
            self.due.insert((is, key));
        }
    }
}
