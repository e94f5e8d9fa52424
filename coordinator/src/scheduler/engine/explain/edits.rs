//! Changes in place that would let a job start now, or sooner: each is the same job with another request, asked of the same predicates at the same turn, so that
//! nothing that was promised to another is delayed. Does NOT change the job.
use std::collections::BTreeSet;
use std::sync::Arc;

use mlctl_proto::units::UtcMs;

use super::blocker::{Blocker, Lifts};
use super::found::Eta;
use crate::scheduler::engine::book::Standing;
use crate::scheduler::engine::order::Turn;
use crate::scheduler::engine::pass::Pass;
use crate::state::view::amounts::Amounts;
use crate::state::view::ask::{Ask, Gpus, Kind, Width};
use crate::state::view::jobs::{Footing, Tasks, Waiting};
use crate::state::view::policy::Policy;
use crate::state::view::scene::Scene;

/// One change of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// On so many nodes.
    Nodes(u32),
    /// With so many GPUs on each.
    GpusPerNode(u32),
    /// Of any of these types, in that order.
    Types(Vec<Kind>),
    /// With such a limit, milliseconds.
    Limit(u64),
}

/// A change that helps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edit {
    /// What would be changed.
    pub change: Change,
    /// Then the plan of this very state starts it.
    pub starts_now: bool,
    /// It would start beyond nominal: what is borrowed may be taken back.
    pub borrowed: bool,
    /// When it would start, as far as anybody can say, if not now.
    pub eta_ms: Option<UtcMs>,
}

/// A change that helps at the job's turn.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// The change.
    pub edit: Edit,
    /// Nothing that happens later in the pass can be in its way.
    pub is_safe: bool,
    /// The job, changed.
    pub waiting: Waiting,
}

/// Limits that are proposed, milliseconds: round ones, the longest first.
const LIMITS_MS: [u64; 9] = [
    48 * HOUR_MS,
    24 * HOUR_MS,
    12 * HOUR_MS,
    8 * HOUR_MS,
    4 * HOUR_MS,
    2 * HOUR_MS,
    HOUR_MS,
    30 * MINUTE_MS,
    10 * MINUTE_MS,
];
const HOUR_MS: u64 = 3_600_000;
const MINUTE_MS: u64 = 60_000;
/// Of each kind of change so many are estimated at most: each looks at all nodes.
const ESTIMATES_MAX: usize = 2;
/// An estimate has to be earlier by so much to be worth a word, milliseconds.
const SOONER_MS: i64 = 60_000;

/// The job as it would be with other requests.
#[derive(Debug)]
pub struct Variants {
    /// By which of its own conditions are thought away.
    lifted: Vec<Waiting>,
    /// Each kind of change, the smallest one first.
    changed: Vec<Vec<(Change, Waiting)>>,
}

/// Blockers that are conditions of the job itself, by bit.
const OWN: [Blocker; 4] = [
    Blocker::Labels,
    Blocker::Amounts,
    Blocker::Excluded,
    Blocker::AtOnce,
];

impl Variants {
    /// Of a job.
    pub fn new(scene: &Scene, job: &Waiting) -> Self {
        let lifted = (0..1_usize << OWN.len())
            .map(|mask| without(job, mask))
            .collect();
        Self {
            lifted,
            changed: vec![nodes(job), gpus(job), types(scene, job), limits(job)],
        }
    }

    /// The job without those of its own conditions that are thought away.
    pub fn without(&self, lifts: &Lifts) -> &Waiting {
        let mask = OWN
            .iter()
            .enumerate()
            .filter(|(_, one)| lifts.has(one))
            .fold(0, |mask, (bit, _)| mask | 1 << bit);
        &self.lifted[mask]
    }
}

fn without(job: &Waiting, mask: usize) -> Waiting {
    let gone = |bit: usize| mask & (1 << bit) != 0;
    let mut job = job.clone();
    if gone(0) || gone(1) {
        let mut ask = Ask::clone(&job.ask);
        if gone(0) {
            ask.labels.clear();
        }
        if gone(1) {
            ask.amounts = Some(Amounts::NONE);
        }
        job.ask = Arc::new(ask);
    }
    if gone(2) {
        job.avoid.clear();
    }
    if gone(3) {
        job.tasks = job.tasks.map(|tasks| Tasks {
            at_once: None,
            ..tasks
        });
    }
    job
}

fn asking(job: &Waiting, ask: Ask) -> Waiting {
    Waiting {
        ask: Arc::new(ask),
        ..job.clone()
    }
}

/// Smaller numbers: one less, then halves.
fn smaller(number: u32) -> Vec<u32> {
    let mut found: Vec<u32> = std::iter::successors(Some(number / 2), |half| Some(half / 2))
        .take_while(|half| *half > 0)
        .collect();
    if number > 2 && found.first() != Some(&(number - 1)) {
        found.insert(0, number - 1);
    }
    found
}

