//! Finding a place for a job that may start, and starting it: without delaying what was promised, unless as a guest on an estimate (docs/SCHEDULING.md, Reservations), as wide as fits
//! (docs/SCHEDULING.md, Placement), arrays node by node (docs/SCHEDULING.md, Arrays). Does NOT decide whose turn it is.
use std::sync::Arc;

use mlctl_proto::units::UtcMs;

use super::book::Standing;
use super::decide::NoPlace;
use super::estimate;
use super::pass::{Job, Pass, STARTS_MAX};
use super::runs::{self, Source};
use super::targets::Target;
use crate::scheduler::place::{Choice, Terms};
use crate::scheduler::plan::GangStart;
use crate::state::view::amounts::Amounts;
use crate::state::view::ask::{Ask, Gpus, Width};
use crate::state::view::jobs::{Footing, Seat, Tasks};

/// How often nodes that were promised to others are avoided one by one, before all are.
const TRIES: usize = 4;
/// Nodes on which tasks of one array start in one pass at most: others' turn comes too.
const WAVES_MAX: u32 = 64;
/// Tasks without GPUs on one node at most.
const TASKS_MAX: u32 = 64;

impl<'a> Pass<'a> {
    /// A place for a job on so many nodes of a target, and how it would run there.
    pub(super) fn place(
        &mut self,
        at: usize,
        target: usize,
        nodes: u32,
    ) -> Result<(Choice, Footing), NoPlace> {
        let job = self.jobs[at];
        let hard = estimate::after(self.now, self.asker(&job).protected);
        let first = self.first_place(&job, target, nodes, hard)?;
        let soonest = self.promises.all.iter().map(|one| one.start).min();
        if soonest.is_none_or(|start| start >= hard) {
            return Ok((first, Footing::Regular));
        }
        self.place_beside_promises(&job, target, nodes, first, hard)
    }

    /// A place that is free now, whatever was promised to whom.
    fn first_place(
        &mut self,
        job: &Job<'a>,
        target: usize,
        nodes: u32,
        hard: UtcMs,
    ) -> Result<Choice, NoPlace> {
        let nothing = self.nothing_free.get(target);
        if nothing.is_some_and(|all| all.contains(&(job.terms, nodes))) {
            return Err(NoPlace::Devices);
        }
        let Some(first) = self.find_first(job, target, nodes, hard) else {
            if self.nothing_free.len() <= target {
                self.nothing_free.resize(target + 1, Vec::new());
            }
            self.nothing_free[target].push((job.terms, nodes));
            return Err(NoPlace::Devices);
        };
        self.charged(job, target, nodes, first)
    }

    /// The first place if it breaks no promise, else one that breaks none, else one as a guest.
    fn place_beside_promises(
        &mut self,
        job: &Job<'a>,
        target: usize,
        nodes: u32,
        first: Choice,
        hard: UtcMs,
    ) -> Result<(Choice, Footing), NoPlace> {
        let charges = self.numbers(&first);
        let inside = self.book.legal(job.team, &charges, &self.kinds) == Ok(Standing::Inside);
        let over = self.over_quota(job, &charges, hard, inside);
        let broken = self.broken(job, target, &first, hard);
        let Some(promise) = over.or(broken) else {
            return Ok((first, Footing::Regular));
        };
        let soft = self.guest_end(job, target, nodes).filter(|end| *end < hard);
        let urgency = (job.waiting.class as u8) * 2 + u8::from(job.turn.is_aged());
        let key = (target, job.terms, nodes, urgency);
        // Its own promise binds others, not itself: what failed for them says nothing about it.
        let others = |id| self.promises.all.iter().all(|one| one.job != id);
        let alike = over.is_none() && others(job.waiting.id);
        let failed = self.no_place.get(&key);
        if alike && failed.is_some_and(|failed| *failed <= soft.unwrap_or(hard)) {
            return Err(NoPlace::Promise(promise.0, promise.1));
        }
        if over.is_none()
            && let Ok(choice) = self.beside(job, target, nodes, first.clone(), hard)
        {
            return Ok((choice, Footing::Regular));
        }
        if let Some(soft) =
            soft.filter(|soft| self.over_quota(job, &charges, *soft, inside).is_none())
            && let Ok(choice) = self.beside(job, target, nodes, first, soft)
        {
            let due = self
                .broken(job, target, &choice, hard)
                .map_or(promise.1, |(_, start)| start.min(promise.1));
            self.mark("guest let in");
            return Ok((choice, Footing::Guest(due)));
        }
        if alike {
            self.no_place.insert(key, soft.unwrap_or(hard));
        }
        Err(NoPlace::Promise(promise.0, promise.1))
    }

