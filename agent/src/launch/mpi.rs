//! MPI without ssh: the files and variables by which an `mpirun` calls our launch agent instead of ssh and finds its nodes.
//!
//! Pure. Nothing here depends on which MPI is installed: each reads its own variables and ignores those of the others. Open MPI 4 and 5
//! (`OMPI_*`, `PRTE_*`), MPICH (`HYDRA_*`) and Intel MPI (`I_MPI_*`). What a launch agent does is `keeper::shim`.
#![deny(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::float_arithmetic
)]

use core::net::Ipv4Addr;
use std::collections::BTreeSet;

use mlctl_proto::spec::LaunchMethod;
use serde::{Deserialize, Serialize};

use super::environment::{Variables, is_loopback};
use super::plan::{Member, PlannedFile, Request};

/// The launch agent in an attempt's directory.
const AGENT: &str = "mpi-agent";
/// Nodes and their ranks as Open MPI reads them.
const HOSTS_OPENMPI: &str = "mpi-hosts";
/// The same for MPICH and Intel MPI.
const HOSTS_HYDRA: &str = "mpi-hosts.hydra";

/// What a keeper needs to carry the words of launch agents.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MpiPlan {
    /// Every node of the gang by its name and by what `mpirun` calls it, in node-rank order.
    pub members: Vec<(String, String)>,
}

/// The part of the plan that launch agents need; `None` for every other method.
pub(super) fn plan(request: &Request) -> Option<MpiPlan> {
    (request.spec.launcher == LaunchMethod::Mpi).then(|| MpiPlan {
        members: hosts(request).collect(),
    })
}

/// The nodes and what `mpirun` calls them: the rank address where that is a number of its own, else a number that stands for it. Never a
/// name: Open MPI 4 looks names up, half a minute long where no name server answers, cuts domains off and refuses some letters.
fn hosts(request: &Request) -> impl Iterator<Item = (String, String)> {
    let members = &request.members;
    let address = |at: usize| members[at].rank_address.parse::<Ipv4Addr>();
    let different: BTreeSet<_> = members.iter().map(|member| &member.rank_address).collect();
    let numbers = (0..members.len()).all(|at| address(at).is_ok_and(|ip| !ip.is_loopback()));
    let real = numbers && different.len() == members.len();
    let named = move |(at, member): (usize, &Member)| {
        let host = match real {
            true => member.rank_address.clone(),
            // Of the range for measurements (RFC 2544), which no machine has for itself.
            false => format!("198.18.{}.{}", at / 256, at % 256),
        };
        (member.node.clone(), host)
    };
    members.iter().enumerate().map(named)
}

/// The words of this node's one process: `mpirun` on the first node, elsewhere a shell that waits for what `mpirun` wants run there.
pub(super) fn argv(request: &Request, command: Vec<String>) -> Vec<String> {
    if request.node_rank > 0 {
        return vec!["/bin/sh".into(), "-c".into()];
    }
    let mpi = request.spec.mpi.clone().unwrap_or_default();
    let ranks = request.spec.world_size().to_string();
    [
        vec![mpi.mpirun],
        mpi.args,
        vec!["-n".into(), ranks],
        command,
    ]
    .concat()
}

/// The launch agent and the lists of nodes.
pub(super) fn files(request: &Request) -> Vec<PlannedFile> {
    if request.spec.launcher != LaunchMethod::Mpi {
        return Vec::new();
    }
    let per_node = request.spec.ranks_per_node();
    let list = |line: &dyn Fn(&str) -> String| {
        let lines = hosts(request).map(|(_, host)| line(&host));
        lines.collect::<String>()
    };
    let agent = format!(
        "#!/bin/sh\nexec {} mpi-agent {} \"$@\"\n",
        quoted(&request.program),
        quoted(&request.attempt_dir)
    );
    [
        (AGENT, agent, true),
        (
            HOSTS_OPENMPI,
            list(&|host| format!("{host} slots={per_node}\n")),
            false,
        ),
        (
            HOSTS_HYDRA,
            list(&|host| format!("{host}:{per_node}\n")),
            false,
        ),
    ]
    .map(|(name, text, executable)| PlannedFile {
        path: at(request, name),
        text,
        executable,
    })
    .into()
}

