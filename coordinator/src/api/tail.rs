//! The log of one attempt: what is stored, then what is pushed, until every rank has ended or nothing more can come.
//!
//! Woken by pushed pieces and by applied commands; nothing is polled.
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use mlctl_proto::api::LogLine;
use mlctl_proto::errors::{Code, Refusal};
use mlctl_proto::ids::{Epoch, JobId};
use mlctl_proto::logs::DUMP;
use mlctl_proto::spec::{LaunchMethod, parse_json};
use mlctl_proto::units::bytes_text;
use tokio::time::Instant;
use tonic::Status;

use super::logs::Lines;
use super::{keeping, shown};
use crate::logs::{Entry, Limits, Line, LogError, Missing, Reader, Stored};
use crate::shared::Shared;
use crate::state::State;
use crate::state::records::{Allocation, AllocationPhase, Attempt, EndKind, Liveness};

/// After an attempt's end this is waited for what its nodes still have.
pub const GRACE: Duration = Duration::from_secs(2);

/// Text in one message, for those that take many lines at once.
const BATCH_BYTES: usize = 64 * 1024;
/// What else a line takes there.
const LINE_BYTES: usize = 32;

/// One attempt's log.
pub struct Tail {
    shared: Arc<Shared>,
    job: JobId,
    epoch: Epoch,
    rank: Option<u32>,
    many: bool,
}

/// Whether more can come.
enum More {
    /// Every log has ended, or its node is gone.
    No,
    /// Ranks run.
    Yes,
    /// The attempt is over; these nodes have not sent all.
    Late(Vec<String>),
}

impl Tail {
    /// The log of (`job`, `epoch`); of one rank if `rank` names it; `many` lines in one message or one.
    pub fn new(
        shared: &Arc<Shared>,
        job: JobId,
        epoch: Epoch,
        rank: Option<u32>,
        many: bool,
    ) -> Self {
        Self {
            shared: Arc::clone(shared),
            job,
            epoch,
            rank,
            many,
        }
    }

    /// A state that has the job, if it can be had.
    async fn state(&self) -> Arc<State> {
        let state = shown::state_with(&self.shared, self.job).await;
        state.unwrap_or_else(|_| self.shared.state())
    }

    fn reader(&self) -> Reader {
        Reader::new(&self.shared.logs, self.job, self.epoch, self.rank)
    }

    /// Shows what is stored; with `follow` what comes too. `Err(None)`: the reader of the stream is gone.
    pub async fn run(&self, follow: bool, lines: &Lines) -> Result<(), Option<Status>> {
        let (_keep, mut grown) = self.shared.logs.watch(self.job);
        let mut applied = self.shared.published.applied();
        let mut reader = self.reader();
        let (mut deadline, mut gathered) = (None, false);
        loop {
            grown.borrow_and_update();
            applied.borrow_and_update();
            // Before the logs are read: what had ended then was stored then.
            let state = self.state().await;
            reader = self.drain(reader, lines).await?;
            let stored = reader.stored();
            let more = self.more(&state, &stored);
            if reader.stopped() || self.is_asked_for(&state, &stored, &more) {
                if !std::mem::replace(&mut gathered, true) {
                    keeping::gather(&self.shared, self.job, self.epoch).await;
                    continue;
                }
                if reader.stopped() {
                    reader.pass_gaps();
                    continue;
                }
            }
            let over = match more {
                More::No => return self.finish(&state, &stored, lines).await,
                More::Yes if !follow => return Ok(()),
                More::Yes => None,
                More::Late(nodes) => Some(nodes),
            };
            if let Some(nodes) = &over
                && *deadline.get_or_insert_with(|| self.deadline(&state)) <= Instant::now()
            {
                let text = format!("the log of {} may be incomplete", nodes.join(", "));
                note(&self.shared, lines, self.epoch.counter, text).await?;
                return self.finish(&state, &stored, lines).await;
            }
            let until = deadline.filter(|_| over.is_some());
            tokio::select! {
                _ = grown.changed() => {}
                _ = applied.changed() => {}
                () = wait_until(until) => {}
                () = lines.closed() => return Err(None),
                () = deposed(&self.shared) => return Err(Some(moved())),
            }
        }
    }

