//! Random histories for property tests: numbers in, commands out. Most make sense, many are stale, late, foreign or repeated.
use mlctl_proto::ids::{Epoch, JobId};
use mlctl_proto::spec::{After, AfterKind, ArraySpec, Cause, Class, JobSpec, Ranges, RetrySpec};
use proptest::collection::vec;
use proptest::prelude::{Strategy, any};

use super::{Cluster, ended, exit, node, person, sealed, spec, system};
use crate::state::Body;
use crate::state::commands::{
    ArchiveJobs, CancelJobs, ChangeCheckpoints, ChangeSettings, CheckpointAction, Decide,
    DecisionEdit, DeclareNodeLost, DeviceNews, DropLate, Happening, HoldJobs, LossProof,
    NamedCheckpoint, ReleaseJobs, RetryJobs, Selection, SetMaintenance, SetNodeLiveness, SetOwner,
    SetPause, SetPool, SetSched, SupersedeAttempt, TasksEnded, UpdateJobs, Withdraw,
};
use crate::state::records::{
    Attempt, Automatic, DirtyDevice, EndKind, Liveness, SchedKey, Target, TaskGroup,
};
use crate::state::rules::taking::Taken;
use crate::state::view::nodes::Guests;

/// One step of a history.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Step([u8; 4]);

/// Histories of at most `most` steps.
pub(crate) fn histories(most: usize) -> impl Strategy<Value = Vec<Step>> {
    vec(any::<[u8; 4]>().prop_map(Step), 0..most)
}

const NODES: [&str; 4] = ["a", "b", "c", "d"];
const ENDS: [EndKind; 6] = [
    EndKind::Exited,
    EndKind::NodeLost,
    EndKind::KeeperLost,
    EndKind::Preempted,
    EndKind::Cancelled,
    EndKind::LaunchFailed,
];

/// Plays a history on a new cluster; `checked`: with every invariant after each command.
pub(crate) fn play(history: &[Step], checked: bool) -> Cluster {
    let mut cluster = Cluster::new();
    cluster.checked = checked;
    NODES[..2].iter().for_each(|name| cluster.gpu_node(name, 2));
    history.iter().for_each(|step| step.play(&mut cluster));
    cluster
}

impl Step {
    fn play(self, cluster: &mut Cluster) {
        let [kind, a, b, c] = self.0;
        let name = NODES[usize::from(b) % 4];
        match kind % 23 {
            0 => register(cluster, name, a),
            1..=3 => {
                let user = ["ann", "bob"][usize::from(a) % 2];
                let mut spec = submitted(a, b, c);
                let on = [&[Cause::Any][..], &[Cause::Exit(1), Cause::NodeLost]];
                let retries = kind.is_multiple_of(2) && spec.array.is_none();
                spec.retry = retries.then(|| RetrySpec {
                    max: u32::from(a) % 5,
                    on: on[usize::from(a) % 2].to_vec(),
                });
                cluster.run(person(user, false), super::submit_body(&spec));
            }
            4..=7 => start(cluster, a, usize::from(b)),
            16 if c.is_multiple_of(3) => turns(cluster, a, b, c),
            16 => supersede(cluster, a),
            18 => poison(cluster, a, usize::from(b)),
            17 => {
                let jobs = vec![JobId::new(1, 1 + u64::from(a) % 8)];
                let user = ["ann", "bob"][usize::from(b) % 2];
                let admin = c.is_multiple_of(4);
                cluster.run(person(user, admin), Body::RetryJobs(RetryJobs { jobs }));
            }
            19 => checkpoints(cluster, a, b, c),
            8..=11 => event(cluster, a, b, c),
            20 | 21 => preempt(cluster, a, b, c),
            22 => recall(cluster, a, b, c),
            12 => {
                let jobs = vec![JobId::new(1, 1 + u64::from(a) % 8)];
                cluster.run(
                    person(["ann", "bob"][usize::from(b) % 2], c.is_multiple_of(4)),
                    Body::CancelJobs(CancelJobs::of(jobs)),
                );
            }
            13 => silence(cluster, name, c),
            14 => lose(cluster, name, c),
            15 if a.is_multiple_of(3) => {
                let most = u32::from(b) % 8;
                cluster.run(system(), Body::ArchiveJobs(ArchiveJobs { most }));
            }
            15 if a % 3 == 1 => dirt(cluster, name, c),
            _ if a % 7 == 3 && b.is_multiple_of(2) => decisions(cluster, name, (a, b, c)),
            _ if a.is_multiple_of(7) => {
                let few = ChangeSettings {
                    keep_finished: Some(1 + u32::from(b) % 4),
                    ..ChangeSettings::default()
                };
                cluster.run(person("root", true), Body::ChangeSettings(few));
            }
            _ => {
                let again = cluster.log().len() * usize::from(a) / 256;
                let command = cluster.log()[again].clone();
                cluster.apply(&command);
                cluster.now_ms += i64::from(c) * 1_000;
            }
        }
    }
}

