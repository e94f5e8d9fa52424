//! The keeper's decisions: when ranks start, when and how they are ended, what the agent is told.
//!
//! Owns the ranks and their logs. How they end is `ending`; the loop that waits is `turns`; what a rank is at birth is `child`.

mod array;
mod ending;
mod fencing;
mod limiting;
mod mpi;

use std::path::PathBuf;

use mlctl_proto::spec::LaunchMethod;
use nix::sys::signal::Signal;
use nix::unistd::Pid;

use super::cage::Cage;
use super::clock;
use super::connection::Connection;
use super::exits::ExitsFile;
use super::fence::Fence;
use super::limit::Limit;
use super::mpi::Mpi;
use super::output::{Log, Stream, log_path};
use super::protocol::{Exit, FromKeeper, Phase, RankStatus, Status, ToKeeper, common, speaks};
use super::ranks::{self, Account};
use super::torchrun::Failure;
use super::version;
use crate::launch::{LaunchPlan, with_rendezvous};
use crate::tasks::TaskEnds;
use crate::witness::answer::Answering;
use array::Array;

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
    /// Ends the ranks when nobody confirms the node any more.
    fence: Option<Fence>,
    /// It did so, or had nothing to do; once is enough.
    fence_passed: bool,
    /// Why it ended them.
    fenced: Option<String>,
    /// Ends them when their time is over.
    limit: Option<Limit>,
    /// Why it did.
    timed_out: Option<String>,
    /// Answers witnesses, if the system let it have a port.
    pub(super) probe: Option<Answering>,
    /// SIGTERM came: go when all has ended, at the latest then.
    leave_at: Option<u64>,
    leaving: bool,
    released: bool,
    /// The agent, after its hello.
    pub(super) agent: Option<Connection>,
    /// What an MPI job adds.
    pub(super) mpi: Option<Mpi>,
    /// What an array adds; then `ranks` are its slots.
    pub(super) array: Option<Array>,
    /// What bounds the ranks and ends them.
    cage: Cage,
}

