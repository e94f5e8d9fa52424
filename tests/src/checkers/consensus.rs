//! I7: one leader a term, no vote given twice or forgotten, leaders complete, and what is committed never changes.
//! Does NOT look inside entries.

use std::collections::BTreeMap;

use mlctl_coordinator::consensus::turn::{CommittedEntry, CoreStatus, Promise, Role};

use super::{Checked, ensure};

/// What was seen of elections and of the log.
#[derive(Debug, Default)]
pub struct Consensus {
    leaders: BTreeMap<u64, u64>,
    /// (member, term) to whom it voted for.
    votes: BTreeMap<(u64, u64), u64>,
    /// What each member said to others on the strength of its disk: (term, vote, last index).
    promised: BTreeMap<u64, (u64, u64, u64)>,
    /// Index to (term, hash of the commands) as first committed anywhere.
    committed: BTreeMap<u64, (u64, blake3::Hash)>,
    /// A term to the newest index that a member in that term took for committed before all others.
    newest: BTreeMap<u64, u64>,
}

impl Consensus {
    /// Where `member` stands after a turn.
    ///
    /// # Errors
    /// When a term has two leaders, or a leader lacks what is committed.
    pub fn stands(&mut self, member: u64, status: &CoreStatus) -> Checked {
        if status.role != Role::Leader {
            return Ok(());
        }
        let new = !self.leaders.contains_key(&status.term);
        let leader = *self.leaders.entry(status.term).or_insert(member);
        ensure(leader == member, "I7", || {
            format!("term {} has the leaders {leader} and {member}", status.term)
        })?;
        // Raft's leader completeness (Ongaro 2014, 3.6) is about later terms: who learns only now that it was elected in an old one
        // may lack what was committed since.
        let earlier = self.newest.range(..status.term);
        let newest = earlier.map(|(_, index)| *index).max().unwrap_or(0);
        ensure(!new || status.last >= newest, "I7", || {
            let last = status.last;
            format!("leader {member} ends at {last}, but {newest} is committed")
        })
    }

    /// `member` sends a message that promises this; its disk holds (term, vote, last index).
    ///
    /// # Errors
    /// When its disk does not hold it, or when it voted for somebody else in that term.
    pub fn says(
        &mut self,
        member: u64,
        promise: Promise,
        (term, vote, last): (u64, u64, u64),
    ) -> Checked {
        let (stored, double) = match promise {
            Promise::Vote { term: of, to } => {
                let first = *self.votes.entry((member, of)).or_insert(to);
                (term > of || (term == of && vote == to), first != to)
            }
            Promise::Stored { term: of, index } => (term >= of && last >= index, false),
        };
        ensure(!double, "I7", || {
            format!("member {member} votes twice: {promise:?}")
        })?;
        ensure(stored, "I7", || {
            format!(
                "member {member} promises {promise:?}, but its disk has term {term}, vote {vote}, index {last}"
            )
        })
    }

    /// `member` lets others rely on its having stored this. `last` is the end of its log.
    ///
    /// # Errors
    /// When it voted for somebody else in that term.
    pub fn promises(&mut self, member: u64, term: u64, vote: u64, last: u64) -> Checked {
        self.promised.insert(member, (term, vote, last));
        if vote == 0 {
            return Ok(());
        }
        let first = *self.votes.entry((member, term)).or_insert(vote);
        ensure(first == vote, "I7", || {
            format!("in term {term} member {member} voted for {first} and for {vote}")
        })
    }

    /// `member` starts again with this on its disk.
    ///
    /// # Errors
    /// When that is less than others rely on.
    pub fn starts(&self, member: u64, term: u64, vote: u64, last: u64) -> Checked {
        let Some(&(promised_term, promised_vote, promised_last)) = self.promised.get(&member)
        else {
            return Ok(());
        };
        ensure(term >= promised_term, "I7", || {
            format!("member {member} forgot term {promised_term}: it starts in {term}")
        })?;
        let kept = term > promised_term || promised_vote == 0 || vote == promised_vote;
        ensure(kept, "I7", || {
            format!("member {member} forgot its vote for {promised_vote} in term {term}")
        })?;
        ensure(last >= promised_last, "I7", || {
            format!("member {member} forgot entries: {promised_last} were stored, {last} are there")
        })
    }

