//! Three cores in one thread with virtual time: lost and reordered messages, crashes that lose unsynced writes,
//! snapshots to laggards. Every run replays from its seed.

use super::*;
use crate::consensus::log::engine::Mark;
use crate::consensus::log::recover;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::Path;

const MEMBERS: [MemberId; 3] = [1, 2, 3];
const SNAPSHOT_EVERY: u64 = 10;

/// A small generator, so that a run depends on its seed alone.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (z ^ (z >> 32)) % sides
    }
}

/// What survives a crash.
struct Disk {
    mark: Mark,
    entries: BTreeMap<u64, Entry>,
    snapshots: Vec<SnapshotMeta>,
    states: BTreeMap<u64, Vec<u64>>,
}

/// The write under way: lost in a crash.
struct Pending {
    persist: Persist,
    after: Vec<Envelope>,
}

struct Member {
    core: Option<Core>,
    disk: Disk,
    pending: Option<Pending>,
    inbox: VecDeque<Input>,
    /// The state machine: the commands applied so far.
    state: Vec<u64>,
    applied: (u64, u64),
}

struct Sim {
    seed: u64,
    dice: Dice,
    loss: u64,
    members: Vec<Member>,
    network: Vec<(MemberId, Envelope)>,
    next_id: u64,
    /// Index -> (term, commands) as first committed anywhere.
    committed: BTreeMap<u64, (u64, Vec<Bytes>)>,
    leaders: BTreeMap<u64, MemberId>,
    acknowledged: BTreeSet<u64>,
    highest_acknowledged: u64,
    /// Read id -> the index it must at least return.
    reads: BTreeMap<u64, u64>,
    reads_answered: u64,
    installs: u64,
    print: blake3::Hasher,
}

impl Sim {
    fn new(seed: u64) -> Self {
        let members = MEMBERS.map(|_| Member {
            core: None,
            disk: Disk {
                mark: Mark::fresh(),
                entries: BTreeMap::new(),
                snapshots: Vec::new(),
                states: BTreeMap::new(),
            },
            pending: None,
            inbox: VecDeque::new(),
            state: Vec::new(),
            applied: (0, 0),
        });
        let mut sim = Self {
            seed,
            dice: Dice(seed),
            loss: 10,
            members: members.into(),
            network: Vec::new(),
            next_id: 1,
            committed: BTreeMap::new(),
            leaders: BTreeMap::new(),
            acknowledged: BTreeSet::new(),
            highest_acknowledged: 0,
            reads: BTreeMap::new(),
            reads_answered: 0,
            installs: 0,
            print: blake3::Hasher::new(),
        };
        for id in MEMBERS {
            sim.boot(id);
        }
        sim
    }

    fn at(&mut self, id: MemberId) -> &mut Member {
        &mut self.members[id as usize - 1]
    }

    fn boot(&mut self, id: MemberId) {
        let seed = self.seed;
        let member = self.at(id);
        let entries = member.disk.entries.values().cloned().collect();
        let (mark, snapshots) = (&member.disk.mark, &member.disk.snapshots);
        let recovered = recover::judge(Path::new("/sim"), mark, entries, snapshots)
            .unwrap_or_else(|error| panic!("seed {seed}: a mere crash reads as: {error}"));
        let held = recovered.snapshot.clone().unwrap_or_default();
        member.state = member
            .disk
            .states
            .get(&held.index)
            .cloned()
            .unwrap_or_default();
        member.applied = (held.index, held.term);
        let config = CoreConfig {
            applied: held.index,
            snapshot_retry_ticks: 40,
            ..CoreConfig::new(id, MEMBERS.to_vec(), seed)
        };
        member.core = Some(Core::new(config, recovered).expect("a judged log starts"));
    }

    fn crash(&mut self, id: MemberId) {
        let member = self.at(id);
        member.core = None;
        member.pending = None;
        member.inbox.clear();
    }

    /// One tick of virtual time for everybody.
    fn step(&mut self) {
        self.deliver();
        for id in MEMBERS {
            if self.at(id).core.is_none() {
                continue;
            }
            self.at(id).inbox.push_back(Input::Tick);
            self.finish_write(id);
            self.turn(id);
        }
    }

