//! I3 for devices that are kept: each for one job, which waits, and in nobody's hands but those of who ends for it.
use std::collections::BTreeMap;

use mlctl_proto::ids::JobId;

use super::{State, Violation, require};
use crate::state::records::{DeviceHold, JobState};

/// Everything that is wrong with what is kept.
pub(super) fn check(state: &State, found: &mut Vec<Violation>) {
    let mut keeper: BTreeMap<(&str, &str), JobId> = BTreeMap::new();
    for hold in state.holds() {
        for device in hold.devices() {
            let other = keeper.insert(device, hold.job);
            let (node, uuid) = device;
            require(
                found,
                other.is_none(),
                "a device is kept for one job",
                || format!("{uuid} of {node}"),
            );
        }
        check_hold(state, hold, found);
    }
}

fn check_hold(state: &State, hold: &DeviceHold, found: &mut Vec<Violation>) {
    let job = state.job(hold.job);
    let waits = job.is_some_and(|job| job.state == JobState::Pending || job.fills());
    let request = job.and_then(|job| state.request(job));
    let whole = request.is_some_and(|request| hold.is_for(request));
    let ending = hold.victims.iter().all(|victim| {
        let attempt = state.attempt(victim.job, victim.epoch);
        attempt.is_none_or(|attempt| attempt.stopping || attempt.closed())
    });
    let kept = hold.devices().all(|(node, uuid)| {
        let holder = state.device_holder(node, uuid);
        holder.is_none_or(|(job, epoch)| hold.waits_for(job, epoch))
    });
    let there = hold.devices().all(|(node, uuid)| {
        let node = state.node(node);
        node.is_some_and(|node| node.facts.devices.iter().any(|one| one.uuid == uuid))
    });
    for (holds, rule) in [
        (waits, "who has devices kept waits for them"),
        (whole, "what is kept is a whole gang's"),
        (
            ending,
            "who is ended for another is being ended, or is over",
        ),
        (
            kept,
            "what is kept is free, or in the hands of who ends for it",
        ),
        (there, "what is kept is there"),
        (
            hold.until_ms > state.now_ms(),
            "nothing is kept longer than it was said",
        ),
    ] {
        require(found, holds, rule, || format!("for job {}", hold.job));
    }
}
