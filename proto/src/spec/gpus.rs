//! GPUs of a rank that are more than a count: which types, a part of one device, MIG instances. Does NOT know which devices there are.
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

use super::{JobSpec, LaunchMethod, SpecError};
use crate::ids::clip;
use crate::limits::{GPUS_PER_NODE_MAX, NAME_BYTES_MAX};

/// Units of a GPU's memory. Vendors name their models in powers of ten: an 80GB model has a little more than that.
const MEMORY_UNITS: [(&str, u64); 5] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
];
/// No GPU has more memory, bytes: what is above is a slip.
const MEMORY_MAX: u64 = 16 << 40;

/// One acceptable type of GPU: `NAME[:MEM]`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct GpuKind {
    /// A part of the model's name, lower case.
    pub name: String,
    /// The least memory, bytes; 0: any.
    pub memory: u64,
}

impl FromStr for GpuKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = |why: &str| {
            let shown = clip(text);
            format!(
                "holds \"{shown}\": {why}; write NAME or NAME:MEM, such as \"H100\" or \"A100:80GB\""
            )
        };
        let (name, memory) = match text.split_once(':') {
            Some((name, memory)) => (name, Some(memory)),
            None => (text, None),
        };
        if name.trim().is_empty() || name.len() > NAME_BYTES_MAX {
            return Err(wrong("each type needs a name of 1 to 63 bytes"));
        }
        let memory = match memory {
            None => 0,
            Some(memory) => memory_of(memory).ok_or_else(|| {
                wrong("the least memory is a whole number and GB, TB, MiB, GiB or TiB")
            })?,
        };
        Ok(Self {
            name: name.to_lowercase(),
            memory,
        })
    }
}

impl JobSpec {
    /// The types of GPUs that it takes, in order of preference; empty: any.
    pub fn kinds(&self) -> Vec<GpuKind> {
        let kinds = self.gpu.iter().filter_map(|kind| kind.parse().ok());
        kinds.collect()
    }
}

fn memory_of(text: &str) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let (_, unit) = MEMORY_UNITS.into_iter().find(|(name, _)| *name == unit)?;
    let bytes = number.parse::<u64>().ok()?.checked_mul(unit)?;
    (1..=MEMORY_MAX).contains(&bytes).then_some(bytes)
}

/// A part of one GPU, thousandths: more than none, less than all of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Share(u16);

impl Share {
    /// Thousandths of one GPU, 1 to 999.
    pub fn thousandths(self) -> u32 {
        u32::from(self.0)
    }
}

impl FromStr for Share {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            let shown = clip(text);
            format!(
                "is {shown}; use a whole number of GPUs, or a part of one in thousandths, 0.001 to 0.999, such as 0.5"
            )
        };
        let digits = text.strip_prefix("0.").ok_or_else(wrong)?;
        let plain = digits.bytes().all(|byte| byte.is_ascii_digit());
        if !plain || !(1..=3).contains(&digits.len()) {
            return Err(wrong());
        }
        let thousandths = format!("{digits:0<3}")
            .parse::<u16>()
            .map_err(|_| wrong())?;
        let some = (1..=999).contains(&thousandths);
        some.then_some(Self(thousandths)).ok_or_else(wrong)
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = format!("{:03}", self.0);
        write!(f, "0.{}", digits.trim_end_matches('0'))
    }
}

