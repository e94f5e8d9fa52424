//! What is said to people of the engine's reasons: with names of nodes and of whoever holds a job, and with what else stands in its way. Does NOT decide
//! who starts: the engine has.
use std::collections::BTreeMap;
use std::sync::Arc;

use super::engine::Why;
use super::reasons::{Inventory, Reason, excluded_reason, holder_reason};
use super::shape::Shape;
use super::turn::NoTurn;
use crate::state::rules::{Request, Resume, is_shared, living_holders, resume};
use crate::state::view::{ClusterView, Job, JobState};
use mlctl_proto::units::UtcMs;

/// What one plan says.
pub(super) struct Said<'a> {
    view: &'a ClusterView,
    inventory: Inventory<'a>,
    /// What was free before the first start.
    free: Shape<'a>,
    /// How many start.
    starts: usize,
    now_ms: UtcMs,
    /// Of jobs that wait for devices alone, by what they ask for.
    alike: BTreeMap<Arc<Request>, Vec<Reason>>,
}

impl<'a> Said<'a> {
    /// Of a plan that starts so many.
    pub fn new(view: &'a ClusterView, starts: usize, now_ms: UtcMs) -> Self {
        Self {
            view,
            inventory: Inventory::new(view),
            free: Shape::free(view),
            starts,
            now_ms,
            alike: BTreeMap::new(),
        }
    }

    /// Why a job waits, the leading reason first. `why`: the engine's.
    pub fn reasons(&mut self, job: &Job, why: &Why) -> Vec<Reason> {
        match why {
            Why::HeldByUser => Reason::of_hold(job).into_iter().collect(),
            Why::StartTime(_) | Why::Dependency(_) => self.turn(job, why),
            Why::RetryBackoff(_) => {
                let reason = Reason::of_backoff(job, self.now_ms);
                vec![reason.unwrap_or(Reason::Rule(why.clone()))]
            }
            Why::AttemptEnds => vec![self.last_attempt(job)],
            Why::GpuTypeMissing
            | Why::InsufficientGpus { .. }
            | Why::Fragmented { .. }
            | Why::CpuOrMemory { .. }
            | Why::NodeDrained { .. }
            | Why::ExcludedNodes { .. }
            | Why::JobsAhead { .. } => self.devices(job, why),
            other => vec![Reason::Rule(other.clone())],
        }
    }

    fn turn(&self, job: &Job, why: &Why) -> Vec<Reason> {
        let turn = NoTurn::of(job, self.now_ms).or_else(|| NoTurn::of_tasks(self.view, job));
        vec![turn.map_or(Reason::Rule(why.clone()), Reason::NoTurn)]
    }

    fn last_attempt(&self, job: &Job) -> Reason {
        if self.view.state.ends_attempt(job.id) {
            return Reason::AttemptEnds;
        }
        if self.view.salvaging.contains(&job.id) {
            return Reason::Salvage;
        }
        self.holder(job).unwrap_or(Reason::AttemptEnds)
    }

    /// What it lacks, from what is free and what is out.
    fn devices(&mut self, job: &Job, why: &Why) -> Vec<Reason> {
        let Some(request) = self.view.state.request(job) else {
            return vec![Reason::Rule(why.clone())];
        };
        if let Why::ExcludedNodes { .. } = why {
            return vec![excluded_reason(job)];
        }
        let plain = job.retries.excluded.is_empty() && job.checkpoints.is_empty();
        if let Some(known) = self.alike.get(request).filter(|_| plain) {
            return led_by(known.clone(), why);
        }
        let (free, starts) = (&self.free, self.starts);
        let mut reasons = self.inventory.why_not(request, free, starts);
        // Nobody starts before it: something else than what is counted here stands in its way.
        let nobody = |one: &Reason| matches!(one, Reason::JobsAhead { jobs: 0 });
        if reasons.iter().any(nobody) {
            reasons = vec![Reason::Rule(why.clone())];
        }
        if plain {
            self.alike.insert(request.clone(), reasons.clone());
        } else if let Some(holder) = self.holder(job) {
            match self.free.fits(request) {
                true => reasons = vec![holder],
                false => reasons.push(holder),
            }
        }
        led_by(reasons, why)
    }

    /// Why no holder of the newest checkpoint takes rank 0, if it has to be one of them.
    fn holder(&self, job: &Job) -> Option<Reason> {
        let state = &self.view.state;
        let Resume::From(newest_first) = resume(state, job) else {
            return None;
        };
        let newest = newest_first.first()?;
        if is_shared(state, job, newest) {
            return None;
        }
        let holders: Vec<&str> = living_holders(state, newest).collect();
        let request = state.request(job)?;
        Some(holder_reason(self.view, request, &newest.name, &holders))
    }
}

/// What the engine says comes first, where it is among them.
fn led_by(mut reasons: Vec<Reason>, why: &Why) -> Vec<Reason> {
    if let Some(place) = reasons.iter().position(|one| one.word() == why.word()) {
        reasons[..=place].rotate_right(1);
    }
    reasons
}

/// Why a job that is not pending waits, if it does.
pub(super) fn held(job: &Job) -> Option<Reason> {
    (job.state == JobState::Held).then(|| Reason::of_hold(job))?
}
