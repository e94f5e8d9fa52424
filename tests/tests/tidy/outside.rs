//! The rules that need a tool's answer: arrows between crates, the macOS tree, what we depend on, playbooks.
//! Does NOT fail because a registry or a tool is missing: that is a loud skip.

use super::{clean, found, text};
use mlctl_tests::tidy::{cargo, crate_arrows, macos, playbook, repository_root, skips, supply};
use serde_json::{Value, json};
use std::path::Path;

/// Cargo's answer; `None` when the registry is out of reach, which is said loudly.
fn ask(test: &str, arguments: &[&str]) -> Option<cargo::Answer> {
    let answer = cargo::ask(&repository_root(), arguments).expect("cargo starts");
    if answer.registry_out_of_reach() {
        skips::skip(
            test,
            &format!("the registry is out of reach: {}", answer.err),
        );
        return None;
    }
    Some(answer)
}

fn metadata(test: &str, arguments: &[&str]) -> Option<Value> {
    let answer = ask(
        test,
        &[&["metadata", "--format-version", "1"], arguments].concat(),
    )?;
    assert!(answer.success, "cargo metadata: {}", answer.err);
    Some(serde_json::from_str(&answer.out).expect("cargo metadata prints JSON"))
}

#[test]
fn crate_arrows_stand() {
    let metadata = metadata("crate_arrows_stand", &["--no-deps"]).expect("needs no registry");
    clean("crate arrows", &crate_arrows::check(&metadata));
}

#[test]
fn crate_arrows_planted() {
    let package = |name: &str, to: &[&str]| {
        let dependencies: Vec<Value> = to
            .iter()
            .map(|name| json!({ "name": name, "kind": "dev" }))
            .collect();
        json!({ "name": name, "manifest_path": format!("/r/{name}/Cargo.toml"), "dependencies": dependencies })
    };
    let packages = [
        package(
            "mlctl-agent",
            &["mlctl-coordinator", "mlctl-proto", "raft", "nvml-wrapper"],
        ),
        package("mlctl-coordinator", &["mlctl-blobs", "sled", "raft"]),
        package("mlctl-proto", &["mlctl-runtime", "prost"]),
        package("mlctl-blobs", &["mlctl"]),
        package("mlctl-runtime", &[]),
        package("mlctl", &["mlctl-agent", "sled"]),
        package("mlctl-tests", &["mlctl-agent", "mlctl-coordinator"]),
        package("mlctl-new", &[]),
    ];
    let expect = [
        (
            "mlctl-agent/Cargo.toml",
            0,
            "depends on `mlctl-coordinator`",
        ),
        ("mlctl-agent/Cargo.toml", 0, "depends on `raft`"),
        ("mlctl-proto/Cargo.toml", 0, "depends on `mlctl-runtime`"),
        ("mlctl-blobs/Cargo.toml", 0, "depends on `mlctl`"),
        ("mlctl/Cargo.toml", 0, "depends on `sled`"),
        ("mlctl-new/Cargo.toml", 0, "has no place"),
    ];
    found(
        &crate_arrows::check(&json!({ "workspace_root": "/r", "packages": packages })),
        &expect,
    );
    found(
        &crate_arrows::check(&json!({})),
        &[("Cargo.toml", 0, "names no crate")],
    );
}

#[test]
fn macos_builds_the_command_line_alone() {
    let [linux, mac] = cargo::PLATFORMS;
    let Some(answer) = ask(
        "macos_builds_the_command_line_alone",
        &macos::question(linux),
    ) else {
        return;
    };
    // Without this line the rule could not fail: the library is there where the daemons are.
    assert_eq!(
        macos::found(&answer),
        Ok(true),
        "on Linux the daemons need {}",
        macos::ABSENT
    );
    if let Some(answer) = ask("macos_builds_the_command_line_alone", &macos::question(mac)) {
        clean("macOS", &macos::check(&answer).expect("cargo tree answers"));
    }
}

#[test]
fn macos_planted() {
    let answer = |success, out: &str, err: &str| cargo::Answer {
        success,
        out: out.to_owned(),
        err: err.to_owned(),
    };
    let tree = answer(
        true,
        "protobuf-build v0.14.1\n[build-dependencies]\n└── raft-proto v0.7.0\n",
        "",
    );
    found(
        &macos::check(&tree).expect("an answer"),
        &[("cli/Cargo.toml", 0, "raft-proto")],
    );
    let unknown = answer(
        false,
        "",
        "error: package ID specification `protobuf-build` did not match any packages",
    );
    found(&macos::check(&unknown).expect("an answer"), &[]);
    macos::check(&answer(false, "", "error: something else")).expect_err("no answer is no success");
    macos::check(&answer(true, "", "")).expect_err("no answer is no success");
}