/// What a user may set otherwise.
pub(super) fn defaults(request: &Request, address: &str, env: &mut Variables) {
    let mut set = |key: &str, value: &str| env.insert(key.to_owned(), value.to_owned());
    for key in [
        // Whether ranks may run as root was decided before: see `allow_root`.
        "OMPI_ALLOW_RUN_AS_ROOT",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM",
        "PRTE_ALLOW_RUN_AS_ROOT",
        "PRTE_ALLOW_RUN_AS_ROOT_CONFIRM",
    ] {
        set(key, "1");
    }
    // Ranks fill one node after the other, and may move between the processors that the node gives them.
    set("OMPI_MCA_rmaps_base_mapping_policy", "slot");
    set("OMPI_MCA_hwloc_base_binding_policy", "none");
    set("PRTE_MCA_rmaps_default_mapping_policy", "slot");
    set("PRTE_MCA_hwloc_default_binding_policy", "none");
    set("I_MPI_PERHOST", &request.spec.ranks_per_node().to_string());
    set("I_MPI_PIN", "0");
    let loopback = is_loopback(address);
    if loopback {
        // Nodes that share one machine share its processors: ranks that spin while they wait would keep the others from working.
        set("OMPI_MCA_mpi_yield_when_idle", "1");
        // They share its name too, and daemons of one name share files, which Open MPI is not made for.
        set("TMPDIR", &request.work_dir);
        set("OMPI_MCA_btl", "tcp,self");
        set("FI_PROVIDER", "tcp");
    }
    // Open MPI hands its settings to all nodes, where an interface may have another name: a network fits everywhere.
    let network = if loopback {
        Some("127.0.0.0/8")
    } else {
        request.network.as_deref()
    };
    if let Some(network) = network {
        set("OMPI_MCA_btl_tcp_if_include", network);
        set("OMPI_MCA_oob_tcp_if_include", network);
        if !loopback {
            // Open MPI 5 takes no loopback where there is anything else.
            set("PRTE_MCA_prte_if_include", network);
            set("PRTE_MCA_oob_tcp_if_include", network);
        }
    }
    let interface = if loopback {
        Some("lo")
    } else {
        request.interface.as_deref()
    };
    if let Some(interface) = interface {
        for key in ["HYDRA_IFACE", "I_MPI_HYDRA_IFACE", "FI_TCP_IFACE"] {
            set(key, interface);
        }
    }
}

/// What only mlctl sets: the launch agent and the lists of nodes. Hydra passes the first node's variables on to all unless it is told not to;
/// each node's daemon has its own.
pub(super) fn owned(request: &Request, env: &mut Variables) {
    let agent = at(request, AGENT);
    let (openmpi, hydra) = (at(request, HOSTS_OPENMPI), at(request, HOSTS_HYDRA));
    for (key, value) in [
        ("OMPI_MCA_plm_rsh_agent", &*agent),
        ("OMPI_MCA_orte_default_hostfile", &*openmpi),
        ("PRTE_MCA_plm_ssh_agent", &*agent),
        ("PRTE_MCA_prte_default_hostfile", &*openmpi),
        ("HYDRA_LAUNCHER", "ssh"),
        ("HYDRA_LAUNCHER_EXEC", &*agent),
        ("HYDRA_HOST_FILE", &*hydra),
        ("HYDRA_ENV", "none"),
        ("I_MPI_HYDRA_BOOTSTRAP", "ssh"),
        ("I_MPI_HYDRA_BOOTSTRAP_EXEC", &*agent),
        ("I_MPI_HYDRA_HOST_FILE", &*hydra),
        ("I_MPI_HYDRA_ENV", "none"),
    ] {
        env.insert(key.to_owned(), value.to_owned());
    }
}

fn at(request: &Request, name: &str) -> String {
    format!("{}/{name}", request.attempt_dir.trim_end_matches('/'))
}

/// A word for a POSIX shell.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}
