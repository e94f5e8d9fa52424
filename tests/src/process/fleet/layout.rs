//! The files of a fleet: authority, certificates, one configuration for each daemon, a context for the user.
//! Does NOT start anything.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};

use mlctl_runtime::config::{ContextFile, write_private};
use mlctl_runtime::identity::Ca;

use super::driver::DRIVER;
use crate::process::binary;
use crate::process::disk::Disk;
use crate::process::netns::Net;

/// What a fleet consists of.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Nodes, each with an agent and a launcher.
    pub nodes: usize,
    /// Simulated GPUs of each node.
    pub gpus: u32,
    /// GPUs of each node that a driver shows, instead of simulated ones; 0: no driver.
    pub driver_gpus: u32,
    /// Each daemon's machine is a network namespace; else all is on loopback.
    pub hosts: bool,
    /// Each coordinator's data is on a disk of its own with so many MiB, whose power can be cut.
    pub disk_mib: Option<u64>,
    /// Silence after which a node is Unreachable, and others are asked for it, milliseconds.
    pub node_timeout_ms: u32,
    /// Silence after which a node is Lost, milliseconds.
    pub lost_after_ms: u32,
    /// When a fence ends ranks, and how long they have after that, milliseconds.
    pub fence_ms: (u32, u32),
    /// A library that the coordinators load before all others.
    pub preload: Option<PathBuf>,
    /// Jobs that are over and stay in the coordinators' memory.
    pub keep_finished: u32,
    /// More lines of each agent's configuration.
    pub agent_toml: String,
}

impl Default for Plan {
    /// Two nodes without GPUs on loopback that are hardly ever taken for lost.
    fn default() -> Self {
        Self {
            nodes: 2,
            gpus: 0,
            driver_gpus: 0,
            hosts: false,
            disk_mib: None,
            node_timeout_ms: 3_000,
            lost_after_ms: 120_000,
            fence_ms: (2_400, 300),
            preload: None,
            keep_finished: 1_000,
            agent_toml: String::new(),
        }
    }
}

/// A coordinator of the fleet.
#[derive(Debug, Clone)]
pub struct Member {
    /// c1, c2, c3.
    pub name: String,
    /// Its first Raft id.
    pub id: u64,
    /// host:port.
    pub address: String,
}

/// What was laid out.
#[derive(Debug)]
pub(super) struct Layout {
    pub(super) root: PathBuf,
    pub(super) net: Option<Net>,
    pub(super) disks: Vec<Disk>,
    pub(super) members: Vec<Member>,
    pub(super) nodes: Vec<String>,
    pub(super) context: ContextFile,
    pub(super) preload: Option<PathBuf>,
}

/// Lays out a fleet in `root`, an empty directory.
///
/// # Panics
/// When the system refuses.
pub(super) fn lay_out(root: &Path, plan: &Plan) -> Layout {
    let names = ["c1", "c2", "c3"];
    let nodes: Vec<String> = (1..=plan.nodes)
        .map(|number| format!("n{number}"))
        .collect();
    let hosts: Vec<&str> = (names.into_iter())
        .chain(nodes.iter().map(String::as_str))
        .collect();
    let net = plan.hosts.then(|| Net::new(&hosts));
    let mut ports = free_ports(names.len()).into_iter();
    let members: Vec<Member> = names
        .into_iter()
        .zip(1..)
        .map(|(name, number)| Member {
            name: name.to_owned(),
            // TOML knows signed integers only.
            id: u64::from(rand::random::<u32>()) << 16 | number,
            address: match &net {
                Some(net) => format!("{}:7070", net.address(name)),
                None => format!("127.0.0.1:{}", ports.next().unwrap_or(0)),
            },
        })
        .collect();
    let made = fs::create_dir_all(root.join("logs"));
    made.unwrap_or_else(|error| panic!("{}: {error}", root.display()));
    let disks = plan.disk_mib.map_or(Vec::new(), |mib| {
        let of = |member: &Member| Disk::new(&root.join(&member.name).join("disk"), mib);
        members.iter().map(of).collect()
    });
    let context = certify(root, &members, &nodes);
    for member in &members {
        coordinator(root, plan, &members, member);
    }
    for (number, node) in nodes.iter().enumerate() {
        let address = match &net {
            Some(net) => net.address(node),
            None => format!("127.0.0.{}", number + 11),
        };
        agent(root, plan, &members, node, &address);
    }
    Layout {
        root: root.to_owned(),
        net,
        disks,
        members,
        nodes,
        context,
        preload: plan.preload.clone(),
    }
}