    /// When it ends by estimate, if it may be a guest: it has no limit that is enforced, and was not taken as a guest before (docs/SCHEDULING.md, Overtime and guests).
    fn guest_end(&self, job: &Job<'a>, target: usize, nodes: u32) -> Option<UtcMs> {
        let job = job.waiting;
        let may = job.limit_ms.is_none()
            && !job.interactive
            && !job.was_guest_taken
            && !self.promises.all.is_empty();
        may.then(|| {
            let units = self.asks.targets[target].ask.units(nodes);
            estimate::after(self.now, estimate::waiting(self.scene, job, units))
        })
    }

    /// The best place of all. For jobs with the same conditions it is the same, as long as nothing starts.
    fn find_first(
        &mut self,
        job: &Job<'a>,
        target: usize,
        nodes: u32,
        hard: UtcMs,
    ) -> Option<Choice> {
        let moment = (self.out.starts.len(), self.out.preemptions.len());
        let key = (target, job.terms, nodes);
        if let Some((since, choice)) = self.best_free.get(&key)
            && *since == moment
        {
            return Some(choice.clone());
        }
        let found = self.find(job, target, nodes, hard, &[])?;
        if job.terms != u32::MAX {
            self.best_free.insert(key, (moment, found.clone()));
        }
        Some(found)
    }

    fn find(
        &self,
        job: &Job<'a>,
        target: usize,
        nodes: u32,
        hard: UtcMs,
        avoid: &[Arc<str>],
    ) -> Option<Choice> {
        let all: Vec<Arc<str>>;
        let avoid = if avoid.is_empty() {
            &job.waiting.avoid
        } else {
            all = job.waiting.avoid.iter().chain(avoid).cloned().collect();
            &all
        };
        let terms = Terms {
            avoid,
            ..self.terms(job, hard)
        };
        self.capacity
            .find(&self.asks.targets[target].ask, nodes, &terms)
    }

