//! Peers with a good certificate that send wrong bytes, say that they hold what they do not, or do not keep to the protocol: nothing wrong is
//! ever held, honest ones are not held up, and the node goes on serving. Does NOT break TLS: what is changed on the wire does not get past it.
#![cfg(target_os = "linux")]
mod common;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::net::*;
use common::*;
use mlctl_blobs::BlobId;
use mlctl_blobs::checkpoint::CheckpointStore;
use mlctl_blobs::transfer::protocol::{Frame, HELLO_BYTES, Refusal, hello};
use mlctl_blobs::transfer::{Pull, Pulled, Push, Server, TransferError};

/// What a false holder does.
#[derive(Clone, Copy, Debug)]
enum Lie {
    FlippedByte,
    AnotherChunk,
    AnotherLength,
    AnotherNumber,
    Nothing,
    NotThere,
    Garbage,
    AnotherManifest,
    HugeManifest,
    NotAsked,
}

const LIES: [Lie; 10] = [
    Lie::FlippedByte,
    Lie::AnotherChunk,
    Lie::AnotherLength,
    Lie::AnotherNumber,
    Lie::Nothing,
    Lie::NotThere,
    Lie::Garbage,
    Lie::AnotherManifest,
    Lie::HugeManifest,
    Lie::NotAsked,
];

const BYTES: u64 = 32 << 20;

fn place() -> Pair {
    pair(BYTES, &["a", "b", "c"])
}

/// A holder that lies.
async fn liar(pki: &Path, name: &str, store: CheckpointStore, id: BlobId, lie: Lie) -> SocketAddr {
    Raw::serve(pki, name, move |mut raw| {
        let store = store.clone();
        async move {
            raw.bytes(HELLO_BYTES).await;
            raw.hear().await;
            raw.say(&Frame::Opened).await;
            if matches!(lie, Lie::NotAsked) {
                raw.say(&Frame::Held { id }).await;
            }
            while let Some(frame) = raw.hear().await {
                let mut bytes = Vec::new();
                match frame {
                    Frame::Get => give_manifest(&mut raw, &store, id, lie).await,
                    Frame::Fetch { index } => {
                        store
                            .reader(&id)
                            .expect("held")
                            .read(index, &mut bytes)
                            .expect("read");
                        give_chunk(&mut raw, index, bytes, lie).await;
                    }
                    _ => return,
                }
            }
        }
    })
    .await
}

async fn give_manifest(raw: &mut Raw, store: &CheckpointStore, id: BlobId, lie: Lie) {
    let mut manifest = store.manifest_bytes(&id).expect("held");
    if matches!(lie, Lie::HugeManifest) {
        // A frame that announces more than anybody may send.
        return raw.put(&[5, 0, 0, 0, 9, 0xff, 0xff, 0xff, 0xff]).await;
    }
    if matches!(lie, Lie::AnotherManifest) {
        manifest[20] ^= 1;
    }
    let bytes = manifest.len() as u32;
    raw.say(&Frame::Manifest { bytes }).await;
    raw.put(&manifest).await;
}

async fn give_chunk(raw: &mut Raw, mut index: u32, mut bytes: Vec<u8>, lie: Lie) {
    match lie {
        Lie::FlippedByte => bytes[12_345] ^= 1,
        Lie::AnotherChunk => bytes.reverse(),
        Lie::AnotherLength => bytes.truncate(9),
        Lie::AnotherNumber => index += 1,
        Lie::Nothing => std::future::pending().await,
        Lie::NotThere => return raw.say(&Frame::Lack { index }).await,
        Lie::Garbage => return raw.put(&noise(3, 5_000)).await,
        _ => {}
    }
    let length = bytes.len() as u32;
    raw.say(&Frame::Chunk {
        index,
        bytes: length,
    })
    .await;
    raw.put(&bytes).await;
}

fn pull(id: BlobId) -> Pull {
    Pull {
        id,
        near: Vec::new(),
        urgent: false,
    }
}

async fn pull_with(lie: Lie, honest: bool) -> (Pair, Result<Pulled, TransferError>) {
    let place = place();
    let address = liar(&place.pki, "c", place.a.clone(), place.id, lie).await;
    let mut holders = vec![peer("c", address)];
    // As slow to reach as the liar is: both over TCP.
    let server: Server = node(&place.pki, "a", &place.a)
        .serve(here(), false)
        .await
        .expect("serves");
    if honest {
        holders.push(peer("a", server.address()));
    }
    let pulled = node(&place.pki, "b", &place.b)
        .pull(&holders, &pull(place.id))
        .await;
    (place, pulled)
}

