//! PURE: what the state says of parts: what one is, who may read it, whose is missing, who can be counted on.
//! Does NOT know what is under way.
use crate::leader::gang::Key;
use crate::state::State;
use crate::state::commands::{PartOf, SealedPart};
use crate::state::records::{Admin, Checkpoint, Job, Liveness, ManifestId, Part, PartKey};
use crate::state::rules::resumed_from;

/// What the state knows of a part that counts.
pub(super) fn sealed(state: &State, key: &PartKey) -> Option<SealedPart> {
    let job = state.job(key.job)?;
    let same = |one: &&Checkpoint| one.epoch == key.epoch && one.name == key.name;
    let part = |one: &Checkpoint| {
        let mut parts = one.parts.iter();
        parts
            .find(|part| part.index == key.index && part.manifest == Some(key.manifest))
            .map(|part| part.bytes)
    };
    let mut newest_first = job.checkpoints.iter().rev().filter(same);
    let (one, bytes) = newest_first.find_map(|one| Some((one, part(one)?)))?;
    Some(SealedPart {
        name: one.name.clone(),
        step: one.step,
        part: Some(PartOf {
            index: key.index,
            manifest: Some(key.manifest),
            bytes,
        }),
        parts: one.whole,
        metric: one.metric,
        save_ms: one.save_ms,
    })
}

/// A node reads what an open attempt of its own resumes from, and nothing else.
pub(super) fn may_read(state: &State, node: &str, manifest: ManifestId) -> bool {
    let open = state.open_allocations_on(node).into_iter();
    let mut resumed = open.filter_map(|(job, epoch)| {
        let job = state.job(job)?;
        resumed_from(state, job, state.attempt(job.id, epoch)?)
    });
    resumed.any(|one| one.parts.iter().any(|part| part.manifest == Some(manifest)))
}

/// Nodes of the attempt that made a checkpoint, the current one, whose part is not known.
pub(super) fn missing(state: &State, job: &Job, checkpoint: &Checkpoint) -> Vec<String> {
    let current = state
        .current_attempt(job)
        .filter(|attempt| attempt.epoch == checkpoint.epoch);
    let allocations = current.map_or(&[][..], |attempt| &attempt.allocations);
    let known = |place: &usize| {
        let mut parts = checkpoint.parts.iter();
        parts.any(|part| part.index as usize == *place)
    };
    let places = allocations.iter().enumerate();
    places
        .filter(|(place, _)| !known(place))
        .map(|(_, allocation)| allocation.node.clone())
        .collect()
}

/// The part still counts.
pub(super) fn is_known(state: &State, key: &PartKey) -> bool {
    let job = state.job(key.job);
    let mut checkpoints = job.iter().flat_map(|job| &job.checkpoints);
    checkpoints.any(|one| {
        let same = one.epoch == key.epoch && one.name == key.name;
        let is = |part: &Part| part.index == key.index && part.manifest == Some(key.manifest);
        same && one.parts.iter().any(is)
    })
}

/// The part that `node` had of a checkpoint of that attempt is not known, and a successor would miss it.
pub(super) fn is_missing(state: &State, (job, epoch): Key, name: &str, node: &str) -> bool {
    let Some(job) = state.job(job) else {
        return false;
    };
    let mut partial = (job.checkpoints.iter())
        .filter(|one| one.epoch == epoch && one.name == name && !one.is_whole());
    partial.any(|one| missing(state, job, one).iter().any(|other| other == node))
}

/// A holder on which one can count: neither gone nor about to go.
pub(super) fn stays(state: &State, node: &str) -> bool {
    state.node(node).is_some_and(|node| {
        node.liveness != Liveness::Lost && matches!(node.admin, Admin::Open | Admin::Cordoned)
    })
}
