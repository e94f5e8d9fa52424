//! What a rank may use of its node: `cpus`, `mem`, `shm`. Texts such as `16GiB` to bytes, strictly: a wrong unit is a thousandfold mistake.
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{JobSpec, SpecError};
use crate::limits;

/// Units that may be written, the largest first. Powers of two only: `GB` means two things.
const UNITS: [(&str, u64); 4] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
];

/// An amount of memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bytes(pub u64);

impl Bytes {
    /// The amount of `ranks` ranks. Fits for every spec that [`JobSpec::check`] accepts.
    pub fn times(self, ranks: u32) -> u64 {
        self.0.saturating_mul(u64::from(ranks))
    }
}

impl FromStr for Bytes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            let shown = crate::ids::clip(text);
            format!(
                "is \"{shown}\"; write a whole number and KiB, MiB, GiB or TiB, such as \"16GiB\""
            )
        };
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        let unit = UNITS
            .into_iter()
            .find(|(name, _)| *name == unit.trim_start_matches(' '));
        let (number, (_, unit)) = number.parse::<u64>().ok().zip(unit).ok_or_else(wrong)?;
        number.checked_mul(unit).map(Self).ok_or_else(wrong)
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, unit) = UNITS
            .into_iter()
            .find(|(_, unit)| self.0.is_multiple_of(*unit))
            .unwrap_or(UNITS[3]);
        write!(f, "{}{name}", self.0 / unit)
    }
}

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Says of a value that is no amount which key it has: serde would not.
pub(super) fn check_amount(key: &str, value: &serde_json::Value) -> Result<(), SpecError> {
    let parsed = match value.as_str() {
        Some(text) => text.parse::<Bytes>().map(drop),
        None => Err("needs a text such as \"16GiB\"".into()),
    };
    parsed.map_err(|why| SpecError::Value {
        key: key.into(),
        why,
    })
}

impl JobSpec {
    /// What no machine could give.
    pub(super) fn check_resources(&self) -> Result<(), SpecError> {
        let wrong = |key: &str, why: String| {
            Err(SpecError::Value {
                key: key.into(),
                why,
            })
        };
        let ranks = self.ranks_per_node();
        if let Some(cpus) = self.cpus {
            super::range("cpus", cpus, 1, limits::CPUS_PER_NODE_MAX)?;
            let all = u64::from(cpus) * u64::from(ranks);
            if all > u64::from(limits::CPUS_PER_NODE_MAX) {
                return wrong(
                    "cpus",
                    format!(
                        "is {cpus} for each of {ranks} ranks, {all} on one node; no node has more than {}",
                        limits::CPUS_PER_NODE_MAX
                    ),
                );
            }
        }
        for (key, amount, least) in [
            ("mem", self.mem, limits::MEM_PER_RANK_MIN),
            ("shm", self.shm, 4096),
        ] {
            let Some(amount) = amount else {
                continue;
            };
            if amount.0 < least {
                return wrong(
                    key,
                    format!("is {amount}; a rank needs at least {}", Bytes(least)),
                );
            }
            let all = amount.0.checked_mul(u64::from(ranks));
            if all.is_none_or(|all| all > limits::MEMORY_PER_NODE_MAX) {
                return wrong(
                    key,
                    format!(
                        "is {amount} for each of {ranks} ranks; no node has more than {}",
                        Bytes(limits::MEMORY_PER_NODE_MAX)
                    ),
                );
            }
        }
        match (self.mem, self.shm) {
            (Some(mem), Some(shm)) if shm > mem => wrong(
                "shm",
                format!(
                    "is {shm}, more than `mem` ({mem}), and shared memory is memory: raise `mem`"
                ),
            ),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_read_strictly_and_written_in_the_largest_unit() {
        for (text, bytes, again) in [
            ("16GiB", 16 << 30, "16GiB"),
            ("512 MiB", 512 << 20, "512MiB"),
            ("2048MiB", 2 << 30, "2GiB"),
            ("4KiB", 4096, "4KiB"),
            ("1TiB", 1 << 40, "1TiB"),
        ] {
            let amount: Bytes = text.parse().expect(text);
            assert_eq!((amount.0, amount.to_string().as_str()), (bytes, again));
        }
        for bad in [
            "",
            "16",
            "16GB",
            "16gib",
            "1.5GiB",
            "-1GiB",
            "GiB",
            "16 G iB",
            "1e3MiB",
            "99999999999TiB",
            " 1GiB",
            "1GiB ",
        ] {
            let error = bad.parse::<Bytes>().expect_err(bad);
            assert!(error.contains("16GiB"), "{error}");
        }
    }
}
