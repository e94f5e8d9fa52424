//! `mlctl admin allow-root`: whether jobs may run as root. Replicated, and for admins only.
use mlctl_proto::api::ChangeRequest;

use crate::args::Global;
use crate::client::{Client, cluster, fresh_key, traced};
use crate::failure::Failure;
use crate::output::Output;

/// Sets it.
pub async fn run(allow: bool, global: &Global, output: &dyn Output) -> Result<u8, Failure> {
    let mut client = Client::open(global)?;
    let request = ChangeRequest {
        key: fresh_key(),
        allow_root: Some(allow),
        ..ChangeRequest::default()
    };
    let answer = client.call(|channel| {
        let request = traced(request.clone());
        async move { cluster(channel).change(request).await }
    });
    answer.await?;
    output.note(if allow {
        "jobs may run as root"
    } else {
        "jobs may not run as root"
    });
    Ok(0)
}
