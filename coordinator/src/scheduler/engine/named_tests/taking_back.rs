//! Owners take back what is theirs: whom it hits, how often, what protects whom, and what is kept meanwhile.
use std::sync::Arc;

use super::{ALL, HOUR, NONE, fills_n0, job, nodes, run_to, two_teams, world_plan};
use crate::scheduler::engine::fixtures::{ask, id, running, scene, submit, team};
use crate::scheduler::engine::world::World;
use crate::scheduler::engine::{Why, propose};
use crate::state::view::amounts::GPU;
use crate::state::view::ask::Ask;
use crate::state::view::jobs::{Class, Footing, Hold, Seat, Waiting};
use crate::state::view::scene::Scene;
use crate::state::view::teams::Flavor;

#[test]
fn kueue_13662_an_owner_reclaims_once_and_the_evicted_of_a_higher_class_never_comes_back_for_it() {
    let mut world = World::new(scene(nodes(1), two_teams(8, 0)));
    world.submit(job(1, "org/b", Class::High, 1, 8), 9 * HOUR);
    world.settle();
    assert!(world.starts.contains_key(&id(1)), "it borrows what is idle");
    world.advance(HOUR);
    world.submit(job(2, "org/a", Class::Normal, 1, 8), 5 * HOUR);
    run_to(&mut world, 7 * HOUR);
    assert_eq!(world.preemptions, 1);
    assert_eq!(
        (
            world.truths[&id(1)].evictions,
            world.truths[&id(2)].evictions
        ),
        (1, 0)
    );
    run_to(&mut world, 20 * HOUR);
    assert!(world.is_idle(), "both ran to their ends");
    assert_eq!(world.preemptions, 1);
}

#[test]
fn a_borrower_that_an_owner_of_the_same_pass_would_end_does_not_start() {
    let mut scene = scene(nodes(1), two_teams(8, 0));
    submit(&mut scene, job(1, "org/b", Class::High, 1, 8));
    submit(&mut scene, job(2, "org/a", Class::Normal, 1, 8));
    let plan = propose(&scene, 0);
    assert_eq!(
        plan.starts
            .iter()
            .map(|start| start.job.counter)
            .collect::<Vec<_>>(),
        [2]
    );
    assert!(plan.preemptions.is_empty());
}

#[test]
fn spur_888_a_job_that_can_never_start_evicts_nobody() {
    let mut all = nodes(3);
    all[0].labels = Arc::from([("ib".to_owned(), "yes".to_owned())]);
    let mut world = World::new(scene(all, two_teams(12, 12)));
    for number in 1..=3 {
        world.submit(job(number, "org/a", Class::Low, 1, 8), 8 * HOUR);
    }
    world.settle();
    let labels = vec![("ib".to_owned(), "yes".to_owned())];
    let never = Ask {
        labels,
        ..ask(2, 8)
    };
    world.submit(
        Waiting {
            ask: Arc::new(never),
            ..job(9, "org/b", Class::Critical, 2, 8)
        },
        HOUR,
    );
    run_to(&mut world, 7 * HOUR);
    assert_eq!(world.preemptions, 0);
    assert!(!world.starts.contains_key(&id(9)));
}

#[test]
fn in_a_tree_of_depth_3_the_nearest_relatives_give_back_first_and_class_does_not_help_borrowers() {
    let teams = vec![
        team("org", &[("h100", 24, NONE)]),
        team("org/nlp", &[("h100", 8, ALL)]),
        team("org/nlp/chat", &[("h100", 0, ALL)]),
        team("org/vision", &[("h100", 16, ALL)]),
        team("org/vision/cars", &[("h100", 8, ALL)]),
        team("org/vision/faces", &[("h100", 8, ALL)]),
    ];
    let mut world = World::new(scene(nodes(3), teams));
    // Chat borrows everything outside nlp; faces borrows from cars.
    world.submit(job(1, "org/nlp/chat", Class::Critical, 1, 8), 9 * HOUR);
    world.submit(job(2, "org/vision/faces", Class::Normal, 1, 8), 9 * HOUR);
    world.submit(job(3, "org/vision/faces", Class::High, 1, 8), 9 * HOUR);
    world.settle();
    assert_eq!(world.starts.len(), 3);
    world.advance(HOUR);
    world.submit(job(4, "org/vision/cars", Class::Low, 1, 8), HOUR);
    let plan = world_plan(&world);
    let victims: Vec<u64> = plan.iter().map(|(victim, _)| *victim).collect();
    assert_eq!(
        victims,
        [2],
        "the brother who borrows, and of his jobs the less urgent one"
    );
    run_to(&mut world, 30 * HOUR);
    assert!(world.is_idle());
    assert_eq!(world.marks.get("reclaim inside a subtree"), Some(&1));
    assert_eq!(world.preemptions, 1);
}

