//! AgentEvents: what happened on a node, in the order of its journal. The node's event mark moves over every event that is
//! looked at, also over one that is refused: a stale word must not be repeated forever.
use std::sync::Arc;

use mlctl_proto::errors::{Code, Refusal};
use mlctl_proto::ids::{Epoch, JobId};
use mlctl_proto::limits::{DETAIL_BYTES_MAX, EVENTS_PER_BATCH_MAX, RANKS_PER_NODE_MAX};
use mlctl_proto::mutants::{Mutant, planted};
use mlctl_proto::spec::Ranges;

use super::current::Current;
use super::{Context, CopyNews, DeviceNews, SealedPart, checkpoints, in_doubt, waves};
use crate::state::Effect;
use crate::state::change::Change;
use crate::state::records::{
    AllocationPhase, End, Job, Liveness, Node, RankExit, Reply, TaskGroup,
};

/// A report of one agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentEvents {
    /// The node, by its certificate.
    pub node: String,
    /// Events are numbered within it.
    pub journal_id: String,
    /// Without gaps; those that were applied before are skipped.
    pub events: Vec<AgentEvent>,
}

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentEvent {
    /// From 1, per journal.
    pub seq: u64,
    /// What happened.
    pub news: News,
}

/// What an event is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News {
    /// The node's part of an attempt.
    OfAttempt {
        /// Its job.
        job: JobId,
        /// Its epoch.
        epoch: Epoch,
        /// What happened.
        what: Happening,
    },
    /// A copy of a checkpoint that the node holds or held.
    OfCopy {
        /// The job that made it.
        job: JobId,
        /// The attempt that made it.
        epoch: Epoch,
        /// What happened.
        what: CopyNews,
    },
    /// The node's devices.
    OfDevices(DeviceNews),
}

/// News of one attempt.
pub(super) struct Report<'a> {
    pub(super) job: JobId,
    pub(super) epoch: Epoch,
    pub(super) what: &'a Happening,
}

/// What may happen to an allocation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Happening {
    /// Its ranks were started.
    RanksStarted,
    /// One of its ranks ended.
    RankExited(RankExit),
    /// The node holds nothing of it any more. Also the answer of a tombstone.
    AllocationEnded(End),
    /// Tasks of a wave ended by themselves.
    TasksEnded(TasksEnded),
    /// The node's part of a checkpoint is complete.
    CheckpointSealed(SealedPart),
}

/// How tasks of a wave ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TasksEnded {
    /// By how they did.
    pub groups: Vec<TaskGroup>,
    /// The first of them that failed.
    pub first_failed: Option<u32>,
    /// Those of them that wrote anything.
    pub spoke: Ranges,
}

impl AgentEvents {
    pub(super) fn apply(&self, change: &mut Change, context: &Context) -> Result<Reply, Refusal> {
        context.require_system()?;
        let node = change.node(&self.node)?;
        if node.journal_id != self.journal_id {
            let why = format!(
                "node {} registered with another journal: it has to say hello first",
                self.node
            );
            return Err(Refusal::new(Code::Conflict, why));
        }
        if node.liveness == Liveness::Lost {
            // It is back, and what is in doubt on it goes on by that: then its words count.
            let why = format!("node {} is Lost: it has to say hello first", self.node);
            return Err(Refusal::new(Code::Conflict, why));
        }
        let mut mark = self.check_numbers(node.event_mark)?;
        let mut dirty = node.dirty.clone();
        for event in self
            .events
            .iter()
            .filter(|event| event.seq > node.event_mark)
        {
            let (job, epoch, what) = match &event.news {
                News::OfAttempt { job, epoch, what } => (*job, *epoch, what),
                News::OfCopy { job, epoch, what } => {
                    what.apply(change, (*job, *epoch), (&node, context));
                    continue;
                }
                News::OfDevices(news) => {
                    dirty = news.apply(change, dirty);
                    continue;
                }
            };
            let stale = || Current::load(change, job, epoch, context.now_ms).is_none();
            if planted(Mutant::RefusedEventNotAcknowledged) && stale() {
                mark = node.event_mark;
            }
            Report { job, epoch, what }.apply(change, &node, context)?;
        }
        // No news of an attempt changes the node's own row: the copy taken above is still the newest.
        change.put_node(Node {
            event_mark: mark,
            dirty,
            ..node
        });
        change.effect(Effect::EventsApplied {
            node: self.node.clone(),
            journal_id: self.journal_id.clone(),
            up_to: mark,
        });
        Ok(Reply::Done)
    }

