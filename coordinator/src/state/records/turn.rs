//! When a job's turn comes: how urgent it is, who holds it, for which jobs and times it waits, and how long it has waited so far. Which command
//! may change what of it is not decided here.
use mlctl_proto::spec::{After, AfterKind, Class, JobSpec};
use mlctl_proto::units::UtcMs;

use super::{Job, JobState};

/// A person said that a job shall not start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hold {
    /// Who; decides.
    pub user_id: String,
    /// For people.
    pub name: String,
    /// Not the job's owner but an admin: only an admin releases it.
    pub admin: bool,
    /// State time.
    pub since_ms: UtcMs,
    /// Why, for people; may be empty.
    pub why: String,
}

impl Hold {
    /// The word people and programs see.
    pub fn word(&self) -> &'static str {
        if self.admin {
            "HeldByAdmin"
        } else {
            "HeldByUser"
        }
    }
}

/// What a job's owner, an admin and other jobs have to say about when it runs. Times are UTC milliseconds, 0: none.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Turn {
    /// How urgent.
    pub class: Class,
    /// Who holds it, while it is Held by a person.
    pub hold: Option<Hold>,
    /// Of which jobs something has to become before it starts: those of which it has not yet.
    pub after: Vec<After>,
    /// It does not start before.
    pub begin_ms: UtcMs,
    /// It is dropped if no attempt was begun by then.
    pub start_by_ms: UtcMs,
    /// It is ended if it is not over by then.
    pub end_by_ms: UtcMs,
    /// How long all attempts together may run, milliseconds, 0: as long as it takes.
    pub total_ms: u64,
    /// How long its attempts that are over ran, milliseconds.
    pub ran_ms: u64,
    /// Others may have its devices at any time.
    pub preemptible: bool,
    /// From when it would have waited, had nothing but a lack of room ever hindered it, 0: from its submit on. While it waits, state
    /// time less this is its eligible waiting.
    pub eligible_ms: UtcMs,
    /// Since when something else hinders it, or it runs: its waiting does not count from then on. 0: it counts.
    pub blocked_ms: UtcMs,
}

impl Turn {
    /// That of a new job. Dependencies, and a hold, are the command's to add.
    pub fn of(spec: &JobSpec) -> Self {
        Self {
            class: spec.class,
            begin_ms: spec.begin.map_or(0, |at| at.ms()),
            start_by_ms: spec.start_by.map_or(0, |at| at.ms()),
            end_by_ms: spec.end_by.map_or(0, |at| at.ms()),
            total_ms: spec.total_time.map_or(0, |time| time.ms()),
            preemptible: spec.preemptible,
            ..Self::default()
        }
    }

    /// The first job that it waits for as a whole. Arrays that go task by task have to wait for no job.
    pub fn waits_for(&self) -> Option<After> {
        let mut whole = self.after.iter().filter(|one| one.kind != AfterKind::Corr);
        whole.next().copied()
    }

    /// Whether its attempts have had all the time that they may have, `ran_ms` more than what is counted.
    pub fn used_up(&self, ran_ms: u64) -> bool {
        self.total_ms > 0 && self.ran_ms.saturating_add(ran_ms) >= self.total_ms
    }
}

impl Job {
    /// When it is too late for it, if it is not over and anything says so: what was never begun by `start_by`, and what is not over by `end_by`.
    pub fn due_ms(&self) -> Option<UtcMs> {
        if self.state.terminal() || self.cancel_requested {
            return None;
        }
        let start_by = Some(self.turn.start_by_ms).filter(|_| self.epoch_counter == 0);
        let times = [start_by, Some(self.turn.end_by_ms)].into_iter().flatten();
        times.filter(|at| *at > 0).min()
    }

    /// From when its eligible waiting counts at `now_ms`: the difference is how long it waited with nothing in its way but a lack of room.
    pub fn eligible_ms(&self, now_ms: UtcMs) -> UtcMs {
        let from = self.counted_from();
        match self.turn.blocked_ms {
            0 => from,
            since => now_ms.saturating_sub(since.saturating_sub(from).max(0)),
        }
    }

