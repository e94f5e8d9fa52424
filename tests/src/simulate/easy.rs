//! EASY backfill with an oracle: one reservation for the head of the line, at node level; others may pass if they end before it or use other nodes. Does NOT preempt.
use mlctl_coordinator::scheduler::plan::Proposal;
use mlctl_coordinator::state::view::jobs::{Running, Waiting};
use mlctl_coordinator::state::view::scene::Scene;
use mlctl_proto::units::UtcMs;

use super::capacity::{Capacity, best, shape};
use super::lengths::Lengths;

/// When the head of the line starts, and on which nodes it then holds how much.
struct Promise {
    at_ms: i64,
    nodes: Vec<usize>,
    each: usize,
    /// Free GPUs of each node at that time, if nothing else starts.
    then: Vec<usize>,
}

/// Starts in order; behind the first that does not fit, what does not delay it.
pub fn easy_oracle(lengths: &Lengths, scene: &Scene, now: UtcMs) -> Proposal<()> {
    let mut capacity = Capacity::new(scene);
    let mut proposal = Proposal::default();
    let mut promise: Option<Promise> = None;
    // Ends of what this pass starts.
    let mut started: Vec<(i64, Vec<usize>, usize)> = Vec::new();
    let mut failed = std::collections::BTreeSet::new();
    for job in scene.waiting.values() {
        let length = i64::try_from(lengths.of(job.id)).unwrap_or(i64::MAX);
        let end = now.saturating_add(length);
        let places = match &mut promise {
            None => match capacity.find(&job.ask) {
                Some(places) => Some(places),
                None => {
                    promise = Some(reserve(lengths, scene, now, &capacity, &started, job));
                    None
                }
            },
            Some(promise) if end <= promise.at_ms => {
                if failed.contains(&shape(&job.ask)) {
                    continue;
                }
                let found = capacity.find(&job.ask);
                if found.is_none() {
                    failed.insert(shape(&job.ask));
                }
                found
            }
            Some(promise) => beside(promise, &capacity, job),
        };
        let Some(places) = places else { continue };
        let (_, each) = shape(&job.ask);
        proposal.starts.push(capacity.start(job, &places));
        started.push((end, places, each));
    }
    proposal
}

fn ends(lengths: &Lengths, running: &Running) -> i64 {
    let length = i64::try_from(lengths.of(running.id)).unwrap_or(i64::MAX);
    running.started_ms.saturating_add(length)
}

fn reserve(
    lengths: &Lengths,
    scene: &Scene,
    now: UtcMs,
    capacity: &Capacity,
    started: &[(i64, Vec<usize>, usize)],
    job: &Waiting,
) -> Promise {
    let (nodes, each) = shape(&job.ask);
    let mut free = capacity.free();
    let names: Vec<_> = scene.nodes.keys().cloned().collect();
    let place = |name| names.binary_search(name).expect("it runs on a node");
    let mut ends: Vec<(i64, Vec<usize>, usize)> = (scene.running.values())
        .map(|one| {
            let places = one.seats.iter().map(|seat| place(&seat.node)).collect();
            (ends(lengths, one), places, shape(&one.ask).1)
        })
        .chain(started.iter().cloned())
        .collect();
    ends.sort();
    let mut at = 0;
    while at < ends.len() {
        let time = ends[at].0;
        while at < ends.len() && ends[at].0 == time {
            for place in &ends[at].1 {
                free[*place] += ends[at].2;
            }
            at += 1;
        }
        if let Some(found) = best(&free, nodes, each) {
            return Promise {
                at_ms: time.max(now),
                nodes: found,
                each,
                then: free,
            };
        }
    }
    Promise {
        at_ms: i64::MAX,
        nodes: Vec::new(),
        each,
        then: free,
    }
}

/// A place that leaves the promised nodes what was promised; the promise's view of that time follows.
fn beside(promise: &mut Promise, capacity: &Capacity, job: &Waiting) -> Option<Vec<usize>> {
    let (nodes, each) = shape(&job.ask);
    let mut free = capacity.free();
    for (place, free) in free.iter_mut().enumerate() {
        let kept = if promise.nodes.contains(&place) {
            promise.each
        } else {
            0
        };
        *free = (*free).min(promise.then[place].saturating_sub(kept));
    }
    let found = best(&free, nodes, each)?;
    for place in &found {
        promise.then[*place] -= each;
    }
    Some(found)
}
