//! `mlctl node declare-lost`: an admin's word that a silent machine is gone for good. It frees what jobs with `on_disconnect = "hold"` keep there.
use std::io::{IsTerminal, Write};

use mlctl_proto::api::DeclareLostRequest;
use serde_json::json;

use crate::args::Global;
use crate::client::{Client, cluster, fresh_key, traced};
use crate::failure::Failure;
use crate::output::Output;

/// Declares `node` lost, after a question unless `yes`.
pub async fn run(
    node: &str,
    yes: bool,
    global: &Global,
    output: &dyn Output,
) -> Result<u8, Failure> {
    confirm(node, yes)?;
    let mut client = Client::open(global)?;
    let request = DeclareLostRequest {
        key: fresh_key(),
        node: node.to_owned(),
    };
    let answer = client.call(|channel| {
        let request = traced(request.clone());
        async move { cluster(channel).declare_lost(request).await }
    });
    let jobs = answer.await?.jobs;
    let held = match jobs.len() {
        0 => "it held nothing".to_owned(),
        _ => format!("it held {}", jobs.join(", ")),
    };
    output.value(
        &json!({ "node": node, "jobs": jobs }),
        &format!("{node} is declared lost; {held}"),
    );
    Ok(0)
}

/// A machine that is only cut off may still run what is started again elsewhere by this.
fn confirm(node: &str, yes: bool) -> Result<(), Failure> {
    if yes {
        return Ok(());
    }
    let what = format!(
        "what {node} runs is given up and may start again elsewhere; if {node} is only cut off, both will run at once"
    );
    if !std::io::stdin().is_terminal() {
        return Err(Failure::usage(format!("{what}: give --yes if it is off")));
    }
    eprint!("{what}. Is {node} off for sure? [y/N] ");
    std::io::stderr().flush().map_err(Failure::internal)?;
    let mut line = String::new();
    std::io::stdin()
        .read_line(&mut line)
        .map_err(Failure::internal)?;
    match line.trim() {
        "y" | "Y" | "yes" => Ok(()),
        _ => Err(Failure::usage("nothing was changed".into())),
    }
}
