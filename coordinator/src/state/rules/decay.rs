//! Usage that fades: half of what was used counts after each half-life, in fixed point, the same on every machine. Does NOT say who
//! used what, nor what follows from it.
//!
//! What is added at time `t` is kept as it was worth at the beginning of `t`'s half-life, times 2^(part of the half-life that had passed); a row is
//! halved only where one half-life ends and the next begins. So a row follows from what was added to it and when, and not from how often somebody
//! looked: reading changes nothing, and two amounts may be added in either order.
use mlctl_proto::units::UtcMs;

use super::budget::amount;
use super::window::HOUR_MS;
use crate::state::records::Decayed;

/// Bits behind the point of a usage.
pub const FRACTION_BITS: u32 = 16;
/// Of one attempt, what is older than this is not added any more: a year.
const SPAN_MS_MAX: i64 = 366 * 24 * HOUR_MS;
/// Bits behind the point of [`ROOTS`].
const ROOT_BITS: u32 = 62;
/// The most that is added at once, unit-seconds: what comes of it, shifted and doubled, still has its place.
const ADDED_MAX: u64 = 1 << 60;

/// 2^(2^-k) for k = 1 to 32, cut after 62 bits.
const ROOTS: [u64; 32] = [
    0x5a82_7999_fcef_3242,
    0x4c1b_f828_c6dc_54b7,
    0x45ca_e0f1_f545_eb73,
    0x42d5_61b3_e624_3d8a,
    0x4166_c34c_5615_d0eb,
    0x40b2_68f9_de01_83b9,
    0x4058_f6a7_eccc_d5b6,
    0x402c_6be9_6af2_fb58,
    0x4016_321b_6870_27a8,
    0x400b_1817_8ba3_3b14,
    0x4005_8bce_4101_47e8,
    0x4002_c5d7_bff7_1dae,
    0x4001_62e8_07ee_7e5b,
    0x4000_b173_0df6_a524,
    0x4000_58b9_497b_8151,
    0x4000_2c5c_955d_d701,
    0x4000_162e_46d6_f26b,
    0x4000_0b17_2275_7b1b,
    0x4000_058b_90fd_3e0c,
    0x4000_02c5_c86f_3f26,
    0x4000_0162_e433_c79b,
    0x4000_00b1_7218_edcf,
    0x4000_0058_b90c_3968,
    0x4000_002c_5c86_0d54,
    0x4000_0016_2e43_02d2,
    0x4000_000b_1721_8073,
    0x4000_0005_8b90_bffc,
    0x4000_0002_c5c8_5fee,
    0x4000_0001_62e4_2ff3,
    0x4000_0000_b172_17f8,
    0x4000_0000_58b9_0bfc,
    0x4000_0000_2c5c_85fe,
];

/// Which half-life a time is in, and which part of it has passed, in 2^-32.
fn place(time_ms: UtcMs, half_life_ms: i64) -> (u32, u32) {
    let (time, length) = (time_ms.max(0), half_life_ms.max(1));
    let (whole, rest) = (time / length, time % length);
    // Less than one: it has 32 bits. A half-life fits many times into the largest time, but not 2^32 times.
    let part = (i128::from(rest) << 32) / i128::from(length);
    (
        u32::try_from(whole).unwrap_or(u32::MAX),
        u32::try_from(part).unwrap_or(u32::MAX),
    )
}

/// 2^part, with [`ROOT_BITS`] bits behind the point: 1 to less than 2.
fn power(part: u32) -> u64 {
    let mut product = 1_u128 << ROOT_BITS;
    for (place, root) in ROOTS.iter().enumerate() {
        if part & (1_u32 << (31 - place)) != 0 {
            product = (product * u128::from(*root)) >> ROOT_BITS;
        }
    }
    // Less than 2^63: the product of all roots is less than 2.
    u64::try_from(product).unwrap_or(u64::MAX)
}

/// A value of an earlier half-life, as it is worth at the beginning of a later one.
fn moved(usage: Decayed, half_life: u32) -> u128 {
    let halvings = half_life.saturating_sub(usage.half_life);
    usage.value.checked_shr(halvings).unwrap_or(0)
}

