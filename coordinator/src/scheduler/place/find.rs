//! The best place for a gang, whole or not at all: its types and pools in order of preference, among equals the place that leaves the least useless (docs/SCHEDULING.md,
//! Placement). Does NOT decide whether a job may have so much.
use std::sync::Arc;

use super::capacity::Capacity;
use super::fit::{Asker, Cost};
use super::tables::number;
use super::wanted::{self, Rank, Wanted};
use super::{Choice, Terms};
use crate::state::view::ask::{Ask, Gpus};
use crate::state::view::jobs::Seat;
use crate::state::view::teams::Flavor;

/// Nodes that may make up one gang.
#[derive(Debug, Clone, Default)]
pub(super) struct Scope {
    /// How much the ask likes it.
    pub rank: Rank,
    /// Which nodes.
    pub realm: u32,
    /// Which of their devices; empty: none.
    pub wanted: Vec<Wanted>,
}

/// Of more different nodes with room, only those that look best are scored.
pub(super) const SCORED_MAX: usize = 16;

/// How good a node looks before it is scored; less is better.
pub(super) type Guess = (u8, i64, i64);

/// Leaves the best of them, in no particular order.
pub(super) fn keep_best<T: Ord>(list: &mut Vec<T>, count: usize) {
    if list.len() > count {
        list.select_nth_unstable(count);
        list.truncate(count);
    }
}

/// Sites and devices that were chosen.
pub(super) type Seating = Vec<(u32, Vec<u16>)>;

impl Capacity {
    /// The best place for a gang of exactly `nodes` nodes, if there is one now.
    pub fn find(&self, ask: &Ask, nodes: u32, terms: &Terms) -> Option<Choice> {
        let mut scopes = self.scopes(ask, nodes);
        if scopes.is_empty() || nodes == 0 {
            return None;
        }
        let asker = Asker::new(self, ask, terms);
        scopes.sort_by_key(|scope| (scope.rank, scope.realm));
        let mut rest = &scopes[..];
        while let Some(first) = rest.first() {
            let alike = rest.partition_point(|scope| scope.rank <= first.rank);
            let (level, later) = rest.split_at(alike);
            let found = if nodes == 1 {
                self.find_one(&asker, level)
            } else {
                self.find_gang(&asker, level, nodes)
            };
            if let Some(seating) = found {
                return Some(self.choice(&asker, seating));
            }
            rest = later;
        }
        None
    }

    /// On how many nodes at most a gang of this ask would find its place now, up to `limit`: a quick look before [`Capacity::find`].
    pub fn room(&self, ask: &Ask, terms: &Terms, limit: u32) -> u32 {
        if limit == 0 {
            return 0;
        }
        let asker = Asker::new(self, ask, terms);
        let scopes = self.scopes(ask, 1);
        let each = scopes
            .iter()
            .map(|scope| self.room_in(&asker, scope, limit));
        each.max().unwrap_or(0)
    }

    /// How many tasks of an array, each of which asks for one part of a node, fit side by side on a node now.
    pub fn slots(&self, ask: &Ask, terms: &Terms, node: u32) -> u32 {
        let asker = Asker::new(self, ask, terms);
        let scopes = self.scopes(ask, 1);
        (scopes.iter())
            .filter(|scope| self.fits(node, &asker, &scope.wanted))
            .map(|scope| self.slots_in(&asker, scope, node))
            .max()
            .unwrap_or(0)
    }

    fn slots_in(&self, asker: &Asker, scope: &Scope, node: u32) -> u32 {
        let Some(of) = self.tables.sites.get(node as usize) else {
            return 0;
        };
        let by_amounts = self.spare(of, node, asker.ask).times(&asker.need(of));
        let places = of.devices.clone();
        let by_devices = match asker.ask.gpus {
            Gpus::None => None,
            Gpus::Whole(count) | Gpus::Mig { count, .. } => {
                let free = places.filter(|place| {
                    let device = &self.tables.devices[*place];
                    self.free[*place] >= device.full
                        && super::fit::liked(device, &scope.wanted).is_some()
                });
                number(free.count()).checked_div(count)
            }
            Gpus::Share(units) => {
                let units = i32::try_from(units).unwrap_or(i32::MAX).max(1);
                let parts = places.map(|place| {
                    let takes = self.takes_part(of, place, units, asker, &scope.wanted);
                    if takes { self.free[place] / units } else { 0 }
                });
                u32::try_from(parts.sum::<i32>()).ok()
            }
        };
        by_amounts
            .into_iter()
            .chain(by_devices)
            .min()
            .unwrap_or(u32::MAX)
    }

