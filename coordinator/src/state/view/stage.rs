//! The scheduler's input from the replicated state and from what only a leader knows: which nodes it has heard, whose checkpoints are on their way.
//! Does NOT decide anything, and leaves out nothing that could: what apply will check is in here.
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use imbl::OrdMap;
use mlctl_proto::ids::JobId;
use mlctl_proto::units::UtcMs;

use super::ClusterView;
use super::amounts::{Amounts, GPU};
use super::jobs::{Blocked, Hold, Reservation, Running, Seat, Tasks, Waiting};
use super::nodes::{DeviceView, NodeView, Open, Owner, Sharing};
use super::pools::Pools;
use super::scene::Scene;
use super::teams::TeamView;
use crate::state::State;
use crate::state::records::{
    AllocationPhase, Attempt, Automatic, Checkpoint, DeviceHold, Job, JobState, Node, Part,
};
use crate::state::rules::room::{counted, room, shared_out, takes};
use crate::state::rules::taking::no_preempt_until;
use crate::state::rules::{
    Resume, blocked, excluded, is_shared, living_holders, ready_tasks, resume,
};

/// Everything that a plan at `now_ms` is made from.
pub fn scene(view: &ClusterView, now_ms: UtcMs) -> Scene {
    let state = &view.state;
    // Apply goes by state time, which never lies behind.
    let now_ms = now_ms.max(state.now_ms());
    let mut names = Names::default();
    let held = held_amounts(state);
    let everywhere = |what| state.paused(what, "", now_ms).is_some();
    let mut scene = Scene {
        decayed_ms: state.now_ms(),
        licenses: state.licenses(),
        settings: Arc::new(state.scheduling()),
        starts_paused: everywhere(Automatic::Starts),
        preemption_paused: everywhere(Automatic::Preemption),
        histories: state.indexes().lengths.sorted().clone(),
        holds: holds(state, &mut names),
        reservations: promised(view),
        ..Scene::default()
    };
    let pools = Pools::of(state);
    for node in state.nodes() {
        let taken = held.get(node.facts.name.as_str()).copied();
        let taken = taken.unwrap_or(Amounts::NONE);
        let seen = node_view(view, node, (taken, now_ms), &mut names);
        scene.nodes.insert(seen.name.clone(), Arc::new(seen));
    }
    scene.teams = teams(state);
    for job in state.queue() {
        if let Some(mut waiting) = waiting(view, job, now_ms, &mut names) {
            pools.narrow(job, &mut waiting);
            let key = (job.submit_index, job.id);
            scene.waiting.insert(key, Arc::new(waiting));
        }
    }
    for attempt in state.active_attempts() {
        if let Some(running) = running(state, attempt, &mut names) {
            let key = (attempt.job, attempt.epoch);
            scene.running.insert(key, Arc::new(running));
        }
    }
    scene
}

/// All of them.
pub(super) fn teams(state: &State) -> OrdMap<Arc<str>, Arc<TeamView>> {
    let views = state.teams().map(|team| state.team_view(team));
    views
        .map(|team| (team.name.clone(), Arc::new(team)))
        .collect()
}

/// What the last plan promised, as far as it is still waited for.
pub(super) fn promised(view: &ClusterView) -> OrdMap<JobId, Arc<Reservation>> {
    let pending = |one: &&Reservation| {
        let job = view.state.job(one.job);
        job.is_some_and(|job| job.state == JobState::Pending)
    };
    let kept = view.reservations.iter().filter(pending);
    kept.map(|one| (one.job, Arc::new(one.clone()))).collect()
}

/// Each text once: names repeat over jobs and devices.
#[derive(Debug, Default)]
pub(super) struct Names(BTreeSet<Arc<str>>);

impl Names {
    fn of(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.0.get(text) {
            return known.clone();
        }
        let name: Arc<str> = Arc::from(text);
        self.0.insert(name.clone());
        name
    }
}

