//! The rows of the state, as the code thinks of them. How they become bytes is `codec`'s business, not theirs.
mod array;
mod attempt;
mod checkpoint;
mod decision;
mod history;
mod hold;
mod job;
mod node;
mod retry;
mod settings;
mod team;
mod turn;

pub use array::{Array, TaskFailure, TaskGroup, Wave};
pub use attempt::{Allocation, AllocationPhase, Attempt, End, EndKind, RankExit};
pub use checkpoint::{Checkpoint, ManifestId, Part, PartKey};
pub use decision::{
    Automatic, Decider, Decision, DecisionKey, Maintenance, NodeOwner, Pause, PoolRules, SchedKey,
    Target, guests_word, length_text, moment_text, sharing_word,
};
pub use history::{Archived, ClosedSegment, FRAME_BYTES, HistoryBatch, Retention, Segment};
pub use hold::{DeviceHold, HeldSeat, HoldVictim, Marks};
pub use job::{Job, JobState, Spec};
pub use node::{
    Addresses, Admin, Device, DirtyDevice, Health, Isolation, Liveness, Node, NodeFacts, Power,
};
pub use retry::{ExcludedNode, HoldReason, Lineage, Retries};
pub use settings::{Actor, Idempotency, Reply, RequestKey, Settings, Timers};
pub use team::{
    Account, Budget, BudgetAccount, Charge, Decayed, EVERYBODYS, Member, Team, TeamChange,
    TeamLimit, TeamUsage, WhenExhausted, Window, Zone,
};
pub use turn::{Hold, Turn};
