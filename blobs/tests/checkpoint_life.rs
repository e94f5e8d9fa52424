//! A checkpoint's ways: sealed, passed on, restored, forgotten; refused when it must be. Does NOT crash anything: `checkpoint_faults` does.
#![cfg(target_os = "linux")]
mod common;

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};

use common::*;
use mlctl_blobs::BlobId;
use mlctl_blobs::checkpoint::{CheckpointError, Entry, Kind, Manifest, Restore};
use tempfile::tempdir;

#[test]
fn everything_comes_back_here_and_on_another_node() {
    let dir = tempdir().expect("dir");
    let (source, at) = (dir.path().join("step-9"), |name: &str| {
        dir.path().join(name)
    });
    write_everything(&source, 1);
    let before = look(&source);
    let (one, two) = (open(&at("one")), open(&at("two")));
    let sealed = one.seal(&source).expect("sealed");
    assert_eq!(look(&source), before, "the source stays as it was");
    assert_eq!(one.seal(&source).expect("sealed again").id, sealed.id);
    assert_eq!((one.held().len(), one.held()[0].bytes), (1, sealed.bytes));

    fs::remove_dir_all(&source).expect("the trainer rotates it away");
    pass(&one, &two, &sealed.id, &[]);
    assert_eq!(two.held(), one.held());
    for (store, name) in [(&one, "r1"), (&two, "r2")] {
        for (number, share) in [true, false].into_iter().enumerate() {
            let (dest, how) = (
                at(&format!("{name}-{number}")),
                Restore { share, hash: share },
            );
            let restored = store.restore(&sealed.id, &dest, how).expect("restored");
            assert_eq!(look(&dest), before);
            assert_eq!(restored.linked > 0 || restored.cloned > 0, share);
            assert!(disk_bytes(&dest) < 28 << 20, "holes stay holes");
            assert!(matches!(
                store.restore(&sealed.id, &dest, how),
                Err(CheckpointError::Taken { .. })
            ));
        }
        assert!(store.verify(&sealed.id).expect("good") > 60 << 20);
    }
    assert!(disk_bytes(&at("two")) < 16 << 20, "holes stay holes");
    assert_eq!(
        one.seal(&at("r1-0")).expect("sealed").id,
        sealed.id,
        "a copy is the same"
    );
    assert_eq!(two.seal(&at("r2-1")).expect("sealed").id, sealed.id);
}

#[test]
fn an_empty_directory_is_a_checkpoint_too() {
    let dir = tempdir().expect("dir");
    fs::create_dir(dir.path().join("none")).expect("made");
    let (one, two) = (open(&dir.path().join("one")), open(&dir.path().join("two")));
    let sealed = one.seal(&dir.path().join("none")).expect("sealed");
    assert_eq!(pass(&one, &two, &sealed.id, &[]), 0);
    let dest = dir.path().join("out");
    two.restore(&sealed.id, &dest, Restore::default())
        .expect("restored");
    assert_eq!(look(&dest), look(&dir.path().join("none")));
}

#[test]
fn what_is_held_is_not_wanted_again() {
    let dir = tempdir().expect("dir");
    let at = |name: &str| dir.path().join(name);
    let (one, two) = (open(&at("one")), open(&at("two")));
    let base = noise(7, 32 * MIB);
    write(&at("a"), "frozen", &base);
    write(&at("a"), "weights", &noise(8, 16 * MIB));
    let mut moved = noise(8, 16 * MIB);
    moved[5 * MIB] ^= 1;
    write(&at("b"), "other-name", &base);
    write(&at("b"), "weights", &moved);
    write(&at("b"), "again", &moved[8 * MIB..]);
    let (a, b) = (
        one.seal(&at("a")).expect("sealed"),
        one.seal(&at("b")).expect("sealed"),
    );
    assert_eq!(pass(&one, &two, &a.id, &[]), 12);
    let used = two.usage().used_bytes;
    assert_eq!(used, 48 << 20);
    assert_eq!(
        pass(&one, &two, &b.id, &[a.id]),
        1,
        "one chunk of 4 MiB is new"
    );
    assert_eq!(
        two.usage().used_bytes,
        used + (24 << 20),
        "contents count once"
    );

    two.remove(&a.id).expect("removed");
    two.verify(&b.id).expect("still whole");
    assert_eq!(two.usage().used_bytes, 56 << 20);
    two.remove(&b.id).expect("removed");
    assert_eq!((two.usage().used_bytes, contents(&at("two"))), (0, vec![]));
    assert!(matches!(
        two.remove(&b.id),
        Err(CheckpointError::NotHeld { .. })
    ));
    one.remove(&a.id).expect("removed");
    assert_eq!(
        pass(&one, &two, &b.id, &[]),
        12,
        "equal chunks of one checkpoint come once"
    );
}

