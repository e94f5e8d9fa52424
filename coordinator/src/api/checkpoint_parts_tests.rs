//! Tests of a part on its way from a node through a coordinator, over real sockets.
use std::path::Path;

use mlctl_blobs::checkpoint::{CheckpointStore, Options as StoreOptions};
use mlctl_blobs::transfer::{Authority, Node, Options, Pacer, Rate, Server, Tls};
use mlctl_runtime::identity::{Bundle, Ca};
use mlctl_runtime::tls::{COORDINATOR, NodeTls, install_crypto};

use super::*;
use crate::downloads::Downloads;
use crate::state::commands::{Happening, PartOf, SealedPart};
use crate::state::testing::{Cluster, person as actor};

/// Lets coordinators read and nobody else.
struct Coordinators;

impl Authority for Coordinators {
    fn may_send(&self, _: &str, _: &BlobId) -> bool {
        false
    }

    fn may_read(&self, node: &str, _: &BlobId) -> bool {
        node.starts_with(COORDINATOR)
    }
}

fn tls(of: NodeTls) -> Tls {
    let known = of.clone();
    let identify = Arc::new(move |certificate: &[u8]| known.node_of(certificate));
    Tls::new(&of.client, &of.server, &of.server_name, identify).expect("fits")
}

fn store(dir: &Path) -> CheckpointStore {
    let options = StoreOptions {
        limit_bytes: 1 << 30,
        threads: 1,
    };
    CheckpointStore::open(dir, options).expect("a store")
}

/// A node that holds a checkpoint, and a coordinator that may have it.
struct Place {
    root: tempfile::TempDir,
    _server: Server,
    peer: Peer,
    source: CheckpointStore,
    id: BlobId,
    coordinator: Bundle,
}

async fn place() -> Place {
    install_crypto();
    let root = tempfile::tempdir().expect("a directory");
    let ca = Ca::create(&root.path().join("ca"), "test").expect("made");
    let made = root.path().join("step-5");
    std::fs::create_dir(&made).expect("new");
    // A chunk that comes twice, a hole, and one that is short.
    let mut bytes = vec![7; 8 << 20];
    bytes.resize(12 << 20, 0);
    bytes.extend_from_slice(b"the end");
    std::fs::write(made.join("weights"), &bytes).expect("written");
    std::fs::write(made.join("meta"), b"{}").expect("written");
    let source = store(&root.path().join("copies"));
    let id = source.seal(&made).expect("sealed").id;
    let node = tls(NodeTls::new(&ca.issue_node("n1").expect("issued")).expect("a node's"));
    let pacer = Pacer::new(Rate::Unlimited);
    let node = Node::new(
        source.clone(),
        node,
        Arc::new(Coordinators),
        pacer,
        Options::default(),
    );
    let here = "127.0.0.1:0".parse().expect("an address");
    let server = node.serve(here, true).await.expect("served");
    Place {
        peer: Peer {
            node: "n1".into(),
            address: server.address(),
        },
        _server: server,
        coordinator: ca.issue_coordinator("c1").expect("issued"),
        root,
        source,
        id,
    }
}

impl Place {
    fn downloads(&self) -> Downloads {
        let reader = NodeTls::reader(&self.coordinator).expect("a coordinator's");
        Downloads::new(self.root.path().join("downloads"), tls(reader))
    }

    /// What a person gets who wants these.
    async fn gets(&self, downloads: &Downloads, want: Vec<u8>) -> Result<Vec<PartPiece>, Status> {
        let fetched = downloads
            .fetch(self.id, std::slice::from_ref(&self.peer))
            .await;
        let fetched = fetched.expect("fetched");
        let (pieces, mut answers) = mpsc::channel(PIECES);
        let given = tokio::task::spawn_blocking(move || give(&fetched, &want, &pieces));
        let mut got = Vec::new();
        while let Some(piece) = answers.recv().await {
            got.push(piece?);
        }
        given.await.expect("ran").map(|()| got)
    }
}

