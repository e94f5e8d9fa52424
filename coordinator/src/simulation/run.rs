//! The loop in virtual time: submits, ends, timers, and a plan whenever something changed. A victim stops at once; each restart then holds its devices for a
//! charge without progress. Does NOT decide anything: the planner does.
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::fmt;

use mlctl_proto::ids::{Epoch, JobId};
use mlctl_proto::units::UtcMs;

use super::cluster::{Cluster, Teams};
use super::metrics::{Meter, Record};
use super::trace::Trace;
use super::world::{World, id_of, place_of};
use crate::scheduler::plan::{GangStart, Preemption, Proposal};
use crate::state::view::jobs::Footing;
use crate::state::view::policy::SchedSettings;
use crate::state::view::scene::Scene;

/// Plans at one instant before the planner is said to go round in circles.
const ROUNDS_MAX: u32 = 1_000;
/// A beneficiary that is evicted within this time of its start was preempted for in vain, milliseconds.
const IN_VAIN_MS: i64 = 10 * 60_000;

/// How a simulation runs; nothing of it is the scheduler's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// How long a restarted job holds its devices without progress, milliseconds.
    pub charge_ms: u64,
    /// How far back histories look, milliseconds; 0: planners know of no ended job.
    pub history_ms: u64,
    /// Ends that histories keep of each owner and width.
    pub history_most: usize,
    /// Who shares the cluster.
    pub teams: Teams,
    /// A pass after each so many milliseconds without an event, which must find nothing new; `None`: none is made.
    pub safety_ms: Option<u64>,
    /// Ends the run at this instant, before its events.
    pub until_ms: Option<UtcMs>,
    /// Keeps a digest of each plan.
    pub record_plans: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            charge_ms: 60_000,
            history_ms: 30 * 24 * 3_600_000,
            history_most: 300,
            teams: Teams::One,
            safety_ms: None,
            until_ms: None,
            record_plans: false,
        }
    }
}

/// What came out of a run.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    /// Of each job, in the order of the trace.
    pub records: Vec<Record>,
    /// What was measured on the way.
    pub meter: Meter,
    /// Instants of plans, each with the digest of all plans up to it.
    pub plans: Vec<(UtcMs, [u8; 32])>,
    /// Progress of jobs that have not ended, milliseconds, if the run ended before them.
    pub unended_ms: BTreeMap<JobId, u64>,
}

/// Why a run cannot go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SimulationError {
    /// The planner proposed what the cluster cannot do.
    BadPlan {
        /// When.
        at_ms: UtcMs,
        /// About which job.
        job: JobId,
        /// What is wrong.
        what: String,
    },
    /// The planner proposes for ever at one instant.
    Circles {
        /// When.
        at_ms: UtcMs,
    },
    /// A pass between events found what the pass before it had not announced.
    MissedTrigger {
        /// When.
        at_ms: UtcMs,
        /// Starts and preemptions that it found.
        found: usize,
    },
    /// Nothing runs, nothing will be submitted, and jobs wait.
    Stuck {
        /// When.
        at_ms: UtcMs,
        /// The first that waits.
        job: JobId,
        /// How many wait.
        waiting: usize,
    },
}

impl fmt::Display for SimulationError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadPlan { at_ms, job, what } => {
                write!(
                    f,
                    "at {at_ms} ms the planner proposed for job {job} what the cluster cannot do: {what}"
                )
            }
            Self::Circles { at_ms } => {
                write!(
                    f,
                    "at {at_ms} ms the planner goes round in circles: it proposed {ROUNDS_MAX} times in a row"
                )
            }
            Self::MissedTrigger { at_ms, found } => write!(
                f,
                "at {at_ms} ms, without an event and before the time that the planner had named, it found {found} starts or preemptions"
            ),
            Self::Stuck {
                at_ms,
                job,
                waiting,
            } => write!(
                f,
                "at {at_ms} ms nothing runs and {waiting} jobs wait that never start, the first is job {job} of the trace: does the cluster have enough GPUs on one node for it?"
            ),
        }
    }
}

impl std::error::Error for SimulationError {}

