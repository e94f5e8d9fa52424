//! Exponential back-off with full jitter, as a pure function.
//!
//! Never sleeps, reads no clock and draws no randomness: the caller brings the number of the attempt and a seed.
use std::time::Duration;

/// How waits grow: the longest wait of attempt `n` is `base * 2^n`, never above `cap`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// The longest wait before the first retry.
    pub base: Duration,
    /// The longest wait at all.
    pub cap: Duration,
}

impl Backoff {
    /// A back-off from `base` up to `cap`.
    pub const fn new(base: Duration, cap: Duration) -> Self {
        Self { base, cap }
    }

    /// The longest wait of this attempt; attempts count from 0.
    pub fn ceiling(&self, attempt: u32) -> Duration {
        let factor = 1_u32.checked_shl(attempt).unwrap_or(u32::MAX);
        self.base.saturating_mul(factor).min(self.cap)
    }

    /// How long to wait before the next try: anything from zero to [`ceiling`](Self::ceiling), spread evenly over
    /// seeds. Full jitter, because everybody who lost the same server at the same moment comes back together otherwise.
    pub fn delay(&self, attempt: u32, seed: u64) -> Duration {
        let ceiling = u64::try_from(self.ceiling(attempt).as_nanos()).unwrap_or(u64::MAX);
        let random = mix(seed ^ mix(u64::from(attempt)));
        let scaled = (u128::from(random) * (u128::from(ceiling) + 1)) >> 64;
        Duration::from_nanos(u64::try_from(scaled).unwrap_or(ceiling))
    }
}

/// Spreads the bits of `value` evenly (the finalizer of splitmix64).
fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BACKOFF: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(3));

    #[test]
    fn ceilings_double_up_to_the_cap() {
        for (attempt, millis) in [
            (0, 100),
            (1, 200),
            (4, 1600),
            (5, 3000),
            (31, 3000),
            (32, 3000),
            (u32::MAX, 3000),
        ] {
            assert_eq!(
                BACKOFF.ceiling(attempt),
                Duration::from_millis(millis),
                "{attempt}"
            );
        }
    }

    #[test]
    fn delays_are_pure_bounded_and_spread() {
        for attempt in [0, 3, 40] {
            let delays: Vec<_> = (0..1000).map(|seed| BACKOFF.delay(attempt, seed)).collect();
            let ceiling = BACKOFF.ceiling(attempt);
            assert!(delays.iter().all(|delay| *delay <= ceiling));
            let low = delays.iter().filter(|delay| **delay < ceiling / 2).count();
            assert!((400..600).contains(&low), "{low} of 1000 in the lower half");
            assert_eq!(BACKOFF.delay(attempt, 7), delays[7]);
        }
        assert_ne!(BACKOFF.delay(5, 1), BACKOFF.delay(6, 1));
        let none = Backoff::new(Duration::ZERO, Duration::ZERO);
        assert_eq!(none.delay(9, 9), Duration::ZERO);
    }
}
