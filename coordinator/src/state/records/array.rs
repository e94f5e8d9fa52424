//! An array job's tasks, packed as ranges of their indices by what became of them, and the waves in which nodes run them. Which command
//! may move which tasks is not decided here.
use mlctl_proto::limits::{ARRAY_FAILURES_MAX, INFRASTRUCTURE_RESTARTS_MAX};
use mlctl_proto::spec::{ArraySpec, Ranges};

use super::{End, EndKind};

/// Tasks that ended alike.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskGroup {
    /// How.
    pub kind: EndKind,
    /// Exit code, or signal number for `Signalled`.
    pub code: i32,
    /// Which.
    pub tasks: Ranges,
}

impl TaskGroup {
    /// They exited 0.
    pub fn success(&self) -> bool {
        self.kind == EndKind::Exited && self.code == 0
    }
}

/// A task that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskFailure {
    /// Which.
    pub index: u32,
    /// How.
    pub kind: EndKind,
    /// Exit code, or signal number for `Signalled`.
    pub code: i32,
    /// Where.
    pub node: String,
}

/// What became of the tasks. One that is in none of these sets is in an open wave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Array {
    /// All there are.
    pub tasks: Ranges,
    /// How many may run at once, 0: no limit.
    pub limit: u32,
    /// They wait.
    pub pending: Ranges,
    /// They have ended, by how: in the order of kind and code.
    pub ended: Vec<TaskGroup>,
    /// The job was ended before they had.
    pub cancelled: Ranges,
    /// They came back from a wave that was lost: at least once, at least twice, and so on.
    pub returned: Vec<Ranges>,
    /// The first few that failed, in commit order.
    pub failures: Vec<TaskFailure>,
    /// What a task took in the last waves, milliseconds, 0: not known.
    pub task_ms: u32,
}

impl Array {
    /// The tasks of a spec; all wait.
    pub fn new(spec: &ArraySpec) -> Self {
        Self {
            tasks: spec.tasks.clone(),
            limit: spec.limit,
            pending: spec.tasks.clone(),
            ended: Vec::new(),
            cancelled: Ranges::new(),
            returned: Vec::new(),
            failures: Vec::new(),
            task_ms: 0,
        }
    }

    /// How many exited 0.
    pub fn succeeded(&self) -> u64 {
        let groups = self.ended.iter().filter(|group| group.success());
        groups.map(|group| group.tasks.count()).sum()
    }

    /// Those that exited 0.
    pub fn succeeded_tasks(&self) -> Ranges {
        let groups = self.ended.iter().filter(|group| group.success());
        groups.fold(Ranges::new(), |all, group| all.union(&group.tasks))
    }

    /// How many ended otherwise.
    pub fn failed(&self) -> u64 {
        let groups = self.ended.iter().filter(|group| !group.success());
        groups.map(|group| group.tasks.count()).sum()
    }

    /// How many will not run any more.
    pub fn done(&self) -> u64 {
        self.succeeded() + self.failed() + self.cancelled.count()
    }

    /// Notes how tasks ended. The caller has seen to it that they were in an open wave.
    pub fn end(&mut self, kind: EndKind, code: i32, tasks: &Ranges) {
        if tasks.is_empty() {
            return;
        }
        let place = |group: &TaskGroup| (group.kind, group.code).cmp(&(kind, code));
        match self.ended.binary_search_by(place) {
            Ok(at) => self.ended[at].tasks = self.ended[at].tasks.union(tasks),
            Err(at) => {
                let tasks = tasks.clone();
                self.ended.insert(at, TaskGroup { kind, code, tasks });
            }
        }
    }

    /// Names failed tasks, as long as there is room.
    pub fn name_failures(&mut self, group: &TaskGroup, first: Option<u32>, node: &str) {
        let first = first.filter(|index| group.tasks.contains(*index));
        let others = group.tasks.iter().filter(|index| Some(*index) != first);
        for index in first.into_iter().chain(others) {
            if self.failures.len() >= ARRAY_FAILURES_MAX {
                return;
            }
            self.failures.push(TaskFailure {
                index,
                kind: group.kind,
                code: group.code,
                node: node.into(),
            });
        }
    }

