//! Rule: what we depend on: banned crates and versions with known holes, licences, and a reason for every exception, all from `deny.toml`.
//! Does NOT fetch advisories: `deny.toml` holds the minimum versions, so that the check works with no network.

use super::licences::satisfied;
use super::versions::lies_in;
use super::{Tree, Violation};
use serde_json::Value;
use std::collections::BTreeSet;

/// Where bans, licences and exceptions are written.
pub const DENY: &str = "deny.toml";
const LOCK: &str = "Cargo.lock";

/// Crates that `deny.toml` must ban in every version.
const BANNED: &[&str] = &[
    "openssl",
    "openssl-sys",
    "native-tls",
    "aws-lc-rs",
    "aws-lc-sys",
    "bincode",
    "users",
];

/// Crates for which `deny.toml` must ban the versions with known holes.
const BOUNDED: &[&str] = &[
    "quinn-proto",
    "h2",
    "tonic",
    "rustls",
    "rustls-webpki",
    "tokio",
    "tar",
    "rand",
    "crossbeam-epoch",
    "ring",
];

/// One banned crate: the name and the range, none meaning every version.
struct Ban {
    name: String,
    range: Option<String>,
    reason: String,
}

/// Checks that every ban and every exception of `deny.toml` is there and says why.
pub fn check_deny(deny: &str) -> Vec<Violation> {
    let table: toml::Table = match deny.parse() {
        Ok(table) => table,
        Err(e) => {
            return vec![Violation::new(
                DENY,
                0,
                format!("it is not TOML: {e}"),
                "mend it",
            )];
        }
    };
    let mut violations = Vec::new();
    let mut wrong = |what: String, mend: &str| violations.push(Violation::new(DENY, 0, what, mend));
    for (section, list) in [
        ("advisories", "ignore"),
        ("bans", "deny"),
        ("bans", "skip"),
        ("bans", "skip-tree"),
    ] {
        for entry in entries(&table, section, list) {
            let reason = entry
                .get("reason")
                .and_then(toml::Value::as_str)
                .unwrap_or_default();
            if reason.trim().len() < 10 {
                wrong(
                    format!("[{section}] {list}: {entry} has no reason"),
                    "say why it is accepted or refused",
                );
            }
        }
    }
    let bans = bans(&table);
    for name in BANNED {
        if !bans.iter().any(|b| b.name == *name && b.range.is_none()) {
            wrong(format!("`{name}` is not banned"), "ban it with a reason");
        }
    }
    for name in BOUNDED {
        if !bans.iter().any(|b| b.name == *name && b.range.is_some()) {
            wrong(
                format!("no version of `{name}` is banned"),
                "ban the versions with known holes, with the advisory as reason",
            );
        }
    }
    violations
}

/// Checks every package of `Cargo.lock` against the bans; exceptions for crates that are no longer there are violations too.
pub fn check_lock(deny: &str, lock: &str) -> Vec<Violation> {
    let table: toml::Table = deny.parse().unwrap_or_default();
    let packages = match packages(lock) {
        Ok(packages) => packages,
        Err(why) => return vec![Violation::new(LOCK, 0, why, "let cargo write it")],
    };
    let bans = bans(&table);
    let mut violations = Vec::new();
    for (name, version) in &packages {
        let own = bans.iter().filter(|ban| ban.name == *name);
        violations.extend(own.filter_map(|ban| judge(ban, version)));
    }
    for entry in entries(&table, "bans", "skip") {
        let spec = text(&entry, "crate");
        let name = spec.split('@').next().unwrap_or_default();
        if !packages.iter().any(|(known, _)| known == name) {
            let what = format!("[bans] skip: `{spec}` is not in {LOCK}");
            violations.push(Violation::new(DENY, 0, what, "remove the exception"));
        }
    }
    violations
}

