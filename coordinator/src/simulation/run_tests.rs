//! Toy loads whose every instant can be worked out by hand.
use std::sync::Arc;

use imbl::OrdMap;

use super::cluster::{Cluster, NodeKind};
use super::metrics::Record;
use super::random::Random;
use super::world::id_of;
use super::*;
use crate::scheduler::plan::{Entitlement, GangStart, Preemption, Proposal, Taken, Victim};
use crate::state::view::amounts::{Amounts, GPU};
use crate::state::view::jobs::{Class, Footing, Seat, Waiting};
use crate::state::view::policy::{Policy, SchedSettings};
use crate::state::view::scene::Scene;

fn trace(jobs: &[(i64, u64, u64)]) -> Trace {
    let jobs = jobs
        .iter()
        .enumerate()
        .map(|(at, (submit_s, gpus, length_s))| {
            let job = TraceJob {
                name: Arc::from(format!("j{at}")),
                submit_ms: submit_s * 1_000,
                units: gpus * GPU,
                per_node_max: 8,
                user: Arc::from(""),
                vc: Arc::from("vc"),
                kinds: Vec::new(),
                amounts: Amounts::NONE,
            };
            (job, length_s * 1_000)
        });
    Trace::sorted(jobs.collect())
}

fn cluster(nodes: u32) -> Cluster {
    Cluster {
        kinds: vec![NodeKind {
            count: nodes,
            gpu_type: "V100".into(),
            gpus: 8,
            amounts: None,
        }],
    }
}

fn settings() -> SchedSettings {
    settings::shipped(Policy::Fair)
}

fn start(job: &Waiting, node: &str, devices: std::ops::Range<u16>) -> GangStart {
    GangStart {
        job: job.id,
        seats: vec![Seat {
            node: Arc::from(node),
            devices: devices.collect(),
        }],
        charges: Vec::new(),
        footing: Footing::Regular,
        surplus: 0,
        tasks: None,
    }
}

/// One whole node a job, in order, as long as the node is free.
fn one_by_one(scene: &Scene, _now: i64) -> Proposal<()> {
    let mut proposal = Proposal::default();
    if scene.running.is_empty() {
        proposal.starts = scene
            .waiting
            .values()
            .take(1)
            .map(|job| start(job, "n00000", 0..8))
            .collect();
    }
    proposal
}

/// The newest job takes the node from whoever has it.
fn newest_first(scene: &Scene, now: i64) -> Proposal<()> {
    let Some(newest) = scene.waiting.values().next_back() else {
        return Proposal::default();
    };
    let Some(victim) = scene.running.values().next() else {
        return one_by_one(scene, now);
    };
    if victim.submit_index > newest.submit_index {
        return Proposal::default();
    }
    let entitlement = Entitlement {
        cover: 0,
        class: Class::Normal,
    };
    let seats = start(newest, "n00000", 0..8).seats;
    let victims = vec![Victim {
        job: victim.id,
        epoch: victim.epoch,
        entitlement,
        why: Taken::Slice,
    }];
    let preemption = Preemption {
        job: newest.id,
        entitlement,
        victims,
        seats,
        charges: Vec::new(),
    };
    Proposal {
        preemptions: vec![preemption],
        ..Proposal::default()
    }
}

#[test]
fn queue_is_what_is_not_progress() {
    let trace = trace(&[(0, 8, 100), (10, 8, 50)]);
    let outcome = simulate(
        &trace,
        &cluster(1),
        &settings(),
        &Options::default(),
        one_by_one,
    )
    .unwrap();
    let queues: Vec<_> = outcome.records.iter().map(Record::queue_ms).collect();
    assert_eq!(queues, [Some(0), Some(90_000)]);
    let report = Report::of(&outcome);
    assert!(
        (report.all.avg_queue_s - 45.0).abs() < 1e-9 && (report.makespan_s - 150.0).abs() < 1e-9
    );
    assert!(
        (report.utilization - 1.0).abs() < 1e-9,
        "the node was never free: {}",
        report.utilization
    );
}

