//! Why a pending job waits: a closed set of words, each with its numbers. The same predicates that placed, or did not.
use std::fmt;

use mlctl_proto::spec::OnDisconnect;
use mlctl_proto::units::UtcMs;

use super::engine::Why;
use super::shape::{Domain, Shape, need};
use super::turn::NoTurn;
use crate::state::rules::{Request, fits_kind, kinds_text, never_fits};
use crate::state::view::{Admin, ClusterView, Device, HoldReason, Job, Liveness, Node};

/// Names of nodes that one reason lists.
const NAMES_MAX: usize = 8;

/// One reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// The inventory has shrunk: no set of its nodes could run it, healthy or not.
    NeverFits {
        /// With the numbers.
        why: String,
    },
    /// No node has a GPU of a type that it takes.
    GpuTypeMissing {
        /// What it takes.
        wanted: String,
        /// The models there are.
        present: Vec<String>,
    },
    /// Jobs before it in the queue start now and take what it needs.
    JobsAhead {
        /// How many start before it.
        jobs: usize,
    },
    /// Fewer GPUs are free than it needs in all.
    InsufficientGpus {
        /// In all.
        wanted: u64,
        /// Of the types that it takes, on nodes that take work.
        free: u64,
    },
    /// Enough GPUs are free, but not on enough nodes of one pool and model.
    Fragmented {
        /// Nodes it needs.
        nodes: u32,
        /// GPUs on each.
        gpus: u32,
        /// Nodes that have so many free.
        with_room: u32,
        /// GPUs that are free in all.
        free: u64,
    },
    /// Devices that it could take are still in use although no job holds them.
    Cleaning {
        /// How many.
        devices: u64,
        /// On some of these nodes.
        nodes: Vec<String>,
        /// What is on the first of them.
        why: String,
    },
    /// Too few nodes have room for its ranks.
    CpuOrMemory {
        /// Nodes it needs.
        nodes: u32,
        /// Ranks on each.
        ranks: u32,
        /// Nodes that have room for so many.
        with_room: u32,
    },
    /// Nodes that could help are silent, lost, unhealthy or off.
    NodeUnhealthy {
        /// Some of them.
        nodes: Vec<String>,
        /// The checkpoint that they hold, if the job waits for that.
        holds: Option<String>,
    },
    /// Nodes that could help take no new work because an admin said so.
    NodeDrained {
        /// Some of them.
        nodes: Vec<String>,
        /// The checkpoint that they hold, if the job waits for that.
        holds: Option<String>,
    },
    /// The nodes that hold its checkpoint are full.
    HolderFull {
        /// The checkpoint.
        checkpoint: String,
        /// The nodes.
        nodes: Vec<String>,
        /// GPUs that it needs on one of them, 0: room for ranks.
        gpus: u32,
    },
    /// It failed before and waits before it starts again.
    RetryBackoff {
        /// How often it had started again before.
        failures: u32,
        /// What is left of the wait, milliseconds.
        left_ms: u64,
    },
    /// It would fit, but for nodes that failed it.
    ExcludedNodes {
        /// Some of them.
        nodes: Vec<String>,
    },
    /// It is held: nodes, agents or devices went down under it.
    SuspectedPoison {
        /// Nodes and agents.
        losses: u32,
        /// Where it last did.
        nodes: Vec<String>,
    },
    /// Its last attempt is still being ended.
    AttemptEnds,
    /// Nodes of its attempt are silent, and it wants no other attempt before that one is surely dead.
    NodeSilent {
        /// Which.
        nodes: Vec<String>,
        /// What it wants.
        policy: OnDisconnect,
    },
    /// A node that is there has not yet delivered word of a checkpoint of its last attempt.
    Salvage,
    /// It is not its turn, whatever is free.
    NoTurn(NoTurn),
    /// A quota, a promise to another job, or whatever else the engine says with its own numbers.
    Rule(Why),
}

