//! What is promised is kept: within which time the first of the queue starts, what may go before it, and who comes in as a guest.
use std::sync::Arc;

use super::{HOUR, NONE, fills_n0, job, nodes, run_to};
use crate::scheduler::engine::fixtures::{id, running, scene, submit, team};
use crate::scheduler::engine::world::World;
use crate::scheduler::engine::{Why, propose};
use crate::state::view::amounts::GPU;
use crate::state::view::jobs::{Class, Footing, Seat, Waiting};
use crate::state::view::policy::SchedSettings;

#[test]
fn a_gang_that_is_first_starts_within_the_longest_protected_time_and_the_ending() {
    for limits in [true, false] {
        let mut scene = scene(nodes(4), vec![team("org", &[("h100", 32, NONE)])]);
        let settings = SchedSettings {
            default_time_ms: [4 * 3_600_000; 4],
            ..SchedSettings::default()
        };
        let (protected, ending) = (
            4 * HOUR,
            i64::try_from(settings.grace_ms[1] + settings.kill_ms).expect("small"),
        );
        scene.settings = Arc::new(settings);
        let mut world = World::new(scene);
        let narrow = |number: u64| {
            let limit_ms = limits.then_some(4 * 3_600_000);
            Waiting {
                limit_ms,
                ..job(
                    number,
                    "org",
                    Class::Normal,
                    1,
                    1 + u32::try_from(number % 4).expect("small"),
                )
            }
        };
        for number in 1..=13 {
            world.submit(narrow(number), 50 * HOUR);
        }
        world.settle();
        world.advance(HOUR / 4);
        world.submit(
            Waiting {
                user: "bo".into(),
                ..job(100, "org", Class::Normal, 4, 8)
            },
            HOUR,
        );
        // Others keep coming, shorter and longer.
        for step in 1..80 {
            world.submit(
                narrow(100 + step),
                if step % 2 == 0 { HOUR } else { 50 * HOUR },
            );
            run_to(
                &mut world,
                HOUR / 4 + HOUR / 8 * i64::try_from(step).expect("small"),
            );
            if world.starts.contains_key(&id(100)) {
                break;
            }
        }
        let started = world.starts.get(&id(100)).copied().expect("it starts");
        assert!(
            started <= protected + ending + HOUR / 8,
            "limits {limits}: only at {started}"
        );
    }
}

#[test]
fn backfill_starts_what_ends_before_the_promise_and_nothing_that_would_delay_it() {
    let mut scene = scene(nodes(2), vec![team("org", &[("h100", 16, NONE)])]);
    let world_scene = |limit: u64, interactive: bool| {
        let mut scene = scene.clone();
        let long = Waiting {
            limit_ms: Some(5 * 3_600_000),
            ..job(1, "org", Class::Normal, 1, 8)
        };
        let seats = vec![Seat {
            node: "n0".into(),
            devices: (0..8).collect(),
        }];
        let run = running(&long, 0, seats, Footing::Regular, 0);
        fills_n0(&mut scene, run);
        submit(&mut scene, job(2, "org", Class::Normal, 2, 8));
        let small = Waiting {
            limit_ms: Some(limit),
            interactive,
            ..job(3, "org", Class::Normal, 1, 2)
        };
        submit(&mut scene, small);
        scene
    };
    let short = world_scene(3 * 3_600_000, false);
    let plan = propose(&short, 0);
    assert_eq!(plan.reservations.len(), 1);
    assert_eq!(
        (plan.reservations[0].job, plan.reservations[0].start_ms),
        (id(2), 5 * HOUR)
    );
    assert_eq!(
        plan.starts
            .iter()
            .map(|start| start.job.counter)
            .collect::<Vec<_>>(),
        [3]
    );
    let long = world_scene(6 * 3_600_000, false);
    let plan = propose(&long, 0);
    assert!(plan.starts.is_empty());
    assert_eq!(
        plan.reasons[&id(3)],
        Why::Reservation {
            job: id(2),
            start_ms: 5 * HOUR
        }
    );
    scene.starts_paused = true;
    assert!(propose(&scene, 0).starts.is_empty());
}

#[test]
fn a_guest_comes_in_on_its_owners_history_and_is_taken_once_when_the_promise_is_due() {
    let mut start = scene(nodes(2), vec![team("org", &[("h100", 16, NONE)])]);
    start
        .histories
        .insert(("ann".into(), GPU), Arc::new(vec![600_000; 9]));
    let mut world = World::new(start);
    world.submit(
        Waiting {
            limit_ms: Some(5 * 3_600_000),
            ..job(1, "org", Class::Normal, 1, 8)
        },
        5 * HOUR,
    );
    world.settle();
    world.submit(job(2, "org", Class::Normal, 2, 8), HOUR);
    world.submit(
        Waiting {
            limit_ms: None,
            ..job(3, "org", Class::Normal, 1, 1)
        },
        40 * HOUR,
    );
    world.settle();
    let guest = world
        .scene
        .running
        .values()
        .find(|run| run.id == id(3))
        .expect("let in");
    assert_eq!(guest.footing, Footing::Guest(5 * HOUR));
    run_to(&mut world, 8 * HOUR);
    assert!(world.truths[&id(3)].job.was_guest_taken);
    assert_eq!(world.marks.get("guest taken"), Some(&1));
    assert!(world.starts[&id(2)] <= 6 * HOUR);
}
