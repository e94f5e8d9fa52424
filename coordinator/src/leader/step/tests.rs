//! The step against a small cluster whose proposals are applied at once.
use std::collections::BTreeSet;

use super::*;
use crate::leader::gang::Phase;
use crate::scheduler::plan;
use crate::state::commands::{StartAttempt, SupersedeAttempt};
use crate::state::records::{EndKind, JobState, Liveness, Timers};
use crate::state::testing::{Cluster, node, sealed, system};
use crate::state::view::ClusterView;

const DEV: Timers = Timers::DEV;

struct Leader {
    cluster: Cluster,
    term: Term,
    now: Mono,
    links: u64,
}

impl Leader {
    fn new(nodes: &[&str]) -> Self {
        let mut cluster = Cluster::new();
        for name in nodes {
            cluster.gpu_node(name, 2);
        }
        let now = 50_000;
        let term = Term::new(now, &cluster.state).expect("there are settings");
        Self {
            cluster,
            term,
            now,
            links: 0,
        }
    }

    fn at(&mut self, now: Mono, event: Event) -> Vec<Output> {
        self.now = now;
        self.term.step(now, &self.cluster.state, event)
    }

    fn on(&mut self, event: Event) -> Vec<Output> {
        self.at(self.now, event)
    }

    fn connect(&mut self, name: &str, reports: Vec<Report>) -> (u64, Vec<Output>) {
        self.links += 1;
        let known = node(name, 2, "SIM");
        let link = Box::new(Link {
            id: self.links,
            facts: known.facts,
            journal_id: known.journal_id,
            data_port: 0,
        });
        (self.links, self.on(Event::Connected { link, reports }))
    }

    fn beat(&mut self, name: &str, link: u64, seq: u64) -> Vec<Output> {
        self.on(Event::Heartbeat {
            node: name.into(),
            link,
            seq,
            reports: Vec::new(),
        })
    }
}

fn orders<'a>(outputs: &'a [Output]) -> Vec<(&'a str, &'a Order)> {
    let told = |output: &'a Output| match output {
        Output::Tell { node, order, .. } => Some((node.as_str(), order)),
        _ => None,
    };
    outputs.iter().filter_map(told).collect()
}

fn proposals(outputs: Vec<Output>) -> Vec<Body> {
    let proposed = |output| match output {
        Output::Propose { body, .. } => Some(*body),
        _ => None,
    };
    outputs.into_iter().filter_map(proposed).collect()
}

fn planned(outputs: &[Output]) -> Option<&BTreeSet<String>> {
    outputs.iter().find_map(|output| match output {
        Output::Plan { heard, .. } => Some(heard),
        _ => None,
    })
}

fn report(key: Key, phase: Phase, master_port: u16) -> Report {
    Report {
        key,
        phase,
        master_port,
        moving_up_to: 0,
    }
}

#[test]
fn no_plan_needs_a_node_that_was_not_heard() {
    let mut leader = Leader::new(&["a", "b"]);
    let first = leader.on(Event::Time);
    assert_eq!(planned(&first), Some(&BTreeSet::new()), "nobody is heard");
    let (_, outputs) = leader.connect("b", vec![]);
    assert_eq!(planned(&outputs), None, "one plan at a time");
    let outputs = leader.on(Event::PlanEnded {
        again_in: None,
        late: false,
    });
    assert_eq!(planned(&outputs), Some(&BTreeSet::from(["b".to_owned()])));
    assert_eq!(
        planned(&leader.on(Event::PlanEnded {
            again_in: None,
            late: false,
        })),
        None
    );
}

