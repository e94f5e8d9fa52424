//! What about nodes does not change while a pass fills them, by dense numbers: whose they are, what devices they have, which of these are alike. Built once
//! from a scene, in the order of nodes' names, and shared by all copies of a capacity. Does NOT know what is free.
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use mlctl_proto::units::UtcMs;

use super::stock::Stock;
use crate::state::view::amounts::{Amounts, GPU};
use crate::state::view::nodes::{DeviceView, NodeView, Open, Owner, Sharing};
use crate::state::view::scene::Scene;
use crate::state::view::teams::Flavor;

/// One node.
#[derive(Debug, Clone)]
pub(super) struct Site {
    /// Its key.
    pub name: Arc<str>,
    /// Its pool, by place in [`Tables::pools`].
    pub pool: u32,
    /// Nodes of one pool and network, which a gang never leaves, have one number.
    pub realm: u32,
    /// Where it stands, the outermost first; each number stands for the whole path to there.
    pub racks: Vec<u32>,
    /// Whether it takes work.
    pub open: Open,
    /// Whose it is.
    pub owner: Option<Owner>,
    /// How its devices may be shared.
    pub sharing: Sharing,
    /// Sorted.
    pub labels: Arc<[(String, String)]>,
    /// When it is to be empty.
    pub windows: Vec<(UtcMs, UtcMs)>,
    /// Its devices, by place in [`Tables::devices`].
    pub devices: Range<usize>,
    /// Its lots, by place in [`Tables::lots`].
    pub lots: Vec<u32>,
    /// What it has beside devices.
    pub has: Amounts,
    /// What comes with each GPU where a spec says nothing.
    pub per_gpu: Stock,
}

/// One device.
#[derive(Debug, Clone, Copy)]
pub(super) struct Device {
    /// Which are like it.
    pub family: u32,
    /// Its node's lot that it belongs to.
    pub lot: u32,
    /// Bytes.
    pub memory: u64,
    /// Units when nobody holds any.
    pub full: i32,
    /// It is a MIG instance.
    pub mig: bool,
    /// By NVLink.
    pub island: u16,
    /// By processors.
    pub numa: u16,
}

/// Devices that a gang may have together: of one model and size, in one pool and network.
#[derive(Debug, Clone)]
pub(super) struct Family {
    /// Its pool, by place in [`Tables::pools`].
    pub pool: u32,
    /// As in [`Site::realm`].
    pub realm: u32,
    /// Lower case.
    pub model: Arc<str>,
    /// Compute slices of each, of MIG instances.
    pub slices: Option<u32>,
    /// The most memory of any, bytes.
    pub memory: u64,
    /// Units of all of them.
    pub units: u64,
    /// What they are charged for.
    pub flavor: Flavor,
    /// Its lots, in the order of nodes' names.
    pub lots: Range<usize>,
    /// The most devices of it in one node.
    pub most: u32,
}

/// The devices of one family in one node.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lot {
    /// The node.
    pub site: u32,
    /// The family.
    pub family: u32,
}

/// All of it.
#[derive(Debug, Clone, Default)]
pub(super) struct Tables {
    /// By name.
    pub sites: Vec<Site>,
    /// Node by node, as nodes count them.
    pub devices: Vec<Device>,
    /// By pool, network, model, slices.
    pub families: Vec<Family>,
    /// By family, then node.
    pub lots: Vec<Lot>,
    /// Names, sorted.
    pub pools: Vec<Arc<str>>,
    /// How many pairs of pool and network there are.
    pub realms: u32,
    /// A CPU job leaves the last free GPU of a node its share.
    pub keep_gpu_share: bool,
}

/// By realm, model and slices: the number of a family, and its pool.
type Families = BTreeMap<(u32, Arc<str>, Option<u32>), (u32, u32)>;

/// Whether two devices of one node are of one family.
fn alike(one: &DeviceView, other: &DeviceView) -> bool {
    one.slices == other.slices
        && (Arc::ptr_eq(&one.model, &other.model) || one.model == other.model)
}

impl Tables {
    /// Of all nodes of a scene.
    pub fn new(scene: &Scene) -> Self {
        let nodes: Vec<&NodeView> = scene.nodes.values().map(|node| &**node).collect();
        let pools: BTreeSet<&Arc<str>> = nodes.iter().map(|node| &node.pool).collect();
        let mut tables = Self {
            pools: pools.into_iter().cloned().collect(),
            keep_gpu_share: scene.settings.keep_gpu_share,
            ..Self::default()
        };
        let realms = realms(&nodes);
        tables.realms = number(realms.len());
        let keys = tables.make_families(scene, &nodes, &realms);
        tables.fill(&nodes, &realms, &keys);
        tables
    }

    fn make_families(
        &mut self,
        scene: &Scene,
        nodes: &[&NodeView],
        realms: &BTreeMap<(Arc<str>, Arc<str>), u32>,
    ) -> Families {
        let mut keys = Families::new();
        for node in nodes {
            let realm = realms
                .get(&(node.pool.clone(), node.network.clone()))
                .copied();
            let mut last: Option<&DeviceView> = None;
            for device in &node.devices {
                // Most nodes have devices of one model.
                if last.is_none_or(|last| !alike(last, device)) {
                    let key = (realm.unwrap_or(0), device.model.clone(), device.slices);
                    keys.entry(key)
                        .or_insert_with(|| (0, self.pool(&node.pool)));
                }
                last = Some(device);
            }
        }
        let flavors: BTreeSet<&Flavor> = scene
            .teams
            .values()
            .flat_map(|team| team.quotas.keys())
            .collect();
        for (place, ((realm, model, slices), (family, pool))) in keys.iter_mut().enumerate() {
            *family = number(place);
            let name = self.pools.get(*pool as usize).map_or("", |name| name);
            let flavor = charged(model, name, &flavors);
            self.families.push(Family {
                pool: *pool,
                realm: *realm,
                model: model.clone(),
                slices: *slices,
                memory: 0,
                units: 0,
                flavor,
                lots: 0..0,
                most: 0,
            });
        }
        keys
    }

