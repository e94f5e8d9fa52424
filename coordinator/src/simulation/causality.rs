//! The machine check that no plan depends on how long jobs will still run: the lengths of all jobs that have not ended by an instant are replaced, and the plans
//! before that instant must be the same bytes. Does NOT judge plans.
use std::fmt;

use mlctl_proto::units::UtcMs;

use super::cluster::Cluster;
use super::random::Random;
use super::run::{Options, SimulationError, simulate};
use super::trace::Trace;
use super::world::id_of;
use crate::scheduler::plan::Proposal;
use crate::state::view::policy::SchedSettings;
use crate::state::view::scene::Scene;

/// What came out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Instants that were tried.
    pub instants: usize,
    /// Plans that were compared.
    pub plans: usize,
    /// Lengths that were replaced.
    pub replaced: usize,
    /// The first instant of a plan that differs, and the instant before which it should not.
    pub broken: Option<(UtcMs, UtcMs)>,
}

/// Tries `instants` random instants. `planner` makes one for a load: an oracle may keep its lengths, and is found out; the product's policies ignore it.
///
/// # Errors
/// A run could not go on.
pub fn check<R: fmt::Debug>(
    trace: &Trace,
    cluster: &Cluster,
    settings: &SchedSettings,
    options: &Options,
    (instants, seed): (usize, u64),
    mut planner: impl FnMut(&Trace) -> Box<dyn FnMut(&Scene, UtcMs) -> Proposal<R>>,
) -> Result<Verdict, SimulationError> {
    let options = Options {
        record_plans: true,
        until_ms: None,
        ..options.clone()
    };
    let whole = simulate(trace, cluster, settings, &options, planner(trace))?;
    let last = whole.plans.last().map_or(0, |(at, _)| at.unsigned_abs());
    let mut random = Random::new(seed, "causality");
    let mut verdict = Verdict::default();
    for _ in 0..instants {
        let until = i64::try_from(random.below(last.saturating_add(1))).unwrap_or(0);
        let options = Options {
            until_ms: Some(until),
            ..options.clone()
        };
        let known = simulate(trace, cluster, settings, &options, planner(trace))?;
        let mut other = trace.clone();
        for (place, length_ms) in other.lengths_ms.iter_mut().enumerate() {
            let job = id_of(place);
            let submitted = trace
                .jobs
                .get(place)
                .is_some_and(|job| job.submit_ms < until);
            let elapsed = match known.unended_ms.get(&job) {
                Some(elapsed) => *elapsed,
                None if submitted => continue,
                None => 0,
            };
            verdict.replaced = verdict.replaced.saturating_add(1);
            *length_ms = another(&mut random, elapsed, *length_ms);
        }
        let altered = simulate(&other, cluster, settings, &options, planner(&other))?;
        verdict.instants = verdict.instants.saturating_add(1);
        verdict.plans = verdict.plans.saturating_add(known.plans.len());
        if let Some(at) = first_difference(&known.plans, &altered.plans) {
            verdict.broken = Some((at, until));
            return Ok(verdict);
        }
    }
    Ok(verdict)
}

/// Another length, larger than what has elapsed.
fn another(random: &mut Random, elapsed_ms: u64, length_ms: u64) -> u64 {
    let bits = random.below(30);
    let more = random.below(1 << bits).saturating_add(1_000);
    let drawn = elapsed_ms.saturating_add(more);
    if drawn == length_ms {
        drawn.saturating_add(1)
    } else {
        drawn
    }
}

fn first_difference(one: &[(UtcMs, [u8; 32])], other: &[(UtcMs, [u8; 32])]) -> Option<UtcMs> {
    let differs = one.iter().zip(other).find(|(one, other)| one != other);
    let differs = differs.map(|(one, _)| one.0);
    let longer = one.get(other.len()).or_else(|| other.get(one.len()));
    differs.or(longer.map(|(at, _)| *at))
}