#[test]
fn a_lease_follows_a_round_that_began_after_the_heartbeat() {
    let mut leader = Leader::new(&["a", "b"]);
    let (a, _) = leader.connect("a", vec![]);
    let (b, _) = leader.connect("b", vec![]);
    let outputs = leader.beat("a", a, 7);
    assert!(outputs.contains(&Output::Read) && orders(&outputs).is_empty());
    assert!(orders(&leader.beat("b", b, 3)).is_empty());
    let outputs = leader.on(Event::RoundEnded { confirmed: true });
    assert_eq!(orders(&outputs), [("a", &Order::Lease { seq: 7 })]);
    let outputs = leader.at(leader.now + LEASE_GAP_MS, Event::Time);
    assert!(outputs.contains(&Output::Read));
    let outputs = leader.on(Event::RoundEnded { confirmed: false });
    assert!(orders(&outputs).is_empty(), "a failed round grants nothing");
}

#[test]
fn a_lease_never_goes_to_another_stream() {
    let mut leader = Leader::new(&["a"]);
    let (old, _) = leader.connect("a", vec![]);
    leader.beat("a", old, 7);
    let (_, outputs) = leader.connect("a", vec![]);
    assert!(outputs.contains(&Output::Close { link: old }));
    let outputs = leader.on(Event::RoundEnded { confirmed: true });
    assert!(orders(&outputs).is_empty());
    assert!(leader.beat("a", old, 8).is_empty(), "the old one is over");
}

#[test]
fn an_election_marks_no_node_down() {
    let mut leader = Leader::new(&["a", "b"]);
    let period = u64::from(DEV.node_timeout_ms.min(DEV.lost_after_ms));
    let begin = leader.now;
    for at in [begin, begin + period / 2, begin + period - 1] {
        assert!(proposals(leader.at(at, Event::Time)).is_empty(), "{at}");
    }
    leader.connect("a", vec![]);
    let verdicts = proposals(leader.at(begin + period, Event::Time));
    assert!(
        matches!(&verdicts[..], [Body::DeclareNodeLost(lost)] if lost.node == "b"),
        "{verdicts:?}"
    );
}

#[test]
fn a_leader_that_was_held_up_blames_nobody() {
    let mut leader = Leader::new(&["a"]);
    leader.connect("a", vec![]);
    let late = leader.now + 60_000;
    assert!(proposals(leader.at(late, Event::Time)).is_empty());
    assert!(proposals(leader.at(late + 2_999, Event::Time)).is_empty());
    assert_eq!(proposals(leader.at(late + 3_000, Event::Time)).len(), 1);
}

#[test]
fn a_verdict_is_proposed_once_until_it_is_settled_and_again_when_it_was_not() {
    let mut leader = Leader::new(&["a"]);
    let begin = leader.now;
    assert_eq!(proposals(leader.at(begin + 3_000, Event::Time)).len(), 1);
    assert!(proposals(leader.at(begin + 3_500, Event::Time)).is_empty());
    let (why, carried) = (Why::Axis("a".into()), false);
    leader.on(Event::Proposed { why, carried });
    assert_eq!(leader.term.next_wake(), begin + 3_800);
    assert_eq!(proposals(leader.at(begin + 3_800, Event::Time)).len(), 1);
}

#[test]
fn a_node_that_is_heard_again_is_raised() {
    let mut leader = Leader::new(&["a"]);
    let (a, _) = leader.connect("a", vec![]);
    assert!(proposals(leader.beat("a", a, 1)).is_empty());
    leader.cluster.silence("a");
    let raised = proposals(leader.beat("a", a, 2));
    assert!(
        matches!(&raised[..], [Body::SetNodeLiveness(set)] if set.liveness == Liveness::Ready),
        "{raised:?}"
    );
    let why = Why::Axis("a".into());
    leader.on(Event::Proposed { why, carried: true });
    leader.cluster.lose("a");
    let raised = proposals(leader.beat("a", a, 3));
    assert!(matches!(&raised[..], [Body::RegisterNode(_)]), "{raised:?}");
}

