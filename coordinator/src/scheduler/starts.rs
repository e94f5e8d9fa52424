//! The engine's starts as apply takes them: with epochs, boots, devices by name, the checkpoint to go on from, and the tasks of waves.
//! Does NOT choose who starts, nor where: the engine has.
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;

use mlctl_proto::ids::{Epoch, JobId};

use super::plan::GangStart;
use super::waves;
use crate::state::rules::{Resume, is_shared, ready_tasks, resume};
use crate::state::view::jobs::{Footing, Seat};
use crate::state::view::scene::Scene;
use crate::state::view::{Array, Checkpoint, ClusterView, Job, Part, Placement, StartAttempt};

/// What arrays have left while a plan gives waves of them away.
#[derive(Default)]
struct Arrays {
    /// What waits, how many run, and the counter of the newest epoch.
    of: BTreeMap<JobId, (Array, u32, u64)>,
}

/// All of them, in the same order. One that the state cannot carry out any more is left out.
pub fn starts(view: &ClusterView, scene: &Scene, chosen: &[GangStart]) -> Vec<StartAttempt> {
    let mut arrays = Arrays::default();
    let mut starts = Vec::new();
    for one in joined(chosen) {
        starts.extend(start(view, scene, &mut arrays, &one));
    }
    starts
}

/// Whether nodes get fewer tasks at once than they have room for: then the rest may have room elsewhere.
pub fn leave_tasks(chosen: &[GangStart], starts: &[StartAttempt]) -> bool {
    let room = chosen.iter().filter_map(|one| one.tasks);
    let waves = starts.iter().filter_map(|one| one.wave.as_ref());
    let slots = waves.map(|wave| wave.slots).fold(0, u32::saturating_add);
    // Without a wave nothing changes, and the next plan would say the same.
    slots > 0 && slots < room.fold(0, u32::saturating_add)
}

/// Tasks of an array that were given a node one after the other are one wave there.
fn joined(chosen: &[GangStart]) -> Vec<GangStart> {
    let mut waves: BTreeMap<(JobId, Arc<str>), usize> = BTreeMap::new();
    let mut all: Vec<GangStart> = Vec::with_capacity(chosen.len());
    for one in chosen {
        let (Some(tasks), Some(first)) = (one.tasks, one.seats.first()) else {
            all.push(one.clone());
            continue;
        };
        let devices = one
            .seats
            .iter()
            .flat_map(|seat| seat.devices.iter().copied());
        let key = (one.job, first.node.clone());
        let known = waves.get(&key).and_then(|place| all.get_mut(*place));
        if let Some((wave, seat)) = known.and_then(|wave| {
            let GangStart { seats, tasks, .. } = wave;
            Some((tasks, seats.first_mut()?))
        }) {
            *wave = wave.map(|before| before.saturating_add(tasks));
            seat.devices.extend(devices);
            continue;
        }
        waves.insert(key, all.len());
        let seat = Seat {
            node: first.node.clone(),
            devices: devices.collect(),
        };
        all.push(GangStart {
            seats: vec![seat],
            ..one.clone()
        });
    }
    all
}

fn start(
    view: &ClusterView,
    scene: &Scene,
    arrays: &mut Arrays,
    chosen: &GangStart,
) -> Option<StartAttempt> {
    let job = view.state.job(chosen.job)?;
    let seats = chosen.seats.iter().map(|seat| placement(scene, seat));
    let placements = seats.collect::<Option<Vec<_>>>()?;
    if let Some(room) = chosen.tasks {
        return arrays.wave(view, job, (room, chosen.footing), placements);
    }
    let rank_0 = placements.first().map_or("", |one| one.node.as_str());
    Some(StartAttempt {
        job: job.id,
        epoch: Epoch::new(job.id.incarnation, job.epoch_counter.saturating_add(1)),
        resume_from: resume_from(view, job, rank_0)?,
        placements,
        wave: None,
        footing: chosen.footing,
    })
}

pub(super) fn placement(scene: &Scene, seat: &Seat) -> Option<Placement> {
    let node = scene.nodes.get(&seat.node)?;
    let devices = seat.devices.iter().map(|place| {
        let device = node.devices.get(usize::from(*place))?;
        Some(device.uuid.to_string())
    });
    Some(Placement {
        node: seat.node.to_string(),
        boot_id: node.boot_id.to_string(),
        devices: devices.collect::<Option<_>>()?,
    })
}

/// The newest checkpoint that can be had with rank 0 there, empty: there is none at all. `None`: none can be had yet.
fn resume_from(view: &ClusterView, job: &Job, rank_0: &str) -> Option<String> {
    let Resume::From(newest_first) = resume(&view.state, job) else {
        return Some(String::new());
    };
    let mut newest_first = newest_first.into_iter();
    let found = newest_first.find(|one| can_be_had(view, job, one, rank_0))?;
    Some(found.name.clone())
}

fn can_be_had(view: &ClusterView, job: &Job, checkpoint: &Checkpoint, rank_0: &str) -> bool {
    let answers = |part: &Part| {
        let mut holders = part.holders.iter();
        part.uploaded || holders.any(|one| view.heard.contains(one))
    };
    is_shared(&view.state, job, checkpoint)
        || checkpoint.full_holders().contains(&rank_0)
        || checkpoint.is_portable() && checkpoint.filled().all(answers)
}

impl Arrays {
    /// Tasks for a node with room for so many at once.
    fn wave(
        &mut self,
        view: &ClusterView,
        job: &Job,
        (room, footing): (u32, Footing),
        mut placements: Vec<Placement>,
    ) -> Option<StartAttempt> {
        let (array, running, counter) = match self.of.entry(job.id) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => new.insert(waiting(view, job)?),
        };
        let nodes = view.state.nodes().filter(|node| view.usable(node)).count();
        let nodes = u64::try_from(nodes).unwrap_or(u64::MAX);
        let wave = waves::wave(array, room, *running, nodes)?;
        let each = view.state.request(job).map_or(0, |request| request.gpus);
        let devices = usize::try_from(each.saturating_mul(wave.slots)).unwrap_or(usize::MAX);
        // Few tasks are spread over the nodes: they take less than the room.
        placements
            .iter_mut()
            .for_each(|one| one.devices.truncate(devices));
        *running = running.saturating_add(wave.slots);
        *counter = counter.saturating_add(1);
        Some(StartAttempt {
            job: job.id,
            epoch: Epoch::new(job.id.incarnation, *counter),
            placements,
            resume_from: String::new(),
            wave: Some(wave),
            footing,
        })
    }
}

fn waiting(view: &ClusterView, job: &Job) -> Option<(Array, u32, u64)> {
    let mut array = job.array.as_deref().cloned()?;
    if let Some(ready) = ready_tasks(&view.state, job) {
        array.pending = array.pending.and(&ready);
    }
    let open = view.state.attempts_of(job.id).filter(|one| !one.closed());
    let slots = open
        .filter_map(|one| one.wave.as_ref())
        .map(|wave| wave.slots);
    Some((array, slots.fold(0, u32::saturating_add), job.epoch_counter))
}
