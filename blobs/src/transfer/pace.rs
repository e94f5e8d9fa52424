//! How fast a node may send: a token bucket whose rate is fixed or follows whether training suffers. Pure, integers only: time and the signal
//! come in. Does NOT measure anything and never waits.
//!
//! `auto` begins with a quarter of its cap. Each report that training is *busy* (its ranks wait for cores, or for a network that is full)
//! halves the rate, each that it is not adds a sixteenth of the cap: the transfer takes what is free and gives way within a report.
//! When nobody has reported for [`SILENCE_MS`] nobody trains here, and the cap alone counts.
#![deny(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::float_arithmetic
)]

/// Without reports for so long nobody trains, milliseconds.
pub const SILENCE_MS: u64 = 30_000;
/// What may be sent at once after a pause: so many milliseconds of the rate.
const BURST_MS: u64 = 50;
/// `auto` never goes below this share of its cap: a copy that never ends protects nothing.
const FLOOR_PARTS: u64 = 64;

/// How fast.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rate {
    /// As fast as it goes.
    Unlimited,
    /// At most so many bytes a second.
    Fixed(u64),
    /// Yields to training, and is never above so many bytes a second.
    Auto(u64),
}

/// Bytes that may be sent now, and how that grows.
#[derive(Debug)]
pub struct Bucket {
    rate: Rate,
    /// Of `auto`, bytes a second.
    current: u64,
    reported_ms: Option<u64>,
    /// Thousandths of a byte. Negative is borrowed.
    tokens: i64,
    filled_ms: u64,
}

impl Bucket {
    /// A bucket that is full at `now_ms`.
    pub fn new(rate: Rate, now_ms: u64) -> Self {
        let current = match rate {
            Rate::Auto(cap) => (cap / 4).max(1),
            _ => 0,
        };
        Self {
            rate,
            current,
            reported_ms: None,
            tokens: 0,
            filled_ms: now_ms,
        }
    }

    /// Bytes a second that count now; `None` is no limit.
    pub fn rate(&self, now_ms: u64) -> Option<u64> {
        match self.rate {
            Rate::Unlimited => None,
            Rate::Fixed(rate) => Some(rate.max(1)),
            Rate::Auto(cap) => {
                let quiet = |at| now_ms.saturating_sub(at) >= SILENCE_MS;
                let alone = self.reported_ms.is_none_or(quiet);
                Some(if alone { cap.max(1) } else { self.current })
            }
        }
    }

    /// What training says. Counts for `auto` only.
    pub fn report(&mut self, busy: bool, now_ms: u64) {
        let Rate::Auto(cap) = self.rate else {
            return;
        };
        if self
            .reported_ms
            .is_none_or(|at| now_ms.saturating_sub(at) >= SILENCE_MS)
        {
            // Somebody has begun to train: not from the full rate downwards.
            self.current = (cap / 4).max(1);
        }
        self.reported_ms = Some(now_ms);
        let floor = (cap / FLOOR_PARTS).max(1);
        self.current = if busy {
            (self.current / 2).max(floor)
        } else {
            (self.current + (cap / 16).max(1)).min(cap.max(1))
        };
    }

    /// Takes `bytes`, which may be borrowed, and says how many milliseconds to wait before sending them.
    pub fn take(&mut self, bytes: u64, now_ms: u64) -> u64 {
        let Some(rate) = self.rate(now_ms) else {
            return 0;
        };
        let rate = i64::try_from(rate).unwrap_or(i64::MAX);
        let passed = now_ms.saturating_sub(self.filled_ms).min(60_000) as i64;
        self.filled_ms = now_ms.max(self.filled_ms);
        let full = rate.saturating_mul(BURST_MS as i64);
        let filled = self.tokens.saturating_add(rate.saturating_mul(passed));
        let cost = i64::try_from(bytes)
            .unwrap_or(i64::MAX)
            .saturating_mul(1_000);
        self.tokens = filled.min(full).saturating_sub(cost);
        (self.tokens.min(0).unsigned_abs()).div_ceil(rate.unsigned_abs())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    /// Sends pieces of 256 KiB for `ms` milliseconds as a sender does; returns the bytes.
    fn send(bucket: &mut Bucket, from_ms: u64, ms: u64) -> u64 {
        let (mut now, mut sent) = (from_ms, 0);
        while now < from_ms + ms {
            now += bucket.take(MIB / 4, now);
            sent += MIB / 4;
        }
        sent
    }

    #[test]
    fn a_fixed_rate_is_kept() {
        let mut bucket = Bucket::new(Rate::Fixed(100 * MIB), 0);
        let sent = send(&mut bucket, 0, 10_000);
        assert!((990 * MIB..=1_010 * MIB).contains(&sent), "{sent}");
        // A pause earns a burst and no more.
        let sent = send(&mut bucket, 60_000, 1_000);
        assert!((99 * MIB..=106 * MIB).contains(&sent), "{sent}");
        assert_eq!(Bucket::new(Rate::Unlimited, 0).take(u64::MAX, 0), 0);
    }

    #[test]
    fn auto_gives_way_at_once_and_comes_back_slowly() {
        let cap = 640 * MIB;
        let mut bucket = Bucket::new(Rate::Auto(cap), 0);
        assert_eq!(bucket.rate(0), Some(cap));
        bucket.report(false, 0);
        assert_eq!(bucket.rate(0), Some(cap / 4 + cap / 16));
        bucket.report(true, 1_000);
        bucket.report(true, 2_000);
        assert_eq!(bucket.rate(2_000), Some((cap / 4 + cap / 16) / 4));
        for second in 3..20 {
            bucket.report(true, second * 1_000);
        }
        assert_eq!(bucket.rate(20_000), Some(cap / FLOOR_PARTS));
        let sent = send(&mut bucket, 20_000, 1_000);
        assert!(sent <= cap / FLOOR_PARTS * 12 / 10, "{sent}");
        for second in 20..40 {
            bucket.report(false, second * 1_000);
        }
        assert_eq!(bucket.rate(40_000), Some(cap));
        bucket.report(true, 40_000);
        assert_eq!(bucket.rate(40_000 + SILENCE_MS), Some(cap));
    }

    #[test]
    fn absurd_numbers_do_no_harm() {
        for rate in [
            Rate::Fixed(0),
            Rate::Auto(0),
            Rate::Fixed(u64::MAX),
            Rate::Auto(1),
        ] {
            let mut bucket = Bucket::new(rate, u64::MAX);
            bucket.report(true, 0);
            bucket.report(false, u64::MAX);
            bucket.take(u64::MAX, 0);
            bucket.take(0, u64::MAX);
        }
    }
}
