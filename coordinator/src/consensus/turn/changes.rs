//! Changes of the membership: which may be made now, how they stand in an entry, and what a committed one makes.
//!
//! It does not decide that somebody should come or go. One change is under way at a time; a voter goes only together with
//! its successor's promotion or when the others are a majority that is there, and only when it is silent itself.

use super::{Core, Outputs, TurnError, wire};
use crate::consensus::MemberId;
use crate::consensus::turn::members::INFO_BYTES_MAX;
use raft::StateRole;
use raft::eraftpb::{ConfChangeSingle, ConfChangeTransition, ConfChangeType, ConfChangeV2, Entry};

/// A learner that lacks more entries than this is not promoted.
const CATCH_UP_ENTRIES: u64 = 64;
/// Members of all kinds.
const MEMBERS_MAX: usize = 9;

/// A change of the membership.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A new member gets the log and does not vote.
    AddLearner {
        /// Never used before.
        id: MemberId,
        /// What is kept for it, at most 512 bytes.
        info: String,
    },
    /// A learner that has caught up votes from now on, and in the same step another votes no more.
    Promote {
        /// Who votes from now on.
        learner: MemberId,
        /// Whose place it takes; that member must be silent.
        replacing: Option<MemberId>,
    },
    /// A member is one no more: a learner, or a voter that is silent and not needed for a majority.
    Remove {
        /// Who goes.
        id: MemberId,
    },
}

