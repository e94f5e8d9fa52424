//! The supervisor: starts the daemons of a dev cluster, starts them again 1 s after they died, and obeys its socket.
//! What it killed on request stays down. It reads no cluster state and decides nothing about jobs.
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Stdio;
use std::rc::Rc;
use std::time::Duration;

use mlctl_runtime::shutdown::Shutdown;
use nix::fcntl::{Flock, FlockArg};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::process::Command;

use super::control::{Answer, Ask, Process, lock_file, socket};
use super::layout::{Dev, Layout};
use super::processes::{keepers, kill_attempts, kill_now, terminate};
use crate::failure::Failure;

/// A daemon that died is started again after this.
const RESTART: Duration = Duration::from_secs(1);

/// One daemon: what it is and where it stands.
#[derive(Debug, Clone)]
struct Daemon {
    role: &'static str,
    name: String,
    address: String,
    pid: Option<i32>,
    /// Killed on request: not started again until asked.
    down: bool,
    /// Counts starts wanted by people, so that an older waiting restart does not start it twice.
    turn: u64,
}

type Key = (&'static str, String);

struct Supervisor {
    layout: Layout,
    daemons: RefCell<BTreeMap<Key, Daemon>>,
    stopping: RefCell<bool>,
}

/// Runs the cluster in `dir` until it is told to stop.
pub async fn run(dir: &Path, shutdown: Shutdown) -> Result<(), Failure> {
    let layout = Layout::new(dir);
    let lock = std::fs::File::create(lock_file(dir)).map_err(Failure::internal)?;
    let lock = Flock::lock(lock, FlockArg::LockExclusiveNonblock).map_err(|_| {
        Failure::config_text(format!("another supervisor runs in {}", dir.display()))
    })?;
    let path = socket(dir);
    // The lock is ours, so a socket that is there belongs to a supervisor that died.
    let _ = std::fs::remove_file(&path);
    let listener = UnixListener::bind(&path)
        .map_err(|error| Failure::config_text(format!("{}: {error}", path.display())))?;
    let supervisor = Rc::new(Supervisor {
        layout,
        daemons: RefCell::default(),
        stopping: RefCell::new(false),
    });
    let local = tokio::task::LocalSet::new();
    local
        .run_until(async {
            supervisor.heal()?;
            loop {
                tokio::select! {
                    accepted = listener.accept() => {
                        if let Ok((stream, _)) = accepted {
                            let supervisor = supervisor.clone();
                            let shutdown = shutdown.clone();
                            tokio::task::spawn_local(async move { supervisor.serve(stream, &shutdown).await });
                        }
                    }
                    () = shutdown.wait() => break,
                }
            }
            supervisor.stop().await;
            Ok::<(), Failure>(())
        })
        .await?;
    let _ = std::fs::remove_file(&path);
    // Whoever waits for our end waits for this lock: the end of the process gives it back.
    std::mem::forget(lock);
    Ok(())
}

impl Supervisor {
    /// Starts every daemon of the layout that is not up.
    fn heal(self: &Rc<Self>) -> Result<(), Failure> {
        let dev = self
            .layout
            .read()?
            .ok_or_else(|| Failure::config_text("dev.json is missing".into()))?;
        for (key, address) in wanted(&dev) {
            self.start(key, &address);
        }
        Ok(())
    }

    fn start(self: &Rc<Self>, key: Key, address: &str) {
        let turn = {
            let mut daemons = self.daemons.borrow_mut();
            let daemon = daemons.entry(key.clone()).or_insert_with(|| Daemon {
                role: key.0,
                name: key.1.clone(),
                address: address.to_owned(),
                pid: None,
                down: true,
                turn: 0,
            });
            if !daemon.down {
                return;
            }
            daemon.down = false;
            daemon.turn += 1;
            daemon.turn
        };
        let supervisor = self.clone();
        tokio::task::spawn_local(async move { supervisor.keep_up(key, turn).await });
    }

    /// Runs one daemon, again and again, until it is taken down.
    async fn keep_up(&self, key: Key, turn: u64) {
        loop {
            let mut child = match self.spawn(&key) {
                Ok(child) => child,
                Err(error) => {
                    eprintln!("cannot start {} {}: {error}", key.0, key.1);
                    tokio::time::sleep(RESTART).await;
                    if !self.wanted(&key, turn) {
                        return;
                    }
                    continue;
                }
            };
            self.set_pid(&key, child.id().and_then(|pid| i32::try_from(pid).ok()));
            let status = child.wait().await;
            self.set_pid(&key, None);
            if !self.wanted(&key, turn) {
                return;
            }
            eprintln!("{} {} ended ({status:?}); starting it again", key.0, key.1);
            tokio::time::sleep(RESTART).await;
            if !self.wanted(&key, turn) {
                return;
            }
        }
    }

    fn wanted(&self, key: &Key, turn: u64) -> bool {
        let daemons = self.daemons.borrow();
        !*self.stopping.borrow()
            && daemons
                .get(key)
                .is_some_and(|daemon| !daemon.down && daemon.turn == turn)
    }

    fn set_pid(&self, key: &Key, pid: Option<i32>) {
        if let Some(daemon) = self.daemons.borrow_mut().get_mut(key) {
            daemon.pid = pid;
        }
    }

    fn spawn(&self, (role, name): &Key) -> std::io::Result<tokio::process::Child> {
        let home = if *role == "coordinator" {
            self.layout.coordinator(name)
        } else {
            self.layout.node(name)
        };
        let config = home.join(if *role == "coordinator" {
            "coordinator.toml"
        } else {
            "agent.toml"
        });
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.layout.log(&format!("{role}-{name}")))?;
        let mut command = Command::new(std::env::current_exe()?);
        command
            .arg(role)
            .arg("--config")
            .arg(config)
            .arg("--die-with")
            .arg(std::process::id().to_string());
        if *role == "coordinator" && !home.join("data").exists() {
            command.arg("--bootstrap");
        }
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        // Its own group, so that a Ctrl-C for us does not reach it.
        command.process_group(0);
        command.spawn()
    }

    async fn serve(self: &Rc<Self>, stream: UnixStream, shutdown: &Shutdown) {
        let (read, mut write) = stream.into_split();
        let mut line = String::new();
        if BufReader::new(read).read_line(&mut line).await.is_err() {
            return;
        }
        let ask = serde_json::from_str::<Ask>(&line);
        let stop = matches!(ask, Ok(Ask::Stop));
        let answer = match ask {
            Ok(ask) => self.obey(ask).await,
            Err(error) => Answer::Refused(format!("not understood: {error}")),
        };
        let mut text = serde_json::to_vec(&answer).unwrap_or_default();
        text.push(b'\n');
        // Whoever asked may have gone; what was asked is done.
        let _ = write.write_all(&text).await;
        if stop {
            shutdown.trigger();
        }
    }

    async fn obey(self: &Rc<Self>, ask: Ask) -> Answer {
        match ask {
            Ask::Status => Answer::Processes(self.processes()),
            Ask::Heal => self.heal().map_or_else(
                |failure| Answer::Refused(failure.to_string()),
                |()| Answer::Done,
            ),
            Ask::Start { name } => self.start_named(&name),
            Ask::Kill { name } => self.kill_named(&name).await,
            Ask::Stop => {
                self.stop().await;
                Answer::Done
            }
        }
    }

    fn named(&self, name: &str) -> Vec<(Key, String)> {
        let daemons = self.daemons.borrow();
        let of_name = daemons.iter().filter(|(key, _)| key.1 == name);
        of_name
            .map(|(key, daemon)| (key.clone(), daemon.address.clone()))
            .collect()
    }

    fn unknown(&self, name: &str) -> Answer {
        let daemons = self.daemons.borrow();
        let mut names: Vec<&str> = daemons.keys().map(|key| key.1.as_str()).collect();
        names.dedup();
        Answer::Refused(format!(
            "there is no {name} here; there are {}",
            names.join(", ")
        ))
    }

    fn start_named(self: &Rc<Self>, name: &str) -> Answer {
        let named = self.named(name);
        if named.is_empty() {
            return self.unknown(name);
        }
        let was_down = self
            .daemons
            .borrow()
            .iter()
            .any(|(key, daemon)| key.1 == name && daemon.down);
        let node = named.iter().any(|(key, _)| key.0 == "agent");
        if node && was_down && self.layout.new_boot(name).is_err() {
            return Answer::Refused(format!("cannot write the boot id of {name}"));
        }
        for (key, address) in named {
            self.start(key, &address);
        }
        Answer::Done
    }

    /// As a power cut: everything of it at once, nothing gets to say anything.
    async fn kill_named(&self, name: &str) -> Answer {
        let named = self.named(name);
        if named.is_empty() {
            return self.unknown(name);
        }
        let mut pids = Vec::new();
        for daemon in self
            .daemons
            .borrow_mut()
            .values_mut()
            .filter(|daemon| daemon.name == name)
        {
            daemon.down = true;
            pids.extend(daemon.pid);
        }
        pids.into_iter().for_each(kill_now);
        // A keeper that was just being started shows up a moment later; its launcher is dead by now.
        for _ in 0..3 {
            kill_attempts(&self.layout.node(name).join("data"));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Answer::Done
    }

    fn processes(&self) -> Vec<Process> {
        let mut found = Vec::new();
        for daemon in self.daemons.borrow().values() {
            found.push(Process {
                role: daemon.role.into(),
                name: daemon.name.clone(),
                pid: daemon.pid.unwrap_or(0),
                address: daemon.address.clone(),
            });
            if daemon.role == "agent" {
                for keeper in keepers(&self.layout.node(&daemon.name).join("data")) {
                    let name = format!("{}/{}", daemon.name, keeper.name);
                    found.push(Process {
                        role: "keeper".into(),
                        name,
                        pid: keeper.pid,
                        address: String::new(),
                    });
                }
            }
        }
        found
    }

    /// Ends everything: agents and launchers, keepers with their ranks, then coordinators; who is slow is killed.
    async fn stop(&self) {
        if std::mem::replace(&mut *self.stopping.borrow_mut(), true) {
            return;
        }
        let pids = |role: &str| -> Vec<i32> {
            self.daemons
                .borrow()
                .values()
                .filter(|daemon| daemon.role == role)
                .filter_map(|daemon| daemon.pid)
                .collect()
        };
        let nodes: Vec<String> = self
            .daemons
            .borrow()
            .values()
            .filter(|d| d.role == "agent")
            .map(|d| d.name.clone())
            .collect();
        for role in ["agent", "launcher", "coordinator"] {
            pids(role).into_iter().for_each(terminate);
        }
        for name in &nodes {
            kill_attempts(&self.layout.node(name).join("data"));
        }
        for _ in 0..300 {
            if self
                .daemons
                .borrow()
                .values()
                .all(|daemon| daemon.pid.is_none())
            {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        for role in ["agent", "launcher", "coordinator"] {
            pids(role).into_iter().for_each(kill_now);
        }
        for name in &nodes {
            kill_attempts(&self.layout.node(name).join("data"));
        }
    }
}

/// Every daemon of the layout with its address: coordinators first.
fn wanted(dev: &Dev) -> Vec<(Key, String)> {
    let mut all: Vec<(Key, String)> = dev
        .coordinators
        .iter()
        .map(|member| (("coordinator", member.name.clone()), member.address.clone()))
        .collect();
    for (number, name) in dev.nodes.iter().enumerate() {
        let address = format!("127.0.0.{}", number + 11);
        all.push((("launcher", name.clone()), address.clone()));
        all.push((("agent", name.clone()), address));
    }
    all
}