impl Keeper {
    /// # Errors
    /// When the logs cannot be made.
    pub(super) fn new(
        plan: LaunchPlan,
        mut account: Account,
        exits_file: ExitsFile,
        mpi: Option<Mpi>,
        cage: Cage,
    ) -> std::io::Result<Self> {
        let slots = plan.array.as_ref().map_or(0, |array| array.slots.len());
        ranks::raise_open_files(&mut account, plan.ranks.len().max(slots));
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
        let (array, ranks) = match Array::of(&plan) {
            Some((array, slots)) => (Some(array), slots),
            None => {
                let ranks = plan.ranks.iter().map(rank);
                (None, ranks.collect::<std::io::Result<_>>()?)
            }
        };
        Ok(Self {
            fence: plan.fence.map(Fence::new),
            fence_passed: false,
            fenced: None,
            limit: plan.limit.map(Limit::new),
            timed_out: None,
            probe: answering(),
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
            mpi,
            array,
            cage,
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
                [
                    self.kill_at,
                    self.again_at,
                    self.leave_at,
                    self.fence_due(),
                    self.limit_due(),
                ]
                .into_iter()
                .flatten(),
            )
            .chain(self.mpi.as_ref().and_then(|mpi| mpi.remotes.due()))
            .chain(self.array.as_ref().and_then(|array| array.tasks.tell_at()))
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
        self.on_fence(now);
        self.on_limit(now);
        let due = |at: Option<u64>| at.is_some_and(|at| at <= now);
        if due(self.kill_at) {
            self.kill_at = None;
            self.signal_ranks(Signal::SIGKILL);
            self.cage.kill();
        }
        if due(self.array.as_ref().and_then(|array| array.tasks.tell_at())) {
            self.tell_tasks();
        }
        if due(self.again_at) {
            self.on_children();
        }
        if due(self.leave_at) {
            self.leave_at = None;
            self.agent = None;
        }
        self.mpi_does(|mpi| mpi.remotes.on_time(now));
    }

    /// A connection has said hello: it is the agent now, whoever was before; unless it speaks what is not spoken here, then `false`.
    pub(super) fn greet(&mut self, mut connection: Connection, protocol: u32) -> bool {
        let own = version::own();
        if !speaks(own, protocol) {
            connection.send(&FromKeeper::Refused {
                why: format!("protocol {protocol} is not spoken here; {own} is"),
            });
            return false;
        }
        connection.send(&FromKeeper::Hello {
            protocol: common(own, protocol),
            status: self.status(),
        });
        for rank in &mut self.ranks {
            rank.log.news = false;
        }
        if let Some(array) = &mut self.array {
            drop(array.tasks.take_news());
        }
        self.agent = Some(connection);
        true
    }

    /// Does what the agent asks.
    pub(super) fn on_message(&mut self, message: ToKeeper) {
        match message {
            ToKeeper::Hello { .. } => self.refuse("hello was said before"),
            ToKeeper::Go {
                master_address,
                master_port,
            } => match self.phase {
                Phase::Waiting if !self.may_start() => self.refuse("no lease holds"),
                Phase::Waiting => self.start(&master_address, master_port),
                // Said again by a new leader: it counts once.
                Phase::Running => {}
                Phase::Stopping | Phase::Ended => self.refuse("the attempt is being ended"),
            },
            ToKeeper::Stop { grace_ms } => self.stop_as_told(grace_ms),
            ToKeeper::Lease { confirmed_at_ms } => self.lease(confirmed_at_ms),
            ToKeeper::Remote { from, what } => {
                self.mpi_does(|mpi| mpi.remotes.heard(clock::now_ms(), from, what));
                self.end_if_empty();
            }
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

    /// Puts on disk what this turn wrote down. Last, so that nobody waits for it.
    pub(super) fn sync(&mut self) {
        self.write_tasks();
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
            log_rotated: rank.log.rotated,
            log_ended: rank.log.ended,
            exit: rank.exit,
        };
        let array = self.array.as_ref();
        // An idle slot is no task, and a task that said nothing has no log.
        let shown = |rank: &&Rank| array.is_none() || rank.log.bytes > 0;
        let tasks = array.map_or_else(TaskEnds::default, |array| array.tasks.all().clone());
        Status {
            pid: std::process::id(),
            phase: self.phase,
            started: self.started,
            launch_failed: self.launch_failed.clone(),
            ranks: self.ranks.iter().filter(shown).map(rank).collect(),
            fenced: self.fenced.clone(),
            timed_out: self.timed_out.clone(),
            probe: self.probe.as_ref().map(Answering::port),
            tasks,
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
        self.plan = with_rendezvous(self.plan.clone(), address, port);
        self.phase = Phase::Running;
        if let Err(why) = self.start_all() {
            self.launch_failed = Some(why.clone());
            self.tell(&FromKeeper::LaunchFailed { why });
            self.stop(0);
            return;
        }
        self.started = true;
        self.begin_limit();
        self.tell(&FromKeeper::RanksStarted);
        self.mpi_does(|mpi| mpi.remotes.begin());
        if self.mpi.as_ref().is_some_and(|mpi| mpi.finished) {
            self.finish();
        }
    }

    fn start_all(&mut self) -> Result<(), String> {
        if self.array.is_some() {
            return self.start_tasks();
        }
        let serves = self.mpi.as_ref().is_some_and(Mpi::serves);
        let ranks = if serves { 0 } else { self.ranks.len() };
        (0..ranks).try_for_each(|at| self.start_rank(at, None))
    }

    /// Starts one rank. `line`: what an `mpirun` wants run in its place.
    fn start_rank(&mut self, at: usize, line: Option<String>) -> Result<(), String> {
        let (Some(rank), Some(planned)) = (self.ranks.get_mut(at), self.plan.ranks.get(at)) else {
            return Err("the plan has no such rank".into());
        };
        let mut planned = planned.clone();
        planned.argv.extend(line);
        let started = ranks::start(
            &planned,
            self.plan.work_dir.as_ref(),
            &self.account,
            self.cage.entry(),
        )?;
        // The process is ours from here on, whatever happens to its pipes.
        rank.pid = Some(started.pid);
        if let Some(why) = &started.unbound {
            ranks::say_unbound("rank", planned.rank, &planned.cpus, why);
        }
        let pipe = |fd, stderr| {
            Stream::new(fd, stderr)
                .map_err(|e| format!("cannot read the output of rank {}: {e}", planned.rank))
        };
        let (stdout, stderr) = (pipe(started.stdout, false)?, pipe(started.stderr, true)?);
        let torchrun = self.plan.method == LaunchMethod::Torchrun;
        let stderr = if torchrun { stderr.watched() } else { stderr };
        rank.streams = [Some(stdout), Some(stderr)];
        Ok(())
    }
}

/// A port for witnesses. A node that has none to give is believed lost only after long silence.
fn answering() -> Option<Answering> {
    match Answering::bind() {
        Ok(answering) => Some(answering),
        Err(error) => {
            tracing::warn!(%error, "no port to answer witnesses on");
            None
        }
    }
}
