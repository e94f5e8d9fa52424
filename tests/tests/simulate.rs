//! The trace simulator against published figures, and the policies against the rule that nobody knows how long a job will run.
use mlctl_coordinator::scheduler::engine::propose;
use mlctl_coordinator::simulation::cluster::{Cluster, NodeKind};
use mlctl_coordinator::simulation::synthetic::{Shape, generate};
use mlctl_coordinator::simulation::{Options, Report, Trace, causality, settings, simulate};
use mlctl_coordinator::state::view::policy::Policy;
use mlctl_coordinator::state::view::scene::Scene;
use mlctl_tests::simulate::lengths::Lengths;
use mlctl_tests::simulate::{easy, fifo, files, sjf, srtf};
use mlctl_tests::tidy::skips::skip;

fn small() -> (Trace, Cluster) {
    let kind = NodeKind {
        count: 4,
        gpu_type: "V100".into(),
        gpus: 8,
        amounts: None,
    };
    let cluster = Cluster { kinds: vec![kind] };
    let shape = Shape {
        hours: 24,
        load_per_mille: 1_500,
        ..Shape::narrow(32, 8, 150)
    };
    (generate(&shape, 11), cluster)
}

fn near(found: f64, published: f64, part: f64) -> bool {
    (found - published).abs() <= published * part
}

#[test]
fn fifo_and_easy_come_to_the_published_figures() {
    let Some(folder) = files::folder() else {
        skip(
            "fifo_and_easy_come_to_the_published_figures",
            "MLCTL_TRACES names no folder with philly_1w.csv.gz; docs/SCHEDULING.md says where it is published",
        );
        return;
    };
    let trace = files::trace(&folder, "philly_1w").expect("a load");
    let cluster = files::cluster(&folder, "philly-64x8").expect("a cluster");
    let settings = settings::shipped(Policy::Fair);
    let run =
        simulate(&trace, &cluster, &settings, &Options::default(), fifo::fifo).expect("a run");
    let report = Report::of(&run);
    assert!(
        near(report.all.avg_jct_s, 16_845.0, 0.02),
        "FIFO's JCT: {}",
        report.all.avg_jct_s
    );
    assert!(
        near(report.all.avg_queue_s, 9_276.0, 0.02),
        "FIFO's queue: {}",
        report.all.avg_queue_s
    );
    let lengths = Lengths(trace.lengths_ms.clone());
    let planner = |scene: &Scene, now: i64| easy::easy_oracle(&lengths, scene, now);
    let run = simulate(&trace, &cluster, &settings, &Options::default(), planner).expect("a run");
    let report = Report::of(&run);
    assert!(
        near(report.all.avg_jct_s, 12_611.0, 0.15),
        "EASY's JCT: {}",
        report.all.avg_jct_s
    );
    assert!(
        near(report.all.avg_queue_s, 5_042.0, 0.15),
        "EASY's queue: {}",
        report.all.avg_queue_s
    );
}

#[test]
fn oracles_wait_less_than_who_knows_nothing() {
    let (trace, cluster) = small();
    let settings = settings::shipped(Policy::Fair);
    let lengths = Lengths(trace.lengths_ms.clone());
    let queue =
        |planner: &dyn Fn(&Scene, i64) -> mlctl_coordinator::scheduler::plan::Proposal<()>| {
            let run =
                simulate(&trace, &cluster, &settings, &Options::default(), planner).expect("a run");
            Report::of(&run).all.avg_queue_s
        };
    let first = queue(&fifo::fifo);
    let easy = queue(&|scene, now| easy::easy_oracle(&lengths, scene, now));
    let shortest = queue(&|scene, now| sjf::sjf_oracle(&lengths, scene, now));
    let left = queue(&|scene, now| srtf::srtf_oracle(&lengths, scene, now));
    assert!(
        easy < first && shortest < first && left < shortest,
        "{first} {easy} {shortest} {left}"
    );
}

#[test]
fn no_plan_of_the_product_depends_on_how_long_jobs_will_run() {
    let (trace, cluster) = small();
    for policy in [Policy::Fair, Policy::Las] {
        let settings = settings::shipped(policy);
        let verdict = causality::check(
            &trace,
            &cluster,
            &settings,
            &Options::default(),
            (50, 1),
            |_| Box::new(propose),
        );
        let verdict = verdict.expect("a run");
        assert_eq!((verdict.broken, verdict.instants), (None, 50), "{policy:?}");
        assert!(
            verdict.replaced > 500,
            "{policy:?} replaced {}",
            verdict.replaced
        );
    }
}

#[test]
fn an_oracle_is_found_out() {
    let (trace, cluster) = small();
    let settings = settings::shipped(Policy::Fair);
    let verdict = causality::check(
        &trace,
        &cluster,
        &settings,
        &Options::default(),
        (50, 1),
        |trace| {
            let lengths = Lengths(trace.lengths_ms.clone());
            Box::new(move |scene: &Scene, now: i64| sjf::sjf_oracle(&lengths, scene, now))
        },
    );
    assert!(verdict.expect("a run").broken.is_some());
}

#[test]
fn passes_between_events_find_nothing_new() {
    let (trace, cluster) = small();
    for policy in [Policy::Fair, Policy::Las] {
        let settings = settings::shipped(policy);
        let options = Options {
            safety_ms: Some(30_000),
            ..Options::default()
        };
        let run = simulate(&trace, &cluster, &settings, &options, propose);
        let run = run.unwrap_or_else(|error| panic!("{policy:?}: {error}"));
        assert_eq!(
            run.records
                .iter()
                .filter(|one| one.end_ms.is_some())
                .count(),
            trace.jobs.len()
        );
    }
}
