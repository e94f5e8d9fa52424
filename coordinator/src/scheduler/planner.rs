//! One pass over the queue: places what fits, remembers which requests failed. Shared by plan and explain, so that both say the same.
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mlctl_proto::ids::Epoch;
use mlctl_proto::units::UtcMs;

use super::Plan;
use super::capacity::{Capacity, Choice};
use super::reasons::{Inventory, Reason, excluded_reason, holder_reason};
use super::shape::Shape;
use super::turn::NoTurn;
use super::waves;
use crate::state::rules::{
    Request, Resume, all_of, excluded, is_shared, living_holders, ready_tasks, resume,
};
use crate::state::view::jobs::Footing;
use crate::state::view::{Checkpoint, ClusterView, Job, JobState, Part, StartAttempt};

/// Nodes and devices that one plan names: as a command it has to stay well below the limit of a message.
const NAMED_MAX: usize = 16_384;

pub(super) struct Planner<'a> {
    view: &'a ClusterView,
    inventory: Inventory<'a>,
    capacity: Capacity<'a>,
    /// What was free before the first start.
    free: Shape<'a>,
    /// Requests that found no place: capacity only shrinks within a plan, so their equals find none either.
    failed: BTreeMap<Arc<Request>, Reason>,
    named: usize,
    plan: Plan,
    now_ms: UtcMs,
    /// When the first back-off is over.
    next: Option<UtcMs>,
}

/// What becomes of one job.
enum Verdict<'a> {
    Starts(Choice<'a>, String),
    /// No gang of this request fits anywhere.
    NoPlace,
    /// It would fit, but not on a node that holds its checkpoint, or not yet.
    Waits(Reason),
}

impl<'a> Planner<'a> {
    pub fn new(view: &'a ClusterView, now_ms: UtcMs) -> Self {
        let capacity = Capacity::new(view);
        let free = capacity.shape();
        let inventory = Inventory::new(view);
        Self {
            view,
            inventory,
            capacity,
            free,
            failed: BTreeMap::new(),
            named: 0,
            plan: Plan::default(),
            // Apply goes by state time, which never lies behind.
            now_ms: now_ms.max(view.state.now_ms()),
            next: None,
        }
    }

    /// When time alone changes the answer: a back-off is over.
    pub fn next(&self) -> Option<UtcMs> {
        self.next
    }

    /// The plan names as much as one command may.
    pub fn is_full(&self) -> bool {
        self.named >= NAMED_MAX
    }

    pub fn finish(mut self, next: Option<UtcMs>) -> Plan {
        let due = self.view.state.deadlines().next().map(|(at, _)| at);
        self.plan.late = due.is_some_and(|at| at <= self.now_ms);
        // What is late already is not waited for.
        let ahead = due.filter(|at| *at > self.now_ms);
        self.plan.next = next.into_iter().chain(ahead).min();
        self.plan
    }

    /// Starts a job if it fits into what is left, else notes its leading reason.
    pub fn consider(&mut self, job: &Job) {
        let Some(request) = self.view.state.request(job) else {
            return;
        };
        if let Some(reason) = Reason::of_backoff(job, self.now_ms) {
            let until = job.retries.not_before_ms;
            self.next = Some(self.next.map_or(until, |next| next.min(until)));
            self.plan.explanations.insert(job.id, reason);
            return;
        }
        if let Some(reason) = self.no_turn(job) {
            if let Some(until) = reason.until() {
                self.next = Some(self.next.map_or(until, |next| next.min(until)));
            }
            self.plan
                .explanations
                .insert(job.id, Reason::NoTurn(reason));
            return;
        }
        if let Some(reason) = self.failed.get(request) {
            // What is ahead of it may have grown since its equal failed; everything else is what was free before this plan.
            let reason = match reason {
                Reason::JobsAhead { .. } => Reason::JobsAhead {
                    jobs: self.plan.starts.len(),
                },
                other => other.clone(),
            };
            if job.state == JobState::Pending {
                self.plan.explanations.insert(job.id, reason);
            }
            return;
        }
        if job.array.is_some() {
            return self.consider_array(job, request);
        }
        match self.judge(job, request) {
            Verdict::Starts(choice, resume_from) => {
                let placements = self.capacity.take(&choice, request);
                self.named += placements
                    .iter()
                    .map(|placement| 1 + placement.devices.len())
                    .sum::<usize>();
                let epoch = Epoch::new(job.id.incarnation, job.epoch_counter.saturating_add(1));
                self.plan.starts.push(StartAttempt {
                    job: job.id,
                    epoch,
                    placements,
                    resume_from,
                    wave: None,
                    footing: Footing::Regular,
                });
            }
            Verdict::NoPlace => {
                if let Some(reason) = self.why_no_place(request).into_iter().next() {
                    self.failed.insert(request.clone(), reason.clone());
                    self.plan.explanations.insert(job.id, reason);
                }
            }
            Verdict::Waits(reason) => {
                self.plan.explanations.insert(job.id, reason);
            }
        }
    }

