//! Trainings whose nodes die with their disks: each goes on from a checkpoint that is on another node, whichever library wrote it, and ends with the
//! parameters of one that nothing happened to. What every rank is offered equals, by digest, what was written.
//! Does NOT test when a checkpoint is complete: that is for the rules of the agent.
//!
//! `MLCTL_TEST_SEED` repeats the draws of a run; what the machine does at the same time differs.

use std::fs;
use std::time::{Duration, Instant};

use mlctl_tests::budget::full;
use mlctl_tests::process::fleet::{Fleet, Plan};
use mlctl_tests::process::trial::seed;
use mlctl_tests::process::workload::python_with_torch;
use mlctl_tests::process::{Job, netns, until};
use mlctl_tests::tidy::skips::skip;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

const SCRIPT: &str = include_str!("../fixtures/formats.py");
const BASE: &str = include_str!("../../examples/digits_ddp.py");
const DIGITS: &[u8] = include_bytes!("../../examples/digits.csv.gz");

const PATIENCE: Duration = Duration::from_secs(120);
/// A copy of a checkpoint is there by then.
const COPIED: Duration = Duration::from_secs(60);
/// So that a strike hits a training under way, milliseconds.
const STEP_MS: u32 = 100;
/// Nodes that a job may lose before it counts as the reason.
const LOSSES: u32 = 2;

struct Trial {
    fleet: Fleet,
    python: String,
    format: &'static str,
    dice: StdRng,
    number: u32,
}

impl Trial {
    /// Three nodes in network namespaces; `None`, said loudly, where this cannot run.
    fn new(test: &str, format: &'static str) -> Option<Self> {
        let python = python_with_torch(test)?.to_owned();
        if let Some(why) = netns::obstacle() {
            skip(test, &why);
            return None;
        }
        let fleet = Fleet::start(&Plan {
            nodes: 3,
            hosts: true,
            ..Plan::default()
        });
        let code = fleet.work().join("code");
        for folder in [&code, &fleet.work().join("marks")] {
            fs::create_dir(folder).expect("made");
        }
        for (name, bytes) in [
            ("formats.py", SCRIPT.as_bytes()),
            ("digits_ddp.py", BASE.as_bytes()),
            ("digits.csv.gz", DIGITS),
        ] {
            fs::write(code.join(name), bytes).expect("written");
        }
        Some(Self {
            fleet,
            python,
            format,
            dice: StdRng::seed_from_u64(seed()),
            number: 0,
        })
    }

    fn submit(&mut self, step_ms: u32) -> String {
        let marks = self.fleet.work().join("marks");
        let spec = format!(
            "name = '{format}'\nnodes = 2\nlauncher = 'python'\ncode = '.'\nenv = {{ MARKS = '{}' }}\n\
             command = ['{}', 'formats.py', '{format}', '--min-step-ms', '{step_ms}']\n\
             [checkpoint]\ndir = 'ckpt'\nreplicas = 1\n",
            marks.display(),
            self.python,
            format = self.format,
        );
        self.number += 1;
        let name = format!("code/job-{}.toml", self.number);
        fs::write(self.fleet.work().join(&name), spec).expect("written");
        self.fleet.submit(&[&name])
    }

    /// Digest of the parameters that a training ended with, and the step from which its last attempt went on.
    fn ended(&self, id: &str) -> (String, u64, Job) {
        let job = self.fleet.ended(id, PATIENCE);
        let log = self.fleet.lines(id);
        assert_eq!(job.state(), "Completed", "{log:#?} {:#}", job.0);
        let last = log.iter().rev().find_map(|line| line.split_once("result "));
        let (_, json) = last.unwrap_or_else(|| panic!("no result: {log:#?}"));
        let result: serde_json::Value = serde_json::from_str(json).expect("JSON");
        let digest = result["params_digest"].as_str().unwrap_or_default();
        let from = result["resumed_from_step"].as_u64().unwrap_or_default();
        (digest.to_owned(), from, job)
    }

