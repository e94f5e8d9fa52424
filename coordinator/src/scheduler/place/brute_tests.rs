//! Small random clusters against a placer that tries everything: it knows the rules of docs/SCHEDULING.md, Placement and nothing of tables, indexes or scores.
use std::sync::Arc;

use imbl::OrdMap;
use mlctl_proto::ids::{Epoch, JobId};

use super::random_cases::{Dice, TEAMS, USERS, random_ask, random_scene};
use super::{Capacity, Choice, Mix, Terms};
use crate::state::view::amounts::{Amounts, GPU};
use crate::state::view::ask::{Ask, Gpus, Near};
use crate::state::view::jobs::{Class, Footing, Running, Seat};
use crate::state::view::nodes::{DeviceView, Guests, NodeView, Open, Sharing};
use crate::state::view::scene::Scene;

/// Units of one device that a part of this ask takes.
fn units(ask: &Ask, device: &DeviceView) -> u32 {
    match ask.gpus {
        Gpus::Share(units) => units,
        _ => device.slices.map_or(7_000, |slices| slices * 1_000),
    }
}

fn amounts(ask: &Ask, node: &NodeView) -> Amounts {
    if let Some(amounts) = ask.amounts {
        return amounts;
    }
    let all: u64 = node
        .devices
        .iter()
        .map(|one| one.slices.map_or(GPU, |s| u64::from(s) * 1_000))
        .sum();
    let per = |has: u64| (has * GPU).checked_div(all).unwrap_or(0) * ask.gpus.units() / GPU;
    Amounts {
        cpu_milli: per(node.has.cpu_milli),
        memory: per(node.has.memory),
        disk: per(node.has.disk),
    }
}

fn under(team: &str, above: &str) -> bool {
    team == above || team.starts_with(&format!("{above}/"))
}

fn is_whole(device: &DeviceView) -> bool {
    device.free >= device.slices.map_or(7_000, |slices| slices * 1_000)
}

/// Whether a CPU job leaves a free GPU its share of what it takes.
fn leaves_a_share(scene: &Scene, ask: &Ask, node: &NodeView, need: Amounts) -> bool {
    let rule = ask.gpus == Gpus::None && scene.settings.keep_gpu_share;
    if !rule || !node.devices.iter().any(is_whole) {
        return true;
    }
    let one = Ask {
        gpus: Gpus::Whole(1),
        amounts: None,
        ..ask.clone()
    };
    let kept = amounts(&one, node);
    let enough = |have: u64, keep: u64, want: u64| want == 0 || have >= keep + want;
    enough(node.free.cpu_milli, kept.cpu_milli, need.cpu_milli)
        && enough(node.free.memory, kept.memory, need.memory)
        && enough(node.free.disk, kept.disk, need.disk)
}

/// Whether one part may stand on these devices of a node, by the rules as written.
fn seat_is_legal(
    scene: &Scene,
    ask: &Ask,
    terms: &Terms,
    node: &NodeView,
    given: &[usize],
) -> bool {
    let welcome = node.owner.as_ref().is_none_or(|owner| {
        under(terms.team, &owner.team)
            || match owner.guests {
                Guests::None => false,
                Guests::Preemptible => terms.preemptible,
                Guests::Any => true,
            }
    });
    let in_window = node
        .windows
        .iter()
        .any(|(from, to)| terms.span.0 < *to && terms.span.1 > *from);
    let labelled = ask.labels.iter().all(|label| node.labels.contains(label));
    let named = ask.pools.is_empty() || ask.pools.iter().any(|pool| **pool == *node.pool);
    let need = amounts(ask, node);
    let devices_fit = given.iter().all(|at| {
        let device = &node.devices[*at];
        let typed = ask.kinds.is_empty()
            || (ask.kinds.iter())
                .any(|kind| device.model.contains(&kind.name) && device.memory >= kind.memory);
        let sort = match ask.gpus {
            Gpus::Mig { slices, .. } => device.slices == Some(slices),
            _ => device.slices.is_none(),
        };
        let neighbours = is_whole(device)
            || !matches!(ask.gpus, Gpus::Share(_))
            || match node.sharing {
                Sharing::User => *device.shared_by == *terms.user,
                Sharing::Team => *device.shared_by == *terms.team,
                Sharing::Any => true,
            };
        typed && sort && neighbours && device.free >= units(ask, device)
    });
    let avoided = terms.avoid.contains(&node.name);
    let one_model = ask.mix
        || given
            .windows(2)
            .all(|two| node.devices[two[0]].model == node.devices[two[1]].model);
    node.open == Open::Now
        && welcome
        && (terms.preemptible || !in_window)
        && labelled
        && named
        && !avoided
        && leaves_a_share(scene, ask, node, need)
        && node.free.covers(&need)
        && devices_fit
        && one_model
}

