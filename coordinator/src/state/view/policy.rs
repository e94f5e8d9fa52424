//! What an admin decides about scheduling: the defaults are what ships. Does NOT hold quotas; teams do.
use super::jobs::Class;

/// Which jobs of one team and class come first, and whether running ones are sliced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Policy {
    /// Fair share, then submit.
    #[default]
    Fair,
    /// Least attained service, for clusters whose users give no limits (docs/SCHEDULING.md, Least attained service).
    Las,
}

/// Per class, ascending.
pub type PerClass<T> = [T; 4];

/// All of it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SchedSettings {
    /// Which policy.
    pub policy: Policy,
    /// Reservations per pool and type.
    pub reservations: u32,
    /// Waiting after which a job is *aged*, milliseconds.
    pub age_limit_ms: PerClass<u64>,
    /// Protected time of a job without a limit, milliseconds.
    pub default_time_ms: PerClass<u64>,
    /// The longest time between notice and end of what is preempted, milliseconds.
    pub grace_ms: PerClass<u64>,
    /// Between TERM and KILL, and cleaning up, milliseconds.
    pub kill_ms: u64,
    /// Beyond grace and kill, how long devices stay held for a beneficiary, milliseconds.
    pub hold_ms: u64,
    /// Half-life of usage, milliseconds.
    pub half_life_ms: u64,
    /// `las`: attained GPU-milliseconds at which a job leaves the first queue, the second, ...
    pub las_thresholds: Vec<u64>,
    /// `las`: how long an attempt runs at least before it may be sliced, milliseconds.
    pub las_quantum_ms: u64,
    /// `las`: a job that waited so many times as long as it ran is promoted.
    pub las_promote: u32,
    /// Each running job counts as having a durable checkpoint at every instant: for traces only.
    pub always_saved: bool,
    /// A CPU job leaves the last GPU of a node its processors.
    pub keep_gpu_share: bool,
}

const HOUR_MS: u64 = 3_600_000;
const MINUTE_MS: u64 = 60_000;

impl Default for SchedSettings {
    fn default() -> Self {
        Self {
            policy: Policy::Fair,
            reservations: 8,
            age_limit_ms: [24 * HOUR_MS; Class::ALL.len()],
            default_time_ms: [24 * HOUR_MS; Class::ALL.len()],
            grace_ms: [10 * MINUTE_MS; Class::ALL.len()],
            kill_ms: 30_000,
            hold_ms: 2 * MINUTE_MS,
            half_life_ms: 7 * 24 * HOUR_MS,
            las_thresholds: vec![20 * HOUR_MS],
            las_quantum_ms: 10 * MINUTE_MS,
            las_promote: 4,
            always_saved: false,
            keep_gpu_share: true,
        }
    }
}
