//! `mlctl wait`: until a job has ended, with its exit code.
use std::time::Duration;

use super::follow;
use crate::args::{Global, WaitArgs};
use crate::client::Client;
use crate::failure::Failure;
use crate::output::Output;

/// Waits for the job of `args`.
pub async fn run(args: &WaitArgs, global: &Global, output: &dyn Output) -> Result<u8, Failure> {
    let mut client = Client::open(global)?;
    let note = |text: &str| output.note(text);
    let ended = follow::ended(&mut client, &args.job, &note);
    let job = match args.timeout {
        None => ended.await?,
        Some(seconds) => tokio::time::timeout(Duration::from_secs(seconds), ended)
            .await
            .map_err(|_| {
                Failure::timed_out(format!(
                    "job {} has not ended after {seconds} s; it lives",
                    args.job
                ))
            })??,
    };
    Ok(follow::end(&job, output))
}
