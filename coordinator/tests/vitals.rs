//! What members find out about each other: a state that differs, a clock that is off, a disk that is low; and how the
//! leadership moves when its holder is told to end.
//!
//! A state is made to differ by taking a row out of a stopped member's index, with a digest that fits what is left.
mod support;

use std::path::Path;
use std::time::Duration;

use mlctl_coordinator::config::DiskConfig;
use mlctl_coordinator::state::Digest;
use mlctl_proto::api::cluster_client::ClusterClient;
use mlctl_proto::api::jobs_client::JobsClient;
use mlctl_proto::api::{CancelRequest, HelloRequest, Member};
use mlctl_proto::errors::{Code, Refusal};
use support::{Cluster, PATIENCE, get, request, submit};
use tokio::time::{Instant, sleep, timeout};
use tonic::transport::Channel;

const SPEC: &str = r#"{"command":["true"],"nodes":1}"#;
/// The table of remembered requests: nothing refers to its rows.
const REMEMBERED: u8 = 7;

/// Takes one remembered request out of a stopped member's index, and its share out of the digest.
fn plant(data_dir: &Path) {
    let dir = data_dir.join("index");
    let db = sled::open(&dir).expect("an index");
    let (key, record) = db
        .scan_prefix([REMEMBERED])
        .next()
        .expect("a remembered request")
        .expect("readable");
    let mark_key = [0xff, b'm'];
    let mut mark = db
        .get(mark_key)
        .expect("readable")
        .expect("a mark")
        .to_vec();
    let bytes: [u8; 32] = mark[8..].try_into().expect("a digest");
    let mut digest = Digest::from_bytes(bytes);
    digest.subtract(Digest::of_row(REMEMBERED, &key[1..], &record));
    mark[8..].copy_from_slice(&digest.to_bytes());
    db.remove(key).expect("removed");
    db.insert(mark_key, mark).expect("inserted");
    db.flush().expect("flushed");
}

async fn member(cluster: &Cluster, asked: usize, about: usize) -> Member {
    let channel = cluster
        .channel(asked, &cluster.user("watcher", false))
        .await;
    let mut client = ClusterClient::new(channel);
    let hello = timeout(PATIENCE, client.hello(HelloRequest::default()))
        .await
        .expect("in time")
        .expect("answers");
    hello.into_inner().members[about].clone()
}

async fn until_condition(cluster: &Cluster, asked: usize, about: usize, word: &str) -> Member {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let member = member(cluster, asked, about).await;
        if member.condition == word {
            return member;
        }
        assert!(Instant::now() < deadline, "not {word}: {member:?}");
        sleep(Duration::from_millis(50)).await;
    }
}

