//! Bytes that change on the disk, by a trainer or by the disk itself: noticed, never served, mended from what is still good.
//! Does NOT kill anything.
#![cfg(target_os = "linux")]
mod common;

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

use common::*;
use mlctl_blobs::checkpoint::{CheckpointError, CheckpointStore, Restore};
use tempfile::tempdir;

fn flip(path: &Path, at: u64) {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .expect("opened");
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).expect("read");
    file.write_all_at(&[byte[0] ^ 1], at).expect("written");
}

fn damaged(error: CheckpointError) -> (u64, String) {
    match error {
        CheckpointError::Damaged { chunks, path, .. } => (chunks, path),
        other => panic!("{other}"),
    }
}

#[test]
fn a_trainer_that_writes_into_a_sealed_file_is_noticed() {
    let dir = tempdir().expect("dir");
    let at = |name: &str| dir.path().join(name);
    write(&at("a"), "w", &noise(1, 20 * MIB));
    write(&at("a"), "small", b"small");
    let (one, two) = (open(&at("one")), open(&at("two")));
    let sealed = one.seal(&at("a")).expect("sealed");
    pass(&one, &two, &sealed.id, &[]);
    if sealed.linked == 0 {
        // With reflinks there is nothing to notice: the two are different files.
        flip(&at("a/w"), 9 << 20);
        one.verify(&sealed.id).expect("not touched");
        return;
    }
    let mut reader = one.reader(&sealed.id).expect("held");
    let mut bytes = Vec::new();
    reader.read(0, &mut bytes).expect("good");
    fs::write(at("a/small"), b"other").expect("packed files are copies: this changes nothing");
    flip(&at("a/w"), 9 << 20);
    reader
        .read(3, &mut bytes)
        .expect("that chunk is still what it was");
    assert_eq!(
        damaged(reader.read(2, &mut bytes).expect_err("changed")),
        (1, "w".into())
    );
    assert!(!one.is_held(&sealed.id));
    assert!(matches!(
        one.reader(&sealed.id).err(),
        Some(CheckpointError::NotHeld { .. })
    ));
    assert_eq!(one.incoming(), [sealed.id]);

    let receive = one
        .mend(&sealed.id, &[])
        .expect("begins")
        .expect("is damaged");
    assert_eq!(receive.want().iter().collect::<Vec<_>>(), [2]);
    assert_eq!(send(&two, &receive), 1);
    receive.finish().expect("whole again");
    flip(&at("a/w"), 1 << 20);
    assert!(
        one.mend(&sealed.id, &[]).expect("asked").is_none(),
        "the trainer's file is another one now"
    );
    one.restore(&sealed.id, &at("b"), Restore::default())
        .expect("restored");
    assert!(fs::read(at("b/w")).expect("read") == noise(1, 20 * MIB));
}

#[test]
fn size_and_time_of_a_file_do_not_hide_a_change() {
    let dir = tempdir().expect("dir");
    let at = |name: &str| dir.path().join(name);
    write(&at("a"), "w", &noise(1, MIB));
    let store = open(&at("store"));
    let sealed = store.seal(&at("a")).expect("sealed");
    let kept = content_of_size(&at("store"), 1 << 20);
    let time = fs::metadata(&kept)
        .expect("there")
        .modified()
        .expect("known");
    flip(&kept, 5);
    let file = OpenOptions::new().write(true).open(&kept).expect("opened");
    file.set_modified(time).expect("set back");
    let how = Restore {
        share: true,
        hash: false,
    };
    let error = store
        .restore(&sealed.id, &at("b"), how)
        .expect_err("noticed");
    assert_eq!(damaged(error), (1, "w".into()));
    assert!(!at("b").exists());
}

