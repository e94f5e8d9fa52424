//! A keeper with a time limit, as a real process: its ranks hear of the end in time, and are gone when it comes, with nobody to tell it.

mod processes;

use std::time::Duration;

use mlctl_agent::keeper::deadline::{DEADLINE, Deadline};
use mlctl_agent::keeper::protocol::FromKeeper;
use mlctl_agent::keeper::read_exits;
use mlctl_agent::launch::LimitPlan;
use processes::{Keeper, exit, go, next, to_the_end};

const LIMIT: LimitPlan = LimitPlan {
    time_ms: 1_500,
    notice_ms: 500,
};

#[tokio::test]
async fn ranks_hear_of_the_end_and_are_gone_when_it_comes() {
    // One saves when it is told and exits, the other one does not listen.
    let saves = "trap 'cp $MLCTL_ATTEMPT_DIR/deadline.json saved; exit 0' TERM; while :; do sleep 0.02; done";
    let deaf = "trap '' TERM; while :; do sleep 0.02; done";
    let keeper = Keeper::start_with(&[saves, deaf], |plan| plan.limit = Some(LIMIT));
    let agent = keeper.agent().await;
    agent.sender.send(go()).await.expect("sent");
    drop(agent);
    let status = processes::until_status(&keeper, |status| status.all_ended()).await;
    let why = status.timed_out.expect("its time was over");
    assert!(why.contains("2 s"), "{why}");
    let exits: Vec<_> = status.ranks.iter().filter_map(|rank| rank.exit).collect();
    assert_eq!(exits, [exit(0, 0, 0, true), exit(1, 0, 9, true)]);
    let written = read_exits(&keeper.dir).expect("written");
    assert_eq!(written.timed_out, Some(why));
    // What the first one found when it was told.
    let text = std::fs::read(keeper.dir.join("work/saved")).expect("it was there");
    let deadline: Deadline = serde_json::from_slice(&text).expect("whole");
    assert_eq!(
        (deadline.reason.as_str(), deadline.left_ms),
        ("time_limit", 500)
    );
}

#[tokio::test]
async fn what_ends_in_time_was_not_limited() {
    let keeper = Keeper::start_with(&["exit 3"], |plan| plan.limit = Some(LIMIT));
    let mut agent = keeper.agent().await;
    agent.sender.send(go()).await.expect("sent");
    let (exits, _) = to_the_end(&mut agent.receiver).await;
    assert_eq!(exits, [exit(0, 3, 0, false)]);
    tokio::time::sleep(Duration::from_millis(1_700)).await;
    let status = processes::until_status(&keeper, |status| status.all_ended()).await;
    assert_eq!(status.timed_out, None);
    assert!(!keeper.dir.join(DEADLINE).exists());
}

#[tokio::test]
async fn time_counts_from_the_start_of_the_ranks() {
    let keeper = Keeper::start_with(&["exec sleep 1000"], |plan| plan.limit = Some(LIMIT));
    let mut agent = keeper.agent().await;
    // It waits for its gang longer than it may run.
    tokio::time::sleep(Duration::from_millis(1_700)).await;
    agent.sender.send(go()).await.expect("sent");
    assert_eq!(
        next(&mut agent.receiver).await,
        Some(FromKeeper::RanksStarted)
    );
    let Some(FromKeeper::TimedOut { .. }) = next(&mut agent.receiver).await else {
        panic!("it has not been told");
    };
}
