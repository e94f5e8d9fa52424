//! Which processors each process gets, for every launch method, as tables: two sockets with four GPUs each, and what is less than that.

use super::*;
use crate::launch::plan::tests::request;
use crate::launch::{Request, plan};
use crate::tasks::Wave;
use mlctl_proto::spec::{ArraySpec, LaunchMethod};

/// The processors of the two sockets.
const SOCKETS: [&str; 2] = ["0-27,56-83", "28-55,84-111"];

fn cpus(list: &str) -> Ranges {
    Ranges::parse(list, u32::MAX).expect("a list")
}

/// Nodes with these processors, and the GPUs 0 to 7 on these nodes; `None`: nobody knows.
fn machine(nodes: &[(u32, &str)], gpus: [Option<u32>; 8]) -> Topology {
    let devices = gpus.into_iter().enumerate();
    Topology {
        nodes: nodes
            .iter()
            .map(|(node, list)| (*node, cpus(list)))
            .collect(),
        devices: devices
            .filter_map(|(gpu, node)| Some((gpu.to_string(), node?)))
            .collect(),
    }
}

fn two_sockets() -> Topology {
    let gpus = [0, 0, 0, 0, 1, 1, 1, 1].map(Some);
    machine(&[(0, SOCKETS[0]), (1, SOCKETS[1])], gpus)
}

/// A job of one node with these GPUs of the machine.
fn job(launcher: LaunchMethod, gpus: &[u32], ranks: Option<u32>) -> Request {
    let count = u32::try_from(gpus.len()).expect("few");
    let mut request = request(launcher, 1, count, &["train.py"]);
    request.spec.ranks = ranks;
    request.members[0].devices = gpus.iter().map(u32::to_string).collect();
    request.topology = two_sockets();
    request
}

/// What each process of the plan is bound to: `0` or `1` for the processors of that socket, else the list, empty for nothing.
fn planned(request: &Request) -> Vec<String> {
    let plan = plan(request).expect("a good request");
    let sets: Vec<Ranges> = match plan.array {
        Some(array) => {
            assert!(plan.ranks[0].cpus.is_empty(), "slots have them");
            array.slots.into_iter().map(|slot| slot.cpus).collect()
        }
        None => plan.ranks.into_iter().map(|rank| rank.cpus).collect(),
    };
    let shown = |set: Ranges| match SOCKETS.iter().position(|socket| cpus(socket) == set) {
        Some(socket) => socket.to_string(),
        None => set.to_string(),
    };
    sets.into_iter().map(shown).collect()
}

#[test]
fn two_sockets_with_four_gpus_each() {
    use LaunchMethod::{Exec, Jax, Mpi, Python, Torchrun};
    let all = [0, 1, 2, 3, 4, 5, 6, 7];
    for (launcher, gpus, ranks, want) in [
        // One GPU: its socket, whatever starts the rank.
        (Exec, &[5][..], None, &["1"][..]),
        (Python, &[5], None, &["1"]),
        (Jax, &[2], None, &["0"]),
        (Torchrun, &[5], None, &["1"]),
        (Mpi, &[0], None, &["0"]),
        // Two: ranks that start by themselves have their own, what starts ranks below it has those of all.
        (Python, &[3, 4], None, &["0", "1"]),
        (Python, &[4, 5], None, &["1", "1"]),
        (Jax, &[3, 4], None, &["0", "1"]),
        (Exec, &[4, 5], Some(2), &["1", "1"]),
        (Exec, &[3, 4], Some(2), &["", ""]),
        (Torchrun, &[4, 5], None, &["1"]),
        (Torchrun, &[3, 4], None, &[""]),
        (Mpi, &[6, 7], None, &["1"]),
        // Four: a whole socket, or half of each.
        (Torchrun, &[0, 1, 2, 3], None, &["0"]),
        (Python, &[4, 5, 6, 7], None, &["1", "1", "1", "1"]),
        (Python, &[0, 1, 6, 7], None, &["0", "0", "1", "1"]),
        (Python, &[0, 1, 6, 7], Some(2), &["0", "1"]),
        (Python, &[0, 4, 1, 5], Some(2), &["", ""]),
        // Eight: both sockets are all there is.
        (Torchrun, &all, None, &[""]),
        (Mpi, &all, None, &[""]),
        (Exec, &all, None, &[""]),
        (
            Python,
            &all,
            None,
            &["0", "0", "0", "0", "1", "1", "1", "1"],
        ),
        (Jax, &all, Some(2), &["0", "1"]),
        // None.
        (Exec, &[], Some(3), &["", "", ""]),
    ] {
        let request = job(launcher, gpus, ranks);
        assert_eq!(planned(&request), want, "{launcher:?} {gpus:?} {ranks:?}");
    }
}

