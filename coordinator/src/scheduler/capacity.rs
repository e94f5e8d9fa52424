//! What is free on the nodes that take work, kept in order while a plan fills it. Finds a place for a gang; does not decide who
//! is first.
use std::collections::{BTreeMap, BTreeSet};

use super::shape::{Domain, Shape, need};
use crate::state::rules::{CPU_RANKS_PER_CPU, Request, cpu_room};
use crate::state::view::{ClusterView, Node, Placement};

/// One node that takes work.
struct Slot<'a> {
    node: &'a Node,
    /// UUIDs by model, in the order of their indexes.
    free: BTreeMap<&'a str, Vec<&'a str>>,
    cpu_ranks: u32,
}

impl<'a> Slot<'a> {
    fn new(view: &'a ClusterView, node: &'a Node) -> Self {
        let mut free: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for device in &node.facts.devices {
            let list = free.entry(&device.model).or_default();
            let held = view
                .state
                .device_holder(&node.facts.name, &device.uuid)
                .is_some();
            if !held && node.dirt_on(&device.uuid).is_none() {
                list.push(&device.uuid);
            }
        }
        Self {
            node,
            free,
            cpu_ranks: view.state.cpu_ranks_on(&node.facts.name),
        }
    }

    fn domains(&self) -> Vec<(Domain<'a>, u32)> {
        let pool = self.node.facts.pool.as_str();
        let gpus = self
            .free
            .iter()
            .map(|(model, free)| (Domain { pool, model }, free.len() as u32));
        let cpu = (
            Domain { pool, model: "" },
            cpu_room(self.node.facts.cpus, self.cpu_ranks),
        );
        gpus.chain([cpu]).collect()
    }
}

/// Slots of one domain by what they have left; equals by fewest devices, then by name.
type Buckets = BTreeMap<u32, BTreeSet<(usize, usize)>>;

/// Where a gang goes.
pub(super) struct Choice<'a> {
    domain: Domain<'a>,
    /// In node-rank order.
    slots: Vec<usize>,
}

/// All free capacity.
pub(super) struct Capacity<'a> {
    slots: Vec<Slot<'a>>,
    by_name: BTreeMap<&'a str, usize>,
    buckets: BTreeMap<Domain<'a>, Buckets>,
}

impl<'a> Capacity<'a> {
    /// What is free on nodes that take work and were heard.
    pub fn new(view: &'a ClusterView) -> Self {
        let usable = view.state.nodes().filter(|node| view.usable(node));
        let slots: Vec<Slot> = usable.map(|node| Slot::new(view, node)).collect();
        let by_name = slots
            .iter()
            .enumerate()
            .map(|(index, slot)| (slot.node.facts.name.as_str(), index))
            .collect();
        let mut capacity = Self {
            slots,
            by_name,
            buckets: BTreeMap::new(),
        };
        (0..capacity.slots.len()).for_each(|index| capacity.enter(index));
        capacity
    }

