//! PURE: when to plan. One plan at a time; wishes that come meanwhile are one more plan. The plan itself is the scheduler's.
use mlctl_proto::units::UtcMs;

use crate::leader::liveness::Mono;

/// After a plan that was refused or could not be proposed, milliseconds.
const AGAIN_MS: u64 = 500;

/// When to plan next.
#[derive(Debug)]
pub(super) struct Planning {
    wanted: bool,
    running: bool,
    at: Option<Mono>,
}

/// How long after a plan that was made at `made_ms` the next is due by time alone, milliseconds. `next`: when the
/// scheduler's answer could change by itself. `whole`: nothing of the plan was refused or got lost.
pub fn plan_again_in(next: Option<UtcMs>, made_ms: UtcMs, whole: bool) -> Option<u64> {
    let by_time = next.map(|at| u64::try_from(at.saturating_sub(made_ms)).unwrap_or(0));
    if whole {
        by_time
    } else {
        Some(by_time.unwrap_or(AGAIN_MS).min(AGAIN_MS))
    }
}

impl Planning {
    /// A plan is due at once.
    pub(super) fn wanted() -> Self {
        Self {
            wanted: true,
            running: false,
            at: None,
        }
    }

    /// Something changed.
    pub(super) fn want(&mut self) {
        self.wanted = true;
    }

    /// Whether a plan has to begin; then it has begun.
    pub(super) fn begin(&mut self, now: Mono) -> bool {
        let due = self.wanted || self.at.is_some_and(|at| at <= now);
        if self.running || !due {
            return false;
        }
        (self.wanted, self.running, self.at) = (false, true, None);
        true
    }

    /// When time alone asks for a plan.
    pub(super) fn next(&self) -> Option<Mono> {
        self.at.filter(|_| !self.running)
    }

    /// The plan's end.
    pub(super) fn ended(&mut self, again_in: Option<u64>, now: Mono) {
        self.running = false;
        self.at = again_in.map(|ms| now + ms.max(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wishes_during_a_plan_are_one_more_plan() {
        let mut planning = Planning::wanted();
        assert!(planning.begin(0));
        assert!(!planning.begin(0));
        planning.want();
        planning.want();
        assert!(!planning.begin(1), "one at a time");
        planning.ended(None, 2);
        assert!(planning.begin(2));
        planning.ended(Some(100), 3);
        assert_eq!(planning.next(), Some(103));
        assert!(!planning.begin(102));
        assert!(planning.begin(103));
        assert_eq!(planning.next(), None);
    }

    #[test]
    fn what_was_not_whole_is_planned_again_soon() {
        for (next, whole, want) in [
            (None, true, None),
            (Some(1_700), true, Some(700)),
            (Some(900), true, Some(0)),
            (None, false, Some(AGAIN_MS)),
            (Some(1_100), false, Some(100)),
            (Some(9_000), false, Some(AGAIN_MS)),
        ] {
            assert_eq!(plan_again_in(next, 1_000, whole), want, "{next:?} {whole}");
        }
    }
}
