//! What is reported of a run. Floats are averages of integers, made here and nowhere else. Does NOT print.
#![allow(
    clippy::disallowed_types,
    reason = "averages are reported as floats, and nothing is decided by them"
)]

use std::collections::BTreeMap;
use std::sync::Arc;

use mlctl_proto::units::UtcMs;

use super::run::Outcome;
use super::trace::TraceJob;
use super::world::World;
use crate::scheduler::plan::Taken;
use crate::state::view::amounts::GPU;

/// Slowdowns are taken as of at least this length, milliseconds: a job of a second that waits for one is no scandal.
const SLOWDOWN_LEAST_MS: u64 = 60_000;

/// One job's way through the run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its virtual cluster.
    pub vc: Arc<str>,
    /// Units of GPUs.
    pub units: u64,
    /// Submit.
    pub submit_ms: UtcMs,
    /// Its length by the trace.
    pub length_ms: u64,
    /// When it started first.
    pub first_start_ms: Option<UtcMs>,
    /// When it ended.
    pub end_ms: Option<UtcMs>,
    /// How often others took its devices.
    pub evictions: u32,
}

impl Record {
    /// Before the run.
    pub fn new(job: &TraceJob, length_ms: u64) -> Self {
        Self {
            vc: job.vc.clone(),
            units: job.units,
            submit_ms: job.submit_ms,
            length_ms,
            first_start_ms: None,
            end_ms: None,
            evictions: 0,
        }
    }

    /// End - submit, milliseconds, once it has ended.
    pub fn jct_ms(&self) -> Option<u64> {
        Some(self.end_ms?.saturating_sub(self.submit_ms).unsigned_abs())
    }

    /// JCT - length, milliseconds: everything that is not progress.
    pub fn queue_ms(&self) -> Option<u64> {
        Some(self.jct_ms()?.saturating_sub(self.length_ms))
    }
}

/// Sums over the run's time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Meter {
    /// Units of the cluster.
    capacity: u64,
    /// Milliseconds that passed.
    passed_ms: u128,
    /// Units held x milliseconds.
    held: u128,
    /// Units free on nodes that are partly held x milliseconds, while something waits.
    broken: u128,
    /// Units free x milliseconds, while something waits.
    free: u128,
    /// Milliseconds in which something waited.
    waiting_ms: u128,
    /// Plans made.
    pub passes: u64,
    /// Attempts that had to go, by why.
    pub evictions: BTreeMap<Taken, u64>,
    /// Evictions for a beneficiary that was evicted itself before long.
    pub in_vain: u64,
}

impl Meter {
    /// Of a cluster of so many units.
    pub fn new(capacity: u64) -> Self {
        Self {
            capacity,
            ..Self::default()
        }
    }

    /// Time passes and nothing changes.
    pub fn pass(&mut self, ms: i64, world: &World<'_>) {
        let ms = u128::from(ms.unsigned_abs());
        self.passed_ms = self.passed_ms.saturating_add(ms);
        self.held = self
            .held
            .saturating_add(u128::from(world.held).saturating_mul(ms));
        if !world.scene.waiting.is_empty() {
            let free = self.capacity.saturating_sub(world.held);
            self.waiting_ms = self.waiting_ms.saturating_add(ms);
            self.free = self
                .free
                .saturating_add(u128::from(free).saturating_mul(ms));
            self.broken = self
                .broken
                .saturating_add(u128::from(world.broken).saturating_mul(ms));
        }
    }

    /// Somebody had to go.
    pub fn evicted(&mut self, why: Taken, in_vain: bool) {
        let count = self.evictions.entry(why).or_insert(0);
        *count = count.saturating_add(1);
        self.in_vain = self.in_vain.saturating_add(u64::from(in_vain));
    }
}

/// Averages and 99th percentiles of a class of jobs, seconds.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Figures {
    /// How many.
    pub jobs: usize,
    /// Average JCT.
    pub avg_jct_s: f64,
    /// 99th percentile of the JCT.
    pub p99_jct_s: f64,
    /// Average queue.
    pub avg_queue_s: f64,
    /// 99th percentile of the queue.
    pub p99_queue_s: f64,
}

/// All that is said of a run.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Report {
    /// All jobs that ended.
    pub all: Figures,
    /// Those of at most 1 GPU.
    pub single: Figures,
    /// Those of 2 to 8.
    pub node: Figures,
    /// Those of more than 8.
    pub wide: Figures,
    /// Part of the cluster's GPU time that was held, until the last end.
    pub utilization: f64,
    /// While something waited: part of the free GPUs that were on partly used nodes.
    pub fragmentation: f64,
    /// While something waited: part of the cluster's GPUs that were free.
    pub idle_while_waiting: f64,
    /// Attempts that had to go.
    pub preemptions: u64,
    /// The same by why.
    pub preemptions_by: BTreeMap<&'static str, u64>,
    /// For a beneficiary that was evicted itself within 10 minutes.
    pub preemptions_in_vain: u64,
    /// First submit to last end, seconds.
    pub makespan_s: f64,
    /// Mean slowdown of each virtual cluster's jobs.
    pub slowdown: BTreeMap<Arc<str>, f64>,
    /// The largest of these over the smallest.
    pub slowdown_spread: f64,
    /// Plans made.
    pub passes: u64,
}

