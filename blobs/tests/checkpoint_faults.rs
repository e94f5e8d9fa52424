//! A process that is killed, or finds the disk full, at each of its steps: afterwards a checkpoint is held whole and verified or not at
//! all, nothing is left over, and the same work done again comes to its end. The steps are those of `MLCTL_BLOBS_FAULT`.
//! Does NOT cut the power: what was not synced is still there afterwards.
#![cfg(target_os = "linux")]
#![cfg(debug_assertions)]
mod common;

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Output};

use common::*;
use mlctl_blobs::BlobId;
use mlctl_blobs::checkpoint::{CheckpointError, CheckpointStore, Restore};

/// Where a child works; without it a test of this file is not a child.
const BASE: &str = "MLCTL_BLOBS_TEST_BASE";

/// Runs the test `name` of this binary as a child in `base`.
fn child(name: &str, base: &Path, fault: &str) -> Output {
    Command::new(std::env::current_exe().expect("known"))
        .args(["--exact", name, "--nocapture"])
        .env(BASE, base)
        .env("MLCTL_BLOBS_FAULT", fault)
        .output()
        .expect("a child runs")
}

fn prepare(base: &Path) {
    for (name, seed) in [("a", 1), ("b", 20), ("c", 40)] {
        let dir = base.join(name);
        write(&dir, "w/model", &noise(seed, 4 * MIB + 5));
        write(&dir, "w/frozen", &noise(7, MIB));
        write(&dir, "small", &noise(seed, 500));
        fs::hard_link(dir.join("small"), dir.join("w/small")).expect("linked");
    }
    // Its folders are made: that takes 257 steps, all alike.
    open(&base.join("store"));
    // What another node has.
    let other = open(&base.join("other"));
    let id = other.seal(&base.join("b")).expect("sealed").id;
    let mut reader = other.reader(&id).expect("held");
    let chunks = base.join("chunks");
    write(
        &chunks,
        "manifest",
        &other.manifest_bytes(&id).expect("held"),
    );
    let mut bytes = Vec::new();
    for index in 0..reader.manifest().chunks() {
        reader.read(index, &mut bytes).expect("read");
        write(&chunks, &index.to_string(), &bytes);
    }
}

/// A bit of everything that changes a store. What was done before is found done.
fn work(base: &Path) -> Result<(), CheckpointError> {
    let options = mlctl_blobs::checkpoint::Options {
        limit_bytes: u64::MAX,
        threads: 1,
    };
    let store = CheckpointStore::open(base.join("store"), options)?;
    let a = store.seal(&base.join("a"))?.id;
    let chunks = base.join("chunks");
    let manifest = fs::read(chunks.join("manifest")).expect("prepared");
    if let Some(receive) = store.receive(&manifest, &[a])? {
        for index in receive.want().iter() {
            let bytes = fs::read(chunks.join(index.to_string())).expect("prepared");
            receive.write(index, &bytes)?;
            receive.persist()?;
        }
        receive.finish()?;
    }
    store.remove(&a)?;
    let c = store.seal(&base.join("c"))?.id;
    let dest = base.join("out");
    if !dest.exists() {
        store.restore(
            &c,
            &dest,
            Restore {
                share: false,
                hash: true,
            },
        )?;
    }
    Ok(())
}

/// What has to hold whenever a process has ended.
fn judge(base: &Path) {
    let known: Vec<_> = ["a", "b", "c"]
        .iter()
        .map(|name| look(&base.join(name)))
        .collect();
    let store = open(&base.join("store"));
    let mut needed = BTreeSet::new();
    for id in store.held().iter().map(|held| held.id) {
        store.verify(&id).expect("what is held is whole");
        let dest = base.join("judged");
        store
            .restore(&id, &dest, Restore::default())
            .expect("restored");
        assert!(known.contains(&look(&dest)), "what is held is what it was");
        fs::remove_dir_all(&dest).expect("removed");
        let manifest = store.manifest(&id).expect("held");
        needed.extend(manifest.contents().iter().map(|c| c.id.to_string()));
    }
    let there: BTreeSet<_> = contents(&base.join("store")).into_iter().collect();
    if store.incoming().is_empty() {
        assert_eq!(there, needed, "nothing is left over");
    }
    assert!(there.is_superset(&needed));
    assert_eq!(
        fs::read_dir(base.join("store/sealing"))
            .expect("there")
            .count(),
        0
    );
    let out = base.join("out");
    assert!(
        !out.exists() || look(&out) == known[2],
        "a directory is restored whole or not at all"
    );
}

