//! The rules that keep pure code pure: what it may name, and the clippy fence around it.
//! Does NOT look at a particular pure folder: the list is in `mlctl_tests::tidy::purity`.

use super::{clean, found, text, tree};
use mlctl_tests::tidy::{Tree, fence, purity, skips, supply};
use std::process::Command;

#[test]
fn purity_stands() {
    let tree = tree();
    let externs = supply::externs(&tree);
    assert!(
        externs.iter().any(|e| e == "tokio"),
        "the foreign crates are read from Cargo.toml: {externs:?}"
    );
    clean("purity", &purity::check(&tree, purity::PURE, &externs));
}

/// One line of a pure file, the fence in order: what is said about it?
fn check_pure(line: &str, expect: &[&str]) {
    let place = purity::Pure {
        place: "agent/src/core",
        crates: &["thiserror"],
        also: &["crate::limits::MAX"],
        later: false,
    };
    let head = "//! Pure.\n#![deny(clippy::disallowed_methods, clippy::disallowed_types, clippy::float_arithmetic)]\n";
    let tree = Tree::of(&[
        ("agent/src/core/mod.rs", &format!("{head}{line}\n")),
        ("agent/src/link.rs", "use tokio::spawn;"),
    ]);
    let externs = ["tokio", "tracing", "rand", "thiserror", "mlctl_proto"].map(String::from);
    let violations = purity::check(&tree, &[place], &externs);
    let expect: Vec<_> = expect
        .iter()
        .map(|part| ("agent/src/core/mod.rs", 3, *part))
        .collect();
    found(&violations, &expect);
}

#[test]
fn purity_planted() {
    check_pure("async fn a() {}", &["`async`"]);
    check_pure("fn a() { b.await }", &["`await`"]);
    check_pure("fn a() { std::fs::read(p); }", &["`std::fs::read`"]);
    check_pure(
        "use std::{env, net::IpAddr};",
        &["`std::env`", "`std::net::IpAddr`"],
    );
    check_pure("use std::process as p;", &["`std::process`"]);
    check_pure(
        "fn a() { ::std::thread::sleep(d) }",
        &["`std::thread::sleep`"],
    );
    check_pure("use std::time::Instant as T;", &["`std::time::Instant`"]);
    check_pure(
        "fn a() { core::time::x(); std::time::SystemTime::now() }",
        &["SystemTime::now"],
    );
    check_pure("use std::time;", &["`std::time`"]);
    check_pure("use std::*;", &["`std::*`"]);
    check_pure("fn a() { tokio::spawn(x) }", &["the crate `tokio`"]);
    check_pure("use tracing::info;", &["the crate `tracing`"]);
    check_pure("fn a() { tracing::warn!(b) }", &["the crate `tracing`"]);
    check_pure("fn a() { rand::random() }", &["the crate `rand`"]);
    check_pure(
        "type A = std::collections::HashMap<u8, u8>;",
        &["`HashMap`", "`std::collections::HashMap`"],
    );
    check_pure("struct A(HashSet<u8>);", &["`HashSet`"]);
    check_pure("fn a(x: f64) -> f32 { x }", &["`f64`", "`f32`"]);
    check_pure("const A: u8 = 1.5 as u8;", &["a float"]);
    check_pure("fn a() { println!(b) }", &["`println!`"]);
    check_pure(
        "use crate::link::Link;",
        &["`crate::link::Link` is not pure"],
    );
    check_pure("use super::link;", &["`crate::link` is not pure"]);
    check_pure("use mlctl_proto::rpc::x;", &["`mlctl_proto::rpc::x`"]);
}

#[test]
fn purity_lets_through() {
    check_pure("// async std::fs::read tokio::spawn 1.5 f64", &[]);
    check_pure("const A: &str = \"async HashMap 1.5\";", &[]);
    check_pure(
        "use std::{collections::BTreeMap, time::Duration, fmt};",
        &[],
    );
    check_pure("use core::net::IpAddr;", &[]);
    check_pure(
        "use mlctl_proto::{ids::JobId, units::Millis, spec, limits, errors, persist};",
        &[],
    );
    check_pure(
        "use crate::core::x; use super::core::y; use crate::limits::MAX; use self::z;",
        &[],
    );
    check_pure("#[derive(thiserror::Error)] struct A;", &[]);
    check_pure(
        "#[cfg(test)] mod tests { use std::fs; fn a(x: f64) {} }",
        &[],
    );
}

