//! A job as `mlctl show -o json` tells it.
//! Does NOT ask again: it is what was known at one moment.

use serde_json::Value;

/// The elements of a JSON array, none of anything else.
pub fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// What the cluster said of a job.
#[derive(Debug, Clone)]
pub struct Job(pub Value);

impl Job {
    fn text(&self, key: &str) -> &str {
        self.0[key]
            .as_str()
            .unwrap_or_else(|| panic!("no `{key}` in {}", self.0))
    }

    /// Its id.
    pub fn id(&self) -> &str {
        self.text("id")
    }

    /// Its state, a word of the vocabulary.
    pub fn state(&self) -> &str {
        self.text("state")
    }

    /// Whether it has ended for good.
    pub fn ended(&self) -> bool {
        matches!(
            self.state(),
            "Completed" | "Failed" | "Cancelled" | "TimedOut"
        )
    }

    /// Its placements so far, the first one first.
    pub fn attempts(&self) -> &[Value] {
        list(&self.0["attempts"])
    }

    /// The nodes of its newest attempt, in rank order.
    pub fn nodes(&self) -> Vec<String> {
        let newest = self.attempts().last().unwrap_or(&Value::Null);
        let allocations = newest["allocations"]
            .as_array()
            .map_or(&[][..], Vec::as_slice);
        allocations
            .iter()
            .filter_map(|one| one["node"].as_str().map(str::to_owned))
            .collect()
    }

    /// How attempt `number`, counted from 1, ended; empty: it has not.
    pub fn attempt_end(&self, number: usize) -> &str {
        let attempt = self
            .attempts()
            .get(number.wrapping_sub(1))
            .unwrap_or(&Value::Null);
        attempt["end"]["kind"].as_str().unwrap_or_default()
    }

    /// How it ended.
    pub fn outcome(&self) -> &Value {
        &self.0["outcome"]
    }

    /// The exit code it ended with, -1 before.
    pub fn exit_code(&self) -> i64 {
        self.outcome()["exit_code"].as_i64().unwrap_or(-1)
    }

    /// Its checkpoints by name, with the nodes that hold each.
    pub fn checkpoints(&self) -> Vec<(String, Vec<String>)> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let all = self.0["checkpoints"]
            .as_array()
            .map_or(&[][..], Vec::as_slice);
        all.iter()
            .map(|one| {
                let holders = one["holders"].as_array().map_or(&[][..], Vec::as_slice);
                (text(&one["name"]), holders.iter().map(text).collect())
            })
            .collect()
    }
}
