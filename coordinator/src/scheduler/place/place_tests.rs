//! What placement prefers, case by case; whether it finds places at all is checked in `brute_tests`.
use std::collections::BTreeMap;
use std::sync::Arc;

use super::random_cases::Dice;
use super::{CLASSES_MAX, Capacity, Mix, Terms};
use crate::state::view::amounts::{Amounts, GPU};
use crate::state::view::ask::{Ask, Gpus, Kind, Near, Prefer, Width};
use crate::state::view::jobs::Seat;
use crate::state::view::nodes::{DeviceView, Guests, NodeView, Open, Owner, Sharing};
use crate::state::view::scene::Scene;
use crate::state::view::teams::{Flavor, Limit, Quota, TeamView};

const HAS: Amounts = Amounts {
    cpu_milli: 80_000,
    memory: 800,
    disk: 8_000,
    ranks: 0,
};

/// A node with `count` devices of a model, two to an island and four to a processor.
fn node(name: &str, model: &str, count: u16) -> NodeView {
    let device = |at: u16| DeviceView {
        uuid: format!("{name}-{at}").into(),
        model: model.into(),
        memory: 80,
        free: 7_000,
        slices: None,
        island: at / 2,
        numa: at / 4,
        shared_by: "".into(),
    };
    NodeView {
        name: name.into(),
        boot_id: "".into(),
        pool: "p".into(),
        network: "x".into(),
        racks: vec![],
        open: Open::Now,
        devices: (0..count).map(device).collect(),
        has: HAS,
        free: HAS,
        owner: None,
        sharing: Sharing::User,
        labels: Arc::from([]),
        windows: vec![],
    }
}

fn scene(nodes: Vec<NodeView>) -> Scene {
    Scene {
        nodes: nodes
            .into_iter()
            .map(|node| (node.name.clone(), Arc::new(node)))
            .collect(),
        ..Scene::default()
    }
}

fn ask(gpus: Gpus) -> Ask {
    Ask {
        nodes: Width::Exactly(1),
        gpus,
        ranks: 1,
        amounts: None,
        kinds: vec![],
        pools: vec![],
        mix: false,
        near: Near::Prefer,
        prefer: Prefer::Type,
        licenses: vec![],
        labels: vec![],
    }
}

fn of_kinds(gpus: Gpus, kinds: &[&str]) -> Ask {
    let kind = |name: &&str| Kind {
        name: (*name).to_owned(),
        memory: 0,
    };
    Ask {
        kinds: kinds.iter().map(kind).collect(),
        ..ask(gpus)
    }
}

const TERMS: Terms = Terms {
    team: "acme/vision",
    user: "ann",
    preemptible: false,
    rank_0: &[],
    avoid: &[],
    span: (0, 10),
};

/// Where an ask goes: the nodes' names and devices, in words.
fn place(capacity: &Capacity, ask: &Ask, nodes: u32, terms: &Terms) -> String {
    let Some(choice) = capacity.find(ask, nodes, terms) else {
        return "nowhere".to_owned();
    };
    let seat = |seat: &Seat| {
        let devices: Vec<String> = seat.devices.iter().map(u16::to_string).collect();
        format!("{}:{}", seat.node, devices.join(","))
    };
    choice.seats.iter().map(seat).collect::<Vec<_>>().join(" ")
}

#[test]
fn types_and_pools_are_tried_in_the_order_in_which_they_are_listed() {
    let mut other = node("n3", "nvidia h100", 4);
    other.pool = "q".into();
    let scene = scene(vec![
        node("n1", "nvidia a100", 4),
        node("n2", "nvidia h100", 4),
        other,
    ]);
    let mut capacity = Capacity::new(&scene);
    let listed = of_kinds(Gpus::Whole(4), &["h100", "a100"]);
    assert_eq!(place(&capacity, &listed, 1, &TERMS), "n2:0,1,2,3");
    let mut in_q = listed.clone();
    in_q.pools = vec!["q".into(), "p".into()];
    let mut taken = Vec::new();
    while let Some(choice) = capacity.find(&in_q, 1, &TERMS) {
        capacity.take(&in_q, &choice);
        taken.push(choice.seats[0].node.to_string());
    }
    assert_eq!(
        taken,
        ["n3", "n2", "n1"],
        "first type in each pool, then the second type"
    );
}