    /// Shows what ranks dumped. `Err(None)`: the reader of the stream is gone.
    pub async fn dumps(&self, lines: &Lines) -> Result<(), Option<Status>> {
        let state = self.state().await;
        let closed = state
            .attempt(self.job, self.epoch)
            .is_none_or(|attempt| attempt.closed());
        if closed {
            // There is no telling whether this member has all.
            keeping::gather(&self.shared, self.job, self.epoch).await;
        }
        let mut reader = self.reader().of_dumps();
        reader.pass_gaps();
        self.drain(reader, lines).await.map(|_| ())
    }

    /// Whether the other members are to be asked: the attempt is over, this member lacks the end of a log, and no node will bring it.
    fn is_asked_for(&self, state: &State, stored: &BTreeMap<u32, Stored>, more: &More) -> bool {
        let over = match more {
            More::Yes => false,
            More::No => true,
            More::Late(_) => {
                let nothing = stored.values().all(|stored| stored.offset == 0);
                nothing || self.deadline(state) <= Instant::now()
            }
        };
        let attempt = state.attempt(self.job, self.epoch);
        let lacks = |attempt| {
            let layout = Layout::of(state, self.job);
            !layout.without_end(attempt, stored, self.rank).is_empty()
        };
        over && attempt.is_none_or(|attempt| lacks(attempt))
    }

    /// Says what is known to be missing.
    async fn finish(
        &self,
        state: &State,
        stored: &BTreeMap<u32, Stored>,
        lines: &Lines,
    ) -> Result<(), Option<Status>> {
        let attempt = self.epoch.counter;
        if let Some(found) = state.attempt(self.job, self.epoch) {
            let layout = Layout::of(state, self.job);
            let mut cut = layout.without_end(found, stored, self.rank);
            cut.retain(|allocation| kind(allocation) == Some(EndKind::NodeLost));
            for allocation in cut.iter().filter(|_| found.running_ms != 0) {
                let node = &allocation.node;
                let text = format!("the log of {node} may lack its end: the node was lost");
                note(&self.shared, lines, attempt, text).await?;
            }
        }
        let dumps = self.dumped().await?;
        if dumps > 0 {
            let text = format!(
                "{dumps} ranks left dumps of a hung collective: mlctl logs {} --attempt {attempt} --dumps DIR",
                self.job
            );
            note(&self.shared, lines, attempt, text).await?;
        }
        for (rank, stored) in stored.iter().filter(|(_, stored)| stored.dropped > 0) {
            let lost = bytes_text(stored.dropped);
            let text = format!("rank {rank}: its node could not keep {lost} of log");
            note(&self.shared, lines, attempt, text).await?;
        }
        Ok(())
    }

    /// How many ranks left a dump.
    async fn dumped(&self) -> Result<usize, Option<Status>> {
        let (logs, job, epoch) = (self.shared.logs.clone(), self.job, self.epoch);
        let look = move || logs.attempt(job, epoch).map(|attempt| attempt.ranks());
        let ranks = tokio::task::spawn_blocking(look).await;
        let ranks = ranks.map_err(|error| Some(Status::internal(error.to_string())))?;
        let ranks = ranks.map_err(disk)?;
        Ok(ranks.iter().filter(|rank| **rank & DUMP != 0).count())
    }

    async fn drain(&self, mut reader: Reader, lines: &Lines) -> Result<Reader, Option<Status>> {
        loop {
            let read = tokio::task::spawn_blocking(move || (reader.read(), reader)).await;
            let (found, back) = read.map_err(|error| Some(Status::internal(error.to_string())))?;
            reader = back;
            let found = found.map_err(disk)?;
            if found.is_empty() {
                return Ok(reader);
            }
            let mut batch = Batch::default();
            for entry in found {
                let line = match entry {
                    Entry::Line(line) => self.line(line),
                    Entry::Missing(missing) => {
                        let text = gap(&missing, self.shared.logs.limits());
                        remark(&self.shared, self.epoch.counter, text)
                    }
                };
                if let Some(full) = batch.push(line, self.many) {
                    lines.send(Ok(full)).await.map_err(|_| None)?;
                }
            }
            if let Some(rest) = batch.first {
                lines.send(Ok(rest)).await.map_err(|_| None)?;
            }
        }
    }

