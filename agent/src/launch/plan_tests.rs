//! Launch plans as data: one golden file per launch method, then what the goldens do not show.

use mlctl_proto::spec::{Compat, MpiSpec};

use super::*;

/// A machine with two sockets and two GPUs on each, of which every node of the gang is one.
fn two_sockets() -> Topology {
    let cpus = |list| mlctl_proto::spec::Ranges::parse(list, 1_000).expect("a list");
    let device = |at: u32| (format!("GPU-{}{}", at / 4, at % 4), at % 4 / 2);
    Topology {
        nodes: [(0, cpus("0-27,56-83")), (1, cpus("28-55,84-111"))].into(),
        devices: (0..8).map(device).collect(),
    }
}

pub(in crate::launch) fn request(
    launcher: LaunchMethod,
    nodes: u32,
    gpus: u32,
    command: &[&str],
) -> Request {
    let mut spec = JobSpec::new(command.iter().map(|word| (*word).to_owned()).collect());
    spec.launcher = launcher;
    spec.nodes = nodes;
    spec.gpus = gpus;
    let member = |at: u32| Member {
        node: format!("gpu-{}", at + 1),
        rank_address: format!("10.0.0.{}", at + 11),
        devices: (0..gpus)
            .map(|device| format!("GPU-{at}{device}"))
            .collect(),
    };
    let text = |text: &str| text.to_owned();
    Request {
        spec,
        job: JobId::new(1, 7),
        epoch: Epoch::new(1, 2),
        job_name: text("digits"),
        owner: text("ada"),
        node_name: format!("gpu-{nodes}"),
        members: (0..nodes).map(member).collect(),
        node_rank: nodes - 1,
        wave: None,
        job_dir: text("/d/jobs/7"),
        attempt_dir: text("/d/jobs/7/2"),
        work_dir: text("/d/jobs/7/2/work"),
        checkpoint_dir: Some(text("/d/jobs/7/checkpoints")),
        resume_from: None,
        traceparent: String::new(),
        base_env: [("PATH", "/usr/bin:/bin"), ("HOME", "/home/ada")]
            .map(|(k, v)| (text(k), text(v)))
            .into(),
        node_env: BTreeMap::new(),
        interface: Some(text("eth1")),
        network: Some(text("10.0.0.0/24")),
        rdma: vec![text("mlx5_0:1"), text("mlx5_1:1")],
        topology: two_sockets(),
        program: text("/usr/local/bin/mlctl"),
        user: None,
        allow_root: false,
        interpreters: Interpreters::default(),
    }
}

fn check_golden(name: &str, golden: &str, request: &Request) {
    let plan = with_rendezvous(plan(request).expect("a good request"), "10.0.0.11", 40_123);
    let shown = serde_json::to_string_pretty(&plan).expect("plain data");
    assert_eq!(
        shown.trim(),
        golden.trim(),
        "{name} differs; this is what the plan is now:\n{shown}"
    );
    assert_eq!(
        serde_json::from_str::<LaunchPlan>(golden).expect("it is a plan"),
        plan,
        "{name}"
    );
}

#[test]
fn exec() {
    let mut request = request(LaunchMethod::Exec, 1, 0, &["sh", "-c", "echo $RANK"]);
    request.spec.ranks = Some(2);
    request.spec.env.insert("GREETING".into(), "hello".into());
    request.checkpoint_dir = None;
    check_golden("exec.json", include_str!("testdata/exec.json"), &request);
}

#[test]
fn python() {
    let mut request = request(LaunchMethod::Python, 2, 2, &["train.py", "--lr", "0.1"]);
    request.resume_from = Some("/d/jobs/7/checkpoints/step-40".into());
    request.traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".into();
    check_golden(
        "python.json",
        include_str!("testdata/python.json"),
        &request,
    );
}

#[test]
fn torchrun() {
    let request = request(LaunchMethod::Torchrun, 2, 4, &["train.py"]);
    check_golden(
        "torchrun.json",
        include_str!("testdata/torchrun.json"),
        &request,
    );
}

