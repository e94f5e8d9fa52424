//! Which coordinator to dial next: those that a leader named last, kept on disk, then those of the configuration.
//! Does NOT dial.

use std::collections::VecDeque;
use std::path::PathBuf;

use mlctl_runtime::config::write_private;

use crate::config::is_host_port;

/// Addresses that are remembered; a cluster has at most five coordinators.
const ADDRESSES_MAX: usize = 16;

/// The coordinators known, in the order in which they are tried.
#[derive(Debug)]
pub(super) struct Addresses {
    configured: Vec<String>,
    learned: Vec<String>,
    queue: VecDeque<String>,
    /// It was left because it did not answer: the next round ends with it.
    left: Option<String>,
    file: PathBuf,
}

impl Addresses {
    /// Those of the configuration and those that an earlier run learned. An unreadable file counts as none.
    pub(super) fn load(configured: Vec<String>, file: PathBuf) -> Self {
        let text = std::fs::read(&file).unwrap_or_default();
        let learned = sane(serde_json::from_slice(&text).unwrap_or_default());
        Self {
            configured,
            learned,
            queue: VecDeque::new(),
            left: None,
            file,
        }
    }

    /// The next one to try; `seed` spreads a fleet over them. Never empty, since a configuration names at least one.
    pub(super) fn next(&mut self, seed: u64) -> Option<String> {
        if self.queue.is_empty() {
            let mut all = self.learned.clone();
            all.extend(
                self.configured
                    .iter()
                    .filter(|address| !self.learned.contains(address))
                    .cloned(),
            );
            let turn = usize::try_from(seed).unwrap_or(0) % all.len().max(1);
            all.rotate_left(turn);
            let left = self.left.take();
            all.sort_by_key(|address| Some(address) == left.as_ref());
            self.queue = all.into();
        }
        self.queue.pop_front()
    }

    /// It stayed silent: all others are tried before it is again.
    pub(super) fn leave(&mut self, address: String) {
        self.left = Some(address);
    }

    /// Tries these first: a coordinator said that they may lead.
    pub(super) fn prefer(&mut self, addresses: Vec<String>) {
        for address in sane(addresses).into_iter().rev() {
            self.queue.retain(|other| *other != address);
            self.queue.push_front(address);
        }
    }

    /// Remembers what a leader says the coordinators are, over restarts too.
    ///
    /// # Errors
    /// When the file cannot be written; they are remembered in memory all the same.
    pub(super) fn learn(&mut self, addresses: Vec<String>) -> Result<(), String> {
        let addresses = sane(addresses);
        if addresses.is_empty() || addresses == self.learned {
            return Ok(());
        }
        self.learned = addresses;
        let text = serde_json::to_vec(&self.learned).map_err(|error| error.to_string())?;
        write_private(&self.file, &text).map_err(|error| error.to_string())
    }
}

fn sane(addresses: Vec<String>) -> Vec<String> {
    let mut good = Vec::new();
    for address in addresses
        .into_iter()
        .filter(|address| is_host_port(address))
    {
        if !good.contains(&address) && good.len() < ADDRESSES_MAX {
            good.push(address);
        }
    }
    good
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(list: &[&str]) -> Vec<String> {
        list.iter().map(|name| (*name).into()).collect()
    }

    #[test]
    fn everybody_gets_a_turn_and_a_hint_goes_first() {
        let dir = tempfile::tempdir().expect("dir");
        let mut addresses = Addresses::load(names(&["a:1", "b:1", "c:1"]), dir.path().join("f"));
        let round: Vec<_> = (0..3).map(|_| addresses.next(1).expect("one")).collect();
        assert_eq!(round, names(&["b:1", "c:1", "a:1"]));
        addresses.next(0);
        addresses.prefer(names(&["c:1", "bad", "d:9"]));
        let round: Vec<_> = (0..3).map(|_| addresses.next(0).expect("one")).collect();
        assert_eq!(round, names(&["c:1", "d:9", "b:1"]));
    }

    #[test]
    fn one_that_was_left_is_tried_after_all_others() {
        let dir = tempfile::tempdir().expect("dir");
        for seed in 0..3 {
            let mut addresses =
                Addresses::load(names(&["a:1", "b:1", "c:1"]), dir.path().join("f"));
            addresses.leave("b:1".into());
            let round: Vec<_> = (0..3).map(|_| addresses.next(seed)).collect();
            assert_eq!(round[2].as_deref(), Some("b:1"), "seed {seed}: {round:?}");
            let second: Vec<_> = (0..3).map(|_| addresses.next(1)).collect();
            assert_eq!(second[0].as_deref(), Some("b:1"), "only once");
        }
    }

    #[test]
    fn what_was_learned_survives_and_garbage_is_ignored() {
        let dir = tempfile::tempdir().expect("dir");
        let file = dir.path().join("coordinators.json");
        let mut addresses = Addresses::load(names(&["old:1"]), file.clone());
        addresses
            .learn(names(&["new:1", "new:1", "x", ""]))
            .expect("written");
        let mut again = Addresses::load(names(&["old:1"]), file.clone());
        assert_eq!(
            [again.next(0), again.next(0)],
            [Some("new:1".into()), Some("old:1".into())]
        );
        std::fs::write(&file, b"{not json").expect("written");
        assert_eq!(
            Addresses::load(names(&["old:1"]), file).next(7),
            Some("old:1".into())
        );
    }
}
