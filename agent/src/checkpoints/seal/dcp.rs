//! PyTorch Distributed Checkpoint: `.metadata` gets its name after every rank has written its part.
//! Only the node of the coordinating rank has it. Does NOT read the parts.

use std::collections::BTreeSet;

use super::listing::{Content, Entry, Listing};
use super::{Facts, Life, Proof, Ruling, Why, Writers, archive, settled};

const MARKER: &str = ".metadata";
const PART: &str = ".distcp";
/// Lightning writes it after `.metadata` into a sharded `.ckpt` directory.
const LIGHTNING: &str = "meta.pt";

/// The rule.
pub(super) fn judge(listing: &Listing, facts: &Facts) -> Option<Ruling> {
    let folders = folders(listing);
    if folders.is_empty() {
        return None;
    }
    let all = folders
        .iter()
        .try_for_each(|folder| check(listing, facts, folder));
    Some(all.and_then(|()| {
        if !folders.contains("") {
            // A model and an optimizer in directories of their own: there may be one more to come.
            settled(facts)?;
        }
        if listing.name.ends_with(".ckpt") && facts.nodes == 1 {
            let meta = listing.file(LIGHTNING);
            let meta = meta.ok_or_else(|| Why::Missing(LIGHTNING.into()))?;
            if archive::whole(meta) == Some(false) {
                return Err(Why::Torn(LIGHTNING.into()));
            }
        }
        Ok(Proof::default())
    }))
}

/// The folders that such a checkpoint lies in.
fn folders(listing: &Listing) -> BTreeSet<&str> {
    let its = |entry: &&Entry| {
        entry.path.ends_with(PART) || entry.name() == MARKER || rank_of_marker(entry).is_some()
    };
    listing.files().filter(its).map(Entry::folder).collect()
}

/// Every folder that such a checkpoint lies in is whole; of a trainer that has other files beside it.
pub(super) fn check_all(listing: &Listing, facts: &Facts) -> Result<(), Why> {
    folders(listing)
        .iter()
        .try_for_each(|folder| check(listing, facts, folder))
}

fn check(listing: &Listing, facts: &Facts, folder: &str) -> Result<(), Why> {
    let inside = || {
        listing
            .files()
            .filter(move |entry| entry.folder() == folder)
    };
    let named = |name: &str| inside().find(|entry| entry.name() == name);
    let parts = || inside().filter(|entry| entry.path.ends_with(PART));
    if let Some(temporary) = named(".metadata.tmp") {
        return Err(Why::Temporary(temporary.path.clone()));
    }
    if let Some(empty) = parts().find(|part| part.size == 0) {
        return Err(Why::Torn(empty.path.clone()));
    }
    if facts.renamed {
        return Ok(());
    }
    if facts.life == Life::Running && facts.writers == Writers::Somebody {
        return Err(Why::Written);
    }
    let Some(marker) = named(MARKER) else {
        return without_marker(facts, inside);
    };
    // What was written over after it: of another save into the same directory, which is not over.
    let later = parts().find(|part| part.mark.mtime_ns > marker.mark.mtime_ns);
    if let Some(later) = later {
        return Err(Why::Stale(later.path.clone()));
    }
    if marker.size == 0 {
        return Err(Why::Torn(marker.path.clone()));
    }
    if let (Content::Whole(text), 1) = (&marker.content, facts.nodes) {
        let missing = parts_named(text)
            .into_iter()
            .find(|name| named(name).is_none());
        return missing.map_or(Ok(()), |name| Err(Why::Missing(name)));
    }
    Ok(())
}

/// No `.metadata` here: it is on another node, or ranks were told to save without one another and each has a marker.
fn without_marker<'a, I>(facts: &Facts, inside: impl Fn() -> I) -> Result<(), Why>
where
    I: Iterator<Item = &'a Entry>,
{
    let marked: BTreeSet<u32> = inside().filter_map(rank_of_marker).collect();
    if !marked.is_empty() {
        let absent = facts.ranks.clone().find(|rank| !marked.contains(rank));
        return absent.map_or(Ok(()), |rank| {
            Err(Why::Missing(format!("__{rank}.metadata")))
        });
    }
    if facts.marker_elsewhere {
        return settled(facts);
    }
    Err(if facts.nodes > 1 {
        Why::Elsewhere(MARKER)
    } else {
        Why::Missing(MARKER.into())
    })
}

/// `__3.metadata` is rank 3's.
fn rank_of_marker(entry: &Entry) -> Option<u32> {
    let rank = entry.name().strip_prefix("__")?.strip_suffix(MARKER)?;
    rank.parse().ok()
}

/// The names of parts in the bytes of `.metadata`, a pickle in which they stand as they are.
fn parts_named(pickle: &[u8]) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let ending = PART.as_bytes();
    for at in 0..pickle.len().saturating_sub(ending.len() - 1) {
        if !pickle[at..].starts_with(ending) {
            continue;
        }
        let of_name = |byte: &&u8| byte.is_ascii_digit() || **byte == b'_';
        let length = pickle[..at].iter().rev().take_while(of_name).count();
        let name = &pickle[at - length..at + ending.len()];
        if name.starts_with(b"__") {
            found.insert(String::from_utf8_lossy(name).into_owned());
        }
    }
    found
}