    /// The newest step of which attempt `attempt`, the current one, has a checkpoint that is on two nodes.
    fn durable(&self, id: &str, attempt: u32) -> Option<u64> {
        let job = self.fleet.job(id);
        if job.attempts().len() != attempt as usize || job.state() != "Running" {
            return None;
        }
        let all = job.0["checkpoints"].as_array().cloned().unwrap_or_default();
        let durable = all.iter().filter(|one| {
            one["durability"] == "1/1" && one["attempt"].as_u64() == Some(u64::from(attempt))
        });
        durable.filter_map(|one| one["step"].as_u64()).max()
    }

    /// Waits for a checkpoint of attempt `attempt` that is on two nodes; then one of the job's nodes dies, and its disk with it. It comes back empty.
    fn strike(&mut self, id: &str, attempt: u32) -> u64 {
        let step = until("a copy of a checkpoint", COPIED, || {
            self.durable(id, attempt)
        });
        let nodes = self.fleet.job(id).nodes();
        let place = self.dice.random_range(0..nodes.len());
        let node = nodes[place].clone();
        self.fleet.kill_node(&node);
        self.fleet.wipe_disk(&node);
        self.fleet.boot_node(&node);
        println!(
            "{}: {node}, {place} of {}, died with its disk after step {step}",
            self.format,
            nodes.len()
        );
        step
    }

    fn nothing_is_wrong(&self) {
        let wrong = fs::read_to_string(self.fleet.work().join("marks/wrong"));
        assert!(wrong.is_err(), "{wrong:?}");
    }
}

/// Trains undisturbed, then `jobs` times with nodes that die.
fn trial(test: &str, format: &'static str, jobs: u32) {
    let Some(mut trial) = Trial::new(test, format) else {
        return;
    };
    let id = trial.submit(0);
    let (calm, from, _) = trial.ended(&id);
    assert_eq!(from, 0);
    for _ in 0..jobs {
        let begun = Instant::now();
        let id = trial.submit(STEP_MS);
        let mut steps = Vec::new();
        for attempt in 1..=LOSSES {
            steps.push(trial.strike(&id, attempt));
        }
        let (digest, from, job) = trial.ended(&id);
        assert_eq!(
            digest, calm,
            "not what an undisturbed training ends with: {:#}",
            job.0
        );
        assert_eq!(job.attempts().len() as u32, 1 + LOSSES, "{:#}", job.0);
        let last = steps.last().copied().unwrap_or_default();
        assert!(
            from >= last,
            "resumed from {from}, though {last} was durable: {:#}",
            job.0
        );
        trial.nothing_is_wrong();
        println!(
            "{format}: durable {steps:?}, resumed from {from}, after {:?}",
            begun.elapsed()
        );
    }
}

#[test]
fn what_rank_0_saves_survives_nodes_with_their_disks() {
    let jobs = if full() { 8 } else { 1 };
    trial(
        "process_checkpoints::what_rank_0_saves_survives_nodes_with_their_disks",
        "save",
        jobs,
    );
}

#[test]
fn shards_of_every_rank_survive_nodes_with_their_disks() {
    let jobs = if full() { 9 } else { 2 };
    trial(
        "process_checkpoints::shards_of_every_rank_survive_nodes_with_their_disks",
        "dcp",
        jobs,
    );
}

#[test]
fn what_a_trainer_writes_in_place_survives_nodes_with_their_disks() {
    let jobs = if full() { 8 } else { 1 };
    trial(
        "process_checkpoints::what_a_trainer_writes_in_place_survives_nodes_with_their_disks",
        "hf",
        jobs,
    );
}

/// Two nodes without namespaces, and a job of one of them with this time limit and notice.
fn limited(time: &str, notice: &str, script: &str) -> (Fleet, String) {
    let fleet = Fleet::start(&Plan {
        nodes: 2,
        ..Plan::default()
    });
    fs::write(fleet.work().join("job.sh"), script).expect("written");
    let script = fleet.work().join("job.sh");
    let spec = format!(
        "name = 'limited'\ntime = '{time}'\ncode = ''\ncommand = ['sh', '{}']\n[checkpoint]\nnotice = '{notice}'\n",
        script.display()
    );
    fs::write(fleet.work().join("job.toml"), spec).expect("written");
    let id = fleet.submit(&["job.toml"]);
    (fleet, id)
}