/// Whether a node takes work: it may be well, and nothing start there for a while.
fn open(view: &ClusterView, node: &Node, windows: &[(UtcMs, UtcMs)], now_ms: UtcMs) -> Open {
    if !view.usable(node) {
        return Open::No;
    }
    let pool = node.facts.pool.as_str();
    let pause = view.state.paused(Automatic::Starts, pool, now_ms);
    let paused = match pause.map(|pause| pause.until_ms) {
        Some(0) => return Open::No,
        until => until.unwrap_or(now_ms),
    };
    // Times of maintenance that meet each other are one.
    let free = windows
        .iter()
        .fold(paused, |free, (from, until)| match *from <= free {
            true => free.max(*until),
            false => free,
        });
    match free > now_ms {
        true => Open::From(free),
        false => Open::Now,
    }
}

/// One node; `taken`: what attempts hold of it beside GPUs.
pub(super) fn node_view(
    view: &ClusterView,
    node: &Node,
    (taken, now_ms): (Amounts, UtcMs),
    names: &mut Names,
) -> NodeView {
    let windows = view.state.maintenance_of(node, now_ms).into_iter();
    let windows: Vec<_> = windows.map(|one| (one.from_ms, one.until_ms)).collect();
    let rules = view.state.pool_rules(&node.facts.pool);
    let owner = view.state.owner_of(&node.facts.name);
    let facts = &node.facts;
    let devices = facts.devices.iter().map(|device| {
        let held = (view.state.device_holder(&facts.name, &device.uuid)).is_some();
        let free = !held && node.dirt_on(&device.uuid).is_none();
        DeviceView {
            uuid: names.of(&device.uuid),
            model: names.of(&device.model.to_lowercase()),
            memory: device.memory_bytes,
            free: if free {
                u32::try_from(GPU).unwrap_or(u32::MAX)
            } else {
                0
            },
            slices: None,
            island: 0,
            // Where nobody knows, it is near no other.
            numa: device
                .numa_node
                .and_then(|numa| u16::try_from(numa).ok())
                .unwrap_or(u16::MAX),
            shared_by: names.of(""),
        }
    });
    let devices = devices.collect();
    let label = |level: &str| facts.labels.get(level).map_or("", String::as_str);
    let labels = facts.labels.iter();
    let labels: Vec<_> = labels
        .map(|(label, value)| (label.clone(), value.clone()))
        .collect();
    NodeView {
        name: names.of(&facts.name),
        boot_id: names.of(&facts.boot_id),
        pool: names.of(&facts.pool),
        network: names.of(&facts.addresses.network),
        racks: vec![names.of(label("block")), names.of(label("rack"))],
        open: open(view, node, &windows, now_ms),
        devices,
        has: shared_out(facts),
        free: room(facts).minus(taken),
        owner: owner.map(|owner| Owner {
            team: names.of(&owner.team),
            guests: owner.guests,
        }),
        sharing: rules.map_or(Sharing::User, |rules| rules.sharing),
        labels: labels.into(),
        windows,
    }
}

/// What attempts hold of each node beside GPUs.
fn held_amounts(state: &State) -> BTreeMap<&str, Amounts> {
    let mut held: BTreeMap<&str, Amounts> = BTreeMap::new();
    for attempt in state.active_attempts() {
        let Some(ask) = state.ask_of(attempt) else {
            continue;
        };
        let open = attempt.allocations.iter();
        for allocation in open.filter(|one| one.phase != AllocationPhase::Ended) {
            if let Some(node) = state.node(&allocation.node) {
                let sum = held.entry(allocation.node.as_str()).or_default();
                *sum = sum.plus(takes(&ask, &node.facts));
            }
        }
    }
    held
}

