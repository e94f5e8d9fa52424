//! Trees that nobody thought of: sealed, sent in any order with interruptions, restored; what comes out is what went in.
//! Does NOT aim at faults: `checkpoint_faults` does.
#![cfg(target_os = "linux")]
mod common;

use std::fs;
use std::os::unix::fs::{FileExt, symlink};
use std::path::Path;

use common::*;
use mlctl_blobs::checkpoint::Restore;
use proptest::prelude::*;

#[derive(Debug, Clone)]
enum Thing {
    /// Seed, bytes, permissions.
    File(u64, usize, u32),
    /// Bytes of the file, and where some of them are.
    Sparse(u64, Vec<u64>),
    Directory(u32),
    /// To the thing with this number, from the same directory.
    Link(usize),
    /// Another name of the thing with this number.
    Same(usize),
}

fn thing() -> impl Strategy<Value = Thing> {
    let mode = || prop::sample::select(vec![0o600, 0o644, 0o755, 0o440]);
    // Few seeds: equal files happen. Sizes around each border.
    let size = prop::sample::select(vec![
        0,
        1,
        4_095,
        65_535,
        65_536,
        65_537,
        1 << 20,
        (4 << 20) - 1,
        4 << 20,
        (4 << 20) + 1,
        9 << 20,
    ]);
    prop_oneof![
        6 => (0..4_u64, size, mode()).prop_map(|(seed, size, mode)| Thing::File(seed, size, mode)),
        1 => (1..30_u64 << 20, prop::collection::vec(0..30_u64 << 20, 0..4))
            .prop_map(|(size, data)| Thing::Sparse(size, data)),
        1 => prop::sample::select(vec![0o755, 0o700, 0o711]).prop_map(Thing::Directory),
        1 => any::<prop::sample::Index>().prop_map(|i| Thing::Link(i.index(1_000))),
        1 => any::<prop::sample::Index>().prop_map(|i| Thing::Same(i.index(1_000))),
    ]
}

/// Makes `things` below `root`; the name of each says in which directory it lies.
fn make(root: &Path, things: &[Thing]) {
    fs::create_dir_all(root).expect("made");
    let name = |number: usize| match number % 4 {
        0 => format!("n{number}"),
        1 => format!("d/n{number}.bin"),
        2 => format!("d/é è/n{number}"),
        _ => format!("d.x/n{number}"),
    };
    for (number, thing) in things.iter().enumerate() {
        let path = root.join(name(number));
        fs::create_dir_all(path.parent().expect("inside")).expect("made");
        match thing {
            Thing::File(seed, size, mode) => {
                fs::write(&path, noise(*seed, *size)).expect("written");
                chmod(root, &name(number), *mode);
            }
            Thing::Sparse(size, data) => {
                let file = fs::File::create(&path).expect("made");
                file.set_len(*size).expect("made");
                for at in data.iter().filter(|at| *at < size) {
                    file.write_all_at(&[1], *at).expect("written");
                }
            }
            Thing::Directory(mode) => {
                fs::create_dir(&path).expect("made");
                chmod(root, &name(number), *mode);
            }
            Thing::Link(to) => {
                let to = name(to % things.len());
                let up = "../".repeat(name(number).matches('/').count());
                symlink(format!("{up}{to}"), &path).expect("linked");
            }
            Thing::Same(to) => {
                let to = root.join(name(to % number.max(1)));
                let file = fs::symlink_metadata(&to).is_ok_and(|meta| meta.is_file());
                if file && to != path {
                    fs::hard_link(&to, &path).expect("linked");
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn what_goes_in_comes_out(
        things in prop::collection::vec(thing(), 1..14),
        more in prop::collection::vec(thing(), 0..3),
        order in any::<u64>(),
        stops in prop::collection::vec(0..100_u32, 0..4),
    ) {
        let dir = scratch();
        let at = |name: &str| dir.path().join(name);
        make(&at("a"), &things);
        make(&at("b"), &[things, more].concat());
        let one = open(&at("one"));
        let mut near = Vec::new();
        for name in ["a", "b"] {
            let before = look(&at(name));
            let id = one.seal(&at(name)).expect("sealed").id;
            fs::remove_dir_all(at(name)).expect("rotated away");
            let manifest = one.manifest_bytes(&id).expect("held");
            let mut reader = one.reader(&id).expect("held");
            let mut bytes = Vec::new();
            let mut sent = std::collections::BTreeSet::new();
            for stop in stops.iter().chain([&u32::MAX]) {
                let two = open(&at("two"));
                let Some(receive) = two.receive(&manifest, &near).expect("begins") else { break };
                let mut want: Vec<u32> = receive.want().iter().collect();
                want.sort_by_key(|index| noise(order ^ u64::from(*index), 8));
                for index in want.into_iter().take(*stop as usize) {
                    reader.read(index, &mut bytes).expect("read");
                    prop_assert!(sent.insert(index), "chunk {} was wanted twice", index);
                    receive.write(index, &bytes).expect("taken");
                }
                if receive.want().is_empty() {
                    prop_assert_eq!(receive.finish().expect("whole"), id);
                }
            }
            let two = open(&at("two"));
            two.restore(&id, &at("out"), Restore::default()).expect("restored");
            prop_assert_eq!(&look(&at("out")), &before);
            prop_assert_eq!(two.seal(&at("out")).expect("sealed").id, id);
            fs::remove_dir_all(at("out")).expect("removed");
            // The second tree may be the first once more.
            if !near.contains(&id) {
                near.push(id);
            }
        }
        let two = open(&at("two"));
        for id in near {
            two.verify(&id).expect("good");
            two.remove(&id).expect("removed");
        }
        prop_assert_eq!(contents(&at("two")).len(), 0);
    }
}
