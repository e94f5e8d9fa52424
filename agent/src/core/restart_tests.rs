//! Rules of the core over restarts: re-adoption, what is said again and never in other words, a journal written anew or damaged.
//! Does NOT read files; `journal` and `driver/restart` do.

use mlctl_proto::persist::{EndKind, agent_event};

use super::testing::*;
use super::*;

fn go(counter: u64) -> LeaderMessage {
    let rendezvous = Rendezvous {
        address: "127.0.0.11".into(),
        port: 4_000,
    };
    LeaderMessage::Go {
        job: JOB,
        epoch: epoch(counter),
        rendezvous,
    }
}

fn seqs(bench: &Bench) -> Vec<u64> {
    bench.events().iter().map(|event| event.seq).collect()
}

#[test]
fn an_agent_that_restarts_finds_its_keepers_and_what_happened_meanwhile() {
    let mut bench = Bench::connected();
    bench.running(1);
    bench.step(Event::RankExited {
        job: JOB,
        epoch: epoch(1),
        exit: exit(0, 0, 0),
    });
    bench.sync();
    let before = bench.events();
    bench.crash(false);
    assert!(matches!(&bench.done[..], [Action::Adopt(start)] if start.epoch == epoch(1)));
    bench.connect(0);
    assert_eq!(bench.phases(), vec![(1, Phase::Running)]);
    let exits = vec![exit(0, 0, 0), exit(1, 2, 0)];
    let status = KeeperStatus {
        started: true,
        exits,
        all_ended: true,
        ..KeeperStatus::default()
    };
    bench.step(Event::KeeperConnected {
        job: JOB,
        epoch: epoch(1),
        status,
    });
    bench.sync();
    assert_eq!(
        bench.events()[..2],
        before[..],
        "nothing is said twice in other words"
    );
    assert_eq!(seqs(&bench), vec![1, 2, 3, 4]);
    assert_eq!(bench.ends(), vec![(1, EndKind::Exited, 2)]);
    assert_eq!(
        bench.did(|action| matches!(action, Action::ReleaseKeeper { .. })),
        1
    );
}

#[test]
fn an_agent_that_restarts_without_a_keeper_says_so_or_prepares_again() {
    let mut bench = Bench::connected();
    bench.running(1);
    bench.crash(true);
    bench.connect(0);
    bench.step(Event::KeeperLost {
        job: JOB,
        epoch: epoch(1),
        why: "gone".into(),
    });
    bench.sync();
    assert_eq!(bench.ends(), vec![(1, EndKind::KeeperLost, 0)]);

    let mut bench = Bench::connected();
    bench.leader(LeaderMessage::Start(start(1)));
    bench.sync();
    bench.crash(true);
    bench.step(Event::KeeperNeverStarted {
        job: JOB,
        epoch: epoch(1),
    });
    assert_eq!(bench.prepared(1), 1);
}

#[test]
fn a_ready_attempt_is_ready_again_after_a_restart_and_waits_for_a_new_go() {
    let mut bench = Bench::connected();
    bench.ready(1);
    bench.crash(false);
    bench.connect(0);
    let status = KeeperStatus {
        master_port: 4_000,
        ..KeeperStatus::default()
    };
    bench.step(Event::KeeperConnected {
        job: JOB,
        epoch: epoch(1),
        status,
    });
    assert!(matches!(
        bench.said.last(),
        Some(ToLeader::Ready {
            master_port: 4_000,
            ..
        })
    ));
    assert_eq!(
        bench.did(|action| matches!(action, Action::KeeperGo { .. })),
        0
    );
    bench.leader(go(1));
    assert_eq!(
        bench.did(|action| matches!(action, Action::KeeperGo { .. })),
        1
    );
}

#[test]
fn what_an_older_attempt_seals_while_it_ends_is_not_the_newer_ones() {
    let found = |counter, step: u64, by_rescan| {
        Event::Checkpoint(CheckpointFound {
            by_rescan,
            ..CheckpointFound::bare(JOB, epoch(counter), format!("step-{step}"), step)
        })
    };
    let mut bench = Bench::connected();
    bench.running(1);
    bench.leader(LeaderMessage::Start(start(2)));
    bench.step(found(1, 25, false));
    bench.step(Event::AllRanksEnded {
        job: JOB,
        epoch: epoch(1),
    });
    bench.sync();
    bench.running(2);
    bench.step(found(2, 25, true));
    bench.step(found(2, 30, true));
    bench.sync();
    let sealed: Vec<_> = bench
        .events()
        .into_iter()
        .filter_map(|event| match event.what {
            Some(agent_event::What::CheckpointSealed(sealed)) => {
                Some((event.epoch?.counter, sealed.step))
            }
            _ => None,
        })
        .collect();
    assert_eq!(sealed, [(1, 25), (2, 30)]);
}

