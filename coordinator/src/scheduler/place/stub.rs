//! A plain best fit, node by node, until the real one is there.
use std::collections::BTreeMap;
use std::sync::Arc;

use mlctl_proto::units::UtcMs;

use super::{Choice, Terms};
use crate::state::view::amounts::{Amounts, GPU};
use crate::state::view::ask::{Ask, Gpus, Kind, Near};
use crate::state::view::jobs::{Running, Seat};
use crate::state::view::nodes::{DeviceView, Guests, NodeView, Open, Sharing};
use crate::state::view::scene::Scene;
use crate::state::view::teams::Flavor;

/// What is free.
#[derive(Debug, Clone)]
pub struct Capacity {
    nodes: Vec<Room>,
    flavors: Arc<Vec<Flavor>>,
    by_name: Arc<BTreeMap<Arc<str>, u32>>,
    open_at: UtcMs,
}

#[derive(Debug, Clone)]
struct Room {
    view: Arc<NodeView>,
    free: Vec<u32>,
    shared_by: Vec<Arc<str>>,
    amounts: Amounts,
}

fn full(device: &DeviceView) -> u32 {
    device.slices.map_or(GPU as u32, |slices| slices * 1_000)
}

fn amounts_of(ask: &Ask, view: &NodeView) -> Amounts {
    ask.amounts.unwrap_or_else(|| match ask.gpus {
        Gpus::None => Amounts::NONE,
        gpus => {
            let all: u64 = view.devices.iter().map(|one| u64::from(full(one))).sum::<u64>().max(1);
            let part = |has: u64| (u128::from(has) * u128::from(gpus.units()) / u128::from(all)) as u64;
            Amounts { cpu_milli: part(view.has.cpu_milli), memory: part(view.has.memory), disk: 0 }
        }
    })
}

impl Capacity {
    pub fn new(scene: &Scene) -> Self {
        let nodes: Vec<Room> = (scene.nodes.values())
            .map(|view| Room {
                view: view.clone(),
                free: view.devices.iter().map(|one| one.free).collect(),
                shared_by: view.devices.iter().map(|one| one.shared_by.clone()).collect(),
                amounts: view.free,
            })
            .collect();
        let mut flavors: Vec<Flavor> =
            scene.teams.values().flat_map(|team| team.quotas.keys().chain(team.own.keys()).cloned()).collect();
        flavors.sort();
        flavors.dedup();
        let by_name = scene.nodes.keys().enumerate().map(|(at, name)| (name.clone(), at as u32)).collect();
        Self { nodes, flavors: Arc::new(flavors), by_name: Arc::new(by_name), open_at: UtcMs::MIN }
    }

    pub fn open_from(&mut self, at: UtcMs) {
        self.open_at = at;
    }

    fn flavor(&self, model: &Arc<str>, pool: &Arc<str>) -> Flavor {
        let best = (self.flavors.iter())
            .filter(|one| model.contains(&*one.kind) && one.pool.as_ref().is_none_or(|name| name == pool))
            .max_by_key(|one| (one.pool.is_some(), one.kind.len(), std::cmp::Reverse((*one).clone())));
        best.cloned().unwrap_or_else(|| Flavor { kind: model.clone(), pool: None })
    }

    fn open(&self, room: &Room, terms: &Terms<'_>) -> bool {
        let view = &room.view;
        let open = match view.open {
            Open::Now => true,
            Open::From(at) => at <= self.open_at,
            Open::No => false,
        };
        let mine = view.owner.as_ref().is_none_or(|owner| {
            let own = terms.team == &*owner.team || terms.team.strip_prefix(&*owner.team).is_some_and(|rest| rest.starts_with('/'));
            own || match owner.guests {
                Guests::None => false,
                Guests::Preemptible => terms.preemptible,
                Guests::Any => true,
            }
        });
        let (from, to) = terms.span;
        open && mine && !terms.avoid.contains(&view.name) && view.windows.iter().all(|(start, end)| to <= *start || from >= *end)
    }

    fn devices(&self, room: &Room, ask: &Ask, kind: Option<&Kind>, model: Option<&Arc<str>>, terms: &Terms<'_>) -> Option<Vec<u16>> {
        let view = &room.view;
        let labels = ask.labels.iter().all(|label| view.labels.binary_search(label).is_ok());
        if !labels || !room.amounts.covers(&amounts_of(ask, view)) {
            return None;
        }
        let fits = |one: &DeviceView| {
            kind.is_none_or(|kind| one.model.contains(&kind.name) && one.memory >= kind.memory)
                && model.is_none_or(|model| *model == one.model)
        };
        let sharer = |at: usize| {
            let by = &room.shared_by[at];
            by.is_empty()
                || match view.sharing {
                    Sharing::User => &**by == terms.user,
                    Sharing::Team => &**by == terms.team,
                    Sharing::Any => true,
                }
        };
        let mut all = view.devices.iter().enumerate().filter(|(_, one)| fits(one));
        match ask.gpus {
            Gpus::None => Some(Vec::new()),
            Gpus::Whole(count) => {
                let found: Vec<u16> = all
                    .filter(|(at, one)| one.slices.is_none() && room.free[*at] == full(one))
                    .map(|(at, _)| at as u16)
                    .take(count as usize)
                    .collect();
                (found.len() == count as usize).then_some(found)
            }
            Gpus::Mig { count, slices } => {
                let found: Vec<u16> = all
                    .filter(|(at, one)| one.slices == Some(slices) && room.free[*at] == full(one))
                    .map(|(at, _)| at as u16)
                    .take(count as usize)
                    .collect();
                (found.len() == count as usize).then_some(found)
            }
            Gpus::Share(units) => all
                .find(|(at, one)| {
                    one.slices.is_none() && room.free[*at] >= units && (room.free[*at] == full(one) || sharer(*at))
                })
                .map(|(at, _)| vec![at as u16]),
        }
    }