#[test]
fn devices_come_from_one_island_then_from_one_processor() {
    let mut capacity = Capacity::new(&scene(vec![node("n1", "nvidia h100", 8)]));
    let one = ask(Gpus::Whole(1));
    let seat = |devices: &[u16]| {
        vec![Seat {
            node: "n1".into(),
            devices: devices.to_vec(),
        }]
    };
    capacity.hold_seats(&one, &seat(&[0]));
    assert_eq!(
        place(&capacity, &one, 1, &TERMS),
        "n1:1",
        "the broken island first"
    );
    assert_eq!(place(&capacity, &ask(Gpus::Whole(2)), 1, &TERMS), "n1:2,3");
    assert_eq!(
        place(&capacity, &ask(Gpus::Whole(4)), 1, &TERMS),
        "n1:4,5,6,7"
    );
    capacity.hold_seats(&one, &seat(&[4]));
    assert_eq!(
        place(&capacity, &ask(Gpus::Whole(3)), 1, &TERMS),
        "n1:1,2,3",
        "of one processor"
    );
}

#[test]
fn without_knowledge_the_fullest_node_is_filled_first() {
    let mut capacity = Capacity::new(&scene(vec![
        node("n1", "nvidia h100", 8),
        node("n2", "nvidia h100", 8),
        node("n3", "nvidia h100", 2),
    ]));
    let one = ask(Gpus::Whole(1));
    assert_eq!(place(&capacity, &one, 1, &TERMS), "n3:0");
    let four = ask(Gpus::Whole(4));
    let choice = capacity.find(&four, 1, &TERMS).expect("room");
    assert_eq!(&*choice.seats[0].node, "n1");
    capacity.take(&four, &choice);
    assert_eq!(place(&capacity, &four, 1, &TERMS), "n1:4,5,6,7");
    assert_eq!(
        place(&capacity, &ask(Gpus::Whole(8)), 1, &TERMS),
        "n2:0,1,2,3,4,5,6,7"
    );
}

#[test]
fn who_can_go_anywhere_stays_away_from_what_few_devices_can_serve() {
    let scene = scene(vec![
        node("n1", "nvidia l4", 1),
        node("n2", "nvidia h100", 8),
        node("n3", "nvidia h100", 8),
    ]);
    let anywhere = ask(Gpus::Whole(1));
    let mut mix = Mix::default();
    for _ in 0..9 {
        mix.see(&anywhere);
    }
    assert_eq!(
        place(&Capacity::new(&scene).with_mix(&mix), &anywhere, 1, &TERMS),
        "n1:0"
    );
    // One in ten asks is for the one device of its type.
    mix.see(&of_kinds(Gpus::Whole(1), &["l4"]));
    let capacity = Capacity::new(&scene).with_mix(&mix);
    assert_eq!(place(&capacity, &anywhere, 1, &TERMS), "n2:0");
}

#[test]
fn a_part_goes_where_it_leaves_a_whole_device_for_those_who_ask_for_whole_ones() {
    let mut capacity = Capacity::new(&scene(vec![node("n1", "nvidia h100", 2)]));
    let mut mix = Mix::default();
    mix.see(&ask(Gpus::Whole(1)));
    mix.see(&ask(Gpus::Share(2_100)));
    capacity.know(&mix);
    let part = ask(Gpus::Share(2_100));
    for (device, left) in [(0, "n1:0"), (0, "n1:0"), (0, "n1:1")] {
        let choice = capacity.find(&part, 1, &TERMS).expect("room");
        assert_eq!(choice.seats[0].devices, [device]);
        capacity.take(&part, &choice);
        assert_eq!(place(&capacity, &part, 1, &TERMS), left);
    }
    let stranger = Terms {
        user: "bob",
        ..TERMS
    };
    assert_eq!(
        place(&capacity, &part, 1, &stranger),
        "n1:1",
        "not beside another user"
    );
}

