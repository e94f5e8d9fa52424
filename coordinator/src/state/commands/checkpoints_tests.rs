//! Parts, copies, and what becomes of them.
use mlctl_proto::ids::{Epoch, JobId};
use mlctl_proto::spec::{CheckpointSpec, JobSpec, OnDisconnect};

use crate::state::Effect;
use crate::state::commands::{AgentEvents, CopyNews, Happening, PartOf, SealedPart};
use crate::state::records::{Checkpoint, JobState, ManifestId, PartKey};
use crate::state::testing::{Cluster, ended, node, sealed, spec, system};
use crate::state::{Applied, Body};

const A: ManifestId = [1; 32];
const B: ManifestId = [2; 32];

fn part(name: &str, step: u64, index: u32, manifest: Option<ManifestId>, parts: u32) -> SealedPart {
    SealedPart {
        name: name.into(),
        step,
        part: Some(PartOf {
            index,
            manifest,
            bytes: manifest.map_or(0, |id| u64::from(id[0]) * 100),
        }),
        parts,
        metric: None,
        save_ms: 7,
    }
}

fn key(job: JobId, epoch: Epoch, name: &str, index: u32, manifest: ManifestId) -> PartKey {
    PartKey {
        job,
        epoch,
        name: name.into(),
        index,
        manifest,
    }
}

/// A gang of two on a and b that runs; c and d look on.
fn gang() -> (Cluster, JobId, Epoch) {
    gang_of(None)
}

/// One whose checkpoints go to an object store as well.
fn uploading() -> (Cluster, JobId, Epoch) {
    gang_of(Some(CheckpointSpec {
        upload: Some("s3://runs/a".into()),
        ..CheckpointSpec::default()
    }))
}

fn gang_of(checkpoint: Option<CheckpointSpec>) -> (Cluster, JobId, Epoch) {
    let mut cluster = Cluster::new();
    for name in ["a", "b", "c", "d"] {
        cluster.gpu_node(name, 1);
    }
    let spec = JobSpec {
        checkpoint,
        ..spec(2, 1)
    };
    let job = cluster.submitted_spec("ann", &spec);
    let epoch = cluster.started(job, &["a", "b"]);
    cluster.running(job, epoch);
    (cluster, job, epoch)
}

fn seal(cluster: &mut Cluster, node: &str, (job, epoch): (JobId, Epoch), part: SealedPart) {
    cluster.event(node, job, epoch, Happening::CheckpointSealed(part));
}

fn only(cluster: &Cluster, job: JobId) -> Checkpoint {
    let [one] = &cluster.job(job).checkpoints[..] else {
        panic!("not one: {:?}", cluster.job(job).checkpoints)
    };
    one.clone()
}

fn forgets(applied: &Applied) -> Vec<(&str, Vec<PartKey>)> {
    let effects = applied.effects.iter();
    let forget = effects.filter_map(|effect| match effect {
        Effect::Forget { node, parts } => Some((node.as_str(), parts.clone())),
        _ => None,
    });
    forget.collect()
}

#[test]
fn a_checkpoint_is_whole_when_every_part_of_it_is_known() {
    let (mut cluster, job, epoch) = gang();
    let at = (job, epoch);
    seal(&mut cluster, "b", at, part("step-5", 5, 1, Some(B), 2));
    assert!(!only(&cluster, job).is_whole());
    seal(&mut cluster, "a", at, part("step-5", 5, 0, Some(A), 2));
    let whole = only(&cluster, job);
    assert!(whole.is_whole() && whole.is_portable());
    assert_eq!(
        (whole.holders(), whole.full_holders()),
        (vec!["a", "b"], vec![])
    );
    assert_eq!((whole.bytes(), whole.copies(), whole.save_ms), (300, 0, 7));
    for (holder, index, manifest) in [("c", 0, A), ("d", 1, B), ("c", 1, B), ("c", 1, B)] {
        let copy = part("step-5", 5, index, Some(manifest), 2);
        cluster.copy(holder, at, CopyNews::Held(copy));
    }
    let whole = only(&cluster, job);
    assert_eq!((whole.full_holders(), whole.copies()), (vec!["c"], 1));
    assert_eq!(whole.parts[1].holders, ["b", "d", "c"]);
}

