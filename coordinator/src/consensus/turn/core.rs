//! One member's core: raft's `RawNode` over the in-memory tail, driven one turn at a time.
//!
//! It does not decide when a turn happens nor what an entry means. It hands out at most one write at a time: until
//! `Input::Persisted` comes back, a turn still takes inputs but says nothing new.

use super::changes::ChangeRefusal;
use super::storage::TailStorage;
use super::{
    CommittedEntry, CoreConfig, CoreStatus, Envelope, Input, Membership, Outputs, Persist,
    Recovered, Refusal, Role, SnapshotMeta, SnapshotOffer, TurnError, decode_commands, election,
    encode_commands, reads::Reads, wire,
};
use crate::consensus::MemberId;
use bytes::Bytes;
use mlctl_proto::mutants::{Mutant, planted};
use raft::eraftpb::{Entry, EntryType, Message, MessageType};
use raft::{RawNode, ReadOnlyOption, SnapshotStatus, StateRole};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The pure state machine of one member.
pub struct Core {
    pub(super) config: CoreConfig,
    pub(super) node: RawNode<TailStorage>,
    /// The members as of the last committed entry that was handed out.
    pub(super) members: Arc<Membership>,
    /// Own proposals in the log by index: (term, id).
    proposals: BTreeMap<u64, (u64, u64)>,
    /// Own changes of the membership in the log by index: (term, id).
    pub(super) changes: BTreeMap<u64, (u64, u64)>,
    /// Ticks since the start.
    pub(super) now: u64,
    /// When each member's last message came, in ticks.
    pub(super) heard: BTreeMap<MemberId, u64>,
    /// Ticks for which no further snapshot is asked for.
    snapshot_asked: u64,
    reads: Reads,
    /// The write that was handed out and not yet confirmed.
    outstanding: Option<u64>,
    /// Followers that were offered a snapshot: ticks left before it is offered again.
    offered: BTreeMap<MemberId, u64>,
    /// Leads only if nobody else can.
    abstains: bool,
}

impl Core {
    /// Starts from what the disk held.
    ///
    /// # Errors
    /// [`TurnError::Raft`] for a configuration or a log that raft refuses.
    pub fn new(config: CoreConfig, recovered: Recovered) -> Result<Self, TurnError> {
        let raft_config = raft::Config {
            id: config.id,
            election_tick: config.election_tick,
            max_election_tick: election::bound(config.election_tick),
            heartbeat_tick: config.heartbeat_tick,
            applied: config.applied,
            max_size_per_msg: config.max_message_bytes,
            max_inflight_msgs: config.max_inflight,
            check_quorum: true,
            pre_vote: true,
            read_only_option: ReadOnlyOption::Safe,
            // Followers learn what is committed from the next append or heartbeat: nobody reads from them, and a message for each
            // commit is half of all messages.
            skip_bcast_commit: true,
            max_uncommitted_size: config.max_uncommitted_bytes,
            max_committed_size_per_ready: config.max_committed_bytes,
            ..raft::Config::default()
        };
        let members = match &recovered.snapshot {
            Some(snapshot) => &snapshot.members,
            None => &config.founders,
        };
        members
            .check()
            .map_err(|why| TurnError::Raft(why.to_owned()))?;
        let members = Arc::new(members.clone());
        let applied = config.applied;
        let covered = recovered.snapshot.as_ref().map_or(0, |meta| meta.index);
        let replayed: Vec<Entry> = recovered
            .entries
            .iter()
            .filter(|entry| entry.index > covered && entry.index <= applied)
            .filter(|entry| entry.get_entry_type() != EntryType::EntryNormal)
            .cloned()
            .collect();
        let storage = TailStorage::new(recovered, members.conf_state());
        let silent = slog::Logger::root(slog::Discard, slog::o!());
        let node = RawNode::new(&raft_config, storage, &silent)
            .map_err(|error| TurnError::Raft(error.to_string()))?;
        let mut core = Self {
            config,
            node,
            members,
            changes: BTreeMap::new(),
            now: 0,
            heard: BTreeMap::new(),
            snapshot_asked: 0,
            proposals: BTreeMap::new(),
            reads: Reads::default(),
            outstanding: None,
            offered: BTreeMap::new(),
            abstains: false,
        };
        // What lies between the snapshot and what is applied already is not handed out again.
        for entry in &replayed {
            core.change_committed(entry)?;
        }
        core.set_election_timeout();
        Ok(core)
    }

