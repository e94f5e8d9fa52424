//! What the placement is compared with in the inflation experiment: random, best fit, the fullest node first, and the published FGD, which here knows all
//! jobs that may come. Written for nodes and jobs as the experiment has them. Does NOT serve a cluster.
use std::collections::HashMap;
use std::sync::Arc;

use mlctl_coordinator::state::view::amounts::GPU;
use mlctl_coordinator::state::view::ask::{Ask, Gpus};
use mlctl_coordinator::state::view::nodes::NodeView;

use super::inflation::Draws;

/// Which one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Baseline {
    /// Any node with room.
    Random,
    /// The node where processors, memory and GPUs together are left least, each as a part of the largest node's.
    BestFit,
    /// The node with the fewest free GPUs.
    Packing,
    /// Fragmentation gradient descent with all jobs of the list as its typical ones; among equals the node with the fewest free GPUs.
    Fgd,
}

/// A class of equal jobs.
struct Class {
    cpu: u64,
    memory: u64,
    /// Units on each of `devices`.
    units: u64,
    devices: usize,
    /// By model.
    allowed: Vec<bool>,
    /// Part of all jobs.
    share: f64,
}

#[derive(Clone)]
struct Node {
    model: usize,
    cpu: u64,
    memory: u64,
    free: Vec<u64>,
}

impl Node {
    fn gpus(&self) -> u64 {
        self.free.iter().sum()
    }

    fn fits(&self, class: &Class) -> bool {
        self.admits(class)
            && self
                .free
                .iter()
                .filter(|free| **free >= class.units)
                .count()
                >= class.devices
    }

    fn admits(&self, class: &Class) -> bool {
        self.cpu >= class.cpu
            && self.memory >= class.memory
            && (class.devices == 0 || class.allowed.get(self.model) == Some(&true))
    }

    fn after(&self, class: &Class, devices: &[usize]) -> Self {
        let mut node = self.clone();
        node.cpu -= class.cpu;
        node.memory -= class.memory;
        for at in devices {
            node.free[*at] -= class.units;
        }
        node
    }
}

/// One of them at work.
pub struct Baselines {
    which: Baseline,
    nodes: Vec<Node>,
    classes: Vec<Class>,
    class_of: Vec<usize>,
    draws: Draws,
    largest: (f64, f64, f64),
    /// How often a node changed.
    versions: Vec<u32>,
    /// By class and node: the version that a score is of, the score, and the device.
    scores: Vec<Vec<(u32, f64, usize)>>,
}

impl Baselines {
    /// Of an empty cluster.
    pub fn new(nodes: &[NodeView], jobs: &[Arc<Ask>], which: Baseline, seed: u64) -> Self {
        let mut models: Vec<&str> = Vec::new();
        let nodes: Vec<Node> = (nodes.iter())
            .map(|node| {
                let name = node.devices.first().map_or("", |device| &*device.model);
                let model = models
                    .iter()
                    .position(|one| *one == name)
                    .unwrap_or_else(|| {
                        models.push(name);
                        models.len() - 1
                    });
                Node {
                    model,
                    cpu: node.free.cpu_milli,
                    memory: node.free.memory,
                    free: node
                        .devices
                        .iter()
                        .map(|device| u64::from(device.free))
                        .collect(),
                }
            })
            .collect();
        let mut known: HashMap<&Ask, usize> = HashMap::new();
        let mut classes: Vec<Class> = Vec::new();
        let class_of = (jobs.iter())
            .map(|job| {
                let at = *known.entry(job).or_insert_with(|| {
                    classes.push(class(job, &models));
                    classes.len() - 1
                });
                classes[at].share += 1.0 / jobs.len() as f64;
                at
            })
            .collect();
        let most = |of: fn(&Node) -> u64| nodes.iter().map(of).max().unwrap_or(1).max(1) as f64;
        Self {
            which,
            largest: (
                most(|node| node.cpu),
                most(|node| node.memory),
                most(Node::gpus),
            ),
            versions: vec![1; nodes.len()],
            scores: classes
                .iter()
                .map(|_| vec![(0, 0.0, 0); nodes.len()])
                .collect(),
            nodes,
            classes,
            class_of,
            // Another stream than the one that draws jobs.
            draws: Draws::new(seed ^ 0x5eed_5eed),
        }
    }

