//! Which control groups a machine has, read from the texts of `/proc/self/mountinfo` and `/proc/self/cgroup`: v2, v1, both, or none.
//! Pure. Whether they may be written is tried out by `base`.
#![deny(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::float_arithmetic
)]

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

/// The controllers of v1 that are used.
pub const CONTROLLERS: [&str; 5] = ["memory", "cpu", "pids", "freezer", "cpuset"];

/// One mounted hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hierarchy {
    /// The top of what can be seen of it.
    pub top: PathBuf,
    /// The group that the process is in; `None`: it lies outside of what is mounted, or has been removed.
    pub own: Option<PathBuf>,
    /// It is mounted read-only.
    pub read_only: bool,
}

/// What is mounted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Layout {
    /// cgroup2.
    pub tree: Option<Hierarchy>,
    /// v1, by controller.
    pub v1: BTreeMap<&'static str, Hierarchy>,
}

/// The kinds of machines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// cgroup2 with all controllers.
    V2,
    /// Controllers as v1, and a cgroup2 tree beside them that holds processes together.
    Hybrid,
    /// Controllers as v1 only.
    V1,
    /// Nothing.
    None,
}

impl Kind {
    /// For people.
    pub fn word(self) -> &'static str {
        match self {
            Self::V2 => "v2",
            Self::Hybrid => "hybrid",
            Self::V1 => "v1",
            Self::None => "none",
        }
    }
}

impl Layout {
    /// Which kind it is.
    pub fn kind(&self) -> Kind {
        match (&self.tree, self.v1.is_empty()) {
            (Some(_), true) => Kind::V2,
            (Some(_), false) => Kind::Hybrid,
            (None, false) => Kind::V1,
            (None, true) => Kind::None,
        }
    }
}

/// Reads both texts. A line that is not understood is passed over: the kernel adds to them.
pub fn detect(mountinfo: &str, cgroup: &str) -> Layout {
    let mut layout = Layout::default();
    for mount in mountinfo.lines().filter_map(mount) {
        if mount.kind == "cgroup2" {
            let own = own_of(cgroup, "");
            take(&mut layout.tree, &mount, own);
            continue;
        }
        for controller in CONTROLLERS {
            if mount.options.split(',').any(|word| word == controller) {
                let mut found = layout.v1.remove(controller);
                take(&mut found, &mount, own_of(cgroup, controller));
                layout.v1.extend(found.map(|found| (controller, found)));
            }
        }
    }
    layout
}

/// A line of mountinfo about a cgroup file system.
struct Mount<'a> {
    /// What of the hierarchy is mounted.
    root: PathBuf,
    at: PathBuf,
    read_only: bool,
    kind: &'a str,
    options: &'a str,
}

/// `31 23 0:28 / /sys/fs/cgroup/cpu rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct`
fn mount(line: &str) -> Option<Mount<'_>> {
    let (head, tail) = line.split_once(" - ")?;
    let mut head = head.split(' ').skip(3);
    let (root, at, flags) = (head.next()?, head.next()?, head.next()?);
    let mut tail = tail.split(' ');
    let (kind, _, options) = (tail.next()?, tail.next()?, tail.next()?);
    let read_only = |text: &str| text.split(',').any(|word| word == "ro");
    matches!(kind, "cgroup" | "cgroup2").then(|| Mount {
        root: unescaped(root).into(),
        at: unescaped(at).into(),
        read_only: read_only(flags) || read_only(options),
        kind,
        options,
    })
}

/// The first mount of a hierarchy counts, unless a later one may be written and it may not.
fn take(found: &mut Option<Hierarchy>, mount: &Mount<'_>, own: Option<&str>) {
    let new = Hierarchy {
        top: mount.at.clone(),
        own: own.and_then(|own| own_dir(mount, own)),
        read_only: mount.read_only,
    };
    if found
        .as_ref()
        .is_none_or(|known| known.read_only && !new.read_only)
    {
        *found = Some(new);
    }
}

/// Where the group `own` is seen below a mount, if it is.
fn own_dir(mount: &Mount<'_>, own: &str) -> Option<PathBuf> {
    let inside = Path::new(own).strip_prefix(&mount.root).ok()?;
    let plain = inside
        .components()
        .all(|part| matches!(part, Component::Normal(_)));
    (plain && !own.ends_with(" (deleted)")).then(|| mount.at.join(inside))
}

/// `7:cpu,cpuacct:/path`, `0::/path`: the path of the hierarchy with this controller, of cgroup2 for none.
fn own_of<'a>(cgroup: &'a str, controller: &str) -> Option<&'a str> {
    cgroup.lines().find_map(|line| {
        let mut words = line.splitn(3, ':');
        let (number, names, path) = (words.next()?, words.next()?, words.next()?);
        let right = match controller {
            "" => number == "0" && names.is_empty(),
            _ => names.split(',').any(|name| name == controller),
        };
        right.then_some(path)
    })
}

