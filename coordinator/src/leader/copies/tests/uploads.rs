//! What a leader has uploaded, by whom, and what follows when that fails.
use super::*;
use crate::leader::copies::{RestorePart, Store, WantedPart, wanted};
use std::collections::BTreeSet;

const URL: &str = "s3://runs/a";

/// A job whose checkpoints are uploaded and not copied.
fn stage(names: &[(&str, &str)], on: &[&str]) -> Stage {
    let rules = CheckpointSpec {
        replicas: 0,
        keep_last: Some(64),
        upload: Some(URL.into()),
        ..CheckpointSpec::default()
    };
    Stage::ruled(names, on, Some(rules))
}

/// Checkpoint `step` of one part.
fn at(step: u8) -> SealedPart {
    SealedPart {
        name: format!("step-{step}"),
        step: step.into(),
        ..sealed(0, Some([step; 32]), 1)
    }
}

/// (node, checkpoint, part) of the uploads ordered now.
fn ordered(stage: &mut Stage) -> Vec<(String, String, u32)> {
    let told = stage.look().into_iter();
    let uploads = told.filter_map(|(node, order)| match order {
        CopyOrder::Upload {
            key,
            sealed,
            url,
            elsewhere,
            ..
        } => {
            assert_eq!((url.as_str(), &sealed.name), (URL, &key.name));
            assert!(!elsewhere, "its event is to come");
            let part = sealed.part.expect("it has one");
            assert_eq!((part.index, part.manifest), (key.index, Some(key.manifest)));
            Some((node, key.name, key.index))
        }
        _ => None,
    });
    uploads.collect()
}

fn up(node: &str, step: u8) -> (String, String, u32) {
    (node.into(), format!("step-{step}"), 0)
}

fn key(stage: &Stage, step: u8) -> PartKey {
    PartKey {
        name: format!("step-{step}"),
        manifest: [step; 32],
        ..stage.key(0)
    }
}

fn says(stage: &mut Stage, node: &str, step: u8, error: &str) {
    says_of(stage, node, (step, URL), error);
}

/// What became of an upload to `url`.
fn says_of(stage: &mut Stage, node: &str, (step, url): (u8, &str), error: &str) {
    let word = Word::Uploaded {
        key: key(stage, step),
        url: url.into(),
        error: error.into(),
    };
    assert_eq!(stage.says(node, word), []);
}

/// The node's event is applied.
fn uploaded(stage: &mut Stage, node: &str, step: u8) {
    let PartKey {
        name,
        index,
        manifest,
        ..
    } = key(stage, step);
    let news = CopyNews::Uploaded {
        name,
        index,
        manifest,
    };
    let of = (stage.job, stage.epoch);
    stage.cluster.copy(node, of, news);
    stage.copies.touch(stage.job);
}

#[test]
fn only_jobs_that_name_a_store_upload() {
    let mut stage = Stage::new(&[("a", "")], &["a"]);
    stage.seals("a", at(5));
    assert_eq!(ordered(&mut stage), []);
}

#[test]
fn what_is_whole_is_uploaded_once() {
    let mut stage = stage(&[("a", "")], &["a"]);
    stage.seals("a", at(5));
    assert_eq!(ordered(&mut stage), [up("a", 5)]);
    stage.copies.touch(stage.job);
    assert_eq!(ordered(&mut stage), [], "it is under way");
    says(&mut stage, "a", 5, "");
    assert_eq!(ordered(&mut stage), [], "its event is on the way");
    uploaded(&mut stage, "a", 5);
    assert_eq!(ordered(&mut stage), []);
    assert_eq!(stage.copies.next(), None, "nothing lacks anything");
}

#[test]
fn the_one_that_stays_until_then_goes_first_then_the_newest_and_a_node_has_few_before_it() {
    let mut stage = stage(&[("a", "")], &["a"]);
    for step in 1..=5 {
        stage.seals("a", at(step));
    }
    assert_eq!(ordered(&mut stage), [up("a", 1), up("a", 5)]);
    says(&mut stage, "a", 5, "");
    uploaded(&mut stage, "a", 5);
    stage.seals("a", at(6));
    assert_eq!(ordered(&mut stage), [up("a", 6)]);
}

#[test]
fn the_maker_uploads_unless_another_holder_has_less_to_do() {
    let mut stage = stage(&[("a", ""), ("b", "")], &["b"]);
    for step in [1, 2, 3] {
        stage.seals("b", at(step));
        stage.holds("a", at(step));
    }
    let now = ordered(&mut stage);
    assert_eq!(now, [up("b", 1), up("a", 3), up("b", 2)]);
}

#[test]
fn parts_of_a_gang_are_uploaded_once_all_are_known() {
    let mut stage = stage(&[("a", ""), ("b", ""), ("c", "")], &["a", "b"]);
    stage.seals("a", sealed(0, Some(M), 2));
    assert_eq!(ordered(&mut stage), []);
    stage.seals("b", sealed(1, Some([8; 32]), 2));
    let part = |node: &str, index| (node.to_owned(), "step-5".to_owned(), index);
    assert_eq!(ordered(&mut stage), [part("a", 0), part("b", 1)]);
}

