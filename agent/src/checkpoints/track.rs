//! The checkpoints of one attempt over time: since when each is quiet, which have been reported, which were written to afterwards.
//! Pure: time and listings come in, news go out. Does NOT look at the disk.
#![deny(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::float_arithmetic
)]

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use super::seal::listing::{Entry, Fingerprint, Kind, Listing};
use super::seal::notify::{Commit, Metric};
use super::seal::{By, Facts, Life, Verdict, Why, Writers, judge};

/// Where ranks of other nodes write into the same directory, only this tells that none of them does: nobody sees what they have open, and a file
/// system may show this node so late what they wrote. Milliseconds.
const UNSEEN_MS: u64 = 60_000;
/// Names that were removed and are remembered.
const REMOVED_MAX: usize = 4_096;
/// What has not become complete in so long is looked at seldom, milliseconds.
const PATIENCE_MS: u64 = 60_000;

/// What is known of an attempt.
#[derive(Debug, Clone)]
pub struct Terms {
    /// The ranks of this node.
    pub ranks: Range<u32>,
    /// Nodes of the job.
    pub nodes: u32,
    /// When the attempt began, by the clock of the file system, nanoseconds; 0: nobody knows.
    pub began_ns: i64,
    /// Nodes of the job that write into this one directory, which others may use as well; 0: it is the job's on this node.
    pub shared: u32,
}

/// Something to tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News {
    /// A checkpoint is complete.
    Sealed {
        /// Its name.
        name: String,
        /// Its step, 0 if nothing tells.
        step: u64,
        /// By which rule.
        by: By,
        /// It lay there already when we first looked.
        by_rescan: bool,
        /// What its writer said of how good it is.
        metrics: Vec<Metric>,
        /// From the first change of it that was seen until the last, milliseconds; 0: not seen.
        save_ms: u64,
    },
    /// A file of a complete checkpoint was written to, replaced, added or removed.
    Rewritten {
        /// The checkpoint.
        name: String,
        /// The file.
        file: String,
    },
    /// Something is not complete, and nothing has happened to it for a long time, or its attempt has ended.
    Unfinished {
        /// Its name.
        name: String,
        /// Why.
        why: Why,
    },
}

/// One name in the checkpoint directory.
#[derive(Debug)]
struct One {
    now: Fingerprint,
    /// When it last changed.
    since_ms: u64,
    /// When it first changed after it was complete, or was there.
    began_ms: u64,
    /// It lay there when we first looked, and has not changed.
    found: bool,
    /// It is of an attempt before this one, and has not changed.
    old: bool,
    /// What was there before this attempt, where it writes over it.
    before: Option<Fingerprint>,
    renamed: bool,
    sealed: bool,
    /// Another node has the file that completes it.
    elsewhere: bool,
    /// Its writer's word that it is complete as it is.
    committed: Option<Commit>,
    /// That it is not complete was told.
    told: bool,
}

/// The checkpoints of one attempt.
#[derive(Debug)]
pub struct Tracker {
    terms: Terms,
    ones: BTreeMap<String, One>,
    /// What lay there, of this attempt, and does no more.
    removed: BTreeSet<String>,
}

impl Tracker {
    /// Of an attempt on these terms.
    pub fn new(terms: Terms) -> Self {
        Self {
            terms,
            ones: BTreeMap::new(),
            removed: BTreeSet::new(),
        }
    }

    /// Takes in what lies there when the watch begins. Nothing is judged yet.
    pub fn found(&mut self, now_ms: u64, listing: &Listing) {
        let one = self.take(now_ms, listing);
        one.found = true;
    }

    /// `name` was just made by a rename: whatever had that name before is gone.
    pub fn renamed(&mut self, now_ms: u64, listing: &Listing) {
        let had = self.ones.remove(&listing.name);
        let one = self.take(now_ms, listing);
        one.renamed = true;
        one.old = false;
        // An empty one has nothing that could differ.
        one.sealed =
            had.is_some_and(|had| had.renamed && had.sealed && had.now.same_bytes(&one.now));
    }

    /// Another node of the attempt has completed it, as it is now: the file that does so is there. One that was told of is told again.
    /// Whether this node has anything of it.
    pub fn completed_elsewhere(&mut self, now_ms: u64, listing: &Listing) -> bool {
        let one = self.take(now_ms, listing);
        (one.elsewhere, one.sealed, one.told) = (!one.old, false, false);
        !one.old
    }

