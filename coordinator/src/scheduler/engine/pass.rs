//! One pass over all that waits: what it keeps, and in which order jobs are looked at (docs/SCHEDULING.md, Order). What happens to one job stands in the files beside.
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mlctl_proto::ids::JobId;
use mlctl_proto::units::UtcMs;

use super::ahead::{Ahead, Asker, Promises};
use super::book::Book;
use super::decide::Way;
use super::estimate;
use super::explain::{Closer, Seen};
use super::grid::Grid;
use super::kinds::Kinds;
use super::memo::{Attempts, Memo, Queue};
use super::order::Turn;
use super::preempt::recheck::Planned;
use super::preempt::table::Tables;
use super::promise::{Alike, Moment};
use super::runs::{self, Part, Run};
use super::stuck::Stuck;
use super::targets::Asks;
use super::why::Why;
use crate::scheduler::place::{Capacity, Choice};
use crate::scheduler::plan::Proposal;
use crate::scheduler::policy::{self, Rules};
use crate::state::rules::quota::Ledger;
use crate::state::view::jobs::{Blocked, Class, Seat, Waiting};
use crate::state::view::nodes::NodeView;
use crate::state::view::scene::Scene;

/// Starts of one pass at most: the rest is planned from the state that these leave behind.
pub const STARTS_MAX: usize = 4_096;
/// Preemptions of one pass at most, likewise.
pub const PREEMPTIONS_MAX: usize = 32;

/// A job that waits and could be chosen.
#[derive(Debug, Clone, Copy)]
pub struct Job<'a> {
    /// As the scene has it.
    pub waiting: &'a Waiting,
    /// Which.
    pub id: JobId,
    /// Its place among all that wait.
    pub place: u32,
    /// How urgent.
    pub class: Class,
    /// Its least width.
    pub least: u32,
    /// Units at that.
    pub units: u64,
    /// It needs no countables, and is no array.
    pub is_plain: bool,
    /// Its team's place.
    pub team: Option<usize>,
    /// The number of its owner.
    pub user: u32,
    /// The number of its ask.
    pub ask: u32,
    /// The number of its conditions: equal for jobs that may go to the same nodes.
    pub terms: u32,
    /// When it is its turn.
    pub turn: Turn,
}

/// After how many starts and preemptions of a pass a place was the best one, and the place.
pub type Free = ((usize, usize), Choice);

/// What became of a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It starts, or others end for it.
    Done,
    /// It would borrow: those that do not come first.
    Deferred,
    /// It waits.
    Stuck(Stuck),
}

