//! Who belongs to the cluster: voters, learners, the two halves of a joint configuration, and what is known of each.
//!
//! It does not decide on changes (`changes` does) and does not know what the text that is kept for a member means. What
//! is here moves by committed entries alone and travels whole with every snapshot.

use crate::consensus::MemberId;
use bytes::Buf;
use raft::eraftpb::ConfState;
use std::collections::{BTreeMap, BTreeSet};

/// The longest text that is kept for a member, bytes.
pub const INFO_BYTES_MAX: usize = 512;
/// More voters, learners or outgoing voters than any cluster has.
const MEMBERS_MAX: usize = 16;
/// Ids of removed members that are remembered, the newest.
const REMOVED_MAX: usize = 64;
const VERSION: u8 = 1;

/// The members as of one index of the log. All lists are sorted but `removed`, whose newest is last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Membership {
    /// The entry that made it so; 0: as the cluster was founded.
    pub index: u64,
    /// Who votes.
    pub voters: Vec<MemberId>,
    /// Who gets the log and does not vote.
    pub learners: Vec<MemberId>,
    /// In a joint configuration: who voted before, and votes too until it is left.
    pub outgoing: Vec<MemberId>,
    /// Outgoing voters that will learn once the joint configuration is left.
    pub learners_next: Vec<MemberId>,
    /// Who was removed; its messages count no more.
    pub removed: Vec<MemberId>,
    /// What is kept for each member, as opaque text.
    pub info: BTreeMap<MemberId, String>,
}

impl Membership {
    /// Voters of a cluster that is being founded, nothing known of them.
    pub fn of(voters: &[MemberId]) -> Self {
        let unknown = voters.iter().map(|id| (*id, String::new()));
        Self::founded(unknown)
    }

    /// Voters of a cluster that is being founded, with what is to be kept for each.
    pub fn founded(voters: impl IntoIterator<Item = (MemberId, String)>) -> Self {
        let info: BTreeMap<MemberId, String> = voters.into_iter().collect();
        Self {
            voters: info.keys().copied().collect(),
            info,
            ..Self::default()
        }
    }

    /// Whether `id` votes or learns.
    pub fn contains(&self, id: MemberId) -> bool {
        self.votes(id) || self.learns(id)
    }

    /// Whether `id` votes, in either half of a joint configuration.
    pub fn votes(&self, id: MemberId) -> bool {
        self.voters.contains(&id) || self.outgoing.contains(&id)
    }

    /// Whether `id` learns.
    pub fn learns(&self, id: MemberId) -> bool {
        self.learners.contains(&id)
    }

    /// Whether `id` is not fully there yet: it learns, or who it replaces still votes beside it.
    pub fn joins(&self, id: MemberId) -> bool {
        self.learns(id) || (self.is_joint() && !self.outgoing.contains(&id))
    }

    /// Whether `id` was a member and is none any more.
    pub fn was_removed(&self, id: MemberId) -> bool {
        self.removed.contains(&id) && !self.contains(id)
    }

    /// Whether two sets of voters must agree at the moment.
    pub fn is_joint(&self) -> bool {
        !self.outgoing.is_empty()
    }

    /// Everybody who votes or learns.
    pub fn ids(&self) -> BTreeSet<MemberId> {
        let voters = self.voters.iter().chain(&self.outgoing);
        voters.chain(&self.learners).copied().collect()
    }

    /// As raft wants it.
    pub(super) fn conf_state(&self) -> ConfState {
        ConfState {
            voters: self.voters.clone(),
            learners: self.learners.clone(),
            voters_outgoing: self.outgoing.clone(),
            learners_next: self.learners_next.clone(),
            ..ConfState::default()
        }
    }

    /// What the entry at `index` made of this: raft's word on who votes, and the text for a member that it added.
    pub(super) fn after(
        &self,
        index: u64,
        conf: &ConfState,
        added: Option<(MemberId, String)>,
    ) -> Self {
        let sorted = |ids: &[MemberId]| {
            let mut ids = ids.to_vec();
            ids.sort_unstable();
            ids
        };
        let mut next = Self {
            index,
            voters: sorted(&conf.voters),
            learners: sorted(&conf.learners),
            outgoing: sorted(&conf.voters_outgoing),
            learners_next: sorted(&conf.learners_next),
            removed: self.removed.clone(),
            info: self.info.clone(),
        };
        next.info.extend(added);
        let ids = next.ids();
        next.info.retain(|id, _| ids.contains(id));
        let gone = self.ids().into_iter().filter(|id| !ids.contains(id));
        next.removed.extend(gone);
        let surplus = next.removed.len().saturating_sub(REMOVED_MAX);
        next.removed.drain(..surplus);
        next
    }

