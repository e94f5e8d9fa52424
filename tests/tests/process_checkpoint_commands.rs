//! What people do with checkpoints, on real processes: list, show, fetch, verify, push, count, pin and remove. A copy that the disk changed is found, and made anew.
//! Does NOT kill anything.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use mlctl_tests::process::Cluster;
use mlctl_tests::process::tool::missing;
use mlctl_tests::process::workload::nap;
use mlctl_tests::tidy::skips::skip;
use serde_json::Value;

const SOON: Duration = Duration::from_secs(20);
/// Of the file in the checkpoint: no other file of a node has this size.
const BYTES: u64 = 5_000_011;

/// Files of `BYTES` below `dir`.
fn of_that_size(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let kind = entry.file_type().expect("known");
        if kind.is_dir() {
            found.extend(of_that_size(&entry.path()));
        } else if kind.is_file() && entry.metadata().is_ok_and(|data| data.len() == BYTES) {
            found.push(entry.path());
        }
    }
    found
}

fn sha256(path: &Path) -> String {
    let done = Command::new("sha256sum").arg(path).output().expect("runs");
    let text = String::from_utf8(done.stdout).expect("text");
    text.split(' ').next().unwrap_or_default().to_owned()
}

/// A job that has saved once, its checkpoint is on two nodes. With the digest of its file.
fn saved(cluster: &Cluster) -> (String, String) {
    let script = format!(
        "cd $MLCTL_CHECKPOINT_DIR && mkdir step-5.tmp && head -c {BYTES} /dev/urandom > step-5.tmp/weights
        sha256sum step-5.tmp/weights && mv step-5.tmp step-5 && sleep {}",
        nap()
    );
    let id = cluster.submit(&["--", "sh", "-c", &script]);
    cluster.wait_until(&id, "copied", SOON, |job| {
        job.0["checkpoints"][0]["durability"] == "1/1"
    });
    let log = cluster.log(&id);
    let digest = log.iter().find_map(|line| line.split(' ').nth(1));
    let digest = digest.unwrap_or_else(|| panic!("{log:?}"));
    (id, digest.to_owned())
}

/// What `verify` prints, whatever it found.
fn verified(cluster: &Cluster, id: &str) -> Value {
    let output = cluster.mlctl(&["-o", "json", "ckpt", "verify", id]);
    serde_json::from_str(&output.stdout).unwrap_or_else(|_| panic!("{}", output.text()))
}

fn states(verified: &Value) -> Vec<String> {
    let copies = verified["copies"].as_array().cloned().unwrap_or_default();
    let state = |copy: &Value| copy["state"].as_str().unwrap_or_default().to_owned();
    let mut states: Vec<String> = copies.iter().map(state).collect();
    states.sort();
    states
}

#[test]
fn a_checkpoint_is_listed_fetched_pinned_and_removed() {
    let cluster = Cluster::start(2, 0);
    let (id, digest) = saved(&cluster);
    let name = format!("{id}/step-5");
    let listed = cluster.mlctl(&["checkpoint", "ls", &id, "-q"]).expect(0);
    assert_eq!(listed.lines(), [name.as_str()]);
    let shown = cluster.json(&["checkpoint", "show", &id]);
    assert!(shown.to_string().contains("step-5"), "{shown:#}");
    // To the laptop, byte by byte the same, and not twice to the same place.
    let dir = cluster.work().join("fetched");
    let to = dir.to_string_lossy();
    cluster.mlctl(&["ckpt", "get", &name, &to]).expect(0);
    assert_eq!(sha256(&dir.join("weights")), digest);
    cluster
        .mlctl(&["ckpt", "get", &id, &to])
        .refused(64, &["already"]);
    // The newest of a job that runs stays.
    cluster.mlctl(&["ckpt", "pin", &id, "step-5"]).expect(0);
    let pinned = cluster.mlctl(&["ckpt", "rm", &id, "step-5"]);
    assert_ne!(pinned.code, 0, "{}", pinned.text());
    cluster.mlctl(&["ckpt", "unpin", &id, "step-5"]).expect(0);
    let needed = cluster.mlctl(&["ckpt", "rm", &id, "step-5"]);
    assert_ne!(needed.code, 0, "{}", needed.text());
    cluster.mlctl(&["cancel", &id]).expect(0);
    cluster.wait(&id, SOON);
    cluster.mlctl(&["ckpt", "rm", &id, "step-5"]).expect(0);
    let left = cluster.mlctl(&["checkpoint", "ls", &id, "-q"]).expect(0);
    assert_eq!(left.lines(), Vec::<&str>::new());
    let gone = cluster.mlctl(&["ckpt", "verify", &name]);
    assert_ne!(gone.code, 0, "{}", gone.text());
}

