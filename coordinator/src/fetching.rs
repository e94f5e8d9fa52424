//! Segments of history that this member lacks are fetched from the others: after it was brought up by a snapshot, and when a
//! file was lost or damaged. In the background, until all are here: history is not the log, and the member votes meanwhile.
use std::sync::Arc;
use std::time::Duration;

use mlctl_runtime::backoff::Backoff;

use crate::consensus::MemberId;
use crate::shared::Shared;
use crate::state::records::Segment;
use crate::store::Feed;

const RETRY: Backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(15));

/// Fetches what is lacking, until the process is to end. `feed` is told of what came.
pub async fn fetch(shared: Arc<Shared>, feed: Feed) {
    let segments = &shared.history.segments;
    let mut failures = 0_u32;
    loop {
        let lacking = segments.lacking(&shared.state());
        let mut left = lacking.len();
        if left > 0 && failures == 0 {
            tracing::warn!(
                segments = left,
                "history is incomplete on this coordinator; what is missing is fetched from the others"
            );
        }
        for segment in &lacking {
            if shared.shutdown.is_triggered() {
                return;
            }
            if fetch_one(&shared, segment).await {
                left -= 1;
                feed.segments();
            }
        }
        match (left, lacking.is_empty()) {
            (0, true) => failures = 0,
            (0, false) => {
                tracing::info!(segments = lacking.len(), "history is complete again");
                failures = 0;
            }
            _ => failures = failures.saturating_add(1),
        }
        let again = async {
            match failures {
                0 => std::future::pending().await,
                failures => tokio::time::sleep(RETRY.delay(failures, failures.into())).await,
            }
        };
        tokio::select! {
            () = segments.lacks() => {}
            () = again => {}
            () = shared.shutdown.wait() => return,
        }
    }
}

/// Whether one of the others had it.
async fn fetch_one(shared: &Arc<Shared>, segment: &Arc<Segment>) -> bool {
    for member in shared.peers.ids() {
        match from(shared, member, segment).await {
            Ok(()) => return true,
            Err(reason) => {
                tracing::debug!(member, number = segment.number, %reason, "a segment of history was not fetched");
            }
        }
    }
    false
}

async fn from(
    shared: &Arc<Shared>,
    member: MemberId,
    segment: &Arc<Segment>,
) -> Result<(), String> {
    let pulled = shared
        .peers
        .pull_segment(member, segment.hash, segment.bytes);
    let bytes = pulled.await?;
    let (segments, segment) = (Arc::clone(&shared.history.segments), Arc::clone(segment));
    let stored = tokio::task::spawn_blocking(move || segments.receive(&segment, &bytes)).await;
    stored
        .map_err(|error| error.to_string())?
        .map_err(|error| error.to_string())
}
