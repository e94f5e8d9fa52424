//! Specs as people write and mistype them.
use super::*;

#[test]
fn a_full_spec() {
    let spec = parse_toml(
        r#"
        name = "digits"
        nodes = 2
        gpus = 4
        gpu = ["H100", "A100"]
        launcher = "python"
        command = "train.py --config 'my conf.yaml'"
        env = { WANDB_PROJECT = "x" }
        code = "."
        [checkpoint]
        dir = "ckpt"
        "#,
    )
    .expect("a good spec");
    assert_eq!(spec.command.0, ["train.py", "--config", "my conf.yaml"]);
    assert_eq!((spec.ranks_per_node(), spec.world_size()), (4, 8));
    let again = parse_json(&spec.canonical_json()).expect("canonical JSON parses");
    assert_eq!((again.hash(), &again), (spec.hash(), &spec));
}

#[test]
fn defaults_follow_the_launch_method() {
    for (launcher, gpus, ranks) in [
        ("exec", 0, 1),
        ("exec", 8, 1),
        ("python", 0, 1),
        ("python", 8, 8),
        ("torchrun", 8, 8),
        ("mpi", 0, 1),
        ("mpi", 8, 8),
        ("jax", 8, 8),
    ] {
        let text = format!("command = ['a']\nlauncher = '{launcher}'\ngpus = {gpus}");
        assert_eq!(
            parse_toml(&text).expect("good").ranks_per_node(),
            ranks,
            "{text}"
        );
    }
}

fn refused(text: &str, says: &str) {
    let error = parse_toml(text).expect_err(text).to_string();
    assert!(
        error.contains(says),
        "{text}\n-> {error}\nshould say {says}"
    );
    assert!(error.len() < 600, "too long for a person: {error}");
}

#[test]
fn where_ranks_run_is_the_users_choice() {
    let spec = |line: &str| parse_toml(&format!("command = ['a']\n{line}")).expect("good");
    assert_eq!(spec("cpu_bind = 'none'").cpu_bind, CpuBind::None);
    assert_ne!(spec("cpu_bind = 'none'").hash(), spec("").hash());
    // The default goes unsaid: the same spec has the same name in every release.
    assert_eq!(spec("cpu_bind = 'near'").hash(), spec("").hash());
    let again = parse_json(&spec("cpu_bind = 'none'").canonical_json()).expect("parses");
    assert_eq!(again, spec("cpu_bind = 'none'"));
}

#[test]
fn what_silence_means_is_the_users_choice() {
    for (policy, word) in OnDisconnect::ALL {
        let text = format!("command = ['a']\non_disconnect = '{word}'");
        let spec = parse_toml(&text).expect("good");
        assert_eq!((spec.on_disconnect, policy.word()), (policy, word));
        let json = String::from_utf8(spec.canonical_json()).expect("UTF-8");
        assert_eq!(
            json.contains("on_disconnect"),
            policy != OnDisconnect::Replace,
            "{json}"
        );
    }
    refused(
        "command = 'a'\non_disconnect = 'fenced'",
        "did you mean `fence`?",
    );
}

/// A spec is stored under the hash of its canonical text: what older releases wrote keeps its name.
#[test]
fn specs_of_older_releases_keep_their_text() {
    for (toml, json) in [
        (
            "command = ['a']",
            r#"{"nodes":1,"gpus":0,"launcher":"exec","command":["a"]}"#,
        ),
        (
            "command = ['a']\nnodes = 2\ngpus = 8\ngpu = ['H100']\ntime = '4h'\nmem = '1GiB'\nretry = { max = 1 }",
            r#"{"nodes":2,"gpus":8,"gpu":["H100"],"launcher":"exec","command":["a"],"mem":"1GiB","time":"4h","retry":{"max":1,"on":["any"]}}"#,
        ),
    ] {
        let spec = parse_toml(toml).expect(toml);
        let text = String::from_utf8(spec.canonical_json()).expect("UTF-8");
        assert_eq!(text, json);
        let defaults = "class = 'normal'\nmix = false\nhold = false\npreemptible = false\nprefer = 'type'\ngrow = 'never'\nafter = []\npools = []\n";
        let said = parse_toml(&format!("{defaults}{toml}")).expect("good");
        assert_eq!(
            said.hash(),
            spec.hash(),
            "a default that is written down changes nothing"
        );
    }
}

#[test]
fn typos_are_explained() {
    refused("comand = 'a'", "did you mean `command`?");
    refused("command = 'a'\nnode = 2", "did you mean `nodes`?");
    refused(
        "command = 'a'\nlauncher = 'torch-run'",
        "did you mean `torchrun`?",
    );
    refused(
        "command = 'a'\n[checkpoint]\ndri = 'x'",
        "`checkpoint.dri`; did you mean `dir`?",
    );
    refused("command = 'a'\nidle = '12h'", "not support it yet");
    refused("command = 'a'\nclas = 'low'", "did you mean `class`?");
    refused(
        "command = 'a'\n[checkpoint]\ntier = 'rma'",
        "did you mean `ram`?",
    );
    refused("nodes = 1", "`command` is missing");
}

