//! What an agent knows when it starts: its journal, and what lies beside it when the journal was lost or damaged.
//! Does NOT connect to anything; live keepers are recognised by the core's order to adopt them.

use std::fs;
use std::sync::Arc;

use mlctl_proto::agent::StartAllocation;
use mlctl_proto::ids::{Epoch, JobId};
use prost::Message;
use tracing::warn;

use super::prepare::START;
use crate::core::{Closed, Recovered, Start};
use crate::dirs::{Dirs, attempts_on_disk};
use crate::journal::{JournalError, load, new_id};
use crate::keeper::{PLAN, SOCKET};
use crate::link::convert::start_from_wire;

/// Reads the journal below `dirs` and returns its id with what it says.
///
/// # Errors
/// When the file is there and cannot be read at all.
pub(crate) fn recover(dirs: &Dirs) -> Result<(String, Recovered), JournalError> {
    let loaded = load(dirs.root())?;
    if loaded.damaged > 0 {
        warn!(
            parts = loaded.damaged,
            "parts of the journal were unreadable; they lie in `quarantine`"
        );
    }
    let kept = loaded.id.clone();
    let mut recovered = Recovered::replay(kept.clone().unwrap_or_default(), loaded.records);
    let whole = loaded.damaged == 0 && !recovered.has_gap();
    match kept {
        Some(id) if whole => Ok((id, recovered)),
        _ => {
            let id = new_id();
            recovered.renumber(id.clone());
            look_beside(dirs, &mut recovered);
            Ok((id, recovered))
        }
    }
}

/// Records are missing: what lies on disk says which epochs were begun, and where a keeper may still live.
fn look_beside(dirs: &Dirs, recovered: &mut Recovered) {
    for (job, epoch) in attempts_on_disk(dirs) {
        let folder = dirs.attempt(job, epoch);
        // A keeper takes its socket with it when it is released.
        let kept = folder.join(SOCKET).exists() && folder.join(PLAN).exists();
        if kept && !recovered.knows(job, epoch) {
            warn!(%job, %epoch, "an attempt that the journal does not know is on this node; it is adopted");
            recovered.adopt(Arc::new(read_start(dirs, job, epoch)));
        } else {
            recovered.close(Closed { job, epoch });
        }
    }
}

/// The start that an attempt's folder holds; of one that is gone only the ids are known.
pub(super) fn read_start(dirs: &Dirs, job: JobId, epoch: Epoch) -> Start {
    let bytes = fs::read(dirs.attempt(job, epoch).join(START)).unwrap_or_default();
    let read = StartAllocation::decode(bytes.as_slice())
        .ok()
        .and_then(|start| start_from_wire(start).ok());
    read.filter(|start| start.job == job && start.epoch == epoch)
        .unwrap_or_else(|| Start::bare(job, epoch))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::Record;
    use crate::journal::Journal;

    fn start(job: u64) -> Start {
        Start {
            job_name: "x".into(),
            ..Start::bare(JobId::new(1, job), Epoch::new(1, 1))
        }
    }

    fn on_disk(dirs: &Dirs, start: &Start, files: &[&str]) {
        let folder = dirs.attempt(start.job, start.epoch);
        fs::create_dir_all(&folder).expect("made");
        for file in files {
            fs::write(
                folder.join(file),
                crate::link::convert::start_to_wire(start).encode_to_vec(),
            )
            .expect("written");
        }
    }

    fn open(recovered: &Recovered) -> Vec<JobId> {
        recovered.open().map(|start| start.job).collect()
    }

    #[tokio::test]
    async fn a_whole_journal_is_believed_alone() {
        let root = tempfile::tempdir().expect("dir");
        let dirs = Dirs::new(root.path());
        on_disk(&dirs, &start(9), &[START, PLAN, SOCKET]);
        let begun = Record::Begun(Arc::new(start(1)));
        Journal::start(root.path(), "id", &[begun])
            .expect("written")
            .close()
            .await;
        let (id, recovered) = recover(&dirs).expect("read");
        assert_eq!(
            (id.as_str(), open(&recovered)),
            ("id", vec![JobId::new(1, 1)])
        );
    }

    #[tokio::test]
    async fn a_lost_or_damaged_journal_gets_a_new_id_and_adopts_what_lives() {
        for damaged in [false, true] {
            let root = tempfile::tempdir().expect("dir");
            let dirs = Dirs::new(root.path());
            on_disk(&dirs, &start(1), &[START, PLAN, SOCKET]);
            on_disk(&dirs, &start(2), &[START, PLAN]);
            on_disk(&dirs, &start(3), &[]);
            if damaged {
                let begun = [1, 4].map(|job| Record::Begun(Arc::new(start(job))));
                Journal::start(root.path(), "id", &begun)
                    .expect("written")
                    .close()
                    .await;
                let path = root.path().join("journal");
                let mut bytes = fs::read(&path).expect("read");
                let middle = bytes.len() / 2 - 4;
                bytes[middle] ^= 1;
                fs::write(&path, bytes).expect("written");
            }
            let (id, recovered) = recover(&dirs).expect("the agent starts");
            assert!(id.len() == 32, "{id}");
            let mut want = vec![JobId::new(1, 1)];
            want.extend(damaged.then_some(JobId::new(1, 4)));
            assert_eq!(open(&recovered), want);
            assert_eq!(recovered.open().next().expect("adopted").job_name, "x");
        }
    }
}
