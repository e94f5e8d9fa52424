//! Tests of what arrives: pieces as a coordinator sends them, into a store.
use std::fs;

use super::*;

struct Sent {
    _root: tempfile::TempDir,
    from: CheckpointStore,
    to: CheckpointStore,
    id: BlobId,
}

/// A store that holds a checkpoint of more than two chunks, and one that is to have it.
fn sent() -> Sent {
    let root = tempfile::tempdir().expect("a directory");
    let source = root.path().join("source");
    fs::create_dir(&source).expect("new");
    let mut bytes = Vec::new();
    let mut hash = blake3::Hasher::new().finalize_xof();
    bytes.resize(9 << 20, 0);
    hash.fill(&mut bytes);
    fs::write(source.join("weights"), &bytes).expect("written");
    let from = open(&root.path().join("from")).expect("a store");
    let to = open(&root.path().join("to")).expect("a store");
    let id = from.seal(&source).expect("sealed").id;
    Sent {
        _root: root,
        from,
        to,
        id,
    }
}

fn piece(chunk: u32, manifest: bool, data: &[u8], last: bool) -> PartPiece {
    PartPiece {
        chunk,
        manifest,
        data: data.to_vec(),
        last,
    }
}

impl Sent {
    fn manifest(&self) -> Vec<u8> {
        self.from.manifest_bytes(&self.id).expect("held")
    }

    fn chunk(&self, index: u32) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut reader = self.from.reader(&self.id).expect("held");
        reader.read(index, &mut bytes).expect("read");
        bytes
    }
}

#[test]
fn a_part_arrives_piece_by_piece_and_goes_on_after_a_break() {
    let sent = sent();
    let mut arriving = Arriving::new(sent.id);
    let manifest = sent.manifest();
    let (one, two) = manifest.split_at(manifest.len() / 2);
    let to = &sent.to;
    arriving
        .take(to, PartPiece::default())
        .expect("it is being fetched");
    arriving
        .take(to, piece(0, true, one, false))
        .expect("taken");
    arriving.take(to, piece(0, true, two, true)).expect("taken");
    let bytes = sent.chunk(0);
    for (at, data) in bytes.chunks(1 << 20).enumerate() {
        let last = (at + 1) << 20 >= bytes.len();
        arriving
            .take(to, piece(0, false, data, last))
            .expect("taken");
    }
    arriving
        .receive
        .as_ref()
        .expect("begun")
        .persist()
        .expect("noted");
    assert!(matches!(
        arriving.finish(),
        Err(CheckpointError::Incomplete { .. })
    ));

    assert!(to.incoming().contains(&sent.id));
    let mut arriving = Arriving::new(sent.id);
    arriving.receive = to.mend(&sent.id, &[]).expect("readable");
    let want = arriving.receive.as_ref().expect("not whole").want();
    assert!(
        !want.get(0) && !want.is_empty(),
        "what came does not come again"
    );
    for index in want.iter() {
        arriving
            .take(to, piece(index, false, &sent.chunk(index), true))
            .expect("taken");
    }
    arriving.finish().expect("whole");
    assert!(to.is_held(&sent.id));
    to.verify(&sent.id).expect("the same bytes");
}

#[test]
fn what_is_wrong_is_not_taken() {
    let sent = sent();
    let (to, manifest) = (&sent.to, sent.manifest());
    assert!(
        Arriving::new(sent.id)
            .take(to, piece(0, true, b"something else", true))
            .is_err()
    );
    assert!(
        Arriving::new(sent.id)
            .take(to, piece(0, false, &manifest, true))
            .is_err()
    );
    let mut arriving = Arriving::new(sent.id);
    arriving
        .take(to, piece(0, true, &manifest, true))
        .expect("taken");
    assert!(
        arriving.take(to, piece(0, true, &manifest, true)).is_err(),
        "twice"
    );
    let mut wrong = sent.chunk(0);
    wrong[5] ^= 1;
    assert!(arriving.take(to, piece(0, false, &wrong, true)).is_err());
    assert!(
        arriving
            .take(to, piece(1, false, &sent.chunk(0), true))
            .is_err()
    );
    assert!(
        arriving
            .take(to, piece(9_999, false, &sent.chunk(0), true))
            .is_err()
    );
    for _ in 0..4 {
        arriving
            .take(to, piece(0, false, &[0; 1 << 20], false))
            .expect("as long as a chunk");
    }
    assert!(
        arriving.take(to, piece(0, false, &[0], false)).is_err(),
        "longer"
    );
    assert!(arriving.finish().is_err());
    assert!(!to.is_held(&sent.id));
}

#[test]
fn only_what_was_sealed_can_be_fetched_and_only_to_where_nothing_is() {
    let part = |index, manifest: &str, holders: &[&str]| CheckpointPart {
        index,
        manifest: manifest.into(),
        holders: holders.iter().map(|&name| name.to_owned()).collect(),
        ..CheckpointPart::default()
    };
    let with = |parts: Vec<CheckpointPart>| Checkpoint {
        name: "step-1".into(),
        parts,
        ..Checkpoint::default()
    };
    let good = with(vec![part(0, "ab", &["n1"]), part(1, "", &[])]);
    assert_eq!(portable(&good, "4").expect("sealed").len(), 1);
    for bad in [
        with(vec![]),
        with(vec![part(0, "ab", &["n1"]), part(1, "", &["n2"])]),
    ] {
        assert!(
            portable(&bad, "4")
                .expect_err("not")
                .to_string()
                .contains("copy it from there")
        );
    }
    let shared = Checkpoint {
        durability: "shared".into(),
        ..with(vec![part(0, "", &["n1"])])
    };
    let why = portable(&shared, "4").expect_err("not").to_string();
    assert!(why.contains("every node sees"), "{why}");
    let root = tempfile::tempdir().expect("a directory");
    let dest = target(Some(&root.path().join("new")), "step-1").expect("free");
    assert_eq!(beside(&dest, "4", &good), beside(&dest, "4", &good));
    assert_ne!(beside(&dest, "5", &good), beside(&dest, "4", &good));
    assert_eq!(beside(&dest, "4", &good).parent(), dest.parent());
    for there in [
        root.path().to_owned(),
        root.path().join("no/parent"),
        PathBuf::from(".."),
    ] {
        target(Some(&there), "step-1").expect_err("refused");
    }
}

#[test]
fn progress_is_a_line() {
    let second = Duration::from_secs(1);
    assert_eq!(
        line("step-1", (1 << 30, 4 << 30), (110 << 20, second)),
        "step-1  1.0 GiB of 4.0 GiB  25 %  110.0 MiB/s"
    );
    assert!(line("step-1", (0, 4), (0, second)).ends_with("a coordinator fetches it"));
    assert!(line("x", (9, 4), (1, Duration::ZERO)).contains("4 B of 4 B  100 %"));
    assert!(line("x", (0, 0), (1, second)).contains("100 %"));
}
