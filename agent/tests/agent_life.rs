//! A real agent with a real launcher, keepers and ranks, against a leader that the test plays: jobs run, agents and keepers die.
//! Does NOT test the coordinator's side.

mod leader;
mod processes;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use leader::{Leader, PATIENCE, ca};
use mlctl_agent::{Config, run};
use mlctl_blobs::code::{Entry, Manifest};
use mlctl_proto::agent::leader_message::What;
use mlctl_proto::agent::{
    Announce, AttemptPhase, Forget, Go, Member, PartKey, Restore, RestorePart, SealPart,
    StartAllocation, StopAllocation, agent_message,
};
use mlctl_proto::persist::{
    AgentEvent, AttemptEnd, CheckpointPart, CheckpointSealed, EndKind, Id, agent_event,
};
use mlctl_proto::spec::{CheckpointSpec, JobSpec};
use mlctl_runtime::identity::Ca;
use mlctl_runtime::shutdown::Shutdown;
use tokio::runtime::Runtime;

/// A node: data directory, launcher, and the agent that runs on it now.
struct Node {
    root: PathBuf,
    launcher: Child,
    agent: Option<(Runtime, Shutdown)>,
    coordinators: Vec<String>,
}

impl Node {
    fn new(root: &Path, ca: &Ca, coordinators: Vec<String>) -> Self {
        ca.issue_node("n1")
            .expect("issued")
            .write(&root.join("identity"))
            .expect("written");
        std::fs::write(root.join("boot"), "boot-1").expect("written");
        let config = root.join("agent.toml");
        let text = format!(
            "name = 'n1'\ndata_dir = '{0}/data'\nidentity = '{0}/identity'\ncoordinators = {1:?}\nrank_address = '127.0.0.11'\n\
             boot_id_file = '{0}/boot'\nsimulated_gpus = 2\nnvml_path = '/nonexistent/libnvidia-ml.so.1'\n",
            root.display(),
            coordinators
        );
        std::fs::write(&config, text).expect("written");
        std::fs::create_dir_all(root.join("data/jobs")).expect("made");
        let launcher = Command::new(processes::program())
            .args(["launcher", "--config"])
            .arg(&config)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("started");
        let socket = root.join("data/launcher.sock");
        let end = Instant::now() + PATIENCE;
        while !socket.exists() {
            assert!(Instant::now() < end, "the launcher listens");
            std::thread::sleep(Duration::from_millis(5));
        }
        let mut node = Self {
            root: root.to_owned(),
            launcher,
            agent: None,
            coordinators,
        };
        node.start_agent();
        node
    }

    fn start_agent(&mut self) {
        let config = Config::load(&self.root.join("agent.toml")).expect("a good configuration");
        assert_eq!(config.coordinators, self.coordinators);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("built");
        let shutdown = Shutdown::new();
        let asked = shutdown.clone();
        runtime.spawn(async move { run(config, asked).await.expect("the agent runs") });
        self.agent = Some((runtime, shutdown));
    }

    /// As a kill does it: nothing is finished, nothing is said.
    fn kill_agent(&mut self) {
        if let Some((runtime, _)) = self.agent.take() {
            // A runtime must not be ended by a thread that runs another.
            let ending =
                std::thread::spawn(move || runtime.shutdown_timeout(Duration::from_secs(5)));
            ending.join().expect("ended");
        }
    }

    fn keeper_pid(&self, job: u64, epoch: u64) -> i32 {
        let path = self
            .root
            .join(format!("data/jobs/{job}/{epoch}/keeper.json"));
        let identity: mlctl_agent::keeper::Identity =
            serde_json::from_slice(&std::fs::read(path).expect("there")).expect("JSON");
        i32::try_from(identity.pid).expect("a pid")
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill_agent();
        mlctl_agent::cgroup::Base::discard(&self.root.join("data"));
        let jobs = std::fs::read_dir(self.root.join("data/jobs"))
            .into_iter()
            .flatten()
            .flatten();
        let attempts = jobs.flat_map(|job| {
            std::fs::read_dir(job.path())
                .into_iter()
                .flatten()
                .flatten()
        });
        for attempt in attempts {
            let identity = std::fs::read(attempt.path().join("keeper.json")).ok();
            let identity = identity.and_then(|bytes| {
                serde_json::from_slice::<mlctl_agent::keeper::Identity>(&bytes).ok()
            });
            // A keeper that was released removed its socket; only one that still listens is killed.
            if let (Some(identity), true) = (identity, attempt.path().join("keeper.sock").exists())
            {
                // A keeper that a test killed left its socket behind, and is no more.
                let pid = nix::unistd::Pid::from_raw(identity.pid.cast_signed());
                let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
            }
        }
        // Both fail only when it has ended already.
        let _ = self.launcher.kill();
        let _ = self.launcher.wait();
    }
}