#[test]
fn a_gang_spans_as_few_racks_as_it_can_and_leaves_large_holes_alone() {
    let racks = [("a", 4), ("b", 2), ("c", 3)];
    let mut nodes = Vec::new();
    for (rack, count) in racks {
        for at in 0..count {
            let mut node = node(&format!("{rack}{at}"), "nvidia h100", 8);
            node.racks = vec!["hall".into(), rack.into()];
            nodes.push(node);
        }
    }
    let capacity = Capacity::new(&scene(nodes));
    let all = ask(Gpus::Whole(8));
    let racks_of = |nodes: u32, near: Near| {
        let asked = Ask {
            near,
            ..all.clone()
        };
        let choice = capacity.find(&asked, nodes, &TERMS)?;
        let mut count: BTreeMap<String, u32> = BTreeMap::new();
        for seat in &choice.seats {
            *count.entry(seat.node[..1].to_owned()).or_default() += 1;
        }
        Some(
            count
                .into_iter()
                .map(|(rack, count)| format!("{rack}{count}"))
                .collect::<String>(),
        )
    };
    let cases = [
        (2, Some("b2"), Some("b2")),
        (3, Some("c3"), Some("c3")),
        (4, Some("a4"), Some("a4")),
        (6, Some("a4b2"), None),
        (9, Some("a4b2c3"), None),
        (10, None, None),
    ];
    for (nodes, anywhere, within) in cases {
        assert_eq!(
            racks_of(nodes, Near::Prefer).as_deref(),
            anywhere,
            "{nodes} nodes"
        );
        assert_eq!(
            racks_of(nodes, Near::Within(1)).as_deref(),
            within,
            "{nodes} in one rack"
        );
    }
    let lead: [Arc<str>; 1] = ["a2".into()];
    let led = Terms {
        rank_0: &lead,
        ..TERMS
    };
    let choice = capacity.find(&all, 2, &led).expect("room");
    let names: Vec<&str> = choice.seats.iter().map(|seat| &*seat.node).collect();
    assert_eq!(names, ["a2", "a0"], "rank 0 first, the other beside it");
}

#[test]
fn owners_prefer_their_own_nodes_and_guests_come_as_far_as_they_may() {
    let owned = |name: &str, guests| {
        let mut node = node(name, "nvidia h100", 8);
        node.owner = Some(Owner {
            team: "acme".into(),
            guests,
        });
        node
    };
    let capacity = Capacity::new(&scene(vec![
        owned("n1", Guests::None),
        owned("n2", Guests::Preemptible),
        owned("n3", Guests::Any),
        node("n4", "nvidia h100", 8),
    ]));
    let whole = ask(Gpus::Whole(8));
    let room = |terms: &Terms| capacity.room(&whole, terms, 9);
    let guest = Terms {
        team: "acmesoft",
        ..TERMS
    };
    let soft = Terms {
        preemptible: true,
        ..guest
    };
    assert_eq!((room(&TERMS), room(&guest), room(&soft)), (4, 2, 3));
    assert!(place(&capacity, &whole, 1, &TERMS).starts_with("n1"));
    assert!(place(&capacity, &whole, 1, &guest).starts_with("n4"));
}

#[test]
fn a_cpu_job_leaves_the_last_free_gpu_its_share_unless_the_setting_is_off() {
    let mut scene = scene(vec![node("n1", "nvidia h100", 8)]);
    let cpus = |cpu_milli| Ask {
        amounts: Some(Amounts {
            cpu_milli,
            ..Amounts::NONE
        }),
        ..ask(Gpus::None)
    };
    let capacity = Capacity::new(&scene);
    assert_eq!(place(&capacity, &cpus(70_000), 1, &TERMS), "n1:");
    assert_eq!(place(&capacity, &cpus(70_001), 1, &TERMS), "nowhere");
    let node = capacity.node("n1").expect("known");
    assert_eq!(capacity.slots(&cpus(20_000), &TERMS, node), 3);
    let mut settings = (*scene.settings).clone();
    settings.keep_gpu_share = false;
    scene.settings = Arc::new(settings);
    let capacity = Capacity::new(&scene);
    assert_eq!(place(&capacity, &cpus(80_000), 1, &TERMS), "n1:");
    assert_eq!(capacity.slots(&cpus(20_000), &TERMS, node), 4);
}

#[test]
fn tasks_fit_side_by_side_as_often_as_devices_and_amounts_allow() {
    let mut nodes = vec![node("n1", "nvidia h100", 8), node("n2", "nvidia h100", 8)];
    nodes[1].free.memory = 250;
    let capacity = Capacity::new(&scene(nodes));
    let (n1, n2) = (
        capacity.node("n1").expect("known"),
        capacity.node("n2").expect("known"),
    );
    let cases = [
        (Gpus::Whole(1), 8, 2),
        (Gpus::Whole(3), 2, 0),
        (Gpus::Share(2_100), 24, 8),
    ];
    for (gpus, first, second) in cases {
        assert_eq!(capacity.slots(&ask(gpus), &TERMS, n1), first, "{gpus:?}");
        assert_eq!(
            capacity.slots(&ask(gpus), &TERMS, n2),
            second,
            "{gpus:?}, little memory"
        );
    }
    assert_eq!(
        capacity.slots(&of_kinds(Gpus::Whole(1), &["l4"]), &TERMS, n1),
        0
    );
    assert_eq!(
        capacity.slots(&ask(Gpus::Whole(1)), &TERMS, 99),
        0,
        "no such node"
    );
}

