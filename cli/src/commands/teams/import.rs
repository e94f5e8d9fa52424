//! Teams from a file to changes: every team of the file is made or changed, and what the file does not name stays. One request, so all or nothing.
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use mlctl_proto::api::{
    NewTeamMember, SetBudget, SetMembers, SetQuota, SetTeam, TeamEdit, TeamLimit, team_edit::What,
};
use mlctl_proto::limits::MESSAGE_BYTES_MAX;
use serde::Deserialize;
use serde_json::Value;

use super::amounts::{budget, day_end, gpus, limit, team_limit};
use crate::failure::Failure;

/// A whole file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    team: Vec<Entry>,
}

/// One team of it. Values may be numbers or texts.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Entry {
    /// Its path, or, with a parent, its own name.
    name: String,
    parent: Option<String>,
    weight: Option<u32>,
    max_class: Option<String>,
    max_pending: Option<Value>,
    max_running: Option<Value>,
    max_time: Option<Value>,
    checkpoint_bytes: Option<Value>,
    user_max_pending: Option<Value>,
    user_max_running: Option<Value>,
    members: Vec<String>,
    default_members: Vec<String>,
    gpus: BTreeMap<String, Value>,
    borrow: BTreeMap<String, Value>,
    lend: BTreeMap<String, Value>,
    per_user: BTreeMap<String, Value>,
    gpu_hours: BTreeMap<String, Value>,
    zone: Option<String>,
    exhausted: Option<String>,
    until: Option<String>,
}

/// The changes that a file asks for.
pub fn read(path: &Path) -> Result<Vec<TeamEdit>, Failure> {
    let wrong = |why: String| Failure::usage(format!("{}: {why}", path.display()));
    let length = std::fs::metadata(path)
        .map_err(|error| wrong(error.to_string()))?
        .len();
    if length > MESSAGE_BYTES_MAX as u64 {
        return Err(wrong(format!(
            "it has {length} bytes; at most {MESSAGE_BYTES_MAX}: make several files of it"
        )));
    }
    let text = std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
    let json = path
        .extension()
        .is_some_and(|extension| extension == "json");
    edits(&text, json).map_err(|error| wrong(error.to_string()))
}

fn edits(text: &str, json: bool) -> Result<Vec<TeamEdit>, Failure> {
    let value: Value = if json {
        serde_json::from_str(text).map_err(|error| Failure::usage(error.to_string()))?
    } else {
        let table: toml::Value =
            toml::from_str(text).map_err(|error| Failure::usage(error.to_string()))?;
        serde_json::to_value(table).map_err(|error| Failure::usage(error.to_string()))?
    };
    let file: File =
        serde_json::from_value(value).map_err(|error| Failure::usage(error.to_string()))?;
    if file.team.is_empty() {
        return Err(Failure::usage(
            "it names no team: begin each with [[team]]".into(),
        ));
    }
    let paths = paths(&file.team)?;
    let mut made = Vec::new();
    let mut filled = Vec::new();
    for (entry, path) in file.team.iter().zip(&paths) {
        let named = |error: Failure| Failure::usage(format!("team {path}: {error}"));
        made.push(team(entry, path).map_err(named)?);
        quotas(entry, path, &mut filled).map_err(named)?;
        budgets(entry, path, &mut filled).map_err(named)?;
        filled.extend(members(entry, path));
    }
    made.extend(filled.into_iter().map(|what| TeamEdit { what: Some(what) }));
    Ok(made)
}

/// The path of each entry. A parent is another entry's name, or a path.
fn paths(entries: &[Entry]) -> Result<Vec<String>, Failure> {
    let mut parents: BTreeMap<&str, Option<&str>> = BTreeMap::new();
    for entry in entries {
        if entry.name.is_empty() {
            return Err(Failure::usage("a team has no `name`".into()));
        }
        if parents
            .insert(&entry.name, entry.parent.as_deref())
            .is_some()
        {
            return Err(Failure::usage(format!(
                "team {} is in it twice",
                entry.name
            )));
        }
    }
    let path = |entry: &Entry| {
        let mut path = entry.name.clone();
        let mut seen = BTreeSet::from([entry.name.as_str()]);
        let mut above = entry.parent.as_deref();
        while let Some(parent) = above {
            if !seen.insert(parent) {
                return Err(Failure::usage(format!(
                    "team {} is in itself, through {parent}: one of them needs another `parent`",
                    entry.name
                )));
            }
            path = format!("{parent}/{path}");
            above = parents.get(parent).copied().flatten();
        }
        Ok(path)
    };
    entries.iter().map(path).collect()
}

/// A number or a text, as text.
fn text(value: &Value) -> Result<String, Failure> {
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Number(number) => Ok(number.to_string()),
        other => Err(Failure::usage(format!(
            "{other} is neither a number nor a text"
        ))),
    }
}

fn team(entry: &Entry, path: &str) -> Result<TeamEdit, Failure> {
    let named = [
        ("max_pending", &entry.max_pending),
        ("max_running", &entry.max_running),
        ("max_time", &entry.max_time),
        ("checkpoint_bytes", &entry.checkpoint_bytes),
        ("user_max_pending", &entry.user_max_pending),
        ("user_max_running", &entry.user_max_running),
    ];
    let mut limits: Vec<TeamLimit> = Vec::new();
    for (which, value) in named {
        if let Some(value) = value {
            limits.push(team_limit(which, &text(value)?)?);
        }
    }
    let set = SetTeam {
        team: path.to_owned(),
        weight: entry.weight,
        limits,
        max_class: entry.max_class.clone(),
    };
    Ok(TeamEdit {
        what: Some(What::Team(set)),
    })
}

