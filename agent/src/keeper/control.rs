//! The keeper's decisions: when ranks start, when and how they are ended, what the agent is told.
//!
//! Owns the ranks and their logs. The loop that waits is `turns`; what a rank is at birth is `child`.

use std::path::PathBuf;

use mlctl_proto::spec::LaunchMethod;
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

use super::clock;
use super::connection::Connection;
use super::descendants;
use super::exits::ExitsFile;
use super::output::{Log, Stream, log_path};
use super::protocol::{Exit, FromKeeper, PROTOCOL, Phase, RankStatus, Status, ToKeeper, speaks};
use super::ranks::{self, Account};
use super::torchrun::Failure;
use crate::launch::{LaunchPlan, with_rendezvous};

/// How often leftovers that do not die are killed again. Their ends wake the keeper earlier.
const LEFTOVERS_MS: u64 = 20;
/// After SIGTERM and the end of all ranks, an agent gets this long to take note.
const LEAVE_MS: u64 = 3_000;

/// Where standard error is among a rank's streams.
const STDERR: usize = 1;

/// A rank and its output.
#[derive(Debug)]
pub(super) struct Rank {
    pub(super) rank: u32,
    /// Its process and process group, while it lives.
    pid: Option<Pid>,
    exit: Option<Exit>,
    pub(super) log: Log,
    /// Standard output and error, while open.
    pub(super) streams: [Option<Stream>; 2],
    /// A torchrun told that one of its ranks failed, before we began to end anything.
    failure: Option<Failure>,
}

impl Rank {
    /// Reads what a stream has; closes it at its end. `running`: what torchrun tells of failures counts.
    fn read(&mut self, stream: usize, running: bool) {
        let now = clock::now_ms();
        let Some(open) = self.streams.get_mut(stream) else {
            return;
        };
        let Some(pipe) = open else {
            return;
        };
        let ended = pipe.read(now, &mut self.log);
        if let Some(failure) = pipe.take_failure().filter(|_| running) {
            self.failure.get_or_insert(failure);
        }
        if ended && let Some(pipe) = open.take() {
            pipe.finish(now, &mut self.log);
        }
    }
}

/// One node's part of an attempt.
#[derive(Debug)]
pub(super) struct Keeper {
    plan: LaunchPlan,
    account: Account,
    phase: Phase,
    started: bool,
    launch_failed: Option<String>,
    pub(super) ranks: Vec<Rank>,
    exits_file: ExitsFile,
    /// When TERM becomes KILL.
    kill_at: Option<u64>,
    /// When leftovers are killed again.
    again_at: Option<u64>,
    /// SIGTERM came: go when all has ended, at the latest then.
    leave_at: Option<u64>,
    leaving: bool,
    released: bool,
    /// The agent, after its hello.
    pub(super) agent: Option<Connection>,
}

impl Keeper {
    /// # Errors
    /// When the logs cannot be made.
    pub(super) fn new(
        plan: LaunchPlan,
        mut account: Account,
        exits_file: ExitsFile,
    ) -> std::io::Result<Self> {
        ranks::raise_open_files(&mut account, plan.ranks.len());
        let logs = PathBuf::from(&plan.logs_dir);
        let rank = |rank: &crate::launch::RankPlan| {
            let log = Log::create(log_path(&logs, rank.rank), plan.log_cap_bytes)?;
            Ok(Rank {
                rank: rank.rank,
                pid: None,
                exit: None,
                log,
                streams: [None, None],
                failure: None,
            })
        };
        let ranks = plan
            .ranks
            .iter()
            .map(rank)
            .collect::<std::io::Result<_>>()?;
        Ok(Self {
            plan,
            account,
            phase: Phase::Waiting,
            started: false,
            launch_failed: None,
            ranks,
            exits_file,
            kill_at: None,
            again_at: None,
            leave_at: None,
            leaving: false,
            released: false,
            agent: None,
        })
    }

    /// May the process end?
    pub(super) fn is_done(&self) -> bool {
        self.released || (self.leaving && self.phase == Phase::Ended && self.agent.is_none())
    }

    /// When [`Keeper::on_time`] has something to do.
    pub(super) fn deadline(&self) -> Option<u64> {
        let streams = self
            .ranks
            .iter()
            .flat_map(|rank| &rank.streams)
            .flatten()
            .filter_map(Stream::due);
        streams
            .chain(
                [self.kill_at, self.again_at, self.leave_at]
                    .into_iter()
                    .flatten(),
            )
            .min()
    }

