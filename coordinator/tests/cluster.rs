//! Coordinators in one process: a job from submit to its end with an agent that is only messages, and a lost leader.
mod support;

use mlctl_proto::agent::{Events, agent_message, leader_message};
use mlctl_proto::api::cluster_client::ClusterClient;
use mlctl_proto::api::jobs_client::JobsClient;
use mlctl_proto::api::{LogLine, LogsRequest, NodesRequest, SubmitReply, WatchEvent, WatchRequest};
use mlctl_proto::errors::{Code, Refusal};
use support::script::{ended, event, push_log, run_through, start};
use support::{Agent, Cluster, PATIENCE, get, submit};
use tokio::time::timeout;
use tokio_stream::StreamExt;
use tonic::Streaming;
use tonic::transport::Channel;

const SPEC: &str = r#"{"command":["sh","-c","echo hello"],"nodes":1}"#;

fn code(status: &tonic::Status) -> Code {
    Refusal::from(status).code
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_member_takes_jobs_and_refuses_what_is_wrong() {
    let mut cluster = Cluster::start(1).await;
    let (ann, bob) = (cluster.user("ann", false), cluster.user("bob", false));
    let mut jobs = cluster.jobs(0, &ann).await;
    let one = submit(&mut jobs, 1, SPEC).await.expect("taken");
    assert_eq!((one.job.as_str(), one.name.as_str()), ("1", "sh"));
    let again = submit(&mut jobs, 1, SPEC).await.expect("the same answer");
    assert_eq!(again.job, one.job);
    let other = submit(&mut jobs, 1, &SPEC.replace("hello", "other"))
        .await
        .expect_err("another request");
    assert_eq!(code(&other), Code::KeyReused);
    assert_eq!(submit(&mut jobs, 2, SPEC).await.expect("taken").job, "2");
    wrong_submits(&mut jobs).await;
    cancels(&mut jobs, &mut cluster.jobs(0, &bob).await).await;
    // What was acknowledged is there after a restart, with and without the index.
    cluster.stop(0).await;
    cluster.restart(0).await;
    assert_eq!(
        get(&mut cluster.jobs(0, &ann).await, "2").await.state,
        "Pending"
    );
    cluster.stop(0).await;
    std::fs::remove_dir_all(cluster.data_dir(0).join("index")).expect("deleted");
    cluster.restart(0).await;
    let mut jobs = cluster.jobs(0, &ann).await;
    assert_eq!(get(&mut jobs, "1").await.state, "Cancelled");
    assert_eq!(
        submit(&mut jobs, 2, SPEC).await.expect("remembered").job,
        "2"
    );
    cluster.stop(0).await;
}

/// Nothing of this is taken.
async fn wrong_submits(jobs: &mut JobsClient<Channel>) {
    for (spec, needle) in [
        ("{", "job spec"),
        (r#"{"command":["true"],"nods":1}"#, "nods"),
        (r#"{"command":["true"],"nodes":0}"#, "nodes"),
        (r#"{"command":[]}"#, "command"),
    ] {
        let refused = submit(jobs, 9, spec).await.expect_err(needle);
        assert_eq!(code(&refused), Code::BadRequest, "{spec}");
        assert!(
            refused.message().contains(needle),
            "{spec}: {}",
            refused.message()
        );
    }
    let mut request = support::request(9, SPEC);
    request.code_manifest = "00".repeat(32);
    let missing = jobs.submit(request).await.expect_err("no such code");
    assert_eq!(code(&missing), Code::BadRequest);
    assert!(
        missing.message().contains(&"00".repeat(32)),
        "{}",
        missing.message()
    );
    let mut request = support::request(9, SPEC);
    request.key = vec![1; 3];
    assert_eq!(
        code(&jobs.submit(request).await.expect_err("a short key")),
        Code::BadRequest
    );
}

/// Ann owns jobs 1 and 2; Bob does not.
async fn cancels(jobs: &mut JobsClient<Channel>, bobs: &mut JobsClient<Channel>) {
    let cancel = |key: u8, job: &str| mlctl_proto::api::CancelRequest {
        key: vec![key; 16],
        jobs: vec![job.into()],
        filter: None,
    };
    let denied = bobs.cancel(cancel(3, "1")).await.expect_err("not his");
    assert_eq!(code(&denied), Code::Denied);
    let unknown = jobs.cancel(cancel(4, "77")).await.expect_err("none such");
    assert_eq!(code(&unknown), Code::NotFound);
    let done = jobs
        .cancel(cancel(5, "1"))
        .await
        .expect("cancelled")
        .into_inner();
    assert_eq!(done.cancelled, ["1"]);
    assert_eq!(get(jobs, "1").await.state, "Cancelled");
    let pending = get(bobs, "2").await;
    assert_eq!(
        (pending.state.as_str(), pending.owner.as_str()),
        ("Pending", "ann")
    );
    let listed = jobs
        .list(mlctl_proto::api::ListJobsRequest::default())
        .await
        .expect("listed")
        .into_inner();
    assert_eq!(
        listed
            .jobs
            .iter()
            .map(|job| job.id.as_str())
            .collect::<Vec<_>>(),
        ["2"]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_runs_through_a_follower_with_watch_and_logs() {
    let mut cluster = Cluster::start(3).await;
    let (leader, follower) = (cluster.leader().await, cluster.follower().await);
    let ann = cluster.user("ann", false);
    let mut jobs = cluster.jobs(follower, &ann).await;
    let (mut agent, channel) = greeted(&cluster, leader, follower).await;
    let submitted = submit(&mut jobs, 1, SPEC)
        .await
        .expect("taken through a follower");
    let watch = WatchRequest {
        from_index: submitted.index - 1,
        jobs: vec![submitted.job.clone()],
    };
    let mut changes = jobs.watch(watch).await.expect("watches").into_inner();
    let follow = LogsRequest {
        job: submitted.job.clone(),
        follow: true,
        ..LogsRequest::default()
    };
    let mut lines = jobs.logs(follow).await.expect("follows").into_inner();

    let order = agent.until(start).await;
    assert_eq!(
        (
            order.job_name.as_str(),
            order.owner_name.as_str(),
            order.members.len()
        ),
        ("sh", "ann", 1)
    );
    assert!(
        mlctl_runtime::telemetry::trace_context::is_valid(&order.traceparent),
        "{}",
        order.traceparent
    );
    let push = push_log(channel, &order).await;
    run_through(&mut agent, &order, 1, 0).await;

    completes(&mut changes, &submitted.job).await;
    shows_two_lines(&mut lines).await;
    drop(push);

    let job = get(&mut jobs, &submitted.job).await;
    assert_eq!((job.state.as_str(), job.attempts.len()), ("Completed", 1));
    assert_eq!(job.outcome.expect("an end").exit_code, 0);
    let nodes = ClusterClient::new(cluster.channel(follower, &ann).await)
        .nodes(NodesRequest {})
        .await
        .expect("nodes")
        .into_inner();
    assert_eq!(
        nodes
            .nodes
            .iter()
            .map(|node| (node.name.as_str(), node.state.as_str()))
            .collect::<Vec<_>>(),
        [("n1", "Ready")]
    );
    for n in 0..3 {
        cluster.stop(n).await;
    }
}

/// An agent that found the leader and holds a lease.
async fn greeted(cluster: &Cluster, leader: usize, follower: usize) -> (Agent, Channel) {
    // A coordinator that does not lead names the one that does.
    let (mut lost, _) = cluster.agent(follower, "n1").await;
    let named = lost.until(|what| match what {
        leader_message::What::NotLeader(not) => Some(not.addresses.clone()),
        _ => None,
    });
    assert_eq!(
        named.await.first().map(String::as_str),
        Some(cluster.address(leader))
    );
    let (mut agent, channel) = cluster.agent(leader, "n1").await;
    let leader_message::What::Hello(hello) = agent.next().await.expect("a hello") else {
        panic!("the first is a hello")
    };
    assert_eq!(
        (
            hello.event_mark,
            hello.heartbeat_ms,
            hello.coordinators.len()
        ),
        (0, 500, 3)
    );
    let seq = agent.heartbeat(Vec::new()).await;
    let lease = agent.until(|what| match what {
        leader_message::What::Heartbeat(answer) => Some(answer.seq),
        _ => None,
    });
    assert_eq!(lease.await, seq);
    (agent, channel)
}

async fn completes(changes: &mut Streaming<WatchEvent>, job: &str) {
    let mut states = Vec::new();
    while states.last().map(String::as_str) != Some("Completed") {
        let event = timeout(PATIENCE, changes.message())
            .await
            .expect("in time")
            .expect("goes on")
            .expect("an event");
        for change in event.changes {
            assert_eq!((change.kind.as_str(), change.id.as_str()), ("job", job));
            states.push(change.job.expect("the job").state);
        }
    }
}

async fn shows_two_lines(lines: &mut Streaming<LogLine>) {
    let mut shown = Vec::new();
    while let Some(line) = timeout(PATIENCE, lines.next()).await.expect("in time") {
        let line = line.expect("a line");
        shown.push((
            line.rank,
            String::from_utf8(line.text).expect("text"),
            line.note,
        ));
    }
    assert_eq!(
        shown,
        [
            (0, "hello".into(), String::new()),
            (0, "end".into(), String::new())
        ]
    );
}

/// As a client does while leaders change.
async fn submit_twice(jobs: &mut JobsClient<Channel>, key: u8) -> SubmitReply {
    let first = submit(jobs, key, SPEC).await;
    match first {
        Ok(taken) => taken,
        // One try of a client may end while there is no leader; it tries again with the same key.
        Err(status) => {
            assert_eq!(code(&status), Code::Unavailable, "{status:?}");
            submit(jobs, key, SPEC)
                .await
                .expect("taken by the new leader")
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_leader_serves_and_the_job_goes_on() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let ann = cluster.user("ann", false);
    let survivor = cluster.follower().await;
    let mut jobs = cluster.jobs(survivor, &ann).await;
    let (mut agent, _) = cluster.agent(leader, "n1").await;
    let first = submit(&mut jobs, 1, SPEC).await.expect("taken");
    let order = agent.until(start).await;
    cluster.stop(leader).await;
    let began = tokio::time::Instant::now();
    let second = submit_twice(&mut jobs, 2).await;
    assert!(
        began.elapsed() < std::time::Duration::from_secs(3),
        "{:?}",
        began.elapsed()
    );
    assert_eq!(second.job, "2");

    // The agent knows nothing of the order: the new leader says it again, and stops nothing.
    let leader = cluster.leader().await;
    let (mut agent, _) = cluster.agent(leader, "n1").await;
    let mut orders = vec![agent.until(start).await];
    if orders[0].job != order.job {
        orders.push(agent.until(start).await);
    }
    assert!(
        orders
            .iter()
            .any(|again| (again.job, again.epoch) == (order.job, order.epoch))
    );
    run_through(&mut agent, &order, 1, 3).await;
    let job = get(&mut jobs, &first.job).await;
    let outcome = job.outcome.expect("an end");
    assert_eq!(
        (
            job.state.as_str(),
            outcome.kind.as_str(),
            outcome.exit_code,
            outcome.by_job
        ),
        ("Failed", "Exited", 3, true)
    );

    // An event that is repeated is not applied again.
    let repeated = event(3, &order, ended(0));
    agent
        .say(agent_message::What::Events(Events {
            events: vec![repeated],
        }))
        .await;
    agent.heartbeat(Vec::new()).await;
    assert_eq!(
        get(&mut jobs, &first.job)
            .await
            .outcome
            .expect("an end")
            .exit_code,
        3
    );
    cluster.stop(leader).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_say_when_their_coordinator_goes() {
    let mut cluster = Cluster::start(3).await;
    let (leader, follower) = (cluster.leader().await, cluster.follower().await);
    let ann = cluster.user("ann", false);
    let job = submit(&mut cluster.jobs(leader, &ann).await, 1, SPEC)
        .await
        .expect("taken")
        .job;
    let mut streams = Vec::new();
    for n in [leader, follower] {
        let mut jobs = cluster.jobs(n, &ann).await;
        let watch = jobs
            .watch(WatchRequest::default())
            .await
            .expect("watches")
            .into_inner();
        let follow = LogsRequest {
            job: job.clone(),
            follow: true,
            ..LogsRequest::default()
        };
        let lines = jobs.logs(follow).await.expect("follows").into_inner();
        streams.push((watch, lines));
    }
    cluster.stop(leader).await;
    for (mut watch, mut lines) in streams {
        let ended = async {
            loop {
                match watch.message().await {
                    Ok(Some(_)) => {}
                    other => break other.expect_err("not a quiet end"),
                }
            }
        };
        let status = timeout(PATIENCE, ended).await.expect("in time");
        assert_eq!(code(&status), Code::Unavailable, "{status:?}");
        let line = timeout(PATIENCE, lines.message()).await.expect("in time");
        assert_eq!(code(&line.expect_err("not a quiet end")), Code::Unavailable);
    }
    cluster.stop(follower).await;
}
