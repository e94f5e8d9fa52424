//! Passes at depth: 1,000 nodes, 60 teams, and few waiting jobs in each run of the tests, so many as `MLCTL_DEPTH_JOBS` says when somebody measures: `MLCTL_DEPTH_JOBS=10000
//! cargo test --release -p mlctl-coordinator at_depth -- --nocapture`. Prints times and judges none of them.
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use mlctl_proto::ids::JobId;

use super::explain::explain_with;
use super::fixtures::{ask, node, of_kinds, running, scene, submit, team, waiting};
use super::pass::Pass;
use super::property_tests::{Draw, said};
use super::{Memo, Why, propose, propose_with};
use crate::scheduler::plan::Proposal;
use crate::state::view::amounts::{Amounts, GPU};
use crate::state::view::ask::{Ask, Near};
use crate::state::view::jobs::{Class, Footing, Seat, Tasks};
use crate::state::view::nodes::Open;
use crate::state::view::scene::Scene;
use crate::state::view::teams::{Flavor, Limit, Quota, TeamView};

const KINDS: [&str; 5] = ["a100", "b200", "h100", "h200", "l40s"];
/// How many jobs wait, when somebody measures.
const DEPTH: &str = "MLCTL_DEPTH_JOBS";
const HOUR: i64 = 3_600_000;

fn pick<T>(draw: &mut Draw, all: &[T]) -> usize {
    usize::try_from(draw.below(all.len() as u64)).expect("small")
}

fn small(draw: &mut Draw, below: u64) -> u32 {
    u32::try_from(draw.below(below)).expect("small")
}

/// 60 teams: 1 root, 4 below it, 11 below each of two of these, and so on to depth 4.
fn teams() -> Vec<TeamView> {
    let mut names = vec!["org".to_owned()];
    for a in 0..4 {
        names.push(format!("org/d{a}"));
        for b in 0..3 {
            names.push(format!("org/d{a}/g{b}"));
            for c in 0..4 {
                if names.len() < 60 {
                    names.push(format!("org/d{a}/g{b}/t{c}"));
                }
            }
        }
    }
    let nominal = |depth: usize| [1_600_u64, 400, 130, 32][depth] * GPU;
    let quota = |depth| Quota {
        nominal: nominal(depth),
        borrow: Limit::Unlimited,
        lend: Limit::Unlimited,
    };
    let mut all: Vec<TeamView> = names.iter().map(|name| team(name, &[])).collect();
    for team in &mut all {
        let depth = team.name.matches('/').count();
        for kind in KINDS {
            team.quotas.insert(
                Flavor {
                    kind: kind.into(),
                    pool: None,
                },
                quota(depth),
            );
        }
    }
    all
}

fn distinct_asks(draw: &mut Draw, count: u64) -> Vec<Arc<Ask>> {
    let one = |draw: &mut Draw, at: u64| {
        let wide = at.is_multiple_of(20);
        let gpus = if wide { 8 } else { 1 + small(draw, 8) };
        let mut one = ask(if wide { 2 + small(draw, 6) } else { 1 }, gpus);
        one.kinds = if at % 5 == 1 {
            of_kinds(ask(1, 1), &["h100", "h200", "a100"]).kinds
        } else {
            of_kinds(ask(1, 1), &[KINDS[pick(draw, &KINDS)]]).kinds
        };
        if at % 10 == 3 {
            one.labels = vec![("zone".into(), format!("z{}", draw.below(4)))];
        }
        if wide && at.is_multiple_of(40) {
            one.near = Near::Within(1);
        }
        let cpu_milli = 1_000 * (1 + draw.below(64)) * u64::from(gpus) / 8 + at;
        one.amounts = Some(Amounts {
            cpu_milli,
            memory: (1 << 30) * (1 + draw.below(64)),
            disk: 0,
            ranks: 0,
        });
        Arc::new(one)
    };
    (0..count).map(|at| one(draw, at)).collect()
}