    /// Its writer says that it is complete, as it is now.
    pub fn committed(&mut self, now_ms: u64, listing: &Listing, word: Commit) {
        let one = self.take(now_ms, listing);
        if one.sealed && one.committed.as_ref() == Some(&word) {
            // Said twice, by each rank perhaps.
            return;
        }
        one.committed = Some(word);
        (one.old, one.sealed, one.told) = (false, false, false);
    }

    /// Whether a look at this name, which looked like this, could bring news. One that is of an earlier attempt brings none.
    pub fn is_news(&self, name: &str, print: &Fingerprint) -> bool {
        let known = self.ones.get(name);
        known.is_none_or(|one| one.now != *print || !one.sealed && !one.old)
    }

    /// Looks at one. `writers` is asked only if everything else says that it is complete.
    pub fn look(
        &mut self,
        now_ms: u64,
        listing: &Listing,
        life: Life,
        writers: impl FnOnce() -> Writers,
    ) -> Vec<News> {
        let (ranks, nodes) = (self.terms.ranks.clone(), self.terms.nodes);
        let shared = self.terms.shared;
        let was = self.ones.get(&listing.name).filter(|one| one.sealed);
        let was = was.map(|one| one.now.clone());
        let one = self.take(now_ms, listing);
        if one.sealed {
            return Vec::new();
        }
        let mut news = Vec::new();
        let name = || listing.name.clone();
        if let Some(file) = was.as_ref().and_then(|was| was.changed(&one.now)) {
            let file = file.to_owned();
            news.push(News::Rewritten { name: name(), file });
        }
        let mut facts = Facts {
            writers: Writers::Nobody,
            quiet_ms: now_ms.saturating_sub(one.since_ms),
            life: if one.old { Life::EndedBadly } else { life },
            renamed: one.renamed,
            committed: one.committed.clone(),
            marker_elsewhere: one.elsewhere,
            ranks,
            nodes,
            before: one.before.clone(),
        };
        let mut verdict = judge(listing, &facts);
        if facts.life == Life::Running && matches!(verdict, Verdict::Sealed(_)) {
            facts.writers = writers();
            verdict = judge(listing, &facts);
        }
        let waited = life != Life::Running || facts.quiet_ms >= PATIENCE_MS;
        match verdict {
            // A part of an attempt before this one, which nobody came to seal: with other nodes' parts of this one it would be of neither.
            Verdict::Sealed(_) if one.old && nodes > 1 => {}
            // In a directory of several jobs it is perhaps another's.
            Verdict::Sealed(_) if one.old && shared > 0 => {}
            Verdict::Sealed(sealed)
                if sealed.by == By::Quiet && shared > 1 && facts.quiet_ms < UNSEEN_MS => {}
            Verdict::Sealed(sealed) => {
                one.sealed = true;
                news.push(News::Sealed {
                    name: name(),
                    step: sealed.step,
                    by: sealed.by,
                    by_rescan: one.found,
                    metrics: sealed.metrics,
                    save_ms: one.since_ms.saturating_sub(one.began_ms),
                });
            }
            Verdict::Unfinished { why, .. } if waited && !one.told && !one.old => {
                one.told = true;
                news.push(News::Unfinished { name: name(), why });
            }
            Verdict::Unfinished { .. } | Verdict::NotACheckpoint => {}
        }
        news
    }

    /// Forgets what is not there any more.
    pub fn keep(&mut self, names: &[String]) {
        let there: BTreeSet<&String> = names.iter().collect();
        let gone = self
            .ones
            .iter()
            .filter(|(name, one)| !one.old && !there.contains(name));
        if self.removed.len() >= REMOVED_MAX {
            // Only those of the last saves are asked for.
            self.removed.clear();
        }
        let room = REMOVED_MAX.saturating_sub(self.removed.len());
        let gone: Vec<String> = gone.map(|(name, _)| name.clone()).take(room).collect();
        self.removed.extend(gone);
        self.ones.retain(|name, _| there.contains(name));
    }

    /// Something of this attempt had this name and was removed: what is not there now is not what never was.
    pub fn was_removed(&self, name: &str) -> bool {
        self.removed.contains(name) || self.ones.get(name).is_some_and(|one| !one.old)
    }

