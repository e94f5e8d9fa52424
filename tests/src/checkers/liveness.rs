//! L: once all is healed, every job that a client was told of reaches its end, and every event of an agent is acknowledged.
//! Does NOT say how long that may take: the run does.

use std::collections::BTreeSet;

use mlctl_agent::core::Record;
use mlctl_coordinator::state::State;
use mlctl_proto::ids::JobId;

/// The acknowledged jobs that are not over, each with where it is.
pub fn unfinished(state: &State, acknowledged: &BTreeSet<JobId>) -> Vec<(JobId, &'static str)> {
    let open = acknowledged.iter().filter_map(|id| match state.job(*id) {
        Some(job) if job.state.terminal() => None,
        Some(job) => Some((*id, job.state.word())),
        None => Some((*id, "gone")),
    });
    open.collect()
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

    #[test]
    fn a_job_that_is_nowhere_is_not_over() {
        let job = JobId::new(1, 1);
        let found = unfinished(&State::new(), &BTreeSet::from([job]));
        assert_eq!(found, [(job, "gone")]);
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
