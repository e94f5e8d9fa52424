//! Units of what is scheduled, all integers. Does NOT know who may have how much.

/// Units of one whole GPU: thousandths of a GPU and sevenths of a MIG device are both exact in it (docs/QUOTAS.md, Quotas).
pub const GPU: u64 = 7_000;

/// What one node gives to a job, or has, beside GPUs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Amounts {
    /// Thousandths of a logical processor.
    pub cpu_milli: u64,
    /// Bytes.
    pub memory: u64,
    /// Bytes of the agent's disk.
    pub disk: u64,
}

impl Amounts {
    /// Nothing.
    pub const NONE: Self = Self { cpu_milli: 0, memory: 0, disk: 0 };

    /// Whether `other` is there.
    pub fn covers(&self, other: &Self) -> bool {
        self.cpu_milli >= other.cpu_milli && self.memory >= other.memory && self.disk >= other.disk
    }

    /// Both together; what does not fit its type stays at the largest.
    pub fn plus(self, other: Self) -> Self {
        Self {
            cpu_milli: self.cpu_milli.saturating_add(other.cpu_milli),
            memory: self.memory.saturating_add(other.memory),
            disk: self.disk.saturating_add(other.disk),
        }
    }

    /// What is left of it; never less than nothing.
    pub fn minus(self, other: Self) -> Self {
        Self {
            cpu_milli: self.cpu_milli.saturating_sub(other.cpu_milli),
            memory: self.memory.saturating_sub(other.memory),
            disk: self.disk.saturating_sub(other.disk),
        }
    }
}
