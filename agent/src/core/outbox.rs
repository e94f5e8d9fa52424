//! Events on their way to the cluster: numbered without gaps, kept until acknowledged, sent again on every connection.
//! Does NOT decide what is an event and does NOT write them: the journal does, before they leave.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use mlctl_proto::ids::{Epoch, JobId};
use mlctl_proto::limits::EVENTS_PER_BATCH_MAX;
use mlctl_proto::persist::{AgentEvent, agent_event};

use super::parts::PartKey;

/// Unacknowledged events above this: no more checkpoints are taken in until the cluster answers.
const FULL: usize = 65_536;

#[derive(Debug)]
struct Kept {
    event: AgentEvent,
    /// The journal ticket that makes it durable; 0: it was read from disk.
    ticket: u64,
}

/// The numbered events of this journal.
#[derive(Debug)]
pub(super) struct Outbox {
    acked: u64,
    next: u64,
    /// Highest one sent on this connection.
    sent: u64,
    kept: VecDeque<Kept>,
}

impl Outbox {
    /// From the journal: `events` follow `acked` without a gap.
    pub(super) fn new(acked: u64, events: Vec<AgentEvent>) -> Self {
        let next = events.last().map_or(acked, |event| event.seq.max(acked)) + 1;
        let kept = events
            .into_iter()
            .map(|event| Kept { event, ticket: 0 })
            .collect();
        Self {
            acked,
            next,
            sent: acked,
            kept,
        }
    }

    pub(super) fn acked(&self) -> u64 {
        self.acked
    }

    /// Is there so much that only what must be reported is taken in?
    pub(super) fn is_full(&self) -> bool {
        self.kept.len() >= FULL
    }

    /// Numbers an event. It leaves when `ticket` is synced.
    pub(super) fn push(&mut self, mut event: AgentEvent, ticket: u64) -> AgentEvent {
        event.seq = self.next;
        self.next += 1;
        self.kept.push_back(Kept {
            event: event.clone(),
            ticket,
        });
        event
    }

    /// A new connection: the leader has applied everything up to `mark`.
    pub(super) fn rewind(&mut self, mark: u64) {
        self.sent = mark.max(self.acked);
    }

    /// What may leave now and has not left on this connection, in batches.
    pub(super) fn take_sendable(&mut self, synced: u64) -> Vec<Vec<AgentEvent>> {
        let ready = self.kept.iter().take_while(|kept| kept.ticket <= synced);
        let events: Vec<AgentEvent> = ready
            .filter(|kept| kept.event.seq > self.sent)
            .map(|kept| kept.event.clone())
            .collect();
        if let Some(last) = events.last() {
            self.sent = last.seq;
        }
        events
            .chunks(EVENTS_PER_BATCH_MAX)
            .map(<[AgentEvent]>::to_vec)
            .collect()
    }

    /// The cluster has applied everything up to `up_to`; returns what is forgotten. A number never given is ignored.
    pub(super) fn acknowledge(&mut self, up_to: u64) -> Vec<AgentEvent> {
        if up_to <= self.acked || up_to >= self.next {
            return Vec::new();
        }
        self.acked = up_to;
        self.sent = self.sent.max(up_to);
        let count = self
            .kept
            .iter()
            .take_while(|kept| kept.event.seq <= up_to)
            .count();
        self.kept.drain(..count).map(|kept| kept.event).collect()
    }

    /// The newest unacknowledged event that announces a checkpoint or a copy of one, by the attempt that made it. All are sent again on
    /// every connection.
    pub(super) fn moving(&self) -> BTreeMap<(JobId, Epoch), u64> {
        let tells = self.unacknowledged().filter(|event| {
            use agent_event::What::{CheckpointSealed, CopyHeld};
            matches!(event.what, Some(CheckpointSealed(_) | CopyHeld(_)))
        });
        tells
            .filter_map(|event| Some((key_of(event)?, event.seq)))
            .collect()
    }

    /// Attempts of which a checkpoint was sealed here and that is not acknowledged.
    pub(super) fn sealed_by(&self) -> BTreeSet<(JobId, Epoch)> {
        let sealed = self
            .unacknowledged()
            .filter(|event| matches!(event.what, Some(agent_event::What::CheckpointSealed(_))));
        sealed.filter_map(key_of).collect()
    }

    /// Is there anything unacknowledged of what is held here?
    pub(super) fn announces(&self) -> bool {
        self.unacknowledged().any(|event| {
            let lost = matches!(event.what, Some(agent_event::What::CopyLost(_)));
            lost || PartKey::announced(event).is_some()
        })
    }

    pub(super) fn unacknowledged(&self) -> impl Iterator<Item = &AgentEvent> {
        self.kept.iter().map(|kept| &kept.event)
    }
}

fn key_of(event: &AgentEvent) -> Option<(JobId, Epoch)> {
    Some((event.job.try_into().ok()?, event.epoch.try_into().ok()?))
}
