//! Keepers and launchers as real processes for the tests of this crate. Whatever a test starts is killed when the test ends.
//! Does NOT assert anything about them.
#![allow(dead_code, reason = "each test binary uses its part")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use mlctl_agent::keeper::client::{Connection, connect};
use mlctl_agent::keeper::protocol::{Exit, FromKeeper, Status, ToKeeper};
use mlctl_agent::keeper::sweep::kill_leftovers;
use mlctl_agent::keeper::terms::{Terms, VARIABLE};
use mlctl_agent::launch::plan::PLAN_VERSION;
use mlctl_agent::launch::{LaunchPlan, RankPlan};
use mlctl_proto::logs::{PARTIAL, STDERR, decode};
use mlctl_proto::spec::{LaunchMethod, Ranges};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::sync::mpsc::Receiver;
use tokio::time::timeout;

/// Longer than anything here takes, also on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// The example that can be a launcher and a keeper; cargo builds it with the tests.
pub fn program() -> PathBuf {
    let test = std::env::current_exe().expect("a running test has a path");
    let program = test
        .ancestors()
        .nth(2)
        .expect("target/<profile>/deps/test")
        .join("examples/small_processes");
    assert!(
        program.exists(),
        "{} is missing: cargo build -p mlctl-agent --examples",
        program.display()
    );
    program
}

/// Says on stderr, and in the file that `MLCTL_SKIPS` names, that `test` did not run and why.
pub fn skip(test: &str, reason: &str) {
    let line = format!("{test}: {reason}\n");
    eprint!("SKIPPED {line}");
    if let Some(path) = std::env::var_os("MLCTL_SKIPS") {
        let file = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(path);
        file.and_then(|mut file| file.write_all(line.as_bytes()))
            .expect("the skip is noted");
    }
}

/// A plan that runs each of `scripts` in a shell.
pub fn plan(dir: &Path, scripts: &[&str]) -> LaunchPlan {
    let rank = |(at, script): (usize, &&str)| {
        let rank = u32::try_from(at).expect("few ranks");
        let mut env: BTreeMap<String, String> = BTreeMap::new();
        env.insert("PATH".into(), "/usr/bin:/bin".into());
        env.insert("RANK".into(), rank.to_string());
        env.insert(
            "MLCTL_ATTEMPT_DIR".into(),
            dir.to_str().expect("UTF-8").into(),
        );
        RankPlan {
            rank,
            local_rank: rank,
            argv: vec!["sh".into(), "-c".into(), (*script).into()],
            env,
            devices: Vec::new(),
            cpus: Ranges::new(),
        }
    };
    let path = |name: &str| dir.join(name).to_str().expect("UTF-8").to_owned();
    LaunchPlan {
        version: PLAN_VERSION,
        job: "1".into(),
        epoch: "1".into(),
        node_rank: 0,
        method: LaunchMethod::Exec,
        ranks: scripts.iter().enumerate().map(rank).collect(),
        work_dir: path("work"),
        logs_dir: path("logs"),
        grace_ms: 500,
        log_cap_bytes: 64 * 1024 * 1024,
        user: None,
        allow_root: true,
        files: Vec::new(),
        mpi: None,
        fence: None,
        limit: None,
        array: None,
        owner: String::new(),
        bounds: None,
        shm_bytes: None,
    }
}

pub fn write_plan(dir: &Path, plan: &LaunchPlan) {
    std::fs::create_dir_all(dir.join("work")).expect("made");
    std::fs::write(
        dir.join("plan.json"),
        serde_json::to_vec(plan).expect("plain data"),
    )
    .expect("written");
}

/// A keeper that is a child of the test.
pub struct Keeper {
    pub dir: PathBuf,
    pub child: Child,
    _home: tempfile::TempDir,
}

impl Keeper {
    /// Starts one for a plan of `scripts`, changed by `change`; the error is what it says instead of being ready.
    pub fn try_start(
        scripts: &[&str],
        change: impl FnOnce(&mut LaunchPlan),
    ) -> Result<Self, String> {
        Self::try_start_under(&Terms::default(), scripts, change)
    }