    /// Where it is worth looking: what has too few free devices is left out at once.
    pub(super) fn scopes(&self, ask: &Ask, nodes: u32) -> Vec<Scope> {
        if ask.gpus == Gpus::None {
            return self.cpu_scopes(ask);
        }
        let mut ways: Vec<Wanted> = Vec::new();
        for (place, family) in self.tables.families.iter().enumerate() {
            let place = number(place);
            let enough = match ask.gpus {
                Gpus::None => true,
                Gpus::Whole(_) | Gpus::Mig { .. } if ask.mix => self.index.at_least(place, 1) > 0,
                Gpus::Whole(count) | Gpus::Mig { count, .. } => {
                    self.index.at_least(place, count) >= nodes
                }
                Gpus::Share(_) => {
                    let parts = self.index.with_parts(place);
                    let either = self.index.at_least(place, 1).saturating_add(parts);
                    if ask.mix { either > 0 } else { either >= nodes }
                }
            };
            if enough && wanted::right_sort(family, ask.gpus) {
                wanted::ways(&self.tables, place, ask, &mut ways);
            }
        }
        let mut scopes: Vec<Scope> = Vec::new();
        for way in ways {
            let realm = self.tables.families[way.family as usize].realm;
            let rank = if ask.mix { (0, way.rank.1) } else { way.rank };
            let together = |scope: &&mut Scope| ask.mix && scope.realm == realm;
            match scopes.iter_mut().find(together) {
                Some(scope) => scope.wanted.push(way),
                None => scopes.push(Scope {
                    rank,
                    realm,
                    wanted: vec![way],
                }),
            }
        }
        scopes
    }

    fn cpu_scopes(&self, ask: &Ask) -> Vec<Scope> {
        let mut ranks: Vec<Option<u32>> = vec![None; self.tables.realms as usize];
        for site in &self.tables.sites {
            let rank = &mut ranks[site.realm as usize];
            if rank.is_none() {
                *rank = wanted::pool_rank(&self.tables, &ask.pools, site.pool);
            }
        }
        (ranks.into_iter().enumerate())
            .filter_map(|(realm, rank)| {
                Some(Scope {
                    rank: (0, rank?),
                    realm: number(realm),
                    wanted: Vec::new(),
                })
            })
            .collect()
    }