    /// Does what is due.
    pub(super) fn on_time(&mut self) {
        let now = clock::now_ms();
        for rank in &mut self.ranks {
            for stream in rank.streams.iter_mut().flatten() {
                stream.flush(now, &mut rank.log);
            }
        }
        let due = |at: Option<u64>| at.is_some_and(|at| at <= now);
        if due(self.kill_at) {
            self.kill_at = None;
            self.signal_ranks(Signal::SIGKILL);
        }
        if due(self.again_at) {
            self.on_children();
        }
        if due(self.leave_at) {
            self.leave_at = None;
            self.agent = None;
        }
    }

    /// A connection has said hello: it is the agent now, whoever was before.
    pub(super) fn greet(&mut self, mut connection: Connection, protocol: u32) {
        if !speaks(protocol) {
            connection.send(&FromKeeper::Refused {
                why: format!("protocol {protocol} is not spoken here; {PROTOCOL} is"),
            });
            return;
        }
        connection.send(&FromKeeper::Hello {
            protocol: PROTOCOL,
            status: self.status(),
        });
        for rank in &mut self.ranks {
            rank.log.news = false;
        }
        self.agent = Some(connection);
    }

    /// Does what the agent asks.
    pub(super) fn on_message(&mut self, message: ToKeeper) {
        match message {
            ToKeeper::Hello { .. } => self.refuse("hello was said before"),
            ToKeeper::Go {
                master_address,
                master_port,
            } => match self.phase {
                Phase::Waiting => self.start(&master_address, master_port),
                // Said again by a new leader: it counts once.
                Phase::Running => {}
                Phase::Stopping | Phase::Ended => self.refuse("the attempt is being ended"),
            },
            ToKeeper::Stop { grace_ms } => self.stop(grace_ms),
            ToKeeper::Release if self.phase == Phase::Ended => self.released = true,
            ToKeeper::Release => self.refuse("ranks are left: stop them first"),
        }
    }

    /// SIGTERM: ends the ranks, and itself when they are gone.
    pub(super) fn on_terminate(&mut self) {
        self.leaving = true;
        self.stop(self.plan.grace_ms);
        if self.phase == Phase::Ended {
            self.leave_at = Some(clock::now_ms() + LEAVE_MS);
        }
    }

    /// Some pipe has data or has ended.
    pub(super) fn on_output(&mut self, rank: usize, stream: usize) {
        let running = self.phase == Phase::Running;
        let Some(rank) = self.ranks.get_mut(rank) else {
            return;
        };
        rank.read(stream, running);
        if running && rank.failure.is_some() {
            self.stop(self.plan.grace_ms);
        }
    }

    /// Children have ended, or leftovers are looked at again.
    pub(super) fn on_children(&mut self) {
        self.again_at = None;
        let (failed, more) = self.take_ends();
        if self.phase == Phase::Running && failed {
            self.stop(self.plan.grace_ms);
            return;
        }
        let under_way = matches!(self.phase, Phase::Running | Phase::Stopping);
        if under_way && self.ranks.iter().all(|rank| rank.pid.is_none()) {
            self.clear(more);
        }
    }

    /// Puts on disk what this turn wrote down. Last, so that nobody waits for it.
    pub(super) fn sync(&mut self) {
        if let Err(error) = self.exits_file.sync() {
            tracing::error!(%error, "what ranks ended with may not survive a power cut");
        }
    }

    /// Tells the agent which logs grew, unless it has not read yet what it was told before.
    pub(super) fn tell_logs(&mut self) {
        for rank in &mut self.ranks {
            let Some(agent) = self.agent.as_mut().filter(|agent| !agent.is_full()) else {
                return;
            };
            if std::mem::take(&mut rank.log.news) {
                agent.send(&FromKeeper::LogGrew {
                    rank: rank.rank,
                    bytes: rank.log.bytes,
                    dropped: rank.log.dropped,
                });
            }
        }
    }

    fn status(&self) -> Status {
        let rank = |rank: &Rank| RankStatus {
            rank: rank.rank,
            log_bytes: rank.log.bytes,
            log_dropped: rank.log.dropped,
            log_ended: rank.log.ended,
            exit: rank.exit,
        };
        Status {
            pid: std::process::id(),
            phase: self.phase,
            started: self.started,
            launch_failed: self.launch_failed.clone(),
            ranks: self.ranks.iter().map(rank).collect(),
        }
    }

    fn tell(&mut self, message: &FromKeeper) {
        if let Some(agent) = &mut self.agent {
            agent.send(message);
        }
    }

    fn refuse(&mut self, why: &str) {
        self.tell(&FromKeeper::Refused { why: why.into() });
    }

