//! `mlctl checkpoint get`: a checkpoint as a directory on this machine. What came before a break is kept in a hidden directory beside the
//! target and does not come again: the same command goes on. Every byte is verified. Does NOT talk to nodes: a coordinator does.
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use mlctl_blobs::BlobId;
use mlctl_blobs::checkpoint::{
    CHUNK_BYTES, CheckpointError, CheckpointStore, MANIFEST_BYTES_MAX, Options, Receive,
};
use mlctl_proto::api::{Checkpoint, CheckpointPart, GetPartRequest, PartPiece};
use mlctl_proto::units::bytes_text;
use serde_json::json;

use super::lay::lay;
use super::show::chosen;
use crate::args::{GetCheckpointArgs, Global};
use crate::client::{Client, checkpoints, traced};
use crate::failure::Failure;
use crate::output::{Output, clean, is_shared};

/// Nothing came for so long: it is given up, and the same command goes on.
const PATIENCE: Duration = Duration::from_secs(120);
/// Between two lines of progress.
const EVERY: Duration = Duration::from_millis(200);

/// Fetches the checkpoint of `args`.
pub async fn run(
    args: &GetCheckpointArgs,
    global: &Global,
    output: &dyn Output,
) -> Result<u8, Failure> {
    let mut client = Client::open(global)?;
    let (job, checkpoint) = chosen(&mut client, &args.checkpoint).await?;
    let dest = target(args.dir.as_deref(), &checkpoint.name)?;
    let parts = portable(&checkpoint, &job.id)?;
    let aside = beside(&dest, &job.id, &checkpoint);
    let store = open(&aside)?;
    let mut progress = Progress::new(&checkpoint);
    for part in &parts {
        let request = GetPartRequest {
            job: job.id.clone(),
            attempt: checkpoint.attempt,
            name: checkpoint.name.clone(),
            index: part.index,
            manifest: part.manifest.clone(),
            want: Vec::new(),
        };
        let fetched = fetch(&mut client, &store, request, &mut progress).await;
        fetched.map_err(|failure| goes_on(failure, &aside))?;
    }
    progress.end();
    let ids: Result<Vec<BlobId>, Failure> = parts.iter().map(id_of).collect();
    let bytes = lay(&store, &ids?, &aside, &dest).map_err(|error| local(&error))?;
    drop(store);
    std::fs::remove_dir_all(&aside).map_err(|error| {
        Failure::failed(format!(
            "{} is there; {} is left over: {error}",
            dest.display(),
            aside.display()
        ))
    })?;
    let value = json!({ "v": 1, "job": job.id, "name": checkpoint.name, "attempt": checkpoint.attempt, "dir": dest.to_string_lossy(), "bytes": bytes });
    let text = format!(
        "{} of job {} is in {}, {}",
        clean(&checkpoint.name),
        job.id,
        clean(&dest.to_string_lossy()),
        bytes_text(bytes)
    );
    output.value(&value, &text);
    Ok(0)
}

/// Where it goes to, which must not be there yet.
fn target(dir: Option<&Path>, name: &str) -> Result<PathBuf, Failure> {
    let dest = dir.map_or_else(|| PathBuf::from(name), Path::to_owned);
    let shown = clean(&dest.to_string_lossy());
    let Some(last) = dest.file_name() else {
        return Err(Failure::usage(format!(
            "{shown} can be no new directory: name one that is not there yet"
        )));
    };
    if dest.symlink_metadata().is_ok() {
        return Err(Failure::usage(format!(
            "{shown} is there already: name another directory, or move it away"
        )));
    }
    let parent = dest
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    let parent = parent.unwrap_or(Path::new(".")).canonicalize();
    let parent = parent.map_err(|error| {
        Failure::not_found(format!("the directory that {shown} is to be in: {error}"))
    })?;
    Ok(parent.join(last))
}

