//! A cluster that is not `mlctl dev`: made with `mlctl admin` and the two configuration files, as docs/CONFIGURATION.md says.
//! Does NOT repeat what dev clusters are tested for.

use std::fs;
use std::path::Path;
use std::time::Duration;

use mlctl_tests::process::{Cluster, Running, until};
use mlctl_tests::tidy::skips::skip;
use nix::sys::signal::Signal;

const SOON: Duration = Duration::from_secs(30);

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("it is bound").port()
}

/// Authority, certificates, configurations: everything that lies on the machines of a cluster of one coordinator and one node.
fn lay_out(cluster: &Cluster) -> String {
    let address = format!("127.0.0.1:{}", free_port());
    let admin = |words: &str| {
        let words: Vec<&str> = words.split(' ').collect();
        cluster.mlctl(&words).expect(0);
    };
    admin(&format!(
        "admin init --dir ca --name lab --coordinator {address}"
    ));
    admin("admin cert coordinator c1 --ca ca --out c1");
    admin("admin cert node gpu-1 --ca ca --out gpu-1");
    admin("admin user add ada --admin --ca ca --out ada.toml");
    let work = cluster.work();
    let at = |name: &str| work.join(name).display().to_string();
    let coordinator = format!(
        "name = 'c1'\ndata_dir = '{}'\nidentity = '{}'\nlisten = '{address}'\ncluster_name = 'lab'\n\n[[members]]\nname = 'c1'\nid = 8201475\naddress = '{address}'\n",
        at("c1-data"),
        at("c1")
    );
    let agent = format!(
        "name = 'gpu-1'\ndata_dir = '{}'\nidentity = '{}'\ncoordinators = ['{address}']\nrank_address = '127.0.0.11'\n",
        at("n"),
        at("gpu-1")
    );
    fs::write(work.join("coordinator.toml"), coordinator).expect("written");
    fs::write(work.join("agent.toml"), agent).expect("written");
    address
}

fn as_ada(cluster: &Cluster, context: &Path, words: &[&str]) -> mlctl_tests::process::Output {
    cluster.mlctl_as(context, words)
}

#[test]
fn a_cluster_is_set_up_by_the_book() {
    let cluster = Cluster::prepare();
    lay_out(&cluster);
    let ada = cluster.work().join("ada.toml");
    // A wiped member must not vote under its old id: without the flag an empty directory is refused.
    let refused = cluster.mlctl(&["coordinator", "--config", "coordinator.toml"]);
    refused.refused(78, &["bootstrap"]);

    let coordinator =
        cluster.spawn(&["coordinator", "--config", "coordinator.toml", "--bootstrap"]);
    let launcher = cluster.spawn(&["launcher", "--config", "agent.toml"]);
    let agent = cluster.spawn(&["agent", "--config", "agent.toml"]);
    until("the node is Ready", SOON, || {
        let nodes = as_ada(&cluster, &ada, &["nodes"]);
        nodes.stdout.contains("gpu-1  Ready").then_some(())
    });
    if nix::unistd::geteuid().is_root() {
        let run = as_ada(&cluster, &ada, &["run", "--no-code", "--", "true"]);
        run.refused(141, &["root"]);
        as_ada(&cluster, &ada, &["admin", "allow-root", "true"]).expect(0);
    } else {
        skip(
            "process_real",
            "not root: that root jobs are refused cannot be seen here",
        );
    }
    // The answer travels with the next greeting of the leader at the latest.
    until("a job runs", SOON, || {
        let run = as_ada(
            &cluster,
            &ada,
            &["run", "--no-code", "--", "sh", "-c", "exit 7"],
        );
        (run.code == 7).then_some(())
    });
    for daemon in [agent, launcher, coordinator] {
        end(daemon);
    }
}

fn end(daemon: Running) {
    daemon.send(Signal::SIGTERM);
    let (code, _) = daemon.end(SOON);
    assert_eq!(code, 0, "a daemon that is asked to end does so cleanly");
}