fn nodes(job: &Waiting) -> Vec<(Change, Waiting)> {
    let Width::Exactly(wide) = job.ask.nodes else {
        return Vec::new();
    };
    let one = |nodes| {
        (
            Change::Nodes(nodes),
            asking(
                job,
                Ask {
                    nodes: Width::Exactly(nodes),
                    ..Ask::clone(&job.ask)
                },
            ),
        )
    };
    smaller(wide).into_iter().map(one).collect()
}

fn gpus(job: &Waiting) -> Vec<(Change, Waiting)> {
    let Gpus::Whole(all) = job.ask.gpus else {
        return Vec::new();
    };
    let one = |gpus| {
        (
            Change::GpusPerNode(gpus),
            asking(
                job,
                Ask {
                    gpus: Gpus::Whole(gpus),
                    ..Ask::clone(&job.ask)
                },
            ),
        )
    };
    smaller(all).into_iter().map(one).collect()
}

/// One more type each, of those that the cluster has.
fn types(scene: &Scene, job: &Waiting) -> Vec<(Change, Waiting)> {
    if job.ask.kinds.is_empty() || job.ask.gpus == Gpus::None {
        return Vec::new();
    }
    let mut models: BTreeSet<&Arc<str>> = BTreeSet::new();
    for node in scene.nodes.values() {
        let mut last: Option<&Arc<str>> = None;
        for device in &node.devices {
            if last != Some(&device.model) {
                models.insert(&device.model);
            }
            last = Some(&device.model);
        }
    }
    let new = models
        .into_iter()
        .filter(|model| !job.ask.kinds.iter().any(|kind| model.contains(&kind.name)));
    let one = |model: &Arc<str>| {
        let memory = job
            .ask
            .kinds
            .iter()
            .map(|kind| kind.memory)
            .min()
            .unwrap_or(0);
        let mut kinds = job.ask.kinds.clone();
        kinds.push(Kind {
            name: model.to_string(),
            memory,
        });
        (
            Change::Types(kinds.clone()),
            asking(
                job,
                Ask {
                    kinds,
                    ..Ask::clone(&job.ask)
                },
            ),
        )
    };
    new.map(one).collect()
}

fn limits(job: &Waiting) -> Vec<(Change, Waiting)> {
    let less = LIMITS_MS
        .into_iter()
        .filter(|limit| job.limit_ms.is_none_or(|old| *limit < old));
    let one = |limit| {
        (
            Change::Limit(limit),
            Waiting {
                limit_ms: Some(limit),
                ..job.clone()
            },
        )
    };
    less.map(one).collect()
}

impl<'a> Pass<'a> {
    /// Of each kind of change the smallest one that starts it now, else one that starts it sooner than `eta`.
    pub(super) fn edits(
        &mut self,
        at: usize,
        variants: &'a Variants,
        deferred: bool,
        eta: &Eta,
    ) -> Vec<Candidate> {
        let mut found = Vec::new();
        for changes in &variants.changed {
            let now = changes
                .iter()
                .find_map(|(change, waiting)| self.starts_as(at, change, waiting, deferred));
            let helps = now.or_else(|| {
                changes
                    .iter()
                    .take(ESTIMATES_MAX)
                    .find_map(|(change, waiting)| self.sooner_as(at, change, waiting, eta))
            });
            found.extend(helps);
        }
        found
    }

    fn starts_as(
        &mut self,
        at: usize,
        change: &Change,
        waiting: &'a Waiting,
        deferred: bool,
    ) -> Option<Candidate> {
        let (standing, footing) = self.as_if_it_were(at, waiting, |pass| pass.finds(at, false))?;
        let borrowed = standing == Standing::Borrows;
        // Who is inside its nominal at every level, at the same turn, is ended by nobody behind it.
        let settings = &self.scene.settings;
        let old = self.jobs[at].waiting;
        let turn = |job: &Waiting| Turn::of(self.rules, settings, job, 0, self.now);
        let same_turn = turn(waiting) == turn(old);
        let is_safe = !borrowed
            && !deferred
            && same_turn
            && footing == Footing::Regular
            && settings.policy == Policy::Fair;
        let edit = Edit {
            change: change.clone(),
            starts_now: true,
            borrowed,
            eta_ms: None,
        };
        Some(Candidate {
            edit,
            is_safe,
            waiting: waiting.clone(),
        })
    }

    fn sooner_as(
        &mut self,
        at: usize,
        change: &Change,
        waiting: &'a Waiting,
        eta: &Eta,
    ) -> Option<Candidate> {
        let Eta::At { start_ms, .. } = eta else {
            return None;
        };
        let start = self.as_if_it_were(at, waiting, |pass| pass.earliest_start(at))?;
        let sooner = start.saturating_add(SOONER_MS) <= *start_ms && start > self.now;
        sooner.then(|| {
            let edit = Edit {
                change: change.clone(),
                starts_now: false,
                borrowed: false,
                eta_ms: Some(start),
            };
            Candidate {
                edit,
                is_safe: true,
                waiting: waiting.clone(),
            }
        })
    }
}
