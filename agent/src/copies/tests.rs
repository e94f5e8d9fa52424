//! Real vaults in one process, over loopback, with a leader that the test plays: copies go and come, are lost, forgotten and put together.
//! Does NOT test the leader: it knows every part that was told of, and allows what the test wants.

mod ending;
mod upload;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mlctl_proto::agent::{Inventory, Pushed, Uploaded};
use mlctl_proto::ids::{Epoch, JobId};
use mlctl_proto::persist::CheckpointSealed;
use mlctl_runtime::identity::Ca;
use tokio::sync::Notify;
use tokio::time::timeout;

use super::restore::{Restored, Wanted};
use super::*;
use crate::checkpoints::leftovers::ASIDE;
use crate::core::{CheckpointFound, Holder, ManifestId, Restore, RestorePart};
use crate::link::copies::{Answer, Replicate, part_to_wire};

/// Longer than anything here takes, also on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);
const JOB: JobId = JobId::new(1, 7);
const EPOCH: Epoch = Epoch::new(1, 2);

/// What the leader knows, and how often it refuses before it allows.
#[derive(Default)]
struct Leader {
    parts: BTreeMap<ManifestId, (PartKey, CheckpointSealed)>,
    refusals: u32,
    asked: u32,
}

/// What a vault said.
#[derive(Default)]
struct Said {
    held: Vec<PartKey>,
    sealed: Vec<CheckpointSealed>,
    lost: Vec<PartKey>,
    pushed: Vec<Pushed>,
    uploaded: Vec<PartKey>,
    uploads: Vec<Uploaded>,
}

struct Place {
    dir: tempfile::TempDir,
    ca: Ca,
    leader: Arc<Mutex<Leader>>,
}

/// A node with a vault.
struct Bench {
    name: &'static str,
    root: PathBuf,
    vault: Vault,
    said: Arc<Mutex<Said>>,
    news: Arc<Notify>,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("dir");
        let ca = Ca::create(&dir.path().join("ca"), "c").expect("made");
        let leader = Arc::default();
        Self { dir, ca, leader }
    }

    /// Where uploads go.
    fn far(&self) -> PathBuf {
        self.dir.path().join("far")
    }

    async fn node(&self, name: &'static str) -> Bench {
        let root = self.dir.path().join(name);
        fs::create_dir_all(root.join("ckpt")).expect("made");
        let bundle = self.ca.issue_node(name).expect("issued");
        let tls = tls(&NodeTls::new(&bundle).expect("a node's")).expect("fits");
        let setup = Setup {
            own: name.into(),
            copies: root.join("copies"),
            ledger: root.join("ledger"),
            staging: root.join("staging"),
            limit_bytes: u64::MAX,
            upload_dirs: Some(vec![self.far()]),
            addresses: vec![([127, 0, 0, 1], 0).into()],
            tls,
        };
        let (inputs, receiver) = mpsc::channel(64);
        let vault = Vault::open(setup, inputs).await.expect("opened");
        assert!(vault.port() > 0);
        let bench = Bench {
            name,
            root,
            vault,
            said: Arc::default(),
            news: Arc::default(),
        };
        let weak = Arc::downgrade(&bench.vault.inner);
        let (said, news, leader) = (bench.said.clone(), bench.news.clone(), self.leader.clone());
        tokio::spawn(lead(weak, receiver, leader, said, news));
        bench
    }
}

/// Answers what a vault asks, and takes down what it says.
async fn lead(
    vault: Weak<Inner>,
    mut inputs: mpsc::Receiver<Input>,
    leader: Arc<Mutex<Leader>>,
    said: Arc<Mutex<Said>>,
    news: Arc<Notify>,
) {
    while let Some(input) = inputs.recv().await {
        match input {
            Input::Copies(What::Ask(ask)) => {
                let mut leader = lock(&leader);
                leader.asked += 1;
                let refused = leader.refusals > 0;
                leader.refusals = leader.refusals.saturating_sub(1);
                let manifest: ManifestId = ask.manifest.try_into().expect("32 bytes");
                let part = leader.parts.get(&manifest).cloned();
                let answer = Answer {
                    id: ask.id,
                    allowed: !refused && part.is_some(),
                    brought: part.filter(|_| ask.write).into_iter().collect(),
                };
                drop(leader);
                if let Some(inner) = vault.upgrade() {
                    Vault { inner }.answered(answer);
                }
            }
            Input::Copies(What::Pushed(pushed)) => lock(&said).pushed.push(pushed),
            Input::Core(Event::CopyHeld { job, epoch, sealed }) => {
                let key = PartKey::of(job, epoch, &sealed).expect("a part");
                let mut said = lock(&said);
                said.held.push(key);
                said.sealed.push(sealed);
            }
            Input::Core(Event::CopyLost(key)) => lock(&said).lost.push(key),
            Input::Core(Event::CopyUploaded(key)) => lock(&said).uploaded.push(key),
            Input::Copies(What::Uploaded(one)) => lock(&said).uploads.push(one),
            other => panic!("{other:?}"),
        }
        news.notify_waiters();
    }
}

