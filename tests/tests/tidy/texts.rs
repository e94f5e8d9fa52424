//! The rules that look at texts alone: headers, sizes, words, unsafe code, arrows between modules, the top level.
//! Does NOT ask any tool.

use super::{clean, found, text, tree};
use mlctl_tests::tidy::{Tree, headers, module_arrows, sizes, top_level, unsafety, words};

#[test]
fn headers_stand() {
    clean("headers", &headers::check(&tree()));
}

#[test]
fn headers_planted() {
    let good = ("a/src/good.rs", "//! Reads a thing from a place.\n");
    let tree = Tree::of(&[
        good,
        ("a/src/bare.rs", "fn main() {}\n"),
        ("a/src/short.rs", "//! x\n"),
        ("a/src/empty.rs", ""),
        ("a/notes.md", "x"),
    ]);
    let expect = [
        ("a/src/bare.rs", 1, "does not open"),
        ("a/src/empty.rs", 1, "does not open"),
        ("a/src/short.rs", 1, "does not open"),
    ];
    found(&headers::check(&tree), &expect);
}

#[test]
fn sizes_stand() {
    clean("sizes", &sizes::check(&tree(), &text(sizes::RATCHET)));
}

#[test]
fn sizes_planted() {
    let body = |lines: usize| format!("fn f() {{\n{}}}\n", "    g();\n".repeat(lines - 2));
    let (fits, long) = (body(70), body(71));
    let big = "\n".repeat(601);
    let tree = Tree::of(&[
        ("a/fits.rs", &fits),
        ("a/long.rs", &long),
        ("a/big.rs", &big),
    ]);
    let two = [
        ("a/big.rs", 0, "has 601 lines"),
        ("a/long.rs", 1, "has 71 lines"),
    ];
    found(&sizes::check(&tree, ""), &two);
    // A ratchet that lists both sizes as they are is content.
    found(
        &sizes::check(
            &tree,
            "[files]\n\"a/big.rs\" = 601\n[functions]\n\"a/long.rs#f\" = 71\n",
        ),
        &[],
    );
    let stale = "[files]\n\"a/big.rs\" = 700\n\"a/gone.rs\" = 800\n[functions]\n\"a/long.rs#f\" = 70\n\"a/fits.rs#f\" = 90\n";
    let expect = [
        ("a/big.rs", 0, "shrank from 700"),
        (sizes::RATCHET, 0, "`a/gone.rs` exists"),
        ("a/long.rs", 1, "grew from 70"),
        ("a/fits.rs", 1, "only 70 lines"),
    ];
    found(&sizes::check(&tree, stale), &expect);
    found(
        &sizes::check(&Tree::default(), "[file]\n"),
        &[(sizes::RATCHET, 0, "unknown table")],
    );
    found(
        &sizes::check(&Tree::default(), "["),
        &[(sizes::RATCHET, 0, "not TOML")],
    );
}

#[test]
fn module_arrows_stand() {
    clean("module arrows", &module_arrows::check(&tree()));
}

#[test]
fn module_arrows_planted() {
    let scheduler = "use crate::state::{view::ClusterView, rules};\nuse crate::state::records::Job;\nuse crate::state;\nuse super::state::*;\n";
    let tree = Tree::of(&[
        ("coordinator/src/scheduler/mod.rs", scheduler),
        (
            "coordinator/src/scheduler/order.rs",
            "fn a() { tonic::Status::ok() }\n#[cfg(test)] mod tests { use crate::state::commands::X; }\n",
        ),
        (
            "coordinator/src/state/mod.rs",
            "// crate::scheduler::plan\nuse crate::scheduler::plan;\n",
        ),
        (
            "coordinator/src/consensus/mod.rs",
            "use raft::RawNode;\nuse raft_engine::Engine;\nuse crate::{state::Command, scheduler};\n",
        ),
        (
            "coordinator/src/store/mod.rs",
            "use sled;\nuse nvml_wrapper::Nvml;\n",
        ),
        (
            "coordinator/src/api/mod.rs",
            "fn a() { sled::open(p) }\nuse crate::consensus::raft::x;\nuse tonic::Status;\n",
        ),
        ("agent/src/devices/nvml.rs", "use nvml_wrapper::Nvml;\n"),
        ("agent/src/devices/mod.rs", "use nvml_wrapper::Nvml;\n"),
        ("agent/src/core/mod.rs", "use tonic;\n"),
    ]);
    let expect = [
        (
            "coordinator/src/scheduler/mod.rs",
            2,
            "`crate::state::records::Job`",
        ),
        ("coordinator/src/scheduler/mod.rs", 3, "`crate::state`"),
        ("coordinator/src/scheduler/mod.rs", 4, "`crate::state::*`"),
        (
            "coordinator/src/scheduler/order.rs",
            1,
            "`tonic::Status::ok`",
        ),
        (
            "coordinator/src/state/mod.rs",
            2,
            "`crate::scheduler::plan`",
        ),
        (
            "coordinator/src/consensus/mod.rs",
            3,
            "`crate::state::Command`",
        ),
        ("coordinator/src/store/mod.rs", 2, "`nvml_wrapper::Nvml`"),
        ("coordinator/src/api/mod.rs", 1, "`sled::open`"),
        ("agent/src/devices/mod.rs", 1, "`nvml_wrapper::Nvml`"),
        ("agent/src/core/mod.rs", 1, "`tonic`"),
    ];
    found(&module_arrows::check(&tree), &expect);
}