    /// Takes inputs in order and says what must happen. See [`Outputs`] for the order of doing it.
    ///
    /// # Errors
    /// See [`TurnError`]; the core must not be used after one.
    pub fn turn(&mut self, inputs: Vec<Input>) -> Result<Outputs, TurnError> {
        let mut out = Outputs::default();
        for input in inputs {
            self.take(input, &mut out)?;
            self.set_election_timeout();
            self.settle(&mut out);
        }
        if self.may_issue_reads()
            && let Some(round) = self.reads.open_round()
        {
            self.node.read_index(round);
        }
        self.take_ready(&mut out)?;
        self.settle(&mut out);
        if self.node.store().take_wanted() && self.snapshot_asked == 0 {
            self.snapshot_asked = self.config.snapshot_retry_ticks.max(1);
            out.snapshot_wanted = true;
        }
        out.more = self.outstanding.is_none() && self.node.has_ready();
        out.status = self.status();
        Ok(out)
    }

    /// Where this member stands.
    pub fn status(&self) -> CoreStatus {
        let raft = &self.node.raft;
        CoreStatus {
            role: match raft.state {
                StateRole::Follower => Role::Follower,
                StateRole::PreCandidate => Role::PreCandidate,
                StateRole::Candidate => Role::Candidate,
                StateRole::Leader => Role::Leader,
            },
            leader: Some(raft.leader_id).filter(|id| *id != raft::INVALID_ID),
            term: raft.term,
            commit: raft.raft_log.committed,
            last: raft.raft_log.last_index(),
            members: Arc::clone(&self.members),
        }
    }

    fn take(&mut self, input: Input, out: &mut Outputs) -> Result<(), TurnError> {
        match input {
            Input::Tick => self.tick(out),
            Input::Step { from, message } => self.step(from, message, out)?,
            Input::Propose { id, commands } => self.propose(id, &commands, out),
            Input::ChangeMembers { id, change } => self.change_members(id, &change, out),
            Input::ReadIndex { id } => self.read_index(id, out),
            Input::Persisted { number } => self.persisted(number),
            Input::Applied { index } => {
                if index > self.node.raft.raft_log.applied() {
                    self.node.advance_apply_to(index);
                }
            }
            Input::SnapshotTaken(meta) => {
                if let Some(floor) = self.node.mut_store().snapshot_taken(meta) {
                    out.cut = Some(floor);
                }
            }
            Input::SnapshotReceived { message } => self.snapshot_received(&message, out),
            Input::Unreachable(peer) => self.node.report_unreachable(peer),
            Input::SnapshotStatus { to, finished } => self.report_snapshot(to, finished),
            Input::TransferLeader(to) => self.node.transfer_leader(to),
            Input::Abstain(abstains) => self.abstains = abstains,
        }
        Ok(())
    }

    fn tick(&mut self, out: &mut Outputs) {
        self.now += 1;
        self.snapshot_asked = self.snapshot_asked.saturating_sub(1);
        // raft looks through all unapplied entries before it asks for votes, and those below a snapshot are gone.
        if !self.restoring() {
            self.node.tick();
        }
        self.leave_joint();
        self.reads.tick(&mut out.refused_reads);
        if self.may_issue_reads()
            && let Some(round) = self.reads.newest_round()
        {
            self.node.read_index(round);
        }
        let mut overdue = Vec::new();
        self.offered.retain(|to, ticks| {
            *ticks -= 1;
            if *ticks == 0 {
                overdue.push(*to);
            }
            *ticks > 0
        });
        for to in overdue {
            self.report_snapshot(to, false);
        }
    }

