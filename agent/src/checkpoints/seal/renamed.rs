//! A directory of no known library that was renamed to its final name: its writer says that it is whole.
//! Does NOT know whether it is; nobody else does either.

use super::listing::{Kind, Listing};
use super::{Facts, Proof, Ruling};

/// The rule.
pub(super) fn judge(listing: &Listing, facts: &Facts) -> Option<Ruling> {
    (facts.renamed || named_last(listing)).then(|| Ok(Proof::default()))
}

/// Nobody saw the rename, but the directory shows it: its own status changed after the last name in it was made and after the last
/// change inside. One with nothing in it shows nothing. Where something is written in place both times of the directory are the same.
pub(super) fn named_last(listing: &Listing) -> bool {
    let own = listing.root.mark;
    let inside = listing
        .entries
        .iter()
        .map(|entry| entry.mark.ctime_ns)
        .max();
    listing.root.kind == Kind::Dir
        && own.ctime_ns > own.mtime_ns
        && inside.is_some_and(|inside| own.ctime_ns >= inside)
}