    pub fn find(&self, ask: &Ask, nodes: u32, terms: &Terms<'_>) -> Option<Choice> {
        let kinds: Vec<Option<&Kind>> =
            if ask.kinds.is_empty() || ask.mix { vec![None] } else { ask.kinds.iter().map(Some).collect() };
        kinds.into_iter().find_map(|kind| self.find_kind(ask, kind, nodes, terms))
    }

    fn find_kind(&self, ask: &Ask, kind: Option<&Kind>, nodes: u32, terms: &Terms<'_>) -> Option<Choice> {
        type Group = (usize, Arc<str>, Vec<Arc<str>>, Option<Arc<str>>);
        let mut groups: BTreeMap<Group, Vec<(usize, u32, Vec<u16>)>> = BTreeMap::new();
        for (at, room) in self.nodes.iter().enumerate() {
            let view = &room.view;
            let place = if ask.pools.is_empty() { Some(0) } else { ask.pools.iter().position(|pool| **pool == *view.pool) };
            let Some(place) = place else { continue };
            if !self.open(room, terms) {
                continue;
            }
            let mut models: Vec<Option<&Arc<str>>> = view.devices.iter().map(|one| Some(&one.model)).collect();
            models.dedup();
            if models.is_empty() || ask.mix || ask.gpus == Gpus::None {
                models = vec![None];
            }
            for model in models {
                let Some(found) = self.devices(room, ask, kind, model, terms) else { continue };
                let within = match ask.near {
                    Near::Prefer => Vec::new(),
                    Near::Within(level) => view.racks.iter().take(usize::from(level) + 1).cloned().collect(),
                };
                let left = room.free.iter().sum::<u32>();
                let key = (place * 1_000, format!("{}/{}", view.pool, view.network).into(), within, model.cloned());
                groups.entry(key).or_default().push((at, left, found));
            }
        }
        for members in groups.values_mut() {
            members.sort_by_key(|(at, left, _)| (*left, *at));
            if let Some(first) = members
                .iter()
                .position(|(at, _, _)| terms.rank_0.is_empty() || terms.rank_0.contains(&self.nodes[*at].view.name))
            {
                let first = members.remove(first);
                members.insert(0, first);
            } else {
                continue;
            }
            if members.len() < nodes as usize {
                continue;
            }
            members.truncate(nodes as usize);
            let mut charges: BTreeMap<Flavor, u64> = BTreeMap::new();
            let mut choice = Choice { seats: Vec::new(), charges: Vec::new(), nodes: Vec::new() };
            for (at, _, devices) in members.iter() {
                let view = &self.nodes[*at].view;
                let each = if devices.is_empty() { 0 } else { ask.gpus.units() / devices.len() as u64 };
                for device in devices {
                    *charges.entry(self.flavor(&view.devices[usize::from(*device)].model, &view.pool)).or_default() += each;
                }
                choice.seats.push(Seat { node: view.name.clone(), devices: devices.clone() });
                choice.nodes.push(*at as u32);
            }
            choice.charges = charges.into_iter().collect();
            return Some(choice);
        }
        None
    }

    fn change(&mut self, ask: &Ask, seats: &[Seat], give: bool) {
        for seat in seats {
            let Some(at) = self.by_name.get(&seat.node) else { continue };
            let room = &mut self.nodes[*at as usize];
            let amounts = amounts_of(ask, &room.view);
            room.amounts = if give { room.amounts.plus(amounts) } else { room.amounts.minus(amounts) };
            let each = ask.gpus.units().checked_div(seat.devices.len() as u64).unwrap_or(0) as u32;
            for device in &seat.devices {
                let at = usize::from(*device);
                let Some(free) = room.free.get_mut(at) else { continue };
                *free = if give { (*free + each).min(full(&room.view.devices[at])) } else { free.saturating_sub(each) };
            }
        }
    }

    pub fn take(&mut self, ask: &Ask, choice: &Choice) {
        self.change(ask, &choice.seats, false);
    }

    pub fn release(&mut self, running: &Running) {
        self.change(&running.ask, &running.seats, true);
    }

    pub fn hold(&mut self, running: &Running) {
        self.change(&running.ask, &running.seats, false);
    }

    pub fn release_seats(&mut self, ask: &Ask, seats: &[Seat]) {
        self.change(ask, seats, true);
    }

    pub fn hold_seats(&mut self, ask: &Ask, seats: &[Seat]) {
        self.change(ask, seats, false);
    }

    pub fn room(&self, ask: &Ask, terms: &Terms<'_>, limit: u32) -> u32 {
        let mut left = self.clone();
        let mut count = 0;
        while count < limit {
            let Some(choice) = left.find(ask, 1, terms) else { break };
            left.take(ask, &choice);
            count += 1;
        }
        count
    }
}
