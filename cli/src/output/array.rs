//! An array's tasks in words and in JSON.
use mlctl_proto::api::{Array, Attempt, Job, TaskFailure, TaskGroup};
use serde_json::{Value, json};

/// Failed indices are listed up to this many characters.
const INDICES_MAX: usize = 60;

/// `3120/10000`, with how many failed, if any did.
pub fn progress(array: &Array) -> String {
    let done = array.succeeded + array.failed + array.cancelled;
    let failed = match array.failed {
        0 => String::new(),
        failed => format!(", {failed} failed"),
    };
    format!("{done}/{}{failed}", array.tasks)
}

/// What `show` says of the tasks, line by line.
pub fn lines(array: &Array) -> Vec<String> {
    let counts = [
        (array.pending, "pending"),
        (array.running, "running"),
        (array.succeeded, "completed"),
        (array.failed, "failed"),
        (array.cancelled, "cancelled"),
    ];
    let counts = counts.iter().filter(|(count, _)| *count > 0);
    let counts: Vec<String> = counts
        .map(|(count, word)| format!("{count} {word}"))
        .collect();
    let limit = match array.limit {
        0 => String::new(),
        limit => format!(", at most {limit} at once"),
    };
    let indices = short(&array.indices);
    let mut lines = vec![format!("tasks    {indices}{limit}: {}", counts.join(", "))];
    for group in array.groups.iter().filter(|group| group.state == "Failed") {
        let how = end_text(&group.kind, group.exit_code);
        lines.push(format!("failed   {}: {how}", short(&group.indices)));
    }
    let named = array.failures.iter().map(|one| {
        let how = end_text(&one.kind, one.exit_code);
        format!("         task {} on {}: {how}", one.index, one.node)
    });
    if array.failed > 0 {
        lines.push("first failures:".into());
        lines.extend(named);
    }
    lines
}

/// Of the many waves of an array those that are open or went wrong.
pub fn worth_showing(job: &Job, attempt: &Attempt) -> bool {
    let well = |end: &mlctl_proto::api::Outcome| end.kind == "Exited" && end.exit_code == 0;
    job.array.is_none() || !attempt.end.as_ref().is_some_and(well)
}

fn end_text(kind: &str, exit_code: i32) -> String {
    match kind {
        "Exited" => format!("exit code {exit_code}"),
        "Signalled" => format!("signal {}", exit_code - 128),
        kind => format!("{kind} (exit code {exit_code})"),
    }
}

fn short(indices: &str) -> String {
    match indices.char_indices().nth(INDICES_MAX) {
        Some((end, _)) => {
            let whole = indices[..end].rfind(',').unwrap_or(end);
            format!("{},…", &indices[..whole])
        }
        None => indices.to_owned(),
    }
}

/// For programs.
pub fn value(array: &Option<Array>) -> Value {
    let Some(array) = array else {
        return Value::Null;
    };
    let group = |one: &TaskGroup| json!({ "state": one.state, "kind": one.kind, "exit_code": one.exit_code, "tasks": one.tasks, "indices": one.indices });
    let failure = |one: &TaskFailure| json!({ "index": one.index, "kind": one.kind, "exit_code": one.exit_code, "node": one.node });
    json!({
        "tasks": array.tasks, "limit": array.limit, "pending": array.pending, "running": array.running,
        "succeeded": array.succeeded, "failed": array.failed, "cancelled": array.cancelled, "indices": array.indices,
        "groups": array.groups.iter().map(group).collect::<Vec<_>>(),
        "failures": array.failures.iter().map(failure).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_array_in_words() {
        let group = TaskGroup {
            state: "Failed".into(),
            kind: "Signalled".into(),
            exit_code: 137,
            indices: (0..40)
                .map(|index| (index * 2).to_string())
                .collect::<Vec<_>>()
                .join(","),
            tasks: 40,
        };
        let array = Array {
            tasks: 100,
            limit: 8,
            running: 8,
            succeeded: 52,
            failed: 40,
            indices: "0-99".into(),
            groups: vec![group],
            ..Array::default()
        };
        assert_eq!(progress(&array), "92/100, 40 failed");
        let lines = lines(&array);
        assert_eq!(
            lines[0],
            "tasks    0-99, at most 8 at once: 8 running, 52 completed, 40 failed"
        );
        assert!(
            lines[1].ends_with(",…: signal 9") && lines[1].len() < 90,
            "{}",
            lines[1]
        );
    }
}
