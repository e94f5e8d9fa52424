//! SRTF with an oracle: who has least left runs, the others are preempted. Does NOT care how often.
use std::collections::BTreeSet;
use std::sync::Arc;

use mlctl_coordinator::scheduler::plan::{
    Entitlement, GangStart, Preemption, Proposal, Taken, Victim,
};
use mlctl_coordinator::state::view::jobs::{Class, Running, Waiting};
use mlctl_coordinator::state::view::scene::Scene;
use mlctl_proto::ids::JobId;
use mlctl_proto::units::UtcMs;

use super::capacity::{Capacity, gpus};
use super::lengths::Lengths;

/// One preemption a pass at most; the loop calls again.
pub fn srtf_oracle(lengths: &Lengths, scene: &Scene, now: UtcMs) -> Proposal<()> {
    let left_waiting = |job: &Waiting| lengths.of(job.id).saturating_sub(job.ran_ms);
    let mut running: Vec<(u64, &Arc<Running>)> = (scene.running.values())
        .map(|one| {
            let ran = one.ran_ms + now.saturating_sub(one.started_ms).unsigned_abs();
            (lengths.of(one.id).saturating_sub(ran), one)
        })
        .collect();
    running.sort_by_key(|(left, one)| (std::cmp::Reverse(*left), one.submit_index));
    let mut waiting: Vec<_> = scene.waiting.values().collect();
    waiting.sort_by_key(|job| (left_waiting(job), job.submit_index));
    let mut capacity = Capacity::new(scene);
    let mut proposal = Proposal::default();
    let mut gone: BTreeSet<JobId> = BTreeSet::new();
    for job in waiting {
        if let Some(places) = capacity.find(&job.ask) {
            proposal.starts.push(capacity.start(job, &places));
            continue;
        }
        let mut tried = capacity.clone();
        let mut victims = Vec::new();
        for (left, one) in &running {
            if *left <= left_waiting(job) || gone.contains(&one.id) {
                continue;
            }
            tried.give(one);
            victims.push(*one);
            if tried.find(&job.ask).is_some() {
                break;
            }
        }
        let Some(places) = tried.find(&job.ask) else {
            continue;
        };
        if victims.iter().map(|one| gpus(&one.ask)).sum::<usize>() == 0 {
            continue;
        }
        let start = tried.start(job, &places);
        // Who holds nothing of the chosen nodes stays.
        let taken = |one: &Running| {
            one.seats.iter().any(|seat| {
                start.seats.iter().any(|other| {
                    other.node == seat.node
                        && other.devices.iter().any(|at| seat.devices.contains(at))
                })
            })
        };
        let victims: Vec<_> = victims.into_iter().filter(|one| taken(one)).collect();
        gone.extend(victims.iter().map(|one| one.id));
        // What else they free is there for others in the next pass.
        capacity.hold(&start.seats);
        proposal.preemptions.push(preemption(start, &victims));
    }
    proposal
}

fn preemption(start: GangStart, victims: &[&Arc<Running>]) -> Preemption {
    let victims = victims.iter().map(|one| Victim {
        job: one.id,
        epoch: one.epoch,
        entitlement: Entitlement {
            cover: 0,
            class: one.class,
        },
        why: Taken::Slice,
    });
    Preemption {
        job: start.job,
        entitlement: Entitlement {
            cover: 0,
            class: Class::Normal,
        },
        victims: victims.collect(),
        seats: start.seats,
        charges: start.charges,
    }
}
