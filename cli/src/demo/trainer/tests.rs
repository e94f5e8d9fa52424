//! Whole trainings, all ranks as threads of one process with an environment of their own each.
//!
//! The parts are tested beside their code; ranks as real processes on a cluster are tested with the demo.

use std::collections::BTreeMap;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use clap::Parser as _;

use super::*;

#[derive(clap::Parser)]
#[command(args_override_self = true)]
struct Command {
    #[command(flatten)]
    trainer: TrainerArgs,
}

type Environment = BTreeMap<String, String>;
type Ended = Result<Vec<String>, String>;

const QUICK: Patience = Patience {
    meet: Duration::from_secs(20),
    hello: Duration::from_millis(300),
    silence: Duration::from_secs(20),
};

fn args(more: &str) -> TrainerArgs {
    let line = format!("trainer --hidden 8 --batch 24 --lr 0.1 --checkpoint-every 4 {more}");
    Command::try_parse_from(line.split_whitespace())
        .expect("the options are good")
        .trainer
}

fn train_one(args: &TrainerArgs, environment: &Environment, patience: Patience) -> Ended {
    let mut out = Vec::new();
    let variable = |name: &str| environment.get(name).cloned();
    let ended = train(args, &variable, patience, &mut out);
    let text = String::from_utf8(out).expect("it prints text");
    ended
        .map(|()| text.lines().map(str::to_owned).collect())
        .map_err(|error| format!("{error:#}"))
}

/// An address that no other test uses: loopback addresses are plenty.
fn master() -> (String, String) {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    let process = std::process::id();
    let address = format!(
        "127.{}.{}.{}",
        1 + (process >> 8) % 250,
        process % 250,
        NEXT.fetch_add(1, Ordering::Relaxed)
    );
    let listener = TcpListener::bind((address.as_str(), 0)).expect("loopback has a free port");
    let port = listener.local_addr().expect("it is bound").port();
    (address, port.to_string())
}

fn environments(world: usize) -> Vec<Environment> {
    let (address, port) = master();
    (0..world)
        .map(|rank| {
            [
                ("RANK", rank.to_string()),
                ("WORLD_SIZE", world.to_string()),
                ("LOCAL_RANK", "0".to_owned()),
                ("MASTER_ADDR", address.clone()),
                ("MASTER_PORT", port.clone()),
            ]
            .map(|(name, value)| (name.to_owned(), value))
            .into()
        })
        .collect()
}

fn gang(args: &[TrainerArgs], environments: &[Environment], patience: Patience) -> Vec<Ended> {
    thread::scope(|scope| {
        let ranks: Vec<_> = args
            .iter()
            .zip(environments)
            .map(|(args, environment)| scope.spawn(move || train_one(args, environment, patience)))
            .collect();
        ranks
            .into_iter()
            .map(|rank| rank.join().expect("no rank panics"))
            .collect()
    })
}

/// Runs `world` ranks of which `dir(rank)` has the checkpoints; returns what rank 0 printed.
fn run_gang(
    world: usize,
    options: &str,
    dir: &dyn Fn(usize) -> String,
    resume: Option<(usize, &str)>,
) -> Vec<String> {
    let mut environments = environments(world);
    for (rank, environment) in environments.iter_mut().enumerate() {
        environment.insert("MLCTL_CHECKPOINT_DIR".to_owned(), dir(rank));
        let from = resume
            .filter(|(holder, _)| *holder == rank)
            .map_or("", |(_, path)| path);
        environment.insert("MLCTL_RESUME_FROM".to_owned(), from.to_owned());
    }
    let ended = gang(&vec![args(options); world], &environments, QUICK);
    let lines: Vec<Vec<String>> = ended
        .into_iter()
        .map(|rank| rank.expect("every rank ends well"))
        .collect();
    for other in &lines[1..] {
        assert!(
            other
                .iter()
                .all(|line| line.starts_with("checkpoint step ")),
            "{other:?}"
        );
    }
    lines[0].clone()
}

fn result(lines: &[String]) -> serde_json::Value {
    let results: Vec<_> = lines
        .iter()
        .filter_map(|line| line.strip_prefix("result "))
        .collect();
    assert_eq!(results.len(), 1, "one result line: {lines:?}");
    assert!(
        lines.last().is_some_and(|line| line.starts_with("result ")),
        "and it is the last"
    );
    serde_json::from_str(results[0]).expect("it is JSON")
}

fn nowhere(_: usize) -> String {
    String::new()
}

