//! A keeper with a fence, as a real process: it ends its ranks by itself, in time, with nobody to tell it.

mod processes;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use mlctl_agent::keeper::protocol::{FromKeeper, PROTOCOL, PROTOCOL_OLDEST, ToKeeper};
use mlctl_agent::keeper::read_exits;
use mlctl_agent::launch::FencePlan;
use nix::time::{ClockId, clock_gettime};
use processes::{Keeper, dies, exit, go, lives, next, to_the_end};

const FENCE: FencePlan = FencePlan {
    after_ms: 1_200,
    grace_ms: 300,
};

fn boottime() -> u64 {
    let time = clock_gettime(ClockId::CLOCK_BOOTTIME).expect("Linux has it");
    u64::try_from(Duration::from(time).as_millis()).expect("not that old")
}

fn lease(at: u64) -> ToKeeper {
    ToKeeper::Lease {
        confirmed_at_ms: at,
    }
}

/// The last rank ignores TERM.
fn fenced() -> Keeper {
    let deaf = "trap '' TERM; echo $$ > deaf; while :; do sleep 0.05; done";
    Keeper::start_with(&["echo $$ > pid; exec sleep 1000", deaf], |plan| {
        plan.fence = Some(FENCE);
    })
}

#[tokio::test]
async fn nothing_starts_without_a_lease_or_on_an_old_one() {
    let keeper = fenced();
    let mut agent = keeper.agent().await;
    assert_eq!(agent.protocol, PROTOCOL);
    for lease in [None, Some(lease(boottime().saturating_sub(1_200)))] {
        if let Some(lease) = lease {
            agent.sender.send(lease).await.expect("sent");
        }
        agent.sender.send(go()).await.expect("sent");
        let Some(FromKeeper::Refused { why }) = next(&mut agent.receiver).await else {
            panic!("it must not start");
        };
        assert!(why.contains("lease"), "{why}");
    }
    agent.sender.send(lease(boottime())).await.expect("sent");
    agent.sender.send(go()).await.expect("sent");
    assert_eq!(
        next(&mut agent.receiver).await,
        Some(FromKeeper::RanksStarted)
    );
}

#[tokio::test]
async fn ranks_end_in_time_after_the_last_lease_with_nobody_there() {
    let keeper = fenced();
    let agent = keeper.agent().await;
    let first = Instant::now();
    agent.sender.send(lease(boottime())).await.expect("sent");
    agent.sender.send(go()).await.expect("sent");
    let (pid, deaf) = (keeper.noted("pid").await, keeper.noted("deaf").await);
    // It lives as long as leases come, and no longer than the last one says.
    while first.elapsed() < Duration::from_millis(2_000) {
        agent.sender.send(lease(boottime())).await.expect("sent");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert!(lives(&pid) && lives(&deaf));
    let last = Instant::now();
    let at = boottime();
    agent.sender.send(lease(at)).await.expect("sent");
    tokio::time::sleep(Duration::from_millis(100)).await;
    drop(agent);
    assert!(dies(&pid).await);
    let term = last.elapsed();
    assert!(dies(&deaf).await);
    let kill = last.elapsed();
    let bounds = Duration::from_millis(1_150)..Duration::from_millis(1_700);
    assert!(bounds.contains(&term), "TERM after {term:?}");
    assert!(kill < Duration::from_millis(2_200), "KILL after {kill:?}");
    // Who comes later hears why.
    let status = processes::until_status(&keeper, |status| status.all_ended()).await;
    let why = status.fenced.expect("it was fenced");
    assert!(why.contains("1200 ms"), "{why}");
    let exits = status.ranks.iter().filter_map(|rank| rank.exit);
    let exits: Vec<_> = exits.collect();
    assert_eq!(exits, [exit(0, 0, 15, true), exit(1, 0, 9, true)]);
    let written = read_exits(&keeper.dir).expect("written");
    assert_eq!(written.fenced, Some(why));
}

#[tokio::test]
async fn what_ends_by_itself_was_not_fenced() {
    let keeper = Keeper::start_with(&["exit 0"], |plan| plan.fence = Some(FENCE));
    let mut agent = keeper.agent().await;
    agent.sender.send(lease(boottime())).await.expect("sent");
    agent.sender.send(go()).await.expect("sent");
    let (exits, _) = to_the_end(&mut agent.receiver).await;
    assert_eq!(exits, [exit(0, 0, 0, false)]);
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    let status = processes::until_status(&keeper, |status| status.all_ended()).await;
    assert_eq!(status.fenced, None);
}

/// Both speak the lower one of two versions, whoever is older.
#[tokio::test]
async fn an_agent_of_the_release_before_is_answered_in_its_version() {
    let keeper = Keeper::start(&["sleep 1000"]);
    let mut socket = UnixStream::connect(keeper.dir.join("keeper.sock")).expect("connected");
    let hello = format!(r#"{{"Hello":{{"protocol":{PROTOCOL_OLDEST}}}}}"#);
    let length = u32::try_from(hello.len()).expect("short").to_le_bytes();
    socket
        .write_all(&[&length[..], hello.as_bytes()].concat())
        .expect("sent");
    let mut length = [0; 4];
    socket.read_exact(&mut length).expect("an answer");
    let mut answer = vec![0; u32::from_le_bytes(length) as usize];
    socket.read_exact(&mut answer).expect("whole");
    let answer: FromKeeper = serde_json::from_slice(&answer).expect("a message");
    let FromKeeper::Hello { protocol, .. } = answer else {
        panic!("{answer:?}");
    };
    assert_eq!(protocol, PROTOCOL_OLDEST);
}
