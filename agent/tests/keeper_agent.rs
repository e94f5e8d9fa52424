//! A keeper and its agents, as real processes: agents that come late, again, twice or with nonsense, and the output that must not wait for them.

mod processes;

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use mlctl_agent::keeper::client::{KeeperError, connect};
use mlctl_agent::keeper::protocol::{FromKeeper, PROTOCOL, Phase, ToKeeper};
use mlctl_proto::limits::LOG_PIECE_BYTES_MAX;
use mlctl_proto::logs::TEXT_BYTES_MAX;
use nix::sys::signal::Signal;
use processes::{Keeper, PATIENCE, exit, go, next, signal, to_the_end, until};
use tokio::time::timeout;

#[tokio::test]
async fn an_agent_that_comes_again_has_missed_nothing() {
    let mut keeper = Keeper::start(&[
        "echo one; exit 0",
        "until [ -e go ]; do sleep 0.02; done; echo two; exit 6",
    ]);
    let agent = keeper.running().await;
    drop(agent);
    let running = connected_when(&keeper, |status| status.ranks[0].exit.is_some()).await;
    assert_eq!(
        (running.status.phase, running.status.started),
        (Phase::Running, true)
    );
    assert_eq!(running.status.exits(), [exit(0, 0, 0, false)]);
    drop(running);
    std::fs::write(keeper.dir.join("work/go"), "").expect("written");
    let ended = connected_when(&keeper, mlctl_agent::keeper::protocol::Status::all_ended).await;
    assert_eq!(
        ended.status.exits(),
        [exit(0, 0, 0, false), exit(1, 6, 0, false)]
    );
    for rank in &ended.status.ranks {
        let length = std::fs::metadata(keeper.dir.join(format!("logs/rank-{}.log", rank.rank)))
            .expect("a log")
            .len();
        assert!(
            rank.log_ended && rank.log_bytes == length && length > 0,
            "{rank:?} of {length}"
        );
    }
    ended.sender.send(ToKeeper::Release).await.expect("sent");
    assert_eq!(keeper.ended().await, Some(0));
    assert!(connect(&keeper.dir).await.expect_err("gone").is_gone());
}