fn id(counter: u64) -> Option<Id> {
    Some(Id {
        incarnation: 1,
        counter,
    })
}

fn start(job: u64, epoch: u64, script: &str) -> StartAllocation {
    let mut spec = JobSpec::new(vec!["sh".into(), "-c".into(), script.into()]);
    spec.checkpoint = Some(CheckpointSpec::in_dir("ckpt"));
    let member = Member {
        node: "n1".into(),
        rank_address: "127.0.0.11".into(),
        devices: vec![],
    };
    StartAllocation {
        job: id(job),
        epoch: id(epoch),
        job_name: "test".into(),
        owner_name: "ada".into(),
        spec: spec.canonical_json(),
        members: vec![member],
        traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into(),
        allow_root: true,
        ..StartAllocation::default()
    }
}

/// Connected, and nothing asked yet.
async fn connected(leader: &mut Leader) {
    let first = |message: &agent_message::What, _: &[AgentEvent]| {
        matches!(message, agent_message::What::Heartbeat(_)).then_some(())
    };
    leader.until("heartbeat", first).await;
}

/// Starts an attempt and lets it go once it is ready.
async fn set_off(leader: &mut Leader, start: StartAllocation) {
    let (job, epoch) = (start.job, start.epoch);
    leader.say(What::Start(start)).await;
    let port = leader.until("Ready", |message, _| match message {
        agent_message::What::Ready(ready) if ready.job == job => Some(ready.master_port),
        _ => None,
    });
    let master_port = port.await;
    assert!(master_port > 0, "node rank 0 leases a port");
    leader
        .say(What::Go(Go {
            job,
            epoch,
            master_address: "127.0.0.11".into(),
            master_port,
        }))
        .await;
}

fn end_of(events: &[AgentEvent], job: u64, epoch: u64) -> Option<AttemptEnd> {
    events
        .iter()
        .filter(|event| event.job == id(job) && event.epoch == id(epoch))
        .find_map(|event| match &event.what {
            Some(agent_event::What::AllocationEnded(ended)) => ended.end.clone(),
            _ => None,
        })
}

async fn ended(leader: &mut Leader, job: u64, epoch: u64) -> (EndKind, i32) {
    let end = leader
        .until("AllocationEnded", |_, events| end_of(events, job, epoch))
        .await;
    (end.kind(), end.code)
}

