//! Explanations against an oracle that counts, and against plans of edited clusters.
use std::collections::BTreeMap;
use std::sync::Arc;

use mlctl_proto::ids::JobId;

use super::blocker::{Blocker, Lifts};
use super::edits::{Change, Edit};
use super::{Eta, Explanation, explain, foresee, oracle};
use crate::scheduler::engine::fixtures::{
    ask, id, node, of_kinds, running, scene, submit, team, waiting,
};
use crate::scheduler::engine::pass::Pass;
use crate::scheduler::engine::property_tests::{Draw, all_seeds, said, story_with};
use crate::scheduler::engine::{Memo, Why, last_pass, propose};
use crate::state::view::amounts::{Amounts, GPU};
use crate::state::view::ask::{Ask, Gpus, Width};
use crate::state::view::jobs::{Blocked, Footing, Seat, Waiting};
use crate::state::view::nodes::{Guests, NodeView, Open, Owner};
use crate::state::view::scene::Scene;
use crate::state::view::teams::{Flavor, Limit, TeamView};

const HOUR: i64 = 3_600_000;

fn lifts(found: &Explanation) -> Lifts {
    Lifts::new(found.reasons.iter().map(|one| one.blocker.clone()))
}

fn edited(scene: &Scene, job: &Waiting, edit: &Edit) -> Scene {
    let mut ask = Ask::clone(&job.ask);
    let mut limit_ms = job.limit_ms;
    match &edit.change {
        Change::Nodes(nodes) => ask.nodes = Width::Exactly(*nodes),
        Change::GpusPerNode(gpus) => ask.gpus = Gpus::Whole(*gpus),
        Change::Types(kinds) => ask.kinds = kinds.clone(),
        Change::Limit(limit) => limit_ms = Some(*limit),
    }
    let mut scene = scene.clone();
    submit(
        &mut scene,
        Waiting {
            ask: Arc::new(ask),
            limit_ms,
            ..job.clone()
        },
    );
    scene
}

/// What was counted over many clusters.
#[derive(Default)]
struct Counts {
    explained: u64,
    conclusive: u64,
    edits: u64,
    blockers: BTreeMap<String, u64>,
}

/// Nothing else than that is in the way of a job, and all of that is.
fn check_fewest(
    scene: &Scene,
    now: i64,
    job: &Waiting,
    found: &Explanation,
    counts: &mut Counts,
    seed: u64,
) {
    let all = lifts(found);
    let at = || format!("seed {seed}: {} at {now}: {found:?}", job.id);
    assert!(
        oracle::starts(scene, now, job, &all),
        "it would not start without them; {}",
        at()
    );
    for one in all.iter() {
        let rest = all.without(std::slice::from_ref(one));
        let promised = scene.reservations.keys().any(|id| *id != job.id);
        if !promised || rest.has(&Blocker::Promises) {
            counts.conclusive += 1;
            assert!(
                !oracle::starts(scene, now, job, &rest),
                "{one:?} is not needed; {}",
                at()
            );
        }
        let word = format!("{one:?}");
        *counts
            .blockers
            .entry(word.split('(').next().unwrap_or("").to_owned())
            .or_default() += 1;
    }
}

/// Whoever edits a job so finds that it starts, and that nobody ahead of it starts later.
fn check_edits(
    scene: &Scene,
    now: i64,
    job: &Waiting,
    found: &Explanation,
    counts: &mut Counts,
    seed: u64,
) {
    let before = propose(scene, now);
    let order: Vec<JobId> = Pass::new(scene, now, &mut Memo::default())
        .jobs
        .iter()
        .map(|one| one.waiting.id)
        .collect();
    let ahead: Vec<JobId> = order.into_iter().take_while(|one| *one != job.id).collect();
    let pass = last_pass(&mut Memo::default(), scene, now, None);
    // Who stays inside its nominal comes before who borrows.
    let comes_after = |one: JobId, edit: &Edit| {
        !edit.borrowed
            && pass
                .promises
                .all
                .iter()
                .any(|promise| promise.job == one && promise.borrows)
    };
    for edit in found.edits.iter().filter(|edit| edit.starts_now) {
        counts.edits += 1;
        let after = propose(&edited(scene, job, edit), now);
        let at = || format!("seed {seed}: {} at {now}: {edit:?}", job.id);
        assert!(
            after.starts.iter().any(|start| start.job == job.id),
            "it does not start; {}",
            at()
        );
        for old in before
            .reservations
            .iter()
            .filter(|one| ahead.contains(&one.job) && !comes_after(one.job, edit))
        {
            let new = after.reservations.iter().find(|one| one.job == old.job);
            let starts = after.starts.iter().any(|start| start.job == old.job)
                || after.preemptions.iter().any(|one| one.job == old.job);
            assert!(
                starts || new.is_some_and(|new| new.start_ms <= old.start_ms),
                "{old:?} becomes {new:?}; {}",
                at()
            );
        }
    }
}