impl Reason {
    /// The stable word of the closed set. A full holder is a lack of what it lacks.
    pub fn word(&self) -> &'static str {
        match self {
            Self::NeverFits { .. } => "NeverFits",
            Self::GpuTypeMissing { .. } => "GpuTypeMissing",
            Self::JobsAhead { .. } => "JobsAhead",
            Self::InsufficientGpus { .. } => "InsufficientGpus",
            Self::Fragmented { .. } => "Fragmented",
            Self::Cleaning { .. } => "Cleaning",
            Self::CpuOrMemory { .. } | Self::HolderFull { gpus: 0, .. } => "CpuOrMemory",
            Self::NodeUnhealthy { .. } => "NodeUnhealthy",
            Self::NodeDrained { .. } => "NodeDrained",
            Self::HolderFull { .. } => "InsufficientGpus",
            Self::RetryBackoff { .. } => "RetryBackoff",
            Self::ExcludedNodes { .. } => "ExcludedNodes",
            Self::SuspectedPoison { .. } => "SuspectedPoison",
            Self::AttemptEnds => "AttemptEnds",
            Self::NodeSilent { .. } => "NodeSilent",
            Self::Salvage => "Salvage",
            Self::NoTurn(why) => why.word(),
            Self::Rule(why) => why.word(),
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RetryBackoff { .. }
            | Self::ExcludedNodes { .. }
            | Self::SuspectedPoison { .. } => failed_before(self, f),
            Self::AttemptEnds => f.write_str("its last attempt is still being ended"),
            Self::Salvage => f.write_str("it waits for a checkpoint of its last attempt"),
            Self::NoTurn(why) => why.fmt(f),
            Self::Rule(why) => why.fmt(f),
            Self::NodeSilent { nodes, policy } => f.write_str(&silent(nodes, *policy)),
            Self::NeverFits { why } => f.write_str(why),
            Self::GpuTypeMissing { wanted, present } if present.is_empty() => {
                write!(f, "it asks for {wanted}, but no node has a GPU")
            }
            Self::GpuTypeMissing { wanted, present } => write!(
                f,
                "it asks for {wanted}; there are only {}",
                present.join(", ")
            ),
            Self::JobsAhead { jobs: 1 } => f.write_str("1 job before it takes what it needs"),
            Self::JobsAhead { jobs } => write!(f, "{jobs} jobs before it take what it needs"),
            Self::InsufficientGpus { wanted, free } => {
                write!(f, "{} needed, {free} free", many(*wanted, "GPU"))
            }
            Self::Fragmented {
                nodes,
                gpus,
                with_room,
                free,
            } => {
                let (free, nodes) = (many(*free, "GPU"), many(*nodes, "node"));
                write!(
                    f,
                    "{free} free, but {nodes} with {gpus} of one model each needed, {with_room} free"
                )
            }
            Self::Cleaning {
                devices,
                nodes,
                why,
            } => f.write_str(&cleaning(*devices, nodes, why)),
            Self::CpuOrMemory {
                nodes,
                ranks,
                with_room,
            } => {
                let each = if *nodes == 1 { "" } else { " each" };
                let (nodes, ranks) = (many(*nodes, "node"), many(*ranks, "rank"));
                write!(
                    f,
                    "{nodes} with room for {ranks}{each} needed, {with_room} free"
                )
            }
            Self::NodeUnhealthy { nodes, holds } => out_of_it(f, "not available", nodes, holds),
            Self::NodeDrained { nodes, holds } => {
                out_of_it(f, "closed to new work by an admin", nodes, holds)
            }
            Self::HolderFull {
                checkpoint, nodes, ..
            } => {
                write!(
                    f,
                    "the checkpoint {checkpoint} is on {}, and there is no room",
                    nodes.join(", ")
                )
            }
        }
    }
}

fn cleaning(devices: u64, nodes: &[String], why: &str) -> String {
    let are = if devices == 1 { "is" } else { "are" };
    let (gpus, nodes) = (many(devices, "GPU"), nodes.join(", "));
    format!("{gpus} on {nodes} {are} still in use by what is no job's: {why}")
}

fn silent(nodes: &[String], policy: OnDisconnect) -> String {
    let then = match policy {
        OnDisconnect::Hold => format!(
            "it goes on when the node is back; if the node is gone for good: mlctl node declare-lost {}",
            nodes.first().map_or("", String::as_str)
        ),
        _ => "its keeper ends it there, and then it starts again".to_owned(),
    };
    let (names, word) = (nodes.join(", "), policy.word());
    format!("{names} is silent and may still run it; on_disconnect = \"{word}\": {then}")
}

impl Reason {
    /// How much longer a pending job backs off at `now_ms`, if it does.
    pub fn of_backoff(job: &Job, now_ms: UtcMs) -> Option<Self> {
        let retries = &job.retries;
        let left = retries.not_before_ms.saturating_sub(now_ms);
        let reason = || Self::RetryBackoff {
            failures: retries.requeues,
            left_ms: u64::try_from(left).unwrap_or(0),
        };
        retries.backs_off(now_ms).then(reason)
    }

    /// Why it is not the turn of a pending job at `now_ms`, if it is not.
    pub fn of_turn(job: &Job, now_ms: UtcMs) -> Option<Self> {
        NoTurn::of(job, now_ms).map(Self::NoTurn)
    }

    /// Why a job is held, if it is.
    pub fn of_hold(job: &Job) -> Option<Self> {
        if let Some(held) = NoTurn::of_hold(job) {
            return Some(Self::NoTurn(held));
        }
        let HoldReason::SuspectedPoison = job.retries.hold?;
        let excluded = job.retries.excluded.iter();
        Some(Self::SuspectedPoison {
            losses: job.retries.losses,
            nodes: excluded
                .rev()
                .take(NAMES_MAX)
                .map(|one| one.node.clone())
                .collect(),
        })
    }
}