/// A person holds, releases or changes some job, or its deadline may be over.
fn turns(cluster: &mut Cluster, a: u8, b: u8, c: u8) {
    let which = Selection::of(vec![JobId::new(1, 1 + u64::from(a) % 8)]);
    let who = person(["ann", "bob"][usize::from(b) % 2], c.is_multiple_of(4));
    let edits = [
        r#"{"time":"1h"}"#,
        r#"{"nodes":1}"#,
        r#"{"gpus":1}"#,
        r#"{"class":"low","end_by":"2999-01-01T00:00:00Z"}"#,
        r#"{"array_limit":1}"#,
    ];
    let body = match b % 8 {
        0..=2 => Body::HoldJobs(HoldJobs {
            which,
            why: String::new(),
        }),
        3 | 4 => Body::ReleaseJobs(ReleaseJobs { which }),
        5 | 6 => Body::UpdateJobs(UpdateJobs {
            which,
            edit: edits[usize::from(c) % edits.len()].into(),
        }),
        _ => {
            cluster.run(system(), Body::DropLate(DropLate { most: 8 }));
            return;
        }
    };
    cluster.run(who, body);
}

/// A person pins or removes checkpoints of some job that has any.
fn checkpoints(cluster: &mut Cluster, a: u8, b: u8, c: u8) {
    let jobs: Vec<_> = (cluster.state.jobs())
        .filter(|job| !job.checkpoints.is_empty())
        .collect();
    let Some(job) = jobs.get(usize::from(a) % jobs.len().max(1)) else {
        return;
    };
    let named = job.checkpoints.iter().skip(usize::from(b) % 3).step_by(2);
    let named = named.map(|one| NamedCheckpoint {
        name: one.name.clone(),
        attempt: u64::from(c % 2) * one.epoch.counter,
    });
    let action = match c % 5 {
        0 => CheckpointAction::Pin,
        1 => CheckpointAction::Unpin,
        _ => CheckpointAction::Remove,
    };
    let change = ChangeCheckpoints {
        job: job.id,
        which: named.collect(),
        action,
    };
    let admin = c.is_multiple_of(4);
    cluster.run(person("ann", admin), Body::ChangeCheckpoints(change));
}

/// Some tasks of a wave end, or some that it was never given.
fn tasks(attempt: &Attempt, a: u8, b: u8, c: u8) -> Happening {
    let wave = attempt.wave.as_ref();
    let mut left = wave.map_or_else(Ranges::new, |wave| wave.left.clone());
    let first = left.take_lowest(u64::from(a) % 6);
    let others = match b % 4 {
        0 => left.take_lowest(2),
        1 => Ranges::span(u32::from(c), u32::from(c) + 2),
        _ => Ranges::new(),
    };
    let group = |kind, code, tasks| TaskGroup { kind, code, tasks };
    let groups = vec![
        group(EndKind::Exited, 0, first),
        group(ENDS[usize::from(b) % 2], i32::from(c) % 3, others.clone()),
    ];
    Happening::TasksEnded(TasksEnded {
        groups,
        first_failed: others.first(),
        spoke: others,
    })
}

