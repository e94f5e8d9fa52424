//! What clients were told, and whether the cluster's later words agree: nothing acknowledged is lost, nothing is there twice, and
//! what was acknowledged first has the smaller index.
//! Does NOT ask the cluster.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use super::client::Key;

/// An operation that was answered with a place in the log.
#[derive(Debug, Clone)]
pub struct Act {
    /// For people.
    pub what: String,
    /// Before the first try.
    pub begun: Instant,
    /// After the answer.
    pub ended: Instant,
    /// Of the entry, or of the state that a read was answered from.
    pub index: u64,
    /// It changed something.
    pub write: bool,
}

/// A submit, answered or not.
#[derive(Debug, Clone)]
pub struct Submit {
    /// The key of every try.
    pub key: Key,
    /// The job's name, used for no other submit.
    pub name: String,
    /// What was sent.
    pub spec: Vec<u8>,
    /// The job that it was acknowledged as.
    pub job: Option<String>,
    /// The job runs once and writes its name down.
    pub probe: bool,
}

/// What one client, or several, were told.
#[derive(Debug, Clone, Default)]
pub struct Ledger {
    /// Everything that was answered.
    pub acts: Vec<Act>,
    /// Every submit.
    pub submits: Vec<Submit>,
    /// Jobs that were acknowledged as cancelled.
    pub cancelled: BTreeSet<String>,
    /// What was seen to be wrong at once.
    pub wrong: Vec<String>,
}

/// A job as the cluster lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its state.
    pub state: String,
}

impl Ledger {
    /// Adds what another client was told.
    pub fn merge(&mut self, other: Self) {
        self.acts.extend(other.acts);
        self.submits.extend(other.submits);
        self.cancelled.extend(other.cancelled);
        self.wrong.extend(other.wrong);
    }

    /// Every way in which `listed`, all jobs of the cluster, contradicts what was told.
    pub fn contradictions(&self, listed: &[Listed]) -> Vec<String> {
        let mut by_name: BTreeMap<&str, Vec<&Listed>> = BTreeMap::new();
        for job in listed {
            by_name.entry(&job.name).or_default().push(job);
        }
        let mut wrong = self.wrong.clone();
        for submit in &self.submits {
            let found = by_name
                .get(submit.name.as_str())
                .map_or(&[][..], Vec::as_slice);
            match (&submit.job, found) {
                (_, [_, _, ..]) => wrong.push(format!("accepted twice: {found:?}")),
                (Some(job), []) => wrong.push(format!("lost: job {job}, {}", submit.name)),
                (Some(job), [one]) if one.id != *job => {
                    wrong.push(format!("{one:?} was acknowledged as {job}"));
                }
                _ => {}
            }
        }
        for job in listed {
            if self.cancelled.contains(&job.id) && job.state != "Cancelled" {
                wrong.push(format!("acknowledged as cancelled: {job:?}"));
            }
        }
        wrong.extend(out_of_order(&self.acts));
        wrong
    }
}

/// Every operation that began after another one was answered and yet has an earlier place in the log; for a read: that shows an
/// earlier state.
pub fn out_of_order(acts: &[Act]) -> Vec<String> {
    let mut by_begin: Vec<&Act> = acts.iter().collect();
    by_begin.sort_by_key(|act| act.begun);
    let mut by_end: Vec<&Act> = acts.iter().collect();
    by_end.sort_by_key(|act| act.ended);
    let mut before = by_end.into_iter().peekable();
    let mut highest: Option<&Act> = None;
    let mut wrong = Vec::new();
    for act in by_begin {
        while let Some(earlier) = before.next_if(|earlier| earlier.ended < act.begun) {
            if highest.is_none_or(|highest| earlier.index > highest.index) {
                highest = Some(earlier);
            }
        }
        let Some(highest) = highest else { continue };
        let late = if act.write {
            act.index <= highest.index
        } else {
            act.index < highest.index
        };
        if late {
            wrong.push(format!(
                "{} at {} began {:?} after {} at {} was answered",
                act.what,
                act.index,
                act.begun.duration_since(highest.ended),
                highest.what,
                highest.index
            ));
        }
    }
    wrong
}

