//! Who is promised a start, and when (docs/SCHEDULING.md, Reservations): a few jobs per kind of devices that wait for devices alone. A promise moves to an earlier start, or when it cannot be
//! kept. One that is due takes what runs in overtime. Does NOT look ahead itself.
use std::ops::Range;

use mlctl_proto::ids::JobId;
use mlctl_proto::units::UtcMs;

use super::ahead::{Asker, Reserved, need};
use super::estimate;
use super::pass::{Job, Outcome, Pass};
use super::preempt::Mode;
use super::runs::Run;
use super::targets::Target;
use crate::state::view::jobs::{Class, Reservation};

/// Ask, conditions, team, class, whether it is aged, its length by estimate, its protected time, and the targets that are open to it.
pub type Alike = (
    u32,
    u32,
    Option<usize>,
    Class,
    bool,
    u64,
    u64,
    (usize, usize),
);
/// Changes of promises, starts and preemptions so far.
pub type Moment = (u64, usize, usize);

/// Promises of one user at most.
const PER_USER: usize = 2;

impl<'a> Pass<'a> {
    /// What was promised before, as far as it can be kept, before anybody's turn.
    pub(super) fn renew_promises(&mut self) {
        if self.scene.reservations.is_empty() {
            return;
        }
        let waits: std::collections::BTreeMap<_, usize> = self
            .jobs
            .iter()
            .enumerate()
            .map(|(at, job)| (job.waiting.id, at))
            .collect();
        let mut all: Vec<&Reservation> =
            self.scene.reservations.values().map(|one| &**one).collect();
        all.sort_by_key(|one| (one.start_ms, one.job));
        for one in all {
            let at = waits
                .get(&one.job)
                .filter(|_| !self.held.contains(&one.job));
            if let Some(renewed) = at.and_then(|at| self.renewed(*at, one)) {
                self.promises.add(renewed);
            }
        }
    }

    /// A promise with the start at which it can be kept now; `None`: a node of it is lost.
    fn renewed(&self, at: usize, old: &Reservation) -> Option<Reserved> {
        let job = self.jobs[at];
        let mut nodes = Vec::with_capacity(old.nodes.len());
        for name in &old.nodes {
            nodes.push(self.node_number(name)?);
        }
        nodes.sort_unstable();
        let asker = self.asker(&job);
        let mut best: Option<(UtcMs, usize, Option<u16>)> = None;
        for target in self.asks.classes[job.ask as usize].targets.clone() {
            for kind in kinds(&self.asks.targets[target]) {
                let Some(start) = self.on_nodes(&self.asks.targets[target], kind, &nodes, &asker)
                else {
                    continue;
                };
                if best.is_none_or(|(old, _, _)| start < old) {
                    best = Some((start, target, kind));
                }
            }
        }
        let (start, target, kind) = best?;
        let start = start.max(old.start_ms);
        let renewed = self.reserved(&job, target, kind, (old.start_ms, start), nodes);
        Some(self.with_quotas(&job, renewed))
    }

    /// When all of these nodes have room.
    fn on_nodes(
        &self,
        target: &Target,
        kind: Option<u16>,
        nodes: &[u32],
        asker: &Asker<'_>,
    ) -> Option<UtcMs> {
        let (ahead, need) = (self.ahead(), need(target, kind));
        let mut start = self.now;
        for node in nodes {
            start = start.max(ahead.node_time(*node as usize, &need, &target.ask, asker)?);
        }
        (!nodes.is_empty()).then_some(start)
    }

    fn reserved(
        &self,
        job: &Job<'a>,
        target: usize,
        kind: Option<u16>,
        (said, start): (UtcMs, UtcMs),
        nodes: Vec<u32>,
    ) -> Reserved {
        let target = self.asks.targets[target].clone();
        Reserved {
            job: job.waiting.id,
            class: job.waiting.class,
            aged: job.turn.is_aged(),
            turn: job.turn,
            user: job.user,
            said,
            start,
            end: estimate::after(start, self.asker(job).length),
            nodes,
            target,
            kind,
            quotas: None,
            borrows: false,
            fresh: false,
        }
    }