/// A job; some are arrays.
fn submitted(a: u8, b: u8, c: u8) -> JobSpec {
    let mut spec = spec(1 + u32::from(b) % 2, u32::from(c) % 3);
    spec.class = [Class::Normal, Class::High, Class::Normal, Class::Low][usize::from(a) / 16 % 4];
    spec.preemptible = a % 64 > 48;
    // It may be refused: nobody can wait for what is not there.
    if a % 16 == 3 {
        let (kind, _) = AfterKind::ALL[usize::from(b) % 4];
        let job = JobId::new(1, 1 + u64::from(c) % 8);
        spec.after = vec![After { kind, job }];
    }
    if a.is_multiple_of(8) {
        let limit = ["", "%3"][usize::from(c) % 2];
        spec.nodes = 1;
        spec.array = ArraySpec::parse(&format!("0-{}{limit}", b % 24)).ok();
    }
    spec
}

/// Others are ended for some job that waits: often those that are in its way and less urgent, often not.
fn preempt(cluster: &mut Cluster, a: u8, b: u8, c: u8) {
    let waiting: Vec<JobId> = cluster.state.queue().map(|job| job.id).collect();
    let Some(job) = waiting.get(usize::from(a) % waiting.len().max(1)) else {
        return;
    };
    let nodes: Vec<String> = (cluster.state.nodes())
        .map(|node| node.facts.name.clone())
        .collect();
    let count = (cluster.state.request(&cluster.job(*job))).map_or(1, |one| one.nodes as usize);
    let names: Vec<&str> = (0..count)
        .map(|offset| nodes[(usize::from(b) + offset) % nodes.len()].as_str())
        .collect();
    let why = match c % 16 {
        0 => Taken::Overtime,
        1 => Taken::Guest,
        2 => Taken::Slice,
        3 => Taken::Surplus,
        _ => Taken::Entitlement,
    };
    let mut preempt = cluster.preempt(*job, &names, why);
    if c.is_multiple_of(11) {
        preempt.seats.reverse();
        preempt.victims.truncate(usize::from(b) % 2);
    }
    cluster.run(system(), Body::Preempt(preempt));
}

/// The one for whom others end starts, or what is kept is kept no longer.
fn recall(cluster: &mut Cluster, a: u8, b: u8, c: u8) {
    let kept: Vec<_> = cluster.state.holds().cloned().collect();
    let Some(hold) = kept.get(usize::from(a) % kept.len().max(1)) else {
        cluster.now_ms += i64::from(c) * 10_000;
        return;
    };
    if b.is_multiple_of(4) {
        let withdraw = Withdraw {
            jobs: vec![hold.job, JobId::new(1, u64::from(c))],
        };
        cluster.run(system(), Body::Withdraw(withdraw));
        return;
    }
    for (job, epoch) in hold.victims.iter().map(|one| (one.job, one.epoch)) {
        let attempt = cluster.state.attempt(job, epoch).cloned();
        let open = attempt.iter().flat_map(|one| &one.allocations);
        for part in open.filter(|one| one.end.is_none()) {
            cluster.ended(&part.node, job, epoch, EndKind::Preempted);
        }
    }
    if let Some(start) = cluster.start_kept(hold.job) {
        cluster.propose(vec![start]);
    }
}

fn silence(cluster: &mut Cluster, name: &str, c: u8) {
    let liveness = if c.is_multiple_of(2) {
        Liveness::Ready
    } else {
        Liveness::Unreachable
    };
    let set = SetNodeLiveness {
        node: name.into(),
        boot_id: format!("boot-{name}"),
        liveness,
    };
    cluster.run(system(), Body::SetNodeLiveness(set));
}

