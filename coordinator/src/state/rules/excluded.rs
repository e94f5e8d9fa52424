//! Where a job is not placed: on nodes that failed it, as long as it could be placed without them. Never a reason to wait forever:
//! of nodes that it cannot do without, those that failed it longest ago are forgiven first, and a checkpoint is worth more than
//! another node.
use std::collections::BTreeMap;

use super::{Request, Resume, fits_kind, is_shared, living_holders, resume};
use crate::state::State;
use crate::state::records::{Job, Node};

/// Names of the nodes on which `job` is not placed.
pub fn excluded<'a>(state: &State, job: &'a Job, request: &Request) -> Vec<&'a str> {
    let failed = &job.retries.excluded;
    if failed.is_empty() {
        return Vec::new();
    }
    let mut out: Vec<&str> = failed.iter().map(|one| one.node.as_str()).collect();
    let holders: Vec<&str> = match resume(state, job) {
        Resume::Nothing => Vec::new(),
        // What can be brought to any node, or is seen by every one, draws the job nowhere.
        Resume::From(checkpoints) => checkpoints
            .first()
            .filter(|newest| !newest.is_portable() && !is_shared(state, job, newest))
            .map(|newest| living_holders(state, newest).collect())
            .unwrap_or_default(),
    };
    let takes_work = |name: &&str| state.node(name).is_some_and(|node| node.schedulable());
    let mut open = holders.iter().copied().filter(takes_work);
    if open.all(|holder| out.contains(&holder)) {
        out.retain(|name| !holders.contains(name));
    }
    while !out.is_empty() && !fits_without(state, request, &holders, &out) {
        out.remove(0);
    }
    out
}

/// Whether the nodes that take work could run a request if they were idle, without `out`, with rank 0 on a holder if one takes work.
fn fits_without(state: &State, request: &Request, holders: &[&str], out: &[&str]) -> bool {
    let usable = |node: &&std::sync::Arc<Node>| {
        node.schedulable() && !out.contains(&node.facts.name.as_str())
    };
    let mut domains: BTreeMap<(&str, &str), (u32, bool)> = BTreeMap::new();
    let mut resumes = false;
    for node in state.nodes().filter(usable) {
        let holds = holders.contains(&node.facts.name.as_str());
        resumes |= holds;
        for model in models_with_room(node, request) {
            let entry = domains.entry((&node.facts.pool, model)).or_default();
            *entry = (entry.0.saturating_add(1), entry.1 || holds);
        }
    }
    let mut domains = domains.values();
    domains.any(|(nodes, holds)| *nodes >= request.nodes && (*holds || !resumes))
}

/// Models of which an idle node has enough; one without a name for ranks without GPUs, which an empty node always takes.
fn models_with_room<'a>(node: &'a Node, request: &Request) -> Vec<&'a str> {
    if request.gpus == 0 {
        return vec![""];
    }
    let mut counts: BTreeMap<&str, u32> = BTreeMap::new();
    for device in &node.facts.devices {
        if fits_kind(request, &device.model) {
            *counts.entry(&device.model).or_default() += 1;
        }
    }
    counts.retain(|_, count| *count >= request.gpus);
    counts.into_keys().collect()
}

#[cfg(test)]
mod tests {
    use mlctl_proto::ids::JobId;
    use mlctl_proto::spec::{CheckpointSpec, JobSpec};

    use super::excluded;
    use crate::state::records::{EndKind, ExcludedNode};
    use crate::state::testing::{Cluster, sealed, spec};

    fn cluster(names: &[&str]) -> Cluster {
        let mut cluster = Cluster::new();
        names.iter().for_each(|name| cluster.gpu_node(name, 1));
        cluster
    }

    fn out(cluster: &Cluster, job: JobId, failed: &[&str]) -> Vec<String> {
        let mut job = cluster.job(job);
        let failure = |node: &&str| ExcludedNode {
            node: (*node).into(),
            why: EndKind::DeviceError,
        };
        job.retries.excluded = failed.iter().map(failure).collect();
        let request = cluster.state.request(&job).expect("it has a spec");
        let out = excluded(&cluster.state, &job, request);
        out.into_iter().map(str::to_owned).collect()
    }

    #[test]
    fn who_failed_it_longest_ago_is_forgiven_first() {
        let mut cluster = cluster(&["a", "b", "c"]);
        let (one, two) = (
            cluster.submitted("ann", 1, 1),
            cluster.submitted("ann", 2, 1),
        );
        assert_eq!(out(&cluster, one, &["a", "b"]), ["a", "b"]);
        assert_eq!(out(&cluster, one, &["a", "b", "c"]), ["b", "c"]);
        assert_eq!(out(&cluster, two, &["a", "b"]), ["b"]);
        cluster.silence("c");
        assert_eq!(out(&cluster, one, &["a", "b"]), ["b"], "c takes no work");
        assert_eq!(out(&cluster, two, &["b", "a"]), [""; 0]);
    }

    #[test]
    fn a_checkpoint_is_worth_more_than_another_node() {
        let mut cluster = cluster(&["a", "b"]);
        let job = cluster.submitted("ann", 1, 1);
        let epoch = cluster.started(job, &["a"]);
        cluster.event("a", job, epoch, sealed("step-1", 1));
        cluster.ended("a", job, epoch, EndKind::KeeperLost);
        let kept = cluster.job(job).retries.excluded;
        assert_eq!(kept.len(), 1, "it is remembered");
        assert_eq!(out(&cluster, job, &["a"]), [""; 0], "and needed");
        assert_eq!(out(&cluster, job, &["a", "b"]), ["b"]);
    }

    #[test]
    fn one_that_every_node_sees_is_no_reason_to_forgive_its_writer() {
        let mut cluster = cluster(&["a", "b"]);
        let asked = JobSpec {
            checkpoint: Some(CheckpointSpec {
                shared: true,
                replicas: 0,
                ..CheckpointSpec::in_dir("/nfs/a")
            }),
            ..spec(1, 1)
        };
        let job = cluster.submitted_spec("ann", &asked);
        let epoch = cluster.started(job, &["a"]);
        cluster.event("a", job, epoch, sealed("step-1", 1));
        cluster.ended("a", job, epoch, EndKind::KeeperLost);
        assert_eq!(out(&cluster, job, &["a"]), ["a"]);
    }
}
