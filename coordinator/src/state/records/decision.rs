//! What an admin decides about scheduling, as rows: settings that differ from the shipped ones, countables, what is paused, times of maintenance, owners of
//! nodes and rules of pools. Does NOT say what follows from it: `rules::access` does.
use mlctl_proto::spec::{Class, Moment};
use mlctl_proto::units::{UtcMs, duration_text};

use crate::state::view::nodes::{Guests, Sharing};

/// A setting of the scheduler, by the name under which an admin sets it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum SchedKey {
    /// `fair` or `las`.
    Policy,
    /// How many jobs per pool and type have a start promised.
    Reservations,
    /// Waiting after which a job is aged, milliseconds of each class.
    AgeLimit,
    /// How long a job without a limit is safe, milliseconds of each class.
    DefaultTime,
    /// The longest notice before an end, milliseconds of each class.
    Grace,
    /// Between TERM and KILL, with cleaning up, milliseconds.
    Kill,
    /// How long devices stay held for who took them, beyond notice and kill, milliseconds.
    Hold,
    /// Half-life of usage, milliseconds.
    HalfLife,
    /// `las`: GPU-milliseconds at which a job leaves the first queue, the second, ...
    LasThresholds,
    /// `las`: how long an attempt runs at least, milliseconds.
    LasQuantum,
    /// `las`: promoted after waiting so many times as long as it ran.
    LasPromote,
    /// Jobs without GPUs leave the last GPU of a node its processors.
    KeepGpuShare,
}

impl SchedKey {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::Policy,
        Self::Reservations,
        Self::AgeLimit,
        Self::DefaultTime,
        Self::Grace,
        Self::Kill,
        Self::Hold,
        Self::HalfLife,
        Self::LasThresholds,
        Self::LasQuantum,
        Self::LasPromote,
        Self::KeepGpuShare,
    ];

    /// The word people and programs see, behind `scheduling.`.
    pub fn word(self) -> &'static str {
        match self {
            Self::Policy => "policy",
            Self::Reservations => "reservations",
            Self::AgeLimit => "age_limit",
            Self::DefaultTime => "default_time",
            Self::Grace => "grace",
            Self::Kill => "kill",
            Self::Hold => "hold",
            Self::HalfLife => "half_life",
            Self::LasThresholds => "las_thresholds",
            Self::LasQuantum => "las_quantum",
            Self::LasPromote => "las_promote",
            Self::KeepGpuShare => "keep_gpu_share",
        }
    }

    /// Whether there is one for each class.
    pub fn per_class(self) -> bool {
        matches!(self, Self::AgeLimit | Self::DefaultTime | Self::Grace)
    }
}

/// Something that acts by itself and may be told to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Automatic {
    /// Jobs that wait start.
    Starts,
    /// Jobs that run are ended for others.
    Preemption,
    /// Nodes and devices that fail are taken out.
    Health,
    /// Machines are switched off and on.
    Power,
}

impl Automatic {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Starts, Self::Preemption, Self::Health, Self::Power];

    /// The word people and programs see.
    pub fn word(self) -> &'static str {
        match self {
            Self::Starts => "starts",
            Self::Preemption => "preemption",
            Self::Health => "health",
            Self::Power => "power",
        }
    }
}

/// Who decided it, and when.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Decider {
    /// The id; decides.
    pub user_id: String,
    /// For people.
    pub name: String,
    /// State time.
    pub at_ms: UtcMs,
}

/// Something does not happen by itself for a while.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pause {
    /// What.
    pub what: Automatic,
    /// In which pool; empty: everywhere.
    pub pool: String,
    /// It ends by itself then, state time; 0: when somebody resumes it.
    pub until_ms: UtcMs,
    /// Why.
    pub reason: String,
    /// Who.
    pub by: Decider,
}

impl Pause {
    /// Whether it still holds at `now_ms`.
    pub fn holds(&self, now_ms: UtcMs) -> bool {
        self.until_ms == 0 || now_ms < self.until_ms
    }

    /// It as one sentence: `starts are paused in pool spot until ... (ann: new switch)`.
    pub fn text(&self) -> String {
        let verb = match self.what {
            Automatic::Starts => "are",
            _ => "is",
        };
        let place = match self.pool.as_str() {
            "" => String::new(),
            pool => format!(" in pool {pool}"),
        };
        format!("{} {verb} paused{place} {}", self.what.word(), self.until())
    }