/// Whether seats, each legal by itself, make a gang.
fn gang_is_legal(
    scene: &Scene,
    ask: &Ask,
    terms: &Terms,
    seats: &[(Arc<str>, Vec<usize>)],
) -> bool {
    let nodes: Vec<&NodeView> = seats.iter().map(|(name, _)| &*scene.nodes[name]).collect();
    let mut models: Vec<&str> = (seats.iter().zip(&nodes))
        .flat_map(|((_, given), node)| given.iter().map(|at| &*node.devices[*at].model))
        .collect();
    models.sort_unstable();
    models.dedup();
    let together = nodes.windows(2).all(|two| {
        let near = match ask.near {
            Near::Prefer => true,
            Near::Within(level) => {
                let path =
                    |node: &NodeView| node.racks.get(..=usize::from(level)).map(<[_]>::to_vec);
                path(two[0]).is_some() && path(two[0]) == path(two[1])
            }
        };
        near && two[0].pool == two[1].pool && two[0].network == two[1].network
    });
    let led = terms.rank_0.is_empty() || nodes.iter().any(|node| terms.rank_0.contains(&node.name));
    together && led && (ask.mix || models.len() <= 1)
}

fn subsets(of: usize, count: usize) -> Vec<Vec<usize>> {
    (0_u32..1 << of)
        .filter(|set| set.count_ones() as usize == count)
        .map(|set| (0..of).filter(|at| set >> at & 1 == 1).collect())
        .collect()
}

/// Tries every way to seat a gang of so many nodes.
fn some_place_exists(scene: &Scene, ask: &Ask, nodes: usize, terms: &Terms) -> bool {
    let count = match ask.gpus {
        Gpus::None => 0,
        Gpus::Whole(count) | Gpus::Mig { count, .. } => count as usize,
        Gpus::Share(_) => 1,
    };
    let options: Vec<Vec<(Arc<str>, Vec<usize>)>> = (scene.nodes.values())
        .map(|node| {
            let sets = subsets(node.devices.len(), count).into_iter();
            sets.filter(|set| seat_is_legal(scene, ask, terms, node, set))
                .map(|set| (node.name.clone(), set))
                .collect()
        })
        .collect();
    try_all(scene, ask, terms, &options, nodes, &mut Vec::new())
}

fn try_all(
    scene: &Scene,
    ask: &Ask,
    terms: &Terms,
    options: &[Vec<(Arc<str>, Vec<usize>)>],
    nodes: usize,
    chosen: &mut Vec<(Arc<str>, Vec<usize>)>,
) -> bool {
    if chosen.len() == nodes {
        return gang_is_legal(scene, ask, terms, chosen);
    }
    let Some((first, rest)) = options.split_first() else {
        return false;
    };
    for option in first {
        chosen.push(option.clone());
        if try_all(scene, ask, terms, rest, nodes, chosen) {
            return true;
        }
        chosen.pop();
    }
    try_all(scene, ask, terms, rest, nodes, chosen)
}