    fn step(&mut self, from: MemberId, bytes: Bytes, out: &mut Outputs) -> Result<(), TurnError> {
        let Ok(message) = wire::decode(&bytes, from, self.config.id) else {
            out.ignored += 1;
            return Ok(());
        };
        if self.members.was_removed(from) {
            out.ignored += 1;
            return Ok(());
        }
        if self.members.contains(from) {
            self.heard.insert(from, self.now);
        }
        let log = &self.node.raft.raft_log;
        let last = log.last_index();
        match message.get_msg_type() {
            MessageType::MsgHeartbeat
                if message.term >= self.node.raft.term && message.commit > last =>
            {
                return Err(TurnError::LogTooShort {
                    from,
                    commit: message.commit,
                    last,
                });
            }
            MessageType::MsgTimeoutNow if self.restoring() => return Ok(()),
            // A follower cannot hold more of this term than its leader has. (From before a restart it can.)
            MessageType::MsgAppendResponse
                if self.node.raft.state == StateRole::Leader
                    && message.term == self.node.raft.term
                    && !message.reject
                    && message.index > last =>
            {
                out.ignored += 1;
                return Ok(());
            }
            MessageType::MsgSnapshot => {
                let Ok(meta) = wire::from_raft_snapshot(message.get_snapshot()) else {
                    out.ignored += 1;
                    return Ok(());
                };
                let known = meta.index < log.committed || log.match_term(meta.index, meta.term);
                if !known && message.term >= self.node.raft.term {
                    out.offers.push(SnapshotOffer {
                        from,
                        meta,
                        message: bytes,
                    });
                    return Ok(());
                }
            }
            _ => {}
        }
        self.hand_to_raft(message, out);
        Ok(())
    }

    /// A snapshot took the place of the log, and the state machine does not hold it yet.
    fn restoring(&self) -> bool {
        self.node.raft.raft_log.applied() < self.node.store().floor()
    }

    fn hand_to_raft(&mut self, message: Message, out: &mut Outputs) {
        if self.node.step(message).is_err() {
            out.ignored += 1;
        }
    }

    fn snapshot_received(&mut self, bytes: &Bytes, out: &mut Outputs) {
        match wire::decode_offer(bytes, self.config.id) {
            Ok(message) => self.hand_to_raft(message, out),
            Err(_) => out.ignored += 1,
        }
    }

    fn propose(&mut self, id: u64, commands: &[Bytes], out: &mut Outputs) {
        // A leader that hands over takes nothing more: its successor will.
        let raft = &self.node.raft;
        if raft.state != StateRole::Leader || raft.lead_transferee.is_some() {
            out.refused.push((id, Refusal::NotLeader));
            return;
        }
        let context = id.to_le_bytes().to_vec();
        let data = encode_commands(commands).to_vec();
        if self.node.propose(context, data).is_err() {
            out.refused.push((id, Refusal::Overloaded));
            return;
        }
        let raft = &self.node.raft;
        self.proposals
            .insert(raft.raft_log.last_index(), (raft.term, id));
    }

    fn read_index(&mut self, id: u64, out: &mut Outputs) {
        if self.node.raft.state == StateRole::Leader {
            self.reads.add(id, self.config.read_ticks);
        } else {
            out.refused_reads.push((id, Refusal::NotLeader));
        }
    }

    fn persisted(&mut self, number: u64) {
        if self.outstanding == Some(number) {
            self.outstanding = None;
            self.node.on_persist_ready(number);
            let raft = &mut self.node.raft;
            if planted(Mutant::AckBeforeCommit) && raft.state == StateRole::Leader {
                let (stored, term) = (raft.raft_log.persisted, raft.term);
                raft.raft_log.maybe_commit(stored, term);
            }
        }
    }

    fn report_snapshot(&mut self, to: MemberId, finished: bool) {
        self.offered.remove(&to);
        let status = if finished {
            SnapshotStatus::Finish
        } else {
            SnapshotStatus::Failure
        };
        self.node.report_snapshot(to, status);
    }

    /// raft draws a timeout at every reset; ours replaces it before anything can look at it.
    fn set_election_timeout(&mut self) {
        let (seed, id) = (self.config.seed, self.config.id);
        let raft = &mut self.node.raft;
        let election_tick = self.config.election_tick;
        let ticks = election::timeout(seed, id, raft.term, election_tick, self.abstains);
        raft.set_randomized_election_timeout(ticks);
    }

    /// Whether this member leads and has committed something in its term.
    pub(super) fn may_issue_reads(&self) -> bool {
        let raft = &self.node.raft;
        raft.state == StateRole::Leader && raft.commit_to_current_term()
    }

    /// A member that does not lead answers no read and knows the fate of no proposal.
    fn settle(&mut self, out: &mut Outputs) {
        let raft = &self.node.raft;
        let (leads, term) = (raft.state == StateRole::Leader, raft.term);
        if !leads {
            self.reads.refuse_all(&mut out.refused_reads);
            self.offered.clear();
        }
        self.proposals.retain(|_, &mut (proposed_in, id)| {
            let open = leads && proposed_in == term;
            if !open {
                out.refused.push((id, Refusal::Lost));
            }
            open
        });
        self.changes.retain(|_, &mut (proposed_in, id)| {
            let open = leads && proposed_in == term;
            if !open {
                out.changes.push((id, Err(ChangeRefusal::Lost)));
            }
            open
        });
    }

