//! Fair share by descent (docs/SCHEDULING.md, Order): teams are compared from the root downwards by decayed usage / weight, then users within a team, in buckets of 2^(1/4). Does NOT
//! decay anything: usage of all is as of one time, so its order does not change until state decays it.
use std::collections::BTreeMap;
use std::sync::Arc;

use super::usage::bucket;
use crate::state::view::scene::Scene;

/// Buckets of each team, from its root downwards.
#[derive(Debug, Default)]
pub struct Shares {
    paths: BTreeMap<Arc<str>, Vec<u16>>,
}

impl Shares {
    /// Of a scene's teams.
    pub fn new(scene: &Scene) -> Self {
        // What those below used counts for all above.
        let mut usage: BTreeMap<&str, u128> = BTreeMap::new();
        for team in scene.teams.values() {
            let mut path: &str = &team.name;
            loop {
                let sum = usage.entry(path).or_default();
                *sum = sum.saturating_add(team.usage);
                match path.rsplit_once('/') {
                    Some((above, _)) => path = above,
                    None => break,
                }
            }
        }
        let mut shares = Self::default();
        // Parents come before children.
        for team in scene.teams.values() {
            let above = team.name.rsplit_once('/').and_then(|(above, _)| shares.paths.get(above));
            let mut path = above.cloned().unwrap_or_default();
            let used = usage.get(&*team.name).copied().unwrap_or(0);
            path.push(bucket(used, team.weight));
            shares.paths.insert(team.name.clone(), path);
        }
        shares
    }

    /// The buckets that decide for a user of a team: where they are equal at one level, the next one decides, and equal all the way down is equal.
    pub fn path(&self, scene: &Scene, team: &Arc<str>, user: &Arc<str>) -> Vec<u16> {
        let mut path = self.paths.get(team).cloned().unwrap_or_default();
        let used = scene.teams.get(team).and_then(|one| one.users.get(user));
        path.push(bucket(used.copied().unwrap_or(0), 1));
        path
    }
}

/// Places of teams' users, once for all who stand alike.
#[derive(Debug)]
pub struct Places<'a> {
    scene: &'a Scene,
    shares: Shares,
    /// By number of team and bucket of the user: a place in `paths`.
    known: BTreeMap<(u32, u16), u32>,
    paths: Vec<Vec<u16>>,
}

impl<'a> Places<'a> {
    /// Of a scene's teams.
    pub fn new(scene: &'a Scene) -> Self {
        Self { scene, shares: Shares::new(scene), known: BTreeMap::new(), paths: Vec::new() }
    }

    /// Where a user of a team stands, as a place in [`Self::ranks`]. `number`: the team's, one for each.
    pub fn of(&mut self, number: u32, team: &Arc<str>, user: &Arc<str>) -> u32 {
        let view = self.scene.teams.get(team).filter(|view| !view.users.is_empty());
        let used = view.and_then(|view| view.users.get(user)).copied().unwrap_or(0);
        let key = (number, bucket(used, 1));
        if let Some(known) = self.known.get(&key) {
            return *known;
        }
        let place = u32::try_from(self.paths.len()).unwrap_or(u32::MAX);
        self.paths.push(self.shares.path(self.scene, team, user));
        self.known.insert(key, place);
        place
    }

    /// By place: where it stands among all.
    pub fn ranks(&self) -> Vec<u32> {
        ranks(&self.paths)
    }
}

/// Dense places of paths: equal paths stand equal.
pub fn ranks(paths: &[Vec<u16>]) -> Vec<u32> {
    let mut sorted: Vec<&Vec<u16>> = paths.iter().collect();
    sorted.sort_unstable();
    sorted.dedup();
    let place = |path: &Vec<u16>| sorted.binary_search(&path).unwrap_or(sorted.len());
    paths.iter().map(|path| u32::try_from(place(path)).unwrap_or(u32::MAX)).collect()
}
