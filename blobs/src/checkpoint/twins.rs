//! Equal chunks of one manifest: such a chunk comes once and is written to all its places. Pure. Four bytes a chunk.
//! Does NOT count holes.
use super::manifest::{HOLE, Manifest};
use crate::BlobId;

/// The numbers of all chunks with bytes, equal ones side by side.
pub(super) struct Twins(Vec<u32>);

impl Twins {
    pub(super) fn of(manifest: &Manifest) -> Self {
        let mut numbers: Vec<u32> = (0..manifest.chunks())
            .filter(|number| name(manifest, *number) != HOLE)
            .collect();
        numbers.sort_by_key(|number| (name(manifest, *number), *number));
        Self(numbers)
    }

    /// The places of each distinct chunk, in order.
    pub(super) fn groups<'a>(&'a self, manifest: &'a Manifest) -> impl Iterator<Item = &'a [u32]> {
        self.0
            .chunk_by(|a, b| name(manifest, *a) == name(manifest, *b))
    }

    /// The places of one chunk, in order; none if it is not in the manifest.
    pub(super) fn of_chunk(&self, manifest: &Manifest, chunk: &BlobId) -> &[u32] {
        let from = self.0.partition_point(|n| name(manifest, *n) < *chunk);
        let rest = &self.0[from..];
        let count = rest.partition_point(|n| name(manifest, *n) == *chunk);
        &rest[..count]
    }
}

fn name(manifest: &Manifest, number: u32) -> BlobId {
    let place = manifest.chunk(number);
    place.map_or(HOLE, |(content, inside)| {
        manifest.contents()[content].chunks[inside]
    })
}
