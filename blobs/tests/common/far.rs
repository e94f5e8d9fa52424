//! Object stores for tests: a directory whose requests fail when told to, and what lies in it.
//! Does NOT speak HTTP: `upload_s3` does.
use std::fmt;
use std::path::{Path as Place, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::{self, BoxStream, StreamExt};
use mlctl_blobs::BlobId;
use mlctl_blobs::checkpoint::CheckpointStore;
use mlctl_blobs::transfer::{Pacer, Rate};
use mlctl_blobs::upload::{Entry, Options, Remote};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

use super::{open, write, write_everything};

/// Nothing is young, and nobody waits for a directory to settle.
pub fn at_once() -> Options {
    Options {
        guard: Duration::ZERO,
        settle: Duration::ZERO,
        ..Options::default()
    }
}

pub fn unpaced() -> Pacer {
    Pacer::new(Rate::Unlimited)
}

pub fn entry(name: &str) -> Entry {
    Entry {
        job: "2-12".to_owned(),
        epoch: "3".to_owned(),
        name: name.to_owned(),
        index: 0,
        parts: 1,
        step: 40,
        metric: None,
    }
}

/// A store that holds everything that may be in a checkpoint.
pub fn sealed(dir: &Place, seed: u64) -> (CheckpointStore, BlobId) {
    let source = dir.join(format!("source-{seed}"));
    write_everything(&source, seed);
    write(&source, "log.txt", &b"loss 0.25\n".repeat(500_000));
    let store = open(&dir.join(format!("store-{seed}")));
    let id = store.seal(&source).expect("sealed").id;
    (store, id)
}

/// The directory as a remote store.
pub fn directory(dir: &Place, options: Options) -> Remote {
    std::fs::create_dir_all(dir).expect("made");
    Remote::open(&format!("file://{}", dir.display()), options).expect("opens")
}

/// Files below `dir/folder`, sorted.
pub fn objects(dir: &Place, folder: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut todo = vec![dir.join(folder)];
    while let Some(next) = todo.pop() {
        for entry in std::fs::read_dir(&next).into_iter().flatten() {
            let path = entry.expect("listed").path();
            if path.is_dir() {
                todo.push(path);
            } else {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// When requests fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// Before they do anything.
    Before,
    /// The last one is done, and its answer is lost.
    After,
}

/// A directory that takes so many requests and fails each later one.
#[derive(Debug)]
pub struct Faulty {
    inner: LocalFileSystem,
    left: Arc<AtomicU64>,
    cut: Cut,
}

impl Faulty {
    pub fn over(
        dir: &Place,
        requests: u64,
        cut: Cut,
        options: Options,
    ) -> (Remote, Arc<AtomicU64>) {
        std::fs::create_dir_all(dir).expect("made");
        let left = Arc::new(AtomicU64::new(requests));
        let store = Self {
            inner: LocalFileSystem::new_with_prefix(dir).expect("opens"),
            left: left.clone(),
            cut,
        };
        (
            Remote::over(Arc::new(store), "test://faulty", options),
            left,
        )
    }

    /// May this request be done, and is it answered?
    fn pass(&self) -> (bool, bool) {
        let take = |left: u64| left.checked_sub(1);
        let before = self
            .left
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, take);
        match (before, self.cut) {
            (Err(_), _) => (false, false),
            (Ok(1), Cut::After) => (true, false),
            (Ok(_), _) => (true, true),
        }
    }

    async fn run<T>(&self, request: impl Future<Output = Result<T>>) -> Result<T> {
        let (does, answers) = self.pass();
        if !does {
            return Err(lost());
        }
        let done = request.await;
        if answers { done } else { Err(lost()) }
    }
}

fn lost() -> Error {
    Error::Generic {
        store: "faulty",
        source: "the cable was cut".into(),
    }
}

impl fmt::Display for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("faulty")
    }
}

#[async_trait]
impl ObjectStore for Faulty {
    async fn put_opts(&self, at: &Path, bytes: PutPayload, how: PutOptions) -> Result<PutResult> {
        self.run(self.inner.put_opts(at, bytes, how)).await
    }

    async fn put_multipart_opts(
        &self,
        at: &Path,
        how: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.run(self.inner.put_multipart_opts(at, how)).await
    }

    async fn get_opts(&self, at: &Path, how: GetOptions) -> Result<GetResult> {
        self.run(self.inner.get_opts(at, how)).await
    }

    fn delete_stream(
        &self,
        at: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        let (does, answers) = self.pass();
        if !does {
            return stream::iter([Err(lost())]).boxed();
        }
        let done = self.inner.delete_stream(at);
        if answers {
            done
        } else {
            done.map(|gone| gone.and(Err(lost()))).boxed()
        }
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (does, answers) = self.pass();
        if does && answers {
            self.inner.list(prefix)
        } else {
            stream::iter([Err(lost())]).boxed()
        }
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.run(self.inner.list_with_delimiter(prefix)).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, how: CopyOptions) -> Result<()> {
        self.run(self.inner.copy_opts(from, to, how)).await
    }
}
