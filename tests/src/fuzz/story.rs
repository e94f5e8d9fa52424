//! The short life of a small cluster, as commands: each kind of command occurs, and most are accepted.
//! Does NOT cover what commands do: their own tests and the simulator do.

use mlctl_coordinator::state::commands::{
    AgentEvent, AgentEvents, ArchiveJobs, Bootstrap, CancelJobs, ChangeCheckpoints, ChangeSettings,
    ChangeTeams, CheckpointAction, DeclareNodeLost, DeviceNews, Happening, IdempotencyKey,
    LossProof, NamedCheckpoint, NewMember, News, PartOf, Placement, Preempt, PreemptVictim,
    RegisterNode, RemoveTeam, RenewCharges, RetryJobs, SealedPart, SetBudget, SetMembers,
    SetNodeLiveness, SetQuota, SetTeam, StartAttempt, StartAttempts, SubmitJob, TasksEnded,
    TeamEdit, Withdraw,
};
use mlctl_coordinator::state::records::{
    Actor, Budget, Device, DirtyDevice, End, EndKind, Liveness, NodeFacts, RankExit, Retention,
    TaskGroup, TeamLimit, Timers, Wave, WhenExhausted, Window, Zone,
};
use mlctl_coordinator::state::rules::entitlement::Entitlement;
use mlctl_coordinator::state::rules::taking::Taken;
use mlctl_coordinator::state::view::jobs::{Class, Footing};
use mlctl_coordinator::state::view::teams::{Flavor, Limit};
use mlctl_coordinator::state::{Body, Command, State, codec};
use mlctl_proto::ids::{Epoch, JobId};
use mlctl_proto::spec::{self, ArraySpec, Cause, JobSpec, Ranges, RetrySpec};

/// The commands, in order.
pub(super) fn commands() -> Vec<Command> {
    let mut story = Story::default();
    let (ann, system) = (person(), system());
    story.tell(&system, bootstrap());
    for name in ["a", "b", "c"] {
        story.tell(&system, registered(name));
        story.tell(&system, liveness(name, Liveness::Ready));
    }
    for (nodes, gpus) in [(1, 1), (2, 2), (1, 0), (2, 1), (1, 1), (1, 2)] {
        story.tell(&ann, submitted(nodes, gpus));
    }
    story.run_jobs(&system);
    story.change_minds(&ann, &system);
    story.lose_a_node(&system);
    story.run_an_array(&ann, &system);
    story.tell(&ann, teams());
    let renew = RenewCharges { most: 10 };
    story.tell(&system, Body::RenewCharges(renew));
    story.told[8].key = Some(IdempotencyKey {
        uuid: [7; 16],
        request_hash: [9; 32],
    });
    story.told
}

/// What was told so far.
#[derive(Default)]
struct Story {
    told: Vec<Command>,
}

impl Story {
    fn tell(&mut self, actor: &Actor, body: Body) {
        let time_ms = 1_000 + 100 * self.told.len() as i64;
        self.told.push(Command {
            actor: actor.clone(),
            source: "story".into(),
            time_ms,
            key: None,
            body,
        });
    }

    /// Three jobs start; one of them ends, one fails on a node with dirty devices.
    fn run_jobs(&mut self, system: &Actor) {
        self.tell(system, started(1, 1, &[("a", &["a-0"])]));
        let both: [(&str, &[&str]); 2] = [("b", &["b-0", "b-1"]), ("c", &["c-0", "c-1"])];
        self.tell(system, started(2, 1, &both));
        self.tell(system, started(3, 1, &[("a", &[])]));
        let news = vec![running(1), running(3), sealed(1), exit(3, 0), ended(3, 0)];
        self.tell(system, reported("a", 1, news));
        self.tell(system, reported("b", 1, vec![running(2)]));
        self.tell(system, devices("c", 1, dirty("c-1")));
        let clean = DeviceNews::Clean(vec!["c-1".into()]);
        self.tell(system, devices("c", 2, clean));
        self.tell(system, devices("c", 3, dirty("c-0")));
        self.tell(system, reported("c", 4, vec![running(2), exit(2, 1)]));
    }

