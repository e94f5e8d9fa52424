//! Settings of the cluster, actors and remembered replies. There is no leader-only configuration.
use std::sync::Arc;

use mlctl_proto::errors::Refusal;
use mlctl_proto::ids::JobId;
use mlctl_proto::units::UtcMs;

use super::{Retention, TeamChange};

/// Timers of the cluster, milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timers {
    /// Between two heartbeats of an agent.
    pub heartbeat_ms: u32,
    /// Silence after which a node is Unreachable.
    pub node_timeout_ms: u32,
    /// Silence after which a node is Lost.
    pub lost_after_ms: u32,
    /// When a keeper kills its ranks after the last confirmed lease (`on_disconnect = "fence"`).
    pub fence_after_ms: u32,
    /// Between TERM and KILL of a fence.
    pub kill_grace_ms: u32,
}

impl Timers {
    /// The timers of a real cluster.
    pub const PRODUCTION: Self = Self {
        heartbeat_ms: 2_000,
        node_timeout_ms: 30_000,
        lost_after_ms: 300_000,
        fence_after_ms: 240_000,
        kill_grace_ms: 20_000,
    };
    /// The timers of `mlctl dev`, which says so.
    pub const DEV: Self = Self {
        heartbeat_ms: 500,
        node_timeout_ms: 3_000,
        lost_after_ms: 3_000,
        fence_after_ms: 2_400,
        kill_grace_ms: 300,
    };

    /// `(fence_after + kill_grace) * 1.1 < lost_after`: a fenced attempt is dead before its node is Lost, whatever the clocks' rates.
    pub fn fence_is_safe(&self) -> bool {
        let fence = u64::from(self.fence_after_ms) + u64::from(self.kill_grace_ms);
        fence * 11 < u64::from(self.lost_after_ms) * 10
    }
}

/// The one settings row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Random, made with the CA.
    pub cluster_id: String,
    /// For people.
    pub cluster_name: String,
    /// Raised only by a recovery.
    pub incarnation: u32,
    /// A throw-away cluster of `mlctl dev`.
    pub dev: bool,
    /// Whether jobs may run as root.
    pub allow_root: bool,
    /// All timers.
    pub timers: Timers,
    /// How long jobs that are over stay in memory.
    pub retention: Retention,
    /// Counter of the next job id.
    pub next_job: u64,
    /// State time: the highest time any command brought.
    pub now_ms: UtcMs,
    /// How often others were ended for a job.
    pub preemptions: u64,
    /// How often of these it came to nothing: the job did not start there, or was over at once.
    pub preemptions_in_vain: u64,
}

/// On whose behalf a command is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Actor {
    /// From the certificate, made by the server; decides.
    pub user_id: String,
    /// For people; decides nothing.
    pub name: String,
    /// May act on others' jobs and on the cluster.
    pub admin: bool,
    /// A coordinator or an agent speaks, not a person.
    pub system: bool,
}

/// What apply answers to a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// Done, nothing to tell.
    Done,
    /// A job was made.
    Submitted {
        /// Its id.
        job: JobId,
    },
    /// Jobs were cancelled.
    Cancelled {
        /// Those that were not over yet.
        jobs: Vec<JobId>,
        /// Those that were.
        already_ended: Vec<JobId>,
    },
    /// Attempts were started; stale parts of the plan were refused, job by job.
    Started {
        /// Started.
        jobs: Vec<JobId>,
        /// Refused, with the reason.
        refused: Vec<(JobId, String)>,
    },
    /// Jobs were tried again.
    Retried {
        /// Were held or backed off, and may start now.
        released: Vec<JobId>,
        /// Needed nothing: they wait, start or run.
        going: Vec<JobId>,
        /// Were over: each with the new job that it was submitted as.
        anew: Vec<(JobId, JobId)>,
    },
    /// Jobs were held, released or changed.
    Edited {
        /// Those.
        jobs: Vec<JobId>,
        /// What a filter found and could not be changed, each with the reason.
        left: Vec<(JobId, String)>,
    },
    /// Teams were changed, or would be.
    TeamsChanged {
        /// What was done, in order: the first so many.
        changes: Vec<TeamChange>,
        /// What there is to say about it, one sentence each.
        notes: Vec<String>,
    },
    /// Something was decided about scheduling, or would be.
    Decided {
        /// What was done, in order.
        changes: Vec<TeamChange>,
        /// What there is to say about it, one sentence each.
        notes: Vec<String>,
    },
    /// Nothing was changed.
    Rejected(Refusal),
}

/// Whose request, and which: of person and uuid. Tables copy their keys often, so the person is shared.
pub type RequestKey = (Arc<str>, [u8; 16]);

/// A remembered reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Idempotency {
    /// Whose key.
    pub user_id: Arc<str>,
    /// 16 bytes chosen by the client.
    pub uuid: [u8; 16],
    /// BLAKE3 of the request.
    pub request_hash: [u8; 32],
    /// State time of the command.
    pub time_ms: UtcMs,
    /// What was answered.
    pub reply: Reply,
}
