//! Where a job goes on: from the newest of its whole checkpoints that somebody still holds, or that was uploaded. One that was sealed can be brought
//! to any node; one that is only a directory draws rank 0 to a node that has it, unless every node sees that directory.
//! Does not ask whether there is room: the caller knows what is free.
use mlctl_proto::ids::JobId;

use crate::state::State;
use crate::state::records::{Admin, Attempt, Checkpoint, Job, Liveness, Part};

use super::checkpoint_rules;

/// From what a start may resume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resume<'a> {
    /// No checkpoint has holders that still live, or was uploaded: from the beginning.
    Nothing,
    /// From the first of these, newest first, that can be had: a portable one where of each part a node that holds it answers, or the object
    /// store has it; one that every node sees anywhere; another one where one of its holders can take rank 0; until then the job waits.
    From(Vec<&'a Checkpoint>),
}

/// The checkpoints of a job that a start may resume from, newest first.
pub fn resume<'a>(state: &'a State, job: &'a Job) -> Resume<'a> {
    let mut living = living(state, job, &job.checkpoints);
    if living.is_empty() {
        living = self::living(state, job, inherited(state, job));
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
    let inherits = living(state, job, &job.checkpoints).is_empty();
    (inherits && !living(state, job, inherited(state, job)).is_empty()).then_some(lineage.made_by)
}

/// The checkpoint that an attempt resumes from, as it is known now: the very one, or else the newest of its name.
pub fn resumed_from<'a>(
    state: &'a State,
    job: &'a Job,
    attempt: &Attempt,
) -> Option<&'a Checkpoint> {
    let list = match attempt.resume_job {
        Some(_) => inherited(state, job),
        None => &job.checkpoints,
    };
    let same = |one: &&Checkpoint| {
        one.is_whole() && !one.name.is_empty() && one.name == attempt.resume_from
    };
    let newest_first = || list.iter().rev().filter(same);
    let mut very = newest_first().filter(|one| one.sealed_ms == attempt.resume_sealed_ms);
    very.next().or_else(|| newest_first().next())
}

/// What the job before left: as that job's record says while there is one, for copies come and go.
fn inherited<'a>(state: &'a State, job: &'a Job) -> &'a [Checkpoint] {
    let Some(lineage) = &job.lineage else {
        return &[];
    };
    match state.job(lineage.made_by) {
        Some(made_by) => &made_by.checkpoints,
        None => &lineage.checkpoints,
    }
}

/// Those that are whole and still held, newest first.
fn living<'a>(state: &State, job: &Job, checkpoints: &'a [Checkpoint]) -> Vec<&'a Checkpoint> {
    let newest_first = checkpoints.iter().rev();
    newest_first
        .filter(|one| one.is_whole() && (is_held(state, one) || is_shared(state, job, one)))
        .collect()
}

fn is_held(state: &State, checkpoint: &Checkpoint) -> bool {
    let mut parts = checkpoint.filled().peekable();
    let something = parts.peek().is_some();
    let lives = |holder: &String| lives(state, holder);
    let held = |part: &Part| part.uploaded || part.holders.iter().any(lives);
    let portable = checkpoint.is_portable();
    something && parts.all(held) && (portable || living_holders(state, checkpoint).next().is_some())
}

/// It lies in a directory that every node sees: whoever wrote it, any node can go on from it, and it is lost with none of them. Another try of a
/// job has the same spec, so this is true of what it inherits as well.
pub fn is_shared(state: &State, job: &Job, checkpoint: &Checkpoint) -> bool {
    let mut parts = checkpoint.filled().peekable();
    let something = parts.peek().is_some();
    // The spec is read last: hardly any checkpoint is only a directory.
    something && parts.all(|part| part.manifest.is_none()) && checkpoint_rules(state, job).shared
}

/// Nodes with all of it that are not gone for good.
pub fn living_holders<'a>(
    state: &State,
    checkpoint: &'a Checkpoint,
) -> impl Iterator<Item = &'a str> {
    let holders = checkpoint.full_holders().into_iter();
    holders.filter(move |holder| lives(state, holder))
}

/// Copies of its rarest part beside the first, on nodes that are not gone for good.
pub fn living_copies(state: &State, checkpoint: &Checkpoint) -> usize {
    let living = |part: &Part| part.holders.iter().filter(|one| lives(state, one)).count();
    let fewest = checkpoint.filled().map(living).min();
    fewest.unwrap_or(0).saturating_sub(1)
}

/// A node that is Unreachable may come back with its disk; a Lost one is given up.
pub(super) fn lives(state: &State, node: &str) -> bool {
    let known = state.node(node);
    known.is_some_and(|node| node.liveness != Liveness::Lost && node.admin != Admin::Retired)
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