    /// People cancel, retry, pin and change settings.
    fn change_minds(&mut self, ann: &Actor, system: &Actor) {
        let jobs = vec![JobId::new(1, 5)];
        self.tell(ann, Body::CancelJobs(CancelJobs::of(jobs)));
        self.tell(ann, changed());
        self.tell(system, reported("b", 2, vec![ended(2, 1)]));
        let jobs = vec![JobId::new(1, 3), JobId::new(1, 4), JobId::new(1, 5)];
        self.tell(ann, Body::RetryJobs(RetryJobs { jobs }));
        self.tell(ann, pinned(1, "step-5"));
    }

    fn lose_a_node(&mut self, system: &Actor) {
        let lost = DeclareNodeLost {
            node: "c".into(),
            boot_id: "boot-c".into(),
            proof: LossProof::LostAfter,
        };
        self.tell(system, liveness("c", Liveness::Unreachable));
        self.tell(system, Body::DeclareNodeLost(lost));
        self.tell(system, Body::ArchiveJobs(ArchiveJobs { most: 100 }));
    }

    /// A wave of an array starts, and is ended for another job, which then lets go of it.
    fn run_an_array(&mut self, ann: &Actor, system: &Actor) {
        // Jobs 7 and 8 are those that were tried again.
        self.tell(ann, array());
        self.tell(system, wave(9));
        self.tell(system, reported("a", 6, vec![running(9), tasks(9)]));
        self.tell(ann, urgent());
        self.tell(system, preempt(10, 9));
        let jobs = vec![JobId::new(1, 10)];
        self.tell(system, Body::Withdraw(Withdraw { jobs }));
    }
}

/// The same, as the log has them.
pub(super) fn encoded() -> Vec<Vec<u8>> {
    let commands = commands();
    let encode = |command| codec::encode_command(command).expect("the story is short");
    commands.iter().map(encode).collect()
}

/// How many commands of the story lie before its middle.
pub(super) const MIDDLE: usize = 22;

/// The state in the middle of the story: jobs of every kind, two of them running.
pub(super) fn state() -> State {
    after(MIDDLE)
}

/// The state at the end: some jobs are history.
pub(super) fn end() -> State {
    after(usize::MAX)
}

fn after(count: usize) -> State {
    let mut state = State::new();
    for (number, command) in commands().iter().take(count).enumerate() {
        state.apply(number as u64 + 1, command);
    }
    state
}

fn person() -> Actor {
    Actor {
        user_id: "id-ann".into(),
        name: "ann".into(),
        admin: true,
        system: false,
    }
}

fn system() -> Actor {
    Actor {
        user_id: "coordinator".into(),
        name: "coordinator".into(),
        admin: false,
        system: true,
    }
}

fn bootstrap() -> Body {
    Body::Bootstrap(Bootstrap {
        cluster_id: "story".into(),
        cluster_name: "story".into(),
        incarnation: 1,
        dev: true,
        allow_root: false,
        timers: Timers::DEV,
        retention: Retention::default(),
    })
}

fn pinned(job: u64, name: &str) -> Body {
    Body::ChangeCheckpoints(ChangeCheckpoints {
        job: JobId::new(1, job),
        which: vec![NamedCheckpoint {
            name: name.into(),
            attempt: 0,
        }],
        action: CheckpointAction::Pin,
    })
}

fn changed() -> Body {
    Body::ChangeSettings(ChangeSettings {
        allow_root: Some(true),
        keep_finished: Some(1),
        keep_finished_days: Some(1),
    })
}

fn registered(name: &str) -> Body {
    let device = |index| Device {
        uuid: format!("{name}-{index}"),
        index,
        model: "SIM".into(),
        memory_bytes: 1 << 30,
        pci_bus_id: String::new(),
        simulated: true,
        numa_node: None,
    };
    let facts = NodeFacts {
        name: name.into(),
        boot_id: format!("boot-{name}"),
        pool: "default".into(),
        devices: (0..2).map(device).collect(),
        cpus: 4,
        labels: [("rack".to_owned(), "1".to_owned())].into(),
        ..NodeFacts::default()
    };
    let journal_id = format!("journal-{name}");
    Body::RegisterNode(RegisterNode { facts, journal_id })
}