#[test]
fn mpi() {
    // The first node runs `mpirun`, the others wait for what it wants of them.
    let mut request = request(LaunchMethod::Mpi, 2, 2, &["train.py"]);
    check_golden("mpi-1.json", include_str!("testdata/mpi-1.json"), &request);
    (request.node_rank, request.node_name) = (0, "gpu-1".into());
    request.spec.mpi = Some(MpiSpec {
        mpirun: "mpiexec.mpich".into(),
        args: vec!["--bind-to".into(), "core".into()],
    });
    check_golden("mpi-0.json", include_str!("testdata/mpi-0.json"), &request);
}

#[test]
fn jax() {
    let mut request = request(LaunchMethod::Jax, 2, 4, &["train.py"]);
    request.spec.ranks = Some(2);
    request.spec.compat = Some(Compat::Slurm);
    check_golden("jax.json", include_str!("testdata/jax.json"), &request);
}

#[test]
fn nodes_that_share_a_machine_meet_on_its_loopback_and_yield() {
    let mut request = request(LaunchMethod::Mpi, 2, 0, &["./a"]);
    for member in &mut request.members {
        member.rank_address = "127.0.0.1".into();
    }
    let check = |key: &str, want: Option<&str>| {
        assert_eq!(variable(&request, 0, key).as_deref(), want, "{key}");
    };
    check("OMPI_MCA_btl_tcp_if_include", Some("127.0.0.0/8"));
    check("PRTE_MCA_prte_if_include", None);
    check("TMPDIR", Some("/d/jobs/7/2/work"));
    check("HYDRA_IFACE", Some("lo"));
    check("OMPI_MCA_mpi_yield_when_idle", Some("1"));
    check("RANK", None);
    check("JAX_COORDINATOR_ADDRESS", None);
    let members = plan(&request).expect("good").mpi.expect("MPI").members;
    let names = ["gpu-1", "gpu-2"]
        .into_iter()
        .zip(["198.18.0.0", "198.18.0.1"]);
    assert!(
        members.iter().map(|(a, b)| (&**a, &**b)).eq(names),
        "{members:?}"
    );
}

#[test]
fn launch_agents_survive_any_path() {
    let mut request = request(LaunchMethod::Mpi, 1, 0, &["./a"]);
    request.program = "/opt/it's here/mlctl".into();
    let plan = plan(&request).expect("good");
    let agent = &plan.files[0];
    assert!(agent.executable && agent.path == "/d/jobs/7/2/mpi-agent");
    let want = r"exec '/opt/it'\''s here/mlctl' mpi-agent '/d/jobs/7/2' ";
    assert!(agent.text.contains(want), "{}", agent.text);
}

#[test]
fn commands_get_their_interpreter() {
    let check = |launcher, command: &[&str], want: &str| {
        let plan = plan(&request(launcher, 1, 0, command)).expect("good");
        assert_eq!(
            plan.ranks[0].argv.join(" "),
            want,
            "{launcher:?} {command:?}"
        );
    };
    use LaunchMethod::{Exec, Jax, Mpi, Python, Torchrun};
    check(Jax, &["train.py"], "python3 train.py");
    check(Mpi, &["train.py"], "mpirun -n 1 python3 train.py");
    check(Mpi, &["./solve", "-x"], "mpirun -n 1 ./solve -x");
    check(Exec, &["train.py", "a b"], "train.py a b");
    check(Python, &["src/train.py", "-x"], "python3 src/train.py -x");
    check(Python, &["python3.12", "train.py"], "python3.12 train.py");
    check(Python, &["./run"], "./run");
    let run = "-m torch.distributed.run";
    check(
        Torchrun,
        &["train.py", "-x"],
        &format!("python3 {run} train.py -x"),
    );
    check(
        Torchrun,
        &["/usr/bin/python3", "train.py", "-x"],
        &format!("/usr/bin/python3 {run} train.py -x"),
    );
    check(
        Torchrun,
        &["python", "-m", "pkg.train"],
        &format!("python {run} -m pkg.train"),
    );
    check(
        Torchrun,
        &["./run", "-x"],
        &format!("python3 {run} --no-python ./run -x"),
    );
    check(
        Torchrun,
        &["python", "-c", "pass"],
        &format!("python3 {run} --no-python python -c pass"),
    );
}

