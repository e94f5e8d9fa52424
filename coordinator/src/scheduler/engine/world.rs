//! A small cluster in virtual time for tests: jobs with true lengths that the engine never sees, and apply as simple as can be. Checks at every step what the policy
//! promises: `checks` recounts all from scratch, `overtaking` asks who could have started.
#[path = "world_budgets.rs"]
mod budgets;
#[path = "world_checks.rs"]
mod checks;
#[path = "world_overtaking.rs"]
mod overtaking;

pub use checks::total;

use std::collections::BTreeMap;
use std::sync::Arc;

use mlctl_proto::ids::{Epoch, JobId};

use super::fixtures::running;
use super::grid::whole_units;
use super::{Memo, Why, propose_marked, propose_with};
use crate::scheduler::plan::{Preemption, Proposal, Taken, Victim};
use crate::state::view::amounts::{Amounts, GPU};
use crate::state::view::ask::{Ask, Gpus};
use crate::state::view::jobs::{Footing, Hold, Running, Seat, Tasks, Waiting};
use crate::state::view::nodes::NodeView;
use crate::state::view::scene::Scene;
use crate::state::view::teams::{Flavor, TeamView};

/// A job as the world knows it.
#[derive(Debug, Clone)]
pub struct Truth {
    pub job: Waiting,
    pub length_ms: i64,
    /// It goes on where it was; else it starts again.
    pub saved: bool,
    pub done_ms: i64,
    pub evictions: u32,
}

/// The cluster.
pub struct World {
    pub scene: Scene,
    pub now: i64,
    pub truths: BTreeMap<JobId, Truth>,
    pub epochs: u64,
    pub marks: BTreeMap<&'static str, u64>,
    /// Preemptions since the last arrival or end.
    pub streak: u32,
    pub preemptions: u64,
    pub starts: BTreeMap<JobId, i64>,
    /// True lengths are so many hundredths of what is said: nothing else may depend on that before somebody ends.
    pub stretch: i64,
    /// Somebody has ended.
    pub has_ended: bool,
    /// Between notice and its delivery.
    pub signal_ms: i64,
    notices: BTreeMap<JobId, i64>,
    /// Until when a run is paid for.
    slices: BTreeMap<(JobId, Epoch), i64>,
    next: Option<i64>,
    /// What plans leave to each other.
    memo: Memo,
}

pub fn length_of(run: &Running, truth: &Truth) -> i64 {
    let left = if truth.saved {
        (truth.length_ms - truth.done_ms).max(1)
    } else {
        truth.length_ms
    };
    let limit = run
        .limit_ms
        .map_or(i64::MAX, |limit| i64::try_from(limit).unwrap_or(i64::MAX));
    left.min(limit)
}

impl World {
    pub fn new(scene: Scene) -> Self {
        Self {
            scene,
            now: 0,
            truths: BTreeMap::new(),
            epochs: 0,
            marks: BTreeMap::new(),
            streak: 0,
            preemptions: 0,
            starts: BTreeMap::new(),
            stretch: 100,
            has_ended: false,
            signal_ms: 0,
            notices: BTreeMap::new(),
            slices: BTreeMap::new(),
            next: None,
            memo: Memo::default(),
        }
    }

    pub fn submit(&mut self, mut job: Waiting, length_ms: i64) {
        job.submit_ms = self.now;
        job.eligible_ms = self.now;
        let length_ms = (length_ms * self.stretch / 100).max(1);
        let truth = Truth {
            job: job.clone(),
            length_ms,
            saved: false,
            done_ms: 0,
            evictions: 0,
        };
        self.truths.insert(job.id, truth);
        self.scene
            .waiting
            .insert((job.submit_index, job.id), Arc::new(job));
        self.streak = 0;
    }

    /// What teams hold follows from what runs.
    pub fn recount(&mut self) {
        let mut own: BTreeMap<Arc<str>, BTreeMap<Flavor, u64>> = BTreeMap::new();
        for run in self.scene.running.values() {
            for (flavor, units) in charges(&self.scene, &run.ask.gpus, &run.seats) {
                *own.entry(run.team.clone())
                    .or_default()
                    .entry(flavor)
                    .or_default() += units;
            }
        }
        for (name, team) in self.scene.teams.clone() {
            let mine = own.remove(&name).unwrap_or_default();
            if team.own != mine {
                self.scene.teams.insert(
                    name,
                    Arc::new(TeamView {
                        own: mine,
                        ..(*team).clone()
                    }),
                );
            }
        }
    }

