//! The groups of one attempt: made with their bounds, entered by ranks, ended, asked what happened, removed.
//! Does NOT decide when. Nobody enters but ranks: a kill of the group is a kill of everything that came from them and of nothing else.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::base::make;
use super::{Base, Bounds, Oom};

/// The period in which a share of the processors is given out, microseconds.
const PERIOD_US: u64 = 100_000;
/// Rounds over a group whose processes are killed one by one, or moved one by one.
const ROUNDS: u32 = 20;
/// Rounds until what was killed is gone: a second, for on a busy machine the dying wait for their turn. What is left then waits for a device.
const DYING: u32 = 500;
/// Between two of them.
const PAUSE: Duration = Duration::from_millis(2);

/// The groups of one attempt on this node.
#[derive(Debug)]
pub struct Group {
    /// In the cgroup2 tree.
    tree: Option<PathBuf>,
    /// Where memory is bounded: the tree, or v1.
    memory: Option<Memory>,
    /// v1, where a bound is set: entered one by one.
    v1: Vec<PathBuf>,
    bounds: Bounds,
}

#[derive(Debug)]
struct Memory {
    dir: PathBuf,
    v2: bool,
}

/// What a process needs to enter, opened ahead: it can then be done between fork and exec.
#[derive(Debug)]
pub struct Entry {
    /// The group in the cgroup2 tree, in which a process can be born.
    tree: Option<OwnedFd>,
    /// Files that a process writes `0` to.
    procs: Vec<OwnedFd>,
    /// The one of the tree, for a kernel that lets nobody be born in it.
    tree_procs: Option<OwnedFd>,
}

impl Entry {
    /// The group to be born in.
    pub fn tree(&self) -> Option<RawFd> {
        self.tree.as_ref().map(AsRawFd::as_raw_fd)
    }

    /// Files to write `0` to; `born`: in the tree's group.
    pub fn procs(&self, born: bool) -> impl Iterator<Item = RawFd> {
        let tree = self.tree_procs.iter().filter(move |_| !born);
        tree.chain(&self.procs).map(AsRawFd::as_raw_fd)
    }
}

impl Group {
    /// Makes the groups called `name` with these bounds, and says what could not be bounded. `None`: nothing can hold them together here.
    ///
    /// # Errors
    /// When what worked at the launcher's start does not any more.
    pub fn make(
        base: &Base,
        name: &str,
        bounds: Bounds,
    ) -> io::Result<Option<(Self, Vec<String>)>> {
        if !base.holds() {
            return Ok(None);
        }
        let mut group = Self::named(base, name);
        let mut unbounded = Vec::new();
        group.bounds = bounds;
        if let Some(tree) = group.tree.clone() {
            make(&tree)?;
            group.bound_tree(base, &tree)?;
        }
        group.bound_v1(base, name)?;
        let mut lack = |asked: bool, there: bool, what: &str| {
            if asked && !there {
                unbounded.push(format!(
                    "this node cannot bound {what}: {}",
                    base.missing.join("; ")
                ));
            }
        };
        let at_work = |controller: &str, v1: &Option<PathBuf>| {
            v1.is_some() || base.in_tree.iter().any(|one| one == controller)
        };
        lack(
            bounds.memory_bytes.is_some(),
            at_work("memory", &base.memory),
            "memory",
        );
        lack(
            bounds.cpus.is_some(),
            at_work("cpu", &base.cpu),
            "processors",
        );
        lack(
            bounds.tasks.is_some(),
            at_work("pids", &base.pids),
            "the number of processes",
        );
        Ok(Some((group, unbounded)))
    }