#[test]
fn a_copy_that_the_disk_changed_is_found_and_made_anew() {
    let cluster = Cluster::start(3, 0);
    let (id, _) = saved(&cluster);
    let good = verified(&cluster, &id);
    assert_eq!(states(&good), ["good", "good"], "{good:#}");
    let job = cluster.job(&id);
    let maker = job.nodes().remove(0);
    let (_, holders) = job.checkpoints().remove(0);
    let other = holders.into_iter().find(|node| *node != maker);
    let other = other.expect("a copy elsewhere");
    let copies = cluster.dir().join("nodes").join(&other).join("data/copies");
    let files = of_that_size(&copies);
    let [file] = &files[..] else {
        panic!("{copies:?}: {files:?}")
    };
    let mut bytes = fs::read(file).expect("read");
    bytes[4_200_000] ^= 1;
    fs::write(file, bytes).expect("written");
    let output = cluster.mlctl(&["ckpt", "verify", &id]);
    assert_eq!(output.code, 1, "{}", output.text());
    assert!(
        output.stdout.contains(&format!("{other}: damaged")),
        "{}",
        output.text()
    );
    cluster.wait_until(&id, "copied again", SOON, |job| {
        job.0["checkpoints"][0]["durability"] == "1/1"
            && states(&verified(&cluster, &id)) == ["good", "good"]
    });
    cluster.mlctl(&["cancel", &id]).expect(0);
    cluster.wait(&id, SOON);
}

/// The paths of all files of this name below `dir`.
fn named(dir: &Path, name: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(named(&path, name));
        } else if entry.file_name() == name {
            found.push(path);
        }
    }
    found
}

/// URLs that may hold a secret are refused, and what is said does not repeat them.
fn refuses_secrets(cluster: &Cluster, name: &str) {
    for url in [
        "s3://me:hunter2@runs/a",
        "s3://runs/a?X-Amz-Signature=hunter2",
        "https://hunter2.example/a",
        "file:///tmp/../hunter2",
    ] {
        let output = cluster.mlctl(&["ckpt", "push", name, "--to", url]);
        let said = format!("{}{}", output.stdout, output.stderr);
        assert!(!said.contains("hunter2"), "{said}");
        output.refused(64, &["--to", "file:///directory"]);
    }
}

