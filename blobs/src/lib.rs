//! Content-addressed bytes on disk: code, inputs, and what nodes hand to one another, named by BLAKE3.
//!
//! Stores and verifies; knows no network, no job and no cluster. Chunked transfer between nodes is not here yet.
#![forbid(unsafe_code)]

pub mod code;
mod id;
mod store;

pub use id::{BlobId, BlobIdError};
pub use store::{Incoming, Store, StoreError};