impl Bench {
    fn write(&self, name: &str, file: &str, bytes: &[u8]) {
        let path = self.root.join("ckpt").join(name).join(file);
        fs::create_dir_all(path.parent().expect("below")).expect("made");
        fs::write(path, bytes).expect("written");
    }

    fn path(&self, at: &str) -> PathBuf {
        self.root.join("ckpt").join(at)
    }

    fn read(&self, at: &str) -> Vec<u8> {
        fs::read(self.path(at)).expect("there")
    }

    fn holder(&self) -> Holder {
        Holder {
            node: self.name.into(),
            address: format!("127.0.0.1:{}", self.vault.port()),
        }
    }

    /// Seals what lies there, and lets the leader know.
    async fn seal(&self, place: &Place, name: &str, index: u32) -> PartKey {
        let mut found = CheckpointFound {
            parts: 3,
            metric: Some(9),
            save_ms: 5,
            ..CheckpointFound::bare(JOB, EPOCH, name.into(), 5)
        };
        let dir = self.root.join("ckpt");
        let sealing = self.vault.seal(&dir, &mut found, index, None);
        let key = sealing.await.expect("sealed");
        self.vault.said(&key);
        let part = (key.clone(), found.sealed());
        lock(&place.leader).parts.insert(key.manifest, part);
        key
    }

    /// Waits until what was said is what is waited for.
    async fn until<T>(&self, what: &str, done: impl Fn(&Said) -> Option<T>) -> T {
        let waiting = async {
            loop {
                let news = self.news.notified();
                tokio::pin!(news);
                // From here on nothing is missed.
                news.as_mut().enable();
                if let Some(found) = done(&lock(&self.said)) {
                    return found;
                }
                news.await;
            }
        };
        let waited = timeout(PATIENCE, waiting).await;
        waited.unwrap_or_else(|_| panic!("{}: no {what} in time", self.name))
    }

    async fn held(&self, key: &PartKey) -> CheckpointSealed {
        let find = |said: &Said| {
            let at = said.held.iter().position(|held| held == key)?;
            Some(said.sealed[at].clone())
        };
        self.until("copy", find).await
    }

    async fn lost(&self, key: &PartKey) {
        let find = |said: &Said| said.lost.contains(key).then_some(());
        self.until("loss", find).await;
    }

    async fn pushed(&self) -> Pushed {
        self.until("outcome", |said| said.pushed.last().cloned())
            .await
    }

    fn copy(&self, key: &PartKey, to: &Bench) {
        self.vault.replicate(Replicate {
            key: key.clone(),
            to: to.holder(),
            urgent: false,
            rate: None,
        });
    }

    fn listed(&self) -> Vec<mlctl_proto::agent::PartKey> {
        let messages: Vec<Inventory> = self.vault.inventory();
        let (last, more) = messages.split_last().expect("one at least");
        assert!(!last.more && more.iter().all(|message| message.more));
        messages.into_iter().flat_map(|one| one.parts).collect()
    }

    fn holds(&self, key: &PartKey) -> bool {
        self.vault.shared().store.is_held(&blob(&key.manifest))
    }

    /// As a restart does it.
    async fn again(self, place: &Place) -> Bench {
        let name = self.name;
        drop(self);
        place.node(name).await
    }

    async fn restore(
        &self,
        name: &str,
        own: u32,
        parts: Vec<RestorePart>,
    ) -> Result<Restored, restore::RestoreError> {
        let wanted = Wanted {
            job: JOB,
            name: name.into(),
            restore: Restore {
                epoch: EPOCH,
                parts,
            },
            own,
            into: self.root.join("ckpt"),
            staging: self.root.join("restoring"),
            user: None,
        };
        let restoring = timeout(PATIENCE, self.vault.restore(wanted));
        restoring.await.expect("in time")
    }
}

