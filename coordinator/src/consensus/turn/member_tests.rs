//! Changes of the membership between cores in one thread: joint steps, leaders that end in the middle, restarts, and what
//! a leader refuses. Messages arrive, writes succeed at once; loss is the business of the other tests.

use super::*;
use std::collections::{BTreeMap, BTreeSet};

/// A member's core and what its disk holds.
struct Node {
    core: Core,
    log: Recovered,
    applied: u64,
    /// Every membership that was handed out, in order.
    seen: Vec<Arc<Membership>>,
    wanted: u32,
}

#[derive(Default)]
struct Net {
    nodes: BTreeMap<MemberId, Node>,
    down: BTreeSet<MemberId>,
    outcomes: Vec<(u64, Result<(), ChangeRefusal>)>,
    offers: usize,
}

fn config(id: MemberId, applied: u64) -> CoreConfig {
    CoreConfig {
        applied,
        snapshot_retry_ticks: 40,
        ..CoreConfig::new(id, vec![1, 2, 3], 7)
    }
}

impl Net {
    fn new() -> Self {
        let mut net = Self::default();
        for id in 1..=3 {
            net.boot(id, Recovered::default(), 0);
        }
        net
    }

    fn boot(&mut self, id: MemberId, mut log: Recovered, applied: u64) {
        log.hard_state.commit = log.hard_state.commit.max(applied);
        let core = Core::new(config(id, applied), log.clone()).expect("starts");
        let node = Node {
            core,
            log,
            applied,
            seen: Vec::new(),
            wanted: 0,
        };
        self.nodes.insert(id, node);
    }

    fn restart(&mut self, id: MemberId, applied: u64) {
        let log = self.nodes[&id].log.clone();
        self.boot(id, log, applied);
    }

    fn at(&mut self, id: MemberId) -> &mut Node {
        self.nodes.get_mut(&id).expect("a member")
    }

    /// Gives inputs to one core and delivers everything that follows from it.
    fn give(&mut self, id: MemberId, input: Input) {
        let mut waiting = vec![(id, input)];
        while let Some((id, input)) = waiting.pop() {
            if self.down.contains(&id) {
                continue;
            }
            let Some(node) = self.nodes.get_mut(&id) else {
                continue;
            };
            let mut inputs = vec![input];
            loop {
                let out = node.core.turn(std::mem::take(&mut inputs)).expect("turns");
                let sent = out.messages.into_iter().chain(out.messages_after_persist);
                for Envelope { to, message } in sent {
                    let step = Input::Step { from: id, message };
                    waiting.insert(0, (to, step));
                }
                if let Some(persist) = out.persist {
                    node.log.hard_state = persist.hard_state;
                    if let Some(first) = persist.entries.first().map(|entry| entry.index) {
                        node.log.entries.retain(|entry| entry.index < first);
                    }
                    node.log.entries.extend(persist.entries);
                    let number = persist.number;
                    inputs.push(Input::Persisted { number });
                }
                for entry in out.committed {
                    assert_eq!(entry.index, node.applied + 1, "a hole or a repeat");
                    node.applied = entry.index;
                    node.seen.extend(entry.members);
                    inputs.push(Input::Applied { index: entry.index });
                }
                node.wanted += u32::from(out.snapshot_wanted);
                self.outcomes.extend(out.changes);
                self.offers += out.offers.len();
                if inputs.is_empty() && !out.more {
                    break;
                }
            }
        }
    }

    fn ticks(&mut self, count: u32) {
        for _ in 0..count {
            let ids: Vec<MemberId> = self.nodes.keys().copied().collect();
            for id in ids {
                self.give(id, Input::Tick);
            }
        }
    }

    fn leader(&mut self) -> MemberId {
        for _ in 0..400 {
            self.ticks(1);
            let up = self.nodes.iter().filter(|(id, _)| !self.down.contains(id));
            let leads = |node: &Node| node.core.may_issue_reads();
            if let Some((id, _)) = up.into_iter().find(|(_, node)| leads(node)) {
                return *id;
            }
        }
        panic!("nobody leads");
    }

    /// The answer to a change, once there is one.
    fn change(&mut self, id: MemberId, change: Change) -> Result<(), ChangeRefusal> {
        self.outcomes.clear();
        self.give(id, Input::ChangeMembers { id: 5, change });
        self.ticks(3);
        let (asked, outcome) = self.outcomes.pop().expect("an answer");
        assert_eq!(asked, 5);
        outcome
    }

