//! Published incidents and worked examples, each by its name.
use std::collections::BTreeMap;
use std::sync::Arc;

use super::fixtures::{ask, id, node, of_kinds, running, scene, submit, team, waiting};
use super::world::World;
use super::{Why, propose};
use crate::scheduler::plan::Taken;
use crate::state::view::amounts::GPU;
use crate::state::view::ask::{Ask, Gpus, Prefer, Width};
use crate::state::view::jobs::{Blocked, Class, Footing, Seat, Tasks, Waiting};
use crate::state::view::nodes::{NodeView, Open};
use crate::state::view::policy::SchedSettings;
use crate::state::view::scene::Scene;
use crate::state::view::teams::{Flavor, Limit, TeamView};

const ALL: Limit = Limit::Unlimited;
const NONE: Limit = Limit::Units(0);
const HOUR: i64 = 3_600_000;

fn nodes(count: usize) -> Vec<NodeView> {
    (0..count).map(|at| node(&format!("n{at}"), "base", "h100", 8)).collect()
}

/// `org` with `a` (so many GPUs) and `b` (so many).
fn two_teams(a: u64, b: u64) -> Vec<TeamView> {
    vec![
        team("org", &[("h100", a + b, NONE)]),
        team("org/a", &[("h100", a, ALL)]),
        team("org/b", &[("h100", b, ALL)]),
    ]
}

fn job(number: u64, team: &str, class: Class, nodes: u32, gpus: u32) -> Waiting {
    Waiting {
        team: team.into(),
        class,
        ask: Arc::new(ask(nodes, gpus)),
        limit_ms: Some(10 * 3_600_000),
        ..waiting(number)
    }
}

fn starts(scene: &Scene, now: i64) -> Vec<u64> {
    propose(scene, now).starts.iter().map(|start| start.job.counter).collect()
}

fn run_to(world: &mut World, until: i64) {
    while world.now < until {
        world.settle();
        world.advance(until);
    }
    world.settle();
}

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
    assert_eq!((world.truths[&id(1)].evictions, world.truths[&id(2)].evictions), (1, 0));
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
    assert_eq!(plan.starts.iter().map(|start| start.job.counter).collect::<Vec<_>>(), [2]);
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
    let never = Ask { labels, ..ask(2, 8) };
    world.submit(Waiting { ask: Arc::new(never), ..job(9, "org/b", Class::Critical, 2, 8) }, HOUR);
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
    assert_eq!(victims, [2], "the brother who borrows, and of his jobs the less urgent one");
    run_to(&mut world, 30 * HOUR);
    assert!(world.is_idle());
    assert_eq!(world.marks.get("reclaim inside a subtree"), Some(&1));
    assert_eq!(world.preemptions, 1);
}

fn world_plan(world: &World) -> Vec<(u64, Taken)> {
    let plan = propose(&world.scene, world.now);
    let victims = plan.preemptions.iter().flat_map(|one| one.victims.iter());
    victims.map(|victim| (victim.job.counter, victim.why)).collect()
}

#[test]
fn a_victim_that_returns_with_a_higher_class_than_its_evictor_waits_for_it() {
    let mut world = World::new(scene(nodes(1), two_teams(8, 0)));
    world.submit(job(1, "org/b", Class::Normal, 1, 8), 9 * HOUR);
    world.settle();
    world.submit(job(2, "org/a", Class::Normal, 1, 8), 5 * HOUR);
    run_to(&mut world, HOUR);
    let waits = world.scene.waiting.get(&(1, id(1))).expect("evicted").clone();
    world.truths.get_mut(&id(1)).expect("known").job.class = Class::Critical;
    world.scene.waiting.insert((1, id(1)), Arc::new(Waiting { class: Class::Critical, ..(*waits).clone() }));
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
    for (at, (a, b, after)) in [(0_u64, 16_u64, 2_u64), (8, 8, 3), (16, 0, 4)].into_iter().enumerate() {
        for team in two_teams(a, b) {
            world.scene.teams.insert(team.name.clone(), Arc::new(team));
        }
        world.streak = 0;
        run_to(&mut world, HOUR + HOUR * i64::try_from(at + 1).expect("small"));
        assert_eq!(world.preemptions, after, "after edit {at}");
    }
}