/// Writes into the scene what a gang holds now, or no longer holds.
fn apply(scene: &mut Scene, ask: &Ask, seats: &[Seat], user: &str, team: &str, take: bool) {
    for seat in seats {
        let mut node = (*scene.nodes[&seat.node]).clone();
        let need = amounts(ask, &node);
        node.free = if take {
            node.free.minus(need)
        } else {
            node.free.plus(need)
        };
        for at in &seat.devices {
            let device = &mut node.devices[usize::from(*at)];
            let held = units(ask, device);
            if take {
                device.free = device
                    .free
                    .checked_sub(held)
                    .expect("a device is never oversubscribed");
                if matches!(ask.gpus, Gpus::Share(_)) {
                    device.shared_by = match node.sharing {
                        Sharing::User => user.into(),
                        Sharing::Team => team.into(),
                        Sharing::Any => "".into(),
                    };
                }
            } else {
                device.free += held;
                if device.free >= 7_000 {
                    device.shared_by = "".into();
                }
            }
        }
        scene.nodes.insert(node.name.clone(), Arc::new(node));
    }
}

fn running(ask: &Arc<Ask>, seats: Vec<Seat>, user: &str, team: &str) -> Running {
    Running {
        id: JobId::new(1, 1),
        epoch: Epoch::new(1, 1),
        team: team.into(),
        user: user.into(),
        class: Class::Normal,
        ask: ask.clone(),
        seats,
        submit_index: 0,
        started_ms: 0,
        limit_ms: None,
        preemptible: false,
        interactive: false,
        footing: Footing::Regular,
        saved_ms: None,
        ends_by_ms: None,
        surplus: 0,
        attained: 0,
        ran_ms: 0,
        waited_ms: 0,
        evicted_ms: vec![],
        min_runtime_ms: 0,
    }
}

/// All that can be seen of a capacity, but for what it remembers of devices that nobody shares any more.
fn state(capacity: &Capacity) -> String {
    let names: OrdMap<u32, Arc<str>> = capacity
        .names
        .iter()
        .map(|(name, id)| (*id, name.clone()))
        .collect();
    let holders: Vec<Option<&Arc<str>>> = (capacity.free.iter().enumerate())
        .map(|(at, free)| {
            let partly = *free < capacity.tables.devices[at].full && *free > 0;
            partly.then(|| &names[&capacity.holders[at]])
        })
        .collect();
    let rooms: Vec<_> = capacity
        .rooms
        .iter()
        .map(|room| (room.free, room.open, room.loss))
        .collect();
    let (free, shelves, index) = (&capacity.free, &capacity.shelves, &capacity.index);
    format!("{free:?} {holders:?} {rooms:?} {shelves:?} {index:?}")
}

#[derive(Default)]
struct Tally {
    found: u32,
    refused: u32,
    gangs: u32,
    shares: u32,
    neighbours: u32,
}

impl Tally {
    fn count(&mut self, scene: &Scene, ask: &Ask, choice: &Choice) {
        let shares = matches!(ask.gpus, Gpus::Share(_));
        self.found += 1;
        self.gangs += u32::from(choice.seats.len() > 1);
        self.shares += u32::from(shares);
        for seat in &choice.seats {
            let devices = &scene.nodes[&seat.node].devices;
            let joins = seat
                .devices
                .iter()
                .any(|at| !is_whole(&devices[usize::from(*at)]));
            self.neighbours += u32::from(shares && joins);
        }
    }
}

/// An attempt ends; before that, what-ifs about it are undone.
fn end(scene: &mut Scene, capacity: &mut Capacity, ended: &Running, when: &str) {
    let before = state(capacity);
    capacity.release(ended);
    capacity.hold(ended);
    assert_eq!(before, state(capacity), "{when}: hold undoes release");
    capacity.release_seats(&ended.ask, &ended.seats);
    capacity.hold_seats(&ended.ask, &ended.seats);
    assert_eq!(before, state(capacity), "{when}: by seats too");
    capacity.release(ended);
    apply(
        scene,
        &ended.ask,
        &ended.seats,
        &ended.user,
        &ended.team,
        false,
    );
}