#[test]
fn checkpoints_are_reported_once_and_old_ones_not_again() {
    let found = |counter, step: u64, by_rescan| {
        let name = format!("step-{step}");
        Event::Checkpoint(CheckpointFound {
            by_rescan,
            ..CheckpointFound::bare(JOB, epoch(counter), name, step)
        })
    };
    let mut bench = Bench::connected();
    bench.running(1);
    bench.step(found(1, 10, false));
    bench.step(found(1, 20, false));
    bench.sync();
    bench.compact();
    bench.connect(0);
    bench.step(Event::KeeperConnected {
        job: JOB,
        epoch: epoch(1),
        status: KeeperStatus {
            started: true,
            ..KeeperStatus::default()
        },
    });
    for step in [10, 20, 30] {
        bench.step(found(1, step, true));
    }
    bench.sync();
    assert_eq!(
        seqs(&bench),
        vec![1, 2, 3, 4],
        "started, 10, 20, and 30 once"
    );
    bench.step(Event::AllRanksEnded {
        job: JOB,
        epoch: epoch(1),
    });
    bench.sync();
    bench.leader(LeaderMessage::EventsApplied { up_to: 5 });
    bench.running(2);
    bench.said.clear();
    for step in [10, 30, 40] {
        bench.step(found(2, step, true));
    }
    bench.step(found(1, 50, false));
    bench.sync();
    assert_eq!(seqs(&bench), vec![7], "only 40 is news of attempt 2");
}

#[test]
fn a_damaged_journal_goes_on_under_a_new_number_sequence() {
    let mut bench = Bench::connected();
    bench.running(1);
    bench.step(Event::RankExited {
        job: JOB,
        epoch: epoch(1),
        exit: exit(0, 0, 0),
    });
    bench.sync();
    let mut records = bench.core.records();
    let lost = records
        .iter()
        .position(|record| matches!(record, Record::Event(event) if event.seq == 1));
    records.remove(lost.expect("the first event"));
    let mut recovered = Recovered::replay("j1".into(), records);
    assert!(recovered.has_gap());
    recovered.renumber("j2".into());
    assert!(!recovered.has_gap());
    assert_eq!(
        recovered
            .events
            .iter()
            .map(|event| event.seq)
            .collect::<Vec<_>>(),
        vec![1]
    );
    assert_eq!(recovered.open().count(), 1);
}

#[test]
fn a_journal_written_anew_says_the_same() {
    let mut bench = Bench::connected();
    bench.running(3);
    bench.step(Event::RankExited {
        job: JOB,
        epoch: epoch(3),
        exit: exit(0, 0, 0),
    });
    bench.stop(9, EndKind::Cancelled);
    bench.sync();
    let (statuses, records) = (bench.core.statuses(), bench.core.records());
    bench.compact();
    assert_eq!(
        (bench.core.statuses().len(), bench.core.records()),
        (statuses.len(), records)
    );
}

#[test]
fn events_are_kept_and_sent_again_from_the_leaders_mark() {
    let mut bench = Bench::connected();
    bench.running(1);
    bench.step(Event::RankExited {
        job: JOB,
        epoch: epoch(1),
        exit: exit(0, 0, 0),
    });
    bench.sync();
    assert_eq!(seqs(&bench), vec![1, 2]);
    let said = bench.events();
    bench.step(Event::LinkDown);
    bench.connect(1);
    assert_eq!(
        bench.events(),
        said[1..],
        "the same number is the same event"
    );
    bench.step(Event::LinkDown);
    bench.crash(true);
    bench.connect(0);
    assert_eq!(
        bench.events(),
        said,
        "an acknowledgement that was not synced only costs a repetition"
    );
}

#[test]
fn ends_of_tasks_are_said_once_over_restarts() {
    let ends = |tasks: &[u32]| {
        let mut ends = TaskEnds::default();
        tasks.iter().for_each(|task| ends.add(*task, 0, 0, false));
        ends
    };
    let said = |bench: &Bench| -> Vec<u64> {
        let events = bench.events();
        let sets = events.iter().filter_map(|event| match &event.what {
            Some(agent_event::What::TasksEnded(ended)) => Some(ended),
            _ => None,
        });
        sets.map(|ended| crate::tasks::tasks_of(ended).count())
            .collect()
    };
    let mut bench = Bench::connected();
    bench.ready(1);
    let told = |tasks: &[u32]| Event::TasksEnded {
        job: JOB,
        epoch: epoch(1),
        ends: ends(tasks),
    };
    bench.step(told(&[1, 2]));
    bench.step(told(&[2, 3]));
    bench.step(told(&[1, 2, 3]));
    bench.sync();
    assert_eq!(said(&bench), [2, 1]);
    bench.crash(false);
    bench.connect(0);
    bench.step(Event::KeeperConnected {
        job: JOB,
        epoch: epoch(1),
        status: KeeperStatus {
            started: true,
            tasks: ends(&[1, 2, 3, 4]),
            ..KeeperStatus::default()
        },
    });
    bench.sync();
    assert_eq!(said(&bench).last(), Some(&1), "only the fourth is news");
}