fn liveness(name: &str, liveness: Liveness) -> Body {
    Body::SetNodeLiveness(SetNodeLiveness {
        node: name.into(),
        boot_id: format!("boot-{name}"),
        liveness,
    })
}

fn submitted(nodes: u32, gpus: u32) -> Body {
    let mut spec = JobSpec::new(vec!["train".into(), format!("{nodes}x{gpus}")]);
    (spec.nodes, spec.gpus) = (nodes, gpus);
    spec.retry = (gpus == 2).then(|| RetrySpec {
        max: 2,
        on: vec![Cause::NodeLost, Cause::Exit(1)],
    });
    Body::SubmitJob(SubmitJob {
        spec: spec.canonical_json(),
        code_manifest: "ab".repeat(32),
        code_bytes: 10,
        traceparent: String::new(),
        submitter_uid: 1_000,
    })
}

fn started(job: u64, epoch: u64, places: &[(&str, &[&str])]) -> Body {
    let placement = |(node, devices): &(&str, &[&str])| Placement {
        node: (*node).into(),
        boot_id: format!("boot-{node}"),
        devices: devices.iter().map(|uuid| (*uuid).to_owned()).collect(),
    };
    let start = StartAttempt {
        job: JobId::new(1, job),
        epoch: Epoch::new(1, epoch),
        placements: places.iter().map(placement).collect(),
        resume_from: String::new(),
        wave: None,
        footing: Footing::Regular,
    };
    let starts = vec![start];
    Body::StartAttempts(StartAttempts { starts })
}

fn array() -> Body {
    without_code(&JobSpec {
        array: ArraySpec::parse("0-9,20-29%4").ok(),
        class: spec::Class::Low,
        ..JobSpec::new(vec!["sweep".into()])
    })
}

/// Others end for it.
fn urgent() -> Body {
    without_code(&JobSpec {
        class: mlctl_proto::spec::Class::High,
        ..JobSpec::new(vec!["urgent".into()])
    })
}

fn without_code(spec: &JobSpec) -> Body {
    Body::SubmitJob(SubmitJob {
        spec: spec.canonical_json(),
        code_manifest: String::new(),
        code_bytes: 0,
        traceparent: String::new(),
        submitter_uid: 1_000,
    })
}

/// Every kind of edit.
fn teams() -> Body {
    let flavor = Flavor {
        kind: "sim".into(),
        pool: None,
    };
    let made = |team: &str| {
        TeamEdit::Team(SetTeam {
            team: team.into(),
            weight: Some(2),
            limits: vec![(TeamLimit::MaxRunning, Some(9))],
            max_class: None,
        })
    };
    let quota = TeamEdit::Quota(SetQuota {
        team: "default".into(),
        flavor: flavor.clone(),
        nominal: Some(28_000),
        borrow: Some(Limit::Units(7_000)),
        lend: Some(Limit::Unlimited),
        per_user: Some(Limit::Units(21_000)),
        remove: false,
    });
    let member = NewMember {
        user_id: "id-ann".into(),
        name: "ann".into(),
        default: true,
    };
    let members = TeamEdit::Members(SetMembers {
        team: "acme".into(),
        add: vec![member],
        remove: Vec::new(),
    });
    let budget = TeamEdit::Budget(SetBudget {
        team: "default".into(),
        flavor,
        budget: Some(Budget {
            limit: 1 << 50,
            window: Window::Month(Zone::utc()),
            when_exhausted: WhenExhausted::Hold,
            until_ms: 0,
        }),
    });
    let remove = TeamEdit::Remove(RemoveTeam {
        team: "gone".into(),
    });
    let edits = vec![made("acme"), made("gone"), quota, members, budget, remove];
    Body::ChangeTeams(ChangeTeams { edits })
}