    fn take_ready(&mut self, out: &mut Outputs) -> Result<(), TurnError> {
        if self.outstanding.is_some() || !self.node.has_ready() {
            return Ok(());
        }
        let mut ready = self.node.ready();
        let number = ready.number();
        let must_sync = ready.must_sync();
        out.messages = self.encode(ready.take_messages());
        out.messages_after_persist = self.encode(ready.take_persisted_messages());
        for read in ready.take_read_states() {
            self.reads
                .answer(&read.request_ctx, read.index, &mut out.reads);
        }
        for entry in ready.take_committed_entries() {
            let entry = self.committed(entry, out)?;
            if planted(Mutant::EntryHandedOutTwice) && entry.index.is_multiple_of(16) {
                out.committed.push(entry.clone());
            }
            out.committed.push(entry);
        }
        if let Some(hard_state) = ready.hs() {
            self.node.mut_store().set_hard_state(hard_state.clone());
        }
        let install = if ready.snapshot().is_empty() {
            None
        } else {
            let meta: SnapshotMeta = wire::from_raft_snapshot(ready.snapshot())
                .map_err(|error| TurnError::Raft(error.to_string()))?;
            self.node.mut_store().install(meta.clone());
            self.members = Arc::new(meta.members.clone());
            Some(meta)
        };
        let entries = ready.take_entries();
        self.node.mut_store().append(&entries);
        self.node.advance_append_async(ready);
        if must_sync {
            self.outstanding = Some(number);
            let mut hard_state = self.node.store().hard_state().clone();
            if planted(Mutant::VoteNotSaved) {
                hard_state.vote = raft::INVALID_ID;
            }
            out.persist = Some(Persist {
                number,
                hard_state,
                entries,
                install,
            });
        } else {
            // Only the commit index moved. It may be lost: the next write carries it.
            self.node.on_persist_ready(number);
        }
        Ok(())
    }

    /// Something waits that is looked at with every tick.
    pub(super) fn counts_every_tick(&self) -> bool {
        let raft = &self.node.raft;
        self.node.has_ready()
            || self.reads.wait()
            || !self.offered.is_empty()
            || self.snapshot_asked > 0
            || self.members.is_joint()
            || raft.lead_transferee.is_some()
    }

    fn encode(&mut self, messages: Vec<Message>) -> Vec<Envelope> {
        let mut envelopes = Vec::with_capacity(messages.len());
        for message in messages {
            if message.get_msg_type() == MessageType::MsgSnapshot {
                self.offered
                    .insert(message.to, self.config.snapshot_retry_ticks.max(1));
            }
            if let Some(bytes) = wire::encode(&message) {
                envelopes.push(Envelope {
                    to: message.to,
                    message: bytes,
                });
            }
        }
        envelopes
    }

    fn committed(&mut self, entry: Entry, out: &mut Outputs) -> Result<CommittedEntry, TurnError> {
        let undecodable = |reason: String| TurnError::Undecodable {
            index: entry.index,
            term: entry.term,
            reason,
        };
        if entry.get_entry_type() != EntryType::EntryNormal {
            self.change_committed(&entry)?;
            match self.changes.remove(&entry.index) {
                Some((term, id)) if term == entry.term => out.changes.push((id, Ok(()))),
                Some((_, id)) => out.changes.push((id, Err(ChangeRefusal::Lost))),
                None => {}
            }
            return Ok(CommittedEntry {
                index: entry.index,
                term: entry.term,
                proposal: None,
                commands: Vec::new(),
                members: Some(Arc::clone(&self.members)),
                size: entry.data.len(),
            });
        }
        let commands = decode_commands(&entry.data).map_err(|e| undecodable(e.to_string()))?;
        let proposal = match self.proposals.remove(&entry.index) {
            Some((term, id)) if term == entry.term => Some(id),
            Some((_, id)) => {
                out.refused.push((id, Refusal::Lost));
                None
            }
            None => None,
        };
        Ok(CommittedEntry {
            index: entry.index,
            term: entry.term,
            proposal,
            commands,
            members: None,
            size: entry.data.len(),
        })
    }
}
