//! A keeper with real cgroups: what ranks are bounded by, how they end for want of memory, and that nothing that they started outlives them.

mod processes;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use mlctl_agent::cgroup::{Base, Bounds, Group};
use mlctl_agent::keeper::protocol::ToKeeper;
use mlctl_agent::keeper::terms::Terms;
use mlctl_agent::launch::LaunchPlan;
use nix::sys::signal::Signal;
use processes::{Keeper, dies, signal, skip, to_the_end, until};

/// What the processes of an attempt may be at most.
const TASKS: u64 = 64;

/// Terms of a node of its own, and what is to be tidied up behind it; `None` and a word about it where cgroups cannot be made.
struct Node {
    terms: Terms,
    home: tempfile::TempDir,
}

impl Node {
    fn new(test: &str) -> Option<Self> {
        let home = tempfile::tempdir().expect("dir");
        // A node that was here before may have had a directory with the same number.
        Base::discard(home.path());
        let cgroups = Base::prepare(home.path());
        if !cgroups.holds() {
            skip(
                test,
                &format!(
                    "cgroups cannot be made here: {}",
                    cgroups.missing.join("; ")
                ),
            );
            return None;
        }
        let terms = Terms {
            cgroups,
            tasks_max: Some(TASKS),
            ..Terms::default()
        };
        Some(Self { terms, home })
    }

    fn keeper(&self, scripts: &[&str], change: impl FnOnce(&mut LaunchPlan)) -> Keeper {
        Keeper::try_start_under(&self.terms, scripts, change).expect("the keeper is ready")
    }

    /// Every folder of groups of this node that is there.
    fn groups(&self) -> Vec<PathBuf> {
        let folders = self.terms.cgroups.folders();
        let entries = folders.filter_map(|folder| std::fs::read_dir(folder).ok());
        let paths = entries.flatten().flatten().map(|entry| entry.path());
        // Those that count processes go with their keeper.
        paths
            .filter(|path| path.is_dir())
            .filter(|path| {
                path.file_name()
                    .is_some_and(|name| name.to_string_lossy().contains('.'))
            })
            .collect()
    }

    /// Nothing of any attempt is left.
    async fn is_clean(&self) {
        let clean = until(|| self.groups().is_empty().then_some(())).await;
        assert!(clean.is_some(), "cgroups are left: {:?}", self.groups());
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        Base::discard(self.home.path());
    }
}

/// Does a controller work here?
fn works(node: &Node, controller: &str) -> bool {
    let base = &node.terms.cgroups;
    let v1 = match controller {
        "memory" => &base.memory,
        "cpu" => &base.cpu,
        _ => &base.pids,
    };
    v1.is_some() || base.in_tree.iter().any(|one| one == controller)
}

/// A copy of the shell under a name of its own: whatever runs it is found by its executable, whatever else it hides.
fn marked_shell(dir: &Path) -> PathBuf {
    let shell = dir.join("nasty-shell");
    std::fs::copy("/bin/sh", &shell).expect("copied");
    shell
}

/// Processes that run this file.
fn running(file: &Path) -> Vec<String> {
    let entries = std::fs::read_dir("/proc").expect("proc").flatten();
    let pids = entries.filter_map(|entry| entry.file_name().into_string().ok());
    pids.filter(|pid| pid.bytes().all(|b| b.is_ascii_digit()))
        .filter(|pid| std::fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe == file))
        .collect()
}

/// Processes in the groups of the keeper's attempt.
fn members(node: &Node) -> usize {
    let dirs = node.groups().into_iter();
    let counts = dirs.map(|dir| {
        std::fs::read_to_string(dir.join("cgroup.procs"))
            .unwrap_or_default()
            .lines()
            .count()
    });
    counts.max().unwrap_or(0)
}

/// Everything at once that a process may do to stay: `S` is the shell to do it with.
const NASTY: &str = r#"
# Double-forked, in a session of its own, deaf, with an empty environment and nothing of ours open.
( setsid env -i "$S" -c 'trap "" TERM HUP INT; while :; do sleep 1000; done' </dev/null >/dev/null 2>&1 & ) 
( setsid env -i "$S" -c 'kill -STOP $$; sleep 1000' </dev/null >/dev/null 2>&1 & )
# One that forks again and again, each time from the child.
run() { env -i S="$S" n="$1" setsid "$S" -c 'trap "" TERM; [ $n -gt 0 ] && { n=$((n-1)) setsid "$S" -c "sleep 1000; :" & }; sleep 1000; :' </dev/null >/dev/null 2>&1 & }
run 1; run 0
# Many at once: each starts another, up to a number, so that it ends by itself even where nothing bounds it.
[ "$BOMB" = 1 ] && env -i S="$S" "$S" -c 'trap "" TERM; i=0; while [ $i -lt 150 ]; do i=$((i+1)); sleep 1000 & done; wait' </dev/null >/dev/null 2>&1 &
echo > ready
trap '' TERM
while :; do sleep 1000; done
"#;

