//! The transaction: checks once more that the order of entitlements holds and that the standing grows (docs/SCHEDULING.md, Preemption), then lets the rest of the pass know. A start of this
//! very pass that is in the way is not made. Does NOT search.
use mlctl_proto::ids::JobId;
use mlctl_proto::units::UtcMs;

use super::recheck::Planned;
use super::{Candidate, Mode};
use crate::scheduler::engine::entitlement::{self, Covers, Holder};
use crate::scheduler::engine::estimate;
use crate::scheduler::engine::pass::Pass;
use crate::scheduler::engine::runs::{self, Source};
use crate::scheduler::place::Choice;
use crate::scheduler::plan::{Entitlement, Preemption, Taken, Victim};
use crate::state::view::jobs::Footing;

impl<'a> Pass<'a> {
    /// Ends victims for a job that then goes to `choice`; false: it is not allowed after all.
    pub(super) fn evict(
        &mut self,
        at: usize,
        target: usize,
        mode: Mode,
        candidates: &[Candidate],
        victims: Vec<usize>,
        choice: Choice,
    ) -> bool {
        let victims: Vec<Candidate> = victims.iter().map(|at| candidates[*at].clone()).collect();
        let Some(mine) = self.allowed(at, target, mode, &victims) else {
            return false;
        };
        // Who would start only to be ended at once comes after the one for whom: the pass begins again in that order.
        let starts = victims
            .iter()
            .map(|one| &self.runs[one.run])
            .filter(|run| matches!(run.source, Source::Start(_)));
        let starts: Vec<JobId> = starts.map(|run| run.job).collect();
        if !starts.is_empty() {
            let owner = self.jobs[at].waiting.id;
            starts
                .into_iter()
                .for_each(|job| self.after_owners.entry(job).or_default().push(owner));
            self.again = true;
            return false;
        }
        self.end_for(at, target, (mode, mine), victims, choice);
        true
    }

    /// The entitlement of the beneficiary afterwards, if the order holds and the standing grows.
    fn allowed(
        &mut self,
        at: usize,
        target: usize,
        mode: Mode,
        victims: &[Candidate],
    ) -> Option<Entitlement> {
        let job = self.jobs[at];
        let flavor = self.asks.targets[target].flavor;
        let table = self.table(flavor, true).clone();
        let before = entitlement::standing(&table.covers, &table.holders);
        let goes = |run: &usize| victims.iter().any(|one| one.run == *run);
        let kept = table
            .holders
            .iter()
            .zip(&table.runs)
            .filter(|(_, run)| !goes(run));
        let mut holders: Vec<Holder> = kept.map(|(holder, _)| *holder).collect();
        let units = match flavor {
            Some(_) => job.waiting.ask.units(job.waiting.ask.nodes.least()),
            None => u64::from(job.waiting.ask.nodes.least()),
        };
        holders.push(Holder {
            team: job.team,
            class: job.waiting.class,
            start: self.now,
            submit: (job.waiting.submit_index, job.waiting.id),
            units,
        });
        let column = flavor.and_then(|flavor| self.kinds.column(flavor));
        let covers = Covers::new(&self.book.now, column, &holders);
        let mine = covers.of(holders.len() - 1, job.waiting.class);
        if matches!(mode, Mode::Due | Mode::Slice) {
            return Some(mine);
        }
        let order = victims.iter().all(|one| one.entitlement < mine);
        let after = entitlement::standing(&covers, &holders);
        (order && entitlement::grows(&before, &after)).then_some(mine)
    }

    /// The victims end, and what they hold is kept.
    fn end_for(
        &mut self,
        at: usize,
        target: usize,
        (mode, mine): (Mode, Entitlement),
        mut victims: Vec<Candidate>,
        choice: Choice,
    ) {
        victims.sort_by_key(|one| {
            let attempt = self.runs[one.run].attempt();
            (attempt.map_or(0, |attempt| self.lost_ms(attempt)), one.run)
        });
        let mut named = Vec::with_capacity(victims.len());
        let mut gone_by = self.now;
        for one in &victims {
            let (by, victim) = self.end_victim(one);
            gone_by = gone_by.max(by);
            named.extend(victim);
        }
        self.note_relatives(at, &victims);
        self.keep_place(at, target, &choice, gone_by);
        self.planned.push(Planned {
            at,
            run: self.runs.len() - 1,
            victims: victims.iter().map(|one| one.run).collect(),
            mode,
        });
        let job = self.jobs[at].waiting.id;
        self.forget_promise(job, &choice.nodes);
        self.out.preemptions.push(Preemption {
            job,
            entitlement: mine,
            victims: named,
            seats: choice.seats,
            charges: choice.charges,
        });
    }

    /// One victim ends: by when, and its name if it runs already.
    fn end_victim(&mut self, one: &Candidate) -> (UtcMs, Option<Victim>) {
        let run = &mut self.runs[one.run];
        let by = estimate::after(self.now, estimate::ending(&self.scene.settings, run.class));
        run.ending = true;
        run.end = by;
        let (team, charges) = (run.team, run.charges.clone());
        let attempt = run.attempt();
        if let Some(attempt) = attempt {
            self.soon.release(attempt);
        }
        self.book.will_end(team, &charges, &self.kinds);
        self.tables.forget(&charges);
        self.mark(match one.why {
            Taken::Entitlement => "preempted",
            Taken::Overtime => "overtime taken",
            Taken::Guest => "guest taken",
            Taken::Slice => "sliced",
            Taken::Surplus => "elastic surplus taken",
        });
        let victim = attempt.map(|attempt| Victim {
            job: attempt.id,
            epoch: attempt.epoch,
            entitlement: one.entitlement,
            why: one.why,
        });
        (by, victim)
    }

    /// A place is kept for a job, which runs there as soon as the victims are gone.
    fn keep_place(&mut self, at: usize, target: usize, choice: &Choice, gone_by: UtcMs) {
        let job = self.jobs[at];
        let ask = self.asks.targets[target].ask.clone();
        self.soon.hold_seats(&ask, &choice.seats);
        let parts = self.parts(&choice.seats);
        let charges = self.numbers(choice);
        self.reserve_seats(&ask, &choice.seats, &parts);
        self.tables.forget(&charges);
        self.book.promise(job.team, &charges, &self.kinds);
        self.book.commit(job.waiting, job.team, &charges, true);
        self.book.runs(job.team);
        let source = Source::Planned;
        let mut run = runs::start(
            self.scene,
            source,
            &job,
            parts,
            charges,
            gone_by,
            Footing::Regular,
        );
        run.start = self.now;
        self.add_run(run);
    }

    fn note_relatives(&mut self, at: usize, victims: &[Candidate]) {
        let ledger = &self.book.now;
        let mine = self.jobs[at].team;
        let inside = |one: &Candidate| {
            let theirs = self.runs[one.run].team;
            let (Some(mine), Some(theirs)) = (mine, theirs) else {
                return false;
            };
            let shared = ledger
                .path(mine)
                .filter(|team| ledger.path(theirs).any(|level| level == *team))
                .count();
            one.why == Taken::Entitlement && mine != theirs && shared > 1
        };
        if victims.iter().any(inside) {
            self.mark("reclaim inside a subtree");
        }
    }
}