    /// Nodes of a scope that may have room, ascending: those without enough free devices are left out.
    pub(super) fn nodes_of<'a>(
        &'a self,
        ask: &Ask,
        scope: &'a Scope,
    ) -> Box<dyn Iterator<Item = u32> + 'a> {
        let (count, parts) = match ask.gpus {
            Gpus::None => (0, false),
            Gpus::Whole(count) | Gpus::Mig { count, .. } => (count, false),
            Gpus::Share(_) => (1, true),
        };
        match &scope.wanted[..] {
            [one] => {
                let start = self.tables.families[one.family as usize].lots.start;
                let places = self.index.places(one.family, count, parts);
                Box::new(places.filter_map(move |place| {
                    let lot = self.tables.lots.get(start + place as usize)?;
                    Some(lot.site)
                }))
            }
            _ => {
                let sites = self.tables.sites.iter().zip(0_u32..);
                Box::new(
                    sites
                        .filter(|(site, _)| site.realm == scope.realm)
                        .map(|(_, number)| number),
                )
            }
        }
    }

    fn find_one(&self, asker: &Asker, scopes: &[Scope]) -> Option<Seating> {
        let mut seen = Seen::default();
        let mut hopeful: Vec<(Guess, u32, usize)> = Vec::new();
        for (at, scope) in scopes.iter().enumerate() {
            for site in self.nodes_of(asker.ask, scope) {
                if !asker.leads(site) || !self.fits(site, asker, &scope.wanted) {
                    continue;
                }
                let guess = self.guess(asker, site);
                let mark = self.rooms[site as usize].mark ^ u64::from(guess.0);
                if !seen.before(mark) {
                    hopeful.push((guess, site, at));
                }
            }
        }
        keep_best(&mut hopeful, SCORED_MAX);
        let mut best: Option<(Cost, u32, Vec<u16>)> = None;
        let mut scratch = Vec::new();
        for (_, site, at) in hopeful {
            let wanted = scopes.get(at).map_or(&[][..], |scope| &scope.wanted);
            let Some((cost, given)) = self.offer(site, asker, wanted, &mut scratch) else {
                continue;
            };
            let better = |(least, at, _): &(Cost, u32, Vec<u16>)| (cost, site) < (*least, *at);
            if best.as_ref().is_none_or(better) {
                best = Some((cost, site, given));
            }
        }
        best.map(|(_, site, given)| vec![(site, given)])
    }

    /// How good a node is likely to be: whose it is, then by how much its loss is likely to grow if what is taken was as useful as the rest of what is free
    /// there, then how little that is.
    pub(super) fn guess(&self, asker: &Asker, site: u32) -> Guess {
        let (of, room) = (
            &self.tables.sites[site as usize],
            &self.rooms[site as usize],
        );
        let takes = i64::try_from(asker.ask.gpus.units()).unwrap_or(i64::MAX);
        let grows = if of.devices.is_empty() {
            0
        } else {
            let left = room.free.minus(asker.need(of));
            let before = self.outlook.imbalance(room.units, &room.free);
            let after = self
                .outlook
                .imbalance(room.units.saturating_sub(takes), &left);
            let lost = room
                .loss
                .saturating_sub(before)
                .checked_div(room.units)
                .unwrap_or(0);
            after
                .saturating_sub(before)
                .saturating_sub(lost.saturating_mul(takes))
        };
        (asker.stance(of), grows, room.units)
    }

    fn choice(&self, asker: &Asker, seating: Seating) -> Choice {
        let mut charges: Vec<(Flavor, u64)> = Vec::new();
        let mut choice = Choice {
            seats: Vec::with_capacity(seating.len()),
            charges: Vec::new(),
            nodes: Vec::with_capacity(seating.len()),
            sharer: matches!(asker.ask.gpus, Gpus::Share(_))
                .then(|| (Arc::from(asker.terms.user), Arc::from(asker.terms.team))),
        };
        for (site, devices) in seating {
            let of = &self.tables.sites[site as usize];
            for at in &devices {
                let Some(device) = self.tables.devices.get(of.devices.start + usize::from(*at))
                else {
                    continue;
                };
                let flavor = &self.tables.families[device.family as usize].flavor;
                let units = super::capacity::units_on(device, asker.ask.gpus);
                let units = u64::from(units.unsigned_abs());
                match charges.iter_mut().find(|(known, _)| known == flavor) {
                    Some((_, sum)) => *sum = sum.saturating_add(units),
                    None => charges.push((flavor.clone(), units)),
                }
            }
            choice.nodes.push(site);
            choice.seats.push(Seat {
                node: of.name.clone(),
                devices,
            });
        }
        charges.sort_by(|a, b| a.0.cmp(&b.0));
        choice.charges = charges;
        choice
    }
}

/// Which marks came already, as far as it remembers: forgetting costs time, never the result.
#[derive(Default)]
struct Seen {
    marks: Vec<u64>,
}

impl Seen {
    const SLOTS: usize = 256;

    fn before(&mut self, mark: u64) -> bool {
        if self.marks.is_empty() {
            self.marks = vec![0; Self::SLOTS];
        }
        let at = usize::try_from(mark % 256).unwrap_or(0);
        let known = self.marks[at] == mark;
        self.marks[at] = mark;
        known
    }
}