/// An admin decides something about scheduling: often it makes no sense.
fn decisions(cluster: &mut Cluster, name: &str, (a, b, c): (u8, u8, u8)) {
    let reason = "why not".to_owned();
    let pool = ["", "default"][usize::from(c) % 2].to_owned();
    let what = Automatic::ALL[usize::from(a) % 4];
    let edit = match b / 2 % 8 {
        0 => DecisionEdit::Pause(SetPause {
            what: Automatic::Starts,
            pool,
            for_ms: u64::from(c) * 100,
            reason,
        }),
        1 => DecisionEdit::Resume(Automatic::Starts, pool),
        2 => DecisionEdit::Pause(SetPause {
            what,
            pool,
            for_ms: u64::from(c % 3),
            reason,
        }),
        3 => DecisionEdit::Maintenance(SetMaintenance {
            target: Target::Node(name.into()),
            from_ms: cluster.now_ms + i64::from(c) * 1_000,
            for_ms: u64::from(a) * 1_000,
            reason,
        }),
        4 => {
            let newest = cluster.state.maintenance().last().map_or(0, |one| one.id);
            DecisionEdit::Cancel(newest)
        }
        5 => DecisionEdit::Owner(SetOwner {
            node: name.into(),
            team: ["default", "", "nobody"][usize::from(c) % 3].into(),
            guests: Guests::None,
            guest_grace_ms: u64::from(c),
        }),
        6 => DecisionEdit::Setting(SetSched {
            key: SchedKey::ALL[usize::from(c) % SchedKey::ALL.len()],
            class: None,
            values: vec![u64::from(a) * 10_000],
        }),
        _ => DecisionEdit::Pool(SetPool {
            pool: "default".into(),
            max_time_ms: Some(u64::from(c % 2) * 7_200_000),
            ..SetPool::default()
        }),
    };
    let admin = !c.is_multiple_of(16);
    let edits = vec![edit];
    cluster.run(person("root", admin), Body::Decide(Decide { edits }));
}

/// Something is found on a device, or nothing any more.
fn dirt(cluster: &mut Cluster, name: &str, a: u8) {
    let uuid = format!("{name}-{}", a % 2);
    let news = if a.is_multiple_of(3) {
        let why = "process 7 (python)".to_owned();
        DeviceNews::Dirty(vec![DirtyDevice { uuid, why }])
    } else {
        DeviceNews::Clean(vec![uuid])
    };
    cluster.news(name, news);
}

fn lose(cluster: &mut Cluster, name: &str, c: u8) {
    let (proof, actor) = match c % 5 {
        0 => (LossProof::NewBootId, system()),
        1 => (LossProof::Witness, system()),
        2 => (LossProof::DeclaredByAdmin, person("root", true)),
        _ => (LossProof::LostAfter, system()),
    };
    let lost = DeclareNodeLost {
        node: name.into(),
        boot_id: format!("boot-{name}"),
        proof,
    };
    cluster.run(actor, Body::DeclareNodeLost(lost));
}

/// Some job takes down what it runs on, up to three times.
fn poison(cluster: &mut Cluster, a: u8, b: usize) {
    let pending: Vec<JobId> = cluster.state.pending().map(|job| job.id).collect();
    let Some(job) = pending.get(usize::from(a) % pending.len().max(1)).copied() else {
        return;
    };
    for turn in 0..6 {
        cluster.now_ms += 10_000;
        start(cluster, a | 32, b + turn);
        let Some(attempt) = cluster.state.current_attempt(&cluster.job(job)).cloned() else {
            continue;
        };
        for one in attempt.allocations.iter().filter(|one| one.end.is_none()) {
            let lost = ended(EndKind::KeeperLost, 0);
            cluster.event(&one.node, job, attempt.epoch, lost);
        }
    }
}

/// A successor of some job takes over: often there is none.
fn supersede(cluster: &mut Cluster, a: u8) {
    let jobs: Vec<(JobId, Epoch)> = cluster
        .state
        .jobs()
        .filter_map(|job| Some((job.id, job.epoch()?)))
        .collect();
    if let Some((job, epoch)) = jobs.get(usize::from(a) % jobs.len().max(1)).copied() {
        let supersede = SupersedeAttempt { job, epoch };
        cluster.run(system(), Body::SupersedeAttempt(supersede));
    }
}

