//! Content-addressed bytes on disk: code, inputs, checkpoints, and what nodes hand to one another, named by BLAKE3.
//!
//! Stores and verifies; knows no network, no job and no cluster. Whoever moves chunks between nodes calls [`checkpoint`].
#![forbid(unsafe_code)]

#[cfg(target_os = "linux")]
pub mod checkpoint;
pub mod code;
mod id;
mod store;

pub use id::{BlobId, BlobIdError};
pub use store::{Incoming, Store, StoreError};
