//! Whole members: three drivers over an in-memory transport, on real directories.

use super::*;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};
use tempfile::TempDir;

pub(super) const VOTERS: [MemberId; 3] = [11, 22, 33];
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

fn found(id: MemberId, voters: &[MemberId]) -> Begin {
    let members = Membership::founded(voters.iter().map(|id| (*id, format!("member {id}"))));
    Begin::Found { id, members }
}

/// What a member's state machine shows to the test.
#[derive(Clone, Default, Debug, PartialEq)]
pub(super) struct View {
    commands: Vec<Bytes>,
    applied: u64,
    leads: Option<u64>,
}

/// Remembers every command; a reply is the number of commands before it.
#[derive(Default)]
struct Journal {
    commands: Vec<Bytes>,
    applied: u64,
    view: Arc<Mutex<View>>,
    history: Arc<Mutex<History>>,
}

/// What was committed at each index, by anybody's word.
pub(super) type History = BTreeMap<u64, Vec<Bytes>>;

impl Apply for Journal {
    type Reply = usize;

    fn apply(&mut self, index: u64, commands: &[Bytes]) -> Vec<usize> {
        assert_eq!(index, self.applied + 1);
        self.applied = index;
        let known = lock(&self.history)
            .entry(index)
            .or_insert_with(|| commands.to_vec())
            .clone();
        assert_eq!(known, commands, "two entries committed at {index}");
        let before = self.commands.len();
        self.commands.extend_from_slice(commands);
        (before..self.commands.len()).collect()
    }

    fn published(&mut self, applied: u64, leads: Option<u64>) {
        let commands = self.commands.clone();
        *lock(&self.view) = View {
            commands,
            applied,
            leads,
        };
    }

    fn snapshot(&self) -> Box<dyn FnOnce() -> Result<Vec<u8>, Unsaved> + Send> {
        let commands = self.commands.clone();
        Box::new(move || Ok(turn::encode_commands(&commands).to_vec()))
    }

    fn restore(&mut self, index: u64, bytes: &[u8]) -> Result<(), String> {
        let bytes = Bytes::copy_from_slice(bytes);
        self.commands = turn::decode_commands(&bytes).map_err(|error| error.to_string())?;
        self.applied = index;
        Ok(())
    }

