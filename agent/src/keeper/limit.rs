//! A time limit: when ranks hear that their time is nearly over, and when it is. Kept by the keeper alone, on CLOCK_BOOTTIME: the agent may be
//! away meanwhile.
//! Pure: it is told the time, and does NOT end anything (see `control::limiting`).
#![deny(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::float_arithmetic
)]
use crate::launch::plan::LimitPlan;

/// The limit of one attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    plan: LimitPlan,
    /// Since when the ranks run.
    since: Option<u64>,
}

impl Limit {
    /// A limit that does not count yet.
    pub fn new(plan: LimitPlan) -> Self {
        Self { plan, since: None }
    }

    /// The ranks run since `now`.
    pub fn begin(&mut self, now: u64) {
        self.since.get_or_insert(now);
    }

    /// When the ranks are told, while that is to come.
    pub fn notice_at(&self) -> Option<u64> {
        let length = self.plan.time_ms.saturating_sub(self.plan.notice_ms);
        Some(self.since?.saturating_add(length))
    }

    /// Between the notice and KILL, milliseconds.
    pub fn notice_ms(&self) -> u32 {
        u32::try_from(self.plan.notice_ms).unwrap_or(u32::MAX)
    }

    /// What a person reads.
    pub fn why(&self) -> String {
        format!(
            "its time limit of {} s was over",
            self.plan.time_ms.div_ceil(1_000)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_counts_from_the_start_of_the_ranks() {
        let mut limit = Limit::new(LimitPlan {
            time_ms: 10_000,
            notice_ms: 1_500,
        });
        assert_eq!(limit.notice_at(), None, "nothing runs");
        limit.begin(700);
        limit.begin(9_000);
        assert_eq!(limit.notice_at(), Some(9_200));
        assert_eq!(limit.notice_ms(), 1_500);
        assert!(limit.why().contains("10 s"));
    }

    #[test]
    fn a_notice_longer_than_the_limit_comes_at_once() {
        let mut limit = Limit::new(LimitPlan {
            time_ms: 10,
            notice_ms: u64::MAX,
        });
        limit.begin(5);
        assert_eq!((limit.notice_at(), limit.notice_ms()), (Some(5), u32::MAX));
    }
}
