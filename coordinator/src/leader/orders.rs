//! PURE: orders from the state: everything a node needs to run or end its part of an attempt. Sends nothing.
#![deny(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::float_arithmetic
)]
use std::sync::Arc;

use mlctl_proto::ids::{Epoch, JobId};
use mlctl_proto::limits::STOP_GRACE_MS;
use mlctl_proto::spec::{JobSpec, OnDisconnect, Time};

use super::copies::{CopyOrder, RestoreOrder};
use super::gang::Key;
use super::witness::Target;
use crate::state::State;
use crate::state::records::{Attempt, EndKind, Job, Spec, Wave};
use crate::state::rules::{Request, taking};

/// What a node is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Order {
    /// Its lease holds: counted from when it sent this heartbeat.
    Lease {
        /// The heartbeat's number.
        seq: u64,
    },
    /// Prepare its part of a committed attempt.
    Start(Box<StartOrder>),
    /// End its part of an attempt.
    Stop {
        /// The job.
        job: JobId,
        /// The attempt.
        epoch: Epoch,
        /// Why, for the record.
        reason: EndKind,
        /// Between TERM and KILL, milliseconds. What ends already can only end sooner.
        grace_ms: u32,
        /// Why, for people.
        why: String,
    },
    /// Everybody is ready: start the ranks.
    Go {
        /// The job.
        job: JobId,
        /// The attempt.
        epoch: Epoch,
        /// Where node rank 0 is reached.
        master_address: String,
        /// Leased there.
        master_port: u16,
    },
    /// The keeper of another node of an attempt speaks to its keeper.
    Relay(Relay),
    /// Find out whether anybody on a silent node answers.
    Probe(Box<ProbeOrder>),
    /// About parts of checkpoints.
    Copies(Box<CopyOrder>),
    /// Its events up to here are applied.
    Applied {
        /// Their highest number.
        up_to: u64,
    },
}

/// What a witness is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeOrder {
    /// Named again in the answer.
    pub id: u64,
    /// The silent node.
    pub node: String,
    /// Where it is reached.
    pub address: String,
    /// Its agent and its keepers.
    pub targets: Vec<Target>,
}

/// What a witness says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Testimony {
    /// Of the question.
    pub id: u64,
    /// The silent node.
    pub node: String,
    /// Somebody there answers.
    pub seen: bool,
}

/// A word between two nodes of one attempt. Nobody on the way reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relay {
    /// The job.
    pub job: JobId,
    /// The attempt.
    pub epoch: Epoch,
    /// The other node: for whom it is, or from whom.
    pub node: String,
    /// What is said.
    pub body: Vec<u8>,
}

/// A node's part of a committed attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StartOrder {
    /// The job.
    pub job: Arc<Job>,
    /// Its spec.
    pub spec: Arc<Spec>,
    /// The attempt.
    pub epoch: Epoch,
    /// Every node of the gang, in node-rank order.
    pub members: Vec<GangMember>,
    /// Which of them is told.
    pub node_rank: u32,
    /// Checkpoint to resume from, empty: none.
    pub resume_from: String,
    /// Whose checkpoint that is, if not its own job's.
    pub resume_job: Option<JobId>,
    /// What that checkpoint is made of and who has it; `None`: only its directory on nodes that have one.
    pub restore: Option<RestoreOrder>,
    /// Whether the cluster lets jobs run as root.
    pub allow_root: bool,
    /// The gang is this node, and no attempt before it is in doubt: there is nothing to wait for once the node is ready.
    pub alone: bool,
    /// The tasks to run there, if the job is an array.
    pub wave: Option<Wave>,
    /// How many tasks the array has.
    pub array_count: u32,
    /// When its keeper ends it by itself, if the job wants that.
    pub fence: Option<FenceOrder>,
}

/// When a keeper ends its ranks by itself, counted from when its node's last confirmed heartbeat was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FenceOrder {
    /// TERM after so long, milliseconds.
    pub after_ms: u32,
    /// KILL after so long again.
    pub grace_ms: u32,
}

/// A node of a gang.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GangMember {
    /// Its name.
    pub node: String,
    /// Where ranks of other nodes reach it.
    pub rank_address: String,
    /// UUIDs of its devices.
    pub devices: Vec<String>,
}