#[test]
fn a_node_that_wrote_nothing_needs_no_holder() {
    let (mut cluster, job, epoch) = gang();
    let at = (job, epoch);
    seal(&mut cluster, "a", at, part("last", 0, 0, Some(A), 2));
    seal(&mut cluster, "b", at, part("last", 0, 1, None, 2));
    let whole = only(&cluster, job);
    assert!(whole.is_whole() && whole.is_portable());
    assert_eq!(whole.full_holders(), ["a"]);
}

/// Any other node could make one up, and the job would load it.
#[test]
fn only_its_maker_speaks_for_a_part_that_is_not_known() {
    let (mut cluster, job, epoch) = gang();
    let at = (job, epoch);
    seal(&mut cluster, "a", at, part("step-5", 5, 0, Some(A), 2));
    let held = |manifest| CopyNews::Held(part("step-5", 5, 1, Some(manifest), 2));
    let made_up = cluster.copy("c", at, held(B));
    let stray = key(job, epoch, "step-5", 1, B);
    assert_eq!(forgets(&made_up), [("c", vec![stray])]);
    assert!(!only(&cluster, job).is_whole());
    cluster.copy("b", at, held(B));
    assert!(only(&cluster, job).is_whole(), "its own word");
    cluster.copy("c", at, held(B));
    assert_eq!(only(&cluster, job).parts[1].holders, ["b", "c"]);
    // A copy that was under way when its maker wrote over it is no newer one.
    let late = cluster.copy("b", at, held([3; 32]));
    let stray = key(job, epoch, "step-5", 1, [3; 32]);
    assert_eq!(forgets(&late), [("b", vec![stray])]);
    assert_eq!(only(&cluster, job).parts[1].manifest, Some(B));
}

#[test]
fn a_copy_outlives_its_maker_and_its_epoch() {
    let (mut cluster, job, epoch) = gang();
    let at = (job, epoch);
    seal(&mut cluster, "a", at, part("step-5", 5, 0, Some(A), 2));
    seal(&mut cluster, "b", at, part("step-5", 5, 1, Some(B), 2));
    cluster.copy("c", at, CopyNews::Held(part("step-5", 5, 1, Some(B), 2)));
    cluster.lose("b");
    cluster.event(
        "a",
        job,
        epoch,
        ended(crate::state::records::EndKind::NodeLost, 0),
    );
    assert_eq!(cluster.job(job).state, JobState::Pending);
    // The next one resumes from it, wherever it goes, and nothing more comes of the epoch before.
    let next = cluster.started(job, &["c", "d"]);
    let attempt = cluster.state.attempt(job, next).expect("it started");
    assert_eq!(attempt.resume_from, "step-5");
    let late = cluster.copy("d", at, CopyNews::Held(part("step-6", 6, 1, Some(B), 2)));
    let lost = key(job, epoch, "step-6", 1, B);
    assert_eq!(forgets(&late), [("d", vec![lost])]);
    let more = cluster.copy("d", at, CopyNews::Held(part("step-5", 5, 1, Some(B), 2)));
    assert_eq!(
        forgets(&more),
        [],
        "one more copy of what counts is welcome"
    );
    assert_eq!(only(&cluster, job).parts[1].holders, ["b", "c", "d"]);
}

/// The ranks are gone, and the job waits for its next attempt; what they saved is there.
#[test]
fn a_node_that_has_booted_again_speaks_for_its_disk() {
    let (mut cluster, job, epoch) = gang();
    let at = (job, epoch);
    seal(&mut cluster, "a", at, part("step-5", 5, 0, Some(A), 2));
    let known = cluster.state.node("b").expect("it is there");
    let (mut facts, journal_id) = (known.facts.clone(), known.journal_id.clone());
    facts.boot_id = "boot-2".into();
    let hello = crate::state::commands::RegisterNode { facts, journal_id };
    cluster.run(system(), Body::RegisterNode(hello));
    seal(&mut cluster, "b", at, part("step-5", 5, 1, Some(B), 2));
    assert!(only(&cluster, job).is_whole());
}

