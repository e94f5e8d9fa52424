//! A launcher as a real process: what it starts, what it refuses, and that keepers outlive it.

mod processes;

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use mlctl_agent::keeper::client::connect;
use mlctl_agent::keeper::protocol::{Phase, ToKeeper};
use mlctl_agent::keeper::sweep::kill_leftovers;
use mlctl_agent::launcher::client::{LauncherError, ping, start_keeper};
use mlctl_proto::spec::Ranges;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use processes::{
    PATIENCE, dies, exit, go, lives, plan, program, signal, to_the_end, until, write_plan,
};

struct Launcher {
    home: tempfile::TempDir,
    child: Child,
    keepers: Vec<i32>,
}

impl Launcher {
    async fn start(program: &Path, job_user: &str) -> Self {
        let home = tempfile::tempdir().expect("dir");
        let data = home.path().join("data");
        let config = format!(
            "name = 'n1'\ndata_dir = '{}'\nidentity = '/none'\ncoordinators = ['127.0.0.1:1']\nrank_address = '127.0.0.1'\njob_user = '{job_user}'\n",
            data.display()
        );
        std::fs::write(home.path().join("agent.toml"), config).expect("written");
        let child = Self::spawn(program, home.path());
        let launcher = Self {
            home,
            child,
            keepers: Vec::new(),
        };
        launcher.answers().await;
        launcher
    }

    fn spawn(program: &Path, home: &Path) -> Child {
        let mut command = Command::new(program);
        command
            .args(["launcher", "--config"])
            .arg(home.join("agent.toml"))
            .stdin(Stdio::null())
            .stderr(Stdio::null());
        command.spawn().expect("the launcher starts")
    }

