//! Ranks run on the processors near their devices: real agents, keepers and ranks on a machine whose driver and NUMA nodes are made up.
//! Does NOT need a GPU, but two processors.

use std::fs;
use std::path::Path;
use std::time::Duration;

use mlctl_proto::spec::Ranges;
use mlctl_tests::process::fleet::{Fleet, Plan};
use mlctl_tests::process::list;
use mlctl_tests::tidy::skips::skip;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(30);
/// What a rank says of where it may run.
const SAYS: &str = "while read key list; do if [ $key = Cpus_allowed_list: ]; then echo rank $RANK on $list; fi; done </proc/self/status";

/// The processors that this test may use.
fn own() -> Ranges {
    let status = fs::read_to_string("/proc/self/status").expect("on Linux");
    let mut lines = status.lines();
    let list = lines.find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    Ranges::parse(list.unwrap_or_default().trim(), u32::MAX).expect("a list")
}

/// A view of a machine with two NUMA nodes of one processor each, with the first GPU at the one and the second at the other. Nobody knows
/// where the third is.
fn made_up(root: &Path, [zero, one]: [&str; 2]) {
    let write = |name: &str, text: &str| {
        let path = root.join(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        fs::write(path, text).expect("written");
    };
    // The fake driver counts buses from 1.
    for (bus, node) in [(1, "0"), (2, "1"), (3, "-1")] {
        write(&format!("bus/pci/devices/0000:0{bus}:00.0/numa_node"), node);
    }
    write("devices/system/node/node0/cpulist", &format!("{zero}\n"));
    write("devices/system/node/node1/cpulist", &format!("{one}\n"));
}

/// A fleet of one node with the made-up machine.
struct Made {
    fleet: Fleet,
    /// The processor near the first GPU.
    zero: String,
    /// The one near the second.
    one: String,
    /// All that this test may use, as a rank would say it.
    all: String,
    dir: tempfile::TempDir,
}

impl Made {
    /// `None`, said loudly, where `test` cannot run.
    fn start(test: &str) -> Option<Self> {
        let own = own();
        let cpus: Vec<String> = own.iter().map(|cpu| cpu.to_string()).collect();
        let [zero, one, ..] = cpus.as_slice() else {
            skip(test, "only one processor may be used here");
            return None;
        };
        let dir = tempfile::tempdir().expect("a directory");
        made_up(dir.path(), [zero, one]);
        let fleet = Fleet::start(&Plan {
            nodes: 1,
            driver_gpus: 3,
            agent_toml: format!("sysfs_path = {:?}\n", dir.path()),
            ..Plan::default()
        });
        Some(Self {
            fleet,
            zero: zero.clone(),
            one: one.clone(),
            all: own.to_string(),
            dir,
        })
    }

    /// Where the ranks of a job with these words of `mlctl submit` said that they may run, sorted.
    fn runs(&self, words: &[&str]) -> Vec<String> {
        self.said(&[words, &["--", "sh", "-c", SAYS]].concat())
    }

    /// The same of one whose command is in `words`.
    fn said(&self, words: &[&str]) -> Vec<String> {
        let job = self.fleet.submit(&[&["--no-code"], words].concat());
        let ended = self.fleet.ended(&job, SOON);
        assert_eq!(ended.state(), "Completed", "{:#}", ended.0);
        let lines = self.fleet.lines(&job);
        let places = lines.iter().filter_map(|line| line.split_once("] rank "));
        let mut places: Vec<String> = places.map(|(_, place)| place.to_owned()).collect();
        places.sort();
        places
    }
}

/// Ranks and where they run.
fn on(places: &[(u32, &str)]) -> Vec<String> {
    let places = places
        .iter()
        .map(|(rank, list)| format!("{rank} on {list}"));
    places.collect()
}

#[test]
fn ranks_run_on_the_processors_near_their_gpus() {
    let test = "process_cpus::ranks_run_on_the_processors_near_their_gpus";
    let Some(made) = Made::start(test) else {
        return;
    };
    let (zero, one, all) = (&*made.zero, &*made.one, &*made.all);
    let nodes = made.fleet.mlctl(&["nodes", "-o", "json"]).json();
    let devices = list(&nodes["nodes"][0]["devices"]);
    let numa: Vec<&Value> = devices.iter().map(|device| &device["numa_node"]).collect();
    assert_eq!(numa, [&json!(0), &json!(1), &Value::Null], "{nodes}");

    // Each rank has its own GPU: one is here, one there, of the third nobody knows.
    assert_eq!(
        made.runs(&["--launcher", "python", "--gpus", "3"]),
        on(&[(0, zero), (1, one), (2, all)])
    );
    // GPUs are given from the first on.
    assert_eq!(made.runs(&["--gpus", "1"]), on(&[(0, zero)]));
    // What is near both is all there is.
    assert_eq!(made.runs(&["--gpus", "2"]), on(&[(0, all)]));
    assert_eq!(made.runs(&[]), on(&[(0, all)]));
    // Each task of an array has its own GPU.
    let mut want = on(&[(0, zero), (0, one), (0, all)]);
    want.sort();
    assert_eq!(made.runs(&["--gpus", "1", "--array", "3"]), want);
    // A job may decline.
    let spec = made.dir.path().join("job.toml");
    let text = format!("command = ['sh', '-c', '''{SAYS}''']\ngpus = 1\ncpu_bind = 'none'\n");
    fs::write(&spec, text).expect("written");
    let spec = spec.to_str().expect("UTF-8");
    assert_eq!(made.said(&[spec]), on(&[(0, all)]));
    let planned = |words: &[&str]| {
        let words = [&["submit", "--dry-run", "--no-code"], words].concat();
        let plan = made.fleet.mlctl(&words).expect(0).stdout;
        plan.contains("processors near its GPUs, decided by the node")
    };
    assert!(planned(&["--gpus", "1", "--", "true"]));
    assert!(!planned(&["--", "true"]) && !planned(&[spec]));
}

#[test]
fn whoever_binds_the_launcher_binds_all_that_comes_from_it() {
    let test = "process_cpus::whoever_binds_the_launcher_binds_all_that_comes_from_it";
    let Some(mut made) = Made::start(test) else {
        return;
    };
    let mut set = CpuSet::new();
    set.set(made.zero.parse().expect("a number"))
        .expect("below 1,024");
    made.fleet.kill(&["n1-launcher"]);
    // What a thread starts is bound as it is itself.
    let this = Pid::from_raw(0);
    let before = sched_getaffinity(this).expect("ours");
    sched_setaffinity(this, &set).expect("ours");
    made.fleet.start_one("n1-launcher");
    sched_setaffinity(this, &before).expect("ours");
    let zero = &*made.zero;
    assert_eq!(
        made.runs(&["--launcher", "python", "--gpus", "3"]),
        on(&[(0, zero), (1, zero), (2, zero)])
    );
    // The job runs, and its keeper says what it could not do.
    let log = made.fleet.home("n1").join("data/jobs/1/1/keeper.log");
    let log = fs::read_to_string(log).expect("the keeper's log");
    let unbound = log.lines().filter(|line| line.contains("not bound"));
    let unbound: Vec<&str> = unbound.collect();
    assert_eq!(unbound.len(), 1, "{log}");
    assert!(unbound[0].contains("number=1"), "{log}");
}