    /// When quotas allow a target's least width, as far as what runs ends: a cluster that is full is full of quota too, and who waits for devices waits for both
    /// at once. `None`: never.
    fn quota_time(&self, job: &Job<'a>, target: &Target) -> Option<UtcMs> {
        let place = target
            .flavor
            .and_then(|flavor| Some((flavor, self.kinds.column(flavor)?)));
        let (Some(team), Some((flavor, column))) = (job.team, place) else {
            return Some(self.now);
        };
        let units = target.ask.units(target.ask.nodes.least());
        if self.book.strict_legal(team, column, units) {
            return Some(self.now);
        }
        let mut ledger = self.book.strict().clone();
        let mut ends: Vec<(UtcMs, usize, u64)> = Vec::new();
        for run in self.holders_of(flavor) {
            let held = run.charges.iter().find(|(one, _)| *one == flavor);
            if let (Some((_, units)), Some(team)) = (held, run.team) {
                ends.push((run.ends_for(job.waiting.class, self.now), team, *units));
            }
        }
        ends.sort_unstable();
        for (end, other, held) in ends {
            ledger.remove_at(other, column, held);
            if ledger.legal_at(team, column, units).is_ok() {
                return Some(end.max(self.now));
            }
        }
        None
    }

    /// Who holds some of a flavor and is not being ended.
    fn holders_of(&self, flavor: u32) -> impl Iterator<Item = &Run<'a>> {
        let places = self.of_flavor.get(flavor as usize).into_iter().flatten();
        let runs = places.filter_map(|place| self.runs.get(*place as usize));
        runs.filter(|run| !run.gone && !run.ending)
    }

    /// Quotas as they will stand when a promise is kept.
    fn with_quotas(&self, job: &Job<'a>, mut made: Reserved) -> Reserved {
        let place = made
            .target
            .flavor
            .and_then(|flavor| Some((flavor, self.kinds.column(flavor)?)));
        let (Some(team), Some((flavor, column))) = (job.team, place) else {
            return made;
        };
        if self.book.now.nominal_at(team, column).is_none() {
            // Nobody of its tree has a quota of it.
            return made;
        }
        let units = made.target.ask.units(made.target.ask.nodes.least());
        let mut ledger = self.book.strict().clone();
        for run in self.holders_of(flavor) {
            let held = run.charges.iter().find(|(one, _)| *one == flavor);
            let (Some((_, units)), Some(team)) = (held, run.team) else {
                continue;
            };
            if run.ends_for(job.waiting.class, self.now) <= made.start {
                ledger.remove_at(team, column, *units);
            }
        }
        made.borrows = !ledger.inside_nominal_at(team, column, units);
        ledger.add_at(team, column, units);
        made.quotas = Some(Box::new(ledger));
        made
    }

    /// The promise that would be over its quota, if so many units of a flavor more were held until `end`. An owner is not kept back for a borrower.
    pub(super) fn over_quota(
        &self,
        job: &Job<'a>,
        charges: &[(u32, u64)],
        end: UtcMs,
        inside: bool,
    ) -> Option<(JobId, UtcMs)> {
        let team = job.team?;
        let asker = self.asker(job);
        let promises = self
            .promises
            .all
            .iter()
            .filter(|one| one.start < end && !one.yields(&asker) && !(inside && one.borrows));
        let over = promises.filter(|one| {
            let Some(quotas) = &one.quotas else {
                return false;
            };
            charges.iter().any(|(flavor, units)| {
                let column = self
                    .kinds
                    .column(*flavor)
                    .filter(|_| one.target.flavor == Some(*flavor));
                column.is_some_and(|column| quotas.legal_at(team, column, *units).is_err())
            })
        });
        over.map(|one| (one.job, one.start))
            .min_by_key(|(job, start)| (*start, *job))
    }

    /// Something starts that will still run when promises are kept.
    pub(super) fn count_in_promises(
        &mut self,
        team: Option<usize>,
        charges: &[(u32, u64)],
        end: UtcMs,
    ) {
        let Some(team) = team else { return };
        for one in self.promises.all.iter_mut().filter(|one| one.start < end) {
            let Some(quotas) = &mut one.quotas else {
                continue;
            };
            for (flavor, units) in charges
                .iter()
                .filter(|(flavor, _)| one.target.flavor == Some(*flavor))
            {
                if let Some(column) = self.kinds.column(*flavor) {
                    quotas.add_at(team, column, *units);
                }
            }
        }
    }

    /// A job that waits for devices alone is promised a start, or keeps the one that it was promised. `Some`: what is due takes its devices now.
    pub(super) fn promise(&mut self, at: usize, open: Range<usize>) -> Option<Outcome> {
        let job = self.jobs[at];
        if open.is_empty()
            || !self.rules.may_reserve(job.waiting, job.turn.is_aged())
            || self.rules.reservations(&self.scene.settings) == 0
        {
            return None;
        }
        let had = self.promises.has(job.id);
        if !had && !self.may_have_more(&job, open.clone()) {
            return None;
        }
        let alike = (!had).then(|| (self.alike(&job, &open), self.moment()));
        let known = |(alike, moment): &(_, _)| self.no_due.get(alike) == Some(moment);
        if alike.as_ref().is_some_and(known) {
            return None;
        }
        let old = had.then(|| self.promises.remove(job.id)).flatten();
        let nodes = old.as_ref().map(|old| old.nodes.clone());
        let made = self.best(&job, open.clone(), old);
        // Places that are promised no more: as in `forget_promise`.
        if nodes.is_some_and(|nodes| {
            made.as_ref()
                .is_none_or(|made| made.nodes != nodes || made.start <= self.now)
        }) {
            self.full |= self.refused;
        }
        let made = made?;
        if made.start <= self.now {
            if let Some(outcome) = self.take_due(at, open) {
                return Some(outcome);
            }
            if !self.scene.preemption_paused {
                // Numbers say that it fits, places do not: nobody is kept away for that.
                self.no_due.extend(alike);
                return None;
            }
        }
        self.make_room(&job, &made);
        self.promises.add(made);
        None
    }

    /// Equal for jobs without a promise that would be promised the same.
    fn alike(&self, job: &Job<'a>, open: &Range<usize>) -> Alike {
        let asker = self.asker(job);
        (
            job.ask,
            job.terms,
            job.team,
            job.waiting.class,
            asker.aged,
            asker.length,
            asker.protected,
            (open.start, open.end),
        )
    }

    /// Another one when something was promised, started or ended since.
    fn moment(&self) -> Moment {
        let (starts, preemptions) = (self.out.starts.len(), self.out.preemptions.len());
        (self.promises.changes, starts, preemptions)
    }

    /// Whether a job without a promise may get one: cheap, it is asked often.
    fn may_have_more(&self, job: &Job<'a>, mut open: Range<usize>) -> bool {
        self.promises.of_user(job.user) < PER_USER
            && open.any(|target| {
                kinds(&self.asks.targets[target]).any(|kind| self.has_slot(job, kind))
            })
    }

    /// Whether a queue has a slot, or one that is held by a promise that yields.
    fn has_slot(&self, job: &Job<'a>, kind: Option<u16>) -> bool {
        let most = self.rules.reservations(&self.scene.settings) as usize;
        self.promises
            .queue(kind)
            .is_none_or(|queue| queue.count < most || (job.class, job.turn.is_aged()) > queue.least)
    }

    /// The promise that stands above the others of its queue gets its slot.
    fn make_room(&mut self, job: &Job<'a>, made: &Reserved) {
        let most = self.rules.reservations(&self.scene.settings) as usize;
        let asker = self.asker(job);
        while self
            .promises
            .all
            .iter()
            .filter(|one| one.kind == made.kind)
            .count()
            >= most
        {
            let yields = self
                .promises
                .all
                .iter()
                .filter(|one| one.kind == made.kind && one.yields(&asker));
            let Some(last) = yields
                .max_by_key(|one| (one.start, one.job))
                .map(|one| one.job)
            else {
                return;
            };
            self.forget_promise(last, &[]);
            self.mark("reservation revoked");
        }
    }

    /// The old promise, unless another start is earlier, or it cannot be kept and another start is earlier than what it has become.
    fn best(
        &mut self,
        job: &Job<'a>,
        open: Range<usize>,
        old: Option<Reserved>,
    ) -> Option<Reserved> {
        let asker = self.asker(job);
        let mut best: Option<(UtcMs, Vec<u32>, Option<u16>, usize)> = None;
        let had = old.as_ref().map(|old| old.kind);
        let kept = old.and_then(|old| {
            let start = self.on_nodes(&old.target, old.kind, &old.nodes, &asker)?;
            let start = start.max(self.quota_time(job, &old.target)?);
            Some(Reserved {
                start: start.max(old.said),
                ..old
            })
        });
        // Only what is earlier than that is worth anything.
        let limit = kept.as_ref().map_or(UtcMs::MAX, |kept| kept.start);
        for target in open {
            let mut one = self.asks.targets[target].clone();
            one.kinds.retain(|kind| {
                had == Some(Some(*kind)) || one.ask.mix || self.has_slot(job, Some(*kind))
            });
            if one.kinds.is_empty() && !self.asks.targets[target].kinds.is_empty() {
                continue;
            }
            let limit = best.as_ref().map_or(limit, |(start, ..)| limit.min(*start));
            let Some((start, nodes, kind)) = self.ahead().earliest(&one, &asker, limit) else {
                continue;
            };
            // Only who waits for devices alone: quota is there by the time that they are.
            if self.quota_time(job, &one).is_none_or(|quota| quota > start) {
                continue;
            }
            if best.as_ref().is_none_or(|(other, ..)| start < *other) {
                best = Some((start, nodes, kind, target));
            }
        }
        let (mut made, moved) = match (kept, best) {
            (None, None) => return None,
            (Some(kept), None) => (kept, false),
            (Some(kept), Some((start, ..))) if start >= kept.start => (kept, false),
            (had, Some((start, nodes, kind, target))) => (
                self.reserved(job, target, kind, (start, start), nodes),
                had.is_some(),
            ),
        };
        if moved {
            self.mark("reservation moved");
        }
        // What cannot be kept is said anew.
        made.said = made.start;
        made.fresh = true;
        Some(self.with_quotas(job, made))
    }

    /// The earliest start of any of its targets, as far as anybody can say, that delays nobody to whom one was promised.
    pub(super) fn earliest_start(&self, at: usize) -> Option<UtcMs> {
        let (job, asker) = (self.jobs[at], self.asker(&self.jobs[at]));
        let targets = &self.asks.targets[self.asks.classes[job.ask as usize].targets.clone()];
        let start = |target: &Target| {
            let (start, ..) = self.ahead().earliest(target, &asker, UtcMs::MAX)?;
            Some(start.max(self.quota_time(&job, target)?))
        };
        targets.iter().filter_map(start).min()
    }

    /// A reservation that is due, or would be if what runs in overtime and guests made room, takes their devices.
    fn take_due(&mut self, at: usize, mut open: Range<usize>) -> Option<Outcome> {
        if self.scene.preemption_paused {
            return None;
        }
        open.find_map(|target| self.evict_for(at, target, Mode::Due))
    }

    /// A promise is gone. Whoever was refused a place for it, and is past its turn, comes before those whose turn is still ahead: unless the place is taken as
    /// promised, the rest is left to the next pass.
    pub(super) fn forget_promise(&mut self, job: JobId, taken: &[u32]) {
        let Some(gone) = self.promises.remove(job) else {
            return;
        };
        let mut taken = taken.to_vec();
        taken.sort_unstable();
        if self.refused && gone.nodes != taken {
            self.full = true;
        }
    }

    /// At its owner's turn it was neither made nor kept: it is none any more.
    pub(super) fn drop_stale(&mut self, at: usize) {
        let job = self.jobs[at].id;
        if !self.promises.has(job) {
            return;
        }
        let stale = |one: &Reserved| one.job == job && !one.fresh;
        if self.promises.all.iter().any(stale) {
            self.forget_promise(job, &[]);
        }
    }

    /// All promises from now on.
    pub(super) fn reservations(&self) -> Vec<Reservation> {
        let name = |node: &u32| self.nodes[*node as usize].name.clone();
        let said = self.promises.all.iter().map(|one| Reservation {
            job: one.job,
            start_ms: one.said,
            nodes: one.nodes.iter().map(name).collect(),
        });
        said.collect()
    }
}

/// The queues of a target.
fn kinds(target: &Target) -> impl Iterator<Item = Option<u16>> + '_ {
    let whole = target.ask.mix || target.kinds.is_empty();
    let none = whole.then_some(None);
    let each = target
        .kinds
        .iter()
        .filter(move |_| !whole)
        .map(|kind| Some(*kind));
    none.into_iter().chain(each)
}
