//! A steady run of one real member: jobs come, end and are archived, and what is kept of them stays bounded: the log, snapshots,
//! the index, live rows and memory; segments grow by a small constant a job. With `MLCTL_TEST_FULL` it is a long one.
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use mlctl_proto::ids::JobId;

use super::history::History;
use super::segments::{Keeper, Segments};
use super::{Shelf, Writer};
use crate::consensus::{self, Begin, Handle, MemberId, Membership, Transport};
use crate::machine::{Machine, OnFatal};
use crate::published::Published;
use crate::state::commands::{ArchiveJobs, Bootstrap, CancelJobs};
use crate::state::records::{Actor, Reply, Retention};
use crate::state::testing::{bootstrap, command, person, spec, submit_body, system};
use crate::state::{Body, Command, IdempotencyKey, State, codec};

const KEEP: u32 = 500;
const SEGMENT_BYTES: u32 = 64 << 10;
/// Jobs that end in one command.
const TOGETHER: u64 = 100;
/// State time that passes from job to job: remembered replies go after a day of it.
const STEP_MS: i64 = 30_000;
const PATIENCE: Duration = Duration::from_secs(20);
const MIB: u64 = 1 << 20;

struct Alone;

impl Transport for Alone {
    fn send(&self, _to: MemberId, _message: Bytes) {}

    fn pull_snapshot(&self, _: MemberId, _: u64, _: [u8; 32]) -> Result<Vec<u8>, String> {
        Err("there is nobody else".into())
    }
}

fn bytes_below(dir: &Path) -> u64 {
    let listed = fs::read_dir(dir).into_iter().flatten().flatten();
    let of = |item: fs::DirEntry| match item.metadata() {
        Ok(about) if about.is_dir() => bytes_below(&item.path()),
        Ok(about) => about.len(),
        Err(_) => 0,
    };
    listed.map(of).sum()
}

/// Resident memory of this process, bytes.
fn resident() -> u64 {
    let statm = fs::read_to_string("/proc/self/statm").expect("it is there on Linux");
    let pages = statm
        .split(' ')
        .nth(1)
        .and_then(|pages| pages.parse::<u64>().ok());
    pages.expect("a number") * 4_096
}

async fn propose(
    raft: &Handle<Reply>,
    now_ms: i64,
    actor: Actor,
    body: Body,
    key: Option<u64>,
) -> Reply {
    let command = Command {
        key: key.map(|key| IdempotencyKey {
            uuid: u128::from(key).to_be_bytes(),
            request_hash: [1; 32],
        }),
        ..command(actor, now_ms, body)
    };
    let bytes = Bytes::from(codec::encode_command(&command).expect("fits"));
    let committed = raft.propose(bytes).await;
    committed.expect("one member always has a majority").reply
}

/// Jobs `first..first + TOGETHER` come, all at once, and end together.
async fn wave(raft: &Handle<Reply>, first: u64) {
    let submits = (first..first + TOGETHER).map(|n| {
        let nodes = 1 + u32::try_from(n % 5).expect("small");
        let body = submit_body(&spec(nodes, 0));
        let time = n as i64 * STEP_MS;
        propose(raft, time, person("ann", false), body, Some(n))
    });
    let mut jobs: Vec<JobId> = Vec::new();
    for reply in futures::future::join_all(submits).await {
        let Reply::Submitted { job } = reply else {
            panic!("{reply:?}")
        };
        jobs.push(job);
    }
    let now = (first + TOGETHER) as i64 * STEP_MS;
    let cancel = Body::CancelJobs(CancelJobs::of(jobs));
    propose(raft, now, person("ann", false), cancel, None).await;
    let archive = Body::ArchiveJobs(ArchiveJobs { most: 500 });
    propose(raft, now, system(), archive, None).await;
}

struct Figures {
    jobs: u64,
    log: u64,
    snapshots: u64,
    segments: u64,
    index: u64,
    rows: u64,
    resident: u64,
}

fn measure(dir: &Path, jobs: u64, state: &State) -> Figures {
    let figures = Figures {
        jobs,
        log: bytes_below(&dir.join("raft/log")),
        snapshots: bytes_below(&dir.join("raft/snapshots")),
        segments: bytes_below(&dir.join("segments")),
        index: bytes_below(&dir.join("index")),
        rows: state.row_count() as u64,
        resident: resident(),
    };
    println!(
        "{} jobs: log {} KiB, snapshots {} KiB, segments {} KiB, index {} KiB, {} rows, resident {} MiB",
        figures.jobs,
        figures.log >> 10,
        figures.snapshots >> 10,
        figures.segments >> 10,
        figures.index >> 10,
        figures.rows,
        figures.resident >> 20
    );
    figures
}