#[test]
fn one_rank_learns_to_read_digits() {
    let options = args("--steps 150 --hidden 24 --log-every 50 --checkpoint-every 0");
    let lines = train_one(&options, &Environment::new(), QUICK).expect("it ends well");
    let steps: Vec<_> = lines
        .iter()
        .filter(|line| line.starts_with("step "))
        .collect();
    assert_eq!(steps.len(), 3, "{lines:?}");
    assert!(steps[2].starts_with("step 150/150 loss 0."), "{lines:?}");
    let result = result(&lines);
    assert!(
        result["accuracy"]
            .as_f64()
            .is_some_and(|accuracy| accuracy > 0.9),
        "{result}"
    );
    assert_eq!(
        (&result["steps"], &result["world_size"]),
        (&150.into(), &1.into())
    );
    assert_eq!(result["resumed_from_step"], 0);
}

#[test]
fn an_interrupted_training_ends_with_the_same_bits_whichever_node_holds_the_checkpoint() {
    let scratch = tempfile::tempdir().expect("a scratch directory");
    let dir = |run: &'static str| {
        let root = scratch.path().to_owned();
        move |rank: usize| root.join(format!("{run}-{rank}")).display().to_string()
    };
    for world in 1..=3 {
        let whole = result(&run_gang(world, "--steps 14", &nowhere, None));
        let again = result(&run_gang(world, "--steps 14", &dir("first"), None));
        assert_eq!(whole, again, "two runs, {world} ranks");

        // Every node has the same checkpoint; go on from the last rank's, as if its node had become rank 0's.
        let holder = format!("{}/step-8", dir("first")(world - 1));
        let lines = run_gang(world, "--steps 14", &dir("second"), Some((0, &holder)));
        assert_eq!(lines[0], format!("resumed from step 8 ({holder})"));
        let resumed = result(&lines);
        assert_eq!(resumed["resumed_from_step"], 8);
        assert_eq!(
            resumed["params_digest"], whole["params_digest"],
            "{world} ranks"
        );
        assert!(
            Path::new(&dir("second")(world - 1))
                .join("step-14/params.bin")
                .exists()
        );
    }
}

#[test]
fn only_rank_0_decides_where_to_resume() {
    let scratch = tempfile::tempdir().expect("a scratch directory");
    let root = scratch.path().display().to_string();
    let dir = |rank: usize| format!("{root}/{rank}");
    let whole = result(&run_gang(2, "--steps 8", &dir, None));
    let lines = run_gang(
        2,
        "--steps 8",
        &nowhere,
        Some((1, &format!("{root}/1/step-4"))),
    );
    assert!(
        lines.iter().all(|line| !line.starts_with("resumed")),
        "{lines:?}"
    );
    assert_eq!(result(&lines), whole);
}

#[test]
fn another_seed_ends_with_other_bits() {
    let digest = |options| result(&run_gang(2, options, &nowhere, None))["params_digest"].clone();
    assert_ne!(digest("--steps 2 --seed 1"), digest("--steps 2 --seed 2"));
}

#[test]
fn a_checkpoint_that_does_not_fit_is_refused() {
    let scratch = tempfile::tempdir().expect("a scratch directory");
    let path = scratch.path().join("step-4");
    let environment = |name: &str, path: &Path| {
        Environment::from([(name.to_owned(), path.display().to_string())])
    };
    train_one(
        &args("--steps 4"),
        &environment("MLCTL_CHECKPOINT_DIR", scratch.path()),
        QUICK,
    )
    .expect("it ends well");
    let check = |options: &str, word: &str| {
        let error = train_one(
            &args(options),
            &environment("MLCTL_RESUME_FROM", &path),
            QUICK,
        )
        .expect_err(options);
        assert!(error.contains(word), "{options}: {error}");
    };
    check("--steps 8 --seed 2", "--seed");
    check("--steps 3", "later than the last step");
    let params = path.join("params.bin");
    let mut bytes = std::fs::read(&params).expect("it can be read");
    bytes[100] ^= 4;
    std::fs::write(&params, bytes).expect("it is written");
    check("--steps 8", &params.display().to_string());
}

#[test]
fn a_dead_neighbour_is_named_at_once() {
    let environments = environments(2);
    let own = args("--steps 100000 --min-step-ms 1");
    thread::scope(|scope| {
        let survivor = scope.spawn(|| train_one(&own, &environments[0], QUICK));
        // The other rank meets the first one and is gone before its first step: its sockets close as if it was killed.
        let place =
            Place::read(&|name| environments[1].get(name).cloned()).expect("it is complete");
        let terms = Recipe {
            seed: own.seed,
            hidden: 8,
            batch: 24,
            rate: 0.1,
        };
        let met = begin(&own, &place, &terms, Shape::new(8), QUICK).expect("they meet");
        let died = Instant::now();
        drop(met);
        let error = survivor
            .join()
            .expect("no panic")
            .expect_err("it cannot go on");
        assert!(
            error.contains("rank 1 is gone") && error.contains("step 1"),
            "{error}"
        );
        assert!(
            died.elapsed() < Duration::from_secs(5),
            "it took {:?}",
            died.elapsed()
        );
    });
}

