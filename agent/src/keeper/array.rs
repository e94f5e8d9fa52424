//! Which tasks of a wave wait, run and have ended, and what of that nobody was told yet. Bytes of nothing: does NOT start a process,
//! write a file or read a clock.
#![deny(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::float_arithmetic
)]

use mlctl_proto::spec::Ranges;

use crate::tasks::TaskEnds;

/// Ends are told together, at most so long after the first of them, milliseconds.
const TELL_MS: u64 = 100;

/// The tasks of one node.
#[derive(Debug)]
pub(super) struct Tasks {
    waiting: Ranges,
    /// All that have ended by themselves.
    ended: TaskEnds,
    /// Those of them that the agent was not told.
    news: TaskEnds,
    /// Those of them that were not written down.
    unwritten: TaskEnds,
    tell_at: Option<u64>,
}

impl Tasks {
    /// All of these wait.
    pub(super) fn new(tasks: Ranges) -> Self {
        Self {
            waiting: tasks,
            ended: TaskEnds::default(),
            news: TaskEnds::default(),
            unwritten: TaskEnds::default(),
            tell_at: None,
        }
    }

    /// Takes the next one to start.
    pub(super) fn next(&mut self) -> Option<u32> {
        self.waiting.take_lowest(1).first()
    }

    /// It could not be started now.
    pub(super) fn put_back(&mut self, index: u32) {
        self.waiting.insert(index);
    }

    /// Whether none waits.
    pub(super) fn all_begun(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Nothing more is started.
    pub(super) fn give_up(&mut self) {
        self.waiting = Ranges::new();
    }

    /// One has ended by itself. `spoke`: it wrote something.
    pub(super) fn ended(&mut self, now: u64, index: u32, (code, signal): (i32, i32), spoke: bool) {
        for ends in [&mut self.ended, &mut self.news, &mut self.unwritten] {
            ends.add(index, code, signal, spoke);
        }
        self.tell_at.get_or_insert(now + TELL_MS);
    }

    /// When the agent is to be told.
    pub(super) fn tell_at(&self) -> Option<u64> {
        self.tell_at
    }

    /// What the agent is to be told; from here on it counts as told.
    pub(super) fn take_news(&mut self) -> TaskEnds {
        self.tell_at = None;
        std::mem::take(&mut self.news)
    }

    /// What is to be written down; from here on it counts as written.
    pub(super) fn take_unwritten(&mut self) -> TaskEnds {
        std::mem::take(&mut self.unwritten)
    }

    /// All that have ended, for an agent that connects: it was told everything by that.
    pub(super) fn all(&self) -> &TaskEnds {
        &self.ended
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_begin_in_order_and_ends_are_told_together() {
        let mut tasks = Tasks::new(Ranges::span(5, 8));
        assert_eq!((tasks.next(), tasks.next()), (Some(5), Some(6)));
        tasks.put_back(6);
        assert_eq!(
            (tasks.next(), tasks.next(), tasks.next()),
            (Some(6), Some(7), Some(8))
        );
        assert!(tasks.all_begun() && tasks.next().is_none());
        tasks.ended(1_000, 6, (0, 0), false);
        tasks.ended(1_050, 5, (2, 0), true);
        assert_eq!(tasks.tell_at(), Some(1_100));
        let news = tasks.take_news();
        assert_eq!(
            (news.tasks(), news.first_failed),
            (Ranges::span(5, 6), Some(5))
        );
        assert_eq!(
            (tasks.tell_at(), tasks.take_news().is_empty()),
            (None, true)
        );
        tasks.ended(2_000, 7, (0, 9), false);
        assert_eq!(tasks.take_unwritten().tasks(), Ranges::span(5, 7));
        assert_eq!(tasks.take_news().tasks(), Ranges::one(7));
        assert_eq!(tasks.all().tasks(), Ranges::span(5, 7));
    }
}
