//! The bytes of a manifest: they come back, in one spelling only, and nothing an enemy writes gets through or costs much.
use proptest::prelude::*;

use super::super::limits::CHUNKS_MAX;
use super::*;

fn entry(path: &str, kind: Kind) -> Entry {
    let path = path.to_owned();
    Entry { path, kind }
}

fn file(path: &str, size: u64) -> Entry {
    entry(path, Kind::File { mode: 0o644, size })
}

fn directory(path: &str) -> Entry {
    entry(path, Kind::Directory { mode: 0o755 })
}

fn chunk(number: u64) -> BlobId {
    BlobId::of(&number.to_le_bytes())
}

fn sample() -> Manifest {
    let link = Kind::Link {
        target: "d/big".into(),
    };
    let entries = vec![
        file("a", 100),
        directory("d"),
        file("d/big", 5 * CHUNK_BYTES + 1),
        entry("d/same", Kind::Same { entry: 2 }),
        file("d/small", 65_536),
        file("empty", 0),
        entry("last", link),
        file("z", 70_000),
    ];
    let big = vec![chunk(1), HOLE, HOLE, chunk(2), chunk(3), HOLE];
    let chunks = vec![big, vec![chunk(4)], vec![chunk(5)]];
    Manifest::new(0o750, entries, chunks).expect("sound")
}

fn refused(bytes: &[u8]) -> String {
    Manifest::decode(bytes).expect_err("refused").to_string()
}

#[test]
fn the_format_does_not_change_by_accident() {
    let id = BlobId::of(&sample().encode().expect("small")).to_string();
    assert_eq!(
        id,
        "0ea317077d6563faa5a24c6e1c1b40e44e64ee1f08283440629f22bb2aa51a85"
    );
    let content = sample().contents()[0].id.to_string();
    assert_eq!(
        content,
        "4612d08c7f800e18505f73f7a26219c94f239d58dbdedd7a2850bff146c9783d"
    );
}

#[test]
fn a_manifest_knows_its_chunks() {
    let manifest = sample();
    assert_eq!(
        (manifest.chunks(), manifest.bytes()),
        (8, 5 * CHUNK_BYTES + 1 + 70_000 + 65_636)
    );
    let places: Vec<_> = (0..9).map(|number| manifest.chunk(number)).collect();
    assert_eq!(
        places[5..],
        [Some((0, 5)), Some((1, 0)), Some((2, 0)), None]
    );
    assert_eq!(manifest.contents()[0].span(5), (5 * CHUNK_BYTES, 1));
    assert_eq!(manifest.contents()[0].data_bytes(), 3 * CHUNK_BYTES);
    assert_eq!(manifest.pack().map(|pack| pack.size), Some(65_636));
    assert_eq!((manifest.path_of(1), manifest.path_of(2)), ("z", ""));
}

#[test]
fn cut_or_longer_bytes_are_refused() {
    let bytes = sample().encode().expect("small");
    assert_eq!(Manifest::decode(&bytes).expect("ours"), sample());
    for cut in 0..bytes.len() {
        assert!(refused(&bytes[..cut]).contains("too early"), "{cut}");
    }
    assert!(refused(&[&bytes[..], b"x"].concat()).contains("follow its end"));
    let mut other = bytes.clone();
    other[6] = 2;
    assert!(refused(&other).contains("version"));
}

