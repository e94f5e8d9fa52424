//! Seals of one attempt: each complete checkpoint becomes a part of this node, one after another, while the ranks go on.
//! Does NOT judge what is complete: the rules do.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use mlctl_proto::spec::parse_json;
use mlctl_proto::units::metric_bits;
use tokio::sync::watch;
use tokio::time::timeout;
use tracing::{info, warn};

use super::Context;
use super::place::{Kind, Place};
use crate::checkpoints::seal::notify::Metric;
use crate::copies::sealing::SealError;
use crate::core::{CheckpointFound, Event, PartFound, Start};

/// The end of an attempt waits so long for what is being sealed. What takes longer is told after it.
const WAIT: Duration = Duration::from_secs(1);

/// The seals of one attempt. Cheap to clone.
#[derive(Clone)]
pub(super) struct Seals {
    context: Arc<Context>,
    start: Arc<Start>,
    place: Place,
    /// How many are under way.
    running: watch::Sender<usize>,
}

/// What is complete.
pub(super) struct Complete {
    pub(super) name: String,
    pub(super) step: u64,
    pub(super) by_rescan: bool,
    pub(super) metrics: Vec<Metric>,
    pub(super) save_ms: u64,
}

/// How a file in the attempt's folder begins that is there while a checkpoint is being sealed: an agent that dies then goes on with it.
const BEGUN: &str = "sealing-";

/// How those of this process begin, and of no process before it.
fn begun_here() -> &'static str {
    static BEGINS: OnceLock<String> = OnceLock::new();
    BEGINS.get_or_init(|| {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        let nanos = since.unwrap_or_default().as_nanos();
        format!("{BEGUN}{}-{nanos}-", std::process::id())
    })
}

/// Another one each time: the same name may be sealed again before the first seal of it is done.
fn note_of(folder: &Path) -> PathBuf {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    folder.join(format!("{}{number}", begun_here()))
}

/// Notes of this process, or of others.
fn notes(folder: &Path, here: bool) -> impl Iterator<Item = fs::DirEntry> + use<> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter(move |entry| {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        name.starts_with(BEGUN) && name.starts_with(begun_here()) == here
    })
}

/// Whether an agent before this one died while something of an attempt was being sealed. What says so goes.
pub(super) fn was_cut_short(folder: &Path) -> bool {
    // One that stays costs a look at the next start.
    let mut any = false;
    for note in notes(folder, false) {
        any = true;
        // One that stays brings another look, and nothing else.
        let _ = fs::remove_file(note.path());
    }
    any
}

/// Whether something of an attempt is being sealed now, by whichever task.
pub(super) fn is_sealing(folder: &Path) -> bool {
    notes(folder, true).next().is_some()
}

impl Seals {
    pub(super) fn new(context: Arc<Context>, start: Arc<Start>) -> Self {
        let running = watch::Sender::new(0);
        let place = Place::of(&context.dirs, &start);
        Self {
            context,
            start,
            place,
            running,
        }
    }

    /// The driver's.
    pub(super) fn context(&self) -> &Context {
        &self.context
    }

    /// The attempt's.
    pub(super) fn folder(&self) -> PathBuf {
        self.context.dirs.attempt(self.start.job, self.start.epoch)
    }

    /// Begins to seal one. The core is told of it when it is done, or cannot be.
    pub(super) async fn begin(&self, complete: Complete) {
        if self.place.kind == Kind::Shared {
            return self.tell_shared(complete).await;
        }
        self.tell_sealing(true).await;
        self.running.send_modify(|running| *running += 1);

        let note = note_of(&self.folder());
        // Without it a crash just now costs a copy of this checkpoint, and nothing else.
        let _ = fs::write(&note, &complete.name);
        let dir = self.place.dir.clone();
        let judged = self.context.vault.print_of(&dir, &complete.name).await;
        let seals = self.clone();
        tokio::spawn(async move {
            seals.seal(complete, judged.as_deref()).await;
            let _ = fs::remove_file(&note);
            seals.tell_sealing(false).await;
            seals.running.send_modify(|running| *running -= 1);
        });
    }

    /// Waits a moment for those that are under way.
    pub(super) async fn settle(&self) {
        let mut running = self.running.subscribe();
        // The sender is ours.
        let done = running.wait_for(|running| *running == 0);
        let _ = timeout(WAIT, done).await;
    }

    /// Tells the cluster that this node wrote nothing for a checkpoint.
    pub(super) async fn tell_empty(&self, name: String, step: u64) {
        let (job, epoch) = (self.start.job, self.start.epoch);
        info!(%job, %epoch, name, "this node has no part of a checkpoint that another node completed");
        let part = PartFound {
            index: self.start.node_rank,
            manifest: None,
            bytes: 0,
        };
        let found = CheckpointFound {
            part: Some(part),
            parts: self.parts(),
            ..CheckpointFound::bare(job, epoch, name, step)
        };
        self.context.tell(Event::Checkpoint(found)).await;
    }

