//! Senders and receivers that are killed at any point, as processes of their own, and a receiver whose disk becomes full: the same call goes
//! on, at most a twentieth comes twice, and what is held is whole. Does NOT cut the power.
#![cfg(target_os = "linux")]
mod common;

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::net::*;
use common::*;
use mlctl_blobs::BlobId;
use mlctl_blobs::checkpoint::CheckpointStore;
#[cfg(debug_assertions)]
use mlctl_blobs::transfer::protocol::Refusal;
use mlctl_blobs::transfer::{Node, Push, Pushed, TransferError};

/// Where a child works; without it a test of this file is not a child.
const BASE: &str = "MLCTL_BLOBS_TEST_BASE";
/// Whether QUIC is offered.
const UDP: &str = "MLCTL_BLOBS_TEST_UDP";
/// The smallest for which a twentieth is promised, and a little.
const BYTES: usize = 400 * MIB;
/// Of each kind, over each way.
const ROUNDS: usize = 6;

/// A child that is killed when the test is over.
struct Running(Child);

impl Running {
    fn start(test: &str, base: &Path, udp: bool, fault: Option<&str>) -> Self {
        let mut command = Command::new(std::env::current_exe().expect("known"));
        command
            .args(["--exact", test, "--nocapture"])
            .env(BASE, base)
            .env(UDP, if udp { "1" } else { "0" })
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        if let Some(fault) = fault {
            command.env("MLCTL_BLOBS_FAULT", fault);
        }
        Self(command.spawn().expect("a child runs"))
    }