impl Serialize for Share {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Share {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// MIG instances on each node, one for each rank. Whoever runs the cluster makes them; mlctl never cuts a GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mig {
    /// How many.
    pub count: u32,
    /// Compute slices of each, 1 to 7.
    pub slices: u32,
}

/// Reads `gpus = 0.5` as one device of which `share` is a part, and says how many devices a `share` or a `mig` is where `gpus` does not.
pub(super) fn rewrite(table: &mut Map<String, Value>) -> Result<(), SpecError> {
    let wrong = |key: &str, why: String| {
        Err(SpecError::Value {
            key: key.into(),
            why,
        })
    };
    let part = match table.get("gpus") {
        Some(Value::String(text)) => Some(text.clone()),
        Some(Value::Number(number)) if number.as_u64().is_none() && number.as_i64().is_none() => {
            Some(number.to_string())
        }
        _ => None,
    };
    if let Some(text) = part {
        if table.contains_key("share") {
            return wrong("share", "says again what `gpus` says: leave it out".into());
        }
        match text.parse::<Share>() {
            Ok(share) => table.insert("share".into(), share.to_string().into()),
            Err(why) => return wrong("gpus", why),
        };
        table.insert("gpus".into(), 1.into());
    }
    match table.get("share") {
        None => {}
        Some(share) => {
            let text = share
                .as_str()
                .map_or_else(|| share.to_string(), str::to_owned);
            match text.parse::<Share>() {
                Ok(share) => table.insert("share".into(), share.to_string().into()),
                Err(why) => return wrong("share", why),
            };
            table.entry("gpus").or_insert_with(|| 1.into());
        }
    }
    let Some(mig) = table.get("mig") else {
        return Ok(());
    };
    let count = |key| mig.get(key).and_then(Value::as_u64);
    let (Some(instances), Some(slices)) = (count("count"), count("slices")) else {
        let why = "needs `count` and `slices`, whole numbers: { count = 1, slices = 3 }";
        return wrong("mig", why.into());
    };
    if !(1..=7).contains(&slices) {
        return wrong(
            "mig.slices",
            format!("is {slices}; a GPU has 7: use 1 to 7"),
        );
    }
    if !(1..=u64::from(GPUS_PER_NODE_MAX)).contains(&instances) {
        let why = format!("is {instances}; use 1 to {GPUS_PER_NODE_MAX}");
        return wrong("mig.count", why);
    }
    table.entry("gpus").or_insert_with(|| instances.into());
    Ok(())
}

/// What a part of a GPU cannot be.
pub(super) fn check(spec: &JobSpec) -> Result<(), SpecError> {
    let wrong = |key: &str, why: String| {
        Err(SpecError::Value {
            key: key.into(),
            why,
        })
    };
    for kind in &spec.gpu {
        if let Err(why) = kind.parse::<GpuKind>() {
            return wrong("gpu", why);
        }
    }
    let ranks = spec.ranks_per_node();
    if let Some(share) = spec.share {
        if spec.mig.is_some() {
            return wrong("share", "and `mig` are two things: use one of them".into());
        }
        if spec.gpus != 1 {
            let why = format!(
                "is {share} of one GPU, but `gpus` is {}: leave `gpus` out",
                spec.gpus
            );
            return wrong("share", why);
        }
        if spec.nodes != 1 || spec.elastic.is_some() || ranks != 1 {
            let why = "is a part of one GPU, for one rank on one node: leave `nodes` and `ranks` out, or use whole `gpus`";
            return wrong("share", why.into());
        }
    }
    let Some(mig) = spec.mig else {
        return Ok(());
    };
    if spec.gpus != mig.count {
        let why = format!(
            "asks for {} instances, but `gpus` is {}: leave `gpus` out",
            mig.count, spec.gpus
        );
        return wrong("mig", why);
    }
    if mig.count != ranks {
        let why = format!(
            "gives one instance to each rank: {} of them to {ranks} ranks do not go; set `ranks = {}`",
            mig.count, mig.count
        );
        return wrong("mig", why);
    }
    if spec.world_size() > 1 && spec.launcher != LaunchMethod::Exec {
        let why = "has several ranks that talk to each other, and NCCL does not run between MIG instances: use whole `gpus`, or launcher `exec` for ranks that do not";
        return wrong("mig", why.into());
    }
    Ok(())
}

#[cfg(test)]
#[path = "gpus_tests.rs"]
mod tests;
