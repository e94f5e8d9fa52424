//! MPI over machines of their own, with neither an ssh client nor a server on `PATH`: Open MPI trains, MPICH adds up, and both end as they should.
//! Does NOT test what any launch method shares: keepers, logs, restarts of other kinds.

use std::fs;
use std::time::{Duration, Instant};

use mlctl_tests::process::workload::{PYTHON, path_without_ssh, python_with};
use mlctl_tests::process::{Fleet, machine, until};
use nix::sys::signal::Signal;
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(60);
const SOON: Duration = Duration::from_secs(20);

const TRAIN: &str = include_str!("../../examples/mpi/train.py");
const DIGITS: &[u8] = include_bytes!("../../examples/digits.csv.gz");

/// A sum over all ranks with MPICH's own library: its constants are of its ABI (mpi.h of MPICH 3.2 and later).
const MPICH_SUM: &str = r#"import ctypes, os, sys
mpi = ctypes.CDLL("libmpich.so.12")
WORLD, INT, SUM = 0x44000000, 0x4c000405, 0x58000003
mpi.MPI_Init(None, None)
rank, size = ctypes.c_int(), ctypes.c_int()
mpi.MPI_Comm_rank(WORLD, ctypes.byref(rank))
mpi.MPI_Comm_size(WORLD, ctypes.byref(size))
own, total = ctypes.c_int(rank.value + 1), ctypes.c_int()
mpi.MPI_Allreduce(ctypes.byref(own), ctypes.byref(total), 1, INT, SUM, WORLD)
# In one piece: print would let another rank's line in before the end of this one.
sys.stdout.write(f"rank {rank.value} of {size.value} on {os.environ['MLCTL_NODE']}: sum {total.value}\n")
sys.stdout.flush()
mpi.MPI_Finalize()
"#;

/// A fleet of three nodes and a `PATH` for its jobs.
fn fleet(test: &str, programs: &[&str]) -> Option<(Fleet, String)> {
    let fleet = Fleet::on_hosts(test, 3, programs)?;
    let path = path_without_ssh(&fleet.work().join("bin"));
    Some((fleet, format!("PATH={path}")))
}

fn openmpi(test: &str) -> Option<(Fleet, String)> {
    let how = "apt-get install openmpi-bin python3-mpi4py python3-numpy";
    python_with(test, PYTHON, "mpi4py.MPI, numpy", how)?;
    let (fleet, path) = fleet(test, &["mpirun.openmpi"])?;
    let code = fleet.work().join("code");
    fs::create_dir_all(code.join("mpi")).expect("made");
    fs::write(code.join("mpi/train.py"), TRAIN).expect("written");
    fs::write(code.join("digits.csv.gz"), DIGITS).expect("written");
    Some((fleet, path))
}

/// Submits the training with these words after it.
fn train(fleet: &Fleet, path: &str, nodes: &str, words: &[&str]) -> String {
    // The hosts are one machine: ranks that spin while they wait would keep the others from working.
    let patient = "OMPI_MCA_mpi_yield_when_idle=1";
    let begin = [
        "--launcher",
        "mpi",
        "--nodes",
        nodes,
        "--env",
        path,
        "--env",
        patient,
    ];
    let command = ["--code", "code", "--", PYTHON, "mpi/train.py"];
    fleet.submit(&[&begin[..], &command, words].concat())
}

/// The last line of the training.
fn result(fleet: &Fleet, id: &str) -> Value {
    let lines = fleet.lines(id);
    let last = lines
        .iter()
        .rev()
        .find_map(|line| line.split_once("result "));
    let (_, json) = last.unwrap_or_else(|| panic!("no result: {lines:#?}"));
    serde_json::from_str(json).expect("JSON")
}

#[test]
fn openmpi_trains_over_three_hosts_without_ssh() {
    let Some((fleet, path)) = openmpi("process_mpi::openmpi_trains_over_three_hosts_without_ssh")
    else {
        return;
    };
    let look = [
        "--env",
        &path,
        "--no-code",
        "--",
        "sh",
        "-c",
        "command -v ssh sshd",
    ];
    let found = fleet.submit(&look);
    assert_eq!(
        fleet.ended(&found, SOON).state(),
        "Failed",
        "there is an ssh"
    );

    let id = train(&fleet, &path, "3", &["--steps", "150"]);
    let job = fleet.ended(&id, PATIENCE);
    let log = fleet.lines(&id);
    assert_eq!(job.state(), "Completed", "{log:#?} {:#}", job.0);
    // Each rank has the variables of its own node.
    for (rank, node) in job.nodes().iter().enumerate() {
        let line = format!("rank {rank} of 3 on {node}");
        assert!(
            log.iter().any(|one| one.ends_with(&line)),
            "{line}: {log:#?}"
        );
    }
    let result = result(&fleet, &id);
    assert!(result["accuracy"].as_f64() > Some(0.95), "{result}");
}

