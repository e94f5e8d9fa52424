//! `mlctl run`: submit, follow, and end with the job's exit code. Ctrl-C leaves the job alone.
use super::{follow, submit};
use crate::args::{Global, RunArgs};
use crate::client::Client;
use crate::failure::Failure;
use crate::output::Output;

/// Exit code of a `run` that was left with Ctrl-C: the job lives.
const DETACHED: u8 = 75;

/// Runs the job of `args` to its end.
pub async fn run(args: &RunArgs, global: &Global, output: &dyn Output) -> Result<u8, Failure> {
    let mut client = Client::open(global)?;
    let reply = submit::submit(&mut client, &args.submit).await?;
    output.note(&format!("job {} {} queued", reply.job, reply.name));
    let job = tokio::select! {
        job = follow::to_the_end(&mut client, &reply.job, output, args.fold.asked()) => job?,
        _ = tokio::signal::ctrl_c() => {
            output.note(&format!(
                "left job {0}; it goes on. Follow it again: mlctl logs -f {0} · end it: mlctl cancel {0}",
                reply.job
            ));
            return Ok(DETACHED);
        }
    };
    Ok(follow::end(&job, output))
}
