//! A small cluster for tests: applies commands as the log would, through their bytes, and checks every invariant after each.
pub(crate) mod script;

use std::collections::BTreeMap;

use mlctl_proto::ids::{Epoch, JobId};
use mlctl_proto::spec::{ArraySpec, JobSpec, Ranges};

use super::codec::{decode_command, encode_command};
use super::commands::{
    AgentEvent, AgentEvents, Bootstrap, CopyNews, DeclareNodeLost, DeviceNews, Happening,
    IdempotencyKey, LossProof, News, Placement, Preempt, PreemptVictim, RegisterNode, SealedPart,
    SetNodeLiveness, StartAttempt, StartAttempts, SubmitJob, TasksEnded,
};
use super::invariants::{check, check_step};
use super::records::{
    Actor, Admin, Device, End, EndKind, Health, Job, Liveness, Node, NodeFacts, Power, RankExit,
    Reply, Retention, TaskGroup, Timers, Wave,
};
use super::rules::entitlement::Entitlement;
use super::rules::taking::Taken;
use super::view::jobs::{Class, Footing};
use super::{Applied, Body, Command, State};

pub(crate) fn person(name: &str, admin: bool) -> Actor {
    Actor {
        user_id: format!("id-{name}"),
        name: name.into(),
        admin,
        system: false,
    }
}

pub(crate) fn system() -> Actor {
    Actor {
        user_id: "coordinator".into(),
        name: "coordinator".into(),
        admin: false,
        system: true,
    }
}

pub(crate) fn command(actor: Actor, time_ms: i64, body: Body) -> Command {
    Command {
        actor,
        source: "test".into(),
        time_ms,
        key: None,
        body,
    }
}

pub(crate) fn bootstrap() -> Bootstrap {
    Bootstrap {
        cluster_id: "c".into(),
        cluster_name: "test".into(),
        incarnation: 1,
        dev: true,
        allow_root: false,
        timers: Timers::DEV,
        retention: Retention {
            keep_finished: 2,
            segment_bytes: 4 << 10,
            ..Retention::default()
        },
    }
}

/// A Ready node with so many devices `NAME-0`, `NAME-1`, … and two CPUs.
pub(crate) fn node(name: &str, gpus: u32, model: &str) -> Node {
    let device = |index| Device {
        uuid: format!("{name}-{index}"),
        index,
        model: model.into(),
        memory_bytes: 1 << 30,
        pci_bus_id: String::new(),
        simulated: model == "SIM",
        numa_node: (index % 2 == 0).then_some(index),
    };
    let facts = NodeFacts {
        name: name.into(),
        boot_id: format!("boot-{name}"),
        pool: "default".into(),
        devices: (0..gpus).map(device).collect(),
        cpus: 2,
        ..NodeFacts::default()
    };
    Node {
        facts,
        journal_id: format!("journal-{name}"),
        event_mark: 0,
        liveness: Liveness::Ready,
        admin: Admin::Open,
        health: Health::Ok,
        power: Power::On,
        since_ms: 0,
        dirty: Vec::new(),
    }
}

pub(crate) fn spec(nodes: u32, gpus: u32) -> JobSpec {
    JobSpec {
        nodes,
        gpus,
        ..JobSpec::new(vec!["true".into()])
    }
}

pub(crate) fn array_spec(array: &str, gpus: u32) -> JobSpec {
    JobSpec {
        gpus,
        array: Some(ArraySpec::parse(array).expect("good")),
        ..JobSpec::new(vec!["true".into()])
    }
}

/// Tasks of a wave exited with this code.
pub(crate) fn tasks_ended(code: i32, tasks: Ranges) -> Happening {
    let group = TaskGroup {
        kind: EndKind::Exited,
        code,
        tasks,
    };
    Happening::TasksEnded(TasksEnded {
        groups: vec![group],
        first_failed: None,
        spoke: Ranges::new(),
    })
}

pub(crate) fn exit(rank: u32, code: i32, signal: i32, killed_by_us: bool) -> Happening {
    Happening::RankExited(RankExit {
        rank,
        code,
        signal,
        killed_by_us,
        oom: None,
    })
}

pub(crate) fn ended(kind: EndKind, code: i32) -> Happening {
    Happening::AllocationEnded(End {
        code,
        ..End::of(kind)
    })
}

pub(crate) fn sealed(name: &str, step: u64) -> Happening {
    Happening::CheckpointSealed(SealedPart {
        name: name.into(),
        step,
        part: None,
        parts: 0,
        metric: None,
        save_ms: 0,
    })
}

/// A state with its log.
#[derive(Clone)]
pub(crate) struct Cluster {
    pub state: State,
    pub now_ms: i64,
    /// Whether invariants are checked after each command; they cost the whole state.
    pub checked: bool,
    seqs: BTreeMap<String, u64>,
    log: Vec<Command>,
}

impl Cluster {
    /// A cluster that was set up and has no node.
    pub fn new() -> Self {
        let mut cluster = Self {
            state: State::new(),
            now_ms: 1_000,
            checked: true,
            seqs: BTreeMap::new(),
            log: Vec::new(),
        };
        assert_eq!(
            cluster.run(system(), Body::Bootstrap(bootstrap())).reply,
            Reply::Done
        );
        cluster
    }

