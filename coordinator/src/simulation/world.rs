//! The simulated cluster: the scene that planners see, and how far each job has come. It accepts a start only if everything that it takes is free, as apply
//! would. Does NOT know when things happen: the loop in `run` does.
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mlctl_proto::ids::{Epoch, JobId};
use mlctl_proto::units::UtcMs;

use super::cluster::{Cluster, team_of, teams_of};
use super::estimates::Estimates;
use super::run::{Options, SimulationError};
use super::trace::{Trace, TraceJob};
use super::usage::Usage;
use crate::scheduler::plan::GangStart;
use crate::state::view::amounts::{Amounts, GPU};
use crate::state::view::ask::{Ask, Gpus};
use crate::state::view::jobs::{Class, Running, Seat, Waiting};
use crate::state::view::nodes::NodeView;
use crate::state::view::policy::SchedSettings;
use crate::state::view::scene::Scene;
use crate::state::view::teams::Flavor;

const DAY_MS: i64 = 24 * 3_600_000;

/// How far a job has come.
#[derive(Debug, Clone, Default)]
pub struct Progress {
    /// What it asks for.
    ask: Option<Arc<Ask>>,
    /// Progress that is not lost, milliseconds.
    pub done_ms: u64,
    /// How long its attempts ran, restart charges included, milliseconds.
    pub ran_ms: u64,
    /// How long it waited, milliseconds.
    waited_ms: u64,
    /// Since when it waits, if it does.
    since_ms: UtcMs,
    /// Attempts so far.
    pub attempts: u32,
    /// When others took its devices.
    evicted_ms: Vec<UtcMs>,
    /// The attempt that runs.
    attempt: Option<Attempt>,
}

#[derive(Debug, Clone)]
struct Attempt {
    epoch: Epoch,
    started_ms: UtcMs,
    charge_ms: u64,
    charges: Vec<(Flavor, u64)>,
}

/// All of it.
#[derive(Debug)]
pub struct World<'a> {
    trace: &'a Trace,
    options: &'a Options,
    /// What planners see.
    pub scene: Scene,
    progress: Vec<Progress>,
    asks: BTreeMap<Ask, Arc<Ask>>,
    /// Names of teams and owners, each once.
    names: BTreeSet<Arc<str>>,
    usage: Usage,
    /// The trace names users.
    people: bool,
    estimates: Estimates,
    epochs: u64,
    /// Units held.
    pub held: u64,
    /// Units free on nodes that are partly held.
    pub broken: u64,
}

/// Ids count from 1 in the order of the trace.
pub fn id_of(place: usize) -> JobId {
    JobId::new(1, (place as u64).saturating_add(1))
}

/// The place of a job in the trace.
pub fn place_of(id: JobId) -> usize {
    usize::try_from(id.counter.saturating_sub(1)).unwrap_or(usize::MAX)
}

impl<'a> World<'a> {
    /// Nothing has been submitted.
    pub fn new(
        trace: &'a Trace,
        cluster: &Cluster,
        settings: &SchedSettings,
        options: &'a Options,
    ) -> Self {
        Self {
            trace,
            options,
            scene: cluster.scene(teams_of(trace, options.teams), settings.clone()),
            progress: vec![Progress::default(); trace.jobs.len()],
            asks: BTreeMap::new(),
            names: BTreeSet::new(),
            usage: Usage::default(),
            people: trace.jobs.iter().any(|job| !job.user.is_empty()),
            estimates: Estimates::new(options.history_ms, options.history_most),
            epochs: 0,
            held: 0,
            broken: 0,
        }
    }

    fn job(&self, id: JobId) -> Option<(&'a TraceJob, &Progress)> {
        let place = place_of(id);
        Some((self.trace.jobs.get(place)?, self.progress.get(place)?))
    }

    /// How far a job has come.
    pub fn progress(&self, id: JobId) -> Option<&Progress> {
        self.progress.get(place_of(id))
    }

    /// How much progress a job has made by `now`, milliseconds.
    pub fn progress_by(&self, id: JobId, now: UtcMs) -> u64 {
        let Some((_, progress)) = self.job(id) else {
            return 0;
        };
        progress
            .done_ms
            .saturating_add(progress.attempt.as_ref().map_or(0, |one| one.gain(now)))
    }

