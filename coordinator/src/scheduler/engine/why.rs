//! Why a job waits: the words of which the engine knows that they hold, with their numbers. Does NOT write sentences, nor look for other reasons than the leading one.
use std::sync::Arc;

use mlctl_proto::ids::JobId;
use mlctl_proto::units::UtcMs;

use crate::state::rules::quota::Shortfall;
use crate::state::view::teams::Flavor;

/// The leading reason of one job (docs/SCHEDULING.md, Why a job waits).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Why {
    /// A person holds it.
    HeldByUser,
    /// Its start time is ahead.
    StartTime(UtcMs),
    /// That job has to end first.
    Dependency(JobId),
    /// It failed and backs off until then.
    RetryBackoff(UtcMs),
    /// Its last attempt still holds something.
    AttemptEnds,
    /// An admin paused starts.
    SchedulingPaused,
    /// The quota inequality that fails.
    QuotaExceeded(Arc<Shortfall>),
    /// A team's budget does not cover its next slice.
    BudgetExhausted {
        /// The team, at the level where it fails.
        team: Arc<str>,
        /// Of what.
        flavor: Flavor,
        /// What is left to commit, unit-seconds.
        left: u64,
        /// What a start would commit, unit-seconds.
        needs: u64,
    },
    /// Its team runs as many jobs as it may.
    UserLimit {
        /// The team.
        team: Arc<str>,
        /// How many it may run.
        at_most: u32,
    },
    /// As many of its tasks run as may at once.
    ArrayLimit(u32),
    /// Too few of a named countable are free.
    Licenses {
        /// Its name.
        name: String,
        /// How many it needs.
        needs: u32,
        /// How many are free.
        free: u32,
    },
    /// No node of the cluster has such devices in such a pool.
    GpuTypeMissing,
    /// Fewer units are free than it needs.
    InsufficientGpus {
        /// Units it needs.
        needs: u64,
        /// Units free on nodes that take work.
        free: u64,
    },
    /// Enough is free, but not on enough nodes at once, or not near enough to each other.
    Fragmented {
        /// Units free.
        free: u64,
        /// Nodes it needs.
        nodes: u32,
        /// Nodes that have what one node has to give.
        fitting: u32,
    },
    /// Devices are free, but too few processors, memory or disk beside them, or the nodes lack a label or are kept for others.
    CpuOrMemory {
        /// Nodes with devices enough.
        fitting: u32,
    },
    /// Nodes that take no work have the room.
    NodeDrained {
        /// How many.
        nodes: u32,
    },
    /// Nodes that are off or being made have the room, from then on.
    WakingNodes {
        /// How many.
        nodes: u32,
        /// The earliest.
        from: UtcMs,
    },
    /// Only nodes that failed it have the room.
    ExcludedNodes {
        /// How many it avoids.
        nodes: u32,
    },
    /// It would run into a maintenance window.
    Maintenance {
        /// The next one's end.
        until: UtcMs,
    },
    /// It would delay what was promised to another.
    Reservation {
        /// To whom.
        job: JobId,
        /// For when.
        start_ms: UtcMs,
    },
    /// Jobs ahead of it take what was free.
    JobsAhead {
        /// How many of the same class or a higher one were looked at before it.
        ahead: u32,
    },
    /// Others are being ended for it.
    PreemptingOthers {
        /// Until when the devices are held.
        until: UtcMs,
    },
    /// It could preempt, but lost that right until then.
    PreemptCooldown {
        /// Until when.
        until: UtcMs,
    },
}
