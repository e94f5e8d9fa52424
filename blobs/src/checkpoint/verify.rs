//! Reads a held checkpoint again, from the disk and byte by byte: finds what the disk lost and what a program changed.
//! Does NOT mend: [`CheckpointStore::mend`] does.
use super::disk;
use super::error::CheckpointError;
use super::store::CheckpointStore;
use crate::BlobId;

impl CheckpointStore {
    /// Hashes all contents of `id` and returns how many bytes that were. Takes them out of the page cache before and after, so that the
    /// disk is asked and what trainers read stays.
    ///
    /// # Errors
    /// [`CheckpointError::Damaged`] with the number of changed chunks. Neither this nor any other checkpoint with the changed contents is
    /// held any more; what is still good of them is kept.
    pub fn verify(&self, id: &BlobId) -> Result<u64, CheckpointError> {
        let manifest = self.manifest(id)?;
        let mut damage: Option<(u64, String)> = None;
        for (number, content) in manifest.contents().iter().enumerate() {
            let objects = &self.inner.objects;
            if let Ok(file) = objects.open_file(&content.id) {
                disk::forget(&file);
            }
            let bad = objects.check(content)?.len() as u64;
            if let Ok(file) = objects.open_file(&content.id) {
                disk::forget(&file);
            }
            if bad > 0 {
                self.condemn(&content.id)?;
                let first = || (0, manifest.path_of(number).to_owned());
                damage.get_or_insert_with(first).0 += bad;
            }
        }
        match damage {
            None => Ok(manifest.bytes()),
            Some((chunks, path)) => Err(CheckpointError::Damaged {
                id: *id,
                chunks,
                path,
            }),
        }
    }
}