/// Joins pieces to what they are pieces of.
fn joined(pieces: Vec<PartPiece>) -> Vec<(bool, u32, Vec<u8>)> {
    let mut all: Vec<(bool, u32, Vec<u8>)> = Vec::new();
    let mut bytes = Vec::new();
    for piece in pieces {
        assert!(piece.data.len() <= PIECE_BYTES);
        bytes.extend(piece.data);
        if piece.last {
            all.push((piece.manifest, piece.chunk, std::mem::take(&mut bytes)));
        }
    }
    assert!(bytes.is_empty(), "the last piece is the last");
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_comes_from_its_node_and_leaves_nothing() {
    let place = place().await;
    let downloads = place.downloads();
    let got = joined(place.gets(&downloads, Vec::new()).await.expect("given"));
    let to = store(&place.root.path().join("mine"));
    assert!(got[0].0, "the manifest comes first");
    let receive = to.receive(&got[0].2, &[]).expect("sound").expect("new");
    let wanted: Vec<u32> = receive.want().iter().collect();
    let came: Vec<u32> = got[1..].iter().map(|one| one.1).collect();
    assert_eq!(came, wanted, "each chunk once, and no hole");
    for (_, chunk, bytes) in &got[1..] {
        receive.write(*chunk, bytes).expect("what it should be");
    }
    assert_eq!(receive.finish().expect("whole"), place.id);

    // Only what is wanted, when it goes on.
    let last = *wanted.last().expect("some");
    let chunks = place.source.manifest(&place.id).expect("held").chunks();
    let mut want = Bits::new(chunks);
    want.set(last, true);
    let got = joined(
        place
            .gets(&downloads, want.as_bytes().to_vec())
            .await
            .expect("given"),
    );
    assert_eq!(
        got.iter().map(|one| (one.0, one.1)).collect::<Vec<_>>(),
        [(false, last)]
    );

    let refused = place
        .gets(&downloads, vec![1; 9])
        .await
        .expect_err("not its chunks");
    assert_eq!(Refusal::from(&refused).code, Code::BadRequest);
    assert_eq!(bytes_below(&place.root.path().join("downloads")), 0);
}

/// Bytes of contents and manifests.
fn bytes_below(dir: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(dir) else {
        return 0;
    };
    let entries = entries.map(|entry| entry.expect("readable"));
    let bytes = entries.map(|entry| match entry.metadata().expect("readable") {
        facts if facts.is_dir() => bytes_below(&entry.path()),
        facts => facts.len(),
    });
    bytes.sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_holder_gives_is_an_error_and_leaves_nothing() {
    let place = place().await;
    let downloads = place.downloads();
    let other = BlobId::of(b"never sealed");
    let refused = downloads
        .fetch(other, std::slice::from_ref(&place.peer))
        .await;
    assert!(refused.is_err());
    let stranger = Peer {
        node: "n2".into(),
        ..place.peer.clone()
    };
    assert!(
        downloads.fetch(place.id, &[stranger]).await.is_err(),
        "n1 answers there"
    );
    let held = downloads
        .fetch(place.id, std::slice::from_ref(&place.peer))
        .await;
    assert_eq!(held.expect("fetched").id(), place.id);
}

#[test]
fn bytes_are_for_owners_and_admins() {
    let mut cluster = Cluster::new();
    cluster.gpu_node("a", 1);
    let job = cluster.submitted("ann", 1, 1);
    let epoch = cluster.started(job, &["a"]);
    let sealed = SealedPart {
        name: "step-1".into(),
        step: 1,
        part: Some(PartOf {
            index: 0,
            manifest: Some([1; 32]),
            bytes: 7,
        }),
        parts: 1,
        metric: None,
        save_ms: 0,
    };
    cluster.event("a", job, epoch, Happening::CheckpointSealed(sealed));
    let asked = |name: &str, admin, request: &GetPartRequest| {
        let person = Person {
            actor: actor(name, admin),
            forwarded: false,
            source: "test".into(),
        };
        let wanted = wanted(&cluster.state, &person, job, &request.into());
        wanted.map(|wanted| (wanted.bytes, wanted.holders))
    };
    let request = GetPartRequest {
        job: job.to_string(),
        attempt: 1,
        name: "step-1".into(),
        index: 0,
        manifest: "01".repeat(32),
        want: Vec::new(),
    };
    let good = Ok((7, vec!["a".to_owned()]));
    assert_eq!(asked("ann", false, &request), good);
    assert_eq!(asked("root", true, &request), good);
    let code = |outcome: Result<_, Refusal>| outcome.expect_err("refused").code;
    assert_eq!(code(asked("bob", false, &request)), Code::Denied);
    for wrong in [
        GetPartRequest {
            attempt: 2,
            ..request.clone()
        },
        GetPartRequest {
            index: 1,
            ..request.clone()
        },
        GetPartRequest {
            name: "../x\x1b".into(),
            ..request.clone()
        },
        GetPartRequest {
            manifest: "02".repeat(32),
            ..request.clone()
        },
        GetPartRequest {
            manifest: String::new(),
            ..request.clone()
        },
    ] {
        assert_eq!(code(asked("ann", false, &wrong)), Code::NotFound);
    }
}