#[test]
fn what_fails_rests_and_what_is_not_heard_of_is_ordered_anew() {
    let mut stage = stage(&[("a", ""), ("b", "")], &["a"]);
    stage.seals("a", at(5));
    stage.holds("b", at(5));
    assert_eq!(ordered(&mut stage), [up("a", 5)]);
    says(&mut stage, "a", 5, "access denied");
    stage.now += 30_000;
    assert_eq!(ordered(&mut stage), [], "it rests");
    stage.now += 31_000;
    assert_eq!(ordered(&mut stage), [up("a", 5)]);
    stage.copies.gone("a");
    stage.copies.touch(stage.job);
    assert_eq!(ordered(&mut stage), [up("b", 5)], "by who is left");
    stage.now += 7 * 3_600 * 1_000;
    assert_eq!(ordered(&mut stage), [up("b", 5)]);
    // It was there, and nobody came to say so.
    says(&mut stage, "b", 5, "");
    stage.now += 11_000;
    assert_eq!(ordered(&mut stage), [up("b", 5)]);
}

/// A person had the same part uploaded to another store.
#[test]
fn the_word_of_another_store_is_not_taken_for_that_of_the_specs() {
    let mut stage = stage(&[("a", "")], &["a"]);
    stage.seals("a", at(5));
    assert_eq!(ordered(&mut stage), [up("a", 5)]);
    for error in ["", "access denied"] {
        says_of(&mut stage, "a", (5, "s3://mine/b"), error);
        stage.now += 120_000;
        assert_eq!(ordered(&mut stage), [], "it is still under way");
    }
    // Agents of an older release do not say where to.
    says_of(&mut stage, "a", (5, ""), "access denied");
    stage.now += 120_000;
    assert_eq!(ordered(&mut stage), [up("a", 5)]);
}

/// (part, nodes in the order in which they are asked).
fn asked(wanted: &[WantedPart]) -> Vec<(u32, Vec<&str>)> {
    let mut asked = Vec::new();
    for one in wanted {
        asked.push((one.index, one.nodes.iter().map(String::as_str).collect()));
    }
    asked
}

#[test]
fn what_a_person_wants_is_spread_over_those_that_are_connected() {
    let mut stage = Stage::new(&[("a", ""), ("b", ""), ("c", "")], &["a", "b"]);
    stage.seals("a", sealed(0, Some(M), 2));
    stage.seals("b", sealed(1, Some([8; 32]), 2));
    stage.holds("b", sealed(0, Some(M), 2));
    stage.holds("c", sealed(1, Some([8; 32]), 2));
    let job = stage.cluster.job(stage.job);
    let checkpoint = &job.checkpoints[0];
    let mine = Store {
        url: "s3://mine/b".into(),
        elsewhere: true,
    };
    let with = |names: &[&str]| {
        let names: BTreeSet<String> = names.iter().map(|&name| name.to_owned()).collect();
        wanted(&stage.cluster.state, &job, checkpoint, &names, &mine)
    };
    let all = with(&["a", "b", "c"]);
    assert_eq!(asked(&all), [(0, vec!["a", "b"]), (1, vec!["b", "c"])]);
    let without_a = with(&["b", "c"]);
    let spread = [(0, vec!["b"]), (1, vec!["c", "b"])];
    assert_eq!(asked(&without_a), spread, "b has one before it");
    assert_eq!(asked(&with(&[])), [(0, vec![]), (1, vec![])]);
    assert_eq!(all[1].holders, ["b", "c"]);
    assert!(!all[0].there && all[0].bytes == GIB);
    let CopyOrder::Upload {
        key,
        url,
        elsewhere,
        sealed,
        ..
    } = &all[0].order
    else {
        panic!("{:?}", all[0].order)
    };
    assert_eq!((key, sealed.parts), (&stage.key(0), 2));
    assert_eq!((url.as_str(), *elsewhere), ("s3://mine/b", true));
}

#[test]
fn what_the_store_of_the_spec_has_is_not_there_elsewhere() {
    let mut stage = stage(&[("a", "")], &["a"]);
    stage.seals("a", at(5));
    uploaded(&mut stage, "a", 5);
    let job = stage.cluster.job(stage.job);
    for elsewhere in [false, true] {
        let url = URL.to_owned();
        let store = Store { url, elsewhere };
        let nobody = BTreeSet::new();
        let state = &stage.cluster.state;
        let parts = wanted(state, &job, &job.checkpoints[0], &nobody, &store);
        assert_eq!((parts.len(), parts[0].there), (1, !elsewhere));
    }
}

#[test]
fn a_new_leader_derives_it_again() {
    let mut stage = stage(&[("a", "")], &["a"]);
    stage.seals("a", at(5));
    assert_eq!(ordered(&mut stage), [up("a", 5)]);
    stage.copies = Copies::new(&stage.cluster.state);
    assert_eq!(ordered(&mut stage), [], "nobody is connected");
    stage
        .copies
        .connected(&stage.cluster.state, "a", "10.0.0.1", 7_000);
    stage.now += 1_000;
    assert_eq!(ordered(&mut stage), [up("a", 5)]);
}

#[test]
fn who_restores_is_told_where_it_was_uploaded() {
    let mut stage = stage(&[("a", ""), ("b", "")], &["a"]);
    stage.seals("a", at(5));
    uploaded(&mut stage, "a", 5);
    let (job, epoch) = (stage.job, stage.epoch);
    stage.cluster.ended("a", job, epoch, EndKind::KeeperLost);
    stage.cluster.lose("a");
    stage.copies.gone("a");
    let next = stage.cluster.started(job, &["b"]);
    let order = restore(&stage.copies, &stage.cluster.state, job, next).expect("it restores");
    let wanted = RestorePart {
        index: 0,
        manifest: [5; 32],
        bytes: GIB,
        holders: Vec::new(),
        url: Some(URL.into()),
    };
    assert_eq!(order.parts, [wanted]);
}
