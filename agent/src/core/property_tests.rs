//! Random lives of an agent: whatever a leader says, keepers do and crashes take, the promises of epochs and events hold.
//! Does NOT check that anything useful happens; `rule_tests` does.

use std::collections::{BTreeMap, BTreeSet};

use mlctl_proto::persist::{AgentEvent, EndKind, agent_event};
use proptest::prelude::*;

use super::testing::*;
use super::*;

#[derive(Debug, Clone)]
enum Act {
    Connect(u64),
    LinkDown,
    Later(u64),
    Sync,
    Crash {
        power_cut: bool,
    },
    Compact,
    Term(u64),
    Start(u64),
    Stop(u64),
    Go(u64),
    Applied(u64),
    Prepared(u64),
    PrepareFailed(u64),
    Connected {
        epoch: u64,
        started: bool,
        all_ended: bool,
    },
    NeverStarted(u64),
    Lost(u64),
    Started(u64),
    Exited {
        epoch: u64,
        rank: u32,
        code: i32,
    },
    AllEnded(u64),
    Sealed {
        epoch: u64,
        step: u64,
        by_rescan: bool,
    },
    Sealing {
        epoch: u64,
        begun: bool,
    },
    CopyHeld(u64),
    CopyLost(u64),
    CopyUploaded(u64),
    Forget(u64),
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let e = 1_u64..5;
    let act = prop_oneof![
        2 => (0_u64..12).prop_map(Act::Connect),
        1 => Just(Act::LinkDown),
        2 => (0_u64..4_000).prop_map(Act::Later),
        8 => Just(Act::Sync),
        1 => any::<bool>().prop_map(|power_cut| Act::Crash { power_cut }),
        1 => Just(Act::Compact),
        1 => (1_u64..4).prop_map(Act::Term),
        6 => e.clone().prop_map(Act::Start),
        2 => e.clone().prop_map(Act::Stop),
        4 => e.clone().prop_map(Act::Go),
        2 => (0_u64..12).prop_map(Act::Applied),
        6 => e.clone().prop_map(Act::Prepared),
        1 => e.clone().prop_map(Act::PrepareFailed),
        3 => (e.clone(), any::<bool>(), any::<bool>())
            .prop_map(|(epoch, started, all_ended)| Act::Connected { epoch, started, all_ended }),
        1 => e.clone().prop_map(Act::NeverStarted),
        1 => e.clone().prop_map(Act::Lost),
        4 => e.clone().prop_map(Act::Started),
        4 => (e.clone(), 0_u32..3, 0_i32..3).prop_map(|(epoch, rank, code)| Act::Exited { epoch, rank, code }),
        3 => e.clone().prop_map(Act::AllEnded),
        2 => (e.clone(), 0_u64..6, any::<bool>())
            .prop_map(|(epoch, step, by_rescan)| Act::Sealed { epoch, step, by_rescan }),
        1 => (e.clone(), any::<bool>()).prop_map(|(epoch, begun)| Act::Sealing { epoch, begun }),
        1 => e.clone().prop_map(Act::CopyHeld),
        1 => e.clone().prop_map(Act::CopyLost),
        1 => e.clone().prop_map(Act::CopyUploaded),
        1 => e.prop_map(Act::Forget),
    ];
    proptest::collection::vec(act, 1..120)
}

/// What was promised so far.
#[derive(Default)]
struct Promises {
    /// Content of each event number that ever left.
    said: BTreeMap<u64, AgentEvent>,
    /// Epochs whose end was said, or that were begun and then overtaken.
    ended: BTreeSet<u64>,
    /// Epochs for which a Go came since this process began.
    go: BTreeSet<u64>,
}

impl Promises {
    fn check(&mut self, bench: &mut Bench) {
        for action in std::mem::take(&mut bench.done) {
            match action {
                Action::Prepare(start) => {
                    let counter = start.epoch.counter;
                    assert!(
                        !self.ended.contains(&counter),
                        "epoch {counter} begins after its end was said"
                    );
                }
                Action::KeeperGo { epoch, .. } => {
                    assert!(
                        self.go.contains(&epoch.counter),
                        "ranks of {epoch} start without Go"
                    );
                    assert!(
                        !self.ended.contains(&epoch.counter),
                        "ranks of {epoch} start after its end was said"
                    );
                }
                Action::Forget(keys) => {
                    let coming = bench.core.outbox.unacknowledged();
                    let coming: Vec<_> = coming.filter_map(PartKey::announced).collect();
                    assert!(
                        keys.iter().all(|key| !coming.contains(key)),
                        "what was told and is not acknowledged is not forgotten"
                    );
                }
                _ => {}
            }
        }
        let mut last = None;
        for message in std::mem::take(&mut bench.said) {
            let ToLeader::Events(events) = message else {
                continue;
            };
            for event in events {
                assert!(
                    last.is_none_or(|last| event.seq == last + 1),
                    "events leave in order and without gaps"
                );
                last = Some(event.seq);
                if let Some(agent_event::What::AllocationEnded(_)) = &event.what {
                    self.ended
                        .insert(event.epoch.expect("every event has one").counter);
                }
                let known = self.said.entry(event.seq).or_insert_with(|| event.clone());
                assert_eq!(*known, event, "one number, one content");
            }
        }
    }
}

