//! Sizes of a checkpoint's pieces, and how large a manifest may be before it is refused. Part of the format: to change
//! [`CHUNK_BYTES`] or [`PACKED_BYTES_MAX`] is a new version of it. Does NOT limit a node: `limit_bytes` of a store does.
use std::time::Duration;

/// A chunk, bytes; the last one of a content may be shorter.
pub const CHUNK_BYTES: u64 = 4 << 20;
/// Files up to this size travel in the checkpoint's one pack, bytes.
pub const PACKED_BYTES_MAX: u64 = 64 << 10;
/// Files, directories and links of one node's part of a checkpoint.
pub const ENTRIES_MAX: usize = 1_000_000;
/// Chunks of one node's part, holes included: 16 TiB.
pub const CHUNKS_MAX: u64 = 4 << 20;
/// An encoded manifest, bytes.
pub const MANIFEST_BYTES_MAX: usize = 256 << 20;
/// A path inside a checkpoint, and the target of a link, bytes.
pub const PATH_BYTES_MAX: usize = 4_096;
/// One name in a path, bytes.
pub const NAME_BYTES_MAX: usize = 255;
/// What a receive has written is made durable and noted after at most so many bytes.
pub const PERSIST_BYTES: u64 = 256 << 20;
/// The same, after at most so long.
pub const PERSIST_AFTER: Duration = Duration::from_secs(2);
/// A receive of little is noted so often that at most one such part of it would be sent again.
pub const PERSIST_PARTS: u64 = 25;
/// Two writes to a file that are further apart than this have different times in its inode: the kernel's coarse clock
/// ticks at least every 10 ms.
pub const CLOCK_TICK: Duration = Duration::from_millis(20);