    fn fill(
        &mut self,
        nodes: &[&NodeView],
        realms: &BTreeMap<(Arc<str>, Arc<str>), u32>,
        keys: &Families,
    ) {
        let mut paths: BTreeMap<(Option<u32>, Arc<str>), u32> = BTreeMap::new();
        // Family, node, and how many devices.
        let mut lots: Vec<(u32, u32, u32)> = Vec::new();
        for (place, node) in nodes.iter().enumerate() {
            let start = self.devices.len();
            let realm = realms
                .get(&(node.pool.clone(), node.network.clone()))
                .copied();
            let first = lots.len();
            let mut last: Option<(&DeviceView, u32)> = None;
            for device in &node.devices {
                let family = match last {
                    Some((last, family)) if alike(last, device) => family,
                    _ => {
                        let key = (realm.unwrap_or(0), device.model.clone(), device.slices);
                        keys.get(&key).map_or(0, |(family, _)| *family)
                    }
                };
                last = Some((device, family));
                match lots[first..].iter_mut().find(|(of, ..)| *of == family) {
                    Some((.., count)) => *count = count.saturating_add(1),
                    None => lots.push((family, number(place), 1)),
                }
                self.add_device(device, family);
            }
            let site = self.site(node, start, realm.unwrap_or(0), &mut paths);
            self.sites.push(site);
        }
        lots.sort_unstable();
        self.number_lots(&lots);
    }

    fn add_device(&mut self, device: &DeviceView, family: u32) {
        let full = device
            .slices
            .map_or(GPU, |slices| u64::from(slices).saturating_mul(GPU / 7));
        let of = &mut self.families[family as usize];
        of.memory = of.memory.max(device.memory);
        of.units = of.units.saturating_add(full);
        self.devices.push(Device {
            family,
            lot: 0,
            memory: device.memory,
            full: i32::try_from(full).unwrap_or(i32::MAX),
            mig: device.slices.is_some(),
            island: device.island,
            numa: device.numa,
        });
    }

    fn site(
        &self,
        node: &NodeView,
        start: usize,
        realm: u32,
        paths: &mut BTreeMap<(Option<u32>, Arc<str>), u32>,
    ) -> Site {
        let mut above = None;
        let racks = (node.racks.iter())
            .map(|rack| {
                let next = number(paths.len());
                let path = *paths.entry((above, rack.clone())).or_insert(next);
                above = Some(path);
                path
            })
            .collect();
        let devices = start..self.devices.len();
        let units: i64 = self.devices[devices.clone()]
            .iter()
            .map(|one| i64::from(one.full))
            .sum();
        Site {
            name: node.name.clone(),
            pool: self.pool(&node.pool),
            realm,
            racks,
            open: node.open,
            owner: node.owner.clone(),
            sharing: node.sharing,
            labels: node.labels.clone(),
            windows: node.windows.clone(),
            devices,
            lots: Vec::new(),
            has: node.has,
            per_gpu: Stock::of(node.has).share(GPU.cast_signed(), units),
        }
    }

    fn number_lots(&mut self, lots: &[(u32, u32, u32)]) {
        for (place, (family, site, count)) in lots.iter().enumerate() {
            let of = &mut self.families[*family as usize];
            if of.lots.is_empty() {
                of.lots = place..place;
            }
            of.lots.end = place + 1;
            of.most = of.most.max(*count);
            self.lots.push(Lot {
                site: *site,
                family: *family,
            });
            let site = &mut self.sites[*site as usize];
            site.lots.push(number(place));
            for device in &mut self.devices[site.devices.clone()] {
                if device.family == *family {
                    device.lot = number(place);
                }
            }
        }
    }

    /// The place of a pool.
    pub fn pool(&self, name: &str) -> u32 {
        self.pools
            .binary_search_by(|one| (**one).cmp(name))
            .map_or(u32::MAX, number)
    }

    /// The place of a node.
    pub fn named(&self, name: &str) -> Option<u32> {
        let found = self.sites.binary_search_by(|site| (*site.name).cmp(name));
        found.ok().map(number)
    }
}

fn realms(nodes: &[&NodeView]) -> BTreeMap<(Arc<str>, Arc<str>), u32> {
    let mut realms: BTreeMap<(Arc<str>, Arc<str>), u32> = BTreeMap::new();
    for node in nodes {
        realms.insert((node.pool.clone(), node.network.clone()), 0);
    }
    for (place, realm) in realms.values_mut().enumerate() {
        *realm = number(place);
    }
    realms
}

/// The flavor that a device is charged for: the most specific one that a quota names, else its model's own. With its pool comes before without, then the
/// longest name (docs/QUOTAS.md, Quotas).
fn charged(model: &Arc<str>, pool: &str, flavors: &BTreeSet<&Flavor>) -> Flavor {
    let best = (flavors.iter())
        .filter(|flavor| model.contains(&*flavor.kind))
        .filter(|flavor| flavor.pool.as_ref().is_none_or(|only| **only == *pool))
        .max_by_key(|flavor| (flavor.pool.is_some(), flavor.kind.len()));
    best.map_or_else(
        || Flavor {
            kind: model.clone(),
            pool: None,
        },
        |flavor| (**flavor).clone(),
    )
}

/// A dense number. Nothing here is counted beyond the thousands.
pub(super) fn number(place: usize) -> u32 {
    u32::try_from(place).unwrap_or(u32::MAX)
}
