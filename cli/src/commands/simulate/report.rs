//! What a replay prints: a table for people, one JSON object for programs (with --compare: one object with a list of them). Does NOT run anything.
use mlctl_coordinator::simulation::Report;
use mlctl_coordinator::simulation::metrics::Figures;
use serde_json::{Value, json};

/// One replay.
#[derive(Debug)]
pub struct Row {
    /// The policy, as it was given.
    pub policy: String,
    /// BLAKE3 of its settings.
    pub settings_hash: String,
    /// Jobs of the load.
    pub jobs: usize,
    /// What came out.
    pub report: Report,
    /// How long it took, seconds.
    pub wall_s: f64,
}

/// One value of all rows.
pub fn json(rows: &[Row]) -> Value {
    match rows {
        [one] => object(one),
        _ => json!({ "v": 1, "compared": rows.iter().map(object).collect::<Vec<_>>() }),
    }
}

fn object(row: &Row) -> Value {
    let report = &row.report;
    let slowdown: serde_json::Map<String, Value> = report
        .slowdown
        .iter()
        .map(|(vc, mean)| (vc.to_string(), rounded(*mean)))
        .collect();
    let mut object = json!({
        "v": 1,
        "policy": row.policy,
        "settings_hash": row.settings_hash,
        "jobs": row.jobs,
        "avg_jct_s": rounded(report.all.avg_jct_s),
        "p99_jct_s": rounded(report.all.p99_jct_s),
        "avg_queue_s": rounded(report.all.avg_queue_s),
        "p99_queue_s": rounded(report.all.p99_queue_s),
        "avg_queue_1gpu_s": rounded(report.single.avg_queue_s),
        "avg_queue_node_s": rounded(report.node.avg_queue_s),
        "avg_queue_wide_s": rounded(report.wide.avg_queue_s),
        "utilization": rounded(report.utilization),
        "fragmentation": rounded(report.fragmentation),
        "idle_while_waiting": rounded(report.idle_while_waiting),
        "preemptions": report.preemptions,
        "preemptions_by": report.preemptions_by,
        "preemptions_in_vain": report.preemptions_in_vain,
    });
    object["slowdown_by_team"] = Value::Object(slowdown);
    object["slowdown_spread"] = rounded(report.slowdown_spread);
    object["makespan_s"] = rounded(report.makespan_s);
    object["plans"] = json!(report.passes);
    object["wall_s"] = rounded(row.wall_s);
    object
}

/// Three digits behind the point are more than these figures mean.
fn rounded(value: f64) -> Value {
    json!((value * 1_000.0).round() / 1_000.0)
}

/// The rows as people read them.
pub fn table(rows: &[Row]) -> String {
    rows.iter().map(block).collect::<Vec<_>>().join("\n\n")
}

fn block(row: &Row) -> String {
    let report = &row.report;
    let by: Vec<String> = report
        .preemptions_by
        .iter()
        .map(|(why, count)| format!("{count} {why}"))
        .collect();
    let by = if by.is_empty() {
        String::new()
    } else {
        format!(" ({})", by.join(", "))
    };
    let lines = [
        format!(
            "policy {} · settings {} · {} jobs",
            row.policy, row.settings_hash, row.jobs
        ),
        format!(
            "{:<12} {:>8} {:>12} {:>12} {:>12} {:>12}",
            "GPUs", "jobs", "avg JCT s", "p99 JCT s", "avg queue s", "p99 queue s"
        ),
        line("all", &report.all),
        line("1", &report.single),
        line("2 to 8", &report.node),
        line("more", &report.wide),
        format!(
            "utilization {:.1} % · while something waited: {:.1} % of the GPUs idle, {:.0} % of these on partly used nodes",
            report.utilization * 100.0,
            report.idle_while_waiting * 100.0,
            report.fragmentation * 100.0
        ),
        format!(
            "preemptions {}{by}, {} in vain",
            report.preemptions, report.preemptions_in_vain
        ),
        format!(
            "slowdown by team: the largest mean is {:.2} times the smallest · makespan {:.0} s · {} plans in {:.2} s",
            report.slowdown_spread, report.makespan_s, report.passes, row.wall_s
        ),
    ];
    lines.join("\n")
}

fn line(name: &str, figures: &Figures) -> String {
    format!(
        "{name:<12} {:>8} {:>12.0} {:>12.0} {:>12.0} {:>12.0}",
        figures.jobs,
        figures.avg_jct_s,
        figures.p99_jct_s,
        figures.avg_queue_s,
        figures.p99_queue_s
    )
}