/// It does not exit by itself: what ends it early is that its last checkpoint is on two nodes.
#[test]
fn a_job_whose_time_is_over_ends_once_it_has_saved() {
    let script = "trap save TERM
save() {
  mkdir $MLCTL_CHECKPOINT_DIR/step-7.tmp
  cat $MLCTL_DEADLINE_FILE > $MLCTL_CHECKPOINT_DIR/step-7.tmp/state
  mv $MLCTL_CHECKPOINT_DIR/step-7.tmp $MLCTL_CHECKPOINT_DIR/step-7
  echo saved
}
echo trains
while :; do sleep 0.05; done
";
    let (fleet, id) = limited("62s", "1m", script);
    fleet.said(&id, "trains", PATIENCE);
    let begun = Instant::now();
    fleet.said(&id, "saved", PATIENCE);
    let job = fleet.ended(&id, PATIENCE);
    let end = (job.state(), job.exit_code());
    assert_eq!(end, ("TimedOut", 124), "{:#}", job.0);
    let took = begun.elapsed();
    assert!(
        took < Duration::from_secs(45),
        "of a minute it took {took:?}"
    );
    let checkpoints = job.0["checkpoints"].as_array().cloned().unwrap_or_default();
    let [one] = &checkpoints[..] else {
        panic!("{checkpoints:?}")
    };
    let (name, durability) = (&one["name"], &one["durability"]);
    assert_eq!((name, durability), (&"step-7".into(), &"1/1".into()));
}

/// Who does not listen is killed when it is over.
#[test]
fn a_job_that_does_not_listen_ends_when_its_time_is_over() {
    let script = "trap '' TERM\nwhile :; do sleep 0.05; done\n";
    let (fleet, id) = limited("4s", "1s", script);
    let job = fleet.ended(&id, PATIENCE);
    let end = (job.state(), job.exit_code());
    assert_eq!(end, ("TimedOut", 124), "{:#}", job.0);
}

/// Rank 0 alone saves; whoever resumes ends.
const ONE_SAVES: &str = "if [ -n \"$MLCTL_RESUME_FROM\" ]; then
  echo resumed
  exit 0
fi
if [ $RANK = 0 ]; then
  cd \"$MLCTL_CHECKPOINT_DIR\"
  mkdir step-5.tmp
  echo weights > step-5.tmp/weights
  mv step-5.tmp step-5
  echo saved
fi
while :; do sleep 0.05; done
";

/// It had not said yet that it wrote nothing, and its agent was asked while it looked for what ran before the boot.
#[test]
fn a_node_that_boots_again_at_once_costs_no_checkpoint() {
    let mut fleet = Fleet::start(&Plan {
        nodes: 3,
        lost_after_ms: 5_000,
        ..Plan::default()
    });
    let script = fleet.work().join("job.sh");
    fs::write(&script, ONE_SAVES).expect("written");
    let spec = format!(
        "name = 'boots'\nnodes = 2\ncode = ''\ncommand = ['sh', '{}']\n[checkpoint]\nreplicas = 1\n",
        script.display()
    );
    fs::write(fleet.work().join("job.toml"), spec).expect("written");
    let id = fleet.submit(&["job.toml"]);
    fleet.said(&id, "saved", PATIENCE);
    // The other node is asked in that time, and says only after two seconds that nothing comes.
    std::thread::sleep(Duration::from_millis(500));
    let node = fleet.job(&id).nodes().remove(1);
    fleet.kill_node(&node);
    fleet.boot_node(&node);
    let job = fleet.ended(&id, PATIENCE);
    assert_eq!(job.state(), "Completed", "{:#}", job.0);
    assert_eq!(job.attempts().len(), 2, "{:#}", job.0);
    fleet.said(&id, "resumed", PATIENCE);
}
