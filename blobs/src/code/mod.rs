//! A job's code: a directory as a manifest of files, each a blob. Scanned on a laptop, laid out on a node.
//! `.gitignore` and `.mlctlignore` are respected and `.git` never travels. Transfers nothing itself.
mod manifest;
mod materialize;
mod scan;

pub use manifest::{CodeError, Entry, Manifest};
pub use materialize::materialize;
pub use scan::{Scanned, scan};
