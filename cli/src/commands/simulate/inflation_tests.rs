//! Filling a cluster: the same seed gives the same result, and the own placement leaves less unused than chance. Does NOT time it.
use mlctl_coordinator::state::view::amounts::Amounts;
use mlctl_coordinator::state::view::ask::{Gpus, Kind, Near, Prefer, Width};
use mlctl_coordinator::state::view::nodes::{DeviceView, Open, Sharing};

use super::*;

const ALL: [Placer; 5] = [
    Placer::Own,
    Placer::Baseline(Baseline::Random),
    Placer::Baseline(Baseline::BestFit),
    Placer::Baseline(Baseline::Packing),
    Placer::Baseline(Baseline::Fgd),
];

fn cluster() -> Vec<NodeView> {
    let node = |at: usize, model: &str, count: usize| {
        let has = Amounts {
            cpu_milli: 12_000 * count as u64,
            memory: 100 * count as u64,
            disk: 0,
            ranks: 0,
        };
        let device = |number: usize| DeviceView {
            uuid: format!("{at}-{number}").into(),
            model: model.into(),
            memory: 0,
            free: 7_000,
            slices: None,
            island: 0,
            numa: 0,
            shared_by: "".into(),
        };
        NodeView {
            name: format!("n{at:03}").into(),
            boot_id: "".into(),
            pool: "p".into(),
            network: "x".into(),
            racks: vec![],
            open: Open::Now,
            devices: (0..count).map(device).collect(),
            has,
            free: has,
            owner: None,
            sharing: Sharing::Any,
            labels: Arc::from([]),
            windows: vec![],
        }
    };
    let large = (0..20).map(|at| node(at, "g2", 8));
    large.chain((20..40).map(|at| node(at, "t4", 2))).collect()
}

fn job(gpus: Gpus, cpu_milli: u64, kind: Option<&str>) -> Arc<Ask> {
    let kind = kind.map(|name| Kind {
        name: name.to_owned(),
        memory: 0,
    });
    Arc::new(Ask {
        nodes: Width::Exactly(1),
        gpus,
        ranks: 1,
        amounts: Some(Amounts {
            cpu_milli,
            memory: 10,
            disk: 0,
            ranks: 0,
        }),
        kinds: kind.into_iter().collect(),
        pools: vec![],
        mix: false,
        near: Near::Prefer,
        prefer: Prefer::Type,
        licenses: vec![],
        labels: vec![],
    })
}

fn jobs() -> Vec<Arc<Ask>> {
    let mut jobs = vec![
        job(Gpus::Whole(8), 80_000, None),
        job(Gpus::Whole(1), 8_000, Some("t4")),
        job(Gpus::None, 4_000, None),
    ];
    for _ in 0..6 {
        jobs.push(job(Gpus::Whole(1), 10_000, None));
        jobs.push(job(Gpus::Share(3_290), 6_000, None));
        jobs.push(job(Gpus::Share(5_670), 3_000, None));
    }
    jobs
}

#[test]
fn the_same_seed_gives_the_same_result_and_the_same_arrivals_for_every_placer() {
    let (nodes, jobs) = (cluster(), jobs());
    for seed in 0..3 {
        let runs: Vec<Inflated> = ALL
            .iter()
            .map(|placer| inflate(&nodes, &jobs, *placer, seed))
            .collect();
        for (run, placer) in runs.iter().zip(ALL) {
            assert_eq!(*run, inflate(&nodes, &jobs, placer, seed), "{placer:?}");
            assert_eq!(run.arrived, runs[0].arrived, "{placer:?}");
            assert!(
                run.units <= run.all && run.placed <= run.arrived,
                "{placer:?}"
            );
            assert_eq!(run.all, 200 * GPU);
        }
    }
}

#[test]
fn the_own_placement_leaves_less_unused_than_chance_and_than_what_it_learnt_from() {
    let (nodes, jobs) = (cluster(), jobs());
    let sum = |placer| {
        SEEDS
            .map(|seed| inflate(&nodes, &jobs, placer, seed).units)
            .sum::<u64>()
    };
    let own = sum(Placer::Own);
    assert!(own > sum(Placer::Baseline(Baseline::Random)));
    assert!(own >= sum(Placer::Baseline(Baseline::Fgd)));
}

#[test]
fn without_jobs_or_without_gpus_it_ends() {
    assert_eq!(inflate(&cluster(), &[], Placer::Own, 0).arrived, 0);
    let run = inflate(&[], &jobs(), Placer::Own, 0);
    assert_eq!((run.units, run.all), (0, 0));
    assert_eq!(run.allocated_pct(), 0.0);
}