/// One random cluster that is filled, with ends in between.
fn fill(seed: u64, tally: &mut Tally) {
    let mut dice = Dice::new(seed);
    let mut scene = random_scene(&mut dice);
    let mut mix = Mix::default();
    for _ in 0..dice.below(6) {
        mix.see(&random_ask(&mut dice));
    }
    let mut capacity = Capacity::new(&scene).with_mix(&mix);
    let mut held: Vec<Running> = Vec::new();
    for step in 0..14 {
        if !held.is_empty() && dice.often(4) {
            let at = usize::try_from(dice.below(held.len() as u64)).expect("small");
            end(
                &mut scene,
                &mut capacity,
                &held.swap_remove(at),
                &format!("seed {seed} step {step}"),
            );
        }
        let ask = Arc::new(random_ask(&mut dice));
        let (user, team) = (dice.one(&USERS), dice.one(&TEAMS));
        let some: Vec<Arc<str>> = vec!["n1".into(), "n2".into()];
        let terms = Terms {
            team,
            user,
            preemptible: dice.often(3),
            rank_0: if dice.often(5) { &some } else { &[] },
            avoid: if dice.often(6) { &some[..1] } else { &[] },
            span: dice.one(&[(0, 50), (0, 150), (250, 300)]),
        };
        let nodes = ask.nodes.least();
        let exists = some_place_exists(&scene, &ask, nodes as usize, &terms);
        let found = capacity.find(&ask, nodes, &terms);
        assert_eq!(
            found.is_some(),
            exists,
            "seed {seed} step {step}: {ask:?} {terms:?} {scene:#?}"
        );
        let room = capacity.room(&ask, &terms, 9);
        for wide in 1..=4_u32 {
            let exists = some_place_exists(&scene, &ask, wide as usize, &terms);
            assert_eq!(
                room >= wide,
                exists,
                "seed {seed} step {step}: room {room} for {wide} of {ask:?} {terms:?}"
            );
        }
        let Some(choice) = found else {
            tally.refused += 1;
            continue;
        };
        check(&scene, &ask, &terms, &choice, seed);
        tally.count(&scene, &ask, &choice);
        capacity.take(&ask, &choice);
        apply(&mut scene, &ask, &choice.seats, user, team, true);
        let anew = Capacity::new(&scene).with_mix(&mix);
        assert_eq!(
            state(&capacity),
            state(&anew),
            "seed {seed} step {step}: kept up to date"
        );
        held.push(running(&ask, choice.seats, user, team));
    }
}

/// A choice is legal as a whole, on distinct nodes, led by a node of `rank_0`, and charged for what it takes.
fn check(scene: &Scene, ask: &Ask, terms: &Terms, choice: &Choice, seed: u64) {
    let seats: Vec<(Arc<str>, Vec<usize>)> = (choice.seats.iter())
        .map(|seat| {
            (
                seat.node.clone(),
                seat.devices.iter().map(|at| usize::from(*at)).collect(),
            )
        })
        .collect();
    let mut names: Vec<&Arc<str>> = choice.seats.iter().map(|seat| &seat.node).collect();
    let led = terms.rank_0.is_empty() || terms.rank_0.contains(names[0]);
    names.sort();
    names.dedup();
    let each = seats
        .iter()
        .all(|(name, given)| seat_is_legal(scene, ask, terms, &scene.nodes[name], given));
    let nodes = ask.nodes.least();
    assert!(
        each && gang_is_legal(scene, ask, terms, &seats) && led,
        "seed {seed}: {choice:?}"
    );
    assert_eq!(names.len(), nodes as usize, "seed {seed}: distinct nodes");
    let charged: u64 = choice.charges.iter().map(|(_, units)| units).sum();
    assert_eq!(
        charged,
        ask.units(nodes),
        "seed {seed}: charged for what it asks for"
    );
}

#[test]
fn a_place_is_found_iff_one_exists_and_nothing_is_ever_oversubscribed() {
    let mut tally = Tally::default();
    for seed in 1..=3_000 {
        fill(seed, &mut tally);
    }
    let Tally {
        found,
        refused,
        gangs,
        shares,
        neighbours,
    } = tally;
    assert!(
        found > 2_000 && refused > 2_000,
        "both answers: {found} {refused}"
    );
    assert!(
        gangs > 150 && shares > 1_000 && neighbours > 50,
        "{gangs} {shares} {neighbours}"
    );
}