/// Replays a trace on a cluster. The planner sees the scene and the time, nothing else.
///
/// # Errors
/// The planner proposed what cannot be, found without an event what it had not announced, or let jobs wait for ever.
pub fn simulate<R: fmt::Debug>(
    trace: &Trace,
    cluster: &Cluster,
    settings: &SchedSettings,
    options: &Options,
    planner: impl FnMut(&Scene, UtcMs) -> Proposal<R>,
) -> Result<Outcome, SimulationError> {
    let mut run = Run {
        trace,
        options,
        world: World::new(trace, cluster, settings, options),
        planner,
        now: 0,
        submitted: 0,
        ends: BinaryHeap::new(),
        timer: None,
        benefits: BTreeMap::new(),
        digest: blake3::Hasher::new(),
        outcome: Outcome {
            records: trace
                .pairs()
                .map(|(job, length_ms)| Record::new(job, length_ms))
                .collect(),
            meter: Meter::new(cluster.units()),
            ..Outcome::default()
        },
    };
    run.go()?;
    run.finish();
    Ok(run.outcome)
}

struct Run<'a, P> {
    trace: &'a Trace,
    options: &'a Options,
    world: World<'a>,
    planner: P,
    now: UtcMs,
    /// How many jobs were submitted.
    submitted: usize,
    ends: BinaryHeap<Reverse<(UtcMs, Epoch, JobId)>>,
    timer: Option<UtcMs>,
    /// Since when jobs run that others were preempted for.
    benefits: BTreeMap<JobId, UtcMs>,
    digest: blake3::Hasher,
    outcome: Outcome,
}

