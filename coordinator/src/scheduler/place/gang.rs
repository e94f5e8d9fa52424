//! Places for gangs of several nodes: among nodes that cost the same those that are near to each other. Does NOT look at devices.
use std::collections::BTreeMap;

use super::capacity::Capacity;
use super::find::{Scope, Seating};
use super::fit::{Asker, Cost};
use super::loss::WEIGHT;
use super::near;
use super::tables::number;
use crate::state::view::amounts::GPU;
use crate::state::view::ask::{Gpus, Near};

/// Losses that differ by less than an eighth of a GPU are alike to a gang: nearness matters more.
const GRAIN: i64 = WEIGHT * GPU.cast_signed() / 8;

/// A node that has room, what it would cost, and what it would give.
struct Candidate {
    cost: Cost,
    site: u32,
    given: Vec<u16>,
}

/// How good a gang's place is: compared left to right, less is better.
type Worth = (u8, u32, i64, usize, u32);

impl Capacity {
    pub(super) fn find_gang(&self, asker: &Asker, scopes: &[Scope], nodes: u32) -> Option<Seating> {
        let mut best: Option<(Worth, Seating)> = None;
        for scope in scopes {
            for group in self.groups(asker, scope) {
                let Some((worth, seating)) = self.seat(asker, group, nodes as usize) else {
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
            let leads = leads(asker, site);
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

    /// All nodes with room, by what they have to have in common.
    fn groups(&self, asker: &Asker, scope: &Scope) -> Vec<Vec<Candidate>> {
        let mut groups: BTreeMap<u32, Vec<Candidate>> = BTreeMap::new();
        let mut scratch = Vec::new();
        for site in self.nodes_of(asker.ask, scope) {
            if !self.fits(site, asker, &scope.wanted) {
                continue;
            }
            let Some(branch) = self.branch(asker, site) else {
                continue;
            };
            if let Some((cost, given)) = self.offer(site, asker, &scope.wanted, &mut scratch) {
                groups
                    .entry(branch)
                    .or_default()
                    .push(Candidate { cost, site, given });
            }
        }
        groups.into_values().collect()
    }

    /// The best place among these, if it has all.
    fn seat(
        &self,
        asker: &Asker,
        mut group: Vec<Candidate>,
        nodes: usize,
    ) -> Option<(Worth, Seating)> {
        if group.len() < nodes || nodes == 0 {
            return None;
        }
        let grade = |one: &Candidate| (one.cost.stance, one.cost.liking, one.cost.loss / GRAIN);
        group.sort_by_key(|one| (grade(one), one.cost, one.site));
        let first = group.iter().position(|one| leads(asker, one.site))?;
        // Who needs whole nodes leaves nothing behind on them: there only nearness counts, so none is cut off.
        let whole = group.iter().all(|one| self.gives_all(asker, one));
        let last = if whole { group.len() } else { nodes };
        let cut = group.get(last.saturating_sub(1)).map(grade);
        let first_cost = group.get(first).map(grade);
        group.retain(|one| Some(grade(one)) <= cut.max(first_cost));
        let paths: Vec<&[u32]> = (group.iter())
            .map(|one| &self.tables.sites[one.site as usize].racks[..])
            .collect();
        let must = asker.rank_0.is_some().then_some(first);
        let mut chosen = near::choose(&paths, nodes, must);
        chosen.sort_by_key(|at| (Some(*at) != must, paths[*at], group[*at].site));
        let mut racks: Vec<&[u32]> = chosen.iter().map(|at| paths[*at]).collect();
        racks.sort_unstable();
        racks.dedup();
        let worst = chosen.iter().map(|at| &group[*at].cost);
        let worth = (
            worst.clone().map(|cost| cost.stance).max().unwrap_or(0),
            worst.clone().map(|cost| cost.liking).max().unwrap_or(0),
            worst.map(|cost| cost.loss / GRAIN).sum(),
            racks.len(),
            chosen.iter().map(|at| group[*at].site).min().unwrap_or(0),
        );
        let mut given: Vec<Option<Candidate>> = group.into_iter().map(Some).collect();
        let seating = (chosen.into_iter())
            .filter_map(|at| given.get_mut(at)?.take())
            .map(|one| (one.site, one.given))
            .collect();
        Some((worth, seating))
    }

    fn gives_all(&self, asker: &Asker, one: &Candidate) -> bool {
        let devices = self.tables.sites[one.site as usize].devices.len();
        matches!(asker.ask.gpus, Gpus::Whole(_)) && number(one.given.len()) == number(devices)
    }
}

/// Whether rank 0 may be on this node.
fn leads(asker: &Asker, site: u32) -> bool {
    asker
        .rank_0
        .as_ref()
        .is_none_or(|only| only.binary_search(&site).is_ok())
}
