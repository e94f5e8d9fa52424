//! What a spec asks for, in the scheduler's words: one task of an array, or the whole gang. Does NOT ask whether anything fits, nor whose it is.
use mlctl_proto::spec::{self, Elastic, JobSpec};

use crate::state::view::amounts::{Amounts, GPU};
use crate::state::view::ask::{Ask, Gpus, Kind, Near, Prefer, Width};
use crate::state::view::jobs::Class;

/// Thousandths of a processor in one.
const MILLI: u64 = 1_000;
/// Thousandths of a GPU in one.
const THOUSANDTHS: u64 = 1_000;
/// Levels of [`crate::state::view::nodes::NodeView::racks`], the outermost first.
const BLOCK: u8 = 0;
const RACK: u8 = 1;

impl Ask {
    /// What a checked spec asks for.
    pub fn of(spec: &JobSpec) -> Self {
        let labels = spec.node_labels.iter();
        let licenses = spec.licenses.iter();
        Self {
            nodes: width(spec),
            gpus: gpus(spec),
            ranks: spec.ranks_per_node(),
            amounts: amounts(spec),
            kinds: kinds(spec),
            pools: spec.pools.clone(),
            mix: spec.mix,
            near: match spec.near {
                None => Near::Prefer,
                Some(spec::Near::Rack) => Near::Within(RACK),
                Some(spec::Near::Block) => Near::Within(BLOCK),
            },
            prefer: match spec.prefer {
                spec::Prefer::Type => Prefer::Type,
                spec::Prefer::Nominal => Prefer::Nominal,
            },
            licenses: licenses
                .map(|(name, count)| (name.clone(), *count))
                .collect(),
            labels: labels
                .map(|(label, value)| (label.clone(), value.clone()))
                .collect(),
        }
    }
}

impl From<spec::Class> for Class {
    fn from(class: spec::Class) -> Self {
        match class {
            spec::Class::Low => Self::Low,
            spec::Class::Normal => Self::Normal,
            spec::Class::High => Self::High,
            spec::Class::Critical => Self::Critical,
        }
    }
}

impl From<Class> for spec::Class {
    fn from(class: Class) -> Self {
        match class {
            Class::Low => Self::Low,
            Class::Normal => Self::Normal,
            Class::High => Self::High,
            Class::Critical => Self::Critical,
        }
    }
}

fn width(spec: &JobSpec) -> Width {
    let sizes = spec.elastic.as_ref().map(Elastic::sizes);
    match sizes.filter(|sizes| sizes.len() > 1) {
        Some(sizes) => Width::Elastic(sizes),
        None => Width::Exactly(spec.nodes),
    }
}

fn gpus(spec: &JobSpec) -> Gpus {
    if let Some(mig) = spec.mig {
        return Gpus::Mig {
            count: mig.count,
            slices: mig.slices,
        };
    }
    match (spec.share, spec.gpus) {
        (Some(share), _) => {
            let units = u64::from(share.thousandths()) * GPU / THOUSANDTHS;
            Gpus::Share(u32::try_from(units).unwrap_or(u32::MAX))
        }
        (None, 0) => Gpus::None,
        (None, count) => Gpus::Whole(count),
    }
}

/// Each type once, where it is first named: a second mention says nothing.
fn kinds(spec: &JobSpec) -> Vec<Kind> {
    let mut kinds = Vec::new();
    for kind in spec.kinds() {
        let kind = Kind {
            name: kind.name,
            memory: kind.memory,
        };
        if !kinds.contains(&kind) {
            kinds.push(kind);
        }
    }
    kinds
}

