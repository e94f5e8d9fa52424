//! Where things lie below the prefix of a remote store. A name is written by one rule and read by none but an exact one: what does not
//! match is not ours and left alone. Pure. Does NOT touch a file system: an object's name is never used as a path of a node.
#![deny(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::float_arithmetic
)]
use std::fmt::Write;

use super::part::Entry;
use crate::BlobId;

/// Folder of chunks.
pub(super) const CHUNKS: &str = "chunks";
/// Folder of manifests.
pub(super) const MANIFESTS: &str = "manifests";
/// Folder of parts.
pub(super) const JOBS: &str = "jobs";
/// Folder of marks: somebody collects.
pub(super) const COLLECTING: &str = "collecting";

/// An escaped name is cut here, bytes: with its hash and its epoch it has to fit into a name of a file system.
const NAME_CUT: usize = 120;

/// How the bytes of a chunk are written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// Compressed.
    Zstd,
    /// As they are.
    Raw,
}

impl Form {
    /// The other one.
    pub(super) fn other(self) -> Self {
        match self {
            Self::Zstd => Self::Raw,
            Self::Raw => Self::Zstd,
        }
    }
}

/// The object of a chunk.
pub(super) fn chunk(id: &BlobId, form: Form) -> String {
    let name = id.to_string();
    let suffix = match form {
        Form::Zstd => "zst",
        Form::Raw => "raw",
    };
    format!("{CHUNKS}/{}/{name}.{suffix}", &name[..2])
}

/// The chunk that an object is, if its name is exactly that of one.
pub(super) fn chunk_of(object: &str) -> Option<BlobId> {
    let (_, file) = object.rsplit_once('/')?;
    let (id, _) = file.split_once('.')?;
    let id = id.parse().ok()?;
    let forms = [Form::Zstd, Form::Raw];
    forms
        .iter()
        .any(|form| chunk(&id, *form) == object)
        .then_some(id)
}

/// The object of a manifest.
pub(super) fn manifest(id: &BlobId) -> String {
    format!("{MANIFESTS}/{id}.zst")
}

/// The manifest that an object is, if its name is exactly that of one.
pub(super) fn manifest_of(object: &str) -> Option<BlobId> {
    let file = object.strip_prefix(MANIFESTS)?.strip_prefix('/')?;
    file.strip_suffix(".zst")?.parse().ok()
}

/// The folder of a job whose id was checked.
pub(super) fn job(id: &str) -> String {
    format!("{JOBS}/{id}")
}

/// The object that says a part is there. Differs for any two entries that were checked and differ in job, epoch, name or index.
pub(super) fn part(entry: &Entry) -> String {
    // An epoch has no `_` and begins with a digit: where it ends is plain.
    let epoch = entry.epoch.replace('-', "_");
    let (job, name) = (job(&entry.job), escape(&entry.name));
    format!("{job}/{epoch}-{name}/part-{}.json", entry.index)
}

/// Is it the name of some part?
pub(super) fn is_part(object: &str) -> bool {
    let mut names = object.rsplit('/');
    let file = names.next().unwrap_or_default();
    let number = file
        .strip_prefix("part-")
        .and_then(|f| f.strip_suffix(".json"));
    let digits = |n: &str| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit());
    number.is_some_and(digits) && names.count() == 3 && object.starts_with(JOBS)
}

/// A checkpoint's name in characters that every store takes: others are `!` and two digits a byte. One that becomes too long is cut and
/// ends in its hash. Not read back: the name stands in the part.
fn escape(name: &str) -> String {
    let mut out = String::new();
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.=".contains(&byte) {
            out.push(char::from(byte));
        } else {
            // A String takes everything.
            let _ = write!(out, "!{byte:02x}");
        }
    }
    if out.len() > NAME_CUT {
        out.truncate(NAME_CUT);
        let _ = write!(out, "!!{}", BlobId::of(name.as_bytes()));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(epoch: &str, name: &str, index: u32) -> Entry {
        Entry {
            job: "7".to_owned(),
            epoch: epoch.to_owned(),
            name: name.to_owned(),
            index,
            parts: 9,
            step: 0,
            metric: None,
        }
    }

    #[test]
    fn names_of_ours_are_read_back_and_no_others() {
        let id = BlobId::of(b"x");
        for form in [Form::Zstd, Form::Raw] {
            assert_eq!(chunk_of(&chunk(&id, form)), Some(id));
        }
        assert_eq!(manifest_of(&manifest(&id)), Some(id));
        let upper = id.to_string().to_uppercase();
        for object in [
            format!("chunks/zz/{id}.zst"),
            format!("chunks/{id}.zst"),
            format!("chunks/{}/{id}", &id.to_string()[..2]),
            format!("chunks/{}/{id}.zst.raw", &id.to_string()[..2]),
            format!("chunks/{}/{upper}.zst", &upper[..2]),
            format!("manifests/a/{id}.zst"),
            format!("manifests/{upper}.zst"),
            "manifests/../../etc/passwd.zst".to_owned(),
            String::new(),
        ] {
            assert_eq!(
                (chunk_of(&object), manifest_of(&object)),
                (None, None),
                "{object}"
            );
        }
    }

    #[test]
    fn no_two_parts_share_an_object_and_every_name_fits() {
        let long = "α".repeat(120);
        let entries = [
            entry("2", "3-x", 0),
            entry("2-3", "x", 0),
            entry("2", "3-x", 1),
            entry("2", "a/b", 0),
            entry("2", "a!2fb", 0),
            entry("2", "..", 0),
            entry("2", "step=4,loss=0.1 (best).ckpt", 0),
            entry("2", &long, 0),
            entry("2", &format!("{long}b"), 0),
        ];
        let mut objects: Vec<String> = entries.iter().map(part).collect();
        for object in &objects {
            assert!(is_part(object), "{object}");
            assert!(
                object.split('/').all(|n| n.len() <= 200 && n != ".."),
                "{object}"
            );
            assert_eq!(object.split('/').count(), 4, "{object}");
        }
        assert_eq!(
            objects[6],
            "jobs/7/2-step=4!2closs=0.1!20!28best!29.ckpt/part-0.json"
        );
        objects.sort();
        objects.dedup();
        assert_eq!(objects.len(), entries.len());
        for other in [
            "jobs/7/2-a/part-.json",
            "jobs/7/part-1.json",
            "jobs/7/2-a/part-1.json.new",
        ] {
            assert!(!is_part(other), "{other}");
        }
    }
}