#[test]
fn gangs_whose_sizes_do_not_divide_the_nominal_do_not_chase_each_other() {
    let mut world = World::new(scene(nodes(2), two_teams(9, 7)));
    for number in 0..6 {
        let sizes = [5, 4, 3];
        let class = [Class::Low, Class::Normal, Class::High][usize::try_from(number % 3).expect("small")];
        let one = job(number + 1, if number % 2 == 0 { "org/a" } else { "org/b" }, class, 1, sizes[usize::try_from(number % 3).expect("small")]);
        world.submit(one, 4 * HOUR);
        world.settle();
        assert!(world.streak < 10);
        world.advance(world.now + HOUR / 2);
    }
    run_to(&mut world, 60 * HOUR);
    assert!(world.is_idle());
    assert!(world.preemptions < 12, "{}", world.preemptions);
}

#[test]
fn a_gang_that_is_first_starts_within_the_longest_protected_time_and_the_ending() {
    for limits in [true, false] {
        let mut scene = scene(nodes(4), vec![team("org", &[("h100", 32, NONE)])]);
        let settings = SchedSettings { default_time_ms: [4 * 3_600_000; 4], ..SchedSettings::default() };
        let (protected, ending) = (4 * HOUR, i64::try_from(settings.grace_ms[1] + settings.kill_ms).expect("small"));
        scene.settings = Arc::new(settings);
        let mut world = World::new(scene);
        let narrow = |number: u64| {
            let limit_ms = limits.then_some(4 * 3_600_000);
            Waiting { limit_ms, ..job(number, "org", Class::Normal, 1, 1 + u32::try_from(number % 4).expect("small")) }
        };
        for number in 1..=13 {
            world.submit(narrow(number), 50 * HOUR);
        }
        world.settle();
        world.advance(HOUR / 4);
        world.submit(Waiting { user: "bo".into(), ..job(100, "org", Class::Normal, 4, 8) }, HOUR);
        // Others keep coming, shorter and longer.
        for step in 1..80 {
            world.submit(narrow(100 + step), if step % 2 == 0 { HOUR } else { 50 * HOUR });
            run_to(&mut world, HOUR / 4 + HOUR / 8 * i64::try_from(step).expect("small"));
            if world.starts.contains_key(&id(100)) {
                break;
            }
        }
        let started = world.starts.get(&id(100)).copied().expect("it starts");
        assert!(started <= protected + ending + HOUR / 8, "limits {limits}: only at {started}");
    }
}

#[test]
fn backfill_starts_what_ends_before_the_promise_and_nothing_that_would_delay_it() {
    let mut scene = scene(nodes(2), vec![team("org", &[("h100", 16, NONE)])]);
    let world_scene = |limit: u64, interactive: bool| {
        let mut scene = scene.clone();
        let long = Waiting { limit_ms: Some(5 * 3_600_000), ..job(1, "org", Class::Normal, 1, 8) };
        let seats = vec![Seat { node: "n0".into(), devices: (0..8).collect() }];
        let run = running(&long, 0, seats, Footing::Regular, 0);
        let mut busy = node("n0", "base", "h100", 8);
        busy.devices.iter_mut().for_each(|one| one.free = 0);
        busy.free = Default::default();
        scene.nodes.insert("n0".into(), Arc::new(busy));
        scene.running.insert((run.id, run.epoch), Arc::new(run));
        submit(&mut scene, job(2, "org", Class::Normal, 2, 8));
        let small = Waiting { limit_ms: Some(limit), interactive, ..job(3, "org", Class::Normal, 1, 2) };
        submit(&mut scene, small);
        scene
    };
    let short = world_scene(3 * 3_600_000, false);
    let plan = propose(&short, 0);
    assert_eq!(plan.reservations.len(), 1);
    assert_eq!((plan.reservations[0].job, plan.reservations[0].start_ms), (id(2), 5 * HOUR));
    assert_eq!(plan.starts.iter().map(|start| start.job.counter).collect::<Vec<_>>(), [3]);
    let long = world_scene(6 * 3_600_000, false);
    let plan = propose(&long, 0);
    assert!(plan.starts.is_empty());
    assert_eq!(plan.reasons[&id(3)], Why::Reservation { job: id(2), start_ms: 5 * HOUR });
    scene.starts_paused = true;
    assert!(propose(&scene, 0).starts.is_empty());
}

#[test]
fn a_guest_comes_in_on_its_owners_history_and_is_taken_once_when_the_promise_is_due() {
    let mut start = scene(nodes(2), vec![team("org", &[("h100", 16, NONE)])]);
    start.histories.insert(("ann".into(), GPU), Arc::new(vec![600_000; 9]));
    let mut world = World::new(start);
    world.submit(Waiting { limit_ms: Some(5 * 3_600_000), ..job(1, "org", Class::Normal, 1, 8) }, 5 * HOUR);
    world.settle();
    world.submit(job(2, "org", Class::Normal, 2, 8), HOUR);
    world.submit(Waiting { limit_ms: None, ..job(3, "org", Class::Normal, 1, 1) }, 40 * HOUR);
    world.settle();
    let guest = world.scene.running.values().find(|run| run.id == id(3)).expect("let in");
    assert_eq!(guest.footing, Footing::Guest(5 * HOUR));
    run_to(&mut world, 8 * HOUR);
    assert!(world.truths[&id(3)].job.was_guest_taken);
    assert_eq!(world.marks.get("guest taken"), Some(&1));
    assert!(world.starts[&id(2)] <= 6 * HOUR);
}