    /// All names of which that is known.
    pub fn removed(&self) -> &BTreeSet<String> {
        &self.removed
    }

    /// Whether something may become complete soon.
    pub fn expects(&self, now_ms: u64) -> bool {
        let soon = |one: &One| now_ms.saturating_sub(one.since_ms) < PATIENCE_MS;
        self.ones
            .values()
            .any(|one| !one.sealed && !one.old && soon(one))
    }

    fn take(&mut self, now_ms: u64, listing: &Listing) -> &mut One {
        let now = listing.fingerprint();
        // What has the very time of the attempt's beginning was there before its ranks.
        let old = newest(listing) <= self.terms.began_ns;
        let one = self.ones.entry(listing.name.clone());
        let one = one.or_insert_with(|| One {
            now: now.clone(),
            since_ms: now_ms,
            began_ms: now_ms,
            found: false,
            old,
            before: None,
            renamed: false,
            sealed: false,
            elsewhere: false,
            committed: None,
            told: false,
        });
        if (one.sealed || one.old) && one.now.same_bytes(&now) {
            one.now = now;
        } else if one.now != now {
            let then = std::mem::replace(&mut one.now, now);
            if one.old {
                one.before = Some(then);
            }
            if one.found || one.sealed || one.old {
                one.began_ms = now_ms;
            }
            one.since_ms = now_ms;
            (one.found, one.old, one.sealed, one.told) = (false, false, false, false);
            (one.elsewhere, one.committed) = (false, None);
            // What is written after the rename was not meant by it.
            one.renamed = false;
        }
        one
    }
}