    /// Why a job that waits does not have its turn, whatever is free.
    fn no_turn(&self, job: &Job) -> Option<NoTurn> {
        if job.state != JobState::Pending {
            return None;
        }
        NoTurn::of(job, self.now_ms).or_else(|| NoTurn::of_tasks(self.view, job))
    }

    /// Starts as many waves of an array as there are nodes with room, one on each that runs none of it.
    fn consider_array(&mut self, job: &Job, request: &Arc<Request>) {
        let Some(mut array) = job.array.as_deref().cloned() else {
            return;
        };
        if let Some(ready) = ready_tasks(&self.view.state, job) {
            array.pending = array.pending.and(&ready);
        }
        let (mut busy, mut running) = (BTreeSet::new(), 0_u32);
        for open in self
            .view
            .state
            .attempts_of(job.id)
            .filter(|one| !one.closed())
        {
            busy.extend(open.allocations.iter().map(|one| one.node.clone()));
            let slots = open.wave.as_ref().map_or(0, |wave| wave.slots);
            running = running.saturating_add(slots);
        }
        let mut counter = job.epoch_counter;
        while !self.is_full() {
            let Some((choice, room, nodes)) = self.capacity.widest(request, &busy) else {
                break;
            };
            let nodes = nodes.saturating_add(busy.len() as u64);
            let Some(wave) = waves::wave(&mut array, room, running, nodes) else {
                break;
            };
            let taken = all_of(request, wave.slots);
            let placements = self.capacity.take(&choice, &taken);
            busy.extend(placements.iter().map(|one| one.node.clone()));
            running = running.saturating_add(wave.slots);
            counter = counter.saturating_add(1);
            let devices = placements.iter().map(|one| one.devices.len());
            self.named += 1 + devices.sum::<usize>() + wave.tasks.spans().len();
            self.plan.starts.push(StartAttempt {
                job: job.id,
                epoch: Epoch::new(job.id.incarnation, counter),
                placements,
                resume_from: String::new(),
                wave: Some(wave),
                footing: Footing::Regular,
            });
        }
        let none = counter == job.epoch_counter && !self.is_full();
        if none
            && self
                .capacity
                .find(request, None, &BTreeSet::new())
                .is_none()
        {
            let Some(reason) = self.why_no_place(request).into_iter().next() else {
                return;
            };
            self.failed.insert(request.clone(), reason.clone());
            if job.state == JobState::Pending {
                self.plan.explanations.insert(job.id, reason);
            }
        }
    }

    /// Every reason why a job does not start after all that were considered before it; none: it does.
    pub fn reasons(&self, job: &Job) -> Vec<Reason> {
        let Some(request) = self.view.state.request(job) else {
            return Vec::new();
        };
        if let Some(reason) = Reason::of_backoff(job, self.now_ms) {
            return vec![reason];
        }
        if let Some(reason) = self.no_turn(job) {
            return vec![Reason::NoTurn(reason)];
        }
        match self.judge(job, request) {
            Verdict::Starts(..) => Vec::new(),
            Verdict::NoPlace => {
                let mut reasons = self.why_no_place(request);
                reasons.extend(self.holder(job, request));
                reasons
            }
            Verdict::Waits(reason) => vec![reason],
        }
    }

