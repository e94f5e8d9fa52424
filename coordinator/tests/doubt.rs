//! A node falls silent and comes back, over the wire: its attempt goes on, unless another took over.
//! Does NOT run ranks: agents here only say what they would.
mod support;

use mlctl_proto::agent::{
    AgentHello, AttemptPhase, AttemptStatus, Events, StartAllocation, agent_message, leader_message,
};
use mlctl_proto::api::jobs_client::JobsClient;
use mlctl_proto::api::{Job, WatchRequest};
use support::script::{ended, event, exited, run_through, start};
use support::{Agent, Cluster, PATIENCE, get, submit};
use tokio::time::timeout;
use tokio_stream::StreamExt;
use tonic::transport::Channel;

const SPEC: &str = r#"{"command":["true"]}"#;

/// A job whose node says no more, as far as that it waits again; with the order that the node got.
async fn silent(cluster: &Cluster) -> (JobsClient<Channel>, String, StartAllocation) {
    let ann = cluster.user("ann", false);
    let mut jobs = cluster.jobs(0, &ann).await;
    let (mut agent, _) = cluster.agent(0, "n1").await;
    let job = submit(&mut jobs, 1, SPEC).await.expect("taken");
    let order = agent.until(start).await;
    let watch = WatchRequest {
        from_index: job.index,
        jobs: vec![job.job.clone()],
    };
    let mut changes = jobs.watch(watch).await.expect("watches").into_inner();
    drop(agent);
    let waits = async {
        while let Some(event) = changes.next().await {
            let changes = event.expect("goes on").changes.into_iter();
            let newest = changes.filter_map(|change| change.job).next_back();
            if newest.is_some_and(|job: Job| job.state == "Pending") {
                return;
            }
        }
        panic!("the watch ended");
    };
    timeout(PATIENCE, waits).await.expect("in time");
    (jobs, job.job, order)
}

/// The first node is back and says that it still runs what it was given.
async fn back(cluster: &Cluster, order: &StartAllocation) -> Agent {
    let node = cluster.ca.issue_node("n1").expect("a certificate");
    let status = AttemptStatus {
        probe: None,
        job: order.job,
        epoch: order.epoch,
        phase: AttemptPhase::Running.into(),
        master_port: 40_000,
        moving_up_to: 0,
    };
    let hello = AgentHello {
        attempts: vec![status],
        ..Agent::hello("n1", "boot-1")
    };
    let channel = cluster.channel(0, &node).await;
    Agent::open(channel, "n1", hello).await.expect("opens")
}

async fn ends_well(agent: &mut Agent, order: &StartAllocation) {
    let events = vec![event(1, order, exited(0)), event(2, order, ended(0))];
    agent
        .say(agent_message::What::Events(Events { events }))
        .await;
    let applied = agent.until(|what| match what {
        leader_message::What::EventsApplied(applied) => Some(applied.up_to),
        _ => None,
    });
    assert_eq!(applied.await, 2, "acknowledged, whether it counts or not");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_comes_back_before_another_took_over_goes_on() {
    let mut cluster = Cluster::start(1).await;
    let (mut jobs, job, order) = silent(&cluster).await;
    let doubtful = get(&mut jobs, &job).await;
    assert_eq!(doubtful.attempts[0].end, None, "nobody knows");
    let mut agent = back(&cluster, &order).await;
    ends_well(&mut agent, &order).await;
    let now = get(&mut jobs, &job).await;
    assert_eq!((now.state.as_str(), now.attempts.len()), ("Completed", 1));
    cluster.stop(0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_comes_back_after_another_took_over_is_told_to_stop() {
    let mut cluster = Cluster::start(1).await;
    let (mut jobs, job, order) = silent(&cluster).await;
    let (mut second, _) = cluster.agent(0, "n2").await;
    let successor = second.until(start).await;
    run_through(&mut second, &successor, 1, 3).await;
    let mut agent = back(&cluster, &order).await;
    let stopped = agent.until(|what| match what {
        leader_message::What::Stop(stop) => Some((stop.job, stop.epoch)),
        _ => None,
    });
    assert_eq!(stopped.await, (order.job, order.epoch));
    ends_well(&mut agent, &order).await;
    let now = get(&mut jobs, &job).await;
    let ends: Vec<&str> = now
        .attempts
        .iter()
        .filter_map(|one| Some(one.end.as_ref()?.kind.as_str()))
        .collect();
    assert_eq!(
        (now.state.as_str(), ends),
        ("Failed", vec!["NodeLost", "Exited"])
    );
    cluster.stop(0).await;
}
