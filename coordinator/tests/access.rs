//! Who may call what, and uploads, on the wire: real certificates against a real server.
mod support;

use mlctl_blobs::BlobId;
use mlctl_blobs::code::{Entry, Manifest};
use mlctl_proto::agent::GetBlobRequest;
use mlctl_proto::agent::bulk_client::BulkClient;
use mlctl_proto::api::blobs_client::BlobsClient;
use mlctl_proto::api::cluster_client::ClusterClient;
use mlctl_proto::api::jobs_client::JobsClient;
use mlctl_proto::api::{ChangeRequest, HelloRequest, ListJobsRequest, MissingRequest, PutBlob};
use mlctl_proto::errors::{Code, Refusal};
use mlctl_proto::peer::peer_client::PeerClient;
use mlctl_proto::peer::{FetchBlobRequest, HasBlobsRequest, RaftMessage};
use support::{Agent, Cluster};
use tonic::transport::Channel;
use tonic::{Request, Status};

const SPEC: &str = r#"{"command":["true"]}"#;

fn code(status: &Status) -> Code {
    Refusal::from(status).code
}

fn denied<T: std::fmt::Debug>(what: &str, outcome: Result<T, Status>) {
    let status = outcome.expect_err(what);
    assert_eq!(code(&status), Code::Denied, "{what}: {status:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_role_is_kept_to_its_calls() {
    let mut cluster = Cluster::start(1).await;
    let user = cluster.channel(0, &cluster.user("ann", false)).await;
    let admin = cluster.channel(0, &cluster.user("root", true)).await;
    let node = cluster
        .channel(0, &cluster.ca.issue_node("n1").expect("a certificate"))
        .await;
    let member = cluster
        .channel(
            0,
            &cluster.ca.issue_coordinator("c1").expect("a certificate"),
        )
        .await;
    let stranger = cluster
        .channel(
            0,
            &cluster.ca.issue_coordinator("c9").expect("a certificate"),
        )
        .await;

    let all = Callers {
        user,
        admin,
        node,
        member,
        stranger,
    };
    wrong_roles(&all).await;
    forged_names(&all).await;
    let change = || ChangeRequest {
        key: vec![7; 16],
        allow_root: Some(false),
        ..ChangeRequest::default()
    };
    denied(
        "a user",
        ClusterClient::new(all.user.clone()).change(change()).await,
    );
    ClusterClient::new(all.admin)
        .change(change())
        .await
        .expect("an admin may");
    let hello = ClusterClient::new(all.user)
        .hello(HelloRequest::default())
        .await
        .expect("hello")
        .into_inner();
    assert!(hello.user_name == "ann" && !hello.admin && hello.dev && hello.members.len() == 1);
    cluster.stop(0).await;
}

struct Callers {
    user: Channel,
    admin: Channel,
    node: Channel,
    member: Channel,
    stranger: Channel,
}

/// Calls that are not for the role.
async fn wrong_roles(all: &Callers) {
    for (what, channel) in [
        ("a node", &all.node),
        ("a coordinator", &all.member),
        ("a stranger", &all.stranger),
    ] {
        denied(
            what,
            JobsClient::new(channel.clone())
                .submit(support::request(1, SPEC))
                .await,
        );
        denied(
            what,
            JobsClient::new(channel.clone())
                .list(ListJobsRequest::default())
                .await,
        );
        denied(
            what,
            ClusterClient::new(channel.clone())
                .hello(HelloRequest::default())
                .await,
        );
        denied(
            what,
            BlobsClient::new(channel.clone())
                .missing(MissingRequest::default())
                .await,
        );
    }
    for (what, channel) in [
        ("a user", &all.user),
        ("an admin", &all.admin),
        ("a node", &all.node),
        ("a stranger", &all.stranger),
    ] {
        let mut peer = PeerClient::new(channel.clone());
        denied(what, peer.has_blobs(HasBlobsRequest::default()).await);
        denied(what, peer.fetch_blob(FetchBlobRequest::default()).await);
        denied(
            what,
            peer.raft(tokio_stream::iter([RaftMessage::default()]))
                .await,
        );
    }
    for (what, channel) in [
        ("a user", &all.user),
        ("an admin", &all.admin),
        ("a coordinator", &all.member),
    ] {
        denied(
            what,
            BulkClient::new(channel.clone())
                .get_blob(GetBlobRequest::default())
                .await,
        );
        let opened = Agent::open(channel.clone(), "n1", Agent::hello("n1", "b")).await;
        denied(what, opened.map(|_| ()));
    }
}

/// Calls in a name that is not the caller's.
async fn forged_names(all: &Callers) {
    // Only coordinators pass calls on; a user who names another is told so.
    let mut named = Request::new(ListJobsRequest::default());
    for (key, value) in [
        ("mlctl-actor-id", "u-00000000"),
        ("mlctl-actor-name", "root"),
        ("mlctl-actor-admin", "1"),
    ] {
        named
            .metadata_mut()
            .insert(key, value.parse().expect("ascii"));
    }
    let outcome = JobsClient::new(all.user.clone()).list(named).await;
    assert!(
        outcome
            .as_ref()
            .is_err_and(|status| status.message().contains("names another user")),
        "{outcome:?}"
    );
    denied("another user", outcome);

    // A node speaks only about itself; a member only in its own name.
    let mut other = Agent::open(all.node.clone(), "n2", Agent::hello("n2", "b"))
        .await
        .expect("a stream");
    denied("another node", other.next().await);
    let message = |from| RaftMessage {
        from,
        message: vec![1],
    };
    denied(
        "another member",
        PeerClient::new(all.member.clone())
            .raft(tokio_stream::iter([message(11), message(99)]))
            .await,
    );
}

fn upload(id: &str, bytes: &[u8]) -> Vec<PutBlob> {
    let mut parts: Vec<PutBlob> = bytes
        .chunks(100_000)
        .map(|data| PutBlob {
            id: String::new(),
            data: data.to_vec(),
        })
        .collect();
    if parts.is_empty() {
        parts.push(PutBlob::default());
    }
    parts[0].id = id.to_owned();
    parts
}

fn entry(file: &[u8]) -> Entry {
    Entry {
        path: "train.py".into(),
        blob: BlobId::of(file).to_string(),
        size: file.len() as u64,
        executable: false,
        link: None,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn code_is_on_a_majority_before_its_job_is_taken() {
    let cluster = Cluster::start(3).await;
    let (leader, follower) = (cluster.leader().await, cluster.follower().await);
    let ann = cluster.user("ann", false);
    let mut blobs = BlobsClient::new(cluster.channel(follower, &ann).await);
    let mut jobs = cluster.jobs(follower, &ann).await;
    let file = vec![42_u8; 1_000_000];
    let manifest = Manifest::new(vec![entry(&file)]).expect("good").encode();
    let (file_id, manifest_id) = (
        BlobId::of(&file).to_string(),
        BlobId::of(&manifest).to_string(),
    );

    refused_uploads(&mut blobs, &file_id).await;
    let ids = MissingRequest {
        ids: vec![file_id.clone(), manifest_id.clone()],
    };
    let missing = blobs
        .missing(ids.clone())
        .await
        .expect("answers")
        .into_inner()
        .ids;
    assert_eq!(missing.len(), 2);

    let put = blobs
        .put(tokio_stream::iter(upload(&manifest_id, &manifest)))
        .await
        .expect("stored")
        .into_inner();
    assert!(put.copies >= 2, "{} copies", put.copies);
    let mut request = support::request(1, SPEC);
    request.code_manifest = manifest_id.clone();
    let refused = jobs
        .submit(request.clone())
        .await
        .expect_err("a file is missing");
    assert_eq!(code(&refused), Code::BadRequest);
    assert!(
        refused.message().contains(&file_id),
        "{}",
        refused.message()
    );

    blobs
        .put(tokio_stream::iter(upload(&file_id, &file)))
        .await
        .expect("stored");
    blobs
        .put(tokio_stream::iter(upload(&file_id, &file)))
        .await
        .expect("stored already");
    assert!(
        blobs
            .missing(ids)
            .await
            .expect("answers")
            .into_inner()
            .ids
            .is_empty()
    );
    jobs.submit(request).await.expect("taken");

    fetched_anywhere(&cluster, &[leader, follower], &file_id, &file).await;
    without_a_majority(cluster, leader, follower).await;
}

async fn refused_uploads(blobs: &mut BlobsClient<Channel>, file_id: &str) {
    for (what, parts) in [
        ("a path for an id", upload("../../etc/passwd", b"x")),
        ("no id", upload("", b"x")),
        ("other bytes", upload(file_id, b"x")),
    ] {
        let refused = blobs.put(tokio_stream::iter(parts)).await.expect_err(what);
        assert_eq!(code(&refused), Code::BadRequest, "{what}: {refused:?}");
    }
}

/// A node gets a blob from any coordinator, whether or not that one has it.
async fn fetched_anywhere(cluster: &Cluster, members: &[usize], file_id: &str, file: &[u8]) {
    let node = cluster.ca.issue_node("n1").expect("a certificate");
    for n in members {
        let mut bulk = BulkClient::new(cluster.channel(*n, &node).await);
        let mut chunks = bulk
            .get_blob(GetBlobRequest {
                id: file_id.to_owned(),
            })
            .await
            .expect("there")
            .into_inner();
        let mut got = Vec::new();
        while let Some(chunk) = chunks.message().await.expect("goes on") {
            got.extend_from_slice(&chunk.data);
        }
        assert!(got == file, "{} bytes", got.len());
    }
    let mut bulk = BulkClient::new(cluster.channel(members[0], &node).await);
    let nowhere = bulk
        .get_blob(GetBlobRequest { id: "0".repeat(64) })
        .await
        .expect_err("nowhere");
    assert_eq!(code(&nowhere), Code::NotFound);
}

/// One member less is still a majority; two are not.
async fn without_a_majority(mut cluster: Cluster, leader: usize, follower: usize) {
    cluster.stop(follower).await;
    let mut blobs = BlobsClient::new(cluster.channel(leader, &cluster.user("ann", false)).await);
    let small = BlobId::of(b"small").to_string();
    assert_eq!(
        blobs
            .put(tokio_stream::iter(upload(&small, b"small")))
            .await
            .expect("stored")
            .into_inner()
            .copies,
        2
    );
    let last = (0..3)
        .find(|n| ![leader, follower].contains(n))
        .expect("three members");
    cluster.stop(last).await;
    let alone = BlobId::of(b"alone").to_string();
    let refused = blobs
        .put(tokio_stream::iter(upload(&alone, b"alone")))
        .await
        .expect_err("no majority");
    assert_eq!(code(&refused), Code::Unavailable);
    cluster.stop(leader).await;
}