    pub fn apply(&mut self, command: &Command) -> Applied {
        let bytes = encode_command(command).expect("a test's command is short");
        assert_eq!(decode_command(&bytes).as_ref(), Ok(command));
        self.log.push(command.clone());
        let before = self.state.clone();
        let applied = self.state.apply(before.applied_index() + 1, command);
        if self.checked {
            assert_eq!(check(&self.state), [], "after {command:?}");
            assert_eq!(check_step(&before, &self.state), [], "after {command:?}");
        }
        if applied.refusal().is_some() {
            assert_eq!(
                self.state.digest(),
                before.digest(),
                "a refused command changed something: {command:?}"
            );
        }
        applied
    }

    /// Every command that was applied, the refused ones included.
    pub fn log(&self) -> &[Command] {
        &self.log
    }

    pub fn run(&mut self, actor: Actor, body: Body) -> Applied {
        self.now_ms += 1;
        self.apply(&command(actor, self.now_ms, body))
    }

    pub fn register(&mut self, node: &Node) -> Applied {
        let register = RegisterNode {
            facts: node.facts.clone(),
            journal_id: node.journal_id.clone(),
        };
        self.run(system(), Body::RegisterNode(register))
    }

    /// Writes a node as no command can yet: cordoned, say.
    pub fn plant(&mut self, node: Node) {
        self.state.put_node(node);
        self.state.settle(&mut Vec::new());
    }

    pub fn gpu_node(&mut self, name: &str, gpus: u32) {
        let applied = self.register(&node(name, gpus, "SIM"));
        assert_eq!(applied.reply, Reply::Done);
    }

    pub fn submit(&self, user: &str, argv: &[&str]) -> Command {
        let spec = JobSpec::new(argv.iter().map(|word| (*word).to_owned()).collect());
        command(person(user, false), self.now_ms, submit_body(&spec))
    }

    pub fn submit_keyed(
        &self,
        user: &str,
        argv: &[&str],
        uuid: [u8; 16],
        request_hash: [u8; 32],
    ) -> Command {
        Command {
            key: Some(IdempotencyKey { uuid, request_hash }),
            ..self.submit(user, argv)
        }
    }

    pub fn submitted(&mut self, user: &str, nodes: u32, gpus: u32) -> JobId {
        self.submitted_spec(user, &spec(nodes, gpus))
    }

    pub fn submitted_spec(&mut self, user: &str, spec: &JobSpec) -> JobId {
        match self.run(person(user, false), submit_body(spec)).reply {
            Reply::Submitted { job } => job,
            other => panic!("{other:?}"),
        }
    }

    /// A start of `job` on these nodes with the first free devices, resuming from its newest checkpoint, if it has one.
    pub fn start(&self, job: JobId, nodes: &[&str]) -> StartAttempt {
        let job = self.job(job);
        let gpus = self.state.request(&job).expect("it has a spec").gpus as usize;
        let placement = |name: &&str| {
            let node = self.state.node(name).expect("the node is there");
            let free = node
                .facts
                .devices
                .iter()
                .filter(|device| self.state.device_holder(name, &device.uuid).is_none());
            let devices = free.take(gpus).map(|device| device.uuid.clone()).collect();
            Placement {
                node: (*name).into(),
                boot_id: node.facts.boot_id.clone(),
                devices,
            }
        };
        StartAttempt {
            job: job.id,
            epoch: Epoch::new(job.id.incarnation, job.epoch_counter + 1),
            placements: nodes.iter().map(placement).collect(),
            resume_from: job
                .checkpoints
                .iter()
                .rfind(|one| one.is_whole())
                .map(|one| one.name.clone())
                .unwrap_or_default(),
            wave: None,
            footing: Footing::Regular,
        }
    }

    /// A start of `tasks` of an array, so many at once, with the first free devices of `node`.
    pub fn wave(&self, job: JobId, node: &str, slots: u32, tasks: Ranges) -> StartAttempt {
        let mut start = self.start(job, &[node]);
        let gpus = self.state.request(&self.job(job)).map_or(0, |one| one.gpus) * slots;
        let free = |device: &&Device| self.state.device_holder(node, &device.uuid).is_none();
        if let (Some(placement), Some(record)) =
            (start.placements.first_mut(), self.state.node(node))
        {
            let free = record.facts.devices.iter().filter(free);
            let devices = free.take(gpus as usize).map(|device| device.uuid.clone());
            placement.devices = devices.collect();
        }
        start.wave = Some(Wave::new(slots, tasks));
        start
    }

