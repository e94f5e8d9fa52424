//! The part of a launch plan that makes one process per task of an array: the plan's only rank is what they have in common.
//!
//! Pure.
#![deny(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::float_arithmetic
)]

use std::collections::BTreeMap;

use mlctl_proto::spec::{Compat, Ranges};
use serde::{Deserialize, Serialize};

use super::cpus;
use super::environment::{Variables, visible_devices};
use super::plan::Request;

/// The tasks of one node and where each runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ArrayPlan {
    /// Their indices.
    pub tasks: Ranges,
    /// One task at a time runs in each.
    pub slots: Vec<SlotPlan>,
    /// The job, as it prints: `MLCTL_TASK_ID` is this, a dot and the index.
    pub job: String,
    /// Variables that hold a task's index.
    pub index_variables: Vec<String>,
}

/// What the tasks of one slot have of their own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SlotPlan {
    /// UUIDs of its devices.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub devices: Vec<String>,
    /// Variables beside those that all tasks have.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: Variables,
    /// The processors near its devices, to which its tasks are bound; empty: to none.
    #[serde(default, skip_serializing_if = "Ranges::is_empty")]
    pub cpus: Ranges,
}

/// The array's part of a plan.
pub(super) fn plan(request: &Request) -> Option<ArrayPlan> {
    let wave = request.wave.as_ref()?;
    let devices: Vec<_> = (0..wave.slots)
        .map(|slot| slot_devices(request, slot))
        .collect();
    let each: Vec<&[String]> = devices.iter().map(Vec::as_slice).collect();
    let cpus = cpus::sets(&request.topology, &request.spec, &each, 1);
    let slot = |(devices, cpus): (Vec<String>, Ranges)| {
        let visible = visible_devices(&devices).filter(|_| !devices.is_empty());
        let env = visible.map(|visible| ("CUDA_VISIBLE_DEVICES".to_owned(), visible));
        SlotPlan {
            env: env.into_iter().collect(),
            devices,
            cpus,
        }
    };
    let mut index_variables = vec!["MLCTL_ARRAY_INDEX".to_owned()];
    if request.spec.compat == Some(Compat::Slurm) {
        index_variables.push("SLURM_ARRAY_TASK_ID".to_owned());
    }
    Some(ArrayPlan {
        tasks: wave.tasks.clone(),
        slots: devices.into_iter().zip(cpus).map(slot).collect(),
        job: request.job.to_string(),
        index_variables,
    })
}

/// The devices of one slot: an equal share of the node's.
pub(super) fn slot_devices(request: &Request, slot: u32) -> Vec<String> {
    let all = usize::try_from(request.node_rank)
        .ok()
        .and_then(|at| request.members.get(at))
        .map_or(&[][..], |member| &member.devices);
    let (each, slot) = (request.spec.gpus as usize, slot as usize);
    all.get(slot * each..(slot + 1) * each)
        .unwrap_or_default()
        .to_vec()
}

/// What all tasks of the array find beside the variables of any rank.
pub(super) fn variables(request: &Request, env: &mut Variables) {
    let Some(wave) = &request.wave else {
        return;
    };
    env.insert("MLCTL_ARRAY_COUNT".into(), wave.count.to_string());
    if request.spec.compat == Some(Compat::Slurm) {
        env.insert("SLURM_ARRAY_JOB_ID".into(), request.job.counter.to_string());
        env.insert("SLURM_ARRAY_TASK_COUNT".into(), wave.count.to_string());
    }
}
