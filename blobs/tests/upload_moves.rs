//! A checkpoint's way to a directory outside the cluster and back: what moves, what does not, what is listed, removed and collected.
//! Does NOT cut requests (`upload_faults` does), damages nothing there (`upload_damage` does) and speaks no HTTP (`upload_s3` does).
#![cfg(target_os = "linux")]
mod common;

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use common::far::*;
use common::*;
use mlctl_blobs::BlobId;
use mlctl_blobs::checkpoint::{CheckpointError, CheckpointStore, Restore};
use mlctl_blobs::transfer::{Pacer, Rate};
use mlctl_blobs::upload::{Entry, Options, Remote, UploadError};

const PLAIN: Restore = Restore {
    share: false,
    hash: true,
};

/// Compiles only if it can be given to a runtime with several threads.
fn given<T: Future + Send>(work: T) -> T {
    work
}

#[tokio::test]
async fn everything_comes_back_byte_for_byte() {
    let dir = scratch();
    let (store, id) = sealed(dir.path(), 1);
    let far = dir.path().join("far/ünï/runs");
    let remote = directory(&far, Options::default());
    let up = remote
        .upload(&store, id, &entry("step-40"), &unpaced())
        .await
        .expect("uploaded");
    assert!(
        up.sent_bytes > 13 << 20 && up.sent_bytes < 15 << 20,
        "{up:?}"
    );
    assert_eq!(up.skipped_chunks, 0);
    let chunks = objects(&far, "chunks");
    assert_eq!(chunks.len() as u32, up.sent_chunks);
    let zst = |p: &&std::path::PathBuf| p.extension().is_some_and(|e| e == "zst");
    let packed = chunks.iter().filter(zst).count();
    assert!(
        packed >= 2 && packed < chunks.len(),
        "text shrinks, noise does not"
    );

    let listed = remote.list_parts(None).await.expect("listed");
    assert_eq!((listed.parts.len(), listed.unreadable.len()), (1, 0));
    assert_eq!(listed.parts[0].entry, entry("step-40"));
    assert_eq!(listed.parts[0].manifest, Some(id));
    assert_eq!(listed.parts[0].bytes, store.held()[0].bytes);

    let other = open(&dir.path().join("other"));
    let down = remote.download(&other, id).await.expect("downloaded");
    assert_eq!(
        (down.chunks, down.received_bytes),
        (up.sent_chunks, up.sent_bytes)
    );
    let dest = dir.path().join("dest");
    other.restore(&id, &dest, PLAIN).expect("restored");
    assert_eq!(look(&dest), look(&dir.path().join("source-1")));
    let again = remote.download(&other, id).await.expect("held already");
    assert_eq!((again.chunks, again.received_bytes), (0, 0));
}

#[tokio::test]
async fn odd_trees_come_back_too() {
    let dir = scratch();
    let far = dir.path().join("far");
    let remote = directory(&far, Options::default());
    let (one, two) = (open(&dir.path().join("one")), open(&dir.path().join("two")));
    let source = |name: &str| dir.path().join("src").join(name);
    fs::create_dir_all(source("none")).expect("made");
    fs::create_dir_all(source("dirs/a/b/c")).expect("made");
    write(&source("zero"), "z", b"");
    write(&source("small"), "s", b"x");
    write(&source("holes"), "x/y", &vec![0; 9 * MIB]);
    write(&source("exact"), "e", &noise(7, 8 * MIB));
    write(&source("links"), "t", b"1");
    symlink("t", source("links").join("übér")).expect("linked");
    for name in ["none", "dirs", "zero", "small", "holes", "exact", "links"] {
        let id = one.seal(&source(name)).expect("sealed").id;
        let up = remote
            .upload(&one, id, &entry(name), &unpaced())
            .await
            .expect(name);
        if matches!(name, "none" | "dirs" | "zero" | "holes") {
            assert_eq!((up.sent_chunks, up.sent_bytes), (0, 0), "{name}");
        }
        remote.download(&two, id).await.expect(name);
        let dest = dir.path().join("dest").join(name);
        fs::create_dir_all(dir.path().join("dest")).expect("made");
        two.restore(&id, &dest, PLAIN).expect(name);
        assert_eq!(look(&dest), look(&source(name)), "{name}");
    }
    assert_eq!(
        remote
            .list_parts(Some("2-12"))
            .await
            .expect("listed")
            .parts
            .len(),
        7
    );
    assert_eq!(
        remote.list_parts(Some("2-1")).await.expect("listed").parts,
        []
    );
    assert_eq!(
        remote
            .list_parts(Some("../.."))
            .await
            .expect("listed")
            .parts,
        []
    );
}

