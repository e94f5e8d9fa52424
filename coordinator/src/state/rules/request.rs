//! What a job asks of the inventory: the part of its spec that placement looks at. Equal requests form one class for the scheduler.
use mlctl_proto::spec::{JobSpec, parse_json};

use crate::state::codec::CodecError;

/// A class of equal requests.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Request {
    /// Distinct nodes.
    pub nodes: u32,
    /// GPUs on each.
    pub gpus: u32,
    /// Ranks on each.
    pub ranks: u32,
    /// Logical processors on each, 0: not asked for.
    pub cpus: u32,
    /// Memory on each, bytes, 0: not asked for.
    pub memory: u64,
    /// Acceptable GPU types in lower case, in order of preference; empty: any.
    pub kinds: Vec<String>,
}

/// What so many tasks of an array need at once, on one node.
pub fn all_of(request: &Request, slots: u32) -> Request {
    Request {
        gpus: request.gpus.saturating_mul(slots),
        ranks: request.ranks.saturating_mul(slots),
        ..request.clone()
    }
}

impl Request {
    /// The request of a checked spec.
    pub fn of(spec: &JobSpec) -> Self {
        Self {
            nodes: spec.nodes,
            gpus: spec.gpus,
            ranks: spec.ranks_per_node(),
            cpus: spec.cpus.unwrap_or(0).saturating_mul(spec.ranks_per_node()),
            memory: spec.mem.map_or(0, |mem| mem.times(spec.ranks_per_node())),
            kinds: spec.kinds().into_iter().map(|kind| kind.name).collect(),
        }
    }

    /// The request of a stored spec.
    pub fn from_json(json: &[u8]) -> Result<Self, CodecError> {
        Ok(Self::of(&Self::spec(json)?))
    }

    /// A stored spec.
    pub fn spec(json: &[u8]) -> Result<JobSpec, CodecError> {
        parse_json(json).map_err(|error| CodecError::Spec {
            why: error.to_string(),
        })
    }

    /// GPUs of the whole gang.
    pub fn gpus_in_all(&self) -> u64 {
        u64::from(self.nodes) * u64::from(self.gpus)
    }
}
