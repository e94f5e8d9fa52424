//! Random clusters in virtual time: what the policy promises is checked at every step by `world`.
use std::collections::BTreeMap;
use std::sync::Arc;

use super::fixtures::{ask, id, node, of_kinds, scene, team, waiting};
use super::propose;
use super::world::World;
use crate::state::view::amounts::GPU;
use crate::state::view::ask::{Ask, Gpus, Prefer, Width};
use crate::state::view::jobs::{Class, Tasks, Waiting};
use crate::state::view::nodes::Open;
use crate::state::view::policy::SchedSettings;
use crate::state::view::scene::Scene;
use crate::state::view::teams::{Limit, TeamView};

/// Numbers that follow from a seed.
pub struct Draw(pub u64);

impl Draw {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n.max(1)
    }

    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

const KINDS: [&str; 3] = ["a100", "h100", "l40s"];
const MINUTE: i64 = 60_000;

fn teams(draw: &mut Draw, devices: &BTreeMap<&str, u64>) -> Vec<TeamView> {
    let mut all = vec![team("org", &[]), team("solo", &[])];
    let mut names = vec!["org".to_owned()];
    for at in 0..2 + draw.below(6) {
        let above = names[usize::try_from(draw.below(names.len() as u64)).expect("small")].clone();
        if above.matches('/').count() < 4 {
            let name = format!("{above}/t{at}");
            names.push(name.clone());
            all.push(team(&name, &[]));
        }
    }
    all.sort_by(|one, other| one.name.cmp(&other.name));
    for kind in KINDS {
        if draw.one_in(5) {
            continue;
        }
        split(
            draw,
            &mut all,
            "org",
            kind,
            devices.get(kind).copied().unwrap_or(0),
        );
    }
    for team in &mut all {
        team.weight = 1 + u32::try_from(draw.below(3)).expect("small");
        team.usage = u128::from(draw.below(1_000_000));
        if draw.one_in(4) {
            let flavor = crate::state::view::teams::Flavor {
                kind: KINDS[usize::try_from(draw.below(3)).expect("small")].into(),
                pool: None,
            };
            team.budgets
                .insert(flavor, (2 + draw.below(40)) * 3_600 * GPU);
        }
        if draw.one_in(8) {
            team.max_running = Some(1 + u32::try_from(draw.below(4)).expect("small"));
        }
    }
    all
}

/// Children's nominals sum to at most the parent's.
fn split(draw: &mut Draw, all: &mut [TeamView], name: &str, kind: &str, nominal: u64) {
    use crate::state::view::teams::{Flavor, Quota};
    let limit = |draw: &mut Draw| match draw.below(3) {
        0 => Limit::Unlimited,
        1 => Limit::Units(0),
        _ => Limit::Units(draw.below(8) * GPU),
    };
    let (borrow, lend) = (
        limit(draw),
        if draw.one_in(3) {
            limit(draw)
        } else {
            Limit::Unlimited
        },
    );
    let flavor = Flavor {
        kind: kind.into(),
        pool: None,
    };
    if let Some(team) = all.iter_mut().find(|team| &*team.name == name)
        && !draw.one_in(8)
    {
        team.quotas.insert(
            flavor,
            Quota {
                nominal: nominal * GPU,
                borrow,
                lend,
            },
        );
    }
    let below: Vec<String> = (all.iter())
        .filter(|team| {
            team.name
                .rsplit_once('/')
                .is_some_and(|(above, _)| above == name)
        })
        .map(|team| team.name.to_string())
        .collect();
    let mut left = nominal;
    for child in below {
        let mine = draw.below(left + 1);
        left -= mine;
        split(draw, all, &child, kind, mine);
    }
}

