//! Nodes as numbers: kinds of devices, what is free, where a gang may go. Made anew when more changed about a node than what is free on it. Does NOT know who holds what.
use std::sync::Arc;

use crate::scheduler::engine::grid::Grid;
use crate::scheduler::engine::kinds::Kinds;
use crate::scheduler::place::Capacity;
use crate::state::rules::quota::Ledger;
use crate::state::view::nodes::{DeviceView, NodeView};
use crate::state::view::scene::Scene;

/// All nodes, as the scene has them.
#[derive(Debug, Default)]
pub struct Ground {
    /// By number: in the order of their names.
    pub nodes: Vec<Arc<NodeView>>,
    /// Flavors of teams, before devices' own are added.
    named: Kinds,
    /// A setting that the capacity knows.
    keep_gpu_share: bool,
    /// Kinds of devices.
    pub kinds: Arc<Kinds>,
    /// What is free.
    pub grid: Grid,
    /// The same, to find places.
    pub capacity: Capacity,
    /// By kind: nodes with such devices.
    pub with_kind: Arc<Vec<Vec<u32>>>,
    /// Nodes have owners.
    pub owners: bool,
    /// Nodes have windows.
    pub windows: bool,
}

impl Ground {
    /// Everything anew.
    pub fn new(scene: &Scene, ledger: &Ledger) -> Self {
        let named = Kinds::new(scene, ledger);
        let mut kinds = named.clone();
        let grid = Grid::new(scene, &mut kinds);
        let mut with_kind: Vec<Vec<u32>> = vec![Vec::new(); kinds.kinds.len()];
        for (node, number) in (0..grid.nodes()).zip(0_u32..) {
            for device in grid.devices(node) {
                let with = &mut with_kind[usize::from(grid.kind(device))];
                if with.last() != Some(&number) {
                    with.push(number);
                }
            }
        }
        Self {
            nodes: scene.nodes.values().cloned().collect(),
            named,
            keep_gpu_share: scene.settings.keep_gpu_share,
            kinds: Arc::new(kinds),
            grid,
            capacity: Capacity::new(scene),
            with_kind: Arc::new(with_kind),
            owners: scene.nodes.values().any(|node| node.owner.is_some()),
            windows: scene.nodes.values().any(|node| !node.windows.is_empty()),
        }
    }

    /// Brings what is free up to date; false: more has changed than that.
    pub fn renew(&mut self, scene: &Scene, ledger: &Ledger) -> bool {
        if self.nodes.is_empty()
            || self.nodes.len() != scene.nodes.len()
            || self.keep_gpu_share != scene.settings.keep_gpu_share
            || !self.named.same_flavors(&Kinds::new(scene, ledger))
        {
            return false;
        }
        for (node, (old, new)) in self.nodes.iter_mut().zip(scene.nodes.values()).enumerate() {
            if Arc::ptr_eq(old, new) {
                continue;
            }
            if !is_same_but_for_what_is_free(old, new) {
                return false;
            }
            *old = new.clone();
            self.grid.renew(node, new);
            self.capacity
                .renew(u32::try_from(node).unwrap_or(u32::MAX), new);
        }
        true
    }
}

/// Whether only amounts differ that nobody holds. Who shares a device has a number that depends on all others who do: nodes with such devices never are the same.
fn is_same_but_for_what_is_free(one: &NodeView, other: &NodeView) -> bool {
    // Named one by one, so that whoever adds something decides about it.
    let NodeView {
        name,
        boot_id: _,
        pool,
        network,
        racks,
        open,
        devices,
        has,
        free: _,
        owner,
        sharing,
        labels,
        windows,
    } = one;
    *name == other.name
        && *pool == other.pool
        && *network == other.network
        && *racks == other.racks
        && *open == other.open
        && *has == other.has
        && *owner == other.owner
        && *sharing == other.sharing
        && (Arc::ptr_eq(labels, &other.labels) || *labels == other.labels)
        && *windows == other.windows
        && devices.len() == other.devices.len()
        && devices
            .iter()
            .zip(&other.devices)
            .all(|(one, other)| is_same_device(one, other))
}

fn is_same_device(one: &DeviceView, other: &DeviceView) -> bool {
    let DeviceView {
        uuid: _,
        model,
        memory,
        free: _,
        slices,
        island,
        numa,
        shared_by,
    } = one;
    let same_model = Arc::ptr_eq(model, &other.model) || *model == other.model;
    same_model
        && *memory == other.memory
        && *slices == other.slices
        && *island == other.island
        && *numa == other.numa
        && shared_by.is_empty()
        && other.shared_by.is_empty()
}