/// What `node` needs to start (`job`, `epoch`); `None` if the state does not say that it shall.
pub(super) fn start(state: &State, node: &str, job: JobId, epoch: Epoch) -> Option<Order> {
    let attempt = state.attempt(job, epoch)?;
    let job = state.job(job)?;
    let spec = state.spec(&job.spec_hash)?;
    let node_rank = attempt
        .allocations
        .iter()
        .position(|allocation| allocation.node == node)?;
    let members = attempt.allocations.iter().map(|allocation| GangMember {
        node: allocation.node.clone(),
        rank_address: rank_address(state, &allocation.node),
        devices: allocation.devices.clone(),
    });
    let array_count = job.array.as_ref().map(|array| array.tasks.count());
    Some(Order::Start(Box::new(StartOrder {
        job: Arc::clone(job),
        spec: within_total(job, spec),
        epoch,
        members: members.collect(),
        node_rank: u32::try_from(node_rank).ok()?,
        resume_from: attempt.resume_from.clone(),
        resume_job: attempt.resume_job,
        restore: None,
        allow_root: state.settings().is_some_and(|settings| settings.allow_root),
        alone: attempt.allocations.len() == 1 && state.in_doubt(job.id).is_none(),
        wave: attempt.wave.clone(),
        array_count: array_count
            .and_then(|count| u32::try_from(count).ok())
            .unwrap_or(0),
        fence: fence(state, job),
    })))
}

/// The spec as this attempt runs it: its time limit is what is left of the time that all attempts together may take. Who protects it from others,
/// and for how long, is no node's business, and need not fit into that.
fn within_total(job: &Job, spec: &Arc<Spec>) -> Arc<Spec> {
    let turn = &job.turn;
    let parsed = Request::spec(&spec.json).ok();
    let Some(parsed) = parsed.filter(|_| turn.total_ms > 0) else {
        return Arc::clone(spec);
    };
    let left_ms = turn.total_ms.saturating_sub(turn.ran_ms);
    let left = Time::from_seconds(left_ms.div_ceil(1_000).max(1));
    let limited = JobSpec {
        time: parsed.time.into_iter().chain(left).min(),
        min_runtime: None,
        ..parsed
    };
    Arc::new(Spec {
        json: limited.canonical_json(),
        uses: spec.uses,
    })
}

fn fence(state: &State, job: &Job) -> Option<FenceOrder> {
    let timers = state.settings()?.timers;
    (job.on_disconnect == OnDisconnect::Fence).then_some(FenceOrder {
        after_ms: timers.fence_after_ms,
        grace_ms: timers.kill_grace_ms,
    })
}

/// Has a node end its part of (`job`, `epoch`).
pub(super) fn stop(state: &State, job: JobId, epoch: Epoch, reason: EndKind) -> Order {
    let end = state
        .attempt(job, epoch)
        .and_then(|attempt| attempt.end.as_ref());
    let why = match end {
        Some(end) if end.detail.is_empty() => end.kind.word().to_owned(),
        Some(end) => end.detail.clone(),
        None => reason.word().to_owned(),
    };
    Order::Stop {
        job,
        epoch,
        reason,
        grace_ms: grace_ms(state, (job, epoch)),
        why,
    }
}

/// Between TERM and KILL, milliseconds: who ends so that others get its devices has the time to save, unless somebody ended its job meanwhile.
fn grace_ms(state: &State, (job, epoch): Key) -> u32 {
    let Some(job) = state.job(job).filter(|job| !job.cancel_requested) else {
        return STOP_GRACE_MS;
    };
    let end = state
        .attempt(job.id, epoch)
        .and_then(|attempt| attempt.end.as_ref());
    if end.is_none_or(|end| end.kind != EndKind::Preempted) {
        return STOP_GRACE_MS;
    }
    let facts = state.spec_facts(job).map(AsRef::as_ref);
    let class = job.turn.class.into();
    let grace_ms = taking::grace_ms(&state.scheduling(), facts, class);
    u32::try_from(grace_ms).unwrap_or(u32::MAX)
}

