//! Places for gangs of several nodes: among nodes that cost the same those that are near to each other. Does NOT look at devices.
use std::collections::BTreeMap;

use super::capacity::Capacity;
use super::find::{Guess, SCORED_MAX, Scope, Seating, keep_best};
use super::fit::{Asker, Cost};
use super::loss::WEIGHT;
use super::near;
use super::tables::number;
use crate::state::view::amounts::GPU;
use crate::state::view::ask::{Gpus, Near};

/// Losses that differ by less than an eighth of a GPU are alike to a gang: nearness matters more.
const GRAIN: i64 = WEIGHT * GPU.cast_signed() / 8;

/// How good a gang's place is: compared left to right, less is better.
type Worth = (u8, u32, i64, usize, usize, u32);

impl Capacity {
    pub(super) fn find_gang(&self, asker: &Asker, scopes: &[Scope], nodes: u32) -> Option<Seating> {
        let mut best: Option<(Worth, Seating)> = None;
        for scope in scopes {
            for group in self.groups(asker, scope) {
                let Some((worth, seating)) = self.seat(asker, scope, group, nodes as usize) else {
                    continue;
                };
                if best.as_ref().is_none_or(|(least, _)| worth < *least) {
                    best = Some((worth, seating));
                }
            }
        }
        best.map(|(_, seating)| seating)
    }

    /// On how many nodes of a scope a gang would find its place, up to `limit`.
    pub(super) fn room_in(&self, asker: &Asker, scope: &Scope, limit: u32) -> u32 {
        let mut counts: BTreeMap<(Option<u32>, u32), (u32, bool)> = BTreeMap::new();
        for site in self.nodes_of(asker.ask, scope) {
            if !self.fits(site, asker, &scope.wanted) {
                continue;
            }
            // A node that says too little of where it stands is near to itself alone.
            let branch = self.branch(asker, site);
            let alone = if branch.is_none() { site } else { 0 };
            let leads = asker.leads(site);
            let (count, led) = counts.entry((branch, alone)).or_default();
            *count = count.saturating_add(1);
            *led |= leads;
            if *count >= limit && *led {
                return limit;
            }
        }
        let led = counts.into_values().filter(|(_, led)| *led);
        led.map(|(count, _)| count.min(limit)).max().unwrap_or(0)
    }

    /// Which nodes a gang on this one may have beside it; `None`: the node is no place for it.
    fn branch(&self, asker: &Asker, site: u32) -> Option<u32> {
        match asker.ask.near {
            Near::Prefer => Some(0),
            Near::Within(level) => self.tables.sites[site as usize]
                .racks
                .get(usize::from(level))
                .copied(),
        }
    }

    /// All nodes with room, and how good they look, by what they have to have in common.
    fn groups(&self, asker: &Asker, scope: &Scope) -> Vec<Vec<(Guess, u32)>> {
        let mut groups: BTreeMap<u32, Vec<(Guess, u32)>> = BTreeMap::new();
        for site in self.nodes_of(asker.ask, scope) {
            if !self.fits(site, asker, &scope.wanted) {
                continue;
            }
            if let Some(branch) = self.branch(asker, site) {
                groups
                    .entry(branch)
                    .or_default()
                    .push((self.guess(asker, site), site));
            }
        }
        groups.into_values().collect()
    }

