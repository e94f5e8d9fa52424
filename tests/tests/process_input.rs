//! Bad input at the command line: every row is refused with a text that names the fault, and nothing changes.
//! Does NOT test what the spec's own tests cover: here the whole way to the exit code is walked.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use mlctl_runtime::config::ContextFile;
use mlctl_tests::process::{Cluster, command};

/// A spec file's name, its text, and what the refusal must say.
const SPECS: [(&str, &str, &[&str]); 19] = [
    ("empty.toml", "", &["command", "missing"]),
    ("syntax.toml", "command = [", &["bad job spec"]),
    (
        "binary.toml",
        "command = '\u{1}\u{2}\u{fffd}",
        &["bad job spec"],
    ),
    (
        "typo.toml",
        "comand = ['true']",
        &["`comand`", "did you mean `command`"],
    ),
    (
        "node.toml",
        "command = ['true']\nnode = 2",
        &["`node`", "did you mean `nodes`"],
    ),
    (
        "planned.toml",
        "command = ['true']\nidle = '3h'",
        &["`idle`", "does not support it yet"],
    ),
    (
        "launcher.toml",
        "command = ['true']\nlauncher = 'torchrum'",
        &["launcher", "torchrun"],
    ),
    (
        "nodes-zero.toml",
        "command = ['true']\nnodes = 0",
        &["nodes", "is 0"],
    ),
    (
        "nodes-negative.toml",
        "command = ['true']\nnodes = -1",
        &["nodes", "-1"],
    ),
    (
        "nodes-float.toml",
        "command = ['true']\nnodes = 1.5",
        &["nodes", "1.5"],
    ),
    (
        "nodes-many.toml",
        "command = ['true']\nnodes = 99999999999",
        &["nodes"],
    ),
    (
        "gpus-negative.toml",
        "command = ['true']\ngpus = -8",
        &["gpus", "-8"],
    ),
    (
        "ranks-zero.toml",
        "command = ['true']\nranks = 0",
        &["ranks", "is 0"],
    ),
    ("no-words.toml", "command = []", &["command"]),
    ("quote.toml", "command = \"echo 'unfinished\"", &["command"]),
    (
        "owned.toml",
        "command = ['true']\nenv = { MLCTL_JOB = '1' }",
        &["MLCTL_"],
    ),
    (
        "climb.toml",
        "command = ['true']\ncheckpoint = { dir = '../out' }",
        &["checkpoint.dir", "relative path"],
    ),
    ("list.json", "[1, 2]", &["expected a table"]),
    ("half.json", "{\"command\": [\"true\"]", &["bad job spec"]),
];

/// A command line, and what the refusal must say.
const LINES: [(&str, &[&str]); 13] = [
    ("submit no-such.toml", &["no-such.toml", "No such file"]),
    ("submit", &["nothing to run"]),
    ("submit --no-code --nodes 0 -- true", &["nodes", "is 0"]),
    ("submit --no-code --nodes -2 -- true", &["nodes", "-2"]),
    (
        "submit --no-code --nodes two -- true",
        &["`nodes` is \"two\"", "range"],
    ),
    (
        "submit --no-code --launcher mpirun -- true",
        &["launcher", "mpirun"],
    ),
    (
        "submit --no-code --env NAME -- true",
        &["--env NAME", "KEY=VALUE"],
    ),
    ("submit --code no-such-dir -- true", &["no-such-dir"]),
    (
        "submit --no-code --checkpoint-dir /abs -- true",
        &["checkpoint.dir"],
    ),
    ("submit --no-cod -- true", &["--no-code"]),
    ("sumbit", &["submit"]),
    ("show not-a-number", &["not-a-number"]),
    ("cancel", &["JOB"]),
];