    /// Starts or stops the clock of its waiting, as its state now says.
    pub fn keep_clock(&mut self, now_ms: UtcMs) {
        let whole = self.turn.waits_for().is_none() && self.turn.hold.is_none();
        let counts = self.state == JobState::Pending && whole;
        match (counts, self.turn.blocked_ms) {
            (true, since) if since > 0 => {
                let waited = since.saturating_sub(self.counted_from()).max(0);
                let from = now_ms.max(self.turn.begin_ms);
                self.turn.eligible_ms = from.saturating_sub(waited);
                self.turn.blocked_ms = 0;
            }
            (false, 0) => self.turn.blocked_ms = now_ms,
            _ => {}
        }
    }

    /// Another start time. What it has waited so far still counts.
    pub fn begin_at(&mut self, begin_ms: UtcMs, now_ms: UtcMs) {
        let waited = now_ms.saturating_sub(self.eligible_ms(now_ms)).max(0);
        self.turn.begin_ms = begin_ms;
        self.turn.eligible_ms = match self.turn.blocked_ms {
            0 => now_ms.max(begin_ms).saturating_sub(waited),
            since => since.saturating_sub(waited),
        };
    }

    /// Before its start time nothing counts.
    fn counted_from(&self) -> UtcMs {
        match self.turn.eligible_ms {
            0 => self.submitted_ms.max(self.turn.begin_ms),
            from => from,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::testing::Cluster;

    fn job(begin_ms: UtcMs) -> Job {
        let mut cluster = Cluster::new();
        let id = cluster.submitted("ann", 1, 0);
        let mut job = cluster.job(id);
        (job.submitted_ms, job.turn.begin_ms) = (1_000, begin_ms);
        job
    }

    fn waited(job: &Job, now_ms: UtcMs) -> i64 {
        now_ms - job.eligible_ms(now_ms)
    }

    #[test]
    fn only_waiting_for_room_counts() {
        let mut job = job(0);
        assert_eq!(waited(&job, 1_500), 500);
        let hold = Hold {
            user_id: "id-ann".into(),
            name: "ann".into(),
            admin: false,
            since_ms: 1_600,
            why: String::new(),
        };
        (job.state, job.turn.hold) = (JobState::Held, Some(hold));
        job.keep_clock(1_600);
        assert_eq!((waited(&job, 1_600), waited(&job, 9_000)), (600, 600));
        (job.state, job.turn.hold) = (JobState::Pending, None);
        job.keep_clock(9_000);
        assert_eq!(waited(&job, 9_100), 700);
        job.state = JobState::Running;
        job.keep_clock(9_200);
        job.keep_clock(9_300);
        assert_eq!(waited(&job, 50_000), 800, "it ran");
        job.state = JobState::Pending;
        job.keep_clock(60_000);
        assert_eq!(waited(&job, 60_001), 801, "what it waited before is kept");
    }

    #[test]
    fn nothing_counts_before_the_start_time() {
        let mut job = job(5_000);
        assert!(waited(&job, 2_000) <= 0);
        assert_eq!(waited(&job, 5_100), 100);
        job.state = JobState::Held;
        job.keep_clock(2_000);
        job.state = JobState::Pending;
        job.keep_clock(3_000);
        assert!(waited(&job, 4_000) <= 0);
        assert_eq!(waited(&job, 5_200), 200);
    }

    #[test]
    fn another_start_time_forgets_nothing() {
        let mut job = job(0);
        job.begin_at(9_000, 1_500);
        assert!(waited(&job, 8_000) <= 500, "nothing counts until then");
        assert_eq!(waited(&job, 9_100), 600);
        job.begin_at(0, 9_200);
        assert_eq!(waited(&job, 9_300), 800);
    }

    #[test]
    fn what_has_begun_may_only_be_too_late_to_end() {
        let mut job = job(0);
        assert_eq!(job.due_ms(), None);
        (job.turn.start_by_ms, job.turn.end_by_ms) = (7_000, 9_000);
        assert_eq!(job.due_ms(), Some(7_000));
        job.epoch_counter = 1;
        assert_eq!(job.due_ms(), Some(9_000));
        job.cancel_requested = true;
        assert_eq!(job.due_ms(), None, "it is being ended");
    }

    #[test]
    fn the_total_time_is_used_up_to_the_millisecond() {
        let turn = Turn {
            total_ms: 100,
            ran_ms: 40,
            ..Turn::default()
        };
        assert_eq!([59, 60].map(|more| turn.used_up(more)), [false, true]);
        assert!(!Turn::default().used_up(u64::MAX), "there is no bound");
    }
}
