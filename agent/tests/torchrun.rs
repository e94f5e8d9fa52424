//! A torchrun job of two nodes with two ranks each, planned and kept as any other, with the PyTorch of the system.
//! Says so where there is none.

mod processes;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use mlctl_agent::keeper::client::Connection;
use mlctl_agent::keeper::protocol::ToKeeper;
use mlctl_agent::launch::cpus::Topology;
use mlctl_agent::launch::{Interpreters, LaunchPlan, Member, Request, plan, port};
use mlctl_proto::ids::{Epoch, JobId};
use mlctl_proto::spec::{JobSpec, LaunchMethod};
use processes::{Keeper, exit, skip, to_the_end};

const PYTHON: &str = "/usr/bin/python3";

const TRAIN: &str = r#"
import os, sys, time
import torch, torch.distributed as dist
dist.init_process_group("gloo")
total = torch.ones(1) * (dist.get_rank() + 1)
dist.all_reduce(total)
env = os.environ
print("sum", int(total.item()), "rank", env["RANK"], "of", env["WORLD_SIZE"], "node", env["GROUP_RANK"], env["NODE_RANK"], env["MLCTL_NODE"], flush=True)
dist.barrier()
if "FAIL" in env:
    # The others neither notice nor end: what a rank in a collective on a GPU does.
    sys.exit(7) if env["RANK"] == "3" else time.sleep(1000)
"#;

fn request(node_rank: u32, dir: &Path, fail: bool) -> Request {
    let mut spec = JobSpec::new(vec!["train.py".into()]);
    (spec.launcher, spec.nodes, spec.ranks) = (LaunchMethod::Torchrun, 2, Some(2));
    if fail {
        spec.env.insert("FAIL".into(), "1".into());
    }
    let member = |at: u32| Member {
        node: format!("n{at}"),
        rank_address: format!("127.0.0.{}", 11 + at),
        devices: Vec::new(),
    };
    let text = |name: &str| dir.join(name).to_str().expect("UTF-8").to_owned();
    Request {
        spec,
        job: JobId::new(1, 1),
        epoch: Epoch::new(1, 1),
        job_name: "torch".into(),
        owner: "ada".into(),
        node_name: format!("n{node_rank}"),
        members: vec![member(0), member(1)],
        node_rank,
        wave: None,
        job_dir: text(""),
        attempt_dir: dir.to_str().expect("UTF-8").to_owned(),
        work_dir: text("work"),
        checkpoint_dir: None,
        resume_from: None,
        traceparent: String::new(),
        base_env: BTreeMap::from([
            ("PATH".to_owned(), "/usr/bin:/bin".to_owned()),
            ("HOME".to_owned(), "/tmp".to_owned()),
        ]),
        interface: None,
        network: None,
        node_env: BTreeMap::new(),
        rdma: Vec::new(),
        topology: Topology::default(),
        program: "/usr/bin/true".into(),
        user: None,
        allow_root: true,
        interpreters: Interpreters {
            python: PYTHON.into(),
        },
    }
}

fn keeper(node_rank: u32, fail: bool) -> Keeper {
    Keeper::start_with(&["true"], |plan_of_test: &mut LaunchPlan| {
        let dir = Path::new(&plan_of_test.work_dir)
            .parent()
            .expect("an attempt's directory")
            .to_owned();
        std::fs::write(dir.join("work/train.py"), TRAIN).expect("written");
        *plan_of_test = plan(&request(node_rank, &dir, fail)).expect("a good request");
    })
}

/// A gang that has been told to go.
async fn gang(fail: bool) -> [(Keeper, Connection); 2] {
    let keepers = [keeper(0, fail), keeper(1, fail)];
    let lease = port::lease("127.0.0.11").expect("a port");
    let port = lease.port();
    drop(lease);
    let mut going = Vec::new();
    for keeper in keepers {
        let agent = keeper.agent().await;
        agent
            .sender
            .send(ToKeeper::Go {
                master_address: "127.0.0.11".into(),
                master_port: port,
            })
            .await
            .expect("sent");
        going.push((keeper, agent));
    }
    going.try_into().unwrap_or_else(|_| panic!("two keepers"))
}

#[tokio::test]
async fn torchrun_starts_the_ranks_of_two_nodes() {
    let torch = Command::new(PYTHON)
        .args(["-c", "import torch.distributed.run"])
        .output();
    if !torch.is_ok_and(|output| output.status.success()) {
        skip(
            "torchrun_starts_the_ranks_of_two_nodes",
            "/usr/bin/python3 has no PyTorch: install python3-torch",
        );
        return;
    }
    for (node, (keeper, agent)) in (0u32..).zip(&mut gang(false).await) {
        let (exits, _) = to_the_end(&mut agent.receiver).await;
        let log = keeper.log(node * 2);
        assert_eq!(exits, [exit(node * 2, 0, 0, false)], "{log:#?}");
        for local in 0..2 {
            let want = format!(
                "[default{local}]:sum 10 rank {} of 4 node {node} {node} n{node}",
                node * 2 + local
            );
            assert!(log.contains(&want), "no `{want}` in {log:#?}");
        }
    }
    // A rank of node 1 fails while all others hang: its torchrun would wait for the other node's. The keeper does not.
    let [_node_0, (keeper, mut agent)] = gang(true).await;
    let (exits, _) = to_the_end(&mut agent.receiver).await;
    assert_eq!(exits, [exit(2, 7, 0, false)], "{:#?}", keeper.log(2));
}