#[test]
fn a_killed_rank_ends_the_gang_and_a_killed_keeper_costs_no_result() {
    let name = "process_mpi::a_killed_rank_ends_the_gang_and_a_killed_keeper_costs_no_result";
    let Some((fleet, path)) = openmpi(name) else {
        return;
    };
    let words = ["--steps", "150", "--min-step-ms", "20"];
    let calm = train(&fleet, &path, "2", &words);
    // The trainings share two processors with each other otherwise.
    assert_eq!(fleet.ended(&calm, PATIENCE).state(), "Completed");

    let begin = Instant::now();
    let nap = [
        "--launcher",
        "mpi",
        "--nodes",
        "2",
        "--env",
        &path,
        "--no-code",
        "--",
        "sh",
        "-c",
    ];
    let script = "echo pid $$ on $MLCTL_NODE; exec sleep 600";
    let asleep = fleet.submit(&[&nap[..], &[script]].concat());
    let second = fleet.job(&asleep).nodes().pop().unwrap_or_default();
    let pid = until("a rank on the second node", SOON, || {
        let lines = fleet.lines(&asleep);
        let found = lines
            .iter()
            .find(|line| line.ends_with(&format!(" on {second}")))?;
        found.split(' ').nth(2)?.parse::<i32>().ok()
    });
    machine::kill(pid);
    let job = fleet.ended(&asleep, SOON);
    assert_eq!(job.state(), "Failed", "{:#}", job.0);
    assert!(begin.elapsed() < SOON, "{:?}", begin.elapsed());

    let struck = train(&fleet, &path, "2", &words);
    fleet.said(&struck, "checkpoint step 40", SOON);
    let nodes = fleet.job(&struck).nodes();
    let there = machine::around(&fleet.home(&nodes[1]));
    let keeper = there.iter().find(|one| {
        one.words.contains("mlctl keeper ") && one.words.contains(&format!("/jobs/{struck}/"))
    });
    machine::kill(keeper.expect("a keeper on the second node").pid);
    let job = fleet.ended(&struck, PATIENCE);
    assert_eq!(
        (job.state(), job.attempts().len()),
        ("Completed", 2),
        "{:#}",
        job.0
    );
    let (struck, calm) = (result(&fleet, &struck), result(&fleet, &calm));
    assert!(struck["resumed_from_step"].as_u64() >= Some(40), "{struck}");
    assert_eq!(
        struck["params_digest"], calm["params_digest"],
        "not what an undisturbed run ends with"
    );
}

#[test]
fn term_reaches_every_rank_and_killed_agents_cost_nothing() {
    let Some((mut fleet, path)) =
        openmpi("process_mpi::term_reaches_every_rank_and_killed_agents_cost_nothing")
    else {
        return;
    };
    let words = [
        "--steps",
        "100000",
        "--min-step-ms",
        "10",
        "--checkpoint-every",
        "5000",
    ];
    let id = train(&fleet, &path, "2", &words);
    fleet.said(&id, "step 20/", SOON);
    for node in fleet.job(&id).nodes() {
        fleet.signal(&node, Signal::SIGKILL);
        fleet.ended_with(&node);
        fleet.start_one(&node);
    }
    fleet.said(&id, "step 200/", SOON);
    // `mpirun` ends with 1 after TERM, whatever its ranks end with: what was asked for counts.
    fleet.mlctl(&["cancel", &id]).expect(0);
    let job = fleet.ended(&id, SOON);
    assert_eq!(
        (job.state(), job.attempts().len()),
        ("Cancelled", 1),
        "{:#}",
        job.0
    );
    let log = fleet.lines(&id);
    assert!(
        log.iter().any(|line| line.contains("checkpoint step ")),
        "no rank had TERM: {log:#?}"
    );
    until("nothing is left of it", SOON, || {
        machine::with_word("mpi/train.py").is_empty().then_some(())
    });
}

