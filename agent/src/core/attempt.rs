//! One attempt on this node: where it stands and what has been said about it.
//! Does NOT act: the rules in `leader_messages` and `keeper_events` change it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mlctl_proto::limits::DETAIL_BYTES_MAX;
use mlctl_proto::persist::{AttemptEnd, EndKind};
use mlctl_proto::spec::Ranges;

use super::record::Record;
use super::types::{BoottimeMs, Phase, RankEnd, Rendezvous, Start, Status, Stop};
use crate::witness::packet::ProbePort;

/// What is known of the keeper.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Keeper {
    /// None was asked for yet.
    None,
    /// A preparation is under way.
    Preparing,
    /// It answers.
    Connected,
    /// After a restart: being looked for.
    Sought,
    /// It has nothing left to own, or is gone.
    Done,
}

/// An attempt that the cluster has not acknowledged as ended.
#[derive(Debug, Clone)]
pub(super) struct Attempt {
    pub(super) start: Arc<Start>,
    /// The ticket that makes its beginning durable; 0: it was read from disk.
    pub(super) begun_ticket: u64,
    /// The connection on which its start was said; 0: none of this agent's.
    pub(super) told_on: u64,
    pub(super) keeper: Keeper,
    pub(super) master_port: u16,
    pub(super) probe: Option<ProbePort>,
    /// When the first heartbeat that lists it was sent: a leader that confirms this one, or a later one, counts on it.
    pub(super) listed_at: Option<BoottimeMs>,
    pub(super) go: Option<Rendezvous>,
    pub(super) started: bool,
    pub(super) stop: Option<Stop>,
    pub(super) exits: BTreeMap<u32, RankEnd>,
    /// The first rank that failed by itself.
    pub(super) first_failure: Option<RankEnd>,
    pub(super) launch_failed: Option<String>,
    /// How it ended, while its devices are looked at.
    pub(super) settling: Option<AttemptEnd>,
    /// The ticket of the journaled `AllocationEnded`.
    pub(super) ended: Option<u64>,
    pub(super) released: bool,
    /// Checkpoints reported by this attempt, and the highest step among them.
    pub(super) sealed: BTreeSet<String>,
    pub(super) step_max: u64,
    /// Tasks of an array whose end was reported.
    pub(super) tasks: Ranges,
}

impl Attempt {
    pub(super) fn new(start: Arc<Start>, begun_ticket: u64) -> Self {
        Self {
            start,
            begun_ticket,
            told_on: 0,
            keeper: Keeper::None,
            master_port: 0,
            probe: None,
            listed_at: None,
            go: None,
            started: false,
            stop: None,
            exits: BTreeMap::new(),
            first_failure: None,
            launch_failed: None,
            settling: None,
            ended: None,
            released: false,
            sealed: BTreeSet::new(),
            step_max: 0,
            tasks: Ranges::new(),
        }
    }

    /// Its keeper may speak about it.
    pub(super) fn speaks(&self) -> bool {
        self.ended.is_none() && self.keeper == Keeper::Connected
    }

    pub(super) fn phase(&self) -> Phase {
        match (
            self.ended,
            &self.stop,
            self.first_failure,
            self.started,
            self.keeper,
        ) {
            (Some(_), ..) => Phase::Ended,
            (_, Some(_), ..) | (_, _, Some(_), ..) => Phase::Stopping,
            (_, _, _, true, _) => Phase::Running,
            (_, _, _, _, Keeper::Connected) => Phase::Ready,
            _ => Phase::Preparing,
        }
    }

    /// `moving_up_to`: see [`Status`].
    pub(super) fn status(&self, moving_up_to: u64) -> Status {
        Status {
            job: self.start.job,
            epoch: self.start.epoch,
            phase: self.phase(),
            master_port: self.master_port,
            moving_up_to,
            probe: self.probe.filter(|_| self.ended.is_none()),
        }
    }

    /// What the journal must know to say nothing twice.
    pub(super) fn reported(&self) -> Record {
        Record::Reported {
            job: self.start.job,
            epoch: self.start.epoch,
            started: self.started,
            exits: self.exits.values().copied().collect(),
            ended: self.ended.is_some(),
            sealed: self.sealed.iter().cloned().collect(),
            tasks: self.tasks.clone(),
        }
    }

    /// How this node's allocation ended, once nothing is left of it: what came first, counts.
    pub(super) fn end(&self, node: &str) -> AttemptEnd {
        let (kind, code, detail, rank) = if let Some(why) = &self.launch_failed {
            (EndKind::LaunchFailed, 0, why.clone(), None)
        } else if let Some(exit) = self.first_failure {
            let (kind, code, detail) = match (exit.oom, exit.signal) {
                (Some(oom), _) => (EndKind::OutOfMemory, 0, oom.detail(exit.rank)),
                (None, 0) => (EndKind::Exited, exit.code, String::new()),
                (None, signal) => (EndKind::Signalled, signal, String::new()),
            };
            (kind, code, detail, Some(exit.rank))
        } else if let Some(stop) = &self.stop {
            (stop.reason, 0, stop.why.clone(), None)
        } else {
            (EndKind::Exited, 0, String::new(), None)
        };
        AttemptEnd {
            kind: kind.into(),
            code,
            detail: detail_text(&detail),
            node: node.into(),
            rank,
        }
    }
}

/// `text` cut to what a record may hold, at a character's border.
pub(super) fn detail_text(text: &str) -> String {
    let mut end = text.len().min(DETAIL_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}
