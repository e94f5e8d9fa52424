//! The sides of the comparison: one copy of a tree from host `a` to host `b` by each of them, with its cost, and whether it is right.
//! Does NOT decide in which order.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::lab::{Lab, Sample, children_s, empty};
use super::{peers, tree};

/// Who copies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Ours: over QUIC, or over TCP where UDP is not answered.
    Ours {
        /// QUIC is offered.
        udp: bool,
    },
    /// `rsync -a` over ssh.
    Ssh(Option<&'static str>),
    /// `rsync -a` to a daemon, without encryption.
    Daemon,
    /// `cp -a` on one host.
    Cp,
}

/// All of them. The order changes from round to round.
pub const SIDES: [Side; 6] = [
    Side::Ours { udp: true },
    Side::Ssh(None),
    Side::Daemon,
    Side::Cp,
    Side::Ours { udp: false },
    Side::Ssh(Some("aes128-gcm@openssh.com")),
];

/// What is copied: the tree, what it was sealed as, and as what before it changed.
#[derive(Debug, Clone, Copy)]
pub struct What<'a> {
    /// The trainer's directory.
    pub source: &'a Path,
    /// The store in which it is sealed.
    pub store: &'a Path,
    /// The id of its manifest.
    pub id: &'a str,
    /// That of the one before, which the destination has; `-` if none.
    pub near: &'a str,
}

impl Side {
    /// For files and directories.
    pub fn key(self) -> &'static str {
        match self {
            Self::Ours { udp: true } => "ours",
            Self::Ours { udp: false } => "ours_tcp",
            Self::Ssh(None) => "rsync_ssh",
            Self::Ssh(Some(_)) => "rsync_ssh_aes",
            Self::Daemon => "rsync_daemon",
            Self::Cp => "cp",
        }
    }

    /// For tables.
    pub fn label(self) -> &'static str {
        match self {
            Self::Ours { udp: true } => "ours, QUIC",
            Self::Ours { udp: false } => "ours, where UDP is not answered: TCP and TLS",
            Self::Ssh(None) => "`rsync -a` over ssh",
            Self::Ssh(Some(_)) => "the same with `-c aes128-gcm@openssh.com`",
            Self::Daemon => "`rsync -a` to a daemon, not encrypted",
            Self::Cp => "`cp -a` on one host",
        }
    }

    /// Where its copy is.
    pub fn dest(self, lab: &Lab) -> PathBuf {
        lab.dir().join("dest").join(self.key())
    }

    /// Copies `what` over what is at its destination.
    ///
    /// # Errors
    /// When a tool fails, or our copy is not the source byte by byte.
    pub fn copy(self, lab: &Lab, what: What) -> Result<Sample> {
        let dest = self.dest(lab);
        lab.settle(what.source, &dest)?;
        if let Self::Ours { .. } = self {
            // The same inodes where files have second names; where they are reflinks, memory knows nothing of that.
            tree::cached(what.store, true)?;
        }
        let before = children_s()?;
        let mut sample = match self {
            Self::Ours { udp } => ours(lab, udp, what, &dest)?,
            _ => self.theirs(lab, what.source, &dest)?,
        };
        sample.cpu_s = children_s()? - before;
        if let Self::Ours { .. } = self {
            let out = lab.dir().join("dest").join(format!("{}-out", self.key()));
            let words = ["restore", path(&dest)?, what.id, path(&out)?, "copied"];
            sample.said.push(lab.done("b", &words)?);
            sample.wrong = tree::differences(what.source, &out)?;
            fs::remove_dir_all(&out)?;
            ensure!(
                sample.wrong.is_empty(),
                "our copy is not the source: {:?}",
                sample.wrong
            );
        } else {
            sample.wrong = tree::differences(what.source, &dest)?;
        }
        Ok(sample)
    }

    /// These do not sync: the file system is synced afterwards.
    fn theirs(self, lab: &Lab, source: &Path, dest: &Path) -> Result<Sample> {
        let (server, mut command) = match self {
            Self::Ssh(cipher) => (
                Some(peers::sshd(lab)?),
                peers::over_ssh(lab, cipher, source, dest),
            ),
            Self::Daemon => (
                Some(peers::rsyncd(lab)?),
                peers::to_daemon(lab, source, dest),
            ),
            _ => (None, peers::cp(lab, source, dest)),
        };
        let begun = Instant::now();
        let status = command.status()?;
        let told_s = begun.elapsed().as_secs_f64();
        ensure!(status.success(), "{command:?}: {status}");
        lab.sync()?;
        let durable_s = begun.elapsed().as_secs_f64();
        server.map_or(Ok(()), |server| server.stop())?;
        Ok(Sample {
            durable_s,
            told_s,
            ..Sample::default()
        })
    }
}

/// A path as a word.
///
/// # Errors
/// When it is not UTF-8.
pub fn path(path: &Path) -> Result<&str> {
    path.to_str().context("a directory whose name is UTF-8")
}

/// An end that serves, and its address.
///
/// # Errors
/// When it does not start.
pub fn serving(
    lab: &Lab,
    host: &str,
    core: Option<u32>,
    store: &Path,
    udp: bool,
) -> Result<(super::lab::End, String)> {
    let (root, address) = (path(lab.dir())?, format!("{}:0", lab.address(host)));
    let udp = if udp { "udp" } else { "tcp" };
    let words = ["serve", root, host, path(store)?, &address, udp];
    let mut server = lab.end(host, core, &words)?;
    let said = server.said()?;
    let address = said["address"].as_str().context("it says where it is")?;
    let address = address.to_owned();
    Ok((server, address))
}

/// Durable when the other end has acknowledged, and that is when the sender ends.
fn ours(lab: &Lab, udp: bool, what: What, dest: &Path) -> Result<Sample> {
    let (server, address) = serving(lab, "b", None, dest, udp)?;
    let (root, store) = (path(lab.dir())?, path(what.store)?);
    let words = [
        "push", root, "a", store, what.id, what.near, "b", &address, "0",
    ];
    let begun = Instant::now();
    let pushed = lab.done("a", &words)?;
    let durable_s = begun.elapsed().as_secs_f64();
    let served = server.finish()?;
    Ok(Sample {
        durable_s,
        told_s: durable_s,
        said: vec![pushed, served],
        ..Sample::default()
    })
}

/// A seal: its cost, and the id.
///
/// # Errors
/// When it fails.
pub fn seal(lab: &Lab, source: &Path, store: &Path) -> Result<(Sample, String)> {
    lab.sync()?;
    tree::cached(source, true)?;
    let (begun, before) = (Instant::now(), children_s()?);
    let sealed: Value = lab.done("a", &["seal", path(store)?, path(source)?])?;
    let durable_s = begun.elapsed().as_secs_f64();
    let sample = Sample {
        durable_s,
        told_s: durable_s,
        cpu_s: children_s()? - before,
        wrong: Vec::new(),
        said: vec![sealed.clone()],
    };
    let id = sealed["id"].as_str().context("a seal has an id")?;
    Ok((sample, id.to_owned()))
}

/// Makes the destinations of `sides` empty.
///
/// # Errors
/// When the disk fails.
pub fn reset(lab: &Lab, sides: &[Side]) -> Result<()> {
    sides.iter().try_for_each(|side| empty(&side.dest(lab)))
}
