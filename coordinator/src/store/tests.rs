//! The index under a real machine: deleted under load, damaged, overtaken by a snapshot; the digest tells.
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;

use super::history::History;
use super::segments::{Keeper, Segments};
use super::{HasRoom, Shelf, Writer, load};
use crate::consensus::Apply;
use crate::machine::{Machine, OnFatal};
use crate::published::Published;
use crate::state::records::Reply;
use crate::state::testing::Cluster;
use crate::state::{Digest, State, codec};

const PATIENCE: Duration = Duration::from_secs(20);

/// Commands that make nodes, jobs, attempts and their ends.
fn commands(rounds: usize) -> Vec<Bytes> {
    let mut cluster = Cluster::new();
    cluster.checked = false;
    cluster.gpu_node("n1", 8);
    for _ in 0..rounds {
        let job = cluster.submitted("ann", 1, 1);
        let epoch = cluster.started(job, &["n1"]);
        cluster.running(job, epoch);
        cluster.ended("n1", job, epoch, crate::state::records::EndKind::Exited);
        cluster.submitted("bob", 1, 8);
    }
    let encode = |command| Bytes::from(codec::encode_command(command).expect("fits"));
    cluster.log().iter().map(encode).collect()
}

/// A disk that never fills.
fn room() -> HasRoom {
    Arc::new(|| true)
}

pub(super) struct Run {
    pub(super) machine: Machine,
    writer: Writer,
    keeper: Keeper,
    pub(super) published: Arc<Published>,
    pub(super) history: History,
}

pub(super) fn run(dir: &Path, state: State, current: bool) -> Run {
    run_with(dir, state, current, room())
}

fn run_with(dir: &Path, state: State, current: bool, has_room: HasRoom) -> Run {
    let published = Arc::new(Published::new(state.clone()));
    let on_fatal: OnFatal = Arc::new(|reason| panic!("{reason}"));
    let segments = Arc::new(Segments::open(&dir.with_extension("segments")).expect("opens"));
    let keeper = segments.start(Arc::clone(&on_fatal)).expect("a thread");
    let shelf = Arc::new(Shelf::default());
    let history = History::new(Arc::clone(&segments), Arc::clone(&shelf));
    let (feed, writer) = Writer::start(
        dir,
        Arc::clone(&published),
        Arc::clone(&segments),
        shelf,
        current,
        has_room,
    )
    .expect("a thread");
    let machine = Machine::new(state, Arc::clone(&published), feed, segments, on_fatal);
    Run {
        machine,
        writer,
        keeper,
        published,
        history,
    }
}

impl Run {
    pub(super) fn apply(&mut self, commands: &[Bytes]) {
        for command in commands {
            let index = self.machine.applied() + 1;
            self.machine.apply(index, std::slice::from_ref(command));
            self.machine.published(index, None);
        }
    }

    fn digest(&self) -> (u64, Digest) {
        let state = self.published.state();
        (state.applied_index(), state.digest())
    }

    pub(super) fn stop(self) -> (u64, Digest) {
        let digest = self.digest();
        self.keeper.stop();
        assert!(self.writer.stop(PATIENCE), "the thread ends");
        digest
    }
}

fn loaded(dir: &Path) -> Option<(u64, Digest)> {
    load(dir).map(|state| (state.applied_index(), state.digest()))
}

#[test]
fn a_restart_finds_what_was_written() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let index = dir.path().join("index");
    assert!(load(&index).is_none());
    let commands = commands(30);
    let (first, second) = commands.split_at(commands.len() / 2);
    let mut before = run(&index, State::new(), false);
    before.apply(first);
    let digest = before.stop();
    assert_eq!(loaded(&index), Some(digest));
    let mut after = run(&index, load(&index).expect("there"), true);
    after.apply(second);
    let digest = after.stop();
    assert_eq!(loaded(&index), Some(digest));
}

#[test]
fn deleted_under_load_nothing_is_lost() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let index = dir.path().join("index");
    let commands = commands(60);
    let mut run = run(&index, State::new(), false);
    for (n, part) in commands.chunks(commands.len() / 6).enumerate() {
        if n % 2 == 1 {
            // It may not be there yet, or be in the middle of being filled.
            let _ = fs::remove_dir_all(&index);
        }
        run.apply(part);
    }
    let digest = run.stop();
    assert_eq!(loaded(&index), Some(digest));
}

#[test]
fn a_burst_is_let_pass_and_then_the_index_is_whole() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let index = dir.path().join("index");
    let commands = commands(4_000);
    let mut run = run(&index, State::new(), false);
    let mut parts = commands.chunks(500);
    let passed = parts.by_ref().take_while(|part| {
        run.apply(part);
        !run.writer.is_behind()
    });
    let followed = passed.count();
    assert!(run.writer.is_behind(), "it followed {followed} parts");
    parts.for_each(|part| run.apply(part));
    let until = std::time::Instant::now() + PATIENCE;
    while run.writer.is_behind() {
        assert!(std::time::Instant::now() < until, "the burst is over");
        std::thread::sleep(Duration::from_millis(20));
    }
    let digest = run.stop();
    assert_eq!(loaded(&index), Some(digest));
}

