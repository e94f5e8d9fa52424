//! L: once nothing breaks any more, the cluster comes right by itself: a leader is found (L1), what can start is started (L2), who
//! stays away is declared Lost and holds no job (L3), no job stays between two states (L5), and every event is acknowledged.
//! Does NOT say when calm begins, nor what could start: the run does, by the scheduler's own word.

use std::collections::BTreeMap;

use mlctl_agent::core::Record;
use mlctl_coordinator::state::State;
use mlctl_coordinator::state::records::{JobState, Liveness as Axis};
use mlctl_proto::ids::JobId;
use mlctl_proto::limits::{GANG_READY_MS, STOP_GRACE_MS};

use super::{Checked, ensure};

/// What could start is started within this, milliseconds: a few periods of the scheduler, and the way to it.
const STARTED_WITHIN_MS: u64 = 15_000;
/// For reports to arrive once what they tell of has happened, milliseconds. An agent may sit on a connection that is dead
/// until it dials anew.
const TOLD_WITHIN_MS: u64 = 30_000;

/// What a calm cluster is seen to do.
#[derive(Debug, Default)]
pub struct Liveness {
    /// Since when a pending job could start.
    startable: BTreeMap<JobId, u64>,
    /// Since when a job is where it should not stay.
    moving: BTreeMap<JobId, (JobState, u64, u64)>,
}

/// What is looked at.
#[derive(Debug)]
pub struct Look<'a> {
    /// The furthest state.
    pub state: &'a State,
    /// Now, milliseconds.
    pub now: u64,
    /// Since when nothing breaks and everybody is awake.
    pub calm_since: u64,
    /// How long it may take until somebody leads.
    pub leader_within: u64,
    /// Somebody leads.
    pub led: bool,
    /// Pending jobs that the scheduler would start.
    pub startable: &'a [JobId],
    /// Nodes that are gone for the whole calm, and when they have to be known as Lost.
    pub away: &'a [(String, u64)],
}

impl Liveness {
    /// A calm begins: what was seen before it counts for nothing.
    pub fn calm_begins(&mut self) {
        *self = Self::default();
    }

    /// Looks at the cluster.
    ///
    /// # Errors
    /// With the first thing that took too long.
    pub fn look(&mut self, look: &Look) -> Checked {
        let late = look.now > look.calm_since + look.leader_within;
        ensure(look.led || !late, "L1", || {
            let ms = look.now - look.calm_since;
            format!("nobody leads {ms} ms after everything healed")
        })?;
        self.starts(look)?;
        self.moves(look)?;
        for (node, lost_by) in look.away.iter().filter(|(_, by)| look.now > *by) {
            let lost = look
                .state
                .node(node)
                .is_none_or(|known| known.liveness == Axis::Lost);
            // What is in doubt there has its job waiting again, or started elsewhere.
            let open = look.state.open_allocations_on(node).into_iter();
            let attempts = open.filter_map(|(job, epoch)| look.state.attempt(job, epoch));
            let held = attempts.filter(|attempt| !attempt.in_doubt).count();
            ensure(lost && held == 0, "L3", || {
                let ms = look.now - lost_by;
                format!(
                    "{node} is gone, should have been Lost {ms} ms ago, and {held} attempts count on it"
                )
            })?;
        }
        Ok(())
    }

    fn starts(&mut self, look: &Look) -> Checked {
        let startable = look.startable;
        self.startable.retain(|job, _| startable.contains(job));
        for job in startable {
            let since = *self.startable.entry(*job).or_insert(look.now);
            ensure(look.now <= since + STARTED_WITHIN_MS, "L2", || {
                let ms = look.now - since;
                format!("job {job} could start since {ms} ms and does not")
            })?;
        }
        Ok(())
    }

    fn moves(&mut self, look: &Look) -> Checked {
        let attempts = look.state.active_attempts();
        let jobs = attempts.filter_map(|attempt| look.state.job(attempt.job));
        let moving =
            jobs.filter(|job| matches!(job.state, JobState::Starting | JobState::Stopping));
        let mut seen = BTreeMap::new();
        for job in moving {
            let known = self.moving.get(&job.id).copied();
            let same = known
                .filter(|(state, epoch, _)| (*state, *epoch) == (job.state, job.epoch_counter));
            let since = same.map_or(look.now, |(.., since)| since);
            let most = match job.state {
                JobState::Starting => GANG_READY_MS + TOLD_WITHIN_MS,
                _ => u64::from(STOP_GRACE_MS) + TOLD_WITHIN_MS,
            };
            ensure(look.now <= since + most, "L5", || {
                let (ms, word) = (look.now - since, job.state.word());
                format!("job {} is {word} since {ms} ms", job.id)
            })?;
            seen.insert(job.id, (job.state, job.epoch_counter, since));
        }
        self.moving = seen;
        Ok(())
    }
}

/// How many events an agent's records hold that nobody has acknowledged.
pub fn unacknowledged(records: &[Record]) -> usize {
    let events = records
        .iter()
        .filter(|record| matches!(record, Record::Event(_)));
    events.count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look<'a>(
        state: &'a State,
        now: u64,
        led: bool,
        startable: &'a [JobId],
        away: &'a [(String, u64)],
    ) -> Look<'a> {
        Look {
            state,
            now,
            calm_since: 1_000,
            leader_within: 5_000,
            led,
            startable,
            away,
        }
    }

    #[test]
    fn somebody_leads_in_time() {
        let (state, mut liveness) = (State::new(), Liveness::default());
        assert!(liveness.look(&look(&state, 6_000, false, &[], &[])).is_ok());
        assert!(liveness.look(&look(&state, 60_000, true, &[], &[])).is_ok());
        assert!(
            liveness
                .look(&look(&state, 6_001, false, &[], &[]))
                .is_err()
        );
    }

    #[test]
    fn what_can_start_does() {
        let (state, mut liveness) = (State::new(), Liveness::default());
        let job = [JobId::new(1, 1)];
        assert!(
            liveness
                .look(&look(&state, 10_000, true, &job, &[]))
                .is_ok()
        );
        assert!(liveness.look(&look(&state, 20_000, true, &[], &[])).is_ok());
        assert!(
            liveness
                .look(&look(&state, 30_000, true, &job, &[]))
                .is_ok(),
            "it waited anew"
        );
        assert!(
            liveness
                .look(&look(&state, 45_000, true, &job, &[]))
                .is_ok()
        );
        assert!(
            liveness
                .look(&look(&state, 45_001, true, &job, &[]))
                .is_err()
        );
    }

    #[test]
    fn who_is_not_known_holds_nothing() {
        let (state, mut liveness) = (State::new(), Liveness::default());
        let away = [("n9".to_owned(), 5_000)];
        assert!(
            liveness
                .look(&look(&state, 9_000, true, &[], &away))
                .is_ok()
        );
    }

    #[test]
    fn only_events_wait_for_an_answer() {
        let event = Record::Event(mlctl_proto::persist::AgentEvent::default());
        assert_eq!(
            unacknowledged(&[Record::Term(3), event, Record::Acknowledged(0)]),
            1
        );
    }
}
