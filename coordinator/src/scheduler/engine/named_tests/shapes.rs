//! Jobs of more than one shape: lists of types, elastic widths, arrays.
use std::sync::Arc;

use super::{ALL, HOUR, NONE, job, nodes, two_teams, world_plan};
use crate::scheduler::engine::fixtures::{ask, id, node, of_kinds, scene, submit, team};
use crate::scheduler::engine::world::World;
use crate::scheduler::engine::{Why, propose};
use crate::scheduler::plan::Taken;
use crate::state::view::ask::{Ask, Prefer, Width};
use crate::state::view::jobs::{Class, Tasks, Waiting};

#[test]
fn a_list_of_types_prefers_its_first_by_borrowing_or_nominal_as_it_says() {
    let teams = vec![
        team("org", &[("h100", 8, NONE), ("a100", 8, NONE)]),
        team("org/a", &[("h100", 0, ALL), ("a100", 8, ALL)]),
    ];
    let all = vec![node("n0", "base", "h100", 8), node("n1", "base", "a100", 8)];
    for (prefer, want) in [(Prefer::Type, "h100"), (Prefer::Nominal, "a100")] {
        let mut scene = scene(all.clone(), teams.clone());
        let one = Ask {
            prefer,
            ..of_kinds(ask(1, 4), &["h100", "a100"])
        };
        submit(
            &mut scene,
            Waiting {
                ask: Arc::new(one),
                ..job(1, "org/a", Class::Normal, 1, 4)
            },
        );
        let plan = propose(&scene, 0);
        assert_eq!(&*plan.starts[0].charges[0].0.kind, want);
    }
}

#[test]
fn an_elastic_job_takes_what_is_its_own_and_free_and_its_surplus_goes_first() {
    let wide = |number, team: &str| Waiting {
        ask: Arc::new(Ask {
            nodes: Width::Elastic(vec![1, 2, 4]),
            ..ask(1, 8)
        }),
        ..job(number, team, Class::Low, 1, 8)
    };
    let mut world = World::new(scene(nodes(4), two_teams(32, 0)));
    world.submit(wide(1, "org/a"), 9 * HOUR);
    let plan = world.settle();
    assert!(plan.starts.is_empty());
    let run = world.scene.running.values().next().expect("runs").clone();
    assert_eq!((run.seats.len(), run.surplus), (4, 3));
    world.submit(job(2, "org/a", Class::Normal, 1, 8), HOUR);
    assert_eq!(world_plan(&world), [(1, Taken::Surplus)]);
    // Who would borrow gets no more than its least.
    let mut borrows = scene(nodes(4), two_teams(0, 32));
    submit(&mut borrows, wide(1, "org/a"));
    assert_eq!(propose(&borrows, 0).starts[0].seats.len(), 1);
}

#[test]
fn an_array_fills_nodes_task_by_task_up_to_what_may_run_at_once() {
    let mut scene = scene(nodes(2), two_teams(16, 0));
    let tasks = |at_once| {
        Some(Tasks {
            waiting: 40,
            running: 0,
            at_once,
        })
    };
    submit(
        &mut scene,
        Waiting {
            tasks: tasks(None),
            ..job(1, "org/a", Class::Normal, 1, 2)
        },
    );
    let plan = propose(&scene, 0);
    let counts: Vec<_> = plan
        .starts
        .iter()
        .map(|start| (start.seats.len(), start.tasks))
        .collect();
    assert_eq!(counts, [(4, Some(4)), (4, Some(4))]);
    submit(
        &mut scene,
        Waiting {
            tasks: tasks(Some(3)),
            ..job(1, "org/a", Class::Normal, 1, 2)
        },
    );
    let plan = propose(&scene, 0);
    assert_eq!(
        plan.starts
            .iter()
            .filter_map(|start| start.tasks)
            .sum::<u32>(),
        3
    );
    let full = Some(Tasks {
        waiting: 40,
        running: 3,
        at_once: Some(3),
    });
    submit(
        &mut scene,
        Waiting {
            tasks: full,
            ..job(1, "org/a", Class::Normal, 1, 2)
        },
    );
    assert_eq!(propose(&scene, 0).reasons[&id(1)], Why::ArrayLimit(3));
}