#[test]
fn order_is_class_then_aged_then_nominal_then_fair_share_then_submit() {
    let one = |jobs: Vec<Waiting>, teams: Vec<TeamView>, now: i64| {
        let mut scene = scene(nodes(1), teams);
        jobs.into_iter().for_each(|job| submit(&mut scene, job));
        starts(&scene, now)
    };
    let whole = |number, team, class| Waiting { eligible_ms: 30 * HOUR, ..job(number, team, class, 1, 8) };
    let later = 31 * HOUR;
    assert_eq!(one(vec![whole(1, "org/a", Class::Normal), whole(2, "org/a", Class::High)], two_teams(8, 8), later), [2]);
    let aged = Waiting { eligible_ms: 0, ..whole(2, "org/a", Class::Normal) };
    assert_eq!(one(vec![whole(1, "org/a", Class::Normal), aged], two_teams(8, 8), later), [2]);
    let inside = vec![whole(1, "org/b", Class::Normal), whole(2, "org/a", Class::Normal)];
    assert_eq!(one(inside.clone(), two_teams(8, 0), later), [2]);
    let mut used = two_teams(8, 8);
    used[2].usage = 1_000_000;
    assert_eq!(one(inside.clone(), used, later), [2]);
    let mut noise = two_teams(8, 8);
    noise[1].usage = 1_000_000;
    noise[2].usage = 1_010_000;
    assert_eq!(one(inside, noise, later), [1], "one percent is noise: submit decides");
    let mut weighed = two_teams(8, 8);
    (weighed[1].usage, weighed[2].usage, weighed[2].weight) = (1_000_000, 1_500_000, 4);
    assert_eq!(one(vec![whole(1, "org/a", Class::Normal), whole(2, "org/b", Class::Normal)], weighed, later), [2]);
}

#[test]
fn among_users_of_a_team_who_used_less_comes_first() {
    let mut org = team("org", &[("h100", 8, NONE)]);
    org.users = BTreeMap::from([("ann".into(), 9_000_000), ("bo".into(), 1_000)]);
    let mut scene = scene(nodes(1), vec![org]);
    submit(&mut scene, job(1, "org", Class::Normal, 1, 8));
    submit(&mut scene, Waiting { user: "bo".into(), ..job(2, "org", Class::Normal, 1, 8) });
    assert_eq!(starts(&scene, 0), [2]);
}

#[test]
fn a_list_of_types_prefers_its_first_by_borrowing_or_nominal_as_it_says() {
    let teams = vec![
        team("org", &[("h100", 8, NONE), ("a100", 8, NONE)]),
        team("org/a", &[("h100", 0, ALL), ("a100", 8, ALL)]),
    ];
    let all = vec![node("n0", "base", "h100", 8), node("n1", "base", "a100", 8)];
    for (prefer, want) in [(Prefer::Type, "h100"), (Prefer::Nominal, "a100")] {
        let mut scene = scene(all.clone(), teams.clone());
        let one = Ask { prefer, ..of_kinds(ask(1, 4), &["h100", "a100"]) };
        submit(&mut scene, Waiting { ask: Arc::new(one), ..job(1, "org/a", Class::Normal, 1, 4) });
        let plan = propose(&scene, 0);
        assert_eq!(&*plan.starts[0].charges[0].0.kind, want);
    }
}

