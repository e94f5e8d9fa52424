//! Is a silent node there? Its agent and each of its keepers answer a one-packet question over UDP; other agents ask it when the leader
//! wants to know. Not over the leader: that is what may be cut off.
//! Does NOT judge anybody: what follows from an answer is the leader's business.
pub mod answer;
pub mod ask;
pub mod packet;

pub use packet::ProbePort;

/// What a leader wants to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// Named again in the answer.
    pub id: u64,
    /// The silent node, for the answer.
    pub node: String,
    /// Where it is reached: host or IP.
    pub address: String,
    /// Its agent and its keepers.
    pub targets: Vec<ProbePort>,
}