/// Something more is in the way than in the story.
fn restrict(draw: &mut Draw, scene: &mut Scene, job: &Waiting) -> Waiting {
    let mut job = job.clone();
    let mut ask = Ask::clone(&job.ask);
    let names: Vec<Arc<str>> = scene.nodes.keys().cloned().collect();
    let some = |draw: &mut Draw| {
        names[usize::try_from(draw.below(names.len() as u64)).expect("small")].clone()
    };
    let mut change = |name: &Arc<str>, change: &dyn Fn(&mut NodeView)| {
        let mut node = NodeView::clone(&scene.nodes[name]);
        change(&mut node);
        scene.nodes.insert(name.clone(), Arc::new(node));
    };
    for _ in 0..draw.below(3) {
        match draw.below(8) {
            0 => job.avoid = names.iter().filter(|_| draw.one_in(2)).cloned().collect(),
            1 => ask.labels = vec![("ib".into(), "yes".into())],
            2 => {
                ask.amounts = Some(Amounts {
                    cpu_milli: 1 << 40,
                    ..Amounts::NONE
                })
            }
            3 => change(&some(draw), &|node| node.open = Open::No),
            4 => names
                .iter()
                .for_each(|name| change(name, &|node| node.open = Open::From(i64::MAX / 2))),
            5 => names
                .iter()
                .for_each(|name| change(name, &|node| node.windows = vec![(0, i64::MAX / 2)])),
            6 => names.iter().for_each(|name| {
                change(name, &|node| {
                    node.owner = Some(Owner {
                        team: "solo".into(),
                        guests: Guests::None,
                    })
                })
            }),
            _ => ask.kinds = of_kinds(ask.clone(), &["b200"]).kinds,
        }
    }
    if draw.one_in(4) {
        scene.licenses.insert("ansys".into(), (2, 1));
        ask.licenses = vec![("ansys".into(), 2)];
    }
    if draw.one_in(4) {
        let mut team = TeamView::clone(&scene.teams[&job.team]);
        team.max_running = draw.one_in(2).then_some(0);
        let flavor = Flavor {
            kind: "h100".into(),
            pool: None,
        };
        team.budgets.insert(flavor, draw.below(2) * GPU * 3_600);
        scene.teams.insert(team.name.clone(), Arc::new(team));
    }
    job.ask = Arc::new(ask);
    scene.starts_paused = draw.one_in(20);
    job.blocked = draw.one_in(20).then_some(Blocked::Held);
    job
}

fn look(draw: &mut Draw, scene: &Scene, now: i64, counts: &mut Counts, seed: u64) {
    let waits: Vec<Arc<Waiting>> = scene
        .waiting
        .values()
        .filter(|job| job.tasks.is_none())
        .cloned()
        .collect();
    if waits.is_empty() {
        return;
    }
    let job = &waits[usize::try_from(draw.below(waits.len() as u64)).expect("small")];
    let mut scene = scene.clone();
    let job = if draw.one_in(2) {
        restrict(draw, &mut scene, job)
    } else {
        Waiting::clone(job)
    };
    submit(&mut scene, job.clone());
    let plan = propose(&scene, now);
    let found = explain(&scene, now, job.id).expect("it waits");
    assert_eq!(
        Some(&found),
        explain(&scene, now, job.id).as_ref(),
        "the same scene, another answer"
    );
    let starts = plan.starts.iter().any(|start| start.job == job.id);
    assert_eq!(found.starts_now, starts, "seed {seed}: {} at {now}", job.id);
    assert_eq!(
        found.reasons.is_empty(),
        starts,
        "seed {seed}: {} at {now}: {found:?}",
        job.id
    );
    counts.explained += 1;
    let own = found
        .reasons
        .iter()
        .any(|one| one.blocker == Blocker::Victims);
    // The oracle knows settled clusters: nobody ahead starts or ends others now.
    let open = Scene {
        starts_paused: false,
        ..scene.clone()
    };
    let settled = propose(&open, now);
    let quiet = settled.starts.is_empty()
        && settled.preemptions.is_empty()
        && settled.withdrawn.is_empty()
        && settled.next != Some(now);
    if quiet && !starts && !own {
        check_fewest(&scene, now, &job, &found, counts, seed);
    }
    check_edits(&scene, now, &job, &found, counts, seed);
}

