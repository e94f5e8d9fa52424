//! A restore from one holder and from two, where each holder's link is the limit (`tc tbf`). Does NOT compare with other tools.

use std::fs;
use std::path::Path;
use std::time::Instant;

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::lab::{Lab, empty};
use super::side::{path, serving};
use super::tree;

/// What is restored, and who holds it.
pub struct Holders<'a> {
    lab: &'a Lab,
    source: &'a Path,
    /// The store of `a`.
    first: &'a Path,
    id: &'a str,
}

impl<'a> Holders<'a> {
    /// `b` gets a copy of what `a` holds, and the links of both get their limit.
    ///
    /// # Errors
    /// When `tc` refuses, or the copy fails.
    pub fn new(
        lab: &'a Lab,
        source: &'a Path,
        first: &'a Path,
        id: &'a str,
        mbit: u64,
    ) -> Result<Self> {
        let holders = Self {
            lab,
            source,
            first,
            id,
        };
        let second = holders.second();
        empty(&second)?;
        let (server, address) = serving(lab, "b", None, &second, true)?;
        let (root, store) = (path(lab.dir())?, path(first)?);
        let words = ["push", root, "a", store, id, "-", "b", &address, "0"];
        lab.done("a", &words)?;
        server.finish()?;
        let rate = format!("{mbit}mbit");
        for host in ["a", "b"] {
            let words = ["tc", "qdisc", "replace", "dev", "eth0", "root", "tbf"];
            let limits = ["rate", &rate, "burst", "256kb", "latency", "50ms"];
            let said = lab
                .command(host, &[&words[..], &limits[..]].concat())
                .output()?;
            let why = String::from_utf8_lossy(&said.stderr).into_owned();
            ensure!(said.status.success(), "tc tbf: {}", why.trim());
        }
        Ok(holders)
    }

    fn second(&self) -> std::path::PathBuf {
        self.lab.dir().join("second-store")
    }

    /// One restore on `c` from `count` holders: fetched, verified, durable, and laid out as a directory.
    ///
    /// # Errors
    /// When it fails, or what is laid out is not the source.
    pub fn restore(&self, count: usize) -> Result<Value> {
        let lab = self.lab;
        let (dest, out) = (lab.dir().join("dest/third"), lab.dir().join("dest/out"));
        empty(&dest)?;
        lab.settle(self.source, &self.second())?;
        tree::cached(&self.second(), true)?;
        let second = self.second();
        let stores = [("a", self.first), ("b", second.as_path())];
        let mut servers = Vec::new();
        for (host, store) in &stores[..count] {
            let (server, address) = serving(lab, host, None, store, true)?;
            servers.push((server, format!("{host}={address}")));
        }
        let words = ["pull", path(lab.dir())?, "c", path(&dest)?, self.id];
        let holders: Vec<&str> = servers.iter().map(|(_, holder)| holder.as_str()).collect();
        let begun = Instant::now();
        let pulled = lab.done("c", &[&words[..], &holders[..]].concat())?;
        let held_s = begun.elapsed().as_secs_f64();
        let laid = lab.done(
            "c",
            &["restore", path(&dest)?, self.id, path(&out)?, "shared"],
        )?;
        let whole_s = begun.elapsed().as_secs_f64();
        for (server, _) in servers {
            server.finish()?;
        }
        let wrong = tree::differences(self.source, &out)?;
        ensure!(
            wrong.is_empty(),
            "what was restored is not the source: {wrong:?}"
        );
        fs::remove_dir_all(&out)?;
        fs::remove_dir_all(&dest)?;
        eprintln!("restore from {count}: {held_s:.2} s until held, {whole_s:.2} s until laid out");
        Ok(
            json!({ "holders": count, "held_s": held_s, "laid_out_s": whole_s, "said": [pulled, laid] }),
        )
    }
}