fn part(key: &PartKey, holders: &[&Bench]) -> RestorePart {
    RestorePart {
        index: key.index,
        manifest: Some(key.manifest),
        bytes: 1,
        holders: holders.iter().map(|node| node.holder()).collect(),
        url: None,
    }
}

fn noise(seed: u8, bytes: usize) -> Vec<u8> {
    let mut out = vec![0; bytes];
    let mut hasher = blake3::Hasher::new();
    hasher.update(&[seed]);
    hasher.finalize_xof().fill(&mut out);
    out
}

/// Changes a byte of every chunk, as a bad disk does.
fn damage(node: &Bench) {
    let mut folders = vec![node.root.join("copies/objects")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("listed").flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let mut bytes = fs::read(&path).expect("read");
            bytes
                .iter_mut()
                .step_by(1 << 20)
                .for_each(|byte| *byte ^= 1);
            fs::write(&path, bytes).expect("written");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_is_refused_until_the_leader_allows_it_and_then_outlives_its_maker() {
    let place = Place::new();
    let (a, b) = (place.node("a").await, place.node("b").await);
    a.write("step-5", "weights", &noise(1, 3 << 20));
    a.write("step-5", "config", b"small");
    lock(&place.leader).refusals = 1;
    let key = a.seal(&place, "step-5", 1).await;
    assert!(
        lock(&a.said).held.is_empty(),
        "it is told of by who sealed it"
    );
    a.copy(&key, &b);
    let sealed = b.held(&key).await;
    let pushed = a.pushed().await;
    assert_eq!((pushed.error.as_str(), pushed.to.as_str()), ("", "b"));
    assert!(["quic", "tcp"].contains(&pushed.way.as_str()));
    assert_eq!(pushed.key, Some(part_to_wire(&key)));
    assert!(lock(&place.leader).asked >= 2, "refused, and asked again");
    // All that there is to know of it came along.
    assert_eq!(
        (sealed.parts, sealed.metric, sealed.save_ms),
        (3, Some(9), 5)
    );
    assert_eq!((sealed.name.as_str(), sealed.step), ("step-5", 5));
    drop(a);
    let b = b.again(&place).await;
    assert_eq!(b.listed(), [part_to_wire(&key)]);
    let c = place.node("c").await;
    let restored = c.restore("step-5", 0, vec![part(&key, &[&b])]).await;
    let restored = restored.expect("restored");
    assert_eq!(restored.from, ["b"]);
    assert_eq!(c.read("step-5/weights"), noise(1, 3 << 20));
    assert_eq!(c.read("step-5/config"), b"small");
    c.held(&key).await;
    assert_eq!(c.listed(), [part_to_wire(&key)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_here_is_told_to_be_lost_whoever_asks() {
    let place = Place::new();
    let (a, b) = (place.node("a").await, place.node("b").await);
    a.write("step-5", "w", &noise(1, 100_000));
    let key = a.seal(&place, "step-5", 0).await;
    let unknown = PartKey {
        manifest: [9; 32],
        ..key.clone()
    };
    a.copy(&unknown, &b);
    a.lost(&unknown).await;
    assert!(!a.pushed().await.error.is_empty());
    a.vault.announce(vec![unknown.clone(), key.clone()]).await;
    a.held(&key).await;
    assert_eq!(lock(&a.said).lost.len(), 2);
    // An entry that a crash kept from being written: the store has it, and the cluster says what it is.
    let ledger = a.root.join("ledger");
    let a = {
        let name = a.name;
        drop(a);
        fs::remove_dir_all(ledger).expect("removed");
        place.node(name).await
    };
    assert_eq!(a.listed(), []);
    a.vault.announce(vec![key.clone()]).await;
    assert_eq!(a.held(&key).await.name, "step-5");
    assert_eq!(a.listed(), [part_to_wire(&key)]);
    // The disk lost the store and kept the ledger.
    let copies = a.root.join("copies");
    let name = a.name;
    drop(a);
    fs::remove_dir_all(copies).expect("removed");
    let a = place.node(name).await;
    a.lost(&key).await;
    assert_eq!(a.listed(), []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_forgotten_frees_its_bytes_once_nothing_needs_it() {
    let place = Place::new();
    let a = place.node("a").await;
    for name in ["step-5", "same-5"] {
        a.write(name, "w", &noise(1, 1 << 20));
    }
    let one = a.seal(&place, "step-5", 0).await;
    let other = a.seal(&place, "same-5", 0).await;
    assert_eq!(one.manifest, other.manifest, "the same bytes");
    let used = a.vault.shared().store.usage().used_bytes;
    a.vault.forget(vec![one.clone(), one.clone()]).await;
    assert!(a.holds(&other));
    assert_eq!(a.listed(), [part_to_wire(&other)]);
    a.vault.forget(vec![other.clone()]).await;
    assert!(!a.holds(&other) && used >= 1 << 20);
    assert_eq!(a.vault.shared().store.usage().used_bytes, 0);
    assert_eq!(a.vault.space().borrow().used, 0);
    assert_eq!(a.listed(), []);
    assert!(lock(&a.said).lost.is_empty(), "nobody missed it");
    assert_eq!(a.read("step-5/w").len(), 1 << 20, "the job's own stays");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_copy_is_told_to_be_lost_and_the_other_holder_is_asked() {
    let place = Place::new();
    let (a, b) = (place.node("a").await, place.node("b").await);
    a.write("step-5", "w", &noise(1, 9 << 20));
    let key = a.seal(&place, "step-5", 0).await;
    a.copy(&key, &b);
    b.held(&key).await;
    damage(&b);
    let c = place.node("c").await;
    // Nobody else is asked: what is damaged is found, and nothing is laid out.
    tokio::select! {
        () = b.lost(&key) => {}
        restored = c.restore("step-5", 0, vec![part(&key, &[&b])]) => panic!("{restored:?}"),
    }
    assert!(!c.path("step-5").exists());
    let restored = c.restore("step-5", 0, vec![part(&key, &[&b, &a])]).await;
    assert_eq!(restored.expect("restored").from, ["a"]);
    assert_eq!(c.read("step-5/w"), noise(1, 9 << 20));
    assert!(!b.holds(&key));
    // And one that this node finds out itself, while it lays it out.
    damage(&c);
    fs::remove_dir_all(c.path("step-5")).expect("removed");
    let restored = c.restore("step-5", 0, vec![part(&key, &[&a])]).await;
    assert_eq!(restored.expect("restored").from, ["a"]);
    assert_eq!(c.read("step-5/w"), noise(1, 9 << 20));
    c.lost(&key).await;
    let again = c.until("copy again", |said| {
        (said.held.len() > 1).then(|| said.held.clone())
    });
    assert_eq!(again.await, [key.clone(), key.clone()]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parts_of_several_nodes_are_put_together_with_ones_own_first() {
    let place = Place::new();
    let (a, b) = (place.node("a").await, place.node("b").await);
    let c = place.node("c").await;
    a.write("step-5", "shard-0", &noise(1, 2 << 20));
    a.write("step-5", "sub/x", b"of a");
    a.write("step-5", "shared", b"of a");
    b.write("step-5", "shard-1", &noise(2, 2 << 20));
    b.write("step-5", "sub/y", b"of b");
    b.write("step-5", "shared", b"of b");
    let (zero, one) = (
        a.seal(&place, "step-5", 0).await,
        b.seal(&place, "step-5", 1).await,
    );
    let empty = RestorePart {
        index: 2,
        manifest: None,
        bytes: 0,
        holders: vec![],
        url: None,
    };
    let parts = vec![part(&zero, &[&a]), part(&one, &[&b]), empty];
    // Somebody left something else there.
    c.write("step-5", "old", b"x");
    let restored = c
        .restore("step-5", 1, parts.clone())
        .await
        .expect("restored");
    assert_eq!(restored.from, ["a", "b"]);
    assert!(restored.came >= 4 << 20);
    assert_eq!(c.read("step-5/shard-0"), noise(1, 2 << 20));
    assert_eq!(c.read("step-5/shard-1"), noise(2, 2 << 20));
    let texts = ["step-5/sub/x", "step-5/sub/y", "step-5/shared"].map(|at| c.read(at));
    assert_eq!(
        texts,
        [b"of a".to_vec(), b"of b".to_vec(), b"of b".to_vec()]
    );
    assert!(!c.path("step-5/old").exists() && !c.root.join("restoring").exists());
    let aside = fs::read_dir(c.path(ASIDE)).expect("moved").count();
    assert_eq!(aside, 1);
    for key in [&zero, &one] {
        c.held(key).await;
    }
    // The makers, which have the half each; and without anybody to ask once all is here.
    let own_first = a.restore("step-5", 0, parts.clone()).await;
    assert_eq!(own_first.expect("restored").from, ["b"]);
    assert_eq!(a.read("step-5/shared"), b"of a");
    let nobody = parts.iter().map(|part| RestorePart {
        holders: vec![],
        ..part.clone()
    });
    let restored = c.restore("step-5", 0, nobody.collect()).await;
    assert_eq!(restored.expect("restored").ways, ["local"]);
    assert_eq!(c.read("step-5/shared"), b"of a");
    let missing = RestorePart {
        index: 1,
        manifest: Some([9; 32]),
        bytes: 1,
        holders: vec![c.holder()],
        url: None,
    };
    let error = c.restore("step-5", 0, vec![missing]).await;
    let error = error.expect_err("nobody has it").to_string();
    assert!(
        error.contains("no node") && error.contains("part 1"),
        "{error}"
    );
    let error = c.restore("../x", 0, parts).await;
    assert!(matches!(error, Err(restore::RestoreError::Name(_))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ones_own_directory_is_used_as_it_is_until_it_changes() {
    let place = Place::new();
    let a = place.node("a").await;
    a.write("step-5", "w", &noise(1, 1 << 20));
    a.write("step-5", "small", b"good");
    let key = a.seal(&place, "step-5", 0).await;
    let again = a.seal(&place, "step-5", 0).await;
    assert_eq!(key, again);
    let of = |counter| CheckpointFound::bare(JOB, Epoch::new(1, counter), "step-5".into(), 5);
    let dir = a.root.join("ckpt");
    assert!(a.vault.is_of_earlier(&dir, &of(3)).await);
    assert!(!a.vault.is_of_earlier(&dir, &of(2)).await);
    let inode = |at: &str| fs::metadata(a.path(at)).expect("there").ino();
    let before = inode("step-5");
    let whole = || vec![part(&key, &[])];
    let restored = a.restore("step-5", 0, whole()).await.expect("restored");
    assert_eq!((restored.from, restored.came), (vec!["a".to_owned()], 0));
    assert_eq!(inode("step-5"), before, "nothing was done");
    // Replaced by something else of the same size.
    fs::remove_file(a.path("step-5/small")).expect("removed");
    fs::write(a.path("step-5/small"), b"evil").expect("written");
    let restored = a.restore("step-5", 0, whole()).await;
    restored.expect("restored");
    assert_eq!(a.read("step-5/small"), b"good");
    let after = inode("step-5");
    assert_ne!(after, before);
    // What was restored is known from then on.
    a.restore("step-5", 0, whole()).await.expect("restored");
    assert_eq!(inode("step-5"), after);
    // A directory that is rewritten in place is another part.
    fs::remove_file(a.path("step-5/small")).expect("removed");
    fs::write(a.path("step-5/small"), b"new").expect("written");
    let rewritten = a.seal(&place, "step-5", 0).await;
    assert_ne!(rewritten.manifest, key.manifest);
    assert_eq!(a.listed().len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_checkpoint_that_is_one_file_stays_one() {
    let place = Place::new();
    let (a, b) = (place.node("a").await, place.node("b").await);
    let name = "epoch=1-step=5.ckpt";
    fs::write(a.path(name), noise(3, 300_000)).expect("written");
    let key = a.seal(&place, name, 0).await;
    let left = fs::read_dir(a.root.join("staging")).expect("there");
    assert_eq!(left.count(), 0);
    let restored = b.restore(name, 0, vec![part(&key, &[&a])]).await;
    restored.expect("restored");
    assert!(b.path(name).is_file());
    assert_eq!(b.read(name), noise(3, 300_000));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_sealed_says_why_and_leaves_nothing() {
    let place = Place::new();
    let a = place.node("a").await;
    a.write("step-5", "w", b"x");
    let pipe = a.path("step-5/pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).expect("made");
    let mut found = CheckpointFound::bare(JOB, EPOCH, "step-5".into(), 5);
    let dir: &Path = &a.root.join("ckpt");
    let sealed = a.vault.seal(dir, &mut found, 0, None).await;
    let error = sealed.expect_err("a pipe is none").to_string();
    assert!(error.contains("pipe"), "{error}");
    assert_eq!((found.part, a.listed()), (None, vec![]));
    found.name = "gone".into();
    assert!(a.vault.seal(dir, &mut found, 0, None).await.is_err());
}