    /// Events follow each other without a gap, and the first new one follows the mark; gives the new mark.
    fn check_numbers(&self, mark: u64) -> Result<u64, Refusal> {
        if self.events.len() > EVENTS_PER_BATCH_MAX {
            let why = format!(
                "{} events in one report; at most {EVENTS_PER_BATCH_MAX}",
                self.events.len()
            );
            return Err(Refusal::new(Code::LimitExceeded, why));
        }
        let (Some(first), Some(last)) = (self.events.first(), self.events.last()) else {
            return Ok(mark);
        };
        let contiguous = self
            .events
            .windows(2)
            .all(|pair| pair[0].seq.checked_add(1) == Some(pair[1].seq));
        if !contiguous || first.seq == 0 || first.seq > mark.saturating_add(1) {
            let why = format!(
                "events {} to {} do not follow event {mark}: send them again from there",
                first.seq, last.seq
            );
            return Err(Refusal::new(Code::Conflict, why));
        }
        Ok(mark.max(last.seq))
    }
}

impl Report<'_> {
    /// Applies it, or passes over it when it is stale: of an unknown job, another epoch or boot, a node that is not in
    /// the gang, an allocation that has ended.
    fn apply(&self, change: &mut Change, node: &Node, context: &Context) -> Result<(), Refusal> {
        let array = |job: &Arc<Job>| job.array.is_some();
        if change.state().job(self.job).is_some_and(array) {
            return waves::event(change, self, node, context);
        }
        let Some(mut current) = Current::load(change, self.job, self.epoch, context.now_ms) else {
            self.apply_to_dropped(change, node, context);
            return Ok(());
        };
        let own = |position: &usize| {
            current
                .attempt
                .allocations
                .get(*position)
                .is_some_and(|allocation| allocation.boot_id == node.facts.boot_id)
        };
        let Some(position) = current.position(&node.facts.name) else {
            return Ok(());
        };
        if let Happening::CheckpointSealed(sealed) = self.what {
            // What lies on its disk outlives a boot.
            let place = (self.epoch, position);
            checkpoints::seal(change, current.job, place, sealed, (node, context));
            return Ok(());
        }
        if !own(&position) {
            return Ok(());
        }
        if current.attempt.allocations[position].phase == AllocationPhase::Ended {
            return Ok(());
        }
        match self.what {
            Happening::RanksStarted => current.started(change, position)?,
            Happening::RankExited(exit) => rank_exited(&mut current, change, position, exit)?,
            Happening::AllocationEnded(end) => {
                let end = End {
                    node: node.facts.name.clone(),
                    detail: short(&end.detail),
                    ..end.clone()
                };
                current.end_allocation(change, position, end)?;
            }
            Happening::TasksEnded(_) | Happening::CheckpointSealed(_) => {}
        }
        current.store(change);
        Ok(())
    }

    /// Of an attempt that is not the current one only the end counts, and only while it holds something: it was dropped.
    fn apply_to_dropped(&self, change: &mut Change, node: &Node, context: &Context) {
        let Happening::AllocationEnded(end) = self.what else {
            return;
        };
        let Some(attempt) = change.attempt(self.job, self.epoch) else {
            return;
        };
        let mut allocations = attempt.allocations.iter();
        let own = allocations.position(|one| {
            one.node == node.facts.name
                && one.boot_id == node.facts.boot_id
                && one.phase != AllocationPhase::Ended
        });
        if let Some(position) = own {
            let end = End {
                node: node.facts.name.clone(),
                detail: short(&end.detail),
                ..end.clone()
            };
            in_doubt::end_dropped(change, attempt, position, end, context.now_ms);
        }
    }
}

/// Notes how a rank ended. The first that failed by itself ends the gang.
fn rank_exited(
    current: &mut Current,
    change: &mut Change,
    position: usize,
    exit: &RankExit,
) -> Result<(), Refusal> {
    let each = change.state().request(&current.job);
    let each = each.map_or(0, |request| request.ranks);
    let world = each.saturating_mul(current.attempt.width());
    let allocation = &mut current.attempt.allocations[position];
    let known = allocation.exits.iter().any(|one| one.rank == exit.rank);
    if known || exit.rank >= world || allocation.exits.len() >= RANKS_PER_NODE_MAX as usize {
        return Ok(());
    }
    allocation.exits.push(exit.clone());
    let node = allocation.node.clone();
    // A rank that has ended had been started, whatever was said of it before.
    current.started(change, position)?;
    if exit.failed() && !exit.killed_by_us {
        current.stop(change, exit.as_end(&node), Some(position))?;
    }
    Ok(())
}

/// At most [`DETAIL_BYTES_MAX`] bytes of a text.
pub(super) fn short(text: &str) -> String {
    let mut end = text.len().min(DETAIL_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

#[cfg(test)]
#[path = "agent_events_tests.rs"]
mod tests;
