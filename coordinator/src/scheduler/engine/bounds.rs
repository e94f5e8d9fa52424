//! When each node could have so many whole devices free at the earliest: a bound that costs a look at a short list, so that exact looks ahead are few. Does NOT know
//! promises, kinds of devices, nor what is needed beside devices: with these it takes as long or longer.
use mlctl_proto::units::UtcMs;

use super::grid::Grid;
use super::runs::Run;
use crate::state::view::ask::Gpus;
use crate::state::view::jobs::Class;

/// Of one node: how many devices are whole from then on at most, ascending in both.
type Steps = Vec<(UtcMs, usize)>;

/// Of all nodes, for a reservation of each class; made when they are needed, and anew after something changed on a node.
#[derive(Debug, Default)]
pub struct Bounds {
    nodes: Vec<[Option<Steps>; Class::ALL.len()]>,
}

impl Bounds {
    /// None yet, of so many nodes.
    pub fn new(nodes: usize) -> Self {
        Self { nodes: vec![[const { None }; Class::ALL.len()]; nodes] }
    }

    /// Something starts, ends or is kept on a node.
    pub fn touch(&mut self, node: u32) {
        if let Some(steps) = self.nodes.get_mut(node as usize) {
            *steps = [const { None }; Class::ALL.len()];
        }
    }

    /// Makes those of a class that are not known.
    pub fn make(&mut self, class: Class, grid: &Grid, runs: &[Run<'_>], on_node: &[Vec<u32>], now: UtcMs) {
        for (node, known) in self.nodes.iter_mut().enumerate() {
            let known = &mut known[class as usize];
            if known.is_none() {
                *known = Some(steps(node, class, grid, runs, &on_node[node], now));
            }
        }
    }

    /// The earliest time at which a node could have what a job needs; `None`: never.
    pub fn soonest(&self, class: Class, node: usize, gpus: Gpus, now: UtcMs) -> Option<UtcMs> {
        let wants = match gpus {
            Gpus::Whole(count) | Gpus::Mig { count, .. } => count as usize,
            Gpus::Share(_) | Gpus::None => return Some(now),
        };
        match self.nodes.get(node).map(|known| &known[class as usize]) {
            Some(Some(steps)) => steps.iter().find(|(_, whole)| *whole >= wants).map(|(at, _)| *at),
            _ => Some(now),
        }
    }
}

fn steps(node: usize, class: Class, grid: &Grid, runs: &[Run<'_>], here: &[u32], now: UtcMs) -> Steps {
    let mut ends: Vec<(UtcMs, usize)> = Vec::with_capacity(here.len() + 1);
    for run in here.iter().map(|run| &runs[*run as usize]).filter(|run| !run.gone) {
        let parts = run.parts.iter().filter(|part| part.node as usize == node);
        let devices: usize = parts.map(|part| part.devices.len()).sum();
        ends.push((run.ends_for(class, now).max(now), devices));
    }
    ends.sort_unstable();
    let mut whole = grid.devices(node).filter(|device| grid.is_free(*device)).count();
    let mut steps = Vec::with_capacity(ends.len() + 1);
    steps.push((now, whole));
    for (at, devices) in ends {
        whole = whole.saturating_add(devices);
        steps.push((at, whole));
    }
    steps
}
