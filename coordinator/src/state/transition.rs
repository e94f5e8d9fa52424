//! The one table of legal changes of a job's state. Who may ask for a change, and when, is the commands' business.
use mlctl_proto::errors::{Code, Refusal};
use mlctl_proto::mutants::{Mutant, planted};

use super::records::{Job, JobState};

/// Every change that may happen. A job whose only node is Lost by silence waits again at once; when that node is back before a
/// successor took over, the job is again where it was. What it waits for may turn out to be a person: then it is Held.
const LEGAL: [(JobState, JobState); 19] = [
    (JobState::Pending, JobState::Starting),
    (JobState::Pending, JobState::Running),
    (JobState::Pending, JobState::Cancelled),
    (JobState::Pending, JobState::Held),
    (JobState::Held, JobState::Pending),
    (JobState::Held, JobState::Cancelled),
    (JobState::Starting, JobState::Pending),
    (JobState::Starting, JobState::Running),
    (JobState::Starting, JobState::Stopping),
    (JobState::Running, JobState::Pending),
    (JobState::Running, JobState::Stopping),
    (JobState::Running, JobState::Completed),
    (JobState::Stopping, JobState::Pending),
    (JobState::Stopping, JobState::Held),
    (JobState::Stopping, JobState::Starting),
    (JobState::Stopping, JobState::Running),
    (JobState::Stopping, JobState::Failed),
    (JobState::Stopping, JobState::Cancelled),
    (JobState::Stopping, JobState::TimedOut),
];

/// Whether a job may go from one state to another.
pub fn legal(from: JobState, to: JobState) -> bool {
    LEGAL.contains(&(from, to)) || (planted(Mutant::DoubleCompletion) && from.terminal())
}

/// Moves a job; an illegal move refuses the command, our fault.
pub(super) fn advance(job: &mut Job, to: JobState) -> Result<(), Refusal> {
    if !legal(job.state, to) {
        let why = format!(
            "job {} cannot go from {} to {}",
            job.id,
            job.state.word(),
            to.word()
        );
        return Err(Refusal::new(Code::Internal, why));
    }
    job.state = to;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_way_out_of_a_terminal_state_and_no_standing_still() {
        for from in JobState::ALL {
            assert!(!legal(from, from), "{from:?}");
            for to in JobState::ALL {
                assert!(!(from.terminal() && legal(from, to)), "{from:?} to {to:?}");
            }
        }
    }

    #[test]
    fn every_state_is_reached_from_pending() {
        let mut reached = vec![JobState::Pending];
        while let Some(to) = LEGAL
            .iter()
            .find(|(from, to)| reached.contains(from) && !reached.contains(to))
        {
            reached.push(to.1);
        }
        assert_eq!(reached.len(), JobState::ALL.len());
    }
}