    fn line(&self, line: Line) -> LogLine {
        LogLine {
            attempt: self.epoch.counter,
            rank: line.rank,
            stderr: line.stderr,
            text: line.text,
            time_ms: i64::try_from(line.time_ms).unwrap_or(i64::MAX),
            note: String::new(),
            partial: line.partial,
            offset: line.offset,
            more: Vec::new(),
        }
    }

    /// How long what is late is waited for: from the attempt's end, as the state has it.
    fn deadline(&self, state: &State) -> Instant {
        let ended = state
            .attempt(self.job, self.epoch)
            .map_or(0, |attempt| attempt.ended_ms);
        let since = u64::try_from(self.shared.clock.now_ms().saturating_sub(ended)).unwrap_or(0);
        Instant::now() + GRACE.saturating_sub(Duration::from_millis(since))
    }

    fn more(&self, state: &State, stored: &BTreeMap<u32, Stored>) -> More {
        let Some(attempt) = state.attempt(self.job, self.epoch) else {
            return More::No;
        };
        let layout = Layout::of(state, self.job);
        let late = layout.late(state, attempt, stored, self.rank);
        match (late.is_empty(), attempt.closed()) {
            (true, true) => More::No,
            (false, true) => More::Late(late),
            (_, false) => More::Yes,
        }
    }
}

/// How a node's part ended.
fn kind(allocation: &Allocation) -> Option<EndKind> {
    allocation.end.as_ref().map(|end| end.kind)
}

/// Which logs an attempt has.
struct Layout {
    /// Ranks on each node.
    ranks: u32,
    /// Logs of each node: one, if the launch method starts the ranks behind one process, which bears the first one's number.
    logs: u32,
}

impl Layout {
    fn of(state: &State, job: JobId) -> Self {
        let job = state.job(job);
        let spec = job
            .and_then(|job| state.spec(&job.spec_hash))
            .and_then(|spec| parse_json(&spec.json).ok());
        let ranks = spec.as_ref().map_or(1, |spec| spec.ranks_per_node().max(1));
        let behind_one = spec.is_some_and(|spec| spec.launcher == LaunchMethod::Torchrun);
        Self {
            ranks,
            logs: if behind_one { 1 } else { ranks },
        }
    }

    /// The parts whose ranks ran, as far as is known, and whose logs have not all ended here.
    fn without_end<'a>(
        &self,
        attempt: &'a Attempt,
        stored: &BTreeMap<u32, Stored>,
        only: Option<u32>,
    ) -> Vec<&'a Allocation> {
        if let Some(wave) = &attempt.wave {
            let ended = |task: u32| stored.get(&task).is_some_and(|stored| stored.end);
            let mut spoke = wave.spoke.iter();
            let lacks = spoke.any(|task| only.is_none_or(|only| only == task) && !ended(task));
            return attempt.allocations.iter().filter(|_| lacks).collect();
        }
        let firsts = (0_u32..).step_by(self.ranks as usize);
        let lacks = |(allocation, first): &(&Allocation, u32)| {
            let mut ranks =
                (*first..*first + self.logs).filter(|rank| only.is_none_or(|only| only == *rank));
            let ended = |rank: u32| stored.get(&rank).is_some_and(|stored| stored.end);
            let never = matches!(
                kind(allocation),
                Some(EndKind::NeverStarted | EndKind::LaunchFailed)
            );
            !never && ranks.any(|rank| !ended(rank))
        };
        let parts = attempt.allocations.iter().zip(firsts).filter(lacks);
        parts.map(|(allocation, _)| allocation).collect()
    }

    /// Nodes whose logs have not all ended and from which more may come.
    fn late(
        &self,
        state: &State,
        attempt: &Attempt,
        stored: &BTreeMap<u32, Stored>,
        only: Option<u32>,
    ) -> Vec<String> {
        let ended = |rank: &u32| stored.get(rank).is_some_and(|stored| stored.end);
        let mut late = Vec::new();
        if let Some(wave) = &attempt.wave {
            let comes = |rank: &u32| only.is_none_or(|only| only == *rank) && !ended(rank);
            let missing = wave.spoke.iter().any(|task| comes(&task));
            let begun = stored.iter().filter(|(_, stored)| stored.offset > 0);
            if missing || begun.into_iter().any(|(task, _)| comes(task)) {
                let nodes = attempt
                    .allocations
                    .iter()
                    .filter(|one| may_come(state, one));
                late.extend(nodes.map(|one| one.node.clone()));
            }
            return late;
        }
        for (allocation, first) in attempt
            .allocations
            .iter()
            .zip((0_u32..).step_by(self.ranks as usize))
        {
            let mut ranks =
                (first..first + self.logs).filter(|rank| only.is_none_or(|only| only == *rank));
            let ran = |rank: &u32| {
                let exited = allocation.exits.iter().any(|exit| exit.rank == *rank);
                exited || stored.get(rank).is_some_and(|stored| stored.offset > 0)
            };
            if may_come(state, allocation) && ranks.any(|rank| ran(&rank) && !ended(&rank)) {
                late.push(allocation.node.clone());
            }
        }
        late
    }
}