fn perform(bench: &mut Bench, promises: &mut Promises, act: Act) {
    // A leader's mark never runs ahead of what was said to the cluster.
    let said = promises.said.keys().last().copied().unwrap_or(0);
    match act {
        Act::Connect(mark) => bench.connect(mark.min(said)),
        Act::LinkDown => bench.step(Event::LinkDown),
        Act::Later(ms) => {
            bench.now += ms;
            bench.step(Event::Tick);
        }
        Act::Sync => bench.sync(),
        Act::Crash { power_cut } => {
            promises.go.clear();
            bench.crash(power_cut);
        }
        Act::Compact => {
            promises.go.clear();
            bench.compact();
        }
        Act::Term(term) => bench.term = bench.term.max(term),
        Act::Start(n) => bench.leader(LeaderMessage::Start(start(n))),
        Act::Stop(n) => bench.stop(n, EndKind::Cancelled),
        Act::Go(n) => {
            promises.go.insert(n);
            let rendezvous = Rendezvous {
                address: "a".into(),
                port: 1,
            };
            bench.leader(LeaderMessage::Go {
                job: JOB,
                epoch: epoch(n),
                rendezvous,
            });
        }
        Act::Applied(up_to) => bench.leader(LeaderMessage::EventsApplied {
            up_to: up_to.min(said),
        }),
        Act::Forget(n) => bench.leader(LeaderMessage::Forget(vec![part(n)])),
        other => bench.step(local(other)),
    }
}

/// What preparations, keepers and the disk say.
fn local(act: Act) -> Event {
    let (job, at) = (JOB, epoch);
    match act {
        Act::Prepared(n) => Event::Prepared {
            job,
            epoch: at(n),
            master_port: 9,
        },
        Act::PrepareFailed(n) => Event::PrepareFailed {
            job,
            epoch: at(n),
            why: "x".into(),
        },
        Act::Connected {
            epoch: n,
            started,
            all_ended,
        } => {
            let status = KeeperStatus {
                started,
                all_ended,
                ..KeeperStatus::default()
            };
            Event::KeeperConnected {
                job,
                epoch: at(n),
                status,
            }
        }
        Act::NeverStarted(n) => Event::KeeperNeverStarted { job, epoch: at(n) },
        Act::Lost(n) => Event::KeeperLost {
            job,
            epoch: at(n),
            why: "x".into(),
        },
        Act::Started(n) => Event::RanksStarted { job, epoch: at(n) },
        Act::Exited {
            epoch: n,
            rank,
            code,
        } => Event::RankExited {
            job,
            epoch: at(n),
            exit: exit(rank, code, 0),
        },
        Act::AllEnded(n) => Event::AllRanksEnded { job, epoch: at(n) },
        Act::Sealed {
            epoch: n,
            step,
            by_rescan,
        } => Event::Checkpoint(found(n, step, by_rescan)),
        Act::Sealing { epoch: n, begun } => Event::Sealing {
            job,
            epoch: at(n),
            begun,
        },
        Act::CopyHeld(n) => Event::CopyHeld {
            job,
            epoch: at(n),
            sealed: with_part(n).sealed(),
        },
        Act::CopyLost(n) => Event::CopyLost(part(n)),
        Act::CopyUploaded(n) => Event::CopyUploaded(part(n)),
        other => unreachable!("{other:?} is performed above"),
    }
}

fn found(counter: u64, step: u64, by_rescan: bool) -> CheckpointFound {
    CheckpointFound {
        by_rescan,
        ..CheckpointFound::bare(JOB, epoch(counter), format!("step-{step}"), step)
    }
}

fn with_part(counter: u64) -> CheckpointFound {
    let part = PartFound {
        index: 0,
        manifest: Some([7; 32]),
        bytes: 9,
    };
    CheckpointFound {
        part: Some(part),
        ..found(counter, 3, false)
    }
}

fn part(counter: u64) -> PartKey {
    PartKey::of(JOB, epoch(counter), &with_part(counter).sealed()).expect("it has one")
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn promises_hold_whatever_happens(acts in acts()) {
        let mut bench = Bench::new();
        let mut promises = Promises::default();
        for act in acts {
            perform(&mut bench, &mut promises, act);
            promises.check(&mut bench);
        }
    }
}
