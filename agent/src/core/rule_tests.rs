//! One test per rule of the core: epochs, tombstones, the gang, events, terms, leases, re-adoption.
//! Does NOT test the driver; random sequences are in `property_tests`.

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
fn nothing_is_prepared_before_its_epoch_is_on_disk() {
    let mut bench = Bench::connected();
    bench.leader(LeaderMessage::Start(start(1)));
    assert_eq!((bench.prepared(1), bench.phases()), (0, vec![]));
    bench.sync();
    assert_eq!(
        (bench.prepared(1), bench.phases()),
        (1, vec![(1, Phase::Preparing)])
    );
}

#[test]
fn a_repeated_start_says_again_where_the_attempt_stands() {
    let mut bench = Bench::connected();
    bench.ready(1);
    bench.said.clear();
    bench.leader(LeaderMessage::Start(start(1)));
    assert!(matches!(
        bench.said[0],
        ToLeader::Ready {
            master_port: 4_000,
            ..
        }
    ));
    assert!(matches!(&bench.said[1], ToLeader::Heartbeat { attempts, .. } if attempts.len() == 1));
    assert_eq!(bench.prepared(1), 1);
}

#[test]
fn ranks_start_only_on_go_and_once() {
    let mut bench = Bench::connected();
    bench.leader(LeaderMessage::Start(start(1)));
    bench.leader(go(1));
    bench.sync();
    bench.leader(go(1));
    let started = |bench: &Bench| bench.did(|action| matches!(action, Action::KeeperGo { .. }));
    assert_eq!(started(&bench), 0, "not before this node is ready");
    bench.step(Event::Prepared {
        job: JOB,
        epoch: epoch(1),
        master_port: 4_000,
    });
    assert_eq!(started(&bench), 0, "readiness alone starts nothing");
    bench.leader(go(1));
    bench.leader(go(1));
    assert_eq!(started(&bench), 1);
}

#[test]
fn a_closed_epoch_never_begins_again_and_is_answered_once() {
    let mut bench = Bench::connected();
    bench.running(2);
    for rank in 0..2 {
        bench.step(Event::RankExited {
            job: JOB,
            epoch: epoch(2),
            exit: exit(rank, 0, 0),
        });
    }
    bench.step(Event::AllRanksEnded {
        job: JOB,
        epoch: epoch(2),
    });
    bench.sync();
    let last = *seqs(&bench).last().expect("events");
    bench.leader(LeaderMessage::EventsApplied { up_to: last });
    assert_eq!(bench.phases(), vec![]);
    bench.said.clear();
    for counter in [2, 2, 1] {
        bench.leader(LeaderMessage::Start(start(counter)));
        bench.sync();
    }
    assert_eq!(
        bench.ends(),
        vec![(2, EndKind::NeverStarted, 0), (1, EndKind::NeverStarted, 0)]
    );
    assert_eq!((bench.prepared(1), bench.prepared(2)), (0, 1));
}

#[test]
fn a_stop_for_something_never_seen_is_buried_before_it_is_answered() {
    let mut bench = Bench::connected();
    bench.stop(3, EndKind::Cancelled);
    assert_eq!(
        bench.events(),
        vec![],
        "not before the tombstone is on disk"
    );
    bench.sync();
    assert_eq!(bench.ends(), vec![(3, EndKind::NeverStarted, 0)]);
    bench.leader(LeaderMessage::Start(start(3)));
    bench.sync();
    bench.crash(true);
    bench.connect(0);
    bench.leader(LeaderMessage::Start(start(3)));
    bench.sync();
    assert_eq!(bench.prepared(3), 0, "also after a power cut");
}

#[test]
fn lower_terms_and_incarnations_are_refused() {
    let mut bench = Bench::connected();
    bench.term = 5;
    bench.leader(LeaderMessage::EventsApplied { up_to: 0 });
    bench.term = 4;
    bench.leader(LeaderMessage::Start(start(1)));
    bench.sync();
    assert_eq!((bench.prepared(1), bench.core.term()), (0, 5));
    assert_eq!(
        bench.did(|action| matches!(action, Action::Redial { .. })),
        1
    );
    bench.term = 5;
    bench.step(Event::Dialled);
    let hello = LeaderHello {
        incarnation: 0,
        heartbeat_ms: 500,
        node_timeout_ms: 3_000,
        event_mark: 0,
    };
    bench.leader(LeaderMessage::Hello(hello));
    assert_eq!(
        bench.did(|action| matches!(action, Action::Redial { .. })),
        2
    );
    bench.sync();
    bench.crash(true);
    assert_eq!(
        bench.core.term(),
        5,
        "the term was synced with what came after it"
    );
}

