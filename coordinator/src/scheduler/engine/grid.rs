//! What is free on each node, as flat arrays that are cheap to copy: for looking ahead in time and for counting. Does NOT choose places; `place` does.
use std::sync::Arc;

use super::kinds::Kinds;
use crate::state::view::amounts::{Amounts, GPU};
use crate::state::view::ask::{Ask, Gpus};
use crate::state::view::nodes::{DeviceView, NodeView};
use crate::state::view::scene::Scene;

/// What never changes in a pass.
#[derive(Debug, Default)]
struct Shape {
    /// Per node, and one more: where its devices begin.
    first: Vec<u32>,
    /// Per device.
    kind: Vec<u16>,
    /// Per device: units of a whole one.
    full: Vec<u32>,
    /// Per node: units of all its devices.
    units: Vec<u64>,
    /// Per node: what there is.
    has: Vec<Amounts>,
}

/// What is free.
#[derive(Debug, Clone, Default)]
pub struct Grid {
    shape: Arc<Shape>,
    /// Per device, units.
    pub free: Vec<u32>,
    /// Per node.
    pub amounts: Vec<Amounts>,
}

/// What one node gives to a gang of one kind of devices.
#[derive(Debug, Clone, Copy)]
pub struct Need<'a> {
    /// Of its GPUs.
    pub gpus: Gpus,
    /// The kind; `None`: any that serves (a gang that mixes, or a job without GPUs).
    pub kind: Option<u16>,
    /// Beside them, if the ask says so.
    pub amounts: Option<Amounts>,
    /// The kinds that serve it.
    pub serving: &'a [u16],
}

/// Units of a whole device.
pub fn whole_units(device: &DeviceView) -> u32 {
    let units = match device.slices {
        Some(slices) => u64::from(slices).saturating_mul(GPU / 7),
        None => GPU,
    };
    u32::try_from(units).unwrap_or(u32::MAX)
}

impl Grid {
    /// As the scene says, with all kinds of devices numbered.
    pub fn new(scene: &Scene, kinds: &mut Kinds) -> Self {
        let mut shape = Shape::default();
        let mut grid = Self::default();
        for node in scene.nodes.values() {
            shape
                .first
                .push(u32::try_from(grid.free.len()).unwrap_or(u32::MAX));
            grid.add_node(&mut shape, node, kinds);
        }
        shape
            .first
            .push(u32::try_from(grid.free.len()).unwrap_or(u32::MAX));
        grid.shape = Arc::new(shape);
        grid
    }

    fn add_node(&mut self, shape: &mut Shape, node: &NodeView, kinds: &mut Kinds) {
        let mut units = 0_u64;
        let mut last: Option<(&DeviceView, u16)> = None;
        for device in &node.devices {
            let alike = |old: &DeviceView| {
                old.memory == device.memory
                    && old.slices == device.slices
                    && old.model == device.model
            };
            let kind = match last {
                Some((old, kind)) if alike(old) => kind,
                _ => kinds.of(&node.pool, device),
            };
            last = Some((device, kind));
            let whole = whole_units(device);
            units = units.saturating_add(u64::from(whole));
            shape.kind.push(kind);
            shape.full.push(whole);
            self.free.push(device.free.min(whole));
        }
        shape.units.push(units);
        shape.has.push(node.has);
        self.amounts.push(node.free);
    }

    /// What is free on a node is as that view says, which differs from before in nothing else.
    pub fn renew(&mut self, node: usize, view: &NodeView) {
        for (at, device) in self.devices(node).zip(&view.devices) {
            self.free[at] = device.free.min(self.shape.full[at]);
        }
        self.amounts[node] = view.free;
    }

    /// How many nodes there are.
    pub fn nodes(&self) -> usize {
        self.amounts.len()
    }

    /// Where a node's devices are.
    pub fn devices(&self, node: usize) -> std::ops::Range<usize> {
        self.shape.first[node] as usize..self.shape.first[node + 1] as usize
    }

    /// The kind of a device.
    pub fn kind(&self, device: usize) -> u16 {
        self.shape.kind[device]
    }

    /// Units of it.
    pub fn full(&self, device: usize) -> u32 {
        self.shape.full[device]
    }

    /// Whether nobody holds any of it.
    pub fn is_free(&self, device: usize) -> bool {
        self.free[device] == self.shape.full[device] && self.free[device] > 0
    }