    /// Usage as of now, for planners.
    pub fn count_usage(&mut self, now: UtcMs) {
        self.usage.step(&mut self.scene, now, self.people);
    }

    /// A job comes to wait: it was submitted, or evicted.
    pub fn wait(&mut self, id: JobId, now: UtcMs) {
        let place = place_of(id);
        let (Some(job), Some(progress)) =
            (self.trace.jobs.get(place), self.progress.get_mut(place))
        else {
            return;
        };
        progress.since_ms = now;
        let ask = progress.ask.get_or_insert_with(|| {
            let ask = job.ask();
            self.asks
                .entry(ask.clone())
                .or_insert_with(|| Arc::new(ask))
                .clone()
        });
        let names = &mut self.names;
        let mut once = |name: &Arc<str>| match names.get(name) {
            Some(known) => known.clone(),
            None => {
                names.insert(name.clone());
                name.clone()
            }
        };
        let (team, user) = (
            once(&team_of(self.options.teams, &job.vc)),
            once(job.owner()),
        );
        let waited = i64::try_from(progress.waited_ms).unwrap_or(i64::MAX);
        let waiting = Waiting {
            id,
            team,
            user,
            class: Class::Normal,
            submit_ms: job.submit_ms,
            submit_index: id.counter,
            eligible_ms: now.saturating_sub(waited),
            ask: ask.clone(),
            limit_ms: None,
            preemptible: false,
            interactive: false,
            blocked: None,
            tasks: None,
            avoid: Vec::new(),
            rank_0: Vec::new(),
            attained: attained(job.units, progress.ran_ms),
            ran_ms: progress.ran_ms,
            evicted_ms: progress.evicted_ms.clone(),
            no_preempt_until_ms: 0,
            was_guest_taken: false,
        };
        self.scene
            .waiting
            .insert((id.counter, id), Arc::new(waiting));
    }

    /// Starts a gang; when it will have made all its progress if nobody stops it, and its epoch.
    ///
    /// # Errors
    /// It does not wait, or something that it takes is not free.
    pub fn start(
        &mut self,
        start: &GangStart,
        now: UtcMs,
    ) -> Result<(UtcMs, Epoch), SimulationError> {
        let bad = |what: &str| SimulationError::BadPlan {
            at_ms: now,
            job: start.job,
            what: what.to_owned(),
        };
        let key = (start.job.counter, start.job);
        let waiting = self
            .scene
            .waiting
            .get(&key)
            .cloned()
            .ok_or_else(|| bad("it does not wait"))?;
        self.take(&waiting.ask, &start.seats)
            .map_err(|what| bad(&what))?;
        self.scene.waiting.remove(&key);
        self.epochs = self.epochs.saturating_add(1);
        let epoch = Epoch::new(1, self.epochs);
        let place = place_of(start.job);
        let length_ms = self.trace.lengths_ms.get(place).copied().unwrap_or(0);
        let progress = self
            .progress
            .get_mut(place)
            .ok_or_else(|| bad("it is not of this trace"))?;
        let waited = now.saturating_sub(progress.since_ms).unsigned_abs();
        progress.waited_ms = progress.waited_ms.saturating_add(waited);
        let charge_ms = if progress.attempts > 0 {
            self.options.charge_ms
        } else {
            0
        };
        progress.attempts = progress.attempts.saturating_add(1);
        progress.attempt = Some(Attempt {
            epoch,
            started_ms: now,
            charge_ms,
            charges: start.charges.clone(),
        });
        let left_ms = length_ms
            .saturating_sub(progress.done_ms)
            .saturating_add(charge_ms);
        let running = running(&waiting, start, epoch, now, progress.waited_ms);
        self.scene
            .running
            .insert((start.job, epoch), Arc::new(running));
        self.hold(&waiting.team, &waiting.user, &start.charges, now, true);
        Ok((
            now.saturating_add(i64::try_from(left_ms).unwrap_or(i64::MAX)),
            epoch,
        ))
    }

    /// The running attempt of a job.
    pub fn epoch_of(&self, id: JobId) -> Option<Epoch> {
        self.job(id)?.1.attempt.as_ref().map(|one| one.epoch)
    }

