//! PURE: when to plan. One plan at a time; wishes that come meanwhile are one more plan. The plan itself is the scheduler's.
//!
//! After a plan comes a rest of a few times its length: with a long queue every submit would else begin another plan, and the machine
//! would do little but plan. A first plan begins at once, and short plans hardly rest. What may have become free is looked at after a
//! short rest, one more job behind a long queue after a longer one.
use mlctl_proto::units::UtcMs;

use crate::leader::liveness::Mono;

/// After a plan that was refused or could not be proposed, milliseconds.
const AGAIN_MS: u64 = 500;
/// The rest after a plan in lengths of that plan: planning takes a tenth of one core at most.
const REST_TIMES: u64 = 9;
/// The longest rest, milliseconds: what was freed is seen soon.
const REST_MS_MAX: u64 = 100;
/// The longest rest if nothing happened but that more jobs wait, milliseconds.
const QUEUED_REST_MS_MAX: u64 = 1_000;

/// When to plan next.
#[derive(Debug)]
pub(super) struct Planning {
    /// The longest rest before the plan that is wanted.
    wanted: Option<u64>,
    running: bool,
    at: Option<Mono>,
    /// The last one began.
    begun: Mono,
    /// The last one ended, and for how long it would rest.
    ended: Mono,
    rest: u64,
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
            wanted: Some(0),
            running: false,
            at: None,
            begun: 0,
            ended: 0,
            rest: 0,
        }
    }

    /// Something changed.
    pub(super) fn want(&mut self) {
        self.wanted = Some(REST_MS_MAX);
    }

    /// One more job waits.
    pub(super) fn want_for_one(&mut self) {
        self.wanted = self.wanted.or(Some(QUEUED_REST_MS_MAX));
    }

    /// Whether a plan has to begin; then it has begun.
    pub(super) fn begin(&mut self, now: Mono) -> bool {
        if self.next().is_none_or(|at| at > now) {
            return false;
        }
        (self.wanted, self.running, self.at) = (None, true, None);
        self.begun = now;
        true
    }

    /// When the next plan is due, as far as is known.
    pub(super) fn next(&self) -> Option<Mono> {
        let rested = |most| self.ended + self.rest.min(most);
        let wanted = self.wanted.map(rested);
        let by_time = self.at.map(|at| at.max(rested(REST_MS_MAX)));
        let due = wanted.into_iter().chain(by_time).min();
        due.filter(|_| !self.running)
    }

    /// The plan's end.
    pub(super) fn ended(&mut self, again_in: Option<u64>, now: Mono) {
        self.running = false;
        self.at = again_in.map(|ms| now + ms.max(1));
        let took = now.saturating_sub(self.begun);
        (self.ended, self.rest) = (now, took * REST_TIMES);
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
        planning.ended(None, 0);
        assert!(planning.begin(2));
        planning.ended(Some(100), 3);
        assert_eq!(planning.next(), Some(103));
        assert!(!planning.begin(102));
        assert!(planning.begin(103));
        assert_eq!(planning.next(), None);
    }

    #[test]
    fn long_plans_leave_the_machine_to_others() {
        let mut planning = Planning::wanted();
        assert!(planning.begin(100), "the first begins at once");
        planning.want();
        planning.ended(None, 110);
        assert_eq!(planning.next(), Some(200));
        assert!(!planning.begin(199));
        assert!(planning.begin(200));
        planning.ended(None, 640);
        assert_eq!(planning.next(), None, "nobody wants one");
        planning.want();
        assert_eq!(planning.next(), Some(740), "never longer than 100 ms");
    }

    #[test]
    fn one_more_job_waits_longer_than_what_was_freed() {
        let mut planning = Planning::wanted();
        assert!(planning.begin(0));
        planning.want_for_one();
        planning.ended(None, 60);
        assert_eq!(planning.next(), Some(600), "a tenth of one core");
        planning.want();
        planning.want_for_one();
        assert_eq!(planning.next(), Some(160), "what was freed comes first");
        assert!(planning.begin(160));
        planning.ended(Some(700), 960);
        assert_eq!(planning.next(), Some(1_660), "time alone");
        planning.want_for_one();
        assert_eq!(planning.next(), Some(1_660));
        assert!(planning.begin(1_660));
        planning.ended(None, 2_660);
        planning.want_for_one();
        assert_eq!(planning.next(), Some(3_660), "never longer than 1 s");
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
