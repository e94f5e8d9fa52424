//! What becomes of one job at its turn: a start within nominal or by borrowing, then by taking back, then a promise (docs/QUOTAS.md, Quotas, and docs/SCHEDULING.md, Order). Does NOT look for places itself.
use std::sync::Arc;

use mlctl_proto::units::UtcMs;

use super::book::Standing;
use super::pass::{Job, Outcome, Pass};
use super::stuck::Stuck;
use crate::scheduler::place::Choice;
use crate::state::rules::quota::Shortfall;
use crate::state::view::jobs::Footing;

/// Why a target gave no place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoPlace {
    /// Too little is free, or in the wrong shape.
    Devices,
    /// It would delay what was promised to that job for then.
    Promise(mlctl_proto::ids::JobId, UtcMs),
    /// The place found counts as a flavor of which it may have no more.
    Quota(Arc<Shortfall>),
}

/// How a job stands to one of its targets.
#[derive(Debug, Clone)]
pub struct Way {
    /// Which.
    pub target: usize,
    /// By quotas.
    pub standing: Result<Standing, Arc<Shortfall>>,
}

impl<'a> Pass<'a> {
    /// One job at its turn. `inside`: borrowers are put off.
    pub(super) fn decide(&mut self, at: usize, inside: bool) -> Outcome {
        let job = self.jobs[at];
        if self.held.contains(&job.id) {
            return self.beneficiary(at);
        }
        if let Some(stuck) = self.limits(&job) {
            return Outcome::Stuck(stuck);
        }
        let mut ways = std::mem::take(&mut self.ways);
        self.ways_of(&job, &mut ways);
        let outcome = self.choose(at, inside, &ways);
        ways.clear();
        self.ways = ways;
        outcome
    }

    /// What becomes of it, of all ways that it has.
    fn choose(&mut self, at: usize, inside: bool, ways: &[Way]) -> Outcome {
        let job = self.jobs[at];
        if ways.is_empty() {
            return Outcome::Stuck(Stuck::Missing);
        }
        if inside && !self.is_owner(&job, ways) {
            return Outcome::Deferred;
        }
        let mut stuck = None;
        let nominal_first = self.asks.classes[job.ask as usize].nominal_first;
        for place in order(ways, nominal_first) {
            let way = &ways[place];
            match self.try_way(at, way, inside) {
                Ok(outcome) => return outcome,
                Err(why) => {
                    // Also if something else is said of it in the end.
                    self.refused |= matches!(why, Stuck::Promise(..));
                    let better = stuck
                        .as_ref()
                        .is_none_or(|old: &Stuck| why.weight() > old.weight());
                    if better {
                        stuck = Some(why);
                    }
                }
            }
        }
        let all = self.asks.classes[job.ask as usize].targets.clone();
        let stuck = stuck.unwrap_or(Stuck::Missing);
        if stuck.is_final() {
            return Outcome::Stuck(stuck);
        }
        match self.take_back(at, all.clone()) {
            Some(Outcome::Stuck(why)) if why.weight() < stuck.weight() => {}
            Some(outcome) => return outcome,
            None => {}
        }
        match self.promise(at, all) {
            Some(outcome) => outcome,
            None => Outcome::Stuck(stuck),
        }
    }

    /// What holds whatever the place: countables, jobs that run, tasks at once.
    pub(super) fn limits(&self, job: &Job<'a>) -> Option<Stuck> {
        if job.is_plain {
            return self.book.full(job.team).map(Stuck::Said);
        }
        let running = job.waiting.tasks.map_or(0, |tasks| tasks.running);
        if running == 0
            && let Some(why) = self.book.limits(job.waiting, job.team)
        {
            return Some(Stuck::Said(why));
        }
        let at_once = job.waiting.tasks.and_then(|tasks| tasks.at_once);
        let full = at_once.filter(|most| running >= *most);
        full.map(|most| Stuck::Said(super::why::Why::ArrayLimit(most)))
    }

    /// How it stands to each of its targets at its least width.
    pub(super) fn ways(&mut self, job: &Job<'a>) -> Vec<Way> {
        let mut ways = Vec::new();
        self.ways_of(job, &mut ways);
        ways
    }

    fn ways_of(&mut self, job: &Job<'a>, ways: &mut Vec<Way>) {
        for target in self.asks.classes[job.ask as usize].targets.clone() {
            let charge = self.asks.targets[target]
                .flavor
                .map(|flavor| (flavor, job.units));
            let standing = self.book.legal(job.team, charge.as_slice(), &self.kinds);
            ways.push(Way { target, standing });
        }
    }

    /// Whether it is its turn before borrowers: some type is within nominal, or its own team's nominal would cover it if others ended or gave back what they
    /// borrowed.
    fn is_owner(&self, job: &Job<'a>, ways: &[Way]) -> bool {
        if ways.iter().any(|way| way.standing == Ok(Standing::Inside)) {
            return true;
        }
        let none_legal = ways.iter().all(|way| way.standing.is_err());
        none_legal
            && ways.iter().any(|way| {
                let column = self.asks.targets[way.target]
                    .flavor
                    .and_then(|flavor| self.kinds.column(flavor));
                let place = job.team.zip(column);
                place.is_some_and(|(team, column)| {
                    let nominal = self.book.now.nominal_at(team, column).unwrap_or(0);
                    job.units <= nominal
                })
            })
    }

    fn try_way(&mut self, at: usize, way: &Way, inside: bool) -> Result<Outcome, Stuck> {
        let (choice, footing) = self.look(at, way)?;
        if inside && way.standing == Ok(Standing::Borrows) {
            return Ok(Outcome::Deferred);
        }
        self.start(at, way.target, choice, footing);
        Ok(Outcome::Done)
    }

    /// A place on one target, by quota, budget and what is free; nothing is taken.
    pub(super) fn look(&mut self, at: usize, way: &Way) -> Result<(Choice, Footing), Stuck> {
        let job = self.jobs[at];
        if let Err(short) = &way.standing {
            return Err(Stuck::Quota(short.clone()));
        }
        let least = job.least;
        let flavor = self.asks.targets[way.target].flavor;
        let charge = flavor.map(|flavor| (flavor, job.units));
        if let Some(why) = self
            .book
            .budget(job.waiting, job.team, charge.as_slice(), &self.kinds)
        {
            return Err(Stuck::Said(why));
        }
        self.place(at, way.target, least)
            .map_err(|none| match none {
                NoPlace::Devices => Stuck::Devices(way.target),
                NoPlace::Promise(job, start) => Stuck::Promise(job, start),
                NoPlace::Quota(short) => Stuck::Quota(short),
            })
    }
}

/// In which order targets are tried: as they are listed, or those within nominal first (docs/SCHEDULING.md, Requests). Who takes any type has no list.
pub fn order(ways: &[Way], nominal_first: bool) -> impl Iterator<Item = usize> + '_ {
    let rounds = if nominal_first { 2 } else { 1 };
    (0..rounds).flat_map(move |round| {
        let inside = move |place: &usize| ways[*place].standing == Ok(Standing::Inside);
        (0..ways.len()).filter(move |place| !nominal_first || inside(place) == (round == 0))
    })
}
