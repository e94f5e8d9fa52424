//! A keeper and its ranks, as real processes: what ranks are, how they end, what they leave behind.

mod processes;

use std::time::{Duration, Instant};

use mlctl_agent::keeper::protocol::{FromKeeper, Phase, ToKeeper};
use mlctl_agent::keeper::{Written, read_exits};
use nix::sys::signal::Signal;
use processes::{Keeper, dies, exit, go, lives, next, signal, skip, to_the_end, until};

async fn ends_as(scripts: &[&str], want: &[mlctl_agent::keeper::protocol::Exit]) -> Keeper {
    let keeper = Keeper::start(scripts);
    let mut agent = keeper.running().await;
    let (mut exits, failed) = to_the_end(&mut agent.receiver).await;
    exits.sort_by_key(|exit| exit.rank);
    assert_eq!((exits.as_slice(), failed), (want, None), "{scripts:?}");
    let mut written = read_exits(&keeper.dir).expect("written");
    written.exits.sort_by_key(|exit| exit.rank);
    assert_eq!(
        written,
        Written {
            tasks: mlctl_agent::core::TaskEnds::default(),
            exits: want.to_vec(),
            all_ended: true,
            launch_failed: None,
            fenced: None,
            timed_out: None,
        }
    );
    keeper
}

#[tokio::test]
async fn codes_and_signals_are_told() {
    let keeper = ends_as(
        &["echo out; echo err >&2; echo $RANK $MASTER_ADDR:$MASTER_PORT"],
        &[exit(0, 0, 0, false)],
    )
    .await;
    let mut log = keeper.log(0);
    log.sort();
    assert_eq!(log, ["0 127.0.0.1:4711", "2:err", "out"]);
    ends_as(&["exit 3"], &[exit(0, 3, 0, false)]).await;
    ends_as(&["exit 255"], &[exit(0, 255, 0, false)]).await;
    ends_as(&["kill -SEGV $$"], &[exit(0, 0, 11, false)]).await;
    ends_as(&["kill -40 $$"], &[exit(0, 0, 40, false)]).await;
    ends_as(
        &["exit 0", "sleep 0.2; exit 0"],
        &[exit(0, 0, 0, false), exit(1, 0, 0, false)],
    )
    .await;
}

#[tokio::test]
async fn one_failing_rank_ends_the_others() {
    let keeper = Keeper::start(&[
        "trap 'exit 9' TERM; echo > ready; while :; do sleep 0.05; done",
        "until [ -e ready ]; do sleep 0.02; done; exit 4",
    ]);
    let mut agent = keeper.running().await;
    let (exits, _) = to_the_end(&mut agent.receiver).await;
    assert_eq!(
        exits,
        [exit(1, 4, 0, false), exit(0, 9, 0, true)],
        "the first failure comes first and is not ours"
    );
}

#[tokio::test]
async fn a_torchrun_that_stays_after_a_failure_is_ended() {
    let told = "echo 'ERROR:torch.distributed.elastic.multiprocessing.api:failed (exitcode: -11) local_rank: 1 (pid: 9) of binary: x' >&2";
    let torchrun = |script: &str| {
        Keeper::start_with(&[script], |plan| {
            plan.method = mlctl_proto::spec::LaunchMethod::Torchrun
        })
    };
    // It stays, or it ends at once with a code of its own: the rank's own end is told, and is not ours.
    for after in ["sleep 1000", "exit 1"] {
        let keeper = torchrun(&format!("{told}; {after}"));
        let mut agent = keeper.running().await;
        assert_eq!(
            to_the_end(&mut agent.receiver).await.0,
            [exit(0, 0, 11, false)],
            "{after}"
        );
    }
    // Once it is being ended, such words say nothing.
    let keeper = torchrun(&format!(
        "trap \"{}; exit 1\" TERM; echo > ready; while :; do sleep 0.05; done",
        told
    ));
    let mut agent = keeper.running().await;
    keeper.noted("ready").await;
    agent
        .sender
        .send(ToKeeper::Stop { grace_ms: 5000 })
        .await
        .expect("sent");
    assert_eq!(
        to_the_end(&mut agent.receiver).await.0,
        [exit(0, 1, 0, true)]
    );
    // No other launch method listens for them.
    ends_as(&[told], &[exit(0, 0, 0, false)]).await;
}

#[tokio::test]
async fn ranks_that_ignore_term_or_are_stopped_end_after_the_grace() {
    let ignore = "trap '' TERM; echo > ready0; while :; do sleep 0.05; done";
    let stopped = "trap '' TERM; echo > ready1; kill -STOP $$; while :; do sleep 0.05; done";
    let keeper = Keeper::start(&[ignore, stopped, "echo > ready2; kill -STOP $$; sleep 1000"]);
    let mut agent = keeper.running().await;
    for rank in 0..3 {
        keeper.noted(&format!("ready{rank}")).await;
    }
    let begin = Instant::now();
    agent
        .sender
        .send(ToKeeper::Stop { grace_ms: 400 })
        .await
        .expect("sent");
    let (mut exits, _) = to_the_end(&mut agent.receiver).await;
    exits.sort_by_key(|exit| exit.rank);
    assert_eq!(
        exits,
        [
            exit(0, 0, 9, true),
            exit(1, 0, 9, true),
            exit(2, 0, 15, true)
        ]
    );
    let took = begin.elapsed();
    assert!(
        took >= Duration::from_millis(400) && took < Duration::from_secs(5),
        "{took:?}"
    );
}