#[test]
fn before_its_hello_a_leader_commands_nothing() {
    let mut bench = Bench::new();
    bench.step(Event::Dialled);
    bench.leader(LeaderMessage::Start(start(1)));
    bench.sync();
    assert_eq!(bench.prepared(1), 0);
}

#[test]
fn a_failing_rank_is_told_at_once_and_ends_its_gang_here() {
    for (code, signal, kind, value) in [(3, 0, EndKind::Exited, 3), (0, 11, EndKind::Signalled, 11)]
    {
        let mut bench = Bench::connected();
        bench.running(1);
        bench.step(Event::RankExited {
            job: JOB,
            epoch: epoch(1),
            exit: exit(1, code, signal),
        });
        assert_eq!(
            bench.did(|action| matches!(
                action,
                Action::KeeperStop {
                    grace_ms: 5_000,
                    ..
                }
            )),
            1
        );
        bench.sync();
        assert_eq!(bench.phases(), vec![(1, Phase::Stopping)]);
        assert!(
            bench.ends().is_empty(),
            "the end is said only when nothing is left"
        );
        let killed = RankEnd {
            killed_by_us: true,
            oom: None,
            ..exit(0, 0, 15)
        };
        bench.step(Event::RankExited {
            job: JOB,
            epoch: epoch(1),
            exit: killed,
        });
        bench.step(Event::AllRanksEnded {
            job: JOB,
            epoch: epoch(1),
        });
        bench.sync();
        assert_eq!(bench.ends(), vec![(1, kind, value)]);
    }
}

#[test]
fn what_we_killed_is_no_failure() {
    let mut bench = Bench::connected();
    bench.running(1);
    bench.stop(1, EndKind::Preempted);
    bench.step(Event::RankExited {
        job: JOB,
        epoch: epoch(1),
        exit: exit(0, 0, 15),
    });
    bench.step(Event::AllRanksEnded {
        job: JOB,
        epoch: epoch(1),
    });
    bench.sync();
    let killed = bench.events().into_iter().any(|event| {
        matches!(event.what, Some(agent_event::What::RankExited(exit)) if exit.killed_by_us && exit.signal == 15)
    });
    assert!(killed);
    assert_eq!(bench.ends(), vec![(1, EndKind::Preempted, 0)]);
}

#[test]
fn a_second_stop_can_only_shorten_the_grace() {
    let mut bench = Bench::connected();
    bench.running(1);
    for grace_ms in [1_000, 5_000, 300, 300] {
        let stop = stop(EndKind::Cancelled, grace_ms);
        bench.leader(LeaderMessage::Stop {
            job: JOB,
            epoch: epoch(1),
            stop,
        });
    }
    let graces: Vec<u32> = bench
        .done
        .iter()
        .filter_map(|action| match action {
            Action::KeeperStop { grace_ms, .. } => Some(*grace_ms),
            _ => None,
        })
        .collect();
    assert_eq!(graces, [1_000, 300]);
}

#[test]
fn a_stop_while_preparing_ends_as_asked_whichever_comes_first() {
    for keeper_came in [false, true] {
        let mut bench = Bench::connected();
        bench.leader(LeaderMessage::Start(start(1)));
        bench.sync();
        bench.stop(1, EndKind::Cancelled);
        assert_eq!(
            bench.did(|action| matches!(action, Action::CancelPrepare { .. })),
            1
        );
        if keeper_came {
            bench.step(Event::Prepared {
                job: JOB,
                epoch: epoch(1),
                master_port: 1,
            });
            assert_eq!(
                bench.did(|action| matches!(action, Action::KeeperStop { .. })),
                1
            );
            bench.step(Event::AllRanksEnded {
                job: JOB,
                epoch: epoch(1),
            });
        } else {
            bench.step(Event::PrepareFailed {
                job: JOB,
                epoch: epoch(1),
                why: "stopped".into(),
            });
        }
        bench.sync();
        assert_eq!(bench.ends(), vec![(1, EndKind::Cancelled, 0)]);
        assert_eq!(
            bench.did(|action| matches!(action, Action::KeeperGo { .. })),
            0
        );
    }
}

