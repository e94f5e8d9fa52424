//! What only a leader does: the barrier of gangs, leases, judging silence, planning, telling agents what is committed.
//!
//! All of it is soft and starts anew with every term. What decides lies in `liveness`, `leases`, `gang` and
//! `reconcile`, which are pure; `lead` is the loop that feeds them. Nothing here is replicated state.
pub mod gang;
mod lead;
pub mod leases;
pub mod liveness;
mod orders;
mod planning;
pub mod reconcile;
mod supervise;

use mlctl_proto::ids::{Epoch, JobId};
use tokio::sync::{mpsc, oneshot};

use crate::state::records::{EndKind, NodeFacts};
pub use gang::Report;
pub use orders::{GangMember, StartOrder};
pub use supervise::supervise;

/// Where streams of agents report while this member leads.
#[derive(Debug, Clone)]
pub struct Port {
    /// The term that is led.
    pub term: u64,
    /// The loop's inputs.
    pub inputs: mpsc::Sender<Input>,
}

/// What a stream of an agent reports.
#[derive(Debug)]
pub enum Input {
    /// A node said hello and is registered.
    Connected(Box<Connected>),
    /// Its stream ended.
    Gone {
        /// The node.
        node: String,
        /// Which of its streams.
        link: u64,
    },
    /// It lives, and this is all that it runs.
    Heartbeat {
        /// The node.
        node: String,
        /// Which of its streams.
        link: u64,
        /// The heartbeat's number.
        seq: u64,
        /// Running, and ended but not acknowledged.
        reports: Vec<Report>,
    },
    /// It is ready for its part of a gang.
    Ready {
        /// The node.
        node: String,
        /// Which of its streams.
        link: u64,
        /// Which attempt, with the port.
        report: Report,
    },
}

/// A node said hello.
#[derive(Debug)]
pub struct Connected {
    /// Which of its streams this is; a later one replaces it.
    pub link: u64,
    /// What it is.
    pub facts: NodeFacts,
    /// Its events are numbered within this journal.
    pub journal_id: String,
    /// All that it runs.
    pub reports: Vec<Report>,
    /// What it is told; bounded, and a node that does not read loses its stream.
    pub out: mpsc::Sender<Order>,
    /// The stream ends when this is dropped.
    pub hold: oneshot::Sender<()>,
}

/// What a node is told.
#[derive(Debug, Clone)]
pub enum Order {
    /// Its lease holds: counted from when it sent this heartbeat.
    Lease {
        /// The heartbeat's number.
        seq: u64,
    },
    /// Prepare its part of a committed attempt.
    Start(Box<StartOrder>),
    /// End its part of an attempt.
    Stop {
        /// The job.
        job: JobId,
        /// The attempt.
        epoch: Epoch,
        /// Why, for the record.
        reason: EndKind,
        /// Why, for people.
        why: String,
    },
    /// Everybody is ready: start the ranks.
    Go {
        /// The job.
        job: JobId,
        /// The attempt.
        epoch: Epoch,
        /// Where node rank 0 is reached.
        master_address: String,
        /// Leased there.
        master_port: u16,
    },
    /// Its events up to here are applied.
    Applied {
        /// Their highest number.
        up_to: u64,
    },
}
