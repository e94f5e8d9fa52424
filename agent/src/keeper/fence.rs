//! A fence: until when ranks may run without word that their node still counts, kept by the keeper alone. The agent may be frozen or dead.
//! Pure: it is told the time, and does NOT end anything (see `control::fencing`).
//!
//! It counts from when a heartbeat was *sent* that a leader confirmed later, on CLOCK_BOOTTIME. The leader counts from when it last heard
//! of the node, which is later, and waits longer: so the ranks are gone before anybody takes the node for lost.
#![deny(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::float_arithmetic
)]
use mlctl_proto::mutants::{Mutant, planted};

use crate::launch::plan::FencePlan;

/// The fence of one attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fence {
    plan: FencePlan,
    /// Sending time of the newest confirmed heartbeat.
    confirmed_at: Option<u64>,
}

impl Fence {
    /// A fence without a lease: nothing may start yet.
    pub fn new(plan: FencePlan) -> Self {
        Self {
            plan,
            confirmed_at: None,
        }
    }

    /// The heartbeat that was sent at `at` is confirmed. None was sent after `now`.
    pub fn confirmed(&mut self, at: u64, now: u64) {
        let at = at.min(now);
        self.confirmed_at = Some(self.confirmed_at.map_or(at, |before| before.max(at)));
    }

    /// When ranks that run have to end.
    pub fn deadline(&self) -> Option<u64> {
        if planted(Mutant::FenceNotArmed) {
            return None;
        }
        let confirmed = self.confirmed_at?;
        Some(confirmed.saturating_add(u64::from(self.plan.after_ms)))
    }

    /// Whether ranks may start.
    pub fn holds(&self, now: u64) -> bool {
        self.deadline().is_some_and(|deadline| now < deadline) || planted(Mutant::FenceNotArmed)
    }

    /// Whether ranks that run have to end now.
    pub fn is_over(&self, now: u64) -> bool {
        self.deadline().is_some_and(|deadline| now >= deadline)
    }

    /// Between TERM and KILL, milliseconds.
    pub fn grace_ms(&self) -> u32 {
        self.plan.grace_ms
    }

    /// What a person reads.
    pub fn why(&self) -> String {
        format!(
            "the node had no word from a leader for {} ms, so its ranks were ended (on_disconnect = \"fence\")",
            self.plan.after_ms
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fence() -> Fence {
        Fence::new(FencePlan {
            after_ms: 1_000,
            grace_ms: 50,
        })
    }

    #[test]
    fn without_a_lease_nothing_starts_and_nothing_is_due() {
        let fence = fence();
        assert!(!fence.holds(0) && !fence.holds(u64::MAX));
        assert!(!fence.is_over(u64::MAX) && fence.deadline().is_none());
    }

    #[test]
    fn it_counts_from_the_newest_confirmed_sending() {
        let mut fence = fence();
        fence.confirmed(100, 150);
        assert_eq!(fence.deadline(), Some(1_100));
        fence.confirmed(90, 1_000);
        assert_eq!(fence.deadline(), Some(1_100), "an older answer came late");
        assert!(fence.holds(1_099) && !fence.is_over(1_099));
        assert!(!fence.holds(1_100) && fence.is_over(1_100));
        fence.confirmed(600, 1_200);
        assert!(fence.holds(1_599) && fence.is_over(1_600));
    }

    #[test]
    fn an_agent_that_was_frozen_brings_a_lease_that_is_over() {
        let mut fence = fence();
        fence.confirmed(100, 90_000);
        assert!(!fence.holds(90_000) && fence.is_over(90_000));
    }

    #[test]
    fn no_lease_is_of_the_future() {
        let mut fence = fence();
        fence.confirmed(u64::MAX, 500);
        assert_eq!(fence.deadline(), Some(1_500));
    }
}