    async fn answers(&self) {
        let end = Instant::now() + PATIENCE;
        while ping(&self.socket()).await.is_err() {
            assert!(Instant::now() < end, "the launcher does not come up");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn socket(&self) -> PathBuf {
        self.home.path().join("data/launcher.sock")
    }

    /// An attempt's directory with the plan of one script.
    fn attempt(&self, name: &str, script: &str) -> PathBuf {
        let dir = self.home.path().join("data/jobs").join(name);
        std::fs::create_dir_all(&dir).expect("made");
        write_plan(&dir, &plan(&dir, &[script]));
        dir
    }

    async fn keeper(&mut self, dir: &Path) -> i32 {
        let pid = start_keeper(&self.socket(), dir).await.expect("a keeper");
        let pid = i32::try_from(pid).expect("a process id");
        self.keepers.push(pid);
        pid
    }
}

impl Drop for Launcher {
    fn drop(&mut self) {
        for pid in self
            .keepers
            .iter()
            .filter(|pid| is_ours(**pid, self.home.path()))
        {
            let _ = kill(Pid::from_raw(*pid), Signal::SIGKILL);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        mlctl_agent::cgroup::Base::discard(&self.home.path().join("data"));
        for attempt in ["1/1", "1/2", "2/1"] {
            kill_leftovers(&self.home.path().join("data/jobs").join(attempt));
        }
    }
}

/// Is the process a keeper that this test had started?
fn is_ours(pid: i32, home: &Path) -> bool {
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&line).contains(home.to_str().expect("UTF-8"))
}

#[tokio::test]
async fn keepers_outlive_the_launcher_and_are_reaped_by_it() {
    let mut launcher = Launcher::start(&program(), "").await;
    let (first, second) = (
        launcher.attempt("1/1", "sleep 1000"),
        launcher.attempt("1/2", "exit 2"),
    );
    let pid = launcher.keeper(&first).await;
    let agent = connect(&first)
        .await
        .expect("it takes connections when it was told of");
    agent.sender.send(go()).await.expect("sent");
    // A second one for another attempt, whose end is taken note of: no dead process stays behind.
    let other = launcher.keeper(&second).await;
    let mut done = connect(&second).await.expect("connected");
    done.sender.send(go()).await.expect("sent");
    assert_eq!(
        to_the_end(&mut done.receiver).await.0,
        [exit(0, 2, 0, false)]
    );
    done.sender.send(ToKeeper::Release).await.expect("sent");
    let gone = until(|| (!Path::new(&format!("/proc/{other}")).exists()).then_some(())).await;
    assert!(gone.is_some(), "nobody took the keeper's end");
    launcher.child.kill().expect("killed");
    launcher.child.wait().expect("ended");
    assert!(lives(&pid.to_string()));
    assert_eq!(
        connect(&first).await.expect("still there").status.phase,
        Phase::Running
    );
    // The next launcher takes over the socket that the first one left.
    launcher.child = Launcher::spawn(&program(), launcher.home.path());
    launcher.answers().await;
    signal(
        Pid::from_raw(i32::try_from(launcher.child.id()).expect("a process id")),
        Signal::SIGTERM,
    );
    assert_eq!(launcher.child.wait().expect("ended").code(), Some(0));
    assert!(
        lives(&pid.to_string()),
        "SIGTERM to the launcher is none to keepers"
    );
    let mut agent = connect(&first).await.expect("still there");
    agent
        .sender
        .send(ToKeeper::Stop { grace_ms: 1000 })
        .await
        .expect("sent");
    assert_eq!(
        to_the_end(&mut agent.receiver).await.0,
        [exit(0, 0, 15, true)]
    );
    agent.sender.send(ToKeeper::Release).await.expect("sent");
    assert!(dies(&pid.to_string()).await);
}

/// Processors that went offline after the agent had read which there are.
#[tokio::test]
async fn a_rank_that_cannot_be_bound_runs_and_the_log_says_so() {
    let mut launcher = Launcher::start(&program(), "").await;
    let dir = launcher.attempt("1/1", "exit 3");
    let mut bound = plan(&dir, &["exit 3"]);
    bound.ranks[0].cpus = Ranges::span(60_000, 60_003);
    write_plan(&dir, &bound);
    launcher.keeper(&dir).await;
    let mut agent = connect(&dir).await.expect("connected");
    agent.sender.send(go()).await.expect("sent");
    let (exits, failed) = to_the_end(&mut agent.receiver).await;
    assert_eq!((exits, failed), (vec![exit(0, 3, 0, false)], None));
    agent.sender.send(ToKeeper::Release).await.expect("sent");
    let log = std::fs::read_to_string(dir.join("keeper.log")).expect("a log");
    for word in ["not bound", "60000-60003", "Invalid argument"] {
        assert!(log.contains(word), "{word}: {log}");
    }
}

#[tokio::test]
async fn what_is_not_an_attempt_is_refused_with_the_reason() {
    let launcher = Launcher::start(&program(), "").await;
    let outside = launcher.home.path().join("elsewhere");
    write_plan(&outside, &plan(&outside, &["true"]));
    std::os::unix::fs::symlink(&outside, launcher.home.path().join("data/jobs/link"))
        .expect("link");
    let empty = launcher.home.path().join("data/jobs/1/1");
    std::fs::create_dir_all(&empty).expect("made");
    let garbage = launcher.attempt("1/2", "true");
    std::fs::write(garbage.join("plan.json"), b"{\xff").expect("written");
    for (dir, says) in [
        (outside.clone(), "not inside"),
        (launcher.home.path().join("data/jobs/link"), "not inside"),
        (
            launcher.home.path().join("data/jobs/1/../../../elsewhere"),
            "not inside",
        ),
        (launcher.home.path().join("data/jobs/9/9"), "No such file"),
        (PathBuf::from("jobs/1/1"), "not an absolute path"),
        (empty, "cannot open"),
        (garbage, "is no launch plan"),
    ] {
        let error = start_keeper(&launcher.socket(), &dir)
            .await
            .expect_err("refused");
        assert!(
            matches!(&error, LauncherError::Failed(why) if why.contains(says)),
            "{}: {error}",
            dir.display()
        );
    }
    assert!(!outside.join("keeper.json").exists());
}

#[tokio::test]
async fn garbage_is_survived_and_the_slow_keep_nobody_waiting() {
    let mut launcher = Launcher::start(&program(), "").await;
    let mut half_open = Vec::new();
    for bytes in [
        b"" as &[u8],
        b"\0",
        &[255; 70_000],
        b"\x02\0\0\0{}",
        b"\x05\0\0\0hello",
        b"\x10\0\0\0{",
        b"\x06\0\0\0\"Shell",
    ] {
        let mut socket = UnixStream::connect(launcher.socket()).expect("connected");
        socket.set_read_timeout(Some(PATIENCE)).expect("set");
        let _ = socket.write_all(bytes);
        let _ = socket.shutdown(std::net::Shutdown::Write);
        let mut answer = Vec::new();
        let _ = socket.read_to_end(&mut answer);
        assert!(answer.is_empty(), "{bytes:?} was answered {answer:?}");
        half_open.push(UnixStream::connect(launcher.socket()).expect("connected"));
    }
    let begin = Instant::now();
    let dir = launcher.attempt("1/1", "true");
    launcher.keeper(&dir).await;
    assert!(
        begin.elapsed() < Duration::from_millis(900),
        "{:?}",
        begin.elapsed()
    );
    // More at once than are served: some are closed, and when they are gone the next is served again.
    half_open.extend((0..60).map(|_| UnixStream::connect(launcher.socket()).expect("connected")));
    drop(half_open);
    launcher.answers().await;
    assert!(launcher.child.try_wait().expect("a child").is_none());
}

#[tokio::test]
async fn an_upgrade_under_a_running_launcher_does_not_matter() {
    let home = tempfile::tempdir().expect("dir");
    let own = home.path().join("mlctl");
    std::fs::copy(program(), &own).expect("copied");
    let mut launcher = Launcher::start(&own, "").await;
    std::fs::write(home.path().join("new"), "not a program").expect("written");
    std::fs::rename(home.path().join("new"), &own).expect("replaced");
    let dir = launcher.attempt("1/1", "true");
    launcher.keeper(&dir).await;
    assert_eq!(
        connect(&dir).await.expect("there").status.phase,
        Phase::Waiting
    );
}

#[tokio::test]
async fn there_is_one_launcher_and_its_word_on_users_counts() {
    let launcher = Launcher::start(&program(), "nobody").await;
    let mut second = Launcher::spawn(&program(), launcher.home.path());
    assert_eq!(second.wait().expect("ended").code(), Some(70));
    let mode = std::fs::metadata(launcher.socket())
        .expect("a socket")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    let dir = launcher.attempt("2/1", "true");
    let error = start_keeper(&launcher.socket(), &dir)
        .await
        .expect_err("refused")
        .to_string();
    assert!(error.contains("jobs run as `nobody`"), "{error}");
    launcher.answers().await;
}

#[tokio::test]
async fn nobody_there_is_told_apart() {
    let home = tempfile::tempdir().expect("dir");
    let error = ping(&home.path().join("launcher.sock"))
        .await
        .expect_err("nobody");
    assert!(
        matches!(error, LauncherError::Unreachable { .. })
            && error.to_string().contains("mlctl launcher"),
        "{error}"
    );
    let usage = Command::new(program())
        .args(["keeper"])
        .output()
        .expect("it runs");
    assert_eq!(usage.status.code(), Some(64));
    let config = Command::new(program())
        .args(["launcher", "--config", "/no/such.toml"])
        .output()
        .expect("it runs");
    assert_eq!(config.status.code(), Some(64));
    assert!(String::from_utf8_lossy(&config.stderr).contains("/no/such.toml"));
}

/// The process that forks keepers: the launcher's child.
fn warm_keeper(launcher: &Launcher) -> i32 {
    // A child belongs to the thread that started it.
    let threads = format!("/proc/{}/task", launcher.child.id());
    let threads = std::fs::read_dir(threads).expect("the launcher lives");
    let children: String = threads
        .flatten()
        .filter_map(|thread| std::fs::read_to_string(thread.path().join("children")).ok())
        .collect();
    let mut pids = children
        .split_whitespace()
        .map(|pid| pid.parse().expect("a process id"));
    let warm = pids.next().expect("there is one");
    assert_eq!(pids.next(), None, "keepers are no children of the launcher");
    warm
}

#[tokio::test]
async fn a_warm_keeper_that_dies_is_replaced_and_its_keepers_live_on() {
    let mut launcher = Launcher::start(&program(), "").await;
    let (first, second) = (
        launcher.attempt("1/1", "sleep 1000"),
        launcher.attempt("1/2", "true"),
    );
    let before = launcher.keeper(&first).await;
    assert!(
        is_ours(before, launcher.home.path()),
        "who looks at processes sees whose keeper it is"
    );
    let warm = warm_keeper(&launcher);
    signal(Pid::from_raw(warm), Signal::SIGKILL);
    let after = launcher.keeper(&second).await;
    assert_ne!(warm_keeper(&launcher), warm);
    for (pid, dir) in [(before, &first), (after, &second)] {
        assert!(lives(&pid.to_string()));
        assert_eq!(
            connect(dir).await.expect("it answers").status.phase,
            Phase::Waiting
        );
    }
}

#[tokio::test]
async fn a_warm_keeper_ends_with_its_launcher() {
    let mut launcher = Launcher::start(&program(), "").await;
    let warm = warm_keeper(&launcher);
    launcher.child.kill().expect("killed");
    launcher.child.wait().expect("ended");
    assert!(dies(&warm.to_string()).await);
}