/// The fixture: `classes` other than normal make owners take back what others borrowed.
pub fn fixture(seed: u64, count: u64, classes: bool) -> Scene {
    let mut draw = Draw(seed);
    let mut nodes = Vec::new();
    for at in 0..1_000_usize {
        let mut one = node(&format!("gpu-{at:04}"), "base", KINDS[at % 5], 8);
        one.racks = vec![
            format!("b{}", at / 200).into(),
            format!("k{}", at / 40).into(),
            format!("r{}", at / 10).into(),
        ];
        one.labels = Arc::from([("zone".to_owned(), format!("z{}", at % 4))]);
        if at % 33 == 7 {
            one.open = Open::No;
        }
        nodes.push(one);
    }
    let mut scene = scene(nodes, teams());
    let names: Vec<Arc<str>> = scene.teams.keys().cloned().collect();
    fill(&mut draw, &mut scene, &names);
    let asks = distinct_asks(&mut draw, 2_400);
    let users: Vec<Arc<str>> = (0..300).map(|user| format!("u{user}").into()).collect();
    for number in 0..count {
        let mut job = waiting(1_000_000 + number);
        job.team = names[pick(&mut draw, &names)].clone();
        job.user = users[usize::try_from(draw.below(300)).expect("small")].clone();
        job.ask = asks[pick(&mut draw, &asks)].clone();
        job.limit_ms = (!draw.one_in(3)).then(|| 3_600_000 * (1 + draw.below(48)));
        job.class = if classes && draw.one_in(10) {
            Class::High
        } else {
            Class::Normal
        };
        if number % (count / 3) == 17 {
            job.ask = Arc::new(of_kinds(ask(1, 1), &["h100"]));
            job.tasks = Some(Tasks {
                waiting: 1_000,
                running: 0,
                at_once: None,
            });
        }
        submit(&mut scene, job);
    }
    scene
}

/// 97 % of the devices are held, in pieces of 1 to 8, by teams at random: some borrow.
fn fill(draw: &mut Draw, scene: &mut Scene, names: &[Arc<str>]) {
    let mut number = 0;
    let nodes: Vec<Arc<str>> = scene.nodes.keys().cloned().collect();
    for name in nodes {
        let mut node = (*scene.nodes[&name]).clone();
        let mut at = 0_u16;
        while at < 8 {
            let count = u16::try_from([1, 1, 2, 4, 8][pick(draw, &[0; 5])])
                .expect("small")
                .min(8 - at);
            let devices: Vec<u16> = (at..at + count).collect();
            at += count;
            if draw.one_in(16) {
                continue;
            }
            number += 1;
            let mut job = waiting(number);
            job.team = names[pick(draw, &names[..30])].clone();
            job.user = format!("u{}", draw.below(300)).into();
            job.class = if draw.one_in(5) {
                Class::Low
            } else {
                Class::Normal
            };
            job.ask = Arc::new(ask(1, count.into()));
            job.limit_ms = Some(3_600_000 * (30 + draw.below(100)));
            for device in &devices {
                node.devices[usize::from(*device)].free = 0;
            }
            let per = node.has.cpu_milli / 8 * u64::from(count);
            node.free.cpu_milli = node.free.cpu_milli.saturating_sub(per);
            node.free.memory = node
                .free
                .memory
                .saturating_sub(node.has.memory / 8 * u64::from(count));
            let run = running(
                &job,
                -HOUR * i64::from(small(draw, 20)),
                vec![Seat {
                    node: name.clone(),
                    devices,
                }],
                Footing::Regular,
                0,
            );
            scene
                .running
                .insert((run.id, run.epoch), Arc::new(run.clone()));
            let flavor = Flavor {
                kind: node.devices[0].model.clone(),
                pool: None,
            };
            let mut team = (*scene.teams[&run.team]).clone();
            *team.own.entry(flavor).or_default() += u64::from(count) * GPU;
            scene.teams.insert(run.team.clone(), Arc::new(team));
        }
        scene.nodes.insert(name, Arc::new(node));
    }
}

/// Time that this thread had of a processor: others who work on the machine do not count.
#[expect(
    clippy::disallowed_methods,
    reason = "a test that measures reads a clock"
)]
fn busy() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanos = text.split(' ').next().and_then(|word| word.parse().ok());
    Duration::from_nanos(nanos.unwrap_or(0))
}