    fn deliver(&mut self) {
        for (from, Envelope { to, message }) in std::mem::take(&mut self.network) {
            if self.dice.roll(100) < self.loss {
                continue;
            }
            // Some messages wait, which also reorders them.
            if self.loss > 0 && self.dice.roll(100) < 20 {
                self.network.push((from, Envelope { to, message }));
            } else if self.at(to).core.is_some() {
                self.at(to).inbox.push_back(Input::Step { from, message });
            }
        }
    }

    fn finish_write(&mut self, id: MemberId) {
        let slow = self.loss > 0 && self.dice.roll(3) == 0;
        let member = self.at(id);
        let Some(pending) = member.pending.take() else {
            return;
        };
        if slow {
            member.pending = Some(pending);
            return;
        }
        let Persist {
            number,
            hard_state,
            entries,
            install,
        } = pending.persist;
        let disk = &mut member.disk;
        disk.mark.term = hard_state.term;
        disk.mark.vote = hard_state.vote;
        disk.mark.commit = hard_state.commit;
        if let Some(meta) = install {
            disk.mark.floor = (meta.index, meta.term);
            disk.entries.clear();
            member.state = disk.states[&meta.index].clone();
            member.applied = (meta.index, meta.term);
            disk.snapshots = vec![meta.clone()];
            member
                .inbox
                .push_front(Input::Applied { index: meta.index });
            self.installs += 1;
        }
        let member = self.at(id);
        if let Some(first) = entries.first() {
            member.disk.entries.retain(|index, _| *index < first.index);
        }
        let indexed = entries.into_iter().map(|entry| (entry.index, entry));
        member.disk.entries.extend(indexed);
        member.inbox.push_front(Input::Persisted { number });
        self.network
            .extend(pending.after.into_iter().map(|message| (id, message)));
    }

    fn turn(&mut self, id: MemberId) {
        let seed = self.seed;
        let mut inputs: Vec<Input> = self.at(id).inbox.drain(..).collect();
        loop {
            let Some(core) = self.at(id).core.as_mut() else {
                return;
            };
            let out = core.turn(std::mem::take(&mut inputs));
            let out = out.unwrap_or_else(|error| panic!("seed {seed}, member {id}: {error}"));
            let more = out.more;
            self.perform(id, out);
            if !more {
                return;
            }
        }
    }

    fn perform(&mut self, id: MemberId, out: Outputs) {
        for envelope in out.messages.iter().chain(&out.messages_after_persist) {
            self.print.update(&envelope.message);
        }
        assert_eq!(out.ignored, 0, "cores send each other nothing unsound");
        if out.status.role == Role::Leader {
            let leader = *self.leaders.entry(out.status.term).or_insert(id);
            assert_eq!(
                leader, id,
                "seed {}: two leaders of {}",
                self.seed, out.status.term
            );
        }
        self.network
            .extend(out.messages.into_iter().map(|message| (id, message)));
        match out.persist {
            Some(persist) => {
                let after = out.messages_after_persist;
                self.at(id).pending = Some(Pending { persist, after });
            }
            None => {
                let after = out.messages_after_persist.into_iter();
                self.network.extend(after.map(|message| (id, message)));
            }
        }
        for entry in out.committed {
            self.apply(id, entry);
        }
        for (read, index) in out.reads {
            let least = self.reads.remove(&read).expect("answered once");
            assert!(index >= least, "seed {}: a stale read", self.seed);
            self.reads_answered += 1;
        }
        for (read, _) in out.refused_reads {
            assert!(self.reads.remove(&read).is_some());
        }
        if let Some(floor) = out.cut {
            let disk = &mut self.at(id).disk;
            disk.mark.floor = floor;
            disk.entries.retain(|index, _| *index > floor.0);
        }
        for offer in out.offers {
            self.pull(id, offer);
        }
        self.snapshot_if_due(id);
    }