fn variable(request: &Request, rank: usize, key: &str) -> Option<String> {
    plan(request).expect("good").ranks[rank]
        .env
        .get(key)
        .cloned()
}

#[test]
fn nobody_overrides_what_mlctl_sets() {
    let mut request = request(LaunchMethod::Python, 1, 0, &["a"]);
    for key in [
        "RANK",
        "MASTER_ADDR",
        "MASTER_PORT",
        "PET_RDZV_ENDPOINT",
        "CUDA_VISIBLE_DEVICES",
        "TRACEPARENT",
    ] {
        request.spec.env.insert(key.into(), "mine".into());
        request.base_env.insert(key.into(), "base".into());
    }
    // A client's configuration on the node must not reach a job.
    request
        .base_env
        .insert("MLCTL_CONFIG".into(), "/etc/secret".into());
    let env = plan(&request).expect("good").ranks[0].env.clone();
    assert!(
        env.values()
            .all(|value| value != "mine" && value != "base" && value != "/etc/secret"),
        "{env:?}"
    );
    assert_eq!(
        (env["RANK"].as_str(), env["CUDA_VISIBLE_DEVICES"].as_str()),
        ("0", "")
    );
    let met = with_rendezvous(plan(&request).expect("good"), "fd00::1", 9).ranks[0]
        .env
        .clone();
    assert_eq!(
        (
            met["MASTER_ADDR"].as_str(),
            met["PET_RDZV_ENDPOINT"].as_str()
        ),
        ("fd00::1", "[fd00::1]:9")
    );
}

#[test]
fn users_override_the_node_and_the_defaults() {
    let mut request = request(LaunchMethod::Torchrun, 1, 0, &["a.py"]);
    for key in [
        "PATH",
        "OMP_NUM_THREADS",
        "NCCL_SOCKET_IFNAME",
        "PET_TEE",
        "PYTHONUNBUFFERED",
    ] {
        request.spec.env.insert(key.into(), "mine".into());
    }
    for key in ["NCCL_SOCKET_IFNAME", "NCCL_IB_TC", "GLOO_SOCKET_IFNAME"] {
        request.node_env.insert(key.into(), "the owner's".into());
    }
    let env = plan(&request).expect("good").ranks[0].env.clone();
    let count = |whose: &str| env.values().filter(|value| *value == whose).count();
    assert_eq!((count("mine"), count("the owner's")), (5, 2), "{env:?}");
}

#[test]
fn devices_are_shared_out_or_shown_to_all() {
    let devices = |launcher, gpus, ranks, rank| {
        let mut request = request(launcher, 1, gpus, &["a"]);
        request.spec.ranks = Some(ranks);
        variable(&request, rank, "CUDA_VISIBLE_DEVICES")
    };
    let some = |text: &str| Some(text.to_owned());
    assert_eq!(devices(LaunchMethod::Python, 2, 2, 1), some("GPU-01"));
    assert_eq!(
        devices(LaunchMethod::Python, 4, 2, 1),
        some("GPU-02,GPU-03")
    );
    assert_eq!(devices(LaunchMethod::Exec, 2, 2, 1), some("GPU-00,GPU-01"));
    assert_eq!(
        devices(LaunchMethod::Torchrun, 2, 2, 0),
        some("GPU-00,GPU-01")
    );
    assert_eq!(
        devices(LaunchMethod::Exec, 0, 1, 0),
        some(""),
        "no job sees GPUs that it was not given"
    );
    let mut simulated = request(LaunchMethod::Python, 1, 1, &["a"]);
    simulated.members[0].devices = vec!["SIM-gpu-1-0".into()];
    simulated
        .base_env
        .insert("CUDA_VISIBLE_DEVICES".into(), "0".into());
    assert_eq!(
        variable(&simulated, 0, "CUDA_VISIBLE_DEVICES"),
        None,
        "pretended devices are none of CUDA's"
    );
}

