//! `mlctl gpus`: what is free now by pool and type, in which shapes, and when a job of this user in each of a few shapes would start. Adds up what the nodes say, and asks
//! for those jobs as `submit --dry-run` does. Does NOT queue anything.
use std::collections::BTreeMap;
use std::fmt::Write;

use mlctl_proto::api::Node;
use mlctl_proto::spec::JobSpec;
use serde_json::{Value, json};

use super::foresee::foresee;
use super::nodes::all;
use crate::args::Global;
use crate::client::Client;
use crate::failure::Failure;
use crate::output::clean::clean;
use crate::output::{Output, why};

/// The state of a node that takes work.
const READY: &str = "Ready";
/// Types of GPUs of which jobs are asked for: each costs some plans.
const KINDS_ASKED_MAX: usize = 8;

/// GPUs of one type in one pool.
#[derive(Debug, Default, PartialEq, Eq)]
struct Kind {
    /// All of them.
    total: usize,
    /// On nodes that take work, held by no job, and clean.
    free: usize,
    /// The most of them on one node, and nodes that have some.
    most: usize,
    nodes: usize,
    /// How many nodes have so many of them free, the most first.
    shapes: BTreeMap<std::cmp::Reverse<usize>, usize>,
}

/// Shows what is free.
pub async fn run(global: &Global, output: &dyn Output) -> Result<u8, Failure> {
    let mut client = Client::open(global)?;
    let nodes = all(&mut client).await?;
    let kinds = kinds(&nodes);
    let (starts, left_out) = starts(&mut client, &kinds).await;
    output.value(&value(&kinds, &starts), &text(&kinds, &starts));
    if let Some(why) = left_out {
        output.note(&why);
    }
    Ok(0)
}

/// Of the first kinds, and why not of all: what is free is worth showing without.
async fn starts(
    client: &mut Client,
    kinds: &BTreeMap<(&str, &str), Kind>,
) -> (Vec<Vec<Start>>, Option<String>) {
    let mut starts = Vec::new();
    for (key, kind) in kinds.iter().take(KINDS_ASKED_MAX) {
        match starts_of(client, *key, kind).await {
            Ok(found) => starts.push(found),
            Err(error) => {
                return (
                    starts,
                    Some(format!("when jobs would start was not told: {error}")),
                );
            }
        }
    }
    let many = kinds.len() > KINDS_ASKED_MAX;
    let why = || {
        format!(
            "when jobs would start was asked of the first {KINDS_ASKED_MAX} kinds; `mlctl submit --dry-run` asks of any"
        )
    };
    (starts, many.then(why))
}

/// When a job in some shape would start.
struct Start {
    nodes: usize,
    gpus: usize,
    /// In words, and for programs: now, at a time, or why not.
    text: String,
    value: Value,
}

/// One GPU, half a node, a node, two nodes, as far as there are such.
fn asked(kind: &Kind) -> Vec<(usize, usize)> {
    let mut shapes = vec![(1, 1), (1, kind.most / 2), (1, kind.most)];
    if kind.nodes > 1 {
        shapes.push((2, kind.most));
    }
    shapes.retain(|(_, gpus)| *gpus > 0);
    shapes.dedup();
    shapes
}

async fn starts_of(
    client: &mut Client,
    (pool, model): (&str, &str),
    kind: &Kind,
) -> Result<Vec<Start>, Failure> {
    let mut starts = Vec::new();
    for (nodes, gpus) in asked(kind) {
        let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        let spec = JobSpec {
            nodes: count(nodes),
            gpus: count(gpus),
            gpu: vec![model.to_owned()],
            pools: vec![pool.to_owned()],
            ..JobSpec::new(vec!["true".into()])
        };
        let (text, value) = match foresee(client, &spec).await {
            Ok(said) => (why::soon(&said), why::value(&said)),
            Err(refused) if refused.code().is_some() => {
                let word = refused.code().map_or("", |code| code.word());
                let value = json!({ "refused": word, "why": refused.to_string() });
                (word.to_owned(), value)
            }
            Err(other) => return Err(other),
        };
        starts.push(Start {
            nodes,
            gpus,
            text,
            value,
        });
    }
    Ok(starts)
}

/// By pool and model.
fn kinds(nodes: &[Node]) -> BTreeMap<(&str, &str), Kind> {
    let mut kinds: BTreeMap<(&str, &str), Kind> = BTreeMap::new();
    for node in nodes {
        let mut here: BTreeMap<&str, usize> = BTreeMap::new();
        let mut all: BTreeMap<&str, usize> = BTreeMap::new();
        for device in &node.devices {
            let kind = kinds.entry((&node.pool, &device.model)).or_default();
            kind.total += 1;
            *all.entry(&device.model).or_default() += 1;
            if node.state == READY && device.job.is_empty() && device.dirty.is_empty() {
                kind.free += 1;
                *here.entry(&device.model).or_default() += 1;
            }
        }
        for (model, count) in all {
            let kind = kinds.entry((&node.pool, model)).or_default();
            kind.most = kind.most.max(count);
            kind.nodes += 1;
        }
        for (model, free) in here {
            let kind = kinds.entry((&node.pool, model)).or_default();
            *kind.shapes.entry(std::cmp::Reverse(free)).or_default() += 1;
        }
    }
    kinds
}

