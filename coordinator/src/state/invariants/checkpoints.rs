//! What is true of a job's checkpoints, and of what may become of them.
use std::collections::BTreeSet;

use crate::state::records::{Checkpoint, Job, Part};

/// They are in the order of their epochs, all of which were; each has distinct parts in order, no more than make it whole, and every sealed part
/// is held by somebody, once, or was uploaded.
pub(super) fn sound(job: &Job) -> bool {
    let list = &job.checkpoints;
    let sorted = list.windows(2).all(|pair| pair[0].epoch <= pair[1].epoch);
    let well = |one: &Checkpoint| is_sound(one) && Some(one.epoch) <= job.epoch();
    sorted && list.iter().all(well)
}

fn is_sound(one: &Checkpoint) -> bool {
    let ascending = |pair: &[Part]| pair[0].index < pair[1].index;
    let below = one.parts.last().is_none_or(|part| part.index < one.whole);
    let held = |part: &Part| {
        let distinct: BTreeSet<&String> = part.holders.iter().collect();
        let once = distinct.len() == part.holders.len();
        once && !part.is_lost() && (part.manifest.is_some() || !part.uploaded)
    };
    let parts = &one.parts;
    !parts.is_empty() && parts.windows(2).all(ascending) && below && parts.iter().all(held)
}

/// Of epochs that have closed nothing comes anew and no bytes change: holders come and go, people pin, and what no rule keeps goes.
pub(super) fn only_let_go(old: &Job, new: &Job) -> bool {
    let closed = |one: &&Checkpoint| Some(one.epoch) < old.epoch();
    let same = |one: &Checkpoint, other: &Checkpoint| {
        (one.epoch, &one.name, one.step, bytes(one))
            == (other.epoch, &other.name, other.step, bytes(other))
    };
    let mut kept = new.checkpoints.iter().filter(closed);
    kept.all(|new| old.checkpoints.iter().any(|old| same(old, new)))
}

fn bytes(one: &Checkpoint) -> Vec<(u32, Option<[u8; 32]>, u64)> {
    let parts = one.parts.iter();
    parts
        .map(|part| (part.index, part.manifest, part.bytes))
        .collect()
}
