//! A leader with three nodes, one of which falls silent; what it asks the others, and what follows from what they say.
use super::*;
use crate::leader::orders::ProbeOrder;
use crate::leader::witness::Target;
use crate::state::commands::{LossProof, SubmitJob};
use crate::state::records::{JobState, Liveness, Reply};
use crate::state::testing::{Cluster, node, person, system};
use mlctl_proto::spec::{JobSpec, OnDisconnect};

const BEAT: u64 = 500;

struct Bench {
    cluster: Cluster,
    term: Term,
    now: Mono,
}

impl Bench {
    /// Nodes `a`, `b` and `c` are connected and tell who answers there; what is proposed is applied at once.
    fn new() -> Self {
        let mut cluster = Cluster::new();
        for name in ["a", "b", "c"] {
            cluster.gpu_node(name, 2);
        }
        let mut settings = cluster.state.settings().expect("settings").timers;
        (settings.node_timeout_ms, settings.lost_after_ms) = (3_000, 10_000);
        let mut term = Term::new(0, &cluster.state).expect("there are settings");
        term.judge = Judge::new(settings, 0);
        let mut bench = Self {
            cluster,
            term,
            now: 0,
        };
        for (number, name) in (1..).zip(["a", "b", "c"]) {
            let known = node(name, 2, "SIM");
            let link = Box::new(Link {
                id: number,
                facts: known.facts,
                journal_id: known.journal_id,
                data_port: 0,
            });
            let reports = vec![];
            bench.on(Event::Connected { link, reports });
            let target = Target {
                port: 7,
                key: [1; 32],
            };
            bench.on(Event::Targets {
                node: name.into(),
                link: number,
                targets: Targets {
                    targets: vec![target],
                    whole: true,
                },
            });
        }
        bench
    }

    fn running(&mut self, policy: OnDisconnect, nodes: &[&str]) -> JobId {
        let mut spec = JobSpec::new(vec!["train".into()]);
        spec.nodes = u32::try_from(nodes.len()).expect("few");
        (spec.gpus, spec.on_disconnect) = (1, policy);
        let submit = Body::SubmitJob(SubmitJob {
            spec: spec.canonical_json(),
            code_manifest: String::new(),
            code_bytes: 0,
            traceparent: String::new(),
            submitter_uid: 0,
        });
        let reply = self.cluster.run(person("ann", false), submit).reply;
        let Reply::Submitted { job } = reply else {
            panic!("{reply:?}");
        };
        let epoch = self.cluster.started(job, nodes);
        self.cluster.running(job, epoch);
        job
    }

    /// Everything that comes of an event, proposals carried out.
    fn on(&mut self, event: Event) -> Vec<Output> {
        let mut all = Vec::new();
        let mut events = vec![event];
        while let Some(event) = events.pop() {
            for output in self.term.step(self.now, &self.cluster.state, event) {
                if let Output::Propose { body, why } = &output {
                    let body = Body::clone(body);
                    let carried = self.cluster.run(system(), body).refusal().is_none();
                    let why = why.clone();
                    events.push(Event::Proposed { why, carried });
                }
                all.push(output);
            }
        }
        all
    }

    /// Time passes while all but `silent` send heartbeats. The questions that came up: who is asked.
    fn pass(&mut self, ms: u64, silent: &[&str]) -> Vec<(String, ProbeOrder)> {
        let mut asked = Vec::new();
        for _ in 0..ms / BEAT {
            self.now += BEAT;
            let mut outputs = self.on(Event::Time);
            for (link, name) in (1..).zip(["a", "b", "c"]) {
                if !silent.contains(&name) {
                    outputs.extend(self.on(Event::Heartbeat {
                        node: name.into(),
                        link,
                        seq: 1,
                        reports: vec![],
                    }));
                }
            }
            asked.extend(outputs.into_iter().filter_map(|output| match output {
                Output::Tell {
                    node,
                    order: Order::Probe(order),
                    ..
                } => Some((node, *order)),
                _ => None,
            }));
        }
        asked
    }

    fn says(&mut self, witness: &str, id: u64, seen: bool) -> Vec<Output> {
        let link = if witness == "b" { 2 } else { 3 };
        self.on(Event::Probed {
            node: witness.into(),
            link,
            answer: Testimony {
                id,
                node: "a".into(),
                seen,
            },
        })
    }