    /// A job has made all its progress: it leaves.
    pub fn end(&mut self, id: JobId, now: UtcMs) {
        self.stop(id, now);
        let Some((job, progress)) = self.job(id) else {
            return;
        };
        let (owner, units, ran_ms) = (job.owner().clone(), job.units, progress.ran_ms);
        self.estimates
            .ended((owner, units), now, ran_ms, &mut self.scene.histories);
    }

    /// Others take its devices: it waits again.
    ///
    /// # Errors
    /// It does not run.
    pub fn evict(&mut self, id: JobId, epoch: Epoch, now: UtcMs) -> Result<(), SimulationError> {
        if self.epoch_of(id) != Some(epoch) {
            let what = "it is named as a victim and does not run".to_owned();
            return Err(SimulationError::BadPlan {
                at_ms: now,
                job: id,
                what,
            });
        }
        self.stop(id, now);
        if let Some(progress) = self.progress.get_mut(place_of(id)) {
            progress
                .evicted_ms
                .retain(|at| now.saturating_sub(*at) < DAY_MS);
            progress.evicted_ms.push(now);
        }
        self.wait(id, now);
        Ok(())
    }

    fn stop(&mut self, id: JobId, now: UtcMs) {
        let Some(progress) = self.progress.get_mut(place_of(id)) else {
            return;
        };
        let Some(attempt) = progress.attempt.take() else {
            return;
        };
        let ran = now.saturating_sub(attempt.started_ms).unsigned_abs();
        progress.ran_ms = progress.ran_ms.saturating_add(ran);
        // Without a durable checkpoint the attempt's work is lost; for traces each instant has one.
        if self.scene.settings.always_saved {
            progress.done_ms = progress.done_ms.saturating_add(attempt.gain(now));
        }
        if let Some(running) = self.scene.running.remove(&(id, attempt.epoch)) {
            self.give(&running.ask, &running.seats);
            self.hold(&running.team, &running.user, &attempt.charges, now, false);
        }
    }

    /// What is held of teams' quotas, and counted as their use.
    fn hold(
        &mut self,
        team: &Arc<str>,
        owner: &Arc<str>,
        charges: &[(Flavor, u64)],
        now: UtcMs,
        more: bool,
    ) {
        let units = charges
            .iter()
            .map(|(_, units)| *units)
            .fold(0, u64::saturating_add);
        if more {
            self.usage.start(team, owner, now, units);
        } else {
            self.usage.end(team, owner, now, units);
        }
        let Some(view) = self.scene.teams.get_mut(team) else {
            return;
        };
        let view = Arc::make_mut(view);
        for (flavor, units) in charges {
            let own = view.own.entry(flavor.clone()).or_insert(0);
            *own = if more {
                own.saturating_add(*units)
            } else {
                own.saturating_sub(*units)
            };
        }
    }

    fn take(&mut self, ask: &Ask, seats: &[Seat]) -> Result<(), String> {
        let nodes: BTreeSet<&Arc<str>> = seats.iter().map(|seat| &seat.node).collect();
        if nodes.len() != seats.len() {
            return Err("two of its seats are on one node".to_owned());
        }
        let width = u32::try_from(seats.len()).unwrap_or(u32::MAX);
        if width < ask.nodes.least() || width > ask.nodes.most() {
            return Err(format!("it gets {width} nodes"));
        }
        let each = device_units(ask.gpus);
        let part = ask.amounts.unwrap_or(Amounts::NONE);
        for seat in seats {
            let node = self
                .scene
                .nodes
                .get(&seat.node)
                .ok_or("it is given a node that is not there")?;
            room(node, seat, ask.gpus, each, &part)?;
        }
        for seat in seats {
            self.change(seat, |node| {
                node.free = node.free.minus(part);
                for device in devices(node, seat) {
                    device.free = device.free.saturating_sub(each);
                }
            });
        }
        Ok(())
    }

    fn give(&mut self, ask: &Ask, seats: &[Seat]) {
        let each = device_units(ask.gpus);
        let part = ask.amounts.unwrap_or(Amounts::NONE);
        for seat in seats {
            self.change(seat, |node| {
                node.free = node.free.plus(part);
                for device in devices(node, seat) {
                    device.free = device.free.saturating_add(each);
                }
            });
        }
    }