    /// The groups called `name`, as they are.
    pub fn named(base: &Base, name: &str) -> Self {
        let at = |folder: &Option<PathBuf>| folder.as_ref().map(|folder| folder.join(name));
        let v1_memory = at(&base.memory).map(|dir| Memory { dir, v2: false });
        let in_tree = base.in_tree.iter().any(|one| one == "memory");
        let v2_memory = at(&base.tree)
            .filter(|_| in_tree)
            .map(|dir| Memory { dir, v2: true });
        Self {
            tree: at(&base.tree),
            memory: v1_memory.or(v2_memory),
            v1: [&base.memory, &base.cpu, &base.freezer]
                .into_iter()
                .filter_map(at)
                .collect(),
            bounds: Bounds::default(),
        }
    }

    fn bound_tree(&self, base: &Base, tree: &Path) -> io::Result<()> {
        let works = |controller: &str| base.in_tree.iter().any(|one| one == controller);
        let set = |file: &str, value: String| fs::write(tree.join(file), value);
        if let Some(bytes) = self.bounds.memory_bytes.filter(|_| works("memory")) {
            set("memory.max", bytes.to_string())?;
            // All of them or none: half a rank is of no use.
            set("memory.oom.group", "1".into())?;
            // A kernel without swap accounting has no such file.
            let _ = set("memory.swap.max", "0".into());
        }
        if let Some(cpus) = self.bounds.cpus.filter(|_| works("cpu")) {
            set(
                "cpu.max",
                format!("{} {PERIOD_US}", u64::from(cpus) * PERIOD_US),
            )?;
        }
        if let Some(tasks) = self.bounds.tasks.filter(|_| works("pids")) {
            set("pids.max", tasks.to_string())?;
        }
        Ok(())
    }

    /// v1: only what bounds something is made, for to enter a group costs the kernel milliseconds.
    fn bound_v1(&mut self, base: &Base, name: &str) -> io::Result<()> {
        self.v1.clear();
        if let Some(bytes) = self.bounds.memory_bytes
            && let Some(folder) = &base.memory
        {
            let dir = folder.join(name);
            make(&dir)?;
            fs::write(dir.join("memory.limit_in_bytes"), bytes.to_string())?;
            // With swap together no more than without. Only where swap is accounted.
            let _ = fs::write(dir.join("memory.memsw.limit_in_bytes"), bytes.to_string());
            self.v1.push(dir);
        } else if base.memory.is_some() {
            self.memory = None;
        }
        if let Some(cpus) = self.bounds.cpus
            && let Some(folder) = &base.cpu
        {
            let dir = folder.join(name);
            make(&dir)?;
            fs::write(dir.join("cpu.cfs_period_us"), PERIOD_US.to_string())?;
            fs::write(
                dir.join("cpu.cfs_quota_us"),
                (u64::from(cpus) * PERIOD_US).to_string(),
            )?;
            self.v1.push(dir);
        }
        if let Some(folder) = &base.freezer {
            let dir = folder.join(name);
            make(&dir)?;
            self.v1.push(dir);
        }
        Ok(())
    }

    /// Opens what ranks need to enter.
    ///
    /// # Errors
    /// When a group is not there.
    pub fn entry(&self) -> io::Result<Entry> {
        let procs = |dir: &PathBuf| {
            Ok(OpenOptions::new()
                .write(true)
                .open(dir.join("cgroup.procs"))?
                .into())
        };
        let open = |dir: &PathBuf| {
            let dir = OpenOptions::new()
                .read(true)
                .custom_flags(libc::O_DIRECTORY)
                .open(dir);
            dir.map(OwnedFd::from)
        };
        Ok(Entry {
            tree: self.tree.as_ref().map(open).transpose()?,
            procs: self.v1.iter().map(procs).collect::<io::Result<_>>()?,
            tree_procs: self.tree.as_ref().map(procs).transpose()?,
        })
    }