#[tokio::test]
async fn of_a_tenth_that_changed_a_tenth_is_sent() {
    let dir = scratch();
    let source = dir.path().join("source");
    let mut model = noise(3, 40 * MIB);
    write(&source, "model.bin", &model);
    let store = open(&dir.path().join("store"));
    let remote = directory(&dir.path().join("far"), Options::default());
    let first = store.seal(&source).expect("sealed").id;
    let up = remote
        .upload(&store, first, &entry("step-1"), &unpaced())
        .await
        .expect("up");
    assert_eq!(up.sent_bytes, 40 << 20);
    // Another file: the trainer writes a new one and renames it.
    model[20 * MIB..24 * MIB].copy_from_slice(&noise(4, 4 * MIB));
    write(&source, "model.new", &model);
    fs::rename(source.join("model.new"), source.join("model.bin")).expect("renamed");
    let second = store.seal(&source).expect("sealed").id;
    let up = remote
        .upload(&store, second, &entry("step-2"), &unpaced())
        .await
        .expect("up");
    assert_eq!(
        (up.sent_bytes, up.sent_chunks, up.skipped_chunks),
        (4 << 20, 1, 9)
    );
    let up = remote
        .upload(&store, second, &entry("step-2"), &unpaced())
        .await
        .expect("up");
    assert_eq!(
        (up.sent_bytes, up.sent_chunks, up.skipped_chunks),
        (0, 0, 10)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_uploads_at_once_and_one_that_is_dropped() {
    let dir = scratch();
    let (store, id) = sealed(dir.path(), 5);
    let (other, next) = sealed(dir.path(), 6);
    let remote = directory(&dir.path().join("far"), Options::default());
    // As slow as it has to be for something to be left when it is dropped.
    let slow = Pacer::new(Rate::Fixed(1 << 20));
    let (to, from) = (remote.clone(), store.clone());
    let dropped = tokio::spawn(async move { to.upload(&from, id, &entry("a"), &slow).await });
    while objects(&dir.path().join("far"), "chunks").is_empty() {
        tokio::task::yield_now().await;
    }
    dropped.abort();
    assert!(dropped.await.is_err_and(|e| e.is_cancelled()));
    assert_eq!(remote.list_parts(None).await.expect("listed").parts, []);

    let (a, b, c) = (entry("a"), entry("b"), entry("c"));
    let pacer = unpaced();
    let done = tokio::join!(
        remote.upload(&store, id, &a, &pacer),
        remote.upload(&store, id, &b, &pacer),
        remote.upload(&other, next, &c, &pacer),
    );
    for up in [done.0, done.1, done.2] {
        up.expect("uploaded");
    }
    assert_eq!(
        remote.list_parts(None).await.expect("listed").parts.len(),
        3
    );
    let (to, from) = (open(&dir.path().join("to")), remote.clone());
    tokio::spawn(async move {
        for id in [id, next] {
            from.download(&to, id).await.expect("downloaded");
        }
    })
    .await
    .expect("a download can be given to the runtime");
}

#[tokio::test]
async fn bytes_that_the_disk_changed_are_not_uploaded() {
    let dir = scratch();
    let (store, id) = sealed(dir.path(), 2);
    let far = dir.path().join("far");
    let remote = directory(&far, Options::default());
    let content = content_of_size(&dir.path().join("store-2"), (9 * MIB + 17) as u64);
    let mut bytes = fs::read(&content).expect("read");
    bytes[5 * MIB] ^= 1;
    fs::set_permissions(&content, fs::Permissions::from_mode(0o600)).expect("changed");
    fs::write(&content, bytes).expect("written");
    let error = remote
        .upload(&store, id, &entry("a"), &unpaced())
        .await
        .expect_err("damaged");
    assert!(
        matches!(error, UploadError::Store(CheckpointError::Damaged { .. })),
        "{error}"
    );
    assert_eq!(remote.list_parts(None).await.expect("listed").parts, []);
    let error = remote
        .upload(&store, id, &entry("a"), &unpaced())
        .await
        .expect_err("let go");
    assert!(
        matches!(error, UploadError::Store(CheckpointError::NotHeld { .. })),
        "{error}"
    );
}

/// A remote store with a and b, which are equal, and c.
async fn three(dir: &Path) -> (Remote, CheckpointStore, [BlobId; 2]) {
    let (store, id) = sealed(dir, 11);
    let (other, next) = sealed(dir, 52);
    let remote = directory(&dir.join("far"), at_once());
    for (store, id, name) in [(&store, id, "a"), (&store, id, "b"), (&other, next, "c")] {
        remote
            .upload(store, id, &entry(name), &unpaced())
            .await
            .expect("uploaded");
    }
    (remote, store, [id, next])
}

#[tokio::test]
async fn a_part_is_removed_with_what_no_other_needs() {
    let dir = scratch();
    let far = dir.path().join("far");
    let (remote, _, [id, next]) = three(dir.path()).await;
    let nobody = Entry {
        index: 1,
        parts: 2,
        ..entry("a")
    };
    remote.upload_nothing(&nobody).await.expect("said");
    let parts = async || {
        let listed = remote.list_parts(None).await.expect("listed");
        listed.parts.len()
    };
    assert_eq!(parts().await, 4);
    remote
        .remove(&entry("a"), Some(next))
        .await
        .expect("that is another part");
    assert_eq!(parts().await, 4);
    remote.remove(&entry("a"), Some(id)).await.expect("removed");
    remote.remove(&nobody, None).await.expect("removed");
    assert_eq!(objects(&far, "manifests").len(), 2, "b has the same");
    remote.remove(&entry("b"), Some(id)).await.expect("removed");
    remote
        .remove(&entry("b"), Some(id))
        .await
        .expect("removed again");
    assert_eq!(objects(&far, "manifests").len(), 1);
}

#[tokio::test]
async fn what_no_part_needs_is_collected_and_nothing_else() {
    let dir = scratch();
    let far = dir.path().join("far");
    let (remote, store, [id, next]) = three(dir.path()).await;
    write(&far, "chunks/README", b"not ours");
    write(&far, "jobs/README", b"not ours");
    let swept = given(remote.collect_remote()).await.expect("collected");
    assert_eq!(swept, mlctl_blobs::upload::Swept::default());
    for name in ["a", "b"] {
        let removed = remote.remove(&entry(name), Some(id)).await;
        removed.expect("removed");
    }

    // As it is by default nothing that is young goes, so that a running upload loses nothing.
    let careful = directory(
        &far,
        Options {
            settle: at_once().settle,
            ..Options::default()
        },
    );
    assert_eq!(careful.collect_remote().await.expect("collected").chunks, 0);
    let before = objects(&far, "chunks").len();
    let swept = remote.collect_remote().await.expect("collected");
    assert!(
        swept.chunks > 4 && swept.bytes > 10 << 20 && !swept.more,
        "{swept:?}"
    );
    assert_eq!(
        objects(&far, "chunks").len() as u64,
        before as u64 - swept.chunks
    );
    assert_eq!(objects(&far, "collecting").len(), 0);
    assert!(far.join("chunks/README").exists() && far.join("jobs/README").exists());
    let to = open(&dir.path().join("to"));
    remote
        .download(&to, next)
        .await
        .expect("what is left is whole");
    let error = remote.download(&to, id).await.expect_err("gone");
    assert!(matches!(error, UploadError::Missing { .. }), "{error}");
    let up = remote
        .upload(&store, id, &entry("a"), &unpaced())
        .await
        .expect("uploaded");
    assert_eq!(
        up.sent_chunks as u64, swept.chunks,
        "all of it is sent again"
    );
}

#[tokio::test]
async fn an_upload_and_a_collection_see_each_other() {
    let dir = scratch();
    let (store, id) = sealed(dir.path(), 21);
    let far = dir.path().join("far");
    let remote = directory(&far, at_once());
    write(&far, "collecting/1-1", b"{}");
    let error = remote
        .upload(&store, id, &entry("a"), &unpaced())
        .await
        .expect_err("wait");
    assert!(matches!(error, UploadError::Collecting { .. }), "{error}");
    assert_eq!(objects(&far, "chunks").len(), 0, "nothing was sent");
    // Its manifest is there: whoever collects from now on, and is careful, keeps what it names.
    assert_eq!(objects(&far, "manifests").len(), 1);

    // A mark that was left behind counts for an hour.
    let mark = fs::File::options()
        .write(true)
        .open(far.join("collecting/1-1"))
        .expect("opened");
    let old = std::time::SystemTime::now() - std::time::Duration::from_secs(3_700);
    mark.set_modified(old).expect("aged");
    remote
        .upload(&store, id, &entry("a"), &unpaced())
        .await
        .expect("uploaded");
    remote.collect_remote().await.expect("collected");
    assert_eq!(
        objects(&far, "collecting").len(),
        0,
        "the old mark is gone as well"
    );
    remote
        .download(&open(&dir.path().join("to")), id)
        .await
        .expect("whole");
}

#[tokio::test]
async fn what_cannot_be_read_stops_a_collection_and_nothing_else() {
    let dir = scratch();
    let (store, id) = sealed(dir.path(), 31);
    let far = dir.path().join("far");
    let remote = directory(&far, at_once());
    remote
        .upload(&store, id, &entry("good"), &unpaced())
        .await
        .expect("uploaded");
    let good = fs::read_to_string(&objects(&far, "jobs")[0]).expect("read");
    let chunks = objects(&far, "chunks").len();
    let bad = "jobs/2-12/3-bad/part-0.json";
    for text in [
        "",
        "{",
        "[]",
        &good,
        &good.replace("good", "../bad"),
        &good
            .replace("\"good\"", "\"bad\"")
            .replace(&id.to_string(), "../../../etc/passwd"),
        &good
            .replace("\"good\"", "\"bad\"")
            .replace("\"version\":1", "\"version\":2"),
        &format!("{good}{}", " ".repeat(1 << 20)),
    ] {
        write(&far, bad, text.as_bytes());
        let listed = remote.list_parts(None).await.expect("listed");
        assert_eq!(
            (listed.parts.len(), listed.unreadable.len()),
            (1, 1),
            "{text:.200}"
        );
        assert!(listed.unreadable[0].starts_with(bad));
        let error = remote
            .collect_remote()
            .await
            .expect_err("nobody knows what it needs");
        assert!(
            matches!(&error, UploadError::Damaged { object, .. } if object == bad),
            "{error}"
        );
        assert_eq!(objects(&far, "collecting").len(), 0);
    }
    remote
        .remove(&entry("bad"), Some(id))
        .await
        .expect("whatever it says");
    assert!(!far.join(bad).exists());
    // A part without its manifest, and a manifest that is something else.
    let manifest = &objects(&far, "manifests")[0];
    let bytes = fs::read(manifest).expect("read");
    fs::remove_file(manifest).expect("removed");
    let error = remote
        .collect_remote()
        .await
        .expect_err("nobody knows what it needs");
    assert!(matches!(error, UploadError::Missing { .. }), "{error}");
    fs::write(manifest, &bytes[1..]).expect("written");
    let error = remote
        .collect_remote()
        .await
        .expect_err("nobody knows what it needs");
    assert!(matches!(error, UploadError::Damaged { .. }), "{error}");
    assert_eq!(objects(&far, "chunks").len(), chunks);
}

#[tokio::test]
async fn what_is_no_store_or_no_entry_is_refused() {
    let dir = scratch();
    for url in ["s3://key:secret@bucket/x", "s3://bucket/x?token=secret"] {
        let error = Remote::open(url, Options::default())
            .err()
            .expect("refused");
        assert!(matches!(error, UploadError::Address { .. }), "{error}");
        assert!(!error.to_string().contains("secret"), "{error}");
    }
    let nowhere = format!("file://{}/nowhere", dir.path().display());
    let empty = directory(&dir.path().join("empty"), Options::default());
    let listed = given(empty.list_parts(None))
        .await
        .expect("nothing is there");
    assert_eq!((listed.parts.len(), listed.unreadable.len()), (0, 0));
    given(empty.remove(&entry("a"), None))
        .await
        .expect("not there");
    let error = Remote::open(&nowhere, Options::default())
        .err()
        .expect("not mounted");
    assert!(matches!(error, UploadError::Open { .. }), "{error}");
    assert!(!dir.path().join("nowhere").exists());

    let (store, id) = sealed(dir.path(), 41);
    let far = dir.path().join("far");
    let remote = directory(&far, Options::default());
    let bad = [
        Entry {
            job: "../1".to_owned(),
            ..entry("a")
        },
        Entry {
            job: String::new(),
            ..entry("a")
        },
        Entry {
            epoch: "3/..".to_owned(),
            ..entry("a")
        },
        Entry {
            index: 1,
            ..entry("a")
        },
        entry(""),
        entry(".."),
        entry("a/b"),
        entry("a\n"),
    ];
    for bad in bad {
        let error = remote
            .upload(&store, id, &bad, &unpaced())
            .await
            .expect_err("no entry");
        assert!(matches!(error, UploadError::Entry { .. }), "{error}");
    }
    assert_eq!(objects(&far, "").len(), 0);
}
