//! Two real users on one node, through a real launcher: each job runs as who its owner is, and neither reaches the other, the agent's
//! files, or the sockets. Also the room: a `/tmp` and a `/dev/shm` that ranks share and nobody else sees.

mod processes;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use mlctl_agent::cgroup::Base;
use mlctl_agent::keeper::client::{Connection, connect};
use mlctl_agent::keeper::protocol::ToKeeper;
use mlctl_agent::keeper::sweep::kill_leftovers;
use mlctl_agent::launch::LaunchPlan;
use mlctl_agent::launcher::client::{isolation, ping, start_keeper};
use nix::unistd::{User, chown, geteuid};
use processes::{exit, go, plan, program, skip, to_the_end, until, write_plan};

/// Users that are made for a test and gone after it.
struct Users {
    names: Vec<String>,
}

impl Users {
    /// `None`, and a word about it, where none can be made.
    fn make(test: &str, count: usize) -> Option<Self> {
        if !geteuid().is_root() {
            skip(test, "only root can make users");
            return None;
        }
        let mut users = Self { names: Vec::new() };
        for number in 0..count {
            let name = format!("mlctl-{}-{number}", std::process::id());
            let made = Command::new("useradd")
                .args(["-M", "-U", "-s", "/bin/sh", &name])
                .output();
            match made {
                Ok(output) if output.status.success() => users.names.push(name),
                other => {
                    skip(test, &format!("useradd cannot make users here: {other:?}"));
                    return None;
                }
            }
        }
        Some(users)
    }

    fn of(&self, number: usize) -> User {
        let found = User::from_name(&self.names[number]).expect("looked up");
        found.expect("it was made")
    }
}

impl Drop for Users {
    fn drop(&mut self) {
        for name in &self.names {
            let _ = Command::new("userdel").arg(name).output();
        }
    }
}

/// A launcher with this in its configuration.
struct Launcher {
    home: tempfile::TempDir,
    child: Child,
}