    /// Ends everything in the group: stopped, detached, multiplying, whatever it does about signals. Ask [`Group::is_populated`] whether
    /// all is gone.
    pub fn kill(&self) {
        let at_once = |tree: &PathBuf| fs::write(tree.join("cgroup.kill"), "1").is_ok();
        if self.tree.as_ref().is_some_and(at_once) {
            return;
        }
        // Linux before 5.14, or v1 only. Frozen nothing multiplies, and no id can pass to a stranger.
        let (dir, file, on, off) = match (
            &self.tree,
            &self
                .v1
                .iter()
                .find(|dir| dir.join("freezer.state").exists()),
        ) {
            (Some(tree), _) => (tree, "cgroup.freeze", "1", "0"),
            (None, Some(freezer)) => (*freezer, "freezer.state", "FROZEN", "THAWED"),
            (None, None) => return,
        };
        let _ = fs::write(dir.join(file), on);
        for _ in 0..ROUNDS {
            let state = fs::read_to_string(dir.join(if file == "cgroup.freeze" {
                "cgroup.events"
            } else {
                file
            }));
            if state.is_ok_and(|state| state.trim() == on || state.contains("frozen 1")) {
                break;
            }
            sleep(PAUSE);
        }
        for pid in members(dir).unwrap_or_default() {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        let _ = fs::write(dir.join(file), off);
    }

    /// Is a process left in the group?
    pub fn is_populated(&self) -> bool {
        if let Some(tree) = &self.tree {
            return fs::read_to_string(tree.join("cgroup.events"))
                .is_ok_and(|events| events.lines().any(|line| line == "populated 1"));
        }
        self.v1
            .iter()
            .any(|dir| members(dir).is_ok_and(|members| !members.is_empty()))
    }

    /// Kills until nothing is left, for a second at most. Is nothing left?
    pub fn end(&self) -> bool {
        for _ in 0..DYING {
            if !self.is_populated() {
                return true;
            }
            self.kill();
            sleep(PAUSE);
        }
        !self.is_populated()
    }

    /// How often the kernel killed a process of the group for want of memory.
    pub fn oom_kills(&self) -> u64 {
        let Some(memory) = &self.memory else {
            return 0;
        };
        let file = if memory.v2 {
            "memory.events"
        } else {
            "memory.oom_control"
        };
        let text = fs::read_to_string(memory.dir.join(file)).unwrap_or_default();
        counted(&text, "oom_kill").unwrap_or(0)
    }

    /// What the group had and might have.
    pub fn oom(&self) -> Oom {
        let peak = self.memory.as_ref().and_then(|memory| {
            let file = if memory.v2 {
                "memory.peak"
            } else {
                "memory.max_usage_in_bytes"
            };
            fs::read_to_string(memory.dir.join(file))
                .ok()?
                .trim()
                .parse()
                .ok()
        });
        Oom {
            limit_bytes: self.bounds.memory_bytes.unwrap_or(0),
            peak_bytes: peak.unwrap_or(0),
        }
    }

    /// Removes the groups, and the folders above them when this was the last. One that is not empty stays.
    pub fn remove(&self) -> bool {
        let memory = self.memory.iter().map(|memory| &memory.dir);
        let mut all: Vec<&PathBuf> = self.tree.iter().chain(&self.v1).chain(memory).collect();
        all.sort_unstable();
        all.dedup();
        let mut gone = true;
        for dir in all {
            let removed = fs::remove_dir(dir);
            gone &= removed.is_ok() || !dir.exists();
            // The node's folder, and ours: only when nobody is in them. Where controllers are at work the next attempt needs them so.
            if self.memory.as_ref().is_none_or(|memory| !memory.v2) {
                for above in dir.ancestors().skip(1).take(2) {
                    let _ = fs::remove_dir(above);
                }
            }
        }
        gone
    }
}

/// The processes of a group, in order.
fn members(dir: &Path) -> io::Result<Vec<i32>> {
    let text = io::read_to_string(File::open(dir.join("cgroup.procs"))?)?;
    // 0: one that this process cannot see.
    let pids = text.lines().filter_map(|line| line.parse().ok());
    let mut pids: Vec<i32> = pids.filter(|pid| *pid > 0).collect();
    pids.sort_unstable();
    Ok(pids)
}

/// The number behind a word that begins a line.
fn counted(text: &str, word: &str) -> Option<u64> {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(word)?.strip_prefix(' '));
    line?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds {
        memory_bytes: Some(1 << 30),
        cpus: Some(3),
        tasks: Some(100),
    };