/// Everything that a pass keeps.
pub struct Pass<'a> {
    pub(super) scene: &'a Scene,
    pub(super) now: UtcMs,
    pub(super) rules: &'static dyn Rules,
    pub(super) nodes: Vec<&'a Arc<NodeView>>,
    pub(super) with_kind: Arc<Vec<Vec<u32>>>,
    pub(super) kinds: Arc<Kinds>,
    pub(super) asks: Asks,
    pub(super) book: Book,
    /// What is free now.
    pub(super) capacity: Capacity,
    /// What is free once those have ended that are being ended, less what is kept for others.
    pub(super) soon: Capacity,
    pub(super) grid: Grid,
    pub(super) runs: Vec<Run<'a>>,
    /// By flavor: places of those that hold some of it, ascending.
    pub(super) of_flavor: Vec<Vec<u32>>,
    pub(super) on_node: Vec<Vec<u32>>,
    pub(super) jobs: Vec<Job<'a>>,
    /// By place among all that wait: the next time at which something about it changes by time alone.
    pub(super) next_of: Vec<Option<UtcMs>>,
    pub(super) promises: Promises,
    /// Who would start at once by numbers and does not by places, and since when nothing changed about that.
    pub(super) no_due: BTreeMap<Alike, Moment>,
    /// Ways that one job has, written anew for each.
    pub(super) ways: Vec<Way>,
    /// By target: conditions and nodes for which no place is free.
    pub(super) nothing_free: Vec<Vec<(u32, u32)>>,
    /// By target, conditions and nodes: the best place that is free.
    pub(super) best_free: BTreeMap<(usize, u32, u32), Free>,
    /// By target and conditions, and how urgent: the shortest span of time for which no place was found.
    pub(super) no_place: BTreeMap<(usize, u32, u32, u8), UtcMs>,
    pub(super) tables: Tables,
    pub(super) out: Proposal<Why>,
    /// Jobs with devices that are kept for them.
    pub(super) held: BTreeSet<JobId>,
    /// Those of them that start.
    pub(super) started: BTreeSet<JobId>,
    /// Who comes after others that are behind it: they are more entitled and would end it at once.
    pub(super) after_owners: BTreeMap<JobId, Vec<JobId>>,
    decided: Vec<bool>,
    /// How many times it began, with this one.
    pub(super) round: usize,
    /// It is known that it does not begin again.
    pub(super) is_sure: bool,
    /// Somebody was added to these: the pass begins again.
    pub(super) again: bool,
    /// It may not.
    pub(super) last: bool,
    /// It goes on to the end all the same, so that all who come first are found at once.
    pub(super) to_the_end: bool,
    /// By preemption.
    pub(super) planned: Vec<Planned>,
    pub(super) stuck: Vec<(usize, Stuck)>,
    /// How many wait for devices: what others do by time alone matters to them.
    pub(super) stuck_devices: usize,
    /// The next time at which something stops keeping a job back.
    pub(super) blocked_until: Option<UtcMs>,
    /// Somebody was refused a place that was promised to another.
    pub(super) refused: bool,
    pub(super) full: bool,
    /// A closer look is taken at one job: nothing else changes.
    pub(super) closer: Option<&'a Closer<'a>>,
    /// What was seen of it.
    pub(super) seen: Option<Box<Seen>>,
    /// It was put off at its first turn.
    put_off: bool,
    /// Nothing that comes later matters to who asked.
    pub(super) stop: bool,
    /// Before anybody's turn, if a closer look is taken.
    pub(super) book_before: Option<Box<Book>>,
    /// While it is taken: an empty cluster, and one that holds only what jobs ahead hold.
    pub(super) emptied: Option<Box<(Capacity, Capacity)>>,
    pub(super) marks: Vec<&'static str>,
}

impl<'a> Pass<'a> {
    /// Everything as the scene has it. What is lent of the memo is given back by [`Self::give_back`].
    pub fn new(scene: &'a Scene, now: UtcMs, memo: &mut Memo) -> Self {
        let ledger = Ledger::new(scene.teams.values().map(|team| &**team));
        let asks = memo.renew(scene, &ledger, now);
        let ground = &memo.ground;
        let nodes: Vec<&Arc<NodeView>> = scene.nodes.values().collect();
        let mut pass = Self {
            scene,
            now,
            rules: policy::rules(scene.settings.policy),
            with_kind: ground.with_kind.clone(),
            book: Book::new(scene, ledger, &ground.kinds),
            asks,
            soon: ground.capacity.clone(),
            capacity: ground.capacity.clone(),
            runs: Vec::with_capacity(scene.running.len()),
            of_flavor: vec![Vec::new(); ground.kinds.flavors.len()],
            on_node: vec![Vec::new(); nodes.len()],
            jobs: Vec::with_capacity(scene.waiting.len()),
            next_of: Vec::with_capacity(scene.waiting.len()),
            promises: Promises::new(nodes.len()),
            no_due: BTreeMap::new(),
            ways: Vec::new(),
            nothing_free: Vec::new(),
            best_free: BTreeMap::new(),
            no_place: BTreeMap::new(),
            tables: Tables::default(),
            out: Proposal {
                starts: Vec::new(),
                preemptions: Vec::new(),
                withdrawn: Vec::new(),
                reservations: Vec::new(),
                reasons: BTreeMap::new(),
                next: None,
            },
            held: BTreeSet::new(),
            started: BTreeSet::new(),
            after_owners: BTreeMap::new(),
            decided: Vec::new(),
            round: 1,
            is_sure: false,
            again: false,
            last: false,
            to_the_end: false,
            planned: Vec::new(),
            stuck: Vec::new(),
            stuck_devices: 0,
            blocked_until: None,
            refused: false,
            full: false,
            closer: None,
            seen: None,
            put_off: false,
            stop: false,
            book_before: None,
            emptied: None,
            marks: Vec::new(),
            nodes,
            kinds: ground.kinds.clone(),
            grid: ground.grid.clone(),
        };
        pass.add_runs(&memo.attempts);
        pass.add_jobs(&mut memo.queue);
        pass
    }

