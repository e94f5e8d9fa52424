//! Orbax: a directory is renamed from `N.orbax-checkpoint-tmp` when it is whole; where there is no rename `commit_success.txt` comes last.
//! Does NOT read arrays.

use serde_json::Value;

use super::listing::{Content, Entry, Listing};
use super::{Facts, Proof, Ruling, Why};

const TEMPORARY: &str = ".orbax-checkpoint-tmp";
const SUCCESS: &str = "commit_success.txt";
const METADATA: &str = "_CHECKPOINT_METADATA";

/// The rule.
pub(super) fn judge(listing: &Listing, facts: &Facts) -> Option<Ruling> {
    let its = |entry: &Entry| {
        [SUCCESS, METADATA, "_METADATA", "manifest.ocdbt"].contains(&entry.name())
            || entry.path.contains(TEMPORARY)
            || entry.path.contains("ocdbt.process_")
    };
    let its = listing.entries.iter().any(its);
    its.then(|| check(listing, facts).map(|()| Proof::default()))
}

fn check(listing: &Listing, facts: &Facts) -> Result<(), Why> {
    let temporary = listing
        .entries
        .iter()
        .find(|entry| entry.path.contains(TEMPORARY));
    if let Some(entry) = temporary {
        return Err(Why::Temporary(entry.path.clone()));
    }
    match listing.file(SUCCESS) {
        Some(entry) if entry.size > 0 => return Ok(()),
        Some(entry) => return Err(Why::Torn(entry.path.clone())),
        None => {}
    }
    // Items get the file before the whole does: where one has it, the whole will have it.
    let item = listing.files().any(|entry| entry.name() == SUCCESS);
    let committed = listing.file(METADATA).is_some_and(has_commit_time);
    if !item && (facts.renamed || committed) {
        return Ok(());
    }
    Err(Why::Missing(SUCCESS.into()))
}

/// Releases that write no `commit_success.txt` note the time just before they rename.
fn has_commit_time(metadata: &Entry) -> bool {
    let Content::Whole(text) = &metadata.content else {
        return false;
    };
    let value: Option<Value> = serde_json::from_slice(text).ok();
    value.is_some_and(|value| value["commit_timestamp_nsecs"].is_u64())
}
