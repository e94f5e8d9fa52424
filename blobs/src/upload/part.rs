//! What is said of one node's part of a checkpoint in a remote store: small JSON, checked as if an enemy had written it. Pure.
//! Does NOT hold the manifest, only its name.
#![deny(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::float_arithmetic
)]
use serde::{Deserialize, Serialize};

use crate::BlobId;

/// The most that is read of one, bytes.
pub(super) const PART_BYTES_MAX: u64 = 16 << 10;
/// A file name has no more bytes on any file system of a node.
const NAME_BYTES_MAX: usize = 255;
/// Longest id, bytes.
const ID_BYTES_MAX: usize = 40;
const VERSION: u32 = 1;

/// Why something is no entry, or no part.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(super) struct BadPart(pub(super) String);

/// Which part of which checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The job's id as text, such as `12` or `2-12`.
    pub job: String,
    /// The epoch that wrote it, likewise.
    pub epoch: String,
    /// The checkpoint's name in the job's directory.
    pub name: String,
    /// Node rank of the node that wrote it.
    pub index: u32,
    /// How many parts make the checkpoint whole; at least 1.
    pub parts: u32,
    /// Training step; 0 if nothing tells.
    pub step: u64,
    /// The metric as the cluster keeps it; not looked at here.
    pub metric: Option<u64>,
}

/// A part that is in the remote store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Which.
    pub entry: Entry,
    /// BLAKE3 of its manifest. `None`: that node wrote nothing for this checkpoint.
    pub manifest: Option<BlobId>,
    /// Sum of its files, bytes.
    pub bytes: u64,
}

/// As it is written. Fields are only ever added.
#[derive(Serialize, Deserialize)]
struct Written {
    version: u32,
    job: String,
    epoch: String,
    name: String,
    index: u32,
    parts: u32,
    step: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    metric: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    manifest: Option<String>,
    bytes: u64,
}

impl Entry {
    /// Refuses what could not be written down and found again.
    ///
    /// # Errors
    /// What is wrong.
    pub(super) fn check(&self) -> Result<(), BadPart> {
        let fault = if !is_id(&self.job) {
            "its job id is none"
        } else if !is_id(&self.epoch) {
            "its epoch is none"
        } else if !is_name(&self.name) {
            "its name is none that a directory can have"
        } else if self.index >= self.parts {
            "its index is not below the number of its parts"
        } else {
            return Ok(());
        };
        Err(BadPart(fault.to_owned()))
    }
}

/// Digits, and `-` between them.
pub(super) fn is_id(text: &str) -> bool {
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    text.len() <= ID_BYTES_MAX && text.split('-').all(digits)
}

fn is_name(text: &str) -> bool {
    (1..=NAME_BYTES_MAX).contains(&text.len())
        && !matches!(text, "." | "..")
        && !text.chars().any(|c| c == '/' || c.is_control())
}

impl Part {
    /// Its JSON.
    pub(super) fn encode(&self) -> Vec<u8> {
        let Entry {
            job, epoch, name, ..
        } = self.entry.clone();
        let written = Written {
            version: VERSION,
            job,
            epoch,
            name,
            index: self.entry.index,
            parts: self.entry.parts,
            step: self.entry.step,
            metric: self.entry.metric,
            manifest: self.manifest.map(|id| id.to_string()),
            bytes: self.bytes,
        };
        serde_json::to_vec(&written).expect("text and numbers are always JSON")
    }

    /// Reads it.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, BadPart> {
        if bytes.len() as u64 > PART_BYTES_MAX {
            return Err(BadPart("it is too long".to_owned()));
        }
        let written: Written = serde_json::from_slice(bytes)
            .map_err(|error| BadPart(format!("it is not readable: {error}")))?;
        if written.version != VERSION {
            return Err(BadPart("another release wrote it".to_owned()));
        }
        let parse = |text: &String| text.parse::<BlobId>();
        let manifest = written.manifest.as_ref().map(parse).transpose();
        let part = Self {
            manifest: manifest.map_err(|error| BadPart(error.to_string()))?,
            bytes: written.bytes,
            entry: Entry {
                job: written.job,
                epoch: written.epoch,
                name: written.name,
                index: written.index,
                parts: written.parts,
                step: written.step,
                metric: written.metric,
            },
        };
        part.entry.check()?;
        Ok(part)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn part() -> Part {
        Part {
            entry: Entry {
                job: "2-12".to_owned(),
                epoch: "3".to_owned(),
                name: "step-40 α".to_owned(),
                index: 1,
                parts: 2,
                step: 40,
                metric: Some(u64::MAX),
            },
            manifest: Some(BlobId::of(b"m")),
            bytes: 1 << 40,
        }
    }

    #[test]
    fn a_part_comes_back_from_its_json() {
        let mut part = part();
        assert_eq!(Part::decode(&part.encode()), Ok(part.clone()));
        (part.manifest, part.entry.metric) = (None, None);
        assert_eq!(Part::decode(&part.encode()), Ok(part.clone()));
        let text = String::from_utf8(part.encode()).expect("text");
        let newer = text.replace("\"step\"", "\"later\":[1],\"step\"");
        assert_eq!(
            Part::decode(newer.as_bytes()),
            Ok(part),
            "a newer release may add"
        );
    }

    #[test]
    fn what_is_wrong_is_refused() {
        let text = String::from_utf8(part().encode()).expect("text");
        let id = BlobId::of(b"m").to_string();
        for (from, to) in [
            ("\"version\":1", "\"version\":2"),
            ("\"2-12\"", "\"../12\""),
            ("\"2-12\"", "\"\""),
            ("\"2-12\"", "\"2--12\""),
            ("\"epoch\":\"3\"", "\"epoch\":\"3/..\""),
            ("step-40 α", "a/../../b"),
            ("step-40 α", ".."),
            ("step-40 α", "a\\u0000"),
            ("step-40 α", ""),
            ("\"index\":1", "\"index\":2"),
            ("\"parts\":2", "\"parts\":0"),
            ("\"index\":1", "\"index\":-1"),
            (id.as_str(), "../../etc/passwd"),
            (id.as_str(), ""),
            ("\"bytes\"", "\"nothing\""),
        ] {
            let bad = text.replace(from, to);
            assert_ne!(bad, text, "{from}");
            assert!(Part::decode(bad.as_bytes()).is_err(), "{bad}");
        }
        assert!(Part::decode(&vec![b' '; 1 << 20]).is_err());
        let long = text.replace("step-40 α", &"a".repeat(256));
        assert!(Part::decode(long.as_bytes()).is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_do_harm(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Part::decode(&bytes);
        }

        #[test]
        fn what_is_accepted_can_be_written(name in "\\PC{1,40}", index in 0_u32..5, parts in 0_u32..5) {
            let mut part = part();
            (part.entry.name, part.entry.index, part.entry.parts) = (name, index, parts);
            if part.entry.check().is_ok() {
                prop_assert_eq!(Part::decode(&part.encode()), Ok(part));
            }
        }
    }
}