/// `starts`: of the first of these.
fn value(kinds: &BTreeMap<(&str, &str), Kind>, starts: &[Vec<Start>]) -> Value {
    let all = kinds.iter().enumerate();
    let kinds = all.map(|(at, ((pool, model), kind))| {
        let starts = starts.get(at).into_iter().flatten();
        let starts: Vec<Value> = starts
            .map(|one| json!({ "nodes": one.nodes, "gpus": one.gpus, "said": one.value }))
            .collect();
        let shapes = kind.shapes.iter();
        let shapes: Vec<Value> = shapes
            .map(|(free, nodes)| json!({ "free": free.0, "nodes": nodes }))
            .collect();
        json!({ "pool": pool, "model": model, "total": kind.total, "free": kind.free, "shapes": shapes, "starts": starts })
    });
    json!({ "v": 1, "gpus": kinds.collect::<Vec<Value>>() })
}

fn text(kinds: &BTreeMap<(&str, &str), Kind>, starts: &[Vec<Start>]) -> String {
    if kinds.is_empty() {
        return "no node has a GPU".into();
    }
    let mut lines = vec!["POOL          FREE  TYPE, AND NODES WITH SO MANY FREE".to_owned()];
    for (at, ((pool, model), kind)) in kinds.iter().enumerate() {
        let mut shapes = String::new();
        for (free, nodes) in &kind.shapes {
            // Writing to a text cannot fail.
            let _ = write!(shapes, "  {nodes} x {}", free.0);
        }
        let free = format!("{}/{}", kind.free, kind.total);
        lines.push(format!(
            "{:<12} {free:>5}  {}{shapes}",
            clean(pool),
            clean(model)
        ));
        let starts = starts.get(at).into_iter().flatten();
        let starts: Vec<String> = starts.map(shown).collect();
        if !starts.is_empty() {
            lines.push(format!(
                "                    a job starts: {}",
                starts.join(" · ")
            ));
        }
    }
    lines.join("\n")
}

fn shown(start: &Start) -> String {
    match start.nodes {
        1 => format!("{} {}", start.gpus, start.text),
        nodes => format!("{nodes} x {} {}", start.gpus, start.text),
    }
}

#[cfg(test)]
mod tests {
    use mlctl_proto::api::Device;

    use super::*;

    fn node(pool: &str, state: &str, devices: &[(&str, &str, &str)]) -> Node {
        let device = |(model, job, dirty): &(&str, &str, &str)| Device {
            model: (*model).into(),
            job: (*job).into(),
            dirty: (*dirty).into(),
            ..Device::default()
        };
        Node {
            pool: pool.into(),
            state: state.into(),
            devices: devices.iter().map(device).collect(),
            ..Node::default()
        }
    }

    #[test]
    fn only_what_a_job_could_have_now_is_free() {
        let (free, held, dirty) = (("H100", "", ""), ("H100", "7", ""), ("H100", "", "python"));
        let nodes = [
            node("a", READY, &[free, free, held, dirty]),
            node("a", READY, &[free, free]),
            node("a", READY, &[free, ("A100", "", "")]),
            node("a", "Draining", &[free, free]),
            node("b", READY, &[held]),
        ];
        let found = kinds(&nodes);
        let h100 = found.get(&("a", "H100")).expect("they are there");
        assert_eq!((h100.free, h100.total), (5, 9));
        let shapes: Vec<(usize, usize)> = (h100.shapes.iter())
            .map(|(free, nodes)| (free.0, *nodes))
            .collect();
        assert_eq!(shapes, [(2, 2), (1, 1)]);
        let now = Start {
            nodes: 2,
            gpus: 4,
            text: "now".into(),
            value: json!({}),
        };
        let starts = [Vec::new(), vec![now]];
        let text = text(&found, &starts);
        assert!(text.contains("a job starts: 2 x 4 now"), "{text}");
        assert_eq!((h100.most, h100.nodes), (4, 4));
        assert_eq!(asked(h100), [(1, 1), (1, 2), (1, 4), (2, 4)]);
        assert!(text.contains("5/9  H100  2 x 2  1 x 1"), "{text}");
        assert!(text.contains("0/1  H100"), "{text}");
        assert_eq!(value(&found, &starts)["gpus"][0]["model"], "A100");
        assert_eq!(super::text(&kinds(&[]), &[]), "no node has a GPU");
    }
}
