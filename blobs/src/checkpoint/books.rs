//! Which checkpoint needs which contents, how often each is needed, and how many bytes that is. Pure: rebuilt from the manifests on the
//! disk at every start, so there is no count that could be wrong after a crash. Does NOT touch files.
use std::collections::{BTreeMap, BTreeSet};

use super::manifest::Manifest;
use crate::BlobId;

/// What has to be known of a manifest while its bytes stay on the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Outline {
    /// Contents and the bytes that each has on the disk.
    pub(super) contents: Vec<(BlobId, u64)>,
    /// Sum of its files, bytes.
    pub(super) bytes: u64,
    /// Its files.
    pub(super) files: u64,
}

impl Outline {
    pub(super) fn of(manifest: &Manifest) -> Self {
        use super::manifest::Kind;
        let contents = manifest.contents().iter();
        let file = |kind: &Kind| matches!(kind, Kind::File { .. } | Kind::Same { .. });
        let files = manifest.entries().iter().filter(|e| file(&e.kind)).count();
        Self {
            contents: contents.map(|c| (c.id, c.data_bytes())).collect(),
            bytes: manifest.bytes(),
            files: files as u64,
        }
    }

    fn has(&self, content: &BlobId) -> bool {
        self.contents.iter().any(|(id, _)| id == content)
    }
}

/// The books of one store.
#[derive(Debug, Default)]
pub(super) struct Books {
    /// Whole and verified.
    pub(super) held: BTreeMap<BlobId, Outline>,
    /// Being received, or damaged.
    pub(super) incoming: BTreeMap<BlobId, Outline>,
    /// Of these somebody writes chunks right now.
    pub(super) receiving: BTreeSet<BlobId>,
    /// Their manifests cannot be read: what they need is not known, so nothing is collected while there are any.
    pub(super) unreadable: BTreeSet<BlobId>,
    needs: BTreeMap<BlobId, (u32, u64)>,
    used: u64,
}

impl Books {
    /// Counts one more need of all its contents.
    pub(super) fn pin(&mut self, outline: &Outline) {
        for (id, bytes) in &outline.contents {
            let need = self.needs.entry(*id).or_insert((0, *bytes));
            if need.0 == 0 {
                self.used += bytes;
            }
            need.0 += 1;
        }
    }

    /// Takes that back and returns the contents that nothing needs any more.
    pub(super) fn unpin(&mut self, outline: &Outline) -> Vec<BlobId> {
        let mut freed = Vec::new();
        for (id, _) in &outline.contents {
            let Some(need) = self.needs.get_mut(id) else {
                continue;
            };
            need.0 -= 1;
            if need.0 == 0 {
                self.used -= need.1;
                self.needs.remove(id);
                freed.push(*id);
            }
        }
        freed
    }

    /// Does anything need it?
    pub(super) fn is_needed(&self, content: &BlobId) -> bool {
        self.needs.contains_key(content)
    }

    /// Bytes that it would add.
    pub(super) fn added_by(&self, outline: &Outline) -> u64 {
        let new: BTreeMap<_, _> = outline
            .contents
            .iter()
            .filter(|(id, _)| !self.is_needed(id))
            .copied()
            .collect();
        new.values().sum()
    }

    /// Bytes that are kept or promised, each content once.
    pub(super) fn used(&self) -> u64 {
        self.used
    }

    /// Held checkpoints that need `content`.
    pub(super) fn holders_of(&self, content: &BlobId) -> Vec<BlobId> {
        let with = self.held.iter().filter(|(_, o)| o.has(content));
        with.map(|(id, _)| *id).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_content_counts_once_and_goes_with_its_last_need() {
        let (a, b) = (BlobId::of(b"a"), BlobId::of(b"b"));
        let outline = |contents: &[(BlobId, u64)]| Outline {
            contents: contents.to_vec(),
            bytes: 0,
            files: 0,
        };
        let mut books = Books::default();
        let (one, two) = (outline(&[(a, 10), (a, 10)]), outline(&[(a, 10), (b, 5)]));
        assert_eq!(books.added_by(&one), 10);
        books.pin(&one);
        assert_eq!((books.used(), books.added_by(&two)), (10, 5));
        books.pin(&two);
        assert_eq!(books.unpin(&one), []);
        assert_eq!((books.used(), books.is_needed(&a)), (15, true));
        assert_eq!(books.unpin(&two), [a, b]);
        assert_eq!((books.used(), books.is_needed(&a)), (0, false));
    }
}
