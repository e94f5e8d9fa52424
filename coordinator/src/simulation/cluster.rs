//! A described cluster as the scheduler sees it before anything runs. Does NOT read files.
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use imbl::OrdMap;

use super::trace::Trace;
use crate::state::view::amounts::{Amounts, GPU};
use crate::state::view::nodes::{DeviceView, NodeView, Open, Sharing};
use crate::state::view::policy::SchedSettings;
use crate::state::view::scene::Scene;
use crate::state::view::teams::TeamView;

/// So many equal nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeKind {
    /// How many.
    pub count: u32,
    /// Their type of GPU, as in traces.
    pub gpu_type: String,
    /// GPUs on each.
    pub gpus: u32,
    /// What each has beside GPUs; `None`: the description does not say, so there is always enough.
    pub amounts: Option<Amounts>,
}

/// A cluster.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Cluster {
    /// Its nodes.
    pub kinds: Vec<NodeKind>,
}

/// Who shares the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Teams {
    /// All jobs are of one team.
    #[default]
    One,
    /// One team per virtual cluster of the trace, of equal weights, without quotas.
    PerVc,
}

/// The team of all jobs where there is one.
pub const ONE_TEAM: &str = "all";

const PLENTY: Amounts = Amounts {
    cpu_milli: u64::MAX / 4,
    memory: u64::MAX / 4,
    disk: u64::MAX / 4,
    ranks: 0,
};

impl Cluster {
    /// GPUs in all, units.
    pub fn units(&self) -> u64 {
        let each = |kind: &NodeKind| u64::from(kind.count).saturating_mul(u64::from(kind.gpus));
        self.kinds
            .iter()
            .map(each)
            .fold(0, u64::saturating_add)
            .saturating_mul(GPU)
    }

    /// GPUs of the node that has most.
    pub fn node_gpus_max(&self) -> u32 {
        self.kinds.iter().map(|kind| kind.gpus).max().unwrap_or(0)
    }

    /// The cluster with nothing on it.
    pub fn scene(&self, teams: OrdMap<Arc<str>, Arc<TeamView>>, settings: SchedSettings) -> Scene {
        Scene {
            nodes: self.nodes(),
            teams,
            settings: Arc::new(settings),
            ..Scene::default()
        }
    }

    fn nodes(&self) -> OrdMap<Arc<str>, Arc<NodeView>> {
        let one: Arc<str> = Arc::from("trace");
        let kinds = self
            .kinds
            .iter()
            .flat_map(|kind| (0..kind.count).map(move |_| kind));
        let nodes = kinds.enumerate().map(|(at, kind)| {
            let name: Arc<str> = Arc::from(format!("n{at:05}"));
            (name.clone(), Arc::new(node(&name, &one, kind)))
        });
        nodes.collect()
    }
}

fn node(name: &Arc<str>, one: &Arc<str>, kind: &NodeKind) -> NodeView {
    let model: Arc<str> = Arc::from(kind.gpu_type.to_lowercase());
    let nobody: Arc<str> = Arc::from("");
    let device = |at: u32| DeviceView {
        uuid: Arc::from(format!("{name}-{at}")),
        model: model.clone(),
        memory: 0,
        free: u32::try_from(GPU).unwrap_or(u32::MAX),
        slices: None,
        island: 0,
        numa: u16::from(at.saturating_mul(2) >= kind.gpus),
        shared_by: nobody.clone(),
    };
    let amounts = kind.amounts.unwrap_or(PLENTY);
    NodeView {
        name: name.clone(),
        boot_id: one.clone(),
        pool: one.clone(),
        network: one.clone(),
        racks: Vec::new(),
        open: Open::Now,
        devices: (0..kind.gpus).map(device).collect(),
        has: amounts,
        free: amounts,
        owner: None,
        sharing: Sharing::Any,
        labels: Arc::from([]),
        windows: Vec::new(),
    }
}

/// The name of a job's team.
pub fn team_of(teams: Teams, vc: &Arc<str>) -> Arc<str> {
    match teams {
        Teams::PerVc if !vc.is_empty() => vc.clone(),
        _ => Arc::from(ONE_TEAM),
    }
}

/// The teams of a trace's jobs.
pub fn teams_of(trace: &Trace, teams: Teams) -> OrdMap<Arc<str>, Arc<TeamView>> {
    let names: BTreeSet<Arc<str>> = trace
        .jobs
        .iter()
        .map(|job| team_of(teams, &job.vc))
        .collect();
    let team = |name: Arc<str>| {
        let team = TeamView {
            name: name.clone(),
            weight: 1,
            quotas: BTreeMap::new(),
            own: BTreeMap::new(),
            usage: 0,
            users: BTreeMap::new(),
            budgets: BTreeMap::new(),
            max_running: None,
        };
        (name, Arc::new(team))
    };
    names.into_iter().map(team).collect()
}
