//! Which checkpoints are to be kept, as it is written: every so many steps or hours, and the best by a metric.
//! Does NOT choose.
use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::parse::did_you_mean;

/// The best that may be asked for at once.
const BEST_MAX: u32 = 1_000;
/// A metric's name, bytes.
const METRIC_BYTES_MAX: usize = 64;
/// Units of a duration, in milliseconds.
const UNITS: [(char, i64); 4] = [
    ('d', 86_400_000),
    ('h', 3_600_000),
    ('m', 60_000),
    ('s', 1_000),
];

/// Which checkpoints stay although newer ones are there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeepEvery {
    /// Those whose step is a multiple.
    Steps(u64),
    /// The first in each stretch of so many milliseconds.
    Ms(i64),
}

impl KeepEvery {
    /// `500` or `500 steps` or `6h`.
    ///
    /// # Errors
    /// What to write instead.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = || {
            let shown = crate::ids::clip(text);
            format!(
                "is `{shown}`; use a number of steps, such as `500`, or a time, such as `6h`, `30m` or `2d`"
            )
        };
        let steps = text.strip_suffix(" steps").unwrap_or(text);
        if let Some(steps) = number(steps) {
            return (steps > 0).then_some(Self::Steps(steps)).ok_or_else(wrong);
        }
        let found = UNITS.iter().find_map(|(unit, ms)| {
            let amount = i64::try_from(number(text.strip_suffix(*unit)?)?).ok()?;
            amount.checked_mul(*ms).filter(|ms| *ms > 0)
        });
        found.map(Self::Ms).ok_or_else(wrong)
    }
}

impl fmt::Display for KeepEvery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Steps(steps) => write!(f, "{steps}"),
            Self::Ms(ms) => {
                let unit = UNITS.iter().find(|(_, unit)| ms % unit == 0);
                let (unit, length) = unit.copied().unwrap_or(('s', 1_000));
                write!(f, "{}{unit}", ms / length)
            }
        }
    }
}

/// The best checkpoints by what their writer said of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeepBest {
    /// The metric.
    pub metric: String,
    /// Whether less is better.
    pub least: bool,
    /// How many.
    pub count: u32,
}

impl KeepBest {
    /// `val_loss:min:1`.
    ///
    /// # Errors
    /// What to write instead.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = |hint: &str| {
            let shown = crate::ids::clip(text);
            format!(
                "is `{shown}`; use METRIC:min:N or METRIC:max:N, such as `val_loss:min:1`{hint}"
            )
        };
        let [metric, way, count] = text.split(':').collect::<Vec<&str>>()[..] else {
            return Err(wrong(""));
        };
        let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"_-./".contains(&byte);
        if !(1..=METRIC_BYTES_MAX).contains(&metric.len()) || !metric.bytes().all(legal) {
            return Err(wrong(
                "; a metric's name has 1 to 64 letters, digits and `_ - . /`",
            ));
        }
        let least = match way {
            "min" => true,
            "max" => false,
            other => return Err(wrong(&did_you_mean(other, &["min", "max"]))),
        };
        let count = number(count).and_then(|count| u32::try_from(count).ok());
        let count = count.filter(|count| (1..=BEST_MAX).contains(count));
        let count = count.ok_or_else(|| wrong(&format!("; N is 1 to {BEST_MAX}")))?;
        Ok(Self {
            metric: metric.into(),
            least,
            count,
        })
    }
}

impl fmt::Display for KeepBest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let way = if self.least { "min" } else { "max" };
        write!(f, "{}:{way}:{}", self.metric, self.count)
    }
}

impl Serialize for KeepEvery {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for KeepEvery {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        /// `keep_every = 500` means steps.
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Steps(u64),
            Text(String),
        }
        let text = match Written::deserialize(from)? {
            Written::Steps(steps) => steps.to_string(),
            Written::Text(text) => text,
        };
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

impl Serialize for KeepBest {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for KeepBest {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

/// Digits and nothing else.
fn number(text: &str) -> Option<u64> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| digits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every() {
        for (text, every, canonical) in [
            ("500", KeepEvery::Steps(500), "500"),
            ("500 steps", KeepEvery::Steps(500), "500"),
            ("6h", KeepEvery::Ms(6 * 3_600_000), "6h"),
            ("90m", KeepEvery::Ms(90 * 60_000), "90m"),
            ("48h", KeepEvery::Ms(48 * 3_600_000), "2d"),
            ("45s", KeepEvery::Ms(45_000), "45s"),
        ] {
            let parsed = KeepEvery::parse(text).expect(text);
            assert_eq!((parsed, parsed.to_string().as_str()), (every, canonical));
            assert_eq!(KeepEvery::parse(canonical), Ok(every));
        }
        let long = format!("{}h", u64::MAX);
        for text in [
            "", "0", "-1", "+1", "0h", "h", "6 h", "6hours", "1.5h", "steps", "é", &long,
        ] {
            let error = KeepEvery::parse(text).expect_err(text);
            assert!(
                error.contains("such as `6h`") && error.len() < 300,
                "{error}"
            );
        }
    }

    #[test]
    fn best() {
        let best = KeepBest::parse("eval/val_loss:min:3").expect("good");
        assert_eq!(
            (best.metric.as_str(), best.least, best.count),
            ("eval/val_loss", true, 3)
        );
        assert_eq!(best.to_string(), "eval/val_loss:min:3");
        assert!(!KeepBest::parse("acc:max:1").expect("good").least);
        let long = format!("{}:min:1", "a".repeat(65));
        for (text, says) in [
            ("val_loss", "such as `val_loss:min:1`"),
            ("a:min:1:2", "METRIC:min:N"),
            (":min:1", "metric's name"),
            ("a b:min:1", "metric's name"),
            (&long, "metric's name"),
            ("a:mni:1", "did you mean `min`?"),
            ("a:min:0", "N is 1 to 1000"),
            ("a:min:+1", "N is 1 to 1000"),
            ("a:min:1001", "N is 1 to 1000"),
            ("a:min:99999999999999999999", "N is 1 to 1000"),
        ] {
            let error = KeepBest::parse(text).expect_err(text);
            assert!(error.contains(says), "{text}\n-> {error}");
        }
    }
}
