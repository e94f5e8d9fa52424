//! Waves: the attempts of an array job. Each has one node and a part of the tasks, and there may be several at once, one per node. What of
//! a lost wave has not ended waits again; nothing that a closed wave says is accepted. A wave is never in doubt.
use std::sync::Arc;

use mlctl_proto::errors::{Code, Refusal};
use mlctl_proto::ids::{Epoch, JobId, clip};
use mlctl_proto::limits::{RANKS_PER_NODE_MAX, WAVE_TASKS_MAX};
use mlctl_proto::spec::Ranges;
use mlctl_proto::units::UtcMs;

use super::agent_events::{Happening, Report, TasksEnded};
use super::start_attempts::{StartAttempt, check_placement};
use super::{Context, LossProof, failures, holds, kept};
use crate::state::change::Change;
use crate::state::records::{
    AllocationPhase, Array, Attempt, End, EndKind, Job, JobState, Liveness, Node, TaskGroup, Wave,
};
use crate::state::rules::room::{Seeker, tasks_together};
use crate::state::rules::{all_of, ready_tasks};
use crate::state::transition::advance;
use crate::state::{Effect, State};

/// Every precondition of a wave beside those of any start; `job` is an array job.
pub(super) fn check(state: &State, job: &Job, start: &StartAttempt) -> Result<(), String> {
    let (Some(array), Some(wave)) = (&job.array, &start.wave) else {
        return Err("a start of an array job names the tasks that it starts".into());
    };
    let [placement] = start.placements.as_slice() else {
        return Err("a task runs on one node".into());
    };
    let (slots, count) = (wave.slots, wave.tasks.count());
    if slots == 0 || slots > RANKS_PER_NODE_MAX || u64::from(slots) > count {
        return Err(format!("{slots} at once of {count} tasks"));
    }
    if count > u64::from(WAVE_TASKS_MAX) {
        return Err(format!(
            "{count} tasks on one node; at most {WAVE_TASKS_MAX}"
        ));
    }
    if !array.pending.covers(&wave.tasks) {
        return Err("some of these tasks do not wait".into());
    }
    if ready_tasks(state, job).is_some_and(|ready| !ready.covers(&wave.tasks)) {
        return Err("some of these tasks wait for tasks of another job".into());
    }
    if !start.resume_from.is_empty() {
        return Err("a task has no checkpoint".into());
    }
    let mut running = slots;
    for open in open_waves(state, job.id) {
        if open
            .allocations
            .iter()
            .any(|one| one.node == placement.node)
        {
            return Err(format!("tasks of it run on node {}", clip(&placement.node)));
        }
        let slots = open.wave.as_ref().map_or(0, |wave| wave.slots);
        running = running.saturating_add(slots);
    }
    if array.limit > 0 && running > array.limit {
        return Err(format!(
            "{running} tasks at once; its limit is {}",
            array.limit
        ));
    }
    let node = state
        .node(&placement.node)
        .ok_or_else(|| format!("there is no node {}", clip(&placement.node)))?;
    let request = state.request(job).ok_or("its spec is gone")?;
    let seeker = Seeker::of(job.id);
    check_placement(state, &all_of(request, slots), placement, (node, &seeker))?;
    let facts = state.spec_facts(job).ok_or("its spec is gone")?;
    let together = Arc::new(tasks_together(&facts.ask, slots));
    state.check_room(&together, node, &seeker)
}

/// The tasks of a committed start are not pending any more; gives the wave for the attempt's record.
pub(super) fn assign(job: &mut Job, start: &StartAttempt) -> Option<Wave> {
    let wave = start.wave.clone()?;
    let array = job.array_mut()?;
    array.pending = array.pending.minus(&wave.tasks);
    Some(wave)
}

/// The waves of a job that are open.
fn open_waves(state: &State, job: JobId) -> impl Iterator<Item = &std::sync::Arc<Attempt>> {
    state.attempts_of(job).filter(|attempt| !attempt.closed())
}