    /// The same, with terms of a launcher.
    pub fn try_start_under(
        terms: &Terms,
        scripts: &[&str],
        change: impl FnOnce(&mut LaunchPlan),
    ) -> Result<Self, String> {
        let home = tempfile::tempdir().expect("dir");
        let dir = home.path().join("7");
        let mut plan = plan(&dir, scripts);
        write_plan(&dir, &plan);
        change(&mut plan);
        std::fs::write(
            dir.join("plan.json"),
            serde_json::to_vec(&plan).expect("plain data"),
        )
        .expect("written");
        let mut command = Command::new(program());
        command
            .arg("keeper")
            .arg(&dir)
            .env(VARIABLE, serde_json::to_string(terms).expect("plain data"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        let mut child = command.spawn().expect("the keeper starts");
        let mut word = String::new();
        let pipe = child.stdout.take().expect("piped");
        BufReader::new(pipe).read_line(&mut word).expect("a line");
        let mut keeper = Self {
            dir,
            child,
            _home: home,
        };
        if word.trim() == mlctl_agent::keeper::READY {
            return Ok(keeper);
        }
        let code = keeper.child.wait().expect("it ended").code();
        assert_eq!(code, Some(70), "{word}");
        Err(word.trim().to_owned())
    }

    pub fn start(scripts: &[&str]) -> Self {
        Self::start_with(scripts, |_| {})
    }

    pub fn start_with(scripts: &[&str], change: impl FnOnce(&mut LaunchPlan)) -> Self {
        Self::try_start(scripts, change).expect("the keeper is ready")
    }

    pub fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).expect("a process id"))
    }

    pub async fn agent(&self) -> Connection {
        connect(&self.dir).await.expect("the keeper answers")
    }

    /// An agent that has said go.
    pub async fn running(&self) -> Connection {
        let agent = self.agent().await;
        agent.sender.send(go()).await.expect("sent");
        agent
    }

    /// A file that a rank writes, once it is there and ends a line.
    pub async fn noted(&self, name: &str) -> String {
        let path = self.dir.join("work").join(name);
        let found = until(|| {
            std::fs::read_to_string(&path)
                .ok()
                .filter(|text| text.ends_with('\n'))
        })
        .await;
        found
            .unwrap_or_else(|| panic!("no rank wrote {name}"))
            .trim()
            .to_owned()
    }

    /// A rank's log: `text` or `2:text` for standard error; `…` where a line goes on.
    pub fn log(&self, rank: u32) -> Vec<String> {
        let bytes = std::fs::read(self.dir.join(format!("logs/rank-{rank}.log"))).expect("a log");
        let (mut lines, mut rest) = (Vec::new(), bytes.as_slice());
        while let Some((frame, used)) = decode(rest).expect("whole frames") {
            let stream = if frame.flags & STDERR == 0 { "" } else { "2:" };
            let more = if frame.flags & PARTIAL == 0 {
                ""
            } else {
                "…"
            };
            lines.push(format!(
                "{stream}{}{more}",
                String::from_utf8_lossy(frame.text)
            ));
            rest = &rest[used..];
        }
        assert!(rest.is_empty(), "a frame is cut short");
        lines
    }

    /// Waits for the process's end.
    pub async fn ended(&mut self) -> Option<i32> {
        let child = &mut self.child;
        until(|| child.try_wait().expect("a child of ours"))
            .await
            .expect("the keeper ends")
            .code()
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        kill_leftovers(&self.dir);
    }
}

pub fn go() -> ToKeeper {
    ToKeeper::Go {
        master_address: "127.0.0.1".into(),
        master_port: 4711,
    }
}

/// Asks until there is an answer; `None` when patience ends.
pub async fn until<T>(mut ask: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + PATIENCE;
    while Instant::now() < end {
        if let Some(answer) = ask() {
            return Some(answer);
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    None
}

/// Is the process there, and not only as a dead one whose parent has not looked?
pub fn lives(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')')
        .is_some_and(|(_, rest)| !rest.trim_start().starts_with(['Z', 'X']))
}

pub async fn dies(pid: &str) -> bool {
    until(|| (!lives(pid)).then_some(())).await.is_some()
}

pub fn signal(pid: Pid, signal: Signal) {
    kill(pid, signal).expect("a process of ours");
}

/// The next message that is not about growing logs.
pub async fn next(receiver: &mut Receiver<FromKeeper>) -> Option<FromKeeper> {
    loop {
        match timeout(PATIENCE, receiver.recv())
            .await
            .expect("the keeper says something in time")
        {
            Some(FromKeeper::LogGrew { .. }) => {}
            other => return other,
        }
    }
}

/// Everything up to the end: exits as they were told, and the last word.
pub async fn to_the_end(receiver: &mut Receiver<FromKeeper>) -> (Vec<Exit>, Option<String>) {
    let mut told = Vec::new();
    loop {
        match next(receiver)
            .await
            .expect("the keeper stays until it is released")
        {
            FromKeeper::RankExited(exit) => told.push(exit),
            FromKeeper::AllEnded {
                mut exits,
                launch_failed,
            } => {
                exits.sort_by_key(|exit| exit.rank);
                let mut sorted = told.clone();
                sorted.sort_by_key(|exit| exit.rank);
                assert_eq!(exits, sorted, "the last word repeats what was told");
                return (told, launch_failed);
            }
            _ => {}
        }
    }
}

pub fn exit(rank: u32, code: i32, signal: i32, killed_by_us: bool) -> Exit {
    Exit {
        rank,
        code,
        signal,
        killed_by_us,
        oom: None,
    }
}

/// What a keeper says of itself, once it is so.
pub async fn until_status(keeper: &Keeper, wanted: impl Fn(&Status) -> bool) -> Status {
    let end = Instant::now() + PATIENCE;
    loop {
        let status = keeper.agent().await.status;
        if wanted(&status) {
            return status;
        }
        assert!(Instant::now() < end, "{status:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