/// Hidden, and the same for the same command.
fn beside(dest: &Path, job: &str, checkpoint: &Checkpoint) -> PathBuf {
    let manifests: Vec<&str> = checkpoint
        .parts
        .iter()
        .map(|part| part.manifest.as_str())
        .collect();
    let what = format!("{}\n{job}\n{}", dest.display(), manifests.join("\n"));
    let mark = blake3::hash(what.as_bytes()).to_hex();
    dest.with_file_name(format!(".mlctl-get-{}", &mark[..16]))
}

/// Its parts with something in them, in order.
fn portable(checkpoint: &Checkpoint, job: &str) -> Result<Vec<CheckpointPart>, Failure> {
    let filled = checkpoint.parts.iter();
    let filled: Vec<CheckpointPart> = filled
        .filter(|part| !(part.manifest.is_empty() && part.holders.is_empty()))
        .cloned()
        .collect();
    if is_shared(checkpoint) {
        return Err(Failure::failed(format!(
            "{} of job {job} lies in the directory that the job's spec names, which every node sees, and mlctl has nothing of it: copy it from there",
            clean(&checkpoint.name)
        )));
    }
    if filled.is_empty() || filled.iter().any(|part| part.manifest.is_empty()) {
        let nodes = checkpoint.holders.join(", ");
        return Err(Failure::failed(format!(
            "{} of job {job} is only a directory on {nodes} and was never sealed, so it cannot be fetched: copy it from there",
            clean(&checkpoint.name)
        )));
    }
    Ok(filled)
}

fn id_of(part: &CheckpointPart) -> Result<BlobId, Failure> {
    part.manifest.parse().map_err(Failure::internal)
}

fn open(aside: &Path) -> Result<CheckpointStore, Failure> {
    let options = Options {
        limit_bytes: u64::MAX,
        threads: 2,
    };
    CheckpointStore::open(aside, options).map_err(|error| local(&error))
}

/// Brings a part into the store.
async fn fetch(
    client: &mut Client,
    store: &CheckpointStore,
    mut request: GetPartRequest,
    progress: &mut Progress,
) -> Result<(), Failure> {
    let id: BlobId = request.manifest.parse().map_err(Failure::internal)?;
    if store.is_held(&id) {
        progress.has(store, &id);
        return Ok(());
    }
    let mut arriving = Arriving::new(id);
    if store.incoming().contains(&id) {
        arriving.receive = store.mend(&id, &[]).map_err(|error| local(&error))?;
    }
    if let Some(receive) = &arriving.receive {
        let want = receive.want();
        progress.had(receive);
        request.want = want.as_bytes().to_vec();
        if want.is_empty() {
            return arriving.finish().map_err(|error| local(&error));
        }
    }
    let answer = client.call(|channel| {
        let request = traced(request.clone());
        async move { checkpoints(channel).get_part(request).await }
    });
    let mut stream = answer.await?;
    loop {
        let message = tokio::time::timeout(PATIENCE, stream.message()).await;
        let message = message.map_err(|_| {
            Failure::timed_out(format!("nothing came for {} s", PATIENCE.as_secs()))
        })?;
        let Some(piece) = message.map_err(|status| Failure::from(&status))? else {
            return arriving.finish().map_err(|error| local(&error));
        };
        progress.add(piece.data.len(), piece.manifest);
        arriving.take(store, piece).map_err(|error| local(&error))?;
    }
}

/// A part that is on its way.
struct Arriving {
    id: BlobId,
    /// Of the manifest, or of the chunk that comes.
    bytes: Vec<u8>,
    receive: Option<Receive>,
}

impl Arriving {
    fn new(id: BlobId) -> Self {
        Self {
            id,
            bytes: Vec::new(),
            receive: None,
        }
    }

