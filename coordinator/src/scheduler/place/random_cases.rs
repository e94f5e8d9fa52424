//! Random small clusters and asks for tests, from a seed. Does NOT check anything.
use std::sync::Arc;

use crate::state::view::amounts::Amounts;
use crate::state::view::ask::{Ask, Gpus, Kind, Near, Prefer, Width};
use crate::state::view::nodes::{DeviceView, Guests, NodeView, Open, Owner, Sharing};
use crate::state::view::scene::Scene;

pub(super) const USERS: [&str; 2] = ["ann", "bob"];
pub(super) const TEAMS: [&str; 3] = ["acme", "acme/vision", "acmesoft"];

/// Random numbers by xorshift: the same ones for a seed.
pub(super) struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// From 0 to `end`, without it.
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % end
    }

    /// One of these.
    pub fn one<T: Clone>(&mut self, of: &[T]) -> T {
        of[usize::try_from(self.below(of.len() as u64)).expect("small")].clone()
    }

    /// True once in so many times.
    pub fn often(&mut self, one_in: u64) -> bool {
        self.below(one_in) == 0
    }
}

fn random_node(dice: &mut Dice, number: u64) -> NodeView {
    let count = dice.below(5);
    let slices = dice.often(5).then_some(3);
    let model = dice.one(&["nvidia h100", "nvidia a100", "nvidia l4"]);
    let second = dice.one(&["nvidia h100", "nvidia a100"]);
    let device = |dice: &mut Dice, at: u64| DeviceView {
        uuid: format!("{number}-{at}").into(),
        model: if dice.often(6) {
            second.into()
        } else {
            model.into()
        },
        memory: dice.one(&[40, 80]),
        free: slices.map_or(7_000, |of: u32| of * 1_000) * u32::from(!dice.often(8)),
        slices,
        island: u16::try_from(at / 2).expect("small"),
        numa: u16::try_from(at / 2).expect("small"),
        shared_by: "".into(),
    };
    let devices = (0..count).map(|at| device(dice, at)).collect();
    let has = Amounts {
        cpu_milli: dice.one(&[3_000, 8_000, 16_000]),
        memory: dice.one(&[64, 256]),
        disk: 100,
        ranks: 0,
    };
    NodeView {
        name: format!("n{number}").into(),
        boot_id: "".into(),
        pool: dice.one(&["p", "p", "q"]).into(),
        network: dice.one(&["x", "x", "y"]).into(),
        racks: match dice.below(4) {
            0 => vec![],
            1 => vec!["b1".into()],
            _ => vec![
                dice.one(&["b1", "b2"]).into(),
                dice.one(&["r1", "r2"]).into(),
            ],
        },
        open: dice.one(&[
            Open::Now,
            Open::Now,
            Open::Now,
            Open::Now,
            Open::From(50),
            Open::No,
        ]),
        devices,
        has,
        free: has,
        owner: dice.often(3).then(|| Owner {
            team: dice.one(&TEAMS).into(),
            guests: dice.one(&[Guests::None, Guests::Preemptible, Guests::Any]),
        }),
        sharing: dice.one(&[Sharing::User, Sharing::Team, Sharing::Any]),
        labels: if dice.often(2) {
            Arc::from([("disk".to_owned(), "ssd".to_owned())])
        } else {
            Arc::from([])
        },
        windows: if dice.often(5) {
            vec![(100, 200)]
        } else {
            vec![]
        },
    }
}

pub(super) fn random_scene(dice: &mut Dice) -> Scene {
    let mut scene = Scene::default();
    for number in 0..=dice.below(5) {
        let node = random_node(dice, number);
        scene.nodes.insert(node.name.clone(), Arc::new(node));
    }
    let mut settings = (*scene.settings).clone();
    settings.keep_gpu_share = dice.often(2);
    scene.settings = Arc::new(settings);
    scene
}

pub(super) fn random_ask(dice: &mut Dice) -> Ask {
    let gpus = match dice.below(8) {
        0 => Gpus::None,
        1 | 2 => Gpus::Share(dice.one(&[1_750, 3_500, 4_900])),
        3 => Gpus::Mig {
            count: 1 + u32::try_from(dice.below(2)).expect("small"),
            slices: 3,
        },
        _ => Gpus::Whole(dice.one(&[1, 1, 2, 3, 4])),
    };
    let amounts = Amounts {
        cpu_milli: dice.one(&[500, 2_000, 6_000]),
        memory: dice.one(&[0, 16, 100]),
        disk: dice.one(&[0, 0, 60]),
        ranks: 0,
    };
    let kinds = [
        ("h100", 0),
        ("h100", 80),
        ("a100", 40),
        ("nvidia", 80),
        ("l4", 0),
        ("b200", 0),
    ];
    let kind = |dice: &mut Dice| {
        let (name, memory) = dice.one(&kinds);
        Kind {
            name: name.to_owned(),
            memory,
        }
    };
    Ask {
        nodes: Width::Exactly(dice.one(&[1, 1, 1, 2, 2, 3])),
        gpus,
        ranks: 1,
        amounts: (!dice.often(3)).then_some(amounts),
        kinds: (0..dice.below(3)).map(|_| kind(dice)).collect(),
        pools: dice
            .one(&[vec![], vec![], vec!["q"], vec!["q", "p"]])
            .into_iter()
            .map(String::from)
            .collect(),
        mix: dice.often(4),
        near: dice.one(&[Near::Prefer, Near::Prefer, Near::Within(0), Near::Within(1)]),
        prefer: Prefer::Type,
        licenses: vec![],
        labels: if dice.often(5) {
            vec![("disk".into(), "ssd".into())]
        } else {
            vec![]
        },
    }
}