    fn change(&mut self, seat: &Seat, change: impl FnOnce(&mut NodeView)) {
        let Some(node) = self.scene.nodes.get_mut(&seat.node) else {
            return;
        };
        let node = Arc::make_mut(node);
        let (held, broken) = counts(node);
        change(node);
        let (held_now, broken_now) = counts(node);
        self.held = self.held.saturating_sub(held).saturating_add(held_now);
        self.broken = self
            .broken
            .saturating_sub(broken)
            .saturating_add(broken_now);
    }
}

impl Attempt {
    /// Progress since its start, milliseconds.
    fn gain(&self, now: UtcMs) -> u64 {
        let ran = now.saturating_sub(self.started_ms).unsigned_abs();
        ran.saturating_sub(self.charge_ms)
    }
}

/// The attempt of a job that waited so long, as planners see it.
fn running(
    waiting: &Waiting,
    start: &GangStart,
    epoch: Epoch,
    now: UtcMs,
    waited_ms: u64,
) -> Running {
    Running {
        id: start.job,
        epoch,
        team: waiting.team.clone(),
        user: waiting.user.clone(),
        class: waiting.class,
        ask: waiting.ask.clone(),
        seats: start.seats.clone(),
        submit_index: waiting.submit_index,
        started_ms: now,
        limit_ms: waiting.limit_ms,
        preemptible: waiting.preemptible,
        interactive: waiting.interactive,
        footing: start.footing,
        saved_ms: None,
        ends_by_ms: None,
        surplus: start.surplus,
        attained: waiting.attained,
        ran_ms: waiting.ran_ms,
        waited_ms,
        evicted_ms: waiting.evicted_ms.clone(),
        min_runtime_ms: 0,
    }
}

/// Units held, and units free although the node is partly held.
fn counts(node: &NodeView) -> (u64, u64) {
    let free: u64 = node
        .devices
        .iter()
        .map(|device| u64::from(device.free))
        .sum();
    let held = (node.devices.len() as u64)
        .saturating_mul(GPU)
        .saturating_sub(free);
    (held, if held > 0 { free } else { 0 })
}

fn devices<'n>(
    node: &'n mut NodeView,
    seat: &Seat,
) -> impl Iterator<Item = &'n mut crate::state::view::nodes::DeviceView> {
    let chosen: BTreeSet<usize> = seat.devices.iter().map(|at| usize::from(*at)).collect();
    let all = node.devices.iter_mut().enumerate();
    all.filter(move |(at, _)| chosen.contains(at))
        .map(|(_, device)| device)
}

fn device_units(gpus: Gpus) -> u32 {
    match gpus {
        Gpus::None | Gpus::Mig { .. } => 0,
        Gpus::Whole(_) => u32::try_from(GPU).unwrap_or(u32::MAX),
        Gpus::Share(units) => units,
    }
}

fn room(node: &NodeView, seat: &Seat, gpus: Gpus, each: u32, part: &Amounts) -> Result<(), String> {
    let wanted = match gpus {
        Gpus::None => 0,
        Gpus::Whole(count) | Gpus::Mig { count, .. } => {
            usize::try_from(count).unwrap_or(usize::MAX)
        }
        Gpus::Share(_) => 1,
    };
    let mut chosen = seat.devices.clone();
    chosen.sort_unstable();
    chosen.dedup();
    if chosen.len() != wanted || seat.devices.len() != wanted {
        return Err(format!("it gets {} devices on {}", chosen.len(), node.name));
    }
    for at in chosen {
        let free = node
            .devices
            .get(usize::from(at))
            .map_or(0, |device| device.free);
        if free < each || each == 0 {
            return Err(format!("device {at} of {} is not free", node.name));
        }
    }
    if !node.free.covers(part) {
        return Err(format!("{} has not so much free beside GPUs", node.name));
    }
    Ok(())
}

/// Unit-seconds of so much time.
fn attained(units: u64, ran_ms: u64) -> u64 {
    units.saturating_mul(ran_ms) / 1_000
}
