//! What is on disk beside consensus: segments of history, and the index: live state and where archived jobs lie, in sled, for
//! quick restarts and queries, written behind by its own thread.
//!
//! The index is never the truth: that is the newest verified snapshot and the log, with the segments that they list. It may lag, and may be deleted at any
//! moment; whatever is wrong with it, it is deleted and built anew from memory, and that is said once.
pub mod history;
#[cfg(test)]
mod history_tests;
mod index;
mod pointers;
pub mod segments;
#[cfg(test)]
mod steady_tests;
#[cfg(test)]
mod tests;
mod writer;

use std::path::Path;

pub use index::Shelf;
pub use writer::{Feed, HasRoom, Writer};

use crate::state::{State, codec};
use index::Index;

/// The state that the index in `dir` holds, if it can be trusted to the last bit.
pub fn load(dir: &Path) -> Option<State> {
    if !dir.join(index::DB).exists() {
        return None;
    }
    match read(dir) {
        Ok(state) => state,
        Err(reason) => {
            tracing::warn!(dir = %dir.display(), %reason, "the index is not usable and is built anew; nothing is lost");
            None
        }
    }
}

fn read(dir: &Path) -> Result<Option<State>, String> {
    let index = Index::open(dir)?;
    let Some(loaded) = index.load()? else {
        return Ok(None);
    };
    let rows = loaded
        .rows
        .into_iter()
        .map(|row| (row.table, row.key, row.record));
    let state = codec::state_from_rows(loaded.applied, rows).map_err(|error| error.to_string())?;
    if state.digest() != loaded.digest {
        return Err("its rows are not those that its digest names".into());
    }
    Ok(Some(state))
}
