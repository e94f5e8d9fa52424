//! Checkpoints of a node: a directory that a trainer finished becomes a manifest and contents, other nodes receive copies chunk by
//! chunk, and a directory comes out again, byte for byte. A checkpoint is held whole and verified, or not at all.
//! Does NOT know jobs, other nodes or a network, and never blocks on more than the disk.
//!
//! - `manifest`, `canon`, `names`, `limits`, `books`, `twins`, `bits`: pure; what a checkpoint is, and its bytes.
//! - `store`, `objects`, `stamp`, `collect`, `verify`: what lies on the disk, and whether it is still right.
//! - `seal` with `walk`, `share`, `pack`, `hash`: a directory goes in. `receive` with `fill`: a copy comes in.
//! - `read`: chunks go to other nodes. `restore`: a directory comes out. `beneath`, `disk`, `fault` serve them all.
mod beneath;
mod bits;
mod books;
mod canon;
mod collect;
mod disk;
mod error;
mod fault;
mod fill;
mod hash;
mod limits;
mod manifest;
mod names;
mod objects;
mod pack;
mod read;
mod receive;
mod restore;
mod seal;
mod share;
mod stamp;
mod store;
mod twins;
mod verify;
mod walk;

pub use bits::Bits;
pub use collect::Collected;
pub use error::CheckpointError;
pub use limits::{CHUNK_BYTES, MANIFEST_BYTES_MAX, PACKED_BYTES_MAX};
pub use manifest::{Content, Entry, HOLE, Kind, Manifest, Place};
pub use read::Reader;
pub use receive::Receive;
pub use restore::{Restore, Restored};
pub use seal::Sealed;
pub use store::{CheckpointStore, Held, Options, Usage};
