//! A dev cluster of a test's own, in a directory of its own, and the command line on it.
//! Does NOT leave anything: when it is dropped the cluster is stopped, what is still there is killed, and the test fails for it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use super::command::{DEADLINE, Output, run};
use super::{Job, Running, binary, home, machine, until};

/// How long a whole cluster may take to be ready.
const UP: Duration = Duration::from_secs(90);

/// A process of the cluster, as `mlctl dev status` lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Daemon {
    /// coordinator, agent, launcher or keeper.
    pub role: String,
    /// Of the coordinator or node; a keeper's is `NODE/JOB.ATTEMPT`.
    pub name: String,
    /// 0: not running.
    pub pid: i32,
    /// host:port of a coordinator, host of a node.
    pub address: String,
    /// It leads.
    pub leader: bool,
}

/// A dev cluster.
#[derive(Debug)]
pub struct Cluster {
    binary: PathBuf,
    root: PathBuf,
}

impl Cluster {
    /// Starts three coordinators and `nodes` nodes with `gpus` simulated GPUs each, and waits until all are Ready.
    ///
    /// # Panics
    /// When there is no fresh binary or the cluster does not come up.
    #[must_use]
    pub fn start(nodes: u32, gpus: u32) -> Self {
        let cluster = Self::prepare();
        cluster.up(&["--nodes", &nodes.to_string(), "--gpus", &gpus.to_string()]);
        cluster
    }

    /// A directory for a cluster that was not started yet, and the command line on it.
    ///
    /// # Panics
    /// When there is no fresh binary.
    #[must_use]
    pub fn prepare() -> Self {
        let binary = binary::under_test().unwrap_or_else(|why| panic!("{why}"));
        let root = home::fresh();
        Self { binary, root }
    }

    /// `mlctl dev --detach` with `arguments`.
    ///
    /// # Panics
    /// When the cluster does not come up.
    pub fn up(&self, arguments: &[&str]) -> Output {
        run(
            self.command(&[&["dev", "--detach"], arguments].concat()),
            UP,
        )
        .expect(0)
    }

    /// The state directory of the cluster.
    pub fn dir(&self) -> PathBuf {
        self.root.join("c")
    }

    /// The working directory of its commands, empty at first.
    pub fn work(&self) -> PathBuf {
        self.root.join("work")
    }

    /// The context of the user who started it, an admin.
    pub fn context(&self) -> PathBuf {
        self.dir().join("context.toml")
    }

