//! Whose turn it is: class, age, nominal, fair share, submit.
use std::collections::BTreeMap;

use super::{HOUR, NONE, job, nodes, starts, two_teams};
use crate::scheduler::engine::fixtures::{scene, submit, team};
use crate::state::view::jobs::{Class, Waiting};
use crate::state::view::teams::TeamView;

#[test]
fn order_is_class_then_aged_then_nominal_then_fair_share_then_submit() {
    let one = |jobs: Vec<Waiting>, teams: Vec<TeamView>, now: i64| {
        let mut scene = scene(nodes(1), teams);
        jobs.into_iter().for_each(|job| submit(&mut scene, job));
        starts(&scene, now)
    };
    let whole = |number, team, class| Waiting {
        eligible_ms: 30 * HOUR,
        ..job(number, team, class, 1, 8)
    };
    let later = 31 * HOUR;
    assert_eq!(
        one(
            vec![
                whole(1, "org/a", Class::Normal),
                whole(2, "org/a", Class::High)
            ],
            two_teams(8, 8),
            later
        ),
        [2]
    );
    let aged = Waiting {
        eligible_ms: 0,
        ..whole(2, "org/a", Class::Normal)
    };
    assert_eq!(
        one(
            vec![whole(1, "org/a", Class::Normal), aged],
            two_teams(8, 8),
            later
        ),
        [2]
    );
    let inside = vec![
        whole(1, "org/b", Class::Normal),
        whole(2, "org/a", Class::Normal),
    ];
    assert_eq!(one(inside.clone(), two_teams(8, 0), later), [2]);
    let mut used = two_teams(8, 8);
    used[2].usage = 1_000_000;
    assert_eq!(one(inside.clone(), used, later), [2]);
    let mut noise = two_teams(8, 8);
    noise[1].usage = 1_000_000;
    noise[2].usage = 1_010_000;
    assert_eq!(
        one(inside, noise, later),
        [1],
        "one percent is noise: submit decides"
    );
    let mut weighed = two_teams(8, 8);
    (weighed[1].usage, weighed[2].usage, weighed[2].weight) = (1_000_000, 1_500_000, 4);
    assert_eq!(
        one(
            vec![
                whole(1, "org/a", Class::Normal),
                whole(2, "org/b", Class::Normal)
            ],
            weighed,
            later
        ),
        [2]
    );
}

#[test]
fn among_users_of_a_team_who_used_less_comes_first() {
    let mut org = team("org", &[("h100", 8, NONE)]);
    org.users = BTreeMap::from([("ann".into(), 9_000_000), ("bo".into(), 1_000)]);
    let mut scene = scene(nodes(1), vec![org]);
    submit(&mut scene, job(1, "org", Class::Normal, 1, 8));
    submit(
        &mut scene,
        Waiting {
            user: "bo".into(),
            ..job(2, "org", Class::Normal, 1, 8)
        },
    );
    assert_eq!(starts(&scene, 0), [2]);
}
