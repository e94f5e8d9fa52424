//! Fences of simulated keepers: what counts is the product's, when it is looked at is the world's. Sleeps with the machine, not with the agent.
//! Does NOT decide anything.

use mlctl_agent::core as agent;
use mlctl_agent::keeper::fence::Fence;

use super::keeper::RankEnding;
use super::marks::Mark;
use super::world::{Event, World};
use crate::checkers::{Key, RankFate};

/// A look at a fence that is on its way.
#[derive(Debug, Clone, Copy)]
pub(super) struct FenceLook {
    pub(super) node: usize,
    boot: u64,
    key: Key,
}

impl World {
    /// The agent passes a lease on.
    pub(super) fn keeper_lease(&mut self, who: usize, key: Key, confirmed_at: u64) {
        let node = &mut self.nodes[who];
        let (now, boot) = (node.shows(self.now), node.boot);
        let fence = node
            .keepers
            .get_mut(&key)
            .and_then(|keeper| keeper.fence.as_mut());
        let Some(fence) = fence else {
            return;
        };
        fence.confirmed(confirmed_at, now);
        let Some(due) = fence.deadline() else {
            return;
        };
        let delay = self.nodes[who].until(due, self.now);
        let look = FenceLook {
            node: who,
            boot,
            key,
        };
        self.after(delay, Event::FenceDue(look));
    }

    /// Whether the ranks of a keeper may start.
    pub(super) fn keeper_may_start(&self, who: usize, key: Key) -> bool {
        let node = &self.nodes[who];
        let fence = node.keepers.get(&key).and_then(|keeper| keeper.fence);
        fence.is_none_or(|fence| fence.holds(node.shows(self.now)))
    }

    /// The deadline of some lease has come; a newer one may have moved it.
    pub(super) fn on_fence_due(&mut self, look: FenceLook) {
        let FenceLook {
            node: who,
            boot,
            key,
        } = look;
        let node = &self.nodes[who];
        let now = node.shows(self.now);
        let Some(keeper) = node.keepers.get(&key).filter(|_| node.boot == boot) else {
            return;
        };
        let over = |fence: Fence| fence.is_over(now) && keeper.runs();
        let Some(fence) = keeper.fence.filter(|fence| over(*fence)) else {
            return;
        };
        let (ran, alive) = (keeper.runs_on(), keeper.alive());
        self.marks.hit(Mark::Fenced);
        let grace_ms = u64::from(fence.grace_ms());
        self.keeper_stop(who, key, grace_ms);
        for rank in alive {
            let fate = RankFate {
                rank,
                code: 0,
                signal: 9,
            };
            self.after(
                grace_ms,
                Event::RankEnds(RankEnding::new(who, boot, key, fate)),
            );
        }
        if ran {
            let (job, epoch) = key;
            let why = fence.why();
            if let Some(keeper) = self.nodes[who].keepers.get_mut(&key) {
                keeper.fenced = Some(why.clone());
            }
            self.tell_agent(who, agent::Event::Fenced { job, epoch, why });
        }
    }
}
