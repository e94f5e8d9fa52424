//! How much of what is free on a node is of no use to what is typically asked for: the score that placement keeps small (Weng et al., "Beware of
//! Fragmentation", USENIX ATC'23, with two changes). Integers only. Does NOT choose a place.
//!
//! Per typical class m, of weight w(m), the free GPU units of a node that m cannot use count as lost: all of them if m does not fit there, else those on
//! devices too small for it. The loss of a node is the weighted sum over the classes; a start goes where the sum grows least.
//!
//! 1. *Scarcity*: w(m) is how often m came, times the cluster's devices per device that m may have. So what only few devices can serve keeps those free.
//! 2. *Balance*: beside that, where processors and free GPUs of a node are out of proportion to what is asked for, one of them will be left over. This costs
//!    [`BALANCE`] per unit that is out of proportion.
use super::mix::{Mix, Shape};
use super::stock::Stock;
use super::tables::{Device, Site, Tables};
use super::wanted;
use crate::state::view::amounts::GPU;
use crate::state::view::ask::Gpus;

/// All weights together: a unit that is lost to every class costs so much.
pub(super) const WEIGHT: i64 = 1 << 16;
/// What a unit out of proportion costs: 2 % of a lost one.
const BALANCE: i64 = WEIGHT / 50;

/// What classes need of GPUs, and all of them that need the same, as one family sees it.
#[derive(Debug, Clone)]
struct Sort {
    /// Units on one device, and on how many.
    units: i32,
    devices: i32,
    /// What each needs beside GPUs, and its weight; `None`: the node's share.
    needs: Vec<(Option<Stock>, i64)>,
}

/// What is typically asked for of the nodes at hand.
#[derive(Debug, Clone, Default)]
pub(super) struct Outlook {
    /// By family: what it can serve.
    sorts: Vec<Vec<Sort>>,
    /// All weights together: about [`WEIGHT`].
    weight: i64,
    /// Thousandths of a processor that come with one GPU in what is asked for; 0: nobody says.
    cpu_per_gpu: i64,
}

impl Outlook {
    /// Of what was seen, on these nodes.
    pub fn new(mix: &Mix, tables: &Tables) -> Self {
        let weighed = weighed(mix, tables);
        let mut outlook = Self {
            sorts: vec![Vec::new(); tables.families.len()],
            weight: 0,
            cpu_per_gpu: cpu_per_gpu(mix),
        };
        for (shape, families, weight) in weighed {
            outlook.weight = outlook.weight.saturating_add(weight);
            for (sorts, _) in outlook
                .sorts
                .iter_mut()
                .zip(families)
                .filter(|(_, allowed)| *allowed)
            {
                add(sorts, shape, weight);
            }
        }
        outlook
    }

    /// Whether nothing is known, and so every loss is 0.
    pub fn is_blank(&self) -> bool {
        self.weight == 0
    }

    /// The loss of a node with so many units free on its devices, and so much beside them. A node with devices of several families loses what each family
    /// alone loses: no class is thought to mix them.
    pub fn loss(&self, site: &Site, devices: &[Device], free: &[i32], left: &Stock) -> i64 {
        if self.is_blank() || devices.is_empty() {
            return 0;
        }
        let plain = || {
            devices
                .iter()
                .zip(free)
                .filter(|(device, free)| !device.mig && **free > 0)
        };
        let total = plain().map(|(_, free)| i64::from(*free)).sum();
        let mut lost = self.weight.saturating_mul(total);
        let mut last = None;
        for (device, _) in plain() {
            // Devices of one family mostly stand together; each family counts once.
            if last == Some(device.family) {
                continue;
            }
            let first = plain().find(|(other, _)| other.family == device.family);
            if first.is_some_and(|(other, _)| std::ptr::eq(other, device)) {
                let of_family = || plain().filter(|(other, _)| other.family == device.family);
                lost = lost.saturating_sub(self.useful(device.family, site, left, of_family));
            }
            last = Some(device.family);
        }
        lost.saturating_add(self.imbalance(total, left))
    }