/// A node that said that it wrote nothing was only slow: its part belongs to what the others wrote then.
#[test]
fn a_part_that_comes_late_takes_the_place_of_none() {
    let (mut cluster, job, epoch) = gang();
    let at = (job, epoch);
    seal(&mut cluster, "a", at, part("step-5", 5, 0, Some(A), 2));
    seal(&mut cluster, "b", at, part("step-5", 5, 1, None, 2));
    seal(&mut cluster, "b", at, part("step-5", 5, 1, Some(B), 2));
    let now = only(&cluster, job);
    assert_eq!((now.is_whole(), now.parts[1].manifest), (true, Some(B)));
    assert_eq!(now.parts[1].holders, ["b"]);
}

/// What one node writes may be equal each time. What goes of the older version must not go of the newer.
#[test]
fn an_equal_part_of_a_newer_version_is_not_forgotten_with_the_older() {
    let (mut cluster, job, epoch) = gang();
    let at = (job, epoch);
    for manifest in [[1; 32], [2; 32], [4; 32], [5; 32]] {
        seal(&mut cluster, "a", at, part("last", 0, 0, Some(manifest), 2));
        let told = cluster.event(
            "b",
            job,
            epoch,
            Happening::CheckpointSealed(part("last", 0, 1, Some(B), 2)),
        );
        let equal = |key: &PartKey| key.index == 1;
        assert!(
            forgets(&told)
                .iter()
                .all(|(_, keys)| !keys.iter().any(equal))
        );
    }
    let list = cluster.job(job).checkpoints;
    let newest = list.last().expect("one at least");
    assert_eq!(
        (newest.is_whole(), newest.parts[0].manifest),
        (true, Some([5; 32]))
    );
}

#[test]
fn what_is_not_whole_when_the_next_epoch_starts_is_abandoned() {
    let (mut cluster, job, epoch) = gang();
    let at = (job, epoch);
    seal(&mut cluster, "a", at, part("step-5", 5, 0, Some(A), 2));
    cluster.copy("c", at, CopyNews::Held(part("step-5", 5, 0, Some(A), 2)));
    cluster.lose("b");
    cluster.event(
        "a",
        job,
        epoch,
        ended(crate::state::records::EndKind::NodeLost, 0),
    );
    let start = cluster.start(job, &["c", "d"]);
    let start = crate::state::commands::StartAttempt {
        resume_from: String::new(),
        ..start
    };
    let starts = vec![start];
    let body = Body::StartAttempts(crate::state::commands::StartAttempts { starts });
    let applied = cluster.run(system(), body);
    let gone = key(job, epoch, "step-5", 0, A);
    assert_eq!(
        forgets(&applied),
        [("a", vec![gone.clone()]), ("c", vec![gone])]
    );
    assert_eq!(cluster.job(job).checkpoints, []);
}

#[test]
fn what_was_written_over_is_another_checkpoint_of_that_name() {
    let (mut cluster, job, epoch) = gang();
    let at = (job, epoch);
    seal(&mut cluster, "a", at, part("last", 0, 0, Some(A), 2));
    seal(&mut cluster, "b", at, part("last", 0, 1, None, 2));
    seal(&mut cluster, "a", at, part("last", 0, 0, Some(B), 2));
    let list = cluster.job(job).checkpoints;
    let whole: Vec<bool> = list.iter().map(Checkpoint::is_whole).collect();
    assert_eq!(
        whole,
        [true, false],
        "the older one counts until the newer does"
    );
    seal(&mut cluster, "b", at, part("last", 0, 1, None, 2));
    let list = cluster.job(job).checkpoints;
    assert_eq!(
        list.len(),
        2,
        "neither is on two nodes: the older copy goes on"
    );
    assert_eq!(
        (list[1].is_whole(), list[1].parts[0].manifest),
        (true, Some(B))
    );
    cluster.copy("c", at, CopyNews::Held(part("last", 0, 0, Some(B), 2)));
    let now = only(&cluster, job);
    assert_eq!(now.parts[0].holders, ["a", "c"]);
}

