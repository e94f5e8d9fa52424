//! `mlctl submit --dry-run`: what each node of the job would run, made by the agent's own planner, and what the cluster would make of it. Queues nothing, so what
//! only a placement decides has a stand-in: names of nodes and devices, directories, where the gang meets. Without a cluster only the first part is said.
use std::collections::BTreeMap;

use mlctl_agent::core::Wave;
use mlctl_agent::launch::cpus::Topology;
use mlctl_agent::launch::{Interpreters, LaunchPlan, Member, Request, plan};
use mlctl_proto::api::WhyReply;
use mlctl_proto::ids::{Epoch, JobId};
use mlctl_proto::spec::{CpuBind, JobSpec};
use mlctl_proto::units::bytes_text;
use serde_json::json;

use super::decide;
use super::foresee::foresee;
use super::spec::wanted;
use crate::args::{Global, SubmitArgs};
use crate::client::Client;
use crate::failure::Failure;
use crate::output::clean::clean;
use crate::output::{Output, why};

/// What stands for the agent's directory.
const DATA: &str = "/DATA";

/// Prints the launch plan of every node, and what the cluster says.
pub async fn run(args: &SubmitArgs, global: &Global, output: &dyn Output) -> Result<u8, Failure> {
    let spec = wanted(args)?.spec;
    let plans: Result<Vec<LaunchPlan>, _> = (0..spec.nodes)
        .map(|node_rank| plan(&request(&spec, node_rank)))
        .collect();
    let plans = plans.map_err(|error| Failure::usage(error.to_string()))?;
    let bound = binding(&spec);
    let text: Vec<String> = (plans.iter())
        .map(|plan| shown(plan, &plans, bound))
        .collect();
    let note = "stand-ins: NODE-*, GPU-*, /DATA and job 0; MASTER_ADDR and MASTER_PORT are known when every node is ready; which processors are near its GPUs each node knows";
    let foreseen = foreseen(&spec, global).await;
    let said = foreseen.as_ref().ok().and_then(Option::as_ref);
    let mut text = text.join("\n\n");
    if let Some(said) = said {
        let word = match &said.starts {
            Some(_) => "the cluster would start it".to_owned(),
            None => format!("it would wait: {}", clean(&said.summary)),
        };
        let lines = why::lines(said).join("\n");
        text = format!("{text}\n\n{word}\n{lines}");
    }
    let value = said.map(why::value);
    output.value(
        &json!({ "v": 1, "plans": plans, "note": note, "foreseen": value }),
        &text,
    );
    output.note(note);
    match foreseen? {
        Some(said) => decide::note_pauses(&said.pauses, output),
        None => output.note("no cluster was asked whether it fits: there is no context"),
    }
    Ok(0)
}

/// What the cluster would make of it; `None`: there is no cluster to ask. What refuses the job is the failure.
async fn foreseen(spec: &JobSpec, global: &Global) -> Result<Option<WhyReply>, Failure> {
    if !Client::is_there(global) {
        return Ok(None);
    }
    let said = foresee(&mut Client::open(global)?, spec).await?;
    Ok(Some(said))
}

fn request(spec: &JobSpec, node_rank: u32) -> Request {
    let node = |at: u32| format!("NODE-{at}");
    let member = |at: u32| Member {
        node: node(at),
        rank_address: node(at),
        devices: (0..spec.gpus)
            .map(|gpu| format!("GPU-{at}-{gpu}"))
            .collect(),
    };
    let job_dir = format!("{DATA}/jobs/0");
    let shared = spec.checkpoint.as_ref().filter(|one| one.shared);
    let checkpoints =
        shared.map_or_else(|| format!("{job_dir}/checkpoints"), |one| one.dir.clone());
    Request {
        job: JobId::new(0, 0),
        epoch: Epoch::new(0, 0),
        job_name: spec.display_name(),
        owner: String::new(),
        node_name: node(node_rank),
        members: (0..spec.nodes).map(member).collect(),
        node_rank,
        wave: spec.array.as_ref().map(|array| Wave {
            slots: 1,
            tasks: array.tasks.clone(),
            count: u32::try_from(array.tasks.count()).unwrap_or(u32::MAX),
        }),
        attempt_dir: format!("{job_dir}/0"),
        work_dir: format!("{job_dir}/0/work"),
        job_dir,
        checkpoint_dir: Some(checkpoints),
        resume_from: None,
        traceparent: String::new(),
        base_env: BTreeMap::new(),
        node_env: BTreeMap::new(),
        interface: None,
        network: None,
        rdma: Vec::new(),
        topology: Topology::default(),
        program: format!("{DATA}/mlctl"),
        user: None,
        allow_root: false,
        interpreters: Interpreters::default(),
        spec: spec.clone(),
    }
}

/// What the processes of a node may use together, if the job asks for bounds.
fn bounds(plan: &LaunchPlan) -> Option<String> {
    let bounds = plan.bounds.unwrap_or_default();
    let memory = (bounds.memory_bytes).map(|bytes| format!("{} of memory", bytes_text(bytes)));
    let cpus = bounds.cpus.map(|cpus| format!("{cpus} processor(s)"));
    let shm = (plan.shm_bytes).map(|bytes| format!("{} of /dev/shm", bytes_text(bytes)));
    let all: Vec<String> = [memory, cpus, shm].into_iter().flatten().collect();
    (!all.is_empty()).then(|| format!("  at most {} together", all.join(", ")))
}

/// On which processors the ranks run. Which these are depends on the devices that they are given, and only their node knows.
fn binding(spec: &JobSpec) -> Option<&'static str> {
    let bound = spec.gpus > 0 && spec.cpu_bind == CpuBind::Near;
    bound.then_some("  on the processors near its GPUs, decided by the node (`cpu_bind`)")
}

/// A plan for people. Variables that each process of the node has alike are listed once.
fn shown(plan: &LaunchPlan, all: &[LaunchPlan], bound: Option<&str>) -> String {
    let mut lines = vec![format!(
        "node {} of {}: {} process(es), launcher {}",
        plan.node_rank,
        all.len(),
        plan.ranks.len(),
        plan.method.word()
    )];
    lines.extend(bounds(plan));
    lines.extend(bound.map(str::to_owned));
    let common = |key: &str, value: &str| {
        let mut others = plan.ranks.iter();
        others.all(|rank| rank.env.get(key).is_some_and(|other| other == value))
    };
    for rank in &plan.ranks {
        lines.push(format!("  rank {}: {}", rank.rank, rank.argv.join(" ")));
        let own = rank.env.iter().filter(|(key, value)| !common(key, value));
        lines.extend(own.map(|(key, value)| format!("    {key}={value}")));
    }
    let first = plan.ranks.first().map(|rank| &rank.env);
    lines.push("  variables".into());
    let shared = first.into_iter().flatten();
    let shared = shared.filter(|(key, value)| common(key, value));
    lines.extend(shared.map(|(key, value)| format!("    {key}={value}")));
    for file in &plan.files {
        lines.push(format!("  file {}", file.path));
        lines.extend(file.text.lines().map(|line| format!("    {line}")));
    }
    lines.join("\n")
}
