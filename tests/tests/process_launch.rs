//! Launch methods on real processes: Python and torchrun over two nodes, with the torch of this machine if it has one.
//! Does NOT train anything: that is the demo's matter.

use std::fs;
use std::time::Duration;

use mlctl_tests::process::Cluster;
use mlctl_tests::process::command::run;
use mlctl_tests::process::workload::{TORCH_SUM, python_with_torch};

const PATIENCE: Duration = Duration::from_secs(60);

/// The texts behind the rank tags, sorted; torchrun's own tag before a line is taken off.
fn sums(log: &[String]) -> Vec<String> {
    let mut sums: Vec<String> = log
        .iter()
        .filter_map(|line| {
            line.find("rank ")
                .filter(|_| line.contains(": sum "))
                .map(|at| line[at..].to_owned())
        })
        .collect();
    sums.sort();
    sums
}

#[test]
fn python_starts_scripts_one_rank_per_device() {
    let cluster = Cluster::start(2, 2);
    fs::write(cluster.work().join("who.py"), "import os\nprint(os.environ['RANK'], os.environ['LOCAL_RANK'], os.environ['WORLD_SIZE'])\n")
        .expect("written");
    let output = cluster
        .mlctl(&[
            "run",
            "--launcher",
            "python",
            "--nodes",
            "2",
            "--gpus",
            "2",
            "--",
            "who.py",
        ])
        .expect(0);
    let mut lines = output.lines();
    lines.sort_unstable();
    assert_eq!(lines, ["[0] 0 0 4", "[1] 1 1 4", "[2] 2 0 4", "[3] 3 1 4"]);
    fs::write(cluster.work().join("bad.py"), "raise SystemExit(5)\n").expect("written");
    cluster
        .mlctl(&["run", "--launcher", "python", "--", "bad.py"])
        .expect(5);
}

#[test]
fn a_dry_run_shows_what_nodes_would_run_and_asks_nobody() {
    // There is no cluster.
    let cluster = Cluster::prepare();
    let words = ["--no-code", "--nodes", "2", "--gpus", "2", "--launcher"];
    let dry = |verb: &str, method: &str, more: &[&str]| {
        let words = [&[verb, "--dry-run"], &words[..], &[method], more].concat();
        let mut command = cluster.command(&words);
        command.env_remove("MLCTL_CONFIG");
        run(command, PATIENCE)
    };
    let shown = dry("submit", "python", &["-o", "json", "--", "train.py"]).expect(0);
    let value: serde_json::Value = serde_json::from_str(&shown.stdout).expect("JSON");
    let rank = &value["plans"][1]["ranks"][1];
    assert_eq!(
        rank["argv"],
        serde_json::json!(["python3", "train.py"]),
        "{value:#}"
    );
    let env = &rank["env"];
    assert_eq!(
        (&env["RANK"], &env["WORLD_SIZE"]),
        (&"3".into(), &"4".into())
    );
    assert_eq!(env["CUDA_VISIBLE_DEVICES"], "GPU-1-1");
    assert_eq!(value["foreseen"], serde_json::Value::Null);
    assert!(
        shown.stderr.contains("no cluster was asked"),
        "{}",
        shown.stderr
    );
    // One that is named has to be there.
    let named = ["submit", "--dry-run", "--no-code", "--", "true"];
    cluster.mlctl(&named).refused(78, &["no context"]);
    let shown = dry("run", "mpi", &["--", "./solve"]).expect(0);
    for line in ["mpirun -n 4 ./solve", "node 1 of 2", "198.18.0.1 slots=2"] {
        assert!(shown.stdout.contains(line), "{line}: {}", shown.stdout);
    }
    let more = ["--ranks", "3", "--", "a"];
    dry("submit", "jax", &more).refused(64, &["launcher `jax` gives each rank one device"]);
}

#[test]
fn torch_adds_up_over_python_ranks() {
    let Some(python) = python_with_torch("process_launch::torch_adds_up_over_python_ranks") else {
        return;
    };
    let cluster = Cluster::start(2, 0);
    fs::write(cluster.work().join("sum.py"), TORCH_SUM).expect("written");
    let id = cluster
        .mlctl(&[
            "submit",
            "-q",
            "--launcher",
            "python",
            "--nodes",
            "2",
            "--ranks",
            "2",
            "--",
            python,
            "sum.py",
        ])
        .expect(0)
        .stdout
        .trim()
        .to_owned();
    let code = cluster.wait(&id, PATIENCE);
    let log = cluster.log(&id);
    assert_eq!(code, 0, "{log:#?}");
    let wanted: Vec<String> = (0..4)
        .map(|rank| format!("rank {rank} of 4: sum 10"))
        .collect();
    assert_eq!(sums(&log), wanted, "{log:#?}");
}

#[test]
fn torchrun_starts_the_ranks_of_two_nodes() {
    let Some(python) = python_with_torch("process_launch::torchrun_starts_the_ranks_of_two_nodes")
    else {
        return;
    };
    let cluster = Cluster::start(2, 0);
    fs::write(cluster.work().join("sum.py"), TORCH_SUM).expect("written");
    fs::write(
        cluster.work().join("fail.py"),
        "import os, sys\nsys.exit(3 if os.environ['RANK'] == '3' else 0)\n",
    )
    .expect("written");
    let spec = |script: &str| {
        format!(
            "command = ['{python}', '{script}']\nlauncher = 'torchrun'\nnodes = 2\nranks = 2\nname = 'sum'\n"
        )
    };
    fs::write(cluster.work().join("job.toml"), spec("sum.py")).expect("written");
    fs::write(cluster.work().join("fail.toml"), spec("fail.py")).expect("written");
    let id = cluster
        .mlctl(&["submit", "-q", "job.toml"])
        .expect(0)
        .stdout
        .trim()
        .to_owned();
    let code = cluster.wait(&id, PATIENCE);
    let log = cluster.log(&id);
    assert_eq!(code, 0, "{log:#?}");
    let wanted: Vec<String> = (0..4)
        .map(|rank| format!("rank {rank} of 4: sum 10"))
        .collect();
    assert_eq!(sums(&log), wanted, "{log:#?}");
    let failing = cluster
        .mlctl(&["submit", "-q", "fail.toml"])
        .expect(0)
        .stdout
        .trim()
        .to_owned();
    assert_ne!(
        cluster.wait(&failing, PATIENCE),
        0,
        "{:#?}",
        cluster.log(&failing)
    );
    assert_eq!(cluster.job(&failing).state(), "Failed");
}
