//! PURE: what a node needs to put the checkpoint together that an attempt resumes from, and how long that may take.
use mlctl_proto::ids::{Epoch, JobId};

use super::{Copies, DataPeer};
use crate::leader::gang::Key;
use crate::state::State;
use crate::state::records::ManifestId;
use crate::state::rules::{checkpoint_rules, resumed_from};

/// Holders of one part that a restore is told of: more make it no faster, and a large gang has many.
const HOLDERS_MAX: usize = 8;
/// Bytes of a restore that a slow network brings in a millisecond.
const SLOW_BYTES_MS: u64 = 20_000;

/// What a node needs to put a checkpoint together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestoreOrder {
    /// Of the attempt that made it.
    pub epoch: Epoch,
    /// All its parts with something in them.
    pub parts: Vec<RestorePart>,
}

/// One part, and who has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestorePart {
    /// Node rank of the node that made it.
    pub index: u32,
    /// Names its bytes.
    pub manifest: ManifestId,
    /// Its size.
    pub bytes: u64,
    /// Those that are connected.
    pub holders: Vec<DataPeer>,
    /// Of the object store that has it too.
    pub url: Option<String>,
}

/// What `attempt` of `job` needs to restore on any node: `None` where only a directory is there.
pub fn restore(copies: &Copies, state: &State, job: JobId, epoch: Epoch) -> Option<RestoreOrder> {
    let job = state.job(job)?;
    let one = resumed_from(state, job, state.attempt(job.id, epoch)?)?;
    if !one.is_portable() {
        return None;
    }
    // Another try of a job that is over has the same spec: that one's checkpoints are where its own will be.
    let url = checkpoint_rules(state, job).upload;
    let parts = one.filled().filter_map(|part| {
        let connected = part.holders.iter().filter_map(|node| copies.peer(node));
        Some(RestorePart {
            index: part.index,
            manifest: part.manifest?,
            bytes: part.bytes,
            holders: connected.take(HOLDERS_MAX).collect(),
            url: url.clone().filter(|_| part.uploaded),
        })
    });
    Some(RestoreOrder {
        epoch: one.epoch,
        parts: parts.collect(),
    })
}

/// How much longer a gang may take to be ready because it restores, milliseconds.
pub fn restore_ms(state: &State, (job, epoch): Key) -> u64 {
    let resumed = || {
        let job = state.job(job)?;
        resumed_from(state, job, state.attempt(job.id, epoch)?)
    };
    resumed().map_or(0, |one| one.bytes() / SLOW_BYTES_MS)
}
