//! Where copies are measured: hosts with networks of their own on one disk, ends and servers as processes, and what a copy cost.
//! Does NOT know what is copied, nor by whom.
//!
//! Processor time is that of all processes of a side that have ended, both ends, user and system, as the kernel counts it for who waited
//! for them (`RUSAGE_CHILDREN`): servers are started for each sample and have ended before it counts, and so have their children.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::signal::Signal;
use nix::sys::time::TimeValLike;
use serde_json::Value;

use super::{pki, tree};
use crate::process::{machine, netns::Net};

/// How long a server may take to listen, and to end.
const PATIENCE: Duration = Duration::from_secs(20);
const LOOK: Duration = Duration::from_millis(5);

/// Three hosts and a directory of their own on the disk in question.
pub struct Lab {
    dir: tempfile::TempDir,
    net: Net,
    program: PathBuf,
}

/// What one copy cost.
#[derive(Debug, Clone, Default)]
pub struct Sample {
    /// From the start of the command to when all is durable at the destination, seconds.
    pub durable_s: f64,
    /// The same to when the command said that it is done.
    pub told_s: f64,
    /// Processor time of both ends, syncing included, seconds.
    pub cpu_s: f64,
    /// Files that are not the source's.
    pub wrong: Vec<String>,
    /// What the ends said of themselves.
    pub said: Vec<Value>,
}

/// Processor time of all children that have ended and were waited for, seconds.
///
/// # Errors
/// When the system does not say.
pub fn children_s() -> Result<f64> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let time = usage.user_time() + usage.system_time();
    Ok(time.num_microseconds() as f64 / 1e6)
}

impl Lab {
    /// Hosts `a`, `b` and `c`, and a new directory in `disk`.
    ///
    /// # Errors
    /// When the directory cannot be made. Ask [`crate::process::netns::obstacle`] first.
    pub fn new(disk: &Path) -> Result<Self> {
        let hosts = ["a", "b", "c"];
        let dir = tempfile::Builder::new()
            .prefix("mlctl-copies-")
            .tempdir_in(disk)?;
        pki::make(&dir.path().join("pki"), &hosts)?;
        let net = Net::new(&hosts);
        let program = std::env::current_exe()?;
        Ok(Self { dir, net, program })
    }

    /// The directory, which is gone when this is dropped.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The address of a host.
    pub fn address(&self, host: &str) -> String {
        self.net.address(host)
    }

    /// `words` as a command on `host`.
    pub fn command(&self, host: &str, words: &[&str]) -> Command {
        let mut command = self.net.command(host, Path::new(words[0]));
        command.args(&words[1..]).stdin(Stdio::null());
        command
    }

    /// Starts an end on `host`, on processor `core` alone if one is named.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn end(&self, host: &str, core: Option<u32>, words: &[&str]) -> Result<End> {
        let (core, program) = (core.map(|core| core.to_string()), self.program.clone());
        let program = program.to_string_lossy();
        let pin = core.as_ref().map(|core| ["taskset", "-c", core]);
        let all = [
            pin.as_ref().map_or(&[][..], |pin| &pin[..]),
            &[&program, "copies-end"],
            words,
        ]
        .concat();
        End::start(self.command(host, &all))
    }

    /// An end that works without input: what it said.
    ///
    /// # Errors
    /// When it fails.
    pub fn done(&self, host: &str, words: &[&str]) -> Result<Value> {
        self.end(host, None, words)?.finish()
    }

    /// Everything written is on the disk, the destination's pages are out of memory and the source's are in it: so for every side.
    ///
    /// # Errors
    /// When something cannot be read.
    pub fn settle(&self, source: &Path, dest: &Path) -> Result<()> {
        self.sync()?;
        if dest.is_dir() {
            tree::cached(dest, false)?;
        }
        tree::cached(source, true)
    }

    /// Syncs the file system.
    ///
    /// # Errors
    /// When it cannot.
    pub fn sync(&self) -> Result<()> {
        let status = Command::new("sync").arg("-f").arg(self.dir()).status()?;
        ensure!(status.success(), "sync -f: {status}");
        Ok(())
    }
}

