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

    for (what, channel) in [
        ("a node", &node),
        ("a coordinator", &member),
        ("a stranger", &stranger),
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
        ("a user", &user),
        ("an admin", &admin),
        ("a node", &node),
        ("a stranger", &stranger),
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
        ("a user", &user),
        ("an admin", &admin),
        ("a coordinator", &member),
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
    let outcome = JobsClient::new(user.clone()).list(named).await;
    assert!(
        outcome
            .as_ref()
            .is_err_and(|status| status.message().contains("names another user")),
        "{outcome:?}"
    );
    denied("another user", outcome);

    // A node speaks only about itself; a member only in its own name.
    let mut other = Agent::open(node.clone(), "n2", Agent::hello("n2", "b"))
        .await
        .expect("a stream");
    denied("another node", other.next().await);
    let forged = RaftMessage {
        from: 99,
        message: vec![1],
    };
    denied(
        "another member",
        PeerClient::new(member)
            .raft(tokio_stream::iter([forged]))
            .await,
    );

    let change = || ChangeRequest {
        key: vec![7; 16],
        allow_root: Some(false),
    };
    denied(
        "a user",
        ClusterClient::new(user.clone()).change(change()).await,
    );
    ClusterClient::new(admin)
        .change(change())
        .await
        .expect("an admin may");
    let hello = ClusterClient::new(user)
        .hello(HelloRequest::default())
        .await
        .expect("hello")
        .into_inner();
    assert!(hello.user_name == "ann" && !hello.admin && hello.dev && hello.members.len() == 1);
    cluster.stop(0).await;
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn code_is_on_a_majority_before_its_job_is_taken() {
    let mut cluster = Cluster::start(3).await;
    let (leader, follower) = (cluster.leader().await, cluster.follower().await);
    let ann = cluster.user("ann", false);
    let mut blobs = BlobsClient::new(cluster.channel(follower, &ann).await);
    let mut jobs = cluster.jobs(follower, &ann).await;
    let file = vec![42_u8; 1_000_000];
    let entry = Entry {
        path: "train.py".into(),
        blob: BlobId::of(&file).to_string(),
        size: file.len() as u64,
        executable: false,
        link: None,
    };
    let manifest = Manifest::new(vec![entry]).expect("good").encode();
    let (file_id, manifest_id) = (
        BlobId::of(&file).to_string(),
        BlobId::of(&manifest).to_string(),
    );

    for (what, parts) in [
        ("a path for an id", upload("../../etc/passwd", b"x")),
        ("no id", upload("", b"x")),
        ("other bytes", upload(&file_id, b"x")),
    ] {
        let refused = blobs.put(tokio_stream::iter(parts)).await.expect_err(what);
        assert_eq!(code(&refused), Code::BadRequest, "{what}: {refused:?}");
    }
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

    // A node gets it from any coordinator, whether or not that one has it.
    let node = cluster.ca.issue_node("n1").expect("a certificate");
    for n in [leader, follower] {
        let mut bulk = BulkClient::new(cluster.channel(n, &node).await);
        let mut chunks = bulk
            .get_blob(GetBlobRequest {
                id: file_id.clone(),
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
    let mut bulk = BulkClient::new(cluster.channel(leader, &node).await);
    let nowhere = bulk
        .get_blob(GetBlobRequest { id: "0".repeat(64) })
        .await
        .expect_err("nowhere");
    assert_eq!(code(&nowhere), Code::NotFound);
    // One member less is still a majority; two are not.
    cluster.stop(follower).await;
    let mut blobs = BlobsClient::new(cluster.channel(leader, &ann).await);
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