/// mountinfo writes blanks, tabs, line ends and backslashes in octal.
fn unescaped(text: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n")]
        .iter()
        .fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
        .replace("\\134", "\\")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hierarchy(top: &str, own: Option<&str>, read_only: bool) -> Hierarchy {
        Hierarchy {
            top: top.into(),
            own: own.map(Into::into),
            read_only,
        }
    }

    #[test]
    fn v2_of_a_service() {
        let layout = detect(
            "22 27 0:21 / /proc rw,relatime - proc proc rw\n\
             30 23 0:26 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime shared:4 - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot\n",
            "0::/system.slice/mlctl-launcher.service/launcher\n",
        );
        assert_eq!(layout.kind(), Kind::V2);
        let own = "/sys/fs/cgroup/system.slice/mlctl-launcher.service/launcher";
        assert_eq!(
            layout.tree,
            Some(hierarchy("/sys/fs/cgroup", Some(own), false))
        );
    }

    #[test]
    fn hybrid_has_both() {
        let layout = detect(
            "31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n\
             32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu\n\
             33 31 0:30 / /sys/fs/cgroup/cpuacct rw,relatime - cgroup cgroup rw,cpuacct\n\
             35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n\
             39 31 0:36 / /sys/fs/cgroup/pids rw,relatime - cgroup cgroup rw,pids\n\
             40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd\n\
             41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n",
            "9:name=systemd:/\n8:pids:/\n4:memory:/process/18ae\n1:cpu:/\n0::/\n",
        );
        assert_eq!(layout.kind(), Kind::Hybrid);
        assert_eq!(
            layout.v1.keys().copied().collect::<Vec<_>>(),
            ["cpu", "memory", "pids"]
        );
        assert_eq!(
            layout.v1["memory"],
            hierarchy(
                "/sys/fs/cgroup/memory",
                Some("/sys/fs/cgroup/memory/process/18ae"),
                false
            )
        );
        let tree = layout.tree.expect("a tree");
        assert_eq!(
            tree,
            hierarchy(
                "/sys/fs/cgroup/unified",
                Some("/sys/fs/cgroup/unified"),
                false
            )
        );
    }

    #[test]
    fn v1_with_controllers_mounted_together() {
        let layout = detect(
            "25 20 0:21 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:8 - cgroup cgroup rw,cpu,cpuacct\n\
             26 20 0:22 / /sys/fs/cgroup/freezer rw,nosuid shared:9 - cgroup cgroup rw,freezer\n",
            "4:cpu,cpuacct:/user.slice\n3:freezer:/\n1:name=systemd:/user.slice/x.scope\n",
        );
        assert_eq!(layout.kind(), Kind::V1);
        let cpu = &layout.v1["cpu"];
        assert_eq!(
            cpu.own.as_deref(),
            Some(Path::new("/sys/fs/cgroup/cpu,cpuacct/user.slice"))
        );
    }

    #[test]
    fn a_container_sees_a_part_and_may_not_write_it() {
        let layout = detect(
            "40 30 0:33 /docker/ab /sys/fs/cgroup/memory ro,nosuid master:7 - cgroup cgroup rw,memory\n\
             41 30 0:33 /docker/ab /mnt/my\\040cgroups rw,nosuid master:7 - cgroup cgroup rw,memory\n\
             42 30 0:34 / /sys/fs/cgroup/pids ro - cgroup cgroup rw,pids\n",
            "5:memory:/docker/ab/job\n6:pids:/gone (deleted)\n",
        );
        let memory = hierarchy("/mnt/my cgroups", Some("/mnt/my cgroups/job"), false);
        assert_eq!(
            layout.v1["memory"], memory,
            "the one that may be written counts"
        );
        assert_eq!(
            layout.v1["pids"],
            hierarchy("/sys/fs/cgroup/pids", None, true)
        );
        let outside = detect(
            "40 30 0:33 /docker/ab /sys/fs/cgroup ro - cgroup2 cgroup rw\n",
            "0::/docker/cd\n",
        );
        assert_eq!(outside.tree, Some(hierarchy("/sys/fs/cgroup", None, true)));
    }

    #[test]
    fn none_and_nonsense() {
        for (mountinfo, cgroup) in [
            ("", ""),
            ("22 27 0:21 / /proc rw - proc proc rw\n", "0::/\n"),
            ("a b c\n - - -\n1 2 3 - cgroup2\n", ":::\n0:\n"),
        ] {
            assert_eq!(
                detect(mountinfo, cgroup).kind(),
                Kind::None,
                "{mountinfo:?}"
            );
        }
    }
}