#[test]
fn a_victim_that_returns_with_a_higher_class_than_its_evictor_waits_for_it() {
    let mut world = World::new(scene(nodes(1), two_teams(8, 0)));
    world.submit(job(1, "org/b", Class::Normal, 1, 8), 9 * HOUR);
    world.settle();
    world.submit(job(2, "org/a", Class::Normal, 1, 8), 5 * HOUR);
    run_to(&mut world, HOUR);
    let waits = world
        .scene
        .waiting
        .get(&(1, id(1)))
        .expect("evicted")
        .clone();
    world.truths.get_mut(&id(1)).expect("known").job.class = Class::Critical;
    world.scene.waiting.insert(
        (1, id(1)),
        Arc::new(Waiting {
            class: Class::Critical,
            ..(*waits).clone()
        }),
    );
    run_to(&mut world, 4 * HOUR);
    assert_eq!(world.preemptions, 1);
    assert_eq!(world.truths[&id(2)].evictions, 0);
}

#[test]
fn quota_edits_between_steps_move_devices_once_each() {
    let mut world = World::new(scene(nodes(2), two_teams(16, 0)));
    for number in 1..=2 {
        world.submit(job(number, "org/a", Class::Normal, 1, 8), 9 * HOUR);
        world.submit(job(number + 2, "org/b", Class::Normal, 1, 8), 9 * HOUR);
    }
    run_to(&mut world, HOUR);
    assert_eq!(world.preemptions, 0);
    for (at, (a, b, after)) in [(0_u64, 16_u64, 2_u64), (8, 8, 3), (16, 0, 4)]
        .into_iter()
        .enumerate()
    {
        for team in two_teams(a, b) {
            world.scene.teams.insert(team.name.clone(), Arc::new(team));
        }
        world.streak = 0;
        run_to(
            &mut world,
            HOUR + HOUR * i64::try_from(at + 1).expect("small"),
        );
        assert_eq!(world.preemptions, after, "after edit {at}");
    }
}

#[test]
fn gangs_whose_sizes_do_not_divide_the_nominal_do_not_chase_each_other() {
    let mut world = World::new(scene(nodes(2), two_teams(9, 7)));
    for number in 0..6 {
        let sizes = [5, 4, 3];
        let class =
            [Class::Low, Class::Normal, Class::High][usize::try_from(number % 3).expect("small")];
        let one = job(
            number + 1,
            if number % 2 == 0 { "org/a" } else { "org/b" },
            class,
            1,
            sizes[usize::try_from(number % 3).expect("small")],
        );
        world.submit(one, 4 * HOUR);
        world.settle();
        assert!(world.streak < 10);
        world.advance(world.now + HOUR / 2);
    }
    run_to(&mut world, 60 * HOUR);
    assert!(world.is_idle());
    assert!(world.preemptions < 12, "{}", world.preemptions);
}

/// A job of class low runs on the only node, and one of class high of the same team wants it.
fn low_runs_high_waits(change: &dyn Fn(&mut Scene)) -> Scene {
    let mut scene = scene(nodes(1), two_teams(8, 0));
    let low = job(1, "org/a", Class::Low, 1, 8);
    let seats = vec![Seat {
        node: "n0".into(),
        devices: (0..8).collect(),
    }];
    let mut run = running(&low, 0, seats, Footing::Regular, 0);
    run.min_runtime_ms = 600_000;
    fills_n0(&mut scene, run);
    let mut a = (*scene.teams["org/a"]).clone();
    let flavor = Flavor {
        kind: "h100".into(),
        pool: None,
    };
    a.own.insert(flavor, 8 * GPU);
    scene.teams.insert(a.name.clone(), Arc::new(a));
    submit(&mut scene, job(2, "org/a", Class::High, 1, 8));
    change(&mut scene);
    scene
}

