//! An attempt: one placement of a job, with an allocation per node and the way it ended.
use mlctl_proto::ids::{Epoch, JobId};
use mlctl_proto::units::{Oom, UtcMs};

use super::{Charge, Wave};
use crate::state::rules::budget::renew_at;
use crate::state::view::jobs::Footing;

/// How an attempt, or one node's part of it, ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum EndKind {
    /// A rank exited; `code` is its exit code, 0 when all did well.
    Exited,
    /// A rank was ended by a signal that mlctl did not send; `code` is its number.
    Signalled,
    /// The kernel's out-of-memory killer.
    OutOfMemory,
    /// A time limit.
    TimedOut,
    /// A person.
    Cancelled,
    /// A more entitled job.
    Preempted,
    /// A successor took over after a loss.
    Superseded,
    /// A device failed.
    DeviceError,
    /// Code, directories or processes could not be set up.
    LaunchFailed,
    /// Stopped before anything ran; also a tombstone's answer.
    NeverStarted,
    /// The process that owned the ranks died.
    KeeperLost,
    /// Its node was declared Lost.
    NodeLost,
    /// It made no progress.
    Hung,
}

impl EndKind {
    /// The word people and programs see.
    pub fn word(self) -> &'static str {
        match self {
            Self::Exited => "Exited",
            Self::Signalled => "Signalled",
            Self::OutOfMemory => "OutOfMemory",
            Self::TimedOut => "TimedOut",
            Self::Cancelled => "Cancelled",
            Self::Preempted => "Preempted",
            Self::Superseded => "Superseded",
            Self::DeviceError => "DeviceError",
            Self::LaunchFailed => "LaunchFailed",
            Self::NeverStarted => "NeverStarted",
            Self::KeeperLost => "KeeperLost",
            Self::NodeLost => "NodeLost",
            Self::Hung => "Hung",
        }
    }

    /// The infrastructure failed, not the job: it starts again by itself, a bounded number of times.
    pub fn infrastructure(self) -> bool {
        matches!(self, Self::NodeLost | Self::KeeperLost | Self::DeviceError)
    }
}

/// An end with what there is to know of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct End {
    /// Its kind.
    pub kind: EndKind,
    /// Exit code or signal number.
    pub code: i32,
    /// One sentence for people.
    pub detail: String,
    /// Where, if one node is to name.
    pub node: String,
    /// Which rank, if one is to name.
    pub rank: Option<u32>,
}

impl End {
    /// An end of `kind` with nothing more to say.
    pub fn of(kind: EndKind) -> Self {
        Self {
            kind,
            code: 0,
            detail: String::new(),
            node: String::new(),
            rank: None,
        }
    }

    /// Every rank exited 0.
    pub fn success(&self) -> bool {
        self.kind == EndKind::Exited && self.code == 0
    }

    /// The exit code of a job that ends so, and whether it is the job's own.
    pub fn exit_code(&self) -> (i32, bool) {
        match self.kind {
            EndKind::Exited => (self.code, true),
            EndKind::Signalled => (self.code.saturating_add(128), true),
            EndKind::TimedOut => (124, false),
            EndKind::Cancelled => (130, false),
            EndKind::OutOfMemory => (137, false),
            EndKind::NodeLost | EndKind::DeviceError | EndKind::KeeperLost | EndKind::Hung => {
                (140, false)
            }
            EndKind::LaunchFailed => (141, false),
            EndKind::NeverStarted | EndKind::Preempted | EndKind::Superseded => (142, false),
        }
    }
}

/// How one rank ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RankExit {
    /// The rank.
    pub rank: u32,
    /// Exit code when `signal` is 0.
    pub code: i32,
    /// The signal that ended it, 0: it exited.
    pub signal: i32,
    /// We had begun to stop the gang: never the first failure.
    pub killed_by_us: bool,
    /// Its node had no memory left for the attempt.
    pub oom: Option<Oom>,
}

impl RankExit {
    /// It did not end as a success.
    pub fn failed(&self) -> bool {
        self.code != 0 || self.signal != 0
    }

