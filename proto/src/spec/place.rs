//! Where a job may run, and what it takes there beside devices, processors and memory: pools, labels, nearness, disk, named countables.
//! Knows no node.
use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Bytes, JobSpec, SpecError};
use crate::ids::{check_name, clip};
use crate::limits::{
    DISK_PER_NODE_MAX, DISK_PER_RANK_MIN, LICENSE_COUNT_MAX, NAME_BYTES_MAX, PLACE_WORDS_MAX,
};

/// How near to each other the nodes of a gang have to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Near {
    /// In one rack.
    Rack,
    /// In one block of racks.
    Block,
}

impl Near {
    /// All of them with their words.
    pub const ALL: [(Self, &'static str); 2] = [(Self::Rack, "rack"), (Self::Block, "block")];
}

/// What comes first when the first GPU type has no room within the team's own quota.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Prefer {
    /// The first type, also by borrowing.
    #[default]
    Type,
    /// Staying inside the team's own, also on a later type.
    Nominal,
}

impl Prefer {
    /// All of them with their words.
    pub const ALL: [(Self, &'static str); 2] = [(Self::Type, "type"), (Self::Nominal, "nominal")];

    /// The default, which a canonical spec does not mention.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// Says of values that are no words or counts which key they have: serde would not.
pub(super) fn check_values(table: &serde_json::Map<String, Value>) -> Result<(), SpecError> {
    let wrong = |key: &str, why: String| {
        Err(SpecError::Value {
            key: key.into(),
            why,
        })
    };
    if let Some(value) = table.get("pools") {
        let texts = value
            .as_array()
            .is_some_and(|list| list.iter().all(Value::is_string));
        if !texts {
            let why = "is a list of names of pools, such as [\"on-prem\", \"cloud\"]";
            return wrong("pools", why.into());
        }
    }
    if let Some(value) = table.get("node_labels") {
        let texts = value
            .as_object()
            .is_some_and(|labels| labels.values().all(Value::is_string));
        if !texts {
            let why = "is a table of labels that each node must have, such as { rack = \"r1\" }";
            return wrong("node_labels", why.into());
        }
    }
    let Some(value) = table.get("licenses") else {
        return Ok(());
    };
    let Some(licenses) = value.as_object() else {
        let why = "is a table of counts, such as { ansys = 2 }";
        return wrong("licenses", why.into());
    };
    for (name, count) in licenses {
        let good = (count.as_u64())
            .is_some_and(|count| (1..=u64::from(LICENSE_COUNT_MAX)).contains(&count));
        if !good {
            let (name, shown) = (clip(name), clip(&count.to_string()));
            let why = format!("holds {name} = {shown}; use 1 to {LICENSE_COUNT_MAX}");
            return wrong("licenses", why);
        }
    }
    Ok(())
}

/// What no cluster could mean.
pub(super) fn check(spec: &JobSpec) -> Result<(), SpecError> {
    let wrong = |key: &str, why: String| {
        Err(SpecError::Value {
            key: key.into(),
            why,
        })
    };
    for (key, words) in [
        ("pools", spec.pools.len()),
        ("node_labels", spec.node_labels.len()),
        ("licenses", spec.licenses.len()),
    ] {
        if words > PLACE_WORDS_MAX {
            return wrong(
                key,
                format!("has {words} entries; at most {PLACE_WORDS_MAX}"),
            );
        }
    }
    let mut seen = BTreeSet::new();
    for pool in &spec.pools {
        if let Err(error) = check_name(pool) {
            return wrong("pools", format!("holds what is no pool: {error}"));
        }
        if !seen.insert(pool) {
            return wrong("pools", format!("names {pool} twice: name each once"));
        }
    }
    for (label, value) in &spec.node_labels {
        if !is_word(label) || !is_word(value) {
            let shown = clip(&format!("{label} = {value}"));
            let why = format!(
                "holds `{shown}`; labels and their values are 1 to {NAME_BYTES_MAX} of letters, digits and `- _ . /`"
            );
            return wrong("node_labels", why);
        }
    }
    for (name, count) in &spec.licenses {
        if !is_word(name) || !(1..=LICENSE_COUNT_MAX).contains(count) {
            let shown = clip(&format!("{name} = {count}"));
            let why = format!(
                "holds `{shown}`; a name is 1 to {NAME_BYTES_MAX} of letters, digits and `- _ . /`, a count 1 to {LICENSE_COUNT_MAX}"
            );
            return wrong("licenses", why);
        }
    }
    if spec.near.is_some() && spec.nodes == 1 && spec.elastic.is_none() {
        let why = "is about nodes of one gang, and there is one: set `nodes`, or leave `near` out";
        return wrong("near", why.into());
    }
    if spec.mix && spec.gpus == 0 {
        let why = "is about types of GPUs, and `gpus` is 0: set `gpus`, or leave `mix` out";
        return wrong("mix", why.into());
    }
    check_disk(spec)
}

fn check_disk(spec: &JobSpec) -> Result<(), SpecError> {
    let Some(disk) = spec.disk else {
        return Ok(());
    };
    let ranks = spec.ranks_per_node();
    let all = disk.0.checked_mul(u64::from(ranks));
    let why = if disk.0 < DISK_PER_RANK_MIN {
        format!("is {disk}; ask for at least {}", Bytes(DISK_PER_RANK_MIN))
    } else if all.is_none_or(|all| all > DISK_PER_NODE_MAX) {
        let most = Bytes(DISK_PER_NODE_MAX);
        format!("is {disk} for each of {ranks} ranks; no node has more than {most}")
    } else {
        return Ok(());
    };
    Err(SpecError::Value {
        key: "disk".into(),
        why,
    })
}

/// A label, its value, or the name of something that is counted.
fn is_word(text: &str) -> bool {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./".contains(&byte);
    (1..=NAME_BYTES_MAX).contains(&text.len()) && text.bytes().all(legal)
}

#[cfg(test)]
mod tests {
    use super::super::{parse_json, parse_toml};
    use super::*;

    fn spec(lines: &str) -> Result<JobSpec, SpecError> {
        parse_toml(&format!("command = ['a']\n{lines}"))
    }

    #[test]
    fn where_it_may_run() {
        let all = "nodes = 2\ngpus = 8\ngpu = ['H100', 'A100:80GB']\npools = ['on-prem', 'cloud']\nmix = true\nnear = 'rack'\n\
                   prefer = 'nominal'\ndisk = '100GiB'\nlicenses = { ansys = 2, abaqus = 1 }\nnode_labels = { rack = 'r1' }";
        let spec = spec(all).expect("good");
        assert_eq!(spec.pools, ["on-prem", "cloud"]);
        assert_eq!(
            (spec.mix, spec.near, spec.prefer),
            (true, Some(Near::Rack), Prefer::Nominal)
        );
        assert_eq!(spec.disk, Some(Bytes(100 << 30)));
        assert_eq!(spec.licenses.get("ansys"), Some(&2));
        let again = parse_json(&spec.canonical_json()).expect("canonical JSON parses");
        assert_eq!((again.hash(), &again), (spec.hash(), &spec));
    }

    #[test]
    fn senseless_places_are_refused_with_what_to_write_instead() {
        let many: Vec<String> = (0..65).map(|at| format!("'p{at}'")).collect();
        let many = format!("pools = [{}]", many.join(", "));
        for (lines, says) in [
            ("pools = 'a'", "is a list of names"),
            ("pools = [1]", "is a list of names"),
            ("pools = ['A b']", "not a valid name"),
            ("pools = ['a', 'a']", "names a twice"),
            (many.as_str(), "has 65 entries; at most 64"),
            ("node_labels = ['a']", "is a table of labels"),
            ("node_labels = { a = 1 }", "is a table of labels"),
            ("node_labels = { 'a b' = 'x' }", "letters, digits"),
            ("node_labels = { a = '' }", "letters, digits"),
            ("licenses = 3", "is a table of counts"),
            ("licenses = { ansys = 0 }", "ansys = 0; use 1 to"),
            ("licenses = { ansys = -1 }", "use 1 to 1000000"),
            ("licenses = { ansys = 1.5 }", "use 1 to 1000000"),
            ("licenses = { ansys = nan }", "use 1 to 1000000"),
            ("licenses = { ansys = 1000001 }", "use 1 to 1000000"),
            ("licenses = { 'an sys' = 1 }", "letters, digits"),
            ("licenses = { ansys = 1, ansys = 2 }", "duplicate key"),
            ("near = 'rack'", "set `nodes`"),
            ("nodes = 2\nnear = 'rak'", "did you mean `rack`?"),
            ("mix = true", "set `gpus`"),
            ("mix = 'yes'", "`mix` is \"yes\"; use true or false"),
            ("prefer = 'nominl'", "did you mean `nominal`?"),
            ("disk = '1KiB'", "at least 1MiB"),
            ("disk = 5", "needs a text such as"),
            ("disk = '1025TiB'", "no node has more than 1024TiB"),
            ("disk = '1TiB'\nranks = 1024\nnodes = 2\ncpus = 1", ""),
        ] {
            if says.is_empty() {
                assert!(spec(lines).is_ok(), "{lines}");
                continue;
            }
            let error = spec(lines).expect_err(lines).to_string();
            assert!(error.contains(says), "{lines}\n-> {error}");
            assert!(error.len() < 400, "{error}");
        }
    }
}
