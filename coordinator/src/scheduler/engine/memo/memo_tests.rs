//! A pass with a memo against one without, over scenes that differ in whatever may change between two passes.
use std::sync::Arc;

use super::Memo;
use crate::scheduler::engine::explain::{explain, explain_with};
use crate::scheduler::engine::property_tests::{Draw, all_seeds, story_with};
use crate::scheduler::engine::{propose, propose_with};
use crate::state::view::jobs::{Blocked, Class, Running, Waiting};
use crate::state::view::nodes::{Guests, NodeView, Open, Owner};
use crate::state::view::policy::{Policy, SchedSettings};
use crate::state::view::scene::Scene;
use crate::state::view::teams::TeamView;

const MINUTE: i64 = 60_000;

fn one_of<T: Clone>(draw: &mut Draw, all: impl Iterator<Item = T>) -> Option<T> {
    let all: Vec<T> = all.collect();
    let at = usize::try_from(draw.below(all.len() as u64)).expect("small");
    all.get(at).cloned()
}

fn change_node(draw: &mut Draw, scene: &mut Scene, now: i64) {
    let Some(old) = one_of(draw, scene.nodes.values()).cloned() else {
        return;
    };
    let mut node = NodeView::clone(&old);
    match draw.below(9) {
        0 => node.open = Open::No,
        1 => node.open = Open::From(now + 7 * MINUTE),
        2 => node.windows = vec![(now + 30 * MINUTE, now + 90 * MINUTE)],
        3 => {
            let team = one_of(draw, scene.teams.keys()).cloned();
            node.owner = team.map(|team| Owner {
                team,
                guests: Guests::Preemptible,
            });
        }
        4 => node.labels = Arc::from([("zone".to_owned(), "z1".to_owned())]),
        5 => node.free.cpu_milli /= 2,
        6 => node.devices.iter_mut().for_each(|one| one.free = 0),
        7 => {
            scene.nodes.remove(&old.name);
            return;
        }
        _ => {
            node.name = format!("{}-twin", old.name).into();
        }
    }
    scene.nodes.insert(node.name.clone(), Arc::new(node));
}

fn change_job(draw: &mut Draw, scene: &mut Scene, now: i64) {
    let Some(old) = one_of(draw, scene.waiting.values()).cloned() else {
        return;
    };
    let mut job = Waiting::clone(&old);
    match draw.below(10) {
        0 => job.class = Class::ALL[usize::try_from(draw.below(4)).expect("small")],
        1 => job.limit_ms = Some(60_000 * (1 + draw.below(300))),
        2 => job.eligible_ms = now - 25 * 60 * MINUTE,
        3 => job.blocked = Some(Blocked::StartTime(now + 11 * MINUTE)),
        4 => job.avoid = scene.nodes.keys().take(1).cloned().collect(),
        5 => job.user = "somebody".into(),
        6 => job.no_preempt_until_ms = now + 13 * MINUTE,
        7 => {
            scene.waiting.remove(&(old.submit_index, old.id));
            return;
        }
        8 => {
            if let Some(other) = one_of(draw, scene.waiting.values()) {
                job.ask = Arc::new((*other.ask).clone());
            }
        }
        _ => {
            job.id.counter += 1_000_000;
            job.submit_index += 1_000_000;
            job.attained = draw.below(1 << 40);
        }
    }
    scene
        .waiting
        .insert((job.submit_index, job.id), Arc::new(job));
}

fn change_team(draw: &mut Draw, scene: &mut Scene) {
    let Some(old) = one_of(draw, scene.teams.values()).cloned() else {
        return;
    };
    let mut team = TeamView::clone(&old);
    match draw.below(5) {
        0 => team.usage = draw.below(1 << 40).into(),
        1 => {
            let users = scene.waiting.values().map(|job| job.user.clone());
            team.users = users
                .map(|user| (user, u128::from(draw.below(1 << 30))))
                .collect();
        }
        2 => team.max_running = Some(1),
        3 => {
            team.quotas.pop_first();
        }
        _ => team.weight += 1,
    }
    scene.teams.insert(team.name.clone(), Arc::new(team));
}

fn change_something(draw: &mut Draw, scene: &mut Scene, now: i64) {
    match draw.below(8) {
        0 => change_node(draw, scene, now),
        1..4 => change_job(draw, scene, now),
        4 => change_team(draw, scene),
        5 => {
            let settings = SchedSettings::clone(&scene.settings);
            scene.settings = Arc::new(match draw.below(3) {
                0 => SchedSettings {
                    policy: Policy::Las,
                    ..settings
                },
                1 => SchedSettings {
                    keep_gpu_share: !settings.keep_gpu_share,
                    ..settings
                },
                _ => SchedSettings {
                    age_limit_ms: [30 * 60_000; 4],
                    ..settings
                },
            });
        }
        6 => {
            if let Some((key, old)) = one_of(draw, scene.running.iter()) {
                let (key, mut run) = (*key, Running::clone(old));
                match draw.below(3) {
                    0 => run.ends_by_ms = Some(now + MINUTE),
                    1 => run.limit_ms = None,
                    _ => run.saved_ms = Some(now),
                }
                scene.running.insert(key, Arc::new(run));
            }
        }
        _ => {
            let promised = scene.reservations.keys().next().copied();
            promised.map(|job| scene.reservations.remove(&job));
        }
    }
}

#[test]
fn a_memo_changes_no_answer() {
    let (mut compared, mut explained) = (0_u64, 0_u64);
    for seed in all_seeds(30) {
        let mut memo = Memo::default();
        story_with(seed, 30, &mut |draw, world| {
            let mut scene = world.scene.clone();
            for round in 0..4 {
                // Time may go back, as between one leader and the next.
                let now =
                    world.now + MINUTE * (i64::try_from(draw.below(200)).expect("small") - 20);
                let at = || format!("seed {seed} at {now}, {round}");
                let with = propose_with(&mut memo, &scene, now);
                assert_eq!(with, propose(&scene, now), "{}", at());
                compared += 1;
                if let Some(job) = one_of(draw, scene.waiting.values()).filter(|_| round == 2) {
                    let with = explain_with(&mut memo, &scene, now, job.id);
                    assert_eq!(with, explain(&scene, now, job.id), "{}", at());
                    explained += 1;
                }
                for _ in 0..1 + draw.below(2) {
                    change_something(draw, &mut scene, now);
                }
            }
        });
    }
    println!("{compared} plans, {explained} explanations");
    assert!(compared > 2_000 && explained > 200);
}
