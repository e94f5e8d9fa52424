//! `mlctl dev status`: the processes of the cluster.
use std::path::Path;

use serde_json::json;

use crate::dev::status::{leader, processes};
use crate::failure::Failure;
use crate::output::Output;

/// Lists the processes of the cluster in `dir`.
pub async fn run(dir: &Path, output: &dyn Output) -> Result<u8, Failure> {
    let processes = processes(dir)?;
    let leader = leader(dir).await?.map(|member| member.name);
    let leads = |role: &str, name: &str| role == "coordinator" && Some(name) == leader.as_deref();
    let values: Vec<_> = processes
        .iter()
        .map(|p| json!({ "role": p.role, "name": p.name, "pid": p.pid, "address": p.address, "leader": leads(&p.role, &p.name) }))
        .collect();
    let lines: Vec<String> = processes
        .iter()
        .map(|p| {
            let pid = if p.pid == 0 {
                "down".to_owned()
            } else {
                p.pid.to_string()
            };
            let mark = if leads(&p.role, &p.name) {
                "leader"
            } else {
                ""
            };
            format!(
                "{:<12} {:<10} {:>8}  {:<18} {mark}",
                p.role, p.name, pid, p.address
            )
            .trim_end()
            .to_owned()
        })
        .collect();
    output.value(
        &json!({ "v": 1, "state_dir": dir, "processes": values }),
        &lines.join("\n"),
    );
    Ok(0)
}