    fn members(&self, id: MemberId) -> Arc<Membership> {
        self.nodes[&id].core.status().members
    }
}

fn learner(id: MemberId) -> Change {
    let info = format!("member {id}");
    Change::AddLearner { id, info }
}

fn promote(learner: MemberId, old: MemberId) -> Change {
    Change::Promote {
        learner,
        replacing: Some(old),
    }
}

/// A cluster whose member `old` is down, and the leader.
fn without_a_follower() -> (Net, MemberId, MemberId) {
    let mut net = Net::new();
    let leader = net.leader();
    let old = (1..=3).find(|id| *id != leader).expect("a follower");
    net.down.insert(old);
    net.ticks(100);
    let leader = net.leader();
    (net, leader, old)
}

#[test]
fn a_learner_catches_up_and_takes_a_lost_voters_place() {
    let (mut net, leader, old) = without_a_follower();
    net.boot(9, Recovered::default(), 0);
    assert_eq!(net.change(leader, learner(9)), Ok(()));
    assert_eq!(net.change(leader, learner(9)), Ok(()), "asked again");
    net.ticks(20);
    assert_eq!(net.change(leader, promote(9, old)), Ok(()));
    net.ticks(20);
    for id in [leader, 9] {
        let members = net.members(id);
        assert!(!members.is_joint() && members.learners.is_empty());
        assert!(members.voters.contains(&9) && members.was_removed(old));
        assert_eq!(members.info.get(&9).map(String::as_str), Some("member 9"));
        // Learner, joint, and the joint configuration left: by entries, everywhere the same.
        assert_eq!(net.nodes[&id].seen, net.nodes[&leader].seen);
        assert_eq!(net.nodes[&id].seen.len(), 3);
    }
    assert_eq!(net.change(leader, promote(9, old)), Ok(()), "asked again");
    // The removed one's messages count no more, and its id is never taken back.
    let message = net.at(leader).core.status().term + 9;
    let mut vote = raft::eraftpb::Message::default();
    vote.set_msg_type(raft::eraftpb::MessageType::MsgRequestVote);
    (vote.from, vote.to, vote.term) = (old, leader, message);
    let step = Input::Step {
        from: old,
        message: wire::encode(&vote).expect("encodes"),
    };
    let out = net.at(leader).core.turn(vec![step]).expect("turns");
    assert_eq!((out.ignored, out.status.role), (1, Role::Leader));
    let back = net.change(leader, learner(old));
    assert!(
        matches!(back, Err(ChangeRefusal::Impossible(_))),
        "{back:?}"
    );
}

#[test]
fn what_would_cost_a_majority_is_refused() {
    let mut net = Net::new();
    let leader = net.leader();
    let [alive, other] = [1, 2, 3]
        .into_iter()
        .filter(|id| *id != leader)
        .collect::<Vec<_>>()[..]
    else {
        panic!("two followers");
    };
    let follower = net.change(alive, learner(9));
    assert_eq!(follower, Err(ChangeRefusal::NotLeader));
    assert_eq!(net.change(leader, learner(9)), Ok(()));
    // A learner that is not there, one whose predecessor answers, and the leader itself.
    let not_yet = |outcome| {
        assert!(
            matches!(outcome, Err(ChangeRefusal::NotYet(_))),
            "{outcome:?}"
        )
    };
    not_yet(net.change(leader, promote(9, alive)));
    net.boot(9, Recovered::default(), 0);
    net.ticks(20);
    not_yet(net.change(leader, promote(9, alive)));
    not_yet(net.change(leader, Change::Remove { id: alive }));
    let own = net.change(leader, Change::Remove { id: leader });
    assert!(matches!(own, Err(ChangeRefusal::Impossible(_))), "{own:?}");
    let voter = net.change(leader, promote(alive, other));
    assert!(
        matches!(voter, Err(ChangeRefusal::Impossible(_))),
        "{voter:?}"
    );
    // A silent voter goes; then the next one may not, because the leader alone would remain of two.
    net.down.insert(other);
    net.ticks(70);
    assert_eq!(net.change(leader, Change::Remove { id: other }), Ok(()));
    net.down.insert(alive);
    let alone = net.change(leader, Change::Remove { id: alive });
    assert!(alone.is_err(), "{alone:?}");
    assert_eq!(net.members(leader).voters.len(), 2);
}