fn random_ask(draw: &mut Draw) -> Ask {
    let gpus = [1, 1, 2, 3, 4, 8][usize::try_from(draw.below(6)).expect("small")];
    let nodes = if draw.one_in(4) {
        2 + u32::try_from(draw.below(3)).expect("small")
    } else {
        1
    };
    let mut one = ask(nodes, gpus);
    match draw.below(4) {
        0 => {
            one = of_kinds(
                one,
                &[KINDS[usize::try_from(draw.below(3)).expect("small")]],
            )
        }
        1 => one = of_kinds(one, &["h100", "a100"]),
        _ => {}
    }
    if draw.one_in(10) {
        one.gpus = Gpus::Share(u32::try_from(1_000 * (1 + draw.below(6))).expect("small"));
        one.nodes = Width::Exactly(1);
    } else if draw.one_in(20) {
        one = ask(1, 0);
    } else if draw.one_in(5) {
        one.nodes = Width::Elastic(vec![1, 2, 4]);
    }
    if draw.one_in(4) {
        one.prefer = Prefer::Nominal;
    }
    one
}

fn random_job(draw: &mut Draw, number: u64, teams: &[Arc<str>], asks: &[Arc<Ask>]) -> Waiting {
    let mut job = waiting(number);
    job.team = teams[usize::try_from(draw.below(teams.len() as u64)).expect("small")].clone();
    job.user = format!("u{}", draw.below(5)).into();
    job.class = Class::ALL[usize::try_from(
        [1, 1, 1, 0, 2, 3][usize::try_from(draw.below(6)).expect("small")],
    )
    .expect("small")];
    job.ask = asks[usize::try_from(draw.below(asks.len() as u64)).expect("small")].clone();
    if draw.one_in(2) {
        job.limit_ms = Some(10 * 60_000 * (1 + draw.below(30)));
    }
    job.preemptible = draw.one_in(4);
    job.interactive = draw.one_in(8);
    if draw.one_in(10) && job.ask.nodes == Width::Exactly(1) {
        let at_once = draw
            .one_in(2)
            .then(|| 1 + u32::try_from(draw.below(6)).expect("small"));
        job.tasks = Some(Tasks {
            waiting: 2 + u32::try_from(draw.below(20)).expect("small"),
            running: 0,
            at_once,
        });
    }
    job
}

fn world(draw: &mut Draw) -> World {
    let most = if draw.one_in(5) { 38 } else { 8 };
    let count = 3 + draw.below(most);
    let mut nodes = Vec::new();
    let mut devices: BTreeMap<&str, u64> = BTreeMap::new();
    for at in 0..count {
        let kind = KINDS[usize::try_from(if at < 3 { at } else { draw.below(3) }).expect("small")];
        let gpus = [4, 8, 8][usize::try_from(draw.below(3)).expect("small")];
        let mut one = node(
            &format!("n{at:02}"),
            if draw.one_in(4) { "spot" } else { "base" },
            kind,
            gpus,
        );
        one.racks = vec![format!("b{}", at / 8).into(), format!("r{}", at / 4).into()];
        *devices.entry(kind).or_default() += u64::from(gpus);
        if draw.one_in(12) {
            one.windows = vec![(200 * MINUTE, 300 * MINUTE)];
        }
        nodes.push(one);
    }
    let teams = teams(draw, &devices);
    let mut scene = scene(nodes, teams);
    scene.settings = Arc::new(SchedSettings {
        age_limit_ms: [(60 + 30 * draw.below(6)) * 60_000; 4],
        default_time_ms: [240 * 60_000; 4],
        grace_ms: [5 * 60_000; 4],
        reservations: u32::try_from(draw.below(4) * 2).expect("small"),
        ..SchedSettings::default()
    });
    let mut world = World::new(scene);
    if draw.one_in(2) {
        surprise(draw, &mut world.scene);
    }
    world.signal_ms = if draw.one_in(2) { 0 } else { 2 * MINUTE };
    world
}