    fn applied(&self) -> u64 {
        self.applied
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// All members reach each other through this table unless they are cut off.
#[derive(Default)]
pub(super) struct Net {
    members: RwLock<BTreeMap<MemberId, Handle<usize>>>,
    pulls: AtomicUsize,
}

struct Link {
    me: MemberId,
    net: Arc<Net>,
}

impl Link {
    fn member(&self, id: MemberId) -> Option<Handle<usize>> {
        let members = self
            .net
            .members
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        members
            .contains_key(&self.me)
            .then(|| members.get(&id).cloned())?
    }
}

impl Transport for Link {
    fn send(&self, to: MemberId, message: Bytes) {
        if let Some(member) = self.member(to) {
            member.step(self.me, message);
        }
    }

    fn pull_snapshot(
        &self,
        from: MemberId,
        index: u64,
        digest: [u8; 32],
    ) -> Result<Vec<u8>, String> {
        self.net.pulls.fetch_add(1, Ordering::Relaxed);
        let member = self.member(from).ok_or("cut off")?;
        member
            .read_snapshot(index, digest)
            .map_err(|error| error.to_string())
    }
}

pub(super) struct Cluster {
    dir: TempDir,
    net: Arc<Net>,
    views: BTreeMap<MemberId, Arc<Mutex<View>>>,
    pub(super) fatal: Arc<Mutex<Vec<String>>>,
    pub(super) history: Arc<Mutex<History>>,
    snapshot_every: u64,
}

impl Cluster {
    pub(super) fn new(snapshot_every: u64) -> Self {
        let mut cluster = Self {
            dir: tempfile::tempdir().expect("a directory"),
            net: Arc::default(),
            views: BTreeMap::new(),
            fatal: Arc::default(),
            history: Arc::default(),
            snapshot_every,
        };
        for id in VOTERS {
            cluster.start(id, true);
        }
        cluster
    }

    pub(super) fn path(&self, id: MemberId) -> PathBuf {
        self.dir.path().join(id.to_string())
    }

    fn start(&mut self, id: MemberId, bootstrap: bool) {
        let begin = if bootstrap {
            found(id, &VOTERS)
        } else {
            Begin::Resume
        };
        self.try_start(id, begin).expect("starts");
    }

    pub(super) fn try_start(&mut self, id: MemberId, begin: Begin) -> Result<(), StartError> {
        let view: Arc<Mutex<View>> = Arc::default();
        let machine = Journal {
            view: Arc::clone(&view),
            history: Arc::clone(&self.history),
            ..Journal::default()
        };
        let config = Config {
            snapshot_every: self.snapshot_every,
            ..Config::new(self.path(id), begin)
        };
        let link = Arc::new(Link {
            me: id,
            net: Arc::clone(&self.net),
        });
        let fatal = Arc::clone(&self.fatal);
        let on_fatal: OnFatal = Box::new(move |reason| lock(&fatal).push(reason));
        let handle = start(config, machine, link, on_fatal)?;
        self.views.insert(id, view);
        self.members_mut(|members| members.insert(id, handle));
        Ok(())
    }

    pub(super) fn members_mut<T>(
        &self,
        change: impl FnOnce(&mut BTreeMap<MemberId, Handle<usize>>) -> T,
    ) -> T {
        change(
            &mut self
                .net
                .members
                .write()
                .unwrap_or_else(PoisonError::into_inner),
        )
    }

    pub(super) async fn stop(&self, id: MemberId) {
        let handle = self.members_mut(|members| members.remove(&id));
        handle.expect("it runs").shutdown().await;
    }

    pub(super) fn handle(&self, id: MemberId) -> Handle<usize> {
        self.members_mut(|members| members.get(&id).cloned())
            .expect("it runs")
    }

    /// A leader whose state machine knows that it leads.
    pub(super) async fn leader(&self) -> (MemberId, Handle<usize>) {
        let found = wait("a leader", || {
            let members = self.members_mut(|members| members.clone());
            members.into_iter().find(|(id, handle)| {
                let status = handle.status().borrow().clone();
                let leads = lock(&self.views[id]).leads;
                status.role == Role::Leader && leads == Some(status.term)
            })
        });
        found.await
    }

    /// Proposes until it is acknowledged, as a client with an idempotent command would.
    pub(super) async fn propose(&self, command: &str) -> Committed<usize> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let (_, leader) = self.leader().await;
            match leader
                .propose(Bytes::copy_from_slice(command.as_bytes()))
                .await
            {
                Ok(committed) => return committed,
                Err(error) => assert!(Instant::now() < deadline, "{command}: {error}"),
            }
        }
    }

    /// Waits until every running member shows the same commands with these among them, and returns them.
    pub(super) async fn agree(&self, expected: &[String]) -> Vec<Bytes> {
        let ids: Vec<MemberId> = self.members_mut(|members| members.keys().copied().collect());
        wait("agreement", || {
            let views: Vec<View> = ids.iter().map(|id| lock(&self.views[id]).clone()).collect();
            let first = views[0].commands.clone();
            let same = views.iter().all(|view| view.commands == first);
            let whole = expected
                .iter()
                .all(|one| first.iter().any(|c| c[..] == *one.as_bytes()));
            (same && whole).then_some(first)
        })
        .await
    }

    pub(super) fn assert_sound(&self) {
        assert_eq!(*lock(&self.fatal), Vec::<String>::new());
    }
}

