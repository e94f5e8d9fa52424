//! What is free, by dense numbers, kept in order while a pass fills it and while what-ifs give back what others hold. Does NOT choose a place.
use std::collections::BTreeMap;
use std::sync::Arc;

use mlctl_proto::units::UtcMs;

use super::Choice;
use super::index::{Index, Shelf};
use super::loss::Outlook;
use super::mix::Mix;
use super::stock::{Stock, need};
use super::tables::{Device, Tables, number};
use crate::state::view::ask::{Ask, Gpus};
use crate::state::view::jobs::{Running, Seat};
use crate::state::view::nodes::{NodeView, Open, Sharing};
use crate::state::view::scene::Scene;

/// What changes about a node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Room {
    /// What nobody holds beside devices.
    pub free: Stock,
    /// It takes work.
    pub open: bool,
    /// As [`Outlook::loss`] has it.
    pub loss: i64,
    /// Equal for nodes that are equal in all that a score looks at.
    pub mark: u64,
    /// Units free on all its devices together.
    pub units: i64,
    /// It has a device that nobody has a part of.
    pub whole: bool,
}

/// Nobody in particular: no one else may come to a device that such a one has a part of.
pub(super) const SOMEBODY: u32 = 0;

/// What is free on all nodes. A clone copies a few flat tables, some microseconds per 1,000 nodes: what-ifs work on one.
///
/// Devices that are kept for a beneficiary ([`crate::state::view::jobs::Hold`]) and free already are free here too: who plans takes them out by
/// [`Capacity::hold_seats`].
#[derive(Debug, Clone, Default)]
pub struct Capacity {
    pub(super) tables: Arc<Tables>,
    pub(super) outlook: Arc<Outlook>,
    /// By device: units that nobody holds. Less than 0 where more is held than is there, so that giving back is exact.
    pub(super) free: Vec<i32>,
    /// By device: who has parts of it, if somebody has.
    pub(super) holders: Vec<u32>,
    /// Names of holders.
    pub(super) names: Arc<BTreeMap<Arc<str>, u32>>,
    /// By node.
    pub(super) rooms: Vec<Room>,
    /// By lot.
    pub(super) shelves: Vec<Shelf>,
    pub(super) index: Index,
}

impl Capacity {
    /// Of all nodes of a scene. Nodes that are not open now are known but take no starts.
    pub fn new(scene: &Scene) -> Self {
        let tables = Tables::new(scene);
        let mut capacity = Self {
            index: Index::new(&tables.families),
            shelves: vec![Shelf::default(); tables.lots.len()],
            free: Vec::with_capacity(tables.devices.len()),
            holders: Vec::with_capacity(tables.devices.len()),
            rooms: Vec::with_capacity(tables.sites.len()),
            ..Self::default()
        };
        let mut names: BTreeMap<Arc<str>, u32> = BTreeMap::new();
        names.insert(Arc::from(""), SOMEBODY);
        for node in scene.nodes.values() {
            for device in &node.devices {
                capacity
                    .free
                    .push(i32::try_from(device.free).unwrap_or(i32::MAX));
                let holder = if device.shared_by.is_empty() {
                    SOMEBODY
                } else {
                    let next = number(names.len());
                    *names.entry(device.shared_by.clone()).or_insert(next)
                };
                capacity.holders.push(holder);
            }
            capacity.rooms.push(Room {
                free: Stock::of(node.free),
                open: node.open == Open::Now,
                ..Room::default()
            });
        }
        capacity.names = Arc::new(names);
        capacity.tables = Arc::new(tables);
        for site in 0..number(capacity.rooms.len()) {
            capacity.refresh(site);
        }
        capacity
    }

    /// What is free on a node is as that view says: one that differs from before in nothing else, and of whose devices nobody has a part.
    pub fn renew(&mut self, site: u32, node: &NodeView) {
        let tables = self.tables.clone();
        let Some(of) = tables.sites.get(site as usize) else {
            return;
        };
        for (place, device) in of.devices.clone().zip(&node.devices) {
            self.free[place] = i32::try_from(device.free).unwrap_or(i32::MAX);
        }
        self.rooms[site as usize].free = Stock::of(node.free);
        self.refresh(site);
    }

