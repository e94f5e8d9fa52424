//! The state of a pass with some blockers thought away for one job: what was free, held and promised is put back afterwards. Does NOT decide anything.
use std::collections::BTreeMap;

use super::blocker::{Blocker, Lifts};
use super::edits::Variants;
use crate::scheduler::engine::ahead::Promises;
use crate::scheduler::engine::book::Book;
use crate::scheduler::engine::pass::Pass;
use crate::scheduler::engine::runs::{Run, Source};
use crate::scheduler::place::Capacity;
use crate::state::view::ask::Ask;
use crate::state::view::jobs::{Seat, Waiting};

impl<'a> Pass<'a> {
    /// Asks something with these blockers away.
    pub(super) fn as_if<T>(
        &mut self,
        at: usize,
        lifts: &Lifts,
        variants: &'a Variants,
        asks: impl FnOnce(&mut Self) -> T,
    ) -> T {
        let capacity = std::mem::take(&mut self.capacity);
        self.capacity = self.lifted_capacity(&capacity, lifts);
        let book = self.lifted_book(lifts);
        let book = std::mem::replace(&mut self.book, book);
        let promises = self.lifted_promises(lifts);
        let promises = promises.map(|lifted| std::mem::replace(&mut self.promises, lifted));
        let found = self.as_if_it_were(at, variants.without(lifts), asks);
        (self.capacity, self.book) = (capacity, book);
        if let Some(promises) = promises {
            self.promises = promises;
        }
        found
    }

    /// Asks something as if the job had asked for something else.
    pub(super) fn as_if_it_were<T>(
        &mut self,
        at: usize,
        waiting: &'a Waiting,
        asks: impl FnOnce(&mut Self) -> T,
    ) -> T {
        // What was not found before says nothing about this one.
        let (job, marks) = (self.jobs[at], self.marks.len());
        let known = (
            std::mem::take(&mut self.no_place),
            std::mem::take(&mut self.nothing_free),
        );
        let ask = if waiting.ask == job.waiting.ask {
            job.ask
        } else {
            self.asks.number_of(&waiting.ask, &self.kinds)
        };
        self.jobs[at].waiting = waiting;
        self.jobs[at].ask = ask;
        self.jobs[at].terms = u32::MAX;
        self.jobs[at].class = waiting.class;
        self.jobs[at].least = waiting.ask.nodes.least();
        self.jobs[at].units = waiting.ask.units(waiting.ask.nodes.least());
        self.jobs[at].is_plain = false;
        let found = asks(self);
        self.marks.truncate(marks);
        self.jobs[at] = job;
        (self.no_place, self.nothing_free) = known;
        found
    }

    /// What jobs ahead hold from this pass on, and what is kept for others.
    fn held_by_jobs_ahead(&self) -> impl Iterator<Item = (&Ask, &[Seat])> {
        self.runs.iter().filter_map(|run| {
            let seats = match run.source {
                Source::Attempt(_) => return None,
                Source::Start(place) => &self.out.starts.get(place)?.seats,
                Source::Promise(hold) => &hold.seats,
                Source::Planned => {
                    &self
                        .out
                        .preemptions
                        .iter()
                        .find(|one| one.job == run.job)?
                        .seats
                }
            };
            Some((&*run.ask, seats.as_slice()))
        })
    }

    /// The cluster if running attempts held nothing: once for all questions, it costs more than they do.
    pub(super) fn make_emptied(&mut self) {
        let mut empty = self.capacity.clone();
        empty.empty();
        let mut with_jobs_ahead = empty.clone();
        self.held_by_jobs_ahead()
            .for_each(|(ask, seats)| with_jobs_ahead.hold_seats(ask, seats));
        self.emptied = Some(Box::new((empty, with_jobs_ahead)));
    }

    fn lifted_capacity(&self, capacity: &Capacity, lifts: &Lifts) -> Capacity {
        let mut free = match (lifts.has(&Blocker::Devices), self.emptied.as_deref()) {
            (true, Some((empty, with_jobs_ahead))) => if lifts.has(&Blocker::Ahead) {
                empty
            } else {
                with_jobs_ahead
            }
            .clone(),
            _ => capacity.clone(),
        };
        if !lifts.has(&Blocker::Devices) {
            if lifts.has(&Blocker::Ahead) {
                self.held_by_jobs_ahead()
                    .for_each(|(ask, seats)| free.release_seats(ask, seats));
            }
            if lifts.has(&Blocker::Ending) {
                let ending = self
                    .runs
                    .iter()
                    .filter(|run| is_ending(run))
                    .filter_map(Run::attempt);
                ending.for_each(|attempt| free.release(attempt));
            }
        }
        if lifts.has(&Blocker::Closed) {
            free.open_closed();
        }
        if lifts.has(&Blocker::Waking) {
            free.open_from(i64::MAX);
        }
        if lifts.has(&Blocker::Windows) || lifts.has(&Blocker::Owners) {
            free.drop_terms(lifts.has(&Blocker::Windows), lifts.has(&Blocker::Owners));
        }
        free
    }

    fn lifted_book(&self, lifts: &Lifts) -> Book {
        let before = self
            .book_before
            .as_deref()
            .filter(|_| lifts.has(&Blocker::Ahead));
        let mut book = before.unwrap_or(&self.book).clone();
        if lifts.has(&Blocker::Ending) {
            let ending = self.runs.iter().filter(|run| is_ending(run));
            ending.for_each(|run| book.has_ended(run.team, &run.charges, &self.kinds));
        }
        for one in lifts.iter() {
            match one {
                Blocker::Quota(team, flavor) => book.open_quota(team, flavor),
                Blocker::Budget(team, flavor) => {
                    book.open_budget(team, self.kinds.flavor_number(flavor))
                }
                Blocker::License(name) => book.open_license(name),
                Blocker::Running(team) => book.open_running(team),
                _ => {}
            }
        }
        book
    }

    /// `None`: they stay as they are.
    fn lifted_promises(&self, lifts: &Lifts) -> Option<Promises> {
        if lifts.has(&Blocker::Promises) {
            return Some(Promises::new(self.nodes.len()));
        }
        let quotas: BTreeMap<_, _> = lifts
            .iter()
            .filter_map(|one| match one {
                Blocker::Quota(team, flavor) => Some((team, flavor)),
                _ => None,
            })
            .collect();
        if quotas.is_empty() {
            return None;
        }
        let mut promises = self.promises.clone();
        for ledger in promises
            .all
            .iter_mut()
            .filter_map(|one| one.quotas.as_mut())
        {
            quotas
                .iter()
                .for_each(|(team, flavor)| ledger.open(team, flavor));
        }
        Some(promises)
    }
}

/// It was told to end before this pass.
fn is_ending(run: &Run<'_>) -> bool {
    run.attempt().is_some_and(|one| one.ends_by_ms.is_some())
}
