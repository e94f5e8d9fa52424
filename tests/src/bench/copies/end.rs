//! `mlctl-tests copies-end …`: one end of a copy as a process of its own, as an agent is. Not for people: `bench copies` starts it.
//! What it found out goes to standard output, one JSON object a line. Does NOT measure what others do.

use std::io::{BufRead, Read, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use mlctl_blobs::BlobId;
use mlctl_blobs::checkpoint::{CheckpointStore, Options as StoreOptions, Restore};
use mlctl_blobs::transfer::{
    Authority, Node, Options, Pacer, Peer, Pull, Push, Rate, quiet_runtime,
};
use serde_json::{Value, json};

use super::{pki, training};

/// Threads for connections and encryption, and for hashes.
const THREADS: usize = 2;

/// Both ends belong to this run.
struct Open;

impl Authority for Open {
    fn may_send(&self, _: &str, _: &BlobId) -> bool {
        true
    }

    fn may_read(&self, _: &str, _: &BlobId) -> bool {
        true
    }
}

/// Runs an end. `words` follow `copies-end`; `root` is the run's directory, and `name` both a host and its store in there.
///
/// # Errors
/// For words it does not know, and when its work fails.
pub fn main(words: &[&str]) -> Result<()> {
    match *words {
        ["seal", store, source] => seal(store.as_ref(), source.as_ref()),
        ["restore", store, id, dest, how] => {
            restore(store.as_ref(), id, dest.as_ref(), how == "shared")
        }
        ["serve", root, name, store, address, udp] => {
            let node = node(
                root.as_ref(),
                name,
                store.as_ref(),
                &Pacer::new(Rate::Unlimited),
            )?;
            serve(&node, address, udp == "udp")
        }
        ["push", root, name, store, id, near, to, address, rate] => {
            let rate = match rate.parse()? {
                0 => Rate::Unlimited,
                cap => Rate::Auto(cap),
            };
            let pacer = Pacer::new(rate);
            let node = node(root.as_ref(), name, store.as_ref(), &pacer)?;
            push(&node, &pacer, (id, near), (to, address))
        }
        ["pull", root, name, store, id, ref holders @ ..] => {
            let node = node(
                root.as_ref(),
                name,
                store.as_ref(),
                &Pacer::new(Rate::Unlimited),
            )?;
            pull(&node, id, holders)
        }
        ["train"] => training::train(),
        _ => bail!("copies-end is for `mlctl-tests bench copies` alone"),
    }
}

fn say(value: &Value) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{value}")?;
    Ok(out.flush()?)
}

fn open(store: &Path) -> Result<CheckpointStore> {
    let options = StoreOptions {
        limit_bytes: u64::MAX,
        threads: THREADS,
    };
    Ok(CheckpointStore::open(store, options)?)
}

fn node(root: &Path, name: &str, store: &Path, pacer: &Pacer) -> Result<Node> {
    let identity = pki::identity(&root.join("pki"), name)?;
    let (store, options) = (open(store)?, Options::default());
    Ok(Node::new(
        store,
        identity,
        Arc::new(Open),
        pacer.clone(),
        options,
    ))
}

fn peer(node: &str, address: &str) -> Result<Peer> {
    let address = address.parse().with_context(|| address.to_owned())?;
    let node = node.to_owned();
    Ok(Peer { node, address })
}

fn seal(store: &Path, source: &Path) -> Result<()> {
    let store = open(store)?;
    let begun = Instant::now();
    let sealed = store.seal(source)?;
    say(&json!({
        "id": sealed.id.to_string(), "bytes": sealed.bytes, "wall_s": begun.elapsed().as_secs_f64(), "peak_kib": peak_kib(),
    }))
}

/// `share` as agents do it; a second name of a kept file changes its inode, though, and it is hashed once more when it is next used.
fn restore(store: &Path, id: &str, dest: &Path, share: bool) -> Result<()> {
    let store = open(store)?;
    let how = Restore { share, hash: true };
    let begun = Instant::now();
    let restored = store.restore(&id.parse()?, dest, how)?;
    say(&json!({
        "bytes": restored.bytes, "linked": restored.linked, "copied": restored.copied,
        "wall_s": begun.elapsed().as_secs_f64(), "peak_kib": peak_kib(),
    }))
}

/// Until standard input ends.
fn serve(node: &Node, address: &str, udp: bool) -> Result<()> {
    let runtime = quiet_runtime(THREADS)?;
    let server = runtime.block_on(node.serve(address.parse()?, udp))?;
    say(&json!({ "address": server.address().to_string() }))?;
    std::io::stdin().read_to_end(&mut Vec::new())?;
    let totals = node.totals();
    say(&json!({
        "peak_kib": peak_kib(), "received_bytes": totals.received_bytes, "totals": format!("{totals:?}"),
    }))
}

/// `busy` and `free` on standard input say meanwhile how training does.
fn push(node: &Node, pacer: &Pacer, what: (&str, &str), to: (&str, &str)) -> Result<()> {
    let near = Some(what.1).filter(|near| *near != "-");
    let push = Push {
        id: what.0.parse()?,
        near: near.map(str::parse).transpose()?.into_iter().collect(),
        urgent: false,
        pacer: None,
    };
    let to = peer(to.0, to.1)?;
    let reports = pacer.clone();
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            reports.report(line == "busy");
        }
    });
    let (runtime, node) = (quiet_runtime(THREADS)?, node.clone());
    let pushing = async move { tokio::spawn(async move { node.push(&to, &push).await }).await };
    let pushed = runtime.block_on(pushing)??;
    say(&json!({
        "way": format!("{:?}", pushed.way), "lanes": pushed.lanes, "wanted_bytes": pushed.wanted_bytes,
        "sent_bytes": pushed.sent_bytes, "wall_s": pushed.wall.as_secs_f64(), "peak_kib": peak_kib(),
    }))
}

/// `holders` are `NAME=ADDRESS`.
fn pull(node: &Node, id: &str, holders: &[&str]) -> Result<()> {
    let holders = holders.iter().map(|holder| {
        let (name, address) = holder.split_once('=').context("a holder is NAME=ADDRESS")?;
        peer(name, address)
    });
    let holders: Vec<Peer> = holders.collect::<Result<_>>()?;
    let pull = Pull {
        id: id.parse()?,
        near: Vec::new(),
        urgent: true,
    };
    let (runtime, node) = (quiet_runtime(THREADS)?, node.clone());
    let pulling =
        async move { tokio::spawn(async move { node.pull(&holders, &pull).await }).await };
    let pulled = runtime.block_on(pulling)??;
    let from: Vec<u64> = pulled.sources.iter().map(|source| source.bytes).collect();
    say(&json!({
        "wanted_bytes": pulled.wanted_bytes, "from_bytes": from, "twice": pulled.came.twice,
        "wall_s": pulled.wall.as_secs_f64(), "peak_kib": peak_kib(),
    }))
}

/// The most memory that this process has had, KiB.
fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmHWM"));
    let number = line.and_then(|line| line.split_whitespace().nth(1));
    number.and_then(|number| number.parse().ok()).unwrap_or(0)
}
