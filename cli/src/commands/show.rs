//! `mlctl show`: everything about one job.
use super::follow;
use crate::args::{Global, ShowArgs};
use crate::client::Client;
use crate::failure::Failure;
use crate::output::Output;

/// Shows the job of `args`.
pub async fn run(args: &ShowArgs, global: &Global, output: &dyn Output) -> Result<u8, Failure> {
    let mut client = Client::open(global)?;
    output.job(&follow::get(&mut client, &args.job).await?);
    Ok(0)
}