/// One job that waits.
pub(super) fn waiting(
    view: &ClusterView,
    job: &Job,
    now_ms: UtcMs,
    names: &mut Names,
) -> Option<Waiting> {
    let state = &view.state;
    let facts = state.spec_facts(job)?;
    let request = state.request(job)?;
    let salvages = view.salvaging.contains(&job.id);
    let (rank_0, comes) = first_nodes(view, job);
    let late = salvages || comes;
    let blocked = blocked(state, job, now_ms).or(late.then_some(Blocked::LastAttempt));
    let tasks = tasks(state, job);
    // All its tasks wait for tasks of another job.
    let paired = tasks.is_some_and(|tasks| tasks.waiting == 0);
    let partner = || (job.turn.after.first()).map(|after| Blocked::Dependency(after.job));
    let blocked = blocked.or_else(|| partner().filter(|_| paired));
    let mut avoid = excluded(state, job, request);
    let waves = state
        .attempts_of(job.id)
        .filter(|one| tasks.is_some() && !one.closed());
    // One wave at a time on a node.
    avoid.extend(
        waves
            .flat_map(|one| &one.allocations)
            .map(|one| one.node.as_str()),
    );
    avoid.sort_unstable();
    avoid.dedup();
    Some(Waiting {
        id: job.id,
        team: names.of(&job.team),
        user: names.of(&job.owner_id),
        class: job.turn.class.into(),
        submit_ms: job.submitted_ms,
        submit_index: job.submit_index,
        eligible_ms: job.eligible_ms(now_ms),
        ask: counted(&facts.ask, state.smallest_for_ranks()),
        limit_ms: facts.limit_ms,
        preemptible: job.turn.preemptible,
        interactive: false,
        blocked,
        tasks,
        avoid: avoid.into_iter().map(|name| names.of(name)).collect(),
        rank_0: rank_0.into_iter().map(|name| names.of(name)).collect(),
        attained: job.marks.attained,
        ran_ms: job.turn.ran_ms,
        evicted_ms: job.marks.evicted_ms.clone(),
        no_preempt_until_ms: no_preempt_until(job),
        was_guest_taken: job.marks.guest_taken,
    })
}

fn tasks(state: &State, job: &Job) -> Option<Tasks> {
    let array = job.array.as_deref()?;
    let pending = match ready_tasks(state, job) {
        Some(ready) => array.pending.and(&ready).count(),
        None => array.pending.count(),
    };
    let open = state.attempts_of(job.id).filter(|one| !one.closed());
    let slots = open
        .filter_map(|one| one.wave.as_ref())
        .map(|wave| wave.slots);
    Some(Tasks {
        waiting: u32::try_from(pending).unwrap_or(u32::MAX),
        running: slots.fold(0, u32::saturating_add),
        at_once: (array.limit > 0).then_some(array.limit),
    })
}

/// The nodes of which one has to take rank 0, none: any may. And whether a holder of what it goes on from has yet to be heard: an older checkpoint
/// would throw work away.
fn first_nodes<'a>(view: &'a ClusterView, job: &'a Job) -> (Vec<&'a str>, bool) {
    let state = &view.state;
    let Resume::From(newest_first) = resume(state, job) else {
        return (Vec::new(), false);
    };
    let newest = newest_first.first().copied();
    for checkpoint in &newest_first {
        if is_shared(state, job, checkpoint) || can_be_brought(view, checkpoint) {
            return (Vec::new(), false);
        }
        let takes_work = |name: &&str| state.node(name).is_some_and(|node| view.usable(node));
        let open: Vec<&str> = (living_holders(state, checkpoint).filter(takes_work)).collect();
        if !open.is_empty() {
            return (open, false);
        }
        // A holder that takes work but was not heard yet says hello soon, or falls silent for good: an older checkpoint would throw work away.
        if unheard_holder(view, checkpoint) {
            return (Vec::new(), true);
        }
    }
    let holders = newest.map(|newest| living_holders(state, newest).collect());
    (holders.unwrap_or_default(), false)
}