#[test]
fn bad_specs_and_flags_change_nothing() {
    let cluster = Cluster::start(1, 0);
    let work = cluster.work();
    for (name, text, words) in SPECS {
        fs::write(work.join(name), text).expect("written");
        let output = cluster.mlctl(&["submit", "--no-code", name]);
        output.refused(64, &[&[name], words].concat());
    }
    let long = format!(
        "command = ['true']\nenv = {{ A = '{}' }}\n",
        "x".repeat(70_000)
    );
    fs::write(work.join("long.toml"), long).expect("written");
    cluster
        .mlctl(&["submit", "--no-code", "long.toml"])
        .refused(64, &["long.toml", "65536"]);
    for (line, words) in LINES {
        let arguments: Vec<&str> = line.split(' ').collect();
        cluster.mlctl(&arguments).refused(64, words);
    }
    let huge = "x".repeat(100_000);
    cluster
        .mlctl(&["submit", "--no-code", "--", "true", &huge])
        .refused(64, &["65536"]);
    for arguments in [
        ["show", "12345"],
        ["why", "12345"],
        ["logs", "12345"],
        ["wait", "12345"],
        ["cancel", "12345"],
    ] {
        cluster.mlctl(&arguments).refused(66, &["12345"]);
    }
    assert_eq!(
        cluster.json(&["jobs", "-a"])["jobs"],
        serde_json::json!([]),
        "nothing was queued"
    );
    assert_eq!(cluster.submit(&["--", "true"]), "1");
}

/// The context of a cluster with other addresses in it.
fn with_addresses(cluster: &Cluster, name: &str, addresses: &[&str]) -> PathBuf {
    let mut context = ContextFile::read(&cluster.context()).expect("a context");
    context.addresses = addresses
        .iter()
        .map(|&address| address.to_owned())
        .collect();
    let file = cluster.work().join(name);
    context.write(&file).expect("written");
    file
}

#[test]
fn dead_and_foreign_coordinators_are_told_apart() {
    let cluster = Cluster::start(1, 0);
    // The address is this test's alone and nobody listens on it.
    let nobody = "127.0.7.7:9";
    let dead = with_addresses(&cluster, "dead.toml", &[nobody]);
    let output = cluster.mlctl_as(&dead, &["jobs"]).refused(69, &[nobody]);
    assert!(output.wall < Duration::from_secs(20), "{}", output.text());
    // One dead address among living ones costs nothing but a moment.
    let living = cluster.leader().address;
    let mixed = with_addresses(&cluster, "mixed.toml", &[nobody, &living]);
    let output = cluster
        .mlctl_as(&mixed, &["submit", "-q", "--no-code", "--", "true"])
        .expect(0);
    assert!(output.wall < Duration::from_secs(3), "{}", output.text());
    // Another cluster's certificate gets nowhere, and is told so.
    let other = Cluster::prepare();
    let ca = other.work().join("ca");
    let (ca, out) = (ca.to_string_lossy(), other.work().join("stranger.toml"));
    other
        .mlctl(&["admin", "init", "--dir", &ca, "--coordinator", &living])
        .expect(0);
    other
        .mlctl(&[
            "admin",
            "user",
            "add",
            "stranger",
            "--admin",
            "--ca",
            &ca,
            "--out",
            &out.to_string_lossy(),
        ])
        .expect(0);
    other
        .mlctl_as(&out, &["jobs"])
        .refused(69, &["not part of"]);
    // No context at all, and one that others can read.
    let none = cluster.work().join("none.toml");
    cluster
        .mlctl_as(&none, &["jobs"])
        .refused(78, &["none.toml", "does not exist"]);
    let open = cluster.work().join("open.toml");
    fs::copy(cluster.context(), &open).expect("copied");
    fs::set_permissions(&open, fs::Permissions::from_mode(0o644)).expect("changed");
    cluster
        .mlctl_as(&open, &["jobs"])
        .refused(78, &["open.toml"]);
}

#[test]
fn a_dev_cluster_says_what_it_cannot_do() {
    let cluster = Cluster::prepare();
    cluster
        .mlctl(&["dev", "status"])
        .refused(66, &["mlctl dev --detach"]);
    cluster
        .mlctl(&["dev", "--detach", "--nodes", "0"])
        .refused(64, &["--nodes 0"]);
    cluster
        .mlctl(&["dev", "--detach", "--nodes", "65"])
        .refused(64, &["64"]);
    let long = format!("/tmp/{}", "x".repeat(80));
    cluster
        .mlctl(&["dev", "--detach", "--dir", &long])
        .refused(64, &["shorter"]);
    cluster.mlctl(&["version"]).expect(0);
    let version = command::run(cluster.command(&["--version", "-v"]), command::DEADLINE).expect(0);
    let cfgs = version
        .lines()
        .into_iter()
        .find(|line| line.starts_with("cfgs"))
        .unwrap_or_else(|| panic!("{}", version.text()));
    assert!(
        !cfgs.contains("mlctl_mutants"),
        "a planted bug is built in: {cfgs}"
    );
    assert!(version.stdout.contains("protocol"), "{}", version.text());
}
