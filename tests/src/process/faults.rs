//! What goes wrong in a round: drawn from a seed like cards from a deck, so that every kind comes up before one comes again.
//! Does NOT know what is checked afterwards.

use nix::sys::signal::Signal;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};

use super::Fleet;

/// One kind of trouble. Which of the coordinators or nodes it hits is drawn when it strikes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// kill -9 of the leader.
    KillLeader,
    /// kill -9 of another coordinator.
    KillFollower,
    /// kill -9 of two coordinators at once, so that no majority is left.
    KillTwo,
    /// kill -9 of all coordinators at once.
    KillAll,
    /// The leader stands still.
    PauseLeader,
    /// Another coordinator stands still.
    PauseFollower,
    /// kill -9 of every agent; jobs go on.
    KillAgents,
    /// An agent stands still.
    PauseAgent,
    /// What the leader sends does not reach the others; what they send reaches it.
    MuteLeader,
    /// What the others send does not reach the leader; what it sends reaches them.
    DeafLeader,
    /// Nothing passes between the leader and the other coordinators; clients and agents reach all.
    PartLeader,
    /// Nothing passes between the leader and anybody.
    UnplugLeader,
    /// Nothing passes between another coordinator and anybody.
    UnplugFollower,
    /// Nothing passes between a node and the leader.
    PartNode,
    /// One coordinator dies, one stands still, the leader hears nothing, an agent dies.
    Everything,
}

use Fault as F;

const SIGNALS: [Fault; 8] = [
    F::KillLeader,
    F::KillFollower,
    F::KillTwo,
    F::KillAll,
    F::PauseLeader,
    F::PauseFollower,
    F::KillAgents,
    F::PauseAgent,
];
const CUTS: [Fault; 7] = [
    F::MuteLeader,
    F::DeafLeader,
    F::PartLeader,
    F::UnplugLeader,
    F::UnplugFollower,
    F::PartNode,
    F::Everything,
];

/// A shuffled deck of faults that never ends.
pub struct Deck {
    dice: StdRng,
    kinds: Vec<Fault>,
    left: Vec<Fault>,
}

impl Deck {
    /// A deck shuffled by `seed`; with cuts of the network or without.
    pub fn new(seed: u64, cuts: bool) -> Self {
        let kinds = if cuts {
            [&SIGNALS[..], &CUTS].concat()
        } else {
            SIGNALS.to_vec()
        };
        Self {
            dice: StdRng::seed_from_u64(seed),
            kinds,
            left: Vec::new(),
        }
    }

    /// The next fault.
    pub fn draw(&mut self) -> Fault {
        loop {
            if let Some(fault) = self.left.pop() {
                return fault;
            }
            self.left = self.kinds.clone();
            self.left.shuffle(&mut self.dice);
        }
    }

    /// One of `low..high`.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        self.dice.random_range(low..high)
    }

    fn one_of(&mut self, names: &[String]) -> String {
        let place = self.dice.random_range(0..names.len());
        names[place].clone()
    }
}

/// Lets `fault` happen to `fleet`, which is whole.
///
/// # Panics
/// When nobody leads, or the system refuses.
pub fn strike(fleet: &mut Fleet, deck: &mut Deck, fault: Fault) {
    let leader = fleet.leader();
    let mut others = fleet.coordinators();
    others.retain(|name| *name != leader);
    let nodes = fleet.nodes();
    match fault {
        F::KillLeader => fleet.kill(&[&leader]),
        F::KillFollower => fleet.kill(&[&deck.one_of(&others)]),
        F::KillTwo if deck.between(0, 2) == 0 => fleet.kill(&[&others[0], &others[1]]),
        F::KillTwo => fleet.kill(&[&leader, &deck.one_of(&others)]),
        F::KillAll => fleet.kill(&[&leader, &others[0], &others[1]]),
        F::PauseLeader => fleet.signal(&leader, Signal::SIGSTOP),
        F::PauseFollower => fleet.signal(&deck.one_of(&others), Signal::SIGSTOP),
        F::KillAgents => {
            let all: Vec<&str> = nodes.iter().map(String::as_str).collect();
            fleet.kill(&all);
        }
        F::PauseAgent => fleet.signal(&deck.one_of(&nodes), Signal::SIGSTOP),
        F::Everything => {
            let node = deck.one_of(&nodes);
            cut(fleet, deck, F::DeafLeader, &leader, &others);
            fleet.signal(&others[0], Signal::SIGSTOP);
            fleet.kill(&[&others[1], &node]);
        }
        F::MuteLeader
        | F::DeafLeader
        | F::PartLeader
        | F::UnplugLeader
        | F::UnplugFollower
        | F::PartNode => cut(fleet, deck, fault, &leader, &others),
    }
}

fn cut(fleet: &Fleet, deck: &mut Deck, fault: Fault, leader: &str, others: &[String]) {
    let net = fleet
        .net()
        .expect("only decks with cuts hold them, and only fleets on hosts get such a deck");
    match fault {
        F::MuteLeader => others.iter().for_each(|one| net.cut_one_way(leader, one)),
        F::DeafLeader => others.iter().for_each(|one| net.cut_one_way(one, leader)),
        F::PartLeader => others.iter().for_each(|one| net.cut(one, leader)),
        F::UnplugLeader => net.unplug(leader),
        F::UnplugFollower => net.unplug(&deck.one_of(others)),
        _ => net.cut(&deck.one_of(&fleet.nodes()), leader),
    }
}

/// Takes back whatever happened: what stands still goes on, cuts are healed, what is down is started.
///
/// # Panics
/// When the system refuses.
pub fn heal(fleet: &mut Fleet) {
    let daemons = [fleet.coordinators(), fleet.nodes()].concat();
    if let Some(net) = fleet.net() {
        net.heal();
    }
    for name in daemons {
        if fleet.is_up(&name) {
            fleet.signal(&name, Signal::SIGCONT);
        } else {
            fleet.start_one(&name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deck_has_every_kind_and_its_order_is_the_seeds() {
        let kinds = SIGNALS.len() + CUTS.len();
        let draw = |seed| {
            let mut deck = Deck::new(seed, true);
            (0..kinds).map(|_| deck.draw()).collect::<Vec<_>>()
        };
        let first = draw(1);
        for kind in SIGNALS.iter().chain(&CUTS) {
            assert_eq!(
                first.iter().filter(|one| *one == kind).count(),
                1,
                "{kind:?}"
            );
        }
        assert_eq!(first, draw(1));
        assert_ne!(first, draw(2));
        let mut calm = Deck::new(1, false);
        assert!((0..40).all(|_| !CUTS.contains(&calm.draw())));
    }
}
