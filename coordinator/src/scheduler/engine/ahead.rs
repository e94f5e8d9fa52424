//! Looking ahead in time, node by node: when a gang would have room, and whether what starts now delays what was promised (docs/SCHEDULING.md, Reservations). Does NOT decide who is promised
//! anything.
use std::collections::BTreeMap;
use std::sync::Arc;

use mlctl_proto::ids::JobId;
use mlctl_proto::units::UtcMs;

use super::grid::{Grid, Need};
use super::order::Turn;
use super::runs::Run;
use super::targets::Target;
use crate::state::rules::quota::Ledger;
use crate::state::view::amounts::Amounts;
use crate::state::view::ask::{Ask, Gpus, Near};
use crate::state::view::jobs::{Class, Waiting};
use crate::state::view::nodes::{Guests, NodeView, Open};

/// A start that was promised.
#[derive(Debug, Clone)]
pub struct Reserved {
    /// To whom.
    pub job: JobId,
    /// Its class.
    pub class: Class,
    /// Whether it is aged.
    pub aged: bool,
    /// When it is its turn.
    pub turn: Turn,
    /// The number of its owner.
    pub user: u32,
    /// What was said.
    pub said: UtcMs,
    /// When it can be kept, as things stand.
    pub start: UtcMs,
    /// When it would end.
    pub end: UtcMs,
    /// On which nodes, ascending.
    pub nodes: Vec<u32>,
    /// For what.
    pub target: Target,
    /// Of which kind of devices.
    pub kind: Option<u16>,
    /// Quotas as they will stand once it has started; `None`: no quota concerns it.
    pub quotas: Option<Box<Ledger>>,
    /// Whether it borrows then.
    pub borrows: bool,
    /// It was made or kept by this pass, at its owner's turn.
    pub fresh: bool,
}

impl Reserved {
    /// What it needs of each node.
    pub fn need(&self) -> Need<'_> {
        need(&self.target, self.kind)
    }

    /// Whether a job may take what was promised: a higher class, or an aged job of the same (docs/SCHEDULING.md, Reservations); also one ahead of it that takes back what is its own.
    pub fn yields(&self, to: &Asker<'_>) -> bool {
        self.job == to.job.id
            || to.takes_back.is_some_and(|turn| turn < self.turn)
            || to.job.class > self.class
            || (to.job.class == self.class && to.aged && !self.aged)
    }
}

/// All promises, and where they are.
#[derive(Debug, Clone, Default)]
pub struct Promises {
    /// In the order in which they were made.
    pub all: Vec<Reserved>,
    /// By node: places in `all`.
    on_node: Vec<Vec<u32>>,
    /// By kind of devices.
    queues: BTreeMap<Option<u16>, Queue>,
    /// By owner: how many.
    users: BTreeMap<u32, usize>,
    /// To whom, ascending.
    jobs: Vec<JobId>,
    /// How often one was made or went.
    pub changes: u64,
}

/// The promises of one kind of devices.
#[derive(Debug, Clone, Copy)]
pub struct Queue {
    /// How many.
    pub count: usize,
    /// Class and whether it is aged, of the one that yields first.
    pub least: (Class, bool),
}

impl Promises {
    /// None, on so many nodes.
    pub fn new(nodes: usize) -> Self {
        Self {
            on_node: vec![Vec::new(); nodes],
            ..Self::default()
        }
    }

    /// One more.
    pub fn add(&mut self, one: Reserved) {
        let place = u32::try_from(self.all.len()).unwrap_or(u32::MAX);
        for node in &one.nodes {
            self.on_node[*node as usize].push(place);
        }
        self.count(&one);
        self.all.push(one);
        self.changes = self.changes.saturating_add(1);
    }

    /// Whether one was made to a job.
    pub fn has(&self, job: JobId) -> bool {
        self.jobs.binary_search(&job).is_ok()
    }

    fn count(&mut self, one: &Reserved) {
        if let Err(place) = self.jobs.binary_search(&one.job) {
            self.jobs.insert(place, one.job);
        }
        *self.users.entry(one.user).or_default() += 1;
        let urgency = (one.class, one.aged);
        let queue = self.queues.entry(one.kind).or_insert(Queue {
            count: 0,
            least: urgency,
        });
        *queue = Queue {
            count: queue.count + 1,
            least: queue.least.min(urgency),
        };
    }

    /// Those of one kind of devices, if there are any.
    pub fn queue(&self, kind: Option<u16>) -> Option<Queue> {
        self.queues.get(&kind).copied()
    }