#[test]
fn parts_of_different_steps_make_no_checkpoint() {
    let (mut cluster, job, epoch) = gang();
    let at = (job, epoch);
    seal(&mut cluster, "a", at, part("last", 4, 0, Some(A), 2));
    seal(&mut cluster, "b", at, part("last", 5, 1, Some(B), 2));
    let list = cluster.job(job).checkpoints;
    assert_eq!(list.iter().filter(|one| one.is_whole()).count(), 0);
    seal(&mut cluster, "a", at, part("last", 5, 0, Some(B), 2));
    let whole = cluster.job(job).checkpoints;
    let whole: Vec<_> = whole.iter().filter(|one| one.is_whole()).collect();
    assert_eq!((whole.len(), whole[0].step), (1, 5));
}

#[test]
fn without_any_holder_a_checkpoint_is_gone() {
    let (mut cluster, job, epoch) = gang();
    let at = (job, epoch);
    seal(&mut cluster, "a", at, part("step-5", 5, 0, Some(A), 2));
    seal(&mut cluster, "b", at, part("step-5", 5, 1, Some(B), 2));
    cluster.copy("c", at, CopyNews::Held(part("step-5", 5, 1, Some(B), 2)));
    let lost = |index, manifest| CopyNews::Lost {
        name: "step-5".into(),
        index,
        manifest,
    };
    cluster.copy("b", at, lost(1, B));
    cluster.copy("b", at, lost(1, B));
    cluster.copy("b", at, lost(0, A));
    cluster.copy("c", at, lost(1, A));
    assert_eq!(only(&cluster, job).parts[1].holders, ["c"]);
    let applied = cluster.copy("c", at, lost(1, B));
    assert_eq!(cluster.job(job).checkpoints, []);
    let rest = key(job, epoch, "step-5", 0, A);
    assert_eq!(forgets(&applied), [("a", vec![rest])]);
}

#[test]
fn a_node_with_another_journal_has_nothing_any_more() {
    let (mut cluster, job, epoch) = gang();
    let at = (job, epoch);
    seal(&mut cluster, "a", at, part("step-5", 5, 0, Some(A), 2));
    seal(&mut cluster, "b", at, part("step-5", 5, 1, Some(B), 2));
    cluster.copy("c", at, CopyNews::Held(part("step-5", 5, 0, Some(A), 2)));
    let mut facts = node("a", 1, "SIM").facts;
    facts.boot_id = "boot-2".into();
    let journal_id = "another".into();
    let hello = crate::state::commands::RegisterNode { facts, journal_id };
    cluster.run(system(), Body::RegisterNode(hello));
    assert_eq!(only(&cluster, job).parts[0].holders, ["c"]);
}

/// In a directory that every node sees: rank 0's node speaks of it, no disk holds it, and nobody is told to let it go.
#[test]
fn what_every_node_sees_is_lost_with_no_disk() {
    let (mut cluster, job, epoch) = gang_of(Some(CheckpointSpec {
        shared: true,
        replicas: 0,
        ..CheckpointSpec::in_dir("/nfs/a")
    }));
    assert_eq!(cluster.job(job).on_disconnect, OnDisconnect::Fence);
    for step in 1..=5 {
        let told = cluster.event("a", job, epoch, sealed(&format!("step-{step}"), step));
        assert!(forgets(&told).is_empty());
    }
    let mut facts = node("a", 1, "SIM").facts;
    facts.boot_id = "boot-2".into();
    let journal_id = "another".into();
    let hello = crate::state::commands::RegisterNode { facts, journal_id };
    let wiped = cluster.run(system(), Body::RegisterNode(hello));
    assert!(forgets(&wiped).is_empty());
    let list = cluster.job(job).checkpoints;
    let left: Vec<u64> = list.iter().map(|one| one.step).collect();
    assert_eq!(left, [3, 4, 5], "what rules keep");
    assert!(
        list.iter()
            .all(|one| one.is_whole() && one.holders() == ["a"])
    );
    cluster.event(
        "b",
        job,
        epoch,
        ended(crate::state::records::EndKind::NodeLost, 0),
    );
    let start = cluster.start(job, &["c", "d"]);
    assert_eq!(start.resume_from, "step-5");
    let nothing = crate::state::commands::StartAttempt {
        resume_from: String::new(),
        ..start.clone()
    };
    let reply = cluster.propose(vec![nothing]).reply;
    assert!(
        format!("{reply:?}").contains("it has a checkpoint"),
        "{reply:?}"
    );
    cluster.propose(vec![start]);
    assert_eq!(cluster.job(job).epoch_counter, epoch.counter + 1);
}