#[tokio::test]
async fn nothing_outlives_a_stop_whatever_it_does() {
    let Some(node) = Node::new("nothing_outlives_a_stop_whatever_it_does") else {
        return;
    };
    for bomb in ["0", "1"] {
        let shell = marked_shell(node.home.path());
        let keeper = node.keeper(&[NASTY], |plan| {
            let env = &mut plan.ranks[0].env;
            env.insert("S".into(), shell.to_str().expect("UTF-8").into());
            env.insert("BOMB".into(), bomb.into());
        });
        let mut agent = keeper.running().await;
        keeper.noted("ready").await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        let most = running(&shell).len();
        assert!(
            (4..=64).contains(&most),
            "{most} nasty shells with bomb {bomb}"
        );
        let all = members(&node);
        assert!(all <= TASKS as usize, "{all} processes with bomb {bomb}");
        if bomb == "1" && works(&node, "pids") {
            assert!(all > 50, "only {all}: the bomb did not go off");
        }
        let begin = Instant::now();
        agent
            .sender
            .send(ToKeeper::Stop { grace_ms: 200 })
            .await
            .expect("sent");
        to_the_end(&mut agent.receiver).await;
        let left = running(&shell);
        assert!(left.is_empty(), "{} of {most} are left", left.len());
        assert!(
            begin.elapsed() < Duration::from_secs(5),
            "{:?}",
            begin.elapsed()
        );
        node.is_clean().await;
    }
}

#[tokio::test]
async fn what_a_dead_keeper_left_is_found_without_its_environment() {
    let test = "what_a_dead_keeper_left_is_found_without_its_environment";
    let Some(node) = Node::new(test) else {
        return;
    };
    let keeper = node.keeper(
        &["setsid env -i sh -c 'sleep 1000 & echo $! > wiped; wait' & sleep 1000"],
        |_| {},
    );
    let _agent = keeper.running().await;
    let wiped = keeper.noted("wiped").await;
    signal(keeper.pid(), Signal::SIGKILL);
    let names = node.terms.cgroups.names();
    assert_eq!(names.len(), 1, "{names:?}");
    assert!(processes::lives(&wiped), "nothing has looked for it yet");
    let group = Group::named(&node.terms.cgroups, &names[0]);
    assert!(group.end() && dies(&wiped).await);
    assert!(group.remove(), "it is empty");
}

#[tokio::test]
async fn want_of_memory_is_told_with_its_numbers() {
    let Some(node) = Node::new("want_of_memory_is_told_with_its_numbers") else {
        return;
    };
    if !works(&node, "memory") {
        return skip(
            "want_of_memory_is_told_with_its_numbers",
            "no memory controller works here",
        );
    }
    // One line without an end that has to be kept: in the rank itself, and in a child of it.
    let grow = "exec tail /dev/zero";
    for (script, code, signal) in [(grow.to_owned(), 0, 9), (format!("({grow}); exit 7"), 7, 0)] {
        let bounds = Bounds {
            memory_bytes: Some(48 << 20),
            ..Bounds::default()
        };
        let keeper = node.keeper(&[&script, "sleep 1000"], |plan| plan.bounds = Some(bounds));
        let mut agent = keeper.running().await;
        let (exits, _) = to_the_end(&mut agent.receiver).await;
        let first = exits[0];
        assert_eq!((first.rank, first.killed_by_us), (0, false), "{exits:?}");
        // Where the whole group ends together nobody is left to exit.
        assert!(
            (first.code, first.signal) == (code, signal) || first.signal == 9,
            "{first:?}"
        );
        let oom = first.oom.expect("it is told");
        assert_eq!(oom.limit_bytes, 48 << 20);
        assert!(oom.peak_bytes == 0 || oom.peak_bytes > 40 << 20, "{oom:?}");
        assert!(exits[1].oom.is_none(), "{exits:?}");
        node.is_clean().await;
    }
    // A failure beside it is none for want of memory.
    let bounds = Bounds {
        memory_bytes: Some(48 << 20),
        ..Bounds::default()
    };
    let keeper = node.keeper(&["exit 3"], |plan| plan.bounds = Some(bounds));
    let mut agent = keeper.running().await;
    assert_eq!(
        to_the_end(&mut agent.receiver).await.0,
        [processes::exit(0, 3, 0, false)]
    );
}

#[tokio::test]
async fn processors_are_shared_out() {
    let Some(node) = Node::new("processors_are_shared_out") else {
        return;
    };
    if !works(&node, "cpu") {
        return skip("processors_are_shared_out", "no cpu controller works here");
    }
    let bounds = Bounds {
        cpus: Some(1),
        ..Bounds::default()
    };
    // Four that spin get one processor together: user time, in ticks, of all of them.
    let spin = "for i in 1 2 3 4; do timeout 2 sh -c 'while :; do :; done' & done; wait; times > used; exit 0";
    let keeper = node.keeper(&[spin], |plan| plan.bounds = Some(bounds));
    let begin = Instant::now();
    let mut agent = keeper.running().await;
    to_the_end(&mut agent.receiver).await;
    let wall = begin.elapsed().as_secs_f64();
    let times = keeper.noted("used").await;
    let children = times.lines().last().expect("a line about children");
    let seconds: f64 = children.split_whitespace().map(seconds_of).sum();
    assert!(
        seconds < wall * 1.25 + 0.2,
        "{seconds} s of processor time in {wall} s"
    );
    node.is_clean().await;
}

/// `0m1.230s`
fn seconds_of(text: &str) -> f64 {
    let (minutes, seconds) = text.split_once('m').expect("as `times` writes");
    let seconds: f64 = seconds.trim_end_matches('s').parse().expect("seconds");
    minutes.parse::<f64>().expect("minutes") * 60.0 + seconds
}