#[test]
fn a_restart_is_charged_and_no_progress_is_lost() {
    let trace = trace(&[(0, 8, 100), (40, 8, 50)]);
    let outcome = simulate(
        &trace,
        &cluster(1),
        &settings(),
        &Options::default(),
        newest_first,
    )
    .unwrap();
    // 40 s of progress, 50 s out, 60 s of charge, the 60 s that are left.
    let ends: Vec<_> = outcome.records.iter().map(|one| one.end_ms).collect();
    assert_eq!(ends, [Some(210_000), Some(90_000)]);
    assert_eq!(outcome.records[0].queue_ms(), Some(110_000));
    assert_eq!(Report::of(&outcome).preemptions, 1);
}

#[test]
fn without_durable_checkpoints_an_evicted_job_begins_anew() {
    let trace = trace(&[(0, 8, 100), (40, 8, 50)]);
    let settings = SchedSettings {
        always_saved: false,
        ..settings()
    };
    let outcome = simulate(
        &trace,
        &cluster(1),
        &settings,
        &Options::default(),
        newest_first,
    )
    .unwrap();
    assert_eq!(outcome.records[0].end_ms, Some(250_000));
}

#[test]
fn a_plan_that_takes_what_is_not_free_is_refused() {
    let trace = trace(&[(0, 8, 100), (0, 8, 100)]);
    let both = |scene: &Scene, _: i64| Proposal::<()> {
        starts: scene
            .waiting
            .values()
            .map(|job| start(job, "n00000", 0..8))
            .collect(),
        ..Proposal::default()
    };
    let refused = simulate(&trace, &cluster(1), &settings(), &Options::default(), both);
    assert!(
        matches!(refused, Err(SimulationError::BadPlan { job, .. }) if job == id_of(1)),
        "{refused:?}"
    );
}

#[test]
fn a_job_that_can_never_start_is_named() {
    let trace = trace(&[(0, 8, 100)]);
    let never = |_: &Scene, _: i64| Proposal::<()>::default();
    let stuck = simulate(&trace, &cluster(1), &settings(), &Options::default(), never);
    assert!(
        matches!(stuck, Err(SimulationError::Stuck { waiting: 1, .. })),
        "{stuck:?}"
    );
}

#[test]
fn a_start_that_time_alone_brings_has_to_be_announced() {
    let trace = trace(&[(0, 8, 100), (10, 8, 500)]);
    let silent = |scene: &Scene, now: i64| {
        if now < 70_000 && now > 0 {
            Proposal::default()
        } else {
            one_by_one(scene, now)
        }
    };
    let two = |scene: &Scene, now: i64| {
        let mut plan: Proposal<()> = silent(scene, now);
        if now >= 70_000 && scene.running.len() == 1 {
            plan.starts = scene
                .waiting
                .values()
                .take(1)
                .map(|job| start(job, "n00001", 0..8))
                .collect();
        }
        plan
    };
    let options = Options {
        safety_ms: Some(30_000),
        ..Options::default()
    };
    let missed = simulate(&trace, &cluster(2), &settings(), &options, two);
    assert!(
        matches!(
            missed,
            Err(SimulationError::MissedTrigger {
                at_ms: 70_000,
                found: 1
            })
        ),
        "{missed:?}"
    );
}

