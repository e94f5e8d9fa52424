//! PURE: the time that commands carry. It is the clock's; but state time never goes back, and while it is ahead of the clock, because
//! somebody led whose clock was wrong, it would stand still, and with it every back-off. Then it goes on at half the pace, until the
//! clock has caught up. Reads no clock.
#![deny(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::float_arithmetic
)]
use mlctl_proto::units::UtcMs;

use super::liveness::Mono;

/// While it is behind, so much slower does state time go.
const SLOWER: u64 = 2;

/// What one member stamps its commands with.
#[derive(Debug, Clone, Default)]
pub struct Pace {
    /// State time was this at that moment, ahead of the clock.
    since: Option<(UtcMs, Mono)>,
}

impl Pace {
    /// The time for a command, by this wall clock and on this state time.
    pub fn stamp(&mut self, wall_ms: UtcMs, state_ms: UtcMs, now: Mono) -> UtcMs {
        if wall_ms >= state_ms {
            self.since = None;
            return wall_ms;
        }
        let (base, since) = *self.since.get_or_insert((state_ms, now));
        let passed = now.saturating_sub(since) / SLOWER;
        let stamp = base.saturating_add(i64::try_from(passed).unwrap_or(0));
        if stamp < state_ms {
            self.since = Some((state_ms, now));
        }
        stamp.max(state_ms).max(wall_ms)
    }

    /// How long it takes until so much state time has passed, milliseconds.
    pub fn wait(&self, state_time_ms: u64) -> u64 {
        match self.since {
            None => state_time_ms,
            Some(_) => state_time_ms.saturating_mul(SLOWER),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_right_is_taken_as_it_is() {
        let mut pace = Pace::default();
        assert_eq!(pace.stamp(1_000, 900, 50), 1_000);
        assert_eq!(pace.stamp(1_010, 1_000, 60), 1_010);
        assert_eq!(pace.wait(500), 500);
    }

    #[test]
    fn what_is_ahead_goes_on_slowly_until_the_clock_is_there() {
        let mut pace = Pace::default();
        let mut state = 11_000;
        for passed in 0..=25_000 {
            let wall = 1_000 + passed;
            let stamp = pace.stamp(wall, state, 70 + passed as u64);
            assert!(stamp >= state && stamp <= state + 7, "never back, no jump");
            // Not every moment brings a command.
            if passed % 7 == 0 {
                state = stamp;
            }
            let ahead = stamp - wall;
            assert!(
                (ahead - (10_000 - passed / 2).max(0)).abs() <= 8,
                "{passed}: {ahead}"
            );
            assert_eq!(pace.wait(10), if ahead > 0 { 20 } else { 10 }, "{passed}");
        }
    }

    #[test]
    fn another_jump_ahead_is_a_new_beginning() {
        let mut pace = Pace::default();
        assert_eq!(pace.stamp(0, 1_000, 0), 1_000);
        assert_eq!(pace.stamp(0, 9_000, 100), 9_000);
        assert_eq!(pace.stamp(0, 9_000, 300), 9_100);
    }
}