    /// Whether it can be: raft ends the process when it is given one that cannot.
    ///
    /// # Errors
    /// What contradicts itself.
    pub fn check(&self) -> Result<(), &'static str> {
        let lists = [
            &self.voters,
            &self.learners,
            &self.outgoing,
            &self.learners_next,
        ];
        let tidy = lists.iter().all(|list| {
            list.len() <= MEMBERS_MAX
                && list.first() != Some(&0)
                && list.windows(2).all(|pair| pair[0] < pair[1])
        });
        if !tidy || self.voters.is_empty() {
            return Err("its lists of members are impossible");
        }
        let votes = |id: &MemberId| self.votes(*id);
        let next = |id: &MemberId| self.outgoing.contains(id) && !self.voters.contains(id);
        if self.learners.iter().any(votes) || !self.learners_next.iter().all(next) {
            return Err("a member both votes and learns");
        }
        let long = self.info.values().any(|text| text.len() > INFO_BYTES_MAX);
        if long || self.info.len() > 3 * MEMBERS_MAX || self.removed.len() > REMOVED_MAX {
            return Err("too much is kept for its members");
        }
        Ok(())
    }

    /// As bytes, for snapshots and their announcements.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = vec![VERSION];
        bytes.extend_from_slice(&self.index.to_le_bytes());
        let lists = [
            &self.voters,
            &self.learners,
            &self.outgoing,
            &self.learners_next,
            &self.removed,
        ];
        for list in lists {
            put_length(&mut bytes, list.len());
            for id in list {
                bytes.extend_from_slice(&id.to_le_bytes());
            }
        }
        put_length(&mut bytes, self.info.len());
        for (id, text) in &self.info {
            bytes.extend_from_slice(&id.to_le_bytes());
            put_length(&mut bytes, text.len());
            bytes.extend_from_slice(text.as_bytes());
        }
        bytes
    }

    /// Reads what [`Membership::to_bytes`] wrote, all of it.
    ///
    /// # Errors
    /// What is wrong with the bytes.
    pub fn from_bytes(mut bytes: &[u8]) -> Result<Self, &'static str> {
        const CUT: &str = "its members are cut off";
        if bytes.try_get_u8() != Ok(VERSION) {
            return Err("its members are in a format that is unknown to this release");
        }
        let index = bytes.try_get_u64_le().map_err(|_| CUT)?;
        let mut list = || {
            let count = length(&mut bytes, REMOVED_MAX)?;
            let ids = (0..count).map(|_| bytes.try_get_u64_le().map_err(|_| CUT));
            ids.collect::<Result<Vec<MemberId>, _>>()
        };
        let (voters, learners) = (list()?, list()?);
        let (outgoing, learners_next, removed) = (list()?, list()?, list()?);
        let mut info = BTreeMap::new();
        for _ in 0..length(&mut bytes, 3 * MEMBERS_MAX)? {
            let id = bytes.try_get_u64_le().map_err(|_| CUT)?;
            let size = length(&mut bytes, INFO_BYTES_MAX)?;
            let text = bytes.split_off(..size).ok_or(CUT)?;
            let text = std::str::from_utf8(text).map_err(|_| "a member's text is not text")?;
            info.insert(id, text.to_owned());
        }
        if !bytes.is_empty() {
            return Err("something follows its members");
        }
        let members = Self {
            index,
            voters,
            learners,
            outgoing,
            learners_next,
            removed,
            info,
        };
        members.check()?;
        Ok(members)
    }
}

fn put_length(bytes: &mut Vec<u8>, length: usize) {
    debug_assert!(u16::try_from(length).is_ok());
    bytes.extend_from_slice(&(length as u16).to_le_bytes());
}

fn length(bytes: &mut &[u8], most: usize) -> Result<usize, &'static str> {
    let length = bytes.try_get_u16_le().map(usize::from);
    let length = length.map_err(|_| "its members are cut off")?;
    if length > most {
        return Err("its lists of members are impossible");
    }
    Ok(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn joint() -> Membership {
        let mut members =
            Membership::founded([(3, "c".into()), (1, "a".into()), (2, String::new())]);
        members.outgoing = vec![2, 3, 9];
        members.learners = vec![7];
        members.learners_next = vec![9];
        members.removed = vec![40, 5];
        members.index = 12;
        members
    }

    #[test]
    fn bytes_round_trip_and_every_cut_is_refused() {
        for members in [Membership::of(&[1]), Membership::of(&[5, 2, 9]), joint()] {
            assert_eq!(members.check(), Ok(()));
            let bytes = members.to_bytes();
            assert_eq!(Membership::from_bytes(&bytes), Ok(members));
            for end in 0..bytes.len() {
                assert!(Membership::from_bytes(&bytes[..end]).is_err(), "{end}");
            }
            let long = [&bytes[..], b"x"].concat();
            assert!(Membership::from_bytes(&long).is_err());
        }
    }

    #[test]
    fn what_raft_would_panic_at_is_refused() {
        let refused = |change: fn(&mut Membership)| {
            let mut members = joint();
            change(&mut members);
            assert!(members.check().is_err(), "{members:?}");
            assert!(Membership::from_bytes(&members.to_bytes()).is_err());
        };
        refused(|members| members.voters.clear());
        refused(|members| members.voters = vec![0, 1]);
        refused(|members| members.voters = vec![2, 1]);
        refused(|members| members.voters = vec![1, 1]);
        refused(|members| members.learners = vec![1]);
        refused(|members| members.learners = vec![9]);
        refused(|members| members.learners_next = vec![8]);
        refused(|members| members.learners_next = vec![3]);
        refused(|members| members.outgoing.clear());
        refused(|members| members.voters = (1..=17).collect());
        refused(|members| drop(members.info.insert(1, "x".repeat(INFO_BYTES_MAX + 1))));
    }

    #[test]
    fn removed_members_are_remembered_and_their_text_is_not() {
        let mut conf = ConfState {
            voters: vec![2, 1, 4],
            ..ConfState::default()
        };
        let before = Membership::founded([(1, "a".into()), (2, "b".into()), (3, "c".into())]);
        let after = before.after(9, &conf, Some((4, "c".into())));
        assert_eq!((after.index, &after.voters[..]), (9, &[1, 2, 4][..]));
        assert_eq!(after.removed, [3]);
        assert!(after.was_removed(3) && !after.was_removed(4) && !after.was_removed(99));
        assert_eq!(after.info.keys().copied().collect::<Vec<_>>(), [1, 2, 4]);
        let mut many = after;
        for id in 100..200 {
            conf.voters = vec![1, 2, id];
            many = many.after(id, &conf, None);
        }
        assert_eq!(
            (many.removed.len(), many.removed.last()),
            (REMOVED_MAX, Some(&198))
        );
    }
}
