//! Checkpoints in an object store outside the cluster: S3 and what speaks like it, Google, Azure, or a directory such as an NFS mount. Only
//! chunks that are not there yet are sent; every chunk that comes back is verified before it is written. `remote` alone knows `object_store`.
//! Does NOT decide what is uploaded, kept or removed, and knows jobs only as text in object names.
//!
//! ```text
//! chunks/ab/<chunk id>.zst or .raw        shared by all checkpoints; .raw where compression saves nothing
//! manifests/<id>.zst                      written before its chunks: what it names is not collected
//! jobs/<job>/<epoch>-<name>/part-<n>.json written last: without it there is no checkpoint
//! collecting/<number>                     somebody removes what nobody needs; uploads wait
//! ```
//! - `layout`, `part`: pure; where things lie, what is said of a part. What a URL means is the job spec's business.
//! - `packing`: compression. `remote`: requests. `send`, `fetch`, `remove`, `collect`: the four things that are done with them.
mod collect;
mod each;
mod error;
mod fetch;
mod layout;
mod packing;
mod part;
mod remote;
mod remove;
mod send;

pub use collect::Swept;
pub use error::UploadError;
pub use fetch::Downloaded;
pub use part::{Entry, Part};
pub use remote::{Options, Remote};
pub use remove::Listed;
pub use send::Uploaded;

/// Runs what blocks on a thread where that is allowed.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, UploadError> + Send + 'static,
) -> Result<T, UploadError> {
    let done = tokio::task::spawn_blocking(work).await;
    // Either our own panic, or the runtime goes down.
    done.unwrap_or_else(|error| Err(UploadError::Local(error.to_string())))
}