    /// Takes or gives back what seats hold.
    fn seats(&mut self, run: &Running, give: bool) {
        for seat in &run.seats {
            let Some(node) = self.scene.nodes.get(&seat.node) else {
                continue;
            };
            let mut node = NodeView::clone(node);
            let amounts = amounts_of_ask(&run.ask, &node);
            node.free = if give {
                node.free.plus(amounts)
            } else {
                node.free.minus(amounts)
            };
            for device in &seat.devices {
                let one = &mut node.devices[usize::from(*device)];
                let units = match run.ask.gpus {
                    Gpus::Share(units) => units,
                    _ => whole_units(one),
                };
                if give {
                    one.free += units;
                    if one.free == whole_units(one) {
                        one.shared_by = "".into();
                    }
                } else {
                    assert!(
                        one.free >= units,
                        "a device is given twice: {} {device} to {}",
                        seat.node,
                        run.id
                    );
                    one.free -= units;
                    if matches!(run.ask.gpus, Gpus::Share(_)) {
                        one.shared_by = run.user.clone();
                    }
                }
            }
            self.scene.nodes.insert(node.name.clone(), Arc::new(node));
        }
    }

    /// Plans until nothing is left to do now, and applies all.
    pub fn settle(&mut self) -> Proposal<Why> {
        for _ in 0..400 {
            self.recount();
            let (plan, marks, owners) = propose_marked(&self.scene, self.now);
            let again = propose_with(&mut self.memo, &self.scene, self.now);
            assert_eq!(plan, again, "the same scene, another plan");
            for mark in marks {
                *self.marks.entry(mark).or_default() += 1;
            }
            self.check_before(&plan);
            let quiet =
                plan.starts.is_empty() && plan.preemptions.is_empty() && plan.withdrawn.is_empty();
            self.apply(&plan, &owners);
            if quiet {
                self.next = plan.next.filter(|next| *next > self.now);
                self.check_reasons(&plan);
                return plan;
            }
        }
        panic!("plans never come to rest at {}", self.now);
    }

    fn apply(&mut self, plan: &Proposal<Why>, owners: &[JobId]) {
        // What is kept for a job, or was promised to it, or would be taken back from one ahead by it, is not overtaking.
        let promised = self
            .scene
            .holds
            .keys()
            .chain(self.scene.reservations.keys())
            .chain(owners);
        let promised: Vec<JobId> = promised.copied().collect();
        for job in &plan.withdrawn {
            self.withdraw(*job);
        }
        for start in &plan.starts {
            let seats = start.seats.clone();
            self.start(start.job, seats, start.footing, start.surplus, start.tasks);
            self.check_quota(start.job, &start.charges);
        }
        self.check_overtaking(plan, &promised);
        for preemption in &plan.preemptions {
            self.check_preemption(preemption);
            self.preempt(preemption);
        }
        self.scene.reservations.clear();
        for one in &plan.reservations {
            assert!(
                self.scene
                    .reservations
                    .insert(one.job, Arc::new(one.clone()))
                    .is_none(),
                "two for one"
            );
        }
    }

    /// Victims are told, and seats are kept.
    fn preempt(&mut self, preemption: &Preemption) {
        let mut victims = Vec::new();
        for victim in &preemption.victims {
            self.end_for_others(victim);
            victims.push((victim.job, victim.epoch, self.signal_ms == 0));
        }
        let until_ms = self.now + 3 * 3_600_000;
        let hold = Hold {
            job: preemption.job,
            seats: preemption.seats.clone(),
            until_ms,
            victims,
        };
        self.scene.holds.insert(preemption.job, Arc::new(hold));
        self.notices
            .insert(preemption.job, self.now + self.signal_ms);
        self.preemptions += 1;
        self.streak += 1;
    }

