//! Who may be ended for a job, the first to go first (docs/SCHEDULING.md, Preemption). Does NOT look at places.
use std::cmp::Reverse;
use std::collections::BTreeMap;

use super::{Candidate, Mode};
use crate::scheduler::engine::estimate;
use crate::scheduler::engine::pass::Pass;
use crate::scheduler::engine::runs::{Run, Source};
use crate::scheduler::plan::{Entitlement, Taken};
use crate::state::rules::taking::{self, EVICTIONS_MAX};
use crate::state::view::amounts::GPU;
use crate::state::view::ask::Gpus;
use crate::state::view::jobs::{Class, Footing, Running};

/// What one GPU that is taken counts when nodes are compared; then what each attempt that ends counts beside its GPUs, and what it does if it is of the same queue.
const GPU_COST: u64 = 1_000;
const EACH_COST: u64 = 100;
const EQUAL_COST: u64 = 4_000;
/// Work lost counts up to so much, milliseconds.
const LOST_MS_MAX: u64 = 3_600_000;

/// In which order victims go: what costs nothing, surplus, what fewer levels cover, the nearest relative, the team most over its nominal, class, evictions, loss.
type Order = (
    bool,
    bool,
    u32,
    Reverse<usize>,
    Reverse<u64>,
    Class,
    usize,
    u64,
    Reverse<i64>,
    (u64, mlctl_proto::ids::JobId),
);

impl<'a> Pass<'a> {
    /// All that may be ended for a job on these grounds, in the order in which they go.
    pub(super) fn candidates(&mut self, at: usize, target: usize, mode: Mode) -> Vec<Candidate> {
        let mine = self.entitlement(at, target, true);
        let flavor = self.asks.targets[target].flavor;
        let mut found: Vec<Candidate> = match mode {
            Mode::Reclaim | Mode::Entitled => self.less_entitled(flavor, mine, mode),
            Mode::Due | Mode::Slice => self.outside_the_order(at, mode),
        };
        if mode == Mode::Slice {
            // Class, quota and entitlement come first.
            found.retain(|one| one.entitlement <= mine);
        }
        let units = self.jobs[at].waiting.ask.gpus.units();
        let mut sorted: Vec<(Order, Candidate)> = found
            .into_iter()
            .map(|one| (self.order(at, flavor, units, &one), one))
            .collect();
        sorted.sort_by_key(|(order, _)| *order);
        if mode == Mode::Slice {
            // Slices first from those who had most already; then where least is freed that is not needed; then from who came last, so that those before go on to their
            // ends instead of all taking turns.
            let key = |one: &Candidate| {
                let run = &self.runs[one.run];
                let queue = run.attempt().map_or(0, |attempt| {
                    self.rules
                        .queue_of_running(&self.scene.settings, attempt, self.now)
                });
                (
                    Reverse(queue),
                    one.entitlement,
                    run.units().saturating_sub(units),
                    Reverse(run.submit),
                )
            };
            sorted.sort_by_cached_key(|(_, one)| key(one));
        }
        let sorted: Vec<Candidate> = sorted.into_iter().map(|(_, one)| one).collect();
        match self.asks.targets[target].ask.gpus {
            Gpus::Whole(count) if mode == Mode::Slice => {
                self.cheapest_nodes_first(at, count as usize, sorted)
            }
            _ => sorted,
        }
    }

