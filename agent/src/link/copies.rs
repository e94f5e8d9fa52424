//! Between the wire and our own words for copies of checkpoints. Does NOT open connections and touches no copy.

use mlctl_proto::agent;
use mlctl_proto::ids::{Epoch, IdError, JobId};
use mlctl_proto::persist::CheckpointSealed;

use crate::core::{Holder, ManifestId, PartKey, Restore, RestorePart};

/// What a leader wants of the copies of this node, or says of them.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum CopyOrder {
    /// Copy a part to another node.
    Replicate(Replicate),
    /// Upload a part to an object store.
    Upload(Upload),
    /// What another node may do here.
    Answer(Answer),
}

/// Copy this part to that node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Replicate {
    /// Which.
    pub(crate) key: PartKey,
    /// Where to.
    pub(crate) to: Holder,
    /// This node is about to go: as fast as it can.
    pub(crate) urgent: bool,
    /// Bytes a second that all copies of this job from here may take; `None`: as this node finds fit.
    pub(crate) rate: Option<u64>,
}

/// Upload this part to that object store.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Upload {
    /// Which.
    pub(crate) key: PartKey,
    /// What is said of it there.
    pub(crate) sealed: CheckpointSealed,
    /// Of the store.
    pub(crate) url: String,
    /// Not the store that the job's spec names: the cluster must not count on what is there.
    pub(crate) elsewhere: bool,
    /// As in [`Replicate`].
    pub(crate) rate: Option<u64>,
}

/// The answer to a question with this number.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Answer {
    /// Of the question.
    pub(crate) id: u64,
    /// It may.
    pub(crate) allowed: bool,
    /// Every part that it brings, if it was about bringing something: equal bytes may be parts of several checkpoints.
    pub(crate) brought: Vec<(PartKey, CheckpointSealed)>,
}

/// Another node of the attempt completed this checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SealPart {
    /// The job.
    pub(crate) job: JobId,
    /// The attempt.
    pub(crate) epoch: Epoch,
    /// The checkpoint.
    pub(crate) name: String,
    /// Its step there.
    pub(crate) step: u64,
}

/// This node cannot tell any more what it had of that.
pub(crate) fn part_gone(order: &SealPart) -> agent::agent_message::What {
    agent::agent_message::What::PartGone(agent::PartGone {
        job: Some(order.job.into()),
        epoch: Some(order.epoch.into()),
        name: order.name.clone(),
    })
}

const NO_MANIFEST: IdError = IdError::Missing {
    kind: "manifest of 32 bytes",
};

fn manifest_from_wire(bytes: &[u8]) -> Result<ManifestId, IdError> {
    bytes.try_into().map_err(|_| NO_MANIFEST)
}

/// Nothing for a part that was never written.
fn manifest_or_none(bytes: &[u8]) -> Result<Option<ManifestId>, IdError> {
    if bytes.is_empty() {
        return Ok(None);
    }
    manifest_from_wire(bytes).map(Some)
}

pub(super) fn part_from_wire(key: agent::PartKey) -> Result<PartKey, IdError> {
    Ok(PartKey {
        job: key.job.try_into()?,
        epoch: key.epoch.try_into()?,
        manifest: manifest_from_wire(&key.manifest)?,
        name: key.name,
        index: key.index,
    })
}

/// A part's name for the wire.
pub(crate) fn part_to_wire(key: &PartKey) -> agent::PartKey {
    agent::PartKey {
        job: Some(key.job.into()),
        epoch: Some(key.epoch.into()),
        name: key.name.clone(),
        index: key.index,
        manifest: key.manifest.to_vec(),
    }
}

pub(super) fn part_keys(parts: Vec<agent::PartKey>) -> Result<Vec<PartKey>, IdError> {
    parts.into_iter().map(part_from_wire).collect()
}

pub(super) fn replicate_from_wire(order: agent::Replicate) -> Result<Replicate, IdError> {
    let to = order.to.unwrap_or_default();
    Ok(Replicate {
        key: part_from_wire(order.key.unwrap_or_default())?,
        to: holder(to),
        urgent: order.urgent,
        rate: Some(order.rate).filter(|rate| *rate > 0),
    })
}

pub(super) fn upload_from_wire(order: agent::Upload) -> Result<CopyOrder, IdError> {
    let elsewhere = !order.elsewhere.is_empty();
    Ok(CopyOrder::Upload(Upload {
        key: part_from_wire(order.key.unwrap_or_default())?,
        sealed: order.sealed.unwrap_or_default(),
        url: if elsewhere {
            order.elsewhere
        } else {
            order.url
        },
        elsewhere,
        rate: Some(order.rate).filter(|rate| *rate > 0),
    }))
}

pub(super) fn answer_from_wire(answer: agent::Answer) -> Result<Answer, IdError> {
    let part = |one: agent::Brought| {
        let key = part_from_wire(one.key.unwrap_or_default())?;
        Ok((key, one.sealed.unwrap_or_default()))
    };
    let brought: Result<_, IdError> = answer.brought.into_iter().map(part).collect();
    Ok(Answer {
        id: answer.id,
        allowed: answer.allowed,
        brought: brought?,
    })
}

fn holder(peer: agent::DataPeer) -> Holder {
    Holder {
        node: peer.node,
        address: peer.address,
    }
}

pub(super) fn restore_from_wire(restore: agent::Restore) -> Result<Restore, IdError> {
    let part = |part: agent::RestorePart| {
        Ok(RestorePart {
            index: part.index,
            manifest: manifest_or_none(&part.manifest)?,
            bytes: part.bytes,
            holders: part.holders.into_iter().map(holder).collect(),
            url: Some(part.url).filter(|url| !url.is_empty()),
        })
    };
    let parts: Result<_, IdError> = restore.parts.into_iter().map(part).collect();
    Ok(Restore {
        epoch: restore.epoch.try_into()?,
        parts: parts?,
    })
}

pub(super) fn restore_to_wire(restore: &Restore) -> agent::Restore {
    let holders = |holders: &[Holder]| {
        let peer = |holder: &Holder| agent::DataPeer {
            node: holder.node.clone(),
            address: holder.address.clone(),
        };
        holders.iter().map(peer).collect()
    };
    let part = |part: &RestorePart| agent::RestorePart {
        index: part.index,
        manifest: part.manifest.map_or_else(Vec::new, |id| id.to_vec()),
        bytes: part.bytes,
        holders: holders(&part.holders),
        url: part.url.clone().unwrap_or_default(),
    };
    agent::Restore {
        epoch: Some(restore.epoch.into()),
        parts: restore.parts.iter().map(part).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upload_goes_to_the_store_of_the_spec_or_elsewhere() {
        let key = PartKey {
            job: JobId::new(1, 7),
            epoch: Epoch::new(1, 2),
            name: "step-5".into(),
            index: 0,
            manifest: [3; 32],
        };
        let read = |url: &str, elsewhere: &str| {
            let order = agent::Upload {
                key: Some(part_to_wire(&key)),
                url: url.into(),
                elsewhere: elsewhere.into(),
                ..agent::Upload::default()
            };
            match upload_from_wire(order).expect("a good one") {
                CopyOrder::Upload(order) => (order.url, order.elsewhere),
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(read("s3://runs/a", ""), ("s3://runs/a".into(), false));
        assert_eq!(read("", "s3://mine/b"), ("s3://mine/b".into(), true));
    }
}