    /// Units that the classes could use, each times its weight.
    fn useful<'a, I>(&self, family: u32, site: &Site, left: &Stock, free: impl Fn() -> I) -> i64
    where
        I: Iterator<Item = (&'a Device, &'a i32)>,
    {
        let mut useful = 0_i64;
        for sort in self.sorts.get(family as usize).into_iter().flatten() {
            let (mut sum, mut count) = (0_i64, 0);
            for (_, free) in free() {
                if *free >= sort.units {
                    sum += i64::from(*free);
                    count += 1;
                }
            }
            if count < sort.devices || sum == 0 {
                continue;
            }
            let fits = |need: &Option<Stock>| match need {
                Some(need) => left.covers(need),
                None => left.covers(&site.per_gpu.share(sort.all_units(), GPU.cast_signed())),
            };
            let weights = sort
                .needs
                .iter()
                .filter(|(need, _)| fits(need))
                .map(|(_, weight)| weight);
            useful = useful.saturating_add(sum.saturating_mul(weights.sum()));
        }
        useful
    }

    /// What it costs that processors and free units are out of proportion.
    pub fn imbalance(&self, total: i64, left: &Stock) -> i64 {
        if self.cpu_per_gpu == 0 {
            return 0;
        }
        let gpus_worth = left.cpu.saturating_mul(GPU.cast_signed()) / self.cpu_per_gpu;
        BALANCE.saturating_mul(gpus_worth.saturating_sub(total).saturating_abs())
    }
}

impl Sort {
    fn all_units(&self) -> i64 {
        i64::from(self.units).saturating_mul(self.devices.into())
    }
}

fn add(sorts: &mut Vec<Sort>, shape: &Shape, weight: i64) {
    let (units, devices) = match shape.gpus {
        Gpus::Whole(devices) => (i32::try_from(GPU).unwrap_or(i32::MAX), devices),
        Gpus::Share(units) => (i32::try_from(units).unwrap_or(i32::MAX), 1),
        Gpus::None | Gpus::Mig { .. } => return,
    };
    let devices = i32::try_from(devices).unwrap_or(i32::MAX);
    let need = (shape.amounts.map(Stock::of), weight);
    let same = |sort: &&mut Sort| sort.units == units && sort.devices == devices;
    match sorts.iter_mut().find(same) {
        Some(sort) => sort.needs.push(need),
        None => sorts.push(Sort {
            units,
            devices,
            needs: vec![need],
        }),
    }
}

/// Each class, the families that can serve it, and its weight.
fn weighed<'a>(mix: &'a Mix, tables: &Tables) -> Vec<(&'a Shape, Vec<bool>, i64)> {
    let plain = tables
        .families
        .iter()
        .filter(|family| family.slices.is_none());
    let all: u64 = plain.map(|family| family.units).sum();
    let mut found: Vec<(&Shape, Vec<bool>, u128)> = Vec::new();
    for (shape, count) in mix.classes() {
        let families = allowed(shape, tables);
        let units: u64 = (tables.families.iter().zip(&families))
            .filter(|(_, allowed)| **allowed)
            .map(|(family, _)| family.units)
            .sum();
        let scarcity = (u128::from(all) << 16).checked_div(u128::from(units));
        // What no node here can serve says nothing about them.
        if let Some(scarcity) = scarcity {
            found.push((shape, families, scarcity.saturating_mul(u128::from(count))));
        }
    }
    let sum: u128 = found.iter().map(|(.., weight)| *weight).sum();
    let scaled = |weight: u128| {
        let part = weight
            .checked_mul(WEIGHT.unsigned_abs().into())?
            .checked_div(sum)?;
        i64::try_from(part).ok()
    };
    (found.into_iter())
        .filter_map(|(shape, families, weight)| Some((shape, families, scaled(weight)?)))
        .collect()
}

fn allowed(shape: &Shape, tables: &Tables) -> Vec<bool> {
    (tables.families.iter())
        .map(|family| {
            let of_type = shape.kinds.is_empty()
                || shape.kinds.iter().any(|kind| wanted::serves(family, kind));
            wanted::right_sort(family, shape.gpus)
                && of_type
                && wanted::pool_rank(tables, &shape.pools, family.pool).is_some()
        })
        .collect()
}

fn cpu_per_gpu(mix: &Mix) -> i64 {
    let (mut cpu, mut units) = (0_u128, 0_u128);
    for (shape, count) in mix.classes() {
        if let Some(amounts) = shape.amounts {
            let count = u128::from(count);
            cpu = cpu.saturating_add(count.saturating_mul(amounts.cpu_milli.into()));
            units = units.saturating_add(count.saturating_mul(shape.gpus.units().into()));
        }
    }
    let found = cpu
        .saturating_mul(GPU.into())
        .checked_div(units)
        .unwrap_or(0);
    i64::try_from(found).unwrap_or(i64::MAX)
}