#[test]
fn unsound_entries_are_refused() {
    let link = |path: &str, target: &str| {
        let target = target.to_owned();
        entry(path, Kind::Link { target })
    };
    let mode = |mode| entry("a", Kind::Directory { mode });
    for (entries, why) in [
        (vec![file("../a", 0)], "absolute or has"),
        (vec![file("b", 0), file("a", 0)], "out of order"),
        (vec![file("a", 0), file("a", 0)], "twice"),
        (vec![file("a", 0), directory("a")], "twice"),
        (vec![file("a", 0), file("a/b", 0)], "not lie in a directory"),
        (
            vec![link("a", "b"), file("a/b", 0)],
            "not lie in a directory",
        ),
        (vec![file("a/b", 0)], "not lie in a directory"),
        (
            vec![directory("a"), directory("a.b"), file("a/c/d", 0)],
            "not lie in a directory",
        ),
        (vec![link("a", "/etc")], "absolute"),
        (vec![link("a", "../b")], "leaves"),
        (vec![mode(0o4755)], "nine"),
        (vec![mode(0o100_644)], "nine"),
        (vec![entry("a", Kind::Same { entry: 0 })], "no earlier file"),
        (
            vec![directory("a"), entry("b", Kind::Same { entry: 0 })],
            "no earlier file",
        ),
        (
            vec![entry("a", Kind::Same { entry: 1 }), file("b", 0)],
            "no earlier file",
        ),
        (vec![file("a", CHUNKS_MAX * CHUNK_BYTES + 1)], "16 TiB"),
        (vec![file("a", u64::MAX)], "16 TiB"),
        (vec![file("a", u64::MAX), file("b", u64::MAX)], "16 TiB"),
        (vec![file("a", 100)], "lacks contents"),
    ] {
        let error = Manifest::new(0o755, entries, vec![])
            .expect_err(why)
            .to_string();
        assert!(error.contains(why), "{error}");
    }
    assert!(Manifest::new(0o1755, vec![], vec![]).is_err());
    assert!(Manifest::new(0o755, vec![], vec![vec![]]).is_err());
    assert!(Manifest::new(0o755, vec![file("a", 100)], vec![vec![]]).is_err());
}

/// A manifest with one file of 3 chunks, spelt by hand.
fn spelt(entries: u32, runs: &[u32]) -> Vec<u8> {
    let manifest = Manifest::new(0o755, vec![file("a", 3 * CHUNK_BYTES)], vec![vec![HOLE; 3]]);
    let mut bytes = manifest.expect("sound").encode().expect("small");
    bytes.truncate(bytes.len() - 4);
    bytes[10..14].copy_from_slice(&entries.to_le_bytes());
    for run in runs {
        bytes.extend_from_slice(&run.to_le_bytes());
        for number in 0..(run & !HOLES).min(9) {
            if run & HOLES == 0 {
                bytes.extend_from_slice(chunk(number.into()).as_bytes());
            }
        }
    }
    bytes
}

#[test]
fn there_is_one_spelling() {
    for runs in [&[3u32] as &[u32], &[3 | HOLES], &[1, 1 | HOLES, 1]] {
        assert!(Manifest::decode(&spelt(1, runs)).is_ok(), "{runs:?}");
    }
    for runs in [
        &[1u32, 2] as &[u32],
        &[1 | HOLES, 2 | HOLES],
        &[0, 3],
        &[HOLES, 3],
        &[4],
        &[4 | HOLES],
        &[u32::MAX],
        &[2, 2 | HOLES],
    ] {
        assert!(
            refused(&spelt(1, runs)).contains("run of chunks"),
            "{runs:?}"
        );
    }
    let mut zero = spelt(1, &[3]);
    let length = zero.len();
    zero[length - 32..].fill(0);
    assert!(refused(&zero).contains("hole is written as data"));
    assert!(refused(&spelt(u32::MAX, &[])).contains("more than"));
    assert!(refused(&spelt(1_000_000, &[3])).contains("is not readable"));
}

proptest! {
    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(Manifest::decode(&bytes).is_err());
    }

    #[test]
    fn what_is_read_is_written_the_same(at in 6..400_usize, to in any::<u8>(), cut in 0..400_usize) {
        let mut bytes = sample().encode().expect("small");
        let length = bytes.len();
        bytes[at % length] = to;
        if cut % 5 == 0 {
            bytes.drain(cut % length..(cut % length + 4).min(length));
        }
        if let Ok(manifest) = Manifest::decode(&bytes) {
            prop_assert_eq!(manifest.encode().expect("small"), bytes);
        }
    }
}