    /// Takes a piece; what it belongs to is used once it is whole. Whoever sends may be wrong: nothing is believed.
    fn take(&mut self, store: &CheckpointStore, piece: PartPiece) -> Result<(), CheckpointError> {
        let most = match piece.manifest {
            true => MANIFEST_BYTES_MAX as u64,
            false => CHUNK_BYTES,
        };
        if (self.bytes.len() as u64).saturating_add(piece.data.len() as u64) > most {
            return Err(CheckpointError::Format("more comes than there is"));
        }
        self.bytes.extend_from_slice(&piece.data);
        if !piece.last {
            return Ok(());
        }
        let bytes = std::mem::take(&mut self.bytes);
        match &self.receive {
            None if piece.manifest && BlobId::of(&bytes) == self.id => {
                self.receive = store.receive(&bytes, &[])?;
                Ok(())
            }
            None => Err(CheckpointError::Format("it is that of something else")),
            Some(_) if piece.manifest => Err(CheckpointError::Format("it comes twice")),
            Some(receive) => receive.write(piece.chunk, &bytes),
        }
    }

    fn finish(self) -> Result<(), CheckpointError> {
        match self.receive {
            Some(receive) => receive.finish().map(drop),
            None => Err(CheckpointError::Format("none came")),
        }
    }
}

fn local(error: &CheckpointError) -> Failure {
    Failure::failed(error.to_string())
}

fn goes_on(failure: Failure, aside: &Path) -> Failure {
    failure.and(&format!(
        "; what came is kept in {}: the same command goes on from there",
        clean(&aside.to_string_lossy())
    ))
}

/// How far it is, on a terminal.
struct Progress {
    name: String,
    total: u64,
    done: u64,
    came: u64,
    begun: Instant,
    told: Option<Instant>,
    shown: bool,
}

impl Progress {
    fn new(checkpoint: &Checkpoint) -> Self {
        Self {
            name: clean(&checkpoint.name),
            total: checkpoint.bytes,
            done: 0,
            came: 0,
            begun: Instant::now(),
            told: None,
            shown: io::stderr().is_terminal(),
        }
    }

    fn has(&mut self, store: &CheckpointStore, id: &BlobId) {
        let held = store.held().into_iter().find(|held| held.id == *id);
        self.done += held.map_or(0, |held| held.bytes);
        self.tell(false);
    }

    fn had(&mut self, receive: &Receive) {
        self.done += receive
            .manifest()
            .bytes()
            .saturating_sub(receive.want_bytes());
        self.tell(false);
    }

    fn add(&mut self, bytes: usize, manifest: bool) {
        if !manifest {
            self.done += bytes as u64;
            self.came += bytes as u64;
        }
        self.tell(false);
    }

    fn end(&mut self) {
        self.tell(true);
        if self.shown {
            eprintln!();
        }
    }

    fn tell(&mut self, now: bool) {
        let due = self.told.is_none_or(|told| told.elapsed() >= EVERY);
        if !self.shown || !(due || now) {
            return;
        }
        self.told = Some(Instant::now());
        let line = line(
            &self.name,
            (self.done, self.total),
            (self.came, self.begun.elapsed()),
        );
        // Progress that nobody sees is no failure.
        let _ = write!(io::stderr(), "\r\x1b[K{line}");
    }
}

/// `step-9000  12.3 GiB of 41.1 GiB  30 %  110.0 MiB/s`
fn line(name: &str, (done, total): (u64, u64), (came, took): (u64, Duration)) -> String {
    let done = done.min(total);
    let percent = (u128::from(done) * 100)
        .checked_div(u128::from(total))
        .unwrap_or(100);
    let ms = took.as_millis().max(1);
    let rate = u64::try_from(u128::from(came) * 1_000 / ms).unwrap_or(u64::MAX);
    let wait = if came == 0 {
        "a coordinator fetches it".to_owned()
    } else {
        format!("{}/s", bytes_text(rate))
    };
    format!(
        "{name}  {} of {}  {percent} %  {wait}",
        bytes_text(done),
        bytes_text(total)
    )
}

#[cfg(test)]
#[path = "get_tests.rs"]
mod tests;
