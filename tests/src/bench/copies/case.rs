//! A tree copied in full, then changed by a tenth and copied again, by each side in turn, round after round.
//! Does NOT know how a side copies.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Result;
use serde_json::{Value, json};

use super::lab::{Lab, Sample, empty};
use super::side::{Side, What, reset, seal};
use super::tree::Tree;
use crate::bench::report::median;

/// Samples of one kind, by side.
pub type Samples = BTreeMap<&'static str, Vec<Sample>>;

/// What was found of one tree.
pub struct Case {
    /// For tables.
    pub title: String,
    /// Of the figures.
    pub key: &'static str,
    tree: Tree,
    sides: Vec<Side>,
    /// The trainer's directory.
    pub source: PathBuf,
    /// The store in which it was last sealed.
    pub store: PathBuf,
    /// The id of that.
    pub id: String,
    full: Samples,
    changed: Samples,
    seals: Vec<Sample>,
    reseals: Vec<Sample>,
    /// How often each side missed the file that changed and kept its size and time.
    missed: BTreeMap<&'static str, usize>,
}

/// Milliseconds are enough.
fn rounded(seconds: f64) -> f64 {
    (seconds * 1000.0).round() / 1000.0
}

fn samples_json(samples: &[Sample]) -> Value {
    let one = |sample: &Sample| {
        json!({
            "durable_s": rounded(sample.durable_s), "told_s": rounded(sample.told_s), "cpu_s": rounded(sample.cpu_s),
            "wrong_files": sample.wrong, "said": sample.said,
        })
    };
    samples.iter().map(one).collect()
}

/// The medians of a row.
#[derive(Clone, Copy)]
struct Row {
    durable_s: f64,
    told_s: f64,
    cpu_s: f64,
}

impl Row {
    fn of(samples: &[Sample]) -> Self {
        let of = |what: fn(&Sample) -> f64| median(&samples.iter().map(what).collect::<Vec<_>>());
        Self {
            durable_s: of(|sample| sample.durable_s),
            told_s: of(|sample| sample.told_s),
            cpu_s: of(|sample| sample.cpu_s),
        }
    }
}