#[test]
fn mpich_adds_up_over_three_hosts_without_ssh() {
    let name = "process_mpi::mpich_adds_up_over_three_hosts_without_ssh";
    let Some((fleet, path)) = fleet(name, &["mpiexec.mpich", "hydra_pmi_proxy"]) else {
        return;
    };
    let code = fleet.work().join("code");
    fs::create_dir(&code).expect("made");
    fs::write(code.join("sum.py"), MPICH_SUM).expect("written");
    let spec = |words: &str| {
        format!(
            "launcher = 'mpi'\nnodes = 3\nranks = 2\ncode = '.'\ncommand = {words}\nenv = {{ {} }}\n[mpi]\nmpirun = 'mpiexec.mpich'\n",
            path.replace('=', " = '") + "'"
        )
    };
    fs::write(
        code.join("sum.toml"),
        spec(&format!("['{PYTHON}', 'sum.py']")),
    )
    .expect("written");
    fs::write(
        code.join("fail.toml"),
        spec("['sh', '-c', 'exit $PMI_RANK']"),
    )
    .expect("written");
    let id = fleet.submit(&["code/sum.toml"]);
    let job = fleet.ended(&id, PATIENCE);
    let mut lines = fleet.lines(&id);
    lines.sort();
    assert_eq!(job.state(), "Completed", "{lines:#?}");
    let nodes = job.nodes();
    let wanted: Vec<String> = (0..6)
        .map(|rank| format!("[0] rank {rank} of 6 on {}: sum 21", nodes[rank / 2]))
        .collect();
    assert_eq!(lines, wanted);
    let id = fleet.submit(&["code/fail.toml"]);
    let job = fleet.ended(&id, SOON);
    assert!(
        job.state() == "Failed" && job.exit_code() > 0,
        "{:#}",
        job.0
    );
    // Left alone it would wait for ever for a daemon on a host that is none of the job's.
    let elsewhere = spec("['true']") + "args = ['-hosts', 'elsewhere:6']\n";
    fs::write(code.join("elsewhere.toml"), elsewhere).expect("written");
    let id = fleet.submit(&["code/elsewhere.toml"]);
    let job = fleet.ended(&id, SOON);
    let told = job
        .0
        .to_string()
        .contains("`elsewhere` is no node of this job");
    assert!(job.state() == "Failed" && told, "{:#}", job.0);
}

/// Open MPI hands the user's variables on only if `-x` names each; our daemons have them already, and each has those of its own node.
#[test]
fn every_rank_has_the_users_variables_without_dash_x() {
    let name = "process_mpi::every_rank_has_the_users_variables_without_dash_x";
    let Some((fleet, path)) = fleet(name, &["mpirun.openmpi", "mpiexec.mpich"]) else {
        return;
    };
    for mpirun in ["mpirun.openmpi", "mpiexec.mpich"] {
        let spec = format!(
            "launcher = 'mpi'\nnodes = 3\ncommand = ['sh', '-c', 'echo \"$GREETING\" from $MLCTL_NODE']\n\
             env = {{ GREETING = 'good  day', {} }}\n[mpi]\nmpirun = '{mpirun}'\n",
            path.replace('=', " = '") + "'"
        );
        let folder = fleet.work().join("spec");
        fs::create_dir_all(&folder).expect("made");
        fs::write(folder.join("job.toml"), spec).expect("written");
        let id = fleet.submit(&["spec/job.toml"]);
        let job = fleet.ended(&id, PATIENCE);
        let mut lines = fleet.lines(&id);
        assert_eq!(job.state(), "Completed", "{mpirun}: {lines:#?}");
        // Open MPI says so when one of the agents that it starts is quicker than itself.
        lines.retain(|line| !line.contains("plm:rsh: Warning: setpgid"));
        lines.sort();
        let mut wanted: Vec<String> = (job.nodes().iter())
            .map(|node| format!("[0] good  day from {node}"))
            .collect();
        wanted.sort();
        assert_eq!(lines, wanted, "{mpirun}");
    }
}

/// Daemons connect back to where `mpiexec` runs, on a port of its own choice: it has to be a node of the job, by the address that its peers
/// reach, and not by a name.
#[test]
fn hydra_connects_back_to_the_first_node() {
    let name = "process_mpi::hydra_connects_back_to_the_first_node";
    let Some((fleet, path)) = fleet(name, &["mpiexec.mpich", "hydra_pmi_proxy"]) else {
        return;
    };
    // In one piece: three ranks write to one pipe.
    let script = r#"echo \"$(tr '\\0' ' ' < /proc/$PPID/cmdline)\""#;
    let spec = format!(
        "launcher = 'mpi'\nnodes = 3\ncommand = ['sh', '-c', \"{script}\"]\nenv = {{ {} }}\n[mpi]\nmpirun = 'mpiexec.mpich'\n",
        path.replace('=', " = '") + "'"
    );
    let folder = fleet.work().join("spec");
    fs::create_dir_all(&folder).expect("made");
    fs::write(folder.join("job.toml"), spec).expect("written");
    let id = fleet.submit(&["spec/job.toml"]);
    let job = fleet.ended(&id, PATIENCE);
    let lines = fleet.lines(&id);
    assert_eq!(job.state(), "Completed", "{lines:#?}");
    let net = fleet.net().expect("hosts");
    let back = format!("--control-port {}:", net.address(&job.nodes()[0]));
    let right = lines
        .iter()
        .filter(|line| line.contains("hydra_pmi_proxy") && line.contains(&back));
    assert_eq!(right.count(), 3, "{back}: {lines:#?}");
}