    /// A preemption for `job` on the first devices of these nodes that are free or held by others: these end, and the plan says that they may.
    pub fn preempt(&self, job: JobId, nodes: &[&str], why: Taken) -> Preempt {
        let record = self.job(job);
        let gpus = self
            .state
            .request(&record)
            .map_or(0, |one| one.gpus as usize);
        let mut victims: Vec<(JobId, Epoch)> = Vec::new();
        let mut seats = Vec::new();
        for name in nodes {
            let node = self.state.node(name).expect("the node is there");
            let kept = |uuid: &str| self.state.held_for(name, uuid).is_some();
            let devices = node.facts.devices.iter().map(|device| device.uuid.clone());
            let devices: Vec<String> = devices.filter(|uuid| !kept(uuid)).take(gpus).collect();
            let mut holders: Vec<(JobId, Epoch)> = (devices.iter())
                .filter_map(|uuid| self.state.device_holder(name, uuid))
                .collect();
            if gpus == 0 {
                holders = self.state.open_allocations_on(name);
            }
            victims.extend(holders.into_iter().filter(|(holder, _)| *holder != job));
            seats.push(Placement {
                node: (*name).into(),
                boot_id: node.facts.boot_id.clone(),
                devices,
            });
        }
        victims.sort_unstable();
        victims.dedup();
        let entitled = |cover, class| Entitlement { cover, class };
        let victim = |(job, epoch): (JobId, Epoch)| PreemptVictim {
            job,
            epoch,
            entitlement: entitled(0, Class::Low),
            why,
        };
        Preempt {
            job,
            entitlement: entitled(9, Class::Critical),
            victims: victims.into_iter().map(victim).collect(),
            seats,
        }
    }

    /// The start of a job on what is kept for it.
    pub fn start_kept(&self, job: JobId) -> Option<StartAttempt> {
        let hold = self.state.hold_of(job)?.clone();
        let nodes: Vec<&str> = hold.seats.iter().map(|seat| seat.node.as_str()).collect();
        let mut start = self.start(job, &nodes);
        for (placement, seat) in start.placements.iter_mut().zip(&hold.seats) {
            placement.devices.clone_from(&seat.devices);
        }
        if let Some(array) = &self.job(job).array {
            start.wave = Some(Wave::new(1, array.pending.clone().take_lowest(1)));
        }
        Some(start)
    }

    pub fn propose(&mut self, starts: Vec<StartAttempt>) -> Applied {
        self.run(system(), Body::StartAttempts(StartAttempts { starts }))
    }

    pub fn started(&mut self, job: JobId, nodes: &[&str]) -> Epoch {
        let start = self.start(job, nodes);
        let epoch = start.epoch;
        let reply = self.propose(vec![start]).reply;
        assert_eq!(
            reply,
            Reply::Started {
                jobs: vec![job],
                refused: vec![]
            }
        );
        epoch
    }

    pub fn lose(&mut self, name: &str) {
        let (node, boot_id) = (name.to_owned(), format!("boot-{name}"));
        let lost = DeclareNodeLost {
            node,
            boot_id,
            proof: LossProof::LostAfter,
        };
        self.run(system(), Body::DeclareNodeLost(lost));
    }

    pub fn silence(&mut self, name: &str) {
        let (node, boot_id) = (name.to_owned(), format!("boot-{name}"));
        let silent = SetNodeLiveness {
            node,
            boot_id,
            liveness: Liveness::Unreachable,
        };
        self.run(system(), Body::SetNodeLiveness(silent));
    }

    /// The next event of a node's journal.
    pub fn event(&mut self, node: &str, job: JobId, epoch: Epoch, what: Happening) -> Applied {
        self.said(node, News::OfAttempt { job, epoch, what })
    }

    /// The next event of a node's journal: of a copy that it holds or held.
    pub fn copy(&mut self, node: &str, (job, epoch): (JobId, Epoch), what: CopyNews) -> Applied {
        self.said(node, News::OfCopy { job, epoch, what })
    }

    /// The next event of a node's journal: of its devices.
    pub fn news(&mut self, node: &str, news: DeviceNews) -> Applied {
        self.said(node, News::OfDevices(news))
    }

    fn said(&mut self, node: &str, news: News) -> Applied {
        let seq = self.seqs.entry(node.into()).or_default();
        *seq += 1;
        let event = AgentEvent { seq: *seq, news };
        self.report(node, vec![event])
    }

    pub fn report(&mut self, node: &str, events: Vec<AgentEvent>) -> Applied {
        let journal_id = format!("journal-{node}");
        self.run(
            system(),
            Body::AgentEvents(AgentEvents {
                node: node.into(),
                journal_id,
                events,
            }),
        )
    }

    pub fn running(&mut self, job: JobId, epoch: Epoch) {
        let attempt = self
            .state
            .attempt(job, epoch)
            .cloned()
            .expect("it was started");
        for allocation in &attempt.allocations {
            self.event(&allocation.node, job, epoch, Happening::RanksStarted);
        }
    }

    pub fn ended(&mut self, node: &str, job: JobId, epoch: Epoch, kind: EndKind) -> Applied {
        self.event(node, job, epoch, ended(kind, 0))
    }

    pub fn job(&self, id: JobId) -> Job {
        self.state
            .job(id)
            .map(|job| Job::clone(job))
            .expect("the job is there")
    }
}

pub(crate) fn submit_body(spec: &JobSpec) -> Body {
    Body::SubmitJob(SubmitJob {
        spec: spec.canonical_json(),
        code_manifest: String::new(),
        code_bytes: 0,
        traceparent: String::new(),
        submitter_uid: 0,
    })
}
