//! Logs across attempts and across leaders: what was pushed is shown wherever it lies, and gaps are said.
mod support;

use mlctl_proto::agent::bulk_client::BulkClient;
use mlctl_proto::agent::{LogPiece, StartAllocation};
use mlctl_proto::api::jobs_client::JobsClient;
use mlctl_proto::api::{LogLine, LogsRequest};
use mlctl_proto::errors::{Code, Refusal};
use mlctl_proto::ids::{Epoch, JobId};
use support::script::{push_log, run_through, start};
use support::{Cluster, PATIENCE, submit};
use tokio::time::timeout;
use tokio_stream::StreamExt;
use tonic::transport::Channel;

const SPEC: &str = r#"{"command":["sh"]}"#;

fn all(job: &str) -> LogsRequest {
    LogsRequest {
        job: job.into(),
        all_attempts: true,
        ..LogsRequest::default()
    }
}

/// Texts as `ATTEMPT:TEXT`, notes as `ATTEMPT#NOTE`.
async fn read(jobs: &mut JobsClient<Channel>, request: LogsRequest) -> Vec<String> {
    let stream = timeout(PATIENCE, jobs.logs(request))
        .await
        .expect("answers in time")
        .expect("opens")
        .into_inner();
    let show = |line: LogLine| match line.note.as_str() {
        "" => format!("{}:{}", line.attempt, String::from_utf8_lossy(&line.text)),
        note => format!("{}#{note}", line.attempt),
    };
    let lines = stream.map(|line| show(line.expect("a line")));
    timeout(PATIENCE, lines.collect())
        .await
        .expect("ends in time")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_leader_shows_what_the_old_one_was_given() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let ann = cluster.user("ann", false);
    let (mut agent, channel) = cluster.agent(leader, "n1").await;
    let job = submit(&mut cluster.jobs(leader, &ann).await, 1, SPEC)
        .await
        .expect("taken")
        .job;
    let order = agent.until(start).await;
    let push = push_log(channel, &order).await;
    run_through(&mut agent, &order, 1, 0).await;
    drop(push);
    drop(agent);
    let want = ["1:hello", "1:end"];
    assert_eq!(
        read(&mut cluster.jobs(leader, &ann).await, all(&job)).await,
        want
    );

    // The old leader is back as a follower; who leads now was never pushed to.
    cluster.stop(leader).await;
    cluster.leader().await;
    cluster.restart(leader).await;
    let mut shown = Vec::new();
    for _ in 0..20 {
        let now = cluster.leader().await;
        let mut request = all(&job);
        request.follow = true;
        shown = read(&mut cluster.jobs(now, &ann).await, request).await;
        if now != leader && shown == want {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    assert_eq!(shown, want);
    for n in 0..3 {
        cluster.stop(n).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attempts_follow_one_another_and_a_lost_node_is_not_waited_for() {
    let mut cluster = Cluster::start(1).await;
    let ann = cluster.user("ann", false);
    let (one, two) = ("n1", "n2");
    let (mut agent, channel) = cluster.agent(0, one).await;
    let mut jobs = cluster.jobs(0, &ann).await;
    let job = submit(&mut jobs, 1, SPEC).await.expect("taken").job;
    let follow = LogsRequest {
        job: job.clone(),
        follow: true,
        ..LogsRequest::default()
    };
    let reader = {
        let mut jobs = jobs.clone();
        tokio::spawn(async move { read(&mut jobs, follow).await })
    };
    let order = agent.until(start).await;
    hostile_pieces(channel.clone(), &order).await;
    let push = push_log(channel, &order).await;
    drop((push, agent));

    let (mut agent, channel) = cluster.agent(0, two).await;
    let beats = async {
        loop {
            tokio::time::sleep(std::time::Duration::from_millis(300)).await;
            agent.heartbeat(Vec::new()).await;
            if let Ok(Ok(mlctl_proto::agent::leader_message::What::Start(order))) =
                timeout(std::time::Duration::from_millis(300), agent.next()).await
            {
                break order;
            }
        }
    };
    let order = timeout(PATIENCE, beats).await.expect("the job moves");
    let push = push_log(channel, &order).await;
    run_through(&mut agent, &order, 1, 0).await;
    drop(push);
    let shown = timeout(PATIENCE, reader)
        .await
        .expect("in time")
        .expect("reads");
    let want = [
        "1:hello",
        "1:end",
        "2#attempt 2 (attempt 1: NodeLost n1)",
        "2:hello",
        "2:end",
    ];
    assert_eq!(shown, want);
    assert_eq!(read(&mut jobs, all(&job)).await, want);
    let second = LogsRequest {
        attempt: 1,
        all_attempts: false,
        ..all(&job)
    };
    assert_eq!(read(&mut jobs, second).await, want[..2]);
    wrong_requests(&mut jobs, &job).await;
    cluster.stop(0).await;
}

/// The pieces of the first attempt of the first job that member `n` has.
fn pieces(cluster: &Cluster, n: usize) -> Vec<std::path::PathBuf> {
    let dir = cluster.data_dir(n).join("logs/1/1");
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let paths = entries.map(|entry| entry.path());
    paths
        .filter(|path| path.extension().is_some_and(|end| end == "piece"))
        .collect()
}

/// A job of one rank that ran to its end, and whose log was pushed to the leader, with `answers` up to the word that it is kept.
async fn ran(cluster: &Cluster, leader: usize, ann: &mlctl_runtime::identity::Bundle) -> String {
    let (mut agent, channel) = cluster.agent(leader, "n1").await;
    let mut jobs = cluster.jobs(leader, ann).await;
    let job = submit(&mut jobs, 1, SPEC).await.expect("taken").job;
    let order = agent.until(start).await;
    let mut push = push_log(channel, &order).await;
    run_through(&mut agent, &order, 1, 0).await;
    let kept = timeout(PATIENCE, push.answers.message())
        .await
        .expect("in time");
    let kept = kept.expect("goes on").expect("an answer");
    assert!(kept.end && kept.kept, "the node need not keep it: {kept:?}");
    job
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_lost_with_its_disk_takes_no_log_along() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let ann = cluster.user("ann", false);
    let job = ran(&cluster, leader, &ann).await;
    let copies: Vec<usize> = (0..3)
        .filter(|n| !pieces(&cluster, *n).is_empty())
        .collect();
    assert_eq!(copies.len(), 2, "the leader and one more: {copies:?}");
    assert!(copies.contains(&leader));

    cluster.stop(leader).await;
    std::fs::remove_dir_all(cluster.data_dir(leader)).expect("lost");
    let next = cluster.leader().await;
    // Asked of either member that is left, followed or not; the node is gone too.
    for n in (0..3).filter(|n| *n != leader) {
        for follow in [false, true] {
            let request = LogsRequest {
                follow,
                ..all(&job)
            };
            let shown = read(&mut cluster.jobs(n, &ann).await, request).await;
            assert_eq!(
                shown,
                ["1:hello", "1:end"],
                "member {n}, the leader is {next}"
            );
        }
    }
    for n in (0..3).filter(|n| *n != leader) {
        cluster.stop(n).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_piece_is_read_elsewhere_or_is_a_gap() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let ann = cluster.user("ann", false);
    let job = ran(&cluster, leader, &ann).await;
    let damage = |n: usize, by: fn(&mut Vec<u8>)| {
        for path in pieces(&cluster, n) {
            let mut bytes = std::fs::read(&path).expect("read");
            by(&mut bytes);
            std::fs::write(path, bytes).expect("written");
        }
    };
    let mut jobs = cluster.jobs(leader, &ann).await;
    damage(leader, |bytes| {
        let last = bytes.len() - 1;
        bytes[last] ^= 4;
    });
    assert_eq!(read(&mut jobs, all(&job)).await, ["1:hello", "1:end"]);
    for n in 0..3 {
        damage(n, |bytes| bytes.truncate(bytes.len() / 2));
    }
    let shown = read(&mut jobs, all(&job)).await;
    assert_eq!(
        shown,
        ["1#rank 0: 34 B are missing here: no sound copy is left"],
        "a gap and no line"
    );
    for n in 0..3 {
        cluster.stop(n).await;
    }
}

async fn wrong_requests(jobs: &mut JobsClient<Channel>, job: &str) {
    for (wrong, code) in [
        (
            LogsRequest {
                job: "77".into(),
                ..LogsRequest::default()
            },
            Code::NotFound,
        ),
        (
            LogsRequest {
                job: "x".into(),
                ..LogsRequest::default()
            },
            Code::BadRequest,
        ),
        (
            LogsRequest {
                attempt: 9,
                ..all(job)
            },
            Code::BadRequest,
        ),
        (
            LogsRequest {
                rank: Some(1),
                ..all(job)
            },
            Code::BadRequest,
        ),
    ] {
        let refused = jobs.logs(wrong.clone()).await.expect_err("refused");
        assert_eq!(Refusal::from(&refused).code, code, "{wrong:?}");
    }
}

/// Pieces that no agent sends: the stream ends with the reason, or they are thrown away; nothing is stored.
async fn hostile_pieces(channel: Channel, of: &StartAllocation) {
    let piece = |change: fn(&mut LogPiece)| {
        let mut piece = LogPiece {
            job: of.job,
            epoch: of.epoch,
            ..LogPiece::default()
        };
        change(&mut piece);
        piece
    };
    for (what, piece, code) in [
        (
            "another's rank",
            piece(|piece| piece.rank = 1),
            Code::Denied,
        ),
        (
            "no whole frames",
            piece(|piece| piece.frames = vec![1, 2, 3].into()),
            Code::BadRequest,
        ),
        (
            "too long",
            piece(|piece| piece.frames = vec![0; 300_000].into()),
            Code::LimitExceeded,
        ),
        ("no job", piece(|piece| piece.job = None), Code::BadRequest),
    ] {
        let mut bulk = BulkClient::new(channel.clone());
        let mut answers = bulk
            .push_logs(tokio_stream::iter([piece]))
            .await
            .expect("opens")
            .into_inner();
        let refused = answers.message().await.expect_err(what);
        assert_eq!(Refusal::from(&refused).code, code, "{what}");
    }
    let mut unknown = piece(|piece| piece.offset = 10);
    unknown.job = Some(JobId::new(1, 77).into());
    unknown.epoch = Some(Epoch::new(1, 1).into());
    let mut bulk = BulkClient::new(channel);
    let mut answers = bulk
        .push_logs(tokio_stream::iter([unknown]))
        .await
        .expect("opens")
        .into_inner();
    let answer = answers
        .message()
        .await
        .expect("goes on")
        .expect("an answer");
    assert_eq!((answer.offset, answer.end), (10, false));
}