    /// Places job `at` of the list, if it fits anywhere.
    pub fn arrive(&mut self, at: usize) -> bool {
        let of = self.class_of[at];
        let mut best: Option<(f64, usize, usize)> = None;
        let mut fitting = 0;
        for place in 0..self.nodes.len() {
            if !self.nodes[place].fits(&self.classes[of]) {
                continue;
            }
            fitting += 1;
            let (score, device) = self.score(of, place, fitting);
            if best.is_none_or(|(least, ..)| score < least - 1e-12) {
                best = Some((score, place, device));
            }
        }
        let Some((_, place, device)) = best else {
            return false;
        };
        let class = &self.classes[of];
        let node = &self.nodes[place];
        let devices = if class.devices > 1 || device >= node.free.len() {
            first_fitting(node, class)
        } else {
            vec![device]
        };
        self.nodes[place] = node.after(class, &devices);
        self.versions[place] += 1;
        true
    }

    /// Less is better, and the device of one that takes one device.
    fn score(&mut self, of: usize, place: usize, fitting: usize) -> (f64, usize) {
        let (class, node) = (&self.classes[of], &self.nodes[place]);
        let tightest = (0..node.free.len())
            .filter(|at| node.free[*at] >= class.units)
            .min_by_key(|at| node.free[*at])
            .unwrap_or(usize::MAX);
        match self.which {
            // Each of n fitting nodes remains the choice with one part in n.
            Baseline::Random => match self.draws.below(fitting) {
                Some(0) => (-(fitting as f64), tightest),
                _ => (f64::MAX, tightest),
            },
            Baseline::BestFit => {
                let left = node.after(class, &first_fitting(node, class));
                let (cpu, memory, gpus) = self.largest;
                let sum =
                    left.cpu as f64 / cpu + left.memory as f64 / memory + left.gpus() as f64 / gpus;
                (sum, tightest)
            }
            Baseline::Packing => (node.gpus() as f64, tightest),
            Baseline::Fgd => self.gradient(of, place),
        }
    }

    fn gradient(&mut self, of: usize, place: usize) -> (f64, usize) {
        let known = self.scores[of][place];
        if known.0 == self.versions[place] {
            return (known.1, known.2);
        }
        let (class, node) = (&self.classes[of], &self.nodes[place]);
        let before = self.fragments(node);
        let mut best = (f64::MAX, usize::MAX);
        let mut tried: Vec<u64> = Vec::new();
        let single = class.devices == 1;
        let devices = if single { 0..node.free.len() } else { 0..1 };
        for at in devices {
            if single && (node.free[at] < class.units || tried.contains(&node.free[at])) {
                continue;
            }
            let given = if single {
                vec![at]
            } else {
                first_fitting(node, class)
            };
            if single {
                tried.push(node.free[at]);
            }
            let grown = self.fragments(&node.after(class, &given)) - before;
            // Far below any difference that counts: only ties are decided by it.
            let score = grown + node.gpus() as f64 * 1e-7;
            if score < best.0 - 1e-12 {
                best = (score, if single { at } else { usize::MAX });
            }
        }
        self.scores[of][place] = (self.versions[place], best.0, best.1);
        best
    }

    /// The expected GPUs that a typical job could not use, units.
    fn fragments(&self, node: &Node) -> f64 {
        let all = node.gpus();
        if all == 0 {
            return 0.0;
        }
        let lost = |class: &Class| {
            if class.devices == 0 || !node.fits(class) {
                return all;
            }
            node.free.iter().filter(|free| **free < class.units).sum()
        };
        self.classes
            .iter()
            .map(|class| class.share * lost(class) as f64)
            .sum()
    }
}

fn class(job: &Ask, models: &[&str]) -> Class {
    let (units, devices) = match job.gpus {
        Gpus::None => (0, 0),
        Gpus::Whole(count) => (GPU, count as usize),
        Gpus::Share(units) => (u64::from(units), 1),
        Gpus::Mig { count, slices } => (u64::from(slices) * (GPU / 7), count as usize),
    };
    let amounts = job.amounts.unwrap_or_default();
    let allowed = |model: &&str| {
        job.kinds.is_empty() || job.kinds.iter().any(|kind| model.contains(&kind.name))
    };
    Class {
        cpu: amounts.cpu_milli,
        memory: amounts.memory,
        units,
        devices,
        allowed: models.iter().map(allowed).collect(),
        share: 0.0,
    }
}

/// The tightest device for a part of one, the first ones for whole devices.
fn first_fitting(node: &Node, class: &Class) -> Vec<usize> {
    let mut order: Vec<usize> = (0..node.free.len())
        .filter(|at| node.free[*at] >= class.units)
        .collect();
    order.sort_by_key(|at| node.free[*at]);
    order.truncate(class.devices);
    order
}