fn time(what: &str, scene: &Scene, runs: usize) {
    let mut times = Vec::new();
    let mut last = None;
    for _ in 0..runs {
        let start = busy();
        let plan = propose(scene, 0);
        times.push(busy() - start);
        if let Some(last) = &last {
            assert_eq!(plan, *last, "{what}: the same scene, another plan");
        }
        last = Some(plan);
    }
    times.sort();
    let plan = last.expect("it ran");
    check(what, scene, &plan);
    let start = busy();
    let pass = Pass::new(scene, 0, &mut Memo::default());
    let new = busy() - start;
    drop(pass);
    let (_, marks, owners) = super::propose_marked(scene, 0);
    let dropped = marks
        .iter()
        .filter(|mark| **mark == "preemption dropped")
        .count();
    println!(
        "{} come before others by entitlement, {dropped} dropped",
        owners.len()
    );
    println!(
        "{what}: median {:?}, least {:?} (tables {new:?}); {} starts, {} preemptions, {} reservations, {} reasons",
        times[runs / 2],
        times[0],
        plan.starts.len(),
        plan.preemptions.len(),
        plan.reservations.len(),
        plan.reasons.len()
    );
}

/// No device is given twice, or is held already; somebody starts or is told why not.
fn check(what: &str, scene: &Scene, plan: &Proposal<Why>) {
    let mut given = BTreeSet::new();
    for seat in plan.starts.iter().flat_map(|start| &start.seats) {
        for device in &seat.devices {
            let free = scene.nodes[&seat.node].devices[usize::from(*device)].free;
            assert!(free > 0, "{what}: {device} of {} is held", seat.node);
            assert!(
                given.insert((&seat.node, device)),
                "{what}: {device} of {} is given twice",
                seat.node
            );
        }
    }
    assert!(plan.starts.len() + plan.reasons.len() > 0, "{what}");
}

/// What is asked about waiting jobs here and there in the order, after a pass over the same scene.
fn time_explain(what: &str, scene: &Scene, asked: usize) {
    let mut memo = Memo::default();
    propose_with(&mut memo, scene, 0);
    let ids: Vec<JobId> = scene
        .waiting
        .values()
        .step_by((scene.waiting.len() / asked).max(1))
        .map(|job| job.id)
        .collect();
    let mut times: Vec<(Duration, usize, usize)> = Vec::new();
    for id in ids {
        let start = busy();
        let found = explain_with(&mut memo, scene, 0, id).expect("waits");
        times.push((busy() - start, found.reasons.len(), found.edits.len()));
        assert!(found.starts_now || !found.reasons.is_empty());
    }
    times.sort();
    let (median, most) = (times[times.len() / 2], times[times.len() - 1]);
    println!("{what}: median {median:?}, most {most:?} (time, reasons, edits)");
}

/// Passes that follow each other, with one event between any two.
fn time_events(what: &str, scene: &Scene, event: &mut dyn FnMut(&mut Scene, u64)) {
    let mut memo = Memo::default();
    let mut scene = scene.clone();
    propose_with(&mut memo, &scene, 0);
    let few = if said(DEPTH).is_some() { 15 } else { 3 };
    let rounds: u64 = said("ROUNDS").unwrap_or(few);
    let (mut times, mut starts) = (Vec::new(), 0);
    for round in 0..rounds {
        event(&mut scene, round);
        let now = 1_000 * i64::try_from(round).expect("small");
        let start = busy();
        let plan = propose_with(&mut memo, &scene, now);
        times.push(busy() - start);
        starts += plan.starts.len();
        if round.is_multiple_of(5) && rounds < 100 {
            assert_eq!(plan, propose(&scene, now), "{what}, {round}");
        }
    }
    times.sort();
    println!(
        "after one event, {what}: mean {:?}, median {:?}, least {:?}, most {:?}; {starts} starts",
        times.iter().sum::<Duration>() / u32::try_from(times.len()).expect("small"),
        times[times.len() / 2],
        times[0],
        times[times.len() - 1]
    );
}

