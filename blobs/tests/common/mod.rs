//! What the tests of checkpoints share: trees on the disk, what is in them, and passing a checkpoint from one store to another.
//! Does NOT test anything itself.
#![cfg(target_os = "linux")]
#![allow(dead_code, reason = "each test binary uses a part of it")]

pub mod far;
pub mod net;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use mlctl_blobs::BlobId;
use mlctl_blobs::checkpoint::{CheckpointStore, Options, Receive};

pub const MIB: usize = 1 << 20;

/// A directory in memory where there is one. A kill loses nothing that was written, so it is as good as a disk, and syncs at once.
pub fn scratch() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    let made = if memory.is_dir() {
        tempfile::tempdir_in(memory)
    } else {
        tempfile::tempdir()
    };
    made.expect("a temporary directory")
}

pub fn open(dir: &Path) -> CheckpointStore {
    open_limited(dir, u64::MAX)
}

pub fn open_limited(dir: &Path, limit_bytes: u64) -> CheckpointStore {
    let threads = 2;
    CheckpointStore::open(
        dir,
        Options {
            limit_bytes,
            threads,
        },
    )
    .expect("the store opens")
}

/// Bytes that no other seed gives, and that hold no zeros to speak of.
pub fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

pub fn write(root: &Path, name: &str, bytes: &[u8]) {
    let path = root.join(name);
    fs::create_dir_all(path.parent().expect("inside")).expect("made");
    fs::write(path, bytes).expect("written");
}

pub fn chmod(root: &Path, name: &str, mode: u32) {
    fs::set_permissions(root.join(name), fs::Permissions::from_mode(mode)).expect("changed");
}

/// One of everything that may be in a checkpoint.
pub fn write_everything(root: &Path, seed: u64) {
    write(root, "model.safetensors", &noise(seed, 9 * MIB + 17));
    write(root, "optimizer/shard-0.bin", &noise(seed + 1, 4 * MIB));
    write(
        root,
        "optimizer/shard-1.bin",
        &noise(seed + 2, 64 * 1024 + 1),
    );
    write(root, "optimizer/exact.bin", &noise(seed + 3, 64 * 1024));
    write(root, "trainer_state.json", b"{\"step\": 9}");
    write(root, "empty", b"");
    write(root, "ünïcode/模型 α.bin", &noise(seed + 4, 100));
    write(root, "run.sh", b"#!/bin/sh\n");
    chmod(root, "run.sh", 0o750);
    chmod(root, "model.safetensors", 0o640);
    fs::create_dir_all(root.join("nothing/inside")).expect("made");
    let sparse = fs::File::create(root.join("sparse.bin")).expect("made");
    sparse.set_len(50 << 20).expect("made");
    use std::os::unix::fs::FileExt;
    sparse
        .write_all_at(b"in the middle", 21 << 20)
        .expect("written");
    symlink("optimizer", root.join("last")).expect("linked");
    symlink("../model.safetensors", root.join("optimizer/up")).expect("linked");
    fs::hard_link(root.join("model.safetensors"), root.join("twin")).expect("linked");
    fs::hard_link(root.join("empty"), root.join("optimizer/empty")).expect("linked");
    chmod(root, "nothing", 0o711);
}

/// Everything about a tree that a checkpoint keeps, as text: kind, permissions, content, target, first name of an inode.
pub fn look(root: &Path) -> BTreeMap<String, String> {
    let (mut found, mut inodes) = (BTreeMap::new(), BTreeMap::new());
    let mode = fs::symlink_metadata(root).expect("there").mode() & 0o777;
    found.insert(String::new(), format!("root {mode:o}"));
    collect(root, root, &mut found);
    let names: Vec<_> = found.keys().cloned().collect();
    for name in names {
        let meta = fs::symlink_metadata(root.join(&name)).expect("there");
        if meta.is_file() {
            let first = inodes.entry(meta.ino()).or_insert_with(|| name.clone());
            let text = found.get_mut(&name).expect("there");
            text.push_str(&format!(" inode of {first}"));
        }
    }
    found
}

fn collect(root: &Path, dir: &Path, found: &mut BTreeMap<String, String>) {
    for entry in fs::read_dir(dir).expect("listed") {
        let path = entry.expect("listed").path();
        let name = path
            .strip_prefix(root)
            .expect("inside")
            .to_str()
            .expect("UTF-8");
        let meta = fs::symlink_metadata(&path).expect("there");
        let mode = meta.mode() & 0o777;
        let text = if meta.is_symlink() {
            format!("link {}", fs::read_link(&path).expect("read").display())
        } else if meta.is_dir() {
            collect(root, &path, found);
            format!("directory {mode:o}")
        } else {
            let mut hasher = blake3::Hasher::new();
            std::io::copy(&mut fs::File::open(&path).expect("opened"), &mut hasher).expect("read");
            format!("file {mode:o} {} {}", hasher.count(), hasher.finalize())
        };
        found.insert(name.to_owned(), text);
    }
}

/// Bytes that a tree has on the disk.
pub fn disk_bytes(root: &Path) -> u64 {
    let meta = fs::symlink_metadata(root).expect("there");
    let inside = if meta.is_dir() {
        let entries = fs::read_dir(root).expect("listed");
        entries
            .map(|e| disk_bytes(&e.expect("listed").path()))
            .sum()
    } else {
        0
    };
    meta.blocks() * 512 + inside
}

/// Sends what `receive` wants, and returns how many chunks that were.
pub fn send(from: &CheckpointStore, receive: &Receive) -> u32 {
    let mut reader = from.reader(&receive.id()).expect("held");
    let (want, mut bytes) = (receive.want(), Vec::new());
    for index in want.iter() {
        reader.read(index, &mut bytes).expect("read");
        receive.write(index, &bytes).expect("taken");
    }
    want.count()
}

/// Gives `to` a copy of `id`; returns the chunks that had to be sent.
pub fn pass(from: &CheckpointStore, to: &CheckpointStore, id: &BlobId, near: &[BlobId]) -> u32 {
    let manifest = from.manifest_bytes(id).expect("held");
    let Some(receive) = to.receive(&manifest, near).expect("begins") else {
        return 0;
    };
    let sent = send(from, &receive);
    assert_eq!(receive.finish().expect("whole"), *id);
    sent
}

/// Names in `objects/`, without stamps.
pub fn contents(store: &Path) -> Vec<String> {
    let mut names = Vec::new();
    for part in fs::read_dir(store.join("objects")).expect("listed") {
        for entry in fs::read_dir(part.expect("listed").path()).expect("listed") {
            let name = entry
                .expect("listed")
                .file_name()
                .into_string()
                .expect("UTF-8");
            if !name.ends_with(".stamp") {
                names.push(name);
            }
        }
    }
    names.sort();
    names
}

/// The file of the one content that has `size` bytes.
pub fn content_of_size(store: &Path, size: u64) -> std::path::PathBuf {
    let names = contents(store).into_iter();
    let mut paths = names.map(|name| store.join("objects").join(&name[..2]).join(&name));
    paths
        .find(|path| fs::metadata(path).expect("there").len() == size)
        .expect("there is one")
}
