//! What must hold in every run, one property a file. Fed with what the cores did and with what really happened in the world.
//! Does NOT know how the world is simulated, nor whether something in it was broken on purpose.

mod acknowledged;
mod applied;
mod checkpoints;
mod closed_epochs;
mod consensus;
mod digests;
mod fences;
mod gangs;
mod history;
pub mod journaled;
mod judged;
mod keys;
mod leases;
mod liveness;
mod terminal;
mod witnessed;

pub use acknowledged::Acknowledged;
pub use applied::Applied;
pub use checkpoints::Checkpoints;
pub use closed_epochs::{ClosedEpochs, Key, RankFate};
pub use consensus::Consensus;
pub use digests::Digests;
pub use fences::Fences;
pub use gangs::Gangs;
pub use history::History;
pub use judged::Judged;
pub use keys::Keys;
pub use leases::Leases;
pub use liveness::{Liveness, Look, unacknowledged};
pub use terminal::Terminal;
pub use witnessed::Witnessed;

/// A property that does not hold, with what shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The property's short name, such as `I4`.
    pub property: &'static str,
    /// What shows it, for people.
    pub what: String,
}

/// The outcome of one check.
pub type Checked = Result<(), Violation>;

/// All properties of one run.
#[derive(Debug, Default)]
pub struct Checkers {
    /// I1: nothing acknowledged is lost.
    pub acknowledged: Acknowledged,
    /// I2': nothing of a closed epoch counts, and it is stopped.
    pub closed_epochs: ClosedEpochs,
    /// I2: two epochs never run at once.
    pub fences: Fences,
    /// I4: one terminal state for ever.
    pub terminal: Terminal,
    /// I5: replicas agree.
    pub digests: Digests,
    /// I6: each entry once, in order.
    pub applied: Applied,
    /// I7: elections, votes and the log.
    pub consensus: Consensus,
    /// I13: what is listed is whole and held, and nothing durable is thrown away.
    pub checkpoints: Checkpoints,
    /// I12: gangs start together.
    pub gangs: Gangs,
    /// A lease is true.
    pub leases: Leases,
    /// A new leader judges nobody at once.
    pub judged: Judged,
    /// Who is heard is not lost.
    pub witnessed: Witnessed,
    /// I9: one key, one job.
    pub keys: Keys,
    /// What leaves the tables lies in history.
    pub history: History,
    /// L: a calm cluster comes right by itself.
    pub liveness: Liveness,
}

pub(crate) fn ensure(
    holds: bool,
    property: &'static str,
    what: impl FnOnce() -> String,
) -> Checked {
    if holds {
        Ok(())
    } else {
        Err(Violation {
            property,
            what: what(),
        })
    }
}