/// Runs a command to its end.
///
/// # Errors
/// When it fails.
pub fn whole(mut command: Command) -> Result<()> {
    let status = command.status()?;
    ensure!(status.success(), "{command:?}: {status}");
    Ok(())
}

/// A directory that is there and empty.
///
/// # Errors
/// When it cannot be made.
pub fn empty(dir: &Path) -> Result<()> {
    if dir.exists() {
        fs::remove_dir_all(dir)?;
    }
    Ok(fs::create_dir_all(dir)?)
}

/// An end of a copy.
pub struct End {
    child: Child,
    input: Option<ChildStdin>,
    output: Option<BufReader<ChildStdout>>,
}

impl End {
    /// Starts `command` as one.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(mut command: Command) -> Result<Self> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("{command:?}"))?;
        let input = child.stdin.take();
        let output = child.stdout.take().map(BufReader::new);
        Ok(Self {
            child,
            input,
            output,
        })
    }

    /// The next thing that it says.
    ///
    /// # Errors
    /// When it ends instead.
    pub fn said(&mut self) -> Result<Value> {
        let mut line = String::new();
        let output = self.output.as_mut().context("somebody listens to it")?;
        output.read_line(&mut line)?;
        ensure!(
            !line.is_empty(),
            "an end of a copy has ended without a word"
        );
        Ok(serde_json::from_str(&line)?)
    }

    /// Tells it something; one that has ended hears nothing.
    pub fn tell(&mut self, word: &str) {
        let _ = self
            .input
            .as_mut()
            .map(|input| input.write_all(format!("{word}\n").as_bytes()));
    }

    /// Whether it has ended.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn ended(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_some())
    }

    /// Waits for its last word and its end.
    ///
    /// # Errors
    /// When it fails.
    pub fn finish(mut self) -> Result<Value> {
        drop(self.input.take());
        let said = self.said();
        let status = self.child.wait()?;
        ensure!(status.success(), "an end of a copy failed: {status}");
        said
    }

    /// What it says from now on goes to `each`, line by line, on a thread of its own.
    pub fn listen(&mut self, each: impl FnMut(String) + Send + 'static) {
        if let Some(output) = self.output.take() {
            std::thread::spawn(move || output.lines().map_while(Result::ok).for_each(each));
        }
    }
}

impl Drop for End {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            machine::kill(machine::pid_of(&self.child));
            let _ = self.child.wait();
        }
    }
}

/// A server that other tools need.
pub struct Server(Child);

impl Server {
    /// Starts it and waits until it listens on `port` of its host.
    ///
    /// # Errors
    /// When it does not.
    pub fn start(mut command: Command, port: u16) -> Result<Self> {
        let child = command.spawn().with_context(|| format!("{command:?}"))?;
        let mut server = Self(child);
        // Asked of the kernel: to connect would be work for the server.
        let wanted = format!(":{port:04X} 00000000:0000 0A");
        let table = format!("/proc/{}/net/tcp", server.0.id());
        let begun = Instant::now();
        while !fs::read_to_string(&table).is_ok_and(|table| table.contains(&wanted)) {
            ensure!(
                server.0.try_wait()?.is_none() && begun.elapsed() < PATIENCE,
                "{command:?} does not listen on port {port}"
            );
            std::thread::sleep(LOOK);
        }
        Ok(server)
    }

    /// Ends it when its own children have ended and it has waited for them: only then they are counted.
    ///
    /// # Errors
    /// When they do not end.
    pub fn stop(mut self) -> Result<()> {
        let pid = machine::pid_of(&self.0);
        let children = format!("/proc/{pid}/task/{pid}/children");
        let begun = Instant::now();
        while !fs::read_to_string(&children)?.trim().is_empty() {
            ensure!(
                begun.elapsed() < PATIENCE,
                "children of a server do not end"
            );
            std::thread::sleep(LOOK);
        }
        machine::send(pid, Signal::SIGTERM);
        self.0.wait()?;
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if matches!(self.0.try_wait(), Ok(None)) {
            machine::kill(machine::pid_of(&self.0));
            let _ = self.0.wait();
        }
    }
}
