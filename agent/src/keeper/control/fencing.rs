//! What a fence does to the keeper's ranks. When it is due: `fence`.
use super::super::clock;
use super::super::protocol::{FromKeeper, Phase};
use super::Keeper;

impl Keeper {
    /// The agent passes on that a heartbeat was confirmed.
    pub(super) fn lease(&mut self, confirmed_at_ms: u64) {
        if let Some(fence) = &mut self.fence {
            fence.confirmed(confirmed_at_ms, clock::now_ms());
        }
    }

    /// Whether ranks may start. A frozen agent passes an order on that is long out of date.
    pub(super) fn may_start(&self) -> bool {
        let fence = self.fence.as_ref();
        fence.is_none_or(|fence| fence.holds(clock::now_ms()))
    }

    /// When the fence has something to do.
    pub(super) fn fence_due(&self) -> Option<u64> {
        let runs = matches!(self.phase, Phase::Running | Phase::Stopping);
        let fence = self.fence.filter(|_| runs && !self.fence_passed)?;
        fence.deadline()
    }

    /// No leader has confirmed this node for too long: the ranks end, whatever the agent says meanwhile.
    pub(super) fn on_fence(&mut self, now: u64) {
        let Some(fence) = self.fence.filter(|fence| fence.is_over(now)) else {
            return;
        };
        if self.fence_due().is_none() {
            return;
        }
        self.fence_passed = true;
        let ran = self.phase == Phase::Running;
        self.stop(fence.grace_ms());
        // What ended by itself, or was being ended already, needs no other reason.
        if ran && self.phase == Phase::Stopping {
            let why = fence.why();
            tracing::warn!(why, "fenced");
            if let Err(error) = self.exits_file.fenced(why.clone()) {
                tracing::error!(%error, "cannot write down that the ranks were fenced");
            }
            self.tell(&FromKeeper::Fenced { why: why.clone() });
            self.fenced = Some(why);
        }
    }
}