/// Applies an agent's event of an array job, or passes over it when it is stale.
pub(super) fn event(
    change: &mut Change,
    event: &Report,
    node: &Node,
    context: &Context,
) -> Result<(), Refusal> {
    let own = |attempt: &Attempt| {
        attempt.allocations.first().is_some_and(|one| {
            one.node == node.facts.name
                && one.boot_id == node.facts.boot_id
                && one.phase != AllocationPhase::Ended
        })
    };
    let Some(mut current) = Current::load(change, event.job, event.epoch, context.now_ms)
        .filter(|one| own(&one.attempt))
    else {
        return Ok(());
    };
    match event.what {
        Happening::RanksStarted => current.started()?,
        Happening::TasksEnded(ended) => {
            current.started()?;
            current.tasks_ended(ended);
        }
        Happening::AllocationEnded(end) => {
            let end = End {
                node: node.facts.name.clone(),
                detail: super::agent_events::short(&end.detail),
                ..end.clone()
            };
            return current.closed(change, end);
        }
        // Neither is said of a wave.
        Happening::RankExited(_) | Happening::CheckpointSealed(_) => return Ok(()),
    }
    current.store(change);
    Ok(())
}

/// What a lost node ran of an array: the wave is over, unless the job keeps it until there is a better proof.
pub(super) fn lose(
    change: &mut Change,
    (job, epoch): (JobId, Epoch),
    end: End,
    proof: LossProof,
    now_ms: UtcMs,
) -> Result<(), Refusal> {
    let current = Current::load(change, job, epoch, now_ms);
    let stays = |current: &Current| {
        current.job.state != JobState::Stopping && kept::keeps(current.job.on_disconnect, proof)
    };
    match current.filter(|current| !stays(current)) {
        Some(current) => current.closed(change, end),
        None => Ok(()),
    }
}

/// The job ends: what it kept on nodes that are Lost is given up.
fn release(change: &mut Change, job: JobId, now_ms: UtcMs) -> Result<(), Refusal> {
    let open: Vec<Attempt> = open_waves(change.state(), job)
        .map(|one| Attempt::clone(one))
        .collect();
    for attempt in open {
        for allocation in &attempt.allocations {
            let node = change.node(&allocation.node).ok();
            let lost = node.is_some_and(|node| {
                node.liveness == Liveness::Lost && node.facts.boot_id == allocation.boot_id
            });
            if !lost {
                continue;
            }
            let end = End {
                detail: format!("node {} was silent for too long", allocation.node),
                node: allocation.node.clone(),
                ..End::of(EndKind::NodeLost)
            };
            if let Some(current) = Current::load(change, job, attempt.epoch, now_ms) {
                current.closed(change, end)?;
            }
        }
    }
    Ok(())
}

/// A person ends the job: what waits never runs, what runs is stopped. The caller has noted the request.
pub(super) fn cancel(
    change: &mut Change,
    mut job: Job,
    end: &End,
    now_ms: UtcMs,
) -> Result<(), Refusal> {
    if let Some(array) = job.array_mut() {
        array.cancel_pending();
    }
    if stop_all(change, &mut job, end, None)? {
        let id = job.id;
        change.put_job(job);
        return release(change, id, now_ms);
    }
    advance(&mut job, JobState::Cancelled)?;
    failures::release(&mut job);
    job.outcome = Some(end.clone());
    job.ended_ms = now_ms;
    change.put_job(job);
    Ok(())
}

/// Tells every open wave but `except` to end, and moves the job to `Stopping`. False: there is none.
fn stop_all(
    change: &mut Change,
    job: &mut Job,
    end: &End,
    except: Option<Epoch>,
) -> Result<bool, Refusal> {
    let open: Vec<Attempt> = open_waves(change.state(), job.id)
        .filter(|one| Some(one.epoch) != except)
        .map(|one| Attempt::clone(one))
        .collect();
    if open.is_empty() {
        return Ok(false);
    }
    if job.state != JobState::Stopping {
        advance(job, JobState::Stopping)?;
    }
    for mut attempt in open {
        attempt.stopping = true;
        attempt.end.get_or_insert_with(|| end.clone());
        for allocation in &attempt.allocations {
            change.effect(Effect::Stop {
                node: allocation.node.clone(),
                job: job.id,
                epoch: attempt.epoch,
                reason: end.kind,
            });
        }
        change.put_attempt(attempt);
    }
    Ok(true)
}

