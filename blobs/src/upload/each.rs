//! Does something for many, a few at a time. Does NOT spawn: dropped, it stops at once.
use futures::stream::{FuturesUnordered, StreamExt};

use super::error::UploadError;

/// Runs `work` for each of `items`, `limit` at a time. After the first error nothing more begins, and what had begun is waited for, so that
/// nothing of it goes on behind the caller's back.
pub(super) async fn each<T, F>(
    items: impl IntoIterator<Item = T>,
    limit: usize,
    mut work: impl FnMut(T) -> F,
) -> Result<(), UploadError>
where
    F: Future<Output = Result<(), UploadError>>,
{
    let mut items = items.into_iter();
    let mut running = FuturesUnordered::new();
    let mut outcome = Ok(());
    loop {
        while outcome.is_ok()
            && running.len() < limit.max(1)
            && let Some(item) = items.next()
        {
            running.push(work(item));
        }
        match running.next().await {
            None => return outcome,
            Some(done) => outcome = outcome.and(done),
        }
    }
}