    /// The same with knowledge of what was asked for so far, against which fragmentation is counted. Without, the fullest nodes are filled first.
    #[must_use]
    pub fn with_mix(mut self, mix: &Mix) -> Self {
        self.know(mix);
        self
    }

    /// What was asked for so far has changed.
    pub fn know(&mut self, mix: &Mix) {
        self.outlook = Arc::new(Outlook::new(mix, &self.tables));
        let mut last: Option<(u64, i64)> = None;
        for site in 0..self.rooms.len() {
            let mark = self.rooms[site].mark;
            let loss = match last {
                Some((same, loss)) if same == mark => loss,
                _ => self.loss_of(number(site)),
            };
            last = Some((mark, loss));
            self.rooms[site].loss = loss;
        }
    }

    /// Takes what a gang was given. `choice` has to come from [`Capacity::find`] for this ask.
    pub fn take(&mut self, ask: &Ask, choice: &Choice) {
        let sharer = choice.sharer.as_ref();
        for (seat, site) in choice.seats.iter().zip(&choice.nodes) {
            self.occupy(
                ask,
                *site,
                &seat.devices,
                sharer.map(|(user, team)| (&**user, &**team)),
            );
        }
    }

    /// What if an attempt held nothing: gives back all of it.
    pub fn release(&mut self, running: &Running) {
        self.release_seats(&running.ask, &running.seats);
    }

    /// Undoes [`Capacity::release`].
    pub fn hold(&mut self, running: &Running) {
        for seat in &running.seats {
            if let Some(site) = self.tables.named(&seat.node) {
                let sharer = Some((&*running.user, &*running.team));
                self.occupy(&running.ask, site, &seat.devices, sharer);
            }
        }
    }

    /// Gives back what parts of a gang, or tasks of a wave, hold: an ask's worth per seat.
    pub fn release_seats(&mut self, ask: &Ask, seats: &[Seat]) {
        for seat in seats {
            if let Some(site) = self.tables.named(&seat.node) {
                self.vacate(ask, site, &seat.devices);
            }
        }
    }

    /// Undoes [`Capacity::release_seats`]. Parts of a device that nobody had a part of before go to nobody in particular: no one else may come to it.
    pub fn hold_seats(&mut self, ask: &Ask, seats: &[Seat]) {
        for seat in seats {
            if let Some(site) = self.tables.named(&seat.node) {
                self.occupy(ask, site, &seat.devices, None);
            }
        }
    }

    /// What if it were `t`: nodes that take work from then on, or earlier, do.
    pub fn open_from(&mut self, t: UtcMs) {
        for site in 0..number(self.rooms.len()) {
            let place = site as usize;
            let opens = matches!(self.tables.sites[place].open, Open::From(from) if from <= t);
            if opens && !self.rooms[place].open {
                self.rooms[place].open = true;
                self.refresh(site);
            }
        }
    }

    /// The dense number of a node.
    pub fn node(&self, name: &str) -> Option<u32> {
        self.tables.named(name)
    }

    fn occupy(&mut self, ask: &Ask, site: u32, devices: &[u16], sharer: Option<(&str, &str)>) {
        let tables = self.tables.clone();
        let Some(of) = tables.sites.get(site as usize) else {
            return;
        };
        let sharer = sharer.filter(|_| matches!(ask.gpus, Gpus::Share(_)));
        let holder = sharer.map(|(user, team)| match of.sharing {
            Sharing::User => self.name(user),
            Sharing::Team => self.name(team),
            Sharing::Any => SOMEBODY,
        });
        for at in devices {
            let place = of.devices.start + usize::from(*at);
            let Some(device) = tables.devices.get(place).filter(|_| place < of.devices.end) else {
                continue;
            };
            if let Some(holder) = holder {
                self.holders[place] = holder;
            }
            self.free[place] = self.free[place].saturating_sub(units_on(device, ask.gpus));
        }
        let room = &mut self.rooms[site as usize];
        room.free = room.free.minus(need(ask, of.per_gpu));
        self.refresh(site);
    }

