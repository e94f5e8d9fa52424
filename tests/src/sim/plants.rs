//! Worlds that are worse than the product allows for, to see that the checkers say so.
//! Does NOT touch the cores (see `mlctl_proto::mutants` for bugs in those), and no checker knows of it.

/// One worse world.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plant {
    /// A hostile agent sends old results again under the job's newest epoch.
    ForgedEpoch,
}

impl Plant {
    /// All of them.
    pub const ALL: [Self; 1] = [Self::ForgedEpoch];
}