/// What failed attempts of a job lead to.
fn failed_before(reason: &Reason, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match reason {
        Reason::RetryBackoff { failures, left_ms } => {
            let failures = many(*failures, "failure");
            let left = left_ms.div_ceil(1_000);
            write!(
                f,
                "after {failures} it starts again in {left} s; `mlctl retry` starts it now"
            )
        }
        Reason::ExcludedNodes { nodes } => write!(
            f,
            "there is room only on nodes that failed it: {}; `mlctl retry` forgets that",
            nodes.join(", ")
        ),
        Reason::SuspectedPoison { losses, nodes } => suspected(f, *losses, nodes),
        other => f.write_str(other.word()),
    }
}

fn out_of_it(
    f: &mut fmt::Formatter<'_>,
    how: &str,
    nodes: &[String],
    holds: &Option<String>,
) -> fmt::Result {
    let holds = holding(holds.as_deref());
    write!(f, "{how}: {}{holds}", nodes.join(", "))
}

fn suspected(f: &mut fmt::Formatter<'_>, losses: u32, nodes: &[String]) -> fmt::Result {
    let what = match losses {
        0 => "devices failed under it again and again".to_owned(),
        1 => "a node or agent was lost under it, and devices failed".to_owned(),
        losses => format!("{losses} times a node or its agent was lost under it"),
    };
    let place = match nodes {
        [] => String::new(),
        nodes => format!(" (last on {})", nodes.join(", ")),
    };
    write!(
        f,
        "{what}{place}: it may be the cause; look at it, then `mlctl retry` or `mlctl cancel`"
    )
}

fn holding(checkpoint: Option<&str>) -> String {
    checkpoint.map_or_else(String::new, |name| {
        format!(", and the checkpoint {name} is there")
    })
}

/// `1 node`, `2 nodes`.
fn many(count: impl Into<u64>, noun: &str) -> String {
    let count = count.into();
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

/// The inventory as it would be idle, and who is out of it.
pub(super) struct Inventory<'a> {
    view: &'a ClusterView,
    /// Nodes that take work.
    usable: Shape<'a>,
    /// The same without devices that are dirty.
    clean: Shape<'a>,
    /// All of them, whatever their state.
    all: Shape<'a>,
    /// Nodes that take work and have such devices.
    dirty: Vec<&'a Node>,
    unhealthy: Vec<&'a Node>,
    closed: Vec<&'a Node>,
}

impl<'a> Inventory<'a> {
    pub fn new(view: &'a ClusterView) -> Self {
        let mut inventory = Self {
            view,
            usable: Shape::default(),
            clean: Shape::default(),
            all: Shape::default(),
            dirty: Vec::new(),
            unhealthy: Vec::new(),
            closed: Vec::new(),
        };
        for node in view.state.nodes() {
            let usable = view.usable(node);
            for (domain, count) in idle(node) {
                inventory.all.add(domain, count);
                if usable {
                    let dirty = dirt(node).filter(|one| one.model == domain.model).count();
                    inventory.usable.add(domain, count);
                    inventory
                        .clean
                        .add(domain, count.saturating_sub(dirty as u32));
                }
            }
            if usable && !node.dirty.is_empty() {
                inventory.dirty.push(node);
            }
            if !usable {
                let list = if unhealthy(view, node) {
                    &mut inventory.unhealthy
                } else {
                    &mut inventory.closed
                };
                list.push(node);
            }
        }
        inventory
    }

    /// Every reason why `request` does not start, the leading one first. `free`: what was free before this plan; `ahead`: jobs
    /// that this plan starts before.
    pub fn why_not(&self, request: &Request, free: &Shape, ahead: usize) -> Vec<Reason> {
        if free.fits(request) {
            return vec![Reason::JobsAhead { jobs: ahead }];
        }
        if let Some(reason) = self.never(request) {
            return vec![reason];
        }
        let mut reasons = Vec::new();
        let with_room = free.nodes_with_room(request);
        let (wanted, total) = (request.gpus_in_all(), free.total(request));
        reasons.push(match request.gpus {
            0 => Reason::CpuOrMemory {
                nodes: request.nodes,
                ranks: request.ranks,
                with_room,
            },
            _ if total < wanted => Reason::InsufficientGpus {
                wanted,
                free: total,
            },
            gpus => Reason::Fragmented {
                nodes: request.nodes,
                gpus,
                with_room,
                free: total,
            },
        });
        let out = [(&self.unhealthy, true), (&self.closed, false)]
            .into_iter()
            .filter_map(|(nodes, unhealthy)| {
                let nodes = names(nodes, request);
                (!nodes.is_empty()).then_some(match unhealthy {
                    true => Reason::NodeUnhealthy { nodes, holds: None },
                    false => Reason::NodeDrained { nodes, holds: None },
                })
            });
        reasons.extend(out);
        if let Some(reason) = self.cleaning(request) {
            // If it would fit on an idle cluster but for them, they lead.
            let alone = self.usable.fits(request) && !self.clean.fits(request);
            reasons.insert(if alone { 0 } else { reasons.len() }, reason);
        }
        // If even an idle cluster of what takes work were too small, what is out leads.
        if !self.usable.fits(request) && reasons.len() > 1 {
            reasons.rotate_left(1);
        }
        reasons
    }