    /// `paused until ... (ann: new switch)`, where it is known what and where.
    pub fn how(&self) -> String {
        format!("paused {}", self.until())
    }

    fn until(&self) -> String {
        let until = match self.until_ms {
            0 => "an admin resumes it".to_owned(),
            until => moment_text(until),
        };
        format!("until {until} ({}: {})", self.by.name, self.reason)
    }
}

/// What is maintained.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// One node.
    Node(String),
    /// Every node of a pool.
    Pool(String),
}

impl Target {
    /// `node a`, `pool spot`.
    pub fn text(&self) -> String {
        match self {
            Self::Node(name) => format!("node {name}"),
            Self::Pool(name) => format!("pool {name}"),
        }
    }
}

/// A time at which nothing shall run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Maintenance {
    /// By which people name it. Never used for another.
    pub id: u64,
    /// Where.
    pub target: Target,
    /// From then, state time,
    pub from_ms: UtcMs,
    /// until before then.
    pub until_ms: UtcMs,
    /// Why.
    pub reason: String,
    /// Who.
    pub by: Decider,
}

/// Whose node it is, and what others may do there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeOwner {
    /// The node.
    pub node: String,
    /// The team, with those in it.
    pub team: String,
    /// Who else may run there.
    pub guests: Guests,
    /// The longest notice that guests get, milliseconds; 0: that of their class.
    pub guest_grace_ms: u64,
    /// Who said so.
    pub by: Decider,
}

/// Who may run what in a pool.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PoolRules {
    /// The pool.
    pub pool: String,
    /// These teams and those in them, sorted; empty: all.
    pub teams: Vec<String>,
    /// Jobs of these classes, ascending; empty: all.
    pub classes: Vec<Class>,
    /// Jobs that say that they run no longer, milliseconds; 0: any.
    pub max_time_ms: u64,
    /// How devices may be shared.
    pub sharing: Sharing,
}

impl PoolRules {
    /// Whether nothing is said by it.
    pub fn says_nothing(&self) -> bool {
        let pool = self.pool.clone();
        *self
            == Self {
                pool,
                ..Self::default()
            }
    }
}

/// One thing that was decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// A setting that is not as shipped: one value, one of each class, or a list.
    Setting(SchedKey, Vec<u64>),
    /// So many of a named countable.
    License(String, u32),
    /// Something is paused.
    Pause(Pause),
    /// A time of maintenance.
    Maintenance(Maintenance),
    /// An owner of a node.
    Owner(NodeOwner),
    /// Rules of a pool.
    Pool(PoolRules),
}

/// What a decision is about: there is one of each.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum DecisionKey {
    /// A setting.
    Setting(SchedKey),
    /// A countable, by name.
    License(String),
    /// What is paused, and in which pool; empty: everywhere.
    Pause(Automatic, String),
    /// A time of maintenance.
    Maintenance(u64),
    /// A node.
    Owner(String),
    /// A pool.
    Pool(String),
}

/// The word of who may be a guest.
pub fn guests_word(guests: Guests) -> &'static str {
    match guests {
        Guests::None => "none",
        Guests::Preemptible => "preemptible",
        Guests::Any => "any",
    }
}

/// The word of how devices are shared.
pub fn sharing_word(sharing: Sharing) -> &'static str {
    match sharing {
        Sharing::User => "user",
        Sharing::Team => "team",
        Sharing::Any => "any",
    }
}

/// A point in time for people, in UTC.
pub fn moment_text(at_ms: UtcMs) -> String {
    let moment = Moment::from_ms(at_ms);
    // Only a clock that is wrong shows another year.
    moment.map_or_else(
        || format!("{at_ms} ms after 1970"),
        |moment| moment.to_string(),
    )
}

/// A length of time for people: exact where it may be written so.
pub fn length_text(ms: u64) -> String {
    let exact =
        mlctl_proto::spec::Time::from_seconds(ms / 1_000).filter(|_| ms.is_multiple_of(1_000));
    let about = || duration_text(i64::try_from(ms).unwrap_or(i64::MAX));
    exact.map_or_else(about, |time| time.to_string())
}
