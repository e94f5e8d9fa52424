//! That nobody starts before a job ahead of it that could have started there: each start is given back, and those ahead of it are asked. Does NOT change the cluster.
use std::collections::BTreeMap;
use std::sync::Arc;

use mlctl_proto::ids::JobId;

use super::{World, charges};
use crate::scheduler::engine::entitlement::{Covers, Holder};
use crate::scheduler::engine::order::{Turn, share};
use crate::scheduler::engine::{Why, estimate};
use crate::scheduler::place::{Capacity, Choice, Terms};
use crate::scheduler::plan::{GangStart, Proposal};
use crate::scheduler::policy::rules;
use crate::state::rules::quota::Ledger;
use crate::state::view::ask::Prefer;
use crate::state::view::jobs::Waiting;
use crate::state::view::teams::Flavor;

/// The cluster after the starts of a plan.
struct After<'w> {
    world: &'w World,
    plan: &'w Proposal<Why>,
    turns: BTreeMap<JobId, Turn>,
    /// As it stands; and once those have ended that are being ended, with what is kept for others.
    ledgers: [Ledger; 2],
    capacity: Capacity,
}

/// The same, as if one of them had not been made.
struct Without<'w> {
    after: &'w After<'w>,
    start: &'w GangStart,
    job: &'w Waiting,
    ledgers: [Ledger; 2],
    free: Capacity,
    /// What it took was its own.
    inside: bool,
}

impl World {
    /// I14: nobody starts before a job ahead of it that could have started there.
    pub(super) fn check_overtaking(&self, plan: &Proposal<Why>, promised: &[JobId]) {
        let after = After::new(self, plan);
        let starts = plan.starts.iter();
        for start in starts.filter(|one| one.tasks.is_none() && !promised.contains(&one.job)) {
            let without = Without::new(&after, start);
            for job in self.scene.waiting.values() {
                assert!(
                    !without.overtakes(job),
                    "{} ({:?}) overtakes {} ({:?}) at {}: {:?}",
                    start.job,
                    after.turns[&start.job],
                    job.id,
                    after.turns[&job.id],
                    self.now,
                    plan.reasons.get(&job.id)
                );
            }
        }
    }

    /// When it is whose turn, of those who wait and those who start.
    fn turns(&self, plan: &Proposal<Why>) -> BTreeMap<JobId, Turn> {
        let settings = &self.scene.settings;
        let policy = rules(settings.policy);
        let shares = share::Shares::new(&self.scene);
        let started = plan.starts.iter().map(|start| &self.truths[&start.job].job);
        let waiting = self.scene.waiting.values().map(|job| &**job);
        let all: Vec<&Waiting> = waiting.chain(started).collect();
        let paths: Vec<Vec<u16>> = all
            .iter()
            .map(|job| shares.path(&self.scene, &job.team, &job.user))
            .collect();
        let mut turns = BTreeMap::new();
        for (job, rank) in all.into_iter().zip(share::ranks(&paths)) {
            let mut turn = Turn::of(policy, settings, job, 0, self.now);
            turn.set_share(rank);
            // Of an array that goes on waiting, as it waits.
            turns.entry(job.id).or_insert(turn);
        }
        turns
    }

    /// What teams hold once those have ended that are being ended, with what is kept for others.
    fn settled(&self, plan: &Proposal<Why>, now: &Ledger) -> Ledger {
        let mut after = now.clone();
        for run in self
            .scene
            .running
            .values()
            .filter(|run| run.ends_by_ms.is_some())
        {
            for (flavor, units) in charges(&self.scene, &run.ask.gpus, &run.seats) {
                after.remove(&run.team, &flavor, units);
            }
        }
        let kept = self
            .scene
            .holds
            .values()
            .map(|hold| (hold.job, &hold.seats));
        for (job, seats) in kept.chain(plan.preemptions.iter().map(|one| (one.job, &one.seats))) {
            let job = &self.truths[&job].job;
            for (flavor, units) in charges(&self.scene, &job.ask.gpus, seats) {
                after.add(&job.team, &flavor, units);
            }
        }
        after
    }

    /// So many jobs of its team run, and are kept devices for, as may.
    fn is_team_full(&self, plan: &Proposal<Why>, job: &Waiting) -> bool {
        let mut runs: Vec<JobId> = self
            .scene
            .running
            .values()
            .filter(|run| run.team == job.team)
            .map(|run| run.id)
            .collect();
        runs.extend(
            self.scene
                .holds
                .keys()
                .filter(|id| self.truths[id].job.team == job.team),
        );
        runs.sort();
        runs.dedup();
        let team = self.scene.teams.get(&job.team);
        let most = team
            .and_then(|team| team.max_running)
            .map_or(usize::MAX, |most| most as usize);
        runs.len() + plan.preemptions.len() >= most
    }

