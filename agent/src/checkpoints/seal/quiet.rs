//! A directory of no known library, written in place: whole when nobody writes and nothing has changed for a while.
//! A guess, the last one. Does NOT apply to what a library began, nor to what was left by ranks that failed.

use super::listing::Listing;
use super::{Facts, Proof, Why, archive, safetensors, settled};
use crate::checkpoints::rules::is_leftover;

/// Nothing may have changed for so long, milliseconds.
pub const QUIET_MS: u64 = 2_000;

/// The rule.
pub(super) fn judge(listing: &Listing, facts: &Facts) -> Result<Proof, Why> {
    if !listing.files().any(|entry| entry.size > 0) {
        return Err(Why::Missing("a file that is not empty".into()));
    }
    let temporary = listing
        .entries
        .iter()
        .find(|entry| is_leftover(entry.name()));
    if let Some(entry) = temporary {
        return Err(Why::Temporary(entry.path.clone()));
    }
    let torn = listing
        .files()
        .find(|entry| archive::whole(entry) == Some(false));
    if let Some(entry) = torn {
        return Err(Why::Torn(entry.path.clone()));
    }
    safetensors::check(listing)?;
    settled(facts)?;
    Ok(Proof::default())
}
