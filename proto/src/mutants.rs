//! Bugs planted on purpose in the cores, to see that the simulator's checkers find them. One at most is on, per thread.
//!
//! Built in only with `--cfg mlctl_mutants`: without it [`planted`] is the constant `false`, and what it guards is compiled
//! away. No checker, scenario or seed knows which one is on. Does NOT say who finds them: `mlctl-tests mutants` does.

/// One planted bug. Each stands at one place in production code, behind [`planted`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutant {
    /// A write of the log is called stored before the disk has it.
    LazySync,
    /// The stored mark has the term and forgets the vote.
    VoteNotSaved,
    /// An entry counts as committed, and its client is answered, once the leader's own disk has it.
    AckBeforeCommit,
    /// Votes and append answers leave before what they promise is on disk.
    MessagesBeforeSync,
    /// Now and then an entry is handed to the state machine twice.
    EntryHandedOutTwice,
    /// The log is cut up to what is committed, not to what a snapshot holds.
    LogCutPastSnapshot,
    /// The applied index stays behind when a command is refused.
    IndexApartFromState,
    /// A node's event mark is not in its record.
    SnapshotFieldDropped,
    /// Events of a closed epoch are applied.
    EpochCheckRemoved,
    /// A job that is over can be cancelled, and ends again.
    DoubleCompletion,
    /// What an ended allocation held is given back twice.
    FreedTwice,
    /// What a stopped attempt holds is given back before its node has answered.
    FreedWhenStopped,
    /// An allocation that failed does not end its attempt as failed.
    FailureForgotten,
    /// A request that was answered before is carried out again.
    IdempotencyForgotten,
    /// The event mark does not move over an event that is refused.
    RefusedEventNotAcknowledged,
    /// A heartbeat is answered with a lease at once, without a read round.
    LeaseWithoutRound,
    /// A new leader counts silence from before its term.
    LeaseNotExtended,
    /// Ranks are told to go when the first node is ready.
    GangGoesEarly,
    /// What a node runs and shall not run is not stopped.
    StaleAttemptKept,
    /// An order to stop what was never seen leaves no tombstone.
    TombstoneSkipped,
    /// The agent goes on before its journal is synced.
    JournalNotSynced,
    /// The agent forgets an event once it is sent.
    EventForgottenWhenSent,
    /// The keeper of a fenced attempt never counts.
    FenceNotArmed,
    /// That a witness hears a silent node counts for nothing.
    WitnessIgnored,
    /// A start is let in although it takes one GPU more than its team may have.
    QuotaOffByOne,
}

impl Mutant {
    /// All of them.
    pub const ALL: [Self; 25] = [
        Self::LazySync,
        Self::VoteNotSaved,
        Self::AckBeforeCommit,
        Self::MessagesBeforeSync,
        Self::EntryHandedOutTwice,
        Self::LogCutPastSnapshot,
        Self::IndexApartFromState,
        Self::SnapshotFieldDropped,
        Self::EpochCheckRemoved,
        Self::DoubleCompletion,
        Self::FreedTwice,
        Self::FreedWhenStopped,
        Self::FailureForgotten,
        Self::IdempotencyForgotten,
        Self::RefusedEventNotAcknowledged,
        Self::LeaseWithoutRound,
        Self::LeaseNotExtended,
        Self::GangGoesEarly,
        Self::StaleAttemptKept,
        Self::TombstoneSkipped,
        Self::JournalNotSynced,
        Self::EventForgottenWhenSent,
        Self::FenceNotArmed,
        Self::WitnessIgnored,
        Self::QuotaOffByOne,
    ];
}

/// Whether this build has the bugs in it.
pub const BUILT_IN: bool = cfg!(mlctl_mutants);

#[cfg(mlctl_mutants)]
mod switch {
    use super::Mutant;
    use std::cell::Cell;

    thread_local! {
        static ON: Cell<Option<Mutant>> = const { Cell::new(None) };
    }

    /// Whether this bug is on, in this thread.
    pub fn planted(mutant: Mutant) -> bool {
        ON.get() == Some(mutant)
    }

    /// Turns one bug on in this thread, or all off.
    pub fn plant(mutant: Option<Mutant>) {
        ON.set(mutant);
    }
}

#[cfg(not(mlctl_mutants))]
mod switch {
    use super::Mutant;

    /// Never: this build has no planted bugs.
    #[inline(always)]
    pub const fn planted(_: Mutant) -> bool {
        false
    }
}

#[cfg(mlctl_mutants)]
pub use switch::plant;
pub use switch::planted;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mutant_is_listed_once() {
        for (place, mutant) in Mutant::ALL.iter().enumerate() {
            assert_eq!(*mutant as usize, place, "{mutant:?}");
        }
    }

    #[cfg(not(mlctl_mutants))]
    #[test]
    fn an_ordinary_build_has_none() {
        assert!(!BUILT_IN && !Mutant::ALL.into_iter().any(planted));
    }
}