/// Why a change of the membership was not made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChangeRefusal {
    /// Nothing happened.
    #[error("this coordinator does not lead")]
    NotLeader,
    /// Nothing happened: try again soon.
    #[error("another change of the members is under way")]
    Busy,
    /// Nothing happened: try again when the reason is gone.
    #[error("not yet: {0}")]
    NotYet(&'static str),
    /// Nothing happened, and nothing ever will.
    #[error("{0}")]
    Impossible(&'static str),
    /// Leadership changed under it; it may or may not be committed: look at the members, or ask again.
    #[error("leadership changed while the members were being changed")]
    Lost,
}

/// What to do about a change that was asked for.
enum Verdict {
    Propose(ConfChangeV2),
    AlreadySo,
}

impl Core {
    /// Appends the change if it may be made now.
    pub(super) fn change_members(&mut self, id: u64, change: &Change, out: &mut Outputs) {
        let proposed = self.judge(change).and_then(|verdict| match verdict {
            Verdict::AlreadySo => Ok(false),
            // raft refuses while leadership is being handed over, or when too much is uncommitted.
            Verdict::Propose(entry) => match self.node.propose_conf_change(Vec::new(), entry) {
                Ok(()) => Ok(true),
                Err(_) => Err(ChangeRefusal::Busy),
            },
        });
        match proposed {
            Ok(true) => {
                let raft = &self.node.raft;
                self.changes
                    .insert(raft.raft_log.last_index(), (raft.term, id));
            }
            Ok(false) => out.changes.push((id, Ok(()))),
            Err(refusal) => out.changes.push((id, Err(refusal))),
        }
    }

    /// A leader that finds a joint configuration, its own or a predecessor's, proposes to leave it.
    pub(super) fn leave_joint(&mut self) {
        let idle = !self.node.raft.has_pending_conf() && self.may_issue_reads();
        if self.members.is_joint() && idle {
            // What is refused now is proposed again at the next tick.
            let _ = self
                .node
                .propose_conf_change(Vec::new(), ConfChangeV2::default());
        }
    }

    /// Makes a committed change of the membership true.
    pub(super) fn change_committed(&mut self, entry: &Entry) -> Result<(), TurnError> {
        let undecodable = |reason: String| TurnError::Undecodable {
            index: entry.index,
            term: entry.term,
            reason,
        };
        let change = wire::decode_change(entry).map_err(|error| undecodable(error.to_string()))?;
        let conf = self
            .node
            .apply_conf_change(&change)
            .map_err(|error| undecodable(error.to_string()))?;
        let added = change
            .changes
            .iter()
            .find(|one| one.get_change_type() == ConfChangeType::AddLearnerNode)
            .map(|one| one.node_id)
            .zip(String::from_utf8(change.context.to_vec()).ok());
        self.members = self.members.after(entry.index, &conf, added).into();
        Ok(())
    }

    fn judge(&self, change: &Change) -> Result<Verdict, ChangeRefusal> {
        let raft = &self.node.raft;
        if raft.state != StateRole::Leader {
            return Err(ChangeRefusal::NotLeader);
        }
        if self.is_so(change) {
            return Ok(Verdict::AlreadySo);
        }
        // A leader that has not committed in its term does not know the members for sure.
        if self.members.is_joint() || raft.has_pending_conf() || !self.may_issue_reads() {
            return Err(ChangeRefusal::Busy);
        }
        match change {
            Change::AddLearner { id, info } => self.judge_addition(*id, info),
            Change::Promote { learner, replacing } => self.judge_promotion(*learner, *replacing),
            Change::Remove { id } => self.judge_removal(*id),
        }
    }

    fn is_so(&self, change: &Change) -> bool {
        let members = &self.members;
        match change {
            Change::AddLearner { id, .. } => members.contains(*id),
            Change::Promote { learner, replacing } => {
                members.voters.contains(learner)
                    && !members.is_joint()
                    && !replacing.is_some_and(|old| members.contains(old))
            }
            Change::Remove { id } => !members.contains(*id),
        }
    }

    fn judge_addition(&self, id: MemberId, info: &str) -> Result<Verdict, ChangeRefusal> {
        if id == 0 || self.members.was_removed(id) {
            return Err(ChangeRefusal::Impossible(
                "a member's id is not 0 and never used again; draw a new one",
            ));
        }
        if info.len() > INFO_BYTES_MAX {
            return Err(ChangeRefusal::Impossible(
                "what is to be kept for the member is too long",
            ));
        }
        if self.members.ids().len() >= MEMBERS_MAX {
            return Err(ChangeRefusal::Impossible(
                "the cluster has as many members as it may have",
            ));
        }
        let mut entry = single(ConfChangeType::AddLearnerNode, id);
        entry.context = info.as_bytes().to_vec().into();
        Ok(Verdict::Propose(entry))
    }

    fn judge_promotion(
        &self,
        learner: MemberId,
        replacing: Option<MemberId>,
    ) -> Result<Verdict, ChangeRefusal> {
        let old = replacing.filter(|old| self.members.contains(*old));
        if !self.members.learns(learner) || old.is_some_and(|old| !self.members.votes(old)) {
            return Err(ChangeRefusal::Impossible(
                "only a learner is promoted, and only a voter is replaced",
            ));
        }
        let raft = &self.node.raft;
        let matched = raft.prs().get(learner).map_or(0, |one| one.matched);
        if matched + CATCH_UP_ENTRIES < raft.raft_log.last_index() || !self.is_there(learner) {
            return Err(ChangeRefusal::NotYet("the new member has not caught up"));
        }
        let stays = |id: &MemberId| Some(*id) != old;
        let voters = self.members.voters.iter().copied().filter(stays);
        self.check_majority(voters.chain([learner]).collect(), old)?;
        let mut entry = single(ConfChangeType::AddNode, learner);
        if let Some(old) = old {
            entry
                .mut_changes()
                .push(one(ConfChangeType::RemoveNode, old));
            entry.set_transition(ConfChangeTransition::Explicit);
        }
        Ok(Verdict::Propose(entry))
    }

    fn judge_removal(&self, id: MemberId) -> Result<Verdict, ChangeRefusal> {
        if self.members.votes(id) {
            let stays = |voter: &MemberId| *voter != id;
            let rest: Vec<MemberId> = self.members.voters.iter().copied().filter(stays).collect();
            self.check_majority(rest, Some(id))?;
        }
        Ok(Verdict::Propose(single(ConfChangeType::RemoveNode, id)))
    }

    /// The voters after a change must have a majority that answers, and who goes must be silent.
    fn check_majority(
        &self,
        voters: Vec<MemberId>,
        gone: Option<MemberId>,
    ) -> Result<(), ChangeRefusal> {
        if gone == Some(self.config.id) {
            return Err(ChangeRefusal::Impossible(
                "a leader does not remove itself; hand the leadership over first",
            ));
        }
        if gone.is_some_and(|gone| self.is_there(gone)) {
            return Err(ChangeRefusal::NotYet(
                "the member that is to go still answers; stop it first",
            ));
        }
        let there = voters.iter().filter(|id| self.is_there(**id)).count();
        if there * 2 <= voters.len() {
            return Err(ChangeRefusal::NotYet(
                "too few of the voters that stay answer: the cluster would lose its majority",
            ));
        }
        Ok(())
    }

    /// Whether a member was heard within the longest usual election timeout.
    fn is_there(&self, id: MemberId) -> bool {
        let patience = 2 * self.config.election_tick as u64;
        id == self.config.id
            || self
                .heard
                .get(&id)
                .is_some_and(|tick| tick + patience >= self.now)
    }
}

fn one(kind: ConfChangeType, id: MemberId) -> ConfChangeSingle {
    let mut change = ConfChangeSingle::default();
    change.set_change_type(kind);
    change.node_id = id;
    change
}

fn single(kind: ConfChangeType, id: MemberId) -> ConfChangeV2 {
    let mut entry = ConfChangeV2::default();
    entry.mut_changes().push(one(kind, id));
    entry
}
