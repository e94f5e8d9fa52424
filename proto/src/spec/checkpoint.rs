//! `[checkpoint]`: where a job keeps its checkpoints (on a node's disk, in its memory, or where every node sees them), how many copies other
//! nodes hold, which ones stay, how fast copies may move, and the object store that they go to as well.
//! Does NOT choose what to keep: the coordinator's rules do.
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{Bytes, KeepBest, KeepEvery, SpecError, StoreAddress, Time};
use crate::limits::{CHECKPOINT_REPLICAS_MAX, CHECKPOINTS_PER_JOB_MAX};

/// Where a job keeps its checkpoints, and what becomes of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CheckpointSpec {
    /// A directory relative to the job's working directory. `$MLCTL_CHECKPOINT_DIR` names it absolutely. With `shared` an absolute path.
    #[serde(default = "dir")]
    pub dir: String,
    /// Nodes that hold a copy beside the one that made it, 0 to [`CHECKPOINT_REPLICAS_MAX`].
    #[serde(default = "replicas", skip_serializing_if = "is_default_replicas")]
    pub replicas: u32,
    /// So many of the newest stay; absent, and no other rule: [`CheckpointSpec::KEEP_LAST`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_last: Option<u32>,
    /// These stay although newer ones are there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_every: Option<KeepEvery>,
    /// So do these.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_best: Option<KeepBest>,
    /// So long before it is ended a job hears of it, in time to save once more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub notice: Option<Time>,
    /// How fast copies and uploads of this job may leave a node, all together. What a node takes in is as fast as its senders are.
    #[serde(default, skip_serializing_if = "Bandwidth::is_default")]
    pub bandwidth: Bandwidth,
    /// The URL of an object store that every whole checkpoint is uploaded to; absent: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upload: Option<String>,
    /// Where the trainer writes, before anything is sealed.
    #[serde(default, skip_serializing_if = "Tier::is_default")]
    pub tier: Tier,
    /// `dir` lies on a file system that every node sees: nothing is sealed or copied.
    #[serde(default, skip_serializing_if = "is_false")]
    pub shared: bool,
}

/// Where a trainer writes its checkpoints on a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tier {
    /// On its disk.
    #[default]
    Disk,
    /// In its memory, from where they are sealed to its disk.
    Ram,
}

impl Tier {
    /// All of them with their words.
    pub const ALL: [(Self, &'static str); 2] = [(Self::Disk, "disk"), (Self::Ram, "ram")];

    /// The default, which a canonical spec does not mention.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "the signature is serde's"
)]
fn is_false(value: &bool) -> bool {
    !*value
}

fn dir() -> String {
    "checkpoints".into()
}

fn replicas() -> u32 {
    CheckpointSpec::REPLICAS
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "the signature is serde's"
)]
fn is_default_replicas(replicas: &u32) -> bool {
    *replicas == CheckpointSpec::REPLICAS
}

impl Default for CheckpointSpec {
    fn default() -> Self {
        Self {
            dir: dir(),
            replicas: Self::REPLICAS,
            keep_last: None,
            keep_every: None,
            keep_best: None,
            notice: None,
            bandwidth: Bandwidth::Auto,
            upload: None,
            tier: Tier::Disk,
            shared: false,
        }
    }
}

impl CheckpointSpec {
    /// Copies on other nodes unless a spec says otherwise, also of jobs without `[checkpoint]`.
    pub const REPLICAS: u32 = 1;
    /// So many of the newest checkpoints stay where no rule is given.
    pub const KEEP_LAST: u32 = 3;

    /// In `dir`, and everything else by default.
    pub fn in_dir(dir: &str) -> Self {
        Self {
            dir: dir.into(),
            ..Self::default()
        }
    }

    /// So many of the newest stay.
    pub fn newest_kept(&self) -> u32 {
        let other = self.keep_every.is_some() || self.keep_best.is_some();
        let default = if other { 1 } else { Self::KEEP_LAST };
        self.keep_last.unwrap_or(default)
    }

    pub(super) fn check(&self) -> Result<(), SpecError> {
        match self.shared {
            true => self.check_shared()?,
            false => self.check_inside()?,
        }
        super::range(
            "checkpoint.replicas",
            self.replicas,
            0,
            CHECKPOINT_REPLICAS_MAX,
        )?;
        let last = self.keep_last.unwrap_or(1);
        let most = u32::try_from(CHECKPOINTS_PER_JOB_MAX).unwrap_or(u32::MAX);
        super::range("checkpoint.keep_last", last, 1, most)?;
        let Some(url) = &self.upload else {
            return Ok(());
        };
        check_upload(url).map_err(|why| SpecError::Value {
            key: "checkpoint.upload".into(),
            why,
        })
    }

    /// A directory of the job's own.
    fn check_inside(&self) -> Result<(), SpecError> {
        if is_absolute(&self.dir) {
            return wrong(
                "dir",
                "must be a relative path inside the working directory, without `..`; \
                 a path on a file system that every node sees needs `shared = true`",
            );
        }
        super::check_inside("checkpoint.dir", &self.dir)
    }