/// Adds `unit_seconds` that were used by `time_ms`.
pub fn add(usage: Decayed, unit_seconds: u64, time_ms: UtcMs, half_life_ms: i64) -> Decayed {
    let (half_life, part) = place(time_ms, half_life_ms);
    // What comes late, of an earlier half-life than the row is in, counts as of the row's beginning.
    let (half_life, part) = match half_life < usage.half_life {
        true => (usage.half_life, 0),
        false => (half_life, part),
    };
    let amount = u128::from(unit_seconds.min(ADDED_MAX));
    // At most 60 + 63 bits; the point moves from 62 to 16 bits.
    let worth = (amount * u128::from(power(part))) >> (ROOT_BITS - FRACTION_BITS);
    Decayed {
        value: moved(usage, half_life).saturating_add(worth),
        half_life,
    }
}

/// Adds what `units` used from one time until another, hour by hour, so that the older part of it has faded by more.
pub fn add_span(
    mut usage: Decayed,
    units: u64,
    (from_ms, until_ms): (UtcMs, UtcMs),
    half_life_ms: i64,
) -> Decayed {
    let mut at = from_ms.max(until_ms.saturating_sub(SPAN_MS_MAX));
    while at < until_ms {
        // Hours of the clock: whoever adds a span in two parts adds the same.
        let end = (at.div_euclid(HOUR_MS) + 1)
            .saturating_mul(HOUR_MS)
            .min(until_ms);
        usage = add(usage, amount(units, at, end) / 1_000, end, half_life_ms);
        at = end;
    }
    usage
}

/// What is left of it at `time_ms`, unit-seconds / 2^16.
pub fn left(usage: Decayed, time_ms: UtcMs, half_life_ms: i64) -> u128 {
    let (half_life, part) = place(time_ms, half_life_ms);
    if half_life < usage.half_life {
        return usage.value;
    }
    let value = moved(usage, half_life);
    divided(value, power(part))
}

/// `value / (power / 2^62)` in two steps, so that nothing is too large.
fn divided(value: u128, power: u64) -> u128 {
    let power = u128::from(power);
    let (whole, rest) = (value / power, value % power);
    // `whole` has at most 128 - 62 bits, and what comes of `rest` is less than 2^62.
    let high = whole
        .checked_shl(ROOT_BITS)
        .filter(|high| high >> ROOT_BITS == whole);
    let low = (rest << ROOT_BITS) / power;
    high.map_or(u128::MAX, |high| high.saturating_add(low))
}

/// Whether nothing is left of it at `time_ms`: a row that may go.
pub fn is_gone(usage: Decayed, time_ms: UtcMs, half_life_ms: i64) -> bool {
    left(usage, time_ms, half_life_ms) == 0
}

