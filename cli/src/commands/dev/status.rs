//! `mlctl dev status`: the processes of the cluster.
use std::path::Path;

use serde_json::json;

use crate::dev::status::{members, processes};
use crate::failure::Failure;
use crate::output::Output;

/// Lists the processes of the cluster in `dir`.
pub async fn run(dir: &Path, output: &dyn Output) -> Result<u8, Failure> {
    let processes = processes(dir)?;
    let members = members(dir).await?;
    let member = |role: &str, name: &str| {
        let known = members.iter().find(|member| member.name == name);
        known.filter(|_| role == "coordinator")
    };
    let leads = |role: &str, name: &str| member(role, name).is_some_and(|member| member.leader);
    let condition = |role: &str, name: &str| {
        let member = member(role, name);
        member.map_or("", |member| member.condition.as_str())
    };
    let note =
        |role: &str, name: &str| member(role, name).map_or("", |member| member.note.as_str());
    let values: Vec<_> = processes
        .iter()
        .map(|p| json!({ "role": p.role, "name": p.name, "pid": p.pid, "address": p.address, "leader": leads(&p.role, &p.name), "condition": condition(&p.role, &p.name), "note": note(&p.role, &p.name) }))
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
            let (condition, note) = (condition(&p.role, &p.name), note(&p.role, &p.name));
            let wrong = match condition {
                "" | "Fine" => String::new(),
                word => format!("{word}: {note}"),
            };
            format!(
                "{:<12} {:<10} {:>8}  {:<18} {mark:<6}  {wrong}",
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