    /// The best place among these, if it has all.
    fn seat(
        &self,
        asker: &Asker,
        scope: &Scope,
        group: Vec<(Guess, u32)>,
        nodes: usize,
    ) -> Option<(Worth, Seating)> {
        if group.len() < nodes || !group.iter().any(|(_, site)| asker.leads(*site)) {
            return None;
        }
        // Of equal ones the smallest that has room: large holes are kept.
        let hole = group.len();
        let mut costs = Costs::default();
        // Who needs whole nodes leaves nothing behind on them: only nearness counts there, so none is left out.
        let sites = if group.iter().all(|(_, site)| self.gives_all(asker, *site)) {
            let mut group = group;
            group.sort_unstable_by_key(|(guess, site)| (guess.0, *site));
            let cut = group.get(nodes.saturating_sub(1)).map(|(guess, _)| guess.0);
            let cut = cut.max(self.stance_of_leader(asker, &group));
            group.retain(|(guess, _)| Some(guess.0) <= cut);
            group.into_iter().map(|(_, site)| site).collect()
        } else {
            self.cheapest(asker, scope, group, nodes, &mut costs)
        };
        let paths: Vec<&[u32]> = (sites.iter())
            .map(|site| &self.tables.sites[*site as usize].racks[..])
            .collect();
        let must = match &asker.rank_0 {
            Some(_) => Some(sites.iter().position(|site| asker.leads(*site))?),
            None => None,
        };
        let mut chosen = near::choose(&paths, nodes, must);
        chosen.sort_by_key(|at| (Some(*at) != must, paths[*at], sites[*at]));
        let mut racks: Vec<&[u32]> = chosen.iter().map(|at| paths[*at]).collect();
        racks.sort_unstable();
        racks.dedup();
        let mut worth: Worth = (0, 0, 0, racks.len(), hole, u32::MAX);
        let mut seating = Seating::with_capacity(nodes);
        for site in chosen.iter().map(|at| sites[*at]) {
            let cost = self.cost_at(asker, scope, site, &mut costs)?;
            worth.0 = worth.0.max(cost.stance);
            worth.1 = worth.1.max(cost.liking);
            worth.2 = worth.2.saturating_add(cost.loss / GRAIN);
            worth.5 = worth.5.min(site);
            seating.push((site, self.devices_at(asker, scope, site)?));
        }
        Some((worth, seating))
    }

    /// The nodes that cost least, and those that cost as little as the last of these; the cheapest with which rank 0 may be is among them. Best first.
    fn cheapest(
        &self,
        asker: &Asker,
        scope: &Scope,
        mut group: Vec<(Guess, u32)>,
        nodes: usize,
        costs: &mut Costs,
    ) -> Vec<u32> {
        let leader = group
            .iter()
            .filter(|(_, site)| asker.leads(*site))
            .min()
            .copied();
        keep_best(&mut group, nodes.saturating_mul(4).max(SCORED_MAX));
        if let Some(leader) = leader.filter(|leader| !group.contains(leader)) {
            group.push(leader);
        }
        let mut graded: Vec<((u8, u32, i64), Cost, u32)> = (group.into_iter())
            .filter_map(|(_, site)| {
                let cost = self.cost_at(asker, scope, site, costs)?;
                Some(((cost.stance, cost.liking, cost.loss / GRAIN), cost, site))
            })
            .collect();
        graded.sort_unstable();
        let cut = graded
            .get(nodes.saturating_sub(1))
            .map(|(grade, ..)| *grade);
        let leads = graded
            .iter()
            .find(|(.., site)| asker.leads(*site))
            .map(|(grade, ..)| *grade);
        graded.retain(|(grade, ..)| Some(*grade) <= cut.max(leads));
        graded.into_iter().map(|(.., site)| site).collect()
    }

    fn stance_of_leader(&self, asker: &Asker, group: &[(Guess, u32)]) -> Option<u8> {
        group
            .iter()
            .find(|(_, site)| asker.leads(*site))
            .map(|(guess, _)| guess.0)
    }

    fn cost_at(&self, asker: &Asker, scope: &Scope, site: u32, costs: &mut Costs) -> Option<Cost> {
        let stance = asker.stance(&self.tables.sites[site as usize]);
        let key = (stance, self.rooms[site as usize].mark);
        if let Some(known) = costs.known.get(&key) {
            return Some(*known);
        }
        let (cost, _) = self.offer(site, asker, &scope.wanted, &mut costs.scratch)?;
        costs.known.insert(key, cost);
        Some(cost)
    }

    fn devices_at(&self, asker: &Asker, scope: &Scope, site: u32) -> Option<Vec<u16>> {
        match asker.ask.gpus {
            Gpus::None => Some(Vec::new()),
            Gpus::Whole(count) | Gpus::Mig { count, .. } => {
                self.nearest_devices(&self.tables.sites[site as usize], count, &scope.wanted)
            }
            Gpus::Share(_) => self
                .offer(site, asker, &scope.wanted, &mut Vec::new())
                .map(|(_, given)| given),
        }
    }

    fn gives_all(&self, asker: &Asker, site: u32) -> bool {
        let devices = self.tables.sites[site as usize].devices.len();
        matches!(asker.ask.gpus, Gpus::Whole(count) if count == number(devices))
    }
}

/// What nodes cost, by whose they are and by their marks: equal nodes are scored once.
#[derive(Default)]
struct Costs {
    known: BTreeMap<(u8, u64), Cost>,
    scratch: Vec<i32>,
}
