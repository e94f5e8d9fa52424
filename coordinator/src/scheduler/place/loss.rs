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

/// A typical class, as numbers.
#[derive(Debug, Clone)]
struct Typical {
    weight: i64,
    /// Units that it needs on one device, and on how many.
    units: i32,
    devices: i32,
    /// Beside GPUs; `None`: its share.
    need: Option<Stock>,
    /// The least memory of a device, by family; `None`: not these.
    families: Vec<bool>,
}

/// What is typically asked for of the nodes at hand.
#[derive(Debug, Clone, Default)]
pub(super) struct Outlook {
    classes: Vec<Typical>,
    /// Thousandths of a processor that come with one GPU in what is asked for; 0: nobody says.
    cpu_per_gpu: i64,
}

impl Outlook {
    /// Of what was seen, on these nodes.
    pub fn new(mix: &Mix, tables: &Tables) -> Self {
        let all: u64 = (tables.families.iter())
            .filter(|family| family.slices.is_none())
            .map(|family| family.units)
            .sum();
        let mut found: Vec<(u128, Typical)> = Vec::new();
        for (shape, count) in mix.classes() {
            let families = allowed(shape, tables);
            let units: u64 = (tables.families.iter().zip(&families))
                .filter(|(_, allowed)| **allowed)
                .map(|(family, _)| family.units)
                .sum();
            let scarcity = u128::from(all) << 16;
            let Some(scarcity) = scarcity.checked_div(u128::from(units)) else {
                continue;
            };
            found.push((scarcity.saturating_mul(u128::from(count)), typical(shape, families)));
        }
        let sum: u128 = found.iter().map(|(weight, _)| *weight).sum();
        let classes = (found.into_iter())
            .filter_map(|(weight, mut class)| {
                let part = weight.checked_mul(WEIGHT.unsigned_abs().into())?.checked_div(sum)?;
                class.weight = i64::try_from(part).ok()?;
                Some(class)
            })
            .collect();
        Self {
            classes,
            cpu_per_gpu: cpu_per_gpu(mix),
        }
    }

    /// Whether nothing is known, and so every loss is 0.
    pub fn is_blank(&self) -> bool {
        self.classes.is_empty()
    }

    /// The loss of a node with so many units free on its devices, and so much beside them.
    pub fn loss(&self, site: &Site, devices: &[Device], free: &[i32], left: &Stock) -> i64 {
        let plain = || devices.iter().zip(free).filter(|(device, _)| !device.mig);
        let total: i64 = plain().map(|(_, free)| i64::from((*free).max(0))).sum();
        if self.is_blank() || devices.is_empty() {
            return 0;
        }
        let mut loss = self.imbalance(total, left);
        if total == 0 {
            return loss;
        }
        for class in &self.classes {
            let usable = match class.fits(site, left) {
                true => class.usable(plain()),
                false => 0,
            };
            loss = loss.saturating_add(class.weight.saturating_mul(total.saturating_sub(usable)));
        }
        loss
    }

    fn imbalance(&self, total: i64, left: &Stock) -> i64 {
        if self.cpu_per_gpu == 0 {
            return 0;
        }
        let gpus_worth = left.cpu.saturating_mul(GPU.cast_signed()) / self.cpu_per_gpu;
        BALANCE.saturating_mul(gpus_worth.saturating_sub(total).saturating_abs())
    }
}

impl Typical {
    fn fits(&self, site: &Site, left: &Stock) -> bool {
        match &self.need {
            Some(need) => left.covers(need),
            None => {
                let units = i64::from(self.units).saturating_mul(self.devices.into());
                left.covers(&site.per_gpu.share(units, GPU.cast_signed()))
            }
        }
    }

    /// Units on devices that it could have.
    fn usable<'a>(&self, devices: impl Iterator<Item = (&'a Device, &'a i32)>) -> i64 {
        let (mut sum, mut count) = (0_i64, 0_i32);
        for (device, free) in devices {
            if *free >= self.units && self.families.get(device.family as usize) == Some(&true) {
                sum = sum.saturating_add((*free).into());
                count = count.saturating_add(1);
            }
        }
        if count >= self.devices { sum } else { 0 }
    }
}

fn typical(shape: &Shape, families: Vec<bool>) -> Typical {
    let (units, devices) = match shape.gpus {
        Gpus::Whole(devices) => (i32::try_from(GPU).unwrap_or(i32::MAX), devices),
        Gpus::Share(units) => (i32::try_from(units).unwrap_or(i32::MAX), 1),
        Gpus::None | Gpus::Mig { .. } => (0, 0),
    };
    Typical {
        weight: 0,
        units,
        devices: i32::try_from(devices).unwrap_or(i32::MAX),
        need: shape.amounts.map(Stock::of),
        families,
    }
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
    let found = cpu.saturating_mul(GPU.into()).checked_div(units).unwrap_or(0);
    i64::try_from(found).unwrap_or(i64::MAX)
}