#[test]
fn what_protects_a_victim_is_its_least_runtime_three_evictions_and_a_pause() {
    let plain = low_runs_high_waits(&|_| {});
    assert_eq!(propose(&plain, HOUR).preemptions.len(), 1);
    let early = propose(&plain, 1_000);
    assert!(early.preemptions.is_empty());
    assert_eq!(early.next, Some(600_000), "when its protection ends");
    let paused = low_runs_high_waits(&|scene| scene.preemption_paused = true);
    assert!(propose(&paused, HOUR).preemptions.is_empty());
    let often = low_runs_high_waits(&|scene| {
        for (key, run) in scene.running.clone() {
            let mut run = (*run).clone();
            run.evicted_ms = vec![1, 2, 3];
            scene.running.insert(key, Arc::new(run));
        }
    });
    assert!(
        propose(&often, HOUR).preemptions.is_empty(),
        "only a higher cover may, after three"
    );
    assert_eq!(
        propose(&often, 25 * HOUR).preemptions.len(),
        1,
        "a day later they are forgotten"
    );
    let cool = low_runs_high_waits(&|scene| {
        let key = (2, id(2));
        let waits = scene.waiting[&key].clone();
        scene.waiting.insert(
            key,
            Arc::new(Waiting {
                no_preempt_until_ms: 2 * HOUR,
                ..(*waits).clone()
            }),
        );
    });
    let plan = propose(&cool, HOUR);
    assert_eq!(
        plan.reasons[&id(2)],
        Why::PreemptCooldown { until: 2 * HOUR }
    );
    assert_eq!(propose(&cool, 2 * HOUR).preemptions.len(), 1);
}

#[test]
fn a_hold_keeps_devices_starts_its_job_when_they_are_free_and_is_recalled_when_it_is_gone() {
    let mut world = World::new(scene(nodes(2), two_teams(16, 0)));
    world.signal_ms = HOUR / 60;
    world.submit(job(1, "org/b", Class::High, 2, 8), 9 * HOUR);
    world.settle();
    world.submit(job(2, "org/a", Class::Normal, 1, 8), HOUR);
    world.settle();
    assert_eq!(world.scene.holds.len(), 1);
    // Gone before anybody was told: nobody ends.
    world.scene.waiting.remove(&(2, id(2)));
    world.settle();
    assert!(world.scene.holds.is_empty());
    assert!(
        world
            .scene
            .running
            .values()
            .all(|run| run.ends_by_ms.is_none())
    );
    world.submit(job(3, "org/a", Class::Normal, 1, 8), HOUR);
    world.settle();
    world.submit(job(4, "org/a", Class::Low, 1, 8), HOUR);
    run_to(&mut world, HOUR);
    assert!(world.starts.contains_key(&id(3)));
    assert_eq!(world.truths[&id(1)].evictions, 2);
}

/// Apply would refuse it there again and again, and nobody else would get the devices.
#[test]
fn what_is_kept_on_a_node_that_failed_the_job_meanwhile_is_let_go() {
    let kept = |avoid: &[&str]| {
        let mut scene = scene(nodes(2), two_teams(16, 0));
        let one = Waiting {
            avoid: avoid.iter().map(|name| (*name).into()).collect(),
            ..job(1, "org/a", Class::Normal, 1, 8)
        };
        let hold = Hold {
            job: one.id,
            seats: vec![Seat {
                node: "n0".into(),
                devices: (0..8).collect(),
            }],
            until_ms: HOUR,
            victims: Vec::new(),
        };
        scene.holds.insert(one.id, Arc::new(hold));
        let key = (one.submit_index, one.id);
        scene.waiting.insert(key, Arc::new(one));
        propose(&scene, HOUR / 2)
    };
    let there = kept(&[]);
    assert_eq!((there.withdrawn.len(), there.starts.len()), (0, 1));
    assert_eq!(&*there.starts[0].seats[0].node, "n0");
    let elsewhere = kept(&["n0"]);
    assert_eq!(elsewhere.withdrawn, [id(1)]);
    let places = elsewhere.starts.iter().flat_map(|start| &start.seats);
    assert!(places.clone().all(|seat| &*seat.node != "n0"));
}