    /// `mlctl` with `arguments`, ready to be run: knows this cluster and nothing of this machine's user.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = home::command(&self.binary, &self.root, &self.context());
        command.env("MLCTL_DEV_DIR", self.dir()).args(arguments);
        command
    }

    /// `mlctl` with `arguments`, to its end.
    ///
    /// # Panics
    /// When it takes longer than a minute.
    pub fn mlctl(&self, arguments: &[&str]) -> Output {
        run(self.command(arguments), DEADLINE)
    }

    /// The same as the user of the context file `context`.
    ///
    /// # Panics
    /// When it takes longer than a minute.
    pub fn mlctl_as(&self, context: &Path, arguments: &[&str]) -> Output {
        let mut command = self.command(arguments);
        command.env("MLCTL_CONFIG", context);
        run(command, DEADLINE)
    }

    /// `mlctl` with `arguments`, going on beside the test.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn spawn(&self, arguments: &[&str]) -> Running {
        Running::start(self.command(arguments))
    }

    /// What `mlctl -o json` with `arguments` prints.
    ///
    /// # Panics
    /// When it fails.
    #[track_caller]
    pub fn json(&self, arguments: &[&str]) -> Value {
        self.mlctl(&[&["-o", "json"], arguments].concat()).json()
    }

    /// Submits without code and returns the id.
    ///
    /// # Panics
    /// When it is refused.
    #[track_caller]
    pub fn submit(&self, arguments: &[&str]) -> String {
        self.mlctl(&[&["submit", "-q", "--no-code"], arguments].concat())
            .expect(0)
            .stdout
            .trim()
            .to_owned()
    }

    /// Submits `script` to run in a shell, once on each of `nodes` nodes.
    ///
    /// # Panics
    /// When it is refused.
    #[track_caller]
    pub fn submit_shell(&self, nodes: u32, script: &str) -> String {
        self.submit(&["--nodes", &nodes.to_string(), "--", "sh", "-c", script])
    }

    /// The job as it is now.
    ///
    /// # Panics
    /// When the cluster does not tell.
    #[track_caller]
    pub fn job(&self, id: &str) -> Job {
        Job(self.json(&["show", id])["job"].take())
    }

    /// The job as soon as `right` says so.
    ///
    /// # Panics
    /// When that takes longer than `deadline`; the text holds the job as it was then.
    #[track_caller]
    pub fn wait_until(
        &self,
        id: &str,
        what: &str,
        deadline: Duration,
        right: impl Fn(&Job) -> bool,
    ) -> Job {
        let begun = std::time::Instant::now();
        loop {
            let job = self.job(id);
            if right(&job) {
                return job;
            }
            assert!(
                begun.elapsed() < deadline,
                "job {id} is not {what} after {deadline:?}: {:#}",
                job.0
            );
            std::thread::sleep(super::LOOK);
        }
    }

    /// The job as soon as it is in `state`.
    ///
    /// # Panics
    /// When that takes longer than `deadline`.
    #[track_caller]
    pub fn wait_state(&self, id: &str, state: &str, deadline: Duration) -> Job {
        self.wait_until(id, state, deadline, |job| job.state() == state)
    }

    /// Waits for the job's end with `mlctl wait` and returns its exit code.
    ///
    /// # Panics
    /// When it takes longer than `deadline`.
    #[track_caller]
    pub fn wait(&self, id: &str, deadline: Duration) -> i32 {
        run(self.command(&["wait", id]), deadline).code
    }

    /// The lines of the job's log so far, all attempts, each with its rank in front.
    ///
    /// # Panics
    /// When the cluster does not tell.
    #[track_caller]
    pub fn log(&self, id: &str) -> Vec<String> {
        let output = self.mlctl(&["logs", "--all-attempts", id]).expect(0);
        output.lines().into_iter().map(str::to_owned).collect()
    }

    /// Waits until the log of the job has a line that is `line`.
    ///
    /// # Panics
    /// When none comes within `deadline`.
    #[track_caller]
    pub fn wait_line(&self, id: &str, line: &str, deadline: Duration) {
        until(&format!("the line `{line}` of job {id}"), deadline, || {
            self.log(id).iter().any(|one| one == line).then_some(())
        });
    }

    /// Every process of the cluster.
    ///
    /// # Panics
    /// When the supervisor does not answer.
    #[track_caller]
    pub fn daemons(&self) -> Vec<Daemon> {
        let status = self.json(&["dev", "status"]);
        let all = status["processes"]
            .as_array()
            .unwrap_or_else(|| panic!("no processes in {status}"));
        let text = |one: &Value, key: &str| one[key].as_str().unwrap_or_default().to_owned();
        all.iter()
            .map(|one| Daemon {
                role: text(one, "role"),
                name: text(one, "name"),
                pid: one["pid"]
                    .as_i64()
                    .and_then(|pid| i32::try_from(pid).ok())
                    .unwrap_or(0),
                address: text(one, "address"),
                leader: one["leader"] == true,
            })
            .collect()
    }

    /// The id of the one process with this role and name.
    ///
    /// # Panics
    /// When there is no such process.
    #[track_caller]
    pub fn pid(&self, role: &str, name: &str) -> i32 {
        let all = self.daemons();
        let found = all
            .iter()
            .find(|one| one.role == role && one.name == name && one.pid > 1);
        found
            .unwrap_or_else(|| panic!("no {role} {name} in {all:#?}"))
            .pid
    }

    /// The ids of the keepers of `job` on all nodes.
    ///
    /// # Panics
    /// When the supervisor does not answer.
    #[track_caller]
    pub fn keepers(&self, job: &str) -> Vec<i32> {
        let of_job = |one: &Daemon| {
            one.role == "keeper"
                && one
                    .name
                    .split_once('/')
                    .is_some_and(|(_, name)| name.split('.').next() == Some(job))
        };
        self.daemons()
            .into_iter()
            .filter(of_job)
            .map(|one| one.pid)
            .collect()
    }

    /// The leading coordinator.
    ///
    /// # Panics
    /// When none leads within 10 s.
    #[track_caller]
    pub fn leader(&self) -> Daemon {
        until("a leader", Duration::from_secs(10), || {
            self.daemons().into_iter().find(|one| one.leader)
        })
    }

    /// Makes a user of this cluster and returns the path of their context file.
    ///
    /// # Panics
    /// When it cannot be made.
    #[track_caller]
    pub fn user(&self, name: &str, admin: bool) -> PathBuf {
        let file = self.root.join(format!("{name}.toml"));
        let (ca, out) = (self.dir().join("ca"), file.to_string_lossy().into_owned());
        let ca = ca.to_string_lossy().into_owned();
        let mut words = vec!["admin", "user", "add", name, "--ca", &ca, "--out", &out];
        if admin {
            words.push("--admin");
        }
        self.mlctl(&words).expect(0);
        file
    }

    /// The liveness of each node by name.
    ///
    /// # Panics
    /// When the cluster does not tell.
    #[track_caller]
    pub fn liveness(&self, node: &str) -> String {
        let nodes = self.json(&["nodes"]);
        let all = nodes["nodes"].as_array().map_or(&[][..], Vec::as_slice);
        let found = all
            .iter()
            .find(|one| one["name"] == node)
            .unwrap_or_else(|| panic!("no {node} in {nodes}"));
        found["liveness"].as_str().unwrap_or_default().to_owned()
    }

    /// What the daemons said, the last lines of each.
    pub fn daemon_logs(&self, lines: usize) -> String {
        let mut text = String::new();
        for (name, log) in self.each_daemon_log() {
            let from = log.lines().count().saturating_sub(lines);
            text += &format!("---- {name}\n");
            log.lines()
                .skip(from)
                .for_each(|line| text += &format!("{line}\n"));
        }
        text
    }

    fn each_daemon_log(&self) -> Vec<(String, String)> {
        let entries = fs::read_dir(self.dir().join("logs"))
            .into_iter()
            .flatten()
            .flatten();
        let read = |path: PathBuf| {
            String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
        };
        let mut logs: Vec<_> = entries
            .map(|entry| {
                (
                    entry.file_name().to_string_lossy().into_owned(),
                    read(entry.path()),
                )
            })
            .collect();
        logs.sort();
        logs
    }

    /// Stops the cluster; returns what is wrong with how it ended.
    fn end(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        if self.dir().join("supervisor.sock").exists() {
            let output = run(self.command(&["dev", "stop"]), Duration::from_secs(30));
            if output.code != 0 {
                wrong.push(output.text());
            }
        }
        let left = machine::around(&self.root);
        if !left.is_empty() {
            wrong.push(format!("left running: {left:#?}"));
            left.iter().for_each(|process| machine::kill(process.pid));
        }
        for (name, log) in self.each_daemon_log() {
            if let Some(at) = log.find("panicked at") {
                let text: String = log[at..].lines().take(8).collect::<Vec<_>>().join("\n");
                wrong.push(format!("{name}: {text}"));
            }
        }
        wrong
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let failed = std::thread::panicking();
        if failed {
            eprintln!("{}", self.daemon_logs(40));
        }
        let wrong = self.end();
        home::remove(&self.root);
        if !wrong.is_empty() {
            let text = wrong.join("\n");
            // A second panic would hide the first one.
            assert!(failed, "{text}");
            eprintln!("{text}");
        }
    }
}
