//! What may be changed of a trace before it runs: width, submit times, load. Each draws from its own seeded generator. Does NOT change GPU-hours.
use super::random::Random;
use super::trace::Trace;
use crate::state::view::amounts::GPU;

/// Widths, in GPUs, that [`widen`] gives.
const WIDTHS: [u64; 5] = [16, 24, 32, 48, 64];

/// Gives `parts_per_million` of the jobs that use whole GPUs one of the widths; each keeps its GPU-hours, so it gets shorter (or longer).
pub fn widen(trace: &Trace, parts_per_million: u64, seed: u64) -> Trace {
    let mut random = Random::new(seed, "widen");
    let pairs = trace.pairs().map(|(job, length_ms)| {
        let chosen = random.chance(parts_per_million);
        let at = usize::try_from(random.below(WIDTHS.len() as u64)).unwrap_or(0);
        let width = WIDTHS.get(at).copied().unwrap_or(16);
        if !chosen || job.units < GPU {
            return (job.clone(), length_ms);
        }
        let mut job = job.clone();
        let length_ms = length_ms.saturating_mul(job.gpus()).div_ceil(width).max(1);
        job.units = width.saturating_mul(GPU);
        job.amounts = crate::state::view::amounts::Amounts::NONE;
        (job, length_ms)
    });
    Trace::sorted(pairs.collect())
}

/// Moves each submit by up to `by_ms` either way.
pub fn jitter(trace: &Trace, by_ms: u64, seed: u64) -> Trace {
    let mut random = Random::new(seed, "jitter");
    let span = by_ms.saturating_mul(2).saturating_add(1);
    let pairs = trace.pairs().map(|(job, length_ms)| {
        let moved = i64::try_from(random.below(span)).unwrap_or(0);
        let back = i64::try_from(by_ms).unwrap_or(0);
        let mut job = job.clone();
        job.submit_ms = job
            .submit_ms
            .saturating_add(moved)
            .saturating_sub(back)
            .max(0);
        (job, length_ms)
    });
    Trace::sorted(pairs.collect())
}

/// Multiplies the load by `per_mille` / 1,000: the same jobs arrive in less time.
pub fn load(trace: &Trace, per_mille: u64) -> Trace {
    let per_mille = i64::try_from(per_mille.max(1)).unwrap_or(i64::MAX);
    let pairs = trace.pairs().map(|(job, length_ms)| {
        let mut job = job.clone();
        job.submit_ms = job.submit_ms.saturating_mul(1_000) / per_mille;
        (job, length_ms)
    });
    Trace::sorted(pairs.collect())
}
