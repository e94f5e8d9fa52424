//! Dense numbers for what a pass compares often: kinds of devices and flavors. Does NOT know who holds what.
use std::collections::BTreeMap;
use std::sync::Arc;

use crate::state::rules::quota::Ledger;
use crate::state::view::ask::{Ask, Gpus};
use crate::state::view::nodes::DeviceView;
use crate::state::view::scene::Scene;
use crate::state::view::teams::Flavor;

/// Devices that are alike and in one pool: what a gang may be made of.
#[derive(Debug, Clone)]
pub struct DeviceKind {
    /// As NVML names it, lower case.
    pub model: Arc<str>,
    /// Bytes.
    pub memory: u64,
    /// Compute slices, if they are MIG instances.
    pub slices: Option<u32>,
    /// Their pool.
    pub pool: Arc<str>,
    /// The flavor that they count as.
    pub flavor: u32,
}

/// Pool, model, memory and slices.
type Key = (Arc<str>, Arc<str>, u64, Option<u32>);

/// All of them.
#[derive(Debug, Clone, Default)]
pub struct Kinds {
    /// By number.
    pub kinds: Vec<DeviceKind>,
    /// By number: those that teams name, and those of devices that no team names.
    pub flavors: Vec<Flavor>,
    /// By flavor: its place in the ledger, if a team names it.
    pub columns: Vec<Option<usize>>,
    /// By flavor: whether a quota names it. Devices count as no other, unless none fits.
    named: Vec<bool>,
    by_key: BTreeMap<Key, u16>,
}

impl Kinds {
    /// Those of the scene's teams; devices are added by [`Self::of`].
    pub fn new(scene: &Scene, ledger: &Ledger) -> Self {
        let mut flavors: Vec<Flavor> = (scene.teams.values())
            .flat_map(|team| {
                team.quotas
                    .keys()
                    .chain(team.own.keys())
                    .chain(team.budgets.keys())
            })
            .cloned()
            .collect();
        flavors.sort_unstable();
        flavors.dedup();
        let quoted = |flavor: &Flavor| {
            scene
                .teams
                .values()
                .any(|team| team.quotas.contains_key(flavor))
        };
        let named = flavors.iter().map(quoted).collect();
        let columns = flavors.iter().map(|one| ledger.column_of(one)).collect();
        Self {
            flavors,
            columns,
            named,
            ..Self::default()
        }
    }

    /// Whether teams name the same flavors, as far as numbers depend on that. Of both only what [`Self::new`] knows is compared.
    pub fn same_flavors(&self, other: &Self) -> bool {
        self.flavors == other.flavors && self.columns == other.columns && self.named == other.named
    }

    /// The number of a device's kind.
    pub fn of(&mut self, pool: &Arc<str>, device: &DeviceView) -> u16 {
        let key = (
            pool.clone(),
            device.model.clone(),
            device.memory,
            device.slices,
        );
        if let Some(known) = self.by_key.get(&key) {
            return *known;
        }
        let flavor = self.flavor(&device.model, pool);
        let number = u16::try_from(self.kinds.len()).unwrap_or(u16::MAX);
        self.kinds.push(DeviceKind {
            model: device.model.clone(),
            memory: device.memory,
            slices: device.slices,
            pool: pool.clone(),
            flavor,
        });
        self.by_key.insert(key, number);
        number
    }

    /// The flavor of a model in a pool (docs/QUOTAS.md, Quotas): one with the pool before one without, then the longest name, then the first by name; a new one if no team names it.
    fn flavor(&mut self, model: &Arc<str>, pool: &Arc<str>) -> u32 {
        let fits = |one: &Flavor| {
            model.contains(&*one.kind) && one.pool.as_ref().is_none_or(|name| name == pool)
        };
        let rank = |one: &Flavor| (one.pool.is_some(), one.kind.len());
        let mut best: Option<usize> = None;
        for (at, one) in self
            .flavors
            .iter()
            .enumerate()
            .filter(|(at, one)| self.named[*at] && fits(one))
        {
            if best.is_none_or(|old| rank(one) > rank(&self.flavors[old])) {
                best = Some(at);
            }
        }
        let own = Flavor {
            kind: model.clone(),
            pool: None,
        };
        let at = best
            .or_else(|| self.flavors.iter().position(|one| *one == own))
            .unwrap_or_else(|| {
                self.flavors.push(own);
                self.columns.push(None);
                self.named.push(false);
                self.flavors.len() - 1
            });
        u32::try_from(at).unwrap_or(u32::MAX)
    }

    /// The number of a flavor, if a device or a team has it.
    pub fn flavor_number(&self, flavor: &Flavor) -> Option<u32> {
        let at = self.flavors.iter().position(|one| one == flavor)?;
        u32::try_from(at).ok()
    }

    /// Its place in the ledger.
    pub fn column(&self, flavor: u32) -> Option<usize> {
        self.columns.get(flavor as usize).copied().flatten()
    }

    /// Whether devices of a kind can serve an ask, whoever has them.
    pub fn serves(&self, kind: u16, ask: &Ask) -> bool {
        let Some(kind) = self.kinds.get(usize::from(kind)) else {
            return false;
        };
        let shape = match ask.gpus {
            Gpus::None => false,
            Gpus::Whole(_) | Gpus::Share(_) => kind.slices.is_none(),
            Gpus::Mig { slices, .. } => kind.slices == Some(slices),
        };
        let pool = ask.pools.is_empty() || ask.pools.iter().any(|pool| **pool == *kind.pool);
        let named = |name: &str, memory: u64| kind.model.contains(name) && kind.memory >= memory;
        shape
            && pool
            && (ask.kinds.is_empty() || ask.kinds.iter().any(|one| named(&one.name, one.memory)))
    }
}
