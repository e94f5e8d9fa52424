//! Lists what is in a remote store, and removes a part from it. Does NOT remove chunks: `collect` does, when no manifest needs them.
use std::sync::Mutex;
use std::time::{Duration, SystemTime};

use super::each::each;
use super::error::UploadError;
use super::layout;
use super::part::{BadPart, Entry, PART_BYTES_MAX, Part, is_id};
use super::remote::Remote;
use crate::BlobId;

/// What a remote store holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listed {
    /// Parts, ordered by job, epoch and name as text, then index. A checkpoint is whole when all `parts` of it are among them; which manifests
    /// belong together the cluster knows: a checkpoint that is rewritten in place has new parts and old ones for a while.
    pub parts: Vec<Part>,
    /// Objects that should say that a part is there and do not, with why.
    pub unreadable: Vec<String>,
}

impl Remote {
    /// All parts, or those of one job.
    ///
    /// # Errors
    /// When the remote store fails.
    pub async fn list_parts(&self, job: Option<&str>) -> Result<Listed, UploadError> {
        let folder = match job {
            Some(id) if is_id(id) => layout::job(id),
            Some(_) => return Ok(Listed::default()),
            None => layout::JOBS.to_owned(),
        };
        let mut objects = Vec::new();
        let mut note = |object: String| {
            if layout::is_part(&object) {
                objects.push(object);
            }
        };
        self.list(&folder, |meta| note(meta.object)).await?;
        objects.sort_unstable();
        let listed = Mutex::new(Listed::default());
        let into = &listed;
        each(&objects, self.options.requests, |object| async move {
            let read = self.part(object).await?;
            let mut listed = into.lock().expect("nothing panics while it is locked");
            match read {
                // Removed since it was listed.
                None => {}
                Some(Ok(part)) => listed.parts.push(part),
                Some(Err(bad)) => listed.unreadable.push(format!("{object}: {bad}")),
            }
            Ok(())
        })
        .await?;
        let mut listed = listed
            .into_inner()
            .expect("nothing panics while it is locked");
        listed.parts.sort_by(|a, b| key(a).cmp(&key(b)));
        listed.unreadable.sort_unstable();
        Ok(listed)
    }

    /// Takes a part out. Its word goes first, so that it is not seen any more; then its manifest, if no other part has the same and nobody can
    /// be uploading it just now (it is older than [`Options::guard`](super::Options::guard)); else [`Remote::collect_remote`] finds it.
    /// A part that has another manifest by now is another one, and stays.
    ///
    /// # Errors
    /// When the remote store fails. The same call goes on.
    pub async fn remove(&self, entry: &Entry, manifest: Option<BlobId>) -> Result<(), UploadError> {
        let object = layout::part(entry);
        if entry.check().is_err() {
            return Ok(());
        }
        match self.part(&object).await? {
            Some(Ok(part)) if part.manifest != manifest => return Ok(()),
            None => {}
            Some(_) => self.delete(&[object]).await?,
        }
        let Some(id) = manifest else { return Ok(()) };
        let object = layout::manifest(&id);
        let Some(meta) = self.head(&object).await? else {
            return Ok(());
        };
        let age = SystemTime::now().duration_since(meta.changed);
        if age.unwrap_or(Duration::ZERO) < self.options.guard {
            return Ok(());
        }
        let listed = self.list_parts(None).await?;
        let named = listed.parts.iter().any(|part| part.manifest == Some(id));
        // One that cannot be read may name it.
        if named || !listed.unreadable.is_empty() {
            return Ok(());
        }
        self.delete(&[object]).await
    }

    /// What an object says of a part. One that says it of another object's is none.
    async fn part(&self, object: &str) -> Result<Option<Result<Part, BadPart>>, UploadError> {
        let bytes = match self.get(object, PART_BYTES_MAX).await {
            Err(UploadError::Damaged { why, .. }) => return Ok(Some(Err(BadPart(why)))),
            other => other?,
        };
        let Some(bytes) = bytes else { return Ok(None) };
        let part = Part::decode(&bytes).and_then(|part| {
            if layout::part(&part.entry) == object {
                Ok(part)
            } else {
                Err(BadPart(
                    "it speaks of another part than its name".to_owned(),
                ))
            }
        });
        Ok(Some(part))
    }
}

fn key(part: &Part) -> (&str, &str, &str, u32) {
    let entry = &part.entry;
    (&entry.job, &entry.epoch, &entry.name, entry.index)
}