fn wave(job: u64) -> Body {
    let Body::StartAttempts(mut plan) = started(job, 1, &[("a", &[])]) else {
        unreachable!("it is a plan");
    };
    plan.starts[0].wave = Some(Wave::new(2, Ranges::span(0, 5)));
    Body::StartAttempts(plan)
}

/// One job's first attempt ends for another.
fn preempt(job: u64, victim: u64) -> Body {
    let entitled = |cover, class| Entitlement { cover, class };
    let victim = PreemptVictim {
        job: JobId::new(1, victim),
        epoch: Epoch::new(1, 1),
        entitlement: entitled(0, Class::Low),
        why: Taken::Entitlement,
    };
    Body::Preempt(Preempt {
        job: JobId::new(1, job),
        entitlement: entitled(0, Class::Normal),
        victims: vec![victim],
        seats: vec![Placement {
            node: "a".into(),
            boot_id: "boot-a".into(),
            devices: Vec::new(),
        }],
    })
}

fn running(job: u64) -> (u64, Happening) {
    (job, Happening::RanksStarted)
}

fn tasks(job: u64) -> (u64, Happening) {
    let group = |code, tasks| TaskGroup {
        kind: EndKind::Exited,
        code,
        tasks,
    };
    let ended = TasksEnded {
        groups: vec![group(0, Ranges::one(0)), group(1, Ranges::span(2, 3))],
        first_failed: Some(3),
        spoke: Ranges::span(2, 3),
    };
    (job, Happening::TasksEnded(ended))
}

fn reported(node: &str, first: u64, what: Vec<(u64, Happening)>) -> Body {
    let event = |(seq, (job, what)): (u64, (u64, Happening))| {
        let (job, epoch) = (JobId::new(1, job), Epoch::new(1, 1));
        let news = News::OfAttempt { job, epoch, what };
        AgentEvent { seq, news }
    };
    Body::AgentEvents(AgentEvents {
        node: node.into(),
        journal_id: format!("journal-{node}"),
        events: (first..).zip(what).map(event).collect(),
    })
}

fn devices(node: &str, seq: u64, news: DeviceNews) -> Body {
    let news = News::OfDevices(news);
    Body::AgentEvents(AgentEvents {
        node: node.into(),
        journal_id: format!("journal-{node}"),
        events: vec![AgentEvent { seq, news }],
    })
}

fn dirty(uuid: &str) -> DeviceNews {
    DeviceNews::Dirty(vec![DirtyDevice {
        uuid: uuid.into(),
        why: "process 7 (python)".into(),
    }])
}

fn sealed(job: u64) -> (u64, Happening) {
    let sealed = SealedPart {
        name: "step-5".to_owned(),
        step: 5,
        part: Some(PartOf {
            index: 0,
            manifest: Some([5; 32]),
            bytes: 9,
        }),
        parts: 1,
        metric: Some(7),
        save_ms: 3,
    };
    (job, Happening::CheckpointSealed(sealed))
}

fn exit(job: u64, code: i32) -> (u64, Happening) {
    let exit = RankExit {
        rank: 0,
        code,
        signal: 0,
        killed_by_us: false,
        oom: None,
    };
    (job, Happening::RankExited(exit))
}

fn ended(job: u64, code: i32) -> (u64, Happening) {
    let end = End {
        code,
        ..End::of(EndKind::Exited)
    };
    (job, Happening::AllocationEnded(end))
}

#[cfg(test)]
mod tests {
    use super::*;
    use mlctl_coordinator::state::records::Reply;

    /// The seeds are worth what they reach.
    #[test]
    fn the_story_is_accepted() {
        let mut state = State::new();
        let mut refused = Vec::new();
        for (number, command) in commands().iter().enumerate() {
            let applied = state.apply(number as u64 + 1, command);
            refused.extend(applied.refusal().map(|why| format!("{number}: {why}")));
            if let Reply::Started { refused: some, .. } = applied.reply {
                refused.extend(some.iter().map(|(_, why)| format!("{number}: {why}")));
            }
        }
        assert_eq!(refused, Vec::<String>::new());
        let middle = super::state();
        assert!(middle.active_attempts().count() >= 2);
        assert!(middle.pending().count() >= 2);
    }
}