pub(super) async fn wait<T>(what: &str, mut check: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = check() {
            return found;
        }
        assert!(Instant::now() < deadline, "{what} did not come about");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_leader_is_a_hiccup_and_a_restart_of_all_forgets_nothing() {
    let mut cluster = Cluster::new(10_000);
    let mut acknowledged = Vec::new();
    for number in 0..20 {
        let command = format!("first {number}");
        let committed = cluster.propose(&command).await;
        assert_eq!(committed.reply, number, "a reply belongs to its command");
        acknowledged.push(command);
    }
    let (old, handle) = cluster.leader().await;
    let index = handle.read_index().await.expect("a leader reads");
    assert!(lock(&cluster.views[&old]).applied >= index);
    cluster.stop(old).await;
    assert_eq!(
        handle.propose(Bytes::from_static(b"late")).await,
        Err(ProposeError::Stopped)
    );
    let healing = Instant::now();
    for number in 0..20 {
        let command = format!("second {number}");
        cluster.propose(&command).await;
        acknowledged.push(command);
        if number == 0 {
            // The promise is 2 s; the machine that runs tests may be loaded.
            assert!(
                healing.elapsed() < Duration::from_secs(6),
                "{:?}",
                healing.elapsed()
            );
        }
    }
    cluster.start(old, false);
    let before = cluster.agree(&acknowledged).await;
    for id in VOTERS {
        cluster.stop(id).await;
    }
    for id in VOTERS {
        cluster.start(id, false);
    }
    let after = cluster.agree(&acknowledged).await;
    assert_eq!(before, after);
    cluster.propose("third").await;
    cluster.assert_sound();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_laggard_gets_a_snapshot_and_restarts_from_it() {
    let mut cluster = Cluster::new(20);
    let (leader, _) = cluster.leader().await;
    let laggard = VOTERS
        .into_iter()
        .find(|id| *id != leader)
        .expect("a follower");
    cluster.stop(laggard).await;
    let mut acknowledged = Vec::new();
    for number in 0..100 {
        let command = format!("while away {number}");
        cluster.propose(&command).await;
        acknowledged.push(command);
    }
    // The log must have been cut, or the follower would be sent entries.
    let snapshots = cluster.path(cluster.leader().await.0).join("snapshots");
    let count = || std::fs::read_dir(&snapshots).expect("lists").count();
    wait("two snapshots", || (count() >= 2).then_some(())).await;
    cluster.start(laggard, false);
    cluster.agree(&acknowledged).await;
    assert!(
        cluster.net.pulls.load(Ordering::Relaxed) > 0,
        "no snapshot was pulled"
    );
    cluster.stop(laggard).await;
    cluster.start(laggard, false);
    cluster.propose("after").await;
    acknowledged.push("after".into());
    cluster.agree(&acknowledged).await;
    cluster.assert_sound();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_proposals_share_entries_and_each_gets_its_own_reply() {
    let cluster = Cluster::new(10_000);
    let (_, leader) = cluster.leader().await;
    let many: Vec<_> = (0..2_000)
        .map(|number: usize| {
            let leader = leader.clone();
            tokio::spawn(async move { leader.propose(number.to_le_bytes().to_vec().into()).await })
        })
        .collect();
    let mut highest = 0;
    let mut replies = BTreeMap::new();
    for (number, answer) in many.into_iter().enumerate() {
        let committed = answer
            .await
            .expect("no panic")
            .expect("a quiet leader commits");
        highest = highest.max(committed.index);
        assert_eq!(replies.insert(committed.reply, number), None);
    }
    assert!(
        highest < 1_500,
        "{highest} entries for 2,000 commands: no group commit"
    );
    let (id, _) = cluster.leader().await;
    let view = lock(&cluster.views[&id]).clone();
    for (reply, number) in replies {
        assert_eq!(view.commands[reply][..], number.to_le_bytes());
    }
    let large = Bytes::from(vec![0; (4 << 20) + 1]);
    let size = large.len();
    assert_eq!(
        leader.propose(large).await,
        Err(ProposeError::TooLarge { size })
    );
    cluster.assert_sound();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn followers_refuse_and_hostile_bytes_change_nothing() {
    let cluster = Cluster::new(10_000);
    cluster.propose("one").await;
    let (leader, _) = cluster.leader().await;
    let follower = VOTERS
        .into_iter()
        .find(|id| *id != leader)
        .expect("a follower");
    let handle = cluster.handle(follower);
    let known = Some(leader);
    assert_eq!(
        handle.propose(Bytes::from_static(b"x")).await,
        Err(ProposeError::NotLeader { leader: known })
    );
    assert_eq!(
        handle.read_index().await,
        Err(ReadError::NotLeader { leader: known })
    );
    for id in VOTERS {
        for bytes in [
            &b""[..],
            b"\x00",
            &[0xff; 100],
            &[0x3a, 0x02, 0xa3, 0x01],
            &[0xa3; 10_000],
        ] {
            assert!(cluster.handle(id).step(99, Bytes::copy_from_slice(bytes)));
            assert!(
                cluster
                    .handle(id)
                    .step(leader, Bytes::copy_from_slice(bytes))
            );
        }
        let long = Bytes::from(vec![0; turn::MAX_MESSAGE_BYTES + 1]);
        assert!(!cluster.handle(id).step(leader, long));
    }
    cluster.propose("two").await;
    cluster.agree(&["one".into(), "two".into()]).await;
    cluster.assert_sound();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leadership_moves_when_asked() {
    let cluster = Cluster::new(10_000);
    cluster.propose("before").await;
    let (old, handle) = cluster.leader().await;
    let next = VOTERS
        .into_iter()
        .find(|id| *id != old)
        .expect("a follower");
    handle.transfer_leader(next);
    let mut status = cluster.handle(next).status();
    let led = status.wait_for(|status| status.role == Role::Leader);
    let led = tokio::time::timeout(PATIENCE, led).await;
    assert_eq!(led.expect("in time").expect("runs").leader, Some(next));
    cluster.propose("after").await;
    // The old leader's state machine was told that it leads no more.
    let view = Arc::clone(&cluster.views[&old]);
    wait("stepping down", || {
        lock(&view).leads.is_none().then_some(())
    })
    .await;
    cluster.assert_sound();
}

/// Tries to start a member in `dir`; the complaint, or what it holds.
fn try_start(dir: &Path, id: MemberId, bootstrap: bool) -> Result<Handle<usize>, String> {
    let begin = if bootstrap {
        found(id, &[id])
    } else {
        Begin::Resume
    };
    let config = Config::new(dir, begin);
    let link = Arc::new(Link {
        me: id,
        net: Arc::default(),
    });
    start(config, Journal::default(), link, Box::new(|_| {})).map_err(|error| error.to_string())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_belongs_to_one_member_and_must_be_whole() {
    let dir = tempfile::tempdir().expect("a directory");
    let complaint = |id, bootstrap, word: &str| {
        let text = try_start(dir.path(), id, bootstrap).err().expect("refused");
        assert!(text.contains(word), "{text} has no {word:?}");
    };
    complaint(5, false, "must not vote again under its old id");
    complaint(0, true, "must not be 0");
    let handle = try_start(dir.path(), 5, true).expect("a new cluster");
    assert_eq!(handle.incarnation(), 1);
    let mut status = handle.status();
    let led = status.wait_for(|status| status.role == Role::Leader);
    tokio::time::timeout(PATIENCE, led)
        .await
        .expect("leads")
        .expect("runs");
    handle
        .propose(Bytes::from_static(b"x"))
        .await
        .expect("commits");
    complaint(5, false, "log");
    handle.shutdown().await;
    // Who it is stands in the directory, whatever the configuration says.
    let handle = try_start(dir.path(), 6, true).expect("resumes");
    assert_eq!(handle.status().borrow().id, 5);
    handle.shutdown().await;
    let log = dir.path().join("log/0000000000000001.raftlog");
    let good = std::fs::read(&log).expect("reads");
    let mut bad = good.clone();
    bad[90] ^= 1;
    std::fs::write(&log, bad).expect("writes");
    complaint(5, false, "will not vote");
    std::fs::remove_dir_all(dir.path().join("log")).expect("removes");
    complaint(5, false, "will not vote");
    std::fs::create_dir(dir.path().join("log")).expect("creates");
    std::fs::write(&log, good).expect("writes");
    let handle = try_start(dir.path(), 5, false).expect("whole again");
    handle.shutdown().await;
    std::fs::remove_file(dir.path().join("member.json")).expect("removes");
    complaint(5, true, "member.json");
}

/// A state machine that breaks its promise.
struct Broken;

impl Apply for Broken {
    type Reply = ();

    fn apply(&mut self, _index: u64, _commands: &[Bytes]) -> Vec<()> {
        panic!("a bug in a state machine")
    }

    fn published(&mut self, _applied: u64, _leads: Option<u64>) {}

    fn snapshot(&self) -> Box<dyn FnOnce() -> Result<Vec<u8>, Unsaved> + Send> {
        Box::new(|| Ok(Vec::new()))
    }

    fn restore(&mut self, _index: u64, _bytes: &[u8]) -> Result<(), String> {
        Ok(())
    }

    fn applied(&self) -> u64 {
        0
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_is_reported_once_and_ends_the_member() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = Config::new(dir.path(), found(1, &[1]));
    let link = Arc::new(Link {
        me: 1,
        net: Arc::default(),
    });
    let reasons: Arc<Mutex<Vec<String>>> = Arc::default();
    let sink = Arc::clone(&reasons);
    let on_fatal: OnFatal = Box::new(move |reason| lock(&sink).push(reason));
    let handle = start(config, Broken, link, on_fatal).expect("starts");
    wait("the report", || (!lock(&reasons).is_empty()).then_some(())).await;
    handle.shutdown().await;
    let reasons = lock(&reasons).clone();
    assert_eq!(reasons.len(), 1, "{reasons:?}");
    assert!(
        reasons[0].contains("a bug in a state machine"),
        "{reasons:?}"
    );
}