#[test]
fn an_elastic_job_takes_what_is_its_own_and_free_and_its_surplus_goes_first() {
    let wide = |number, team: &str| Waiting {
        ask: Arc::new(Ask { nodes: Width::Elastic(vec![1, 2, 4]), ..ask(1, 8) }),
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
fn what_protects_a_victim_is_its_least_runtime_three_evictions_and_a_pause() {
    let base = |change: &dyn Fn(&mut Scene)| {
        let mut scene = scene(nodes(1), two_teams(8, 0));
        let low = job(1, "org/a", Class::Low, 1, 8);
        let mut run = running(&low, 0, vec![Seat { node: "n0".into(), devices: (0..8).collect() }], Footing::Regular, 0);
        run.min_runtime_ms = 600_000;
        let mut busy = node("n0", "base", "h100", 8);
        busy.devices.iter_mut().for_each(|one| one.free = 0);
        busy.free = Default::default();
        scene.nodes.insert("n0".into(), Arc::new(busy));
        scene.running.insert((run.id, run.epoch), Arc::new(run));
        let mut a = (*scene.teams["org/a"]).clone();
        a.own.insert(Flavor { kind: "h100".into(), pool: None }, 8 * GPU);
        scene.teams.insert(a.name.clone(), Arc::new(a));
        submit(&mut scene, job(2, "org/a", Class::High, 1, 8));
        change(&mut scene);
        scene
    };
    let plain = base(&|_| {});
    assert_eq!(propose(&plain, HOUR).preemptions.len(), 1);
    let early = propose(&plain, 1_000);
    assert!(early.preemptions.is_empty());
    assert_eq!(early.next, Some(600_000), "when its protection ends");
    let paused = base(&|scene| scene.preemption_paused = true);
    assert!(propose(&paused, HOUR).preemptions.is_empty());
    let often = base(&|scene| {
        for (key, run) in scene.running.clone() {
            let mut run = (*run).clone();
            run.evicted_ms = vec![1, 2, 3];
            scene.running.insert(key, Arc::new(run));
        }
    });
    assert!(propose(&often, HOUR).preemptions.is_empty(), "only a higher cover may, after three");
    assert_eq!(propose(&often, 25 * HOUR).preemptions.len(), 1, "a day later they are forgotten");
    let cool = base(&|scene| {
        let key = (2, id(2));
        let waits = scene.waiting[&key].clone();
        scene.waiting.insert(key, Arc::new(Waiting { no_preempt_until_ms: 2 * HOUR, ..(*waits).clone() }));
    });
    let plan = propose(&cool, HOUR);
    assert_eq!(plan.reasons[&id(2)], Why::PreemptCooldown { until: 2 * HOUR });
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
    assert!(world.scene.running.values().all(|run| run.ends_by_ms.is_none()));
    world.submit(job(3, "org/a", Class::Normal, 1, 8), HOUR);
    world.settle();
    world.submit(job(4, "org/a", Class::Low, 1, 8), HOUR);
    run_to(&mut world, HOUR);
    assert!(world.starts.contains_key(&id(3)));
    assert_eq!(world.truths[&id(1)].evictions, 2);
}

#[test]
fn budgets_countables_and_counts_of_jobs_are_checked_before_a_start() {
    let flavor = Flavor { kind: "h100".into(), pool: None };
    let mut org = team("org", &[("h100", 16, NONE)]);
    org.budgets.insert(flavor.clone(), 10 * 3_600 * GPU);
    let mut poor = scene(nodes(2), vec![org.clone(), team("org/a", &[("h100", 16, NONE)])]);
    submit(&mut poor, job(1, "org/a", Class::Normal, 1, 8));
    submit(&mut poor, job(2, "org/a", Class::Normal, 1, 8));
    let plan = propose(&poor, 0);
    assert_eq!(plan.starts.len(), 1, "10 GPU-hours cover one slice of 8, not two");
    let left = Why::BudgetExhausted { team: "org".into(), flavor, left: 2 * 3_600 * GPU, needs: 8 * 3_600 * GPU };
    assert_eq!(plan.reasons[&id(2)], left);

    let mut few = scene(nodes(2), vec![TeamView { max_running: Some(1), budgets: BTreeMap::new(), ..org }]);
    submit(&mut few, job(1, "org", Class::Normal, 1, 8));
    submit(&mut few, job(2, "org", Class::Normal, 1, 8));
    let plan = propose(&few, 0);
    assert_eq!(plan.starts.len(), 1);
    assert_eq!(plan.reasons[&id(2)], Why::UserLimit { team: "org".into(), at_most: 1 });

    let mut licensed = scene(nodes(2), vec![team("org", &[])]);
    licensed.licenses = BTreeMap::from([("ansys".to_owned(), (3, 1))]);
    let needs = Ask { licenses: vec![("ansys".to_owned(), 2)], ..ask(1, 1) };
    for number in 1..=2 {
        submit(&mut licensed, Waiting { ask: Arc::new(needs.clone()), ..job(number, "org", Class::Normal, 1, 1) });
    }
    let plan = propose(&licensed, 0);
    assert_eq!(plan.starts.len(), 1);
    assert_eq!(plan.reasons[&id(2)], Why::Licenses { name: "ansys".into(), needs: 2, free: 0 });
}

#[test]
fn an_array_fills_nodes_task_by_task_up_to_what_may_run_at_once() {
    let mut scene = scene(nodes(2), two_teams(16, 0));
    let tasks = |at_once| Some(Tasks { waiting: 40, running: 0, at_once });
    submit(&mut scene, Waiting { tasks: tasks(None), ..job(1, "org/a", Class::Normal, 1, 2) });
    let plan = propose(&scene, 0);
    let counts: Vec<_> = plan.starts.iter().map(|start| (start.seats.len(), start.tasks)).collect();
    assert_eq!(counts, [(4, Some(4)), (4, Some(4))]);
    submit(&mut scene, Waiting { tasks: tasks(Some(3)), ..job(1, "org/a", Class::Normal, 1, 2) });
    let plan = propose(&scene, 0);
    assert_eq!(plan.starts.iter().filter_map(|start| start.tasks).sum::<u32>(), 3);
    let full = Some(Tasks { waiting: 40, running: 3, at_once: Some(3) });
    submit(&mut scene, Waiting { tasks: full, ..job(1, "org/a", Class::Normal, 1, 2) });
    assert_eq!(propose(&scene, 0).reasons[&id(1)], Why::ArrayLimit(3));
}

#[test]
fn each_reason_is_the_one_that_holds() {
    let plain = |change: &dyn Fn(&mut Scene), job: Waiting| {
        let mut scene = scene(nodes(2), two_teams(8, 8));
        change(&mut scene);
        let id = job.id;
        submit(&mut scene, job);
        propose(&scene, 0).reasons.get(&id).cloned()
    };
    let one = || job(1, "org/a", Class::Normal, 1, 8);
    assert_eq!(plain(&|_| {}, one()), None);
    assert_eq!(plain(&|_| {}, Waiting { blocked: Some(Blocked::Held), ..one() }), Some(Why::HeldByUser));
    assert_eq!(plain(&|_| {}, Waiting { blocked: Some(Blocked::StartTime(5)), ..one() }), Some(Why::StartTime(5)));
    assert_eq!(plain(&|scene| scene.starts_paused = true, one()), Some(Why::SchedulingPaused));
    let other = Waiting { ask: Arc::new(of_kinds(ask(1, 1), &["b200"])), ..one() };
    assert_eq!(plain(&|_| {}, other), Some(Why::GpuTypeMissing));
    let wide = plain(&|_| {}, job(1, "org/a", Class::Normal, 3, 8)).expect("waits");
    assert!(matches!(&wide, Why::QuotaExceeded(short) if &*short.team == "org" && short.adds == 24 * GPU), "{wide:?}");
    let close = |open| move |scene: &mut Scene| {
        for name in ["n0", "n1"] {
            let node = (*scene.nodes[name]).clone();
            scene.nodes.insert(name.into(), Arc::new(NodeView { open, ..node }));
        }
    };
    assert_eq!(plain(&close(Open::No), one()), Some(Why::NodeDrained { nodes: 2 }));
    assert_eq!(plain(&close(Open::From(9)), one()), Some(Why::WakingNodes { nodes: 2, from: 9 }));
    let half = |scene: &mut Scene| {
        for name in ["n0", "n1"] {
            let mut node = (*scene.nodes[name]).clone();
            node.devices[0].free = 0;
            scene.nodes.insert(name.into(), Arc::new(node));
        }
    };
    assert_eq!(plain(&half, one()), Some(Why::Fragmented { free: 14 * GPU, nodes: 1, fitting: 0 }));
    let no_cpu = |scene: &mut Scene| {
        for name in ["n0", "n1"] {
            let mut node = (*scene.nodes[name]).clone();
            node.free.cpu_milli = 0;
            scene.nodes.insert(name.into(), Arc::new(node));
        }
    };
    assert_eq!(plain(&no_cpu, one()), Some(Why::CpuOrMemory { fitting: 2 }));
    let failed = Waiting { avoid: vec!["n0".into(), "n1".into()], ..one() };
    assert_eq!(plain(&|_| {}, failed), Some(Why::ExcludedNodes { nodes: 2 }));
    let window = |scene: &mut Scene| {
        for name in ["n0", "n1"] {
            let node = (*scene.nodes[name]).clone();
            scene.nodes.insert(name.into(), Arc::new(NodeView { windows: vec![(HOUR, 2 * HOUR)], ..node }));
        }
    };
    assert_eq!(plain(&window, one()), Some(Why::Maintenance { until: 2 * HOUR }));
    let shares = Waiting { ask: Arc::new(Ask { gpus: Gpus::Share(3_500), ..ask(1, 1) }), ..one() };
    assert_eq!(plain(&|_| {}, shares), None);
}