    /// Tells the cluster of one that lies where every node sees it. It is all there: it has one part, and that is its directory.
    async fn tell_shared(&self, complete: Complete) {
        let found = self.found(complete, 1);
        self.context.tell(Event::Checkpoint(found)).await;
    }

    fn found(&self, complete: Complete, parts: u32) -> CheckpointFound {
        let (job, epoch) = (self.start.job, self.start.epoch);
        CheckpointFound {
            by_rescan: complete.by_rescan,
            parts,
            metric: metric(&self.start.spec, &complete.metrics),
            save_ms: u32::try_from(complete.save_ms).unwrap_or(u32::MAX),
            ..CheckpointFound::bare(job, epoch, complete.name, complete.step)
        }
    }

    /// `judged`: what it looked like when it was complete. It may have waited for others since.
    async fn seal(&self, complete: Complete, judged: Option<&str>) {
        let (job, epoch) = (self.start.job, self.start.epoch);
        let mut found = self.found(complete, self.parts());
        let dir = &self.place.dir;
        let vault = &self.context.vault;
        if found.by_rescan && vault.is_of_earlier(dir, &found).await {
            return;
        }
        let index = self.start.node_rank;
        match vault.seal(dir, &mut found, index, judged).await {
            Ok(key) => {
                self.context.tell(Event::Checkpoint(found)).await;
                vault.said(&key);
            }
            Err(SealError::Overtaken) => {
                info!(%job, %epoch, found.name, "a checkpoint was written to, or removed, before it was sealed");
            }
            // Nobody could resume from it: it goes with its attempt.
            Err(error) if self.place.kind == Kind::Ram => {
                warn!(%job, %epoch, found.name, %error, "a checkpoint in memory cannot be sealed, so it does not count");
            }
            Err(error) => {
                warn!(%job, %epoch, found.name, %error, "a checkpoint cannot be sealed: it stays in its directory on this node only");
                self.context.tell(Event::Checkpoint(found)).await;
            }
        }
    }

    fn parts(&self) -> u32 {
        let members = u32::try_from(self.start.members.len());
        members.unwrap_or(u32::MAX).max(1)
    }

    async fn tell_sealing(&self, begun: bool) {
        let (job, epoch) = (self.start.job, self.start.epoch);
        let sealing = Event::Sealing { job, epoch, begun };
        self.context.tell(sealing).await;
    }
}

/// How good it is by the metric that the job keeps the best of.
fn metric(spec: &[u8], metrics: &[Metric]) -> Option<u64> {
    let best = parse_json(spec).ok()?.checkpoint?.keep_best?;
    let said = metrics.iter().find(|one| one.name == best.metric)?;
    metric_bits(said.value.parse().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use mlctl_proto::spec::{CheckpointSpec, JobSpec, KeepBest};

    #[test]
    fn what_was_being_sealed_is_known_once_after_a_crash() {
        let dir = tempfile::tempdir().expect("dir");
        assert!(!was_cut_short(dir.path()) && !was_cut_short(&dir.path().join("gone")));
        fs::write(dir.path().join("sealing-1-2-3"), "x").expect("written");
        fs::write(dir.path().join("start.pb"), "x").expect("written");
        assert!(was_cut_short(dir.path()));
        assert!(!was_cut_short(dir.path()));
        // What this process seals is another matter, as often as it is.
        let notes = [note_of(dir.path()), note_of(dir.path())];
        for note in &notes {
            fs::write(note, "x").expect("written");
        }
        fs::remove_file(&notes[0]).expect("sealed");
        assert!(is_sealing(dir.path()) && !was_cut_short(dir.path()));
        fs::remove_file(&notes[1]).expect("sealed");
        assert!(!is_sealing(dir.path()));
        assert!(dir.path().join("start.pb").exists());
    }

    #[test]
    fn the_metric_is_the_one_that_the_job_names() {
        let said = [("accuracy", "0.5"), ("val_loss", "1.25e-1")];
        let said = said.map(|(name, value)| Metric {
            name: name.into(),
            value: value.into(),
        });
        let spec = |best: Option<&str>| {
            let mut spec = JobSpec::new(vec!["true".into()]);
            spec.checkpoint = Some(CheckpointSpec {
                keep_best: best.map(|best| KeepBest::parse(best).expect("good")),
                ..CheckpointSpec::in_dir("c")
            });
            spec.canonical_json()
        };
        let of = |best| metric(&spec(best), &said);
        assert_eq!(of(Some("val_loss:min:1")), metric_bits(0.125));
        assert_eq!(of(Some("f1:max:1")), None);
        assert_eq!(of(None), None);
        assert_eq!(metric(b"nonsense", &said), None);
    }
}