#[test]
fn supply_stands() {
    let deny = text(supply::DENY);
    clean("deny.toml", &supply::check_deny(&deny));
    clean("bans", &supply::check_lock(&deny, &text("Cargo.lock")));
    for platform in cargo::PLATFORMS {
        if let Some(metadata) = metadata("supply_stands", &["--filter-platform", platform]) {
            clean("licences", &supply::check_licences(&deny, &metadata));
        }
    }
}

#[test]
fn supply_planted() {
    let deny = text(supply::DENY);
    let silent = deny
        .replace("crate = \"users\", reason", "crate = \"users\", note")
        .replace("{ crate = \"ring@<0.17.12\"", "{ crate = \"rong@<0.17.12\"");
    let expect = [
        (supply::DENY, 0, "\"users\""),
        (supply::DENY, 0, "no version of `ring`"),
    ];
    found(&supply::check_deny(&silent), &expect);
    let every = supply::check_deny(
        "[advisories]\nignore = [\"RUSTSEC-2024-0437\"]\n[bans]\nskip = [{ crate = \"a\", reason = \"so\" }]\n",
    );
    assert!(
        every.iter().any(|v| v.what.contains("RUSTSEC-2024-0437"))
            && every.iter().any(|v| v.what.contains("skip")),
        "{every:?}"
    );
    assert!(
        every
            .iter()
            .any(|v| v.what.contains("`openssl` is not banned")),
        "{every:?}"
    );
}

#[test]
fn bans_planted() {
    let deny = text(supply::DENY);
    let lock = |name: &str, version: &str| {
        format!("version = 4\n[[package]]\nname = \"{name}\"\nversion = \"{version}\"\n")
    };
    for (name, version, banned) in [
        ("openssl", "0.10.70", true),
        ("bincode", "3.0.0", true),
        ("quinn-proto", "0.11.14", true),
        ("quinn-proto", "0.11.15", false),
        ("rand", "0.9.2", true),
        ("rand", "0.9.3", false),
        ("rand", "0.10.0", true),
        ("rand", "0.8.5", true),
        ("crossbeam-epoch", "0.9.19", true),
        ("ring-like", "0.1.0", false),
    ] {
        let violations = supply::check_lock(&deny, &lock(name, version));
        assert_eq!(
            !violations.is_empty(),
            banned,
            "{name} {version}: {violations:?}"
        );
    }
    found(
        &supply::check_lock(&deny, ""),
        &[("Cargo.lock", 0, "names no package")],
    );
}

#[test]
fn licences_planted() {
    let deny = text(supply::DENY);
    let metadata = |licence: Value| json!({ "packages": [{ "id": "a", "name": "a", "version": "1.0.0", "license": licence }], "resolve": { "nodes": [{ "id": "a" }] } });
    found(
        &supply::check_licences(&deny, &metadata(json!("MIT OR GPL-3.0"))),
        &[],
    );
    found(
        &supply::check_licences(&deny, &metadata(json!("GPL-3.0"))),
        &[("Cargo.lock", 0, "a 1.0.0")],
    );
    found(
        &supply::check_licences(&deny, &metadata(Value::Null)),
        &[("Cargo.lock", 0, "a 1.0.0")],
    );
    found(
        &supply::check_licences(&deny, &json!({})),
        &[("Cargo.lock", 0, "resolved nothing")],
    );
}

#[test]
fn playbooks_stand() {
    match playbook::check(&repository_root().join(playbook::FOLDER)).expect("the folder is there") {
        Some(violations) => clean("playbooks", &violations),
        None => skips::skip("playbooks_stand", "ansible is not installed"),
    }
}

#[test]
fn playbooks_planted() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let check = |folder: &Path| playbook::check(folder).expect("the folder is there");
    std::fs::write(
        folder.path().join("site.yml"),
        "- hosts: all\n  tasks:\n    - no_such_word_here: {a: 1}\n      nor_this: 2\n",
    )
    .expect("a file");
    let Some(violations) = check(folder.path()) else {
        skips::skip("playbooks_planted", "ansible is not installed");
        return;
    };
    found(
        &violations,
        &[("ansible/site.yml", 0, "--syntax-check says")],
    );
    std::fs::remove_file(folder.path().join("site.yml")).expect("the file is there");
    found(
        &check(folder.path()).unwrap_or_default(),
        &[("ansible", 0, "no playbook")],
    );
}