/// The log in which a rank's lines are.
pub fn log_of(state: &State, job: JobId, rank: u32) -> u32 {
    let layout = Layout::of(state, job);
    if layout.logs == layout.ranks {
        rank
    } else {
        rank - rank % layout.ranks
    }
}

/// Whether a node may still send something of its part.
fn may_come(state: &State, allocation: &Allocation) -> bool {
    let gone = state
        .node(&allocation.node)
        .is_none_or(|node| node.liveness == Liveness::Lost);
    let nothing = matches!(
        kind(allocation),
        Some(EndKind::NodeLost | EndKind::NeverStarted | EndKind::LaunchFailed)
    );
    let lost = gone && allocation.phase == AllocationPhase::Ended;
    !lost && !nothing
}

/// What is said of a gap.
fn gap(missing: &Missing, limits: Limits) -> String {
    let (rank, bytes) = (missing.rank, bytes_text(missing.bytes));
    if missing.from >= limits.head {
        let (head, tail) = (bytes_text(limits.head), bytes_text(limits.tail));
        format!(
            "rank {rank}: {bytes} are left out here: of a longer log the first {head} and the last {tail} are kept"
        )
    } else {
        format!("rank {rank}: {bytes} are missing here: no sound copy is left")
    }
}

/// A line that mlctl says itself.
pub async fn note(
    shared: &Shared,
    lines: &Lines,
    attempt: u64,
    note: String,
) -> Result<(), Option<Status>> {
    let line = remark(shared, attempt, note);
    lines.send(Ok(line)).await.map_err(|_| None)
}

fn remark(shared: &Shared, attempt: u64, note: String) -> LogLine {
    LogLine {
        attempt,
        note,
        time_ms: shared.clock.now_ms(),
        ..LogLine::default()
    }
}

/// Lines that go in one message.
#[derive(Default)]
struct Batch {
    first: Option<LogLine>,
    bytes: usize,
}

impl Batch {
    /// Takes a line. A message that is full is to be sent.
    fn push(&mut self, line: LogLine, many: bool) -> Option<LogLine> {
        let bytes = line.text.len() + LINE_BYTES;
        match &mut self.first {
            Some(first) if many && self.bytes + bytes <= BATCH_BYTES => {
                first.more.push(line);
                self.bytes += bytes;
                None
            }
            _ => {
                self.bytes = bytes;
                self.first.replace(line)
            }
        }
    }
}

/// Returns when this member leads no more or the process ends.
pub async fn deposed(shared: &Shared) {
    let mut leading = shared.published.leading();
    tokio::select! {
        _ = leading.wait_for(Option::is_none) => {}
        () = shared.shutdown.wait() => {}
    }
}

/// What a reader is told then.
pub fn moved() -> Status {
    Refusal::new(
        Code::Unavailable,
        "this coordinator leads no more; ask for the log again",
    )
    .into()
}

async fn wait_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

fn disk(error: LogError) -> Option<Status> {
    tracing::error!(%error, "a log cannot be read");
    Some(Refusal::new(Code::Internal, error.to_string()).into())
}