#[test]
fn slots_of_an_array_have_their_own() {
    let mut request = job(LaunchMethod::Exec, &[0, 1, 6, 7], None);
    request.spec.array = ArraySpec::parse("0-99").ok();
    request.spec.gpus = 1;
    request.wave = Some(Wave {
        slots: 4,
        tasks: Ranges::span(3, 9),
        count: 100,
    });
    assert_eq!(planned(&request), ["0", "0", "1", "1"]);
    // Two tasks on a socket want 60 of its 56 processors.
    request.spec.cpus = Some(30);
    assert_eq!(planned(&request), ["", "", "", ""]);
}

#[test]
fn what_is_not_known_is_not_bound() {
    let check = |topology: Topology, gpus: &[u32], want: &[&str]| {
        let mut request = job(LaunchMethod::Python, gpus, None);
        request.topology = topology;
        assert_eq!(planned(&request), want, "{:?} {gpus:?}", request.topology);
    };
    let lost = [
        Some(0),
        None,
        Some(0),
        Some(0),
        Some(1),
        Some(1),
        Some(1),
        Some(7),
    ];
    let nodes = [(0, SOCKETS[0]), (1, SOCKETS[1])];
    // Its rank alone: the others are where they are. Node 7 has no processors.
    check(machine(&nodes, lost), &[0, 1, 4, 7], &["0", "", "1", ""]);
    check(Topology::default(), &[0, 4], &["", ""]);
    check(machine(&[], [Some(0); 8]), &[0], &[""]);
    check(machine(&nodes, [None; 8]), &[0], &[""]);
    // One node is all there is.
    check(machine(&[(0, "0-111")], [Some(0); 8]), &[0, 4], &["", ""]);
    // A rank of two GPUs, one of which is somewhere.
    let mut request = job(LaunchMethod::Python, &[0, 1, 4, 5], Some(2));
    request.topology = machine(&nodes, lost);
    assert_eq!(planned(&request), ["", "1"]);
}

#[test]
fn an_agent_that_may_use_a_part_gives_a_part() {
    let check = |nodes: &[(u32, &str)], want: &[&str]| {
        let mut request = job(LaunchMethod::Python, &[0, 4], None);
        request.topology.nodes = machine(nodes, [None; 8]).nodes;
        assert_eq!(planned(&request), want, "{nodes:?}");
    };
    check(&[(0, "4-7"), (1, "28-31")], &["4-7", "28-31"]);
    // None of the second socket: what is left is all there is, and nothing is near the other GPU.
    check(&[(0, "4-7")], &["", ""]);
    // Numbers beyond what one word, or the C library's set, has room for.
    check(
        &[(0, "60-70"), (1, "1020-1030,4096")],
        &["60-70", "1020-1030,4096"],
    );
}

#[test]
fn whoever_asks_for_more_than_is_near_gets_it() {
    let check = |launcher, gpus: &[u32], each, want: &[&str]| {
        let mut request = job(launcher, gpus, None);
        request.spec.cpus = Some(each);
        assert_eq!(planned(&request), want, "{launcher:?} {gpus:?} {each}");
    };
    use LaunchMethod::{Exec, Python, Torchrun};
    check(Exec, &[5], 56, &["1"]);
    check(Exec, &[5], 57, &[""]);
    check(Python, &[4, 5], 28, &["1", "1"]);
    // Together more than the socket has; the one alone on the other is not concerned.
    check(Python, &[0, 4, 5], 29, &["0", "", ""]);
    // Ranks below one process.
    check(Torchrun, &[4, 5], 28, &["1"]);
    check(Torchrun, &[4, 5], 29, &[""]);
    check(Exec, &[5], 4_096, &[""]);
}

#[test]
fn a_job_may_decline() {
    let mut request = job(LaunchMethod::Python, &[3, 4], None);
    request.spec.cpu_bind = CpuBind::None;
    assert_eq!(planned(&request), ["", ""]);
}
