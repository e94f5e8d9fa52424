//! A recorded load: what each job asked for and when, and apart from that how long it ran. The two are kept apart so that no planner can be handed the second.
//! Does NOT read files.
use std::sync::Arc;

use mlctl_proto::units::UtcMs;

use crate::state::view::amounts::{Amounts, GPU};
use crate::state::view::ask::{Ask, Gpus, Kind, Near, Prefer, Width};

/// What is known of a job when it is submitted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceJob {
    /// Its id in the trace.
    pub name: Arc<str>,
    /// Milliseconds since the trace's begin.
    pub submit_ms: UtcMs,
    /// GPUs in all, units of [`GPU`].
    pub units: u64,
    /// GPUs on one node at most.
    pub per_node_max: u32,
    /// Its owner; empty: the trace does not say.
    pub user: Arc<str>,
    /// Its virtual cluster, queue or team; empty: the trace does not say.
    pub vc: Arc<str>,
    /// Acceptable types; empty: any.
    pub kinds: Vec<Kind>,
    /// Of the whole job, beside GPUs.
    pub amounts: Amounts,
}

/// A load, in submit order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Trace {
    /// By submit, then place in the file.
    pub jobs: Vec<TraceJob>,
    /// How long each makes progress until it ends, milliseconds. No planner sees them.
    pub lengths_ms: Vec<u64>,
}

impl TraceJob {
    /// Whole GPUs, rounded up.
    pub fn gpus(&self) -> u64 {
        self.units.div_ceil(GPU)
    }

    /// More than 8 GPUs.
    pub fn is_wide(&self) -> bool {
        self.gpus() > 8
    }

    /// Who it is of, for histories and fair use: its user, else its virtual cluster.
    pub fn owner(&self) -> &Arc<str> {
        if self.user.is_empty() {
            &self.vc
        } else {
            &self.user
        }
    }

    /// The fewest nodes of equal parts that hold it.
    pub fn nodes(&self) -> u32 {
        let gpus = self.gpus().max(1);
        let per_node = u64::from(self.per_node_max.max(1));
        let least = gpus.div_ceil(per_node);
        let even = (least..=gpus).find(|nodes| gpus.is_multiple_of(*nodes));
        u32::try_from(even.unwrap_or(gpus)).unwrap_or(u32::MAX)
    }

    /// What it asks for, as the scheduler sees it.
    pub fn ask(&self) -> Ask {
        let nodes = self.nodes();
        let each = u64::from(nodes.max(1));
        let part = self.amounts;
        Ask {
            nodes: Width::Exactly(nodes),
            gpus: self.gpus_each(nodes),
            ranks: u32::try_from(self.gpus().div_ceil(each).max(1)).unwrap_or(1),
            amounts: Some(Amounts {
                cpu_milli: part.cpu_milli.div_ceil(each),
                memory: part.memory.div_ceil(each),
                disk: part.disk.div_ceil(each),
                ranks: 0,
            }),
            kinds: self.kinds.clone(),
            pools: Vec::new(),
            mix: false,
            near: Near::Prefer,
            prefer: Prefer::Type,
            licenses: Vec::new(),
            labels: Vec::new(),
        }
    }

    fn gpus_each(&self, nodes: u32) -> Gpus {
        if self.units == 0 {
            return Gpus::None;
        }
        if self.units < GPU {
            return Gpus::Share(u32::try_from(self.units).unwrap_or(u32::MAX));
        }
        let each = self.gpus().div_ceil(u64::from(nodes.max(1)));
        Gpus::Whole(u32::try_from(each).unwrap_or(u32::MAX))
    }
}

impl Trace {
    /// Puts jobs and lengths into submit order; equal submits keep their order.
    pub fn sorted(jobs: Vec<(TraceJob, u64)>) -> Self {
        let mut jobs = jobs;
        jobs.sort_by_key(|(job, _)| job.submit_ms);
        let (jobs, lengths_ms) = jobs.into_iter().unzip();
        Self { jobs, lengths_ms }
    }

    /// Its jobs with their lengths.
    pub fn pairs(&self) -> impl Iterator<Item = (&TraceJob, u64)> {
        self.jobs.iter().zip(self.lengths_ms.iter().copied())
    }
}

impl Trace {
    /// No job asks for more GPUs on one node than the cluster's largest has.
    pub fn cap_per_node(&mut self, most: u32) {
        for job in &mut self.jobs {
            job.per_node_max = job.per_node_max.min(most.max(1));
        }
    }
}
