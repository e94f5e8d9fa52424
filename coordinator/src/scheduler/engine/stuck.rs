//! Why a job is stuck, as the pass finds it, and the words that are made of it once for all with equal requests (docs/SCHEDULING.md, Why a job waits). Does NOT look at one job's nodes unless
//! numbers of devices alone do not explain it.
use std::collections::BTreeMap;
use std::sync::Arc;

use mlctl_proto::ids::JobId;
use mlctl_proto::units::UtcMs;

use super::ahead;
use super::pass::Pass;
use super::why::Why;
use crate::state::rules::quota::Shortfall;
use crate::state::view::ask::Gpus;
use crate::state::view::nodes::Open;

/// What a pass found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stuck {
    /// That.
    Said(Why),
    /// The inequality that fails.
    Quota(Arc<Shortfall>),
    /// No such devices.
    Missing,
    /// Of that target there is no place.
    Devices(usize),
    /// It would delay that promise.
    Promise(JobId, UtcMs),
    /// It may not preempt yet.
    Cooldown(UtcMs),
    /// Those that are being ended anyway make room for it.
    Ending,
    /// This pass is full.
    Ahead,
}

impl Stuck {
    /// Of several that hold, the heaviest is said.
    pub fn weight(&self) -> u8 {
        match self {
            Self::Missing | Self::Ahead => 0,
            Self::Quota(_) => 1,
            Self::Said(_) => 2,
            Self::Devices(_) => 3,
            Self::Promise(..) => 4,
            Self::Cooldown(_) => 5,
            Self::Ending => 6,
        }
    }

    /// Whether nobody's ending would help.
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Said(_) | Self::Missing | Self::Ahead)
    }
}

/// Free units and nodes of one kind of devices.
#[derive(Debug, Clone, Default)]
struct Stock {
    free: u64,
    /// By whole free devices: nodes that have so many or more.
    nodes: Vec<u32>,
    /// The same of nodes that take no work, and of those that are off.
    closed: Vec<u32>,
    waking: Vec<u32>,
    wakes: UtcMs,
}

impl<'a> Pass<'a> {
    /// Writes the reason of all that are stuck.
    pub(super) fn explain_stuck(&mut self) {
        let stock = self.stock();
        let mut known: BTreeMap<(usize, u32), Why> = BTreeMap::new();
        // In the scene's order, which is almost that of ids; of several words for one job the last one counts.
        let mut reasons: Vec<Option<(JobId, Why)>> = vec![None; self.scene.waiting.len()];
        for (at, stuck) in std::mem::take(&mut self.stuck) {
            let job = self.jobs[at];
            let why = match stuck {
                Stuck::Said(why) => why,
                Stuck::Quota(short) => Why::QuotaExceeded(short),
                Stuck::Missing => Why::GpuTypeMissing,
                Stuck::Promise(job, start_ms) => Why::Reservation { job, start_ms },
                Stuck::Cooldown(until) => Why::PreemptCooldown { until },
                Stuck::Ending => Why::AttemptEnds,
                Stuck::Ahead => Why::JobsAhead {
                    ahead: u32::try_from(at).unwrap_or(u32::MAX),
                },
                Stuck::Devices(target) => {
                    let found = known
                        .entry((target, job.terms))
                        .or_insert_with(|| self.devices(&stock, at, target));
                    found.clone()
                }
            };
            if let Some(reason) = reasons.get_mut(job.place as usize) {
                *reason = Some((job.id, why));
            }
        }
        let blocked = std::mem::take(&mut self.out.reasons);
        // All at once.
        self.out.reasons = blocked
            .into_iter()
            .chain(reasons.into_iter().flatten())
            .collect();
    }