#[test]
fn a_limit_refuses_before_anything_begins() {
    let dir = tempdir().expect("dir");
    let at = |name: &str| dir.path().join(name);
    let (one, two) = (open(&at("one")), open_limited(&at("two"), 30 << 20));
    for (name, seed) in [("a", 1), ("b", 2)] {
        write(&at(name), "w", &noise(seed, 20 * MIB));
    }
    let (a, b) = (
        one.seal(&at("a")).expect("sealed"),
        one.seal(&at("b")).expect("sealed"),
    );
    pass(&one, &two, &a.id, &[]);
    let manifest = one.manifest_bytes(&b.id).expect("held");
    let refused = |error| match error {
        CheckpointError::NoRoom { needed, free } => (needed, free),
        other => panic!("{other}"),
    };
    let error = two.receive(&manifest, &[]).err().expect("refused");
    assert!(
        error.to_string().contains("10485760 are missing"),
        "{error}"
    );
    assert_eq!(refused(error), (20 << 20, 10 << 20));
    assert_eq!(
        refused(two.seal(&at("b")).expect_err("refused")),
        (20 << 20, 10 << 20)
    );
    assert_eq!((two.incoming().len(), contents(&at("two")).len()), (0, 1));
    assert_eq!(two.seal(&at("a")).expect("it is here already").id, a.id);
    two.remove(&a.id).expect("removed");
    pass(&one, &two, &b.id, &[]);
}

#[test]
fn a_wrong_chunk_is_refused_and_changes_nothing() {
    let dir = tempdir().expect("dir");
    let at = |name: &str| dir.path().join(name);
    let (one, two) = (open(&at("one")), open(&at("two")));
    write(&at("a"), "w", &noise(1, 9 * MIB));
    let sealed = one.seal(&at("a")).expect("sealed");
    let manifest = one.manifest_bytes(&sealed.id).expect("held");
    let receive = two
        .receive(&manifest, &[])
        .expect("begins")
        .expect("is not here");
    let mut good = noise(1, 4 * MIB);
    for (index, bytes) in [
        (1, good.clone()),
        (0, good[1..].to_vec()),
        (0, vec![0; 4 * MIB]),
        (0, vec![]),
        (3, good.clone()),
        (u32::MAX, good.clone()),
    ] {
        let refused = receive.write(index, &bytes);
        assert!(matches!(refused, Err(CheckpointError::WrongChunk { .. })));
    }
    good[77] ^= 1;
    assert!(receive.write(0, &good).is_err());
    assert!(matches!(
        two.receive(&manifest, &[]),
        Err(CheckpointError::Busy { .. })
    ));
    assert!(matches!(
        two.abandon(&sealed.id),
        Err(CheckpointError::Busy { .. })
    ));
    assert_eq!(receive.want().count(), 3);
    good[77] ^= 1;
    receive.write(0, &good).expect("taken");
    receive.write(0, &good).expect("twice is no error");
    let missing = receive.finish().expect_err("two are missing");
    assert!(matches!(
        missing,
        CheckpointError::Incomplete { missing: 2, .. }
    ));
    assert!(!two.is_held(&sealed.id));
    let again = two
        .receive(&manifest, &[])
        .expect("goes on")
        .expect("is not here");
    assert_eq!((again.want().count(), again.want_bytes()), (2, 5 << 20));
    drop(again);
    two.abandon(&sealed.id).expect("abandoned");
    assert_eq!((two.usage().used_bytes, two.incoming()), (0, vec![]));
    assert_eq!(
        disk_bytes(&at("two/incoming")),
        disk_bytes(&at("two/sealing"))
    );
}