fn register(cluster: &mut Cluster, name: &str, a: u8) {
    let lost = cluster
        .state
        .nodes()
        .find(|node| node.liveness == Liveness::Lost)
        .map(|node| node.facts.name.clone());
    let name = &lost.unwrap_or_else(|| name.to_owned());
    let mut node = node(name, 1 + u32::from(a) % 2, "SIM");
    if a.is_multiple_of(5) {
        node.facts.boot_id = format!("boot-{name}-{}", a % 3);
    }
    cluster.register(&node);
}

/// Starts some job on its turn of nodes: often the right one, often not.
fn start(cluster: &mut Cluster, a: u8, b: usize) {
    let pending: Vec<JobId> = cluster.state.queue().map(|job| job.id).collect();
    let jobs = if a < 32 {
        cluster.state.jobs().map(|job| job.id).collect()
    } else {
        pending
    };
    let nodes: Vec<String> = cluster
        .state
        .nodes()
        .map(|node| node.facts.name.clone())
        .collect();
    let Some(job) = jobs.get(usize::from(a) % jobs.len().max(1)) else {
        return;
    };
    let record = cluster.job(*job);
    let count = cluster
        .state
        .request(&record)
        .map_or(1, |request| request.nodes as usize);
    let holder = record
        .checkpoints
        .last()
        .and_then(|one| one.parts.first()?.holders.first());
    let first = holder
        .and_then(|holder| nodes.iter().position(|name| name == holder))
        .filter(|_| !b.is_multiple_of(4))
        .unwrap_or(b);
    let names: Vec<&str> = (0..count)
        .map(|offset| nodes[(first + offset) % nodes.len()].as_str())
        .collect();
    let mut start = cluster.start(*job, &names);
    if let Some(array) = &record.array {
        let (slots, mut pending) = (1 + a % 3, array.pending.clone());
        let tasks = pending.take_lowest(u64::from(slots) + u64::from(a) % 5);
        start = cluster.wave(
            *job,
            names.first().copied().unwrap_or_default(),
            u32::from(slots),
            tasks,
        );
    }
    if b.is_multiple_of(7) {
        start.resume_from.clear();
    }
    cluster.propose(vec![start.clone(), start]);
}

fn event(cluster: &mut Cluster, a: u8, b: u8, c: u8) {
    let open: Vec<(JobId, Epoch)> = cluster
        .state
        .active_attempts()
        .map(|one| (one.job, one.epoch))
        .collect();
    let all: Vec<(JobId, Epoch)> = cluster
        .state
        .attempts()
        .map(|one| (one.job, one.epoch))
        .collect();
    let from = if a.is_multiple_of(8) { all } else { open };
    let Some((job, epoch)) = from.get(usize::from(a) % from.len().max(1)).copied() else {
        return;
    };
    let Some(attempt) = cluster
        .state
        .attempt(job, epoch)
        .map(|one| Attempt::clone(one))
    else {
        return;
    };
    let position = usize::from(b) % attempt.allocations.len();
    let rank = position as u32;
    let what = match c % 8 {
        0 | 2..=4 | 6 if attempt.wave.is_some() => tasks(&attempt, a, b, c),
        0 | 1 => Happening::RanksStarted,
        2 => exit(rank, 0, 0, false),
        3 => exit(
            rank,
            i32::from(c) % 5,
            i32::from(b) % 2,
            b.is_multiple_of(3),
        ),
        4 | 6 => sealed(&format!("step-{}", c / 8), u64::from(c / 8)),
        5 => ended(EndKind::Exited, 0),
        _ => ended(ENDS[usize::from(b) % ENDS.len()], i32::from(c % 2)),
    };
    cluster.event(&attempt.allocations[position].node, job, epoch, what);
}
