//! PURE: when jobs that are over leave the tables. One command at a time; which jobs leave is decided when it is applied.
use crate::leader::liveness::Mono;
use crate::state::State;
use crate::state::commands::{ARCHIVE_JOBS_MAX, ArchiveJobs};

/// A handful of jobs leaves at most so often, milliseconds; more leave at once.
const HANDFUL_EVERY_MS: u64 = 60_000;

/// When to archive next.
#[derive(Debug, Default)]
pub(super) struct Archiving {
    running: bool,
    not_before: Mono,
    handful_at: Mono,
}

impl Archiving {
    /// The command that is due, if one is; then it is under way.
    pub(super) fn begin(&mut self, now: Mono, state: &State) -> Option<ArchiveJobs> {
        if self.running || now < self.not_before {
            return None;
        }
        let settings = state.settings()?;
        let due = state.archive_due(state.now_ms(), ARCHIVE_JOBS_MAX);
        let many = (settings.retention.keep(settings.dev) / 10).clamp(1, ARCHIVE_JOBS_MAX);
        if due == 0 || (due < many && now < self.handful_at) {
            return None;
        }
        self.running = true;
        self.handful_at = now.saturating_add(HANDFUL_EVERY_MS);
        let most = u32::try_from(ARCHIVE_JOBS_MAX).unwrap_or(u32::MAX);
        Some(ArchiveJobs { most })
    }

    /// The command's end; one that was not carried is tried again after `again_ms`.
    pub(super) fn ended(&mut self, now: Mono, carried: bool, again_ms: u64) {
        self.running = false;
        if !carried {
            self.not_before = now.saturating_add(again_ms);
            self.handful_at = self.not_before;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::Body;
    use crate::state::commands::CancelJobs;
    use crate::state::testing::{Cluster, person, system};

    fn end_jobs(cluster: &mut Cluster, count: usize) {
        let jobs = (0..count).map(|_| cluster.submitted("ann", 1, 0)).collect();
        cluster.run(person("ann", false), Body::CancelJobs(CancelJobs::of(jobs)));
    }

    #[test]
    fn one_command_at_a_time_until_nothing_is_due() {
        let mut cluster = Cluster::new();
        let mut archiving = Archiving::default();
        assert_eq!(archiving.begin(0, &cluster.state), None);
        end_jobs(&mut cluster, 2);
        assert_eq!(archiving.begin(1, &cluster.state), None, "two are kept");
        end_jobs(&mut cluster, 3);
        let command = archiving.begin(2, &cluster.state).expect("three are due");
        assert_eq!(archiving.begin(3, &cluster.state), None, "it is under way");
        archiving.ended(4, false, 300);
        assert_eq!(archiving.begin(303, &cluster.state), None);
        assert_eq!(archiving.begin(304, &cluster.state), Some(command.clone()));
        cluster.run(system(), Body::ArchiveJobs(command));
        archiving.ended(305, true, 300);
        assert_eq!(archiving.begin(306, &cluster.state), None);
        assert_eq!(cluster.state.finished_count(), 2);
    }

    #[test]
    fn a_handful_waits_and_many_do_not() {
        let mut cluster = Cluster::new();
        cluster.checked = false;
        let few = crate::state::commands::ChangeSettings {
            keep_finished: Some(40),
            ..Default::default()
        };
        cluster.run(person("root", true), Body::ChangeSettings(few));
        let mut archiving = Archiving::default();
        end_jobs(&mut cluster, 44);
        let command = archiving.begin(5, &cluster.state).expect("four are many");
        cluster.run(system(), Body::ArchiveJobs(command));
        archiving.ended(6, true, 300);
        end_jobs(&mut cluster, 3);
        assert_eq!(archiving.begin(7, &cluster.state), None, "three are not");
        assert!(
            archiving
                .begin(5 + HANDFUL_EVERY_MS, &cluster.state)
                .is_some()
        );
    }
}
