//! What only a leader does: the barrier of gangs, leases, judging silence, planning, telling agents what is committed.
//!
//! All of it is soft and starts anew with every term. What decides lies in `step` and what it is made of (`liveness`,
//! `leases`, `gang`, `reconcile`, `orders`, `pace`), which are pure; `lead` is the loop that feeds it. Nothing here is replicated state.
mod awaited;
pub mod copies;
pub mod gang;
mod lead;
pub mod leases;
pub mod liveness;
pub mod orders;
mod pace;
mod planning;
pub mod reconcile;
pub mod step;
mod supervise;
pub mod witness;

use tokio::sync::{mpsc, oneshot};

pub use gang::Report;
pub use orders::{GangMember, Order, Relay, StartOrder};
pub use pace::Pace;
pub use planning::commands;
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
    /// It tells who answers witnesses there.
    Targets {
        /// The node.
        node: String,
        /// Which of its streams.
        link: u64,
        /// All of them.
        targets: witness::Targets,
    },
    /// It was asked for a silent node.
    Probed {
        /// The node that was asked.
        node: String,
        /// Which of its streams.
        link: u64,
        /// Which inquiry, about whom, and whether anybody answers there.
        answer: orders::Testimony,
    },
    /// It has a word for another node of an attempt.
    Relay {
        /// The node.
        node: String,
        /// Which of its streams.
        link: u64,
        /// For whom, and what.
        relay: Relay,
    },
    /// It speaks of parts of checkpoints.
    Copies {
        /// The node.
        node: String,
        /// Which of its streams.
        link: u64,
        /// What it says.
        word: copies::Word,
    },
    /// A service asks where these nodes give parts of checkpoints.
    Peers {
        /// Their names.
        nodes: Vec<String>,
        /// Those that are connected.
        answer: oneshot::Sender<Vec<copies::DataPeer>>,
    },
    /// A service wants a part to be uploaded, and waits for what becomes of it.
    Upload(Box<AskedUpload>),
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

/// An upload that a service asks for.
#[derive(Debug)]
pub struct AskedUpload {
    /// Who is to do it.
    pub node: String,
    /// What it is told.
    pub order: copies::CopyOrder,
    /// Told why not, or nothing: it is there. Dropped when the node is not connected, or not any more.
    pub done: oneshot::Sender<String>,
}

/// A node said hello.
#[derive(Debug)]
pub struct Connected {
    /// Its stream.
    pub link: step::Link,
    /// All that it runs.
    pub reports: Vec<Report>,
    /// What it is told; bounded, and a node that does not read loses its stream.
    pub out: mpsc::Sender<Order>,
    /// The stream ends when this is dropped.
    pub hold: oneshot::Sender<()>,
}
