//! What many runs add up to, for people and as a record. Does NOT run anything.

use std::time::Duration;

use serde_json::{Value, json};

use super::{Counts, Mark, Marks, Report};

/// What many runs add up to.
#[derive(Debug, Clone, Default)]
pub struct Totals {
    /// Seeds that were run.
    pub seeds: u64,
    /// Faults, by kind.
    pub counts: Counts,
    /// Rare paths that were taken.
    pub marks: Marks,
    simulated_ms: u64,
    elections: u64,
    acknowledged: u64,
    entries: u64,
    /// Runs in which a property did not hold.
    pub violations: Vec<Report>,
}

impl Totals {
    /// Adds one run.
    pub fn add(&mut self, report: Report) {
        self.seeds += 1;
        self.simulated_ms += report.simulated_ms;
        self.counts.add(&report.counts);
        self.marks.add(&report.marks);
        self.elections += report.elections;
        self.acknowledged += report.acknowledged;
        self.entries += report.entries;
        if report.violation.is_some() {
            self.violations.push(report);
        }
    }

    /// Simulated hours of a whole cluster.
    pub fn hours(&self) -> f64 {
        self.simulated_ms as f64 / 3_600_000.0
    }

    fn kinds(&self) -> Vec<(&'static str, u64)> {
        let mut kinds = self.counts.kinds();
        kinds.push(("elections", self.elections));
        kinds
    }

    /// Some lines for people.
    pub fn text(&self, took: Duration) -> String {
        let (hours, seconds) = (self.hours(), took.as_secs_f64());
        let per_hour = |(name, count): (&str, u64)| format!("{name} {:.1}", count as f64 / hours);
        let kinds: Vec<String> = self.kinds().into_iter().map(per_hour).collect();
        let mark = |mark: Mark| format!("{} {}", mark.words(), self.marks.count(mark));
        let marks: Vec<String> = Mark::ALL.into_iter().map(mark).collect();
        format!(
            "{} seeds, {hours:.1} cluster-hours in {seconds:.0} s ({:.0} a minute), {} entries, {} acknowledged jobs\n  faults an hour: {}\n  marks: {}\n  {} violations",
            self.seeds,
            hours * 60.0 / seconds,
            self.entries,
            self.acknowledged,
            kinds.join(", "),
            marks.join(", "),
            self.violations.len()
        )
    }

    /// The record of these runs of `commit`, of `hours` each, from seed `from` on.
    pub fn record(&self, commit: &str, hours: u64, from: u64, took: Duration) -> Value {
        let kinds: serde_json::Map<String, Value> = self
            .kinds()
            .into_iter()
            .map(|(name, count)| (name.to_owned(), json!(count)))
            .collect();
        let marks: serde_json::Map<String, Value> = Mark::ALL
            .into_iter()
            .map(|mark| (mark.words().to_owned(), json!(self.marks.count(mark))))
            .collect();
        let violations: Vec<String> = self.violations.iter().map(explain).collect();
        json!({
            "commit": commit,
            "seeds": self.seeds,
            "from": from,
            "hours_per_seed": hours,
            "cluster_hours": (self.hours() * 10.0).round() / 10.0,
            "seconds": took.as_secs(),
            "entries": self.entries,
            "acknowledged_jobs": self.acknowledged,
            "faults": kinds,
            "marks": marks,
            "violations": violations,
        })
    }
}

impl Counts {
    /// Each kind of fault by its name.
    fn kinds(&self) -> Vec<(&'static str, u64)> {
        vec![
            ("crashes", self.crashes),
            ("power cuts", self.power_cuts),
            ("cuts", self.cuts),
            ("pauses", self.pauses),
            ("clock jumps", self.clock_jumps),
            ("full disks", self.full_disks),
            ("memory flips", self.memory_flips),
            ("bit flips", self.bit_flips),
            ("journals lost", self.journals_lost),
            ("nodes away in a calm", self.away),
            ("hand-overs", self.hand_overs),
            ("losses", self.losses),
            ("messages", self.messages),
            ("restarts", self.restarts),
        ]
    }

    fn add(&mut self, other: &Self) {
        self.crashes += other.crashes;
        self.power_cuts += other.power_cuts;
        self.cuts += other.cuts;
        self.pauses += other.pauses;
        self.clock_jumps += other.clock_jumps;
        self.full_disks += other.full_disks;
        self.memory_flips += other.memory_flips;
        self.bit_flips += other.bit_flips;
        self.journals_lost += other.journals_lost;
        self.away += other.away;
        self.hand_overs += other.hand_overs;
        self.losses += other.losses;
        self.messages += other.messages;
        self.restarts += other.restarts;
    }
}

/// What is wrong with a run, and how to see it again.
pub fn explain(report: &Report) -> String {
    match &report.violation {
        Some(violation) => format!(
            "seed {}: {} does not hold at {} ms: {}\n  replay: {}",
            report.seed,
            violation.property,
            report.simulated_ms,
            violation.what,
            report.replay()
        ),
        None => format!("seed {}: every property held", report.seed),
    }
}

/// The commit of the working tree; a tree with changes says so. Ask it before a long run: it may be another one afterwards.
pub fn commit() -> String {
    let git = |words: &[&str]| {
        let said = std::process::Command::new("git").args(words).output().ok();
        let said = said.filter(|said| said.status.success())?;
        Some(String::from_utf8_lossy(&said.stdout).trim().to_owned())
    };
    let Some(commit) = git(&["rev-parse", "HEAD"]) else {
        return "unknown".into();
    };
    match git(&["status", "--porcelain"]) {
        Some(changes) if changes.is_empty() => commit,
        _ => format!("{commit}, with changes"),
    }
}