#[test]
fn hostile_values_are_refused() {
    refused("command = 'a'\nnodes = 0", "use 1 to 4096");
    refused("command = 'a'\nnodes = -1", "not negative");
    refused("command = 'a'\nnodes = 1.5", "whole number");
    refused("command = 'a'\nnodes = 99999999999", "whole number");
    refused("command = 'a'\ngpus = 65", "use 0 to 64");
    refused("command = 'a'\nranks = 0", "use 1 to 1024");
    refused("command = 'a'\nnodes = 4096\nranks = 1024", "at most 65536");
    refused(
        "command = 'a'\nlauncher = 'python'\ngpus = 2\nranks = 3",
        "one device",
    );
    refused(
        "command = 'a'\nlauncher = 'jax'\ngpus = 2\nranks = 3",
        "launcher `jax` gives each rank one device",
    );
    refused(
        "command = 'a'\n[mpi]\nargs = []",
        "needs `launcher = \"mpi\"`",
    );
    let mpi = "command = 'a'\nlauncher = 'mpi'\n";
    refused(&format!("{mpi}[mpi]\nmpirun = ''"), "names no program");
    refused(&format!("{mpi}[mpi]\nargs = [\"a\\u0000\"]"), "NUL");
    refused(
        &format!("{mpi}[mpi]\nmpriun = 'x'"),
        "`mpi.mpriun`; did you mean `mpirun`?",
    );
    refused(
        &format!("{mpi}compat = 'slurm'"),
        "use the launcher exec, python or jax",
    );
    refused("command = 'a'\ncompat = 'slrum'", "did you mean `slurm`?");
    refused("command = ''", "is empty");
    refused("command = []", "is empty");
    refused("command = ['']", "empty program");
    refused("command = \"a 'b\"", "open quote");
    refused("command = 7", "string or an array");
    refused("command = [\"a\\u0000b\"]", "NUL");
    refused("command = 'a'\nenv = { 'A=B' = 'x' }", "env");
    refused("command = 'a'\nenv = { MLCTL_JOB = 'x' }", "set by mlctl");
    refused("command = 'a'\nname = ''", "name");
    refused("command = 'a'\n[checkpoint]\ndir = '../x'", "inside");
    refused("command = 'a'\n[checkpoint]\ndir = '/etc'", "inside");
    refused("command = 'a'\ngpu = ['H100']", "set `gpus`");
    refused("command = [", "bad job spec");
    refused("\u{0}", "bad job spec");
    refused(
        &format!("command = 'a'\nname = '{}'", "x".repeat(70_000)),
        "at most 65536",
    );
    assert!(matches!(parse_json(b"[1]"), Err(SpecError::Syntax(_))));
    assert!(matches!(
        parse_json(&b"[".repeat(60_000)),
        Err(SpecError::Syntax(_))
    ));
}

#[test]
fn hostile_amounts_are_refused() {
    refused("command = 'a'\ncpus = 0", "use 1 to 4096");
    refused("command = 'a'\ncpus = 1.5", "whole number");
    refused(
        "command = 'a'\ncpus = 64\nranks = 65",
        "no node has more than 4096",
    );
    refused("command = 'a'\ncpu_bind = 'nera'", "did you mean `near`?");
    refused("command = 'a'\ncpu_bind = true", "use one of near, none");
    refused("command = 'a'\nmem = 16", "needs a text such as");
    refused("command = 'a'\nmem = '16GB'", "`mem` is \"16GB\"");
    refused("command = 'a'\nmem = '0GiB'", "at least 4MiB");
    refused(
        "command = 'a'\nmem = '1TiB'\nranks = 65",
        "no node has more than 64TiB",
    );
    refused(
        "command = 'a'\nmem = '16777215TiB'",
        "no node has more than 64TiB",
    );
    refused("command = 'a'\nshm = '1KiB'", "at least 4KiB");
    refused("command = 'a'\nmem = '1GiB'\nshm = '2GiB'", "raise `mem`");
}