#[test]
fn reasons_are_a_fewest_set_that_suffices_and_edits_are_true() {
    let seeds = said("SEEDS").unwrap_or(40);
    let mut counts = Counts::default();
    for seed in all_seeds(seeds) {
        story_with(seed, 40, &mut |draw, world| {
            // Drawn apart, so that the story stays the same.
            let mut draw = Draw(draw.0 ^ 0x5eed);
            look(&mut draw, &world.scene, world.now, &mut counts, seed);
        });
    }
    println!(
        "{} explained, {} conclusive, {} edits, {:?}",
        counts.explained, counts.conclusive, counts.edits, counts.blockers
    );
    assert!(counts.explained > seeds && (seeds < 40 || counts.edits > 20));
}

/// gpu-03 is empty, gpu-05 has 4 free, gpu-07 has 2.
fn three_nodes() -> Scene {
    let mut scene = scene(
        Vec::new(),
        vec![team("vision", &[("h100", 64, Limit::Units(0))])],
    );
    for (name, busy) in [("gpu-03", 0_u16), ("gpu-05", 4), ("gpu-07", 6)] {
        let mut one = node(name, "base", "h100", 8);
        if busy > 0 {
            let job = Waiting {
                team: "vision".into(),
                limit_ms: Some(4 * 3_600_000),
                ..waiting(300 + u64::from(busy))
            };
            let job = Waiting {
                ask: Arc::new(ask(1, busy.into())),
                ..job
            };
            let seats = vec![Seat {
                node: name.into(),
                devices: (0..busy).collect(),
            }];
            let run = running(&job, 0, seats, Footing::Regular, 0);
            one.devices
                .iter_mut()
                .take(busy.into())
                .for_each(|device| device.free = 0);
            one.free.cpu_milli -= u64::from(busy) * 12_000;
            one.free.memory -= u64::from(busy) << 36;
            one.free.disk -= (1 << 40) / 8 * u64::from(busy);
            scene.running.insert((run.id, run.epoch), Arc::new(run));
        }
        scene.nodes.insert(name.into(), Arc::new(one));
    }
    let mut vision = TeamView::clone(&scene.teams["vision"]);
    vision.own.insert(
        Flavor {
            kind: "h100".into(),
            pool: None,
        },
        10 * GPU,
    );
    scene.teams.insert("vision".into(), Arc::new(vision));
    scene
}

#[test]
fn a_gang_is_told_how_its_devices_lie_when_it_starts_and_what_fits_now() {
    let mut scene = three_nodes();
    let job = Waiting {
        team: "vision".into(),
        limit_ms: Some(3_600_000),
        ask: Arc::new(ask(2, 8)),
        ..waiting(412)
    };
    submit(&mut scene, job);
    let found = explain(&scene, HOUR, id(412)).expect("waits");
    assert!(!found.starts_now);
    assert_eq!(found.reasons.len(), 1);
    assert_eq!(
        found.reasons[0].why,
        Why::InsufficientGpus {
            needs: 16 * GPU,
            free: 14 * GPU
        }
    );
    assert_eq!(
        found.eta,
        Eta::At {
            start_ms: 4 * HOUR,
            error_ms: 630_000,
            when_ends: Some(id(304))
        }
    );
    assert_eq!((found.place.in_team, found.place.of_team), (1, 1));
    let nodes = found
        .edits
        .iter()
        .find(|edit| edit.change == Change::Nodes(1))
        .expect("one node is free");
    assert!(nodes.starts_now && !nodes.borrowed);
    let gpus = found
        .edits
        .iter()
        .find(|edit| edit.change == Change::GpusPerNode(4))
        .expect("two nodes have four");
    assert!(gpus.starts_now);
}