#[test]
fn hostile_parts_are_passed_over() {
    let (mut cluster, job, epoch) = gang();
    let at = (job, epoch);
    for wrong in [
        part("../evil", 5, 0, Some(A), 2),
        part("step-5", 5, 1, Some(A), 2),
        part("step-5", 5, 7, Some(A), 2),
        part("step-5", 5, 0, Some(A), u32::MAX),
    ] {
        seal(&mut cluster, "a", at, wrong);
    }
    assert_eq!(cluster.job(job).checkpoints, []);
    for wrong in [
        part("step-5", 5, 2, Some(A), 2),
        part("step-5", 5, 0, Some(A), 3),
        part("step-5", 5, 0, None, 2),
        part("a/b", 5, 0, Some(A), 2),
    ] {
        cluster.copy("c", at, CopyNews::Held(wrong));
    }
    let unknown = (JobId::new(1, 99), epoch);
    let copy = CopyNews::Held(part("step-5", 5, 0, Some(A), 2));
    let applied = cluster.copy("c", unknown, copy);
    let stray = key(unknown.0, epoch, "step-5", 0, A);
    assert_eq!(forgets(&applied), [("c", vec![stray])]);
    assert_eq!(cluster.job(job).checkpoints, []);
    // However many names a node comes up with, a job's record stays bounded.
    for number in 0..400 {
        let half = part(&format!("n{number}"), number, 0, Some(A), 2);
        seal(&mut cluster, "a", at, half);
    }
    assert!(cluster.job(job).checkpoints.len() <= 128);
}

#[test]
fn older_agents_have_only_directories() {
    let (mut cluster, job, epoch) = gang();
    cluster.event("a", job, epoch, sealed("step-5", 5));
    cluster.event("b", job, epoch, sealed("step-5", 5));
    let one = only(&cluster, job);
    assert!(one.is_whole() && !one.is_portable());
    assert_eq!(one.full_holders(), ["a", "b"]);
}

#[test]
fn a_batch_of_copies_moves_the_mark_of_its_node() {
    let (mut cluster, job, epoch) = gang();
    let sealed = part("step-5", 5, 0, Some(A), 2);
    seal(&mut cluster, "a", (job, epoch), sealed.clone());
    cluster.copy("c", (job, epoch), CopyNews::Held(sealed));
    let node = cluster.state.node("c").expect("it is there");
    assert_eq!(node.event_mark, 1);
    let again = AgentEvents {
        node: "c".into(),
        journal_id: node.journal_id.clone(),
        events: Vec::new(),
    };
    cluster.run(system(), Body::AgentEvents(again));
    assert_eq!(only(&cluster, job).parts[0].holders, ["a", "c"]);
}

/// The plan was made before the newer one was whole.
#[test]
fn a_start_from_an_older_checkpoint_than_there_is_by_now_is_refused() {
    let (mut cluster, job, epoch) = gang();
    let at = (job, epoch);
    for (step, manifest) in [(5, A), (10, B)] {
        let name = format!("step-{step}");
        seal(
            &mut cluster,
            "a",
            at,
            part(&name, step, 0, Some(manifest), 2),
        );
        seal(&mut cluster, "b", at, part(&name, step, 1, None, 2));
    }
    for node in ["a", "b"] {
        cluster.event(
            node,
            job,
            epoch,
            ended(crate::state::records::EndKind::KeeperLost, 0),
        );
    }
    let newest = cluster.start(job, &["c", "d"]);
    let older = crate::state::commands::StartAttempt {
        resume_from: "step-5".into(),
        ..newest.clone()
    };
    let refused = |applied: Applied| match applied.reply {
        crate::state::records::Reply::Started { refused, .. } => refused,
        other => panic!("{other:?}"),
    };
    let told = refused(cluster.propose(vec![older.clone()]));
    assert!(told[0].1.contains("step-10"), "{told:?}");
    // Where nobody has the newer one any more the older one will do.
    let mut lost = cluster.clone();
    lost.lose("a");
    let told = refused(lost.propose(vec![older]));
    assert!(told[0].1.contains("no node holds"), "a had both: {told:?}");
    assert_eq!(refused(cluster.propose(vec![newest])), []);
}