#[test]
fn a_preparation_that_fails_is_a_failed_launch_with_its_reason() {
    let mut bench = Bench::connected();
    bench.leader(LeaderMessage::Start(start(1)));
    bench.sync();
    bench.step(Event::PrepareFailed {
        job: JOB,
        epoch: epoch(1),
        why: "no such blob".into(),
    });
    bench.sync();
    assert_eq!(bench.ends(), vec![(1, EndKind::LaunchFailed, 0)]);
    let Some(agent_event::What::AllocationEnded(ended)) = bench.events()[0].what.clone() else {
        panic!("an end")
    };
    assert_eq!(
        ended.end.map(|end| (end.detail, end.node)),
        Some(("no such blob".into(), "n1".into()))
    );
}

#[test]
fn a_newer_epoch_first_stops_the_older_one() {
    let mut bench = Bench::connected();
    bench.running(1);
    bench.leader(LeaderMessage::Start(start(2)));
    bench.sync();
    assert_eq!(
        bench.did(|action| matches!(action, Action::KeeperStop { .. })),
        1
    );
    assert_eq!(
        bench.prepared(2),
        0,
        "not while something of the older one may run"
    );
    bench.step(Event::AllRanksEnded {
        job: JOB,
        epoch: epoch(1),
    });
    assert_eq!(bench.prepared(2), 1);
    bench.sync();
    assert_eq!(bench.ends(), vec![(1, EndKind::Superseded, 0)]);
}

#[test]
fn heartbeats_come_when_due_and_leases_count_from_their_sending() {
    let mut bench = Bench::connected();
    assert!(
        matches!(bench.said.last(), Some(ToLeader::Heartbeat { seq: 1, .. })),
        "one at once"
    );
    assert_eq!(bench.core.next_deadline(), Some(500));
    bench.now = 400;
    bench.leader(LeaderMessage::HeartbeatAnswer { seq: 1 });
    assert_eq!(
        bench.core.confirmed_at(),
        Some(0),
        "from sending, not from the answer"
    );
    bench.leader(LeaderMessage::HeartbeatAnswer { seq: 1 });
    bench.leader(LeaderMessage::HeartbeatAnswer { seq: 99 });
    assert_eq!(bench.core.confirmed_at(), Some(0));
    bench.now = 500;
    bench.step(Event::Tick);
    assert!(matches!(
        bench.said.last(),
        Some(ToLeader::Heartbeat { seq: 2, .. })
    ));
}

#[test]
fn a_silent_leader_is_left_in_half_of_the_time_that_would_cost_the_node() {
    let mut bench = Bench::connected();
    bench.done.clear();
    for now in [500, 1_000, 1_499] {
        bench.now = now;
        bench.step(Event::Tick);
    }
    assert_eq!(bench.done, vec![]);
    bench.now = 1_500;
    bench.step(Event::Tick);
    assert!(matches!(&bench.done[..], [Action::Redial { .. }]));
    assert_eq!(
        bench.core.next_deadline(),
        None,
        "nothing is due until the next is dialled"
    );
}

#[test]
fn a_leader_without_an_answer_for_15_s_is_left_where_nodes_are_given_more_time() {
    let mut bench = Bench::connected();
    let hello = LeaderHello {
        incarnation: 1,
        heartbeat_ms: 2_000,
        node_timeout_ms: 60_000,
        event_mark: 0,
    };
    bench.step(Event::Dialled);
    bench.leader(LeaderMessage::Hello(hello));
    bench.done.clear();
    bench.now = 4_000;
    bench.leader(LeaderMessage::HeartbeatAnswer { seq: 1 });
    bench.now = 18_999;
    bench.step(Event::Tick);
    assert_eq!(bench.done, vec![]);
    bench.now = 19_000;
    bench.step(Event::Tick);
    assert!(matches!(&bench.done[..], [Action::Redial { .. }]));
}

#[test]
fn a_lease_that_was_granted_before_a_pause_is_as_old_as_its_heartbeat() {
    let mut bench = Bench::connected();
    // CLOCK_BOOTTIME counts a suspended machine's sleep.
    bench.now = 900_000;
    bench.leader(LeaderMessage::HeartbeatAnswer { seq: 1 });
    assert_eq!(bench.core.confirmed_at(), Some(0));
}

fn found(name: &str, step: u64) -> Event {
    Event::Checkpoint(CheckpointFound::bare(JOB, epoch(1), name.into(), step))
}

fn moving(bench: &Bench) -> Vec<u64> {
    let statuses = bench.core.statuses();
    statuses.iter().map(|one| one.moving_up_to).collect()
}

