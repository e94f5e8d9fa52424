//! Leases of fenced attempts: passed on when they are confirmed, and nothing starts on one that is over.
use std::sync::Arc;

use mlctl_proto::persist::EndKind;

use super::testing::*;
use super::*;

const AFTER: u32 = 2_400;

/// Connected and ready with a fenced attempt; nothing is confirmed yet.
fn ready() -> Bench {
    let mut bench = Bench::connected();
    bench.leader(LeaderMessage::Start(Arc::new(Start {
        fence: Some(Fence {
            after_ms: AFTER,
            grace_ms: 300,
        }),
        ..Start::clone(&start(1))
    })));
    bench.sync();
    bench.step(Event::Prepared {
        job: JOB,
        epoch: epoch(1),
        master_port: 4_000,
    });
    bench
}

fn go(bench: &mut Bench) {
    let rendezvous = Rendezvous {
        address: "127.0.0.11".into(),
        port: 4_000,
    };
    bench.leader(LeaderMessage::Go {
        job: JOB,
        epoch: epoch(1),
        rendezvous,
    });
}

/// Leases passed on, and orders to start, in their order: `None` is an order.
fn told(bench: &mut Bench) -> Vec<Option<BoottimeMs>> {
    let told = bench.done.drain(..).filter_map(|action| match action {
        Action::KeeperLease { confirmed_at, .. } => Some(Some(confirmed_at)),
        Action::KeeperGo { .. } => Some(None),
        _ => None,
    });
    told.collect()
}

/// The newest heartbeat, sent now, is confirmed `late` milliseconds later.
fn beat(bench: &mut Bench, late: u64) {
    bench.now += 500;
    bench.step(Event::Tick);
    let seq = bench.said.iter().filter_map(|message| match message {
        ToLeader::Heartbeat { seq, .. } => Some(*seq),
        _ => None,
    });
    let seq = seq.max().expect("heartbeats were sent");
    bench.now += late;
    bench.leader(LeaderMessage::HeartbeatAnswer { seq });
}

#[test]
fn ranks_of_a_fenced_attempt_wait_for_a_lease() {
    let mut bench = ready();
    go(&mut bench);
    assert_eq!(told(&mut bench), [], "nothing is confirmed");
    beat(&mut bench, 100);
    assert_eq!(told(&mut bench), [Some(500), None], "the lease comes first");
    beat(&mut bench, 0);
    assert_eq!(told(&mut bench), [Some(1_100), None], "it may have refused");
    bench.step(Event::RanksStarted {
        job: JOB,
        epoch: epoch(1),
    });
    beat(&mut bench, 0);
    assert_eq!(told(&mut bench), [Some(1_600)]);
}

#[test]
fn a_frozen_agent_starts_nothing_on_an_order_of_long_ago() {
    let mut bench = ready();
    beat(&mut bench, 0);
    told(&mut bench);
    bench.now += u64::from(AFTER);
    go(&mut bench);
    assert_eq!(told(&mut bench), [Some(500)], "the lease is over");
}

#[test]
fn other_attempts_know_no_leases() {
    let mut bench = Bench::connected();
    bench.ready(1);
    go(&mut bench);
    beat(&mut bench, 0);
    assert_eq!(told(&mut bench), [None]);
}

#[test]
fn what_was_fenced_is_a_lost_node_by_its_own_word() {
    for adopted in [false, true] {
        let mut bench = ready();
        go(&mut bench);
        beat(&mut bench, 0);
        bench.step(Event::RanksStarted {
            job: JOB,
            epoch: epoch(1),
        });
        bench.sync();
        let killed = RankEnd {
            killed_by_us: true,
            ..exit(0, 0, 15)
        };
        let (job, epoch) = (JOB, epoch(1));
        if adopted {
            bench.crash(false);
            bench.connect(0);
            let status = KeeperStatus {
                started: true,
                exits: vec![killed],
                all_ended: true,
                fenced: Some("cut off".into()),
                ..KeeperStatus::default()
            };
            bench.step(Event::KeeperConnected { job, epoch, status });
        } else {
            let why = "cut off".to_owned();
            bench.step(Event::Fenced { job, epoch, why });
            bench.step(Event::RankExited {
                job,
                epoch,
                exit: killed,
            });
            bench.step(Event::AllRanksEnded { job, epoch });
        }
        bench.sync();
        assert_eq!(bench.ends(), [(1, EndKind::NodeLost, 0)], "{adopted}");
    }
}

#[test]
fn a_keeper_that_is_found_again_hears_what_is_confirmed() {
    let mut bench = ready();
    go(&mut bench);
    beat(&mut bench, 0);
    told(&mut bench);
    let (job, epoch) = (JOB, epoch(1));
    let status = KeeperStatus::default();
    bench.step(Event::KeeperConnected { job, epoch, status });
    assert_eq!(told(&mut bench), [Some(500), None]);
}