/// An authority, everybody's certificates, and the context of an admin.
fn certify(root: &Path, members: &[Member], nodes: &[String]) -> ContextFile {
    let ca = Ca::create(&root.join("ca"), "fleet").expect("an authority in an empty directory");
    for member in members {
        let bundle = ca.issue_coordinator(&member.name);
        bundle
            .and_then(|bundle| bundle.write(&root.join(&member.name).join("identity")))
            .expect("a coordinator's certificate");
    }
    for node in nodes {
        let bundle = ca.issue_node(node);
        bundle
            .and_then(|bundle| bundle.write(&root.join(node).join("identity")))
            .expect("a node's certificate");
    }
    let user = ca.issue_user("tester", true).expect("a user's certificate");
    let addresses = members
        .iter()
        .map(|member| member.address.clone())
        .collect();
    let context = ContextFile::new("tester", addresses, &user);
    context
        .write(&root.join("context.toml"))
        .expect("a context file");
    context
}

fn coordinator(root: &Path, plan: &Plan, members: &[Member], own: &Member) {
    let home = root.join(&own.name);
    // Timers as in a dev cluster but for those that give up on a node.
    let mut text = format!(
        "name = {:?}\ndata_dir = {:?}\nidentity = {:?}\nlisten = {:?}\ncluster_name = \"fleet\"\ndev = true\n\
         [timers]\nnode_timeout_ms = {}\nlost_after_ms = {}\nfence_after_ms = {}\nkill_grace_ms = {}\n[history]\nkeep_finished = {}\nsegment_bytes = 8192\n",
        own.name,
        home.join("disk/data"),
        home.join("identity"),
        own.address,
        plan.node_timeout_ms,
        plan.lost_after_ms,
        plan.fence_ms.0,
        plan.fence_ms.1,
        plan.keep_finished
    );
    for member in members {
        text += &format!(
            "[[members]]\nname = {:?}\nid = {}\naddress = {:?}\n",
            member.name, member.id, member.address
        );
    }
    write(&home.join("coordinator.toml"), &text);
}

fn agent(root: &Path, plan: &Plan, members: &[Member], name: &str, address: &str) {
    let home = root.join(name);
    let coordinators: Vec<&str> = members.iter().map(|one| one.address.as_str()).collect();
    write(&home.join("boot_id"), &format!("{name}-1\n"));
    let text = format!(
        "name = {name:?}\ndata_dir = {:?}\nidentity = {:?}\ncoordinators = {coordinators:?}\nrank_address = {address:?}\nboot_id_file = {:?}\nsimulated_gpus = {}\n{}",
        home.join("data"),
        home.join("identity"),
        home.join("boot_id"),
        plan.gpus,
        plan.agent_toml
    );
    let driver = match plan.driver_gpus {
        0 => String::new(),
        gpus => {
            write(&home.join(DRIVER), &format!("gpus {gpus}\n"));
            let library = binary::fake_driver().unwrap_or_else(|why| panic!("{why}"));
            format!("nvml_path = {library:?}\n")
        }
    };
    write(&home.join("agent.toml"), &(text + &driver));
}

fn write(path: &Path, text: &str) {
    write_private(path, text.as_bytes()).unwrap_or_else(|error| panic!("{error}"));
}

/// Ports on loopback that are free now.
fn free_ports(count: usize) -> Vec<u16> {
    let listeners: Vec<TcpListener> = (0..count)
        .map(|_| TcpListener::bind("127.0.0.1:0").expect("a port on loopback"))
        .collect();
    let port = |one: &TcpListener| one.local_addr().expect("it is bound").port();
    listeners.iter().map(port).collect()
}
