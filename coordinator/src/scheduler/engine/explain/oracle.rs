//! Whether a job would start with some blockers away, by counting: knows the rules as written and nothing of passes, indexes or scores. For settled clusters, in which
//! nobody else starts now. Does NOT know promises: where some are kept, yes means perhaps.
use std::collections::BTreeMap;
use std::sync::Arc;

use super::blocker::{Blocker, Lifts};
use crate::scheduler::engine::ahead::is_below;
use crate::scheduler::engine::estimate;
use crate::scheduler::engine::grid::whole_units;
use crate::scheduler::engine::world::{amounts_of_ask, charges, total};
use crate::state::view::amounts::Amounts;
use crate::state::view::ask::{Ask, Gpus, Kind};
use crate::state::view::jobs::{Seat, Waiting};
use crate::state::view::nodes::{Guests, NodeView, Open};
use crate::state::view::scene::Scene;
use crate::state::view::teams::Flavor;

const SLICE_MS: u64 = 3_600_000;

/// The oracle's answer.
pub fn starts(scene: &Scene, now: i64, job: &Waiting, lifts: &Lifts) -> bool {
    let gate = (job.blocked.is_some() && !lifts.has(&Blocker::Blocked))
        || (scene.starts_paused && !lifts.has(&Blocker::Paused))
        || (scene.holds.contains_key(&job.id) && !lifts.has(&Blocker::Victims));
    if gate || !limits_allow(scene, job, lifts) {
        return false;
    }
    let mut job = job.clone();
    let mut ask = Ask::clone(&job.ask);
    if lifts.has(&Blocker::Amounts) {
        ask.amounts = Some(Amounts::NONE);
    }
    if lifts.has(&Blocker::Labels) {
        ask.labels.clear();
    }
    if lifts.has(&Blocker::Excluded) {
        job.avoid.clear();
    }
    let nodes = lifted_nodes(scene, lifts);
    let span = (
        now,
        estimate::after(
            now,
            estimate::protected(&scene.settings, job.class, job.limit_ms),
        ),
    );
    // Each pool and model by itself; and each type of the list, for what it counts as.
    let mut sorts: BTreeMap<(Arc<str>, Arc<str>), Vec<&NodeView>> = BTreeMap::new();
    for node in &nodes {
        for device in &node.devices {
            let of_sort = sorts
                .entry((node.pool.clone(), device.model.clone()))
                .or_default();
            if of_sort.last().is_none_or(|last| last.name != node.name) {
                of_sort.push(node);
            }
        }
    }
    let wide = ask.nodes.least() as usize;
    if lifts.has(&Blocker::Inventory) {
        let none = !sorts.keys().any(|(_, model)| serves(&ask.kinds, model));
        if none || ask.gpus == Gpus::None {
            return true;
        }
        let legal = |(pool, model): &(Arc<str>, Arc<str>)| {
            serves(&ask.kinds, model) && may_have(scene, &job, &flavor(scene, pool, model), lifts)
        };
        return sorts.keys().any(legal);
    }
    if ask.gpus == Gpus::None {
        return nodes
            .iter()
            .filter(|node| admits(node, &job, &ask, span) && room(node, &job, &ask, None))
            .count()
            >= wide;
    }
    sorts.iter().any(|((pool, model), nodes)| {
        let fit = nodes
            .iter()
            .filter(|node| admits(node, &job, &ask, span) && room(node, &job, &ask, Some(model)));
        serves(&ask.kinds, model)
            && fit.count() >= wide
            && may_have(scene, &job, &flavor(scene, pool, model), lifts)
    })
}

fn serves(kinds: &[Kind], model: &str) -> bool {
    kinds.is_empty() || kinds.iter().any(|kind| model.contains(&kind.name))
}

fn flavor(scene: &Scene, pool: &Arc<str>, model: &Arc<str>) -> Flavor {
    let named = scene.teams.values().flat_map(|team| team.quotas.keys());
    let fits = named.filter(|one| {
        model.contains(&*one.kind) && one.pool.as_ref().is_none_or(|name| name == pool)
    });
    fits.max_by_key(|one| (one.pool.is_some(), one.kind.len(), (*one).clone()))
        .cloned()
        .unwrap_or(Flavor {
            kind: model.clone(),
            pool: None,
        })
}

