//! What a leader orders, and whom it lets do what.
mod uploads;

use mlctl_proto::ids::{Epoch, JobId};
use mlctl_proto::spec::{CheckpointSpec, JobSpec};

use super::{Copies, CopyOrder, Room, Told, Word, restore};
use crate::leader::liveness::Mono;
use crate::state::Body;
use crate::state::commands::{CancelJobs, CopyNews, Happening, PartOf, RegisterNode, SealedPart};
use crate::state::records::{EndKind, ManifestId, PartKey};
use crate::state::testing::{Cluster, node, person, spec, system};

const M: ManifestId = [7; 32];
const GIB: u64 = 1 << 30;

struct Stage {
    cluster: Cluster,
    copies: Copies,
    now: Mono,
    job: JobId,
    epoch: Epoch,
}

fn sealed(index: u32, manifest: Option<ManifestId>, parts: u32) -> SealedPart {
    SealedPart {
        name: "step-5".into(),
        step: 5,
        part: Some(PartOf {
            index,
            manifest,
            bytes: GIB,
        }),
        parts,
        metric: None,
        save_ms: 0,
    }
}

impl Stage {
    /// A job on these nodes; the others, and those, are connected.
    fn new(names: &[(&str, &str)], on: &[&str]) -> Self {
        Self::ruled(names, on, None)
    }

    /// A job with these rules for its checkpoints.
    fn ruled(names: &[(&str, &str)], on: &[&str], checkpoint: Option<CheckpointSpec>) -> Self {
        let mut cluster = Cluster::new();
        for (name, rack) in names {
            let mut facts = node(name, 1, "SIM").facts;
            if !rack.is_empty() {
                facts.labels.insert("rack".into(), (*rack).into());
            }
            let journal_id = format!("journal-{name}");
            cluster.run(
                system(),
                Body::RegisterNode(RegisterNode { facts, journal_id }),
            );
        }
        let count = u32::try_from(on.len()).expect("few");
        let spec = JobSpec {
            checkpoint,
            ..spec(count, 1)
        };
        let job = cluster.submitted_spec("ann", &spec);
        let epoch = cluster.started(job, on);
        cluster.running(job, epoch);
        let mut copies = Copies::new(&cluster.state);
        for (name, _) in names {
            copies.connected(&cluster.state, name, "10.0.0.1", 7_000);
        }
        Self {
            cluster,
            copies,
            now: 1_000,
            job,
            epoch,
        }
    }

    fn seals(&mut self, node: &str, part: SealedPart) {
        let what = Happening::CheckpointSealed(part);
        self.cluster.event(node, self.job, self.epoch, what);
        self.copies.touch(self.job);
    }

    fn holds(&mut self, node: &str, part: SealedPart) {
        let at = (self.job, self.epoch);
        self.cluster.copy(node, at, CopyNews::Held(part));
        self.copies.touch(self.job);
    }

    fn look(&mut self) -> Vec<Told> {
        self.now += 1;
        self.copies.look(self.now, &self.cluster.state)
    }

    /// (from, to, part) of the copies ordered now.
    fn ordered(&mut self) -> Vec<(String, String, u32)> {
        let told = self.look().into_iter();
        let copies = told.filter_map(|(from, order)| match order {
            CopyOrder::Replicate { key, to, .. } => Some((from, to.node, key.index)),
            _ => None,
        });
        copies.collect()
    }

    fn says(&mut self, node: &str, word: Word) -> Vec<Told> {
        self.copies.said(self.now, &self.cluster.state, node, word)
    }

    fn room(&mut self, node: &str, free: u64) {
        self.says(node, Word::Room(Room { free }));
    }

    fn may(&mut self, at: &str, who: &str, manifest: ManifestId, write: bool) -> bool {
        let word = Word::Ask {
            id: 9,
            node: who.into(),
            manifest,
            write,
        };
        match &self.says(at, word)[..] {
            [
                (
                    told,
                    CopyOrder::Answer {
                        id: 9,
                        brought,
                        yes,
                    },
                ),
            ] if told == at => {
                assert_eq!(!brought.is_empty(), *yes && write);
                *yes
            }
            other => panic!("{other:?}"),
        }
    }

    fn key(&self, index: u32) -> PartKey {
        PartKey {
            job: self.job,
            epoch: self.epoch,
            name: "step-5".into(),
            index,
            manifest: M,
        }
    }
}

