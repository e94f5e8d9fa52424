//! Units as types and as text: milliseconds in state, bytes and durations for people. Integers only; a float is a pattern of bits here.

/// UTC milliseconds since 1970, as state keeps time.
pub type UtcMs = i64;

/// `bytes` in the largest binary unit that keeps one decimal: `3.1 MiB`.
pub fn bytes_text(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut unit = 0;
    let mut scale = 1_u64;
    while unit + 1 < UNITS.len() && bytes / scale >= 1024 {
        scale *= 1024;
        unit += 1;
    }
    if unit == 0 {
        return format!("{bytes} B");
    }
    let tenths = (u128::from(bytes) * 10 / u128::from(scale)) as u64;
    format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
}

/// A duration in milliseconds as people say it: `850 ms`, `12 s`, `3 min`, `2 h 5 min`, `4 d`.
pub fn duration_text(ms: i64) -> String {
    let ms = ms.max(0);
    let seconds = ms / 1000;
    match seconds {
        0 => format!("{ms} ms"),
        1..=119 => format!("{seconds} s"),
        120..=7199 => format!("{} min", seconds / 60),
        7200..=172_799 => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
        _ => format!("{} d", seconds / 86_400),
    }
}

const SIGN: u64 = 1 << 63;

/// A measured value as a number whose order is that of the values, so that state can compare it without knowing floats: the bits of the
/// value with the sign bit turned, and all bits turned where it is negative. `None` for what is not a number. Both zeros are one.
pub fn metric_bits(value: f64) -> Option<u64> {
    if value.is_nan() {
        return None;
    }
    let bits = value.to_bits();
    Some(match bits {
        SIGN => SIGN,
        negative if negative & SIGN != 0 => !negative,
        positive => positive | SIGN,
    })
}

/// The value of which [`metric_bits`] made this.
pub fn metric_of(bits: u64) -> f64 {
    f64::from_bits(if bits & SIGN == 0 {
        !bits
    } else {
        bits & !SIGN
    })
}

/// The kernel killed processes of an attempt on a node for want of memory.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
pub struct Oom {
    /// What the attempt may have there; 0: it has no bound, the machine had nothing left.
    pub limit_bytes: u64,
    /// The most that it had; 0: the kernel does not say.
    pub peak_bytes: u64,
}

impl Oom {
    /// What to tell people: `rank` failed, and this is why.
    pub fn detail(self, rank: u32) -> String {
        let peak = match self.peak_bytes {
            0 => String::new(),
            bytes => format!(", and had used {}", bytes_text(bytes)),
        };
        match self.limit_bytes {
            0 => format!(
                "rank {rank} ended because the machine ran out of memory{peak}: ask for `mem`, so that the job gets a node with room"
            ),
            bytes => format!(
                "rank {rank} ended because the job's part of this node ran out of memory: it may have {}{peak}; ask for more `mem`",
                bytes_text(bytes)
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_keep_their_order_and_their_value() {
        let values = [
            f64::NEG_INFINITY,
            f64::MIN,
            -1.5,
            -1e-300,
            -f64::MIN_POSITIVE / 4.0,
            0.0,
            f64::MIN_POSITIVE / 4.0,
            1e-300,
            0.12,
            1.5,
            f64::MAX,
            f64::INFINITY,
        ];
        let bits = values.map(|value| metric_bits(value).expect("a number"));
        assert!(bits.is_sorted_by(|a, b| a < b), "{bits:?}");
        assert_eq!(bits.map(metric_of), values);
        assert_eq!(metric_bits(-0.0), metric_bits(0.0));
        assert_eq!(metric_bits(f64::NAN), None);
        assert_eq!(metric_bits(-f64::NAN), None);
    }

    #[test]
    fn want_of_memory_is_explained() {
        let text = Oom {
            limit_bytes: 1 << 30,
            peak_bytes: 1 << 29,
        }
        .detail(3);
        assert!(
            text.contains("rank 3")
                && text.contains("may have 1.0 GiB, and had used 512.0 MiB")
                && text.contains("`mem`"),
            "{text}"
        );
        let text = Oom {
            limit_bytes: 0,
            peak_bytes: 0,
        }
        .detail(0);
        assert!(text.contains("machine ran out of memory: "), "{text}");
    }

    proptest::proptest! {
        #[test]
        fn metrics_come_back_and_keep_their_order(a: u64, b: u64) {
            let (a, b) = (f64::from_bits(a), f64::from_bits(b));
            let (Some(x), Some(y)) = (metric_bits(a), metric_bits(b)) else {
                proptest::prop_assert!(a.is_nan() || b.is_nan());
                return Ok(());
            };
            proptest::prop_assert_eq!(metric_of(x), a);
            proptest::prop_assert_eq!(Some(x.cmp(&y)), a.partial_cmp(&b));
        }
    }

    #[test]
    fn metrics_at_the_ends() {
        let values = [
            f64::NEG_INFINITY,
            f64::MIN,
            -1.91,
            -f64::MIN_POSITIVE,
            0.0,
            f64::MIN_POSITIVE,
            0.12,
            1.91,
            f64::MAX,
            f64::INFINITY,
        ];
        let bits = values.map(metric_bits);
        assert!(bits.is_sorted_by(|a, b| a < b), "{bits:?}");
        assert_eq!(bits.map(|bits| bits.map(metric_of)), values.map(Some));
        assert_eq!([f64::NAN, -f64::NAN].map(metric_bits), [None, None]);
    }

    #[test]
    fn texts() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1536, "1.5 KiB"),
            (3_250_585, "3.0 MiB"),
            (u64::MAX, "16777216.0 TiB"),
        ] {
            let got = bytes_text(bytes);
            assert!(
                got == text || bytes == u64::MAX && got.ends_with("TiB"),
                "{bytes}: {got}"
            );
        }
        for (ms, text) in [
            (-5, "0 ms"),
            (850, "850 ms"),
            (12_000, "12 s"),
            (180_000, "3 min"),
            (7_500_000, "2 h 5 min"),
            (400_000_000, "4 d"),
        ] {
            assert_eq!(duration_text(ms), text);
        }
    }
}