    fn start(&mut self, address: &str, port: u16) {
        let plan = with_rendezvous(self.plan.clone(), address, port);
        self.phase = Phase::Running;
        for (rank, planned) in self.ranks.iter_mut().zip(&plan.ranks) {
            let started =
                ranks::start(planned, plan.work_dir.as_ref(), &self.account).and_then(|started| {
                    // The process is ours from here on, whatever happens to its pipes.
                    rank.pid = Some(started.pid);
                    let pipe = |fd, stderr| {
                        Stream::new(fd, stderr).map_err(|e| {
                            format!("cannot read the output of rank {}: {e}", planned.rank)
                        })
                    };
                    let (stdout, stderr) =
                        (pipe(started.stdout, false)?, pipe(started.stderr, true)?);
                    let torchrun = plan.method == LaunchMethod::Torchrun;
                    let stderr = if torchrun { stderr.watched() } else { stderr };
                    rank.streams = [Some(stdout), Some(stderr)];
                    Ok(())
                });
            if let Err(why) = started {
                self.launch_failed = Some(why.clone());
                self.tell(&FromKeeper::LaunchFailed { why });
                self.stop(0);
                return;
            }
        }
        self.started = true;
        self.tell(&FromKeeper::RanksStarted);
    }

    /// TERM now, KILL after the grace. Whatever ends from here on was ended by us.
    fn stop(&mut self, grace_ms: u32) {
        if self.phase == Phase::Ended {
            return;
        }
        let kill_at = clock::now_ms() + u64::from(grace_ms);
        if self.phase == Phase::Stopping {
            self.kill_at = self.kill_at.map(|at| at.min(kill_at));
            return;
        }
        // Ends that nobody has taken note of yet happened before this stop, and not because of it.
        if self.phase == Phase::Running {
            self.take_ends();
        }
        self.phase = Phase::Stopping;
        if self.ranks.iter().all(|rank| rank.pid.is_none()) {
            self.on_children();
            return;
        }
        self.kill_at = Some(kill_at);
        self.signal_ranks(Signal::SIGTERM);
        // A stopped process acts on TERM only once it goes on.
        self.signal_ranks(Signal::SIGCONT);
    }

    fn signal_ranks(&self, signal: Signal) {
        for pid in self.ranks.iter().filter_map(|rank| rank.pid) {
            // Not reaped yet, so the id is the rank's. The group is gone only with its last member.
            if killpg(pid, signal).is_err() {
                let _ = kill(pid, signal);
            }
        }
    }

    /// Takes note of children that ended. Did a rank fail, and are children left?
    fn take_ends(&mut self) -> (bool, bool) {
        let reaped = descendants::reap();
        let killed_by_us = self.phase == Phase::Stopping;
        let mut failed = false;
        for (pid, code, signal) in reaped.ended {
            // Others are orphans of a rank: nobody asks how they ended.
            let Some(rank) = self.ranks.iter_mut().find(|rank| rank.pid == Some(pid)) else {
                continue;
            };
            // Its last words may still wait in the pipe.
            rank.read(STDERR, !killed_by_us);
            let mut exit = Exit {
                rank: rank.rank,
                code,
                signal,
                killed_by_us,
            };
            if let Some(failure) = rank.failure {
                // The rank's own end says more than that of the torchrun above it, and came before anything that we did.
                (exit.code, exit.signal, exit.killed_by_us) = (failure.code, failure.signal, false);
            }
            rank.pid = None;
            rank.exit = Some(exit);
            failed |= exit.is_failure();
            if let Err(error) = self.exits_file.exited(exit) {
                tracing::error!(%error, "cannot write down how a rank ended");
            }
            self.tell(&FromKeeper::RankExited(exit));
        }
        (failed, reaped.more)
    }

    /// No rank lives: kills what they left, then closes the logs, then says so.
    fn clear(&mut self, more: bool) {
        self.phase = Phase::Stopping;
        self.kill_at = None;
        if more {
            descendants::kill_children();
            self.again_at = Some(clock::now_ms() + LEFTOVERS_MS);
            return;
        }
        let now = clock::now_ms();
        for at in 0..self.ranks.len() {
            let rank = &mut self.ranks[at];
            for pipe in rank.streams.iter_mut().filter_map(Option::take) {
                pipe.finish(now, &mut rank.log);
            }
            rank.log.ended = true;
            rank.log.news = false;
            let ended = FromKeeper::LogEnded {
                rank: rank.rank,
                bytes: rank.log.bytes,
                dropped: rank.log.dropped,
            };
            self.tell(&ended);
        }
        self.phase = Phase::Ended;
        if let Err(error) = self.exits_file.all_ended(self.launch_failed.clone()) {
            tracing::error!(%error, "cannot write down that all ranks ended");
        }
        let exits = self.status().exits();
        self.tell(&FromKeeper::AllEnded {
            exits,
            launch_failed: self.launch_failed.clone(),
        });
        if self.leaving {
            self.leave_at = Some(now + LEAVE_MS);
        }
    }
}
