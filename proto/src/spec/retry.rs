//! `[retry]`: how often a job starts again by itself, and after which ends. Does not know how an attempt ends, nor how long a
//! job waits before it starts again: the cluster does.
use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::SpecError;
use super::parse::did_you_mean;
use crate::limits::RETRIES_MAX;

/// Causes in one list.
const CAUSES_MAX: usize = 64;

/// How often a job starts again by itself, and after what.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RetrySpec {
    /// Restarts after ends that `on` lists, at most; over all attempts.
    pub max: u32,
    /// After which ends; default: any failure. A preempted job starts again without being listed, and that is never counted.
    #[serde(default = "any")]
    pub on: Vec<Cause>,
}

fn any() -> Vec<Cause> {
    vec![Cause::Any]
}

/// An end after which a job may start again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    /// Whatever failed.
    Any,
    /// Its node was lost.
    NodeLost,
    /// The process that owned its ranks died.
    KeeperLost,
    /// A device failed.
    DeviceError,
    /// A more entitled job took its devices. It starts again anyway.
    Preempted,
    /// It made no progress.
    Hung,
    /// The kernel's out-of-memory killer.
    OutOfMemory,
    /// Code, directories or processes could not be set up.
    LaunchFailed,
    /// Its `time` was over: the next attempt goes on from its checkpoint. Nothing else that ends so starts again, whatever failed.
    TimeLimit,
    /// A rank ended with this code.
    Exit(u8),
    /// A rank was ended by this signal.
    Signal(u8),
}

impl Cause {
    /// Those that are one word.
    const WORDS: [(Self, &'static str); 9] = [
        (Self::Any, "any"),
        (Self::NodeLost, "node_lost"),
        (Self::KeeperLost, "keeper_lost"),
        (Self::DeviceError, "device_error"),
        (Self::Preempted, "preempted"),
        (Self::Hung, "hung"),
        (Self::OutOfMemory, "oom"),
        (Self::LaunchFailed, "launch_failed"),
        (Self::TimeLimit, "time_limit"),
    ];

    /// The reverse of its text; `Err` says what to write instead.
    fn parse(text: &str) -> Result<Self, String> {
        if let Some((cause, _)) = Self::WORDS.iter().find(|(_, word)| *word == text) {
            return Ok(*cause);
        }
        let number = |digits: &str, range: std::ops::RangeInclusive<u8>| {
            let plain = digits.bytes().all(|digit| digit.is_ascii_digit());
            let number = digits.parse().ok().filter(|number| range.contains(number));
            let (least, most) = range.into_inner();
            number
                .filter(|_| plain)
                .ok_or_else(|| format!("; its number is {least} to {most}"))
        };
        let hint = match text.split_once(':') {
            Some(("exit", digits)) => match number(digits, 1..=255) {
                Ok(code) => return Ok(Self::Exit(code)),
                Err(hint) => hint,
            },
            Some(("signal", digits)) => match number(digits, 1..=64) {
                Ok(signal) => return Ok(Self::Signal(signal)),
                Err(hint) => hint,
            },
            _ => {
                let words = Self::WORDS.map(|(_, word)| word);
                let all: Vec<&str> = words.into_iter().chain(["exit:N", "signal:N"]).collect();
                did_you_mean(text, &all)
            }
        };
        let shown = crate::ids::clip(text);
        let words = Self::WORDS.map(|(_, word)| word).join(", ");
        Err(format!(
            "holds `{shown}`; use {words}, exit:N or signal:N{hint}"
        ))
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exit(code) => write!(f, "exit:{code}"),
            Self::Signal(signal) => write!(f, "signal:{signal}"),
            word => {
                let found = Self::WORDS.iter().find(|(cause, _)| cause == word);
                f.write_str(found.map_or("", |(_, word)| word))
            }
        }
    }
}

impl Serialize for Cause {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Cause {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        let wrong = |why| serde::de::Error::custom(format!("`retry.on` {why}"));
        Self::parse(&text).map_err(wrong)
    }
}

