//! Trees that look like checkpoints, what changes in them from one to the next, and whether two are the same, byte by byte.
//! Does NOT copy them.

use std::collections::BTreeSet;
use std::fs::{self, File, FileTimes};
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use nix::unistd::{Whence, lseek};

const MIB: u64 = 1 << 20;
const BLOCK: u64 = 4 * MIB;
/// Small files beside the shards.
const SMALL: u64 = 500;
/// Shards, and how many of them change: about a tenth.
const SHARDS: u64 = 64;
const CHANGED: u64 = 6;

/// What a checkpoint consists of.
#[derive(Debug, Clone, Copy)]
pub enum Tree {
    /// 64 files of so many MiB, and 500 small ones of up to 20 kB.
    Shards(u64),
    /// One file of so many MiB.
    Large(u64),
    /// One file of so many GiB that is a hole but for 4 MiB in each GiB.
    Sparse(u64),
}

/// A stream of bytes that no other seed gives.
struct Noise(u64);

impl Noise {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn fill(&mut self, bytes: &mut [u8]) {
        for word in bytes.chunks_mut(8) {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            word.copy_from_slice(&self.0.to_le_bytes()[..word.len()]);
        }
    }
}

fn write(path: &Path, seed: u64, length: u64) -> Result<()> {
    let (mut noise, mut buffer) = (Noise::new(seed), vec![0; BLOCK as usize]);
    let file = File::create_new(path).with_context(|| path.display().to_string())?;
    let mut at = 0;
    while at < length {
        let part = &mut buffer[..BLOCK.min(length - at) as usize];
        noise.fill(part);
        file.write_all_at(part, at)?;
        at += part.len() as u64;
    }
    Ok(())
}

impl Tree {
    /// Bytes that have to move.
    pub fn data_bytes(self) -> u64 {
        match self {
            Self::Shards(mib) => SHARDS * mib * MIB + SMALL * (SMALL - 1) / 2 * 40,
            Self::Large(mib) => mib * MIB,
            Self::Sparse(gib) => gib * BLOCK,
        }
    }

    /// Writes it as the new directory `root`.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub fn make(self, root: &Path) -> Result<()> {
        fs::create_dir(root)?;
        match self {
            Self::Shards(mib) => {
                for number in 0..SHARDS {
                    write(&root.join(format!("shard-{number}")), number, mib * MIB)?;
                }
                for number in 0..SMALL {
                    write(
                        &root.join(format!("small-{number}")),
                        1_000 + number,
                        number * 40,
                    )?;
                }
            }
            Self::Large(mib) => write(&root.join("model"), 1, mib * MIB)?,
            Self::Sparse(gib) => {
                let file = File::create_new(root.join("sparse"))?;
                file.set_len(gib << 30)?;
                let (mut noise, mut buffer) = (Noise::new(1), vec![0; BLOCK as usize]);
                for number in 0..gib {
                    noise.fill(&mut buffer);
                    file.write_all_at(&buffer, number << 30)?;
                }
            }
        }
        Ok(())
    }

    /// A tenth of it gets other bytes and new inodes, as trainers write. Of several files one keeps its size and its time of change:
    /// its name is returned.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub fn change(self, root: &Path, round: u64) -> Result<Option<String>> {
        let seed = 1_000_000 * (round + 1);
        match self {
            Self::Shards(mib) => {
                for number in 0..CHANGED {
                    let path = root.join(format!("shard-{}", (round * CHANGED + number) % SHARDS));
                    let before = fs::metadata(&path)?.modified()?;
                    fs::remove_file(&path)?;
                    write(&path, seed + number, mib * MIB)?;
                    if number == 0 {
                        let times = FileTimes::new().set_modified(before);
                        File::options().write(true).open(&path)?.set_times(times)?;
                    }
                }
                Ok(Some(format!("shard-{}", round * CHANGED % SHARDS)))
            }
            Self::Large(mib) => {
                let (path, aside) = (root.join("model"), root.join("model.new"));
                fs::copy(&path, &aside)?;
                let file = File::options().write(true).open(&aside)?;
                let (mut noise, mut buffer) = (Noise::new(seed), vec![0; BLOCK as usize]);
                for block in (round % 10..mib * MIB / BLOCK).step_by(10) {
                    noise.fill(&mut buffer);
                    file.write_all_at(&buffer, block * BLOCK)?;
                }
                fs::rename(&aside, &path)?;
                Ok(None)
            }
            Self::Sparse(_) => Ok(None),
        }
    }
}

