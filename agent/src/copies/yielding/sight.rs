//! What the kernel says of ranks and of the network: read from `/proc` and `/sys`, which anybody may, with any cgroups or none.
//! Bounded in what it costs. Blocks, if only for milliseconds, and does NOT judge (see `strain`).
//!
//! Of a thread: `/proc/PID/task/TID/schedstat`, nanoseconds on a core and then nanoseconds of waiting for one, which the kernel's
//! Documentation/scheduler/sched-stats.rst describes. A kernel without it (`CONFIG_SCHED_INFO`) tells nothing of threads.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use super::strain::{Threads, Times};
use crate::keeper::descendants::parent_of;
use crate::launch::interface;

/// Threads that one look reads: about 10 ms. Of more the first ones stand for all.
const THREADS_MAX: usize = 2_000;
/// `speed` of an interface is in Mbit/s: so many bytes a second each.
const MBIT: u64 = 125_000;

/// Whom and what to look at. Found anew now and then, for that takes a look at every process of the machine.
#[derive(Debug, Default)]
pub(super) struct Sight {
    /// Processes of ranks.
    ranks: Vec<u32>,
    line: Option<Line>,
}

/// What one look shows.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// Some ranks are there.
    pub(super) alive: bool,
    /// What is known of their threads.
    pub(super) threads: Threads,
    /// What went through the interface.
    pub(super) carried: Option<Carried>,
}

/// What an interface carried since it is there.
#[derive(Debug, Clone, Copy)]
pub(super) struct Carried {
    /// Bytes a second that it can carry in each direction.
    pub(super) speed: u64,
    /// Bytes that left.
    pub(super) sent: u64,
    /// Bytes that came.
    pub(super) received: u64,
}

/// An interface of known speed.
#[derive(Debug)]
struct Line {
    /// Where its counters are.
    counters: PathBuf,
    speed: u64,
}

impl Sight {
    /// Finds the ranks of these keepers, and the interface that has `address`.
    pub(super) fn find(keepers: &BTreeSet<u32>, address: Option<IpAddr>) -> Self {
        let pids = numbers(Path::new("/proc"));
        let parents: Vec<(u32, u32)> = pids
            .filter_map(|pid| Some((pid, parent_of(i32::try_from(pid).ok()?)?)))
            .collect();
        Self {
            ranks: descendants(keepers, &parents),
            line: address.and_then(Line::with),
        }
    }

    /// Reads all counters.
    pub(super) fn look(&self) -> Seen {
        let mut seen = Seen::default();
        for pid in &self.ranks {
            if seen.threads.len() >= THREADS_MAX {
                break;
            }
            let folder = PathBuf::from(format!("/proc/{pid}/task"));
            for tid in numbers(&folder) {
                seen.alive = true;
                if seen.threads.len() >= THREADS_MAX {
                    break;
                }
                let text = fs::read_to_string(folder.join(format!("{tid}/schedstat")));
                // It may have ended meanwhile.
                if let Some(times) = text.ok().and_then(|text| times(&text)) {
                    seen.threads.insert(tid, times);
                }
            }
        }
        seen.carried = self.line.as_ref().and_then(Line::carried);
        seen
    }
}

impl Line {
    /// The interface that has this address, if it says how fast it is: loopback and most virtual ones do not.
    fn with(address: IpAddr) -> Option<Self> {
        // To an address of this machine the way begins there as well.
        let name = interface::to_peer(&address.to_string())?.name;
        let folder = Path::new("/sys/class/net").join(name);
        let speed = speed(&fs::read_to_string(folder.join("speed")).ok()?)?;
        let counters = folder.join("statistics");
        Some(Self { counters, speed })
    }

    fn carried(&self) -> Option<Carried> {
        let count = |name: &str| {
            let text = fs::read_to_string(self.counters.join(name)).ok()?;
            text.trim().parse::<u64>().ok()
        };
        Some(Carried {
            speed: self.speed,
            sent: count("tx_bytes")?,
            received: count("rx_bytes")?,
        })
    }
}

/// The entries of a folder whose names are numbers. One that is not there has none.
fn numbers(folder: &Path) -> impl Iterator<Item = u32> + use<> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// Everybody below `keepers`, which are not among them: a keeper is a subreaper, so whoever detaches stays below it.
fn descendants(keepers: &BTreeSet<u32>, parents: &[(u32, u32)]) -> Vec<u32> {
    let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for (pid, parent) in parents {
        children.entry(*parent).or_default().push(*pid);
    }
    let mut open: Vec<u32> = keepers.iter().copied().collect();
    let mut found = Vec::new();
    while let Some(pid) = open.pop() {
        // Taken out: ids that were used again while all were read can make a circle.
        let below = children.remove(&pid).unwrap_or_default();
        found.extend(below.iter().filter(|pid| !keepers.contains(*pid)));
        open.extend(below);
    }
    // The same first ones at each look.
    found.sort_unstable();
    found
}

/// A line of `schedstat`.
fn times(text: &str) -> Option<Times> {
    let mut numbers = text.split_whitespace().map(str::parse::<u64>);
    Some(Times {
        ran: numbers.next()?.ok()?,
        waited: numbers.next()?.ok()?,
    })
}

/// What `speed` of an interface says, in bytes a second. -1 is not known.
fn speed(text: &str) -> Option<u64> {
    let mbits = text.trim().parse::<i64>().ok()?;
    let mbits = u64::try_from(mbits).ok().filter(|mbits| *mbits > 0)?;
    Some(mbits.saturating_mul(MBIT))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_are_all_that_is_below_keepers() {
        let keepers = BTreeSet::from([10, 20]);
        // 11 and 12 are ranks, 13 a loader; 20 has none yet; 30 is somebody else's, and 41 and 42 are a circle.
        let parents = [
            (10, 1),
            (11, 10),
            (13, 12),
            (12, 10),
            (20, 1),
            (30, 1),
            (41, 42),
            (42, 41),
        ];
        assert_eq!(descendants(&keepers, &parents), [11, 12, 13]);
        assert!(descendants(&BTreeSet::new(), &parents).is_empty());
        let circle = BTreeSet::from([41]);
        assert_eq!(descendants(&circle, &parents), [42]);
    }

    #[test]
    fn what_the_kernel_writes_is_read() {
        let read = times("100026 3066365 2\n").expect("a line");
        assert_eq!((read.ran, read.waited), (100_026, 3_066_365));
        for text in ["", "1", "x 1 2", "1 -1 2"] {
            assert_eq!(times(text), None, "{text:?}");
        }
        assert_eq!(speed("25000\n"), Some(3_125_000_000));
        for text in ["-1\n", "0\n", "", "fast"] {
            assert_eq!(speed(text), None, "{text:?}");
        }
    }

    #[test]
    fn threads_of_living_processes_are_seen_and_others_are_not() {
        let own = std::process::id();
        let sight = |ranks| Sight { ranks, line: None };
        let seen = sight(vec![own]).look();
        assert!(seen.alive && seen.carried.is_none());
        let gone = sight(vec![u32::MAX]).look();
        assert!(!gone.alive && gone.threads.is_empty());
        let id = i32::try_from(own).expect("an id");
        let parent = parent_of(id).expect("known");
        let found = Sight::find(&BTreeSet::from([parent]), None);
        assert!(found.ranks.contains(&own), "it is below its parent");
    }
}
