//! Before ranks start that resume from a checkpoint: has it put together on this node, whoever holds its parts.
//! Does NOT fetch: that is `copies`.

use std::fs;

use serde::Serialize;
use tracing::info;

use super::Context;
use super::prepare::{PrepareError, failed, hand_over_checkpoints, make, user_of};
use crate::copies::restore::{Restored, Wanted};
use crate::core::Start;

/// What came of it, in the attempt's folder, for people.
const FACTS: &str = "restored.json";
/// Where it is laid out, in the attempt's folder.
const STAGING: &str = "restoring";

#[derive(Serialize)]
struct Facts<'a> {
    bytes: u64,
    from: &'a [String],
    wall_ms: u64,
}

/// Puts the checkpoint together that the start names, if it says what that is made of. The attempt's folder is there.
pub(super) async fn restore(context: &Context, start: &Start) -> Result<(), PrepareError> {
    let Some(restore) = &start.restore else {
        return Ok(());
    };
    if start.resume_from.is_empty() {
        return Ok(());
    }
    let job = start.resume_job.unwrap_or(start.job);
    let into = context.dirs.checkpoints(job);
    make(&into)?;
    let user = user_of(context, start)?;
    if let Some(user) = &user {
        hand_over_checkpoints(&into, user)?;
    }
    let folder = context.dirs.attempt(start.job, start.epoch);
    let wanted = Wanted {
        job,
        name: start.resume_from.clone(),
        restore: restore.clone(),
        own: start.node_rank,
        into,
        staging: folder.join(STAGING),
        user: user.map(|user| (user.uid.as_raw(), user.gid.as_raw())),
    };
    let restored = context.vault.restore(wanted).await?;
    let Restored {
        bytes,
        came,
        from,
        ways,
        wall,
    } = restored;
    let wall_ms = u64::try_from(wall.as_millis()).unwrap_or(u64::MAX);
    info!(job = %start.job, epoch = %start.epoch, name = start.resume_from, bytes, came, ?from, ?ways, wall_ms, "a checkpoint is there to resume from");
    let facts = Facts {
        bytes,
        from: &from,
        wall_ms,
    };
    let path = folder.join(FACTS);
    let written = serde_json::to_vec(&facts).map_err(std::io::Error::from);
    written
        .and_then(|text| fs::write(&path, text))
        .map_err(failed("write", &path))
}
