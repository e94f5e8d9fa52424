//! Which checkpoints and copies are told, when, and what is not forgotten.
//! Does NOT test what a copy is: the core never sees one.

use mlctl_proto::persist::{self, AgentEvent, agent_event};

use super::testing::*;
use super::*;

fn found(counter: u64, name: &str, manifest: u8) -> CheckpointFound {
    let part = PartFound {
        index: 0,
        manifest: (manifest > 0).then_some([manifest; 32]),
        bytes: 5,
    };
    CheckpointFound {
        part: Some(part),
        metric: Some(7),
        save_ms: 3,
        ..CheckpointFound::bare(JOB, epoch(counter), name.into(), 5)
    }
}

fn seal(bench: &mut Bench, counter: u64, name: &str, manifest: u8) {
    bench.step(Event::Checkpoint(found(counter, name, manifest)));
    bench.sync();
}

fn key(counter: u64, name: &str, manifest: u8) -> PartKey {
    let sealed = found(counter, name, manifest).sealed();
    PartKey::of(JOB, epoch(counter), &sealed).expect("it has a manifest")
}

/// What was told of checkpoints on this connection: name and first byte of the manifest.
fn told(bench: &Bench) -> Vec<(String, u8)> {
    let tell = |event: AgentEvent| match event.what {
        Some(agent_event::What::CheckpointSealed(sealed)) => {
            let part = sealed.part.unwrap_or_default();
            Some((sealed.name, part.manifest.first().copied().unwrap_or(0)))
        }
        _ => None,
    };
    bench.events().into_iter().filter_map(tell).collect()
}

fn end(bench: &mut Bench, counter: u64) {
    let epoch = epoch(counter);
    bench.step(Event::AllRanksEnded { job: JOB, epoch });
    bench.sync();
}

fn acknowledge_all(bench: &mut Bench) {
    let last = bench.core.outbox.unacknowledged().last();
    let up_to = last.map_or(0, |event| event.seq);
    bench.leader(LeaderMessage::EventsApplied { up_to });
}

fn moving(bench: &Bench) -> Vec<(u64, Phase, u64)> {
    let statuses = bench.core.statuses();
    let of = |one: &Status| (one.epoch.counter, one.phase, one.moving_up_to);
    statuses.iter().map(of).collect()
}

fn inventories(bench: &Bench) -> usize {
    bench.did(|action| matches!(action, Action::SendInventory))
}

#[test]
fn one_that_was_rewritten_is_told_again_and_the_same_one_is_not() {
    let mut bench = Bench::connected();
    bench.running(1);
    for manifest in [1, 1, 2, 1, 0, 0] {
        seal(&mut bench, 1, "step-5", manifest);
    }
    let bare = CheckpointFound::bare(JOB, epoch(1), "step-5".into(), 5);
    bench.step(Event::Checkpoint(bare));
    bench.sync();
    let name = || "step-5".to_owned();
    assert_eq!(told(&bench), [(name(), 1), (name(), 2), (name(), 0)]);
    let sealed = bench
        .events()
        .into_iter()
        .find_map(|event| match event.what {
            Some(agent_event::What::CheckpointSealed(sealed)) => Some(sealed),
            _ => None,
        });
    assert_eq!(sealed, Some(found(1, "step-5", 1).sealed()));
    // The same after a journal that was written anew.
    bench.compact();
    bench.connect(0);
    bench.step(Event::KeeperConnected {
        job: JOB,
        epoch: epoch(1),
        status: KeeperStatus::default(),
    });
    for manifest in [1, 2, 0, 3] {
        seal(&mut bench, 1, "step-5", manifest);
    }
    assert_eq!(told(&bench).len(), 4);
    assert_eq!(told(&bench).last(), Some(&(name(), 3)));
}

#[test]
fn one_of_which_only_the_directory_was_told_is_told_again_when_it_is_sealed() {
    let mut bench = Bench::connected();
    bench.running(1);
    let bare = CheckpointFound::bare(JOB, epoch(1), "step-5".into(), 5);
    bench.step(Event::Checkpoint(bare));
    seal(&mut bench, 1, "step-5", 4);
    let name = || "step-5".to_owned();
    assert_eq!(told(&bench), [(name(), 0), (name(), 4)]);
}

#[test]
fn one_that_is_sealed_after_the_end_counts_until_a_later_attempt_is_known() {
    let mut bench = Bench::connected();
    bench.running(1);
    end(&mut bench, 1);
    seal(&mut bench, 1, "step-5", 1);
    acknowledge_all(&mut bench);
    assert_eq!(bench.phases(), []);
    // The attempt is gone here, and its seal was slow.
    seal(&mut bench, 1, "step-6", 2);
    seal(&mut bench, 1, "step-6", 2);
    let names: Vec<String> = told(&bench).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["step-5", "step-6"]);
    bench.leader(LeaderMessage::Start(start(2)));
    bench.sync();
    seal(&mut bench, 1, "step-7", 3);
    assert_eq!(told(&bench).len(), 2);
    // And a look of the next attempt does not take it for its own, not even after a restart.
    bench.crash(true);
    bench.connect(0);
    let rescanned = CheckpointFound {
        by_rescan: true,
        ..found(2, "step-6", 2)
    };
    bench.step(Event::Checkpoint(rescanned));
    bench.sync();
    let names: Vec<String> = told(&bench).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["step-6"], "which is not acknowledged");
}