    fn apply(&mut self, id: MemberId, entry: CommittedEntry) {
        let seed = self.seed;
        let same = (entry.term, entry.commands.clone());
        let first = self.committed.entry(entry.index).or_insert(same.clone());
        assert_eq!(
            *first, same,
            "seed {seed}: two entries committed at {}",
            entry.index
        );
        if let Some(proposal) = entry.proposal {
            let own = [Bytes::copy_from_slice(&proposal.to_le_bytes())];
            assert_eq!(entry.commands, own, "seed {seed}: another's answer");
            assert!(self.acknowledged.insert(proposal), "acknowledged twice");
            self.highest_acknowledged = self.highest_acknowledged.max(entry.index);
        }
        let member = self.at(id);
        assert_eq!(
            entry.index,
            member.applied.0 + 1,
            "seed {seed}: a hole or a repeat"
        );
        member.applied = (entry.index, entry.term);
        for command in &entry.commands {
            let bytes = <[u8; 8]>::try_from(&command[..]).expect("eight bytes");
            member.state.push(u64::from_le_bytes(bytes));
        }
        member
            .inbox
            .push_back(Input::Applied { index: entry.index });
    }

    fn snapshot_if_due(&mut self, id: MemberId) {
        let member = self.at(id);
        let newest = member.disk.snapshots.first().map_or(0, |meta| meta.index);
        if member.applied.0 < newest + SNAPSHOT_EVERY {
            return;
        }
        let meta = SnapshotMeta {
            index: member.applied.0,
            term: member.applied.1,
            members: Membership::of(&MEMBERS),
            digest: [member.applied.0 as u8; 32],
        };
        member.disk.states.insert(meta.index, member.state.clone());
        member.disk.snapshots.insert(0, meta.clone());
        member.disk.snapshots.truncate(2);
        member.inbox.push_back(Input::SnapshotTaken(meta));
    }

    fn pull(&mut self, id: MemberId, offer: SnapshotOffer) {
        let index = offer.meta.index;
        let leader = self.at(offer.from);
        if leader.core.is_none() || !leader.disk.snapshots.contains(&offer.meta) {
            return;
        }
        let state = leader.disk.states[&index].clone();
        let member = self.at(id);
        member.disk.states.insert(index, state);
        let message = offer.message;
        member.inbox.push_back(Input::SnapshotReceived { message });
    }

    fn propose_and_read(&mut self, id: MemberId) {
        let proposal = self.next_id;
        self.next_id += 2;
        let commands = vec![Bytes::copy_from_slice(&proposal.to_le_bytes())];
        let least = self.highest_acknowledged;
        let member = self.at(id);
        if member.core.is_none() {
            return;
        }
        member.inbox.push_back(Input::Propose {
            id: proposal,
            commands,
        });
        member
            .inbox
            .push_back(Input::ReadIndex { id: proposal + 1 });
        self.reads.insert(proposal + 1, least);
    }

    /// Chaos, then calm; what was acknowledged must then be everywhere, once, in one order.
    fn run(seed: u64) -> (blake3::Hash, usize, u64, u64) {
        let mut sim = Self::new(seed);
        for _ in 0..3_000 {
            let id = 1 + sim.dice.roll(3);
            match sim.dice.roll(400) {
                0 => sim.crash(id),
                // Down and up again at once, perhaps in the middle of an election.
                399 => {
                    sim.crash(id);
                    sim.boot(id);
                }
                1..=5 if sim.at(id).core.is_none() => sim.boot(id),
                6..=200 => sim.propose_and_read(id),
                _ => {}
            }
            sim.step();
        }
        // Reads that died with their member are nobody's.
        sim.loss = 0;
        for id in MEMBERS {
            if sim.at(id).core.is_none() {
                sim.boot(id);
            }
        }
        for _ in 0..600 {
            sim.step();
        }
        let (first, rest) = sim.members.split_first().expect("three members");
        for member in rest {
            assert_eq!(member.state, first.state, "seed {seed}: states differ");
        }
        let held: BTreeSet<u64> = first.state.iter().copied().collect();
        assert_eq!(held.len(), first.state.len(), "seed {seed}: applied twice");
        let lost: Vec<_> = sim.acknowledged.difference(&held).collect();
        assert!(
            lost.is_empty(),
            "seed {seed}: acknowledged and lost: {lost:?}"
        );
        (
            sim.print.finalize(),
            sim.acknowledged.len(),
            sim.reads_answered,
            sim.installs,
        )
    }
}

