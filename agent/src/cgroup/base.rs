//! Where the groups of a node's attempts are made: found and made ready once, by the launcher, which tells its keepers.
//! What is missing is said in words. Does NOT make the groups themselves (see `group`).

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::unistd::geteuid;
use serde::{Deserialize, Serialize};

use super::detect::{Hierarchy, Kind, Layout, detect};
use super::{FOLDER, Group, count};

/// The controllers that bound an attempt.
const BOUNDING: [&str; 3] = ["memory", "cpu", "pids"];
/// The last word of the launcher's own group where systemd gave it one below the group that it may divide (`DelegateSubgroup=`).
const DELEGATED: &str = "launcher";
/// The group of the launcher itself, where the kernel allows processes in leaves only.
const DAEMONS: &str = "daemons";

/// Where groups are made. Handed to keepers as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Base {
    /// In the cgroup2 tree, which holds processes together and ends them at once.
    pub tree: Option<PathBuf>,
    /// The controllers that are at work in the tree: all of them where there is no v1.
    pub in_tree: Vec<String>,
    /// With v1: bounds memory.
    pub memory: Option<PathBuf>,
    /// With v1: bounds processors.
    pub cpu: Option<PathBuf>,
    /// With v1: counts processes, see `count`.
    pub pids: Option<PathBuf>,
    /// With v1 and no tree: holds processes together.
    pub freezer: Option<PathBuf>,
    /// Why something is missing, a sentence each.
    pub missing: Vec<String>,
}

impl Base {
    /// Looks at the machine and makes ready for the attempts of the node whose data lies in `data_dir`.
    pub fn prepare(data_dir: &Path) -> Self {
        let text = |path| fs::read_to_string(path).unwrap_or_default();
        let layout = detect(&text("/proc/self/mountinfo"), &text("/proc/self/cgroup"));
        match node_name(data_dir) {
            Ok(node) => Self::of(&layout, &node, geteuid().is_root()),
            Err(error) => Self {
                missing: vec![format!(
                    "{} cannot be looked at: {error}",
                    data_dir.display()
                )],
                ..Self::default()
            },
        }
    }

    /// Makes ready in what is mounted.
    pub fn of(layout: &Layout, node: &str, root: bool) -> Self {
        let mut base = Self::default();
        match layout.kind() {
            Kind::None => base.miss("this machine has no cgroups mounted".into()),
            Kind::V2 => {
                if let Some(tree) = &layout.tree {
                    base.prepare_v2(tree, node, root);
                }
            }
            Kind::Hybrid | Kind::V1 => {
                if let Some(tree) = &layout.tree {
                    base.tree = base.made(tree, "the cgroup2 tree", node, root);
                }
                let mut of = |controller| match layout.v1.get(controller) {
                    Some(hierarchy) => base.made(hierarchy, controller, node, root),
                    None => {
                        base.miss(format!(
                            "the cgroup controller `{controller}` is not mounted"
                        ));
                        None
                    }
                };
                let (memory, cpu, pids) = (of("memory"), of("cpu"), of("pids"));
                let freezer = if layout.tree.is_none() {
                    of("freezer")
                } else {
                    None
                };
                (base.memory, base.cpu, base.pids, base.freezer) = (memory, cpu, pids, freezer);
            }
        }
        base
    }

    /// May anything be held together and ended at once?
    pub fn holds(&self) -> bool {
        self.tree.is_some() || self.freezer.is_some()
    }

    /// Every folder in which groups of attempts are made.
    pub fn folders(&self) -> impl Iterator<Item = &Path> {
        let all = [
            &self.tree,
            &self.memory,
            &self.cpu,
            &self.pids,
            &self.freezer,
        ];
        all.into_iter().flatten().map(PathBuf::as_path)
    }

