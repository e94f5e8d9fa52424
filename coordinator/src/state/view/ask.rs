//! What a job asks for, as the scheduler sees it. Equal asks are one class: what finds no place for one finds none for another.
//! Does NOT know whose it is, nor how urgent.
use super::amounts::Amounts;

/// On how many nodes a gang may run.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Width {
    /// Exactly so many.
    Exactly(u32),
    /// Any of these, ascending, at least two: `"2..8"` or `[2, 4, 8]`. The first is what it pends, reserves and preempts for.
    Elastic(Vec<u32>),
}

impl Width {
    /// The fewest nodes on which it runs.
    pub fn least(&self) -> u32 {
        match self {
            Self::Exactly(nodes) => *nodes,
            Self::Elastic(allowed) => allowed.first().copied().unwrap_or(1),
        }
    }

    /// Whether it runs on so many.
    pub fn allows(&self, nodes: u32) -> bool {
        match self {
            Self::Exactly(exactly) => *exactly == nodes,
            Self::Elastic(allowed) => allowed.contains(&nodes),
        }
    }

    /// The most.
    pub fn most(&self) -> u32 {
        match self {
            Self::Exactly(nodes) => *nodes,
            Self::Elastic(allowed) => allowed.last().copied().unwrap_or(1),
        }
    }
}

/// What each node of the gang gives of its GPUs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Gpus {
    /// None: a CPU job.
    None,
    /// So many whole devices.
    Whole(u32),
    /// A part of one device, in units of [`super::amounts::GPU`]: more than 0, less than one GPU.
    Share(u32),
    /// So many MIG instances of so many compute slices (1 to 7) each.
    Mig {
        /// How many.
        count: u32,
        /// Slices of each.
        slices: u32,
    },
}

impl Gpus {
    /// Units that one node gives.
    pub fn units(self) -> u64 {
        use super::amounts::GPU;
        match self {
            Self::None => 0,
            Self::Whole(count) => u64::from(count).saturating_mul(GPU),
            Self::Share(units) => u64::from(units),
            Self::Mig { count, slices } => u64::from(count)
                .saturating_mul(u64::from(slices))
                .saturating_mul(GPU / 7),
        }
    }
}

/// One acceptable type of GPU: `NAME[:MEM]`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Kind {
    /// A part of the model's name, lower case.
    pub name: String,
    /// The least memory, bytes; 0: any.
    pub memory: u64,
}

/// How near to each other its nodes have to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Near {
    /// As near as it gets.
    #[default]
    Prefer,
    /// All below one value of the label at this level of [`super::nodes::NodeView::racks`], 0 the outermost.
    Within(u8),
}

/// What comes first when no type has room within nominal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Prefer {
    /// Its first type, also by borrowing.
    #[default]
    Type,
    /// Staying inside nominal, also on a later type.
    Nominal,
}

/// A class of equal asks.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ask {
    /// Distinct nodes.
    pub nodes: Width,
    /// On each of them.
    pub gpus: Gpus,
    /// Ranks on each.
    pub ranks: u32,
    /// On each, beside GPUs. Filled in from the node's share per GPU where the spec says nothing: that is `None`.
    pub amounts: Option<Amounts>,
    /// Acceptable types in order of preference; empty: any.
    pub kinds: Vec<Kind>,
    /// Acceptable pools in order of preference; empty: any.
    pub pools: Vec<String>,
    /// Ranks of one gang may have devices of different types.
    pub mix: bool,
    /// How near.
    pub near: Near,
    /// What comes first.
    pub prefer: Prefer,
    /// Named countables of the whole job, sorted by name, each more than 0.
    pub licenses: Vec<(String, u32)>,
    /// Labels that each node must have, sorted.
    pub labels: Vec<(String, String)>,
}

impl Ask {
    /// Units of GPUs that a gang of so many nodes holds.
    pub fn units(&self, nodes: u32) -> u64 {
        self.gpus.units().saturating_mul(u64::from(nodes))
    }

    /// Whether it holds more than one node, at least.
    pub fn is_wide(&self) -> bool {
        self.nodes.least() > 1
    }
}