/// When something of it last changed: a file was written, or a directory got or lost a name. A file that is sealed, or whose copy goes, gets
/// or loses a second name without being written.
fn newest(listing: &Listing) -> i64 {
    let time = |entry: &Entry| match entry.kind {
        Kind::File => entry.mark.mtime_ns,
        _ => entry.mark.ctime_ns,
    };
    let inside = listing.entries.iter().map(time).max();
    time(&listing.root).max(inside.unwrap_or(i64::MIN))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoints::seal::QUIET_MS;
    use crate::checkpoints::seal::listing::{Content, Mark};

    fn entry(path: &str, kind: Kind, time: i64) -> Entry {
        Entry {
            path: path.into(),
            kind,
            size: if kind == Kind::File { 9 } else { 0 },
            mark: Mark {
                mtime_ns: time,
                ctime_ns: time,
                inode: 1,
            },
            content: Content::Unread,
        }
    }

    fn step_5(time: i64) -> Listing {
        Listing {
            name: "step-5".into(),
            root: entry("", Kind::Dir, time),
            entries: vec![entry("a", Kind::File, time)],
            cut: false,
        }
    }

    fn tracker() -> Tracker {
        Tracker::new(Terms {
            ranks: 0..1,
            nodes: 1,
            began_ns: 100,
            shared: 0,
        })
    }

    fn look(tracker: &mut Tracker, now_ms: u64, time: i64) -> Vec<News> {
        tracker.look(now_ms, &step_5(time), Life::Running, || Writers::Nobody)
    }

    fn sealed(by: By, by_rescan: bool) -> Vec<News> {
        sealed_in(by, by_rescan, 0)
    }

    fn sealed_in(by: By, by_rescan: bool, save_ms: u64) -> Vec<News> {
        let (name, step) = ("step-5".into(), 5);
        vec![News::Sealed {
            name,
            step,
            by,
            by_rescan,
            metrics: vec![],
            save_ms,
        }]
    }

    #[test]
    fn one_written_in_place_is_complete_after_a_while_and_told_once() {
        let mut tracker = tracker();
        assert_eq!(look(&mut tracker, 0, 200), []);
        assert_eq!(look(&mut tracker, 1_000, 201), []);
        assert_eq!(look(&mut tracker, 1_000 + QUIET_MS - 1, 201), []);
        assert!(tracker.expects(1_000 + QUIET_MS));
        let written = || Writers::Somebody;
        let news = tracker.look(9_000, &step_5(201), Life::Running, written);
        assert_eq!(news, [], "somebody writes");
        let told = sealed_in(By::Quiet, false, 1_000);
        assert_eq!(look(&mut tracker, 9_001, 201), told);
        assert_eq!(look(&mut tracker, 20_000, 201), []);
        assert!(!tracker.expects(20_000) && !tracker.is_news("step-5", &step_5(201).fingerprint()));
    }

    #[test]
    fn a_rewrite_is_told_and_judged_anew() {
        let mut tracker = tracker();
        tracker.renamed(0, &step_5(200));
        assert_eq!(look(&mut tracker, 0, 200), sealed(By::Rename, false));
        assert!(tracker.is_news("step-5", &step_5(300).fingerprint()));
        let rewritten = News::Rewritten {
            name: "step-5".into(),
            file: "a".into(),
        };
        assert_eq!(look(&mut tracker, 5_000, 300), [rewritten]);
        assert_eq!(
            look(&mut tracker, 5_000 + QUIET_MS, 300),
            sealed(By::Quiet, false)
        );
    }

    #[test]
    fn what_an_earlier_attempt_left_is_not_complete_because_it_is_quiet() {
        let mut tracker = tracker();
        tracker.found(0, &step_5(50));
        assert!(!tracker.expects(0) && !tracker.is_news("step-5", &step_5(50).fingerprint()));
        let end = |tracker: &mut Tracker, time| {
            tracker.look(90_000, &step_5(time), Life::EndedWell, || Writers::Nobody)
        };
        assert_eq!(end(&mut tracker, 50), []);
        // Written over by this one.
        assert_eq!(look(&mut tracker, 95_000, 200), []);
        assert_eq!(end(&mut tracker, 200), sealed(By::Quiet, false));
        // This attempt's own, found after the agent came back.
        let mut tracker = self::tracker();
        tracker.found(0, &step_5(150));
        assert_eq!(look(&mut tracker, QUIET_MS, 150), sealed(By::Quiet, true));
    }

    #[test]
    fn a_second_name_of_its_files_is_no_rewrite() {
        let mut tracker = tracker();
        tracker.renamed(0, &step_5(200));
        assert_eq!(look(&mut tracker, 0, 200), sealed(By::Rename, false));
        let mut linked = step_5(200);
        linked.entries[0].mark.ctime_ns = 900;
        let again = |tracker: &mut Tracker, listing: &Listing| {
            tracker.look(9_000, listing, Life::Running, || Writers::Nobody)
        };
        assert!(tracker.is_news("step-5", &linked.fingerprint()));
        assert_eq!(again(&mut tracker, &linked), []);
        assert!(!tracker.is_news("step-5", &linked.fingerprint()));
        linked.entries[0].mark.mtime_ns = 900;
        let news = again(&mut tracker, &linked);
        assert!(matches!(news[..], [News::Rewritten { .. }]), "{news:?}");
        // Nor does it make one of an earlier attempt news.
        let mut tracker = self::tracker();
        tracker.found(0, &step_5(50));
        let mut unlinked = step_5(50);
        unlinked.entries[0].mark.ctime_ns = 900;
        for now_ms in [1, QUIET_MS * 2] {
            let news = tracker.look(now_ms, &unlinked, Life::Running, || Writers::Nobody);
            assert_eq!(news, []);
        }
        let mut tracker = self::tracker();
        tracker.found(0, &unlinked);
        assert!(!tracker.expects(0));
    }

    #[test]
    fn what_another_node_completed_is_judged_as_complete_there_until_it_changes() {
        let part = |time| Listing {
            entries: vec![entry("__1_0.distcp", Kind::File, time)],
            ..step_5(time)
        };
        let mut tracker = Tracker::new(Terms {
            ranks: 1..2,
            nodes: 2,
            began_ns: 100,
            shared: 0,
        });
        let look = |tracker: &mut Tracker, now_ms, time| {
            tracker.look(now_ms, &part(time), Life::Running, || Writers::Nobody)
        };
        assert_eq!(look(&mut tracker, 0, 200), []);
        assert_eq!(
            look(&mut tracker, 9_000, 200),
            [],
            "its marker is elsewhere"
        );
        assert!(tracker.completed_elsewhere(9_001, &part(200)));
        let told = sealed(By::Dcp, false);
        assert_eq!(look(&mut tracker, 9_002, 200), told);
        assert_eq!(look(&mut tracker, 9_003, 200), []);
        assert!(tracker.completed_elsewhere(9_004, &part(200)));
        assert_eq!(
            look(&mut tracker, 9_005, 200),
            told,
            "who asks again is told"
        );
        let rewritten = look(&mut tracker, 20_000, 300);
        assert!(matches!(rewritten[..], [News::Rewritten { .. }]));
        assert_eq!(look(&mut tracker, 90_000, 300).len(), 1, "unfinished again");
        let mut old = self::tracker();
        old.found(0, &step_5(50));
        assert!(
            !old.completed_elsewhere(1, &step_5(50)),
            "of an earlier attempt"
        );
    }

    /// Of one node it is all of the checkpoint. Of several it would be listed with parts that other nodes made in this attempt.
    #[test]
    fn a_whole_one_of_an_earlier_attempt_counts_only_where_it_has_one_part() {
        for (nodes, told) in [(1, sealed(By::Rename, true)), (2, Vec::new())] {
            let mut tracker = Tracker::new(Terms {
                ranks: 0..1,
                nodes,
                began_ns: 100,
                shared: 0,
            });
            let mut whole = step_5(50);
            whole.root.mark.ctime_ns = 60;
            tracker.found(0, &whole);
            let news = tracker.look(2, &whole, Life::Running, || Writers::Nobody);
            assert_eq!(news, told, "{nodes} nodes");
        }
    }

    /// What lay there before is perhaps of another job, and of other nodes' writers only time tells.
    #[test]
    fn in_a_directory_that_every_node_sees() {
        let with = |shared| {
            Tracker::new(Terms {
                ranks: 0..1,
                nodes: 1,
                began_ns: 100,
                shared,
            })
        };
        let mut old = step_5(50);
        old.root.mark.ctime_ns = 60;
        let mut tracker = with(1);
        tracker.found(0, &old);
        let news = tracker.look(2, &old, Life::Running, || Writers::Nobody);
        assert_eq!(news, []);
        for (shared, first) in [(1, 3_000), (2, 60_500)] {
            let mut tracker = with(shared);
            for now_ms in [500, 1_500] {
                assert_eq!(look(&mut tracker, now_ms, 200), [], "{shared} at {now_ms}");
            }
            let news = look(&mut tracker, 3_000, 200);
            assert_eq!(news.is_empty(), first > 3_000, "{shared}");
            if first > 3_000 {
                assert_eq!(look(&mut tracker, first, 200), sealed(By::Quiet, false));
            }
        }
    }

    #[test]
    fn the_writers_word_counts_for_what_was_there_then() {
        let mut tracker = tracker();
        let word = Commit {
            step: Some(7),
            metrics: Vec::new(),
        };
        assert_eq!(look(&mut tracker, 0, 200), [], "written a moment ago");
        tracker.committed(1, &step_5(200), word.clone());
        let news = look(&mut tracker, 1, 200);
        let [
            News::Sealed {
                step: 7,
                by: By::Word,
                ..
            },
        ] = &news[..]
        else {
            panic!("{news:?}")
        };
        assert_eq!(look(&mut tracker, 2, 200), [], "told once");
        // Written to after that: the word is void.
        tracker.committed(3, &step_5(300), word);
        let news = look(&mut tracker, 4, 301);
        assert!(
            news.iter().all(|one| !matches!(one, News::Sealed { .. })),
            "{news:?}"
        );
    }

    #[test]
    fn what_stays_unfinished_is_told_once() {
        let mut tracker = tracker();
        let failed = |tracker: &mut Tracker, now_ms| {
            tracker.look(now_ms, &step_5(200), Life::EndedBadly, || Writers::Nobody)
        };
        let told = vec![News::Unfinished {
            name: "step-5".into(),
            why: Why::Unseen,
        }];
        assert_eq!(failed(&mut tracker, 0), told);
        assert_eq!(failed(&mut tracker, 1), []);
        tracker.keep(&[]);
        assert_eq!(failed(&mut tracker, 2), told);
        let unknown = |tracker: &mut Tracker, now_ms| {
            tracker.look(now_ms, &step_5(300), Life::Running, || Writers::Unknown)
        };
        assert_eq!(unknown(&mut tracker, 3), []);
        let why = Why::Unknown;
        let name = "step-5".into();
        let told = [News::Unfinished { name, why }];
        assert_eq!(unknown(&mut tracker, 3 + PATIENCE_MS), told);
        assert!(!tracker.expects(3 + PATIENCE_MS));
    }
}