/// Checks the words of a table `retry`, so that a slip is explained.
pub(super) fn check_table(
    table: &serde_json::Map<String, serde_json::Value>,
) -> Result<(), SpecError> {
    let wrong = |key: &str, why: String| {
        Err(SpecError::Value {
            key: key.into(),
            why,
        })
    };
    match table.get("max") {
        None => {
            let why = "is missing: say how often the job may start again";
            return wrong("retry.max", why.into());
        }
        Some(max) if max.as_u64().is_none_or(|max| max > u64::from(RETRIES_MAX)) => {
            let shown = crate::ids::clip(&max.to_string());
            let why = format!("is {shown}; use a whole number from 0 to {RETRIES_MAX}");
            return wrong("retry.max", why);
        }
        Some(_) => {}
    }
    let Some(on) = table.get("on") else {
        return Ok(());
    };
    let words = on.as_array().map(Vec::as_slice).unwrap_or_default();
    if !(1..=CAUSES_MAX).contains(&words.len()) {
        let why =
            format!("is a list of 1 to {CAUSES_MAX} causes, such as [\"node_lost\", \"exit:17\"]");
        return wrong("retry.on", why);
    }
    for word in words {
        let shown = word.to_string();
        if let Err(why) = Cause::parse(word.as_str().unwrap_or(&shown)) {
            return wrong("retry.on", why);
        }
    }
    Ok(())
}

impl RetrySpec {
    pub(super) fn check(&self) -> Result<(), SpecError> {
        let wrong = |key: &str, why: String| {
            Err(SpecError::Value {
                key: key.into(),
                why,
            })
        };
        if self.max > RETRIES_MAX {
            return wrong(
                "retry.max",
                format!("is {}; at most {RETRIES_MAX}", self.max),
            );
        }
        if !(1..=CAUSES_MAX).contains(&self.on.len()) {
            return wrong("retry.on", format!("lists 1 to {CAUSES_MAX} causes"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::{parse_json, parse_toml};
    use super::*;

    #[test]
    fn every_cause_is_read_as_it_is_written() {
        let text = r#"
            command = "a"
            [retry]
            max = 5
            on = ["node_lost", "keeper_lost", "device_error", "preempted", "hung", "oom", "launch_failed", "any",
                  "exit:17", "signal:9", "time_limit"]
        "#;
        let spec = parse_toml(text).expect("good");
        let retry = spec.retry.clone().expect("it was given");
        assert_eq!((retry.max, retry.on.len()), (5, 11));
        assert_eq!(
            retry.on[8..],
            [Cause::Exit(17), Cause::Signal(9), Cause::TimeLimit]
        );
        let again = parse_json(&spec.canonical_json()).expect("canonical JSON parses");
        assert_eq!(again, spec);
        let bare = parse_toml("command = 'a'\n[retry]\nmax = 2").expect("good");
        assert_eq!(bare.retry.map(|retry| retry.on), Some(vec![Cause::Any]));
        let none = parse_toml("command = 'a'").expect("good");
        assert!(!String::from_utf8_lossy(&none.canonical_json()).contains("retry"));
    }

    #[test]
    fn slips_are_explained() {
        for (table, says) in [
            ("on = ['any']", "`retry.max` is missing"),
            ("max = -1", "whole number"),
            ("max = 1.5", "whole number"),
            ("max = 10001", "0 to 10000"),
            ("max = 1\non = []", "1 to 64 causes"),
            ("max = 1\non = 'any'", "list of 1 to 64"),
            ("max = 1\non = ['node_los']", "did you mean `node_lost`?"),
            ("max = 1\non = ['exit']", "did you mean `exit:N`?"),
            ("max = 1\non = ['exit:0']", "1 to 255"),
            ("max = 1\non = ['exit:+1']", "1 to 255"),
            ("max = 1\non = ['exit:256']", "1 to 255"),
            ("max = 1\non = ['signal:65']", "1 to 64"),
            ("max = 1\non = [17]", "holds `17`"),
            ("mx = 1", "did you mean `max`?"),
        ] {
            let text = format!("command = 'a'\n[retry]\n{table}");
            let error = parse_toml(&text).expect_err(&text).to_string();
            assert!(error.contains(says), "{text}\n-> {error}");
        }
        assert!(parse_toml("command = 'a'\nretry = 3").is_err());
    }
}