fn uploaded(name: &str, index: u32, manifest: ManifestId) -> CopyNews {
    CopyNews::Uploaded {
        name: name.into(),
        index,
        manifest,
    }
}

#[test]
fn what_was_uploaded_outlives_its_nodes() {
    let (mut cluster, job, epoch) = uploading();
    let at = (job, epoch);
    seal(&mut cluster, "a", at, part("step-5", 5, 0, Some(A), 2));
    seal(&mut cluster, "b", at, part("step-5", 5, 1, Some(B), 2));
    cluster.copy("a", at, uploaded("step-5", 0, A));
    let one = only(&cluster, job);
    assert!(one.parts[0].uploaded && !one.is_uploaded(), "half of it");
    cluster.copy("b", at, uploaded("step-5", 1, B));
    let one = only(&cluster, job);
    assert!(one.is_uploaded());
    assert_eq!(one.copies(), 0, "those are on nodes");
    let again = cluster.copy("a", at, uploaded("step-5", 0, A));
    let told = |effect: &&Effect| matches!(effect, Effect::Checkpoints { .. });
    assert_eq!(again.effects.iter().filter(told).count(), 0, "no news");
    for (node, index, manifest) in [("a", 0, A), ("b", 1, B)] {
        let lost = CopyNews::Lost {
            name: "step-5".into(),
            index,
            manifest,
        };
        cluster.copy(node, at, lost);
    }
    let one = only(&cluster, job);
    assert_eq!((one.holders(), one.is_uploaded()), (vec![], true));
    for node in ["a", "b"] {
        cluster.event(
            node,
            job,
            epoch,
            ended(crate::state::records::EndKind::KeeperLost, 0),
        );
        cluster.lose(node);
    }
    let next = cluster.started(job, &["c", "d"]);
    let attempt = cluster.state.attempt(job, next).expect("it was started");
    assert_eq!(attempt.resume_from, "step-5", "from the store");
    // And a node that fetched it holds it.
    let copy = CopyNews::Held(part("step-5", 5, 0, Some(A), 2));
    cluster.copy("c", at, copy);
    assert_eq!(only(&cluster, job).holders(), ["c"]);
}

#[test]
fn an_upload_counts_only_for_what_is_known_and_where_the_spec_names_a_store() {
    let (mut cluster, job, epoch) = uploading();
    let at = (job, epoch);
    seal(&mut cluster, "a", at, part("step-5", 5, 0, Some(A), 2));
    seal(&mut cluster, "b", at, part("step-5", 5, 1, None, 2));
    for stray in [
        uploaded("step-5", 0, B),
        uploaded("step-5", 1, A),
        uploaded("step-5", 1, [0; 32]),
        uploaded("step-6", 0, A),
    ] {
        let applied = cluster.copy("a", at, stray);
        assert_eq!(forgets(&applied), []);
        assert!(!only(&cluster, job).parts.iter().any(|part| part.uploaded));
    }
    // Nor the word of a node that never had the bytes.
    cluster.copy("c", at, uploaded("step-5", 0, A));
    assert!(!only(&cluster, job).parts[0].uploaded);
    cluster.copy("a", at, uploaded("step-5", 0, A));
    assert!(only(&cluster, job).is_uploaded(), "b wrote nothing");

    let (mut cluster, job, epoch) = gang();
    let at = (job, epoch);
    seal(&mut cluster, "a", at, part("step-5", 5, 0, Some(A), 2));
    cluster.copy("a", at, uploaded("step-5", 0, A));
    assert!(!only(&cluster, job).parts[0].uploaded, "it names none");
}
