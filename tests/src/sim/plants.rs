//! Bugs that are planted around the cores, in the simulated disks, wires and drivers, to see that the checkers find them.
//! Does NOT touch the cores, and no checker knows of it.

/// One planted bug.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plant {
    /// The log is called stored before it is: a crash loses the last writes.
    LazySync,
    /// The disk keeps the term and forgets the vote.
    VoteForgotten,
    /// The agent's journal is called stored and never is.
    JournalForgotten,
    /// Old results are sent again under the job's newest epoch.
    ForgedEpoch,
    /// Clients are answered when their request is proposed, not when it is applied.
    EarlyAnswer,
    /// A snapshot says an index that its rows have not reached.
    SnapshotLag,
    /// Orders to stop get lost on their way to the agent.
    StopSwallowed,
    /// Events are acknowledged when they arrive, not when they are applied.
    EarlyAcknowledgement,
    /// Now and then an entry is applied twice.
    DoubleApply,
    /// What never ran is reported as a success.
    ForgedSuccess,
}

impl Plant {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::LazySync,
        Self::VoteForgotten,
        Self::JournalForgotten,
        Self::ForgedEpoch,
        Self::EarlyAnswer,
        Self::SnapshotLag,
        Self::StopSwallowed,
        Self::EarlyAcknowledgement,
        Self::DoubleApply,
        Self::ForgedSuccess,
    ];
}
