//! What holds for every view: a plan is accepted whole, leaves nothing that fits, and explain says what plan did.
use std::collections::{BTreeMap, BTreeSet};

use mlctl_proto::ids::JobId;
use proptest::prelude::*;

use super::*;
use crate::state::Body;
use crate::state::commands::Withdraw;
use crate::state::records::Reply;
use crate::state::rules::{Resume, fits_kind, not_yet, resume};
use crate::state::testing::script::{histories, play};
use crate::state::testing::{Cluster, system};

/// Whether a gang fits into what is free, found the slow way.
fn fits_anywhere(view: &ClusterView, job: JobId) -> bool {
    let job = view.state.job(job).expect("it is pending");
    let request = view.state.request(job).expect("it has a spec");
    let nodes: Vec<_> = view
        .state
        .nodes()
        .filter(|node| view.usable(node))
        .collect();
    let mut domains: BTreeMap<(&str, &str), u32> = BTreeMap::new();
    for node in nodes {
        let free = node.facts.devices.iter().filter(|one| {
            let held = view.state.device_holder(&node.facts.name, &one.uuid);
            held.is_none() && node.dirt_on(&one.uuid).is_none()
        });
        let free: Vec<&str> = free
            .map(|device| device.model.as_str())
            .filter(|model| fits_kind(request, model))
            .collect();
        let models: BTreeSet<&str> = free.iter().copied().collect();
        for model in models
            .iter()
            .filter(|model| free.iter().filter(|one| one == model).count() >= request.gpus as usize)
        {
            *domains.entry((&node.facts.pool, model)).or_default() += u32::from(request.gpus > 0);
        }
        let used = view.state.cpu_ranks_on(&node.facts.name);
        if request.gpus == 0 && (used == 0 || used + request.ranks <= node.facts.cpus * 8) {
            *domains.entry((&node.facts.pool, "")).or_default() += 1;
        }
    }
    domains.values().any(|nodes| *nodes >= request.nodes)
}

proptest! {
    #[test]
    fn what_a_plan_proposes_is_accepted_and_nothing_that_fits_is_left(history in histories(120), deaf in 0_usize..4) {
        let mut cluster = play(&history, false);
        cluster.checked = true;
        let heard = |cluster: &Cluster| {
            let names = cluster.state.nodes().map(|node| node.facts.name.clone()).enumerate();
            names.filter(|(number, _)| *number != deaf).map(|(_, name)| name).collect::<BTreeSet<String>>()
        };
        let before = ClusterView::new(cluster.state.clone(), heard(&cluster));
        let first = plan(&before, 0);
        prop_assert_eq!(&first, &plan(&before, 0), "a plan is a function of its view");
        for job in before.state.pending() {
            let starts = first.starts.iter().any(|start| start.job == job.id);
            prop_assert_eq!(starts, !first.explanations.contains_key(&job.id), "it starts, or there is a reason");
            let leading = explain(&before, job.id, 0).into_iter().next();
            prop_assert_eq!(leading.as_ref(), first.explanations.get(&job.id), "explain says what plan did");
        }
        if !first.withdrawn.is_empty() {
            let jobs = first.withdrawn.clone();
            cluster.run(system(), Body::Withdraw(Withdraw { jobs }));
        }
        let wanted: Vec<JobId> = first.starts.iter().map(|start| start.job).collect();
        if !wanted.is_empty() {
            prop_assert_eq!(cluster.propose(first.starts.clone()).reply, Reply::Started { jobs: wanted, refused: vec![] });
        }
        let after = ClusterView::new(cluster.state.clone(), heard(&cluster));
        // With the command time went on, so that a back-off may be over.
        let waited = |job: &JobId| matches!(first.explanations.get(job), Some(Reason::RetryBackoff { .. }));
        // Tasks of an array are spread over the nodes, fewer on each than there is room for: the next plan goes on.
        let spread = first.starts.iter().any(|start| start.wave.is_some());
        let more = plan(&after, 0).starts.into_iter().filter(|start| start.wave.is_none() && !spread);
        let late = more.filter(|start| !waited(&start.job));
        prop_assert_eq!(late.collect::<Vec<_>>(), vec![], "what fits was started at once: {:?}", first.explanations);
        for job in after.state.pending() {
            let waits_for_holder = matches!(resume(&after.state, job), Resume::From(_));
            let failed = job.retries.backs_off(after.state.now_ms()) || !job.retries.excluded.is_empty();
            let turn = not_yet(job, after.state.now_ms()).is_some();
            let ruled = explain(&after, job.id, 0).iter().any(|one| matches!(one, Reason::Rule(_)));
            let waits = ruled || waits_for_holder || failed || turn || waited(&job.id) || after.state.ends_attempt(job.id);
            prop_assert!(spread || waits || !fits_anywhere(&after, job.id), "job {} fits: {:?}", job.id, explain(&after, job.id, 0));
        }
    }
}