#[test]
fn a_new_leader_leaves_the_joint_configuration_that_it_finds() {
    let (mut net, leader, old) = without_a_follower();
    net.boot(9, Recovered::default(), 0);
    assert_eq!(net.change(leader, learner(9)), Ok(()));
    net.ticks(20);
    // The joint entry is committed everywhere; the leader ends before it proposes to leave.
    let change = promote(9, old);
    net.give(leader, Input::ChangeMembers { id: 5, change });
    for _ in 0..8 {
        for id in [1, 2, 3, 9].into_iter().filter(|id| *id != leader) {
            net.give(id, Input::Tick);
        }
    }
    assert!(
        net.members(leader).is_joint(),
        "the test must be in the middle"
    );
    let last = net.nodes[&leader].applied;
    net.down.insert(leader);
    // The other old voter and the new one cannot be a majority of the old voters alone: the lost one comes back.
    net.down.remove(&old);
    net.ticks(300);
    let next = net.leader();
    net.ticks(30);
    let members = net.members(next);
    assert!(next != leader && !members.is_joint(), "{members:?}");
    assert!(members.voters.contains(&9) && members.index > last);
}

#[test]
fn a_restart_does_not_apply_changes_twice() {
    let (mut net, leader, old) = without_a_follower();
    net.boot(9, Recovered::default(), 0);
    assert_eq!(net.change(leader, learner(9)), Ok(()));
    net.ticks(20);
    assert_eq!(net.change(leader, promote(9, old)), Ok(()));
    net.ticks(20);
    let (members, applied) = (net.members(leader), net.nodes[&leader].applied);
    // The state machine held everything, the part before the promotion, or nothing at all.
    for held in [applied, members.index - 2, 0] {
        net.restart(leader, held);
        assert!(net.members(leader).index <= held);
        net.ticks(300);
        net.leader();
        net.ticks(5);
        assert_eq!(net.members(leader), members, "applied {held}");
    }
}

#[test]
fn a_snapshot_that_does_not_know_the_learner_is_asked_for_anew() {
    let (mut net, leader, _) = without_a_follower();
    let snapshot = |net: &mut Net| {
        let (index, members) = (net.at(leader).applied, net.members(leader));
        let meta = SnapshotMeta {
            index,
            term: net.at(leader).core.status().term,
            members: Membership::clone(&members),
            digest: [index as u8; 32],
        };
        net.give(leader, Input::SnapshotTaken(meta));
    };
    for number in 0..2 {
        let commands = vec![Bytes::from_static(b"x")];
        let id = 70 + number;
        net.give(leader, Input::Propose { id, commands });
        net.ticks(2);
        snapshot(&mut net);
    }
    net.boot(9, Recovered::default(), 0);
    assert_eq!(net.change(leader, learner(9)), Ok(()));
    net.ticks(10);
    assert_eq!(
        net.at(leader).wanted,
        1,
        "asked once, not at each heartbeat"
    );
    snapshot(&mut net);
    net.offers = 0;
    net.ticks(30);
    assert!(net.offers > 0, "the new snapshot was not offered");
}

#[test]
fn a_second_snapshot_before_the_first_is_written_waits_for_it() {
    let offer = |index: u64| {
        let meta = SnapshotMeta {
            index,
            term: 1,
            members: Membership::of(&[1, 2, 3]),
            digest: [index as u8; 32],
        };
        let mut message = raft::eraftpb::Message::default();
        message.set_msg_type(raft::eraftpb::MessageType::MsgSnapshot);
        (message.from, message.to, message.term) = (2, 1, 1);
        message.set_snapshot(wire::to_raft_snapshot(&meta));
        let message = wire::encode(&message).expect("encodes");
        Input::SnapshotReceived { message }
    };
    let mut core = Core::new(config(1, 0), Recovered::default()).expect("starts");
    let out = core.turn(vec![offer(10)]).expect("turns");
    let first = out.persist.expect("a snapshot to write");
    assert_eq!(first.install.map(|meta| meta.index), Some(10));
    // Before the write of the first is done, and once more in the same turn.
    let out = core.turn(vec![offer(20), offer(30)]).expect("turns");
    assert!(out.persist.is_none(), "one write at a time");
    let number = first.number;
    let done = vec![Input::Persisted { number }, Input::Applied { index: 10 }];
    let out = core.turn(done).expect("turns");
    let second = out.persist.expect("the next snapshot");
    assert_eq!(second.install.map(|meta| meta.index), Some(30));
    let number = second.number;
    let done = vec![Input::Persisted { number }, Input::Applied { index: 30 }];
    let out = core.turn(done).expect("turns");
    assert_eq!(out.status.commit, 30);
}