    /// Tasks of a wave that was lost wait again, a bounded number of times each; after that they have failed.
    pub fn give_back(&mut self, left: &Ranges, kind: EndKind, node: &str) {
        let mut again = left.clone();
        let mut over = Ranges::new();
        for level in 0..INFRASTRUCTURE_RESTARTS_MAX as usize {
            if again.is_empty() {
                break;
            }
            if self.returned.len() == level {
                self.returned.push(Ranges::new());
            }
            let before = again.and(&self.returned[level]);
            self.returned[level] = self.returned[level].union(&again);
            again = before;
            over = again.clone();
        }
        if !over.is_empty() {
            let group = TaskGroup {
                kind,
                code: 0,
                tasks: over.clone(),
            };
            self.name_failures(&group, None, node);
            self.end(kind, 0, &over);
        }
        self.pending = self.pending.union(&left.minus(&over));
    }

    /// The job ends: what waits never runs.
    pub fn cancel_pending(&mut self) {
        let pending = std::mem::take(&mut self.pending);
        self.cancelled = self.cancelled.union(&pending);
    }

    /// How the job ends when every task has ended: the first failure in commit order counts.
    pub fn outcome(&self) -> End {
        let Some(first) = self.failures.first() else {
            return End::of(EndKind::Exited);
        };
        End {
            code: first.code,
            detail: format!("{} of {} tasks failed", self.failed(), self.tasks.count()),
            node: first.node.clone(),
            rank: Some(first.index),
            ..End::of(first.kind)
        }
    }
}

/// What an attempt of an array job runs: tasks of one node, so many at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wave {
    /// How many at once.
    pub slots: u32,
    /// The tasks that it was given.
    pub tasks: Ranges,
    /// Those of which no end is known.
    pub left: Ranges,
    /// Those that ended and wrote anything: they have a log.
    pub spoke: Ranges,
}

impl Wave {
    /// A wave that begins.
    pub fn new(slots: u32, tasks: Ranges) -> Self {
        Self {
            slots,
            left: tasks.clone(),
            tasks,
            spoke: Ranges::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn array(text: &str) -> Array {
        Array::new(&ArraySpec::parse(text).expect("good"))
    }

    #[test]
    fn ends_are_grouped_and_the_first_failure_is_the_jobs() {
        let mut array = array("0-9%3");
        array.pending = Ranges::new();
        array.end(EndKind::Exited, 0, &Ranges::span(0, 3));
        assert!(array.outcome().success());
        let failed = TaskGroup {
            kind: EndKind::Exited,
            code: 7,
            tasks: Ranges::span(4, 8),
        };
        array.name_failures(&failed, Some(6), "a");
        array.end(failed.kind, failed.code, &failed.tasks);
        array.end(EndKind::Exited, 0, &Ranges::one(9));
        assert_eq!(
            (array.succeeded(), array.failed(), array.done()),
            (5, 5, 10)
        );
        assert_eq!(array.ended.len(), 2);
        let end = array.outcome();
        assert_eq!((end.code, end.rank, end.node.as_str()), (7, Some(6), "a"));
        assert_eq!(end.detail, "5 of 10 tasks failed");
        let named: Vec<u32> = array.failures.iter().map(|one| one.index).collect();
        assert_eq!(named, [6, 4, 5, 7, 8]);
    }

    #[test]
    fn a_task_comes_back_three_times_and_no_more() {
        let mut array = array("0-9");
        for round in 0..3 {
            array.pending = array.pending.minus(&Ranges::span(0, 4));
            array.give_back(&Ranges::span(0, 4), EndKind::NodeLost, "a");
            assert_eq!(array.pending.count(), 10, "round {round}");
        }
        array.pending = Ranges::new();
        array.give_back(&Ranges::span(3, 6), EndKind::KeeperLost, "a");
        assert_eq!(array.pending, Ranges::span(5, 6));
        assert_eq!(array.ended[0].tasks, Ranges::span(3, 4));
        assert_eq!(array.outcome().kind, EndKind::KeeperLost);
    }
}