    /// How many a user has.
    pub fn of_user(&self, user: u32) -> usize {
        self.users.get(&user).copied().unwrap_or(0)
    }

    /// No promise to that job any more; the one that it had.
    pub fn remove(&mut self, job: JobId) -> Option<Reserved> {
        let place = self.all.iter().position(|one| one.job == job)?;
        let found = self.all.remove(place);
        self.changes = self.changes.saturating_add(1);
        self.on_node.iter_mut().for_each(Vec::clear);
        (self.queues, self.users, self.jobs) = Default::default();
        let all = std::mem::take(&mut self.all);
        all.iter().for_each(|one| self.count(one));
        self.all = all;
        for (place, one) in self.all.iter().enumerate() {
            for node in &one.nodes {
                self.on_node[*node as usize].push(u32::try_from(place).unwrap_or(u32::MAX));
            }
        }
        Some(found)
    }

    /// Those on a node.
    pub fn on(&self, node: usize) -> impl Iterator<Item = &Reserved> {
        self.on_node[node]
            .iter()
            .map(|place| &self.all[*place as usize])
    }
}

/// Who asks.
#[derive(Debug, Clone, Copy)]
pub struct Asker<'a> {
    /// The job.
    pub job: &'a Waiting,
    /// Whether it is aged.
    pub aged: bool,
    /// How long nobody takes its devices, milliseconds.
    pub protected: u64,
    /// How long it runs by estimate, milliseconds.
    pub length: u64,
    /// When it is its turn, if it ends others for what it gets.
    pub takes_back: Option<Turn>,
}

/// What is written anew for each node.
#[derive(Debug, Default)]
struct Scratch {
    times: Vec<UtcMs>,
    free: Vec<u32>,
}

/// What one node gives for a target.
pub fn need(target: &Target, kind: Option<u16>) -> Need<'_> {
    Need {
        gpus: target.ask.gpus,
        kind,
        amounts: target.ask.amounts,
        serving: &target.kinds,
    }
}

/// What is known of the time ahead.
pub struct Ahead<'p, 'a> {
    /// Now.
    pub now: UtcMs,
    /// What is free now.
    pub grid: &'p Grid,
    /// Who holds the rest.
    pub runs: &'p [Run<'a>],
    /// By node: who holds something there.
    pub on_node: &'p [Vec<u32>],
    /// By number.
    pub nodes: &'p [&'a Arc<NodeView>],
    /// Promises.
    pub promises: &'p Promises,
    /// By kind: nodes with such devices.
    pub with_kind: &'p [Vec<u32>],
}

/// Whether a node takes a job at all: not whether it has room.
pub fn suits(view: &NodeView, job: &Waiting, ask: &Ask) -> bool {
    let pool = ask.pools.is_empty() || ask.pools.iter().any(|pool| **pool == *view.pool);
    let labels = ask
        .labels
        .iter()
        .all(|label| view.labels.binary_search(label).is_ok());
    let guest = || match view.owner.as_ref() {
        None => true,
        Some(owner) => match owner.guests {
            Guests::Any => true,
            Guests::Preemptible if job.preemptible => true,
            _ => is_below(&job.team, &owner.team),
        },
    };
    pool && labels && guest() && !job.avoid.contains(&view.name)
}

