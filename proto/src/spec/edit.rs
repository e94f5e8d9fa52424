//! A change to the spec of a job that is there: keys of a spec with their new values, as JSON. Knows no job: who may change what, and when, is the
//! cluster's business.
use serde_json::{Map, Value};

use super::parse::did_you_mean;
use super::{ArraySpec, JobSpec, SpecError, parse_json};
use crate::ids::clip;
use crate::limits::{ARRAY_TASKS_MAX, SPEC_BYTES_MAX};

/// Keys that decide what a job takes and how its processes are started: they stand once it has run.
const SHAPE: [&str; 3] = ["nodes", "gpus", "gpu"];
/// Keys that are read when an attempt starts.
const START: [&str; 3] = ["time", "begin", "start_by"];
/// Keys that may change at any time.
const ALWAYS: [&str; 4] = ["class", "name", "end_by", ARRAY_LIMIT];
/// How many tasks of an array may run at once; 0: any number. Not a key of specs, where it is a part of `array`.
const ARRAY_LIMIT: &str = "array_limit";

/// Keys with their new values; `null` takes a key away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edit {
    table: Map<String, Value>,
}

impl Edit {
    /// Reads `{"nodes":2,"time":null}`.
    ///
    /// # Errors
    /// Not a table, no key, or one that cannot be changed.
    pub fn parse(json: &[u8]) -> Result<Self, SpecError> {
        if json.len() > SPEC_BYTES_MAX {
            return Err(SpecError::TooLong { bytes: json.len() });
        }
        let value: Value =
            serde_json::from_slice(json).map_err(|error| SpecError::Syntax(error.to_string()))?;
        let Value::Object(table) = value else {
            return Err(SpecError::Syntax(
                "expected a table of keys such as `time`".into(),
            ));
        };
        if table.is_empty() {
            return Err(SpecError::Syntax(
                "nothing to change: name a key such as `time`".into(),
            ));
        }
        let known: Vec<&str> = [&SHAPE[..], &START[..], &ALWAYS[..]].concat();
        if let Some(key) = table.keys().find(|key| !known.contains(&key.as_str())) {
            let hint = match did_you_mean(key, &known).as_str() {
                "" => format!("; what may be changed is {}", known.join(", ")),
                hint => hint.to_owned(),
            };
            return Err(SpecError::UnknownKey {
                key: clip(key),
                hint,
            });
        }
        let edit = Self { table };
        edit.array_limit()?;
        Ok(edit)
    }