/// Others get the devices of one wave: it is told to end, and what of it has not ended waits again. Other waves go on.
pub(super) fn preempt(change: &mut Change, mut attempt: Attempt, end: End) {
    attempt.stopping = true;
    attempt.end.get_or_insert_with(|| end.clone());
    for allocation in &attempt.allocations {
        change.effect(Effect::Stop {
            node: allocation.node.clone(),
            job: attempt.job,
            epoch: attempt.epoch,
            reason: end.kind,
        });
    }
    change.put_attempt(attempt);
}

/// All tasks that ran exited 0, and others never ran: those of another array that they waited for had failed.
fn never_run(array: &Array) -> End {
    End {
        detail: format!(
            "{} of {} tasks never ran: tasks that they waited for did not exit 0",
            array.cancelled.count(),
            array.tasks.count()
        ),
        ..End::of(EndKind::Cancelled)
    }
}

/// How a task ends whose waves were lost too often. Without a reason it was its keeper.
fn lost_by(end: &End) -> EndKind {
    match end.kind {
        EndKind::Exited | EndKind::Signalled => EndKind::KeeperLost,
        kind => kind,
    }
}

/// A job with one of its waves; `store` writes both back.
struct Current {
    job: Job,
    attempt: Attempt,
    now_ms: UtcMs,
}

impl Current {
    fn load(change: &Change, job: JobId, epoch: Epoch, now_ms: UtcMs) -> Option<Self> {
        let job = change.job(job).ok().filter(|job| job.array.is_some())?;
        let attempt = change.attempt(job.id, epoch)?;
        attempt.wave.as_ref()?;
        Some(Self {
            job,
            attempt,
            now_ms,
        })
    }

    fn store(self, change: &mut Change) {
        change.put_job(self.job);
        change.put_attempt(self.attempt);
    }

    fn array(&mut self) -> Result<&mut Array, Refusal> {
        let why = "an array job lost its tasks";
        self.job
            .array_mut()
            .ok_or_else(|| Refusal::new(Code::Internal, why))
    }

    /// Its tasks are being started.
    fn started(&mut self) -> Result<(), Refusal> {
        for allocation in &mut self.attempt.allocations {
            if allocation.phase == AllocationPhase::Assigned {
                allocation.phase = AllocationPhase::Running;
            }
        }
        if self.attempt.stopping || self.attempt.running_ms > 0 {
            return Ok(());
        }
        self.attempt.running_ms = self.now_ms;
        if self.job.started_ms == 0 {
            self.job.started_ms = self.now_ms;
        }
        if self.job.state == JobState::Starting {
            advance(&mut self.job, JobState::Running)?;
        }
        Ok(())
    }

    /// Takes note of tasks that ended by themselves: each once, and none that this wave was not given.
    fn tasks_ended(&mut self, ended: &TasksEnded) {
        let node = self.node();
        for group in &ended.groups {
            let (Some(wave), Some(array)) = (&mut self.attempt.wave, self.job.array_mut()) else {
                return;
            };
            let by_itself = matches!(
                group.kind,
                EndKind::Exited | EndKind::Signalled | EndKind::OutOfMemory
            );
            let tasks = group.tasks.and(&wave.left);
            if !by_itself || tasks.is_empty() {
                continue;
            }
            wave.left = wave.left.minus(&tasks);
            wave.spoke = wave.spoke.union(&ended.spoke.and(&tasks));
            let group = TaskGroup {
                tasks,
                ..group.clone()
            };
            if !group.success() {
                array.name_failures(&group, ended.first_failed, &node);
            }
            array.end(group.kind, group.code, &group.tasks);
        }
    }

    fn node(&self) -> String {
        let first = self.attempt.allocations.first();
        first.map_or_else(String::new, |one| one.node.clone())
    }

