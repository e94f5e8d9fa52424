//! Code and checkpoints on real processes: what travels, what does not, and what a job finds after its node was lost.
//! Does NOT measure how fast.

use std::fs;
use std::os::unix::fs::symlink;
use std::time::Duration;

use mlctl_runtime::config::ContextFile;
use mlctl_tests::process::relay::Relay;
use mlctl_tests::process::workload::nap;
use mlctl_tests::process::{Cluster, machine, until};

const SOON: Duration = Duration::from_secs(20);

/// Half a megabyte that does not compress, different for each `seed`.
fn noise(seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut bytes = Vec::with_capacity(512 * 1024);
    while bytes.len() < 512 * 1024 {
        // xorshift64: any full-period generator does.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes
}

#[test]
fn code_travels_once_and_only_what_should() {
    let cluster = Cluster::start(2, 0);
    let code = cluster.work();
    for (name, text) in [
        ("main.sh", "cat data/words; ls -A . data | tr '\\n' ' '"),
        ("data/words", "hello from the laptop\n"),
        (".gitignore", "*.tmp\n/secret/\n"),
        ("scratch.tmp", "no"),
        ("secret/key", "no"),
        (".git/config", "no"),
    ] {
        let file = code.join(name);
        fs::create_dir_all(file.parent().expect("a folder")).expect("made");
        fs::write(file, text).expect("written");
    }
    fs::write(code.join("data/big"), noise(1)).expect("written");
    let output = cluster
        .mlctl(&["run", "--nodes", "2", "--", "sh", "main.sh"])
        .expect(0);
    for rank in 0..2 {
        let of_rank: Vec<&str> = output
            .lines()
            .into_iter()
            .filter_map(|line| line.strip_prefix(&format!("[{rank}] ")))
            .collect();
        let text = of_rank.join(" ");
        assert!(
            of_rank.contains(&"hello from the laptop"),
            "{}",
            output.text()
        );
        assert!(
            text.contains("main.sh") && text.contains(".gitignore") && text.contains("big"),
            "{text}"
        );
        for absent in ["scratch.tmp", "secret", ".git "] {
            assert!(!text.contains(absent), "{absent} travelled: {text}");
        }
    }
    // Through a relay that counts: nothing is sent again, and a changed file alone.
    let relay = Relay::to(&cluster.leader().address);
    let mut context = ContextFile::read(&cluster.context()).expect("a context");
    context.addresses = vec![relay.address()];
    let context_file = cluster.dir().join("relayed.toml");
    context.write(&context_file).expect("written");
    let sent = |what: &str| {
        let before = relay.sent();
        let output = cluster
            .mlctl_as(&context_file, &["submit", "-q", "--", "sh", "-c", what])
            .expect(0);
        (output.stdout.trim().to_owned(), relay.sent() - before)
    };
    let (_, again) = sent("true");
    assert!(again < 32 * 1024, "{again} bytes for code that is there");
    fs::write(code.join("data/words"), "changed\n").expect("written");
    let (changed, little) = sent("cat data/words");
    assert!(little < 32 * 1024, "{little} bytes for one small file");
    fs::write(code.join("data/big"), noise(2)).expect("written");
    let (_, much) = sent("true");
    assert!(
        much > 500 * 1024,
        "{much} bytes: the relay does not see the upload, so the figures above say nothing"
    );
    assert_eq!(cluster.wait(&changed, SOON), 0);
    assert_eq!(cluster.log(&changed), ["[0] changed"]);
}

#[test]
fn what_leaves_the_tree_is_refused() {
    let cluster = Cluster::start(1, 0);
    let code = cluster.work();
    for (name, target) in [
        ("absolute", "/etc/passwd"),
        ("climbing", "../../etc/passwd"),
        ("sideways", "../c/context.toml"),
    ] {
        symlink(target, code.join(name)).expect("linked");
        cluster
            .mlctl(&["submit", "--", "true"])
            .refused(64, &[name]);
        fs::remove_file(code.join(name)).expect("removed");
    }
    assert_eq!(
        cluster.json(&["jobs", "-a"])["jobs"],
        serde_json::json!([]),
        "nothing was queued"
    );
    fs::write(code.join("file"), "inside\n").expect("written");
    symlink("file", code.join("link")).expect("linked");
    let output = cluster
        .mlctl(&["run", "--", "sh", "-c", "cat link; touch made-here"])
        .expect(0);
    assert_eq!(output.lines(), ["[0] inside"]);
    assert!(
        !code.join("made-here").exists(),
        "a job works on its own copy"
    );
}

#[test]
fn a_sealed_checkpoint_is_recorded_and_found_again() {
    let cluster = Cluster::start(3, 0);
    let nap = nap();
    let script = format!(
        "cd $MLCTL_CHECKPOINT_DIR || exit 9
        if [ $MLCTL_ATTEMPT = 1 ]; then
            if [ $RANK = 0 ]; then
                mkdir step-5.tmp && echo five > step-5.tmp/weights && mv step-5.tmp step-5
                mkdir step-6.tmp && echo half > step-6.tmp/weights
                mkdir .hidden
            fi
            echo written; sleep {nap}
        fi
        echo rank $RANK resumes from [${{MLCTL_RESUME_FROM##*/}}] $(cat $MLCTL_RESUME_FROM/weights) of [$(ls | tr '\\n' ' ')]"
    );
    let id = cluster.submit(&[
        "--nodes",
        "2",
        "--checkpoint-dir",
        "ckpt",
        "--",
        "sh",
        "-c",
        &script,
    ]);
    cluster.wait_line(&id, "[1] written", SOON);
    let job = cluster.wait_until(&id, "copied", SOON, |job| {
        job.0["checkpoints"][0]["durability"] == "1/1"
    });
    let nodes = job.nodes();
    let [(name, holders)] = &job.checkpoints()[..] else {
        panic!("only what is complete: {:#}", job.0)
    };
    assert_eq!(name, "step-5");
    assert!(
        holders.contains(&nodes[0]) && holders.len() == 2,
        "{holders:?}"
    );
    assert_eq!(job.0["checkpoints"][0]["step"], 5, "{:#}", job.0);
    cluster.mlctl(&["dev", "kill", &nodes[1]]).expect(0);
    assert_eq!(cluster.wait(&id, SOON), 0);
    let job = cluster.job(&id);
    assert_eq!(
        (job.attempts().len(), job.nodes().first()),
        (2, nodes.first()),
        "rank 0 is placed on a holder: {:#}",
        job.0
    );
    assert_eq!(job.attempts()[1]["resume_from"], "step-5", "{:#}", job.0);
    let log = cluster.log(&id);
    assert!(
        log.contains(&"[0] rank 0 resumes from [step-5] five of [step-5 ]".to_owned()),
        "what was not sealed is out of the way: {log:#?}"
    );
    let second = log
        .iter()
        .find(|line| line.starts_with("[1] rank 1 resumes"))
        .unwrap_or_else(|| panic!("{log:#?}"));
    assert!(
        second.contains("from [step-5] five"),
        "it lies on every node: {second}"
    );
    assert_eq!(machine::with_word(&nap), []);
}

/// The holder itself is lost: the job waits no longer than it must and starts from what is left, or from the beginning.
#[test]
fn a_job_whose_checkpoint_died_with_its_node_says_what_it_waits_for() {
    let cluster = Cluster::start(2, 0);
    let nap = nap();
    let script = format!(
        "if [ $MLCTL_ATTEMPT = 1 ]; then mkdir -p $MLCTL_CHECKPOINT_DIR/s.tmp; mv $MLCTL_CHECKPOINT_DIR/s.tmp $MLCTL_CHECKPOINT_DIR/step-1; sleep {nap}; fi; echo from ${{MLCTL_RESUME_FROM##*/}}."
    );
    let id = cluster.submit(&["--checkpoint-dir", "ckpt", "--", "sh", "-c", &script]);
    let job = cluster.wait_until(&id, "checkpointed", SOON, |job| {
        !job.checkpoints().is_empty()
    });
    let holder = job.nodes().remove(0);
    cluster.mlctl(&["dev", "kill", &holder]).expect(0);
    cluster.wait_until(&id, "over its first attempt", SOON, |job| {
        job.attempt_end(1) == "NodeLost"
    });
    let moved = until("a decision", SOON, || {
        let job = cluster.job(&id);
        (job.attempts().len() > 1 || !job.0["reason"].as_str().unwrap_or_default().is_empty())
            .then_some(job)
    });
    if moved.attempts().len() == 1 {
        // It waits for the only copy: that must be said, and its holder's return must be enough.
        assert!(
            moved.0["reason"].to_string().contains(&holder),
            "{:#}",
            moved.0
        );
        cluster.mlctl(&["dev", "start", &holder]).expect(0);
        assert_eq!(cluster.wait(&id, SOON), 0);
        assert_eq!(cluster.log(&id), ["[0] from step-1."]);
    } else {
        assert_eq!(cluster.wait(&id, SOON), 0);
        assert_eq!(cluster.log(&id), ["[0] from ."]);
    }
}