/// Jobs that did not end well, or whose names are not exactly once in `starts`, one a line: no fault of mlctl's own daemons starts a
/// job again.
pub fn wrong_starts(starts: &str, probes: &[&Listed]) -> Vec<String> {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for name in starts.lines() {
        *counts.entry(name).or_default() += 1;
    }
    let wrong = probes.iter().filter_map(|job| {
        let count = counts.get(job.name.as_str()).copied().unwrap_or(0);
        let right = job.state == "Completed" && count == 1;
        (!right).then(|| format!("started {count} times: {job:?}"))
    });
    wrong.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// `(begun, ended, index, write)`, in milliseconds.
    fn acts(all: &[(u64, u64, u64, bool)]) -> Vec<Act> {
        let zero = Instant::now();
        all.iter()
            .map(|&(begun, ended, index, write)| Act {
                what: format!("{begun}-{ended}"),
                begun: zero + Duration::from_millis(begun),
                ended: zero + Duration::from_millis(ended),
                index,
                write,
            })
            .collect()
    }

    #[test]
    fn only_what_did_not_overlap_has_an_order() {
        for (all, wrong, why) in [
            (&[(0, 1, 5, true), (2, 3, 6, true)][..], 0, "in order"),
            (&[(0, 1, 6, true), (2, 3, 5, true)], 1, "an earlier place"),
            (&[(0, 1, 5, true), (2, 3, 5, true)], 1, "the same place"),
            (&[(0, 2, 6, true), (1, 3, 5, true)], 0, "they overlap"),
            (&[(0, 1, 5, true), (2, 3, 5, false)], 0, "a read shows it"),
            (&[(0, 1, 5, true), (2, 3, 4, false)], 1, "a stale read"),
            (&[(0, 1, 5, false), (2, 3, 5, true)], 1, "seen too early"),
            (&[(0, 1, 9, false), (2, 3, 8, false)], 1, "time runs back"),
            (
                &[
                    (0, 9, 1, true),
                    (1, 2, 7, true),
                    (3, 4, 6, true),
                    (5, 6, 8, true),
                ],
                1,
                "beside a long one",
            ),
        ] {
            let found = out_of_order(&acts(all));
            assert_eq!(found.len(), wrong, "{why}: {found:?}");
        }
    }

    fn listed(id: &str, name: &str, state: &str) -> Listed {
        Listed {
            id: id.to_owned(),
            name: name.to_owned(),
            state: state.to_owned(),
        }
    }

    #[test]
    fn what_was_acknowledged_is_there_once() {
        let submit = |name: &str, job: Option<&str>| Submit {
            key: [0; 16],
            name: name.to_owned(),
            spec: Vec::new(),
            job: job.map(str::to_owned),
            probe: false,
        };
        let ledger = Ledger {
            submits: vec![
                submit("a", Some("1")),
                submit("b", Some("2")),
                submit("c", None),
            ],
            cancelled: ["2".to_owned()].into(),
            ..Ledger::default()
        };
        let (a, b) = (listed("1", "a", "Pending"), listed("2", "b", "Cancelled"));
        let c = |id: &str| listed(id, "c", "Pending");
        for (jobs, wrong) in [
            (vec![a.clone(), b.clone()], None),
            (vec![a.clone(), b.clone(), c("3")], None),
            (vec![b.clone()], Some("lost: job 1")),
            (vec![a.clone(), b.clone(), c("3"), c("4")], Some("twice")),
            (
                vec![a.clone(), b.clone(), listed("3", "a", "Pending")],
                Some("twice"),
            ),
            (
                vec![listed("7", "a", "Pending"), b.clone()],
                Some("acknowledged as 1"),
            ),
            (
                vec![a.clone(), listed("2", "b", "Running")],
                Some("cancelled"),
            ),
        ] {
            let found = ledger.contradictions(&jobs).join("; ");
            match wrong {
                None => assert_eq!(found, "", "{jobs:?}"),
                Some(word) => assert!(found.contains(word), "{word}: {found}"),
            }
        }
    }

    #[test]
    fn one_start_and_a_good_end() {
        let job = listed("1", "a", "Completed");
        assert_eq!(wrong_starts("b\na\n", &[&job]), [""; 0]);
        assert_eq!(wrong_starts("a\na\n", &[&job]).len(), 1);
        assert_eq!(wrong_starts("", &[&job]).len(), 1);
        let stuck = listed("1", "a", "Running");
        assert_eq!(wrong_starts("a\n", &[&stuck]).len(), 1);
    }
}