/// Nodes as they would be.
fn lifted_nodes(scene: &Scene, lifts: &Lifts) -> Vec<NodeView> {
    let mut nodes = Lifted::default();
    for (name, node) in &scene.nodes {
        let mut node = NodeView::clone(node);
        lift(&mut node, lifts);
        nodes.all.insert(name.clone(), node);
    }
    if lifts.has(&Blocker::Ending) && !lifts.has(&Blocker::Devices) {
        for run in scene
            .running
            .values()
            .filter(|run| run.ends_by_ms.is_some())
        {
            nodes.change(&run.ask, &run.seats, true);
        }
    }
    if !lifts.has(&Blocker::Ahead) {
        for hold in scene.holds.values() {
            let ask = scene
                .waiting
                .values()
                .find(|one| one.id == hold.job)
                .map(|one| one.ask.clone());
            if let Some(ask) = ask {
                nodes.change(&ask, &hold.seats, false);
            }
        }
    }
    nodes.all.into_values().collect()
}

/// A node without what stands against it by itself.
fn lift(node: &mut NodeView, lifts: &Lifts) {
    match node.open {
        Open::No if lifts.has(&Blocker::Closed) => node.open = Open::Now,
        Open::From(_) if lifts.has(&Blocker::Waking) => node.open = Open::Now,
        _ => {}
    }
    if lifts.has(&Blocker::Windows) {
        node.windows.clear();
    }
    if lifts.has(&Blocker::Owners) {
        node.owner = None;
    }
    if lifts.has(&Blocker::Devices) {
        node.free = node.has;
        for device in &mut node.devices {
            device.free = whole_units(device);
            device.shared_by = "".into();
        }
    }
}

/// Nodes on which seats are given back and kept.
#[derive(Default)]
struct Lifted {
    all: BTreeMap<Arc<str>, NodeView>,
    /// What is free of a device, less than nothing too: it can be kept for one while another still holds it.
    owed: BTreeMap<(Arc<str>, u16), i64>,
}

impl Lifted {
    /// Gives back what seats hold, or takes it.
    fn change(&mut self, ask: &Ask, seats: &[Seat], give: bool) {
        for seat in seats {
            let Some(node) = self.all.get_mut(&seat.node) else {
                continue;
            };
            let amounts = amounts_of_ask(ask, node);
            node.free = if give {
                node.free.plus(amounts)
            } else {
                node.free.minus(amounts)
            };
            for at in &seat.devices {
                let device = &mut node.devices[usize::from(*at)];
                let units = i64::from(match ask.gpus {
                    Gpus::Share(units) => units,
                    _ => whole_units(device),
                });
                let owes = self
                    .owed
                    .entry((seat.node.clone(), *at))
                    .or_insert_with(|| i64::from(device.free));
                *owes += if give { units } else { -units };
                device.free = u32::try_from((*owes).max(0)).expect("small");
            }
        }
    }
}

/// Whether a node takes it at all.
fn admits(node: &NodeView, job: &Waiting, ask: &Ask, span: (i64, i64)) -> bool {
    let welcome = node.owner.as_ref().is_none_or(|owner| {
        is_below(&job.team, &owner.team)
            || match owner.guests {
                Guests::None => false,
                Guests::Preemptible => job.preemptible,
                Guests::Any => true,
            }
    });
    let kept = node
        .windows
        .iter()
        .any(|(from, to)| span.0 < *to && *from < span.1)
        && !job.preemptible;
    node.open == Open::Now
        && welcome
        && !kept
        && !job.avoid.contains(&node.name)
        && ask.labels.iter().all(|label| node.labels.contains(label))
}

/// Whether it has room for one part.
fn room(node: &NodeView, job: &Waiting, ask: &Ask, model: Option<&Arc<str>>) -> bool {
    let wants = amounts_of_ask(ask, node);
    let enough = |has: u64, want: u64| want == 0 || has >= want;
    let beside = enough(node.free.cpu_milli, wants.cpu_milli)
        && enough(node.free.memory, wants.memory)
        && enough(node.free.disk, wants.disk);
    let of_model = || {
        node.devices
            .iter()
            .filter(|device| Some(&device.model) == model)
    };
    let devices = match ask.gpus {
        Gpus::None => true,
        Gpus::Whole(count) => {
            of_model()
                .filter(|device| device.free == whole_units(device))
                .count()
                >= count as usize
        }
        Gpus::Share(units) => of_model().any(|device| {
            device.free >= units
                && (device.free == whole_units(device) || device.shared_by == job.user)
        }),
        Gpus::Mig { .. } => false,
    };
    beside && devices
}