#[test]
fn an_array_is_a_list_a_limit_or_a_count() {
    for (written, canonical, tasks, limit) in [
        ("'0-99%8'", "0-99%8", 100, 8),
        ("'9,7-8, 1'", "1,7-9", 4, 0),
        ("3", "0-2", 3, 0),
        ("100000", "0-99999", 100_000, 0),
    ] {
        let spec = parse_toml(&format!("command = 'a'\narray = {written}")).expect(written);
        let array = spec.array.as_ref().expect("it has one");
        assert_eq!(
            (array.tasks.count(), array.limit),
            (tasks, limit),
            "{written}"
        );
        assert_eq!(array.to_string(), canonical);
        let again = parse_json(&spec.canonical_json()).expect("canonical JSON parses");
        assert_eq!((again.hash(), &again), (spec.hash(), &spec));
    }
    let array = "command = 'a'\narray = '0-9'\n";
    for (text, says) in [
        ("command = 'a'\narray = 0", "use 1 to 100000"),
        ("command = 'a'\narray = 100001", "use 1 to 100000"),
        ("command = 'a'\narray = '0-100000'", "use 1 to 100000"),
        ("command = 'a'\narray = '0-99999999'", "above 9999999"),
        ("command = 'a'\narray = '1-0'", "ends before it begins"),
        (
            "command = 'a'\narray = '0-9%0'",
            "no number above 0 after `%`",
        ),
        ("command = 'a'\narray = -1", "neither a number of tasks"),
        ("command = 'a'\narray = [1]", "neither a number of tasks"),
        (&format!("{array}nodes = 2"), "must be 1 in an array"),
        (&format!("{array}ranks = 2"), "must be 1 in an array"),
        (&format!("{array}launcher = 'torchrun'"), "exec or python"),
        (
            &format!("{array}[checkpoint]\ndir = 'c'"),
            "share the directory",
        ),
    ] {
        refused(text, says);
    }
}

#[test]
fn what_becomes_of_checkpoints() {
    let text = "command = 'a'\n[checkpoint]\nreplicas = 2\nkeep_last = 4\nkeep_every = 500\n\
                keep_best = 'val_loss:min:1'\nbandwidth = '200MiB/s'";
    let spec = parse_toml(text).expect("a good spec");
    let checkpoint = spec.checkpoint.clone().expect("it is there");
    assert_eq!(
        (checkpoint.dir.as_str(), checkpoint.replicas),
        ("checkpoints", 2)
    );
    assert_eq!(checkpoint.newest_kept(), 4);
    assert_eq!(checkpoint.keep_every, Some(KeepEvery::Steps(500)));
    assert_eq!(checkpoint.bandwidth, Bandwidth::Limit(Bytes(200 << 20)));
    let again = parse_json(&spec.canonical_json()).expect("what was written can be read");
    assert_eq!(again, spec);
    let plain = CheckpointSpec::in_dir("ckpt");
    assert_eq!((plain.replicas, plain.newest_kept()), (1, 3));
    assert_eq!(
        serde_json::to_string(&plain).expect("plain data"),
        r#"{"dir":"ckpt"}"#,
        "records of older specs keep their hash"
    );
    for (wrong, says) in [
        ("replicas = 9", "use 0 to 8"),
        ("replicas = -1", "`checkpoint.replicas` is -1"),
        ("replicas = '1'", "`checkpoint.replicas`"),
        ("keep_last = 0", "use 1 to"),
        ("keep_every = 0", "`checkpoint.keep_every`"),
        ("keep_every = true", "`checkpoint.keep_every` needs a text"),
        ("keep_best = 'loss'", "`checkpoint.keep_best`"),
        ("bandwidth = '10MB/s'", "such as \"200MiB/s\""),
        ("bandwidth = '1KiB/s'", "at least"),
        ("bandwidth = 5", "`checkpoint.bandwidth` needs a text"),
        ("upload = true", "`checkpoint.upload` needs a text"),
    ] {
        refused(&format!("command = 'a'\n[checkpoint]\n{wrong}"), says);
    }
}

#[test]
fn a_trainer_writes_to_disk_or_to_memory() {
    let spec = |line: &str| {
        let text = format!("command = 'a'\n[checkpoint]\ndir = 'c'\n{line}");
        parse_toml(&text).expect("good")
    };
    let ram = spec("tier = 'ram'");
    assert_eq!(ram.checkpoint.as_ref().map(|one| one.tier), Some(Tier::Ram));
    assert_eq!(parse_json(&ram.canonical_json()), Ok(ram.clone()));
    assert_ne!(ram.hash(), spec("").hash());
    assert_eq!(spec("tier = 'disk'").hash(), spec("").hash());
    assert_eq!(spec("shared = false").hash(), spec("").hash());
    refused(
        "command = 'a'\n[checkpoint]\ntier = true",
        "`checkpoint.tier` is true; use one of disk, ram",
    );
}