/// All files below `root` are in the page cache (`true`), or none of their clean pages (`false`).
///
/// # Errors
/// When one cannot be read.
pub fn cached(root: &Path, wanted: bool) -> Result<()> {
    let mut buffer = vec![0; MIB as usize];
    for name in names(root)? {
        let file = File::open(root.join(&name)).with_context(|| name.clone())?;
        if wanted {
            let mut at = 0;
            while let Some(count) = Some(file.read_at(&mut buffer, at)?).filter(|count| *count > 0)
            {
                at += count as u64;
            }
        } else {
            posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)?;
        }
    }
    Ok(())
}

fn names(root: &Path) -> Result<BTreeSet<String>> {
    let (mut found, mut todo) = (BTreeSet::new(), vec![root.to_owned()]);
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(&dir).with_context(|| dir.display().to_string())? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                todo.push(entry.path());
            } else {
                let path = entry.path();
                found.insert(path.strip_prefix(root)?.to_string_lossy().into_owned());
            }
        }
    }
    Ok(found)
}

/// Where data begins at or behind `at`; `end` if there is none.
fn data(file: &File, at: u64, end: u64) -> u64 {
    let found = lseek(
        file,
        i64::try_from(at).unwrap_or(i64::MAX),
        Whence::SeekData,
    );
    found.map_or(end, |found| u64::try_from(found).unwrap_or(end))
}

fn same(one: &Path, other: &Path) -> Result<bool> {
    let (one, other) = (File::open(one)?, File::open(other)?);
    let end = one.metadata()?.len();
    if other.metadata()?.len() != end {
        return Ok(false);
    }
    let (mut left, mut right) = (vec![0; MIB as usize], vec![0; MIB as usize]);
    let mut at = data(&one, 0, end).min(data(&other, 0, end));
    while at < end {
        let length = MIB.min(end - at) as usize;
        one.read_exact_at(&mut left[..length], at)?;
        other.read_exact_at(&mut right[..length], at)?;
        if left[..length] != right[..length] {
            return Ok(false);
        }
        at += length as u64;
        at = data(&one, at, end).min(data(&other, at, end));
    }
    Ok(true)
}

/// Files that are not the same in both, or are missing in one.
///
/// # Errors
/// When one cannot be read, or there is nothing to compare.
pub fn differences(one: &Path, other: &Path) -> Result<Vec<String>> {
    let (left, right) = (names(one)?, names(other)?);
    ensure!(!left.is_empty(), "{} is empty", one.display());
    let mut wrong: Vec<String> = left.symmetric_difference(&right).cloned().collect();
    for name in left.intersection(&right) {
        if !same(&one.join(name), &other.join(name))? {
            wrong.push(name.clone());
        }
    }
    Ok(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changed_is_found_though_size_and_time_are_kept() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (one, other) = (folder.path().join("one"), folder.path().join("other"));
        let tree = Tree::Shards(1);
        tree.make(&one).expect("made");
        tree.make(&other).expect("made");
        assert_eq!(differences(&one, &other).expect("read"), [""; 0]);
        let kept = tree.change(&one, 0).expect("changed").expect("one of them");
        let meta = |root: &Path| fs::metadata(root.join(&kept)).expect("there");
        assert_eq!(meta(&one).len(), meta(&other).len());
        let wrong = differences(&one, &other).expect("read");
        assert_eq!(wrong.len() as u64, CHANGED);
        assert!(wrong.contains(&kept), "{wrong:?}");
        fs::remove_file(other.join("small-7")).expect("removed");
        let wrong = differences(&one, &other).expect("read");
        assert!(wrong.contains(&"small-7".to_owned()), "{wrong:?}");
    }

    #[test]
    fn a_tenth_of_a_large_file_changes_and_holes_are_skipped() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (one, other) = (folder.path().join("one"), folder.path().join("other"));
        Tree::Sparse(300).make(&one).expect("made");
        Tree::Sparse(300).make(&other).expect("made");
        assert_eq!(differences(&one, &other).expect("read"), [""; 0]);
        let file = File::options().write(true).open(other.join("sparse"));
        file.expect("opened")
            .write_all_at(b"x", (200 << 30) + (500 << 20))
            .expect("written");
        assert_eq!(differences(&one, &other).expect("read"), ["sparse"]);
        let large = folder.path().join("large");
        Tree::Large(40).make(&large).expect("made");
        let before = fs::read(large.join("model")).expect("read");
        assert_eq!(Tree::Large(40).change(&large, 3).expect("changed"), None);
        let after = fs::read(large.join("model")).expect("read");
        let block = BLOCK as usize;
        let parts = before.chunks(block).zip(after.chunks(block));
        let changed: Vec<bool> = parts.map(|(before, after)| before != after).collect();
        assert_eq!(changed.iter().position(|changed| *changed), Some(3));
        assert_eq!(changed.iter().filter(|changed| **changed).count(), 1);
    }
}
