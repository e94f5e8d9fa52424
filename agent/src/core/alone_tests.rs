//! A gang of one node that was told that nothing has to be waited for: it starts its ranks by itself, but only while whoever said so is
//! still on the line. Does NOT test gangs of several nodes (see `rule_tests`).

use std::sync::Arc;

use super::testing::*;
use super::*;

fn alone(counter: u64) -> LeaderMessage {
    LeaderMessage::Start(Arc::new(Start {
        alone: true,
        ..Start::clone(&start(counter))
    }))
}

fn prepared(bench: &mut Bench, counter: u64) {
    bench.step(Event::Prepared {
        job: JOB,
        epoch: epoch(counter),
        master_port: 4_000,
    });
}

fn started(bench: &Bench) -> usize {
    bench.did(|action| matches!(action, Action::KeeperGo { .. }))
}

fn ready(bench: &Bench) -> usize {
    let ready = |said: &&ToLeader| matches!(said, ToLeader::Ready { .. });
    bench.said.iter().filter(ready).count()
}

#[test]
fn it_starts_as_soon_as_it_can_and_once() {
    let mut bench = Bench::connected();
    bench.leader(alone(1));
    bench.sync();
    assert_eq!(started(&bench), 0, "not before it is ready");
    prepared(&mut bench, 1);
    assert_eq!((started(&bench), ready(&bench)), (1, 0));
    let own = Rendezvous {
        address: "127.0.0.11".into(),
        port: 4_000,
    };
    let met = |action: &Action| matches!(action, Action::KeeperGo { rendezvous, .. } if *rendezvous == own);
    assert_eq!(bench.did(met), 1);
    bench.leader(alone(1));
    assert_eq!(started(&bench), 1, "said again it changes nothing");
}

#[test]
fn without_the_leader_that_said_so_it_waits_for_a_word() {
    let mut bench = Bench::connected();
    bench.leader(alone(1));
    bench.sync();
    bench.step(Event::LinkDown);
    prepared(&mut bench, 1);
    assert_eq!(started(&bench), 0, "its place may be taken by now");
    bench.connect(0);
    assert_eq!((started(&bench), ready(&bench)), (0, 1));
}

#[test]
fn another_connection_is_another_leader() {
    let mut bench = Bench::connected();
    bench.leader(alone(1));
    bench.sync();
    bench.step(Event::LinkDown);
    bench.connect(0);
    prepared(&mut bench, 1);
    assert_eq!((started(&bench), ready(&bench)), (0, 1));
}

#[test]
fn a_silent_leader_does_not_count() {
    let mut bench = Bench::connected();
    bench.leader(alone(1));
    bench.sync();
    bench.now += 60_000;
    prepared(&mut bench, 1);
    assert_eq!(
        started(&bench),
        0,
        "the cluster may have given this node up"
    );
}

#[test]
fn what_was_stopped_meanwhile_never_starts() {
    let mut bench = Bench::connected();
    bench.leader(alone(1));
    bench.sync();
    bench.leader(LeaderMessage::Stop {
        job: JOB,
        epoch: epoch(1),
        stop: stop(mlctl_proto::persist::EndKind::Cancelled, 0),
    });
    prepared(&mut bench, 1);
    assert_eq!(started(&bench), 0);
}

#[test]
fn after_a_restart_it_waits_for_a_word() {
    let mut bench = Bench::connected();
    bench.leader(alone(1));
    bench.sync();
    bench.crash(false);
    bench.connect(0);
    bench.step(Event::KeeperConnected {
        job: JOB,
        epoch: epoch(1),
        status: KeeperStatus {
            master_port: 4_000,
            ..KeeperStatus::default()
        },
    });
    assert_eq!((started(&bench), ready(&bench)), (0, 1));
}