#[test]
fn nothing_acknowledged_is_lost_and_a_seed_replays() {
    let (mut acknowledged, mut reads, mut installs) = (0, 0, 0);
    for seed in 1..=12 {
        let run = Sim::run(seed);
        assert_eq!(run, Sim::run(seed), "seed {seed} does not replay");
        acknowledged += run.1;
        reads += run.2;
        installs += run.3;
    }
    // The runs must have done something, or the checks above prove nothing.
    assert!(acknowledged > 2_000, "only {acknowledged} acknowledged");
    assert!(reads > 1_000, "only {reads} reads");
    assert!(installs > 5, "only {installs} snapshots installed");
    assert_ne!(Sim::run(1).0, Sim::run(2).0);
}

fn alone() -> Core {
    let mut core = Core::new(CoreConfig::new(1, vec![1], 7), Recovered::default()).expect("starts");
    let mut inputs = vec![Input::Tick; 60];
    for _ in 0..10 {
        let out = core.turn(std::mem::take(&mut inputs)).expect("turns");
        let persisted = out.persist.map(|persist| persist.number);
        inputs.extend(persisted.map(|number| Input::Persisted { number }));
    }
    assert_eq!(core.status().role, Role::Leader);
    core
}

#[test]
fn a_single_voter_leads_commits_and_reads() {
    let mut core = alone();
    let commands = vec![Bytes::from_static(b"a"), Bytes::from_static(b"b")];
    let propose = Input::Propose {
        id: 5,
        commands: commands.clone(),
    };
    let out = core
        .turn(vec![propose, Input::ReadIndex { id: 6 }])
        .expect("turns");
    assert_eq!(out.reads.len(), 1);
    let persist = out.persist.expect("an entry to write");
    assert_eq!(persist.entries.len(), 1);
    assert!(out.committed.is_empty(), "committed before it was written");
    let number = persist.number;
    let out = core.turn(vec![Input::Persisted { number }]).expect("turns");
    assert_eq!(out.committed.len(), 1);
    assert_eq!(out.committed[0].proposal, Some(5));
    assert_eq!(out.committed[0].commands, commands);
}

#[test]
fn a_follower_refuses_and_hostile_bytes_change_nothing() {
    let mut core = Core::new(
        CoreConfig::new(1, MEMBERS.to_vec(), 7),
        Recovered::default(),
    )
    .expect("starts");
    let before = core.status();
    let hostile = [&b""[..], b"\xff\xff\xff", &[0x0a; 300], &[0xa3; 5_000]];
    let mut inputs: Vec<Input> = hostile
        .iter()
        .map(|bytes| Input::Step {
            from: 2,
            message: Bytes::copy_from_slice(bytes),
        })
        .collect();
    let stale = Input::SnapshotReceived {
        message: Bytes::from_static(b"\x01"),
    };
    inputs.extend([
        stale,
        Input::Persisted { number: 99 },
        Input::Applied { index: 0 },
    ]);
    let commands = vec![Bytes::from_static(b"x")];
    inputs.extend([
        Input::Propose { id: 1, commands },
        Input::ReadIndex { id: 2 },
    ]);
    let out = core.turn(inputs).expect("turns");
    assert_eq!(out.ignored, hostile.len() as u32 + 1);
    assert_eq!(out.refused, [(1, Refusal::NotLeader)]);
    assert_eq!(out.refused_reads, [(2, Refusal::NotLeader)]);
    assert_eq!(out.status, before);
    assert!(out.persist.is_none() && out.messages.is_empty());
}