    /// The names of groups that are there: attempts that run, or whose keeper died.
    pub fn names(&self) -> Vec<String> {
        let entries = self
            .folders()
            .filter_map(|folder| fs::read_dir(folder).ok());
        let dirs = entries
            .flatten()
            .flatten()
            .filter(|entry| entry.path().is_dir());
        let names = dirs.filter_map(|entry| entry.file_name().into_string().ok());
        let mut names: Vec<String> = names.filter(|name| name.contains('.')).collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// Ends and removes whatever there is of the node whose data lies in `data_dir`, and its folders: for tests that throw nodes away.
    pub fn discard(data_dir: &Path) {
        let base = Self::prepare(data_dir);
        for name in base.names() {
            let group = Group::named(&base, &name);
            group.end();
            group.remove();
        }
        count::remove_empty(&base);
        for folder in base.folders() {
            for dir in folder.ancestors().take(2) {
                // Not while somebody else's lies in it.
                let _ = fs::remove_dir(dir);
            }
        }
    }

    fn miss(&mut self, why: String) {
        self.missing.push(why);
    }

    /// The node's folder of a hierarchy.
    fn made(
        &mut self,
        hierarchy: &Hierarchy,
        what: &str,
        node: &str,
        root: bool,
    ) -> Option<PathBuf> {
        if hierarchy.read_only {
            self.miss(format!(
                "{what} is mounted read-only at {}",
                hierarchy.top.display()
            ));
            return None;
        }
        // Root divides the machine, so that the place does not depend on where a launcher was started; others what was given to them.
        let above = if root {
            Some(&hierarchy.top)
        } else {
            hierarchy.own.as_ref()
        };
        let Some(above) = above else {
            self.miss(format!(
                "this process's own cgroup of {what} cannot be seen"
            ));
            return None;
        };
        let folder = above.join(FOLDER).join(node);
        match make(&folder) {
            Ok(()) => Some(folder),
            Err(error) => {
                let hint = if root {
                    ""
                } else {
                    ": the launcher does not run as root, and no part of it was delegated"
                };
                self.miss(format!(
                    "cgroups of {what} cannot be made in {} ({error}){hint}",
                    above.display()
                ));
                None
            }
        }
    }

    fn prepare_v2(&mut self, tree: &Hierarchy, node: &str, root: bool) {
        // What systemd gave us to divide lies one above our own, if it says so: no process may be in a group that is divided.
        let delegated = (tree.own.as_ref()).filter(|own| !root && own.ends_with(DELEGATED));
        let mut tree = tree.clone();
        if let Some(above) = delegated.and_then(|own| own.parent()) {
            tree.own = Some(above.to_owned());
        }
        let Some(folder) = self.made(&tree, "cgroup2", node, root) else {
            return;
        };
        let top = if root {
            Some(&tree.top)
        } else {
            tree.own.as_ref()
        };
        if let Some(top) = top {
            self.divide(top, &folder, root || delegated.is_some());
        }
        self.tree = Some(folder);
    }

    /// Puts the controllers to work in `top` and in what lies between it and the groups of attempts.
    fn divide(&mut self, top: &Path, folder: &Path, may: bool) {
        if !may {
            self.miss("limits need a cgroup that may be divided: set `DelegateSubgroup=launcher` in the launcher's unit (systemd 254)".into());
            return;
        }
        let there = fs::read_to_string(top.join("cgroup.controllers")).unwrap_or_default();
        for controller in BOUNDING {
            if !there.split_whitespace().any(|word| word == controller) {
                self.miss(format!(
                    "the cgroup controller `{controller}` is not at work in {}",
                    top.display()
                ));
                continue;
            }
            match divide(top, folder, controller) {
                Ok(()) => self.in_tree.push(controller.into()),
                Err(error) => self.miss(format!(
                    "the cgroup controller `{controller}` cannot be put to work in {} ({error}): other processes are in that group, start the launcher in one of its own",
                    top.display()
                )),
            }
        }
    }
}

fn divide(top: &Path, folder: &Path, controller: &str) -> io::Result<()> {
    let on = |dir: &Path| fs::write(dir.join("cgroup.subtree_control"), format!("+{controller}"));
    match on(top) {
        Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
            // The top of a container: we may be the only one in the way.
            let daemons = folder.join(DAEMONS);
            make(&daemons)?;
            fs::write(daemons.join("cgroup.procs"), "0")?;
            on(top)?;
        }
        other => other?,
    }
    // From the top down: a controller reaches a group only through the one above.
    let below = folder.strip_prefix(top).map_err(io::Error::other)?;
    let mut dir = top.to_owned();
    below.iter().try_for_each(|part| {
        dir.push(part);
        on(&dir)
    })
}

