//! Devices with something on them: what is said of them, in which order, and what waits for them.
//! Does NOT test who finds out what is on a device.

use std::sync::Arc;

use mlctl_proto::persist::{DirtyDevice, EndKind, agent_event};

use super::testing::*;
use super::*;

fn dirty(uuid: &str) -> DirtyDevice {
    DirtyDevice {
        uuid: uuid.into(),
        why: "process 7 (python)".into(),
    }
}

/// An attempt with one device.
fn with_device(counter: u64, uuid: &str) -> Arc<Start> {
    let mut start = Start::clone(&start(counter));
    start.members[0].devices = vec![uuid.into()];
    Arc::new(start)
}

fn begin(bench: &mut Bench, counter: u64, uuid: &str) {
    bench.leader(LeaderMessage::Start(with_device(counter, uuid)));
    bench.sync();
}

/// It is prepared, runs and ends; the devices were not looked at yet.
fn run_to_its_end(bench: &mut Bench, counter: u64) {
    let (job, epoch) = (JOB, epoch(counter));
    bench.step(Event::Prepared {
        job,
        epoch,
        master_port: 4_000,
    });
    bench.step(Event::RanksStarted { job, epoch });
    let exit = exit(0, 0, 0);
    bench.step(Event::RankExited { job, epoch, exit });
    bench.step(Event::AllRanksEnded { job, epoch });
    bench.sync();
}

fn checked(bench: &mut Bench, counter: u64, dirty: Vec<DirtyDevice>) {
    bench.step(Event::DevicesChecked {
        job: JOB,
        epoch: epoch(counter),
        dirty,
    });
    bench.sync();
}

fn words(bench: &Bench) -> Vec<&'static str> {
    let word = |what: &agent_event::What| match what {
        agent_event::What::DevicesDirty(_) => "dirty",
        agent_event::What::DevicesClean(_) => "clean",
        agent_event::What::AllocationEnded(_) => "ended",
        agent_event::What::RanksStarted(_) => "started",
        agent_event::What::RankExited(_) => "exited",
        _ => "other",
    };
    let events = bench.events();
    events
        .iter()
        .filter_map(|one| one.what.as_ref())
        .map(word)
        .collect()
}

#[test]
fn an_end_is_said_after_its_devices_were_looked_at() {
    let mut bench = Bench::connected();
    begin(&mut bench, 1, "GPU-a");
    run_to_its_end(&mut bench, 1);
    assert_eq!(words(&bench), ["started", "exited"]);
    let asked = |action: &Action| matches!(action, Action::CheckDevices { uuids, .. } if uuids == &["GPU-a"]);
    assert_eq!(bench.did(asked), 1);
    checked(&mut bench, 1, vec![]);
    assert_eq!(words(&bench), ["started", "exited", "ended"]);
    assert_eq!(bench.ends(), [(1, EndKind::Exited, 0)]);
    checked(&mut bench, 1, vec![dirty("GPU-a")]);
    assert_eq!(words(&bench).len(), 3, "an answer counts once");
}

#[test]
fn what_is_dirty_is_said_before_the_end_and_blocks_only_its_device() {
    let mut bench = Bench::connected();
    begin(&mut bench, 1, "GPU-a");
    run_to_its_end(&mut bench, 1);
    checked(&mut bench, 1, vec![dirty("GPU-a")]);
    assert_eq!(words(&bench), ["started", "exited", "dirty", "ended"]);
    assert_eq!(bench.core.dirty().collect::<Vec<_>>(), ["GPU-a"]);
    begin(&mut bench, 2, "GPU-a");
    assert_eq!(bench.prepared(2), 0, "something is on it");
    let clean = vec!["GPU-a".to_owned(), "GPU-never".to_owned()];
    let seen = Event::DevicesSeen {
        dirty: vec![],
        clean: clean.clone(),
    };
    bench.step(seen.clone());
    bench.sync();
    assert_eq!(
        (bench.prepared(2), words(&bench).last()),
        (1, Some(&"clean"))
    );
    bench.step(seen);
    bench.sync();
    assert_eq!(words(&bench).len(), 5, "news are said once");
}