/// A new connection, once the status is as wanted.
async fn connected_when(
    keeper: &Keeper,
    wanted: impl Fn(&mlctl_agent::keeper::protocol::Status) -> bool,
) -> mlctl_agent::keeper::client::Connection {
    let end = Instant::now() + PATIENCE;
    while Instant::now() < end {
        let agent = keeper.agent().await;
        if wanted(&agent.status) {
            return agent;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the status never was as wanted");
}

#[tokio::test]
async fn the_newest_agent_wins_and_go_counts_once() {
    let keeper = Keeper::start(&["echo ran >> times; until [ -e go ]; do sleep 0.02; done"]);
    let mut old = keeper.running().await;
    assert_eq!(
        next(&mut old.receiver).await,
        Some(FromKeeper::RanksStarted)
    );
    let mut new = keeper.agent().await;
    assert_eq!(
        next(&mut old.receiver).await,
        None,
        "the older connection is closed"
    );
    new.sender.send(go()).await.expect("sent");
    new.sender.send(ToKeeper::Release).await.expect("sent");
    assert!(
        matches!(next(&mut new.receiver).await, Some(FromKeeper::Refused { why }) if why.contains("stop them first"))
    );
    std::fs::write(keeper.dir.join("work/go"), "").expect("written");
    assert_eq!(
        to_the_end(&mut new.receiver).await.0,
        [exit(0, 0, 0, false)]
    );
    assert_eq!(keeper.noted("times").await, "ran");
}

#[tokio::test]
async fn much_output_waits_for_nobody_and_is_capped() {
    let script = "head -c 50000000 /dev/zero | tr '\\0' 'x' | fold -w 99; echo done > finished";
    let keeper = Keeper::start_with(&[script, script], |plan| plan.log_cap_bytes = 1_000_000);
    // An agent that never reads while the ranks write.
    let mut agent = keeper.running().await;
    assert_eq!(keeper.noted("finished").await, "done");
    let (exits, _) = to_the_end(&mut agent.receiver).await;
    assert!(
        exits.iter().all(|exit| exit.code == 0 && exit.signal == 0),
        "{exits:?}"
    );
    for rank in keeper.agent().await.status.ranks {
        let frames = 50_000_000_u64.div_ceil(99);
        // The beginning, and the newest part but for the file of it that made room.
        assert!(
            rank.log_bytes <= 1_000_000 && rank.log_bytes > 930_000,
            "{rank:?}"
        );
        let whole = 50_000_000 + frames * 13;
        let more = (rank.log_bytes + rank.log_rotated).checked_sub(whole);
        // A writer that is held up in the middle of a line leaves that in two frames.
        assert!(
            more.is_some_and(|more| more % 13 == 0 && more < 130),
            "{rank:?}"
        );
        assert_eq!(rank.log_dropped, 0);
        assert!(keeper.log(rank.rank).iter().all(|line| line.len() <= 99));
    }
}

#[tokio::test]
async fn a_stopped_agent_stops_no_rank() {
    // The socket's buffer fills, because nobody reads it: not even a runtime that would do so in the background.
    let keeper = Keeper::start(&[
        "i=0; while [ $i -lt 30000 ]; do echo line $i; i=$((i+1)); done; echo done > finished",
    ]);
    let mut socket = UnixStream::connect(keeper.dir.join("keeper.sock")).expect("connected");
    socket.write_all(&hello_and_go(PROTOCOL)).expect("sent");
    assert_eq!(keeper.noted("finished").await, "done");
    drop(socket);
    connected_when(&keeper, mlctl_agent::keeper::protocol::Status::all_ended).await;
    let log = keeper.log(0);
    assert_eq!((log.len(), log[29_999].as_str()), (30_000, "line 29999"));
}

#[tokio::test]
async fn what_a_refused_agent_says_behind_its_hello_does_not_count() {
    let keeper = Keeper::start(&["echo ran >> times"]);
    for protocol in [0, PROTOCOL + 1] {
        let mut socket = UnixStream::connect(keeper.dir.join("keeper.sock")).expect("connected");
        socket
            .write_all(&hello_and_go(protocol))
            .expect("one message");
        let mut answer = Vec::new();
        socket.read_to_end(&mut answer).expect("it is closed");
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.contains("is not spoken here"), "{answer}");
        assert_eq!(keeper.agent().await.status.phase, Phase::Waiting);
    }
    keeper.running().await;
    assert_eq!(keeper.noted("times").await, "ran");
}

#[tokio::test]
async fn strange_bytes_are_kept_as_they_are() {
    let long = TEXT_BYTES_MAX * 3 + 5;
    let script = format!(
        "printf 'a\\000b\\377\\n\\n'; head -c {long} /dev/zero | tr '\\0' y; printf '\\nend'"
    );
    let keeper = Keeper::start(&[&script]);
    let mut agent = keeper.running().await;
    to_the_end(&mut agent.receiver).await;
    let bytes = std::fs::read(keeper.dir.join("logs/rank-0.log")).expect("a log");
    assert!(bytes.windows(4).any(|bytes| bytes == b"a\0b\xff"));
    let joined = keeper.log(0).join("\n").replace("…\n", "");
    let lines: Vec<&str> = joined.split('\n').collect();
    assert_eq!(
        (lines.len(), lines[1], lines[2].len(), lines[3]),
        (4, "", long, "end"),
        "{:?}",
        &lines[..2]
    );
    assert!(bytes.len() < LOG_PIECE_BYTES_MAX);
}

#[tokio::test]
async fn a_line_without_its_end_comes_soon() {
    let keeper = Keeper::start(&["printf 'loss: '; until [ -e go ]; do sleep 0.02; done; echo 1"]);
    let mut agent = keeper.running().await;
    let begin = Instant::now();
    loop {
        let message = timeout(PATIENCE, agent.receiver.recv())
            .await
            .expect("in time")
            .expect("the keeper is there");
        if matches!(message, FromKeeper::LogGrew { rank: 0, bytes, dropped: 0 } if bytes > 0) {
            break;
        }
    }
    assert!(
        begin.elapsed() < Duration::from_secs(2),
        "{:?}",
        begin.elapsed()
    );
    assert_eq!(keeper.log(0), ["loss: …"]);
    std::fs::write(keeper.dir.join("work/go"), "").expect("written");
    to_the_end(&mut agent.receiver).await;
    assert_eq!(keeper.log(0), ["loss: …", "1"]);
}

/// The bytes of a message, whatever it says.
fn message(json: &str) -> Vec<u8> {
    let length = u32::try_from(json.len()).expect("short");
    [&length.to_le_bytes(), json.as_bytes()].concat()
}

/// What an agent of a protocol sends at once, in one piece.
fn hello_and_go(protocol: u32) -> Vec<u8> {
    let hello = format!(r#"{{"Hello":{{"protocol":{protocol}}}}}"#);
    let go = r#"{"Go":{"master_address":"127.0.0.1","master_port":1}}"#;
    [message(&hello), message(go)].concat()
}

#[tokio::test]
async fn hostile_connections_harm_nobody() {
    let keeper = Keeper::start(&["sleep 1000"]);
    let mut agent = keeper.running().await;
    assert_eq!(
        next(&mut agent.receiver).await,
        Some(FromKeeper::RanksStarted)
    );
    let mut silent = Vec::new();
    let hostile: [&[u8]; 7] = [
        b"GET / HTTP/1.1\r\n\r\n",
        &[255; 4096],
        &message("{}"),
        &message(r#"{"Hello":{"protocol":-1}}"#),
        &message(r#"{"Stop":{"grace_ms":0}}"#),
        &message("\"Release\""),
        &message(r#"{"Hello":{"protocol":99}}"#),
    ];
    for bytes in hostile {
        let mut socket = UnixStream::connect(keeper.dir.join("keeper.sock")).expect("connected");
        socket.set_read_timeout(Some(PATIENCE)).expect("set");
        let _ = socket.write_all(bytes);
        let mut answer = Vec::new();
        // The end, or a reset because not all was read.
        let _ = socket.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer).into_owned();
        assert!(
            answer.is_empty() || answer.contains("Refused"),
            "{bytes:?} was answered {answer}"
        );
        silent.push(UnixStream::connect(keeper.dir.join("keeper.sock")).expect("connected"));
    }
    for _ in 0..20 {
        silent.push(UnixStream::connect(keeper.dir.join("keeper.sock")).expect("connected"));
    }
    // The agent was not driven out, and a new one still comes in.
    agent.sender.send(ToKeeper::Release).await.expect("sent");
    assert!(matches!(
        next(&mut agent.receiver).await,
        Some(FromKeeper::Refused { .. })
    ));
    assert_eq!(keeper.agent().await.status.phase, Phase::Running);
    drop(silent);
}

#[tokio::test]
async fn a_frozen_keeper_is_silent_and_not_gone() {
    let keeper = Keeper::start(&["true"]);
    signal(keeper.pid(), Signal::SIGSTOP);
    let error = connect(&keeper.dir).await.expect_err("frozen");
    assert!(
        matches!(error, KeeperError::Silent { .. }) && !error.is_gone(),
        "{error}"
    );
    signal(keeper.pid(), Signal::SIGCONT);
    assert_eq!(keeper.agent().await.status.phase, Phase::Waiting);
}

#[tokio::test]
async fn a_keeper_is_the_only_one_and_private() {
    let keeper = Keeper::start(&["true"]);
    for name in ["keeper.sock", "keeper.json", "exits", "logs/rank-0.log"] {
        let mode = std::fs::metadata(keeper.dir.join(name))
            .expect(name)
            .permissions()
            .mode()
            & 0o777;
        assert_eq!(mode, 0o600, "{name}");
    }
    let identity = std::fs::read(keeper.dir.join("keeper.json")).expect("written");
    let identity: mlctl_agent::keeper::Identity =
        serde_json::from_slice(&identity).expect("an identity");
    assert_eq!(identity.pid, keeper.child.id());
    assert!(
        identity.start_time > 0 && identity.boot_id.len() == 36,
        "{identity:?}"
    );
    let second = std::process::Command::new(processes::program())
        .arg("keeper")
        .arg(&keeper.dir)
        .output()
        .expect("it runs");
    let word = String::from_utf8_lossy(&second.stdout).into_owned();
    assert!(
        !second.status.success() && word.contains("another keeper runs"),
        "{word}"
    );
    assert_eq!(
        keeper.agent().await.status.phase,
        Phase::Waiting,
        "the first one is still there"
    );
}

#[tokio::test]
async fn a_long_path_is_no_obstacle() {
    let keeper = Keeper::start(&["true"]);
    let long = keeper.dir.join("a".repeat(120));
    processes::write_plan(&long, &processes::plan(&long, &["true"]));
    let mut child = std::process::Command::new(processes::program())
        .arg("keeper")
        .arg(&long)
        .spawn()
        .expect("it runs");
    let found = until(|| long.join("keeper.json").exists().then_some(())).await;
    let reached = until(|| {
        UnixStream::connect(long.join("keeper.sock"))
            .err()
            .map(|error| error.kind())
    })
    .await;
    let status = connect(&long).await.map(|agent| agent.status.phase);
    child.kill().expect("killed");
    child.wait().expect("ended");
    assert_eq!(
        reached,
        Some(std::io::ErrorKind::InvalidInput),
        "the path must be too long for the kernel, or this proves nothing"
    );
    assert_eq!((found, status.ok()), (Some(()), Some(Phase::Waiting)));
}
