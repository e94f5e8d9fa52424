//! The closer look that a pass takes at one job, at its turn: which blockers there may be, the fewest of them that would have to go, and what holds. Changes nothing of
//! the pass. Does NOT put it into words.
use mlctl_proto::ids::JobId;
use mlctl_proto::units::UtcMs;

use super::blocker::{Blocker, Lifts, fewest};
use super::edits::{Candidate, Variants};
use super::found::{Check, Eta, Place, Reason};
use crate::scheduler::engine::book::Standing;
use crate::scheduler::engine::decide;
use crate::scheduler::engine::pass::Pass;
use crate::scheduler::engine::runs::Source;
use crate::scheduler::engine::stuck::Stuck;
use crate::scheduler::engine::why::Why;
use crate::state::view::jobs::Footing;
use crate::state::view::nodes::Open;

/// Whom to look at.
pub struct Closer<'a> {
    /// The job.
    pub job: JobId,
    /// How it may be changed.
    pub variants: &'a Variants,
}

/// What was seen.
#[derive(Debug, Default)]
pub struct Seen {
    /// The fewest that would have to go.
    pub reasons: Vec<Reason>,
    /// What holds.
    pub checks: Vec<Check>,
    /// When it starts.
    pub eta: Eta,
    /// Changes that help, at its turn.
    pub edits: Vec<Candidate>,
    /// Starts that were promised to others ahead of it: nothing that helps it may make these later.
    pub promised: Vec<(JobId, UtcMs)>,
}

impl<'a> Pass<'a> {
    /// It was that job's turn, and it waits. `deferred`: it was its turn before, and it was put off.
    pub(in crate::scheduler::engine) fn look_closer(
        &mut self,
        at: usize,
        stuck: &Stuck,
        deferred: bool,
    ) {
        let job = self.jobs[at];
        let Some(closer) = self.closer.filter(|closer| closer.job == job.waiting.id) else {
            return;
        };
        let ahead = self
            .promises
            .all
            .iter()
            .filter(|one| one.turn < job.turn)
            .map(|one| (one.job, one.said));
        let mut seen = Seen {
            eta: self.eta(at),
            promised: ahead.collect(),
            ..Seen::default()
        };
        if let Stuck::Said(why @ Why::PreemptingOthers { .. }) = stuck {
            seen.reasons = vec![Reason {
                blocker: Blocker::Victims,
                why: why.clone(),
                jobs: Vec::new(),
            }];
        } else if self.full {
            seen.reasons = vec![self.reason(at, &Blocker::Ahead)];
        } else {
            self.make_emptied();
            let all = self.possible(at);
            let least = fewest(all, &mut |lifts| {
                self.would_start(at, lifts, closer.variants)
            });
            seen.reasons = least.iter().map(|one| self.reason(at, one)).collect();
            if seen.reasons.is_empty() {
                seen.reasons.push(self.reason(at, &leading(stuck)));
            }
            seen.checks = self.checks(at, &least);
            self.emptied = None;
            seen.edits = self.edits(at, closer.variants, deferred, &seen.eta);
        }
        self.seen = Some(Box::new(seen));
        // What comes later changes nothing for it, unless somebody ahead would not have started after all.
        self.stop = self.is_sure || self.out.starts.is_empty();
    }

    /// Whether the job would start at its turn if these were gone.
    pub(in crate::scheduler::engine) fn would_start(
        &mut self,
        at: usize,
        lifts: &Lifts,
        variants: &'a Variants,
    ) -> bool {
        let anywhere = lifts.has(&Blocker::Inventory);
        self.as_if(at, lifts, variants, |pass| pass.finds(at, anywhere))
            .is_some()
    }

    /// How it would start: by the same questions as [`Pass::decide`], without starting it. `anywhere`: whatever nodes there are.
    pub(super) fn finds(&mut self, at: usize, anywhere: bool) -> Option<(Standing, Footing)> {
        let job = self.jobs[at];
        if self.limits(&job).is_some() {
            return None;
        }
        let ways = self.ways(&job);
        if ways.is_empty() && anywhere {
            return Some((Standing::Inside, Footing::Regular));
        }
        let nominal_first = self.asks.classes[job.ask as usize].nominal_first;
        for place in decide::order(&ways, nominal_first) {
            let way = &ways[place];
            let Ok(standing) = way.standing.clone() else {
                continue;
            };
            if anywhere {
                if self.budgets_cover(&job, way.target) {
                    return Some((standing, Footing::Regular));
                }
                continue;
            }
            if let Ok((choice, footing)) = self.look(at, way) {
                let charges = self.numbers(&choice);
                let standing = self
                    .book
                    .legal(job.team, &charges, &self.kinds)
                    .unwrap_or(standing);
                return Some((standing, footing));
            }
        }
        None
    }

    fn budgets_cover(&self, job: &crate::scheduler::engine::pass::Job<'a>, target: usize) -> bool {
        let units = job.waiting.ask.units(job.waiting.ask.nodes.least());
        let charge = self.asks.targets[target]
            .flavor
            .map(|flavor| (flavor, units));
        self.book
            .budget(job.waiting, job.team, charge.as_slice(), &self.kinds)
            .is_none()
    }