/// The half and the whole of a run, and what must hold between them.
fn check(half: &Figures, whole: &Figures) {
    for figures in [half, whole] {
        // 64 MiB before it is purged, and the file that is being written.
        assert!(figures.log <= 160 * MIB, "log");
        assert!(figures.snapshots <= 16 * MIB, "snapshots");
        // A day of replies, the jobs that are kept, the tail.
        let day = 24 * 3_600_000 / STEP_MS as u64;
        assert!(
            figures.rows <= day + u64::from(KEEP) + 10 * TOGETHER,
            "{} rows",
            figures.rows
        );
        assert!(figures.index <= 128 * MIB, "index");
        assert!(figures.segments <= figures.jobs * 1_024, "segments");
    }
    assert!(whole.snapshots > 0, "a snapshot was due");
    let grown = whole.resident.saturating_sub(half.resident);
    assert!(
        grown <= 48 * MIB + (whole.jobs - half.jobs) * 64,
        "memory grew by {grown}"
    );
}

/// One member that leads itself.
struct Member {
    raft: Handle<Reply>,
    published: Arc<Published>,
    history: History,
    keeper: Keeper,
    writer: Writer,
}

impl Member {
    async fn start(dir: &Path) -> Self {
        let on_fatal: OnFatal = Arc::new(|reason| panic!("{reason}"));
        let segments = Arc::new(Segments::open(&dir.join("segments")).expect("opens"));
        let keeper = segments.start(Arc::clone(&on_fatal)).expect("a thread");
        let published = Arc::new(Published::new(State::new()));
        let shelf = Arc::new(Shelf::default());
        let history = History::new(Arc::clone(&segments), Arc::clone(&shelf));
        let started = Writer::start(
            &dir.join("index"),
            Arc::clone(&published),
            Arc::clone(&segments),
            shelf,
            false,
            Arc::new(|| true),
        );
        let (feed, writer) = started.expect("a thread");
        let shown = Arc::clone(&published);
        let machine = Machine::new(State::new(), shown, feed, segments, on_fatal);
        let members = Membership::founded([(1, "a".into())]);
        let mut config = consensus::Config::new(dir.join("raft"), Begin::Found { id: 1, members });
        // An entry holds a hundred submits.
        config.snapshot_every = 20;
        let on_fatal = Box::new(|reason| panic!("{reason}"));
        let raft = consensus::start(config, machine, Arc::new(Alone), on_fatal);
        let member = Self {
            raft: raft.expect("starts"),
            published,
            history,
            keeper,
            writer,
        };
        member.set_up().await;
        member
    }

    async fn set_up(&self) {
        let mut leading = self.published.leading();
        let led = tokio::time::timeout(PATIENCE, leading.wait_for(Option::is_some)).await;
        led.expect("leads in time").expect("lives");
        let retention = Retention {
            keep_finished: KEEP,
            segment_bytes: SEGMENT_BYTES,
            ..Retention::default()
        };
        let begin = Body::Bootstrap(Bootstrap {
            retention,
            ..bootstrap()
        });
        let reply = propose(&self.raft, 0, system(), begin, None).await;
        assert_eq!(reply, Reply::Done);
    }

    /// A sample of all jobs is there, in memory or in history.
    fn has(&self, jobs: u64) {
        let state = self.published.state();
        let closed = state.segments().count();
        assert!(closed > 0, "{jobs} jobs closed no segment");
        for n in (1..=jobs).step_by(37) {
            let id = JobId::new(1, n);
            let found = self.history.find(&state, id).expect("reads");
            assert!(
                state.job(id).is_some() || found.is_some(),
                "job {n} is nowhere"
            );
        }
    }

    async fn stop(self) {
        self.raft.shutdown().await;
        self.keeper.stop();
        let writer = self.writer;
        let stopped = tokio::task::spawn_blocking(move || writer.stop(PATIENCE)).await;
        assert!(stopped.expect("ends"), "the index is written");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_steady_run_is_bounded() {
    let full = std::env::var_os("MLCTL_TEST_FULL").is_some_and(|value| value == "1");
    let (most, time_box) = if full { (200_000, 900) } else { (20_000, 20) };
    let home = tempfile::tempdir().expect("a temporary directory");
    let member = Member::start(home.path()).await;
    let until = Instant::now() + Duration::from_secs(time_box);
    let (mut jobs, mut half) = (0, None);
    // However slow the machine is: enough for segments.
    while jobs < most && (Instant::now() < until || jobs < 2_000) {
        wave(&member.raft, jobs).await;
        jobs += TOGETHER;
        let midway = Instant::now() + Duration::from_secs(time_box / 2) >= until;
        if half.is_none() && jobs >= 1_000 && (midway || jobs >= most / 2) {
            half = Some(measure(home.path(), jobs, &member.published.state()));
        }
    }
    let whole = measure(home.path(), jobs, &member.published.state());
    check(&half.expect("it was measured on the way"), &whole);
    member.has(jobs);
    member.stop().await;
}