/// Whether this attempt has not ended on this node.
pub(super) fn is_open_on(state: &State, node: &str, (job, epoch): Key) -> bool {
    let attempt = state.attempt(job, epoch);
    let mut places = attempt.iter().flat_map(|attempt| &attempt.allocations);
    places.any(|place| place.node == node && place.end.is_none())
}

/// Has a node end its part of an attempt that could not be brought up.
pub(super) fn launch_failed((job, epoch): Key, why: &str) -> Order {
    Order::Stop {
        job,
        epoch,
        reason: EndKind::LaunchFailed,
        grace_ms: STOP_GRACE_MS,
        why: why.to_owned(),
    }
}

/// The nodes of an attempt in node-rank order.
pub(super) fn nodes(attempt: &Attempt) -> Vec<String> {
    let nodes = attempt.allocations.iter();
    nodes.map(|allocation| allocation.node.clone()).collect()
}

/// Where ranks of other nodes reach `node`.
pub(super) fn rank_address(state: &State, node: &str) -> String {
    let facts = state.node(node).map(|node| &node.facts);
    facts.map_or_else(String::new, |facts| facts.addresses.rank.clone())
}

#[cfg(test)]
mod tests {
    use mlctl_proto::spec::parse_toml;

    use super::*;
    use crate::state::Body;
    use crate::state::commands::CancelJobs;
    use crate::state::testing::{Cluster, person, system};

    #[test]
    fn who_ends_so_that_others_get_its_devices_has_time_to_save() {
        let mut cluster = Cluster::new();
        cluster.gpu_node("a", 1);
        let spec = |lines: &str| parse_toml(&format!("command = ['a']\n{lines}")).expect("good");
        let runs = cluster.submitted_spec("ann", &spec("gpus = 1\ngrace = '1m'"));
        let epoch = cluster.started(runs, &["a"]);
        let urgent = cluster.submitted_spec("bob", &spec("gpus = 1\nclass = 'high'"));
        let preempt = cluster.preempt(urgent, &["a"], taking::Taken::Entitlement);
        let applied = cluster.run(system(), Body::Preempt(preempt));
        assert_eq!(applied.refusal(), None);
        let grace = |cluster: &Cluster, reason| match stop(&cluster.state, runs, epoch, reason) {
            Order::Stop { grace_ms, .. } => grace_ms,
            other => panic!("{other:?}"),
        };
        assert_eq!(grace(&cluster, EndKind::Preempted), 60_000);
        let cancel = Body::CancelJobs(CancelJobs::of(vec![runs]));
        cluster.run(person("ann", false), cancel);
        assert_eq!(grace(&cluster, EndKind::Cancelled), STOP_GRACE_MS);
    }

    #[test]
    fn an_attempt_has_what_is_left_of_the_total_time() {
        let mut cluster = Cluster::new();
        let mut limit = |lines: &str, ran_ms: u64| {
            let spec = parse_toml(&format!("command = ['a']\n{lines}")).expect("good");
            let id = cluster.submitted_spec("ann", &spec);
            let mut job = cluster.job(id);
            job.turn.ran_ms = ran_ms;
            let stored = cluster
                .state
                .spec(&job.spec_hash)
                .cloned()
                .expect("it is stored");
            let sent = Request::spec(&within_total(&job, &stored).json).expect("a node reads it");
            sent.time.map(|time| time.to_string())
        };
        for (lines, ran_ms, want) in [
            ("", 5, None),
            ("time = '4h'", 5, Some("4h")),
            ("total_time = '2h'", 0, Some("2h")),
            ("total_time = '2h'", 3_600_000, Some("1h")),
            ("time = '30m'\ntotal_time = '2h'", 3_600_000, Some("30m")),
            (
                "time = '90m'\nmin_runtime = '80m'\ntotal_time = '2h'",
                3_600_000,
                Some("1h"),
            ),
            ("total_time = '2h'", 7_199_500, Some("1s")),
            ("total_time = '2h'", u64::MAX, Some("1s")),
        ] {
            assert_eq!(limit(lines, ran_ms).as_deref(), want, "{lines} {ran_ms}");
        }
    }
}
