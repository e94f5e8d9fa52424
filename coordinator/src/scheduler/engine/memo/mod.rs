//! What one pass leaves to the next: tables over nodes, attempts and jobs, of which only what changed is made anew. A pass with a memo says what a pass without says,
//! bit for bit; a property test compares them. Does NOT keep anything that a pass decided, but for the order in which it looked at jobs in the end.
mod attempts;
mod ground;
mod queue;

use std::collections::BTreeMap;
use std::sync::Arc;

use mlctl_proto::ids::JobId;
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
    /// The last pass that counted.
    last: Option<Last>,
}

/// How a pass that counted began: another one over the same scene that begins so need not look for that again.
#[derive(Debug)]
struct Last {
    scene: Scene,
    now: UtcMs,
    began: Began,
}

/// How a pass begins.
#[derive(Debug, Clone)]
pub struct Began {
    /// How many times it began again, and one.
    pub round: usize,
    /// Who comes after others.
    pub after_owners: BTreeMap<JobId, Vec<JobId>>,
}

impl Memo {
    /// Brings everything up to date. The asks are lent to the pass until it gives them back.
    pub(super) fn renew(&mut self, scene: &Scene, ledger: &Ledger, now: UtcMs) -> Asks {
        if !self.ground.renew(scene, ledger) {
            // Everything has numbers of nodes or of kinds of devices in it.
            *self = Self {
                ground: Ground::new(scene, ledger),
                last: self.last.take(),
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

    /// How the last pass began, if it was over this very scene.
    pub(super) fn began(&self, scene: &Scene, now: UtcMs) -> Option<Began> {
        let last = self.last.as_ref()?;
        let same = last.now == now && is_the_very_same(&last.scene, scene);
        same.then(|| last.began.clone())
    }

    /// A pass counted that began so.
    pub(super) fn remember(&mut self, scene: &Scene, now: UtcMs, began: Began) {
        self.last = Some(Last {
            scene: scene.clone(),
            now,
            began,
        });
    }

    /// A pass is over.
    pub(super) fn give_back(&mut self, asks: Asks) {
        self.asks = Some(asks);
    }
}

/// Whether two scenes share all that they have: cheap, and no where they are only equal.
fn is_the_very_same(one: &Scene, other: &Scene) -> bool {
    let Scene {
        nodes,
        teams,
        decayed_ms,
        waiting,
        running,
        reservations,
        holds,
        histories,
        licenses,
        settings,
        starts_paused,
        preemption_paused,
    } = one;
    nodes.ptr_eq(&other.nodes)
        && teams.ptr_eq(&other.teams)
        && *decayed_ms == other.decayed_ms
        && waiting.ptr_eq(&other.waiting)
        && running.ptr_eq(&other.running)
        && reservations.ptr_eq(&other.reservations)
        && holds.ptr_eq(&other.holds)
        && histories.ptr_eq(&other.histories)
        && *licenses == other.licenses
        && Arc::ptr_eq(settings, &other.settings)
        && *starts_paused == other.starts_paused
        && *preemption_paused == other.preemption_paused
}

#[cfg(test)]
#[path = "memo_tests.rs"]
mod tests;