/// The same usage as of `time_ms`, from which on it fades with another half-life.
pub fn rebased(usage: Decayed, time_ms: UtcMs, from_ms: i64, to_ms: i64) -> Decayed {
    let value = left(usage, time_ms, from_ms);
    let (half_life, part) = place(time_ms, to_ms);
    let power = u128::from(power(part));
    // In two steps, so that nothing is too large.
    let (high, low) = (value >> ROOT_BITS, value & ((1 << ROOT_BITS) - 1));
    let low = (low * power) >> ROOT_BITS;
    Decayed {
        value: high.saturating_mul(power).saturating_add(low),
        half_life,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 7 days, as shipped.
    const HALF_LIFE_MS: i64 = 7 * 24 * 3_600_000;

    fn add(usage: Decayed, unit_seconds: u64, time_ms: UtcMs) -> Decayed {
        super::add(usage, unit_seconds, time_ms, HALF_LIFE_MS)
    }

    fn add_span(usage: Decayed, units: u64, from_ms: UtcMs, until_ms: UtcMs) -> Decayed {
        super::add_span(usage, units, (from_ms, until_ms), HALF_LIFE_MS)
    }

    fn left(usage: Decayed, time_ms: UtcMs) -> u128 {
        super::left(usage, time_ms, HALF_LIFE_MS)
    }

    fn is_gone(usage: Decayed, time_ms: UtcMs) -> bool {
        super::is_gone(usage, time_ms, HALF_LIFE_MS)
    }

    #[test]
    fn another_half_life_changes_nothing_now_and_everything_later() {
        let usage = add(Decayed::default(), 7_000_000, 1_700_000_000_000);
        let now = 1_700_400_000_000;
        let before = left(usage, now);
        for length in [3_600_000, 86_400_000, 5 * HALF_LIFE_MS] {
            let moved = rebased(usage, now, HALF_LIFE_MS, length);
            let error = super::left(moved, now, length).abs_diff(before);
            assert!(error <= 2, "{length}: off by {error}");
            let half = super::left(moved, now + length, length);
            assert!(
                half.abs_diff(before / 2) <= 2,
                "{length}: {half} of {before}"
            );
        }
        let most = Decayed {
            value: u128::MAX,
            half_life: 3,
        };
        let moved = rebased(most, 3 * HALF_LIFE_MS + 5, HALF_LIFE_MS, 3_600_000);
        assert!(super::left(moved, 3 * HALF_LIFE_MS + 5, 3_600_000) > u128::MAX / 4);
    }

    const SECOND: u128 = 1 << FRACTION_BITS;

    #[test]
    fn half_is_left_after_a_half_life_and_a_quarter_after_two() {
        for begin in [0, 1, HALF_LIFE_MS / 3, HALF_LIFE_MS - 1, 1_700_000_000_000] {
            let usage = add(Decayed::default(), 7_000_000, begin);
            for (halves, wanted) in [(0, 7_000_000_u128), (1, 3_500_000), (2, 1_750_000)] {
                let left = left(usage, begin + halves * HALF_LIFE_MS);
                let error = left.abs_diff(wanted * SECOND);
                assert!(
                    error <= 2,
                    "from {begin}, {halves}: {left} is off by {error}"
                );
            }
            assert!(!is_gone(usage, begin) && is_gone(usage, begin + 64 * HALF_LIFE_MS));
        }
    }

    #[test]
    fn it_only_falls_and_does_not_jump_where_half_lives_meet() {
        let usage = add(Decayed::default(), 1_000_000, 0);
        let at = |ms| left(usage, ms);
        let step = HALF_LIFE_MS / 1_000;
        for number in 0..4_000 {
            let (now, next) = (at(number * step), at((number + 1) * step));
            assert!(next < now, "{number}");
            // 2^(-1/1000) is 0.99930.
            assert!(next * 10_000 >= now * 9_993, "{number}: {now} to {next}");
        }
        assert!(at(HALF_LIFE_MS - 1) >= at(HALF_LIFE_MS));
        assert!(at(HALF_LIFE_MS - 1) - at(HALF_LIFE_MS) < 200);
    }

    #[test]
    fn neither_looking_nor_the_order_of_adding_changes_it() {
        let (early, late) = (5 * HALF_LIFE_MS + 17, 5 * HALF_LIFE_MS + 400_000_000);
        let one = add(add(Decayed::default(), 300, early), 400, late);
        let other = add(add(Decayed::default(), 400, late), 300, early);
        assert_eq!(one, other);
        let far = 40 * HALF_LIFE_MS;
        let seen = Decayed {
            value: moved(one, 20),
            half_life: 20,
        };
        assert_eq!(
            left(one, far),
            left(seen, far),
            "halving in steps is halving at once"
        );
    }

    #[test]
    fn a_long_attempt_has_faded_where_it_is_old() {
        let units = 7_000;
        let long = add_span(Decayed::default(), units, 0, 20 * HALF_LIFE_MS);
        // The sum of all halves of all time is the half-life / ln 2: 1.4427 of them.
        let seconds = left(long, 20 * HALF_LIFE_MS) / SECOND / u128::from(units);
        assert!((870_000..875_000).contains(&seconds), "{seconds}");
        let (begin, middle, end) = (1_000, 2 * HOUR_MS, 5 * HOUR_MS + 77);
        let parts = add_span(
            add_span(Decayed::default(), units, begin, middle),
            units,
            middle,
            end,
        );
        assert_eq!(parts, add_span(Decayed::default(), units, begin, end));
        assert_eq!(
            add_span(parts, units, end, begin),
            parts,
            "a span that ends before it begins is none"
        );
        let ends = add_span(Decayed::default(), units, i64::MIN, i64::MAX);
        assert!(left(ends, i64::MAX) > 0);
    }

    #[test]
    fn nothing_overflows() {
        let mut usage = Decayed::default();
        for _ in 0..100 {
            usage = add(usage, u64::MAX, HALF_LIFE_MS - 1);
        }
        assert!(left(usage, HALF_LIFE_MS - 1) >= 99 << 76);
        let most = Decayed {
            value: u128::MAX,
            half_life: 3,
        };
        assert_eq!(left(most, 3 * HALF_LIFE_MS), u128::MAX);
        assert_eq!(add(most, 5, 3 * HALF_LIFE_MS).value, u128::MAX);
        assert!(left(most, i64::MAX) < u128::MAX && left(most, i64::MIN) == u128::MAX);
        assert_eq!(
            add(most, 5, -1).half_life,
            3,
            "what is late counts all the same"
        );
        assert_eq!((power(0), power(u32::MAX) < 1 << 63), (1 << 62, true));
    }
}
