//! Checkpoint directories in memory over the life of an attempt: made before its ranks, gone when it is over and all of them is sealed.
//! Does NOT say where they may lie: that is `ram`.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use mlctl_proto::ids::{Epoch, JobId};
use mlctl_proto::spec::{JobSpec, Tier};
use tokio::task::spawn_blocking;
use tokio::time::sleep;
use tracing::{info, warn};

use super::Context;
use super::restart::read_start;
use super::sealing::is_sealing;
use crate::core::Start;
use crate::keeper::room;
use crate::ram;

/// After the end of an attempt of several nodes the leader may ask for parts of what another node completed; a job waits half as long for them.
const LATE: Duration = Duration::from_secs(60);
/// Between two looks whether all is sealed.
const AGAIN: Duration = Duration::from_millis(500);

/// Makes the directory in memory that the spec asks for, if this node can; without it checkpoints go to the disk. Gives what was made.
pub(super) fn make(context: &Context, start: &Start, spec: &JobSpec) -> Option<PathBuf> {
    let asked = spec
        .checkpoint
        .as_ref()
        .is_some_and(|one| one.tier == Tier::Ram);
    if !asked || start.wave.is_some() {
        return None;
    }
    let config = &context.config;
    let hidden = room::hidden(config.private_tmp(), spec.shm.is_some());
    let made = ram::usable(config.ram_dir.as_deref(), &hidden)
        .and_then(|base| ram::make(base, &context.dirs, (start.job, start.epoch)));
    made.inspect_err(|error| {
        warn!(job = %start.job, epoch = %start.epoch, %error, "checkpoints of this attempt go to the disk and not to memory");
    })
    .ok()
}

/// When the agent starts, before any attempt is prepared: what no attempt on the disk names goes.
pub(super) fn clear(context: &Context) {
    let base = ram::place(context.config.ram_dir.as_deref());
    match ram::remove_orphans(base, &context.dirs) {
        Ok(0) => {}
        Ok(removed) => info!(
            removed,
            "checkpoints in memory that belong to nothing were removed"
        ),
        Err(error) => {
            warn!(base = %base.display(), %error, "checkpoints that were left in memory cannot be looked for");
        }
    }
}

/// An attempt is over: what it has in memory goes as soon as all of it is sealed that will be. An agent that dies meanwhile does it at its next start.
pub(super) async fn let_go(context: Arc<Context>, (job, epoch): (JobId, Epoch)) {
    let folder = context.dirs.attempt(job, epoch);
    if !ram::is_named(&folder) {
        return;
    }
    if read_start(&context.dirs, job, epoch).members.len() > 1 {
        sleep(LATE).await;
    }
    while is_sealing(&folder) {
        sleep(AGAIN).await;
    }
    let removing = spawn_blocking(move || ram::end(&folder)).await;
    match removing.map_err(std::io::Error::other) {
        Ok(Ok(_)) => info!(%job, %epoch, "checkpoints in memory are gone with their attempt"),
        Ok(Err(error)) | Err(error) => {
            warn!(%job, %epoch, %error, "checkpoints stay in memory until the agent starts again");
        }
    }
}