#[test]
fn interfaces_follow_the_route() {
    let mut request = request(LaunchMethod::Python, 1, 0, &["a"]);
    assert_eq!(
        variable(&request, 0, "GLOO_SOCKET_IFNAME").as_deref(),
        Some("eth1")
    );
    request.interface = None;
    assert_eq!(variable(&request, 0, "NCCL_SOCKET_IFNAME"), None);
    request.members[0].rank_address = "127.0.0.12".into();
    assert_eq!(
        variable(&request, 0, "GLOO_SOCKET_IFNAME").as_deref(),
        Some("lo")
    );
}

#[test]
fn contradictions_are_refused() {
    let refused = |spoil: &dyn Fn(&mut Request), says: &str| {
        let mut request = request(LaunchMethod::Torchrun, 2, 1, &["a.py"]);
        spoil(&mut request);
        let error = plan(&request).expect_err(says).to_string();
        assert!(error.contains(says), "{error}\nshould say {says}");
    };
    refused(&|r| r.spec.nodes = 0, "nodes");
    refused(&|r| r.spec.nodes = 3, "3 nodes asked for, 2 given");
    refused(&|r| r.node_rank = 2, "node rank 2 of 2");
    refused(&|r| r.node_rank = 0, "is `gpu-1`, not `gpu-2`");
    refused(&|r| r.members[0].devices.clear(), "0 given on `gpu-1`");
    refused(
        &|r| r.spec.command.0[0] = "--help".into(),
        "begins with `-`",
    );
    refused(&|r| r.work_dir = "work".into(), "`work_dir`");
    refused(&|r| r.resume_from = Some("step-1".into()), "`resume_from`");
    refused(&|r| r.job_name = "a\0b".into(), "NUL");
    refused(&|r| r.attempt_dir = "/a\0b".into(), "NUL");
}

#[test]
fn tasks_of_an_array_have_a_slot_and_its_devices() {
    let mut request = request(LaunchMethod::Exec, 1, 2, &["work"]);
    let tasks = mlctl_proto::spec::Ranges::span(3, 9);
    request.spec.array = mlctl_proto::spec::ArraySpec::parse("0-99").ok();
    request.spec.compat = Some(Compat::Slurm);
    let alone = plan(&request).expect_err("no tasks were given").to_string();
    assert!(alone.contains("tasks are given"), "{alone}");
    request.wave = Some(Wave {
        slots: 2,
        tasks: tasks.clone(),
        count: 100,
    });
    let few = plan(&request).expect_err("too few devices").to_string();
    assert!(few.contains("4 GPUs per node"), "{few}");
    request.members[0].devices = ["a", "b", "c", "d"].map(str::to_owned).into();
    let plan = plan(&request).expect("good");
    let array = plan.array.expect("it is one");
    assert_eq!((plan.ranks.len(), &array.tasks), (1, &tasks));
    assert_eq!(
        array.index_variables,
        ["MLCTL_ARRAY_INDEX", "SLURM_ARRAY_TASK_ID"]
    );
    let visible: Vec<_> = array
        .slots
        .iter()
        .map(|slot| slot.env.get("CUDA_VISIBLE_DEVICES").map(String::as_str))
        .collect();
    assert_eq!(visible, [Some("a,b"), Some("c,d")]);
    let env = &plan.ranks[0].env;
    for (key, value) in [
        ("RANK", "0"),
        ("WORLD_SIZE", "1"),
        ("MLCTL_ARRAY_COUNT", "100"),
    ] {
        assert_eq!(env.get(key).map(String::as_str), Some(value), "{key}");
    }
}