    /// Where it is not placed. Most jobs have failed nowhere.
    fn out(&self, job: &Job, request: &Request) -> BTreeSet<usize> {
        if job.retries.excluded.is_empty() {
            return BTreeSet::new();
        }
        self.capacity
            .places(&excluded(&self.view.state, job, request))
    }

    fn why_no_place(&self, request: &Request) -> Vec<Reason> {
        self.inventory
            .why_not(request, &self.free, self.plan.starts.len())
    }

    fn judge(&self, job: &Job, request: &Request) -> Verdict<'a> {
        if self.view.state.ends_attempt(job.id) {
            return Verdict::Waits(Reason::AttemptEnds);
        }
        if self.view.salvaging.contains(&job.id) {
            return Verdict::Waits(Reason::Salvage);
        }
        let out = self.out(job, request);
        let Some(anywhere) = self.capacity.find(request, None, &out) else {
            let none = BTreeSet::new();
            let hindered = !out.is_empty() && self.capacity.find(request, None, &none).is_some();
            return match hindered {
                true => Verdict::Waits(excluded_reason(job)),
                false => Verdict::NoPlace,
            };
        };
        let checkpoints = match resume(&self.view.state, job) {
            Resume::Nothing => return Verdict::Starts(anywhere, String::new()),
            Resume::From(checkpoints) => checkpoints,
        };
        for checkpoint in checkpoints {
            // Who wrote it is as good as anybody else.
            if is_shared(&self.view.state, job, checkpoint) {
                return Verdict::Starts(anywhere, checkpoint.name.clone());
            }
            if let Some(choice) = self.on_holder(checkpoint, request, &out) {
                return Verdict::Starts(choice, checkpoint.name.clone());
            }
            if self.can_be_brought(checkpoint) {
                return Verdict::Starts(anywhere, checkpoint.name.clone());
            }
            // A holder that takes work but was not heard yet says hello soon, or falls silent for good: an older checkpoint
            // would throw work away.
            if self.unheard_holder(checkpoint) {
                break;
            }
        }
        match self.holder(job, request) {
            Some(reason) => Verdict::Waits(reason),
            None => Verdict::Starts(anywhere, String::new()),
        }
    }

    fn on_holder(
        &self,
        checkpoint: &Checkpoint,
        request: &Request,
        out: &BTreeSet<usize>,
    ) -> Option<Choice<'a>> {
        let mut holders = living_holders(&self.view.state, checkpoint);
        holders.find_map(|holder| self.capacity.find(request, Some(holder), out))
    }

    /// Every part of it lies, sealed, on a node that answers, or in the object store.
    fn can_be_brought(&self, checkpoint: &Checkpoint) -> bool {
        let answers = |part: &Part| {
            let mut holders = part.holders.iter();
            part.uploaded || holders.any(|one| self.view.heard.contains(one))
        };
        checkpoint.is_portable() && checkpoint.filled().all(answers)
    }

    fn unheard_holder(&self, checkpoint: &Checkpoint) -> bool {
        let holders = checkpoint.holders().into_iter();
        let mut nodes = holders.filter_map(|holder| self.view.state.node(holder));
        nodes.any(|node| node.schedulable() && !self.view.usable(node))
    }

    /// Why no holder of the newest checkpoint takes rank 0, if one of them still lives.
    fn holder(&self, job: &Job, request: &Request) -> Option<Reason> {
        let Resume::From(checkpoints) = resume(&self.view.state, job) else {
            return None;
        };
        let newest = checkpoints
            .first()
            .filter(|newest| !is_shared(&self.view.state, job, newest))?;
        let out = self.out(job, request);
        if self.on_holder(newest, request, &out).is_some() {
            return None;
        }
        let holders: Vec<&str> = living_holders(&self.view.state, newest).collect();
        Some(holder_reason(self.view, request, &newest.name, &holders))
    }
}
