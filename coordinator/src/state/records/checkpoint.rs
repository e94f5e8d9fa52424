//! A checkpoint: what the nodes of one attempt wrote under one name, part by part, and who has each part.
//! Bytes are named, never held; what may go is `rules/retention`'s business.
use mlctl_proto::ids::{Epoch, JobId};
use mlctl_proto::units::UtcMs;

/// BLAKE3 of a part's manifest: names all bytes of it.
pub type ManifestId = [u8; 32];

/// A checkpoint, whole or not yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// Of the attempt that made it.
    pub epoch: Epoch,
    /// Of its directory or file.
    pub name: String,
    /// The training step, 0: nothing tells.
    pub step: u64,
    /// When it was first recorded.
    pub sealed_ms: UtcMs,
    /// How many parts make it whole: the nodes of its attempt.
    pub whole: u32,
    /// Those that are known, by index.
    pub parts: Vec<Part>,
    /// What `keep_best` goes by, in an order of integers; see `units::metric_bits`.
    pub metric: Option<u64>,
    /// A person wants it kept.
    pub pinned: bool,
    /// How long the trainer took to write it, milliseconds, 0: not known.
    pub save_ms: u32,
}

/// What one node of an attempt wrote for a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Node rank of the node that made it.
    pub index: u32,
    /// What names its bytes. `None`: nothing was sealed; then it lies in a directory of its holders and nowhere else, or, without holders,
    /// that node wrote nothing.
    pub manifest: Option<ManifestId>,
    /// Its size.
    pub bytes: u64,
    /// Nodes that have it, durable and verified.
    pub holders: Vec<String>,
    /// The object store that the job's spec names has it. Does not count as a copy: those are on nodes.
    pub uploaded: bool,
}

/// Names one part wherever it lies.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct PartKey {
    /// The job that made it.
    pub job: JobId,
    /// The attempt.
    pub epoch: Epoch,
    /// The checkpoint's name.
    pub name: String,
    /// Node rank of the node that made it.
    pub index: u32,
    /// What names its bytes.
    pub manifest: ManifestId,
}

impl Part {
    /// The node wrote nothing for this checkpoint.
    pub fn is_nothing(&self) -> bool {
        self.manifest.is_none() && self.holders.is_empty()
    }

    /// It was sealed, and is nowhere any more.
    pub fn is_lost(&self) -> bool {
        self.manifest.is_some() && self.holders.is_empty() && !self.uploaded
    }
}

impl Checkpoint {
    /// Every node's part is known. Only then is it listed, and resumed from.
    pub fn is_whole(&self) -> bool {
        self.parts.len() == self.whole as usize
    }

    /// Its parts with something in them.
    pub fn filled(&self) -> impl Iterator<Item = &Part> {
        self.parts.iter().filter(|part| !part.is_nothing())
    }

    /// It can be brought to any node.
    pub fn is_portable(&self) -> bool {
        self.filled().all(|part| part.manifest.is_some())
    }

    /// The object store has all of it.
    pub fn is_uploaded(&self) -> bool {
        self.is_whole() && self.filled().all(|part| part.uploaded)
    }

    /// Nodes that have something of it, each once, in order of name.
    pub fn holders(&self) -> Vec<&str> {
        let mut holders: Vec<&str> = self
            .parts
            .iter()
            .flat_map(|part| part.holders.iter().map(String::as_str))
            .collect();
        holders.sort_unstable();
        holders.dedup();
        holders
    }

    /// Nodes that have all of it.
    pub fn full_holders(&self) -> Vec<&str> {
        let has = |node: &str, part: &Part| part.holders.iter().any(|holder| holder == node);
        let mut holders = self.holders();
        holders.retain(|node| self.filled().all(|part| has(node, part)));
        holders
    }

    /// Copies of its rarest part beside the first.
    pub fn copies(&self) -> usize {
        let fewest = self.filled().map(|part| part.holders.len()).min();
        fewest.unwrap_or(1).saturating_sub(1)
    }

    /// All its bytes, each part once.
    pub fn bytes(&self) -> u64 {
        let bytes = self.parts.iter().map(|part| part.bytes);
        bytes.fold(0, u64::saturating_add)
    }

    /// Names of its sealed parts with their holders.
    pub fn keys(&self, job: JobId) -> impl Iterator<Item = (PartKey, &[String])> {
        self.parts
            .iter()
            .filter_map(move |part| Some((self.key(job, part)?, part.holders.as_slice())))
    }

    /// The name of one of its parts, if that was sealed.
    pub fn key(&self, job: JobId, part: &Part) -> Option<PartKey> {
        Some(PartKey {
            job,
            epoch: self.epoch,
            name: self.name.clone(),
            index: part.index,
            manifest: part.manifest?,
        })
    }
}
