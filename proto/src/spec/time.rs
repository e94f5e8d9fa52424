//! Lengths of time as people write them: `90s`, `30m`, `12h`, `3d`, `1h30m`. Knows no clock.
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Units, the largest first, in milliseconds.
const UNITS: [(char, u64); 4] = [
    ('d', 86_400_000),
    ('h', 3_600_000),
    ('m', 60_000),
    ('s', 1_000),
];
/// A year: nothing that is written down for longer is meant.
const MOST_MS: u64 = 366 * 86_400_000;

/// A length of time, milliseconds: whole seconds, at least one, at most a year.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time(u64);

impl Time {
    /// So many milliseconds.
    pub fn ms(self) -> u64 {
        self.0
    }

    /// So many whole seconds, if that is a length that may be written.
    pub fn from_seconds(seconds: u64) -> Option<Self> {
        let ms = seconds.checked_mul(1_000)?;
        (ms > 0 && ms <= MOST_MS).then_some(Self(ms))
    }
}

impl FromStr for Time {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            let shown = crate::ids::clip(text);
            format!(
                "is \"{shown}\"; write days, hours, minutes and seconds, such as \"12h\", \"90m\" or \"1d12h\", at most 366 days"
            )
        };
        let (mut rest, mut sum) = (text, 0_u64);
        for (unit, ms) in UNITS {
            let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
            let (number, tail) = rest.split_at(digits);
            let Some(tail) = tail.strip_prefix(unit) else {
                continue;
            };
            let number: u64 = number.parse().map_err(|_| wrong())?;
            let part = number.checked_mul(ms).ok_or_else(wrong)?;
            sum = sum.checked_add(part).ok_or_else(wrong)?;
            rest = tail;
        }
        let good = rest.is_empty() && sum > 0 && sum <= MOST_MS;
        good.then_some(Self(sum)).ok_or_else(wrong)
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0;
        for (unit, ms) in UNITS {
            if rest >= ms {
                write!(f, "{}{unit}", rest / ms)?;
                rest %= ms;
            }
        }
        Ok(())
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Says of a value that is no length which key it has: serde would not.
pub(super) fn check_time(key: &str, value: &serde_json::Value) -> Result<(), super::SpecError> {
    let parsed = match value.as_str() {
        Some(text) => text.parse::<Time>().map(drop),
        None => Err("needs a text such as \"12h\"".into()),
    };
    parsed.map_err(|why| super::SpecError::Value {
        key: key.into(),
        why,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths() {
        for (text, ms, canonical) in [
            ("90s", 90_000, "1m30s"),
            ("30m", 1_800_000, "30m"),
            ("12h", 43_200_000, "12h"),
            ("1d12h", 129_600_000, "1d12h"),
            ("36h", 129_600_000, "1d12h"),
            ("1h30m", 5_400_000, "1h30m"),
            ("366d", MOST_MS, "366d"),
        ] {
            let time: Time = text.parse().expect(text);
            assert_eq!((time.ms(), time.to_string().as_str()), (ms, canonical));
            assert_eq!(canonical.parse(), Ok(time));
        }
        let long = format!("{}h", u64::MAX);
        for text in [
            "", "0s", "12", "h", "1h30", "30m1h", "1.5h", "-1h", "1 h", "367d", "é", "1h1h", &long,
        ] {
            let error = text.parse::<Time>().expect_err(text);
            assert!(error.contains("such as \"12h\""), "{error}");
        }
    }
}