#[test]
fn every_kind_of_damage_is_found_and_mended() {
    type Harm = fn(&Path);
    let harms: [(&str, u32, Harm); 4] = [
        ("a flipped bit", 1, |path| flip(path, (4 << 20) + 9)),
        ("cut", 2, |path| {
            let file = OpenOptions::new().write(true).open(path).expect("opened");
            file.set_len(5 << 20).expect("cut");
        }),
        ("grown", 0, |path| {
            let file = OpenOptions::new().write(true).open(path).expect("opened");
            file.set_len(99 << 20).expect("grown");
        }),
        ("gone", 3, |path| fs::remove_file(path).expect("removed")),
    ];
    for (name, wanted, harm) in harms {
        let dir = tempdir().expect("dir");
        let at = |name: &str| dir.path().join(name);
        write_everything(&at("a"), 5);
        let before = look(&at("a"));
        let (one, two) = (open(&at("one")), open(&at("two")));
        let sealed = one.seal(&at("a")).expect("sealed");
        pass(&one, &two, &sealed.id, &[]);
        harm(&content_of_size(&at("two"), (9 * MIB + 17) as u64));
        let (chunks, path) = damaged(two.verify(&sealed.id).expect_err(name));
        assert_eq!(
            (chunks, path.as_str()),
            (u64::from(wanted.max(1)), "model.safetensors"),
            "{name}"
        );
        let receive = two
            .mend(&sealed.id, &[])
            .expect("begins")
            .expect("is damaged");
        assert_eq!(send(&one, &receive), wanted, "{name}");
        receive.finish().expect("whole again");
        assert_eq!(fs::read_dir(at("two/damaged")).expect("listed").count(), 0);
        two.restore(&sealed.id, &at("b"), Restore::default())
            .expect("restored");
        assert_eq!(look(&at("b")), before, "{name}");
    }
}

#[test]
fn a_neighbour_mends_without_another_node() {
    let dir = tempdir().expect("dir");
    let at = |name: &str| dir.path().join(name);
    write(&at("a"), "w", &noise(1, 12 * MIB));
    write(&at("b"), "w", &noise(1, 12 * MIB));
    write(&at("b"), "v", &noise(1, 8 * MIB));
    let store = open(&at("store"));
    let (a, b) = (
        store.seal(&at("a")).expect("sealed"),
        store.seal(&at("b")).expect("sealed"),
    );
    flip(&content_of_size(&at("store"), 12 << 20), 5 << 20);
    assert_eq!(damaged(store.verify(&a.id).expect_err("found")).0, 1);
    assert_eq!(store.held(), [], "both have the damaged content");
    for id in [a.id, b.id] {
        let receive = store
            .mend(&id, &[b.id])
            .expect("begins")
            .expect("is damaged");
        assert_eq!(receive.want().count(), 0, "another file has these bytes");
        receive.finish().expect("whole again");
    }
    for id in [a.id, b.id] {
        store.verify(&id).expect("good");
    }
}

#[test]
fn a_lost_manifest_keeps_its_contents_until_it_is_back() {
    let dir = tempdir().expect("dir");
    let at = |name: &str| dir.path().join(name);
    write(&at("a"), "w", &noise(1, 9 * MIB));
    let store = open(&at("store"));
    let id = store.seal(&at("a")).expect("sealed").id;
    let manifest = store.manifest_bytes(&id).expect("held");
    let path = at("store/held").join(id.to_string());
    flip(&path, 30);
    assert!(matches!(store.verify(&id), Err(CheckpointError::Format(_))));
    assert!(
        store.receive(&manifest, &[]).expect("taken").is_none(),
        "that was all it lacked"
    );
    store.verify(&id).expect("good");
    flip(&path, 30);
    drop(store);
    let reopen = || -> CheckpointStore { open(&at("store")) };
    let store = reopen();
    assert_eq!((store.held(), store.unreadable()), (vec![], vec![id]));
    assert_eq!(
        contents(&at("store")).len(),
        1,
        "what it needs is not known, so it stays"
    );
    let receive = store
        .receive(&manifest, &[])
        .expect("begins")
        .expect("is not held");
    assert_eq!(receive.want().count(), 0);
    receive.finish().expect("whole");
    store.verify(&id).expect("good");
    flip(&path, 30);
    drop(store);
    let store = reopen();
    store.abandon(&id).expect("given up");
    assert_eq!(store.collect().expect("collected").contents, 1);
    assert_eq!(
        (store.unreadable(), contents(&at("store"))),
        (vec![], vec![])
    );
}

#[test]
fn a_content_that_is_gone_at_start_is_no_held_checkpoint() {
    let dir = tempdir().expect("dir");
    let at = |name: &str| dir.path().join(name);
    write(&at("a"), "w", &noise(1, 9 * MIB));
    write(&at("a"), "v", &noise(2, MIB));
    let store = open(&at("store"));
    let id = store.seal(&at("a")).expect("sealed").id;
    drop(store);
    fs::remove_file(content_of_size(&at("store"), 1 << 20)).expect("removed");
    let store = open(&at("store"));
    assert_eq!((store.held(), store.incoming()), (vec![], vec![id]));
    let receive = store.mend(&id, &[]).expect("begins").expect("is not whole");
    assert_eq!(receive.want_bytes(), 1 << 20);
    receive.write(0, &noise(2, MIB)).expect("taken");
    receive.finish().expect("whole");
    store.verify(&id).expect("good");
}
