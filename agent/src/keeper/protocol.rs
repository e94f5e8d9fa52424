//! What an agent and a keeper say to each other over `<attempt_dir>/keeper.sock`, and a launch agent of `mpirun` and a keeper over `mpi.sock`.
//!
//! Both begin with `Hello`. The keeper's carries its full status, so that an agent which comes late, or again, has missed nothing.
//! Additions only: a keeper outlives the agent that had it started, and speaks with the next release.
#![deny(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::float_arithmetic
)]

use serde::{Deserialize, Serialize};

use crate::tasks::TaskEnds;
use crate::witness::packet::ProbePort;
use mlctl_proto::units::Oom;

/// Version of these messages. 2: fences. 3: time limits.
pub const PROTOCOL: u32 = 3;
/// From this version on a keeper can be fenced.
pub const FENCES: u32 = 2;
/// From this version on a keeper knows time limits.
pub const LIMITS: u32 = 3;
/// The oldest version that is still spoken: the one before.
pub const PROTOCOL_OLDEST: u32 = PROTOCOL - 1;
/// One message, bytes. A status of as many ranks as a node may have fits.
pub const MESSAGE_BYTES_MAX: usize = 1024 * 1024;

/// What two of these versions speak with each other: the lower one.
pub fn common(own: u32, other: u32) -> u32 {
    own.min(other)
}

/// Does somebody of version `own` speak `other`? Its own, and the one before.
pub fn speaks(own: u32, other: u32) -> bool {
    (oldest(own)..=own).contains(&other)
}

/// The oldest version that `own` speaks.
pub fn oldest(own: u32) -> u32 {
    own.saturating_sub(1).max(1)
}

/// From the agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToKeeper {
    /// The first message of a connection.
    Hello {
        /// [`PROTOCOL`] of the agent.
        protocol: u32,
    },
    /// Start the ranks: every node of the gang is ready. Counts once.
    Go {
        /// Host or IP of node rank 0.
        master_address: String,
        /// The port leased there.
        master_port: u16,
    },
    /// End the ranks: TERM, and KILL after the grace. A shorter grace counts, a longer one does not.
    Stop {
        /// Between TERM and KILL, milliseconds.
        grace_ms: u32,
    },
    /// A leader has confirmed a heartbeat. Only for a fenced attempt, since [`FENCES`].
    Lease {
        /// When it was sent, on CLOCK_BOOTTIME.
        confirmed_at_ms: u64,
    },
    /// The end is on the agent's disk: the keeper may go. Refused while anything is left of the attempt.
    Release,
    /// The keeper of another node of an MPI job speaks.
    Remote {
        /// That node's name.
        from: String,
        /// What it says.
        what: Remote,
    },
}

/// What keepers of one MPI job say to each other, over their agents and the leader. Said again until it is answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Remote {
    /// Run this line in a shell: a daemon of `mpirun`.
    Spawn {
        /// Of who asks.
        id: u64,
        /// For `/bin/sh -c`.
        line: String,
    },
    /// It runs.
    Begun {
        /// Of who asked.
        id: u64,
    },
    /// It has ended, or could not be started.
    Ended {
        /// Of who asked.
        id: u64,
        /// Its exit code; 255: it could not be done.
        code: i32,
        /// Why it could not be done; empty if it was.
        why: String,
    },
    /// `mpirun` has ended well: nothing more will be asked for. Answered with `Ended`.
    Finish {
        /// Of who says so.
        id: u64,
    },
}

/// What a launch agent asks its keeper.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ask {
    /// As `mpirun` names it.
    pub host: String,
    /// For its shell.
    pub line: String,
}

/// What a keeper answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// The host is this one: run it yourself.
    Here,
    /// It is over, or could not be done.
    Ended {
        /// For the launch agent to end with.
        code: i32,
        /// Why it could not be done; empty if it was.
        why: String,
    },
}

/// From the keeper.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromKeeper {
    /// The answer to `Hello`.
    Hello {
        /// [`PROTOCOL`] of the keeper.
        protocol: u32,
        /// Everything so far.
        status: Status,
    },
    /// All ranks of this node were started.
    RanksStarted,
    /// The ranks cannot be started; those that were are being killed. `AllEnded` follows.
    LaunchFailed {
        /// What, why and what to do.
        why: String,
    },
    /// A rank's log grew, or more of its output was dropped. Several may be told as one.
    LogGrew {
        /// The rank.
        rank: u32,
        /// Bytes of its log's files, whole frames.
        bytes: u64,
        /// Bytes of frames that the disk refused.
        dropped: u64,
    },
    /// A rank has ended.
    RankExited(Exit),
    /// Tasks of an array have ended by themselves since the last word of this.
    TasksEnded(TaskEnds),
    /// A rank's log is complete.
    LogEnded {
        /// The rank.
        rank: u32,
        /// Bytes of its log's files.
        bytes: u64,
        /// Bytes of frames that the disk refused.
        dropped: u64,
    },
    /// No process of the attempt is left on this node and every log is complete.
    AllEnded {
        /// Every rank that was started.
        exits: Vec<Exit>,
        /// Why ranks could not be started, if so.
        launch_failed: Option<String>,
    },
    /// The fence ends the ranks; their ends follow. Since [`FENCES`].
    Fenced {
        /// What a person reads.
        why: String,
    },
    /// The time limit ends the ranks; their ends follow. Since [`LIMITS`].
    TimedOut {
        /// What a person reads.
        why: String,
    },
    /// The last message was not done.
    Refused {
        /// Why.
        why: String,
    },
    /// For the keeper of another node of an MPI job.
    Remote {
        /// That node's name.
        to: String,
        /// What is said.
        what: Remote,
    },
}

