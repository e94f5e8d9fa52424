//! Forgetting: checkpoints by name, and then what no manifest needs. Does NOT choose what may go: retention does, and calls this.
use super::disk;
use super::error::CheckpointError;
use super::store::CheckpointStore;
use crate::BlobId;

/// What a collection removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Collected {
    /// Contents.
    pub contents: u64,
    /// Bytes that they had on the disk. A file that a trainer still has under another name frees them later.
    pub bytes: u64,
}

impl CheckpointStore {
    /// Forgets a held checkpoint, and its contents that nothing else needs. Its manifest goes first: after a crash in between, the
    /// contents are garbage and not a checkpoint with holes in it.
    ///
    /// # Errors
    /// When it is not held, or the disk fails.
    pub fn remove(&self, id: &BlobId) -> Result<(), CheckpointError> {
        let outline = {
            let mut books = self.books();
            let outline = books.held.get(id).cloned();
            let outline = outline.ok_or(CheckpointError::NotHeld { id: *id })?;
            disk::remove_file(&self.held_path(id))?;
            books.held.remove(id);
            outline
        };
        disk::sync_dir(&self.inner.dir.join("held"))?;
        self.release(&outline)
    }

    /// Gives up a checkpoint that is on its way, damaged, or whose manifest cannot be read.
    ///
    /// # Errors
    /// When somebody is receiving it, when there is none, or when the disk fails.
    pub fn abandon(&self, id: &BlobId) -> Result<(), CheckpointError> {
        let outline = {
            let mut books = self.books();
            if books.receiving.contains(id) {
                return Err(CheckpointError::Busy {
                    what: id.to_string(),
                });
            }
            if books.unreadable.contains(id) {
                disk::remove_file(&self.held_path(id))?;
                disk::sync_dir(&self.inner.dir.join("held"))?;
                books.unreadable.remove(id);
                return Ok(());
            }
            let outline = books.incoming.get(id).cloned();
            let outline = outline.ok_or(CheckpointError::NotHeld { id: *id })?;
            let dir = self.incoming_path(id);
            disk::remove_file(&dir.join("manifest"))?;
            disk::remove_dir(&dir)?;
            books.incoming.remove(id);
            outline
        };
        disk::sync_dir(&self.inner.dir.join("incoming"))?;
        self.release(&outline)
    }

    /// Removes every content that no manifest and no seal needs. Runs at each start; later there is garbage only after failures.
    /// While a manifest cannot be read nothing is removed: what it needs is not known.
    ///
    /// # Errors
    /// When the disk fails. What was not removed yet is found again.
    pub fn collect(&self) -> Result<Collected, CheckpointError> {
        let mut collected = Collected::default();
        if !self.books().unreadable.is_empty() {
            return Ok(collected);
        }
        let (ids, others) = self.inner.objects.list()?;
        for id in ids {
            // Asked under the lock: who begins to need a content waits until it is gone or is seen to need it.
            let books = self.books();
            if !books.is_needed(&id) {
                collected.bytes += self.inner.objects.remove(&id)?;
                collected.contents += 1;
            }
        }
        let books = self.books();
        for name in disk::names(&self.inner.dir.join("damaged"))? {
            if !name.parse().is_ok_and(|id| books.is_needed(&id)) {
                disk::remove_file(&self.inner.dir.join("damaged").join(name))?;
            }
        }
        drop(books);
        for path in others {
            disk::remove_file(&path)?;
        }
        Ok(collected)
    }
}