#[test]
fn a_restart_forgets_no_dirt_however_the_journal_was_written() {
    for compact in [false, true] {
        let mut bench = Bench::connected();
        begin(&mut bench, 1, "GPU-a");
        run_to_its_end(&mut bench, 1);
        checked(&mut bench, 1, vec![dirty("GPU-a"), dirty("GPU-b")]);
        bench.step(Event::DevicesSeen {
            dirty: vec![],
            clean: vec!["GPU-b".into()],
        });
        bench.sync();
        let last = bench.events().last().map_or(0, |event| event.seq);
        bench.leader(LeaderMessage::EventsApplied { up_to: last });
        if compact {
            bench.compact();
        }
        bench.crash(true);
        assert_eq!(
            bench.core.dirty().collect::<Vec<_>>(),
            ["GPU-a"],
            "{compact}"
        );
    }
}

#[test]
fn a_restart_before_the_answer_looks_again() {
    let mut bench = Bench::connected();
    begin(&mut bench, 1, "GPU-a");
    run_to_its_end(&mut bench, 1);
    bench.crash(true);
    bench.connect(0);
    assert_eq!(bench.ends(), []);
    let status = KeeperStatus {
        started: true,
        exits: vec![exit(0, 0, 0)],
        all_ended: true,
        ..KeeperStatus::default()
    };
    bench.step(Event::KeeperConnected {
        job: JOB,
        epoch: epoch(1),
        status,
    });
    checked(&mut bench, 1, vec![]);
    assert_eq!(bench.ends(), [(1, EndKind::Exited, 0)]);
}

#[test]
fn a_lost_keeper_may_have_left_something_too() {
    let mut bench = Bench::connected();
    begin(&mut bench, 1, "GPU-a");
    bench.step(Event::Prepared {
        job: JOB,
        epoch: epoch(1),
        master_port: 4_000,
    });
    bench.step(Event::KeeperLost {
        job: JOB,
        epoch: epoch(1),
        why: "killed".into(),
    });
    bench.sync();
    assert_eq!(bench.ends(), []);
    checked(&mut bench, 1, vec![dirty("GPU-a")]);
    assert_eq!(words(&bench), ["dirty", "ended"]);
    assert_eq!(bench.ends(), [(1, EndKind::KeeperLost, 0)]);
}

#[test]
fn two_jobs_never_use_a_device_at_once() {
    let mut bench = Bench::connected();
    begin(&mut bench, 1, "GPU-a");
    let other = JobId::new(1, 8);
    let start = |uuid| {
        let start = Start::clone(&with_device(1, uuid));
        LeaderMessage::Start(Arc::new(Start {
            job: other,
            ..start
        }))
    };
    bench.leader(start("GPU-a"));
    bench.sync();
    let prepared = |bench: &Bench| {
        bench.did(|action| matches!(action, Action::Prepare(start) if start.job == other))
    };
    assert_eq!(
        prepared(&bench),
        0,
        "the first was given up while this node was silent"
    );
    run_to_its_end(&mut bench, 1);
    assert_eq!(prepared(&bench), 0, "nobody has looked at the device yet");
    checked(&mut bench, 1, vec![]);
    assert_eq!(prepared(&bench), 1);
}

#[test]
fn what_a_job_holds_is_no_dirt() {
    let mut bench = Bench::connected();
    begin(&mut bench, 1, "GPU-a");
    bench.step(Event::DevicesSeen {
        dirty: vec![dirty("GPU-a"), dirty("GPU-b")],
        clean: vec![],
    });
    bench.sync();
    assert_eq!(bench.core.dirty().collect::<Vec<_>>(), ["GPU-b"]);
}