/// What its ranks take together on one node; `None`: the spec says nothing of it. Shared memory is memory: it is part of `mem` where there is one.
fn amounts(spec: &JobSpec) -> Option<Amounts> {
    let ranks = spec.ranks_per_node();
    let memory = spec.mem.or(spec.shm);
    let no_gpus = gpus(spec) == Gpus::None;
    if !no_gpus && spec.cpus.is_none() && memory.is_none() && spec.disk.is_none() {
        return None;
    }
    // What asks for neither shares the processors with its like.
    let sharing = if no_gpus && spec.cpus.is_none() {
        ranks
    } else {
        0
    };
    let cpus = u64::from(spec.cpus.unwrap_or(0)).saturating_mul(u64::from(ranks));
    Some(Amounts {
        cpu_milli: cpus.saturating_mul(MILLI),
        memory: memory.map_or(0, |memory| memory.times(ranks)),
        disk: spec.disk.map_or(0, |disk| disk.times(ranks)),
        ranks: sharing.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use mlctl_proto::spec::parse_toml;

    fn ask(lines: &str) -> Ask {
        Ask::of(&parse_toml(&format!("command = ['a']\n{lines}")).expect("good"))
    }

    #[test]
    fn a_bare_command_asks_for_one_rank_and_nothing_else() {
        let bare = ask("");
        let want = Ask {
            nodes: Width::Exactly(1),
            gpus: Gpus::None,
            ranks: 1,
            amounts: Some(Amounts {
                ranks: 1,
                ..Amounts::NONE
            }),
            kinds: Vec::new(),
            pools: Vec::new(),
            mix: false,
            near: Near::Prefer,
            prefer: Prefer::Type,
            licenses: Vec::new(),
            labels: Vec::new(),
        };
        assert_eq!(bare, want);
        assert_eq!((bare.units(1), bare.is_wide()), (0, false));
    }

    #[test]
    fn gpus_are_whole_ones_a_share_or_instances() {
        for (lines, gpus, units) in [
            ("gpus = 8", Gpus::Whole(8), 56_000),
            ("gpus = 0.5", Gpus::Share(3_500), 3_500),
            ("gpus = 0.001", Gpus::Share(7), 7),
            ("gpus = 0.333", Gpus::Share(2_331), 2_331),
            (
                "mig = { count = 1, slices = 3 }",
                Gpus::Mig {
                    count: 1,
                    slices: 3,
                },
                3_000,
            ),
            (
                "ranks = 2\nmig = { count = 2, slices = 7 }",
                Gpus::Mig {
                    count: 2,
                    slices: 7,
                },
                14_000,
            ),
        ] {
            let ask = ask(lines);
            assert_eq!((ask.gpus, ask.units(1)), (gpus, units), "{lines}");
        }
    }

    #[test]
    fn a_gang_has_one_size_or_several() {
        assert_eq!(ask("nodes = 4").nodes, Width::Exactly(4));
        assert_eq!(ask("nodes = '2..4'").nodes, Width::Elastic(vec![2, 3, 4]));
        let listed = ask("nodes = [2, 8]").nodes;
        assert_eq!((listed.least(), listed.most()), (2, 8));
        assert_eq!(ask("nodes = '1..4096'").nodes.most(), 4_096);
    }

    #[test]
    fn amounts_are_those_of_all_ranks_of_a_node() {
        let all = ask("ranks = 4\ncpus = 2\nmem = '1GiB'\nshm = '1MiB'\ndisk = '10GiB'");
        let want = Amounts {
            cpu_milli: 8_000,
            memory: 4 << 30,
            disk: 40 << 30,
            ranks: 0,
        };
        assert_eq!(all.amounts, Some(want));
        let shm = ask("ranks = 2\nshm = '1GiB'").amounts;
        assert_eq!(
            shm.map(|one| one.memory),
            Some(2 << 30),
            "shared memory is memory"
        );
        let largest = ask("ranks = 1024\ncpus = 4\nmem = '64GiB'\ndisk = '1TiB'").amounts;
        assert_eq!(
            largest.map(|one| (one.cpu_milli, one.disk)),
            Some((4_096_000, 1 << 50))
        );
    }

    #[test]
    fn places_keep_their_order_and_names_are_sorted() {
        let ask = ask(
            "nodes = 2\ngpus = 1\ngpu = ['H100', 'A100:80GB', 'h100']\npools = ['b', 'a']\nmix = true\nnear = 'rack'\nprefer = 'nominal'\n\
             licenses = { z = 1, a = 2 }\nnode_labels = { z = '1', a = '2' }",
        );
        let kind = |name: &str, memory| Kind {
            name: name.into(),
            memory,
        };
        assert_eq!(ask.kinds, [kind("h100", 0), kind("a100", 80_000_000_000)]);
        assert_eq!(ask.pools, ["b", "a"]);
        assert_eq!(
            (ask.mix, ask.near, ask.prefer),
            (true, Near::Within(1), Prefer::Nominal)
        );
        assert_eq!(ask.licenses, [("a".to_owned(), 2), ("z".to_owned(), 1)]);
        assert_eq!(ask.labels[0], ("a".to_owned(), "2".to_owned()));
        assert_eq!(self::ask("nodes = 2\nnear = 'block'").near, Near::Within(0));
    }

    #[test]
    fn a_class_keeps_its_rank() {
        let words = spec::Class::ALL.map(|(class, _)| Class::from(class));
        assert_eq!(words, Class::ALL);
        assert_eq!(Class::from(spec::Class::default()), Class::default());
    }
}