    fn liveness(&self) -> Liveness {
        self.cluster.state.node("a").expect("known").liveness
    }
}

fn who(asked: &[(String, ProbeOrder)]) -> Vec<&str> {
    asked.iter().map(|(node, _)| node.as_str()).collect()
}

#[test]
fn two_of_the_network_are_asked_and_have_to_agree() {
    let mut bench = Bench::new();
    assert_eq!(bench.pass(2_500, &["a"]), []);
    let asked = bench.pass(1_000, &["a"]);
    assert_eq!(who(&asked), ["b", "c"]);
    let order = &asked[0].1;
    assert_eq!((order.node.as_str(), order.targets.len()), ("a", 1));
    assert_eq!(order.address, node("a", 2, "SIM").facts.addresses.data);
    bench.says("b", order.id, false);
    assert_eq!(bench.liveness(), Liveness::Unreachable);
    let outputs = bench.says("c", order.id, false);
    assert_eq!(bench.liveness(), Liveness::Lost);
    let witness = outputs.iter().any(|output| {
        matches!(output, Output::Propose { body, .. }
            if matches!(&**body, Body::DeclareNodeLost(lost) if lost.proof == LossProof::Witness))
    });
    assert!(witness, "{outputs:?}");
    assert_eq!(bench.pass(8_000, &["a"]), [], "nobody is asked any more");
}

#[test]
fn a_node_that_is_heard_elsewhere_is_lost_only_by_long_silence() {
    let mut bench = Bench::new();
    let asked = bench.pass(3_500, &["a"]);
    bench.says("b", asked[0].1.id, false);
    bench.says("c", asked[0].1.id, true);
    assert_eq!(bench.liveness(), Liveness::Unreachable);
    // Asked again after a while: it may have died meanwhile.
    let again = bench.pass(3_500, &["a"]);
    assert_eq!(who(&again), ["b", "c"]);
    bench.says("b", again[0].1.id, true);
    assert_eq!(bench.liveness(), Liveness::Unreachable);
    bench.pass(3_500, &["a"]);
    assert_eq!(bench.liveness(), Liveness::Lost, "lost_after is over");
}

#[test]
fn a_peer_of_the_gang_is_enough() {
    let mut bench = Bench::new();
    bench.running(OnDisconnect::Replace, &["a", "c"]);
    let asked = bench.pass(3_500, &["a"]);
    assert_eq!(who(&asked), ["c"]);
    bench.says("c", asked[0].1.id, false);
    assert_eq!(bench.liveness(), Liveness::Lost);
}

#[test]
fn without_two_to_ask_long_silence_decides() {
    let mut bench = Bench::new();
    assert_eq!(bench.pass(9_000, &["a", "b"]), []);
    assert_eq!(bench.liveness(), Liveness::Unreachable);
    bench.pass(1_500, &["a", "b"]);
    assert_eq!(bench.liveness(), Liveness::Lost);
}

#[test]
fn what_is_fenced_starts_again_only_after_lost_after() {
    let mut bench = Bench::new();
    let fenced = bench.running(OnDisconnect::Fence, &["a"]);
    let replaced = bench.running(OnDisconnect::Replace, &["a"]);
    let asked = bench.pass(3_500, &["a"]);
    bench.says("b", asked[0].1.id, false);
    bench.says("c", asked[0].1.id, false);
    let state = |bench: &Bench, job| bench.cluster.job(job).state;
    assert_eq!(bench.liveness(), Liveness::Lost);
    assert_eq!(state(&bench, replaced), JobState::Pending);
    assert_eq!(state(&bench, fenced), JobState::Running);
    bench.pass(5_500, &["a"]);
    assert_eq!(state(&bench, fenced), JobState::Running);
    bench.pass(1_500, &["a"]);
    assert_eq!(state(&bench, fenced), JobState::Pending);
}

#[test]
fn who_is_heard_again_is_ready_and_old_answers_say_nothing() {
    let mut bench = Bench::new();
    let asked = bench.pass(3_500, &["a"]);
    bench.pass(500, &[]);
    assert_eq!(bench.liveness(), Liveness::Ready);
    bench.says("b", asked[0].1.id, false);
    bench.says("c", asked[0].1.id, false);
    assert_eq!(bench.liveness(), Liveness::Ready);
}
