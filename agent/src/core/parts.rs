//! Words for checkpoints and their parts: what was found complete here, what a copy is named by, what a start has to put together.
//! Plain data; does NOT know the wire and does NOT decide anything.

use mlctl_proto::ids::{Epoch, JobId};
use mlctl_proto::persist::{
    AgentEvent, CheckpointPart, CheckpointSealed, CopyHeld, agent_event::What,
};

/// BLAKE3 of a part's manifest.
pub type ManifestId = [u8; 32];

/// A complete checkpoint in the job's checkpoint directory: this node's part of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckpointFound {
    /// The job.
    pub job: JobId,
    /// The attempt that made it.
    pub epoch: Epoch,
    /// The directory's name.
    pub name: String,
    /// The step, 0 if nothing tells.
    pub step: u64,
    /// Found by looking at what is there, not by seeing it become complete.
    pub by_rescan: bool,
    /// What was sealed of it; `None`: nothing but the directory is there.
    pub part: Option<PartFound>,
    /// How many parts make it whole: the nodes of the attempt.
    pub parts: u32,
    /// What its writer said of it by the metric that the job keeps the best of; its order is that of the values.
    pub metric: Option<u64>,
    /// From the first byte that the trainer wrote until the last, milliseconds; 0: not known.
    pub save_ms: u32,
}

impl CheckpointFound {
    /// Of which nothing but the name is known, of one node.
    pub fn bare(job: JobId, epoch: Epoch, name: String, step: u64) -> Self {
        Self {
            job,
            epoch,
            name,
            step,
            by_rescan: false,
            part: None,
            parts: 1,
            metric: None,
            save_ms: 0,
        }
    }

    /// As the cluster is told.
    pub fn sealed(&self) -> CheckpointSealed {
        CheckpointSealed {
            name: self.name.clone(),
            step: self.step,
            part: self.part.map(PartFound::to_record),
            parts: self.parts,
            metric: self.metric,
            save_ms: self.save_ms,
        }
    }
}

/// One node's part of a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartFound {
    /// Node rank of who made it.
    pub index: u32,
    /// `None`: that node wrote nothing for this checkpoint.
    pub manifest: Option<ManifestId>,
    /// Of its files.
    pub bytes: u64,
}

impl PartFound {
    /// As it is recorded.
    pub fn to_record(self) -> CheckpointPart {
        CheckpointPart {
            index: self.index,
            manifest: self.manifest.map_or_else(Vec::new, |id| id.to_vec()),
            bytes: self.bytes,
        }
    }
}

/// Names one part of one checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct PartKey {
    /// The job.
    pub job: JobId,
    /// The attempt that made it.
    pub epoch: Epoch,
    /// The checkpoint's name.
    pub name: String,
    /// Node rank of who made it.
    pub index: u32,
    /// What it is.
    pub manifest: ManifestId,
}

impl PartKey {
    /// The part that `sealed` tells of; `None` if that has none with a manifest.
    pub fn of(job: JobId, epoch: Epoch, sealed: &CheckpointSealed) -> Option<Self> {
        let part = sealed.part.as_ref()?;
        Some(Self {
            job,
            epoch,
            name: sealed.name.clone(),
            index: part.index,
            manifest: part.manifest.as_slice().try_into().ok()?,
        })
    }

    /// The part that an event says to be held here.
    pub(super) fn announced(event: &AgentEvent) -> Option<Self> {
        let sealed = match event.what.as_ref()? {
            What::CheckpointSealed(sealed) => sealed,
            What::CopyHeld(CopyHeld { sealed }) => sealed.as_ref()?,
            _ => return None,
        };
        let (job, epoch) = (event.job.try_into().ok()?, event.epoch.try_into().ok()?);
        Self::of(job, epoch, sealed)
    }
}

/// What a start has to put together before ranks run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restore {
    /// The attempt that made it.
    pub epoch: Epoch,
    /// All parts of it, by index.
    pub parts: Vec<RestorePart>,
}

/// One part, and where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestorePart {
    /// Node rank of who made it.
    pub index: u32,
    /// `None`: there is nothing to fetch.
    pub manifest: Option<ManifestId>,
    /// Of its files.
    pub bytes: u64,
    /// Nodes that have it.
    pub holders: Vec<Holder>,
    /// Of the object store that has it too.
    pub url: Option<String>,
}

/// A node that has a part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// Its name.
    pub node: String,
    /// Where it gives checkpoints, `host:port`.
    pub address: String,
}