    /// Devices that suit a request and are dirty.
    fn cleaning(&self, request: &Request) -> Option<Reason> {
        let suits = |device: &&Device| request.gpus > 0 && fits_kind(request, &device.model);
        let (mut devices, mut nodes, mut why) = (0, Vec::new(), None);
        for node in &self.dirty {
            let on_node = dirt(node).filter(suits);
            let found: Vec<&Device> = on_node.collect();
            let first = found.first().and_then(|device| node.dirt_on(&device.uuid));
            devices += found.len() as u64;
            nodes.extend(first.map(|_| node.facts.name.clone()));
            why = why.or(first);
        }
        nodes.truncate(NAMES_MAX);
        why.map(|why| Reason::Cleaning {
            devices,
            nodes,
            why: why.to_owned(),
        })
    }

    fn never(&self, request: &Request) -> Option<Reason> {
        if self.all.is_empty() || self.all.fits(request) {
            return None;
        }
        if request.gpus > 0 && !self.all.has_suitable(request) {
            return Some(Reason::GpuTypeMissing {
                wanted: kinds_text(request),
                present: self.all.models(),
            });
        }
        let never = never_fits(request, self.view.state.inventory());
        never.map(|never| Reason::NeverFits { why: never.why })
    }
}

/// There is room, but only on nodes that failed the job.
pub(super) fn excluded_reason(job: &Job) -> Reason {
    let excluded = job.retries.excluded.iter().rev();
    Reason::ExcludedNodes {
        nodes: excluded
            .take(NAMES_MAX)
            .map(|one| one.node.clone())
            .collect(),
    }
}

/// Why the holders of a checkpoint cannot take rank 0.
pub(super) fn holder_reason(
    view: &ClusterView,
    request: &Request,
    checkpoint: &str,
    holders: &[&str],
) -> Reason {
    let names = || {
        holders
            .iter()
            .take(NAMES_MAX)
            .map(|name| (*name).to_owned())
            .collect()
    };
    let nodes = || holders.iter().filter_map(|name| view.state.node(name));
    if nodes().any(|node| view.usable(node)) {
        return Reason::HolderFull {
            checkpoint: checkpoint.into(),
            nodes: names(),
            gpus: request.gpus,
        };
    }
    let holds = Some(checkpoint.into());
    if nodes().any(|node| !unhealthy(view, node)) {
        Reason::NodeDrained {
            nodes: names(),
            holds,
        }
    } else {
        Reason::NodeUnhealthy {
            nodes: names(),
            holds,
        }
    }
}

/// Whether a node that takes no work is out by itself, rather than by an admin's word.
fn unhealthy(view: &ClusterView, node: &Node) -> bool {
    let open = Node {
        admin: Admin::Open,
        ..Node::clone(node)
    };
    node.liveness == Liveness::Lost || !view.usable(&open)
}

/// What a node would have if it were idle.
fn idle(node: &Node) -> Vec<(Domain<'_>, u32)> {
    let pool = node.facts.pool.as_str();
    if node.admin == Admin::Retired {
        return Vec::new();
    }
    let mut found: Vec<(Domain, u32)> = vec![(Domain { pool, model: "" }, u32::MAX)];
    for device in &node.facts.devices {
        let domain = Domain {
            pool,
            model: &device.model,
        };
        match found.iter_mut().find(|(known, _)| *known == domain) {
            Some((_, count)) => *count += 1,
            None => found.push((domain, 1)),
        }
    }
    found
}

/// Devices of a node that no job may take although none holds them.
fn dirt(node: &Node) -> impl Iterator<Item = &Device> {
    let devices = node.facts.devices.iter();
    devices.filter(|device| node.dirt_on(&device.uuid).is_some())
}

/// The first few nodes that would help a request if they took work.
fn names(nodes: &[&Node], request: &Request) -> Vec<String> {
    let helps = |node: &&&Node| {
        idle(node)
            .iter()
            .any(|(domain, count)| domain.suits(request) && *count >= need(request))
    };
    nodes
        .iter()
        .filter(helps)
        .take(NAMES_MAX)
        .map(|node| node.facts.name.clone())
        .collect()
}
