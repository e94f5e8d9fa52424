//! Gangs that run on more than one number of nodes: `nodes = "2..8"` or `nodes = [2, 4, 8]`, and whether one that runs may grow.
//! Does NOT choose a size.
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

use super::{JobSpec, SpecError};
use crate::ids::clip;
use crate::limits::{ELASTIC_SIZES_MAX, GANG_NODES_MAX, GANG_RANKS_MAX};

/// On how many nodes a gang may run. At least two sizes; the least is what it waits, reserves and preempts for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Elastic {
    /// Any number from the first to the second.
    Span(u32, u32),
    /// One of these, ascending.
    List(Vec<u32>),
}

impl Elastic {
    /// The fewest nodes.
    pub fn least(&self) -> u32 {
        match self {
            Self::Span(least, _) => *least,
            Self::List(sizes) => sizes.first().copied().unwrap_or(1),
        }
    }

    /// The most.
    pub fn most(&self) -> u32 {
        match self {
            Self::Span(_, most) => *most,
            Self::List(sizes) => sizes.last().copied().unwrap_or(1),
        }
    }

    /// All sizes, ascending: [`GANG_NODES_MAX`] at most.
    pub fn sizes(&self) -> Vec<u32> {
        match self {
            Self::Span(least, most) => (*least..=*most).collect(),
            Self::List(sizes) => sizes.clone(),
        }
    }

    fn checked(self) -> Result<Self, String> {
        let ascending = match &self {
            Self::Span(least, most) => least < most,
            Self::List(sizes) => {
                if !(2..=ELASTIC_SIZES_MAX).contains(&sizes.len()) {
                    return Err(format!(
                        "lists {} sizes; use 2 to {ELASTIC_SIZES_MAX}, or a range such as \"2..8\"",
                        sizes.len()
                    ));
                }
                sizes.is_sorted_by(|one, next| one < next)
            }
        };
        let (least, most) = (self.least(), self.most());
        if least == 0 || most > GANG_NODES_MAX {
            return Err(format!(
                "is \"{}\"; use 1 to {GANG_NODES_MAX} nodes",
                clip(&self.to_string())
            ));
        }
        if !ascending {
            let shown = clip(&self.to_string());
            return Err(format!(
                "is \"{shown}\"; write sizes once each, the fewest first, such as \"2..8\" or [2, 4, 8], and one size as a number"
            ));
        }
        Ok(self)
    }

    /// What stands for the sizes in a spec.
    fn of_value(value: &Value) -> Result<Self, String> {
        match value {
            Value::String(text) => text.parse(),
            Value::Array(sizes) => {
                if sizes.len() > ELASTIC_SIZES_MAX {
                    return Err(format!(
                        "lists {} sizes; use 2 to {ELASTIC_SIZES_MAX}, or a range such as \"2..8\"",
                        sizes.len()
                    ));
                }
                let number = |size: &Value| {
                    let number = size.as_u64().and_then(|size| u32::try_from(size).ok());
                    let shown = clip(&size.to_string());
                    number.ok_or_else(|| {
                        format!("lists {shown}; use whole numbers of nodes, such as [2, 4, 8]")
                    })
                };
                let sizes: Result<Vec<u32>, String> = sizes.iter().map(number).collect();
                Self::List(sizes?).checked()
            }
            other => Err(format!(
                "is {}; write a range such as \"2..8\" or a list such as [2, 4, 8]",
                clip(&other.to_string())
            )),
        }
    }
}

impl FromStr for Elastic {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            let shown = clip(text);
            format!(
                "is \"{shown}\"; write a number, a range such as \"2..8\" or a list such as [2, 4, 8]"
            )
        };
        let number = |text: &str| {
            let plain = text.bytes().all(|byte| byte.is_ascii_digit());
            text.parse::<u32>().ok().filter(|_| plain).ok_or_else(wrong)
        };
        if let Some((least, most)) = text.split_once("..") {
            return Self::Span(number(least)?, number(most)?).checked();
        }
        if !text.contains(',') || text.split(',').count() > ELASTIC_SIZES_MAX {
            return Err(wrong());
        }
        let sizes: Result<Vec<u32>, String> =
            text.split(',').map(|size| number(size.trim())).collect();
        Self::List(sizes?).checked()
    }
}

impl fmt::Display for Elastic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Span(least, most) => write!(f, "{least}..{most}"),
            Self::List(sizes) => {
                let sizes: Vec<String> = sizes.iter().map(u32::to_string).collect();
                f.write_str(&sizes.join(","))
            }
        }
    }
}

