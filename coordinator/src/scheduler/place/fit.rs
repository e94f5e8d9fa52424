//! Whether one node takes one part of a job, and which of its devices it gives. Does NOT choose between nodes.
use super::Terms;
use super::capacity::{Capacity, SOMEBODY};
use super::near;
use super::stock::{Stock, need};
use super::tables::{Device, Site};
use super::wanted::Wanted;
use crate::state::view::ask::{Ask, Gpus};
use crate::state::view::nodes::{Guests, Sharing};

/// Who asks, with names already looked up.
pub(super) struct Asker<'a> {
    pub ask: &'a Ask,
    pub terms: &'a Terms<'a>,
    avoid: Vec<u32>,
    /// Rank 0 has to be on one of these, ascending; `None`: anywhere.
    pub rank_0: Option<Vec<u32>>,
    /// Who shares devices, as user and as team, if they share one already.
    user: Option<u32>,
    team: Option<u32>,
}

/// What one node would give, and what that costs: compared left to right, less is better.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Cost {
    /// Whose node it is: 0 the asker's own, or for CPU jobs one without GPUs; 1 nobody's; 2 another's.
    pub stance: u8,
    /// How late the type stands in the ask's list, where types may be mixed.
    pub liking: u32,
    /// By how much the loss grows.
    pub loss: i64,
    /// How many islands and processors' neighbourhoods it spans.
    pub spread: (u16, u16),
    /// Units left on the node afterwards.
    pub left: i64,
}

impl<'a> Asker<'a> {
    pub fn new(capacity: &Capacity, ask: &'a Ask, terms: &'a Terms<'a>) -> Self {
        let site = |name: &std::sync::Arc<str>| capacity.tables.named(name);
        let mut rank_0: Vec<u32> = terms.rank_0.iter().filter_map(site).collect();
        rank_0.sort_unstable();
        let shares = matches!(ask.gpus, Gpus::Share(_));
        let known = |name: &str| {
            capacity
                .names
                .get(name)
                .copied()
                .filter(|one| *one != SOMEBODY)
        };
        Self {
            ask,
            terms,
            avoid: terms.avoid.iter().filter_map(site).collect(),
            rank_0: (!terms.rank_0.is_empty()).then_some(rank_0),
            user: shares.then(|| known(terms.user)).flatten(),
            team: shares.then(|| known(terms.team)).flatten(),
        }
    }

    /// Whether a node may take this job at all.
    pub fn admitted(&self, site: &Site, number: u32) -> bool {
        let terms = self.terms;
        let welcome = match &site.owner {
            None => true,
            Some(owner) => {
                let guest = match owner.guests {
                    Guests::None => false,
                    Guests::Preemptible => terms.preemptible,
                    Guests::Any => true,
                };
                guest || is_within(terms.team, &owner.team)
            }
        };
        let (from, to) = terms.span;
        let kept_free =
            !terms.preemptible && site.windows.iter().any(|(a, b)| from < *b && *a < to);
        let labels = &self.ask.labels;
        welcome
            && !kept_free
            && labels
                .iter()
                .all(|label| site.labels.binary_search(label).is_ok())
            && !self.avoid.contains(&number)
    }

    /// 0 its own, 1 nobody's, 2 another's.
    pub fn stance(&self, site: &Site) -> u8 {
        match &site.owner {
            Some(owner) if is_within(self.terms.team, &owner.team) => 0,
            Some(_) => 2,
            None => u8::from(self.ask.gpus != Gpus::None || !site.devices.is_empty()),
        }
    }

    /// Whether rank 0 may be on this node.
    pub fn leads(&self, site: u32) -> bool {
        self.rank_0
            .as_ref()
            .is_none_or(|only| only.binary_search(&site).is_ok())
    }

    /// What a node gives beside devices.
    pub fn need(&self, site: &Site) -> Stock {
        need(self.ask, site.per_gpu)
    }
}