#[test]
fn a_silent_neighbour_is_given_up() {
    let patience = Patience {
        silence: Duration::from_millis(300),
        ..QUICK
    };
    let environments = environments(2);
    let slow = args("--steps 3 --min-step-ms 1200");
    let ended = gang(&[args("--steps 3"), slow], &environments, patience);
    let error = ended[0].as_ref().expect_err("it cannot go on");
    assert!(error.contains("rank 1 stopped answering"), "{error}");
}

#[test]
fn ranks_that_were_started_differently_are_told() {
    for (other, word) in [
        ("--steps 4 --seed 9", "--seed 9"),
        ("--steps 5", "--steps 5"),
        ("--steps 4 --lr 0.2", "--lr 0.2"),
    ] {
        let ended = gang(&[args("--steps 4"), args(other)], &environments(2), QUICK);
        for (rank, ended) in ended.into_iter().enumerate() {
            let error = ended.expect_err(other);
            assert!(error.contains(word), "rank {rank}: {error}");
        }
    }
    let mut twice = environments(3);
    twice[2] = twice[1].clone();
    let patience = Patience {
        meet: Duration::from_secs(3),
        ..QUICK
    };
    let ended = gang(&vec![args("--steps 4"); 3], &twice, patience);
    assert!(
        ended[0]
            .as_ref()
            .is_err_and(|error| error.contains("RANK 1")),
        "{ended:?}"
    );
}

#[test]
fn a_missing_rank_is_named_at_the_deadline() {
    let patience = Patience {
        meet: Duration::from_millis(300),
        ..QUICK
    };
    let environments = environments(3);
    let ended = gang(&[args("--steps 4")], &environments[..1], patience);
    assert!(
        ended[0]
            .as_ref()
            .is_err_and(|error| error.contains("rank 1, 2 did not report")),
        "{ended:?}"
    );
    let alone = train_one(&args("--steps 4"), &environments[1], patience);
    assert!(
        alone
            .as_ref()
            .is_err_and(|error| error.contains("rank 0 did not answer")),
        "{alone:?}"
    );
}

#[test]
fn strangers_do_not_disturb() {
    let environments = environments(2);
    let address = format!(
        "{}:{}",
        environments[0]["MASTER_ADDR"], environments[0]["MASTER_PORT"]
    );
    let args = args("--steps 4");
    thread::scope(|scope| {
        let first = scope.spawn(|| train_one(&args, &environments[0], QUICK));
        let deadline = Instant::now() + Duration::from_secs(10);
        let mut strangers = Vec::new();
        for words in [
            &b""[..],
            b"GET / HTTP/1.1\r\n\r\n",
            &[255; 64],
            b"\x02\x00\x00\x00{}",
            b"\x09\x00\x00\x00{",
        ] {
            let mut stranger = loop {
                match TcpStream::connect(&address) {
                    Ok(stream) => break stream,
                    Err(error) => assert!(Instant::now() < deadline, "{error}"),
                }
            };
            stranger
                .write_all(words)
                .expect("the first words fit into the buffer");
            strangers.push(stranger);
        }
        let second = train_one(&args, &environments[1], QUICK);
        second.expect("the ranks meet all the same");
        first
            .join()
            .expect("no panic")
            .expect("the ranks meet all the same");
    });
}

#[test]
fn options_that_make_no_sense_are_refused() {
    for bad in [
        "--steps 0",
        "--steps 1000001",
        "--hidden 0",
        "--batch 0",
        "--batch 1439",
        "--lr 0",
        "--lr -1",
        "--lr nan",
        "--lr inf",
        "--log-every 0",
        "--min-step-ms 60001",
        "--seed -1",
    ] {
        let parsed = Command::try_parse_from(["trainer"].into_iter().chain(bad.split(' ')));
        assert!(parsed.is_err(), "{bad} was accepted");
    }
    let environments = environments(30);
    let error = train_one(&args("--steps 4"), &environments[29], QUICK)
        .expect_err("24 images for 30 ranks");
    assert!(error.contains("--batch 24"), "{error}");
}