/// The job's spec names no store, so nothing counts on what is there.
#[test]
fn a_checkpoint_is_pushed_where_a_person_says_and_does_not_count_as_uploaded() {
    let cluster = Cluster::start(2, 0);
    let (id, _) = saved(&cluster);
    let name = format!("{id}/step-5");
    cluster
        .mlctl(&["ckpt", "push", &name])
        .refused(64, &["names no object store", "--to s3://", "upload ="]);
    refuses_secrets(&cluster, &name);
    let other = cluster.user("bob", false);
    let far = cluster.work().join("far");
    fs::create_dir(&far).expect("made");
    let url = format!("file://{}", far.display());
    let foreign = cluster.mlctl_as(&other, &["ckpt", "push", &name, "--to", &url]);
    assert_ne!(foreign.code, 0, "{}", foreign.text());
    assert_eq!(named(&far, "part-0.json"), Vec::<PathBuf>::new());

    let pushed = cluster.json(&["ckpt", "push", &id, "--to", &url]);
    assert_eq!(pushed["name"], "step-5", "{pushed:#}");
    assert_eq!(pushed["url"], url.as_str(), "{pushed:#}");
    assert_eq!(pushed["there"], true, "{pushed:#}");
    assert_eq!(pushed["parts"][0]["state"], "there", "{pushed:#}");
    assert_eq!(named(&far, "part-0.json").len(), 1);
    let chunks = fs::read_dir(far.join("chunks")).expect("they are there");
    assert!(chunks.count() > 0);
    // Once more nothing is sent, and it is there all the same.
    let again = cluster.mlctl(&["ckpt", "push", &name, "--to", &url]);
    let again = again.expect(0);
    assert!(
        again.stdout.contains(&format!("is in {url}: 1 part")) && again.stderr.contains("part 0"),
        "{}",
        again.text()
    );
    // Neither now nor when the node's events have long been applied.
    std::thread::sleep(Duration::from_secs(2));
    let job = cluster.job(&id);
    assert_eq!(job.0["checkpoints"][0]["uploaded"], false, "{:#}", job.0);
    // A store that cannot be written to.
    let file = cluster.work().join("file");
    fs::write(&file, b"no directory").expect("written");
    let nowhere = format!("file://{}/below", file.display());
    let failed = cluster.mlctl(&["ckpt", "push", &name, "--to", &nowhere]);
    assert_eq!(failed.code, 1, "{}", failed.text());
    assert!(failed.stdout.contains("failed: "), "{}", failed.text());
    cluster.mlctl(&["cancel", &id]).expect(0);
    cluster.wait(&id, SOON);
}

#[test]
fn both_copies_of_a_checkpoint_count_for_the_team() {
    let cluster = Cluster::start(2, 0);
    let (id, _) = saved(&cluster);
    let usage = cluster.json(&["ckpt", "usage"]);
    let total = &usage["total"];
    assert_eq!(total["jobs"], 1, "{usage:#}");
    assert_eq!(total["checkpoints"], 1, "{usage:#}");
    let bytes = total["bytes"].as_u64().expect("a number");
    assert!(bytes >= BYTES, "{usage:#}");
    assert_eq!(total["held_bytes"], 2 * bytes, "{usage:#}");
    assert_eq!(usage["teams"][0]["held_bytes"], 2 * bytes, "{usage:#}");
    let table = cluster.mlctl(&["ckpt", "usage"]).expect(0);
    assert_eq!(table.lines().len(), 3, "{}", table.text());
    cluster.mlctl(&["cancel", &id]).expect(0);
    cluster.wait(&id, SOON);
}

/// A file of it stays open, so that nothing but the word completes it.
#[test]
fn a_rank_says_on_its_socket_that_a_checkpoint_is_complete() {
    let test =
        "process_checkpoint_commands::a_rank_says_on_its_socket_that_a_checkpoint_is_complete";
    if let Some(tool) = missing(&["python3"]) {
        return skip(test, &format!("{tool} is not installed"));
    }
    let cluster = Cluster::start(2, 0);
    let script = format!(
        "d=$MLCTL_CHECKPOINT_DIR/mine && mkdir $d && echo weights > $d/w && exec 3>>$d/log
        python3 -c 'import os, socket; socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b\"COMMIT dir=mine step=7\", os.environ[\"MLCTL_NOTIFY\"])'
        sleep {}",
        nap()
    );
    let id = cluster.submit(&["--", "sh", "-c", &script]);
    let job = cluster.wait_until(&id, "copied", SOON, |job| {
        job.0["checkpoints"][0]["durability"] == "1/1"
    });
    assert_eq!(job.0["checkpoints"][0]["step"], 7, "{:#}", job.0);
    cluster.mlctl(&["cancel", &id]).expect(0);
    cluster.wait(&id, SOON);
}