async fn submits(jobs: &mut JobsClient<Channel>, keys: std::ops::Range<u8>) {
    for key in keys {
        submit(jobs, key, SPEC).await.expect("taken");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_minority_of_one_stops_and_does_not_start_again() {
    let mut cluster = Cluster::start(3).await;
    let ann = cluster.user("ann", false);
    let leader = cluster.leader().await;
    let victim = (leader + 1) % 3;
    let mut jobs = cluster.jobs(leader, &ann).await;
    submits(&mut jobs, 1..5).await;
    cluster.stop(victim).await;
    plant(&cluster.data_dir(victim));
    cluster.restart(victim).await;
    let error = cluster.ends(victim).await.to_string();
    for word in ["differs from the majority's", "--rejoin"] {
        assert!(error.contains(word), "{word}: {error}");
    }
    let error = cluster.refuses(victim).await.to_string();
    assert!(error.contains("--rejoin"), "{error}");
    // The others never stopped.
    submits(&mut jobs, 5..8).await;
    let other = (victim + 1) % 3;
    until_condition(&cluster, other, victim, "Silent").await;
    for n in (0..3).filter(|n| *n != victim) {
        cluster.stop(n).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_majority_nothing_is_changed_until_the_third_one_speaks() {
    let mut cluster = Cluster::start(3).await;
    let ann = cluster.user("ann", false);
    let mut jobs = cluster.jobs(0, &ann).await;
    submits(&mut jobs, 1..5).await;
    cluster.stop(2).await;
    cluster.stop(1).await;
    plant(&cluster.data_dir(1));
    cluster.restart(1).await;
    for n in [0, 1] {
        let seen = until_condition(&cluster, n, n, "ReadOnly").await;
        assert!(seen.note.contains("no majority"), "{seen:?}");
    }
    let mut jobs = cluster.jobs(0, &ann).await;
    let refused = submit(&mut jobs, 9, SPEC).await.expect_err("read-only");
    assert_eq!(Refusal::from(&refused).code, Code::ReadOnly, "{refused}");
    assert_eq!(get(&mut jobs, "1").await.state, "Pending", "reads go on");
    cluster.restart(2).await;
    let error = cluster.ends(1).await.to_string();
    assert!(error.contains("--rejoin"), "{error}");
    until_condition(&cluster, 0, 0, "Fine").await;
    submits(&mut jobs, 10..12).await;
    cluster.stop(0).await;
    cluster.stop(2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_whose_clock_is_off_does_not_lead() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let file = cluster.data_dir(leader).join("clock-shift-ms");
    std::fs::write(&file, "-60000").expect("written");
    let seen = until_condition(&cluster, leader, leader, "ClockOff").await;
    assert!(
        seen.note.contains("60.0 s behind") || seen.note.contains("59.9 s behind"),
        "{seen:?}"
    );
    let deadline = Instant::now() + Duration::from_secs(5);
    while cluster.leader().await == leader {
        assert!(Instant::now() < deadline, "it still leads");
        sleep(Duration::from_millis(50)).await;
    }
    let other = (leader + 1) % 3;
    // It is the minority: nobody else finds fault with its own clock, and all know of it.
    assert_eq!(member(&cluster, other, other).await.condition, "Fine");
    until_condition(&cluster, other, leader, "ClockOff").await;
    std::fs::remove_file(&file).expect("removed");
    until_condition(&cluster, leader, leader, "Fine").await;
    for n in 0..3 {
        cluster.stop(n).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn low_disks_refuse_jobs_and_take_cancels() {
    let mut cluster = Cluster::start(3).await;
    let ann = cluster.user("ann", false);
    submits(&mut cluster.jobs(0, &ann).await, 1..3).await;
    // No disk has that much.
    let greedy = DiskConfig {
        reserve_mib: Some(0),
        mark_mib: Some(1 << 40),
        logs_mib: None,
    };
    let content = std::mem::replace(&mut cluster.disk, greedy);
    // One low follower can be done without.
    let one = cluster.follower().await;
    cluster.stop(one).await;
    cluster.restart(one).await;
    let asked = (one + 1) % 3;
    until_condition(&cluster, asked, one, "LowDisk").await;
    submits(&mut cluster.jobs(asked, &ann).await, 3..4).await;
    // Two cannot.
    let two = (0..3)
        .find(|n| *n != one && *n != asked)
        .expect("a third one");
    cluster.stop(two).await;
    cluster.restart(two).await;
    until_condition(&cluster, asked, two, "LowDisk").await;
    let mut jobs = cluster.jobs(asked, &ann).await;
    let deadline = Instant::now() + PATIENCE;
    let mut key = 100;
    let refused = loop {
        // A leader hears of the second one within a second.
        key += 1;
        match submit(&mut jobs, key, SPEC).await {
            Err(refused) if Refusal::from(&refused).code == Code::DiskFull => break refused,
            other => assert!(Instant::now() < deadline && key < 250, "{other:?}"),
        }
        sleep(Duration::from_millis(20)).await;
    };
    // Who asks again for what was accepted did not hear the answer: it is the same.
    submit(&mut jobs, 1, SPEC).await.expect("it is remembered");
    let directory = cluster.data_dir(one).display().to_string();
    let other = cluster.data_dir(two).display().to_string();
    let text = refused.message();
    assert!(text.contains(&directory) || text.contains(&other), "{text}");
    assert!(text.contains("free") && text.contains("mark"), "{text}");
    let cancel = CancelRequest {
        key: vec![5; 16],
        jobs: vec!["1".into()],
        filter: None,
    };
    jobs.cancel(cancel).await.expect("cancels pass");
    assert_eq!(get(&mut jobs, "1").await.state, "Cancelled");
    // There is room again.
    cluster.disk = content;
    for n in [one, two] {
        cluster.stop(n).await;
        cluster.restart(n).await;
    }
    let deadline = Instant::now() + PATIENCE;
    let mut jobs = cluster.jobs(asked, &ann).await;
    while let Err(error) = submit(&mut jobs, 6, SPEC).await {
        assert!(Instant::now() < deadline, "{error}");
        sleep(Duration::from_millis(50)).await;
    }
    for n in 0..3 {
        cluster.stop(n).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_told_to_end_hands_over_and_nobody_is_refused() {
    let mut cluster = Cluster::start(3).await;
    let ann = cluster.user("ann", false);
    let leader = cluster.leader().await;
    let asked = (leader + 1) % 3;
    let mut jobs = cluster.jobs(asked, &ann).await;
    submits(&mut jobs, 1..3).await;
    until_condition(&cluster, leader, asked, "Fine").await;
    let (stop, mut stopped) = tokio::sync::watch::channel(false);
    let client = tokio::spawn(async move {
        let (mut number, mut longest) = (100_u32, Duration::ZERO);
        while !*stopped.borrow_and_update() {
            let mut one = request(0, SPEC);
            one.key = [number.to_le_bytes(); 4].concat();
            let begun = Instant::now();
            let answer = jobs.submit(one).await;
            answer.unwrap_or_else(|refused| panic!("submit {number}: {refused}"));
            longest = longest.max(begun.elapsed());
            number += 1;
        }
        (number - 100, longest)
    });
    sleep(Duration::from_millis(300)).await;
    cluster.stop(leader).await;
    sleep(Duration::from_millis(300)).await;
    stop.send_replace(true);
    let (count, longest) = timeout(PATIENCE, client)
        .await
        .expect("in time")
        .expect("no call was refused");
    println!(
        "hand-over at the end of the leader: {count} submits, none refused, the slowest {longest:?}"
    );
    assert!(longest < Duration::from_secs(2), "{longest:?}");
    for n in (0..3).filter(|n| *n != leader) {
        cluster.stop(n).await;
    }
}
