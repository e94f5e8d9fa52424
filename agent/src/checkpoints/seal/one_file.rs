//! A checkpoint that is one file: `epoch=3-step=120.ckpt` of PyTorch Lightning, `step-120.pt` of `torch.save`, `step-120.safetensors`. Newer
//! releases of Lightning move it into place, but a move from another file system is a copy, and most scripts write in place: only the file
//! itself says that all is there.
//! Does NOT judge which names can be such files: `rules` does. Nor sharded checkpoints, which are directories.

use super::listing::{Kind, Listing};
use super::{By, Facts, Life, Proof, Ruling, Why, archive, safetensors, settled};
use crate::checkpoints::rules::{LIGHTNING, is_one_file};

/// The rule, and by which name it goes.
pub(super) fn judge(listing: &Listing, facts: &Facts) -> Option<(By, Ruling)> {
    if listing.root.kind != Kind::File || !is_one_file(&listing.name) {
        return None;
    }
    let by = match listing.name.ends_with(LIGHTNING) {
        true => By::Lightning,
        false => By::OneFile,
    };
    let whole = archive::whole(&listing.root).or_else(|| safetensors::whole(&listing.root));
    let done = match whole {
        Some(true) => Ok(()),
        Some(false) => Err(Why::Torn(listing.name.clone())),
        // A format that does not say where it ends, by somebody who calls his files the same.
        None if listing.root.size == 0 => Err(Why::Torn(listing.name.clone())),
        None if facts.life == Life::EndedBadly && !facts.renamed => Err(Why::Unseen),
        None => settled(facts),
    };
    Some((by, done.map(|()| Proof::default())))
}
