//! Seeded loads of the same form as recorded ones, for those who have none: bursts, day and night, many short jobs, few long ones that make most of the load,
//! and gangs. Does NOT imitate one trace: it has the shape that published ones share.
use std::sync::Arc;

use super::random::Random;
use super::trace::{Trace, TraceJob};
use crate::state::view::amounts::{Amounts, GPU};

const HOUR_MS: u64 = 3_600_000;

/// What a load is like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shape {
    /// Jobs.
    pub jobs: u32,
    /// From the first submit to the last, hours.
    pub hours: u64,
    /// GPUs of the cluster.
    pub gpus: u64,
    /// GPUs of each node.
    pub per_node: u32,
    /// Asked GPU time over the cluster's, per mille.
    pub load_per_mille: u64,
    /// Widths in GPUs with their parts of a million.
    pub widths: Vec<(u64, u64)>,
    /// Virtual clusters.
    pub vcs: u32,
    /// Users of each.
    pub users: u32,
}

impl Shape {
    /// One week of single-GPU jobs with some gangs.
    pub fn narrow(gpus: u64, per_node: u32, jobs: u32) -> Self {
        let widths = vec![
            (1, 860_000),
            (2, 50_000),
            (4, 45_000),
            (8, 35_000),
            (16, 7_000),
            (32, 3_000),
        ];
        Self {
            jobs,
            hours: 168,
            gpus,
            per_node,
            load_per_mille: 900,
            widths,
            vcs: 8,
            users: 12,
        }
    }

    /// Training of large models: most GPU time is in gangs.
    pub fn gangs(gpus: u64, per_node: u32, jobs: u32) -> Self {
        let widths = vec![
            (1, 500_000),
            (4, 90_000),
            (8, 250_000),
            (16, 70_000),
            (32, 50_000),
            (64, 30_000),
            (128, 10_000),
        ];
        Self {
            jobs,
            hours: 168,
            gpus,
            per_node,
            load_per_mille: 850,
            widths,
            vcs: 5,
            users: 6,
        }
    }
}

/// A load of that shape. Lengths are scaled so that the load is as asked.
pub fn generate(shape: &Shape, seed: u64) -> Trace {
    let mut random = Random::new(seed, "synthetic");
    let span_ms = shape.hours.saturating_mul(HOUR_MS).max(1);
    let mut drawn: Vec<(TraceJob, u64)> = Vec::new();
    while drawn.len() < usize::try_from(shape.jobs).unwrap_or(usize::MAX) {
        let at = submit(&mut random, span_ms);
        let vc = random.below(u64::from(shape.vcs.max(1)));
        let user = random.below(u64::from(shape.users.max(1)));
        let gpus = width(&mut random, shape);
        let length_ms = length(&mut random);
        // One in twelve submits is a burst: a sweep by hand, of alike jobs.
        let burst = if gpus <= 8 && random.below(12) == 0 {
            2 + random.below(24)
        } else {
            1
        };
        for _ in 0..burst {
            let varied = length_ms.saturating_mul(700 + random.below(600)) / 1_000;
            let moved = at.saturating_add(random.below(20_000));
            drawn.push((job(moved, gpus, shape, vc, user), varied.max(1_000)));
        }
    }
    drawn.truncate(usize::try_from(shape.jobs).unwrap_or(usize::MAX));
    scale(&mut drawn, shape, span_ms);
    let mut trace = Trace::sorted(drawn);
    for (place, job) in trace.jobs.iter_mut().enumerate() {
        job.name = Arc::from(format!("s{place}"));
    }
    trace
}

fn job(submit_ms: u64, gpus: u64, shape: &Shape, vc: u64, user: u64) -> TraceJob {
    TraceJob {
        name: Arc::from(""),
        submit_ms: i64::try_from(submit_ms / 1_000 * 1_000).unwrap_or(i64::MAX),
        units: gpus.saturating_mul(GPU),
        per_node_max: shape.per_node,
        user: Arc::from(format!("u{vc}-{user}")),
        vc: Arc::from(format!("vc{vc}")),
        kinds: Vec::new(),
        amounts: Amounts::NONE,
    }
}

/// By day three times as many as by night.
fn submit(random: &mut Random, span_ms: u64) -> u64 {
    loop {
        let at = random.below(span_ms);
        let hour = at / HOUR_MS % 24;
        if (8..20).contains(&hour) || random.below(3) == 0 {
            return at;
        }
    }
}

fn width(random: &mut Random, shape: &Shape) -> u64 {
    let mut at = random.below(1_000_000);
    for (gpus, part) in &shape.widths {
        if at < *part {
            return (*gpus).min(shape.gpus.max(1));
        }
        at = at.saturating_sub(*part);
    }
    1
}

/// Each power of two between 16 s and 6 days about as likely as the next, the short ones more.
fn length(random: &mut Random) -> u64 {
    let first = random.below(16);
    let power = first.min(random.below(16)).saturating_add(4);
    let base = 1_000_u64 << power;
    base.saturating_add(random.below(base))
}

/// Scales lengths above an hour, which make the load, until it is as asked.
fn scale(drawn: &mut [(TraceJob, u64)], shape: &Shape, span_ms: u64) {
    let wanted =
        u128::from(shape.gpus) * u128::from(span_ms) * u128::from(shape.load_per_mille) / 1_000;
    let work = |job: &TraceJob, ms: u64| u128::from(job.gpus()) * u128::from(ms);
    let (mut short, mut long) = (0_u128, 0_u128);
    for (job, ms) in drawn.iter() {
        let sum = if *ms < HOUR_MS { &mut short } else { &mut long };
        *sum = sum.saturating_add(work(job, *ms));
    }
    let left = wanted.saturating_sub(short).max(1);
    for (_, ms) in drawn.iter_mut().filter(|(_, ms)| *ms >= HOUR_MS) {
        let scaled = u128::from(*ms).saturating_mul(left) / long.max(1);
        *ms = u64::try_from(scaled).unwrap_or(u64::MAX).max(60_000);
    }
}