    /// The end of an attempt that this exit is the reason of.
    pub fn as_end(&self, node: &str) -> End {
        if let Some(oom) = self.oom {
            return End {
                detail: oom.detail(self.rank),
                node: node.into(),
                rank: Some(self.rank),
                ..End::of(EndKind::OutOfMemory)
            };
        }
        let (kind, code) = if self.signal == 0 {
            (EndKind::Exited, self.code)
        } else {
            (EndKind::Signalled, self.signal)
        };
        End {
            code,
            node: node.into(),
            rank: Some(self.rank),
            ..End::of(kind)
        }
    }
}

/// Where an allocation is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum AllocationPhase {
    /// Committed; the node has not said that its ranks run.
    Assigned,
    /// Its ranks were started.
    Running,
    /// The node holds nothing of it any more, by the agent's word or because the node is Lost.
    Ended,
}

/// The devices of one node held by one attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allocation {
    /// The node.
    pub node: String,
    /// Its boot when the attempt was placed.
    pub boot_id: String,
    /// UUIDs.
    pub devices: Vec<String>,
    /// Where it is in its life.
    pub phase: AllocationPhase,
    /// How it ended, once it has.
    pub end: Option<End>,
    /// Its ranks that have ended.
    pub exits: Vec<RankExit>,
}

/// One placement of a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// Its job.
    pub job: JobId,
    /// Its epoch.
    pub epoch: Epoch,
    /// In node-rank order.
    pub allocations: Vec<Allocation>,
    /// Checkpoint it resumes from, empty: none.
    pub resume_from: String,
    /// When it was committed.
    pub started_ms: UtcMs,
    /// When all ranks ran, 0: not yet.
    pub running_ms: UtcMs,
    /// When its last allocation ended, 0: not yet.
    pub ended_ms: UtcMs,
    /// It is being ended: `end` says why.
    pub stopping: bool,
    /// Why it ends or ended: the first reason in commit order.
    pub end: Option<End>,
    /// Its node is Lost by silence alone, so it may still run there. It holds what it holds until a successor is ready and
    /// supersedes it, its node proves to be dead, or its node is back: then it goes on.
    pub in_doubt: bool,
    /// Its tasks, if its job is an array.
    pub wave: Option<Wave>,
    /// The job whose checkpoint `resume_from` names, if it is not its own.
    pub resume_job: Option<JobId>,
    /// When that checkpoint was first recorded: a job may have several of one name. 0: the newest of that name.
    pub resume_sealed_ms: UtcMs,
    /// What budgets cover of what it holds, by flavor; of flavors without a budget there is nothing to say.
    pub charges: Vec<Charge>,
    /// How it came to run.
    pub footing: Footing,
    /// Others were ended for it.
    pub took: bool,
}

impl Attempt {
    /// Nodes that it was given.
    pub fn width(&self) -> u32 {
        u32::try_from(self.allocations.len()).unwrap_or(u32::MAX)
    }

    /// When what it has committed at budgets is to be renewed, if it is.
    pub fn renewed_by(&self) -> Option<UtcMs> {
        let goes_on = !self.stopping && !self.in_doubt && !self.closed();
        // Until 0: no budget covers it any more.
        let covered = self.charges.iter().filter(|charge| charge.until_ms != 0);
        covered.map(renew_at).filter(|_| goes_on).min()
    }

    /// All its allocations have ended: its devices are free, its epoch is closed.
    pub fn closed(&self) -> bool {
        self.allocations
            .iter()
            .all(|a| a.phase == AllocationPhase::Ended)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scripts go by these numbers: each end has the one that is written down.
    #[test]
    fn every_end_has_its_exit_code() {
        for (kind, code, want) in [
            (EndKind::Exited, 0, (0, true)),
            (EndKind::Exited, 17, (17, true)),
            (EndKind::Signalled, 9, (137, true)),
            (EndKind::TimedOut, 0, (124, false)),
            (EndKind::Cancelled, 0, (130, false)),
            (EndKind::OutOfMemory, 9, (137, false)),
            (EndKind::NodeLost, 0, (140, false)),
            (EndKind::DeviceError, 0, (140, false)),
            (EndKind::KeeperLost, 0, (140, false)),
            (EndKind::Hung, 0, (140, false)),
            (EndKind::LaunchFailed, 0, (141, false)),
            (EndKind::NeverStarted, 0, (142, false)),
        ] {
            let end = End {
                code,
                ..End::of(kind)
            };
            assert_eq!(end.exit_code(), want, "{kind:?}");
        }
    }
}