#[test]
fn plans_before_an_instant_do_not_depend_on_what_ends_after_it() {
    let mut random = Random::new(7, "test");
    let jobs: Vec<(i64, u64, u64)> = (0..60)
        .map(|at| (at * 20, 8, 10 + random.below(100)))
        .collect();
    let trace = trace(&jobs);
    let options = Options::default();
    let honest = causality::check(&trace, &cluster(1), &settings(), &options, (20, 3), |_| {
        Box::new(one_by_one)
    });
    let honest = honest.unwrap();
    assert_eq!((honest.broken, honest.instants), (None, 20));
    assert!(honest.replaced > 100 && honest.plans > 100);
    let oracle = causality::check(
        &trace,
        &cluster(1),
        &settings(),
        &options,
        (20, 3),
        |trace| {
            let lengths = trace.lengths_ms.clone();
            let length = move |job: &Waiting| lengths[super::world::place_of(job.id)];
            Box::new(move |scene: &Scene, _: i64| {
                let shortest = scene
                    .waiting
                    .values()
                    .min_by_key(|job| length(job))
                    .filter(|_| scene.running.is_empty());
                let starts = shortest
                    .map(|job| start(job, "n00000", 0..8))
                    .into_iter()
                    .collect();
                Proposal::<()> {
                    starts,
                    ..Proposal::default()
                }
            })
        },
    );
    assert!(
        oracle.unwrap().broken.is_some(),
        "who knows lengths is found out"
    );
}

#[test]
fn histories_hold_ended_jobs_only_and_forget_the_oldest() {
    let mut histories = OrdMap::new();
    let mut known = estimates::Estimates::new(1_000, 2);
    let key = (Arc::from("vc"), GPU);
    for (now, ran) in [(0, 30), (1, 10), (2, 20)] {
        known.ended((Arc::clone(&key.0), key.1), now, ran, &mut histories);
    }
    assert_eq!(
        histories.get(&key).map(|all| all.to_vec()),
        Some(vec![10, 20])
    );
    known.ended((Arc::clone(&key.0), key.1), 5_000, 7, &mut histories);
    assert_eq!(histories.get(&key).map(|all| all.to_vec()), Some(vec![7]));
}

#[test]
fn changed_loads_keep_their_gpu_hours_and_depend_on_the_seed_alone() {
    let load = synthetic::generate(&synthetic::Shape::narrow(64, 8, 500), 5);
    assert_eq!(
        load,
        synthetic::generate(&synthetic::Shape::narrow(64, 8, 500), 5)
    );
    assert_ne!(
        load,
        synthetic::generate(&synthetic::Shape::narrow(64, 8, 500), 6)
    );
    let hours = |load: &Trace| {
        load.pairs()
            .map(|(job, ms)| u128::from(job.gpus()) * u128::from(ms))
            .sum::<u128>()
    };
    let wide = transform::widen(&load, 100_000, 1);
    let changed = wide.jobs.iter().filter(|job| job.gpus() > 8).count();
    assert!((20..=120).contains(&changed), "about a tenth: {changed}");
    assert!(
        hours(&wide).abs_diff(hours(&load)) < 64 * 500,
        "rounded up by less than a millisecond a GPU"
    );
    let moved = transform::jitter(&load, 120_000, 1);
    assert!(moved.jobs.is_sorted_by_key(|job| job.submit_ms) && hours(&moved) == hours(&load));
}

#[test]
fn what_is_wrong_with_a_line_is_said_with_its_number() {
    let head = "job_id,submit_s,gpus,gpus_per_node_max,duration_s,user,vc,gpu_type,status";
    let read = |line: &str| form::trace("t.csv", &format!("{head}\n{line}\n"), None);
    let good = read("a,1.5,0.47,8,10,,vc,V100/A10,").unwrap();
    assert_eq!(
        (
            good.jobs[0].submit_ms,
            good.jobs[0].units,
            good.lengths_ms[0]
        ),
        (1_500, 3_290, 10_000)
    );
    for bad in [
        "a,1,1,8",
        "a,-1,1,8,10,,,,",
        "a,1,NaN,8,10,,,,",
        "a,1,1.5,8,10,,,,",
        "a,1,1,0,10,,,,",
        "\"a\",1,1,8,10,,,,",
    ] {
        let said = read(bad).unwrap_err();
        assert!(said.starts_with("t.csv, line 2: "), "{bad}: {said}");
    }
    assert!(
        form::trace("t.csv", "x,y\n", None)
            .unwrap_err()
            .contains("is no trace")
    );
}