#[test]
fn a_new_leader_has_its_soft_state_back_after_one_hello_of_each() {
    let mut leader = Leader::new(&["a", "b"]);
    let job = leader.cluster.submitted("ann", 2, 1);
    let key = (job, leader.cluster.started(job, &["a", "b"]));
    let (_, outputs) = leader.connect("b", vec![report(key, Phase::Ready, 0)]);
    assert!(orders(&outputs).is_empty(), "node a was not heard");
    let (_, outputs) = leader.connect("a", vec![report(key, Phase::Ready, 4_000)]);
    let told = orders(&outputs);
    assert_eq!(told.len(), 2, "{told:?}");
    for (name, (to, order)) in ["a", "b"].into_iter().zip(told) {
        assert_eq!(name, to);
        assert!(matches!(order, Order::Go { master_port, .. } if *master_port == 4_000));
    }
}

#[test]
fn a_gang_that_takes_too_long_is_ended_everywhere() {
    let mut leader = Leader::new(&["a", "b"]);
    let job = leader.cluster.submitted("ann", 2, 1);
    let key = (job, leader.cluster.started(job, &["a", "b"]));
    let (_, outputs) = leader.connect("a", vec![]);
    assert!(matches!(orders(&outputs)[..], [("a", Order::Start(_))]));
    leader.connect("b", vec![report(key, Phase::Ready, 0)]);
    let over = leader.now + mlctl_proto::limits::GANG_READY_MS;
    let outputs = leader.at(over, Event::Time);
    let told = orders(&outputs);
    assert_eq!(told.len(), 2);
    for (_, order) in told {
        assert!(matches!(order, Order::Stop { why, .. } if why.contains("not ready in time")));
    }
    assert!(outputs.iter().any(
        |output| matches!(output, Output::Note(Note::NotReady { missing, .. }) if missing == "a")
    ));
}

#[test]
fn when_effects_were_dropped_everybody_connects_anew() {
    let mut leader = Leader::new(&["a", "b"]);
    let (a, _) = leader.connect("a", vec![]);
    let (b, _) = leader.connect("b", vec![]);
    let outputs = leader.on(Event::Effects {
        effects: vec![],
        overflowed: true,
    });
    for link in [a, b] {
        assert!(outputs.contains(&Output::Close { link }));
    }
    let outputs = leader.on(Event::PlanEnded {
        again_in: None,
        late: false,
    });
    assert_eq!(planned(&outputs), Some(&BTreeSet::new()));
}

#[test]
fn an_orphan_is_named_once_and_left_alone() {
    let mut leader = Leader::new(&["a"]);
    let stranger = (
        mlctl_proto::ids::JobId::new(1, 99),
        mlctl_proto::ids::Epoch::new(1, 1),
    );
    let orphans = |outputs: &[Output]| {
        let orphan = |output: &&Output| matches!(output, Output::Note(Note::Orphan { .. }));
        outputs.iter().filter(orphan).count()
    };
    let reports = vec![report(stranger, Phase::Running, 0)];
    let (_, outputs) = leader.connect("a", reports.clone());
    assert_eq!((orphans(&outputs), orders(&outputs).len()), (1, 0));
    let (_, outputs) = leader.connect("a", reports);
    assert_eq!((orphans(&outputs), orders(&outputs).len()), (0, 0));
}

fn salvaged(outputs: &[Output]) -> Option<&BTreeSet<JobId>> {
    outputs.iter().find_map(|output| match output {
        Output::Plan { salvaging, .. } => Some(salvaging),
        _ => None,
    })
}

/// A job whose gang fell apart when `b` was cut off with a checkpoint that it had not told of; `b` is back. `unsaid`: it says so.
fn cut_off(unsaid: bool) -> (Leader, Key, Vec<Output>) {
    let mut leader = Leader::new(&["a", "b"]);
    leader.on(Event::Time);
    let cluster = &mut leader.cluster;
    let job = cluster.submitted("ann", 2, 1);
    let key = (job, cluster.started(job, &["a", "b"]));
    cluster.running(job, key.1);
    cluster.lose("b");
    cluster.ended("a", job, key.1, EndKind::NodeLost);
    assert_eq!(cluster.job(job).state, JobState::Pending);
    cluster.register(&node("b", 2, "SIM"));
    leader.connect("a", vec![]);
    let report = Report {
        moving_up_to: if unsaid { 2 } else { 1 },
        ..report(key, Phase::Running, 0)
    };
    leader.connect("b", vec![report]);
    let outputs = leader.on(Event::PlanEnded {
        again_in: None,
        late: false,
    });
    (leader, key, outputs)
}