/// Everybody's jobs used to be short: guests come in on that, and some stay for long.
fn surprise(draw: &mut Draw, scene: &mut Scene) {
    let settings = SchedSettings {
        reservations: 4,
        default_time_ms: [(60 + 60 * draw.below(3)) * 60_000; 4],
        ..(*scene.settings).clone()
    };
    scene.settings = Arc::new(settings);
    for user in 0..5 {
        for units in (1..=32).map(|gpus| gpus * GPU) {
            scene.histories.insert(
                (format!("u{user}").into(), units),
                Arc::new(vec![60_000 * (1 + draw.below(20)); 9]),
            );
        }
    }
}

/// Gangs to which starts are promised, and what comes in before them.
fn wide_or_narrow(draw: &mut Draw, at: u32) -> Ask {
    if at.is_multiple_of(2) {
        ask(2 + at % 3, if draw.one_in(2) { 8 } else { 4 })
    } else {
        ask(1, 1 + at % 2)
    }
}

pub fn story(seed: u64, steps: u32) -> World {
    story_with(seed, steps, &mut |_, _| {})
}

/// The same, and something is looked at whenever all plans are carried out.
pub fn story_with(seed: u64, steps: u32, look: &mut dyn FnMut(&mut Draw, &World)) -> World {
    stretched(seed, steps, 100, look)
}

/// The same with other true lengths, in hundredths.
fn stretched(
    seed: u64,
    steps: u32,
    stretch: i64,
    look: &mut dyn FnMut(&mut Draw, &World),
) -> World {
    let mut draw = Draw(seed);
    let mut world = world(&mut draw);
    world.stretch = stretch;
    let teams: Vec<Arc<str>> = world.scene.teams.keys().cloned().collect();
    let surprising = !world.scene.histories.is_empty();
    let asks: Vec<Arc<Ask>> = (0..12)
        .map(|at| {
            Arc::new(if surprising {
                wide_or_narrow(&mut draw, at)
            } else {
                random_ask(&mut draw)
            })
        })
        .collect();
    let mut number = 0;
    for _ in 0..steps {
        for _ in 0..draw.below(4) {
            number += 1;
            let mut job = random_job(&mut draw, number, &teams, &asks);
            if surprising && !job.ask.is_wide() {
                (job.limit_ms, job.interactive, job.class) = (None, false, Class::Normal);
            }
            let most = if draw.one_in(3) { 900 } else { 120 };
            let length = MINUTE * i64::try_from(1 + draw.below(most)).expect("small");
            world.submit(job, length);
            if draw.one_in(2)
                && let Some(truth) = world.truths.get_mut(&id(number))
            {
                truth.saved = true;
            }
        }
        something_else(&mut draw, &mut world);
        world.settle();
        assert!(world.streak < 60, "seed {seed}: preemptions without end");
        look(&mut draw, &world);
        let later = world.now + MINUTE * i64::try_from(1 + draw.below(60)).expect("small");
        world.advance(later);
    }
    world
}