fn to(from: &str, to: &str, index: u32) -> (String, String, u32) {
    (from.into(), to.into(), index)
}

#[test]
fn one_copy_goes_to_another_rack_where_there_is_most_room() {
    let racks = [("a", "r1"), ("b", "r1"), ("c", "r2"), ("d", "r2")];
    let mut stage = Stage::new(&racks, &["a"]);
    stage.room("b", 100 * GIB);
    stage.room("c", 10 * GIB);
    stage.room("d", 20 * GIB);
    assert_eq!(stage.look(), []);
    stage.seals("a", sealed(0, Some(M), 1));
    assert_eq!(stage.ordered(), [to("a", "d", 0)]);
    assert_eq!(stage.ordered(), [], "it is under way");
    stage.holds("d", sealed(0, Some(M), 1));
    assert_eq!(stage.look(), []);
    assert_eq!(stage.copies.next(), None, "nothing lacks anything");
}

#[test]
fn without_another_rack_any_node_will_do_and_without_room_none() {
    let mut stage = Stage::new(&[("a", "r1"), ("b", "r1")], &["a"]);
    stage.room("b", GIB);
    stage.seals("a", sealed(0, Some(M), 1));
    assert_eq!(stage.ordered(), [], "it would be full");
    assert!(stage.copies.next().is_some(), "it is tried again");
    stage.room("b", 2 * GIB);
    stage.now += 5_000;
    assert_eq!(stage.ordered(), [to("a", "b", 0)]);
}

/// What a stopped job saves last is what it may go on from, and its ranks wait for nothing else.
#[test]
fn copies_of_a_job_that_is_being_ended_are_urgent() {
    let mut stage = Stage::new(&[("a", ""), ("b", "")], &["a"]);
    let urgent = |told: Vec<Told>| -> Vec<bool> {
        let told = told.into_iter();
        let copies = told.filter_map(|(_, order)| match order {
            CopyOrder::Replicate { urgent, .. } => Some(urgent),
            _ => None,
        });
        copies.collect()
    };
    stage.seals("a", sealed(0, Some(M), 1));
    assert_eq!(urgent(stage.look()), [false], "it runs");
    let jobs = vec![stage.job];
    let cancel = Body::CancelJobs(CancelJobs::of(jobs));
    stage.cluster.run(person("ann", false), cancel);
    let last = SealedPart {
        name: "step-6".into(),
        step: 6,
        ..sealed(0, Some([6; 32]), 1)
    };
    stage.seals("a", last);
    assert_eq!(urgent(stage.look()), [true], "it is being ended");
}

#[test]
fn what_fails_goes_elsewhere_and_comes_back_later() {
    let mut stage = Stage::new(&[("a", ""), ("b", ""), ("c", "")], &["a"]);
    stage.seals("a", sealed(0, Some(M), 1));
    assert_eq!(stage.ordered(), [to("a", "b", 0)]);
    let failed = |key: PartKey, to: &str| Word::Pushed {
        key,
        to: to.into(),
        error: "its disk is full".into(),
    };
    let key = stage.key(0);
    stage.says("c", failed(key.clone(), "b"));
    assert_eq!(stage.ordered(), [], "c was not told to send it");
    stage.says("a", failed(key.clone(), "b"));
    assert_eq!(stage.ordered(), [to("a", "c", 0)]);
    stage.says("a", failed(key, "c"));
    assert_eq!(stage.ordered(), []);
    stage.now += 6_000;
    assert_eq!(stage.ordered(), [to("a", "b", 0)]);
    // Its target is gone, and what was on its way with it.
    stage.copies.gone("b");
    stage.copies.touch(stage.job);
    assert_eq!(stage.ordered(), [to("a", "c", 0)]);
}

#[test]
fn a_lost_holder_is_replaced_by_whoever_has_a_copy() {
    let mut stage = Stage::new(&[("a", ""), ("b", ""), ("c", ""), ("d", "")], &["a"]);
    stage.seals("a", sealed(0, Some(M), 1));
    stage.holds("b", sealed(0, Some(M), 1));
    assert_eq!(stage.ordered(), []);
    stage.copies.gone("a");
    stage.cluster.lose("a");
    stage.copies.touch_all(&stage.cluster.state);
    assert_eq!(stage.ordered(), [], "together with what happens just now");
    stage.now += 1_000;
    assert_eq!(stage.ordered(), [to("b", "c", 0)]);
}