#[test]
fn a_node_that_opens_later_counts_from_then_on() {
    let mut late = node("n1", "nvidia h100", 8);
    late.open = Open::From(50);
    let mut shut = node("n2", "nvidia h100", 8);
    shut.open = Open::No;
    let mut capacity = Capacity::new(&scene(vec![late, shut]));
    let one = ask(Gpus::Whole(1));
    for (t, room) in [(0, 0), (49, 0), (50, 1), (90, 1)] {
        capacity.open_from(t);
        assert_eq!(capacity.room(&one, &TERMS, 9), room, "at {t}");
    }
}

#[test]
fn a_node_is_kept_free_for_its_maintenance_by_all_but_the_preemptible() {
    let mut node = node("n1", "nvidia h100", 8);
    node.windows = vec![(100, 200)];
    let capacity = Capacity::new(&scene(vec![node]));
    for (span, preemptible, fits) in [
        ((0, 100), false, true),
        ((0, 101), false, false),
        ((0, 101), true, true),
        ((199, 300), false, false),
        ((200, 300), false, true),
    ] {
        let terms = Terms {
            span,
            preemptible,
            ..TERMS
        };
        let found = capacity.find(&ask(Gpus::Whole(1)), 1, &terms);
        assert_eq!(found.is_some(), fits, "{span:?} {preemptible}");
    }
}

#[test]
fn devices_are_charged_to_the_most_specific_flavor_that_a_quota_names() {
    let flavor = |kind: &str, pool: Option<&str>| Flavor {
        kind: kind.into(),
        pool: pool.map(Arc::from),
    };
    let quota = Quota {
        nominal: 0,
        borrow: Limit::Unlimited,
        lend: Limit::Unlimited,
    };
    let charged = |flavors: &[Flavor], mixed: bool| {
        let mut scene = scene(vec![
            node("n1", "nvidia h100 nvl", 2),
            node("n2", "nvidia l4", 2),
        ]);
        let team = TeamView {
            name: "acme".into(),
            weight: 1,
            quotas: flavors
                .iter()
                .map(|flavor| (flavor.clone(), quota))
                .collect(),
            own: BTreeMap::new(),
            usage: 0,
            users: BTreeMap::new(),
            budgets: BTreeMap::new(),
            max_running: None,
        };
        scene.teams.insert("acme".into(), Arc::new(team));
        let kinds: &[&str] = if mixed { &[] } else { &["h100"] };
        let asked = Ask {
            mix: mixed,
            ..of_kinds(Gpus::Whole(2), kinds)
        };
        let nodes = if mixed { 2 } else { 1 };
        Capacity::new(&scene)
            .find(&asked, nodes, &TERMS)
            .expect("room")
            .charges
    };
    let both = 2 * GPU;
    let (h100, nvl, in_p) = (
        flavor("h100", None),
        flavor("h100 nvl", None),
        flavor("h100", Some("p")),
    );
    let elsewhere = flavor("h100", Some("q"));
    let model = flavor("nvidia h100 nvl", None);
    assert_eq!(charged(&[], false), [(model, both)]);
    assert_eq!(
        charged(&[h100.clone(), elsewhere], false),
        [(h100.clone(), both)]
    );
    assert_eq!(
        charged(&[h100.clone(), nvl.clone()], false),
        [(nvl.clone(), both)]
    );
    assert_eq!(charged(&[h100, nvl, in_p.clone()], false), [(in_p, both)]);
    let two = [(flavor("h", None), both), (flavor("nvidia l4", None), both)];
    assert_eq!(charged(&[flavor("h", None)], true), two);
}

#[test]
fn only_so_many_classes_are_remembered_and_frequent_ones_are_among_them() {
    let mut dice = Dice::new(7);
    let mut mix = Mix::default();
    let class = |cpu_milli| Ask {
        amounts: Some(Amounts {
            cpu_milli,
            ..Amounts::NONE
        }),
        ..ask(Gpus::Whole(1))
    };
    for _ in 0..20_000 {
        // Every second one is of one of ten classes, the others of any of thousands.
        let often = dice.below(2) == 0;
        mix.see(&class(if often {
            dice.below(10)
        } else {
            1_000 + dice.below(5_000)
        }));
    }
    assert_eq!(mix.classes().count(), CLASSES_MAX);
    let seen = |cpu| {
        mix.classes()
            .find(|(shape, _)| shape.amounts == class(cpu).amounts)
    };
    assert!((0..10).all(|cpu| seen(cpu).is_some_and(|(_, count)| count > 900)));
    let mut blank = Mix::default();
    blank.see(&ask(Gpus::None));
    assert!(blank.is_empty(), "a CPU job has no use for GPUs");
}