#[test]
fn an_uncommitted_part_is_announced_on_every_connection_until_it_is_acknowledged() {
    let mut bench = Bench::connected();
    bench.running(1);
    bench.step(found("step-5", 5));
    bench.sync();
    assert_eq!((seqs(&bench), moving(&bench)), (vec![1, 2], vec![2]));
    for _ in 0..2 {
        bench.step(Event::LinkDown);
        bench.connect(1);
        assert_eq!(seqs(&bench), vec![2], "again");
        let hello = bench.said.first();
        assert!(
            matches!(hello, Some(ToLeader::Hello { attempts, .. }) if attempts[0].moving_up_to == 2)
        );
    }
    bench.crash(true);
    bench.connect(1);
    assert_eq!((seqs(&bench), moving(&bench)), (vec![2], vec![2]));
    bench.leader(LeaderMessage::EventsApplied { up_to: 2 });
    assert_eq!(moving(&bench), vec![0], "committed or refused, it is over");
    bench.step(Event::LinkDown);
    bench.connect(2);
    assert_eq!(seqs(&bench), Vec::<u64>::new());
}

#[test]
fn a_checkpoint_renamed_just_before_the_end_is_told_before_the_end() {
    let mut bench = Bench::connected();
    bench.running(1);
    bench.step(found("step-5", 5));
    bench.step(found("step-6", 6));
    bench.step(Event::RankExited {
        job: JOB,
        epoch: epoch(1),
        exit: exit(0, 1, 0),
    });
    bench.step(Event::AllRanksEnded {
        job: JOB,
        epoch: epoch(1),
    });
    bench.sync();
    let told: Vec<bool> = bench
        .events()
        .iter()
        .map(|event| matches!(event.what, Some(agent_event::What::CheckpointSealed(_))))
        .collect();
    assert_eq!(told, [false, true, true, false, false]);
    assert_eq!(moving(&bench), vec![3]);
}

#[test]
fn the_keeper_is_released_only_when_the_end_is_on_disk() {
    let mut bench = Bench::connected();
    bench.running(1);
    bench.step(Event::AllRanksEnded {
        job: JOB,
        epoch: epoch(1),
    });
    let released =
        |bench: &Bench| bench.did(|action| matches!(action, Action::ReleaseKeeper { .. }));
    assert_eq!((released(&bench), bench.ends()), (0, vec![]));
    bench.sync();
    assert_eq!(
        (released(&bench), bench.ends()),
        (1, vec![(1, EndKind::Exited, 0)])
    );
    bench.crash(true);
    assert_eq!(
        released(&bench),
        1,
        "again after a restart: the first may not have reached it"
    );
}

#[test]
fn ended_attempts_stay_in_the_full_set_until_acknowledged() {
    let mut bench = Bench::connected();
    bench.running(1);
    bench.step(Event::AllRanksEnded {
        job: JOB,
        epoch: epoch(1),
    });
    bench.sync();
    assert_eq!(bench.phases(), vec![(1, Phase::Ended)]);
    bench.leader(LeaderMessage::EventsApplied { up_to: 99 });
    assert_eq!(
        bench.phases(),
        vec![(1, Phase::Ended)],
        "a number that was never given acknowledges nothing"
    );
    bench.leader(LeaderMessage::EventsApplied { up_to: 2 });
    assert_eq!(bench.phases(), vec![]);
    assert_eq!(
        bench.did(|action| matches!(action, Action::Closed { .. })),
        1
    );
}

#[test]
fn a_node_that_comes_back_after_its_job_moved_is_told_to_stop_and_obeys() {
    let mut bench = Bench::connected();
    bench.running(1);
    bench.now = 60_000;
    bench.step(Event::Tick);
    assert_eq!(
        bench.did(|action| matches!(action, Action::Redial { .. })),
        1,
        "after a long sleep the leader that was is left"
    );
    bench.step(Event::LinkDown);
    bench.term = 9;
    bench.connect(1);
    assert!(
        matches!(&bench.said[0], ToLeader::Hello { attempts, .. } if attempts[0].phase == Phase::Running),
        "it says what runs"
    );
    bench.stop(1, EndKind::Superseded);
    assert_eq!(
        bench.did(|action| matches!(action, Action::KeeperStop { .. })),
        1
    );
    bench.step(Event::AllRanksEnded {
        job: JOB,
        epoch: epoch(1),
    });
    bench.sync();
    assert_eq!(bench.ends(), vec![(1, EndKind::Superseded, 0)]);
    bench.leader(LeaderMessage::EventsApplied { up_to: 2 });
    assert_eq!(
        bench.phases(),
        vec![],
        "acknowledged, although the cluster refused it"
    );
}