    fn stock(&self) -> Vec<Stock> {
        let mut stock = vec![Stock::default(); self.kinds.kinds.len()];
        let mut whole: Vec<(u16, usize)> = Vec::new();
        for (node, view) in self.nodes.iter().enumerate() {
            for device in self.grid.devices(node) {
                let kind = self.grid.kind(device);
                if view.open == Open::Now {
                    let free = &mut stock[usize::from(kind)].free;
                    *free = free.saturating_add(u64::from(self.grid.free[device]));
                }
                if self.grid.is_free(device) {
                    match whole.iter_mut().find(|(known, _)| *known == kind) {
                        Some((_, count)) => *count += 1,
                        None => whole.push((kind, 1)),
                    }
                }
            }
            for (kind, count) in whole.drain(..) {
                let one = &mut stock[usize::from(kind)];
                let nodes = match view.open {
                    Open::Now => &mut one.nodes,
                    Open::No => &mut one.closed,
                    Open::From(at) => {
                        one.wakes = if one.waking.is_empty() {
                            at
                        } else {
                            one.wakes.min(at)
                        };
                        &mut one.waking
                    }
                };
                if nodes.len() <= count {
                    nodes.resize(count + 1, 0);
                }
                nodes[..=count].iter_mut().for_each(|nodes| *nodes += 1);
            }
        }
        stock
    }

    /// Why a target has no place, by numbers.
    fn devices(&self, stock: &[Stock], at: usize, target: usize) -> Why {
        let job = self.jobs[at].waiting;
        let target = &self.asks.targets[target];
        let wide = target.ask.nodes.least();
        let (count, needs) = match target.ask.gpus {
            Gpus::Whole(count) | Gpus::Mig { count, .. } => {
                (count as usize, target.ask.units(wide))
            }
            Gpus::Share(_) => (0, target.ask.units(wide)),
            Gpus::None => (0, 0),
        };
        if target.ask.gpus == Gpus::None {
            return Why::CpuOrMemory { fitting: 0 };
        }
        let of = |nodes: &[u32]| nodes.get(count).copied().unwrap_or(0);
        let kinds = || target.kinds.iter().map(|kind| &stock[usize::from(*kind)]);
        // The kind with the most room: a gang has one.
        let Some(best) = kinds().max_by_key(|one| (of(&one.nodes), one.free)) else {
            return Why::GpuTypeMissing;
        };
        let fitting = of(&best.nodes);
        if fitting >= wide && (count > 0 || best.free >= needs) {
            return self.beside_devices(job, target, fitting);
        }
        if let Some(one) =
            kinds().find(|one| of(&one.nodes) + of(&one.waking) >= wide && !one.waking.is_empty())
        {
            return Why::WakingNodes {
                nodes: of(&one.waking),
                from: one.wakes,
            };
        }
        if let Some(one) =
            kinds().find(|one| of(&one.nodes) + of(&one.closed) >= wide && of(&one.closed) > 0)
        {
            return Why::NodeDrained {
                nodes: of(&one.closed),
            };
        }
        let most = kinds().map(|one| one.free).max().unwrap_or(0);
        if most < needs {
            return Why::InsufficientGpus { needs, free: most };
        }
        Why::Fragmented {
            free: most,
            nodes: wide,
            fitting,
        }
    }

    /// Devices are there, and still there is no place: what else is it?
    fn beside_devices(
        &self,
        job: &crate::state::view::jobs::Waiting,
        target: &super::targets::Target,
        fitting: u32,
    ) -> Why {
        let avoided = self
            .nodes
            .iter()
            .filter(|node| job.avoid.contains(&node.name))
            .count();
        if avoided > 0 {
            return Why::ExcludedNodes {
                nodes: u32::try_from(avoided).unwrap_or(u32::MAX),
            };
        }
        let need = ahead::need(target, None);
        let (mut room, mut window) = (0_u32, None);
        for (node, view) in self.nodes.iter().enumerate() {
            if view.open != Open::Now || !ahead::suits(view, job, &target.ask) {
                continue;
            }
            let mut free = self.grid.free[self.grid.devices(node)].to_vec();
            let mut amounts = self.grid.amounts[node];
            if self.grid.satisfy(node, &mut free, &mut amounts, &need) {
                room += 1;
                let ahead = view
                    .windows
                    .iter()
                    .map(|(_, end)| *end)
                    .find(|end| *end > self.now);
                window = window.into_iter().chain(ahead).min();
            }
        }
        let wide = target.ask.nodes.least();
        match window {
            Some(until) if room >= wide => Why::Maintenance { until },
            _ if room >= wide => Why::Fragmented {
                free: target.ask.units(fitting),
                nodes: wide,
                fitting: room,
            },
            _ => Why::CpuOrMemory { fitting },
        }
    }
}
