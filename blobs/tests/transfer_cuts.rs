//! Links that are cut in the middle, become silent, or are slow: whoever sends learns of it, and the same call goes on from there.
//! Does NOT kill anybody.
#![cfg(target_os = "linux")]
mod common;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use common::net::*;
use mlctl_blobs::BlobId;
use mlctl_blobs::transfer::{Node, Push, TransferError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// What becomes of a link when its bytes are used up.
#[derive(Clone, Copy)]
enum Then {
    /// Both ends are told.
    Cut,
    /// Nobody is told.
    Silence,
    /// Each byte more takes its time.
    Crawl,
}

/// Passes bytes on to `to`: `allowed` over all links together, and `then` something happens. UDP does not get through.
async fn wire(to: SocketAddr, allowed: i64, then: Then) -> SocketAddr {
    let listener = TcpListener::bind(here()).await.expect("bound");
    let address = listener.local_addr().expect("known");
    let left = Arc::new(AtomicI64::new(allowed));
    tokio::spawn(async move {
        while let Ok((near, _)) = listener.accept().await {
            let far = TcpStream::connect(to).await.expect("connected");
            let (near_from, near_to) = near.into_split();
            let (far_from, far_to) = far.into_split();
            tokio::spawn(pass_on(near_from, far_to, left.clone(), then));
            tokio::spawn(pass_on(far_from, near_to, left.clone(), then));
        }
    });
    address
}

async fn pass_on(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    left: Arc<AtomicI64>,
    then: Then,
) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        if left.fetch_sub(read as i64, Ordering::Relaxed) < read as i64 {
            match then {
                Then::Cut => return,
                Then::Silence => std::future::pending().await,
                Then::Crawl => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
        if to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}

const BYTES: u64 = 48 << 20;

fn place() -> Pair {
    pair(BYTES, &["a", "b"])
}

async fn push(sender: &Node, to: SocketAddr, id: BlobId) -> Result<u64, TransferError> {
    let push = Push {
        id,
        near: Vec::new(),
        urgent: false,
        pacer: None,
    };
    let pushed = sender.push(&peer("b", to), &push).await?;
    Ok(pushed.sent_bytes)
}

/// Sends over a wire that fails half-way, then over a good one; returns how long the failure took.
async fn half_way(then: Then) -> Duration {
    let place = place();
    let receiver = node(&place.pki, "b", &place.b);
    let server = receiver.serve(here(), true).await.expect("serves");
    let bad = wire(server.address(), 24 << 20, then).await;
    let sender = node(&place.pki, "a", &place.a);
    let begun = Instant::now();
    let cut = push(&sender, bad, place.id).await;
    let took = begun.elapsed();
    assert!(matches!(cut, Err(TransferError::Cut { .. })), "{cut:?}");
    assert!(place.b.held().is_empty());
    let sent = push(&sender, server.address(), place.id)
        .await
        .expect("pushed");
    // What was complete before does not come again.
    assert!((1..=BYTES - (16 << 20)).contains(&sent), "{sent}");
    place.b.verify(&place.id).expect("whole");
    took
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_link_is_noticed_at_once() {
    let took = half_way(Then::Cut).await;
    assert!(took < Duration::from_secs(10), "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_link_is_noticed_in_the_end() {
    let took = half_way(Then::Silence).await;
    assert!(took < Duration::from_secs(40), "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_link_is_only_slow() {
    let place = place();
    let receiver = node(&place.pki, "b", &place.b);
    let server = receiver.serve(here(), true).await.expect("serves");
    let slow = wire(server.address(), 24 << 20, Then::Crawl).await;
    let sender = node(&place.pki, "a", &place.a);
    assert_eq!(push(&sender, slow, place.id).await.expect("pushed"), BYTES);
    place.b.verify(&place.id).expect("whole");
}
