//! Amounts that may be missing: what is free may fall below nothing where more is held than is there, and giving back what was taken is exact. Does NOT
//! know what it is about.
use crate::state::view::amounts::{Amounts, GPU};
use crate::state::view::ask::Ask;

/// What is there of CPU, memory and disk: thousandths of a logical processor, bytes, bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Stock {
    pub cpu: i64,
    pub memory: i64,
    pub disk: i64,
}

impl Stock {
    /// The same as signed numbers.
    pub fn of(amounts: Amounts) -> Self {
        let signed = |amount: u64| i64::try_from(amount).unwrap_or(i64::MAX);
        Self {
            cpu: signed(amounts.cpu_milli),
            memory: signed(amounts.memory),
            disk: signed(amounts.disk),
        }
    }

    /// Whether that much is there. Of what nobody asks for, any amount is enough.
    pub fn covers(&self, need: &Self) -> bool {
        let enough = |have: i64, want: i64| want <= 0 || have >= want;
        enough(self.cpu, need.cpu)
            && enough(self.memory, need.memory)
            && enough(self.disk, need.disk)
    }

    /// Both together.
    pub fn plus(self, other: Self) -> Self {
        Self {
            cpu: self.cpu.saturating_add(other.cpu),
            memory: self.memory.saturating_add(other.memory),
            disk: self.disk.saturating_add(other.disk),
        }
    }

    /// What is left.
    pub fn minus(self, other: Self) -> Self {
        Self {
            cpu: self.cpu.saturating_sub(other.cpu),
            memory: self.memory.saturating_sub(other.memory),
            disk: self.disk.saturating_sub(other.disk),
        }
    }

    /// So many times `part / whole` of it, rounded down; nothing of nothing.
    pub fn share(self, part: i64, whole: i64) -> Self {
        let share = |amount: i64| {
            // The usual case is several times as fast.
            if let Some(product) = amount.checked_mul(part) {
                return product.checked_div(whole).unwrap_or(0);
            }
            let product = i128::from(amount).saturating_mul(i128::from(part));
            let found = product.checked_div(i128::from(whole)).unwrap_or(0);
            i64::try_from(found).unwrap_or(i64::MAX)
        };
        Self {
            cpu: share(self.cpu),
            memory: share(self.memory),
            disk: share(self.disk),
        }
    }

    /// How often `need` is in it; `None`: any number of times.
    pub fn times(&self, need: &Self) -> Option<u32> {
        let times = |have: i64, want: i64| (want > 0).then(|| have.max(0) / want);
        let pairs = [
            times(self.cpu, need.cpu),
            times(self.memory, need.memory),
            times(self.disk, need.disk),
        ];
        let least = pairs.into_iter().flatten().min()?;
        Some(u32::try_from(least).unwrap_or(u32::MAX))
    }
}

/// What one node gives to its part of a job beside GPUs: what it asks for, else its share per GPU (docs/SCHEDULING.md, Requests).
pub(super) fn need(ask: &Ask, per_gpu: Stock) -> Stock {
    match ask.amounts {
        Some(amounts) => Stock::of(amounts),
        None => {
            let units = i64::try_from(ask.gpus.units()).unwrap_or(i64::MAX);
            per_gpu.share(units, GPU.cast_signed())
        }
    }
}
