//! Where a job goes on: checkpoints lie on the nodes that made them, so rank 0 is placed on a node that holds one.
//! Does not ask whether there is room: the caller knows what is free.
use mlctl_proto::ids::JobId;

use crate::state::State;
use crate::state::records::{Admin, Checkpoint, Job, Liveness};

/// From what a start may resume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resume<'a> {
    /// No checkpoint has a holder that still lives: from the beginning.
    Nothing,
    /// From the first of these, newest first, one of whose holders can take rank 0; until then the job waits.
    From(Vec<&'a Checkpoint>),
}

/// The checkpoints of a job that a start may resume from, newest first.
pub fn resume<'a>(state: &State, job: &'a Job) -> Resume<'a> {
    let mut living = living(state, &job.checkpoints);
    if let Some(lineage) = job.lineage.as_ref().filter(|_| living.is_empty()) {
        living = self::living(state, &lineage.checkpoints);
    }
    if living.is_empty() {
        Resume::Nothing
    } else {
        Resume::From(living)
    }
}

/// The job whose checkpoints a start resumes from, if they are not its own: it is another try of one that is over.
pub fn resumes_another(state: &State, job: &Job) -> Option<JobId> {
    let lineage = job.lineage.as_ref()?;
    let inherits = living(state, &job.checkpoints).is_empty();
    (inherits && !living(state, &lineage.checkpoints).is_empty()).then_some(lineage.made_by)
}

/// Those that somebody still holds, newest first.
fn living<'a>(state: &State, checkpoints: &'a [Checkpoint]) -> Vec<&'a Checkpoint> {
    let newest_first = checkpoints.iter().rev();
    newest_first
        .filter(|checkpoint| living_holders(state, checkpoint).next().is_some())
        .collect()
}

/// Holders that are not gone for good. A node that is Unreachable may come back with its disk; a Lost one is given up.
pub fn living_holders<'a>(
    state: &State,
    checkpoint: &'a Checkpoint,
) -> impl Iterator<Item = &'a str> {
    checkpoint
        .holders
        .iter()
        .map(String::as_str)
        .filter(move |holder| {
            state
                .node(holder)
                .is_some_and(|node| node.liveness != Liveness::Lost && node.admin != Admin::Retired)
        })
}

/// Whether a checkpoint's name is one plain directory name: it becomes part of a path on a node.
pub fn checkpoint_name_is_legal(name: &str) -> bool {
    (1..=255).contains(&name.len())
        && !matches!(name, "." | "..")
        && !name.contains('/')
        && !name.chars().any(char::is_control)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_checkpoints() {
        for (name, legal) in [
            ("step-900", true),
            ("checkpoint 1", true),
            ("", false),
            (".", false),
            ("..", false),
            ("a/b", false),
            ("/etc", false),
            ("a\0", false),
            ("a\n", false),
        ] {
            assert_eq!(checkpoint_name_is_legal(name), legal, "{name:?}");
        }
        assert!(!checkpoint_name_is_legal(&"a".repeat(256)));
    }
}
