//! The fewest and first of the candidates without whom the whole gang fits, by quota and by place. Does NOT end anybody.
use std::sync::Arc;

use super::Candidate;
use crate::scheduler::engine::ahead::Asker;
use crate::scheduler::engine::estimate;
use crate::scheduler::engine::pass::{Job, Pass};
use crate::scheduler::engine::runs::Source;
use crate::scheduler::place::{Capacity, Choice, Terms};
use crate::state::rules::quota::{Ledger, Shortfall};

/// What a search finds.
pub enum Found {
    /// It fits once those have ended that are being ended anyway.
    Ending,
    /// These go (places among the candidates), and it fits there.
    Victims(Vec<usize>, Choice),
    /// Whoever goes, it does not fit.
    Nothing,
}

/// How often nodes that were promised to others are avoided.
const TRIES: usize = 3;

impl<'a> Pass<'a> {
    /// Looks for victims.
    pub(super) fn search(&self, at: usize, target: usize, candidates: &[Candidate]) -> Found {
        let job = self.jobs[at];
        let mut avoid: Vec<Arc<str>> = job.waiting.avoid.clone();
        for _ in 0..TRIES {
            let found = self.search_beside(&job, target, candidates, &avoid);
            let Found::Victims(victims, choice) = found else {
                return found;
            };
            let broken = self.promised_away(&job, target, &choice);
            if broken.is_empty() {
                return Found::Victims(victims, choice);
            }
            avoid.extend(broken);
        }
        Found::Nothing
    }

    /// Nodes of a place that were promised to others who would have to wait longer.
    fn promised_away(&self, job: &Job<'a>, target: usize, choice: &Choice) -> Vec<Arc<str>> {
        let (ahead, asker) = (
            self.ahead(),
            Asker {
                takes_back: Some(job.turn),
                ..self.asker(job)
            },
        );
        let end = estimate::after(self.now, asker.protected);
        let ask = &self.asks.targets[target].ask;
        let places = choice.nodes.iter().zip(&choice.seats);
        let broken = places.filter(|(node, seat)| {
            ahead
                .breaks(**node, &seat.devices, ask, end, &asker)
                .is_some()
        });
        broken.map(|(_, seat)| seat.node.clone()).collect()
    }

    fn search_beside(
        &self,
        job: &Job<'a>,
        target: usize,
        candidates: &[Candidate],
        avoid: &[Arc<str>],
    ) -> Found {
        let legal = |ledger: &Ledger| self.legal_after(job, target, ledger);
        let fits = |capacity: &Capacity| self.fits(job, target, capacity, avoid);
        let mut ledger = self.book.after.clone();
        if legal(&ledger).is_ok() && fits(&self.soon).is_some() {
            return Found::Ending;
        }
        // First those whose quota is needed.
        let mut chosen = vec![false; candidates.len()];
        while let Err(short) = legal(&ledger) {
            let next = candidates
                .iter()
                .zip(&chosen)
                .position(|(one, chosen)| !chosen && self.relieves(one, &short));
            let Some(next) = next else {
                return Found::Nothing;
            };
            chosen[next] = true;
            self.take_from(&mut ledger, &candidates[next]);
        }
        let for_quota = chosen.clone();
        let mut base = self.soon.clone();
        for (one, _) in candidates
            .iter()
            .zip(&chosen)
            .filter(|(_, chosen)| **chosen)
        {
            self.free(&mut base, one);
        }
        // Then the shortest beginning of the list that makes room.
        let rest: Vec<usize> = (0..candidates.len()).filter(|one| !chosen[*one]).collect();
        let with = |count: usize| {
            let mut capacity = base.clone();
            rest[..count]
                .iter()
                .for_each(|one| self.free(&mut capacity, &candidates[*one]));
            fits(&capacity)
        };
        let mut place = with(0);
        if place.is_none() {
            let Some(all) = with(rest.len()) else {
                return Found::Nothing;
            };
            let (mut low, mut high, mut best) = (0, rest.len(), all);
            while high - low > 1 {
                let middle = low + (high - low) / 2;
                match with(middle) {
                    Some(found) => (high, best) = (middle, found),
                    None => low = middle,
                }
            }
            rest[..high].iter().for_each(|one| chosen[*one] = true);
            place = Some(best);
        }
        match place {
            Some(place) => self.pruned(job, target, candidates, (chosen, for_quota), place, avoid),
            None => Found::Nothing,
        }
    }