    fn vacate(&mut self, ask: &Ask, site: u32, devices: &[u16]) {
        let tables = self.tables.clone();
        let Some(of) = tables.sites.get(site as usize) else {
            return;
        };
        for at in devices {
            let place = of.devices.start + usize::from(*at);
            let Some(device) = tables.devices.get(place).filter(|_| place < of.devices.end) else {
                continue;
            };
            self.free[place] = self.free[place].saturating_add(units_on(device, ask.gpus));
        }
        let room = &mut self.rooms[site as usize];
        room.free = room.free.plus(need(ask, of.per_gpu));
        self.refresh(site);
    }

    fn name(&mut self, name: &str) -> u32 {
        if let Some(known) = self.names.get(name) {
            return *known;
        }
        let next = number(self.names.len());
        Arc::make_mut(&mut self.names).insert(Arc::from(name), next);
        next
    }

    /// Brings all that follows from a node's free devices and amounts up to date.
    pub(super) fn refresh(&mut self, site: u32) {
        let tables = self.tables.clone();
        let of = &tables.sites[site as usize];
        let open = self.rooms[site as usize].open;
        for lot in &of.lots {
            let mut shelf = Shelf {
                open,
                ..Shelf::default()
            };
            for place in of.devices.clone() {
                let device = &tables.devices[place];
                if device.lot == *lot {
                    let whole = self.free[place] >= device.full;
                    shelf.whole = shelf.whole.saturating_add(u32::from(whole));
                    shelf.part |= !whole && self.free[place] > 0;
                }
            }
            let place = *lot as usize;
            let family = tables.lots[place].family;
            let at = place - tables.families[family as usize].lots.start;
            self.index.change(family, at, self.shelves[place], shelf);
            self.shelves[place] = shelf;
        }
        let (devices, free) = self.devices_of(of.devices.clone());
        let units = free.iter().map(|free| i64::from((*free).max(0))).sum();
        let whole = devices
            .iter()
            .zip(free)
            .any(|(device, free)| *free >= device.full);
        let (mark, loss) = (self.mark_of(site), self.loss_of(site));
        let room = &mut self.rooms[site as usize];
        (room.units, room.whole, room.mark, room.loss) = (units, whole, mark, loss);
    }

    fn loss_of(&self, site: u32) -> i64 {
        let of = &self.tables.sites[site as usize];
        let (devices, free) = self.devices_of(of.devices.clone());
        self.outlook
            .loss(of, devices, free, &self.rooms[site as usize].free)
    }

    /// The devices of a node, and what is free of each.
    pub(super) fn devices_of(&self, of: std::ops::Range<usize>) -> (&[Device], &[i32]) {
        (&self.tables.devices[of.clone()], &self.free[of])
    }

    /// A number that is equal for equal nodes, and almost surely different for others: which devices they have and how near to each other, what is free of
    /// them and for whom, and what is free beside them. Where a device stands in its node does not matter.
    fn mark_of(&self, site: u32) -> u64 {
        let of = &self.tables.sites[site as usize];
        let mut all = 0_u64;
        for place in of.devices.clone() {
            let (device, free) = (&self.tables.devices[place], self.free[place]);
            let shared = free < device.full && of.sharing != Sharing::Any;
            let holder = if shared { self.holders[place] } else { 0 };
            let near = u64::from(device.island) << 48 | u64::from(device.numa) << 32;
            let mut one = mixed(near | u64::from(device.family), device.memory);
            one = mixed(one ^ u64::from(free.cast_unsigned()), holder.into());
            all = all.wrapping_add(one);
        }
        let free = &self.rooms[site as usize].free;
        let share = of.per_gpu;
        for amount in [
            free.cpu,
            free.memory,
            free.disk,
            free.ranks,
            share.cpu,
            share.memory,
            share.disk,
        ] {
            all = mixed(all, amount.cast_unsigned());
        }
        mixed(all, of.realm.into())
    }
}

/// Units of a device that one node's part of a job holds.
pub(super) fn units_on(device: &Device, gpus: Gpus) -> i32 {
    match gpus {
        Gpus::Share(units) => i32::try_from(units).unwrap_or(i32::MAX),
        _ => device.full,
    }
}

/// Mixes two numbers well enough for marks of equality.
fn mixed(a: u64, b: u64) -> u64 {
    let x = (a ^ b.wrapping_mul(0x9e37_79b9_7f4a_7c15)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    x ^ (x >> 29)
}