    /// One victim has so much time to end.
    fn end_for_others(&mut self, victim: &Victim) {
        let key = (victim.job, victim.epoch);
        let run = self.scene.running.get(&key).expect("victims run").clone();
        assert!(run.ends_by_ms.is_none(), "ended twice: {}", victim.job);
        let ending = self.scene.settings.grace_ms[run.class as usize] + self.scene.settings.kill_ms;
        let by = self.now + i64::try_from(ending).expect("small");
        let told = Running {
            ends_by_ms: Some(by),
            ..(*run).clone()
        };
        self.scene.running.insert(key, Arc::new(told));
        let truth = self.truths.get_mut(&victim.job).expect("known");
        truth.evictions += 1;
        truth.job.evicted_ms.push(self.now);
        if victim.why == Taken::Guest {
            truth.job.was_guest_taken = true;
        }
        let key = (truth.job.submit_index, victim.job);
        if let Some(waits) = self.scene.waiting.get(&key).cloned() {
            let evicted_ms = truth.job.evicted_ms.clone();
            let waits = Waiting {
                evicted_ms,
                ..(*waits).clone()
            };
            self.scene.waiting.insert(key, Arc::new(waits));
        }
    }

    fn withdraw(&mut self, job: JobId) {
        let Some(hold) = self.scene.holds.remove(&job) else {
            panic!("nothing to withdraw for {job}")
        };
        self.notices.remove(&job);
        for (victim, epoch, told) in &hold.victims {
            let key = (*victim, *epoch);
            if let Some(run) = self.scene.running.get(&key).filter(|_| !told).cloned() {
                self.scene.running.insert(
                    key,
                    Arc::new(Running {
                        ends_by_ms: None,
                        ..(*run).clone()
                    }),
                );
            }
        }
    }

    fn start(
        &mut self,
        id: JobId,
        seats: Vec<Seat>,
        footing: Footing,
        surplus: u32,
        tasks: Option<u32>,
    ) {
        let truth = self.truths.get(&id).expect("known").clone();
        let key = (truth.job.submit_index, id);
        let waits = self.scene.waiting.get(&key).expect("it waits").clone();
        assert!(waits.blocked.is_none(), "{id} is blocked");
        self.check_gang(&waits, &seats, tasks);
        self.epochs += 1;
        let mut run = running(&truth.job, self.now, seats, footing, surplus);
        run.epoch = Epoch::new(1, self.epochs);
        self.seats(&run, false);
        match (waits.tasks, tasks) {
            (Some(all), Some(count)) => {
                let tasks = Tasks {
                    waiting: all.waiting - count,
                    running: all.running + count,
                    ..all
                };
                assert!(
                    tasks.at_once.is_none_or(|most| tasks.running <= most),
                    "more tasks at once than allowed"
                );
                self.scene.waiting.remove(&key);
                if tasks.waiting > 0 {
                    self.scene.waiting.insert(
                        key,
                        Arc::new(Waiting {
                            tasks: Some(tasks),
                            ..(*waits).clone()
                        }),
                    );
                }
            }
            _ => {
                self.scene.waiting.remove(&key);
            }
        }
        if let Some(hold) = self.scene.holds.remove(&id) {
            let open = hold
                .victims
                .iter()
                .filter(|(job, epoch, _)| self.scene.running.contains_key(&(*job, *epoch)));
            assert_eq!(open.count(), 0, "{id} starts before its victims have ended");
        }
        self.commit_slice(&run);
        self.starts.entry(id).or_insert(self.now);
        self.scene.running.insert((id, run.epoch), Arc::new(run));
        self.recount();
    }

    /// Time goes on to the next thing that happens.
    pub fn advance(&mut self, most: i64) {
        let ends = self.scene.running.values().map(|run| {
            let truth = &self.truths[&run.id];
            let natural = run.started_ms + length_of(run, truth);
            run.ends_by_ms
                .map_or(natural, |by| by.min(natural.max(self.now + 1)))
        });
        let notices = self.notices.values().copied().filter(|at| *at > self.now);
        let holds = self.scene.holds.values().map(|hold| hold.until_ms);
        let renewal = self.next_renewal();
        let next = ends
            .chain(renewal)
            .chain(notices)
            .chain(holds)
            .chain(self.next)
            .filter(|at| *at > self.now)
            .min();
        self.now = next.unwrap_or(most).min(most);
        for (job, at) in self.notices.clone() {
            if at <= self.now
                && let Some(hold) = self.scene.holds.get(&job).cloned()
            {
                let victims = hold
                    .victims
                    .iter()
                    .map(|(job, epoch, _)| (*job, *epoch, true))
                    .collect();
                self.scene.holds.insert(
                    job,
                    Arc::new(Hold {
                        victims,
                        ..(*hold).clone()
                    }),
                );
            }
        }
        self.end_what_ends();
        self.renew_slices();
    }