#[test]
fn damaged_bytes_are_noticed_and_the_index_is_built_anew() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let index = dir.path().join("index");
    let mut first = run(&index, State::new(), false);
    let (begin, empty) = first.digest();
    let mut digests = std::collections::BTreeMap::from([(begin, empty)]);
    for command in commands(20) {
        first.apply(&[command]);
        let (index, digest) = first.digest();
        digests.insert(index, digest);
    }
    let digest = first.stop();
    let db = index.join("db");
    let good = fs::read(&db).expect("there");
    let mut noticed = 0;
    for at in [16, 64, good.len() / 4, good.len() / 2] {
        let mut bad = good.clone();
        for byte in bad.iter_mut().skip(at).take(64) {
            *byte ^= 0x5a;
        }
        fs::write(&db, &bad).expect("written");
        match loaded(&index) {
            // A whole older state, or the damage lay where nothing is kept: what is loaded was true.
            Some((index, found)) => assert_eq!(digests.get(&index), Some(&found), "at {at}"),
            None => noticed += 1,
        }
    }
    assert!(noticed > 0, "no damage was noticed");
    fs::write(&db, b"nonsense").expect("written");
    assert_eq!(loaded(&index), None);
    let mut again = run(&index, State::new(), false);
    again.apply(&commands(20));
    assert_eq!(again.stop(), digest);
    assert_eq!(loaded(&index), Some(digest));
}

#[test]
fn a_full_disk_is_left_alone_and_the_index_built_when_there_is_room() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let index = dir.path().join("index");
    let commands = commands(30);
    let third = commands.len() / 3;
    let free = Arc::new(AtomicBool::new(true));
    let asked = Arc::clone(&free);
    let has_room: HasRoom = Arc::new(move || asked.load(Ordering::Relaxed));
    let mut before = run(&index, State::new(), false);
    before.apply(&commands[..third]);
    let old = before.stop();
    // Full from the first moment: what lies there stays what it was, and consistent.
    free.store(false, Ordering::Relaxed);
    let state = load(&index).expect("there");
    let mut full = run_with(&index, state.clone(), true, Arc::clone(&has_room));
    full.apply(&commands[third..2 * third]);
    full.stop();
    assert_eq!(loaded(&index), Some(old), "nothing was written");
    // It fills up and empties while the process runs.
    let mut both = run_with(&index, state, true, has_room);
    both.apply(&commands[third..2 * third]);
    free.store(true, Ordering::Relaxed);
    both.apply(&commands[2 * third..]);
    let digest = both.stop();
    assert_eq!(loaded(&index), Some(digest));
}

#[test]
fn a_snapshot_replaces_everything() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (ahead, behind) = (dir.path().join("ahead"), dir.path().join("behind"));
    let mut leader = run(&ahead, State::new(), false);
    leader.apply(&commands(10));
    // An entry without commands moves the index alone.
    let index = leader.machine.applied() + 1;
    assert!(leader.machine.apply(index, &[]).is_empty());
    leader.machine.published(index, None);
    let snapshot = leader.machine.snapshot()().expect("encodes");
    let digest = leader.stop();
    assert_eq!(digest.0, index);

    let mut follower = run(&behind, State::new(), false);
    follower.apply(&commands(1));
    assert!(
        follower.machine.restore(index + 1, &snapshot).is_err(),
        "another index"
    );
    assert!(
        follower.machine.restore(index, &snapshot[1..]).is_err(),
        "damaged"
    );
    follower
        .machine
        .restore(index, &snapshot)
        .expect("restored");
    assert!(
        follower.published.changes_since(index - 1).is_err(),
        "what led to it is not known"
    );
    assert_eq!(follower.stop(), digest);
    assert_eq!(loaded(&behind), Some(digest));
}

#[test]
fn a_command_that_cannot_be_read_is_fatal() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let published = Arc::new(Published::new(State::new()));
    let segments = Arc::new(Segments::open(&dir.path().join("segments")).expect("opens"));
    let (feed, writer) = Writer::start(
        &dir.path().join("index"),
        Arc::clone(&published),
        Arc::clone(&segments),
        Arc::default(),
        false,
        room(),
    )
    .expect("a thread");
    let said = Arc::new(Mutex::new(Vec::new()));
    let heard = Arc::clone(&said);
    let on_fatal = Arc::new(move |reason| heard.lock().expect("not poisoned").push(reason));
    let mut machine = Machine::new(State::new(), published, feed, segments, on_fatal);
    let replies = machine.apply(1, &[Bytes::from_static(b"\xff\xff nonsense")]);
    assert!(matches!(replies.as_slice(), [Reply::Rejected(_)]));
    let said = said.lock().expect("not poisoned");
    assert!(said.len() == 1 && said[0].contains("index 1"), "{said:?}");
    drop(machine);
    assert!(writer.stop(PATIENCE));
}