    /// Under which conditions it seeks a place until then.
    pub(super) fn terms(&self, job: &Job<'a>, hard: UtcMs) -> Terms<'a> {
        let job = job.waiting;
        Terms {
            team: &job.team,
            user: &job.user,
            preemptible: job.preemptible,
            rank_0: &job.rank_0,
            avoid: &job.avoid,
            span: (self.now, hard),
        }
    }

    /// A place that counts as what was asked of the quota; else the quota is asked again.
    fn charged(
        &mut self,
        job: &Job<'a>,
        target: usize,
        nodes: u32,
        choice: Choice,
    ) -> Result<Choice, NoPlace> {
        let charges = self.numbers(&choice);
        let as_asked = match (self.asks.targets[target].flavor, charges.as_slice()) {
            (Some(flavor), [(found, units)]) => {
                flavor == *found && *units == self.asks.targets[target].ask.units(nodes)
            }
            (None, []) => true,
            _ => false,
        };
        if !as_asked {
            self.book
                .legal(job.team, &charges, &self.kinds)
                .map_err(NoPlace::Quota)?;
        }
        Ok(choice)
    }

    /// The charges of a place, by number of flavor.
    pub(super) fn numbers(&self, choice: &Choice) -> Vec<(u32, u64)> {
        let number = |flavor| self.kinds.flavor_number(flavor);
        choice
            .charges
            .iter()
            .filter_map(|(flavor, units)| Some((number(flavor)?, *units)))
            .collect()
    }

    /// The first promise that a place would break, if it were taken until `end`.
    fn broken(
        &self,
        job: &Job<'a>,
        target: usize,
        choice: &Choice,
        end: UtcMs,
    ) -> Option<(mlctl_proto::ids::JobId, UtcMs)> {
        let (ahead, asker) = (self.ahead(), self.asker(job));
        let ask = &self.asks.targets[target].ask;
        let places = choice.nodes.iter().zip(&choice.seats);
        let broken =
            places.filter_map(|(node, seat)| ahead.breaks(*node, &seat.devices, ask, end, &asker));
        broken
            .map(|promise| (promise.job, promise.start))
            .min_by_key(|(job, start)| (*start, *job))
    }

    /// A place that breaks no promise, if it is taken until `end`.
    fn beside(
        &self,
        job: &Job<'a>,
        target: usize,
        nodes: u32,
        first: Choice,
        end: UtcMs,
    ) -> Result<Choice, ()> {
        let mut choice = first;
        let mut avoid: Vec<Arc<str>> = Vec::new();
        let hard = estimate::after(self.now, self.asker(job).protected);
        for attempt in 0..=TRIES {
            let before = avoid.len();
            {
                let (ahead, asker) = (self.ahead(), self.asker(job));
                let ask = &self.asks.targets[target].ask;
                let places = choice.nodes.iter().zip(&choice.seats);
                for (node, seat) in places {
                    if ahead
                        .breaks(*node, &seat.devices, ask, end, &asker)
                        .is_some()
                    {
                        avoid.push(seat.node.clone());
                    }
                }
                if avoid.len() > before && attempt + 1 == TRIES {
                    let promised = self
                        .promises
                        .all
                        .iter()
                        .filter(|one| one.start < end && !one.yields(&asker));
                    avoid.extend(promised.flat_map(|one| {
                        one.nodes
                            .iter()
                            .map(|node| self.nodes[*node as usize].name.clone())
                    }));
                }
            }
            if avoid.len() == before {
                return Ok(choice);
            }
            choice = self.find(job, target, nodes, hard, &avoid).ok_or(())?;
        }
        Err(())
    }

    /// Starts a job at a place; an array on as many nodes as there is room.
    pub(super) fn start(&mut self, at: usize, target: usize, choice: Choice, footing: Footing) {
        let job = self.jobs[at];
        match job.waiting.tasks {
            Some(tasks) => self.start_array(at, target, choice, footing, tasks),
            None => {
                let choice = self.widest(at, target, choice, footing);
                self.commit(at, target, choice, footing, None);
            }
        }
    }

    /// The widest place that borrows no more than the narrowest, and delays nobody (docs/SCHEDULING.md, Placement).
    fn widest(&mut self, at: usize, target: usize, choice: Choice, footing: Footing) -> Choice {
        let job = self.jobs[at];
        let Width::Elastic(allowed) = &job.waiting.ask.nodes else {
            return choice;
        };
        let least = job.waiting.ask.nodes.least();
        if footing != Footing::Regular {
            return choice;
        }
        for nodes in allowed.iter().rev().copied().filter(|nodes| *nodes > least) {
            let units = job.waiting.ask.units(nodes);
            let charge = self.asks.targets[target]
                .flavor
                .map(|flavor| (flavor, units));
            let inside =
                self.book.legal(job.team, charge.as_slice(), &self.kinds) == Ok(Standing::Inside);
            if !inside || !self.may_have(&job, target, units) {
                continue;
            }
            if let Ok((wide, Footing::Regular)) = self.place(at, target, nodes) {
                return wide;
            }
        }
        choice
    }

    /// It is decided: everything that the rest of the pass looks at knows.
    pub(super) fn commit(
        &mut self,
        at: usize,
        target: usize,
        choice: Choice,
        footing: Footing,
        tasks: Option<u32>,
    ) {
        let job = self.jobs[at];
        let ask = self.asks.targets[target].ask.clone();
        self.capacity.take(&ask, &choice);
        self.soon.take(&ask, &choice);
        let charges = self.numbers(&choice);
        let more = self
            .out
            .starts
            .last()
            .is_some_and(|last| last.job == job.waiting.id);
        let first = !more && job.waiting.tasks.is_none_or(|tasks| tasks.running == 0);
        self.book
            .start(job.waiting, job.team, &charges, &self.kinds, first);
        let parts = self.parts(&choice.seats);
        for part in &parts {
            self.grid.take(part.node as usize, &part.devices, &ask);
        }
        let nodes = u32::try_from(choice.seats.len()).unwrap_or(u32::MAX);
        let place = self.out.starts.len();
        let mut run = runs::start(
            self.scene,
            Source::Start(place),
            &job,
            parts,
            charges.clone(),
            self.now,
            footing,
        );
        run.ask = ask;
        let end = run.takeable.map_or(run.end, |at| run.end.max(at));
        self.add_run(run);
        self.count_in_promises(job.team, &charges, end);
        self.forget_promise(job.waiting.id, &choice.nodes);
        if job.turn.is_aged() {
            self.mark("aged job first");
        }
        for (flavor, _) in self.runs[self.runs.len() - 1].charges.iter() {
            self.tables.mark_stale(*flavor);
        }
        self.out.starts.push(GangStart {
            job: job.waiting.id,
            seats: choice.seats,
            charges: choice.charges,
            footing,
            surplus: if tasks.is_some() {
                0
            } else {
                nodes.saturating_sub(job.waiting.ask.nodes.least())
            },
            tasks,
        });
    }

    /// Tasks of an array, one node after the other, each with as many as fit there.
    fn start_array(
        &mut self,
        at: usize,
        target: usize,
        choice: Choice,
        footing: Footing,
        tasks: Tasks,
    ) {
        let at_once = tasks
            .at_once
            .unwrap_or(u32::MAX)
            .saturating_sub(tasks.running);
        let mut left = tasks.waiting.min(at_once);
        let mut one = Some((choice, footing));
        for _ in 0..WAVES_MAX {
            let Some((choice, footing)) = one.take() else {
                return;
            };
            let (choice, footing, slots) = self.slots(at, target, choice, footing, left);
            self.commit(at, target, choice, footing, Some(slots));
            left = left.saturating_sub(slots);
            if left == 0 || self.out.starts.len() >= STARTS_MAX {
                return;
            }
            let job = self.jobs[at];
            let least = job.waiting.ask.nodes.least();
            let may = self.may_have(&job, target, job.waiting.ask.units(least));
            one = if may {
                self.place(at, target, least).ok()
            } else {
                None
            };
        }
        // The rest goes on in a pass of its own.
        self.full |= left > 0;
    }

    /// Whether quotas and budgets allow so many units of a target.
    fn may_have(&mut self, job: &Job<'a>, target: usize, units: u64) -> bool {
        let charge = self.asks.targets[target]
            .flavor
            .map(|flavor| (flavor, units));
        let legal = self
            .book
            .legal(job.team, charge.as_slice(), &self.kinds)
            .is_ok();
        legal
            && self
                .book
                .budget(job.waiting, job.team, charge.as_slice(), &self.kinds)
                .is_none()
    }

    /// The most tasks on one node, each with a seat of its own; or the place that was found for one.
    fn slots(
        &mut self,
        at: usize,
        target: usize,
        choice: Choice,
        footing: Footing,
        left: u32,
    ) -> (Choice, Footing, u32) {
        let job = self.jobs[at];
        let each = match job.waiting.ask.gpus {
            _ if job.waiting.ask.nodes.least() != 1 => 0,
            Gpus::Share(_) => 0,
            Gpus::None => TASKS_MAX,
            Gpus::Whole(count) | Gpus::Mig { count, .. } => {
                let devices = self
                    .nodes
                    .iter()
                    .map(|node| node.devices.len())
                    .max()
                    .unwrap_or(1);
                u32::try_from(devices).unwrap_or(1) / count.max(1)
            }
        };
        let mut slots = each.min(left);
        while slots > 1 {
            let scaled = self.scaled(target, slots);
            if self.may_have(&job, target, self.asks.targets[scaled].ask.units(1))
                && let Ok((choice, footing)) = self.place(at, scaled, 1)
            {
                return (split(choice, slots), footing, slots);
            }
            slots /= 2;
        }
        (choice, footing, 1)
    }

    /// The target for so many tasks on one node.
    fn scaled(&mut self, target: usize, slots: u32) -> usize {
        if let Some(known) = self.asks.scaled.get(&(target, slots)) {
            return *known;
        }
        let one = &self.asks.targets[target];
        let many = |value: u64| value.saturating_mul(u64::from(slots));
        let gpus = match one.ask.gpus {
            Gpus::Whole(count) => Gpus::Whole(count.saturating_mul(slots)),
            Gpus::Mig { count, slices } => Gpus::Mig {
                count: count.saturating_mul(slots),
                slices,
            },
            other => other,
        };
        let amounts = one.ask.amounts.map(|amounts| Amounts {
            cpu_milli: many(amounts.cpu_milli),
            memory: many(amounts.memory),
            disk: many(amounts.disk),
            ranks: many(amounts.ranks),
        });
        let ranks = one.ask.ranks.saturating_mul(slots);
        let ask = Arc::new(Ask {
            gpus,
            amounts,
            ranks,
            ..Ask::clone(&one.ask)
        });
        let scaled = Target {
            ask,
            flavor: one.flavor,
            kinds: one.kinds.clone(),
        };
        let place = self.asks.targets.len();
        self.asks.targets.push(scaled);
        self.asks.scaled.insert((target, slots), place);
        place
    }
}

/// A place on one node as a seat for each of so many tasks.
fn split(choice: Choice, tasks: u32) -> Choice {
    let (Some(seat), Some(node)) = (choice.seats.first(), choice.nodes.first()) else {
        return choice;
    };
    let each = seat.devices.len() / (tasks.max(1) as usize);
    let devices = |task: usize| {
        seat.devices
            .iter()
            .skip(task * each)
            .take(each)
            .copied()
            .collect()
    };
    let seats = (0..tasks as usize)
        .map(|task| Seat {
            node: seat.node.clone(),
            devices: devices(task),
        })
        .collect();
    Choice {
        seats,
        nodes: vec![*node; tasks as usize],
        ..choice
    }
}