#[test]
fn purity_wants_the_fence_and_the_place() {
    let place = |place| purity::Pure {
        place,
        crates: &[],
        also: &[],
        later: false,
    };
    let later = |name| purity::Pure {
        later: true,
        ..place(name)
    };
    let half = "//! X.\n#![deny(clippy::disallowed_methods)]\n";
    let tests = "#[cfg(test)]\nmod tests;\n";
    let tree = Tree::of(&[
        ("a/src/half/mod.rs", &format!("{half}{tests}")),
        ("a/src/early/mod.rs", "//! X.\n"),
        ("a/src/half/tests.rs", "use std::fs;"),
        (
            "a/src/more.rs",
            "//! X.\n#![deny(clippy::disallowed_methods, clippy::disallowed_types, clippy::float_arithmetic)]\n",
        ),
        (
            "a/src/none.rs",
            "// #![deny(clippy::disallowed_methods, clippy::disallowed_types, clippy::float_arithmetic)]",
        ),
    ]);
    let violations = purity::check(
        &tree,
        &[
            place("a/src/half"),
            place("a/src/none"),
            place("a/src/gone"),
            later("a/src/not_yet"),
            later("a/src/early"),
        ],
        &[],
    );
    let expect = [
        ("a/src/half/mod.rs", 0, "fence is missing"),
        ("a/src/none.rs", 0, "fence is missing"),
        ("a/src/gone", 0, "does not exist"),
        ("a/src/early/mod.rs", 0, "fence is missing"),
        ("a/src/more.rs", 0, "not listed as pure"),
    ];
    found(&violations, &expect);
}

#[test]
fn fence_stands() {
    clean("fence", &fence::check(&tree()));
}

#[test]
fn fence_planted() {
    let root =
        "[workspace.lints.clippy]\ndisallowed_methods = \"allow\"\ndisallowed_types = \"deny\"\n";
    let listed = text(fence::CLIPPY)
        .replace("reason = \"seeds are arguments\"", "reason = \"\"")
        .replace("std::env::var\"", "std::env::foo\"");
    let tree = Tree::of(&[
        (fence::CLIPPY, &listed),
        ("Cargo.toml", root),
        ("a/Cargo.toml", "[package]\nname = \"a\"\n"),
    ]);
    let violations = fence::check(&tree);
    let reasons = listed.matches("reason = \"\"").count();
    assert!(reasons > 0);
    let mut expect = vec![
        (fence::CLIPPY, 0, "`std::env::var` is not listed"),
        ("Cargo.toml", 0, "disallowed_types"),
        ("a/Cargo.toml", 0, "workspace's lints"),
    ];
    expect.extend(std::iter::repeat_n(
        (fence::CLIPPY, 0, "has no reason"),
        reasons,
    ));
    found(&violations, &expect);
}

/// The fence is not only written: clippy refuses a pure module that breaks it, child files too, and lets its neighbour be.
#[test]
fn fence_bites() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let write = |path: &str, text: &str| {
        let path = folder.path().join(path);
        std::fs::create_dir_all(path.parent().expect("a file lies in a folder")).expect("a folder");
        std::fs::write(path, text).expect("a file");
    };
    let lints = "[lints.clippy]\ndisallowed_methods = \"allow\"\ndisallowed_types = \"allow\"\n";
    write(
        "Cargo.toml",
        &format!(
            "[package]\nname = \"planted\"\nversion = \"0.1.0\"\nedition = \"2024\"\n[workspace]\n{lints}"
        ),
    );
    write(
        "Cargo.lock",
        "version = 4\n\n[[package]]\nname = \"planted\"\nversion = \"0.1.0\"\n",
    );
    write(fence::CLIPPY, &text(fence::CLIPPY));
    let impure = "pub fn a(x: f64) -> f64 {\n    let _ = std::time::Instant::now();\n    let _ = std::env::var(\"A\");\n    let _ = std::fs::read(\"a\");\n    let _: std::collections::HashMap<u8, u8> = Default::default();\n    x + x\n}\n";
    write("src/lib.rs", "pub mod driver;\npub mod pure;\n");
    write("src/driver.rs", impure);
    let fence_line = "#![deny(clippy::disallowed_methods, clippy::disallowed_types, clippy::float_arithmetic)]\n";
    write("src/pure/mod.rs", &format!("{fence_line}pub mod child;\n"));
    write("src/pure/child.rs", impure);
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command
        .args(["clippy", "--offline", "--quiet"])
        .current_dir(folder.path());
    command
        .env("CARGO_TARGET_DIR", folder.path().join("target"))
        .env("CARGO_TERM_COLOR", "never");
    for name in [
        "RUSTFLAGS",
        "CARGO_ENCODED_RUSTFLAGS",
        "RUSTC_WORKSPACE_WRAPPER",
        "CLIPPY_CONF_DIR",
    ] {
        command.env_remove(name);
    }
    let output = command.output().expect("cargo starts");
    let said = String::from_utf8_lossy(&output.stderr);
    if said.contains("no such command") || said.contains("is not installed") {
        skips::skip("fence_bites", "clippy is not installed");
        return;
    }
    assert!(!output.status.success(), "clippy let it through:\n{said}");
    for part in [
        "Instant::now",
        "env::var",
        "fs::read",
        "HashMap",
        "`f64`",
        "floating-point",
    ] {
        assert!(said.contains(part), "clippy did not see {part}:\n{said}");
    }
    assert!(!said.contains("driver.rs"), "the driver may do it:\n{said}");
}
