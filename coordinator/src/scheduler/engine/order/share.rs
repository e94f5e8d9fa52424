//! Fair share by descent (docs/SCHEDULING.md, Order): teams are compared from the root downwards by decayed usage / weight, then users within a team, in buckets of 2^(1/4). Does NOT
//! decay anything: usage of all is as of one time, so its order does not change until state decays it.
use std::collections::BTreeMap;
use std::sync::Arc;

use super::usage::bucket;
use crate::state::view::scene::Scene;
use crate::state::view::teams::TeamView;

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
            let above = team
                .name
                .rsplit_once('/')
                .and_then(|(above, _)| shares.paths.get(above));
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

/// One user of a team.
#[derive(Debug)]
struct Person {
    /// The number of the team.
    team: u32,
    user: Arc<str>,
    /// Of what was used.
    bucket: u16,
}

/// Users of teams whose jobs wait, kept from pass to pass: who used what is looked up when it changes. Teams are those of one list, by number.
#[derive(Debug, Default)]
pub struct People {
    by_pair: BTreeMap<(u32, u32), u32>,
    all: Vec<Person>,
    /// By team: as of when buckets are.
    seen: Vec<Option<Arc<TeamView>>>,
}

impl People {
    /// Brings buckets up to date.
    pub fn renew(&mut self, scene: &Scene, teams: &[Arc<str>]) {
        let mut stale = vec![false; teams.len()];
        self.seen.resize(teams.len(), None);
        for ((name, seen), stale) in teams.iter().zip(&mut self.seen).zip(&mut stale) {
            let view = scene.teams.get(name);
            let same = match (view, &*seen) {
                (Some(one), Some(other)) => Arc::ptr_eq(one, other) || one.users == other.users,
                (one, other) => one.is_none() && other.is_none(),
            };
            *stale = !same;
            *seen = view.cloned();
        }
        let is_stale = |one: &&mut Person| stale.get(one.team as usize).is_some_and(|is| *is);
        for one in self.all.iter_mut().filter(is_stale) {
            let view = self.seen.get(one.team as usize).and_then(Option::as_ref);
            one.bucket = bucket_of(view, &one.user);
        }
    }

    /// A team, if it was not among [`Self::renew`]'s.
    pub fn know(&mut self, team: u32, view: Option<&Arc<TeamView>>) {
        if self.seen.len() <= team as usize {
            self.seen.resize(team as usize, None);
            self.seen.push(view.cloned());
        }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.all.len()
    }

    /// The number of a user of a team, both by number too. The team has to be known.
    pub fn number(&mut self, pair: (u32, u32), user: &Arc<str>) -> u32 {
        let next = u32::try_from(self.all.len()).unwrap_or(u32::MAX);
        let number = *self.by_pair.entry(pair).or_insert(next);
        if number == next {
            let view = self.seen.get(pair.0 as usize).and_then(Option::as_ref);
            self.all.push(Person {
                team: pair.0,
                user: user.clone(),
                bucket: bucket_of(view, user),
            });
        }
        number
    }

    /// By number: where each stands among all.
    pub fn ranks(&self, scene: &Scene, teams: &[Arc<str>]) -> Vec<u32> {
        let shares = Shares::new(scene);
        // By team: buckets, each with its place among the paths.
        let mut known: Vec<Vec<(u16, u32)>> = vec![Vec::new(); teams.len()];
        let mut paths: Vec<Vec<u16>> = Vec::new();
        let mut places: Vec<u32> = Vec::with_capacity(self.all.len());
        for one in &self.all {
            let (Some(here), Some(name)) = (
                known.get_mut(one.team as usize),
                teams.get(one.team as usize),
            ) else {
                places.push(u32::MAX);
                continue;
            };
            let found = here.iter().find(|(bucket, _)| *bucket == one.bucket);
            let place = found.map(|(_, place)| *place).unwrap_or_else(|| {
                let place = u32::try_from(paths.len()).unwrap_or(u32::MAX);
                here.push((one.bucket, place));
                let mut path = shares.paths.get(name).cloned().unwrap_or_default();
                path.push(one.bucket);
                paths.push(path);
                place
            });
            places.push(place);
        }
        let ranks = ranks(&paths);
        let rank = |place: &u32| ranks.get(*place as usize).copied().unwrap_or(u32::MAX);
        places.iter().map(rank).collect()
    }
}

fn bucket_of(team: Option<&Arc<TeamView>>, user: &Arc<str>) -> u16 {
    let used = team.and_then(|team| team.users.get(user));
    bucket(used.copied().unwrap_or(0), 1)
}

/// Dense places of paths: equal paths stand equal.
pub fn ranks(paths: &[Vec<u16>]) -> Vec<u32> {
    let mut sorted: Vec<&Vec<u16>> = paths.iter().collect();
    sorted.sort_unstable();
    sorted.dedup();
    let place = |path: &Vec<u16>| sorted.binary_search(&path).unwrap_or(sorted.len());
    paths
        .iter()
        .map(|path| u32::try_from(place(path)).unwrap_or(u32::MAX))
        .collect()
}
