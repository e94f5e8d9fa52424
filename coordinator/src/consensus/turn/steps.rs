//! The order in which a turn's outputs are carried out, as data: the driver and the simulator walk the same list.
//!
//! It does not carry anything out. What stands before [`Step::Persist`] may leave at once, what stands after it waits until
//! that write is on stable storage. What is committed was stored here before (raft hands out nothing else), so a leader applies and
//! answers it before its next write begins, and a follower, for whose answer the leader waits, after that write.

use super::{CommittedEntry, Envelope, Outputs, Persist, Refusal, SnapshotMeta, SnapshotOffer};
use mlctl_proto::mutants::{Mutant, planted};

/// One thing to do after a turn.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Send these.
    Send(Vec<Envelope>),
    /// Write this and sync it; then `Input::Persisted` is due.
    Persist(Persist),
    /// Replace the state by the snapshot that was just installed.
    Restore(SnapshotMeta),
    /// This member leads the term, or none.
    Leads(Option<u64>),
    /// Apply these, in order.
    Apply(Vec<CommittedEntry>),
    /// Reads to serve once their index is applied: (id, index).
    Serve(Vec<(u64, u64)>),
    /// Tell who waits that nothing came of it, or that nobody knows.
    Refuse {
        /// Proposals.
        proposals: Vec<(u64, Refusal)>,
        /// Reads.
        reads: Vec<(u64, Refusal)>,
    },
    /// Pull this snapshot.
    Pull(SnapshotOffer),
    /// Cut the log up to and including this (index, term).
    Cut((u64, u64)),
}

impl Outputs {
    /// Everything that must happen after the turn, in the order of doing it.
    pub fn steps(self) -> Vec<Step> {
        let leads = (self.status.role == super::Role::Leader).then_some(self.status.term);
        let install = self.persist.as_ref().and_then(|one| one.install.clone());
        let mut steps = vec![Step::Send(self.messages)];
        let known = [
            Step::Leads(leads),
            Step::Apply(self.committed),
            Step::Serve(self.reads),
            Step::Refuse {
                proposals: self.refused,
                reads: self.refused_reads,
            },
        ];
        let store = (self.persist.map(Step::Persist)).into_iter();
        let promised = Step::Send(self.messages_after_persist);
        let mut stored: Vec<Step> = store.chain([promised]).collect();
        if planted(Mutant::MessagesBeforeSync) {
            stored.reverse();
        }
        let answers_first = leads.is_some() && install.is_none();
        // The state machine needs what is restored before anything that follows it.
        stored.extend(install.map(Step::Restore));
        if answers_first {
            steps.extend(known.into_iter().chain(stored));
        } else {
            steps.extend(stored.into_iter().chain(known));
        }
        steps.extend(self.offers.into_iter().map(Step::Pull));
        steps.extend(self.cut.map(Step::Cut));
        steps.retain(|step| !step.is_empty());
        steps
    }
}

impl Step {
    /// Nothing to do. Who leads is always said: the receiver compares.
    fn is_empty(&self) -> bool {
        match self {
            Self::Send(envelopes) => envelopes.is_empty(),
            Self::Apply(entries) => entries.is_empty(),
            Self::Serve(reads) => reads.is_empty(),
            Self::Refuse { proposals, reads } => proposals.is_empty() && reads.is_empty(),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Role;
    use super::*;
    use bytes::Bytes;
    use raft::eraftpb::HardState;

    fn envelope(word: &'static [u8]) -> Envelope {
        Envelope {
            to: 2,
            message: Bytes::from_static(word),
        }
    }

    #[test]
    fn a_promise_leaves_after_its_write_and_the_rest_follows() {
        let meta = SnapshotMeta::default();
        let persist = Persist {
            number: 1,
            hard_state: HardState::default(),
            entries: Vec::new(),
            install: Some(meta.clone()),
        };
        let out = Outputs {
            messages: vec![envelope(b"append")],
            persist: Some(persist.clone()),
            messages_after_persist: vec![envelope(b"vote")],
            refused: vec![(4, Refusal::Lost)],
            cut: Some((3, 1)),
            ..Outputs::default()
        };
        let plain = Persist {
            install: None,
            ..persist.clone()
        };
        let mut leader = Outputs {
            persist: Some(plain.clone()),
            ..out.clone()
        };
        (leader.status.role, leader.status.term) = (Role::Leader, 7);
        let refuse = Step::Refuse {
            proposals: vec![(4, Refusal::Lost)],
            reads: Vec::new(),
        };
        let expected = [
            Step::Send(vec![envelope(b"append")]),
            Step::Leads(Some(7)),
            refuse.clone(),
            Step::Persist(plain),
            Step::Send(vec![envelope(b"vote")]),
            Step::Cut((3, 1)),
        ];
        assert_eq!(leader.steps(), expected);
        let expected = [
            Step::Send(vec![envelope(b"append")]),
            Step::Persist(persist),
            Step::Send(vec![envelope(b"vote")]),
            Step::Restore(meta),
            Step::Leads(None),
            refuse,
            Step::Cut((3, 1)),
        ];
        assert_eq!(out.steps(), expected);
        assert_eq!(Outputs::default().steps(), [Step::Leads(None)]);
    }
}