    /// As by `kill -9`.
    fn kill(mut self) {
        self.0.kill().expect("killed");
        self.0.wait().expect("gone");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

async fn address(base: &Path) -> SocketAddr {
    let begun = Instant::now();
    loop {
        if let Ok(text) = fs::read_to_string(base.join("address")) {
            return text.parse().expect("an address");
        }
        assert!(begun.elapsed() < Duration::from_secs(30), "no child serves");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn put_address(base: &Path, address: SocketAddr) {
    let aside = base.join("address.new");
    fs::write(&aside, address.to_string()).expect("written");
    fs::rename(aside, base.join("address")).expect("renamed");
}

fn base_of_child() -> Option<(std::path::PathBuf, bool)> {
    let base = std::env::var_os(BASE)?;
    let udp = std::env::var(UDP).expect("set") == "1";
    Some((base.into(), udp))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_child_receives() {
    let Some((base, udp)) = base_of_child() else {
        return;
    };
    let store = open(&base.join("b"));
    let receiver = node(&base.join("pki"), "b", &store);
    let server = receiver.serve(here(), udp).await.expect("serves");
    put_address(&base, server.address());
    std::future::pending::<()>().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_child_sends() {
    let Some((base, _)) = base_of_child() else {
        return;
    };
    let store = open(&base.join("a"));
    let id = store.held()[0].id;
    let sender = node(&base.join("pki"), "a", &store);
    let to = peer("b", address(&base).await);
    sender.push(&to, &push(id)).await.expect("pushed");
}

fn push(id: BlobId) -> Push {
    Push {
        id,
        near: Vec::new(),
        urgent: false,
        pacer: None,
    }
}

/// A held checkpoint in `a`, certificates, and nothing in `b`.
fn prepare(bytes: usize) -> (tempfile::TempDir, CheckpointStore, BlobId) {
    let dir = scratch();
    make_pki(&dir.path().join("pki"), &["a", "b"]);
    let source = dir.path().join("source");
    for part in 0..4 {
        write(&source, &format!("part-{part}"), &noise(part, bytes / 4));
    }
    let a = open(&dir.path().join("a"));
    let id = a.seal(&source).expect("sealed").id;
    fs::remove_dir_all(source).expect("removed");
    open(&dir.path().join("b"));
    (dir, a, id)
}

/// Numbers below `below` that nobody expects.
fn dice(state: &mut u64, below: u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state % below.max(1)
}

fn twentieth(kind: &str, again: u64, killed_at: Duration) {
    println!("{kind} killed after {killed_at:?}: {again} bytes came again");
    assert!(
        again * 20 <= BYTES as u64,
        "{kind}: {again} bytes after {killed_at:?}"
    );
}

async fn push_to_child(sender: &Node, base: &Path, id: BlobId) -> Result<Pushed, TransferError> {
    let to = peer("b", address(base).await);
    sender.push(&to, &push(id)).await
}

async fn receiver_killed(udp: bool) {
    let (dir, a, id) = prepare(BYTES);
    let base = dir.path();
    let mut seed = u64::from(std::process::id()) << 20 | 7;
    let mut usual = Duration::ZERO;
    for round in 0..=ROUNDS {
        let sender = node(&base.join("pki"), "a", &a);
        let child = Running::start("a_child_receives", base, udp, None);
        let begun = Instant::now();
        // The first round shows how long it takes.
        let mut limit = Duration::from_secs(60);
        if round > 0 {
            limit = Duration::from_millis(dice(&mut seed, usual.as_millis() as u64));
        }
        let whole = tokio::time::timeout(limit, push_to_child(&sender, base, id)).await;
        child.kill();
        if round == 0 {
            whole.expect("in time").expect("pushed");
            usual = begun.elapsed();
        } else {
            fs::remove_file(base.join("address")).ok();
            let child = Running::start("a_child_receives", base, udp, None);
            push_to_child(&sender, base, id).await.expect("pushed");
            child.kill();
            let again = sender.totals().sent_bytes - BYTES as u64;
            twentieth("receiver", again, limit);
        }
        fs::remove_file(base.join("address")).ok();
        let b = open(&base.join("b"));
        b.verify(&id).expect("whole");
        b.remove(&id).expect("removed");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_killed_anywhere_goes_on_over_quic() {
    receiver_killed(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_killed_anywhere_goes_on_over_tcp() {
    receiver_killed(false).await;
}

async fn sender_killed(udp: bool) {
    let (dir, a, id) = prepare(BYTES);
    let base = dir.path();
    // The children have it open, one after the other.
    drop(a);
    let b = open(&base.join("b"));
    let mut seed = u64::from(std::process::id()) << 20 | 3;
    let mut usual = Duration::ZERO;
    let receiver = node(&base.join("pki"), "b", &b);
    let server = receiver.serve(here(), udp).await.expect("serves");
    put_address(base, server.address());
    for round in 0..=ROUNDS {
        let before = receiver.totals().received_bytes;
        let begun = Instant::now();
        let mut limit = Duration::ZERO;
        if round > 0 {
            limit = Duration::from_millis(dice(&mut seed, usual.as_millis() as u64));
            let child = Running::start("a_child_sends", base, udp, None);
            tokio::time::sleep(limit).await;
            child.kill();
        }
        let mut child = Running::start("a_child_sends", base, udp, None);
        let status = tokio::task::spawn_blocking(move || child.0.wait()).await;
        assert!(status.expect("waited").expect("ended").success());
        if round == 0 {
            usual = begun.elapsed();
        }
        // What came in part of the chunk that was cut is not counted: at most one.
        let again = receiver.totals().received_bytes - before - BYTES as u64;
        twentieth("sender", again + (4 << 20), limit);
        b.verify(&id).expect("whole");
        b.remove(&id).expect("removed");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sender_killed_anywhere_goes_on_over_quic() {
    sender_killed(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sender_killed_anywhere_goes_on_over_tcp() {
    sender_killed(false).await;
}

/// Only builds with debug assertions have the fault.
#[cfg(debug_assertions)]
#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_said_and_nothing_is_half_held() {
    let (dir, a, id) = prepare(80 * MIB);
    let base = dir.path();
    let sender = node(&base.join("pki"), "a", &a);
    let child = Running::start("a_child_receives", base, true, Some("full:40"));
    let refused = push_to_child(&sender, base, id).await;
    let Err(TransferError::Refused { why, text, .. }) = refused else {
        panic!("{refused:?}");
    };
    assert_eq!(why, Refusal::DiskFull);
    assert!(text.contains("make room"), "{text}");
    child.kill();
    fs::remove_file(base.join("address")).expect("there");
    let b = open(&base.join("b"));
    assert!(b.held().is_empty());
    assert_eq!(b.incoming(), [id]);
    drop(b);
    let child = Running::start("a_child_receives", base, true, None);
    let pushed = push_to_child(&sender, base, id)
        .await
        .expect("there is room now");
    assert!((1..80 << 20).contains(&pushed.sent_bytes), "{pushed:?}");
    child.kill();
    open(&base.join("b")).verify(&id).expect("whole");
}