#[test]
fn a_limit_that_ends_before_a_promise_is_proposed_and_true() {
    let mut scene = three_nodes();
    let gang = Waiting {
        team: "vision".into(),
        limit_ms: Some(9 * 3_600_000),
        ask: Arc::new(ask(2, 8)),
        ..waiting(398)
    };
    submit(&mut scene, gang);
    let job = Waiting {
        team: "vision".into(),
        limit_ms: Some(8 * 3_600_000),
        ask: Arc::new(ask(1, 8)),
        ..waiting(412)
    };
    submit(&mut scene, job.clone());
    let found = explain(&scene, HOUR, id(412)).expect("waits");
    assert!(
        matches!(&found.reasons[..], [one] if one.blocker == Blocker::Promises && one.jobs == [id(398)]),
        "{found:?}"
    );
    let limit = found
        .edits
        .iter()
        .find(|edit| matches!(edit.change, Change::Limit(_)))
        .expect("backfill");
    assert_eq!(
        (&limit.change, limit.starts_now),
        (&Change::Limit(2 * 3_600_000), true)
    );
    let plan = propose(&edited(&scene, &job, limit), HOUR);
    assert_eq!(
        plan.starts
            .iter()
            .map(|start| start.job)
            .collect::<Vec<_>>(),
        [id(412)]
    );
    assert_eq!(
        plan.reservations
            .iter()
            .map(|one| (one.job, one.start_ms))
            .collect::<Vec<_>>(),
        [(id(398), 4 * HOUR)]
    );
}

#[test]
fn several_blockers_at_once_are_all_said_and_none_that_is_not() {
    let mut scene = three_nodes();
    scene.licenses.insert("ansys".into(), (3, 2));
    let wants = Ask {
        licenses: vec![("ansys".into(), 2)],
        labels: vec![("ib".into(), "yes".into())],
        ..ask(1, 8)
    };
    let job = Waiting {
        team: "vision".into(),
        blocked: Some(Blocked::Held),
        ask: Arc::new(wants),
        ..waiting(412)
    };
    submit(&mut scene, job);
    let found = explain(&scene, HOUR, id(412)).expect("waits");
    let mut blockers: Vec<Blocker> = found
        .reasons
        .iter()
        .map(|one| one.blocker.clone())
        .collect();
    blockers.sort();
    assert_eq!(
        blockers,
        [
            Blocker::Labels,
            Blocker::License("ansys".into()),
            Blocker::Blocked
        ]
    );
    assert!(
        found.edits.is_empty(),
        "no edit helps while a person holds it"
    );
}

#[test]
fn a_dry_run_says_whether_it_would_start_and_whether_on_what_is_borrowed() {
    let mut scene = three_nodes();
    scene.teams.insert(
        "org".into(),
        Arc::new(team("org", &[("h100", 24, Limit::Units(0))])),
    );
    scene.teams.insert(
        "org/a".into(),
        Arc::new(team("org/a", &[("h100", 2, Limit::Unlimited)])),
    );
    let one = |gpus| Waiting {
        team: "org/a".into(),
        ask: Arc::new(ask(1, gpus)),
        ..waiting(500)
    };
    let seen = |waiting: Waiting| {
        let mut with = scene.clone();
        let (index, id) = (waiting.submit_index, waiting.id);
        with.waiting.insert((index, id), Arc::new(waiting));
        foresee(&with, HOUR, id).unwrap()
    };
    let own = seen(one(2));
    assert!(own.found.starts_now && !own.borrowed, "{own:?}");
    let more = seen(one(8));
    assert!(more.found.starts_now && more.borrowed, "{more:?}");
    let wide = seen(Waiting {
        ask: Arc::new(ask(3, 8)),
        ..one(8)
    });
    let found = &wide.found;
    assert!(
        !found.starts_now && !found.reasons.is_empty() && found.eta != Eta::Unknown,
        "{wide:?}"
    );
}