    /// `member`, which is in the term `now`, takes this entry for committed.
    ///
    /// # Errors
    /// When another entry was committed at that index.
    pub fn committed(&mut self, member: u64, now: u64, entry: &CommittedEntry) -> Checked {
        let mut hasher = blake3::Hasher::new();
        for command in &entry.commands {
            hasher.update(&(command.len() as u64).to_le_bytes());
            hasher.update(command);
        }
        let seen = (entry.term, hasher.finalize());
        let first = *self.committed.entry(entry.index).or_insert_with(|| {
            let newest = self.newest.entry(now).or_default();
            *newest = entry.index.max(*newest);
            seen
        });
        ensure(first == seen, "I7", || {
            let index = entry.index;
            format!("member {member} has another entry committed at {index} than the first")
        })
    }

    /// Elections that were won.
    pub fn elections(&self) -> usize {
        self.leaders.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leads(seen: &mut Consensus, member: u64, term: u64, last: u64) -> bool {
        let status = CoreStatus {
            role: Role::Leader,
            term,
            last,
            ..CoreStatus::default()
        };
        seen.stands(member, &status).is_ok()
    }

    fn entry(index: u64, term: u64) -> CommittedEntry {
        CommittedEntry {
            index,
            term,
            proposal: None,
            commands: Vec::new(),
            size: 0,
            members: None,
        }
    }

    #[test]
    fn one_complete_leader_a_term() {
        let mut seen = Consensus::default();
        assert!(leads(&mut seen, 1, 1, 0) && leads(&mut seen, 1, 1, 0));
        assert!(!leads(&mut seen, 2, 1, 0));
        assert!(seen.committed(1, 1, &entry(5, 1)).is_ok());
        assert!(seen.committed(2, 1, &entry(5, 1)).is_ok());
        assert!(seen.committed(2, 2, &entry(5, 2)).is_err());
        assert!(!leads(&mut seen, 2, 2, 4) && leads(&mut seen, 3, 3, 5));
    }

    #[test]
    fn who_wins_an_old_term_late_may_lack_what_was_committed_since() {
        let mut seen = Consensus::default();
        assert!(seen.committed(1, 5, &entry(4, 5)).is_ok());
        assert!(seen.committed(1, 7, &entry(9, 7)).is_ok());
        assert!(leads(&mut seen, 2, 6, 4), "9 was committed after term 6");
        assert!(!leads(&mut seen, 3, 8, 8) && leads(&mut seen, 3, 9, 9));
    }

    #[test]
    fn a_promise_is_on_disk_when_it_is_said() {
        let check = |promise, stored| Consensus::default().says(1, promise, stored).is_ok();
        let vote = Promise::Vote { term: 4, to: 2 };
        assert!(check(vote, (4, 2, 0)) && check(vote, (5, 0, 0)));
        assert!(!check(vote, (4, 0, 0)) && !check(vote, (4, 1, 0)) && !check(vote, (3, 2, 0)));
        let log = Promise::Stored { term: 4, index: 7 };
        assert!(check(log, (4, 0, 7)) && !check(log, (4, 0, 6)) && !check(log, (3, 0, 7)));
        let mut seen = Consensus::default();
        assert!(seen.says(1, vote, (4, 2, 0)).is_ok());
        assert!(
            seen.says(1, Promise::Vote { term: 4, to: 3 }, (4, 3, 0))
                .is_err()
        );
    }

    #[test]
    fn a_promise_binds_over_a_restart() {
        let mut seen = Consensus::default();
        assert!(seen.promises(1, 4, 2, 10).is_ok());
        assert!(seen.promises(1, 4, 3, 10).is_err());
        assert!(seen.promises(1, 4, 2, 10).is_ok());
        assert!(seen.starts(1, 4, 2, 10).is_ok() && seen.starts(1, 5, 0, 11).is_ok());
        assert!(seen.starts(1, 3, 0, 10).is_err());
        assert!(seen.starts(1, 4, 0, 10).is_err());
        assert!(seen.starts(1, 4, 2, 9).is_err());
    }
}