impl<P> Run<'_, P> {
    fn go<R: fmt::Debug>(&mut self) -> Result<(), SimulationError>
    where
        P: FnMut(&Scene, UtcMs) -> Proposal<R>,
    {
        while let Some(next) = self.next_event()? {
            if self.options.until_ms.is_some_and(|until| next >= until) {
                break;
            }
            self.check_between(next)?;
            self.advance(next);
            self.happen();
            self.world.count_usage(self.now);
            self.plan()?;
        }
        Ok(())
    }

    /// When something happens next; `None`: all jobs have ended.
    fn next_event(&mut self) -> Result<Option<UtcMs>, SimulationError> {
        while let Some(Reverse((_, epoch, job))) = self.ends.peek()
            && self.world.epoch_of(*job) != Some(*epoch)
        {
            self.ends.pop();
        }
        let submit = self.trace.jobs.get(self.submitted).map(|job| job.submit_ms);
        let end = self.ends.peek().map(|Reverse((at, _, _))| *at);
        let timer = self.timer.filter(|_| !self.world.scene.waiting.is_empty());
        let waiting = self.world.scene.waiting.len();
        match self.world.scene.waiting.get_min() {
            // Timers alone must not keep a run alive in which nothing can start.
            Some((key, _)) if submit.is_none() && end.is_none() => {
                let far = self.now.saturating_add(30 * 24 * 3_600_000);
                let stuck = SimulationError::Stuck {
                    at_ms: self.now,
                    job: key.1,
                    waiting,
                };
                timer.filter(|at| *at < far).map(Some).ok_or(stuck)
            }
            _ => Ok([submit, end, timer].into_iter().flatten().min()),
        }
    }

    fn advance(&mut self, to: UtcMs) {
        let to = to.max(self.now);
        self.outcome
            .meter
            .pass(to.saturating_sub(self.now), &self.world);
        self.now = to;
    }

    /// Ends come before submits: what they free is there for those.
    fn happen(&mut self) {
        while let Some(Reverse((at, epoch, job))) = self.ends.peek().copied()
            && at <= self.now
        {
            self.ends.pop();
            if self.world.epoch_of(job) == Some(epoch) {
                self.world.end(job, self.now);
                self.benefits.remove(&job);
                if let Some(record) = self.outcome.records.get_mut(place_of(job)) {
                    record.end_ms = Some(self.now);
                }
            }
        }
        while let Some(job) = self.trace.jobs.get(self.submitted)
            && job.submit_ms <= self.now
        {
            self.world.wait(id_of(self.submitted), self.now);
            self.submitted = self.submitted.saturating_add(1);
        }
    }

    /// Plans until what was evicted has found its place.
    fn plan<R: fmt::Debug>(&mut self) -> Result<(), SimulationError>
    where
        P: FnMut(&Scene, UtcMs) -> Proposal<R>,
    {
        for _ in 0..ROUNDS_MAX {
            let proposal = (self.planner)(&self.world.scene, self.now);
            self.outcome.meter.passes = self.outcome.meter.passes.saturating_add(1);
            if self.options.record_plans {
                self.record(&proposal);
            }
            let again = proposal.next.is_some_and(|next| next <= self.now);
            let again = again || !proposal.preemptions.is_empty();
            self.timer = proposal.next;
            self.apply(proposal)?;
            if !again {
                return Ok(());
            }
        }
        Err(SimulationError::Circles { at_ms: self.now })
    }

    fn record<R: fmt::Debug>(&mut self, proposal: &Proposal<R>) {
        self.digest
            .update(format!("{} {proposal:?}\n", self.now).as_bytes());
        self.outcome
            .plans
            .push((self.now, *self.digest.finalize().as_bytes()));
    }

    fn apply<R>(&mut self, proposal: Proposal<R>) -> Result<(), SimulationError> {
        for start in &proposal.starts {
            self.start(start)?;
        }
        for preemption in &proposal.preemptions {
            self.preempt(preemption)?;
        }
        self.world.scene.reservations = (proposal.reservations.into_iter())
            .map(|one| (one.job, std::sync::Arc::new(one)))
            .collect();
        Ok(())
    }

    fn start(&mut self, start: &GangStart) -> Result<(), SimulationError> {
        let (end, epoch) = self.world.start(start, self.now)?;
        self.ends.push(Reverse((end, epoch, start.job)));
        if let Some(record) = self.outcome.records.get_mut(place_of(start.job)) {
            record.first_start_ms.get_or_insert(self.now);
        }
        Ok(())
    }

    fn preempt(&mut self, preemption: &Preemption) -> Result<(), SimulationError> {
        for victim in &preemption.victims {
            self.world.evict(victim.job, victim.epoch, self.now)?;
            let in_vain = self.benefits.remove(&victim.job);
            let in_vain = in_vain.is_some_and(|at| self.now.saturating_sub(at) < IN_VAIN_MS);
            self.outcome.meter.evicted(victim.why, in_vain);
            if let Some(record) = self.outcome.records.get_mut(place_of(victim.job)) {
                record.evictions = record.evictions.saturating_add(1);
            }
        }
        self.benefits.insert(preemption.job, self.now);
        self.start(&GangStart {
            job: preemption.job,
            seats: preemption.seats.clone(),
            charges: preemption.charges.clone(),
            footing: Footing::Regular,
            surplus: 0,
            tasks: None,
        })
    }

    /// A pass right after an event's last one, and passes until the next event, find nothing that was not announced.
    fn check_between<R>(&mut self, next: UtcMs) -> Result<(), SimulationError>
    where
        P: FnMut(&Scene, UtcMs) -> Proposal<R>,
    {
        let Some(step) = self
            .options
            .safety_ms
            .and_then(|step| i64::try_from(step).ok())
        else {
            return Ok(());
        };
        let mut at = self.now;
        while at < next && !self.world.scene.waiting.is_empty() {
            let proposal = (self.planner)(&self.world.scene, at);
            let found = proposal
                .starts
                .len()
                .saturating_add(proposal.preemptions.len());
            if found > 0 {
                return Err(SimulationError::MissedTrigger { at_ms: at, found });
            }
            at = at.saturating_add(step.max(1));
        }
        Ok(())
    }

    fn finish(&mut self) {
        let jobs = (0..self.submitted).map(id_of);
        let unended = jobs.filter(|job| {
            self.outcome
                .records
                .get(place_of(*job))
                .is_some_and(|one| one.end_ms.is_none())
        });
        let until = self.options.until_ms.unwrap_or(self.now);
        self.outcome.unended_ms = unended
            .map(|job| (job, self.world.progress_by(job, until)))
            .collect();
    }
}
