//! Jobs as the scheduler sees them: those that wait, those that run, and what was promised to whom. Does NOT know a job's true length: nobody does.
use std::sync::Arc;

use mlctl_proto::ids::{Epoch, JobId};
use mlctl_proto::units::UtcMs;

use super::ask::Ask;

/// How urgent a job is: strict.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Class {
    /// After all others.
    Low,
    /// Unless somebody says otherwise.
    #[default]
    Normal,
    /// Before those.
    High,
    /// Before all others.
    Critical,
}

impl Class {
    /// All of them, ascending.
    pub const ALL: [Self; 4] = [Self::Low, Self::Normal, Self::High, Self::Critical];
}

/// Why a job that waits cannot start whatever is free. The scheduler passes it over and says so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Blocked {
    /// A person holds it.
    Held,
    /// Its start time is ahead.
    StartTime(UtcMs),
    /// Another job has to end first.
    Dependency(JobId),
    /// It failed and backs off.
    Backoff(UtcMs),
    /// Its last attempt still holds something, or left checkpoints of which word is on its way.
    LastAttempt,
}

/// One task of an array, or one job, may be sliced into waves: what the scheduler has to know of that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tasks {
    /// That wait.
    pub waiting: u32,
    /// That run.
    pub running: u32,
    /// At once, at most; `None`: any number.
    pub at_once: Option<u32>,
}

/// A job that waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// Its id.
    pub id: JobId,
    /// Its team's path.
    pub team: Arc<str>,
    /// Its owner.
    pub user: Arc<str>,
    /// How urgent.
    pub class: Class,
    /// When it was submitted; kept over requeues.
    pub submit_ms: UtcMs,
    /// Log index of the submit.
    pub submit_index: u64,
    /// Since when it waits and could be chosen, less what it was blocked since: `now - eligible_ms` is its eligible waiting.
    pub eligible_ms: UtcMs,
    /// What it asks for.
    pub ask: Arc<Ask>,
    /// How long an attempt may run, milliseconds, if it says so.
    pub limit_ms: Option<u64>,
    /// It may be ended for others at any time.
    pub preemptible: bool,
    /// Interactive: no guest of a backfill, never sliced.
    pub interactive: bool,
    /// Why it cannot start, whatever is free.
    pub blocked: Option<Blocked>,
    /// Of an array.
    pub tasks: Option<Tasks>,
    /// Nodes that failed it.
    pub avoid: Vec<Arc<str>>,
    /// Rank 0 has to be on one of these: they hold its checkpoint, which nobody else can have. Empty: anywhere.
    pub rank_0: Vec<Arc<str>>,
    /// Unit-seconds that it, or its array as a whole, has had.
    pub attained: u64,
    /// How long its attempts ran, milliseconds.
    pub ran_ms: u64,
    /// When others took its devices, newest last, 24 h.
    pub evicted_ms: Vec<UtcMs>,
    /// It may not preempt until then.
    pub no_preempt_until_ms: UtcMs,
    /// It was a backfill guest and was taken for that already.
    pub was_guest_taken: bool,
}

/// Where one node's part of a gang is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seat {
    /// The node.
    pub node: Arc<str>,
    /// Its devices, by place in [`super::nodes::NodeView::devices`].
    pub devices: Vec<u16>,
}

/// How a running attempt came to run, and how it may be ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Footing {
    /// It was its turn.
    Regular,
    /// It was let in before others on an estimate of its length, until then.
    Guest(UtcMs),
}

/// An attempt that holds something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Running {
    /// Its job.
    pub id: JobId,
    /// Which attempt.
    pub epoch: Epoch,
    /// Its team's path.
    pub team: Arc<str>,
    /// Its owner.
    pub user: Arc<str>,
    /// How urgent.
    pub class: Class,
    /// What it asked for.
    pub ask: Arc<Ask>,
    /// Where it is, in node-rank order.
    pub seats: Vec<Seat>,
    /// Submit, for ties.
    pub submit_index: u64,
    /// When it was started.
    pub started_ms: UtcMs,
    /// How long it may run, milliseconds, if it says so.
    pub limit_ms: Option<u64>,
    /// It may be ended for others at any time.
    pub preemptible: bool,
    /// Interactive.
    pub interactive: bool,
    /// How it came to run.
    pub footing: Footing,
    /// When its newest durable checkpoint of this attempt was made; `None`: it has none.
    pub saved_ms: Option<UtcMs>,
    /// It was told to end, and will be gone by then.
    pub ends_by_ms: Option<UtcMs>,
    /// Nodes beyond the fewest on which it runs.
    pub surplus: u32,
    /// Unit-seconds that its job had before this attempt.
    pub attained: u64,
    /// How long earlier attempts ran, milliseconds.
    pub ran_ms: u64,
    /// How long it waited, milliseconds.
    pub waited_ms: u64,
    /// When others took its devices, newest last, 24 h.
    pub evicted_ms: Vec<UtcMs>,
    /// Protected until then.
    pub min_runtime_ms: u64,
}

/// A start that was promised to a gang (docs/SCHEDULING.md, Reservations).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reservation {
    /// To whom.
    pub job: JobId,
    /// When.
    pub start_ms: UtcMs,
    /// Where.
    pub nodes: Vec<Arc<str>>,
}

/// Devices that are kept for a job whose victims are being ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hold {
    /// For whom.
    pub job: JobId,
    /// Where.
    pub seats: Vec<Seat>,
    /// Until then.
    pub until_ms: UtcMs,
    /// Who is being ended for it, and whether it was signalled.
    pub victims: Vec<(JobId, Epoch, bool)>,
}