/// Name and version of every locked package.
fn packages(lock: &str) -> Result<Vec<(String, String)>, String> {
    let table: toml::Table = lock.parse().map_err(|e| format!("it is not TOML: {e}"))?;
    let packages = table.get("package").and_then(toml::Value::as_array);
    let packages: Vec<_> = packages
        .into_iter()
        .flatten()
        .map(|package| (text(package, "name"), text(package, "version")))
        .collect();
    if packages.is_empty() {
        return Err("it names no package".to_owned());
    }
    Ok(packages)
}

fn judge(ban: &Ban, version: &str) -> Option<Violation> {
    let Ban { name, reason, .. } = ban;
    let range = ban.range.as_deref();
    match range.map_or(Ok(true), |range| lies_in(version, range)) {
        Ok(false) => None,
        Ok(true) => {
            let what = format!("{name} {version} is banned: {reason}");
            let mend = "raise it with `cargo update -p`, or do without";
            Some(Violation::new(LOCK, 0, what, mend))
        }
        Err(why) => {
            let mend = "write the range with plain comparators";
            Some(Violation::new(DENY, 0, format!("{name}: {why}"), mend))
        }
    }
}

/// Checks the licence of every package that `cargo metadata` resolved.
pub fn check_licences(deny: &str, metadata: &Value) -> Vec<Violation> {
    let table: toml::Table = deny.parse().unwrap_or_default();
    let strings = |list: &str| {
        entries(&table, "licenses", list)
            .iter()
            .filter_map(|v| v.as_str().map(str::to_owned))
            .collect::<Vec<_>>()
    };
    let allowed = strings("allow");
    let reached: BTreeSet<&str> = metadata["resolve"]["nodes"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|n| n["id"].as_str())
        .collect();
    let packages = metadata["packages"].as_array().cloned().unwrap_or_default();
    let mut violations = Vec::new();
    if reached.is_empty() {
        violations.push(Violation::new(
            LOCK,
            0,
            "cargo metadata resolved nothing",
            "ask for the dependencies too",
        ));
    }
    for package in packages
        .iter()
        .filter(|p| p["id"].as_str().is_some_and(|id| reached.contains(id)))
    {
        let licence = package["license"].as_str().unwrap_or_default();
        if !satisfied(licence, &allowed) {
            let name = package["name"].as_str().unwrap_or_default();
            let version = package["version"].as_str().unwrap_or_default();
            violations.push(Violation::new(
                LOCK,
                0,
                format!(
                    "{name} {version} has the licence `{licence}`, which {DENY} does not allow"
                ),
                "do without the crate, or allow the licence with a comment that says why",
            ));
        }
    }
    violations
}

/// The names of the workspace's foreign crates as they stand in code.
pub fn externs(tree: &Tree) -> Vec<String> {
    let root: toml::Table = tree
        .text("Cargo.toml")
        .unwrap_or_default()
        .parse()
        .unwrap_or_default();
    let dependencies = root
        .get("workspace")
        .and_then(|w| w.get("dependencies"))
        .and_then(toml::Value::as_table);
    dependencies
        .into_iter()
        .flat_map(|d| d.keys())
        .map(|name| name.replace('-', "_"))
        .collect()
}

fn entries(table: &toml::Table, section: &str, list: &str) -> Vec<toml::Value> {
    let list = table
        .get(section)
        .and_then(|s| s.get(list))
        .and_then(toml::Value::as_array);
    list.cloned().unwrap_or_default()
}

fn bans(table: &toml::Table) -> Vec<Ban> {
    let read = |entry: toml::Value| {
        let spec = text(&entry, "crate");
        let (name, range) = match spec.split_once('@') {
            Some((name, range)) => (name.to_owned(), Some(range.to_owned())),
            None => (spec, None),
        };
        Ban {
            name,
            range,
            reason: text(&entry, "reason"),
        }
    };
    entries(table, "bans", "deny")
        .into_iter()
        .map(read)
        .collect()
}

fn text(entry: &toml::Value, key: &str) -> String {
    let value = entry.get(key).and_then(toml::Value::as_str);
    value.unwrap_or_default().to_owned()
}