impl Report {
    /// What there is to say of a run.
    pub fn of(outcome: &Outcome) -> Self {
        let records = || outcome.records.iter();
        let gpus = |record: &Record| record.units.div_ceil(GPU);
        let meter = &outcome.meter;
        let slowdown = slowdowns(outcome);
        let bounds = slowdown.values().copied();
        let (low, high) = bounds.fold((f64::MAX, 0.0_f64), |(low, high), one| {
            (low.min(one), high.max(one))
        });
        let first = records().map(|one| one.submit_ms).min().unwrap_or(0);
        let last = records()
            .filter_map(|one| one.end_ms)
            .max()
            .unwrap_or(first);
        let capacity = u128::from(meter.capacity);
        Self {
            all: figures(records()),
            single: figures(records().filter(|one| gpus(one) <= 1)),
            node: figures(records().filter(|one| (2..=8).contains(&gpus(one)))),
            wide: figures(records().filter(|one| gpus(one) > 8)),
            utilization: ratio(meter.held, capacity.saturating_mul(meter.passed_ms)),
            fragmentation: ratio(meter.broken, meter.free),
            idle_while_waiting: ratio(meter.free, capacity.saturating_mul(meter.waiting_ms)),
            preemptions: meter.evictions.values().sum(),
            preemptions_by: meter
                .evictions
                .iter()
                .map(|(why, count)| (name(*why), *count))
                .collect(),
            preemptions_in_vain: meter.in_vain,
            makespan_s: seconds(last.saturating_sub(first).unsigned_abs()),
            slowdown_spread: if low > 0.0 && low < f64::MAX {
                high / low
            } else {
                1.0
            },
            slowdown,
            passes: meter.passes,
        }
    }
}

fn name(why: Taken) -> &'static str {
    match why {
        Taken::Entitlement => "entitlement",
        Taken::Overtime => "overtime",
        Taken::Guest => "guest",
        Taken::Slice => "slice",
        Taken::Surplus => "surplus",
    }
}

fn slowdowns(outcome: &Outcome) -> BTreeMap<Arc<str>, f64> {
    let mut sums: BTreeMap<Arc<str>, (f64, u32)> = BTreeMap::new();
    for record in &outcome.records {
        if let Some(queue_ms) = record.queue_ms() {
            let length_ms = record.length_ms.max(SLOWDOWN_LEAST_MS);
            let (sum, count) = sums.entry(record.vc.clone()).or_default();
            *sum += seconds(length_ms.saturating_add(queue_ms)) / seconds(length_ms);
            *count = count.saturating_add(1);
        }
    }
    sums.into_iter()
        .map(|(vc, (sum, count))| (vc, sum / f64::from(count.max(1))))
        .collect()
}

fn figures<'r>(records: impl Iterator<Item = &'r Record>) -> Figures {
    let (mut jcts, mut queues): (Vec<u64>, Vec<u64>) = records
        .filter_map(|one| Some((one.jct_ms()?, one.queue_ms()?)))
        .unzip();
    jcts.sort_unstable();
    queues.sort_unstable();
    Figures {
        jobs: jcts.len(),
        avg_jct_s: average(&jcts),
        p99_jct_s: percentile_99(&jcts),
        avg_queue_s: average(&queues),
        p99_queue_s: percentile_99(&queues),
    }
}

fn average(sorted_ms: &[u64]) -> f64 {
    let sum: u128 = sorted_ms.iter().map(|one| u128::from(*one)).sum();
    ratio(sum, sorted_ms.len() as u128) / 1_000.0
}

/// The nearest rank.
fn percentile_99(sorted_ms: &[u64]) -> f64 {
    let rank = sorted_ms.len().saturating_mul(99).div_ceil(100);
    sorted_ms
        .get(rank.saturating_sub(1))
        .map_or(0.0, |one| seconds(*one))
}

#[allow(
    clippy::cast_precision_loss,
    reason = "sums below 2^53 ms are exact, larger ones are averages anyway"
)]
fn ratio(part: u128, whole: u128) -> f64 {
    if whole == 0 {
        0.0
    } else {
        part as f64 / whole as f64
    }
}

fn seconds(ms: u64) -> f64 {
    ratio(u128::from(ms), 1_000)
}