    /// The same as JSON: equal edits, equal text.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(&self.table).expect("a table of JSON values is one")
    }

    /// The first key that stands once a job has run, if there is one.
    pub fn shape(&self) -> Option<&'static str> {
        SHAPE.into_iter().find(|key| self.table.contains_key(*key))
    }

    /// The first key that stands while a job runs, if there is one.
    pub fn start(&self) -> Option<&'static str> {
        let keys = SHAPE.into_iter().chain(START);
        keys.into_iter().find(|key| self.table.contains_key(*key))
    }

    /// How many tasks of an array may run at once from now on, 0: any number; `None`: as before.
    ///
    /// # Errors
    /// It is no such number.
    pub fn array_limit(&self) -> Result<Option<u32>, SpecError> {
        let Some(value) = self.table.get(ARRAY_LIMIT) else {
            return Ok(None);
        };
        if value.is_null() {
            return Ok(Some(0));
        }
        let number = value
            .as_u64()
            .filter(|limit| *limit <= u64::from(ARRAY_TASKS_MAX));
        let number = number.and_then(|limit| u32::try_from(limit).ok());
        number.map(Some).ok_or_else(|| SpecError::Value {
            key: ARRAY_LIMIT.into(),
            why: format!(
                "is {}; use 1 to {ARRAY_TASKS_MAX} tasks at once, or 0 for any number",
                clip(&value.to_string())
            ),
        })
    }

    /// `spec` with these values, checked as a new one is.
    ///
    /// # Errors
    /// What no cluster would accept.
    pub fn apply_to(&self, spec: &JobSpec) -> Result<JobSpec, SpecError> {
        let value =
            serde_json::to_value(spec).map_err(|error| SpecError::Syntax(error.to_string()))?;
        let Value::Object(mut table) = value else {
            return Err(SpecError::Syntax("a spec is a table".into()));
        };
        for (key, value) in &self.table {
            match key.as_str() {
                // A new count is the whole truth: what the old one was a part of goes with it.
                "nodes" => drop(table.remove("elastic")),
                "gpus" => {
                    table.remove("share");
                    table.remove("mig");
                }
                ARRAY_LIMIT => continue,
                _ => {}
            }
            if value.is_null() {
                table.remove(key);
            } else {
                table.insert(key.clone(), value.clone());
            }
        }
        let text =
            serde_json::to_vec(&table).map_err(|error| SpecError::Syntax(error.to_string()))?;
        let mut edited = parse_json(&text)?;
        let Some(limit) = self.array_limit()? else {
            return Ok(edited);
        };
        let Some(array) = &spec.array else {
            return Err(SpecError::Value {
                key: ARRAY_LIMIT.into(),
                why: "is about tasks of an array, and this job is none".into(),
            });
        };
        edited.array = Some(ArraySpec {
            tasks: array.tasks.clone(),
            limit,
        });
        edited.check()?;
        Ok(edited)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Class, parse_toml};
    use super::*;

    fn spec(lines: &str) -> JobSpec {
        parse_toml(&format!("command = ['a']\n{lines}")).expect("good")
    }

    fn edit(json: &str) -> Edit {
        Edit::parse(json.as_bytes()).expect(json)
    }

    #[test]
    fn named_keys_change_and_all_others_stay() {
        let before = spec("nodes = 2\ngpus = 8\ngpu = ['H100']\ntime = '4h'\nenv = { A = 'b' }");
        let change = edit(r#"{"nodes":4,"time":null,"class":"low","name":"x"}"#);
        let after = change.apply_to(&before).expect("good");
        let want = JobSpec {
            nodes: 4,
            time: None,
            class: Class::Low,
            name: Some("x".into()),
            ..before.clone()
        };
        assert_eq!(after, want);
        assert_eq!(edit(r#"{"nodes":2}"#).apply_to(&before), Ok(before));
        assert_eq!(Edit::parse(&change.to_json()), Ok(change));
    }

    #[test]
    fn a_new_count_replaces_ranges_and_parts() {
        let elastic = spec("nodes = '2..8'");
        assert_eq!(
            edit(r#"{"nodes":3}"#).apply_to(&elastic),
            Ok(spec("nodes = 3"))
        );
        assert_eq!(
            edit(r#"{"nodes":"1..4"}"#).apply_to(&elastic),
            Ok(spec("nodes = '1..4'"))
        );
        let part = spec("gpus = 0.5");
        assert_eq!(edit(r#"{"gpus":2}"#).apply_to(&part), Ok(spec("gpus = 2")));
        assert_eq!(
            edit(r#"{"gpus":0.25}"#).apply_to(&part),
            Ok(spec("gpus = 0.25"))
        );
    }

    #[test]
    fn the_limit_of_an_array_changes_and_its_tasks_do_not() {
        let array = spec("array = '0-99%8'");
        let limit = |json: &str| {
            edit(json)
                .apply_to(&array)
                .expect("good")
                .array
                .map(|one| one.to_string())
        };
        assert_eq!(limit(r#"{"array_limit":2}"#).as_deref(), Some("0-99%2"));
        assert_eq!(limit(r#"{"array_limit":0}"#).as_deref(), Some("0-99"));
        assert_eq!(limit(r#"{"array_limit":null}"#).as_deref(), Some("0-99"));
        assert_eq!(limit(r#"{"class":"low"}"#).as_deref(), Some("0-99%8"));
    }

    #[test]
    fn what_stands_while_or_after_a_job_runs_is_told_apart() {
        for (json, shape, start) in [
            (r#"{"nodes":1}"#, Some("nodes"), Some("nodes")),
            (
                r#"{"gpu":["A100"],"class":"low"}"#,
                Some("gpu"),
                Some("gpu"),
            ),
            (r#"{"time":"1h"}"#, None, Some("time")),
            (
                r#"{"class":"low","end_by":null,"name":"x","array_limit":1}"#,
                None,
                None,
            ),
        ] {
            assert_eq!(
                (edit(json).shape(), edit(json).start()),
                (shape, start),
                "{json}"
            );
        }
    }

    #[test]
    fn senseless_changes_are_refused() {
        let long = format!("{{\"name\":\"{}\"}}", "x".repeat(70_000));
        let before = spec("gpus = 1\nstart_by = '2026-12-01T00:00Z'");
        for (json, says) in [
            ("", "bad job spec"),
            ("[]", "expected a table"),
            ("{}", "nothing to change"),
            (r#"{"comand":"x"}"#, "what may be changed is nodes"),
            (r#"{"command":"x"}"#, "unknown key `command`"),
            (r#"{"tiem":"1h"}"#, "did you mean `time`?"),
            (r#"{"nodes":0}"#, "use 1 to 4096"),
            (r#"{"nodes":-1}"#, "not negative"),
            (r#"{"nodes":1e99}"#, "whole number"),
            (r#"{"gpus":0,"gpu":["H100"]}"#, "set `gpus`"),
            (r#"{"class":"urgent"}"#, "use one of low"),
            (r#"{"begin":"2026-12-02T00:00Z"}"#, "could never run"),
            (r#"{"array_limit":-1}"#, "use 1 to 100000"),
            (r#"{"array_limit":10000000}"#, "use 1 to 100000"),
            (r#"{"array_limit":1}"#, "this job is none"),
            (r#"{"name":""}"#, "1 to 128 bytes"),
            (long.as_str(), "at most 65536"),
        ] {
            let edited = Edit::parse(json.as_bytes()).and_then(|edit| edit.apply_to(&before));
            let error = edited.expect_err(json).to_string();
            assert!(error.contains(says), "{json}\n-> {error}");
        }
    }
}
