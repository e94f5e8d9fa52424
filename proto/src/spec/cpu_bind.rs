//! On which processors of a node a rank may run. The word alone: which ones are near a device is for the node to know.
use serde::{Deserialize, Serialize};

/// Memory and devices of the other socket are farther away. Whoever wants all processors all the same says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CpuBind {
    /// On those of the NUMA nodes of its devices, where these are known.
    #[default]
    Near,
    /// On all that the node gives to jobs.
    None,
}

impl CpuBind {
    /// All of them with their words.
    pub const ALL: [(Self, &'static str); 2] = [(Self::Near, "near"), (Self::None, "none")];

    /// The default, which a canonical spec does not mention.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}
