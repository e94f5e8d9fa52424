//! A coordinator whose data directory is gone or damaged comes back under a new member id, over real TLS.
//!
//! Does not damage files at random: the tests inside `consensus` do.
mod support;

use std::fs;

use mlctl_proto::api::HelloRequest;
use mlctl_proto::api::cluster_client::ClusterClient;
use mlctl_proto::api::jobs_client::JobsClient;
use mlctl_proto::peer::peer_client::PeerClient;
use mlctl_proto::peer::{JoinRequest, RaftMessage};
use support::{Cluster, PATIENCE, get, submit};
use tokio::time::{Duration, Instant, sleep};
use tonic::Code;
use tonic::transport::Channel;

const SPEC: &str = r#"{"command":["true"]}"#;

/// Waits until coordinator `n` answers that it votes and that somebody leads.
async fn votes(cluster: &Cluster, n: usize) {
    let admin = cluster.user("watcher", false);
    let deadline = Instant::now() + 2 * PATIENCE;
    loop {
        let channel =
            mlctl_runtime::tls::channel(&admin, cluster.address(n), Duration::from_secs(1)).await;
        if let Ok(channel) = channel {
            let hello = ClusterClient::new(channel)
                .hello(HelloRequest::default())
                .await;
            let members = hello.map(|hello| hello.into_inner().members);
            let members = members.unwrap_or_default();
            let votes = members.iter().any(|member| member.self_ && !member.learner);
            if votes && members.iter().any(|member| member.leader) {
                return;
            }
        }
        assert!(Instant::now() < deadline, "coordinator {n} does not vote");
        sleep(Duration::from_millis(50)).await;
    }
}

/// The id that stands in the data directory.
fn id(cluster: &Cluster, n: usize) -> u64 {
    let text = fs::read_to_string(cluster.data_dir(n).join("raft/member.json")).expect("reads");
    let file: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    file["id"].as_u64().expect("a number")
}

/// Submits as clients do: again with the same key while nobody leads.
async fn taken(jobs: &mut JobsClient<Channel>, key: u8) -> String {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match submit(jobs, key, SPEC).await {
            Ok(reply) => return reply.job,
            Err(error) => assert!(
                error.code() == Code::Unavailable && Instant::now() < deadline,
                "{error}"
            ),
        }
        sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wiped_and_a_damaged_coordinator_come_back_as_new_members() {
    let mut cluster = Cluster::start(3).await;
    let ann = cluster.user("ann", false);
    let mut submitted = Vec::new();
    let leader = cluster.leader().await;
    let mut jobs = cluster.jobs(leader, &ann).await;
    submitted.push(taken(&mut jobs, 1).await);

    // Wiped: the follower's whole directory, and under a new id it votes again.
    let follower = cluster.follower().await;
    let first = id(&cluster, follower);
    cluster.stop(follower).await;
    fs::remove_dir_all(cluster.data_dir(follower)).expect("removes");
    submitted.push(taken(&mut jobs, 2).await);
    cluster.rejoin(follower).await;
    votes(&cluster, follower).await;
    let second = id(&cluster, follower);
    assert_ne!(first, second);

    // The flag changes nothing for a directory that is sound.
    cluster.stop(follower).await;
    cluster.rejoin(follower).await;
    votes(&cluster, follower).await;
    assert_eq!(id(&cluster, follower), second);

    // Damaged: the leader's log. The one that re-joined is needed for the majority now.
    let leader = cluster.leader().await;
    cluster.stop(leader).await;
    let log = cluster
        .data_dir(leader)
        .join("raft/log/0000000000000001.raftlog");
    let mut bytes = fs::read(&log).expect("reads");
    bytes[100] ^= 1;
    fs::write(&log, bytes).expect("writes");
    let next = cluster.leader().await;
    let mut jobs = cluster.jobs(next, &ann).await;
    submitted.push(taken(&mut jobs, 3).await);
    cluster.rejoin(leader).await;
    votes(&cluster, leader).await;
    let aside = cluster.data_dir(leader).join("raft.damaged-1/log");
    assert!(aside.exists(), "the damaged directory is kept");

    // Both who re-joined are a majority: what was acknowledged is there.
    cluster.stop(next).await;
    if next != leader && next != follower {
        let leader = cluster.leader().await;
        let mut jobs = cluster.jobs(leader, &ann).await;
        submitted.push(taken(&mut jobs, 4).await);
    }
    cluster.restart(next).await;
    votes(&cluster, next).await;
    let leader = cluster.leader().await;
    let mut jobs = cluster.jobs(leader, &ann).await;
    for job in submitted {
        assert_eq!(get(&mut jobs, &job).await.id, job);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_a_coordinator_joins_and_only_in_its_own_name() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let own = format!("c{}", leader + 1);
    let bundle = |name: &str| cluster.ca.issue_coordinator(name).expect("a certificate");
    let other = if own == "c1" { "c2" } else { "c1" };
    let join = |name: &str, id| JoinRequest {
        name: name.into(),
        id,
        address: "127.0.0.1:1".into(),
    };
    let refusal = |answer: Result<_, tonic::Status>, word: &str| {
        let text = answer.expect_err("refused").message().to_owned();
        assert!(text.contains(word), "{text} has no {word:?}");
    };
    let mut client = PeerClient::new(cluster.channel(leader, &bundle(other)).await);
    refusal(
        client.join(join("c9", 77)).await.map(drop),
        "asks to join as",
    );
    refusal(client.join(join(other, 0)).await.map(drop), "not 0");
    let taken = id(&cluster, leader);
    refusal(client.join(join(other, taken)).await.map(drop), &own);
    let follower = cluster.follower().await;
    let mut aside = PeerClient::new(cluster.channel(follower, &bundle(other)).await);
    refusal(aside.join(join(other, 77)).await.map(drop), "does not lead");
    // Nobody speaks for a member of another name.
    let forged = RaftMessage {
        from: taken,
        message: vec![1],
    };
    let stream = client.raft(tokio_stream::iter([forged])).await;
    refusal(stream.map(drop), "in the name of");

    // A learner whose name's voter still answers is never promoted: it is let in, and the voters stay who they are.
    let reply = client.join(join(other, 77)).await.expect("let in");
    let again = client.join(join(other, 77)).await.expect("let in again");
    assert_eq!(reply.into_inner().members, again.into_inner().members);
    sleep(Duration::from_secs(2)).await;
    let position = usize::from(other == "c2");
    let text = fs::read_to_string(cluster.data_dir(position).join("raft/member.json"));
    let file: serde_json::Value = serde_json::from_str(&text.expect("reads")).expect("JSON");
    assert_eq!(file["members"]["learners"], serde_json::json!([77]));
    let voters = file["members"]["voters"].as_array().expect("a list");
    assert_eq!(voters.len(), 3);
    let leader = cluster.leader().await;
    cluster.stop(leader).await;
    cluster.restart(leader).await;
    cluster.leader().await;
}
