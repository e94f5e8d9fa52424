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

/// Dense places of paths: equal paths stand equal.
pub fn ranks(paths: &[Vec<u16>]) -> Vec<u32> {
    let mut sorted: Vec<&Vec<u16>> = paths.iter().collect();
    sorted.sort_unstable();
    sorted.dedup();
    let place = |path: &Vec<u16>| sorted.binary_search(&path).unwrap_or(sorted.len());
    paths.iter().map(|path| u32::try_from(place(path)).unwrap_or(u32::MAX)).collect()
}