    /// One ahead that is less entitled than one behind does not start for nothing: its devices would be taken back at once.
    fn would_be_taken_back(
        &self,
        ahead: &Waiting,
        owner: &Waiting,
        charges: &[(Flavor, u64)],
    ) -> bool {
        let ledger = Ledger::new(self.scene.teams.values().map(|team| &**team));
        let units = ahead.ask.units(ahead.ask.nodes.least());
        charges.iter().any(|(flavor, _)| {
            let column = ledger.column_of(flavor);
            let (holders, names) = self.holders(flavor);
            let all = Covers::new(&ledger, column, &holders);
            let mine = names
                .iter()
                .position(|(id, _)| *id == owner.id)
                .map(|at| all.of(at, owner.class));
            let rest: Vec<Holder> = holders
                .iter()
                .zip(&names)
                .filter(|(_, (id, _))| *id != owner.id)
                .map(|(holder, _)| *holder)
                .collect();
            let theirs = Covers::new(&ledger, column, &rest).of_new(
                &ledger,
                ledger.team(&ahead.team),
                ahead.class,
                units,
            );
            mine.is_some_and(|mine| theirs < mine)
        })
    }
}

impl<'w> After<'w> {
    fn new(world: &'w World, plan: &'w Proposal<Why>) -> Self {
        let now = Ledger::new(world.scene.teams.values().map(|team| &**team));
        let settled = world.settled(plan, &now);
        let mut capacity = Capacity::new(&world.scene);
        let kept = world.scene.holds.values();
        let kept = kept.map(|hold| (hold.job, &hold.seats));
        for (job, seats) in kept.chain(plan.preemptions.iter().map(|one| (one.job, &one.seats))) {
            capacity.hold_seats(&world.truths[&job].job.ask, seats);
        }
        Self {
            world,
            plan,
            turns: world.turns(plan),
            ledgers: [now, settled],
            capacity,
        }
    }
}

impl<'w> Without<'w> {
    fn new(after: &'w After<'w>, start: &'w GangStart) -> Self {
        let job = &after.world.truths[&start.job].job;
        let mut ledgers = after.ledgers.clone();
        for ledger in &mut ledgers {
            for (flavor, units) in &start.charges {
                ledger.remove(&job.team, flavor, *units);
            }
        }
        let mut free = after.capacity.clone();
        free.release_seats(&job.ask, &start.seats);
        let inside = is_inside(&ledgers[0], job, &start.charges);
        Self {
            after,
            start,
            job,
            ledgers,
            free,
            inside,
        }
    }

    /// Whether a job is ahead of the start, could have started there, and nothing says why it did not.
    fn overtakes(&self, job: &Waiting) -> bool {
        if !self.is_ahead(job) {
            return false;
        }
        let Some(choice) = self.place_for(job) else {
            return false;
        };
        let (charges, world) = (&choice.charges, self.after.world);
        let legal = self.ledgers.iter().all(|ledger| {
            charges
                .iter()
                .all(|(flavor, units)| ledger.legal(&job.team, flavor, *units).is_ok())
        });
        let there = choice.nodes.iter().any(|node| {
            self.start
                .seats
                .iter()
                .any(|seat| self.free.node(&seat.node) == Some(*node))
        });
        legal
            && world.is_funded(job, charges)
            && !self.borrows_behind(job, charges)
            && there
            && !world.would_be_taken_back(job, self.job, charges)
    }

    /// It is its turn before the start's, and it waits for nothing but devices.
    fn is_ahead(&self, job: &Waiting) -> bool {
        let (world, plan) = (self.after.world, self.after.plan);
        let planned = plan.preemptions.iter().any(|one| one.job == job.id)
            || world.scene.holds.contains_key(&job.id);
        self.after.turns[&job.id] < self.after.turns[&self.start.job]
            && !planned
            && !world.is_team_full(plan, job)
            && job.blocked.is_none()
            && job.tasks.is_none()
            && !job.ask.mix
    }

    /// Where it could have started, without what is promised to others.
    fn place_for(&self, job: &Waiting) -> Option<Choice> {
        let world = self.after.world;
        let others = self.after.plan.reservations.iter();
        let avoid: Vec<Arc<str>> = others
            .filter(|one| one.job != job.id)
            .flat_map(|one| one.nodes.clone())
            .collect();
        let protected = estimate::protected(&world.scene.settings, job.class, job.limit_ms);
        let terms = Terms {
            team: &job.team,
            user: &job.user,
            preemptible: job.preemptible,
            rank_0: &[],
            avoid: &avoid,
            span: (world.now, estimate::after(world.now, protected)),
        };
        self.free.find(&job.ask, job.ask.nodes.least(), &terms)
    }

    /// Within one class who stays inside nominal comes before who borrows.
    fn borrows_behind(&self, job: &Waiting, charges: &[(Flavor, u64)]) -> bool {
        let theirs = self
            .ledgers
            .iter()
            .all(|ledger| is_inside(ledger, job, charges));
        // Who would rather borrow its first type than take its second counts as a borrower.
        let choosy = job.ask.kinds.len() > 1 && job.ask.prefer == Prefer::Type;
        job.class == self.job.class
            && self.inside
            && (!theirs || choosy)
            && !self.after.turns[&job.id].is_aged()
    }
}

/// Whether a job's charges are its team's own.
fn is_inside(ledger: &Ledger, job: &Waiting, charges: &[(Flavor, u64)]) -> bool {
    charges
        .iter()
        .all(|(flavor, units)| ledger.inside_nominal(&job.team, flavor, *units))
}
