//! Rule: `cli -> {coordinator, agent} -> {blobs, runtime} -> proto`, and foreign libraries in one crate only.
//! Does NOT look at modules (see `module_arrows`).

use super::Violation;
use serde_json::Value;

/// Which crates of the workspace a crate may depend on, for building and for its tests.
const ARROWS: &[(&str, &[&str])] = &[
    (
        "mlctl",
        &[
            "mlctl-agent",
            "mlctl-coordinator",
            "mlctl-blobs",
            "mlctl-runtime",
            "mlctl-proto",
        ],
    ),
    (
        "mlctl-coordinator",
        &["mlctl-blobs", "mlctl-runtime", "mlctl-proto"],
    ),
    (
        "mlctl-agent",
        &["mlctl-blobs", "mlctl-runtime", "mlctl-proto"],
    ),
    ("mlctl-blobs", &["mlctl-proto"]),
    ("mlctl-runtime", &["mlctl-proto"]),
    ("mlctl-proto", &[]),
];

/// Crates that may see everything: nothing depends on them.
const TESTS: [&str; 2] = ["mlctl-tests", "mlctl-fake-nvml"];

/// A foreign library and the crates that may depend on it.
const DOORS: &[(&str, &[&str])] = &[
    ("sled", &["mlctl-coordinator"]),
    ("raft", &["mlctl-coordinator"]),
    ("raft-engine", &["mlctl-coordinator"]),
    ("nvml-wrapper", &["mlctl-agent"]),
    ("quinn", &["mlctl-blobs"]),
    ("object_store", &["mlctl-blobs"]),
    ("reqwest", &["mlctl-blobs"]),
];

/// Checks `cargo metadata --no-deps`.
pub fn check(metadata: &Value) -> Vec<Violation> {
    let mut violations = Vec::new();
    let packages = metadata["packages"].as_array().cloned().unwrap_or_default();
    let names: Vec<&str> = packages.iter().filter_map(|p| p["name"].as_str()).collect();
    if names.is_empty() {
        return vec![Violation::new(
            "Cargo.toml",
            0,
            "cargo metadata names no crate",
            "mend the workspace",
        )];
    }
    for package in &packages {
        let name = package["name"].as_str().unwrap_or_default();
        let manifest = manifest_of(metadata, package);
        let arrows = ARROWS
            .iter()
            .find(|(from, _)| *from == name)
            .map(|(_, to)| *to);
        if arrows.is_none() && !TESTS.contains(&name) {
            let mend = "add it to tests/src/tidy/crate_arrows.rs and to docs/ARCHITECTURE.md";
            violations.push(Violation::new(
                &manifest,
                0,
                format!("the crate `{name}` has no place among the arrows"),
                mend,
            ));
        }
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            let to = dependency["name"].as_str().unwrap_or_default();
            if let Some(allowed) = arrows
                && names.contains(&to)
                && !allowed.contains(&to)
            {
                violations.push(Violation::new(
                    &manifest,
                    0,
                    format!("`{name}` depends on `{to}`"),
                    "arrows point one way, cli -> {coordinator, agent} -> {blobs, runtime} -> proto: move what is shared down",
                ));
            }
            if let Some((_, doors)) = DOORS.iter().find(|(foreign, _)| *foreign == to)
                && !doors.contains(&name)
            {
                let what = format!("`{name}` depends on `{to}`");
                violations.push(Violation::new(
                    &manifest,
                    0,
                    what,
                    format!("only {} may", doors.join(", ")),
                ));
            }
        }
    }
    violations
}

fn manifest_of(metadata: &Value, package: &Value) -> String {
    let root = metadata["workspace_root"].as_str().unwrap_or_default();
    let path = package["manifest_path"].as_str().unwrap_or_default();
    path.strip_prefix(root)
        .unwrap_or(path)
        .trim_start_matches('/')
        .to_owned()
}