fn starts(leader: &Leader, outputs: &[Output]) -> Vec<StartAttempt> {
    let (Some(heard), Some(salvaging)) = (planned(outputs), salvaged(outputs)) else {
        return Vec::new();
    };
    let view = ClusterView::new(leader.cluster.state.clone(), heard.clone());
    plan(&view.salvaging(salvaging.clone()), 1_000).starts
}

#[test]
fn a_seal_that_arrives_a_second_after_the_end_counts_and_is_resumed_from() {
    let (mut leader, key, outputs) = cut_off(true);
    assert_eq!(salvaged(&outputs), Some(&BTreeSet::from([key.0])));
    assert_eq!(starts(&leader, &outputs), [], "it waits");
    leader.on(Event::PlanEnded {
        again_in: None,
        late: false,
    });
    leader.now += 1_000;
    let applied = leader.cluster.event("b", key.0, key.1, sealed("step-9", 9));
    let outputs = leader.on(Event::Effects {
        effects: applied.effects,
        overflowed: false,
    });
    assert_eq!(salvaged(&outputs), Some(&BTreeSet::new()), "at once");
    let starts = starts(&leader, &outputs);
    assert_eq!(starts.len(), 1);
    assert_eq!(starts[0].resume_from, "step-9");
    assert_eq!(starts[0].placements[0].node, "b");
}

#[test]
fn salvage_times_out() {
    let (mut leader, _, outputs) = cut_off(true);
    assert!(starts(&leader, &outputs).is_empty());
    leader.on(Event::PlanEnded {
        again_in: None,
        late: false,
    });
    let over = leader.now + u64::from(DEV.lost_after_ms);
    assert!(leader.term.next_wake() <= over, "it wakes by itself");
    leader.term.judge.heard("a", over);
    leader.term.judge.heard("b", over);
    let outputs = leader.at(over, Event::Time);
    assert_eq!(starts(&leader, &outputs).len(), 1, "without it");
    let in_time = false;
    assert!(outputs.iter().any(
        |output| matches!(output, Output::Note(Note::Salvaged { in_time: seen, .. }) if *seen == in_time)
    ));
    leader.on(Event::PlanEnded {
        again_in: None,
        late: false,
    });
    assert_eq!(salvaged(&leader.on(Event::Time)), None, "no second plan");
}

#[test]
fn nothing_in_flight_is_not_waited_for() {
    let (leader, _, outputs) = cut_off(false);
    assert_eq!(salvaged(&outputs), Some(&BTreeSet::new()));
    assert_eq!(starts(&leader, &outputs).len(), 1);
}

#[test]
fn who_goes_away_again_is_not_waited_for() {
    let (mut leader, _, _) = cut_off(true);
    leader.on(Event::PlanEnded {
        again_in: None,
        late: false,
    });
    let gone = Event::Gone {
        node: "b".into(),
        link: 2,
    };
    assert_eq!(salvaged(&leader.on(gone)), Some(&BTreeSet::new()));
}

/// A job that ran on `a`, which is Lost by silence; its successor was committed to `b`, whose stream begins.
fn successor() -> (Leader, Key, Vec<Output>) {
    let mut leader = Leader::new(&["a", "b"]);
    let cluster = &mut leader.cluster;
    let job = cluster.submitted("ann", 1, 1);
    let first = cluster.started(job, &["a"]);
    cluster.running(job, first);
    cluster.lose("a");
    let key = (job, cluster.started(job, &["b"]));
    let (_, outputs) = leader.connect("b", vec![report(key, Phase::Ready, 4_000)]);
    (leader, key, outputs)
}