    /// Without those that turn out not to be needed.
    fn pruned(
        &self,
        job: &Job<'a>,
        target: usize,
        candidates: &[Candidate],
        (mut chosen, for_quota): (Vec<bool>, Vec<bool>),
        place: Choice,
        avoid: &[Arc<str>],
    ) -> Found {
        // Nobody goes who neither is where the gang goes nor was needed for the quota.
        let is_there = |one: &Candidate| {
            self.runs[one.run]
                .parts
                .iter()
                .any(|part| place.nodes.contains(&part.node))
        };
        for (at, one) in candidates.iter().enumerate() {
            chosen[at] &= for_quota[at] || is_there(one);
        }
        let (mut capacity, mut ledger) = (self.soon.clone(), self.book.after.clone());
        for (at, one) in candidates.iter().enumerate().filter(|(at, _)| chosen[*at]) {
            let _ = at;
            self.free(&mut capacity, one);
            self.take_from(&mut ledger, one);
        }
        let mut place = match self.fits(job, target, &capacity, avoid) {
            Some(place) => place,
            None => return Found::Nothing,
        };
        // Those who are not there first, then the last to go.
        let mut order: Vec<usize> = (0..candidates.len()).filter(|at| chosen[*at]).collect();
        order.sort_by_key(|at| (is_there(&candidates[*at]), std::cmp::Reverse(*at)));
        for at in order {
            let one = &candidates[at];
            let (mut kept, mut quotas) = (capacity.clone(), ledger.clone());
            self.occupy(&mut kept, one);
            self.give_to(&mut quotas, one);
            if self.legal_after(job, target, &quotas).is_err() {
                continue;
            }
            if let Some(found) = self.fits(job, target, &kept, avoid) {
                (capacity, ledger, place) = (kept, quotas, found);
                chosen[at] = false;
            }
        }
        let victims = (0..candidates.len()).filter(|at| chosen[*at]).collect();
        Found::Victims(victims, place)
    }

    fn legal_after(&self, job: &Job<'a>, target: usize, ledger: &Ledger) -> Result<(), Shortfall> {
        let units = job.waiting.ask.units(job.waiting.ask.nodes.least());
        let column = self.asks.targets[target]
            .flavor
            .and_then(|flavor| self.kinds.column(flavor));
        match job.team.zip(column) {
            Some((team, column)) => ledger.legal_at(team, column, units),
            None => Ok(()),
        }
    }

    fn fits(
        &self,
        job: &Job<'a>,
        target: usize,
        capacity: &Capacity,
        avoid: &[Arc<str>],
    ) -> Option<Choice> {
        let hard = estimate::after(self.now, self.asker(job).protected);
        let terms = Terms {
            avoid,
            ..self.terms(job, hard)
        };
        capacity.find(
            &self.asks.targets[target].ask,
            job.waiting.ask.nodes.least(),
            &terms,
        )
    }

    /// Whether its end would make the level of a shortfall smaller.
    fn relieves(&self, one: &Candidate, short: &Shortfall) -> bool {
        let run = &self.runs[one.run];
        let of_flavor = run
            .charges
            .iter()
            .any(|(flavor, _)| self.kinds.flavors.get(*flavor as usize) == Some(&short.flavor));
        let ledger = &self.book.now;
        of_flavor
            && run.team.is_some_and(|team| {
                ledger
                    .path(team)
                    .any(|level| *ledger.name(level) == short.team)
            })
    }

    fn free(&self, capacity: &mut Capacity, one: &Candidate) {
        let run = &self.runs[one.run];
        match run.source {
            Source::Attempt(attempt) => capacity.release(attempt),
            Source::Start(place) => capacity.release_seats(&run.ask, &self.out.starts[place].seats),
            Source::Promise(_) | Source::Planned => {}
        }
    }

    fn occupy(&self, capacity: &mut Capacity, one: &Candidate) {
        let run = &self.runs[one.run];
        match run.source {
            Source::Attempt(attempt) => capacity.hold(attempt),
            Source::Start(place) => capacity.hold_seats(&run.ask, &self.out.starts[place].seats),
            Source::Promise(_) | Source::Planned => {}
        }
    }

    fn take_from(&self, ledger: &mut Ledger, one: &Candidate) {
        self.change(one, |team, column, units| {
            ledger.remove_at(team, column, units)
        });
    }

    fn give_to(&self, ledger: &mut Ledger, one: &Candidate) {
        self.change(one, |team, column, units| {
            ledger.add_at(team, column, units)
        });
    }

    fn change(&self, one: &Candidate, mut change: impl FnMut(usize, usize, u64)) {
        let run = &self.runs[one.run];
        for (flavor, units) in run.charges.iter() {
            if let (Some(team), Some(column)) = (run.team, self.kinds.column(*flavor)) {
                change(team, column, *units);
            }
        }
    }
}