async fn lines_stored(leader: &mut Leader, job: u64, lines: usize) {
    let end = Instant::now() + PATIENCE;
    while leader.lines_so_far(job, 1, 0) < lines {
        assert!(Instant::now() < end, "output arrives while the rank runs");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_job_runs_with_its_code_and_everything_about_it_arrives() {
    let dir = tempfile::tempdir().expect("dir");
    let ca = ca(dir.path());
    let mut leader = Leader::start(&ca, "c1").await;
    let script = b"echo code of $MLCTL_JOB; mkdir ckpt/step-5.tmp; mv ckpt/step-5.tmp ckpt/step-5; ls $MLCTL_CHECKPOINT_DIR; exit 3";
    let entry = Entry {
        path: "main.sh".into(),
        blob: leader.put_blob(script),
        size: script.len() as u64,
        executable: false,
        link: None,
    };
    let manifest = leader.put_blob(&Manifest::new(vec![entry]).expect("legal").encode());
    let node = Node::new(dir.path(), &ca, vec![leader.address.to_string()]);
    connected(&mut leader).await;
    let facts = leader.hellos[0].facts.clone().expect("facts");
    assert_eq!(
        (
            facts.name.as_str(),
            facts.boot_id.as_str(),
            facts.devices.len()
        ),
        ("n1", "boot-1", 2)
    );
    let leftover = dir.path().join("data/jobs/7/checkpoints/step-9.tmp");
    std::fs::create_dir_all(&leftover).expect("made");
    let mut start = start(7, 1, "exec sh main.sh");
    start.code_manifest = manifest;
    set_off(&mut leader, start).await;
    assert_eq!(ended(&mut leader, 7, 1).await, (EndKind::Exited, 3));
    let kinds: Vec<&str> = leader
        .events
        .iter()
        .map(|event| match &event.what {
            Some(agent_event::What::RanksStarted(_)) => "started",
            Some(agent_event::What::CheckpointSealed(sealed))
                if sealed.name == "step-5" && sealed.step == 5 =>
            {
                "sealed"
            }
            Some(agent_event::What::RankExited(exit)) if exit.code == 3 => "exited",
            Some(agent_event::What::AllocationEnded(_)) => "ended",
            _ => "?",
        })
        .collect();
    assert_eq!(
        (kinds.first(), kinds.last(), kinds.len()),
        (Some(&"started"), Some(&"ended"), 4),
        "{kinds:?}"
    );
    assert!(
        kinds.contains(&"sealed") && kinds.contains(&"exited"),
        "{kinds:?}"
    );
    assert_eq!(leader.whole_log(7, 1, 0).await, ["code of 7", "step-5"]);
    assert!(
        !leftover.exists(),
        "what an earlier attempt left unfinished was set aside"
    );
    drop(node);
}

#[tokio::test]
async fn a_killed_agent_finds_its_job_again_with_exit_code_and_whole_log() {
    let dir = tempfile::tempdir().expect("dir");
    let ca = ca(dir.path());
    let mut leader = Leader::start(&ca, "c1").await;
    let mut node = Node::new(dir.path(), &ca, vec![leader.address.to_string()]);
    connected(&mut leader).await;
    set_off(
        &mut leader,
        start(
            1,
            1,
            "echo before; until [ -e ../../../go ]; do sleep 0.02; done; echo after; exit 5",
        ),
    )
    .await;
    lines_stored(&mut leader, 1, 1).await;
    node.kill_agent();
    // The rank ends while nobody looks.
    std::fs::write(dir.path().join("data/jobs/go"), "").expect("written");
    tokio::time::sleep(Duration::from_millis(300)).await;
    node.start_agent();
    assert_eq!(ended(&mut leader, 1, 1).await, (EndKind::Exited, 5));
    assert_eq!(leader.whole_log(1, 1, 0).await, ["before", "after"]);
    assert_eq!(leader.hellos[0].journal_id, leader.hellos[1].journal_id);
    assert_eq!(
        leader.hellos[1].attempts.len(),
        1,
        "the attempt is announced again"
    );
}

#[tokio::test]
async fn an_agent_that_lost_its_journal_adopts_what_runs_under_a_new_id() {
    let dir = tempfile::tempdir().expect("dir");
    let ca = ca(dir.path());
    let mut leader = Leader::start(&ca, "c1").await;
    let mut node = Node::new(dir.path(), &ca, vec![leader.address.to_string()]);
    connected(&mut leader).await;
    set_off(
        &mut leader,
        start(
            1,
            2,
            "until [ -e ../../../go ]; do sleep 0.02; done; exit 6",
        ),
    )
    .await;
    leader
        .until("RanksStarted", |_, events| {
            (!events.is_empty()).then_some(())
        })
        .await;
    node.kill_agent();
    std::fs::remove_file(dir.path().join("data/journal")).expect("removed");
    // A new journal id counts from 1 again, as the cluster does.
    leader.events.clear();
    leader.set_mark(0);
    node.start_agent();
    connected(&mut leader).await;
    let hello = leader.hellos.last().expect("a hello").clone();
    assert_ne!(hello.journal_id, leader.hellos[0].journal_id);
    assert_eq!(
        hello
            .attempts
            .iter()
            .map(|status| status.epoch)
            .collect::<Vec<_>>(),
        [id(2)]
    );
    // A start of the same epoch starts no second keeper.
    leader.say(What::Start(start(1, 2, "exit 0"))).await;
    std::fs::write(dir.path().join("data/jobs/go"), "").expect("written");
    assert_eq!(ended(&mut leader, 1, 2).await, (EndKind::Exited, 6));
}

#[tokio::test]
async fn a_killed_keeper_is_lost_and_a_stopped_job_ends_as_asked() {
    let dir = tempfile::tempdir().expect("dir");
    let ca = ca(dir.path());
    let mut leader = Leader::start(&ca, "c1").await;
    let node = Node::new(dir.path(), &ca, vec![leader.address.to_string()]);
    connected(&mut leader).await;
    set_off(
        &mut leader,
        start(1, 1, "setsid sleep 1000 & echo $!; wait"),
    )
    .await;
    lines_stored(&mut leader, 1, 1).await;
    let pid = node.keeper_pid(1, 1);
    processes::signal(
        nix::unistd::Pid::from_raw(pid),
        nix::sys::signal::Signal::SIGKILL,
    );
    assert_eq!(ended(&mut leader, 1, 1).await.0, EndKind::KeeperLost);
    let left = leader.whole_log(1, 1, 0).await;
    assert!(
        !processes::lives(&left[0]),
        "what the ranks left behind is gone before the end is said"
    );

    set_off(
        &mut leader,
        start(2, 1, "trap '' TERM; echo on; while :; do sleep 0.05; done"),
    )
    .await;
    lines_stored(&mut leader, 2, 1).await;
    let reason = EndKind::Cancelled.into();
    let stop = StopAllocation {
        job: id(2),
        epoch: id(1),
        reason,
        grace_ms: 200,
        why: "no more".into(),
    };
    leader.say(What::Stop(stop)).await;
    assert_eq!(ended(&mut leader, 2, 1).await.0, EndKind::Cancelled);
    leader.say(What::Start(start(2, 1, "exit 0"))).await;
    let again = leader.until("an answer", |_, events| {
        let ends = events
            .iter()
            .filter(|event| matches!(event.what, Some(agent_event::What::AllocationEnded(_))));
        ends.filter(|event| event.job == id(2)).nth(1).cloned()
    });
    let Some(agent_event::What::AllocationEnded(end)) = again.await.what else {
        panic!("an end")
    };
    assert_eq!(
        end.end.map(|end| end.kind()),
        Some(EndKind::NeverStarted),
        "a closed epoch does not begin again"
    );
}

#[tokio::test]
async fn what_cannot_be_launched_says_why() {
    let dir = tempfile::tempdir().expect("dir");
    let ca = ca(dir.path());
    let mut leader = Leader::start(&ca, "c1").await;
    let _node = Node::new(dir.path(), &ca, vec![leader.address.to_string()]);
    connected(&mut leader).await;
    let mut wrong_place = start(1, 1, "exit 0");
    wrong_place.members[0].node = "other".into();
    let mut no_program = start(2, 1, "");
    no_program.spec = JobSpec::new(vec!["no-such-program".into()]).canonical_json();
    let mut no_spec = start(3, 1, "");
    no_spec.spec = b"{".to_vec();
    leader.say(What::Start(wrong_place)).await;
    leader.say(What::Start(no_spec)).await;
    leader.say(What::Start(no_program)).await;
    for (job, word) in [(1, "placement"), (2, "no-such-program"), (3, "spec")] {
        let end = leader
            .until("AllocationEnded", |_, events| end_of(events, job, 1))
            .await;
        assert!(
            end.kind() == EndKind::LaunchFailed && end.detail.contains(word) && end.node == "n1",
            "{end:?}"
        );
    }
}

#[tokio::test]
async fn an_agent_follows_the_leader_and_tells_it_everything_again() {
    let dir = tempfile::tempdir().expect("dir");
    let ca = ca(dir.path());
    let mut first = Leader::start(&ca, "c1").await;
    let mut second = Leader::start(&ca, "c2").await;
    second.term = 2;
    let _node = Node::new(dir.path(), &ca, vec![first.address.to_string()]);
    connected(&mut first).await;
    set_off(
        &mut first,
        start(
            1,
            1,
            "echo one; until [ -e ../../../go ]; do sleep 0.02; done; echo two",
        ),
    )
    .await;
    lines_stored(&mut first, 1, 1).await;
    first
        .until("RanksStarted", |_, events| {
            (!events.is_empty()).then_some(())
        })
        .await;
    first.resign(vec![second.address.to_string()]);
    let began = Instant::now();
    first.hang_up();
    second.set_mark(1);
    second.follow(&first.events);
    connected(&mut second).await;
    assert!(
        began.elapsed() < Duration::from_secs(5),
        "{:?}",
        began.elapsed()
    );
    let hello = second.hellos[0].clone();
    assert_eq!(
        (hello.term, hello.attempts[0].phase()),
        (1, AttemptPhase::Running)
    );
    std::fs::write(dir.path().join("data/jobs/go"), "").expect("written");
    assert_eq!(ended(&mut second, 1, 1).await, (EndKind::Exited, 0));
    assert_eq!(
        second.whole_log(1, 1, 0).await,
        ["one", "two"],
        "the new leader had nothing and got all"
    );
}

/// What was told of a checkpoint with this name.
async fn sealed(leader: &mut Leader, epoch: u64, name: &str) -> CheckpointSealed {
    let find = |_: &agent_message::What, events: &[AgentEvent]| {
        let of_epoch = events.iter().filter(|event| event.epoch == id(epoch));
        let mut sealed = of_epoch.filter_map(|event| match &event.what {
            Some(agent_event::What::CheckpointSealed(sealed)) => Some(sealed.clone()),
            _ => None,
        });
        sealed.find(|sealed| sealed.name == name)
    };
    leader.until("checkpoint", find).await
}

/// The parts that the agent lists when it has connected anew.
async fn listed(leader: &mut Leader) -> Vec<PartKey> {
    leader.hang_up();
    let inventory = leader.until("inventory", |message, _| match message {
        agent_message::What::Inventory(inventory) => Some(inventory.parts.clone()),
        _ => None,
    });
    inventory.await
}

/// A start that resumes from step-5 of the first attempt, which is this part.
fn resuming(mut start: StartAllocation, part: CheckpointPart) -> StartAllocation {
    start.resume_from = "step-5".into();
    start.restore = Some(Restore {
        epoch: id(1),
        parts: vec![RestorePart {
            index: 0,
            manifest: part.manifest,
            bytes: part.bytes,
            ..RestorePart::default()
        }],
    });
    start
}

#[tokio::test]
async fn a_checkpoint_is_sealed_listed_put_together_again_and_forgotten() {
    let dir = tempfile::tempdir().expect("dir");
    let ca = ca(dir.path());
    let mut leader = Leader::start(&ca, "c1").await;
    let _node = Node::new(dir.path(), &ca, vec![leader.address.to_string()]);
    connected(&mut leader).await;
    assert!(leader.hellos[0].data_port > 0);
    let space = |message: &agent_message::What, _: &[AgentEvent]| match message {
        agent_message::What::Heartbeat(heartbeat) => heartbeat.space,
        _ => None,
    };
    assert!(leader.until("space", space).await.free > 0);
    let script = "cd $MLCTL_CHECKPOINT_DIR; mkdir a.tmp; echo hi > a.tmp/w; mv a.tmp step-5";
    set_off(&mut leader, start(1, 1, script)).await;
    assert_eq!(ended(&mut leader, 1, 1).await, (EndKind::Exited, 0));
    let told = sealed(&mut leader, 1, "step-5").await;
    let part = told.part.clone().expect("it was sealed");
    assert_eq!((told.parts, part.index, part.bytes), (1, 0, 3));
    let key = PartKey {
        job: id(1),
        epoch: id(1),
        name: "step-5".into(),
        index: 0,
        manifest: part.manifest.clone(),
    };
    assert_eq!(listed(&mut leader).await, std::slice::from_ref(&key));
    // The next attempt resumes from it, although its directory is gone.
    let made = dir.path().join("data/jobs/1/checkpoints/step-5");
    std::fs::remove_dir_all(&made).expect("removed");
    let script = "cat $MLCTL_RESUME_FROM/w; until [ -e ../../../go ]; do sleep 0.02; done";
    set_off(&mut leader, resuming(start(1, 2, script), part)).await;
    let facts = dir.path().join("data/jobs/1/2/restored.json");
    let facts = std::fs::read_to_string(facts).expect("written");
    assert!(facts.contains("\"from\":[\"n1\"]"), "{facts}");
    // Another node of it completed one of which this one has nothing.
    leader
        .say(What::SealPart(SealPart {
            job: id(1),
            epoch: id(2),
            name: "step-9".into(),
            step: 9,
        }))
        .await;
    let empty = sealed(&mut leader, 2, "step-9").await;
    let part = empty.part.expect("told");
    assert_eq!((part.manifest.len(), part.bytes, empty.step), (0, 0, 9));
    std::fs::write(dir.path().join("data/jobs/go"), "").expect("written");
    assert_eq!(ended(&mut leader, 1, 2).await, (EndKind::Exited, 0));
    assert_eq!(leader.whole_log(1, 2, 0).await, ["hi"]);
    // Nobody needs it any more.
    let parts = vec![key.clone()];
    leader.say(What::Forget(Forget { parts })).await;
    let held = dir.path().join("data/copies/held");
    let end = Instant::now() + PATIENCE;
    while std::fs::read_dir(&held).expect("there").count() > 0 {
        assert!(Instant::now() < end, "it is forgotten");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(listed(&mut leader).await, []);
    let parts = vec![key];
    leader.say(What::Announce(Announce { parts })).await;
    let lost = |_: &agent_message::What, events: &[AgentEvent]| {
        let last = events.last()?.what.as_ref();
        matches!(last, Some(agent_event::What::CopyLost(_))).then_some(())
    };
    leader.until("loss", lost).await;
}