    /// What was lent of the memo.
    pub(super) fn give_back(&mut self, memo: &mut Memo) {
        memo.give_back(std::mem::take(&mut self.asks));
    }

    /// The places of devices of seats.
    pub(super) fn parts(&self, seats: &[Seat]) -> Vec<Part> {
        runs::parts(&self.nodes, seats)
    }

    /// The number of a node.
    pub(super) fn node_number(&self, name: &Arc<str>) -> Option<u32> {
        runs::node_number(&self.nodes, name)
    }

    fn add_runs(&mut self, kept: &Attempts) {
        let scene = self.scene;
        let places = self.team_places(kept.teams.all());
        let mut last: Option<JobId> = None;
        for (running, kept) in scene.running.values().zip(&kept.all) {
            let team = places.get(kept.team as usize).copied().flatten();
            let run = runs::attempt(scene, running, team, kept, self.now);
            if run.ending {
                self.soon.release(running);
                self.book.ends(team, &run.charges, &self.kinds);
            }
            // Attempts of one job stand side by side.
            if last != Some(running.id) {
                self.book.runs(team);
            }
            last = Some(running.id);
            self.add_run(run);
        }
    }

    /// The places of teams in the ledger.
    fn team_places(&self, names: &[Arc<str>]) -> Vec<Option<usize>> {
        names.iter().map(|name| self.book.now.team(name)).collect()
    }

    /// One more holds something: the grid already knows.
    pub(super) fn add_run(&mut self, run: Run<'a>) {
        let number = u32::try_from(self.runs.len()).unwrap_or(u32::MAX);
        for part in run.parts.iter() {
            let here = &mut self.on_node[part.node as usize];
            if here.last() != Some(&number) {
                here.push(number);
            }
        }
        for (flavor, _) in run.charges.iter() {
            if let Some(all) = self.of_flavor.get_mut(*flavor as usize) {
                all.push(number);
            }
        }
        self.runs.push(run);
    }

    fn add_jobs(&mut self, queue: &mut Queue) {
        let scene = self.scene;
        let places = self.team_places(queue.teams.all());
        let ranks = queue.people.ranks(scene, queue.teams.all());
        let waiting: Vec<&'a Waiting> = scene.waiting.values().map(|job| &**job).collect();
        for (job, entry) in waiting.iter().zip(&queue.all) {
            if !entry.is_blocked {
                continue;
            }
            if let Some(blocked) = &job.blocked {
                self.out.reasons.insert(job.id, blocked_why(blocked));
                self.blocked_until = self.blocked_until.into_iter().chain(entry.next).min();
            }
        }
        let job = |place: &u32| {
            let at = *place as usize;
            let (entry, waiting) = (queue.all.get(at)?, *waiting.get(at)?);
            let mut turn = entry.turn;
            turn.set_share(
                ranks
                    .get(entry.person as usize)
                    .copied()
                    .unwrap_or(u32::MAX),
            );
            Some(Job {
                waiting,
                id: entry.id(),
                place: *place,
                class: entry.class,
                least: entry.least,
                units: entry.units,
                is_plain: entry.is_plain,
                team: places.get(entry.team as usize).copied().flatten(),
                user: entry.user,
                ask: entry.ask,
                terms: entry.terms,
                turn,
            })
        };
        self.jobs.extend(queue.order.iter().filter_map(job));
        self.next_of
            .extend(queue.all.iter().map(|entry| entry.next));
        // Stable: what is almost in order costs little.
        self.jobs.sort_by_key(|job| job.turn);
        queue.order.clear();
        queue.order.extend(self.jobs.iter().map(|job| job.place));
    }

    /// What lies ahead, as things stand.
    pub(super) fn ahead(&self) -> Ahead<'_, 'a> {
        Ahead {
            now: self.now,
            grid: &self.grid,
            runs: &self.runs,
            on_node: &self.on_node,
            nodes: &self.nodes,
            promises: &self.promises,
            with_kind: &self.with_kind,
        }
    }