/// An attempt ends: its devices are free, and its team holds less.
fn end_one(scene: &mut Scene, round: u64) {
    let at = usize::try_from(round).expect("small") * 97 % scene.running.len();
    let (key, run) = scene.running.iter().nth(at).expect("there");
    let (key, run) = (*key, run.clone());
    scene.running.remove(&key);
    for seat in &run.seats {
        let mut node = (*scene.nodes[&seat.node]).clone();
        for device in &seat.devices {
            node.devices[usize::from(*device)].free = u32::try_from(GPU).expect("small");
        }
        let mut team = (*scene.teams[&run.team]).clone();
        let flavor = Flavor {
            kind: node.devices[0].model.clone(),
            pool: None,
        };
        let own = team.own.entry(flavor).or_default();
        *own = own.saturating_sub(seat.devices.len() as u64 * GPU);
        let per = |has: u64| has / 8 * seat.devices.len() as u64;
        node.free.cpu_milli += per(node.has.cpu_milli);
        node.free.memory += per(node.has.memory);
        scene.nodes.insert(node.name.clone(), Arc::new(node));
        scene.teams.insert(team.name.clone(), Arc::new(team));
    }
}

/// A job like another one is submitted.
fn submit_one(scene: &mut Scene, round: u64) {
    let at = usize::try_from(round).expect("small") * 631 % scene.waiting.len();
    let mut job = (**scene.waiting.values().nth(at).expect("there")).clone();
    job.id.counter = 5_000_000 + round;
    job.submit_index = 5_000_000 + round;
    submit(scene, job);
}

#[test]
fn a_pass_after_one_event_is_the_one_from_nothing() {
    let still = settled(&fixture(1, said(DEPTH).unwrap_or(300), false));
    time_events("nothing", &still, &mut |_, _| {});
    time_events("a submit", &still, &mut submit_one);
    time_events("an end", &still, &mut end_one);
}

#[test]
fn a_preempting_pass_after_one_event_is_the_one_from_nothing() {
    let going = Scene {
        preemption_paused: false,
        ..settled(&fixture(1, said(DEPTH).unwrap_or(300), false))
    };
    time_events("nothing, with preemption", &going, &mut |_, _| {});
    time_events("a submit, with preemption", &going, &mut submit_one);
}

/// What starts now runs, as a plan says.
fn settled(scene: &Scene) -> Scene {
    let mut scene = Scene {
        preemption_paused: true,
        ..scene.clone()
    };
    let plan = propose(&scene, 0);
    let gone: Vec<_> = scene
        .waiting
        .iter()
        .filter(|(_, job)| plan.starts.iter().any(|start| start.job == job.id))
        .map(|(key, _)| *key)
        .collect();
    for key in gone {
        scene.waiting.remove(&key);
    }
    for one in &plan.reservations {
        scene.reservations.insert(one.job, Arc::new(one.clone()));
    }
    scene.nodes = scene
        .nodes
        .iter()
        .map(|(name, node)| {
            let mut node = (**node).clone();
            let taken = plan
                .starts
                .iter()
                .flat_map(|start| &start.seats)
                .filter(|seat| seat.node == *name);
            taken
                .flat_map(|seat| &seat.devices)
                .for_each(|device| node.devices[usize::from(*device)].free = 0);
            (name.clone(), Arc::new(node))
        })
        .collect();
    scene
}

#[test]
fn a_pass_at_depth_is_the_same_each_time_and_gives_no_device_twice() {
    let measured = said(DEPTH);
    let few = measured.unwrap_or(300);
    let many = few * 10;
    let runs = if measured.is_some() { 7 } else { 2 };
    let cold = fixture(1, few, false);
    let still = settled(&cold);
    let time = |what: &str, scene: &Scene| time(what, scene, runs);
    time(&format!("{few}, nothing starts, preemption paused"), &still);
    time_explain("explain, nothing starts", &still, 2 * runs);
    time_explain("explain, cold", &cold, 2 * runs);
    let paused = |scene: &Scene| Scene {
        preemption_paused: true,
        ..scene.clone()
    };
    time(&format!("{few} cold, preemption paused"), &paused(&cold));
    time(&format!("{few} cold"), &cold);
    time(&format!("{few} cold, some high"), &fixture(1, few, true));
    let cold = fixture(2, many, false);
    time(&format!("{many} cold, preemption paused"), &paused(&cold));
    let high = fixture(2, many, true);
    time(&format!("{many} cold, some high"), &high);
}
