//! The most memory that each end has while a checkpoint of many GiB, nearly all of it holes, is sealed, sent and restored.
//! Does NOT measure time that says anything: almost nothing moves.

use std::fs;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::lab::{Lab, empty};
use super::side::{path, serving};
use super::tree::{Tree, differences};

/// Seals, sends and restores it once.
///
/// # Errors
/// When an end fails, or the copy is not the source.
pub fn run(lab: &Lab, gib: u64) -> Result<Value> {
    let at = |name: &str| lab.dir().join(name);
    let (source, store, dest, out) = (
        at("sparse"),
        at("sparse-store"),
        at("dest/sparse"),
        at("dest/sparse-out"),
    );
    Tree::Sparse(gib).make(&source)?;
    empty(&dest)?;
    lab.sync()?;
    let begun = Instant::now();
    let sealed = lab.done("a", &["seal", path(&store)?, path(&source)?])?;
    let id = sealed["id"].as_str().context("a seal has an id")?;
    let (server, address) = serving(lab, "b", None, &dest, true)?;
    let (root, from) = (path(lab.dir())?, path(&store)?);
    let words = ["push", root, "a", from, id, "-", "b", &address, "0"];
    let pushed = lab.done("a", &words)?;
    let served = server.finish()?;
    let restored = lab.done("b", &["restore", path(&dest)?, id, path(&out)?, "shared"])?;
    let wall_s = begun.elapsed().as_secs_f64();
    let wrong = differences(&source, &out)?;
    ensure!(wrong.is_empty(), "the copy is not the source: {wrong:?}");
    for dir in [&source, &store, &dest, &out] {
        fs::remove_dir_all(dir)?;
    }
    let peak = |said: &Value| said["peak_kib"].as_u64().unwrap_or(u64::MAX) as f64 / 1024.0;
    let value = json!({
        "gib": gib, "data_bytes": Tree::Sparse(gib).data_bytes(), "wall_s": wall_s,
        "seal_mib": peak(&sealed), "send_mib": peak(&pushed), "receive_mib": peak(&served), "restore_mib": peak(&restored),
    });
    eprintln!("memory: {value}");
    Ok(value)
}