impl Case {
    /// Makes the tree.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub fn new(
        lab: &Lab,
        key: &'static str,
        title: String,
        tree: Tree,
        sides: &[Side],
    ) -> Result<Self> {
        let source = lab.dir().join(key);
        tree.make(&source)?;
        Ok(Self {
            title,
            key,
            tree,
            sides: sides.to_vec(),
            source,
            store: lab.dir().join(format!("{key}-store")),
            id: String::new(),
            full: Samples::new(),
            changed: Samples::new(),
            seals: Vec::new(),
            reseals: Vec::new(),
            missed: BTreeMap::new(),
        })
    }

    /// All sides once, in another order than in the round before.
    ///
    /// # Errors
    /// When a tool fails, or our copy is not the source.
    pub fn round(&mut self, lab: &Lab, round: usize) -> Result<()> {
        let mut sides = self.sides.clone();
        sides.rotate_left(round % self.sides.len());
        empty(&self.store)?;
        reset(lab, &sides)?;
        let (sealed, first) = seal(lab, &self.source, &self.store)?;
        self.seals.push(sealed);
        for side in &sides {
            let sample = self.copy(lab, *side, &first, "-")?;
            self.full.entry(side.key()).or_default().push(sample);
        }
        let kept = self.tree.change(&self.source, round as u64)?;
        let (sealed, second) = seal(lab, &self.source, &self.store)?;
        self.reseals.push(sealed);
        for side in &sides {
            let sample = self.copy(lab, *side, &second, &first)?;
            if kept
                .as_ref()
                .is_some_and(|kept| sample.wrong.contains(kept))
            {
                *self.missed.entry(side.key()).or_default() += 1;
            }
            self.changed.entry(side.key()).or_default().push(sample);
        }
        self.id = second;
        // The next round begins with less on the disk.
        reset(lab, &sides)
    }

    fn copy(&self, lab: &Lab, side: Side, id: &str, near: &str) -> Result<Sample> {
        let (source, store) = (Path::new(&self.source), Path::new(&self.store));
        let what = What {
            source,
            store,
            id,
            near,
        };
        let sample = side.copy(lab, what)?;
        eprintln!(
            "{} {} {}: durable {:.2} s, told {:.2} s, {:.2} s of processors, {} files wrong",
            self.key,
            if near == "-" { "full" } else { "changed" },
            side.key(),
            sample.durable_s,
            sample.told_s,
            sample.cpu_s,
            sample.wrong.len(),
        );
        Ok(sample)
    }

    /// Every sample.
    pub fn json(&self) -> Value {
        let all = |samples: &Samples| -> Value {
            let each = samples
                .iter()
                .map(|(side, all)| ((*side).to_owned(), samples_json(all)));
            Value::Object(each.collect())
        };
        json!({
            "bytes": self.tree.data_bytes(), "full": all(&self.full), "changed": all(&self.changed),
            "seal": samples_json(&self.seals), "seal_changed": samples_json(&self.reseals), "missed_kept_file": self.missed,
        })
    }

    /// Both tables.
    pub fn tables(&self) -> String {
        let full = self.table(&self.full, &self.seals, "in full");
        let changed = self.table(&self.changed, &self.reseals, "a tenth changed");
        format!("{full}\n{changed}\n{}", self.missed())
    }

    /// What happened to the file that changed and kept its size and time.
    fn missed(&self) -> String {
        let rounds = self.reseals.len();
        let all: Vec<String> = (self.sides.iter())
            .filter_map(|side| Some((side, self.missed.get(side.key())?)))
            .map(|(side, times)| format!("{} in {times} of {rounds} rounds", side.label()))
            .collect();
        match (self.tree, all.is_empty()) {
            (Tree::Shards(_), false) => format!(
                "The file that changed and kept its size and time was left stale, with exit code 0, by: {}.\n",
                all.join("; ")
            ),
            (Tree::Shards(_), true) => {
                "No side missed the file that changed and kept its size and time.\n".to_owned()
            }
            _ => String::new(),
        }
    }

    fn table(&self, samples: &Samples, seals: &[Sample], how: &str) -> String {
        let rows = |samples: &Samples| -> Vec<(String, Row, usize)> {
            let mut rows = Vec::new();
            for side in &self.sides {
                let Some(all) = samples.get(side.key()) else {
                    continue;
                };
                let wrong = all.iter().map(|sample| sample.wrong.len()).max();
                rows.push((side.label().to_owned(), Row::of(all), wrong.unwrap_or(0)));
                if *side == (Side::Ours { udp: true }) {
                    let pairs = all.iter().zip(seals);
                    let sums: Vec<Sample> = pairs
                        .map(|(copy, seal)| Sample {
                            durable_s: copy.durable_s + seal.durable_s,
                            told_s: copy.told_s + seal.told_s,
                            cpu_s: copy.cpu_s + seal.cpu_s,
                            ..Sample::default()
                        })
                        .collect();
                    let what = "the same with sealing at the source before it";
                    rows.push((what.to_owned(), Row::of(&sums), 0));
                }
            }
            rows
        };
        let yardstick = samples.get("rsync_ssh").map(|all| Row::of(all));
        let own = self.full.get("ours").map(|all| Row::of(all));
        let ratio =
            |a: f64, b: Option<f64>| b.map_or("–".to_owned(), |b| format!("{:.2}", a / b));
        let mut table = format!(
            "| {}, {how} | durable s | said to be done s | processors s | durable, x rsync over ssh | the same, its sync left out | processors, x | durable, x our own full copy | files wrong, at most |\n|---|---|---|---|---|---|---|---|---|\n",
            self.title
        );
        for (label, row, wrong) in rows(samples) {
            table += &format!(
                "| {label} | {:.2} | {:.2} | {:.2} | {} | {} | {} | {} | {wrong} |\n",
                row.durable_s,
                row.told_s,
                row.cpu_s,
                ratio(row.durable_s, yardstick.map(|y| y.durable_s)),
                ratio(row.told_s, yardstick.map(|y| y.told_s)),
                ratio(row.cpu_s, yardstick.map(|y| y.cpu_s)),
                ratio(row.durable_s, own.map(|own| own.durable_s)),
            );
        }
        table
    }
}
