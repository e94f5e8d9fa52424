//! Does this request fit these devices? A gang has one pool and, if it has GPUs, one model: nodes of a pool reach each other, and
//! mixed devices run at the pace of the slowest. Knows nothing of who holds what: callers bring what is free.
use std::collections::BTreeSet;

use mlctl_proto::units::bytes_text;

use super::{Inventory, Request};

/// Ranks of jobs without GPUs that a node takes per logical CPU. Such jobs wait more than they compute, and a machine with two
/// cores must run several small ones; it is a bound against pile-ups, not a reservation of CPU time.
pub const CPU_RANKS_PER_CPU: u32 = 8;

/// Whether a device of `model` is what `request` asks for: any, or a model whose name holds one of the types.
pub fn fits_kind(request: &Request, model: &str) -> bool {
    let model = model.to_lowercase();
    request.kinds.is_empty()
        || request
            .kinds
            .iter()
            .any(|kind| model.contains(kind.as_str()))
}

/// Why no set of nodes of this inventory, healthy or not, busy or not, could run a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NeverFits {
    /// For people, with the numbers.
    pub why: String,
}

/// Whether a request could run on the whole inventory if every node were healthy and idle. An empty inventory says nothing.
pub fn never_fits(request: &Request, inventory: &Inventory) -> Option<NeverFits> {
    let nodes = inventory.nodes();
    if nodes == 0 {
        return None;
    }
    if let Some(never) = never_fits_size(request, inventory) {
        return Some(never);
    }
    if request.gpus == 0 {
        return never_fits_cpu(request, inventory);
    }
    let (mut best, mut most_on_one) = (0, 0);
    for (model, counts) in inventory.devices() {
        if fits_kind(request, model) {
            best = best.max(counts.range(request.gpus..).map(|(_, nodes)| *nodes).sum());
            most_on_one = most_on_one.max(counts.get_max().map_or(0, |(count, _)| *count));
        }
    }
    if best >= request.nodes {
        return None;
    }
    let kinds = kinds_text(request);
    let asked = format!(
        "{} with {} {kinds} each",
        nodes_text(request.nodes),
        request.gpus
    );
    let models: BTreeSet<&str> = inventory.devices().map(|(model, _)| model).collect();
    let why = if most_on_one == 0 && !models.is_empty() {
        let have: Vec<&str> = models.into_iter().collect();
        format!(
            "the job asks for {asked}, but this cluster has no such GPU, only {}: change `gpu`",
            have.join(", ")
        )
    } else {
        format!(
            "the job asks for {asked}, but of the {} of this cluster at most {best} in one pool have that many of one model \
             (the most on one node: {most_on_one}): ask for fewer `nodes` or `gpus`",
            nodes_text(nodes),
        )
    };
    Some(NeverFits { why })
}

fn never_fits_cpu(request: &Request, inventory: &Inventory) -> Option<NeverFits> {
    let most = inventory.largest_pool();
    (most < request.nodes).then(|| NeverFits {
        why: format!(
            "the job asks for {}, but the largest pool of this cluster has {most}: ask for fewer `nodes`",
            nodes_text(request.nodes)
        ),
    })
}

/// Processors and memory, whatever is free of them now.
fn never_fits_size(request: &Request, inventory: &Inventory) -> Option<NeverFits> {
    if request.cpus == 0 && request.memory == 0 {
        return None;
    }
    let have = inventory.nodes_with(request.cpus, request.memory);
    if have >= request.nodes {
        return None;
    }
    let mut asked = Vec::new();
    if request.cpus > 0 {
        asked.push(format!("{} processors", request.cpus));
    }
    if request.memory > 0 {
        asked.push(format!("{} of memory", bytes_text(request.memory)));
    }
    let (cpus, memory) = inventory.largest();
    Some(NeverFits {
        why: format!(
            "the job asks for {} with {} each ({} ranks on a node together), but of this cluster at most {have} in one pool have that much \
             (the most on one node: {cpus} processors, {}): ask for less `cpus` or `mem`, or fewer `ranks`",
            nodes_text(request.nodes),
            asked.join(" and "),
            request.ranks,
            bytes_text(memory),
        ),
    })
}

fn nodes_text(count: u32) -> String {
    if count == 1 {
        "1 node".into()
    } else {
        format!("{count} nodes")
    }
}

