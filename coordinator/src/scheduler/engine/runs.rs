//! Who holds what, and until when as far as anybody can say: attempts, starts of this pass, and jobs for which others are being ended. Does NOT decide who may be ended.
use std::borrow::Borrow;
use std::sync::Arc;

use mlctl_proto::ids::{Epoch, JobId};
use mlctl_proto::units::UtcMs;

use super::estimate;
use super::grid::Grid;
use super::kinds::Kinds;
use super::memo::Kept;
use super::pass::Job;
use crate::state::rules::taking::takeable_from;
use crate::state::view::ask::Ask;
use crate::state::view::jobs::{Class, Footing, Hold, Running, Seat};
use crate::state::view::nodes::NodeView;
use crate::state::view::scene::Scene;

/// What an entry stands for.
#[derive(Debug, Clone, Copy)]
pub enum Source<'a> {
    /// An attempt that runs.
    Attempt(&'a Running),
    /// A start of this pass, by place.
    Start(usize),
    /// Devices are kept for it.
    Promise(&'a Hold),
    /// Others are ended for it by this pass.
    Planned,
}

/// One node's part of what somebody holds.
#[derive(Debug, Clone)]
pub struct Part {
    /// The node's number.
    pub node: u32,
    /// Devices that are free when it ends.
    pub devices: Vec<u16>,
    /// Of how many that it holds.
    pub whole: usize,
}

/// One that holds something.
#[derive(Debug, Clone)]
pub struct Run<'a> {
    /// What it is.
    pub source: Source<'a>,
    /// Its job.
    pub job: JobId,
    /// Its team's place.
    pub team: Option<usize>,
    /// Its class.
    pub class: Class,
    /// What it asked for.
    pub ask: Arc<Ask>,
    /// Where.
    pub parts: Arc<Vec<Part>>,
    /// By flavor, units.
    pub charges: Arc<Vec<(u32, u64)>>,
    /// When it was started.
    pub start: UtcMs,
    /// Submit and id, for ties.
    pub submit: (u64, JobId),
    /// When it ends, as far as anybody can say.
    pub end: UtcMs,
    /// From then on a due reservation may take its devices: it has no limit, or it is a guest.
    pub takeable: Option<UtcMs>,
    /// It is being ended.
    pub ending: bool,
    /// It goes elsewhere: this counts no more.
    pub gone: bool,
}

impl<'a> Run<'a> {
    /// When it makes room for a reservation of a class: at the latest when that may take its devices.
    pub fn ends_for(&self, class: Class, now: UtcMs) -> UtcMs {
        match self.takeable {
            Some(at) if !self.ending && self.class <= class => self.end.min(at.max(now)),
            _ => self.end,
        }
    }

    /// Whether a due reservation of a class may take its devices now (docs/SCHEDULING.md, Overtime and guests).
    pub fn is_takeable(&self, class: Class, now: UtcMs) -> bool {
        !self.ending
            && !self.gone
            && self.class <= class
            && self.takeable.is_some_and(|at| at <= now)
    }

    /// The attempt, if it is one.
    pub fn attempt(&self) -> Option<&'a Running> {
        match self.source {
            Source::Attempt(running) => Some(running),
            _ => None,
        }
    }

    /// Which attempt of its job.
    pub fn epoch(&self) -> Option<Epoch> {
        self.attempt().map(|running| running.epoch)
    }

    /// Units in all.
    pub fn units(&self) -> u64 {
        self.charges
            .iter()
            .fold(0, |sum, (_, units)| sum.saturating_add(*units))
    }
}

/// By flavor, what devices of these parts count as.
pub fn charges(parts: &[Part], ask: &Ask, grid: &Grid, kinds: &Kinds) -> Vec<(u32, u64)> {
    let mut found: Vec<(u32, u64)> = Vec::new();
    for part in parts {
        let each = ask.gpus.units().checked_div(part.whole as u64).unwrap_or(0);
        for device in &part.devices {
            let Some(at) = grid.at(part.node as usize, *device) else {
                continue;
            };
            let flavor = kinds.kinds[usize::from(grid.kind(at))].flavor;
            match found.iter_mut().find(|(known, _)| *known == flavor) {
                Some((_, units)) => *units = units.saturating_add(each),
                None => found.push((flavor, each)),
            }
        }
    }
    found.sort_unstable();
    found
}

/// The number of a node among all, which stand in the order of their names.
pub fn node_number<T: Borrow<Arc<NodeView>>>(nodes: &[T], name: &str) -> Option<u32> {
    let found = nodes.binary_search_by(|node| (*node.borrow().name).cmp(name));
    found.ok().and_then(|place| u32::try_from(place).ok())
}

/// The places of devices of seats.
pub fn parts<T: Borrow<Arc<NodeView>>>(nodes: &[T], seats: &[Seat]) -> Vec<Part> {
    let part = |seat: &Seat| {
        Some(Part {
            node: node_number(nodes, &seat.node)?,
            devices: seat.devices.clone(),
            whole: seat.devices.len(),
        })
    };
    seats.iter().filter_map(part).collect()
}

/// An attempt, of which it is known where it is.
pub fn attempt<'a>(
    scene: &Scene,
    running: &'a Running,
    team: Option<usize>,
    kept: &Kept,
    now: UtcMs,
) -> Run<'a> {
    let (parts, charges) = (kept.parts.clone(), kept.charges.clone());
    let units = charges
        .iter()
        .fold(0_u64, |sum, (_, units)| sum.saturating_add(*units));
    let how = (running.footing, running.limit_ms);
    let protected = takeable_from(&scene.settings, running.class, how, running.started_ms);
    Run {
        source: Source::Attempt(running),
        job: running.id,
        team,
        class: running.class,
        ask: running.ask.clone(),
        parts,
        charges,
        start: running.started_ms,
        submit: (running.submit_index, running.id),
        end: estimate::running(scene, running, units, now),
        takeable: protected,
        ending: running.ends_by_ms.is_some(),
        gone: false,
    }
}

/// A job that starts now, or once others have ended.
pub fn start<'a>(
    scene: &Scene,
    source: Source<'a>,
    job: &Job<'_>,
    parts: Vec<Part>,
    charges: Vec<(u32, u64)>,
    from: UtcMs,
    footing: Footing,
) -> Run<'a> {
    let (job, team) = (job.waiting, job.team);
    let units = charges
        .iter()
        .fold(0_u64, |sum, (_, units)| sum.saturating_add(*units));
    let takeable = match (footing, job.limit_ms) {
        (Footing::Guest(until), _) => Some(until),
        (Footing::Regular, Some(_)) => None,
        (Footing::Regular, None) => Some(estimate::after(
            from,
            estimate::protected(&scene.settings, job.class, None),
        )),
    };
    Run {
        source,
        job: job.id,
        team,
        class: job.class,
        ask: job.ask.clone(),
        parts: Arc::new(parts),
        charges: Arc::new(charges),
        start: from,
        submit: (job.submit_index, job.id),
        end: estimate::after(from, estimate::waiting(scene, job, units)),
        takeable,
        ending: false,
        gone: false,
    }
}