fn quotas(entry: &Entry, path: &str, all: &mut Vec<What>) -> Result<(), Failure> {
    let tables = [&entry.gpus, &entry.borrow, &entry.lend, &entry.per_user];
    let flavors: BTreeSet<&String> = tables.iter().flat_map(|table| table.keys()).collect();
    for flavor in flavors {
        let of = |what: &str, table: &BTreeMap<String, Value>| {
            let value = table.get(flavor).map(text).transpose()?;
            value.map(|value| limit(what, &value)).transpose()
        };
        let nominal = entry.gpus.get(flavor).map(text).transpose()?;
        let nominal = nominal.map(|value| gpus("gpus", &value)).transpose()?;
        all.push(What::Quota(SetQuota {
            team: path.to_owned(),
            flavor: flavor.clone(),
            nominal,
            borrow: of("borrow", &entry.borrow)?,
            lend: of("lend", &entry.lend)?,
            per_user: of("per_user", &entry.per_user)?,
            remove: false,
        }));
    }
    Ok(())
}

fn budgets(entry: &Entry, path: &str, all: &mut Vec<What>) -> Result<(), Failure> {
    let until = entry.until.as_deref().map(|day| day_end("until", day));
    let until_ms = until.transpose()?.unwrap_or(0);
    let zone = entry.zone.as_deref().unwrap_or("UTC");
    let exhausted = entry.exhausted.as_deref().unwrap_or("hold");
    for (flavor, value) in &entry.gpu_hours {
        let budget = budget("gpu_hours", &text(value)?, (zone, exhausted, until_ms))?;
        all.push(What::Budget(SetBudget {
            team: path.to_owned(),
            flavor: flavor.clone(),
            budget,
        }));
    }
    Ok(())
}

fn members(entry: &Entry, path: &str) -> Option<What> {
    let new = |default: bool| {
        move |user: &String| NewTeamMember {
            user: user.clone(),
            default,
        }
    };
    let ordinary = entry
        .members
        .iter()
        .filter(|user| !entry.default_members.contains(user));
    let add: Vec<NewTeamMember> = (entry.default_members.iter().map(new(true)))
        .chain(ordinary.map(new(false)))
        .collect();
    (!add.is_empty()).then(|| {
        What::Members(SetMembers {
            team: path.to_owned(),
            add,
            remove: Vec::new(),
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"
        [[team]]
        name = "acme"
        gpus = { H100 = 64 }

        [[team]]
        name = "vision"
        parent = "acme"
        weight = 3
        max_running = 20
        max_time = "3d"
        members = ["ann", "u-00000001"]
        default_members = ["ann"]
        gpus = { H100 = "48.5" }
        borrow = { H100 = "unlimited", A100 = 2 }
        gpu_hours = { H100 = "20000/month" }
        zone = "Europe/Berlin"
        exhausted = "stop"
    "#;

    #[test]
    fn every_team_is_made_before_it_is_filled() {
        let edits = edits(FILE, false).expect("it is sound");
        let kinds: Vec<String> = edits
            .iter()
            .map(|edit| match edit.what.as_ref().expect("always") {
                What::Team(set) => {
                    format!("team {} {:?} {}", set.team, set.weight, set.limits.len())
                }
                What::Quota(set) => format!("quota {} {} {:?}", set.team, set.flavor, set.nominal),
                What::Budget(set) => format!("budget {} {}", set.team, set.flavor),
                What::Members(set) => format!("members {} {}", set.team, set.add.len()),
                What::Remove(_) => "remove".into(),
            })
            .collect();
        assert_eq!(
            kinds,
            [
                "team acme None 0",
                "team acme/vision Some(3) 2",
                "quota acme H100 Some(448000)",
                "quota acme/vision A100 None",
                "quota acme/vision H100 Some(339500)",
                "budget acme/vision H100",
                "members acme/vision 2",
            ]
        );
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_the_team() {
        for (file, part) in [
            ("", "names no team"),
            (
                "[[team]]\nname = \"a\"\nparent = \"b\"\n[[team]]\nname = \"b\"\nparent = \"a\"",
                "team a is in itself, through a",
            ),
            ("[[team]]\nname = \"a\"\nparent = \"a\"", "is in itself"),
            ("[[team]]\nname = \"a\"\n[[team]]\nname = \"a\"", "twice"),
            ("[[team]]\nweight = 1", "no `name`"),
            (
                "[[team]]\nname = \"a\"\nwieght = 1",
                "unknown field `wieght`",
            ),
            (
                "[[team]]\nname = \"a\"\ngpus = { H100 = -1 }",
                "team a: gpus -1",
            ),
            (
                "[[team]]\nname = \"a\"\ngpus = { H100 = nan }",
                "neither a number nor a text",
            ),
            (
                "[[team]]\nname = \"a\"\ngpus = { H100 = 1e30 }",
                "use a number of GPUs",
            ),
            (
                "[[team]]\nname = \"a\"\ngpu_hours = { H100 = 5 }",
                "for how long",
            ),
            ("[[team]]\nname = \"a\"\nweight = -1", "invalid value"),
        ] {
            let why = edits(file, false).expect_err(part).to_string();
            assert!(why.contains(part), "{part}: {why}");
        }
    }

    #[test]
    fn json_is_read_as_toml_is() {
        let file = r#"{"team":[{"name":"a/b","max_pending":5,"per_user":{"H100":0.5}}]}"#;
        let edits = edits(file, true).expect("it is sound");
        assert_eq!(edits.len(), 2);
        assert!(
            matches!(&edits[1].what, Some(What::Quota(set)) if set.per_user.as_ref().is_some_and(|cap| cap.units == Some(3_500)))
        );
    }
}
