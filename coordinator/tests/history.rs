//! Coordinators in one process whose finished jobs leave memory soon: whatever a person asks of such a job is answered as before,
//! wherever its piece of history is.
mod support;

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use mlctl_coordinator::config::HistoryConfig;
use mlctl_proto::api::jobs_client::JobsClient;
use mlctl_proto::api::{
    CancelRequest, Job, ListJobsRequest, LogsRequest, WatchRequest, WhyRequest,
};
use mlctl_proto::errors::{Code, Refusal};
use support::{Cluster, PATIENCE, get, submit};
use tokio::time::{Instant, sleep, timeout};
use tokio_stream::StreamExt;
use tonic::transport::Channel;

const KEPT: u32 = 4;
const JOBS: u8 = 60;

fn small() -> HistoryConfig {
    HistoryConfig {
        keep_finished: Some(KEPT),
        keep_finished_days: None,
        segment_bytes: Some(4 << 10),
    }
}

fn spec(n: u8) -> String {
    format!(r#"{{"command":["sh","-c","echo {}"],"nodes":1}}"#, n % 7)
}

async fn cancel(
    jobs: &mut JobsClient<Channel>,
    key: u8,
    ids: &[&str],
) -> Result<Vec<String>, Refusal> {
    let request = CancelRequest {
        key: [key, 99].repeat(8),
        jobs: ids.iter().map(|id| (*id).to_owned()).collect(),
        filter: None,
    };
    let answer = timeout(PATIENCE, jobs.cancel(request))
        .await
        .expect("answers in time");
    match answer {
        Ok(reply) => Ok(reply.into_inner().already_ended),
        Err(status) => Err(Refusal::from(&status)),
    }
}

async fn list(
    jobs: &mut JobsClient<Channel>,
    history: bool,
    limit: u32,
    after: &str,
) -> (Vec<Job>, bool) {
    let request = ListJobsRequest {
        all: true,
        history,
        limit,
        after: after.into(),
        ..ListJobsRequest::default()
    };
    let answer = timeout(PATIENCE, jobs.list(request))
        .await
        .expect("answers in time");
    let reply = answer.expect("lists").into_inner();
    (reply.jobs, reply.more)
}

fn ids(jobs: &[Job]) -> Vec<u64> {
    jobs.iter()
        .map(|job| job.id.parse().expect("a number"))
        .collect()
}

/// Jobs that came and were cancelled, all but a few of which left memory.
async fn with_history(count: usize) -> (Cluster, usize) {
    let cluster = Cluster::start_keeping(count, small()).await;
    let leader = cluster.leader().await;
    let mut jobs = cluster.jobs(leader, &cluster.user("ann", false)).await;
    for n in 1..=JOBS {
        let made = submit(&mut jobs, n, &spec(n)).await.expect("taken");
        assert_eq!(cancel(&mut jobs, n, &[&made.job]).await, Ok(vec![]));
    }
    let deadline = Instant::now() + PATIENCE;
    loop {
        let (live, _) = list(&mut jobs, false, 0, "").await;
        if live.len() == KEPT as usize {
            return (cluster, leader);
        }
        assert!(Instant::now() < deadline, "{} jobs stay", live.len());
        sleep(Duration::from_millis(20)).await;
    }
}

fn segments(cluster: &Cluster, n: usize) -> Vec<PathBuf> {
    let dir = cluster.data_dir(n).join("segments");
    let listed = fs::read_dir(dir)
        .expect("there")
        .map(|item| item.expect("listed").path());
    let mut files: Vec<PathBuf> = listed
        .filter(|path| path.extension().is_some_and(|extension| extension == "seg"))
        .collect();
    files.sort();
    files
}

/// A job as it was, but for the index at which it is shown.
async fn shown(jobs: &mut JobsClient<Channel>, id: u8) -> Job {
    let job = get(jobs, &id.to_string()).await;
    assert_eq!(
        (job.state.as_str(), job.owner.as_str()),
        ("Cancelled", "ann"),
        "job {id}"
    );
    assert_eq!(job.nodes, 1);
    let spec: serde_json::Value = serde_json::from_slice(&job.spec).expect("its spec");
    assert_eq!(spec["command"][2], format!("echo {}", id % 7));
    Job { index: 0, ..job }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_left_memory_is_answered_for_as_before() {
    let (mut cluster, _) = with_history(1).await;
    let (ann, bob) = (cluster.user("ann", false), cluster.user("bob", false));
    let mut jobs = cluster.jobs(0, &ann).await;
    for n in 1..=JOBS {
        shown(&mut jobs, n).await;
    }
    let why = jobs
        .why(WhyRequest { job: "1".into() })
        .await
        .expect("told")
        .into_inner();
    assert!(why.summary.contains("is Cancelled"), "{}", why.summary);
    lists(&mut jobs).await;

    let again = submit(&mut jobs, 1, &spec(1)).await.expect("remembered");
    assert_eq!(again.job, "1", "the key is that of an archived job");
    for client in [&mut jobs, &mut cluster.jobs(0, &bob).await] {
        let refused = cancel(client, 70, &["1"]).await.expect_err("it is over");
        assert_eq!(refused.code, Code::Conflict);
        assert!(
            refused.message.contains("job 1 ended long ago"),
            "{refused}"
        );
        let unknown = cancel(client, 71, &["9999"]).await.expect_err("never was");
        assert_eq!(unknown.code, Code::NotFound);
    }
    streams(&mut jobs).await;
    drop(jobs);

    // After a restart, with the index and without it.
    cluster.stop(0).await;
    cluster.restart(0).await;
    let mut jobs = cluster.jobs(0, &ann).await;
    lists(&mut jobs).await;
    cluster.stop(0).await;
    fs::remove_dir_all(cluster.data_dir(0).join("index")).expect("deleted");
    fs::remove_file(segments(&cluster, 0).remove(0)).expect("the log makes it again");
    cluster.restart(0).await;
    let mut jobs = cluster.jobs(0, &ann).await;
    lists(&mut jobs).await;
    shown(&mut jobs, 1).await;
    cluster.stop(0).await;
}

/// Streams about job 1, which left memory: they end, or begin with what became of it.
async fn streams(jobs: &mut JobsClient<Channel>) {
    let mut logs = jobs
        .logs(LogsRequest {
            job: "1".into(),
            follow: true,
            ..LogsRequest::default()
        })
        .await
        .expect("shown")
        .into_inner();
    let none = timeout(PATIENCE, logs.next()).await.expect("it ends");
    assert!(none.is_none(), "it never ran: {none:?}");
    // A watcher that comes late still sees what became of it.
    let mut watch = jobs
        .watch(WatchRequest {
            jobs: vec!["1".into()],
            from_index: 1,
        })
        .await
        .expect("watched")
        .into_inner();
    let event = timeout(PATIENCE, watch.next())
        .await
        .expect("in time")
        .expect("one")
        .expect("good");
    assert_eq!(
        event.changes[0].job.as_ref().map(|job| job.state.as_str()),
        Some("Cancelled")
    );
}

async fn lists(jobs: &mut JobsClient<Channel>) {
    let all: Vec<u64> = (1..=u64::from(JOBS)).collect();
    let (whole, more) = list(jobs, true, 0, "").await;
    assert_eq!((ids(&whole), more), (all.clone(), false));
    assert!(
        whole
            .iter()
            .all(|job| job.state == "Cancelled" && job.nodes == 1)
    );
    let mut paged = Vec::new();
    loop {
        let after = paged.last().map_or(String::new(), u64::to_string);
        let (page, more) = list(jobs, true, 7, &after).await;
        assert!(page.len() <= 7);
        paged.extend(ids(&page));
        if !more {
            break;
        }
    }
    assert_eq!(paged, all);
    let (live, _) = list(jobs, false, 0, "").await;
    assert_eq!(live.len(), KEPT as usize);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_lost_or_damaged_piece_comes_from_the_others() {
    let (mut cluster, leader) = with_history(3).await;
    let ann = cluster.user("ann", false);
    let mut jobs = cluster.jobs(leader, &ann).await;
    let mut truth = Vec::new();
    for n in 1..=JOBS {
        truth.push(shown(&mut jobs, n).await);
    }
    let files = segments(&cluster, leader);
    assert!(files.len() >= 2, "{} segments", files.len());
    let names = |files: &[PathBuf]| -> Vec<_> {
        files
            .iter()
            .map(|file| file.file_name().map(ToOwned::to_owned))
            .collect()
    };
    for n in 0..3 {
        let deadline = Instant::now() + PATIENCE;
        while names(&segments(&cluster, n)) != names(&files) {
            assert!(
                Instant::now() < deadline,
                "member {n} closed other segments"
            );
            sleep(Duration::from_millis(20)).await;
        }
    }
    // Under the running leader: one is deleted, the next is damaged.
    fs::remove_file(&files[0]).expect("deleted");
    let good = fs::read(&files[1]).expect("reads");
    let mut bad = good.clone();
    bad.iter_mut()
        .skip(60)
        .step_by(3)
        .for_each(|byte| *byte ^= 0x20);
    fs::write(&files[1], &bad).expect("written");
    for n in 1..=JOBS {
        assert_eq!(shown(&mut jobs, n).await, truth[usize::from(n) - 1]);
    }
    assert_eq!(
        names(&segments(&cluster, leader)),
        names(&files),
        "all are back"
    );
    assert_eq!(fs::read(&files[1]).expect("reads"), good);
    assert!(files[1].with_extension("damaged").exists());
    lists(&mut jobs).await;
    for n in 0..3 {
        cluster.stop(n).await;
    }
}
