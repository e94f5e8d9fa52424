//! The `array` of a spec: which tasks there are, and how many may run at once. `"0-99%8"`, `"1,3,7-9"`, or a number of tasks.
use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{JobSpec, LaunchMethod, Ranges, SpecError};
use crate::limits::{ARRAY_INDEX_MAX, ARRAY_TASKS_MAX};

/// The tasks of an array job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArraySpec {
    /// Their indices.
    pub tasks: Ranges,
    /// How many may run at once; 0: as many as there is room for.
    pub limit: u32,
}

impl ArraySpec {
    /// Reads `0-99%8`.
    ///
    /// # Errors
    /// Why it is none, as the rest of a sentence that begins with the key.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (list, limit) = match text.split_once('%') {
            Some((list, limit)) => {
                let number = limit.trim().parse::<u32>().ok().filter(|limit| *limit > 0);
                let why =
                    "has no number above 0 after `%`: `0-99%8` runs at most 8 of 100 tasks at once";
                (list, number.ok_or(why)?)
            }
            None => (text, 0),
        };
        let tasks = Ranges::parse(list, ARRAY_INDEX_MAX).map_err(|error| error.why)?;
        Self { tasks, limit }.check()
    }

    /// So many tasks, from 0 on.
    ///
    /// # Errors
    /// None, or too many.
    pub fn of_count(count: u64) -> Result<Self, String> {
        let too_many = || format!("has {count} tasks; use 1 to {ARRAY_TASKS_MAX}");
        let last = count
            .checked_sub(1)
            .and_then(|last| u32::try_from(last).ok());
        let tasks = Ranges::span(0, last.ok_or_else(too_many)?);
        Self { tasks, limit: 0 }.check()
    }

    fn check(self) -> Result<Self, String> {
        let count = self.tasks.count();
        if count == 0 || count > u64::from(ARRAY_TASKS_MAX) {
            return Err(format!("has {count} tasks; use 1 to {ARRAY_TASKS_MAX}"));
        }
        Ok(self)
    }
}

impl fmt::Display for ArraySpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.tasks.fmt(f)?;
        match self.limit {
            0 => Ok(()),
            limit => write!(f, "%{limit}"),
        }
    }
}

impl Serialize for ArraySpec {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ArraySpec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Count(u64),
            Text(String),
        }
        let parsed = match Written::deserialize(deserializer)? {
            Written::Count(count) => Self::of_count(count),
            Written::Text(text) => Self::parse(&text),
        };
        parsed.map_err(|why| serde::de::Error::custom(format!("`array` {why}")))
    }
}

/// What the value of the key `array` must look like, before it is read.
pub(super) fn check_value(value: &serde_json::Value) -> Result<(), SpecError> {
    let read = match (value.as_u64(), value.as_str()) {
        (Some(count), _) => ArraySpec::of_count(count),
        (_, Some(text)) => ArraySpec::parse(text),
        _ => Err("is neither a number of tasks nor a list of indices such as `0-99%8`".into()),
    };
    read.map(drop).map_err(|why| SpecError::Value {
        key: "array".into(),
        why,
    })
}

/// What a task cannot be: each is one process on one node.
pub(super) fn check(spec: &JobSpec) -> Result<(), SpecError> {
    if spec.array.is_none() {
        return Ok(());
    }
    let wrong = |key: &str, why: &str| {
        Err(SpecError::Value {
            key: key.into(),
            why: why.into(),
        })
    };
    if spec.nodes != 1 || spec.elastic.is_some() {
        return wrong("nodes", "must be 1 in an array: a task runs on one node");
    }
    if !matches!(spec.launcher, LaunchMethod::Exec | LaunchMethod::Python) {
        return wrong(
            "launcher",
            "must be exec or python in an array: a task is one process, not a gang",
        );
    }
    if spec.ranks_per_node() != 1 {
        return wrong("ranks", "must be 1 in an array: a task is one process");
    }
    if spec.retry.is_some() {
        return wrong(
            "retry",
            "is not supported in an array: a task that failed stays failed",
        );
    }
    if spec.time.is_some() {
        return wrong(
            "time",
            "is not supported in an array: it bounds an attempt, and a wave of tasks is none of yours",
        );
    }
    if spec.checkpoint.is_some() {
        return wrong(
            "checkpoint",
            "is not supported in an array: its tasks would share the directory",
        );
    }
    Ok(())
}