#[test]
fn a_directory_that_every_node_sees_needs_no_copies_and_a_fence() {
    let spec = |before: &str| {
        let text = format!("command = 'a'\n{before}[checkpoint]\ndir = '/nfs/a'\nshared = true");
        parse_toml(&text).expect("good")
    };
    let plain = spec("");
    let checkpoint = plain.checkpoint.clone().expect("it is there");
    assert!(checkpoint.shared && checkpoint.dir == "/nfs/a");
    assert_eq!(checkpoint.replicas, 0);
    assert_eq!(plain.on_disconnect, OnDisconnect::Fence);
    let again = parse_json(&plain.canonical_json()).expect("what was written can be read");
    assert_eq!((again.hash(), &again), (plain.hash(), &plain));
    let hold = spec("on_disconnect = 'hold'\n");
    assert_eq!(hold.on_disconnect, OnDisconnect::Hold);
    assert_eq!(parse_json(&hold.canonical_json()), Ok(hold));
    // Only there.
    let own = parse_toml("command = 'a'\n[checkpoint]\ndir = 'c'").expect("good");
    assert_eq!(own.on_disconnect, OnDisconnect::Replace);
    refused(
        "command = 'a'\non_disconnect = 'replace'\n[checkpoint]\ndir = '/nfs/a'\nshared = true",
        "`on_disconnect` must be \"fence\" or \"hold\"",
    );
}

#[test]
fn what_does_not_go_with_a_shared_directory_is_refused() {
    for (lines, says) in [
        ("dir = 'c'", "must be an absolute path"),
        ("", "must be an absolute path"),
        ("dir = '/'", "must be an absolute path"),
        ("dir = '//.'", "must be an absolute path"),
        ("dir = '/nfs/../etc'", "without `..`"),
        ("dir = \"/nfs/a\\u0000\"", "must be an absolute path"),
        ("dir = \"/nfs/a\\nb\"", "must be an absolute path"),
        (
            "dir = '/nfs/a'\nreplicas = 1",
            "`checkpoint.replicas` must be 0",
        ),
        (
            "dir = '/nfs/a'\nupload = 's3://runs'",
            "mlctl copies nothing",
        ),
        ("dir = '/nfs/a'\ntier = 'ram'", "`checkpoint.tier` must be"),
    ] {
        let text = format!("command = 'a'\n[checkpoint]\nshared = true\n{lines}");
        refused(&text, says);
    }
    let long = format!("dir = '/{}'", "a".repeat(1_024));
    refused(
        &format!("command = 'a'\n[checkpoint]\nshared = true\n{long}"),
        "must be an absolute path",
    );
    for (lines, says) in [
        ("dir = '/nfs/a'", "needs `shared = true`"),
        ("dir = '/nfs/a'\nshared = false", "needs `shared = true`"),
        ("dir = '/nfs/a'\nshared = 'yes'", "needs `true` or `false`"),
        ("dir = '/nfs/a'\nshared = 1", "needs `true` or `false`"),
        ("dir = '/../a'", "inside the working directory"),
    ] {
        refused(&format!("command = 'a'\n[checkpoint]\n{lines}"), says);
    }
}

#[test]
fn where_checkpoints_are_uploaded() {
    for url in ["s3://runs/a", "gs://runs", "az://runs/a/b", "file:///mnt/c"] {
        let text = format!("command = 'a'\n[checkpoint]\nupload = '{url}'");
        let spec = parse_toml(&text).expect(url);
        let upload = spec.checkpoint.as_ref().and_then(|one| one.upload.clone());
        assert_eq!(upload.as_deref(), Some(url));
        let again = parse_json(&spec.canonical_json()).expect("what was written can be read");
        assert_eq!(again, spec);
    }
}

/// A URL is nobody's secret, is not repeated where it could be one, and leads nowhere else.
#[test]
fn hostile_urls_of_uploads_are_refused() {
    let long = format!("s3://runs/{}", "a".repeat(600));
    for (url, says) in [
        ("", "has no scheme"),
        ("/mnt/c", "has no scheme"),
        ("http://runs/a", "scheme that is not known"),
        ("s3://hunter2:hunter2@runs/a", "has a user in it"),
        ("s3://runs/a?token=hunter2", "has a query"),
        ("s3://runs/a#hunter2", "has a query or a fragment"),
        ("file:///", "names no directory"),
        ("file://hunter2/a", "names a host"),
        ("file:///mnt/../etc", "`..`"),
        ("s3://runs/%2e%2e/a", "`%`"),
        (long.as_str(), "longer than 512"),
    ] {
        let text = format!("command = 'a'\n[checkpoint]\nupload = '{url}'");
        refused(&text, says);
        let error = parse_toml(&text).expect_err(url).to_string();
        assert!(error.contains("`checkpoint.upload`"), "{url}: {error}");
        assert!(!error.contains("hunter2"), "{url}: {error}");
        assert!(error.len() < 400, "{url}: {error}");
    }
    refused(
        "command = 'a'\n[checkpoint]\nupload = \"s3://runs/a\\nb\"",
        "control character",
    );
}
