//! Three coordinators and some nodes whose daemons the test starts, stops, kills and cuts off itself, each by its name.
//! Does NOT start anything again by itself, unlike a dev cluster: what is down stays down until the test says so.
//!
//! Coordinators are c1 to c3, nodes n1, n2, …; a node's daemons are its agent, called as the node, and its launcher, `n1-launcher`.
//! A daemon dies with the thread that started it: only the test's own thread starts daemons.

mod installed;
mod jobs;
mod layout;
mod nodes;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use mlctl_proto::api::HelloReply;
use mlctl_runtime::config::ContextFile;
use nix::sys::signal::Signal;

use super::client::Client;
use super::command::{self, DEADLINE, Output};
use super::disk::Disk;
use super::netns::{self, Net};
use super::{binary, home, machine, tool, until};
use crate::tidy::skips::skip;

pub use installed::Build;
use installed::Installed;
use layout::Layout;
pub use layout::{Member, Plan};

/// How long a cluster may take to be whole again when nothing stands in its way.
pub const WHOLE: Duration = Duration::from_secs(30);

/// A fleet. When it is dropped everything ends, and the test fails for a panic in a daemon's log.
pub struct Fleet {
    binary: PathBuf,
    layout: Layout,
    up: BTreeMap<String, Child>,
    asks: Client,
    /// Where the agent that is started next dies.
    armed: Option<String>,
    /// What the nodes' daemons are started from, if not the binary under test itself.
    installed: Option<Installed>,
}

impl Fleet {
    /// Starts what `plan` says and waits until it is whole.
    ///
    /// # Panics
    /// When there is no fresh binary, or the fleet does not come up.
    #[must_use]
    pub fn start(plan: &Plan) -> Self {
        let binary = binary::under_test().unwrap_or_else(|why| panic!("{why}"));
        let layout = layout::lay_out(&home::fresh(), plan);
        let asks = Client::new(&layout.context, 0);
        let mut fleet = Self {
            binary,
            layout,
            up: BTreeMap::new(),
            asks,
            armed: None,
            installed: None,
        };
        for name in fleet.coordinators() {
            fleet.start_coordinator(&name, &["--bootstrap"]);
        }
        for node in fleet.nodes() {
            fleet.start_one(&format!("{node}-launcher"));
            fleet.start_one(&node);
        }
        fleet.wait_whole();
        fleet
    }

    /// A fleet whose nodes are hosts of their own and have these programs; `None`, said loudly, where `test` cannot run.
    ///
    /// # Panics
    /// As [`Fleet::start`].
    pub fn on_hosts(test: &str, nodes: usize, programs: &[&str]) -> Option<Self> {
        if let Some(why) = tool::obstacle(programs).or_else(netns::obstacle) {
            skip(test, &why);
            return None;
        }
        Some(Self::start(&Plan {
            nodes,
            hosts: true,
            ..Plan::default()
        }))
    }

    /// Names of all coordinators.
    pub fn coordinators(&self) -> Vec<String> {
        let members = self.layout.members.iter();
        members.map(|member| member.name.clone()).collect()
    }

    /// Every coordinator as it was laid out.
    pub fn members(&self) -> &[Member] {
        &self.layout.members
    }

    /// Names of all nodes.
    pub fn nodes(&self) -> Vec<String> {
        self.layout.nodes.clone()
    }

    /// The network, if each daemon has a host of its own.
    pub fn net(&self) -> Option<&Net> {
        self.layout.net.as_ref()
    }

    /// The disks of the coordinators, in their order; none if they are on the machine's own.
    pub fn disks(&self) -> &[Disk] {
        &self.layout.disks
    }

    /// Where a daemon lives.
    pub fn home(&self, name: &str) -> PathBuf {
        self.layout.root.join(name)
    }

    /// A directory for what the test and its jobs write.
    pub fn work(&self) -> PathBuf {
        self.layout.root.join("work")
    }

    /// The user's context; its addresses are in the order of the coordinators.
    pub fn context(&self) -> &ContextFile {
        &self.layout.context
    }

    /// Starts a daemon that is down.
    ///
    /// # Panics
    /// When it is up, or cannot be started.
    pub fn start_one(&mut self, name: &str) {
        let (role, host) = match name.strip_suffix("-launcher") {
            Some(node) => ("launcher", node),
            None if self.layout.nodes.iter().any(|node| node == name) => ("agent", name),
            None => return self.start_coordinator(name, &[]),
        };
        self.spawn(
            name,
            host,
            role,
            &self.home(host).join("agent.toml"),
            &["--die-with", &std::process::id().to_string()],
        );
    }

    /// Starts a coordinator that is down, with more words.
    ///
    /// # Panics
    /// As [`Fleet::start_one`].
    pub fn start_coordinator(&mut self, name: &str, words: &[&str]) {
        let config = self.home(name).join("coordinator.toml");
        let pid = std::process::id().to_string();
        let words = [words, &["--die-with", &pid]].concat();
        self.spawn(name, name, "coordinator", &config, &words);
    }