impl Launcher {
    async fn start(config: &str) -> Self {
        let home = tempfile::tempdir().expect("dir");
        // As a data directory is: to be passed through and not to be listed.
        std::fs::set_permissions(home.path(), PermissionsExt::from_mode(0o711)).expect("opened");
        let data = home.path().join("data");
        let text = format!(
            "name = 'n1'\ndata_dir = '{}'\nidentity = '/none'\ncoordinators = ['127.0.0.1:1']\nrank_address = '127.0.0.1'\n{config}\n",
            data.display()
        );
        std::fs::write(home.path().join("agent.toml"), text).expect("written");
        let mut command = Command::new(program());
        command
            .args(["launcher", "--config"])
            .arg(home.path().join("agent.toml"));
        let child = command
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("started");
        let launcher = Self { home, child };
        let socket = launcher.socket();
        let mut answers = false;
        for _ in 0..2_000 {
            answers = ping(&socket).await.is_ok();
            if answers {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        assert!(answers, "the launcher does not come up");
        launcher
    }

    fn socket(&self) -> PathBuf {
        self.home.path().join("data/launcher.sock")
    }

    /// An attempt's directory as an agent lays it out for a user: its own work directory, closed to others.
    fn attempt(
        &self,
        name: &str,
        scripts: &[&str],
        user: &User,
        change: impl FnOnce(&mut LaunchPlan),
    ) -> PathBuf {
        let dir = self.home.path().join("data/jobs").join(name);
        std::fs::create_dir_all(&dir).expect("made");
        for open in [
            dir.as_path(),
            dir.parent().expect("a job"),
            &self.home.path().join("data/jobs"),
            &self.home.path().join("data"),
        ] {
            std::fs::set_permissions(open, PermissionsExt::from_mode(0o711)).expect("opened");
        }
        let mut plan = plan(&dir, scripts);
        plan.user = Some(user.name.clone());
        plan.owner = user.name.clone();
        plan.allow_root = false;
        change(&mut plan);
        write_plan(&dir, &plan);
        let work = dir.join("work");
        std::fs::set_permissions(&work, PermissionsExt::from_mode(0o700)).expect("closed");
        chown(&work, Some(user.uid), Some(user.gid)).expect("given away");
        dir
    }

    async fn running(&self, dir: &Path) -> Connection {
        start_keeper(&self.socket(), dir).await.expect("a keeper");
        let agent = connect(dir).await.expect("connected");
        agent.sender.send(go()).await.expect("sent");
        agent
    }
}

impl Drop for Launcher {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        Base::discard(&self.home.path().join("data"));
        let jobs = std::fs::read_dir(self.home.path().join("data/jobs"))
            .into_iter()
            .flatten()
            .flatten();
        for job in jobs {
            for attempt in std::fs::read_dir(job.path())
                .into_iter()
                .flatten()
                .flatten()
            {
                kill_leftovers(&attempt.path());
            }
        }
    }
}

async fn end(mut agent: Connection) {
    agent
        .sender
        .send(ToKeeper::Stop { grace_ms: 100 })
        .await
        .expect("sent");
    to_the_end(&mut agent.receiver).await;
    agent.sender.send(ToKeeper::Release).await.expect("sent");
}

/// Everything that the second user tries; each line that it can say is a hole.
const TRIES: &str = r#"
cat "$OTHER/work/secret" 2>/dev/null && echo hole: read the work directory
ls "$OTHER/work" 2>/dev/null && echo hole: listed the work directory
ls "$OTHER/room" 2>/dev/null && echo hole: listed the room
cat "$OTHER/room/tmp/mark" 2>/dev/null && echo hole: read the private tmp
cat /tmp/mark 2>/dev/null && echo hole: shares /tmp
cat /dev/shm/mark 2>/dev/null && echo hole: shares /dev/shm
cat "$OTHER/logs/rank-0.log" 2>/dev/null && echo hole: read the log
cat "$OTHER/plan.json" 2>/dev/null && echo hole: read the plan
cat "/proc/$VICTIM/environ" 2>/dev/null && echo hole: read the environment
ls "/proc/$VICTIM/root" >/dev/null 2>&1 && echo hole: entered the mounts
kill -0 "$VICTIM" 2>/dev/null && echo hole: may signal
for dir in "$DATA" "$DATA/jobs" "$OTHER" "$OWN"; do
  ( : > "$dir/new" ) 2>/dev/null && echo hole: wrote in "$dir"
done
for socket in "$DATA/launcher.sock" "$OTHER/keeper.sock" "$OWN/keeper.sock"; do
  ( : >> "$socket" ) 2>/dev/null && echo hole: opened "$socket"
  [ -w "$socket" ] && echo hole: may write "$socket"
done
for procs in $(ls -d /sys/fs/cgroup/cgroup.procs /sys/fs/cgroup/*/cgroup.procs 2>/dev/null); do
  ( echo $$ > "$procs" ) 2>/dev/null && echo hole: left its cgroup by "$procs"
done
mount -t tmpfs none /mnt 2>/dev/null && echo hole: mounted
grep -E '^Cap(Inh|Prm|Eff|Bnd|Amb):' /proc/self/status | grep -v '0000000000000000$' && echo hole: has capabilities
grep -q '^NoNewPrivs:.1$' /proc/self/status || echo hole: may get new privileges
id -G | tr ' ' '\n' | grep -qx 0 && echo hole: has a group of root
echo tried
"#;

#[tokio::test]
async fn two_users_do_not_reach_each_other() {
    let Some(users) = Users::make("two_users_do_not_reach_each_other", 2) else {
        return;
    };
    let launcher = Launcher::start("[users]\nmode = 'owner'").await;
    let (ada, bob) = (users.of(0), users.of(1));
    // Two ranks: they share what others do not see.
    let lives = "echo secret > secret; if [ $RANK = 0 ]; then echo m > /tmp/mark; echo m > /dev/shm/mark; id -un > who; echo $$ > pid; else \
        until [ -e /tmp/mark ] && [ -e /dev/shm/mark ]; do sleep 0.02; done; echo > shared; fi; sleep 1000";
    let first = launcher.attempt("1/1", &[lives, lives], &ada, |_| {});
    let agent = launcher.running(&first).await;
    let wrote = |name: &'static str| {
        let path = first.join("work").join(name);
        move || {
            std::fs::read_to_string(&path)
                .ok()
                .filter(|text| text.ends_with('\n'))
        }
    };
    let who = until(wrote("who")).await.expect("it runs");
    assert_eq!(who.trim(), ada.name);
    until(wrote("shared"))
        .await
        .expect("both ranks are in one room");
    let victim = until(wrote("pid"))
        .await
        .expect("it runs")
        .trim()
        .to_owned();
    assert!(
        !Path::new("/tmp/mark").exists() && !Path::new("/dev/shm/mark").exists(),
        "the node sees nothing of it"
    );
    let data = launcher.home.path().join("data");
    let second = launcher.attempt("2/1", &[TRIES], &bob, |plan| {
        let env = &mut plan.ranks[0].env;
        let own = data.join("jobs/2/1");
        for (key, path) in [("OTHER", &first), ("DATA", &data), ("OWN", &own)] {
            env.insert(key.into(), path.to_str().expect("UTF-8").into());
        }
        env.insert("VICTIM".into(), victim.clone());
    });
    let mut trying = launcher.running(&second).await;
    let exits = to_the_end(&mut trying.receiver).await.0;
    let log = std::fs::read(second.join("logs/rank-0.log")).expect("a log");
    let said = String::from_utf8_lossy(&log);
    assert!(said.contains("tried") && !said.contains("hole"), "{said}");
    assert_eq!(exits, [exit(0, 0, 0, false)]);
    trying.sender.send(ToKeeper::Release).await.expect("sent");
    end(agent).await;
    let gone = until(|| (!first.join("room").exists()).then_some(())).await;
    assert!(gone.is_some(), "the private /tmp is removed after the end");
    let (_, missing) = isolation(&launcher.socket()).await.expect("it knows");
    assert!(
        !missing
            .iter()
            .any(|why| why.contains("/tmp") || why.contains("user")),
        "{missing:?}"
    );
}

#[tokio::test]
async fn who_belongs_to_nobody_or_to_the_system_runs_nothing() {
    let Some(users) = Users::make("who_belongs_to_nobody_or_to_the_system_runs_nothing", 1) else {
        return;
    };
    let launcher = Launcher::start("[users]\nmode = 'owner'").await;
    let ada = users.of(0);
    for (at, owner, user, says) in [
        ("3/1", "daemon", "daemon", "belong to the system"),
        ("3/2", "root", "root", "belong to the system"),
        (
            "3/3",
            "nobody-of-that-name",
            "nobody-of-that-name",
            "there is no user",
        ),
        // The agent's word on the user does not count: the launcher reads the same configuration.
        ("3/4", "bob", ada.name.as_str(), "jobs run as `bob`"),
        (
            "3/5",
            "",
            ada.name.as_str(),
            "no user of this node belongs to",
        ),
    ] {
        let dir = launcher.attempt(at, &["true"], &ada, |plan| {
            plan.user = Some(user.into());
            plan.owner = owner.into();
        });
        let error = start_keeper(&launcher.socket(), &dir)
            .await
            .expect_err("refused")
            .to_string();
        assert!(error.contains(says), "{owner}: {error}");
    }
}

#[tokio::test]
async fn shared_memory_has_the_size_that_was_asked_for() {
    let test = "shared_memory_has_the_size_that_was_asked_for";
    if !geteuid().is_root() {
        return skip(test, "only root can mount");
    }
    let keeper = processes::Keeper::start_with(
        &[
            "df -k --output=size /dev/shm | tail -n 1; head -c 3M /dev/zero > /dev/shm/x && echo fits; \
           head -c 9M /dev/zero > /dev/shm/y || echo full; ls -a /tmp >/dev/null && echo tmp",
        ],
        |plan| plan.shm_bytes = Some(8 << 20),
    );
    let mut agent = keeper.running().await;
    assert_eq!(
        to_the_end(&mut agent.receiver).await.0,
        [exit(0, 0, 0, false)]
    );
    let log = keeper.log(0);
    let said: Vec<&str> = log
        .iter()
        .map(|line| line.trim())
        .filter(|line| !line.starts_with("2:"))
        .collect();
    assert_eq!(said, ["8192", "fits", "full", "tmp"]);
    assert!(!Path::new("/dev/shm/x").exists(), "it is not the node's");
}
