//! For which other jobs a job waits: `after = ["ok:412", "any:413"]`. Does NOT know whether they are there.
use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use super::parse::did_you_mean;
use super::{JobSpec, SpecError};
use crate::ids::{JobId, clip};
use crate::limits::DEPENDENCIES_MAX;

/// What has to become of another job first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum AfterKind {
    /// It has begun to run, or will not any more.
    Started,
    /// It completed.
    Ok,
    /// It is over, however it ended.
    Any,
    /// It is over and did not complete.
    NotOk,
    /// Of two arrays: for each task, the task of the same index exited 0.
    Corr,
}

impl AfterKind {
    /// All of them with their words.
    pub const ALL: [(Self, &'static str); 5] = [
        (Self::Started, "started"),
        (Self::Ok, "ok"),
        (Self::Any, "any"),
        (Self::NotOk, "notok"),
        (Self::Corr, "corr"),
    ];

    /// Its word in a spec.
    pub fn word(self) -> &'static str {
        match self {
            Self::Started => "started",
            Self::Ok => "ok",
            Self::Any => "any",
            Self::NotOk => "notok",
            Self::Corr => "corr",
        }
    }
}

/// One job that has to come first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct After {
    /// What has to become of it.
    pub kind: AfterKind,
    /// Which.
    pub job: JobId,
}

impl FromStr for After {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = |hint: &str| {
            let shown = clip(text);
            format!(
                "holds \"{shown}\"; write \"ok:412\" for what waits until job 412 completed, \"any:412\" until it is over, \"notok:412\" until it \
                 failed, \"started:412\" until it began, \"corr:412\" for arrays task by task{hint}"
            )
        };
        let (word, job) = text.split_once(':').ok_or_else(|| wrong(""))?;
        let kind = AfterKind::ALL.into_iter().find(|(_, known)| *known == word);
        let Some((kind, _)) = kind else {
            return Err(wrong(&did_you_mean(
                word,
                &AfterKind::ALL.map(|(_, word)| word),
            )));
        };
        let job = job.parse().map_err(|_| wrong("; an id is a number"))?;
        Ok(Self { kind, job })
    }
}

impl fmt::Display for After {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.kind.word(), self.job)
    }
}

impl Serialize for After {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for After {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// What the value of the key `after` must look like, before it is read.
pub(super) fn check_value(value: &Value) -> Result<(), SpecError> {
    let wrong = |why: String| {
        Err(SpecError::Value {
            key: "after".into(),
            why,
        })
    };
    let Some(list) = value
        .as_array()
        .filter(|list| list.len() <= DEPENDENCIES_MAX)
    else {
        return wrong(format!(
            "is a list of at most {DEPENDENCIES_MAX} jobs, such as [\"ok:412\", \"any:413\"]"
        ));
    };
    for one in list {
        let shown = one.to_string();
        if let Err(why) = one.as_str().unwrap_or(&shown).parse::<After>() {
            return wrong(why);
        }
    }
    Ok(())
}

/// What no list of jobs can say.
pub(super) fn check(spec: &JobSpec) -> Result<(), SpecError> {
    let wrong = |why: String| {
        Err(SpecError::Value {
            key: "after".into(),
            why,
        })
    };
    if spec.after.len() > DEPENDENCIES_MAX {
        let count = spec.after.len();
        return wrong(format!("names {count} jobs; at most {DEPENDENCIES_MAX}"));
    }
    let mut seen = BTreeSet::new();
    for one in &spec.after {
        if !seen.insert(one.job) {
            return wrong(format!("names job {} twice: name each once", one.job));
        }
        if one.kind == AfterKind::Corr && spec.array.is_none() {
            return wrong(format!(
                "holds \"{one}\", which pairs tasks of two arrays, and this job is none: add `array`, or write \"ok:{}\"",
                one.job
            ));
        }
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
    fn every_kind_is_read_as_it_is_written() {
        let lines = "array = 3\nafter = ['started:1', 'ok:2', 'any:3', 'notok:2-4', 'corr:5']";
        let spec = spec(lines).expect("good");
        let kinds: Vec<AfterKind> = spec.after.iter().map(|one| one.kind).collect();
        assert_eq!(kinds, AfterKind::ALL.map(|(kind, _)| kind));
        assert_eq!(spec.after[3].job, JobId::new(2, 4));
        let again = parse_json(&spec.canonical_json()).expect("canonical JSON parses");
        assert_eq!((again.hash(), &again), (spec.hash(), &spec));
    }

    #[test]
    fn senseless_lists_are_refused_with_what_to_write_instead() {
        let many: Vec<String> = (1..=65).map(|at| format!("'ok:{at}'")).collect();
        let many = format!("after = [{}]", many.join(", "));
        for (lines, says) in [
            ("after = 412", "is a list of at most 64 jobs"),
            ("after = 'ok:412'", "is a list of at most 64 jobs"),
            (many.as_str(), "is a list of at most 64 jobs"),
            ("after = [412]", "write \"ok:412\""),
            ("after = ['412']", "write \"ok:412\""),
            ("after = ['okay:412']", "did you mean `ok`?"),
            ("after = ['ok:0']", "an id is a number"),
            ("after = ['ok:-1']", "an id is a number"),
            ("after = ['ok:x']", "an id is a number"),
            ("after = ['ok:99999999999999999999']", "an id is a number"),
            ("after = ['ok:1', 'any:1']", "names job 1 twice"),
            ("after = ['corr:1']", "add `array`"),
        ] {
            let error = spec(lines).expect_err(lines).to_string();
            assert!(error.contains(says), "{lines}\n-> {error}");
            assert!(error.len() < 500, "{error}");
        }
    }
}