#[tokio::test(flavor = "multi_thread")]
async fn with_an_honest_holder_beside_it_no_lie_does_harm() {
    for lie in LIES {
        let begun = Instant::now();
        let (place, pulled) = pull_with(lie, true).await;
        let pulled = pulled.unwrap_or_else(|error| panic!("{lie:?}: {error}"));
        place.b.verify(&place.id).expect("whole");
        assert!(begun.elapsed() < Duration::from_secs(15), "{lie:?}");
        let [liar, honest] = &pulled.sources[..] else {
            panic!("{pulled:?}");
        };
        assert!(honest.dropped.is_none(), "{lie:?}: {pulled:?}");
        assert_eq!(liar.bytes + honest.bytes, BYTES, "{lie:?}: {pulled:?}");
        println!("{lie:?}: {pulled:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn alone_a_liar_is_found_out_and_nothing_is_held() {
    for lie in LIES {
        // One that says nothing is waited for, and only that.
        if matches!(lie, Lie::Nothing) {
            continue;
        }
        let (place, pulled) = pull_with(lie, false).await;
        let Err(TransferError::NoHolder { why, .. }) = pulled else {
            panic!("{lie:?}: {pulled:?}");
        };
        assert!(place.b.held().is_empty(), "{lie:?}");
        let expected = match lie {
            Lie::FlippedByte | Lie::AnotherChunk => "is something else than what was asked for",
            Lie::AnotherLength => "not the length",
            Lie::AnotherNumber | Lie::NotAsked => "no place here",
            Lie::NotThere => "lacks a chunk that it said it has",
            Lie::Garbage => "a frame",
            Lie::AnotherManifest => "not the one that was asked for",
            Lie::HugeManifest => "more bytes are announced",
            Lie::Nothing => unreachable!("left out above"),
        };
        assert!(why.contains(expected), "{lie:?}: {why}");
        // What it brought that was right stays, and an honest one brings the rest.
        let server = node(&place.pki, "a", &place.a)
            .serve(here(), true)
            .await
            .expect("serves");
        let again = node(&place.pki, "b", &place.b);
        again
            .pull(&[peer("a", server.address())], &pull(place.id))
            .await
            .expect("pulled");
        place.b.verify(&place.id).expect("whole");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sender_that_sends_wrong_chunks_is_refused() {
    let place = place();
    let receiver = node(&place.pki, "b", &place.b);
    let server = receiver.serve(here(), true).await.expect("serves");
    let mut control = Raw::dial(&place.pki, "c", server.address()).await;
    let manifest = place.a.manifest_bytes(&place.id).expect("held");
    control.put(&hello()).await;
    control.say(&offer(place.id, manifest.len())).await;
    assert_eq!(control.hear_news().await, Some(Frame::Go));
    control.put(&manifest).await;
    let Some(Frame::Want { token, chunks, .. }) = control.hear_news().await else {
        panic!("nothing wanted");
    };
    assert_eq!(chunks, 8);
    // Somebody else may not join in, whatever the number.
    let mut other = Raw::dial(&place.pki, "a", server.address()).await;
    other.put(&hello()).await;
    other.say(&Frame::Join { token }).await;
    assert_eq!(refusal(other.hear_news().await), Refusal::NotAllowed);
    let mut lane = Raw::dial(&place.pki, "c", server.address()).await;
    lane.put(&hello()).await;
    lane.say(&Frame::Join { token }).await;
    let Some(Frame::Fetch { index }) = lane.hear().await else {
        panic!("nothing asked for");
    };
    // A second lane is more than was admitted.
    let mut second = Raw::dial(&place.pki, "c", server.address()).await;
    second.put(&hello()).await;
    second.say(&Frame::Join { token }).await;
    assert_eq!(refusal(second.hear_news().await), Refusal::NotAllowed);
    let bytes = noise(99, 4 * MIB);
    let length = bytes.len() as u32;
    lane.say(&Frame::Chunk {
        index,
        bytes: length,
    })
    .await;
    lane.put(&bytes).await;
    assert_eq!(refusal(control.hear_news().await), Refusal::WrongChunk);
    assert!(place.b.held().is_empty());
    assert_eq!(receiver.totals().chunks_wrong, 1);
    let push = Push {
        id: place.id,
        near: Vec::new(),
        urgent: false,
        pacer: None,
    };
    let honest = node(&place.pki, "a", &place.a);
    let pushed = honest
        .push(&peer("b", server.address()), &push)
        .await
        .expect("pushed");
    assert_eq!(pushed.sent_bytes, BYTES);
    place.b.verify(&place.id).expect("whole");
}

fn offer(id: BlobId, manifest_bytes: usize) -> Frame {
    Frame::Offer {
        id,
        manifest_bytes: manifest_bytes as u32,
        near: Vec::new(),
    }
}

fn refusal(frame: Option<Frame>) -> Refusal {
    match frame {
        Some(Frame::Refused { why, .. }) => why,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_control_streams_do_no_harm() {
    let place = place();
    let server = node(&place.pki, "b", &place.b)
        .serve(here(), true)
        .await
        .expect("serves");
    let dial = || Raw::dial(&place.pki, "c", server.address());
    // Another version is told so.
    let mut newer = dial().await;
    let mut greeting = hello();
    greeting[6] += 1;
    newer.put(&greeting).await;
    assert_eq!(refusal(newer.hear_news().await), Refusal::Version);
    // Anything else is hung up on, at whatever point.
    let good = offer(place.id, 1 << 20).encode();
    for seed in 0..40 {
        let mut raw = dial().await;
        raw.put(&hello()).await;
        match seed % 4 {
            0 => raw.put(&noise(seed, 600)).await,
            1 => raw.put(&[0xff; 100]).await,
            2 => {
                let mut bytes = good.clone();
                let at = 4 + seed as usize % (bytes.len() - 4);
                bytes.truncate(at);
                raw.put(&bytes).await;
                continue;
            }
            _ => raw.say(&Frame::Still { chunks: 1 }).await,
        }
        assert_eq!(raw.hear_news().await, None, "{seed}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn false_manifests_and_senders_that_hang_up_do_no_harm() {
    let place = place();
    let server = node(&place.pki, "b", &place.b)
        .serve(here(), true)
        .await
        .expect("serves");
    let dial = || Raw::dial(&place.pki, "c", server.address());
    // A manifest that is not the offered one, and one that is but is none.
    let garbage = noise(5, 1_000);
    for id in [place.id, BlobId::of(&garbage)] {
        let mut raw = dial().await;
        raw.put(&hello()).await;
        raw.say(&offer(id, garbage.len())).await;
        assert_eq!(raw.hear_news().await, Some(Frame::Go));
        raw.put(&garbage).await;
        assert_eq!(refusal(raw.hear_news().await), Refusal::BadManifest);
    }
    // One that hangs up after it was told what is wanted.
    let manifest = place.a.manifest_bytes(&place.id).expect("held");
    let mut raw = dial().await;
    raw.put(&hello()).await;
    raw.say(&offer(place.id, manifest.len())).await;
    assert_eq!(raw.hear_news().await, Some(Frame::Go));
    raw.put(&manifest).await;
    assert!(matches!(raw.hear_news().await, Some(Frame::Want { .. })));
    drop(raw);
    // After all that it serves as before.
    tokio::time::sleep(Duration::from_millis(200)).await;
    let push = Push {
        id: place.id,
        near: Vec::new(),
        urgent: false,
        pacer: None,
    };
    let honest = node_at(
        &place.pki,
        "a",
        &place.a,
        mlctl_blobs::transfer::Rate::Unlimited,
        Arc::new(Open),
    );
    honest
        .push(&peer("b", server.address()), &push)
        .await
        .expect("pushed");
    place.b.verify(&place.id).expect("whole");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_is_said_at_once() {
    let place = place();
    let holder = node(&place.pki, "a", &place.a)
        .serve(here(), true)
        .await
        .expect("serves");
    let mut raw = Raw::dial(&place.pki, "c", holder.address()).await;
    raw.put(&hello()).await;
    let open = |id| Frame::Open { id, urgent: true };
    raw.say(&open(place.id)).await;
    assert_eq!(raw.hear().await, Some(Frame::Opened));
    raw.say(&Frame::Fetch { index: u32::MAX }).await;
    assert_eq!(raw.hear().await, Some(Frame::Lack { index: u32::MAX }));
    let mut raw = Raw::dial(&place.pki, "c", holder.address()).await;
    raw.put(&hello()).await;
    raw.say(&open(BlobId::of(b"nobody has it"))).await;
    assert_eq!(refusal(raw.hear().await), Refusal::NotHeld);
}