    fn spawn(&mut self, name: &str, host: &str, role: &str, config: &Path, words: &[&str]) {
        assert!(!self.up.contains_key(name), "{name} is up already");
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(self.log_file(name))
            .expect("a log file");
        let installed = self.installed.as_ref().filter(|_| role != "coordinator");
        let binary = installed.map_or(&self.binary, Installed::binary);
        let mut command = match &self.layout.net {
            Some(net) => net.command(host, binary),
            None => Command::new(binary),
        };
        home::scrub(&mut command, &self.layout.root);
        if let Some(installed) = installed {
            installed.prepare(&mut command);
        }
        if let (Some(library), "coordinator") = (&self.layout.preload, role) {
            command.env("LD_PRELOAD", library);
        }
        if let (Some(failpoint), "agent") = (&self.armed, role) {
            command.env("MLCTL_FAILPOINT", failpoint);
        }
        if role == "agent" {
            command.envs(
                self.layout
                    .agent_env
                    .iter()
                    .map(|(key, value)| (key, value)),
            );
        }
        command
            .args([role, "--config"])
            .arg(config)
            .args(words)
            .current_dir(&self.layout.root)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log);
        let child = command.spawn();
        let child = child.unwrap_or_else(|error| panic!("cannot start {name}: {error}"));
        self.up.insert(name.to_owned(), child);
    }

    /// Whether a daemon was started and not ended by the test.
    pub fn is_up(&self, name: &str) -> bool {
        self.up.contains_key(name)
    }

    /// The process of a daemon that is up.
    ///
    /// # Panics
    /// When it is not.
    pub fn pid(&self, name: &str) -> i32 {
        let child = self.up.get(name);
        machine::pid_of(child.unwrap_or_else(|| panic!("{name} is not up")))
    }

    /// Sends a signal to a daemon that is up.
    ///
    /// # Panics
    /// When it is not.
    pub fn signal(&self, name: &str, signal: Signal) {
        machine::send(self.pid(name), signal);
    }

    /// As `kill -9`, on all of them at once; returns when they are gone.
    ///
    /// # Panics
    /// When one is not up.
    pub fn kill(&mut self, names: &[&str]) {
        for name in names {
            self.signal(name, Signal::SIGKILL);
        }
        for name in names {
            self.ended_with(name);
        }
    }

    /// Waits until a daemon has ended.
    ///
    /// # Panics
    /// When it is not up, or does not end within a minute.
    pub fn ended_with(&mut self, name: &str) -> ExitStatus {
        let child = self.up.get_mut(name);
        let child = child.unwrap_or_else(|| panic!("{name} is not up"));
        let status = until(&format!("the end of {name}"), DEADLINE, || {
            child.try_wait().expect("it is our child")
        });
        self.up.remove(name);
        status
    }

    /// Whether a daemon that is up has ended by itself meanwhile.
    ///
    /// # Panics
    /// When it is not up.
    pub fn has_ended(&mut self, name: &str) -> bool {
        let child = self.up.get_mut(name);
        let child = child.unwrap_or_else(|| panic!("{name} is not up"));
        child.try_wait().expect("it is our child").is_some()
    }

    /// What every coordinator that answers says of itself, by name.
    pub fn hellos(&mut self) -> BTreeMap<String, HelloReply> {
        let mut all = BTreeMap::new();
        for (place, name) in self.coordinators().into_iter().enumerate() {
            if let Ok(reply) = self.asks.hello(place) {
                all.insert(name, reply);
            }
        }
        all
    }

    /// The coordinator that says that it leads itself, if any that answers does.
    pub fn leader_now(&mut self) -> Option<String> {
        let leads = |reply: &HelloReply| reply.members.iter().any(|one| one.leader && one.self_);
        let mut all = self.hellos().into_iter();
        all.find(|(_, reply)| leads(reply)).map(|(name, _)| name)
    }

    /// The leading coordinator.
    ///
    /// # Panics
    /// When none leads within 10 s.
    #[track_caller]
    pub fn leader(&mut self) -> String {
        until("a leader", Duration::from_secs(10), || self.leader_now())
    }

    /// Waits until every coordinator answers and has applied the same, one of them leads, and every node is Ready.
    ///
    /// # Panics
    /// When that takes longer than [`WHOLE`].
    #[track_caller]
    pub fn wait_whole(&mut self) {
        let mut last = String::new();
        let begun = std::time::Instant::now();
        while let Some(why) = self.not_whole() {
            last = why;
            if begun.elapsed() > WHOLE {
                break;
            }
            std::thread::sleep(super::LOOK);
        }
        assert!(
            begun.elapsed() <= WHOLE,
            "not whole after {WHOLE:?}: {last}"
        );
    }

    /// Waits until somebody leads, as one who leads says.
    ///
    /// # Panics
    /// When that takes longer than [`WHOLE`].
    #[track_caller]
    pub fn wait_led(&mut self) {
        until("a leader", WHOLE, || self.leader_now());
    }

    /// What is missing for the fleet to be whole.
    fn not_whole(&mut self) -> Option<String> {
        let hellos = self.hellos();
        let applied: Vec<u64> = hellos.values().map(|reply| reply.applied).collect();
        let leaders: Vec<&str> = (hellos.iter())
            .filter(|(_, reply)| reply.members.iter().any(|one| one.leader && one.self_))
            .map(|(name, _)| name.as_str())
            .collect();
        if applied.len() < self.layout.members.len() || leaders.len() != 1 {
            let who: Vec<&String> = hellos.keys().collect();
            return Some(format!("{who:?} answer, {leaders:?} lead"));
        }
        if applied.iter().any(|one| *one != applied[0]) {
            return Some(format!("applied are {applied:?}"));
        }
        let expected = self.layout.members.len();
        let voting = |reply: &&HelloReply| {
            let all = &reply.members;
            all.len() == expected && all.iter().all(|one| !one.learner)
        };
        if let Some(reply) = hellos.values().find(|reply| !voting(reply)) {
            return Some(format!("not all vote: {:?}", reply.members));
        }
        let nodes = match self.asks.nodes() {
            Ok(reply) => reply.nodes,
            Err(refusal) => return Some(refusal.to_string()),
        };
        let ready = nodes.iter().filter(|node| node.liveness == "Ready").count();
        (ready < self.layout.nodes.len()).then(|| format!("{nodes:?}"))
    }

    /// A file with the user's context, its addresses in the order that `order` gives.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn context_file(&self, order: &[usize]) -> PathBuf {
        let name: String = order.iter().map(|place| format!("-{place}")).collect();
        let path = self.layout.root.join(format!("context{name}.toml"));
        let mut context = self.layout.context.clone();
        let address = |&place: &usize| self.layout.members[place].address.clone();
        context.addresses = order.iter().map(address).collect();
        context
            .write(&path)
            .unwrap_or_else(|error| panic!("{error}"));
        path
    }

    /// `mlctl` with `words` for the user of the context file `context`.
    pub fn command(&self, context: &Path, words: &[&str]) -> Command {
        let mut command = home::command(&self.binary, &self.layout.root, context);
        command.args(words);
        command
    }

    /// `mlctl` with `words`, to its end.
    ///
    /// # Panics
    /// When it takes longer than a minute.
    pub fn mlctl(&self, words: &[&str]) -> Output {
        let context = self.layout.root.join("context.toml");
        command::run(self.command(&context, words), DEADLINE)
    }

    fn log_file(&self, name: &str) -> PathBuf {
        self.layout.root.join("logs").join(format!("{name}.log"))
    }

    /// What a daemon has said so far.
    pub fn log(&self, name: &str) -> String {
        let bytes = fs::read(self.log_file(name)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn names(&self) -> Vec<String> {
        let launchers = self
            .layout
            .nodes
            .iter()
            .map(|node| format!("{node}-launcher"));
        let daemons = self.coordinators().into_iter().chain(self.nodes());
        daemons.chain(launchers).collect()
    }

    /// The last lines that each daemon said.
    pub fn logs(&self, lines: usize) -> String {
        let mut text = String::new();
        for name in self.names() {
            let log = self.log(&name);
            let from = log.lines().count().saturating_sub(lines);
            text += &format!("---- {name}\n");
            (log.lines().skip(from)).for_each(|line| text += &format!("{line}\n"));
        }
        text
    }

    /// Ends everything; says what was wrong.
    fn end(&mut self) -> Vec<String> {
        for child in self.up.values_mut() {
            // A process that is stopped takes this signal too. Errors: it has ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
        for process in machine::around(&self.layout.root) {
            machine::kill(process.pid);
        }
        let mut wrong = Vec::new();
        let cuts = !self.layout.disks.is_empty();
        for name in self.names() {
            let log = self.log(&name);
            let texts = log.split("panicked at").skip(1);
            for text in texts.filter(|text| !(cuts && dead_disk(text))) {
                let text: Vec<&str> = text.lines().take(8).collect();
                wrong.push(format!("{name} panicked at {}", text.join("\n")));
            }
        }
        wrong
    }
}

/// The log's library panics when a sync fails, and perhaps once more when it is dropped for that; then the process ends. The index's
/// library does likewise in its threads. Right for a disk whose power was cut.
fn dead_disk(panic: &str) -> bool {
    let mut lines = panic.lines();
    let (place, text) = (
        lines.next().unwrap_or_default(),
        lines.next().unwrap_or_default(),
    );
    place.contains("raft-engine") && text.contains("fdatasync")
        || place.contains("/sled-")
        || text == "panic in a destructor during cleanup"
}

impl Drop for Fleet {
    fn drop(&mut self) {
        let failed = std::thread::panicking();
        if failed {
            eprintln!("{}", self.logs(40));
        }
        let wrong = self.end();
        // Unmounted before the directory goes.
        self.layout.disks.clear();
        home::remove(&self.layout.root);
        if !wrong.is_empty() {
            let text = wrong.join("\n");
            // A second panic would hide the first one.
            assert!(failed, "{text}");
            eprintln!("{text}");
        }
    }
}