/// `H100 or A100 GPUs`, `GPUs`.
pub(crate) fn kinds_text(request: &Request) -> String {
    let noun = if request.gpus == 1 { "GPU" } else { "GPUs" };
    if request.kinds.is_empty() {
        noun.into()
    } else {
        format!("{} {noun}", request.kinds.join(" or "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::records::{Admin, Node};
    use crate::state::testing::node;

    fn request(nodes: u32, gpus: u32, kinds: &[&str]) -> Request {
        Request {
            nodes,
            gpus,
            ranks: 1,
            cpus: 0,
            memory: 0,
            kinds: kinds.iter().map(|kind| kind.to_lowercase()).collect(),
        }
    }

    fn inventory(nodes: &[Node]) -> Inventory {
        let mut inventory = Inventory::default();
        nodes.iter().for_each(|node| inventory.add(node));
        inventory
    }

    #[test]
    fn kinds_match_a_part_of_the_model() {
        for (kinds, model, fits) in [
            (&[][..], "SIM", true),
            (&["h100"][..], "NVIDIA H100 80GB HBM3", true),
            (&["H100"], "nvidia h100", true),
            (&["A100", "H100"], "NVIDIA H100", true),
            (&["A100"], "NVIDIA H100", false),
        ] {
            assert_eq!(
                fits_kind(&request(1, 1, kinds), model),
                fits,
                "{kinds:?} {model}"
            );
        }
    }

    #[test]
    fn more_processors_or_memory_than_a_node_has() {
        let mut large = node("l", 0, "");
        (large.facts.cpus, large.facts.memory_bytes) = (64, 512 << 30);
        let mut small = node("s", 0, "");
        (small.facts.cpus, small.facts.memory_bytes) = (8, 32 << 30);
        let all = inventory(&[large, small]);
        for (nodes, cpus, memory, never) in [
            (1, 64, 512 << 30, None),
            (2, 8, 32 << 30, None),
            (2, 9, 0, Some("2 nodes with 9 processors each")),
            (
                1,
                65,
                0,
                Some("the most on one node: 64 processors, 512.0 GiB"),
            ),
            (2, 0, 33 << 30, Some("33.0 GiB of memory")),
        ] {
            let asked = Request {
                cpus,
                memory,
                ..request(nodes, 0, &[])
            };
            let found = never_fits(&asked, &all).map(|never| never.why);
            match (never, &found) {
                (None, None) => {}
                (Some(part), Some(why)) if why.contains(part) => {}
                _ => panic!("{nodes} {cpus} {memory}: {found:?}"),
            }
        }
    }

    #[test]
    fn what_could_never_run() {
        let mut other_pool = node("d", 8, "NVIDIA H100");
        other_pool.facts.pool = "cloud".into();
        let mut retired = node("r", 64, "NVIDIA H100");
        retired.admin = Admin::Retired;
        let mut down = node("c", 8, "NVIDIA H100");
        down.liveness = crate::state::records::Liveness::Lost;
        let nodes = [
            node("a", 8, "NVIDIA H100"),
            node("b", 4, "NVIDIA A100"),
            down,
            other_pool,
            retired,
        ];
        for (nodes_wanted, gpus, kinds, never) in [
            (2, 8, &["h100"][..], None),
            (2, 8, &[][..], None),
            (1, 4, &["a100"], None),
            (3, 8, &[], Some("at most 2 in one pool")),
            (2, 4, &["a100"], Some("at most 1 in one pool")),
            (1, 64, &[], Some("the most on one node: 8")),
            (
                1,
                1,
                &["b200"],
                Some("no such GPU, only NVIDIA A100, NVIDIA H100"),
            ),
            (3, 0, &[], None),
            (4, 0, &[], Some("the largest pool of this cluster has 3")),
        ] {
            let found = never_fits(&request(nodes_wanted, gpus, kinds), &inventory(&nodes));
            match (never, &found) {
                (None, None) => {}
                (Some(part), Some(found)) if found.why.contains(part) => {}
                _ => panic!("{nodes_wanted} x {gpus} {kinds:?}: {found:?}"),
            }
        }
        assert_eq!(
            never_fits(&request(9, 9, &[]), &inventory(&[])),
            None,
            "an empty inventory says nothing"
        );
    }
}
