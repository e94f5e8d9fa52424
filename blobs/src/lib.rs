//! Content-addressed bytes on disk: code, inputs, checkpoints, and what nodes hand to one another, named by BLAKE3.
//!
//! Stores, verifies and moves; knows no job and no cluster. [`transfer`] and [`upload`] alone know a network: the first is told who may read
//! what, the second goes outside with the credentials of its environment.
#![forbid(unsafe_code)]

#[cfg(target_os = "linux")]
pub mod checkpoint;
pub mod code;
mod id;
mod store;
#[cfg(target_os = "linux")]
pub mod transfer;
#[cfg(target_os = "linux")]
pub mod upload;

pub use id::{BlobId, BlobIdError};
pub use store::{Incoming, Store, StoreError};
