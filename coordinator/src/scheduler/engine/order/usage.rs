//! Arithmetic of decayed usage in fixed point: how much of it is left after a while, and in which bucket of 2^(1/4) it falls (docs/SCHEDULING.md, Order). Does NOT know whose usage.

/// 2^(-1/2), 2^(-1/4), ..., in units of 2^-32.
const ROOTS: [u64; 16] = [
    3_037_000_499,
    3_611_622_602,
    3_938_502_375,
    4_112_874_773,
    4_202_935_003,
    4_248_701_964,
    4_271_771_996,
    4_283_353_945,
    4_289_156_690,
    4_292_061_009,
    4_293_513_906,
    4_294_240_539,
    4_294_603_902,
    4_294_785_595,
    4_294_876_444,
    4_294_921_870,
];

/// 2^(1/4), 2^(2/4), 2^(3/4), in units of 2^-32: where the buckets of one octave begin.
const QUARTERS: [u128; 3] = [5_107_605_668, 6_074_001_000, 7_223_245_206];

/// What is left of `usage` after `elapsed_ms`, if half of it is gone after `half_life_ms` (docs/SCHEDULING.md, Order). A half-life of 0 decays nothing.
pub fn decay(usage: u128, elapsed_ms: u64, half_life_ms: u64) -> u128 {
    if half_life_ms == 0 {
        return usage;
    }
    let halves = u32::try_from(elapsed_ms / half_life_ms).unwrap_or(u32::MAX);
    let mut left = usage.checked_shr(halves).unwrap_or(0);
    // The rest of a half-life, as a binary fraction of 16 digits.
    let rest = u128::from(elapsed_ms % half_life_ms);
    let digits = rest * 65_536 / u128::from(half_life_ms);
    for (digit, root) in ROOTS.iter().enumerate() {
        if digits & (1 << (15 - digit)) != 0 {
            left = scale(left, *root);
        }
    }
    left
}

/// `value * root / 2^32` without overflow.
fn scale(value: u128, root: u64) -> u128 {
    let root = u128::from(root);
    let (high, low) = (value >> 32, value & 0xffff_ffff);
    (high * root).saturating_add((low * root) >> 32)
}

/// The bucket of `usage / weight`: 0 for nothing, and one more each time that it grows by 2^(1/4), so that noise does not reorder (docs/SCHEDULING.md, Order).
pub fn bucket(usage: u128, weight: u32) -> u16 {
    let weight = u128::from(weight.max(1));
    // Finer by 32 digits where there is room for them, so that small usages differ.
    let (share, finer) = match usage.checked_mul(1 << 32) {
        Some(fine) => (fine / weight, 0),
        None => (usage / weight, 32),
    };
    if share == 0 {
        return 0;
    }
    let octave = share.ilog2();
    // Its digits as 1.xxx in units of 2^-32.
    let digits = if octave >= 32 {
        share >> (octave - 32)
    } else {
        share << (32 - octave)
    };
    let quarter = QUARTERS.iter().filter(|edge| digits >= **edge).count();
    let bucket = octave
        .saturating_add(finer)
        .saturating_mul(4)
        .saturating_add(1);
    u16::try_from(bucket)
        .unwrap_or(u16::MAX)
        .saturating_add(u16::try_from(quarter).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_is_left_after_a_half_life_and_a_quarter_after_two() {
        assert_eq!(decay(1 << 40, 1_000, 1_000), 1 << 39);
        assert_eq!(decay(1 << 40, 2_000, 1_000), 1 << 38);
        assert_eq!(decay(1 << 40, 0, 1_000), 1 << 40);
        assert_eq!(decay(7, u64::MAX, 1), 0);
        // 2^-0.5 of 2^40 within a millionth.
        let left = decay(1 << 40, 500, 1_000);
        let want = 777_472_127_993_u128;
        assert!(left.abs_diff(want) < want / 10_000, "{left}");
    }

    #[test]
    fn decay_in_steps_is_decay_at_once_within_rounding() {
        let start = 1_u128 << 90;
        let at_once = decay(start, 12 * 3_600, 7 * 24 * 3_600);
        let stepwise = (0..12).fold(start, |usage, _| decay(usage, 3_600, 7 * 24 * 3_600));
        assert!(
            at_once.abs_diff(stepwise) < at_once / 5_000,
            "{at_once} {stepwise}"
        );
    }

    #[test]
    fn four_buckets_double() {
        for usage in [1_u128, 3, 1_000, 1 << 70, u128::MAX / 4] {
            assert_eq!(bucket(usage * 2, 1), bucket(usage, 1) + 4, "{usage}");
        }
        assert_eq!(bucket(0, 5), 0);
        assert!(bucket(1_000, 1) > bucket(1_000, 2));
        assert_eq!(bucket(1_000, 1), bucket(1_010, 1), "one percent is noise");
        assert!(bucket(u128::MAX, 1) >= bucket(u128::MAX / 2, 1));
    }
}