#[test]
fn what_no_checkpoint_holds_is_refused_by_name() {
    let dir = tempdir().expect("dir");
    let store = open(&dir.path().join("store"));
    let source = dir.path().join("src");
    let refused = |why: &str| {
        let error = store.seal(&source).expect_err("refused").to_string();
        assert!(error.contains(why), "{error}");
        fs::remove_dir_all(&source).expect("removed");
    };
    for (target, why) in [
        ("/etc/passwd", "absolute"),
        ("../x", "leaves"),
        ("a/../../x", "goes up behind a name"),
    ] {
        write(&source, "a/b", b"x");
        symlink(target, source.join("l")).expect("linked");
        refused(why);
    }
    write(&source, "a", b"x");
    let _socket = std::os::unix::net::UnixListener::bind(source.join("s")).expect("bound");
    refused("neither a file");
    write(&source, "a", b"x");
    use std::os::unix::ffi::OsStrExt;
    fs::write(source.join(std::ffi::OsStr::from_bytes(b"\xff")), b"x").expect("written");
    refused("not UTF-8");
    assert_eq!(
        (store.held(), contents(&dir.path().join("store"))),
        (vec![], vec![])
    );
    assert!(matches!(
        store.seal(&source),
        Err(CheckpointError::Io { .. })
    ));
}

#[test]
fn a_hostile_manifest_writes_nothing_outside() {
    // The codec refuses bad paths; a sound manifest can still be laid out next to traps that somebody put on the disk.
    let dir = tempdir().expect("dir");
    let at = |name: &str| dir.path().join(name);
    let store = open(&at("store"));
    let file = |path: &str| Entry {
        path: path.into(),
        kind: Kind::File {
            mode: 0o644,
            size: 0,
        },
    };
    for path in ["../out", "/out", "a/../../out", "d/x", ""] {
        assert!(
            Manifest::new(0o755, vec![file(path)], vec![]).is_err(),
            "{path:?}"
        );
    }
    let link = Entry {
        path: "d".into(),
        kind: Kind::Link { target: "e".into() },
    };
    assert!(Manifest::new(0o755, vec![link, file("d/x")], vec![]).is_err());
    let sound = Manifest::new(0o755, vec![file("x")], vec![]).expect("sound");
    let bytes = sound.encode().expect("small");
    let receive = store
        .receive(&bytes, &[])
        .expect("begins")
        .expect("is not here");
    let id = receive.finish().expect("whole");
    fs::create_dir(at("trap")).expect("made");
    symlink(at("trap"), at("dest")).expect("linked");
    let refused = store.restore(&id, &at("dest"), Restore::default());
    assert!(matches!(refused, Err(CheckpointError::Taken { .. })));
    assert_eq!(fs::read_dir(at("trap")).expect("listed").count(), 0);
    for id in [BlobId::of(b"?"), BlobId::of(b"")] {
        let refused = store.restore(&id, &at("other"), Restore::default());
        assert!(matches!(refused, Err(CheckpointError::NotHeld { .. })));
    }
}

#[test]
fn many_small_files_are_one_content() {
    let dir = tempdir().expect("dir");
    let at = |name: &str| dir.path().join(name);
    for number in 0..1_000_u64 {
        write(
            &at("a"),
            &format!("{}/{number}", number % 10),
            &noise(number, number as usize % 700),
        );
    }
    let (one, two) = (open(&at("one")), open(&at("two")));
    let sealed = one.seal(&at("a")).expect("sealed");
    assert_eq!(
        (one.held()[0].files, contents(&at("one")).len()),
        (1_000, 1)
    );
    assert_eq!(pass(&one, &two, &sealed.id, &[]), 1);
    two.restore(&sealed.id, &at("b"), Restore::default())
        .expect("restored");
    assert_eq!(look(&at("a")), look(&at("b")));
}