/// The inequality at every level, by recounting what runs, with what ends and without, and what is kept for others; and budgets.
fn may_have(scene: &Scene, job: &Waiting, flavor: &Flavor, lifts: &Lifts) -> bool {
    let units = job.ask.units(job.ask.nodes.least());
    let root = job.team.split('/').next().expect("a name");
    let governed = scene
        .teams
        .values()
        .any(|team| is_below(&team.name, root) && team.quotas.contains_key(flavor));
    let levels = || {
        scene
            .teams
            .values()
            .filter(|team| is_below(&job.team, &team.name))
    };
    let slice = |job: &Waiting| (job.limit_ms.unwrap_or(SLICE_MS).min(SLICE_MS)).div_ceil(1_000);
    // What is kept for others has its first slice already.
    let kept = |level: &str| {
        let holds = scene.holds.values().filter(|_| !lifts.has(&Blocker::Ahead));
        let jobs = holds.filter_map(|hold| {
            let job = scene.waiting.values().find(|one| one.id == hold.job)?;
            is_below(&job.team, level).then_some((hold, job))
        });
        let units = jobs.flat_map(|(hold, job)| {
            let held = of(scene, &job.team, &job.ask.gpus, &hold.seats, flavor);
            held.into_iter().map(|(_, units)| units * slice(job))
        });
        units.sum::<u64>()
    };
    let covered = levels().all(|team| {
        let enough = |left: &u64| *left >= kept(&team.name) + units * slice(job);
        let open = lifts.has(&Blocker::Budget(team.name.clone(), flavor.clone()));
        open || team.budgets.get(flavor).is_none_or(enough)
    });
    let held = |with_ending: bool, with_holds: bool| {
        let runs = scene
            .running
            .values()
            .filter(|run| with_ending || run.ends_by_ms.is_none());
        let mut all: Vec<(Arc<str>, u64)> = runs
            .flat_map(|run| of(scene, &run.team, &run.ask.gpus, &run.seats, flavor))
            .collect();
        for hold in scene.holds.values().filter(|_| with_holds) {
            if let Some(job) = scene.waiting.values().find(|one| one.id == hold.job) {
                all.extend(of(scene, &job.team, &job.ask.gpus, &hold.seats, flavor));
            }
        }
        all.push((job.team.clone(), units));
        all
    };
    let (gone, ahead) = (lifts.has(&Blocker::Ending), lifts.has(&Blocker::Ahead));
    let legal = |held: &[(Arc<str>, u64)]| {
        levels().all(|team| {
            let open = lifts.has(&Blocker::Quota(team.name.clone(), flavor.clone()));
            let (load, most) = total(scene, &team.name, flavor, held);
            open || most.is_none_or(|most| load <= most)
        })
    };
    covered && (!governed || (legal(&held(!gone, false)) && legal(&held(false, !ahead))))
}

fn of(
    scene: &Scene,
    team: &Arc<str>,
    gpus: &Gpus,
    seats: &[Seat],
    flavor: &Flavor,
) -> Vec<(Arc<str>, u64)> {
    charges(scene, gpus, seats)
        .into_iter()
        .filter(|(one, _)| one == flavor)
        .map(|(_, units)| (team.clone(), units))
        .collect()
}

fn limits_allow(scene: &Scene, job: &Waiting, lifts: &Lifts) -> bool {
    let running = job.tasks.map_or(0, |tasks| tasks.running);
    let at_once = job
        .tasks
        .and_then(|tasks| tasks.at_once)
        .is_none_or(|most| running < most)
        || lifts.has(&Blocker::AtOnce);
    let licenses = job.ask.licenses.iter().all(|(name, needs)| {
        let (all, held) = scene.licenses.get(name).copied().unwrap_or((0, 0));
        all.saturating_sub(held) >= *needs || lifts.has(&Blocker::License(name.clone()))
    });
    let mut runs: Vec<_> = scene
        .running
        .values()
        .filter(|run| run.team == job.team)
        .map(|run| run.id)
        .collect();
    runs.sort_unstable();
    runs.dedup();
    let ahead = lifts.has(&Blocker::Ahead);
    let kept = scene
        .holds
        .keys()
        .filter(|id| {
            scene
                .waiting
                .values()
                .any(|one| one.id == **id && one.team == job.team)
        })
        .count();
    let runs = runs.len() + if ahead { 0 } else { kept };
    let most = scene.teams.get(&job.team).and_then(|team| team.max_running);
    let few = most.is_none_or(|most| runs < most as usize)
        || lifts.has(&Blocker::Running(job.team.clone()));
    at_once && (running > 0 || (licenses && few))
}