    /// The node holds nothing of the wave any more.
    fn closed(mut self, change: &mut Change, end: End) -> Result<(), Refusal> {
        if end.success() {
            self.started()?;
        }
        for allocation in &mut self.attempt.allocations {
            allocation.phase = AllocationPhase::Ended;
            allocation.end = Some(end.clone());
        }
        self.attempt.ended_ms = self.now_ms;
        self.attempt.end.get_or_insert_with(|| end.clone());
        self.note_pace();
        let left = self.attempt.wave.as_ref();
        let left = left.map_or_else(Ranges::new, |wave| wave.left.clone());
        let (stopping, node) = (self.job.state == JobState::Stopping, self.node());
        let taken = self.attempt.stopping
            && (self.attempt.end.as_ref()).is_some_and(|end| end.kind == EndKind::Preempted);
        let array = self.array()?;
        // What cannot be launched at all is not tried with every task. Where tasks have run before, it is that node's trouble.
        let hopeless = end.kind == EndKind::LaunchFailed && array.ended.is_empty() && !taken;
        if stopping || hopeless {
            array.cancelled = array.cancelled.union(&left);
        } else if taken {
            // Nothing was lost under these tasks: it does not count.
            array.pending = array.pending.union(&left);
        } else {
            array.give_back(&left, lost_by(&end), &node);
        }
        change.replan();
        let epoch = self.attempt.epoch;
        if hopeless && !stopping {
            self.array()?.cancel_pending();
            stop_all(change, &mut self.job, &end, Some(epoch))?;
        }
        self.settle(change.state())?;
        holds::ended(change, &mut self.job, &self.attempt, self.now_ms);
        self.store(change);
        Ok(())
    }

    /// Where the job goes now that this wave is over.
    fn settle(&mut self, state: &State) -> Result<(), Refusal> {
        let own = self.attempt.epoch;
        if open_waves(state, self.job.id).any(|open| open.epoch != own) {
            return Ok(());
        }
        let stopping = self.job.state == JobState::Stopping;
        let array = self.array()?;
        if !stopping && !array.pending.is_empty() {
            return advance(&mut self.job, JobState::Pending);
        }
        let all = match array.outcome() {
            end if end.success() && !array.cancelled.is_empty() => never_run(array),
            end => end,
        };
        let (end, to) = if self.job.cancel_requested {
            (End::of(EndKind::Cancelled), JobState::Cancelled)
        } else if stopping || !self.array()?.cancelled.is_empty() {
            let why = self.attempt.end.clone().filter(|end| !end.success());
            (why.unwrap_or(all), JobState::Failed)
        } else if all.success() {
            (all, JobState::Completed)
        } else {
            (all, JobState::Failed)
        };
        if to == JobState::Completed {
            if self.job.state == JobState::Starting {
                advance(&mut self.job, JobState::Running)?;
            }
        } else if !stopping {
            advance(&mut self.job, JobState::Stopping)?;
        }
        advance(&mut self.job, to)?;
        self.job.outcome = Some(match &self.attempt.end {
            Some(reason) if to == JobState::Cancelled && reason.kind == EndKind::Cancelled => {
                reason.clone()
            }
            _ => end,
        });
        self.job.ended_ms = self.now_ms;
        Ok(())
    }

    /// What a task took here: the next wave is as long as that lets it be.
    fn note_pace(&mut self) {
        let Some(wave) = &self.attempt.wave else {
            return;
        };
        let ended = wave.tasks.count().saturating_sub(wave.left.count());
        let ran = self.now_ms.saturating_sub(self.attempt.running_ms);
        if ended == 0 || self.attempt.running_ms == 0 {
            return;
        }
        let slots = u64::from(wave.slots).min(ended);
        let took = u64::try_from(ran).unwrap_or(0).saturating_mul(slots) / ended;
        let took = u32::try_from(took).unwrap_or(u32::MAX).max(1);
        if let Some(array) = self.job.array_mut() {
            array.task_ms = took;
        }
    }
}

#[cfg(test)]
#[path = "waves_tests.rs"]
mod tests;