#[test]
fn each_part_of_a_gang_is_copied_and_missing_ones_are_asked_for() {
    let mut stage = Stage::new(&[("a", ""), ("b", ""), ("c", "")], &["a", "b"]);
    stage.seals("a", sealed(0, Some(M), 2));
    let told = stage.look();
    let asked: Vec<&Told> = told
        .iter()
        .filter(|(_, order)| matches!(order, CopyOrder::SealPart { .. }))
        .collect();
    assert_eq!(asked.len(), 1, "{told:?}");
    assert_eq!(asked[0].0, "b");
    assert!(told.len() == 2, "and the part that is there is copied");
    stage.now += 2_000;
    assert_eq!(stage.look(), [], "not asked again at once");
    stage.now += 5_000;
    assert_eq!(stage.look().len(), 1, "but again");
    stage.seals("b", sealed(1, None, 2));
    assert_eq!(stage.look(), [], "it wrote nothing");
}

#[test]
fn a_job_waits_for_parts_that_a_connected_node_can_give() {
    let mut stage = Stage::new(&[("a", ""), ("b", "")], &["a", "b"]);
    stage.seals("a", sealed(0, Some(M), 2));
    stage.look();
    assert!(
        stage.copies.incomplete(&stage.cluster.state).is_empty(),
        "it runs"
    );
    let (job, epoch) = (stage.job, stage.epoch);
    stage.cluster.ended("a", job, epoch, EndKind::KeeperLost);
    stage.cluster.ended("b", job, epoch, EndKind::KeeperLost);
    let waits = stage.copies.incomplete(&stage.cluster.state);
    assert_eq!(waits.get(&(job, epoch)), Some(&vec!["b".to_owned()]));
    stage.copies.gone("b");
    assert!(stage.copies.incomplete(&stage.cluster.state).is_empty());
}

/// It had been asked, and went down before it said that it had written nothing: the two newest checkpoints were given up while it booted.
#[test]
fn a_job_waits_for_parts_of_a_node_that_has_booted_again_unless_it_cannot_tell() {
    let mut stage = Stage::new(&[("a", ""), ("b", "")], &["a", "b"]);
    stage.seals("a", sealed(0, Some(M), 2));
    stage.look();
    let (job, epoch) = (stage.job, stage.epoch);
    let known = stage.cluster.state.node("b").expect("it is there");
    let (mut facts, journal_id) = (known.facts.clone(), known.journal_id.clone());
    facts.boot_id = "boot-2".into();
    let hello = RegisterNode { facts, journal_id };
    stage.cluster.run(system(), Body::RegisterNode(hello));
    stage.cluster.ended("a", job, epoch, EndKind::KeeperLost);
    stage
        .copies
        .connected(&stage.cluster.state, "b", "b.example", 1);
    let waits = |stage: &Stage| stage.copies.incomplete(&stage.cluster.state);
    let b = ((job, epoch), vec!["b".to_owned()]);
    assert_eq!(Vec::from_iter(waits(&stage)), [b]);
    let gone = |name: &str| Word::Gone {
        key: (job, epoch),
        name: name.into(),
    };
    let now = stage.now;
    let name = stage.cluster.job(job).checkpoints[0].name.clone();
    for (node, other) in [("b", "never-heard-of"), ("a", name.as_str())] {
        stage
            .copies
            .said(now, &stage.cluster.state, node, gone(other));
    }
    assert_eq!(waits(&stage).len(), 1, "nobody asked for that");
    stage
        .copies
        .said(now, &stage.cluster.state, "b", gone(&name));
    assert!(waits(&stage).is_empty());
    stage.now += 60_000;
    let asked = |(_, order): &Told| matches!(order, CopyOrder::SealPart { .. });
    assert!(!stage.look().iter().any(asked), "it has said so");
}

#[test]
fn only_what_was_ordered_may_be_put_somewhere() {
    let mut stage = Stage::new(&[("a", ""), ("b", ""), ("c", "")], &["a"]);
    stage.seals("a", sealed(0, Some(M), 1));
    assert!(!stage.may("b", "a", M, true), "not yet");
    stage.ordered();
    assert!(stage.may("b", "a", M, true));
    assert!(!stage.may("c", "a", M, true), "to another node");
    assert!(!stage.may("b", "c", M, true), "by another node");
    assert!(!stage.may("b", "a", [8; 32], true), "something else");
}