    /// Slices by nodes: first those of the node that is cleared at the least cost, of others only who would have to go there.
    fn cheapest_nodes_first(
        &self,
        at: usize,
        count: usize,
        sorted: Vec<Candidate>,
    ) -> Vec<Candidate> {
        let settings = &self.scene.settings;
        let mine = self.rules.queue(settings, self.jobs[at].waiting, self.now);
        let cost = |run: &Run<'a>| {
            let queue = run.attempt().map_or(mine, |attempt| {
                self.rules.queue_of_running(settings, attempt, self.now)
            });
            let equal = if queue > mine { 0 } else { EQUAL_COST };
            (run.units() / (GPU / GPU_COST))
                .saturating_add(equal)
                .saturating_add(EACH_COST)
        };
        let mut here: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
        for (place, one) in sorted.iter().enumerate() {
            for part in self.runs[one.run].parts.iter() {
                here.entry(part.node).or_default().push(place);
            }
        }
        type Cleared = (
            u64,
            Reverse<Option<(u64, mlctl_proto::ids::JobId)>>,
            u32,
            Vec<usize>,
        );
        let mut nodes: Vec<Cleared> = Vec::with_capacity(here.len());
        for (node, places) in here {
            let mut free = self
                .grid
                .devices(node as usize)
                .filter(|device| self.grid.is_free(*device))
                .count();
            let (mut sum, mut go) = (0_u64, Vec::new());
            for place in places {
                if free >= count {
                    break;
                }
                let run = &self.runs[sorted[place].run];
                let devices = run
                    .parts
                    .iter()
                    .filter(|part| part.node == node)
                    .map(|part| part.devices.len());
                free = free.saturating_add(devices.sum());
                sum = sum.saturating_add(cost(run));
                go.push(place);
            }
            if free >= count {
                let first = go
                    .iter()
                    .map(|place| self.runs[sorted[*place].run].submit)
                    .min();
                nodes.push((sum, Reverse(first), node, go));
            }
        }
        nodes.sort_unstable();
        let mut rank: Vec<usize> = vec![usize::MAX; sorted.len()];
        for (place, (.., go)) in nodes.iter().enumerate() {
            go.iter().for_each(|one| rank[*one] = rank[*one].min(place));
        }
        let mut ranked: Vec<(usize, Candidate)> = rank.into_iter().zip(sorted).collect();
        ranked.sort_by_key(|(rank, _)| *rank);
        ranked.into_iter().map(|(_, one)| one).collect()
    }

    fn less_entitled(
        &mut self,
        flavor: Option<u32>,
        mine: Entitlement,
        mode: Mode,
    ) -> Vec<Candidate> {
        let table = self.table(flavor, true).clone();
        let mut found = Vec::new();
        for (one, place) in table.runs.iter().enumerate() {
            let class = self.runs[*place].class;
            let entitlement = self.least_cover(*place, table.covers.of(one, class), flavor);
            let run = &self.runs[*place];
            let lower =
                entitlement < mine && (mode == Mode::Entitled || entitlement.cover < mine.cover);
            if !lower || !self.may_be_ended(run, entitlement, mine) {
                continue;
            }
            let surplus = run.attempt().is_some_and(|attempt| attempt.surplus > 0);
            let why = if surplus {
                Taken::Surplus
            } else {
                Taken::Entitlement
            };
            found.push(Candidate {
                run: *place,
                entitlement,
                why,
            });
        }
        found
    }

    /// A gang of several types is as entitled as to the one to which it is least.
    fn least_cover(
        &mut self,
        place: usize,
        known: Entitlement,
        flavor: Option<u32>,
    ) -> Entitlement {
        let others: Vec<u32> = self.runs[place]
            .charges
            .iter()
            .map(|(one, _)| *one)
            .filter(|one| Some(*one) != flavor)
            .collect();
        let mut least = known;
        for other in others {
            let class = known.class;
            let table = self.table(Some(other), true);
            if let Some(one) = table.runs.iter().position(|run| *run == place) {
                least = least.min(table.covers.of(one, class));
            }
        }
        least
    }

    fn may_be_ended(&self, run: &Run<'a>, entitlement: Entitlement, mine: Entitlement) -> bool {
        match run.source {
            Source::Promise(_) | Source::Planned => false,
            Source::Start(_) => !self.last,
            Source::Attempt(attempt) => {
                let often = self.evictions(attempt) >= EVICTIONS_MAX;
                !self.is_protected(attempt) && (!often || entitlement.cover < mine.cover)
            }
        }
    }

    fn is_protected(&self, attempt: &Running) -> bool {
        estimate::elapsed(attempt.started_ms, self.now) < attempt.min_runtime_ms
    }

    fn evictions(&self, attempt: &Running) -> usize {
        taking::evictions(&attempt.evicted_ms, self.now)
    }

    /// Overtime and guests for what is due; slices, if the policy has them.
    fn outside_the_order(&mut self, at: usize, mode: Mode) -> Vec<Candidate> {
        let job = self.jobs[at].waiting;
        let mut found = Vec::new();
        for place in 0..self.runs.len() {
            let run = &self.runs[place];
            let Some(attempt) = run.attempt().filter(|_| !run.gone && !run.ending) else {
                continue;
            };
            let may = match mode {
                Mode::Due => run.is_takeable(job.class, self.now),
                // Class comes first: nobody is sliced for one that is less urgent.
                _ => {
                    run.class <= job.class
                        && !self.is_protected(attempt)
                        && self
                            .rules
                            .may_slice(&self.scene.settings, job, attempt, self.now)
                }
            };
            if !may {
                continue;
            }
            let why = match (mode, attempt.footing) {
                (Mode::Slice, _) => Taken::Slice,
                (_, Footing::Guest(_)) => Taken::Guest,
                _ => Taken::Overtime,
            };
            let flavors: Vec<Option<u32>> = match run.charges.as_slice() {
                [] => vec![None],
                charges => charges.iter().map(|(flavor, _)| Some(*flavor)).collect(),
            };
            let class = run.class;
            let mut entitlement = Entitlement {
                cover: u32::MAX,
                class,
            };
            for flavor in flavors {
                let table = self.table(flavor, true);
                if let Some(one) = table.runs.iter().position(|run| *run == place) {
                    entitlement = entitlement.min(table.covers.of(one, class));
                }
            }
            found.push(Candidate {
                run: place,
                entitlement,
                why,
            });
        }
        found
    }

    fn order(&self, at: usize, flavor: Option<u32>, wanted: u64, one: &Candidate) -> Order {
        let run = &self.runs[one.run];
        let attempt = run.attempt();
        let column = flavor.and_then(|flavor| self.kinds.column(flavor));
        let over = run.team.zip(column).map_or(0, |(team, column)| {
            let nominal = self.book.now.nominal_at(team, column).unwrap_or(0);
            let over = self.book.now.load_at(team, column).saturating_sub(nominal);
            let weight = self
                .scene
                .teams
                .get(self.book.now.name(team))
                .map_or(1, |view| view.weight.max(1));
            over.saturating_mul(16) / u64::from(weight)
        });
        let units = run.units();
        let gpus = units.div_ceil(GPU);
        let lost = attempt.map_or(0, |attempt| self.lost_ms(attempt));
        let spare = run.parts.len() as u64
            * units
                .checked_div(run.parts.len() as u64)
                .unwrap_or(0)
                .saturating_sub(wanted);
        let cost = (lost / 1_000)
            .saturating_mul(gpus)
            .saturating_add(spare / GPU);
        (
            attempt.is_some(),
            one.why != Taken::Surplus,
            one.entitlement.cover,
            Reverse(self.kinship(self.jobs[at].team, run.team)),
            Reverse(over),
            run.class,
            attempt.map_or(0, |attempt| self.evictions(attempt)),
            cost,
            Reverse(run.start),
            run.submit,
        )
    }

    /// Work that is lost if an attempt ends now, milliseconds, up to an hour.
    pub(super) fn lost_ms(&self, attempt: &Running) -> u64 {
        if self.scene.settings.always_saved {
            return 0;
        }
        let since = attempt
            .saved_ms
            .unwrap_or(attempt.started_ms)
            .max(attempt.started_ms);
        estimate::elapsed(since, self.now).min(LOST_MS_MAX)
    }

    /// How many teams stand above both.
    fn kinship(&self, one: Option<usize>, other: Option<usize>) -> usize {
        let (Some(one), Some(other)) = (one, other) else {
            return 0;
        };
        let ledger = &self.book.now;
        ledger
            .path(one)
            .filter(|team| ledger.path(other).any(|level| level == *team))
            .count()
    }
}