#[test]
fn an_attempt_moves_while_something_of_it_is_being_sealed() {
    let mut bench = Bench::connected();
    bench.running(1);
    let sealing = |begun| Event::Sealing {
        job: JOB,
        epoch: epoch(1),
        begun,
    };
    let beats = |bench: &Bench| {
        let beat = |said: &&ToLeader| matches!(said, ToLeader::Heartbeat { .. });
        bench.said.iter().filter(beat).count()
    };
    let before = beats(&bench);
    bench.step(sealing(true));
    bench.step(sealing(true));
    assert_eq!(beats(&bench), before + 1, "the cluster hears of it at once");
    bench.step(sealing(false));
    assert_eq!(moving(&bench), [(1, Phase::Running, u64::MAX)]);
    end(&mut bench, 1);
    acknowledge_all(&mut bench);
    assert_eq!(
        moving(&bench),
        [(1, Phase::Ended, u64::MAX)],
        "also when the attempt is gone"
    );
    seal(&mut bench, 1, "step-5", 1);
    bench.step(sealing(false));
    assert_eq!(beats(&bench), before + 2);
    let seq = bench.events().last().expect("told").seq;
    assert_eq!(moving(&bench), [(1, Phase::Ended, seq)]);
    acknowledge_all(&mut bench);
    assert_eq!(moving(&bench), []);
    // One too many is no reason to count below nothing.
    bench.step(sealing(false));
    bench.step(sealing(true));
    assert_eq!(moving(&bench), [(1, Phase::Ended, u64::MAX)]);
}

#[test]
fn copies_are_told_in_order_and_survive_a_restart() {
    let mut bench = Bench::connected();
    let other = JobId::new(1, 99);
    let sealed = found(4, "step-5", 1).sealed();
    bench.step(Event::CopyHeld {
        job: other,
        epoch: epoch(4),
        sealed: sealed.clone(),
    });
    bench.step(Event::CopyLost(key(3, "step-4", 2)));
    bench.step(Event::CopyUploaded(key(3, "step-3", 1)));
    assert_eq!(bench.events(), [], "not before it is on disk");
    bench.sync();
    bench.crash(true);
    bench.connect(0);
    let events = bench.events();
    let what: Vec<_> = events.iter().map(|event| event.what.clone()).collect();
    let held = persist::CopyHeld {
        sealed: Some(sealed),
    };
    let lost = persist::CopyLost {
        name: "step-4".into(),
        index: 0,
        manifest: vec![2; 32],
    };
    let uploaded = persist::CopyUploaded {
        name: "step-3".into(),
        index: 0,
        manifest: vec![1; 32],
    };
    let expected = [
        agent_event::What::CopyHeld(held),
        agent_event::What::CopyLost(lost),
        agent_event::What::CopyUploaded(uploaded),
    ];
    assert_eq!(what, expected.map(Some));
    assert_eq!(events[0].job, Some(other.into()));
    assert_eq!(events[1].epoch, Some(epoch(3).into()));
    assert_eq!(moving(&bench), [], "it is of no attempt of this node");
}

#[test]
fn what_is_held_is_listed_once_on_each_connection_when_all_is_acknowledged() {
    let mut bench = Bench::new();
    assert_eq!(inventories(&bench), 0);
    bench.connect(0);
    assert_eq!(inventories(&bench), 1);
    bench.running(1);
    seal(&mut bench, 1, "step-5", 1);
    bench.step(Event::LinkDown);
    bench.connect(0);
    assert_eq!(inventories(&bench), 1, "the leader does not know it yet");
    acknowledge_all(&mut bench);
    assert_eq!(inventories(&bench), 2);
    seal(&mut bench, 1, "step-6", 2);
    acknowledge_all(&mut bench);
    assert_eq!(inventories(&bench), 2, "once");
    bench.step(Event::LinkDown);
    let mark = bench.core.outbox.acked();
    bench.connect(mark);
    assert_eq!(inventories(&bench), 3);
}

#[test]
fn what_was_told_and_is_not_acknowledged_is_not_forgotten() {
    let mut bench = Bench::connected();
    bench.running(1);
    seal(&mut bench, 1, "step-5", 1);
    bench.step(Event::CopyHeld {
        job: JOB,
        epoch: epoch(1),
        sealed: found(1, "step-6", 2).sealed(),
    });
    bench.sync();
    let keys = vec![
        key(1, "step-5", 1),
        key(1, "step-5", 3),
        key(1, "step-6", 2),
        key(2, "step-5", 1),
    ];
    bench.leader(LeaderMessage::Forget(keys[..1].to_vec()));
    bench.leader(LeaderMessage::Forget(keys.clone()));
    acknowledge_all(&mut bench);
    bench.leader(LeaderMessage::Forget(keys[..1].to_vec()));
    bench.leader(LeaderMessage::Announce(keys[2..3].to_vec()));
    let asked = bench
        .done
        .iter()
        .filter(|action| matches!(action, Action::Forget(_) | Action::Announce(_)));
    let expected = [
        Action::Forget(vec![keys[1].clone(), keys[3].clone()]),
        Action::Forget(keys[..1].to_vec()),
        Action::Announce(keys[2..3].to_vec()),
    ];
    assert!(asked.eq(&expected), "{:?}", bench.done);
}
