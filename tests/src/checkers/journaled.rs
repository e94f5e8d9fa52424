//! The agent's journal comes first: nothing of an attempt is prepared before its beginning is on disk, and nobody is told that a
//! node has nothing of an attempt before the node can never begin it any more.
//! Does NOT know the agent's mind: it reads what is on disk.

use mlctl_agent::core::Record;
use mlctl_proto::ids::{Epoch, JobId};
use mlctl_proto::persist::{AgentEvent, EndKind, agent_event};

use super::{Checked, Key, ensure};

/// `node` prepares an attempt while its disk holds `durable`.
///
/// # Errors
/// When the beginning of the attempt is not on disk.
pub fn prepares(node: &str, (job, epoch): Key, durable: &[Record]) -> Checked {
    let begun = durable.iter().any(
        |record| matches!(record, Record::Begun(start) if (start.job, start.epoch) == (job, epoch)),
    );
    ensure(begun, "journal", || {
        format!("{node} prepares job {job} epoch {epoch}, and its journal does not say so")
    })
}

/// `node` sends `events` while its disk holds `durable`.
///
/// # Errors
/// When it says that an attempt never started, and could still start it after a crash.
pub fn sends(node: &str, events: &[AgentEvent], durable: &[Record]) -> Checked {
    for event in events {
        let Some(agent_event::What::AllocationEnded(ended)) = &event.what else {
            continue;
        };
        let kind = ended.end.as_ref().map(|end| end.kind());
        let (Ok(job), Ok(epoch)) = (JobId::try_from(event.job), Epoch::try_from(event.epoch))
        else {
            continue;
        };
        let never = kind == Some(EndKind::NeverStarted);
        let closed = durable
            .iter()
            .filter_map(closes)
            .any(|(of, up_to)| of == job && up_to >= epoch);
        ensure(!never || closed, "journal", || {
            format!(
                "{node} says that it never started job {job} epoch {epoch}, and its journal would let it"
            )
        })?;
    }
    Ok(())
}

/// The job of which this record closes everything up to an epoch.
fn closes(record: &Record) -> Option<Key> {
    match record {
        Record::Begun(start) => Some((start.job, start.epoch)),
        Record::Tombstone { job, epoch } | Record::Mark { job, epoch, .. } => Some((*job, *epoch)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mlctl_agent::core::Start;
    use mlctl_proto::persist::{AllocationEnded, AttemptEnd};
    use std::sync::Arc;

    const KEY: Key = (JobId::new(1, 1), Epoch::new(1, 2));

    fn tombstone(counter: u64) -> Record {
        Record::Tombstone {
            job: KEY.0,
            epoch: Epoch::new(1, counter),
        }
    }

    #[test]
    fn what_is_prepared_is_on_disk() {
        let begun = Record::Begun(Arc::new(Start::bare(KEY.0, KEY.1)));
        assert!(prepares("n1", KEY, &[tombstone(1), begun]).is_ok());
        assert!(prepares("n1", KEY, &[tombstone(2)]).is_err());
    }

    #[test]
    fn what_never_started_never_will() {
        let says = |kind: EndKind, durable: &[Record]| {
            let end = AttemptEnd {
                kind: kind.into(),
                ..AttemptEnd::default()
            };
            let what = agent_event::What::AllocationEnded(AllocationEnded { end: Some(end) });
            let event = AgentEvent {
                seq: 1,
                job: Some(KEY.0.into()),
                epoch: Some(KEY.1.into()),
                what: Some(what),
            };
            sends("n1", &[event], durable).is_ok()
        };
        assert!(says(EndKind::NeverStarted, &[tombstone(2)]));
        assert!(says(EndKind::NeverStarted, &[tombstone(3)]));
        assert!(!says(EndKind::NeverStarted, &[tombstone(1)]));
        assert!(says(EndKind::Exited, &[]));
    }
}