#[tokio::test]
async fn a_shorter_grace_counts() {
    let keeper = Keeper::start(&["trap '' TERM; echo > ready; while :; do sleep 0.05; done"]);
    let mut agent = keeper.running().await;
    keeper.noted("ready").await;
    for grace_ms in [3_600_000, 50, 3_600_000] {
        agent
            .sender
            .send(ToKeeper::Stop { grace_ms })
            .await
            .expect("sent");
    }
    assert_eq!(
        to_the_end(&mut agent.receiver).await.0,
        [exit(0, 0, 9, true)]
    );
}

#[tokio::test]
async fn nothing_is_left_behind() {
    // Detached, in its own session, stopped, ignoring TERM, holding standard output.
    let script = "for i in 1 2; do (setsid sh -c 'trap \"\" TERM; echo $$ > left'$i'; kill -STOP $$; sleep 1000' &) ; done; \
                  until [ -s left1 ] && [ -s left2 ]; do sleep 0.02; done; echo bye; exit 0";
    let begin = Instant::now();
    let keeper = ends_as(&[script], &[exit(0, 0, 0, false)]).await;
    assert!(begin.elapsed() < Duration::from_secs(10));
    for name in ["left1", "left2"] {
        let pid = keeper.noted(name).await;
        assert!(
            !lives(&pid),
            "{name} lives on after the keeper said that all had ended"
        );
    }
    assert_eq!(keeper.log(0), ["bye"]);
}

#[tokio::test]
async fn ranks_die_with_their_keeper_and_leftovers_are_found() {
    let mut keeper = Keeper::start(&[
        "(setsid sh -c 'echo $$ > left; sleep 1000' &); echo $$ > rank; sleep 1000",
    ]);
    let mut agent = keeper.running().await;
    let (rank, left) = (keeper.noted("rank").await, keeper.noted("left").await);
    assert!(lives(&rank) && lives(&left));
    keeper.child.kill().expect("killed");
    assert!(dies(&rank).await, "a rank outlives its keeper");
    while next(&mut agent.receiver).await.is_some() {}
    keeper.child.wait().expect("ended");
    let error = mlctl_agent::keeper::client::connect(&keeper.dir)
        .await
        .expect_err("nobody listens");
    assert!(error.is_gone(), "{error}");
    assert!(!read_exits(&keeper.dir).expect("read").all_ended);
    assert!(lives(&left), "this test needs a process that got away");
    let dir = keeper.dir.clone();
    assert!(mlctl_agent::keeper::sweep::kill_leftovers(&dir) >= 1);
    assert!(dies(&left).await, "what got away was not found");
}

#[tokio::test]
async fn a_rank_is_closed_in() {
    let script = "umask; grep NoNewPrivs /proc/self/status; ulimit -c; readlink /proc/self/fd/0; cut -d' ' -f1,6 /proc/$$/stat; \
                  ls /proc/self/fd | wc -l; grep -c . /proc/self/environ; grep SigBlk /proc/self/status; pwd";
    let keeper = ends_as(&[script], &[exit(0, 0, 0, false)]).await;
    let log = keeper.log(0);
    assert_eq!(log[..4], ["0027", "NoNewPrivs:\t1", "0", "/dev/null"]);
    let (pid, session) = log[4].split_once(' ').expect("two numbers");
    assert_eq!(pid, session, "a session of its own");
    assert_eq!(log[5], "4", "0, 1, 2 and the one that ls reads");
    assert_eq!(log[7], "SigBlk:\t0000000000000000");
    assert_eq!(log[8], keeper.dir.join("work").to_str().expect("UTF-8"));
}

#[tokio::test]
async fn ranks_run_as_another_user_and_still_die_with_the_keeper() {
    if !nix::unistd::geteuid().is_root() {
        skip(
            "ranks_run_as_another_user_and_still_die_with_the_keeper",
            "only root can become somebody else",
        );
        return;
    }
    let script = "id -u; id -G; echo $HOME $USER; cat /proc/self/status | grep CapEff; echo $$ > /proc/self/fd/1; sleep 1000";
    let mut keeper = Keeper::start_with(&[script], |plan| {
        plan.user = Some("nobody".into());
        plan.allow_root = false;
    });
    let _agent = keeper.running().await;
    let dir = keeper.dir.clone();
    let log = until(|| Some(keeper.log(0)).filter(|log| log.len() == 5))
        .await
        .expect("five lines");
    assert_eq!(log[0], "65534");
    assert!(!log[1].split(' ').any(|group| group == "0"), "{}", log[1]);
    assert!(log[2].ends_with(" nobody"), "{}", log[2]);
    assert_eq!(log[3], "CapEff:\t0000000000000000");
    keeper.child.kill().expect("killed");
    assert!(
        dies(&log[4]).await,
        "the death signal was lost with the change of user, in {}",
        dir.display()
    );
}

