//! Linearizable reads: many reads share one round to a quorum, and none waits for ever.
//!
//! It does not talk to raft: the core asks it what to issue. raft drops a read without a word before the first
//! commit of a term, so nothing is issued before that, and the newest round is issued again at every tick.

use super::Refusal;
use std::collections::{BTreeMap, VecDeque};

/// Reads that wait for an index.
#[derive(Default)]
pub(super) struct Reads {
    now: u64,
    next_round: u64,
    /// (id, tick at which it fails), not yet part of a round.
    fresh: VecDeque<(u64, u64)>,
    rounds: BTreeMap<u64, Vec<(u64, u64)>>,
}

impl Reads {
    pub(super) fn add(&mut self, id: u64, ticks: u64) {
        self.fresh.push_back((id, self.now.saturating_add(ticks)));
    }

    /// Whether somebody waits.
    pub(super) fn wait(&self) -> bool {
        !self.fresh.is_empty() || !self.rounds.is_empty()
    }

    /// One tick passed: takes out what waited too long.
    pub(super) fn tick(&mut self, refused: &mut Vec<(u64, Refusal)>) {
        self.now += 1;
        let now = self.now;
        let mut keep = |&(id, deadline): &(u64, u64)| {
            let waits = deadline > now;
            if !waits {
                refused.push((id, Refusal::TimedOut));
            }
            waits
        };
        self.fresh.retain(&mut keep);
        self.rounds.retain(|_, reads| {
            reads.retain(&mut keep);
            !reads.is_empty()
        });
    }

    /// Puts all fresh reads into a round to be issued now.
    pub(super) fn open_round(&mut self) -> Option<Vec<u8>> {
        if self.fresh.is_empty() {
            return None;
        }
        self.next_round += 1;
        self.rounds
            .insert(self.next_round, self.fresh.drain(..).collect());
        Some(self.next_round.to_le_bytes().to_vec())
    }

    /// The newest round still unanswered; its answer answers the older ones too.
    pub(super) fn newest_round(&self) -> Option<Vec<u8>> {
        let (round, _) = self.rounds.last_key_value()?;
        Some(round.to_le_bytes().to_vec())
    }

    /// raft answered a round.
    pub(super) fn answer(&mut self, context: &[u8], index: u64, reads: &mut Vec<(u64, u64)>) {
        let Ok(round) = <[u8; 8]>::try_from(context).map(u64::from_le_bytes) else {
            return;
        };
        for (id, _) in self.rounds.remove(&round).into_iter().flatten() {
            reads.push((id, index));
        }
    }

    /// This member does not lead (any more): nobody will answer.
    pub(super) fn refuse_all(&mut self, refused: &mut Vec<(u64, Refusal)>) {
        let rounds = std::mem::take(&mut self.rounds);
        let waiting = rounds.into_values().flatten().chain(self.fresh.drain(..));
        refused.extend(waiting.map(|(id, _)| (id, Refusal::NotLeader)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_share_a_round_and_time_out() {
        let mut reads = Reads::default();
        let mut refused = Vec::new();
        reads.add(1, 2);
        reads.add(2, 9);
        let context = reads.open_round().expect("two fresh reads");
        assert_eq!(reads.newest_round(), Some(context.clone()));
        reads.add(3, 1);
        reads.tick(&mut refused);
        assert_eq!(refused, [(3, Refusal::TimedOut)]);
        reads.tick(&mut refused);
        assert_eq!(refused.last(), Some(&(1, Refusal::TimedOut)));
        let mut answered = Vec::new();
        reads.answer(b"what", 5, &mut answered);
        reads.answer(&context, 5, &mut answered);
        assert_eq!(answered, [(2, 5)]);
        reads.answer(&context, 6, &mut answered);
        assert_eq!(answered, [(2, 5)]);
        assert!(reads.open_round().is_none());
        reads.add(4, 9);
        reads.refuse_all(&mut refused);
        assert_eq!(refused.last(), Some(&(4, Refusal::NotLeader)));
    }
}