/// Nodes drain and come back, quotas change, budgets are filled again, jobs are cancelled.
fn something_else(draw: &mut Draw, world: &mut World) {
    if draw.one_in(8) {
        let names: Vec<Arc<str>> = world.scene.nodes.keys().cloned().collect();
        let name = &names[usize::try_from(draw.below(names.len() as u64)).expect("small")];
        let mut node = (*world.scene.nodes[name]).clone();
        node.open = match node.open {
            Open::Now if draw.one_in(2) => Open::No,
            Open::Now if node.devices.iter().all(|one| one.free == GPU as u32) => {
                Open::From(world.now + 10 * MINUTE)
            }
            _ => Open::Now,
        };
        world.scene.nodes.insert(name.clone(), Arc::new(node));
        world.streak = 0;
    }
    if draw.one_in(10) {
        let names: Vec<Arc<str>> = world.scene.teams.keys().cloned().collect();
        let name = &names[usize::try_from(draw.below(names.len() as u64)).expect("small")];
        let mut team = (*world.scene.teams[name]).clone();
        for quota in team.quotas.values_mut() {
            quota.borrow = if draw.one_in(2) {
                Limit::Unlimited
            } else {
                Limit::Units(0)
            };
            if draw.one_in(2) {
                quota.nominal /= 2;
            }
        }
        world.scene.teams.insert(name.clone(), Arc::new(team));
        world.streak = 0;
    }
    if draw.one_in(10) {
        for (name, team) in world.scene.teams.clone() {
            let budgets = team
                .budgets
                .keys()
                .map(|flavor| (flavor.clone(), (2 + draw.below(60)) * 3_600 * GPU))
                .collect();
            world.scene.teams.insert(
                name,
                Arc::new(TeamView {
                    budgets,
                    ..(*team).clone()
                }),
            );
        }
        world.streak = 0;
    }
    if draw.one_in(6) {
        let waits: Vec<_> = world.scene.waiting.values().cloned().collect();
        if let Some(job) =
            waits.get(usize::try_from(draw.below(waits.len().max(1) as u64)).expect("small"))
            && job.tasks.is_none_or(|tasks| tasks.running == 0)
        {
            world.scene.waiting.remove(&(job.submit_index, job.id));
            world.streak = 0;
        }
    }
}

/// The same ones each time, for what is counted, and a few that nobody has seen; `SEED` names the first of them instead.
#[expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a test that draws new seeds says which"
)]
pub fn all_seeds(count: u64) -> impl Iterator<Item = u64> {
    let said = said("SEED");
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let new = since.map_or(0, |since| since.as_secs().wrapping_mul(1_000));
    let (first, news) = said.map_or((1, new..new + NEW_SEEDS), |said| (said, 0..0));
    (first..first + count).chain(news)
}

/// A number that whoever runs the tests gives them.
#[expect(
    clippy::disallowed_methods,
    reason = "who runs a test longer says so without another build"
)]
pub fn said(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// New ones each time.
const NEW_SEEDS: u64 = 8;

#[test]
fn no_plan_depends_on_the_length_of_what_has_not_ended() {
    let mut compared = 0;
    for seed in 1..=40 {
        let plans = |stretch| {
            let mut plans = Vec::new();
            stretched(seed, 20, stretch, &mut |_, world| {
                if !world.has_ended {
                    plans.push((world.now, propose(&world.scene, world.now)));
                }
            });
            plans
        };
        let (some, others) = (plans(100), plans(170));
        compared += some.len().min(others.len());
        assert!(
            some.iter().zip(&others).all(|(one, other)| one == other),
            "seed {seed}"
        );
    }
    assert!(compared > 60, "only {compared} plans");
}

#[test]
fn what_the_policy_promises_holds_at_every_step() {
    // The long round: ten times as many.
    let usual = match said("MLCTL_TEST_FULL") {
        Some(_) => 600,
        None => 60,
    };
    let seeds = said("SEEDS").unwrap_or(usual);
    let mut marks: BTreeMap<&str, u64> = BTreeMap::new();
    let (mut preemptions, mut starts) = (0, 0);
    for seed in all_seeds(seeds) {
        let caught = std::panic::catch_unwind(|| story(seed, 60));
        let Ok(world) = caught else {
            panic!("seed {seed}")
        };
        for (mark, count) in &world.marks {
            *marks.entry(mark).or_default() += count;
        }
        preemptions += world.preemptions;
        starts += world.starts.len();
    }
    println!("{seeds} seeds, {starts} jobs started, {preemptions} preemptions, {marks:?}");
    for mark in [
        "reclaim inside a subtree",
        "withdrawn preemption",
        "overtime taken",
        "guest taken",
        "reservation moved",
        "budget renewal failed",
        "elastic surplus taken",
        "aged job first",
    ] {
        let count = marks.get(mark).copied().unwrap_or(0);
        let enough = if seeds < 600 { 10 } else { 100 };
        assert!(count >= enough || seeds < 60, "only {count} times: {mark}");
    }
}
