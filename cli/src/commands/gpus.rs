//! `mlctl gpus`: what is free now by pool and type, and in which shapes. Adds up what the nodes say; does NOT say when more will be free, nor whether a
//! team may have it.
use std::collections::BTreeMap;
use std::fmt::Write;

use mlctl_proto::api::Node;
use serde_json::{Value, json};

use super::nodes::all;
use crate::args::Global;
use crate::client::Client;
use crate::failure::Failure;
use crate::output::{Output, clean};

/// The state of a node that takes work.
const READY: &str = "Ready";

/// GPUs of one type in one pool.
#[derive(Debug, Default, PartialEq, Eq)]
struct Kind {
    /// All of them.
    total: usize,
    /// On nodes that take work, held by no job, and clean.
    free: usize,
    /// How many nodes have so many of them free, the most first.
    shapes: BTreeMap<std::cmp::Reverse<usize>, usize>,
}

/// Shows what is free.
pub async fn run(global: &Global, output: &dyn Output) -> Result<u8, Failure> {
    let mut client = Client::open(global)?;
    let nodes = all(&mut client).await?;
    let kinds = kinds(&nodes);
    output.value(&value(&kinds), &text(&kinds));
    Ok(0)
}

/// By pool and model.
fn kinds(nodes: &[Node]) -> BTreeMap<(&str, &str), Kind> {
    let mut kinds: BTreeMap<(&str, &str), Kind> = BTreeMap::new();
    for node in nodes {
        let mut here: BTreeMap<&str, usize> = BTreeMap::new();
        for device in &node.devices {
            let kind = kinds.entry((&node.pool, &device.model)).or_default();
            kind.total += 1;
            if node.state == READY && device.job.is_empty() && device.dirty.is_empty() {
                kind.free += 1;
                *here.entry(&device.model).or_default() += 1;
            }
        }
        for (model, free) in here {
            let kind = kinds.entry((&node.pool, model)).or_default();
            *kind.shapes.entry(std::cmp::Reverse(free)).or_default() += 1;
        }
    }
    kinds
}

fn value(kinds: &BTreeMap<(&str, &str), Kind>) -> Value {
    let kinds = kinds.iter().map(|((pool, model), kind)| {
        let shapes = kind.shapes.iter();
        let shapes: Vec<Value> = shapes
            .map(|(free, nodes)| json!({ "free": free.0, "nodes": nodes }))
            .collect();
        json!({ "pool": pool, "model": model, "total": kind.total, "free": kind.free, "shapes": shapes })
    });
    json!({ "v": 1, "gpus": kinds.collect::<Vec<Value>>() })
}

fn text(kinds: &BTreeMap<(&str, &str), Kind>) -> String {
    if kinds.is_empty() {
        return "no node has a GPU".into();
    }
    let mut lines = vec!["POOL          FREE  TYPE, AND NODES WITH SO MANY FREE".to_owned()];
    for ((pool, model), kind) in kinds {
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
    }
    lines.join("\n")
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
        let text = text(&found);
        assert!(text.contains("5/9  H100  2 x 2  1 x 1"), "{text}");
        assert!(text.contains("0/1  H100"), "{text}");
        assert_eq!(value(&found)["gpus"][0]["model"], "A100");
        assert_eq!(super::text(&kinds(&[])), "no node has a GPU");
    }
}