fn goes(outputs: &[Output]) -> usize {
    let orders = orders(outputs).into_iter();
    let go = |(_, order): &(&str, &Order)| matches!(order, Order::Go { .. });
    orders.filter(go).count()
}

#[test]
fn a_successor_is_told_to_go_only_after_it_has_taken_over() {
    let (mut leader, key, outputs) = successor();
    assert_eq!(goes(&outputs), 0);
    let body = proposals(outputs).pop().expect("it takes over");
    let (job, epoch) = key;
    assert_eq!(
        body,
        Body::SupersedeAttempt(SupersedeAttempt { job, epoch })
    );
    leader.cluster.run(system(), body);
    let (why, carried) = (Why::Supersede(key), true);
    assert_eq!(goes(&leader.on(Event::Proposed { why, carried })), 1);
}

#[test]
fn a_successor_whose_word_was_lost_takes_over_with_its_next_heartbeat() {
    let (mut leader, key, _) = successor();
    let again = |leader: &mut Leader| {
        let reports = vec![report(key, Phase::Ready, 4_000)];
        leader.on(Event::Heartbeat {
            node: "b".into(),
            link: 1,
            seq: 1,
            reports,
        })
    };
    assert!(proposals(again(&mut leader)).is_empty(), "one is under way");
    let (why, carried) = (Why::Supersede(key), false);
    assert_eq!(goes(&leader.on(Event::Proposed { why, carried })), 0);
    let outputs = again(&mut leader);
    assert_eq!((goes(&outputs), proposals(outputs).len()), (0, 1));
}

#[test]
fn a_successor_that_is_not_needed_any_more_never_goes() {
    let (mut leader, key, outputs) = successor();
    let body = proposals(outputs).pop().expect("it takes over");
    let back = leader.cluster.register(&node("a", 2, "SIM"));
    let outputs = leader.on(Event::Effects {
        effects: back.effects,
        overflowed: false,
    });
    assert!(
        matches!(
            orders(&outputs)[..],
            [(
                "b",
                Order::Stop {
                    reason: EndKind::Superseded,
                    ..
                }
            )]
        ),
        "{outputs:?}"
    );
    assert!(leader.cluster.run(system(), body).refusal().is_some());
    let (why, carried) = (Why::Supersede(key), false);
    assert_eq!(goes(&leader.on(Event::Proposed { why, carried })), 0);
}

#[test]
fn a_first_attempt_goes_without_another_entry() {
    let mut leader = Leader::new(&["a"]);
    let job = leader.cluster.submitted("ann", 1, 1);
    let key = (job, leader.cluster.started(job, &["a"]));
    let (_, outputs) = leader.connect("a", vec![report(key, Phase::Ready, 4_000)]);
    assert_eq!((goes(&outputs), proposals(outputs).len()), (1, 0));
}

#[test]
fn a_deadline_that_is_over_is_proposed_until_it_is_carried() {
    let mut leader = Leader::new(&[]);
    let late = |outputs: &[Output]| {
        let found = outputs
            .iter()
            .filter(|output| matches!(output, Output::Propose { why: Why::Late, .. }));
        found.count()
    };
    leader.on(Event::Time);
    let outputs = leader.on(Event::PlanEnded {
        again_in: None,
        late: true,
    });
    assert_eq!(late(&outputs), 1);
    let outputs = leader.on(Event::Proposed {
        why: Why::Late,
        carried: false,
    });
    assert_eq!(late(&outputs), 0, "not at once");
    leader.now += AGAIN_MS;
    assert_eq!(late(&leader.on(Event::Time)), 1);
    leader.on(Event::Proposed {
        why: Why::Late,
        carried: true,
    });
    leader.now += AGAIN_MS;
    assert_eq!(late(&leader.on(Event::Time)), 0);
}
