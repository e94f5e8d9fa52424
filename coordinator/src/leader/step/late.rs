//! PURE: when jobs whose deadline is over are to be ended. That one is over, the plan says: it knows the time. Which jobs these are is decided when the
//! command is applied. One command at a time.
use crate::leader::liveness::Mono;
use crate::state::commands::{DROP_LATE_MAX, DropLate};

/// Whether that is due.
#[derive(Debug, Default)]
pub(super) struct Late {
    wanted: bool,
    running: bool,
    not_before: Mono,
}

impl Late {
    /// A plan found a job whose deadline is over.
    pub(super) fn want(&mut self) {
        self.wanted = true;
    }

    /// The command that is due, if one is; then it is under way.
    pub(super) fn begin(&mut self, now: Mono) -> Option<DropLate> {
        if self.next().is_none_or(|at| at > now) {
            return None;
        }
        self.running = true;
        Some(DropLate {
            most: DROP_LATE_MAX,
        })
    }

    /// When one is due, as far as is known.
    pub(super) fn next(&self) -> Option<Mono> {
        (self.wanted && !self.running).then_some(self.not_before)
    }

    /// The command's end; one that was not carried is tried again after `again_ms`. Jobs that are left over the next plan finds.
    pub(super) fn ended(&mut self, now: Mono, carried: bool, again_ms: u64) {
        self.running = false;
        if carried {
            self.wanted = false;
        } else {
            self.not_before = now.saturating_add(again_ms);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_command_at_a_time_until_it_is_carried() {
        let mut late = Late::default();
        assert_eq!((late.next(), late.begin(5)), (None, None));
        late.want();
        assert_eq!(late.next(), Some(0));
        assert!(late.begin(5).is_some());
        late.want();
        assert_eq!(
            (late.next(), late.begin(6)),
            (None, None),
            "it is under way"
        );
        late.ended(10, false, 300);
        assert_eq!((late.next(), late.begin(309)), (Some(310), None));
        assert!(late.begin(310).is_some());
        late.ended(320, true, 300);
        assert_eq!(late.next(), None);
    }
}
