//! Clocks of machines: each runs at a rate of its own, and a wall clock may be set to anything.
//! Does NOT move the world's time: that is what really passes.

/// A rate, thousandths of the world's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rate(pub(super) u64);

impl Rate {
    /// What the machine's clock shows `now`.
    pub(super) fn shows(self, now: u64) -> u64 {
        now * self.0 / 1_000
    }

    /// How long until it shows `due`.
    pub(super) fn until(self, due: u64, now: u64) -> u64 {
        (due * 1_000).div_ceil(self.0).saturating_sub(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_has_passed_when_it_is_due() {
        for rate in 900..=1_100 {
            for (due, now) in [(1_000, 0), (123_457, 99_999), (7, 900)] {
                let rate = Rate(rate);
                assert!(rate.shows(now + rate.until(due, now)) >= due.min(rate.shows(now)));
                assert!(rate.shows(now + rate.until(due, now)) >= due || due < now);
            }
        }
    }
}
