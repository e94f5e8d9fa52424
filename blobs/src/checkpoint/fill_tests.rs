//! Chunks that are shared with a neighbour's content. Where the file system of the test cannot share blocks they are copied by the kernel, which is the
//! same to everybody but the disk.
use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use crate::BlobId;
use crate::checkpoint::limits::CHUNK_BYTES;
use crate::checkpoint::{CheckpointStore, Options, Restore};

const CHUNKS: usize = 9;
const LENGTH: usize = CHUNKS * CHUNK_BYTES as usize - 77;

/// No two chunks are alike.
fn bytes() -> Vec<u8> {
    let byte = |place: usize| ((place as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8;
    (0..LENGTH).map(byte).collect()
}

fn open(dir: &Path) -> CheckpointStore {
    let options = Options {
        limit_bytes: u64::MAX,
        threads: 2,
    };
    let mut store = CheckpointStore::open(dir, options).expect("opened");
    Arc::get_mut(&mut store.inner)
        .expect("nobody else has it")
        .clones = true;
    store
}

/// A checkpoint of one file, sealed in `from`.
fn sealed(from: &CheckpointStore, dir: &Path, bytes: &[u8]) -> BlobId {
    fs::create_dir(dir).expect("made");
    fs::write(dir.join("weights"), bytes).expect("written");
    from.seal(dir).expect("sealed").id
}

/// Brings it to `to`; how many chunks had to come.
fn brought(from: &CheckpointStore, to: &CheckpointStore, id: &BlobId, near: &[BlobId]) -> u64 {
    let manifest = from.manifest_bytes(id).expect("held");
    let receive = to
        .receive(&manifest, near)
        .expect("begun")
        .expect("lacks it");
    let wanted = receive.want();
    let mut reader = from.reader(id).expect("held");
    let mut chunk = Vec::new();
    for number in wanted.iter() {
        reader.read(number, &mut chunk).expect("read");
        receive.write(number, &chunk).expect("taken");
    }
    assert_eq!(receive.finish().expect("whole"), *id);
    u64::from(wanted.count())
}

#[test]
fn chunks_of_an_untouched_neighbour_are_shared_and_those_of_a_touched_one_hashed() {
    let dir = tempfile::tempdir().expect("dir");
    let (one, two) = (open(&dir.path().join("one")), open(&dir.path().join("two")));
    let old = bytes();
    let first = sealed(&one, &dir.path().join("step-1"), &old);
    assert_eq!(brought(&one, &two, &first, &[]), CHUNKS as u64);

    let mut new = old.clone();
    new[5 * CHUNK_BYTES as usize] ^= 1;
    let second = sealed(&one, &dir.path().join("step-2"), &new);
    assert_eq!(brought(&one, &two, &second, &[first]), 1);
    assert!(two.verify(&second).expect("good") >= LENGTH as u64);

    // The kept copy of the first changes behind our back, in a chunk that nobody changed since.
    let content = two.manifest(&first).expect("held").contents()[0].id;
    let path = two.inner.objects.path(&content);
    let kept = OpenOptions::new().write(true).open(path).expect("there");
    kept.write_all_at(&[old[0] ^ 1], 0).expect("written");
    drop(kept);
    new[6 * CHUNK_BYTES as usize] ^= 1;
    let third = sealed(&one, &dir.path().join("step-3"), &new);
    assert_eq!(
        brought(&one, &two, &third, &[first]),
        3,
        "the first, and what is new"
    );
    let dest = dir.path().join("restored");
    two.restore(
        &third,
        &dest,
        Restore {
            share: false,
            hash: true,
        },
    )
    .expect("restored");
    assert!(fs::read(dest.join("weights")).expect("there") == new);
}