    /// Where a node's device is, if it has so many.
    pub fn at(&self, node: usize, device: u16) -> Option<usize> {
        let devices = self.devices(node);
        let at = devices.start + usize::from(device);
        (at < devices.end).then_some(at)
    }

    /// What an ask takes of a node beside GPUs.
    pub fn amounts_of(&self, node: usize, gpus: Gpus, said: Option<Amounts>) -> Amounts {
        // Rounded down for one GPU, then for that many: as `place` does.
        let part = |has: u64| {
            let all = u128::from(self.shape.units[node].max(1));
            let each = u128::from(has).saturating_mul(u128::from(GPU)) / all;
            u64::try_from(each.saturating_mul(u128::from(gpus.units())) / u128::from(GPU))
                .unwrap_or(u64::MAX)
        };
        let has = &self.shape.has[node];
        said.unwrap_or_else(|| match gpus {
            Gpus::None => Amounts::NONE,
            _ => Amounts {
                cpu_milli: part(has.cpu_milli),
                memory: part(has.memory),
                disk: part(has.disk),
                ranks: 0,
            },
        })
    }

    /// Units of each of so many devices that an ask holds.
    fn each(gpus: Gpus, devices: usize) -> u32 {
        let each = gpus.units().checked_div(devices as u64).unwrap_or(0);
        u32::try_from(each).unwrap_or(u32::MAX)
    }

    /// Somebody holds a seat.
    pub fn take(&mut self, node: usize, devices: &[u16], ask: &Ask) {
        let each = Self::each(ask.gpus, devices.len());
        for device in devices {
            if let Some(at) = self.at(node, *device) {
                self.free[at] = self.free[at].saturating_sub(each);
            }
        }
        let amounts = self.amounts_of(node, ask.gpus, ask.amounts);
        self.amounts[node] = self.amounts[node].minus(amounts);
    }

    /// Somebody holds some of so many devices of a seat; all that it needs beside them is taken as far as it is there.
    pub fn take_some(&mut self, node: usize, devices: &[u16], whole: usize, ask: &Ask) {
        let each = Self::each(ask.gpus, whole);
        for device in devices {
            if let Some(at) = self.at(node, *device) {
                self.free[at] = self.free[at].saturating_sub(each);
            }
        }
        let amounts = self.amounts_of(node, ask.gpus, ask.amounts);
        self.amounts[node] = self.amounts[node].minus(amounts);
    }

    /// A seat is free again. `whole`: of how many devices it was, if some of them are passed on to somebody else.
    pub fn give(&mut self, node: usize, devices: &[u16], whole: usize, ask: &Ask) {
        let each = Self::each(ask.gpus, whole);
        for device in devices {
            if let Some(at) = self.at(node, *device) {
                self.free[at] = self.free[at].saturating_add(each).min(self.shape.full[at]);
            }
        }
        let amounts = self.amounts_of(node, ask.gpus, ask.amounts);
        self.amounts[node] = self.amounts[node].plus(amounts);
    }

    /// Takes what one node gives from `free` (its devices) and `amounts`, if it is there.
    pub fn satisfy(
        &self,
        node: usize,
        free: &mut [u32],
        amounts: &mut Amounts,
        need: &Need<'_>,
    ) -> bool {
        let wants = self.amounts_of(node, need.gpus, need.amounts);
        if !amounts.covers(&wants) {
            return false;
        }
        let start = self.devices(node).start;
        let serves = |at: usize| match need.kind {
            Some(kind) => self.shape.kind[start + at] == kind,
            None => need.serving.contains(&self.shape.kind[start + at]),
        };
        let enough = match need.gpus {
            Gpus::None => true,
            Gpus::Whole(count) | Gpus::Mig { count, .. } => {
                let all = |at: &usize, free: &[u32]| {
                    free[*at] > 0 && free[*at] == self.shape.full[start + *at]
                };
                let count = count as usize;
                let fit = (0..free.len())
                    .filter(|at| all(at, free) && serves(*at))
                    .count()
                    >= count;
                if fit {
                    let mut left = count;
                    for at in 0..free.len() {
                        if left > 0 && all(&at, free) && serves(at) {
                            free[at] = 0;
                            left -= 1;
                        }
                    }
                }
                fit
            }
            Gpus::Share(units) => {
                let best = (0..free.len())
                    .filter(|at| free[*at] >= units && serves(*at))
                    .min_by_key(|at| free[*at]);
                if let Some(at) = best {
                    free[at] -= units;
                }
                best.is_some()
            }
        };
        if enough {
            *amounts = amounts.minus(wants);
        }
        enough
    }
}