    /// How many nodes have how much free.
    pub fn shape(&self) -> Shape<'a> {
        let mut shape = Shape::default();
        for (domain, buckets) in &self.buckets {
            for (count, slots) in buckets {
                shape.add_many(*domain, *count, slots.len() as u32);
            }
        }
        shape
    }

    /// The nodes of these names, as far as they take work.
    pub fn places(&self, names: &[&str]) -> BTreeSet<usize> {
        let places = names.iter().filter_map(|name| self.by_name.get(name));
        places.copied().collect()
    }

    /// Where a gang fits whole: on the domain that its list of types prefers, and there so that least is left free on the
    /// chosen nodes. `rank_0`: the node that must be the first. `out`: where it is not placed.
    pub fn find(
        &self,
        request: &Request,
        rank_0: Option<&str>,
        out: &BTreeSet<usize>,
    ) -> Option<Choice<'a>> {
        let first = match rank_0 {
            Some(name) => Some(*self.by_name.get(name)?),
            None => None,
        };
        if first.is_some_and(|first| out.contains(&first)) {
            return None;
        }
        let suitable = self
            .buckets
            .iter()
            .filter(|(domain, _)| domain.suits(request));
        let found = suitable.filter_map(|(domain, buckets)| {
            let (left, slots) = self.find_in(*domain, buckets, request, (first, out))?;
            Some(((domain.preference(request), left, *domain), slots))
        });
        let ((_, _, domain), slots) = found.min_by_key(|(order, _)| *order)?;
        Some(Choice { domain, slots })
    }

    /// A place in one domain with what it leaves free.
    fn find_in(
        &self,
        domain: Domain,
        buckets: &Buckets,
        request: &Request,
        (first, out): (Option<usize>, &BTreeSet<usize>),
    ) -> Option<(u64, Vec<usize>)> {
        let wanted = request.nodes as usize;
        let mut chosen = Vec::new();
        if let Some(first) = first {
            let slot = self.slots.get(first)?;
            let has = slot
                .domains()
                .into_iter()
                .find(|(own, _)| *own == domain)?
                .1;
            if has < need(request) {
                return None;
            }
            chosen.push((has, first));
        }
        let room = buckets.range(need(request)..);
        let slots = |(count, slots): (&u32, &'_ BTreeSet<(usize, usize)>)| {
            let count = *count;
            slots
                .iter()
                .map(move |(_, index)| (count, *index))
                .collect::<Vec<_>>()
        };
        let missing = |chosen: &Vec<(u32, usize)>| wanted.saturating_sub(chosen.len());
        // GPUs are packed, so that whole nodes stay whole; ranks without GPUs are spread: an empty node before a busy one.
        let in_order: Box<dyn Iterator<Item = _>> = if request.gpus == 0 {
            Box::new(room.rev())
        } else {
            Box::new(room)
        };
        for bucket in in_order {
            if missing(&chosen) == 0 {
                break;
            }
            let others = slots(bucket)
                .into_iter()
                .filter(|(_, index)| Some(*index) != first && !out.contains(index));
            chosen.extend(others.take(missing(&chosen)));
        }
        if chosen.len() < wanted {
            return None;
        }
        let left = chosen
            .iter()
            .map(|(count, _)| u64::from(count - need(request)))
            .sum();
        let mut slots: Vec<usize> = chosen.into_iter().map(|(_, index)| index).collect();
        slots.sort_unstable_by_key(|index| (Some(*index) != first, *index));
        Some((left, slots))
    }

    /// Where most tasks of an array fit at once beside each other, on the domain that its list of types prefers, and how many; not on `busy` nodes. With
    /// it comes how many nodes have room for one.
    pub fn widest(
        &self,
        request: &Request,
        busy: &BTreeSet<String>,
    ) -> Option<(Choice<'a>, u32, u64)> {
        let mut nodes: u64 = 0;
        let mut best: Option<((usize, u32), Domain<'a>, usize)> = None;
        for (domain, buckets) in &self.buckets {
            if !domain.suits(request) {
                continue;
            }
            let room = buckets.range(need(request)..);
            nodes += room
                .clone()
                .map(|(_, slots)| slots.len() as u64)
                .sum::<u64>();
            let free = |index: &usize| !busy.contains(&self.slots[*index].node.facts.name);
            let found = room.rev().find_map(|(count, slots)| {
                let free = slots.iter().map(|(_, index)| *index).find(free)?;
                Some((*count, free))
            });
            let Some((count, index)) = found else {
                continue;
            };
            // An empty node takes any one allocation; of tasks it takes as many as beside others.
            let cpus = self.slots[index].node.facts.cpus.max(1);
            let most = if request.gpus == 0 {
                count.min(cpus.saturating_mul(CPU_RANKS_PER_CPU))
            } else {
                count
            };
            let order = (domain.preference(request), u32::MAX - most);
            if best.as_ref().is_none_or(|(other, ..)| order < *other) {
                best = Some((order, *domain, index));
            }
        }
        let ((_, left), domain, index) = best?;
        let room = (u32::MAX - left) / need(request).max(1);
        let slots = vec![index];
        Some((Choice { domain, slots }, room, nodes))
    }

    /// Takes what a gang needs of the chosen nodes.
    pub fn take(&mut self, choice: &Choice<'a>, request: &Request) -> Vec<Placement> {
        choice
            .slots
            .iter()
            .filter_map(|index| self.take_one(*index, choice.domain.model, request))
            .collect()
    }

    fn take_one(&mut self, index: usize, model: &str, request: &Request) -> Option<Placement> {
        self.leave(index);
        let slot = self.slots.get_mut(index)?;
        let devices = match slot.free.get_mut(model) {
            Some(free) if request.gpus > 0 => free
                .drain(..free.len().min(request.gpus as usize))
                .map(str::to_owned)
                .collect(),
            _ => Vec::new(),
        };
        if request.gpus == 0 {
            slot.cpu_ranks = slot.cpu_ranks.saturating_add(request.ranks);
        }
        let facts = &slot.node.facts;
        let placement = Placement {
            node: facts.name.clone(),
            boot_id: facts.boot_id.clone(),
            devices,
        };
        self.enter(index);
        Some(placement)
    }

    fn enter(&mut self, index: usize) {
        let devices = self.slots[index].node.facts.devices.len();
        for (domain, count) in self.slots[index].domains() {
            self.buckets
                .entry(domain)
                .or_default()
                .entry(count)
                .or_default()
                .insert((devices, index));
        }
    }

    fn leave(&mut self, index: usize) {
        let devices = self.slots[index].node.facts.devices.len();
        for (domain, count) in self.slots[index].domains() {
            let Some(bucket) = self
                .buckets
                .get_mut(&domain)
                .and_then(|buckets| buckets.get_mut(&count))
            else {
                continue;
            };
            bucket.remove(&(devices, index));
            if bucket.is_empty() {
                self.buckets.entry(domain).or_default().remove(&count);
            }
        }
    }
}
