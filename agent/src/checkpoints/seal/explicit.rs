//! The writer's own word: a file `.mlctl-complete`, or a message. It beats every rule, for the bytes that were there when it was given.
//! Does NOT check those bytes.

use super::listing::{Content, Listing};
use super::notify::{Commit, parse_complete};
use super::{Facts, Why};

/// The file.
pub const COMPLETE: &str = ".mlctl-complete";

/// The rule.
pub(super) fn judge(listing: &Listing, facts: &Facts) -> Option<Result<Commit, Why>> {
    if let Some(commit) = &facts.committed {
        return Some(Ok(commit.clone()));
    }
    let word = listing.file(COMPLETE)?;
    let later = listing
        .files()
        .find(|entry| entry.mark.mtime_ns > word.mark.mtime_ns);
    if let Some(later) = later {
        return Some(Err(Why::Stale(later.path.clone())));
    }
    let text = match &word.content {
        Content::Whole(text) => text.as_slice(),
        _ => return Some(Err(Why::Word("it is too long".into()))),
    };
    Some(parse_complete(text).map_err(|error| Why::Word(error.to_string())))
}