    /// A job that asks about what lies ahead.
    pub(super) fn asker(&self, job: &Job<'a>) -> Asker<'a> {
        let units = job.waiting.ask.units(job.waiting.ask.nodes.least());
        let protected = estimate::protected(
            &self.scene.settings,
            job.waiting.class,
            job.waiting.limit_ms,
        );
        // One with a limit holds its devices until it has ended, as for those who ask whether it breaks their promise.
        let limited = job.waiting.limit_ms.map(|_| protected);
        Asker {
            job: job.waiting,
            aged: job.turn.is_aged(),
            length: limited.unwrap_or_else(|| estimate::waiting(self.scene, job.waiting, units)),
            takes_back: None,
            protected,
        }
    }

    /// A property of the policy was exercised: tests count these.
    pub(super) fn mark(&mut self, what: &'static str) {
        self.marks.push(what);
    }

    /// All that waits, once.
    pub fn run(&mut self) {
        if self.scene.starts_paused {
            for job in &self.jobs {
                self.out
                    .reasons
                    .insert(job.waiting.id, Why::SchedulingPaused);
            }
            self.out.reservations = self
                .scene
                .reservations
                .values()
                .map(|one| (**one).clone())
                .collect();
            return;
        }
        self.book_before = self.closer.map(|_| Box::new(self.book.clone()));
        self.settle_holds();
        self.renew_promises();
        self.decided = vec![false; self.jobs.len()];
        let mut at = 0;
        while at < self.jobs.len() {
            let class = self.jobs[at].class;
            let end = at + self.jobs[at..].partition_point(|job| job.class == class);
            let mut borrowers: Vec<usize> = Vec::new();
            for job in at..end {
                let first = !self.jobs[job].turn.is_aged();
                if self.consider(job, first) {
                    borrowers.push(job);
                }
                if self.is_over() {
                    return;
                }
            }
            for job in borrowers {
                self.consider(job, false);
                if self.is_over() {
                    return;
                }
            }
            at = end;
        }
        self.finish();
    }

    /// Whether nobody asks for the rest.
    fn is_over(&self) -> bool {
        self.stop || (self.again && !self.to_the_end)
    }

    /// One job at its turn, after those who come before it by entitlement. `inside`: only if it would start inside its nominal; true: it would not, and is put off.
    fn consider(&mut self, at: usize, inside: bool) -> bool {
        if self.decided[at] {
            return false;
        }
        let id = self.jobs[at].id;
        if let Some(owners) = self.after_owners.get(&id).cloned() {
            self.decided[at] = true;
            for owner in owners {
                if let Some(owner) = self.jobs.iter().position(|job| job.id == owner) {
                    self.consider(owner, false);
                }
            }
        }
        if self.out.starts.len() >= STARTS_MAX || self.out.preemptions.len() >= PREEMPTIONS_MAX {
            self.full = true;
        }
        let outcome = if self.full {
            Outcome::Stuck(Stuck::Ahead)
        } else {
            self.decide(at, inside)
        };
        self.decided[at] = outcome != Outcome::Deferred;
        if self.closer.is_some_and(|closer| closer.job == id) {
            match &outcome {
                Outcome::Stuck(why) => self.look_closer(at, why, self.put_off),
                Outcome::Deferred => self.put_off = true,
                Outcome::Done => {}
            }
        }
        let deferred = outcome == Outcome::Deferred;
        if let Outcome::Stuck(why) = outcome {
            self.stuck_devices += usize::from(!why.is_final());
            self.stuck.push((at, why));
        }
        if !deferred && !self.full {
            self.drop_stale(at);
        }
        deferred
    }

    /// The proposal of a pass that ran.
    pub fn into_proposal(self) -> Proposal<Why> {
        self.out
    }

    fn finish(&mut self) {
        self.recheck();
        self.explain_stuck();
        self.out.next = self.next_change();
        self.out.reservations = self.reservations();
    }
}

/// The word of what holds whatever is free.
pub fn blocked_why(blocked: &Blocked) -> Why {
    match blocked {
        Blocked::Held => Why::HeldByUser,
        Blocked::StartTime(at) => Why::StartTime(*at),
        Blocked::Dependency(job) => Why::Dependency(*job),
        Blocked::Backoff(until) => Why::RetryBackoff(*until),
        Blocked::LastAttempt => Why::AttemptEnds,
    }
}
