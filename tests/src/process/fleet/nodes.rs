//! What happens to a whole node, and agents that are told where to die.
//! Does NOT know what runs there.

use std::fs;
use std::time::Duration;

use super::Fleet;
use crate::process::{machine, until};

/// Everything of a node that was killed is gone by then.
const GONE: Duration = Duration::from_secs(10);

impl Fleet {
    /// Starts an agent that is down; it dies where `failpoint` says, see `mlctl_agent::failpoint`.
    ///
    /// # Panics
    /// When it is up, or cannot be started.
    pub fn start_armed(&mut self, node: &str, failpoint: &str) {
        self.armed = Some(failpoint.to_owned());
        self.start_one(node);
        self.armed = None;
    }

    /// A node loses its power: agent, launcher, keepers and ranks, all at once.
    ///
    /// # Panics
    /// When its daemons are not up, or something of it cannot be killed.
    pub fn kill_node(&mut self, node: &str) {
        let launcher = format!("{node}-launcher");
        self.kill(&[node, &launcher]);
        let home = self.home(node);
        until(&format!("the end of all of {node}"), GONE, || {
            let left = machine::around(&home);
            left.iter().for_each(|process| machine::kill(process.pid));
            left.is_empty().then_some(())
        });
    }

    /// The disk of a node that was killed is empty from now on.
    ///
    /// # Panics
    /// When it cannot be wiped.
    #[track_caller]
    pub fn wipe_disk(&self, node: &str) {
        let data = self.home(node).join("data");
        // They are named by what is wiped here: nobody would find them again.
        mlctl_agent::cgroup::Base::discard(&data);
        fs::remove_dir_all(&data).expect("its disk is wiped");
    }

    /// Starts a node that was killed, with its disk, as after a reboot.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn boot_node(&mut self, node: &str) {
        let file = self.home(node).join("boot_id");
        let before = fs::read_to_string(&file).unwrap_or_default();
        let number = before.trim().rsplit_once('-').map_or("1", |(_, n)| n);
        let next = number.parse::<u32>().map_or(2, |number| number + 1);
        let written = fs::write(&file, format!("{node}-{next}\n"));
        written.unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        self.start_one(&format!("{node}-launcher"));
        self.start_one(node);
    }

    /// Living processes of a node but for its agent and its launcher: keepers and ranks.
    pub fn work_of(&self, node: &str) -> Vec<machine::Process> {
        let daemons = [node.to_owned(), format!("{node}-launcher")];
        let pids: Vec<i32> = (daemons.iter())
            .filter(|name| self.is_up(name))
            .map(|name| self.pid(name))
            .collect();
        let mut all = machine::around(&self.home(node));
        all.retain(|process| !pids.contains(&process.pid));
        all
    }
}
