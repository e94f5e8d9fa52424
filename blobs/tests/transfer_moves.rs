//! Checkpoints between nodes on this machine, over real sockets: byte for byte, only what is lacking, only to whom it may go, by the way that
//! works. Does NOT kill or lie: `transfer_kills` and `transfer_liars` do.
#![cfg(target_os = "linux")]
mod common;

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::net::*;
use common::*;
use mlctl_blobs::BlobId;
use mlctl_blobs::checkpoint::{CheckpointError, CheckpointStore, Restore};
use mlctl_blobs::transfer::protocol::Refusal;
use mlctl_blobs::transfer::{Authority, Pacer, Pull, Push, Pushed, Rate, TransferError, Way};

fn push(id: BlobId) -> Push {
    let near = Vec::new();
    let (urgent, pacer) = (false, None);
    Push {
        id,
        near,
        urgent,
        pacer,
    }
}

fn pull(id: BlobId) -> Pull {
    let near = Vec::new();
    let urgent = true;
    Pull { id, near, urgent }
}

/// A directory with certificates and a store for each of `a` to `d`.
struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let dir = scratch();
        make_pki(&dir.path().join("pki"), &["a", "b", "c", "d"]);
        Self { dir }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn pki(&self) -> std::path::PathBuf {
        self.dir.path().join("pki")
    }

    fn store(&self, name: &str) -> CheckpointStore {
        open(&self.dir.path().join(name))
    }
}

