//! Tasks of an array on this node: what a wave was given, how its tasks ended. Packed, so that thousands are one message and one event.
//! Does NOT know who runs them.
#![deny(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::float_arithmetic
)]

use mlctl_proto::persist::{self, EndKind};
use mlctl_proto::spec::Ranges;
use serde::{Deserialize, Serialize};

/// Tasks to run here.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Wave {
    /// How many at once.
    pub slots: u32,
    /// Which.
    pub tasks: Ranges,
    /// How many the array has.
    pub count: u32,
}

/// Tasks that ended alike.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskGroup {
    /// Exit code, when `signal` is 0.
    pub code: i32,
    /// The signal that ended them, 0 if they exited.
    pub signal: i32,
    /// Which.
    pub tasks: Ranges,
}

/// How tasks ended.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct TaskEnds {
    /// By how they did.
    pub groups: Vec<TaskGroup>,
    /// The first of them that failed.
    pub first_failed: Option<u32>,
    /// Those that wrote anything: they have a log.
    pub spoke: Ranges,
}

impl TaskEnds {
    /// None.
    pub fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// All of them.
    pub fn tasks(&self) -> Ranges {
        let groups = self.groups.iter();
        groups.fold(Ranges::new(), |all, group| all.union(&group.tasks))
    }

    /// One more.
    pub fn add(&mut self, index: u32, code: i32, signal: i32, spoke: bool) {
        if spoke {
            self.spoke.insert(index);
        }
        if (code != 0 || signal != 0) && self.first_failed.is_none() {
            self.first_failed = Some(index);
        }
        let alike = |group: &&mut TaskGroup| (group.code, group.signal) == (code, signal);
        match self.groups.iter_mut().find(alike) {
            Some(group) => group.tasks.insert(index),
            None => self.groups.push(TaskGroup {
                code,
                signal,
                tasks: Ranges::one(index),
            }),
        }
    }

    /// Others that ended later.
    pub fn merge(&mut self, later: Self) {
        for group in later.groups {
            let alike = |one: &&mut TaskGroup| (one.code, one.signal) == (group.code, group.signal);
            match self.groups.iter_mut().find(alike) {
                Some(known) => known.tasks = known.tasks.union(&group.tasks),
                None => self.groups.push(group),
            }
        }
        self.first_failed = self.first_failed.or(later.first_failed);
        self.spoke = self.spoke.union(&later.spoke);
    }

    /// Those of them that are not in `known`.
    #[must_use]
    pub fn without(&self, known: &Ranges) -> Self {
        let groups = self.groups.iter().map(|group| TaskGroup {
            tasks: group.tasks.minus(known),
            ..group.clone()
        });
        Self {
            groups: groups.filter(|group| !group.tasks.is_empty()).collect(),
            first_failed: self.first_failed.filter(|index| !known.contains(*index)),
            spoke: self.spoke.minus(known),
        }
    }

    /// As an event says it.
    pub fn to_event(&self) -> persist::TasksEnded {
        let group = |group: &TaskGroup| {
            let (kind, code) = match group.signal {
                0 => (EndKind::Exited, group.code),
                signal => (EndKind::Signalled, signal),
            };
            persist::TaskGroup {
                kind: kind.into(),
                code,
                tasks: Some(group.tasks.pack()),
            }
        };
        persist::TasksEnded {
            groups: self.groups.iter().map(group).collect(),
            first_failed: self.first_failed,
            spoke: Some(self.spoke.pack()),
        }
    }
}

/// The tasks that an event of the journal speaks of.
pub fn tasks_of(ended: &persist::TasksEnded) -> Ranges {
    let sets = ended.groups.iter().filter_map(|group| group.tasks.as_ref());
    let sets = sets.filter_map(|packed| Ranges::unpack(packed).ok());
    sets.fold(Ranges::new(), |all, set| all.union(&set))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_grouped_and_those_that_are_known_fall_out() {
        let mut ends = TaskEnds::default();
        for (index, code, signal) in [
            (3, 0, 0),
            (1, 0, 0),
            (7, 2, 0),
            (2, 0, 0),
            (9, 0, 11),
            (8, 2, 0),
        ] {
            ends.add(index, code, signal, code == 2);
        }
        assert_eq!(ends.groups.len(), 3);
        assert_eq!(
            (ends.tasks().to_string(), ends.first_failed),
            ("1-3,7-9".into(), Some(7))
        );
        assert_eq!(ends.spoke, Ranges::span(7, 8));
        let news = ends.without(&Ranges::span(2, 7));
        assert_eq!(
            (news.tasks().to_string(), news.first_failed),
            ("1,8-9".into(), None)
        );
        assert!(ends.without(&ends.tasks()).is_empty());
        let mut both = ends.without(&Ranges::span(4, 9));
        both.merge(ends.without(&Ranges::span(0, 3)));
        assert_eq!((both.tasks(), both.groups.len()), (ends.tasks(), 3));
        assert_eq!(tasks_of(&ends.to_event()), ends.tasks());
    }
}
