//! What the scheduler has to know of a spec, read once when the spec is stored. Does NOT know which jobs name it.
use std::sync::Arc;

use mlctl_proto::spec::JobSpec;

use super::ask::Ask;
use crate::state::rules::room::carried_out;

/// Of one spec.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpecFacts {
    /// What a gang, or one task of an array, asks for, as starts carry it out.
    pub ask: Arc<Ask>,
    /// How long an attempt may run, milliseconds, if it says so.
    pub limit_ms: Option<u64>,
    /// Between notice and end when others get its devices, milliseconds, if it says so.
    pub grace_ms: Option<u64>,
    /// How long an attempt is safe from others, milliseconds.
    pub min_runtime_ms: u64,
}

impl SpecFacts {
    /// Of a checked spec.
    pub fn of(spec: &JobSpec) -> Self {
        Self {
            ask: Arc::new(carried_out(Ask::of(spec))),
            limit_ms: spec.time.map(|time| time.ms()),
            grace_ms: spec.grace.map(|time| time.ms()),
            min_runtime_ms: spec.min_runtime.map_or(0, |time| time.ms()),
        }
    }
}
