//! Devices that are kept for jobs for which others are being ended: the job starts there when they are free, or the notice is recalled (docs/SCHEDULING.md, Preemption). Does NOT choose
//! victims.
use std::sync::Arc;

use mlctl_proto::ids::JobId;

use super::decide::NoPlace;
use super::pass::{Job, Outcome, Pass};
use super::runs::{self, Part, Source};
use super::stuck::Stuck;
use super::why::Why;
use crate::scheduler::place::Choice;
use crate::state::view::ask::Ask;
use crate::state::view::jobs::{Footing, Hold, Seat, Waiting};
use crate::state::view::nodes::Open;

impl<'a> Pass<'a> {
    /// All holds of the scene: who is gone loses them, whose devices are free starts, the others keep them.
    pub(super) fn settle_holds(&mut self) {
        if self.scene.holds.is_empty() {
            return;
        }
        let waits: std::collections::BTreeMap<JobId, usize> = self
            .jobs
            .iter()
            .enumerate()
            .map(|(at, job)| (job.waiting.id, at))
            .collect();
        let scene = self.scene;
        let mut kept: Vec<(usize, &'a Hold)> = Vec::new();
        for hold in scene.holds.values() {
            match waits.get(&hold.job) {
                Some(at) if hold.until_ms > self.now => kept.push((*at, hold)),
                _ => self.withdraw(hold.job),
            }
        }
        let mut ready = Vec::new();
        for (at, hold) in kept {
            let open = hold
                .victims
                .iter()
                .any(|(job, epoch, _)| scene.running.contains_key(&(*job, *epoch)));
            let waiting = self.jobs[at].waiting;
            let lost = !goes_there(waiting, hold) || !self.is_clean(hold, &waiting.ask);
            if !open && lost {
                // What it waited for is dirty or lost, or failed it meanwhile: it is planned for again.
                self.withdraw(hold.job);
                continue;
            }
            self.keep(at, hold, open);
            if !open {
                ready.push((at, hold));
            }
        }
        for (at, hold) in ready {
            self.start_held(at, hold);
        }
    }

    fn withdraw(&mut self, job: JobId) {
        self.out.withdrawn.push(job);
        self.mark("withdrawn preemption");
    }

    /// Whether all devices of a hold are there and free.
    fn is_clean(&self, hold: &Hold, ask: &Ask) -> bool {
        let parts = self.parts(&hold.seats);
        parts.len() == hold.seats.len()
            && parts.iter().all(|part| {
                let node = part.node as usize;
                let each = ask.gpus.units().checked_div(part.whole as u64).unwrap_or(0);
                self.nodes[node].open == Open::Now
                    && part.devices.iter().all(|device| {
                        let at = self.grid.at(node, *device);
                        at.is_some_and(|at| u64::from(self.grid.free[at]) >= each)
                    })
            })
    }

    /// Nobody else gets these devices.
    fn keep(&mut self, at: usize, hold: &'a Hold, open: bool) {
        let job = self.jobs[at];
        let parts = self.parts(&hold.seats);
        let charges = runs::charges(&parts, &job.waiting.ask, &self.grid, &self.kinds);
        let from = if open { hold.until_ms } else { self.now };
        self.soon.hold_seats(&job.waiting.ask, &hold.seats);
        self.reserve_seats(&job.waiting.ask, &hold.seats, &parts);
        self.book.promise(job.team, &charges, &self.kinds);
        self.book.commit(job.waiting, job.team, &charges, true);
        self.book.runs(job.team);
        let source = Source::Promise(hold);
        let mut run = runs::start(
            self.scene,
            source,
            &job,
            parts,
            charges,
            from,
            Footing::Regular,
        );
        // It counts as what it holds from now on, though it starts later.
        run.start = self.now;
        self.add_run(run);
        self.held.insert(hold.job);
    }

    /// Nobody else gets these seats: what is free of them is taken now, and what others still hold is passed on when they end. The capacity counts below nothing.
    pub(super) fn reserve_seats(&mut self, ask: &Ask, seats: &[Seat], parts: &[Part]) {
        for part in parts {
            let node = part.node as usize;
            let is_free = |device: &u16| {
                self.grid
                    .at(node, *device)
                    .is_some_and(|at| self.grid.free[at] > 0)
            };
            let (now, later): (Vec<u16>, Vec<u16>) =
                part.devices.iter().partition(|device| is_free(device));
            for run in &self.on_node[node] {
                let run = &mut self.runs[*run as usize];
                let gives = |other: &Part| {
                    let is_there = |device: &u16| later.contains(device);
                    other.node as usize == node && other.devices.iter().any(is_there)
                };
                if !run.parts.iter().any(gives) {
                    continue;
                }
                for other in Arc::make_mut(&mut run.parts)
                    .iter_mut()
                    .filter(|other| other.node as usize == node)
                {
                    other.devices.retain(|device| !later.contains(device));
                }
            }
            self.grid.take_some(node, &now, part.whole, ask);
        }
        self.capacity.hold_seats(ask, seats);
    }

    /// All of its devices are free: it starts there, if quotas and budgets still allow it.
    fn start_held(&mut self, at: usize, hold: &'a Hold) {
        let job = self.jobs[at];
        let place = self
            .runs
            .iter()
            .position(|run| run.job == hold.job && matches!(run.source, Source::Promise(_)));
        let Some(place) = place else { return };
        let charges = self.runs[place].charges.to_vec();
        self.book
            .unpromise(job.waiting, job.team, &charges, &self.kinds);
        let legal = self.book.legal(job.team, &charges, &self.kinds).is_ok();
        if !legal
            || self
                .book
                .budget(job.waiting, job.team, &charges, &self.kinds)
                .is_some()
        {
            self.count_again(&job, &charges);
            return;
        }
        self.book
            .start(job.waiting, job.team, &charges, &self.kinds, true);
        let named = charges.iter().filter_map(|(flavor, units)| {
            Some((self.kinds.flavors.get(*flavor as usize)?.clone(), *units))
        });
        let charges: Vec<_> = named.collect();
        self.runs[place].source = Source::Start(self.out.starts.len());
        self.out.starts.push(crate::scheduler::plan::GangStart {
            job: hold.job,
            seats: hold.seats.clone(),
            charges,
            footing: Footing::Regular,
            surplus: 0,
            tasks: job.waiting.tasks.map(|_| 1),
        });
        self.started.insert(hold.job);
        self.mark("beneficiary started");
    }

    /// What is kept for a job counts again, after it was looked at without.
    fn count_again(&mut self, job: &Job<'a>, charges: &[(u32, u64)]) {
        self.book.promise(job.team, charges, &self.kinds);
        self.book.commit(job.waiting, job.team, charges, true);
        self.book.runs(job.team);
    }

    /// A job for which others are being ended, at its turn: if it fits elsewhere before all of them were told, it goes there.
    pub(super) fn beneficiary(&mut self, at: usize) -> Outcome {
        let job = self.jobs[at];
        let id = job.waiting.id;
        if self.started.contains(&id) {
            return Outcome::Done;
        }
        let Some(hold) = self.scene.holds.get(&id) else {
            return Outcome::Done;
        };
        let told = hold.victims.iter().all(|(_, _, signalled)| *signalled);
        if !told {
            let units = job.waiting.ask.units(job.waiting.ask.nodes.least());
            for target in self.asks.classes[job.ask as usize].targets.clone() {
                let charge = self.asks.targets[target]
                    .flavor
                    .map(|flavor| (flavor, units));
                let legal = self
                    .book
                    .legal(job.team, charge.as_slice(), &self.kinds)
                    .is_ok();
                let found = if legal {
                    self.place(at, target, job.waiting.ask.nodes.least())
                } else {
                    Err(NoPlace::Devices)
                };
                if let Ok((choice, Footing::Regular)) = found
                    && self.go_elsewhere(at, target, choice)
                {
                    return Outcome::Done;
                }
            }
        }
        Outcome::Stuck(Stuck::Said(Why::PreemptingOthers {
            until: hold.until_ms,
        }))
    }

    /// It starts there instead; false: budgets do not cover that.
    fn go_elsewhere(&mut self, at: usize, target: usize, choice: Choice) -> bool {
        let job = self.jobs[at];
        let place = self
            .runs
            .iter()
            .position(|run| run.job == job.waiting.id && matches!(run.source, Source::Promise(_)));
        if let Some(place) = place {
            let charges = self.runs[place].charges.to_vec();
            self.book
                .unpromise(job.waiting, job.team, &charges, &self.kinds);
            if self
                .book
                .budget(job.waiting, job.team, &self.numbers(&choice), &self.kinds)
                .is_some()
            {
                self.count_again(&job, &charges);
                return false;
            }
            self.runs[place].gone = true;
        }
        self.withdraw(job.waiting.id);
        self.commit(
            at,
            target,
            choice,
            Footing::Regular,
            job.waiting.tasks.map(|_| 1),
        );
        // What was kept for it is free only in the state that this leaves behind: all look at it there, in their order.
        self.full = true;
        true
    }
}

/// Whether a job still goes where devices are kept for it: a node may have failed it since, or its checkpoint be elsewhere by now.
fn goes_there(job: &Waiting, hold: &Hold) -> bool {
    let mut seats = hold.seats.iter();
    let near = job.rank_0.is_empty() || seats.any(|seat| job.rank_0.contains(&seat.node));
    near && !hold.seats.iter().any(|seat| job.avoid.contains(&seat.node))
}