/// Makes a folder and those above it. Another keeper may be removing an empty one at the same moment.
pub(super) fn make(folder: &Path) -> io::Result<()> {
    for _ in 0..10 {
        match fs::create_dir_all(folder) {
            Err(error) if error.raw_os_error() == Some(Errno::ENOENT as i32) => {}
            other => return other,
        }
    }
    fs::create_dir_all(folder)
}

/// A node's name among those of its machine: several may share one, each with its data directory.
fn node_name(data_dir: &Path) -> io::Result<String> {
    let found = fs::metadata(data_dir)?;
    Ok(format!("{:x}-{:x}", found.dev(), found.ino()))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn hierarchy(top: &Path, own: &str) -> Hierarchy {
        Hierarchy {
            top: top.into(),
            own: Some(top.join(own)),
            read_only: false,
        }
    }

    /// A folder that looks like a cgroup2 tree with these controllers.
    fn tree(groups: &[&str], controllers: &str) -> tempfile::TempDir {
        let top = tempfile::tempdir().expect("dir");
        for group in groups {
            let dir = top.path().join(group);
            fs::create_dir_all(&dir).expect("made");
            fs::write(dir.join("cgroup.controllers"), controllers).expect("written");
        }
        top
    }

    #[test]
    fn root_divides_the_machine_and_says_what_is_not_there() {
        let top = tree(&[""], "cpuset cpu memory hugetlb\n");
        let layout = Layout {
            tree: Some(hierarchy(top.path(), "user.slice")),
            v1: BTreeMap::new(),
        };
        let base = Base::of(&layout, "1-2", true);
        let folder = top.path().join("mlctl/1-2");
        assert_eq!(base.tree.as_deref(), Some(folder.as_path()));
        assert_eq!(base.in_tree, ["memory", "cpu"]);
        assert!(
            base.missing.len() == 1 && base.missing[0].contains("`pids`"),
            "{:?}",
            base.missing
        );
        for dir in [top.path(), &top.path().join("mlctl"), &folder] {
            let on = fs::read_to_string(dir.join("cgroup.subtree_control")).expect("written");
            assert_eq!(on, "+cpu", "{}", dir.display());
        }
        assert!(base.holds() && base.names().is_empty());
    }

    #[test]
    fn others_divide_what_was_given_to_them() {
        let top = tree(&["s/launcher", "s"], "cpu memory pids\n");
        let layout = Layout {
            tree: Some(hierarchy(top.path(), "s/launcher")),
            v1: BTreeMap::new(),
        };
        let base = Base::of(&layout, "n", false);
        assert_eq!(base.tree, Some(top.path().join("s/mlctl/n")));
        assert_eq!(base.in_tree, ["memory", "cpu", "pids"]);
        let alone = Layout {
            tree: Some(hierarchy(top.path(), "s")),
            v1: BTreeMap::new(),
        };
        let base = Base::of(&alone, "n", false);
        assert!(base.holds() && base.in_tree.is_empty());
        assert!(
            base.missing[0].contains("DelegateSubgroup"),
            "{:?}",
            base.missing
        );
    }

    #[test]
    fn what_cannot_be_written_is_said() {
        let top = tree(&[""], "");
        let mut closed = hierarchy(top.path(), "");
        closed.read_only = true;
        let layout = Layout {
            tree: Some(closed),
            v1: BTreeMap::new(),
        };
        let base = Base::of(&layout, "n", true);
        assert!(
            !base.holds() && base.missing[0].contains("read-only"),
            "{:?}",
            base.missing
        );
        let none = Base::of(&Layout::default(), "n", true);
        assert!(none.missing[0].contains("no cgroups mounted"));
        let memory = BTreeMap::from([("memory", hierarchy(top.path(), "x"))]);
        let base = Base::of(
            &Layout {
                tree: None,
                v1: memory,
            },
            "n",
            true,
        );
        assert_eq!(base.memory, Some(top.path().join("mlctl/n")));
        assert_eq!(base.missing.len(), 3, "{:?}", base.missing);
    }
}
