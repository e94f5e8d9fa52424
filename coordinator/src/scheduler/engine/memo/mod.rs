//! What one pass leaves to the next: tables over nodes, attempts and jobs, of which only what changed is made anew. A pass with a memo says what a pass without says,
//! bit for bit; a property test compares them. Does NOT keep anything that a pass decided.
mod attempts;
mod ground;
mod queue;

use mlctl_proto::units::UtcMs;

use super::targets::Asks;
use crate::state::rules::quota::Ledger;
use crate::state::view::scene::Scene;

pub use attempts::{Attempts, Kept};
pub use ground::Ground;
pub use queue::{Entry, Queue};

/// So many asks, names and conditions of jobs that are gone may stay beside those that are there.
const SPARE: usize = 4_096;

/// Kept from pass to pass, whatever scenes these look at: what another scene shares with the last one is not made anew.
#[derive(Debug, Default)]
pub struct Memo {
    /// Nodes.
    pub(super) ground: Ground,
    /// Who holds something.
    pub(super) attempts: Attempts,
    /// Who waits.
    pub(super) queue: Queue,
    /// What they ask for; not there while a pass has it.
    asks: Option<Asks>,
}

impl Memo {
    /// Brings everything up to date. The asks are lent to the pass until it gives them back.
    pub(super) fn renew(&mut self, scene: &Scene, ledger: &Ledger, now: UtcMs) -> Asks {
        if !self.ground.renew(scene, ledger) {
            // Everything has numbers of nodes or of kinds of devices in it.
            *self = Self {
                ground: Ground::new(scene, ledger),
                ..Self::default()
            };
        }
        let spare = |asks: &Asks| asks.classes.len() <= 2 * scene.waiting.len() + SPARE;
        let asks = self.asks.take().filter(spare);
        let mut asks = match asks.filter(|_| self.queue.still_holds(scene)) {
            Some(asks) => asks,
            None => {
                self.queue = Queue::default();
                Asks::default()
            }
        };
        self.attempts.renew(scene, &self.ground);
        self.queue.renew(scene, &self.ground, &mut asks, now);
        asks
    }

    /// A pass is over.
    pub(super) fn give_back(&mut self, asks: Asks) {
        self.asks = Some(asks);
    }
}

#[cfg(test)]
#[path = "memo_tests.rs"]
mod tests;