fn same(place: &Place, store: &CheckpointStore, id: &BlobId, as_in: &Path) {
    let dest = place.path().join("restored");
    store.verify(id).expect("whole");
    store
        .restore(id, &dest, Restore::default())
        .expect("restored");
    assert_eq!(look(&dest), look(as_in));
    fs::remove_dir_all(dest).expect("removed");
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_arrives_byte_for_byte_and_once() {
    let place = Place::new();
    let (a, b) = (place.store("a"), place.store("b"));
    let source = place.path().join("source");
    write_everything(&source, 1);
    let id = a.seal(&source).expect("sealed").id;
    let (sender, receiver) = (node(&place.pki(), "a", &a), node(&place.pki(), "b", &b));
    let server = receiver.serve(here(), true).await.expect("serves");
    let to = peer("b", server.address());
    let pushed = sender.push(&to, &push(id)).await.expect("pushed");
    assert_eq!(pushed.way, Way::Quic);
    assert_eq!(pushed.sent_bytes, pushed.wanted_bytes);
    assert!(pushed.wanted_chunks >= 5, "{pushed:?}");
    same(&place, &b, &id, &source);
    let again = sender.push(&to, &push(id)).await.expect("held");
    assert_eq!((again.wanted_chunks, again.sent_bytes), (0, 0));
    assert_eq!(sender.totals().sent_bytes, receiver.totals().received_bytes);
}

/// Notes what came, and has no room for the first note.
#[derive(Default)]
struct Notes(std::sync::Mutex<Vec<(String, BlobId)>>);

impl Authority for Notes {
    fn may_send(&self, _: &str, _: &BlobId) -> bool {
        true
    }

    fn may_read(&self, _: &str, _: &BlobId) -> bool {
        true
    }

    fn received(&self, node: &str, id: &BlobId) -> Result<(), String> {
        let mut notes = self.0.lock().expect("sound");
        notes.push((node.to_owned(), *id));
        match notes.len() {
            1 => Err("there is no room for a note".to_owned()),
            _ => Ok(()),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_came_is_noted_before_it_is_acknowledged() {
    let pair = pair(MIB as u64, &["a", "b"]);
    let notes = Arc::new(Notes::default());
    let receiver = node_at(&pair.pki, "b", &pair.b, Rate::Unlimited, notes.clone());
    let server = receiver.serve(here(), true).await.expect("serves");
    let (sender, to) = (node(&pair.pki, "a", &pair.a), peer("b", server.address()));
    let refused = sender.push(&to, &push(pair.id)).await;
    let refused = refused.expect_err("not noted");
    assert!(
        matches!(&refused, TransferError::Refused { why: Refusal::Failed, text, .. } if text.contains("no room")),
        "{refused}"
    );
    assert!(pair.b.is_held(&pair.id), "nothing has to come again");
    let again = sender.push(&to, &push(pair.id)).await.expect("noted");
    assert_eq!(again.sent_bytes, 0);
    let noted = vec![("a".to_owned(), pair.id); 2];
    assert_eq!(*notes.0.lock().expect("sound"), noted);
    assert_eq!(receiver.taking(), 0);
}

/// Pushes what changed since a first checkpoint; `near` says whether the receiver is told of that one.
async fn changed(near: bool) -> Pushed {
    let place = Place::new();
    let (a, b) = (place.store("a"), place.store("b"));
    let source = place.path().join("source");
    for part in 0..10 {
        write(&source, &format!("part-{part}"), &noise(part, 8 * MIB));
    }
    let first = a.seal(&source).expect("sealed").id;
    let (sender, receiver) = (node(&place.pki(), "a", &a), node(&place.pki(), "b", &b));
    let server = receiver.serve(here(), true).await.expect("serves");
    let to = peer("b", server.address());
    sender.push(&to, &push(first)).await.expect("pushed");
    let next = place.path().join("next");
    for part in 0..10 {
        let mut bytes = noise(part, 8 * MIB);
        if part < 2 {
            // The second chunk of two files: a tenth of all.
            bytes[5 * MIB] ^= 1;
        }
        write(&next, &format!("part-{part}"), &bytes);
    }
    let second = a.seal(&next).expect("sealed").id;
    let mut what = push(second);
    if near {
        what.near = vec![first];
    }
    let pushed = sender.push(&to, &what).await.expect("pushed");
    same(&place, &b, &second, &next);
    pushed
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_tenth_that_changed_only_that_moves() {
    let pushed = changed(true).await;
    assert_eq!(pushed.wanted_chunks, 2);
    assert_eq!(pushed.sent_bytes, 8 << 20);
    // Untold, whole files are found, and chunks of changed ones are not looked for.
    let pushed = changed(false).await;
    assert_eq!(pushed.sent_bytes, 16 << 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn where_udp_does_not_get_through_tcp_is_taken() {
    let place = Place::new();
    let (a, b, c) = (place.store("a"), place.store("b"), place.store("c"));
    let source = place.path().join("source");
    write_everything(&source, 1);
    let id = a.seal(&source).expect("sealed").id;
    let (sender, receiver) = (node(&place.pki(), "a", &a), node(&place.pki(), "b", &b));
    let server = receiver.serve(here(), false).await.expect("serves");
    let pushed = sender.push(&peer("b", server.address()), &push(id)).await;
    let pushed = pushed.expect("pushed");
    assert_eq!(pushed.way, Way::Tcp);
    assert_eq!(pushed.sent_bytes, pushed.wanted_bytes);
    same(&place, &b, &id, &source);
    let third = node(&place.pki(), "c", &c);
    let pulled = third.pull(&[peer("b", server.address())], &pull(id)).await;
    assert_eq!(pulled.expect("pulled").sources[0].way, Some(Way::Tcp));
    same(&place, &c, &id, &source);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_takes_from_all_and_one_that_goes_away_loses_its_part() {
    let place = Place::new();
    let (a, b, c) = (place.store("a"), place.store("b"), place.store("c"));
    let source = place.path().join("source");
    for part in 0..6 {
        write(&source, &format!("part-{part}"), &noise(part, 24 * MIB));
    }
    let id = a.seal(&source).expect("sealed").id;
    pass(&a, &b, &id, &[]);
    let slow = |name, store| {
        node_at(
            &place.pki(),
            name,
            store,
            Rate::Fixed(40 << 20),
            Arc::new(Open),
        )
    };
    let first = slow("a", &a).serve(here(), true).await.expect("serves");
    let second = slow("b", &b).serve(here(), false).await.expect("serves");
    let holders = [peer("a", first.address()), peer("b", second.address())];
    let third = node(&place.pki(), "c", &c);
    let not_urgent = Pull {
        urgent: false,
        ..pull(id)
    };
    let pulling = third.pull(&holders, &not_urgent);
    let leaving = async {
        tokio::time::sleep(Duration::from_millis(1_200)).await;
        drop(second);
    };
    let (pulled, ()) = tokio::join!(pulling, leaving);
    let pulled = pulled.expect("pulled");
    let [from_a, from_b] = &pulled.sources[..] else {
        panic!("{pulled:?}");
    };
    assert_eq!((from_a.way, from_b.way), (Some(Way::Quic), Some(Way::Tcp)));
    assert!(from_a.bytes > 0 && from_b.bytes > 0, "{pulled:?}");
    assert_eq!(from_a.bytes + from_b.bytes, 144 << 20);
    assert!(
        from_a.dropped.is_none() && from_b.dropped.is_some(),
        "{pulled:?}"
    );
    same(&place, &c, &id, &source);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_holder_does_not_hold_up_the_others() {
    let place = Place::new();
    let (a, b, c) = (place.store("a"), place.store("b"), place.store("c"));
    let source = place.path().join("source");
    write(&source, "w", &noise(1, 160 * MIB));
    let id = a.seal(&source).expect("sealed").id;
    pass(&a, &b, &id, &[]);
    let quick = node(&place.pki(), "a", &a)
        .serve(here(), true)
        .await
        .expect("serves");
    let crawling = node_at(
        &place.pki(),
        "b",
        &b,
        Rate::Fixed(MIB as u64),
        Arc::new(Open),
    );
    let crawling = crawling.serve(here(), true).await.expect("serves");
    let holders = [peer("b", crawling.address()), peer("a", quick.address())];
    let third = node(&place.pki(), "c", &c);
    let begun = Instant::now();
    let not_urgent = Pull {
        urgent: false,
        ..pull(id)
    };
    let pulled = third.pull(&holders, &not_urgent).await.expect("pulled");
    // Half of it would take the slow one 80 s, and the three chunks that it was asked for 12 s.
    assert!(begun.elapsed() < Duration::from_secs(10), "{pulled:?}");
    assert!(pulled.sources[1].bytes > 140 << 20, "{pulled:?}");
    same(&place, &c, &id, &source);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_is_refused_and_learns_nothing() {
    let place = Place::new();
    let (a, b, c) = (place.store("a"), place.store("b"), place.store("c"));
    let source = place.path().join("source");
    write_everything(&source, 1);
    let id = a.seal(&source).expect("sealed").id;
    let rules = Only {
        send: vec![("c", id)],
        read: vec![("d", id)],
    };
    let guarded = node_at(&place.pki(), "b", &b, Rate::Unlimited, Arc::new(rules));
    let server = guarded.serve(here(), true).await.expect("serves");
    let to = peer("b", server.address());
    let sender = node(&place.pki(), "a", &a);
    let refused = |result: Result<(), TransferError>| match result {
        Err(TransferError::Refused { why, .. }) => why,
        other => panic!("{other:?}"),
    };
    let pushed = sender.push(&to, &push(id)).await.map(drop);
    assert_eq!(refused(pushed), Refusal::NotAllowed);
    assert!(b.incoming().is_empty());
    assert_eq!(sender.totals().sent_bytes, 0);
    // Refused before it is looked for: one that is not held is refused alike.
    pass(&a, &b, &id, &[]);
    let reader = node(&place.pki(), "c", &c);
    for asked in [id, BlobId::of(b"another")] {
        let pulled = reader.pull(std::slice::from_ref(&to), &pull(asked)).await;
        let Err(TransferError::NoHolder { why, .. }) = pulled else {
            panic!("{pulled:?}");
        };
        assert!(why.contains("may not read"), "{why}");
    }
    assert_eq!(guarded.totals().sent_bytes, 0);
    let allowed = node(&place.pki(), "d", &place.store("d"));
    allowed.pull(&[to], &pull(id)).await.expect("allowed");
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_and_wrong_names_do_not_get_in() {
    let place = Place::new();
    let (a, b) = (place.store("a"), place.store("b"));
    write(&place.path().join("source"), "w", b"x");
    let id = a.seal(&place.path().join("source")).expect("sealed").id;
    let server = node(&place.pki(), "b", &b)
        .serve(here(), true)
        .await
        .expect("serves");
    let sender = node(&place.pki(), "a", &a);
    let wrong = sender.push(&peer("c", server.address()), &push(id)).await;
    assert!(
        matches!(wrong, Err(TransferError::WrongPeer { .. })),
        "{wrong:?}"
    );
    // The same name, signed by another CA.
    let others = place.path().join("others");
    make_pki(&others, &["a", "b"]);
    let stranger = node(&others, "a", &a);
    let refused = stranger.push(&peer("b", server.address()), &push(id)).await;
    assert!(
        matches!(refused, Err(TransferError::Unreachable { .. })),
        "{refused:?}"
    );
    assert!(b.held().is_empty() && b.incoming().is_empty());
    let gone = sender
        .push(&peer("b", ([127, 0, 0, 1], 9).into()), &push(id))
        .await;
    assert!(
        matches!(gone, Err(TransferError::Unreachable { .. })),
        "{gone:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn no_room_is_said_before_anything_moves() {
    let place = Place::new();
    let a = place.store("a");
    let b = open_limited(&place.path().join("b"), 8 << 20);
    write(&place.path().join("source"), "w", &noise(1, 9 * MIB));
    let id = a.seal(&place.path().join("source")).expect("sealed").id;
    let server = node(&place.pki(), "b", &b)
        .serve(here(), true)
        .await
        .expect("serves");
    let sender = node(&place.pki(), "a", &a);
    let refused = sender.push(&peer("b", server.address()), &push(id)).await;
    let Err(TransferError::Refused { why, text, .. }) = refused else {
        panic!("{refused:?}");
    };
    assert_eq!(why, Refusal::NoRoom);
    assert!(text.contains("are missing"), "{text}");
    assert_eq!(sender.totals().sent_bytes, 0);
    assert!(b.incoming().is_empty() && b.held().is_empty());
    let server = sender.serve(here(), true).await.expect("serves");
    let puller = node(&place.pki(), "b", &b);
    let refused = puller.pull(&[peer("a", server.address())], &pull(id)).await;
    let no_room = TransferError::Store(CheckpointError::NoRoom { needed: 0, free: 0 });
    let same_kind =
        |error: &TransferError| std::mem::discriminant(error) == std::mem::discriminant(&no_room);
    assert!(refused.as_ref().is_err_and(same_kind), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rate_is_kept_and_who_is_urgent_does_not_wait() {
    let place = Place::new();
    let (a, b) = (place.store("a"), place.store("b"));
    write(&place.path().join("source"), "w", &noise(1, 24 * MIB));
    let id = a.seal(&place.path().join("source")).expect("sealed").id;
    let sender = node_at(&place.pki(), "a", &a, Rate::Fixed(6 << 20), Arc::new(Open));
    let to_b = node(&place.pki(), "b", &b)
        .serve(here(), true)
        .await
        .expect("serves");
    let paced = sender
        .push(&peer("b", to_b.address()), &push(id))
        .await
        .expect("pushed");
    assert!(paced.wall > Duration::from_millis(3_900), "{paced:?}");
    let urgent = Push {
        urgent: true,
        ..push(id)
    };
    let own = Push {
        pacer: Some(Pacer::new(Rate::Unlimited)),
        ..push(id)
    };
    for (name, push) in [("c", urgent), ("d", own)] {
        let server = node(&place.pki(), name, &place.store(name))
            .serve(here(), true)
            .await
            .expect("serves");
        let hurried = sender
            .push(&peer(name, server.address()), &push)
            .await
            .expect("pushed");
        assert!(hurried.wall < paced.wall / 2, "{name}: {hurried:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_one_goes_over_several_connections() {
    let place = Place::new();
    let (a, b) = (place.store("a"), place.store("b"));
    let source = place.path().join("source");
    for part in 0..2 {
        write(&source, &format!("part-{part}"), &noise(part, 390 * MIB));
    }
    let id = a.seal(&source).expect("sealed").id;
    fs::remove_dir_all(&source).expect("removed");
    let server = node(&place.pki(), "b", &b)
        .serve(here(), true)
        .await
        .expect("serves");
    let sender = node(&place.pki(), "a", &a);
    let pushed = sender
        .push(&peer("b", server.address()), &push(id))
        .await
        .expect("pushed");
    assert_eq!((pushed.lanes, pushed.sent_bytes), (2, 780 << 20));
    b.verify(&id).expect("whole");
}