impl Serialize for Elastic {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Elastic {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Whether an elastic gang that runs on few nodes is moved to more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Grow {
    /// It keeps the size that it started with.
    #[default]
    Never,
    /// After a checkpoint it may start again on more.
    AtCheckpoint,
}

impl Grow {
    /// All of them with their words.
    pub const ALL: [(Self, &'static str); 2] = [
        (Self::Never, "never"),
        (Self::AtCheckpoint, "at_checkpoint"),
    ];

    /// The default, which a canonical spec does not mention.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// Reads `nodes = "2..8"` as `nodes`, the fewest, and `elastic`, all of them.
pub(super) fn rewrite(table: &mut Map<String, Value>) -> Result<(), SpecError> {
    let wrong = |key: &str, why: String| SpecError::Value {
        key: key.into(),
        why,
    };
    let written = match table.get("nodes") {
        Some(value @ (Value::String(_) | Value::Array(_))) => Some(value.clone()),
        _ => None,
    };
    if let Some(value) = written {
        if table.contains_key("elastic") {
            let why = "says again what `nodes` says: leave it out".into();
            return Err(wrong("elastic", why));
        }
        let sizes = Elastic::of_value(&value).map_err(|why| wrong("nodes", why))?;
        table.insert("nodes".into(), sizes.least().into());
        table.insert("elastic".into(), sizes.to_string().into());
        return Ok(());
    }
    if let Some(value) = table.get("elastic") {
        let sizes = Elastic::of_value(value).map_err(|why| wrong("elastic", why))?;
        table.insert("elastic".into(), sizes.to_string().into());
        table.entry("nodes").or_insert_with(|| sizes.least().into());
    }
    Ok(())
}

/// What an elastic gang cannot be.
pub(super) fn check(spec: &JobSpec) -> Result<(), SpecError> {
    let wrong = |key: &str, why: String| {
        Err(SpecError::Value {
            key: key.into(),
            why,
        })
    };
    let Some(elastic) = &spec.elastic else {
        if spec.grow != Grow::Never {
            let why = "needs a range of sizes: write `nodes = \"2..8\"`, or leave `grow` out";
            return wrong("grow", why.into());
        }
        return Ok(());
    };
    if let Err(why) = elastic.clone().checked() {
        return wrong("elastic", why);
    }
    if spec.nodes != elastic.least() {
        let why = format!(
            "is {elastic}, but `nodes` is {}: write the sizes as `nodes`, and leave `elastic` out",
            spec.nodes
        );
        return wrong("elastic", why);
    }
    let ranks = elastic.most().saturating_mul(spec.ranks_per_node());
    if ranks > GANG_RANKS_MAX {
        let why = format!(
            "makes up to {ranks} ranks in all; at most {GANG_RANKS_MAX}: use fewer nodes or ranks"
        );
        return wrong("nodes", why);
    }
    if spec.grow == Grow::AtCheckpoint && spec.checkpoint.is_none() {
        let why = "is \"at_checkpoint\", but the job makes none: add `[checkpoint]`";
        return wrong("grow", why.into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::{parse_json, parse_toml};
    use super::*;

    fn spec(lines: &str) -> Result<JobSpec, SpecError> {
        parse_toml(&format!("command = ['a']\n{lines}"))
    }

    #[test]
    fn sizes_are_a_range_or_a_list_and_the_fewest_count_as_nodes() {
        for (lines, canonical, sizes) in [
            ("nodes = '2..8'", "2..8", vec![2, 3, 4, 5, 6, 7, 8]),
            ("nodes = [2, 4, 8]", "2,4,8", vec![2, 4, 8]),
            ("nodes = '2, 4,8'", "2,4,8", vec![2, 4, 8]),
            ("elastic = '1..2'", "1..2", vec![1, 2]),
            ("nodes = 3\nelastic = [3, 9]", "3,9", vec![3, 9]),
        ] {
            let spec = spec(lines).expect(lines);
            let elastic = spec.elastic.clone().expect("it has sizes");
            assert_eq!(
                (elastic.to_string().as_str(), elastic.sizes()),
                (canonical, sizes)
            );
            assert_eq!(spec.nodes, elastic.least(), "{lines}");
            let again = parse_json(&spec.canonical_json()).expect("canonical JSON parses");
            assert_eq!((again.hash(), &again), (spec.hash(), &spec), "{lines}");
        }
        let grows = "nodes = '1..4096'\ngrow = 'at_checkpoint'\n[checkpoint]\ndir = 'c'";
        let grows = spec(grows).expect("good");
        assert_eq!(
            (grows.grow, grows.elastic.map(|one| one.most())),
            (Grow::AtCheckpoint, Some(4096))
        );
    }

    #[test]
    fn senseless_sizes_are_refused_with_what_to_write_instead() {
        let long = format!("nodes = [{}]", "1, ".repeat(10_000));
        for (lines, says) in [
            ("nodes = '8..2'", "the fewest first"),
            ("nodes = '2..2'", "one size as a number"),
            ("nodes = '0..4'", "use 1 to 4096 nodes"),
            ("nodes = '1..4097'", "use 1 to 4096 nodes"),
            (
                "nodes = '1..99999999999999999999'",
                "write a number, a range",
            ),
            ("nodes = '-1..4'", "write a number, a range"),
            ("nodes = '1..+4'", "write a number, a range"),
            ("nodes = '2...8'", "write a number, a range"),
            ("nodes = '4'", "write a number, a range"),
            ("nodes = ''", "write a number, a range"),
            ("nodes = []", "lists 0 sizes"),
            ("nodes = [4]", "lists 1 sizes; use 2 to 64"),
            ("nodes = [4, 2]", "the fewest first"),
            ("nodes = [2, 2]", "once each"),
            ("nodes = [0, 2]", "use 1 to 4096 nodes"),
            ("nodes = [2, -4]", "lists -4"),
            ("nodes = [2, 4.5]", "lists 4.5"),
            ("nodes = [2, '4']", "whole numbers of nodes"),
            (long.as_str(), "lists 10000 sizes; use 2 to 64"),
            ("nodes = '1..4'\nelastic = '1..4'", "leave it out"),
            ("nodes = 1\nelastic = '2..4'", "leave `elastic` out"),
            ("elastic = 4", "write a range"),
            ("nodes = '1..4096'\nranks = 17", "up to 69632 ranks"),
            ("grow = 'at_checkpoint'", "needs a range of sizes"),
            (
                "nodes = '1..2'\ngrow = 'at_checkpoint'",
                "add `[checkpoint]`",
            ),
            (
                "nodes = '1..2'\ngrow = 'at_checkpont'",
                "did you mean `at_checkpoint`?",
            ),
            ("nodes = '1..2'\narray = 3", "must be 1 in an array"),
        ] {
            let error = spec(lines).expect_err(lines).to_string();
            assert!(error.contains(says), "{lines}\n-> {error}");
            assert!(error.len() < 400, "{error}");
        }
    }
}