#[test]
fn a_vote_leaves_after_it_is_written_and_outlives_a_restart() {
    let vote = |from| {
        let mut request = raft::eraftpb::Message::default();
        request.set_msg_type(raft::eraftpb::MessageType::MsgRequestVote);
        (request.from, request.to, request.term) = (from, 1, 5);
        let message = wire::encode(&request).expect("encodes");
        Input::Step { from, message }
    };
    let answer = |envelopes: &[Envelope]| {
        let [Envelope { to, message }] = envelopes else {
            panic!("one answer, not {envelopes:?}");
        };
        let answer = wire::decode(message, 1, *to).expect("decodes");
        (*to, answer.reject)
    };
    let config = || CoreConfig::new(1, MEMBERS.to_vec(), 7);
    let mut core = Core::new(config(), Recovered::default()).expect("starts");
    let out = core.turn(vec![vote(2)]).expect("turns");
    assert!(
        out.messages.is_empty(),
        "the vote left before it was written"
    );
    assert_eq!(answer(&out.messages_after_persist), (2, false));
    let hard_state = out.persist.expect("a vote to write").hard_state;
    assert_eq!((hard_state.term, hard_state.vote), (5, 2));
    let recovered = Recovered {
        hard_state,
        ..Recovered::default()
    };
    let mut core = Core::new(config(), recovered).expect("starts again");
    let out = core.turn(vec![vote(3)]).expect("turns");
    assert_eq!(answer(&out.messages_after_persist), (3, true));
    let out = core.turn(vec![vote(2)]).expect("turns");
    assert_eq!(answer(&out.messages_after_persist), (2, false));
}

#[test]
fn a_leader_that_proves_a_loss_stops_the_member() {
    let mut core = Core::new(
        CoreConfig::new(1, MEMBERS.to_vec(), 7),
        Recovered::default(),
    )
    .expect("starts");
    let mut heartbeat = raft::eraftpb::Message::default();
    heartbeat.set_msg_type(raft::eraftpb::MessageType::MsgHeartbeat);
    (
        heartbeat.from,
        heartbeat.to,
        heartbeat.term,
        heartbeat.commit,
    ) = (2, 1, 4, 17);
    let message = wire::encode(&heartbeat).expect("encodes");
    let error = core
        .turn(vec![Input::Step { from: 2, message }])
        .expect_err("stops");
    let expected = TurnError::LogTooShort {
        from: 2,
        commit: 17,
        last: 0,
    };
    assert_eq!(error, expected);
}

#[test]
fn a_committed_entry_that_cannot_be_read_is_never_skipped() {
    let mut entry = Entry::default();
    (entry.index, entry.term) = (1, 1);
    entry.data = Bytes::from_static(&[200, 1, 2]);
    let mut hard_state = HardState::default();
    (hard_state.term, hard_state.commit) = (1, 1);
    let recovered = Recovered {
        hard_state,
        entries: vec![entry],
        ..Recovered::default()
    };
    let mut core = Core::new(CoreConfig::new(1, vec![1], 7), recovered).expect("starts");
    let error = core.turn(vec![Input::Tick]).expect_err("stops");
    assert!(
        matches!(error, TurnError::Undecodable { index: 1, .. }),
        "{error}"
    );
    assert!(error.to_string().contains("never skipped"), "{error}");
}

#[test]
fn a_member_that_abstains_asks_four_times_later() {
    let ticks_until_asked = |abstains| {
        let config = CoreConfig::new(1, MEMBERS.to_vec(), 7);
        let mut core = Core::new(config, Recovered::default()).expect("starts");
        core.turn(vec![Input::Abstain(abstains)]).expect("turns");
        let ask = (1..1_000).find(|_| {
            let out = core.turn(vec![Input::Tick]).expect("turns");
            !out.messages.is_empty() || !out.messages_after_persist.is_empty()
        });
        ask.expect("it asks at last, or nobody could lead")
    };
    let (usual, late) = (ticks_until_asked(false), ticks_until_asked(true));
    let least = CoreConfig::new(1, Vec::new(), 7).election_tick;
    assert!((least..2 * least).contains(&usual), "{usual}");
    assert_eq!(late, 4 * usual);
}