    fn end_what_ends(&mut self) {
        let all: Vec<Arc<Running>> = self.scene.running.values().cloned().collect();
        for run in all {
            let truth = &self.truths[&run.id];
            let natural = run.started_ms + length_of(&run, truth);
            if natural <= self.now {
                self.end(&run, true);
            } else if run.ends_by_ms.is_some_and(|by| by <= self.now) {
                self.end(&run, false);
            }
        }
    }

    /// An attempt is over; one that was ended for others waits again.
    pub fn end(&mut self, run: &Running, done: bool) {
        self.seats(run, true);
        self.return_slice(run);
        self.has_ended |= done;
        self.scene.running.remove(&(run.id, run.epoch));
        self.streak = 0;
        let ran = self.now - run.started_ms;
        let truth = self.truths.get_mut(&run.id).expect("known");
        truth.done_ms += ran;
        let key = (truth.job.submit_index, run.id);
        let count = u32::try_from(run.seats.len()).expect("small");
        if let Some(waits) = self.scene.waiting.get(&key).cloned() {
            // An array goes on waiting; its tasks that were ended wait again.
            if let Some(tasks) = waits.tasks {
                let back = if done { 0 } else { count };
                let tasks = Tasks {
                    waiting: tasks.waiting + back,
                    running: tasks.running - count,
                    ..tasks
                };
                self.scene.waiting.insert(
                    key,
                    Arc::new(Waiting {
                        tasks: Some(tasks),
                        ..(*waits).clone()
                    }),
                );
            }
        } else if !done {
            let mut job = truth.job.clone();
            job.eligible_ms = self.now;
            if let Some(tasks) = job.tasks {
                let runs = self
                    .scene
                    .running
                    .values()
                    .filter(|other| other.id == run.id);
                let running = runs
                    .map(|other| u32::try_from(other.seats.len()).expect("small"))
                    .sum();
                job.tasks = Some(Tasks {
                    waiting: count,
                    running,
                    ..tasks
                });
            }
            self.scene.waiting.insert(key, Arc::new(job));
        }
        if done {
            let units = run.ask.gpus.units() * run.seats.len() as u64;
            let key = (run.user.clone(), units);
            let mut all = self
                .scene
                .histories
                .get(&key)
                .map(|all| (**all).clone())
                .unwrap_or_default();
            let ran = u64::try_from(ran).unwrap_or(0);
            all.insert(all.partition_point(|one| *one <= ran), ran);
            self.scene.histories.insert(key, Arc::new(all));
        }
        self.recount();
    }

    pub fn is_idle(&self) -> bool {
        self.scene.running.is_empty() && self.scene.waiting.is_empty()
    }
}

/// What one node gives to an ask beside devices.
pub fn amounts_of_ask(ask: &Ask, node: &NodeView) -> Amounts {
    let all: u64 = node
        .devices
        .iter()
        .map(|one| u64::from(whole_units(one)))
        .sum::<u64>()
        .max(1);
    let part = |has: u64| has * GPU / all * ask.gpus.units() / GPU;
    ask.amounts.unwrap_or(match ask.gpus {
        Gpus::None => Amounts::NONE,
        _ => Amounts {
            cpu_milli: part(node.has.cpu_milli),
            memory: part(node.has.memory),
            disk: part(node.has.disk),
            ranks: 0,
        },
    })
}

/// What seats count as: by the words of docs/QUOTAS.md, Quotas, not by the engine's tables.
pub fn charges(scene: &Scene, gpus: &Gpus, seats: &[Seat]) -> Vec<(Flavor, u64)> {
    let mut found: BTreeMap<Flavor, u64> = BTreeMap::new();
    for seat in seats {
        let Some(node) = scene.nodes.get(&seat.node) else {
            continue;
        };
        for at in &seat.devices {
            let device = &node.devices[usize::from(*at)];
            let named = scene.teams.values().flat_map(|team| team.quotas.keys());
            let fits = named.filter(|one| {
                device.model.contains(&*one.kind)
                    && one.pool.as_ref().is_none_or(|pool| *pool == node.pool)
            });
            let best = fits
                .max_by_key(|one| (one.pool.is_some(), one.kind.len(), (*one).clone()))
                .cloned();
            let flavor = best.unwrap_or(Flavor {
                kind: device.model.clone(),
                pool: None,
            });
            let units = match gpus {
                Gpus::Share(units) => u64::from(*units),
                _ => u64::from(whole_units(device)),
            };
            *found.entry(flavor).or_default() += units;
        }
    }
    found.into_iter().collect()
}
