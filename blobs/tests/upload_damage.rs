//! Objects of a remote store that are damaged or missing: each is named, nothing of it is taken, and an upload mends what it can see.
//! Does NOT test what moves otherwise: `upload_moves` does.
#![cfg(target_os = "linux")]
mod common;

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

use common::far::*;
use common::*;
use mlctl_blobs::BlobId;
use mlctl_blobs::checkpoint::CheckpointStore;
use mlctl_blobs::upload::{Options, Remote, UploadError};

/// Downloads into a store that has nothing yet: what came good before would not come again.
async fn afresh(remote: &Remote, dir: &Path, id: BlobId) -> Result<CheckpointStore, UploadError> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let to = open(&dir.join(format!("afresh-{number}")));
    let down = remote.download(&to, id).await;
    assert_eq!(to.is_held(&id), down.is_ok());
    down.map(|_| to)
}

/// What may become of an object: other bytes, fewer, none, and many more.
fn spoilt(good: &[u8], raw: bool) -> Vec<Vec<u8>> {
    let mut flipped = good.to_vec();
    flipped[good.len() / 2..]
        .iter_mut()
        .for_each(|b| *b ^= 0xff);
    let mut bad = vec![
        flipped,
        good[..good.len() - 1].to_vec(),
        Vec::new(),
        vec![7; 6 * MIB],
    ];
    if raw {
        bad.push([good, &[0]].concat());
    }
    bad
}

#[tokio::test]
async fn a_chunk_that_is_damaged_or_missing_is_named_and_comes_again() {
    let dir = scratch();
    let (store, id) = sealed(dir.path(), 9);
    let far = dir.path().join("far");
    let remote = directory(&far, Options::default());
    remote
        .upload(&store, id, &entry("a"), &unpaced())
        .await
        .expect("uploaded");
    for (number, path) in objects(&far, "chunks").iter().take(4).enumerate() {
        let good = fs::read(path).expect("read");
        let name = path.file_name().and_then(|n| n.to_str()).expect("a name");
        for bad in spoilt(&good, name.ends_with(".raw")) {
            fs::write(path, bad).expect("written");
            let down = afresh(&remote, dir.path(), id).await;
            let error = down.err().expect("it is not what it was");
            assert!(
                matches!(&error, UploadError::Damaged { object, .. } if object.ends_with(name)),
                "{error}"
            );
        }
        fs::remove_file(path).expect("removed");
        let down = afresh(&remote, dir.path(), id).await;
        let error = down.err().expect("it is not there");
        let stem = &name[..64];
        assert!(
            matches!(&error, UploadError::Missing { object, .. } if object.contains(stem)),
            "{error}"
        );
        // Cut to nothing it would not be taken for there.
        if number % 2 == 0 {
            fs::write(path, b"").expect("written");
        }
        let up = remote
            .upload(&store, id, &entry("a"), &unpaced())
            .await
            .expect("uploaded");
        assert_eq!(up.sent_chunks, 1);
        assert_eq!(fs::read(path).expect("read"), good);
    }
}

#[tokio::test]
async fn a_manifest_that_is_damaged_or_missing_is_named() {
    let dir = scratch();
    let (store, id) = sealed(dir.path(), 9);
    let far = dir.path().join("far");
    let remote = directory(&far, Options::default());
    remote
        .upload(&store, id, &entry("a"), &unpaced())
        .await
        .expect("uploaded");
    let manifest = &objects(&far, "manifests")[0];
    let good = fs::read(manifest).expect("read");
    let bombed = objects(&far, "chunks")
        .into_iter()
        .find(|p| p.extension().is_some_and(|e| e == "zst"));
    let foreign = fs::read(bombed.expect("one is packed")).expect("read");
    for bad in [
        foreign,
        good[..good.len() / 2].to_vec(),
        Vec::new(),
        b"junk".to_vec(),
    ] {
        fs::write(manifest, bad).expect("written");
        let down = afresh(&remote, dir.path(), id).await;
        let error = down.err().expect("it is not what it was");
        assert!(
            matches!(&error, UploadError::Damaged { object, .. } if object.starts_with("manifests/")),
            "{error}"
        );
    }
    fs::remove_file(manifest).expect("removed");
    let down = afresh(&remote, dir.path(), id).await;
    let error = down.err().expect("it is not there");
    assert!(
        matches!(&error, UploadError::Missing { object, .. } if object.starts_with("manifests/")),
        "{error}"
    );
    fs::write(manifest, good).expect("written");
    let to = afresh(&remote, dir.path(), id).await;
    to.expect("all is right again").verify(&id).expect("whole");
}