/// Every part of it lies, sealed, on a node that answers, or in the object store.
fn can_be_brought(view: &ClusterView, checkpoint: &Checkpoint) -> bool {
    let answers = |part: &Part| {
        let mut holders = part.holders.iter();
        part.uploaded || holders.any(|one| view.heard.contains(one))
    };
    checkpoint.is_portable() && checkpoint.filled().all(answers)
}

fn unheard_holder(view: &ClusterView, checkpoint: &Checkpoint) -> bool {
    let holders = checkpoint.holders().into_iter();
    let mut nodes = holders.filter_map(|holder| view.state.node(holder));
    nodes.any(|node| node.schedulable() && !view.usable(node))
}

/// What is kept for jobs.
pub(super) fn holds(state: &State, names: &mut Names) -> OrdMap<JobId, Arc<Hold>> {
    let kept = state.holds();
    kept.map(|one| (one.job, Arc::new(hold(state, one, names))))
        .collect()
}

/// What is kept for a job. A device that its node does not have any more is left out: then the rest is no whole gang, and is given up.
fn hold(state: &State, kept: &DeviceHold, names: &mut Names) -> Hold {
    let seats = kept.seats.iter().map(|seat| Seat {
        node: names.of(&seat.node),
        devices: places(state, &seat.node, &seat.devices),
    });
    let victims = kept.victims.iter();
    let victims = victims.map(|victim| (victim.job, victim.epoch, victim.signalled));
    Hold {
        job: kept.job,
        seats: seats.collect(),
        until_ms: kept.until_ms,
        victims: victims.collect(),
    }
}

/// One attempt that holds something. What is in doubt is on a Lost node: nobody could have it, and its successor does not wait for it.
pub(super) fn running(state: &State, attempt: &Attempt, names: &mut Names) -> Option<Running> {
    if attempt.closed() || attempt.in_doubt {
        return None;
    }
    let job = state.job(attempt.job)?;
    let facts = state.spec_facts(job)?;
    let open = attempt.allocations.iter();
    let open = open.filter(|one| one.phase != AllocationPhase::Ended);
    let seats = open.map(|allocation| Seat {
        node: names.of(&allocation.node),
        devices: places(state, &allocation.node, &allocation.devices),
    });
    let seats: Vec<Seat> = seats.collect();
    let width = u32::try_from(attempt.allocations.len()).unwrap_or(u32::MAX);
    let ends_by_ms = || state.gone_by(attempt.job, attempt.epoch);
    // While it runs its waiting stands still.
    let state_ms = state.now_ms();
    let waited_ms = state_ms.saturating_sub(job.eligible_ms(state_ms));
    Some(Running {
        id: job.id,
        epoch: attempt.epoch,
        team: names.of(&job.team),
        user: names.of(&job.owner_id),
        class: job.turn.class.into(),
        ask: state.ask_of(attempt)?,
        surplus: width.saturating_sub(facts.ask.nodes.least()),
        seats,
        submit_index: job.submit_index,
        started_ms: attempt.started_ms,
        limit_ms: facts.limit_ms,
        preemptible: job.turn.preemptible,
        interactive: false,
        footing: attempt.footing,
        saved_ms: state.saved_ms(attempt),
        ends_by_ms: attempt.stopping.then(|| ends_by_ms().unwrap_or(state_ms)),
        attained: job.marks.attained,
        ran_ms: job.turn.ran_ms,
        waited_ms: u64::try_from(waited_ms).unwrap_or(0),
        evicted_ms: job.marks.evicted_ms.clone(),
        min_runtime_ms: facts.min_runtime_ms,
    })
}

/// Places of devices on their node, as far as it still has them.
fn places(state: &State, node: &str, uuids: &[String]) -> Vec<u16> {
    let Some(node) = state.node(node) else {
        return Vec::new();
    };
    let devices = node.facts.devices.iter().zip(0_u16..);
    let ours = devices.filter(|(device, _)| uuids.contains(&device.uuid));
    ours.map(|(_, place)| place).collect()
}

#[cfg(test)]
#[path = "stage_tests.rs"]
mod tests;