#[test]
fn two_equal_files_are_not_tied_together() {
    let dir = tempdir().expect("dir");
    let at = |name: &str| dir.path().join(name);
    for name in ["x", "y"] {
        write(&at("a"), name, &noise(1, MIB));
    }
    let store = open(&at("store"));
    let sealed = store.seal(&at("a")).expect("sealed");
    store
        .restore(&sealed.id, &at("b"), Restore::default())
        .expect("restored");
    let inode = |name: &str| fs::metadata(at(name)).expect("there").ino();
    assert_ne!(inode("b/x"), inode("b/y"));
}

#[test]
fn one_process_at_a_time() {
    let dir = tempdir().expect("dir");
    let store = open(dir.path());
    let options = mlctl_blobs::checkpoint::Options {
        limit_bytes: 0,
        threads: 1,
    };
    let second = mlctl_blobs::checkpoint::CheckpointStore::open(dir.path(), options);
    assert!(matches!(second.err(), Some(CheckpointError::Busy { .. })));
    drop(store);
    open(dir.path());
}

#[test]
fn a_directory_that_is_being_written_is_not_sealed() {
    let dir = tempdir().expect("dir");
    let at = |name: &str| dir.path().join(name);
    write(&at("a"), "w", &noise(1, 5 * MIB));
    let store = open(&at("store"));
    let done = std::sync::atomic::AtomicBool::new(false);
    let changed = std::thread::scope(|scope| {
        scope.spawn(|| {
            use std::os::unix::fs::FileExt;
            let file = fs::OpenOptions::new()
                .write(true)
                .open(at("a/w"))
                .expect("opened");
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                file.write_all_at(b"more", 9).expect("written");
            }
        });
        let changed = (0..50).find_map(|_| store.seal(&at("a")).err());
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        changed
    });
    assert!(
        matches!(changed, Some(CheckpointError::Changed { .. })),
        "{changed:?}"
    );
    assert_eq!(
        fs::read_dir(at("store/sealing")).expect("listed").count(),
        0
    );
}

#[test]
fn a_rotation_meanwhile_gives_all_or_nothing() {
    let dir = scratch();
    let at = |name: &str| dir.path().join(name);
    let store = open(&at("store"));
    let mut sealed = 0;
    for round in 0..24_u64 {
        for number in 0..20 {
            write(
                &at("a"),
                &format!("d/{number}"),
                &noise(round * 100 + number, 70_000),
            );
        }
        let before = look(&at("a"));
        let result = std::thread::scope(|scope| {
            scope.spawn(|| {
                // It was listed when the first file has its second name.
                let waited = std::time::Instant::now();
                while !begun(&at("store/sealing")) && waited.elapsed().as_secs() < 10 {
                    std::thread::yield_now();
                }
                std::thread::sleep(std::time::Duration::from_micros(round * round * 100));
                fs::remove_dir_all(at("a")).expect("rotated away");
            });
            store.seal(&at("a"))
        });
        match result {
            Ok(done) => {
                sealed += 1;
                store
                    .restore(&done.id, &at("out"), Restore::default())
                    .expect("restored");
                assert_eq!(look(&at("out")), before);
                fs::remove_dir_all(at("out")).expect("removed");
            }
            Err(CheckpointError::Changed { .. }) => {}
            Err(other) => panic!("{other}"),
        }
    }
    assert!(sealed > 0, "the last ones had time enough");
    assert_eq!(store.held().len(), sealed);
}

fn begun(sealing: &std::path::Path) -> bool {
    let works = fs::read_dir(sealing).expect("listed").flatten();
    works.into_iter().any(|work| work.path().join("0").exists())
}