/// Everything that has happened so far.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The keeper's process id.
    pub pid: u32,
    /// Where it stands.
    pub phase: Phase,
    /// All ranks were started.
    pub started: bool,
    /// Why ranks could not be started, if so.
    pub launch_failed: Option<String>,
    /// Every rank of the plan; of an array those tasks that run and have a log.
    pub ranks: Vec<RankStatus>,
    /// Why the fence ended the ranks, if so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fenced: Option<String>,
    /// Why the time limit ended the ranks, if so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timed_out: Option<String>,
    /// Where it answers witnesses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probe: Option<ProbePort>,
    /// Of an array: the tasks that have ended by themselves.
    #[serde(default, skip_serializing_if = "TaskEnds::is_empty")]
    pub tasks: TaskEnds,
}

impl Status {
    /// Is nothing left of the attempt?
    pub fn all_ended(&self) -> bool {
        self.phase == Phase::Ended
    }

    /// The ranks that have ended.
    pub fn exits(&self) -> Vec<Exit> {
        self.ranks.iter().filter_map(|rank| rank.exit).collect()
    }
}

/// Where a keeper stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// For `Go`.
    Waiting,
    /// Ranks run.
    Running,
    /// Ranks are being ended, or what they left behind is.
    Stopping,
    /// Nothing is left.
    Ended,
}

/// One rank.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RankStatus {
    /// The rank.
    pub rank: u32,
    /// Bytes of its log's files.
    pub log_bytes: u64,
    /// Bytes of frames that the disk refused.
    pub log_dropped: u64,
    /// Bytes of frames between the beginning and the newest part that made room.
    #[serde(default)]
    pub log_rotated: u64,
    /// Its log is complete.
    pub log_ended: bool,
    /// How it ended, once it has.
    pub exit: Option<Exit>,
}

/// How a rank ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// The rank.
    pub rank: u32,
    /// Its exit code, when `signal` is 0.
    pub code: i32,
    /// The signal that ended it, 0 if it exited.
    pub signal: i32,
    /// The gang was being ended when it did: never a failure of its own.
    pub killed_by_us: bool,
    /// The kernel had killed processes of the attempt for want of memory when it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oom: Option<Oom>,
}

impl Exit {
    /// Did it fail, and by itself?
    pub fn is_failure(&self) -> bool {
        !self.killed_by_us && (self.code != 0 || self.signal != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::launch::wire;

    #[test]
    fn only_this_version_and_the_one_before_are_spoken() {
        assert!(speaks(PROTOCOL, PROTOCOL) && speaks(PROTOCOL, PROTOCOL_OLDEST));
        assert!(!speaks(PROTOCOL, 0) && !speaks(PROTOCOL, PROTOCOL + 1));
        assert!(!speaks(PROTOCOL_OLDEST, PROTOCOL), "it was built before");
        assert_eq!(
            (oldest(3), oldest(1), PROTOCOL_OLDEST),
            (2, 1, oldest(PROTOCOL))
        );
    }

    #[test]
    fn the_largest_status_fits_into_a_message() {
        let exit = Exit {
            rank: u32::MAX,
            code: i32::MIN,
            signal: i32::MIN,
            killed_by_us: false,
            oom: Some(Oom {
                limit_bytes: u64::MAX,
                peak_bytes: u64::MAX,
            }),
        };
        let rank = RankStatus {
            rank: u32::MAX,
            log_bytes: u64::MAX,
            log_dropped: u64::MAX,
            log_rotated: u64::MAX,
            log_ended: false,
            exit: Some(exit),
        };
        let ranks = vec![rank; mlctl_proto::limits::RANKS_PER_NODE_MAX as usize];
        let status = Status {
            pid: 1,
            phase: Phase::Stopping,
            started: true,
            launch_failed: None,
            ranks,
            fenced: None,
            timed_out: None,
            probe: None,
            tasks: TaskEnds::default(),
        };
        let bytes = wire::encode(
            &FromKeeper::Hello {
                protocol: PROTOCOL,
                status,
            },
            MESSAGE_BYTES_MAX,
        )
        .expect("fits");
        assert!(bytes.len() < MESSAGE_BYTES_MAX / 2, "{}", bytes.len());
    }
}