/// Whether a team is another, or below it.
fn is_within(team: &str, above: &str) -> bool {
    team.strip_prefix(above)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

impl Capacity {
    /// Whether a node has room for one part now.
    pub(super) fn fits(&self, site: u32, asker: &Asker, wanted: &[Wanted]) -> bool {
        let (Some(of), Some(room)) = (
            self.tables.sites.get(site as usize),
            self.rooms.get(site as usize),
        ) else {
            return false;
        };
        let need = asker.need(of);
        room.open
            && self.spare(of, site, asker.ask).covers(&need)
            && self.has_devices(of, asker, wanted)
            && asker.admitted(of, site)
    }

    /// What a node has to spare beside devices: a CPU job leaves a free GPU its share (docs/SCHEDULING.md, Requests).
    pub(super) fn spare(&self, of: &Site, site: u32, ask: &Ask) -> Stock {
        let Some(room) = self.rooms.get(site as usize) else {
            return Stock::default();
        };
        let kept = ask.gpus == Gpus::None && room.whole && self.tables.keep_gpu_share;
        if kept {
            room.free.minus(of.per_gpu)
        } else {
            room.free
        }
    }

    fn has_devices(&self, of: &Site, asker: &Asker, wanted: &[Wanted]) -> bool {
        let places = of.devices.clone();
        match asker.ask.gpus {
            Gpus::None => true,
            Gpus::Whole(count) | Gpus::Mig { count, .. } => {
                if let [one] = wanted
                    && one.memory == 0
                {
                    // The usual case: the number is known.
                    let lots = of.lots.iter().map(|lot| *lot as usize);
                    let mut own = lots.filter(|lot| self.tables.lots[*lot].family == one.family);
                    return own.any(|lot| self.shelves[lot].whole >= count);
                }
                let good = |place: &usize| {
                    let device = &self.tables.devices[*place];
                    self.free[*place] >= device.full && liked(device, wanted).is_some()
                };
                places.filter(good).take(count as usize).count() == count as usize
            }
            Gpus::Share(units) => {
                let units = i32::try_from(units).unwrap_or(i32::MAX);
                places
                    .into_iter()
                    .any(|place| self.takes_part(of, place, units, asker, wanted))
            }
        }
    }

    /// Whether a device gives such a part: it is free enough, and who has other parts of it may be a neighbour.
    pub(super) fn takes_part(
        &self,
        of: &Site,
        place: usize,
        units: i32,
        asker: &Asker,
        wanted: &[Wanted],
    ) -> bool {
        let (device, free, holder) = (
            &self.tables.devices[place],
            self.free[place],
            Some(self.holders[place]),
        );
        free >= units
            && liked(device, wanted).is_some()
            && (free >= device.full
                || match of.sharing {
                    Sharing::User => holder == asker.user,
                    Sharing::Team => holder == asker.team,
                    Sharing::Any => true,
                })
    }

    /// The devices that a node gives, by place in it, and the cost; `None` if it has none. The node has room ([`Capacity::fits`]).
    pub(super) fn offer(
        &self,
        site: u32,
        asker: &Asker,
        wanted: &[Wanted],
        scratch: &mut Vec<i32>,
    ) -> Option<(Cost, Vec<u16>)> {
        let of = self.tables.sites.get(site as usize)?;
        let left = self.rooms[site as usize].free.minus(asker.need(of));
        let (devices, free) = self.devices_of(of.devices.clone());
        scratch.clear();
        scratch.extend_from_slice(free);
        let mut best: Option<(Cost, Vec<u16>)> = None;
        let mut consider = |given: Vec<u16>, scratch: &[i32]| {
            let cost = self.cost(site, asker, wanted, &given, scratch, &left);
            if best.as_ref().is_none_or(|(least, _)| cost < *least) {
                best = Some((cost, given));
            }
        };
        match asker.ask.gpus {
            Gpus::None => consider(Vec::new(), scratch),
            Gpus::Whole(count) | Gpus::Mig { count, .. } => {
                let given = self.nearest_devices(of, count, wanted)?;
                for at in &given {
                    scratch[usize::from(*at)] = 0;
                }
                consider(given, scratch);
            }
            Gpus::Share(units) => {
                let units = i32::try_from(units).unwrap_or(i32::MAX);
                // The fuller device comes first; of equal ones only the first is tried.
                let good =
                    |at: &usize| self.takes_part(of, of.devices.start + at, units, asker, wanted);
                let mut order: Vec<usize> = (0..devices.len()).filter(good).collect();
                order.sort_by_key(|at| (free[*at], devices[*at].family, *at));
                order.dedup_by_key(|at| (free[*at], devices[*at].family));
                for at in order {
                    scratch[at] = scratch[at].saturating_sub(units);
                    consider(vec![u16::try_from(at).ok()?], scratch);
                    scratch[at] = free[at];
                }
            }
        }
        best
    }

    fn cost(
        &self,
        site: u32,
        asker: &Asker,
        wanted: &[Wanted],
        given: &[u16],
        after: &[i32],
        left: &Stock,
    ) -> Cost {
        let of = &self.tables.sites[site as usize];
        let devices = &self.tables.devices[of.devices.clone()];
        let grown = self.outlook.loss(of, devices, after, left);
        let mut islands: Vec<u16> = Vec::new();
        let mut numas: Vec<u16> = Vec::new();
        let mut liking = 0;
        for device in given.iter().filter_map(|at| devices.get(usize::from(*at))) {
            if !islands.contains(&device.island) {
                islands.push(device.island);
            }
            if !numas.contains(&device.numa) {
                numas.push(device.numa);
            }
            if wanted.len() > 1 {
                liking = liking.max(liked(device, wanted).unwrap_or(u32::MAX));
            }
        }
        let count = |list: &[u16]| u16::try_from(list.len()).unwrap_or(u16::MAX);
        Cost {
            stance: asker.stance(of),
            liking,
            loss: grown.saturating_sub(self.rooms[site as usize].loss),
            spread: (count(&islands), count(&numas)),
            left: after.iter().map(|free| i64::from((*free).max(0))).sum(),
        }
    }

    /// So many free devices that are near to each other: in one island, then of one processor; the tightest of those.
    pub(super) fn nearest_devices(
        &self,
        of: &Site,
        count: u32,
        wanted: &[Wanted],
    ) -> Option<Vec<u16>> {
        let (devices, free) = self.devices_of(of.devices.clone());
        let mut rank_of: Vec<(u32, usize)> = (devices.iter().zip(free).enumerate())
            .filter(|(_, (device, free))| **free >= device.full)
            .filter_map(|(at, (device, _))| Some((liked(device, wanted)?, at)))
            .collect();
        let count = count as usize;
        if rank_of.len() <= count {
            let all = || {
                rank_of
                    .iter()
                    .filter_map(|(_, at)| u16::try_from(*at).ok())
                    .collect()
            };
            return (rank_of.len() == count).then(all);
        }
        rank_of.sort_unstable();
        if let Some((worst, _)) = rank_of.get(count.saturating_sub(1)).copied() {
            // Of mixed types the better liked come first.
            rank_of.retain(|(rank, _)| *rank <= worst);
        }
        let near = |at: usize| -> [u32; 2] { [devices[at].island.into(), devices[at].numa.into()] };
        let of_island = |island| {
            rank_of
                .iter()
                .filter(|(_, at)| near(*at)[0] == island)
                .count()
        };
        let one_island = rank_of
            .iter()
            .any(|(_, at)| of_island(near(*at)[0]) >= count);
        let path = |(_, at): &(u32, usize)| {
            let [island, numa] = near(*at);
            // Where no island has enough, several near one processor are better than several of two.
            if one_island {
                [island, numa]
            } else {
                [numa, island]
            }
        };
        let paths: Vec<[u32; 2]> = rank_of.iter().map(path).collect();
        let paths: Vec<&[u32]> = paths.iter().map(|path| &path[..]).collect();
        let chosen = near::choose(&paths, count, None);
        let mut given: Vec<u16> = (chosen.into_iter())
            .filter_map(|one| u16::try_from(rank_of[one].1).ok())
            .collect();
        given.sort_unstable();
        Some(given)
    }
}

/// How well a device is liked; `None`: not at all.
pub(super) fn liked(device: &Device, wanted: &[Wanted]) -> Option<u32> {
    (wanted.iter())
        .filter(|one| one.family == device.family && device.memory >= one.memory)
        .map(|one| one.rank.0)
        .min()
}
