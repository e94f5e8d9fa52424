//! Teams as rows: what an admin says of each node of the quota tree, and what its budgets and its usage have come to.
//! Does NOT hold what its jobs hold now: that follows from the open attempts, and `view` counts it.
use std::collections::BTreeMap;

use mlctl_proto::spec::Class;
use mlctl_proto::units::UtcMs;

use crate::state::view::teams::{Flavor, Quota};

/// The team that every cluster begins with, and that everybody is in until somebody is named there.
pub const EVERYBODYS: &str = "default";

/// What a team, or each of its users, may have at most. A limit that is not there does not bind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum TeamLimit {
    /// Tasks that wait, all users together: a job is one, an array as many as wait of it.
    MaxPending,
    /// Jobs that start, run or stop, all users together.
    MaxRunning,
    /// Milliseconds of one attempt.
    MaxTimeMs,
    /// Bytes of checkpoints that nodes hold.
    CheckpointBytes,
    /// Tasks of one user that wait.
    UserMaxPending,
    /// Jobs of one user that start, run or stop.
    UserMaxRunning,
}

impl TeamLimit {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::MaxPending,
        Self::MaxRunning,
        Self::MaxTimeMs,
        Self::CheckpointBytes,
        Self::UserMaxPending,
        Self::UserMaxRunning,
    ];

    /// The word people and programs see.
    pub fn word(self) -> &'static str {
        match self {
            Self::MaxPending => "max_pending",
            Self::MaxRunning => "max_running",
            Self::MaxTimeMs => "max_time",
            Self::CheckpointBytes => "checkpoint_bytes",
            Self::UserMaxPending => "user_max_pending",
            Self::UserMaxRunning => "user_max_running",
        }
    }
}

/// Somebody who may submit jobs to a team.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// For people; the id decides.
    pub name: String,
    /// Jobs of this user go to this team unless they say otherwise. A user has at most one such team.
    pub default: bool,
}

/// A zone's clock: how many seconds it is ahead of UTC, from when on. Whoever makes the command looks it up, so that state needs no tables of
/// zones. The first entry holds for all time before the second.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Zone {
    /// Its IANA name: `Europe/Berlin`.
    pub name: String,
    /// When, and from then on how many seconds ahead of UTC; ascending, at least one.
    pub offsets: Vec<(UtcMs, i32)>,
}

/// When what was used of a budget stops counting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Window {
    /// At the beginning of each calendar month of a zone.
    Month(Zone),
    /// Hour by hour, after so many days.
    Rolling(u32),
}

/// What happens when a budget does not cover more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum WhenExhausted {
    /// New jobs wait; a reserve of 5 % is kept for those that had been started.
    Hold,
    /// Jobs go on, and start, after all others; that is not charged.
    LowPriority,
    /// New jobs wait, and those that run are ended and wait.
    Stop,
}

/// So much of one flavor, in each window. Unit-milliseconds: 7,000,000 for one GPU and one second (docs/QUOTAS.md, Budgets).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Budget {
    /// Unit-milliseconds.
    pub limit: u64,
    /// When it begins anew.
    pub window: Window,
    /// What happens at its end.
    pub when_exhausted: WhenExhausted,
    /// It allows nothing from then on; 0: it stays.
    pub until_ms: UtcMs,
}

/// A node of the quota tree: what an admin says of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Team {
    /// Its path, such as `acme/vision`: its parent is the path above, if there is one.
    pub name: String,
    /// Its part among its siblings, at least 1.
    pub weight: u32,
    /// What it may hold, by flavor.
    pub quotas: BTreeMap<Flavor, Quota>,
    /// What one user may hold in it, units, by flavor.
    pub user_caps: BTreeMap<Flavor, u64>,
    /// What else is limited.
    pub limits: BTreeMap<TeamLimit, u64>,
    /// By user id. Whoever may use the cluster may use [`EVERYBODYS`] while nobody is named there.
    pub members: BTreeMap<String, Member>,
    /// What it may use up, by flavor.
    pub budgets: BTreeMap<Flavor, Budget>,
    /// The most urgent class that jobs of it, and of teams in it, may have, if that is said here.
    pub max_class: Option<Class>,
}

impl Team {
    /// A team of which nothing was said.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            weight: 1,
            quotas: BTreeMap::new(),
            user_caps: BTreeMap::new(),
            limits: BTreeMap::new(),
            members: BTreeMap::new(),
            budgets: BTreeMap::new(),
            max_class: None,
        }
    }

    /// The path of its parent.
    pub fn parent(&self) -> Option<&str> {
        self.name.rsplit_once('/').map(|(above, _)| above)
    }

    /// A limit, if there is one.
    pub fn limit(&self, which: TeamLimit) -> Option<u64> {
        self.limits.get(&which).copied()
    }

    /// Whether a user may submit to it.
    pub fn takes(&self, user_id: &str) -> bool {
        let open = self.name == EVERYBODYS && self.members.is_empty();
        open || self.members.contains_key(user_id)
    }

    /// Every flavor that it names.
    pub fn flavors(&self) -> impl Iterator<Item = &Flavor> {
        let quotas = self.quotas.keys().chain(self.user_caps.keys());
        quotas.chain(self.budgets.keys())
    }
}

/// What a budget has come to. Both maps are by the beginning of a month or an hour, as its window counts, UTC milliseconds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Account {
    /// Unit-milliseconds that were used.
    pub used: BTreeMap<UtcMs, u64>,
    /// Unit-milliseconds that running attempts may still use.
    pub committed: BTreeMap<UtcMs, u64>,
    /// Unit-milliseconds that were used beyond it: at low priority, or while nobody could renew.
    pub beyond: u64,
}

/// The account of one budget, as a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BudgetAccount {
    /// Whose.
    pub team: String,
    /// Of what.
    pub flavor: Flavor,
    /// What it has come to.
    pub account: Account,
}

/// What an attempt holds of one flavor, and up to when budgets cover it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Charge {
    /// Of what.
    pub flavor: Flavor,
    /// Units that it holds.
    pub units: u64,
    /// What was used before this is in the accounts.
    pub from_ms: UtcMs,
    /// Committed up to then; `from_ms`: nothing is.
    pub until_ms: UtcMs,
    /// Teams at whose budgets it is committed, from its own upwards.
    pub at: Vec<String>,
}

/// Usage that fades: half of it is gone after each half-life. See `rules::decay`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Decayed {
    /// Unit-seconds / 2^16, as they were worth at the beginning of `half_life`.
    pub value: u128,
    /// Which half-life since 1970 that is.
    pub half_life: u32,
}

/// What a team's own jobs, or those of one of its users, have used, as a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TeamUsage {
    /// The team.
    pub team: String,
    /// The user's id; empty: all of them.
    pub user: String,
    /// What is left of it.
    pub usage: Decayed,
}

/// One thing that a change of teams did, or would do, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TeamChange {
    /// The team; in what is decided about scheduling: `scheduling`, `node a`, `pool spot`.
    pub team: String,
    /// What of it: `weight`, `quota H100`.
    pub what: String,
    /// What it was; empty: it was not there.
    pub before: String,
    /// What it is now; empty: it is not there any more.
    pub after: String,
}