/// Whether a team is another or stands below it.
pub fn is_below(team: &str, above: &str) -> bool {
    team.strip_prefix(above)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

impl Ahead<'_, '_> {
    /// What is free on a node at a time, for a reservation of a class.
    fn at(&self, node: usize, time: UtcMs, class: Class, free: &mut Vec<u32>) -> Amounts {
        free.clear();
        let devices = self.grid.devices(node);
        free.extend_from_slice(&self.grid.free[devices.clone()]);
        let mut amounts = self.grid.amounts[node];
        for run in &self.on_node[node] {
            let run = &self.runs[*run as usize];
            if run.gone || run.ends_for(class, self.now) > time {
                continue;
            }
            for part in run.parts.iter().filter(|part| part.node as usize == node) {
                let each = run
                    .ask
                    .gpus
                    .units()
                    .checked_div(part.whole as u64)
                    .unwrap_or(0);
                let each = u32::try_from(each).unwrap_or(u32::MAX);
                for device in &part.devices {
                    if let Some(at) = self.grid.at(node, *device) {
                        let place = at - devices.start;
                        free[place] = free[place].saturating_add(each).min(self.grid.full(at));
                    }
                }
                amounts = amounts.plus(self.grid.amounts_of(node, run.ask.gpus, run.ask.amounts));
            }
        }
        amounts
    }

    /// Takes what was promised on a node to others than `asker`, of those whom it would meet if it started at `time`.
    fn keep_promises(
        &self,
        node: usize,
        time: UtcMs,
        asker: &Asker<'_>,
        free: &mut [u32],
        amounts: &mut Amounts,
    ) {
        let end = super::estimate::after(time, asker.length);
        let meet =
            |other: &&Reserved| other.start < end && other.end > time && !other.yields(asker);
        for other in self.promises.on(node).filter(meet) {
            self.grid.satisfy(node, free, amounts, &other.need());
        }
    }

    /// When a node has room for a job from then on; `None`: never, as far as anybody can say.
    pub fn node_time(
        &self,
        node: usize,
        need: &Need<'_>,
        ask: &Ask,
        asker: &Asker<'_>,
    ) -> Option<UtcMs> {
        self.node_time_before(node, need, ask, asker, UtcMs::MAX, &mut Scratch::default())
    }

    /// Whether so many devices can be free on a node before `limit`, by numbers alone: most nodes are ruled out by that.
    fn could_have(&self, node: usize, need: &Need<'_>, class: Class, limit: UtcMs) -> bool {
        let wants = match need.gpus {
            Gpus::Whole(count) | Gpus::Mig { count, .. } => count as usize,
            Gpus::Share(_) | Gpus::None => return true,
        };
        let free = |device: &usize| self.grid.is_free(*device);
        let mut most = self.grid.devices(node).filter(free).count();
        for run in &self.on_node[node] {
            if most >= wants {
                return true;
            }
            let run = &self.runs[*run as usize];
            if !run.gone && run.ends_for(class, self.now) < limit {
                let here = run.parts.iter().filter(|part| part.node as usize == node);
                most = most.saturating_add(here.map(|part| part.devices.len()).sum());
            }
        }
        most >= wants
    }

    /// The same, if that is before `limit`.
    fn node_time_before(
        &self,
        node: usize,
        need: &Need<'_>,
        ask: &Ask,
        asker: &Asker<'_>,
        limit: UtcMs,
        scratch: &mut Scratch,
    ) -> Option<UtcMs> {
        let view = self.nodes[node];
        let open = match view.open {
            Open::Now => self.now,
            Open::From(at) => at.max(self.now),
            Open::No => return None,
        };
        let class = asker.job.class;
        if !self.could_have(node, need, class, limit) || !suits(view, asker.job, ask) {
            return None;
        }
        let Scratch { times, free } = scratch;
        times.clear();
        times.push(open);
        let ends = self.on_node[node]
            .iter()
            .map(|run| &self.runs[*run as usize])
            .filter(|run| !run.gone);
        times.extend(ends.map(|run| run.ends_for(class, self.now)));
        times.extend(self.promises.on(node).map(|other| other.end));
        times.retain(|time| *time >= open && *time < limit);
        times.sort_unstable();
        times.dedup();
        for time in times.iter().copied() {
            let mut amounts = self.at(node, time, class, free);
            self.keep_promises(node, time, asker, free, &mut amounts);
            if self.grid.satisfy(node, free, &mut amounts, need) {
                return Some(past_windows(view, time, asker));
            }
        }
        None
    }

    /// The earliest start of the fewest nodes of a target before `limit`, and on which kind of devices.
    pub fn earliest(
        &self,
        target: &Target,
        asker: &Asker<'_>,
        limit: UtcMs,
    ) -> Option<(UtcMs, Vec<u32>, Option<u16>)> {
        let choices: Vec<Option<u16>> = if target.ask.mix || target.kinds.is_empty() {
            vec![None]
        } else {
            target.kinds.iter().map(|kind| Some(*kind)).collect()
        };
        let mut best: Option<(UtcMs, Vec<u32>, Option<u16>)> = None;
        for kind in choices {
            let limit = best.as_ref().map_or(limit, |(time, ..)| limit.min(*time));
            let Some((time, nodes)) = self.earliest_of(target, kind, asker, limit) else {
                continue;
            };
            if best.as_ref().is_none_or(|(old, _, _)| time < *old) {
                best = Some((time, nodes, kind));
            }
        }
        best
    }

    fn earliest_of(
        &self,
        target: &Target,
        kind: Option<u16>,
        asker: &Asker<'_>,
        limit: UtcMs,
    ) -> Option<(UtcMs, Vec<u32>)> {
        let mut scratch = Scratch::default();
        let all: Vec<u32>;
        let among: &[u32] = match kind {
            Some(kind) => &self.with_kind[usize::from(kind)],
            None => {
                all = (0..self.nodes.len())
                    .filter_map(|node| u32::try_from(node).ok())
                    .collect();
                &all
            }
        };
        type Near<'n> = (&'n str, &'n str, &'n [Arc<str>]);
        // Few, and neighbours are mostly of the same.
        let mut groups: Vec<(Near<'_>, Vec<(UtcMs, u32)>)> = Vec::new();
        let need = need(target, kind);
        for node in among {
            let view = self.nodes[*node as usize];
            if let Some(time) = self.node_time_before(
                *node as usize,
                &need,
                &target.ask,
                asker,
                limit,
                &mut scratch,
            ) {
                let near: &[Arc<str>] = match target.ask.near {
                    self::Near::Prefer => &[],
                    self::Near::Within(level) => {
                        view.racks.get(..=usize::from(level)).unwrap_or(&view.racks)
                    }
                };
                let key: Near<'_> = (&view.pool, &view.network, near);
                match groups.iter_mut().rev().find(|(known, _)| *known == key) {
                    Some((_, nodes)) => nodes.push((time, *node)),
                    None => groups.push((key, vec![(time, *node)])),
                }
            }
        }
        let least = target.ask.nodes.least() as usize;
        let found = groups
            .into_iter()
            .filter_map(|(_, group)| self.soonest(group, least, asker.job));
        found.min().filter(|(time, _)| *time < limit)
    }

    /// The soonest of a group's nodes, one of them with the job's checkpoint if it needs one.
    fn soonest(
        &self,
        mut group: Vec<(UtcMs, u32)>,
        least: usize,
        job: &Waiting,
    ) -> Option<(UtcMs, Vec<u32>)> {
        if group.len() < least || least == 0 {
            return None;
        }
        group.sort_unstable();
        if !job.rank_0.is_empty() {
            let holds = |node: u32| job.rank_0.contains(&self.nodes[node as usize].name);
            let holder = group.iter().position(|(_, node)| holds(*node))?;
            let holder = group.remove(holder);
            group.insert(0, holder);
        }
        group.truncate(least);
        let start = group.iter().map(|(time, _)| *time).max()?;
        let mut nodes: Vec<u32> = group.into_iter().map(|(_, node)| node).collect();
        nodes.sort_unstable();
        Some((start, nodes))
    }

    /// The promises that a seat would break if it were taken now until `end`.
    pub fn breaks(
        &self,
        node: u32,
        devices: &[u16],
        ask: &Ask,
        end: UtcMs,
        asker: &Asker<'_>,
    ) -> Option<&Reserved> {
        let at = node as usize;
        let mut free = Vec::new();
        for promise in self.promises.on(at) {
            if promise.start >= end || promise.yields(asker) {
                continue;
            }
            let mut amounts = self.at(at, promise.start, promise.class, &mut free);
            let first = self.grid.devices(at).start;
            let each = ask
                .gpus
                .units()
                .checked_div(devices.len() as u64)
                .unwrap_or(0);
            for device in devices {
                if let Some(place) = self.grid.at(at, *device) {
                    let place = place - first;
                    free[place] =
                        free[place].saturating_sub(u32::try_from(each).unwrap_or(u32::MAX));
                }
            }
            let takes = self.grid.amounts_of(at, ask.gpus, ask.amounts);
            if !amounts.covers(&takes) {
                return Some(promise);
            }
            amounts = amounts.minus(takes);
            // All that are there at that time, in their order, this one last.
            let others = self.promises.on(at).filter(|other| {
                other.job != promise.job
                    && !other.yields(asker)
                    && other.start <= promise.start
                    && other.end > promise.start
            });
            for other in others {
                self.grid
                    .satisfy(at, &mut free, &mut amounts, &other.need());
            }
            if !self
                .grid
                .satisfy(at, &mut free, &mut amounts, &promise.need())
            {
                return Some(promise);
            }
        }
        None
    }
}

/// The first time from `time` on at which a job does not run into a window, or is one that may be ended there.
fn past_windows(view: &NodeView, time: UtcMs, asker: &Asker<'_>) -> UtcMs {
    let mut time = time;
    for (start, end) in view.windows.iter().filter(|_| !asker.job.preemptible) {
        if time < *end && super::estimate::after(time, asker.protected) > *start {
            time = *end;
        }
    }
    time
}