fn refused(
    scripts: &[&str],
    change: impl FnOnce(&mut mlctl_agent::launch::LaunchPlan),
    says: &str,
) {
    let why = Keeper::try_start(scripts, change)
        .err()
        .unwrap_or_else(|| panic!("a keeper started; {says}"));
    assert!(why.contains(says), "{why}\nshould say {says}");
}

#[tokio::test]
async fn what_cannot_start_is_explained_before_the_gang_starts() {
    refused(
        &["true"],
        |plan| plan.ranks[0].argv[0] = "no-such-program".into(),
        "no such program in PATH (/usr/bin:/bin)",
    );
    refused(
        &["true"],
        |plan| plan.ranks[0].argv[0] = "./missing".into(),
        "there is no such file",
    );
    refused(
        &["true"],
        |plan| plan.work_dir = "/no/such/dir".into(),
        "the working directory /no/such/dir is not there",
    );
    refused(&["true"], |plan| plan.version = 99, "has version 99");
    refused(
        &["true"],
        |plan| plan.user = Some("no-such-user".into()),
        "there is no user `no-such-user`",
    );
    if nix::unistd::geteuid().is_root() {
        refused(
            &["true"],
            |plan| plan.allow_root = false,
            "let an admin allow root jobs",
        );
        refused(
            &["true"],
            |plan| (plan.allow_root, plan.user) = (false, Some("root".into())),
            "do not run as root",
        );
    }
}

#[tokio::test]
async fn an_exec_that_fails_ends_the_ranks_that_started() {
    let keeper = Keeper::try_start(&["echo $$ > rank; sleep 1000", "true"], |plan| {
        let program = std::path::Path::new(&plan.work_dir).join("broken");
        std::fs::write(&program, "#!/no/such/interpreter\n").expect("written");
        std::fs::set_permissions(
            &program,
            std::os::unix::fs::PermissionsExt::from_mode(0o755),
        )
        .expect("mode");
        plan.ranks[1].argv = vec!["./broken".into()];
    });
    let keeper = keeper.expect("the program is there: only exec finds out");
    let mut agent = keeper.running().await;
    let Some(FromKeeper::LaunchFailed { why }) = next(&mut agent.receiver).await else {
        panic!("the launch did not fail");
    };
    assert!(
        why.contains("./broken") && why.contains("interpreter"),
        "{why}"
    );
    let (exits, failed) = to_the_end(&mut agent.receiver).await;
    assert_eq!(failed.as_deref(), Some(why.as_str()));
    assert!(
        matches!(exits.as_slice(), [only] if only.rank == 0 && only.killed_by_us),
        "{exits:?}"
    );
    assert!(!agent.status.started && keeper.agent().await.status.launch_failed == Some(why));
}

#[tokio::test]
async fn sigterm_ends_ranks_and_keeper() {
    let mut keeper =
        Keeper::start(&["trap 'exit 5' TERM; echo > ready; while :; do sleep 0.05; done"]);
    drop(keeper.running().await);
    keeper.noted("ready").await;
    signal(keeper.pid(), Signal::SIGTERM);
    assert_eq!(keeper.ended().await, Some(0));
    let written = read_exits(&keeper.dir).expect("written");
    assert_eq!(
        (written.exits, written.all_ended),
        (vec![exit(0, 5, 0, true)], true)
    );
    assert!(!keeper.dir.join("keeper.sock").exists());
}

#[tokio::test]
async fn stopped_before_go_nothing_ever_runs() {
    let mut keeper = Keeper::start(&["echo > ran"]);
    let mut agent = keeper.agent().await;
    assert_eq!(agent.status.phase, Phase::Waiting);
    agent.sender.send(ToKeeper::Release).await.expect("sent");
    assert!(
        matches!(
            next(&mut agent.receiver).await,
            Some(FromKeeper::Refused { .. })
        ),
        "not before the end"
    );
    agent
        .sender
        .send(ToKeeper::Stop { grace_ms: 0 })
        .await
        .expect("sent");
    assert_eq!(to_the_end(&mut agent.receiver).await, (Vec::new(), None));
    agent.sender.send(go()).await.expect("sent");
    assert!(matches!(
        next(&mut agent.receiver).await,
        Some(FromKeeper::Refused { .. })
    ));
    agent.sender.send(ToKeeper::Release).await.expect("sent");
    assert_eq!(keeper.ended().await, Some(0));
    assert!(!keeper.dir.join("work/ran").exists() && !keeper.dir.join("keeper.sock").exists());
}