    fn text(dir: &Path, file: &str) -> String {
        fs::read_to_string(dir.join(file)).unwrap_or_default()
    }

    #[test]
    fn v2_is_one_group_with_all_bounds() {
        let top = tempfile::tempdir().expect("dir");
        let base = Base {
            tree: Some(top.path().into()),
            in_tree: ["memory", "cpu", "pids"].map(String::from).into(),
            ..Base::default()
        };
        let (group, unbounded) = Group::make(&base, "7.1", BOUNDS)
            .expect("made")
            .expect("holds");
        let dir = top.path().join("7.1");
        assert!(unbounded.is_empty());
        for (file, value) in [
            ("memory.max", "1073741824"),
            ("memory.oom.group", "1"),
            ("memory.swap.max", "0"),
            ("cpu.max", "300000 100000"),
            ("pids.max", "100"),
        ] {
            assert_eq!(text(&dir, file), value, "{file}");
        }
        assert!(!group.is_populated());
        fs::write(
            dir.join("memory.events"),
            "low 0\noom 3\noom_kill 2\noom_group_kill 1\n",
        )
        .expect("written");
        fs::write(dir.join("memory.peak"), "1073741000\n").expect("written");
        fs::write(dir.join("cgroup.events"), "populated 1\nfrozen 0\n").expect("written");
        assert_eq!(group.oom_kills(), 2);
        assert_eq!(
            group.oom(),
            Oom {
                limit_bytes: 1 << 30,
                peak_bytes: 1_073_741_000
            }
        );
        assert!(group.is_populated());
        group.kill();
        assert_eq!(text(&dir, "cgroup.kill"), "1");
    }

    #[test]
    fn v1_makes_only_what_bounds() {
        let top = tempfile::tempdir().expect("dir");
        let at = |name: &str| Some(top.path().join(name));
        let base = Base {
            tree: at("tree"),
            memory: at("memory"),
            cpu: at("cpu"),
            pids: at("pids"),
            ..Base::default()
        };
        let few = Bounds {
            tasks: Some(50),
            ..Bounds::default()
        };
        let (group, _) = Group::make(&base, "7.1", few)
            .expect("made")
            .expect("holds");
        assert!(group.v1.is_empty(), "keepers count processes");
        assert!(!top.path().join("memory").exists());
        assert!(group.remove() && !top.path().join("tree").exists());
        let (group, _) = Group::make(&base, "7.2", BOUNDS)
            .expect("made")
            .expect("holds");
        assert_eq!(group.v1.len(), 2, "{group:?}");
        let memory = top.path().join("memory/7.2");
        assert_eq!(text(&memory, "memory.limit_in_bytes"), "1073741824");
        assert_eq!(
            text(&top.path().join("cpu/7.2"), "cpu.cfs_quota_us"),
            "300000"
        );
        fs::write(
            memory.join("memory.oom_control"),
            "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n",
        )
        .expect("written");
        assert_eq!(group.oom_kills(), 1);
        assert!(!group.remove(), "what is not empty stays");
    }

    #[test]
    fn what_is_asked_and_cannot_be_bounded_is_said() {
        let top = tempfile::tempdir().expect("dir");
        let base = Base {
            tree: Some(top.path().into()),
            missing: vec!["no controllers".into()],
            ..Base::default()
        };
        let (_, unbounded) = Group::make(&base, "1.1", BOUNDS)
            .expect("made")
            .expect("holds");
        assert_eq!(unbounded.len(), 3);
        assert!(unbounded[0].contains("memory") && unbounded[0].contains("no controllers"));
        assert!(
            Group::make(&Base::default(), "1.1", BOUNDS)
                .expect("nothing")
                .is_none()
        );
    }
}