    /// A directory that every node sees: mlctl copies nothing there, so nothing that asks for copies goes with it.
    fn check_shared(&self) -> Result<(), SpecError> {
        if !is_absolute(&self.dir) {
            return wrong(
                "dir",
                "must be an absolute path without `..` below a file system that every node sees, because `shared` is true",
            );
        }
        if self.replicas > 0 {
            return wrong(
                "replicas",
                "must be 0 or left out with `shared = true`: mlctl copies nothing of a file system that every node sees",
            );
        }
        if self.upload.is_some() {
            return wrong(
                "upload",
                "must be left out with `shared = true`: mlctl copies nothing of a file system that every node sees",
            );
        }
        if self.tier == Tier::Ram {
            return wrong(
                "tier",
                "must be \"disk\" or left out with `shared = true`: no other node sees what lies in the memory of one",
            );
        }
        Ok(())
    }
}

fn wrong<T>(key: &str, why: &str) -> Result<T, SpecError> {
    Err(SpecError::Value {
        key: format!("checkpoint.{key}"),
        why: why.into(),
    })
}

/// An absolute path below the root: no `..`, nothing that no path has.
fn is_absolute(path: &str) -> bool {
    let mut parts = path.split('/').filter(|part| !matches!(*part, "" | "."));
    let climbs = path.split('/').any(|part| part == "..");
    let plain = !climbs && !path.contains(char::is_control) && path.len() <= 1024;
    path.starts_with('/') && plain && parts.next().is_some()
}

/// Is it the URL of an object store? It is not repeated: it may hold a secret.
fn check_upload(url: &str) -> Result<(), String> {
    let wrong = |why: &str| {
        format!(
            "{why}; use \"s3://bucket/prefix\", \"gs://bucket/prefix\", \"az://container/prefix\" or \"file:///directory\""
        )
    };
    StoreAddress::parse(url).map(drop).map_err(wrong)
}

/// How fast copies of a job's checkpoints may move between two nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Bandwidth {
    /// As fast as training does not suffer.
    #[default]
    Auto,
    /// As fast as it goes.
    Full,
    /// At most so many bytes a second.
    Limit(Bytes),
}

impl Bandwidth {
    /// Bytes a second; `None`: as the node finds fit, `u64::MAX`: no limit.
    pub fn rate(self) -> Option<u64> {
        match self {
            Self::Auto => None,
            Self::Full => Some(u64::MAX),
            Self::Limit(bytes) => Some(bytes.0),
        }
    }

    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl FromStr for Bandwidth {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => return Ok(Self::Auto),
            "full" => return Ok(Self::Full),
            _ => {}
        }
        let amount = text.strip_suffix("/s").and_then(|text| text.parse().ok());
        match amount {
            Some(Bytes(bytes)) if bytes >= 1 << 16 => Ok(Self::Limit(Bytes(bytes))),
            Some(_) => Err("is too little; use at least \"64KiB/s\"".into()),
            None => Err(format!(
                "is \"{}\"; use \"auto\", \"full\" or an amount such as \"200MiB/s\"",
                crate::ids::clip(text)
            )),
        }
    }
}

impl fmt::Display for Bandwidth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Full => f.write_str("full"),
            Self::Limit(bytes) => write!(f, "{bytes}/s"),
        }
    }
}

impl Serialize for Bandwidth {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Bandwidth {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

type Check = fn(&str) -> Result<(), String>;

/// Says of a value that cannot be read which key it has: serde would not.
pub(super) fn check_table(
    table: &serde_json::Map<String, serde_json::Value>,
) -> Result<(), SpecError> {
    let texts: [(&str, Check); 4] = [
        ("keep_every", |text| KeepEvery::parse(text).map(drop)),
        ("keep_best", |text| KeepBest::parse(text).map(drop)),
        ("bandwidth", |text| text.parse::<Bandwidth>().map(drop)),
        ("upload", check_upload),
    ];
    for (key, parse) in texts {
        let Some(value) = table.get(key) else {
            continue;
        };
        let parsed = match value {
            serde_json::Value::String(text) => parse(text),
            // `keep_every = 500`
            serde_json::Value::Number(number) if key == "keep_every" => parse(&number.to_string()),
            _ => Err("needs a text".into()),
        };
        parsed.map_err(|why| SpecError::Value {
            key: format!("checkpoint.{key}"),
            why,
        })?;
    }
    if let Some(value) = table.get("tier") {
        super::parse::check_word("checkpoint.tier", value, &Tier::ALL.map(|(_, word)| word))?;
    }
    if table.get("shared").is_some_and(|value| !value.is_boolean()) {
        return wrong("shared", "needs `true` or `false`");
    }
    if let Some(value) = table.get("notice") {
        super::time::check_time("checkpoint.notice", value)?;
    }
    for key in ["replicas", "keep_last"] {
        if let Some(value) = table.get(key) {
            super::parse::check_count(&format!("checkpoint.{key}"), value)?;
        }
    }
    Ok(())
}

/// What a spec with `shared = true` means where it says nothing: no copies, and that an attempt which is only cut off does not write beside
/// the one that takes its place. A canonical spec says both.
pub(super) fn fill_in_shared(spec: &mut serde_json::Value) {
    let checkpoint = spec.get_mut("checkpoint");
    let Some(checkpoint) = checkpoint.and_then(|one| one.as_object_mut()) else {
        return;
    };
    if checkpoint.get("shared") != Some(&serde_json::Value::Bool(true)) {
        return;
    }
    checkpoint.entry("replicas").or_insert_with(|| 0_u32.into());
    if let Some(spec) = spec.as_object_mut() {
        spec.entry("on_disconnect")
            .or_insert_with(|| super::OnDisconnect::Fence.word().into());
    }
}
