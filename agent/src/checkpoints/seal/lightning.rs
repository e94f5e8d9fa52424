//! PyTorch Lightning: a checkpoint is one file, `epoch=3-step=120.ckpt`, which is an archive. Newer releases move it into place, but a move
//! from another file system is a copy: only the archive's end says that all is there.
//! Does NOT judge sharded checkpoints, which are directories of PyTorch Distributed Checkpoint.

use super::listing::{Kind, Listing};
use super::{Facts, Life, Proof, Ruling, Why, archive, settled};

/// How names of its files end.
pub const ENDING: &str = ".ckpt";

/// The rule.
pub(super) fn judge(listing: &Listing, facts: &Facts) -> Option<Ruling> {
    if listing.root.kind != Kind::File || !listing.name.ends_with(ENDING) {
        return None;
    }
    let done = match archive::whole(&listing.root) {
        Some(true) => Ok(()),
        Some(false) => Err(Why::Torn(listing.name.clone())),
        // A format that does not say where it ends, by somebody who calls his files the same.
        None if facts.life == Life::EndedBadly && !facts.renamed => Err(Why::Unseen),
        None => settled(facts),
    };
    Some(done.map(|()| Proof::default()))
}