#[test]
fn words_stand() {
    clean("words", &words::check(&tree()));
}

#[test]
fn words_planted() {
    let path = ["see /wor", "k/notes"].concat();
    let plan = ["as DES", "IGN §3 says\n"].concat();
    let number = ["Fixes Iss", "ue #12.\n"].concat();
    let mark = ["// FIX", "ME later\n"].concat();
    let left = "fn a() { todo!() }\nfn b() { unimplemented!(\"x\") }\nfn c() { dbg!(1); }\n#[ignore = \"slow\"]\n#[test] fn d() {}\n";
    let fine = "target/work/x {}/work/ reissue 12, an issue of 3 kinds\n";
    let tree = Tree::of(&[
        ("README.md", &path),
        ("docs/A.md", &plan),
        ("docs/B.md", &number),
        ("a/src/a.rs", &mark),
        ("a/src/b.rs", left),
        (
            "a/src/c.rs",
            "// todo!() in a comment\nconst A: &str = \"dbg!(x) #[ignore]\";\n",
        ),
        ("docs/C.md", fine),
    ]);
    let expect = [
        ("README.md", 1, "machine"),
        ("docs/A.md", 1, "a word of the place"),
        ("docs/B.md", 1, "outside of the repository"),
        ("a/src/a.rs", 1, "unfinished"),
        ("a/src/b.rs", 1, "`todo!`"),
        ("a/src/b.rs", 2, "`unimplemented!`"),
        ("a/src/b.rs", 3, "`dbg!`"),
        ("a/src/b.rs", 4, "ignored"),
    ];
    found(&words::check(&tree), &expect);
}

#[test]
fn unsafety_stands() {
    clean("unsafe", &unsafety::check(&tree()));
}

#[test]
fn unsafety_planted() {
    let tree = Tree::of(&[
        (
            "agent/src/lib.rs",
            "#![deny(unsafe_code)]\n#[allow(unsafe_code)]\npub mod keeper;\n#[allow(unsafe_code)]\nmod link;\n",
        ),
        (
            "agent/src/keeper/mod.rs",
            "#![allow(unsafe_code)]\n// SAFETY: it holds.\nfn a() { unsafe { b() } }\n",
        ),
        (
            "agent/src/launcher/mod.rs",
            "fn a() { unsafe { b() } }\nunsafe fn c() {}\n",
        ),
        (
            "agent/src/link.rs",
            "// unsafe\nfn a() { unsafe { b() } }\n",
        ),
        ("blobs/src/lib.rs", "//! X.\n// #![forbid(unsafe_code)]\n"),
        ("cli/src/main.rs", "#![forbid( unsafe_code )]\n"),
        (
            "tests/fake-nvml/src/lib.rs",
            "#[unsafe(no_mangle)]\nextern \"C\" fn a() {}\n",
        ),
    ]);
    let expect = [
        ("agent/src/lib.rs", 4, "allowed here"),
        ("agent/src/launcher/mod.rs", 1, "SAFETY"),
        ("agent/src/link.rs", 2, "unsafe code"),
        ("blobs/src/lib.rs", 0, "lacks `#![forbid(unsafe_code)]`"),
    ];
    found(&unsafety::check(&tree), &expect);
}

#[test]
fn top_level_stands() {
    clean("top level", &top_level::check(&tree()));
}

#[test]
fn top_level_planted() {
    let mut tree = tree();
    let before = top_level::check(&tree).len();
    tree.paths.push("scratch/notes.txt".to_owned());
    tree.paths.retain(|p| p != "LICENSE");
    let violations = top_level::check(&tree);
    assert_eq!(violations.len(), before + 2, "{violations:?}");
    assert!(
        violations.iter().any(|v| v.path == "scratch")
            && violations.iter().any(|v| v.path == "LICENSE"),
        "{violations:?}"
    );
}
