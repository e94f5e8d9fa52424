//! Whom `las` slices for whom.
use std::sync::Arc;

use super::*;
use crate::scheduler::engine::fixtures::{ask, running, waiting};
use crate::state::view::jobs::Footing;

const HOUR: i64 = 3_600_000;

/// Traces' settings: every instant is a checkpoint.
fn settings() -> SchedSettings {
    SchedSettings {
        always_saved: true,
        ..SchedSettings::default()
    }
}

/// It waits since 0, and had so many unit-seconds.
fn waits(nodes: u32, gpus: u32, attained: u64) -> Waiting {
    Waiting {
        ask: Arc::new(ask(nodes, gpus)),
        attained,
        ran_ms: u64::from(attained > 0) * 60_000_000,
        ..waiting(1)
    }
}

/// It runs since 0, on one node.
fn runs(gpus: u32) -> Running {
    let job = Waiting {
        ask: Arc::new(ask(1, gpus)),
        ..waiting(2)
    };
    running(&job, 0, Vec::new(), Footing::Regular, 0)
}

fn slices(job: &Waiting, other: &Running, now: UtcMs) -> bool {
    Las.may_slice(&settings(), job, other, now)
}

#[test]
fn a_gang_that_never_ran_clears_nodes_of_its_queue_only_after_a_few_quanta() {
    let (gang, other) = (waits(2, 8, 0), runs(1));
    let from = clears_from(&settings(), &gang);
    assert_eq!(from, 40 * 60_000);
    assert!(!slices(&gang, &other, from - 1));
    assert!(slices(&gang, &other, from));
    assert_eq!(
        Las.next_of_waiting(&settings(), &gang, 0),
        Some(from),
        "a plan is made then"
    );
}

#[test]
fn one_that_ran_before_clears_nodes_of_its_queue_at_once() {
    let (gang, other) = (waits(2, 8, 1), runs(1));
    assert!(slices(&gang, &other, 10 * 60_000));
}

#[test]
fn who_is_of_a_worse_queue_is_sliced_at_once_whatever_the_sizes() {
    let (new, old) = (waits(1, 1, 0), runs(8));
    // 8 GPUs have had 20 GPU-hours after 2.5 hours.
    assert!(!slices(&new, &old, 2 * HOUR));
    assert!(slices(&new, &old, 3 * HOUR));
}

#[test]
fn eight_gpus_of_one_node_clear_it_of_smaller_equals_and_fewer_do_not() {
    let other = runs(1);
    assert!(slices(&waits(1, 8, 0), &other, HOUR));
    assert!(!slices(&waits(1, 7, 0), &other, HOUR));
    assert!(
        !slices(&waits(1, 8, 0), &runs(8), HOUR),
        "equals of the same size take no turns"
    );
}

#[test]
fn a_better_queue_is_never_sliced() {
    // 20 GPU-hours, and it waited for less than four times as long as it ran.
    let had = 20 * 3_600 * GPU;
    assert!(!slices(&waits(2, 8, had), &runs(1), HOUR));
}