/// What is equal in each checkpoint, such as a state of a random number generator, is one manifest: it travels once, and counts for each.
#[test]
fn equal_parts_of_several_checkpoints_are_named_together() {
    let mut stage = Stage::new(&[("a", ""), ("b", "")], &["a"]);
    for step in [5, 6] {
        let part = SealedPart {
            name: format!("step-{step}"),
            step,
            ..sealed(0, Some(M), 1)
        };
        stage.seals("a", part);
    }
    assert_eq!(stage.ordered().len(), 2);
    let word = Word::Ask {
        id: 1,
        node: "a".into(),
        manifest: M,
        write: true,
    };
    let told = stage.says("b", word);
    let [(_, CopyOrder::Answer { brought, yes, .. })] = &told[..] else {
        panic!("{told:?}")
    };
    let names: Vec<&str> = brought.iter().map(|(key, _)| key.name.as_str()).collect();
    assert_eq!((names, *yes), (vec!["step-5", "step-6"], true));
}

#[test]
fn only_who_resumes_from_it_may_read_it() {
    let mut stage = Stage::new(&[("a", ""), ("b", ""), ("c", "")], &["a"]);
    stage.seals("a", sealed(0, Some(M), 1));
    stage.holds("b", sealed(0, Some(M), 1));
    let (job, epoch) = (stage.job, stage.epoch);
    stage.cluster.ended("a", job, epoch, EndKind::KeeperLost);
    for node in ["a", "b", "c"] {
        assert!(!stage.may("b", node, M, false), "nobody runs it");
    }
    let next = stage.cluster.started(job, &["c"]);
    assert!(stage.may("b", "c", M, false));
    assert!(!stage.may("b", "a", M, false), "it is not its job any more");
    assert!(!stage.may("b", "c", [8; 32], false));
    let order = restore(&stage.copies, &stage.cluster.state, job, next).expect("it restores");
    assert_eq!((order.epoch, order.parts.len()), (epoch, 1));
    let holders: Vec<&str> = order.parts[0]
        .holders
        .iter()
        .map(|one| one.node.as_str())
        .collect();
    assert_eq!(holders, ["a", "b"]);
    assert_eq!(order.parts[0].holders[0].address, "10.0.0.1:7000");
}

#[test]
fn what_a_node_has_and_what_is_believed_are_compared() {
    let mut stage = Stage::new(&[("a", ""), ("b", "")], &["a"]);
    stage.seals("a", sealed(0, Some(M), 1));
    let key = stage.key(0);
    let list = |parts: Vec<PartKey>| Word::Inventory { parts, more: false };
    assert_eq!(stage.says("a", list(vec![key.clone()])), []);
    let announce = |node: &str| vec![(node.to_owned(), CopyOrder::Announce(vec![key.clone()]))];
    assert_eq!(stage.says("b", list(vec![key.clone()])), announce("b"));
    assert_eq!(stage.says("a", list(vec![])), announce("a"));
    let stray = PartKey {
        manifest: [9; 32],
        ..key.clone()
    };
    let forget = vec![("b".to_owned(), CopyOrder::Forget(vec![stray.clone()]))];
    assert_eq!(stage.says("b", list(vec![stray.clone()])), forget);
    let first = Word::Inventory {
        parts: vec![stray],
        more: true,
    };
    assert_eq!(stage.says("a", first), [], "more follows");
    let rest = stage.says("a", list(vec![key]));
    assert_eq!(rest.len(), 1, "{rest:?}");
}

/// A trainer that saves often: what was sent, or does not count any more, keeps nobody from sending.
#[test]
fn what_was_sent_makes_room_for_what_is_to_be_sent() {
    let mut stage = Stage::new(&[("a", ""), ("b", "")], &["a"]);
    for step in 0..20_u8 {
        let part = SealedPart {
            name: format!("step-{step}"),
            step: u64::from(step),
            ..sealed(0, Some([step + 1; 32]), 1)
        };
        stage.seals("a", part);
        assert_eq!(stage.ordered(), [to("a", "b", 0)], "step {step}");
        let key = PartKey {
            name: format!("step-{step}"),
            manifest: [step + 1; 32],
            ..stage.key(0)
        };
        let sent = Word::Pushed {
            key,
            to: "b".into(),
            error: String::new(),
        };
        stage.says("a", sent);
        assert_eq!(stage.ordered(), [], "its word is on the way");
    }
}
