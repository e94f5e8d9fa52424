//! What a bench leaves: a file of raw samples in docs/bench, and its table, printed and put where docs/BENCHMARKS.md has a place for it.
//! Does NOT judge.

use std::fs;

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};

use super::place;

/// A bench under way.
pub struct Report {
    name: &'static str,
    before: Vec<f64>,
}

/// The middle one, or what lies between the two in the middle. NaN of nothing.
pub fn median(values: &[f64]) -> f64 {
    super::samples::Samples(vec![values.to_vec()]).percentile(50.0)
}

impl Report {
    /// Notes the load before anything is started.
    pub fn begin(name: &'static str) -> Self {
        let before = place::load();
        Self { name, before }
    }

    /// Writes `figures` to docs/bench, prints `table` and puts it into docs/BENCHMARKS.md.
    ///
    /// # Errors
    /// When a file cannot be read or written.
    pub fn end(self, figures: Map<String, Value>, table: &str) -> Result<()> {
        let (name, before, after) = (self.name, self.before, place::load());
        let facts = place::facts();
        let file = place::root().join(format!("docs/bench/{name}.json"));
        let value = json!({
            "v": 1, "bench": name, "place": facts, "load_before": before, "load_after": after, "figures": figures,
        });
        fs::create_dir_all(file.parent().context("a file in a folder")?)?;
        fs::write(&file, format!("{value}\n")).with_context(|| file.display().to_string())?;
        let commit = facts["commit"].as_str().unwrap_or_default();
        let changed = if facts["modified"] == true {
            " with changes"
        } else {
            ""
        };
        let line = format!(
            "Commit `{}`{changed}; load {:.1} before, {:.1} after; samples: [`{name}.json`](bench/{name}.json).",
            commit.get(..7).unwrap_or(commit),
            before.first().unwrap_or(&f64::NAN),
            after.first().unwrap_or(&f64::NAN),
        );
        println!("{line}\n\n{table}");
        let page = place::root().join("docs/BENCHMARKS.md");
        let text = fs::read_to_string(&page).with_context(|| page.display().to_string())?;
        if let Some(text) = placed(&text, name, &format!("{line}\n\n{table}")) {
            fs::write(&page, text).with_context(|| page.display().to_string())?;
        }
        Ok(())
    }
}

/// `text` with `block` between the marks of `name`; `None` if it has no such marks.
fn placed(text: &str, name: &str, block: &str) -> Option<String> {
    let (begin, end) = (format!("<!-- bench {name} -->"), "<!-- end -->");
    let from = text.find(&begin)? + begin.len();
    let to = from + text[from..].find(end)?;
    Some(format!(
        "{}\n{}\n{}",
        &text[..from],
        block.trim_end(),
        &text[to..]
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_goes_to_its_place() {
        let text = "a\n<!-- bench one -->\nold\n<!-- end -->\nb\n";
        let new = placed(text, "one", "new\n").expect("it has the marks");
        assert_eq!(new, "a\n<!-- bench one -->\nnew\n<!-- end -->\nb\n");
        assert_eq!(placed(text, "two", "new"), None);
        assert_eq!(placed(&new, "one", "new").as_deref(), Some(new.as_str()));
    }
}