    /// Every blocker that there may be for a job: if all of them were gone it would start.
    fn possible(&self, at: usize) -> Lifts {
        let job = self.jobs[at];
        let (waiting, ask) = (job.waiting, &job.waiting.ask);
        let any = |open: fn(&Open) -> bool| self.nodes.iter().any(|node| open(&node.open));
        let ahead = |source: &Source<'_>| !matches!(source, Source::Attempt(_));
        let ending = |run: &crate::scheduler::engine::runs::Run<'_>| {
            run.attempt().is_some_and(|one| one.ends_by_ms.is_some())
        };
        let asked = [
            (Blocker::Inventory, true),
            (Blocker::Devices, true),
            (Blocker::Closed, any(|open| matches!(open, Open::No))),
            (
                Blocker::Windows,
                !waiting.preemptible && self.nodes.iter().any(|node| !node.windows.is_empty()),
            ),
            (
                Blocker::Owners,
                self.nodes.iter().any(|node| node.owner.is_some()),
            ),
            (Blocker::Labels, !ask.labels.is_empty()),
            (Blocker::Amounts, true),
            (Blocker::Excluded, !waiting.avoid.is_empty()),
            (Blocker::Waking, any(|open| matches!(open, Open::From(_)))),
            (Blocker::Ending, self.runs.iter().any(ending)),
            (
                Blocker::Ahead,
                self.runs.iter().any(|run| ahead(&run.source)),
            ),
            (
                Blocker::Promises,
                self.promises.all.iter().any(|one| one.job != waiting.id),
            ),
            (
                Blocker::AtOnce,
                waiting.tasks.is_some_and(|tasks| tasks.at_once.is_some()),
            ),
        ];
        let all = asked
            .into_iter()
            .filter_map(|(one, may)| may.then_some(one));
        Lifts::new(all.chain(self.short_of(at)))
    }

    /// Quotas, budgets, countables and numbers of jobs that are too low, for any of its targets.
    fn short_of(&self, at: usize) -> Vec<Blocker> {
        let job = self.jobs[at];
        let mut found: Vec<Blocker> = self
            .quota_shortfalls(at)
            .into_iter()
            .map(|short| Blocker::Quota(short.team, short.flavor))
            .collect();
        for (flavor, units) in self.charges_of(at) {
            let Some(named) = self.kinds.flavors.get(flavor as usize) else {
                continue;
            };
            let levels = job
                .team
                .into_iter()
                .flat_map(|team| self.book.now.path(team));
            let short = levels.filter(|level| {
                self.book
                    .budget_short(*level, flavor, units, job.waiting.limit_ms)
                    .is_some()
            });
            found
                .extend(short.map(|level| {
                    Blocker::Budget(self.book.now.name(level).clone(), named.clone())
                }));
        }
        for (name, needs) in &job.waiting.ask.licenses {
            if self.book.licenses_free(name) < *needs {
                found.push(Blocker::License(name.clone()));
            }
        }
        if let Some(team) = job.team.filter(|team| self.book.runs_all(*team)) {
            found.push(Blocker::Running(self.book.now.name(team).clone()));
        }
        found
    }

    /// What it may be charged for, over all its targets.
    pub(super) fn charges_of(&self, at: usize) -> Vec<(u32, u64)> {
        let job = self.jobs[at];
        let units = job.waiting.ask.units(job.waiting.ask.nodes.least());
        let mut flavors: Vec<u32> = Vec::new();
        for target in &self.asks.targets[self.asks.classes[job.ask as usize].targets.clone()] {
            let mixed = target
                .kinds
                .iter()
                .map(|kind| self.kinds.kinds[usize::from(*kind)].flavor);
            flavors.extend(target.flavor);
            flavors.extend(mixed.filter(|_| target.flavor.is_none()));
        }
        flavors.sort_unstable();
        flavors.dedup();
        flavors.into_iter().map(|flavor| (flavor, units)).collect()
    }

    /// Where it stands.
    pub(super) fn place_of(&self, job: JobId) -> Place {
        let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        let Some(at) = self.jobs.iter().position(|one| one.id == job) else {
            return Place::default();
        };
        let mine = &self.jobs[at];
        let is_kin = |one: &&crate::scheduler::engine::pass::Job<'a>| {
            one.team == mine.team && (one.team.is_some() || one.waiting.team == mine.waiting.team)
        };
        let of_team =
            |jobs: &[crate::scheduler::engine::pass::Job<'a>]| jobs.iter().filter(is_kin).count();
        Place {
            in_team: count(of_team(&self.jobs[..=at])),
            of_team: count(of_team(&self.jobs)),
            overall: count(at + 1),
            of_all: count(self.jobs.len()),
        }
    }
}

/// What the pass says, where it went by what it had found for an equal request and a search of its own would find a place.
fn leading(stuck: &Stuck) -> Blocker {
    match stuck {
        Stuck::Promise(..) => Blocker::Promises,
        Stuck::Quota(short) => Blocker::Quota(short.team.clone(), short.flavor.clone()),
        Stuck::Missing => Blocker::Inventory,
        Stuck::Ending => Blocker::Ending,
        Stuck::Ahead => Blocker::Ahead,
        Stuck::Said(_) | Stuck::Devices(_) | Stuck::Cooldown(_) => Blocker::Devices,
    }
}