/// Runs `work` with a fault at step 1, 2, … in a fresh place each, until it comes to its end without meeting it. `judge` sees each.
fn at_every_step(kind: &str, ended: impl Fn(&Output) -> bool) -> usize {
    let prepared = scratch();
    prepare(prepared.path());
    for step in 1.. {
        let dir = scratch();
        let base = dir.path().join("base");
        let copied = Command::new("cp")
            .arg("-a")
            .arg(prepared.path())
            .arg(&base)
            .status();
        assert!(copied.expect("cp runs").success());
        let output = child("a_child_works", &base, &format!("{kind}:{step}"));
        if output.status.success() {
            judge(&base);
            return step;
        }
        assert!(ended(&output), "step {step}: {output:?}");
        judge(&base);
        work(&base).expect("the same again comes to its end");
        judge(&base);
    }
    unreachable!("every step was met")
}

#[test]
fn a_child_works() {
    let dir = scratch();
    match std::env::var_os(BASE) {
        Some(base) => work(Path::new(&base)).expect("works"),
        None => {
            prepare(dir.path());
            work(dir.path()).expect("works");
            judge(dir.path());
            let held = open(&dir.path().join("store")).held();
            assert_eq!(held.len(), 2);
        }
    }
}

#[test]
fn killed_at_any_step() {
    let steps = at_every_step("kill", |output| output.status.signal() == Some(9));
    println!("{steps} steps");
    assert!(steps > 100, "{steps}");
}

#[test]
fn a_full_disk_at_any_write() {
    let steps = at_every_step("full", |output| {
        String::from_utf8_lossy(&output.stderr).contains("DiskFull")
    });
    println!("{steps} writes");
    assert!(steps > 30, "{steps}");
}

#[test]
fn killed_while_the_store_is_made() {
    for step in [1, 2, 5, 100, 261] {
        let dir = scratch();
        prepare(dir.path());
        fs::remove_dir_all(dir.path().join("store")).expect("removed");
        let output = child("a_child_works", dir.path(), &format!("kill:{step}"));
        assert_eq!(output.status.signal(), Some(9), "step {step}");
        judge(dir.path());
    }
}

/// Chunks of the checkpoint that is received below.
const CHUNKS: u32 = 60;

fn big_manifest(base: &Path) -> (Vec<u8>, BlobId) {
    let bytes = fs::read(base.join("manifest")).expect("prepared");
    let id = BlobId::of(&bytes);
    (bytes, id)
}

/// Receives, and notes each chunk that was taken.
fn receive_noting(base: &Path) {
    let store = open(&base.join("store"));
    let Some(receive) = store.receive(&big_manifest(base).0, &[]).expect("begins") else {
        return;
    };
    let mut log = OpenOptions::new()
        .append(true)
        .create(true)
        .open(base.join("log"))
        .expect("log");
    for index in receive.want().iter() {
        let length = receive.manifest().contents()[0].span(index as usize).1;
        receive
            .write(index, &noise(u64::from(index) + 1, length))
            .expect("taken");
        log.write_all(b".").expect("noted");
    }
    receive.finish().expect("whole");
}

#[test]
fn after_a_kill_at_most_a_twentieth_comes_again() {
    if let Some(base) = std::env::var_os(BASE) {
        return receive_noting(Path::new(&base));
    }
    let dir = scratch();
    let base = dir.path();
    let source = base.join("src");
    let bytes: Vec<u8> = (0..CHUNKS)
        .flat_map(|n| noise(u64::from(n) + 1, 4 * MIB))
        .collect();
    write(&source, "w", &bytes);
    let other = open(&base.join("other"));
    let id = other.seal(&source).expect("sealed").id;
    write(base, "manifest", &other.manifest_bytes(&id).expect("held"));
    let name = "after_a_kill_at_most_a_twentieth_comes_again";
    let mut kills = 0;
    open(&base.join("store"));
    // Ten or so for opening come first, then five for each chunk.
    for step in [41, 62, 83, 54, 75, 36] {
        if child(name, base, &format!("kill:{step}")).status.signal() == Some(9) {
            kills += 1;
        }
    }
    assert!(child(name, base, "kill:1000000").status.success());
    let sent = fs::metadata(base.join("log")).expect("kept").len();
    // A chunk whose writer died before it could say so is found, and does not come again either.
    assert!(sent + kills >= u64::from(CHUNKS));
    let again = sent.saturating_sub(u64::from(CHUNKS));
    assert!(kills >= 4, "{kills}");
    assert!(
        again * 20 <= u64::from(CHUNKS),
        "{again} chunks came again after {kills} kills"
    );
    let store = open(&base.join("store"));
    assert!(store.is_held(&id));
    store.verify(&id).expect("whole");
}
