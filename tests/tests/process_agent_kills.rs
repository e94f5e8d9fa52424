//! Agents that die at random places under running jobs and come back: every job goes on in its first attempt, ends with its own exit code,
//! and every line of it arrives once and in order; no rank starts twice, and nothing is left.
//! Does NOT kill anything but agents. Needs a build with debug assertions, which has the failpoints.
//!
//! `MLCTL_TEST_SEED` repeats the draws of a run; what the machine does at the same time differs.

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

use mlctl_agent::failpoint;
use mlctl_tests::budget::full;
use mlctl_tests::process::client::Client;
use mlctl_tests::process::fleet::{Fleet, Plan};
use mlctl_tests::process::trial::seed;
use mlctl_tests::process::until;
use nix::sys::signal::Signal;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};

/// Kills of one run.
const KILLS: u32 = 10;
const KILLS_FULL: u32 = 100;
/// An agent that has not come to its failpoint by then is killed where it is.
const ARMED: Duration = Duration::from_secs(6);
/// Jobs that are open at the same time.
const OPEN: usize = 6;
/// What a job takes at most, with the agents dying under it; and its log after it.
const DONE: Duration = Duration::from_secs(90);

/// Before anything else each rank holds a lock while it lives, and leaves a mark that it may leave once.
const STAMP: &str = r#"exec 9>$MARKS/$MLCTL_JOB.$RANK.lock; flock -n 9 || echo "two at once: $MLCTL_JOB.$RANK" >> $MARKS/wrong
mkdir $MARKS/$MLCTL_JOB.$RANK || echo "started twice: $MLCTL_JOB.$RANK" >> $MARKS/wrong
count() { i=0; while [ $i -lt $1 ]; do i=$((i+1)); echo line $i; [ $((i % $2)) = 0 ] && sleep 0.02; done; return 0; }
"#;

/// A kind of job, and what has to come of it.
#[derive(Debug, Clone, Copy)]
struct Kind {
    name: &'static str,
    nodes: u32,
    /// After [`STAMP`], on each rank.
    script: &'static str,
    /// Lines that each rank says, `line 1` and so on.
    lines: u32,
    state: &'static str,
    code: i64,
    /// With a directory of code.
    code_dir: bool,
}

const fn kind(name: &'static str, script: &'static str, lines: u32, code: i64) -> Kind {
    let (nodes, code_dir) = (1, false);
    let state = if code == 0 { "Completed" } else { "Failed" };
    Kind {
        name,
        nodes,
        script,
        lines,
        state,
        code,
        code_dir,
    }
}

const KINDS: [Kind; 9] = [
    kind("short", "count 3 10", 3, 0),
    kind("failing", "count 5 10; exit 7", 5, 7),
    kind("long", "count 600 4", 600, 0),
    kind("loud", "count 30000 3000; exit 3", 30_000, 3),
    Kind {
        nodes: 2,
        ..kind("gang", "count 400 4; exit 0", 400, 0)
    },
    // What it saves is sealed here and copied to the other node.
    kind(
        "saving",
        "for n in 1 2 3; do mkdir $MLCTL_CHECKPOINT_DIR/step-$n.tmp; echo $MLCTL_JOB $n > $MLCTL_CHECKPOINT_DIR/step-$n.tmp/state; \
         mv $MLCTL_CHECKPOINT_DIR/step-$n.tmp $MLCTL_CHECKPOINT_DIR/step-$n; sleep 0.4; done; count 3 10",
        3,
        0,
    ),
    // The other one is ended when it fails. It has said its lines by then: the word to go reaches it only when its agent lives.
    Kind {
        nodes: 2,
        ..kind(
            "broken gang",
            "count 20 10; [ $RANK = 1 ] || { mkdir $MARKS/$MLCTL_JOB.said; sleep 1000; }; until [ -d $MARKS/$MLCTL_JOB.said ]; do sleep 0.02; done; exit 9",
            20,
            9,
        )
    },
    Kind {
        code_dir: true,
        ..kind("with code", "count $(cat many) 10", 40, 0)
    },
    // Cancelled by the test. It says a last line when it hears TERM.
    Kind {
        state: "Cancelled",
        code: 130,
        ..kind(
            "cancelled",
            "trap 'exit 0' TERM; count 10 2; sleep 1000 & wait",
            10,
            0,
        )
    },
];

/// A job that has not been seen to end as it should.
struct Open {
    id: String,
    kind: Kind,
    since: Instant,
    /// When it is to be cancelled.
    cancel: Option<Instant>,
}

/// Where an agent dies: at the pass of a failpoint, or at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Death {
    At(&'static str, u32),
    After(Duration),
}

/// The deaths to come: every failpoint comes up before one comes again, and moments between them.
struct Deck {
    dice: StdRng,
    left: Vec<&'static str>,
}

impl Deck {
    fn draw(&mut self) -> Death {
        if self.dice.random_range(0..8) == 0 {
            return Death::After(Duration::from_millis(self.dice.random_range(0..1_500)));
        }
        if self.left.is_empty() {
            self.left = failpoint::ALL.to_vec();
            self.left.shuffle(&mut self.dice);
        }
        let name = self.left.pop().expect("it was filled");
        let most = match name.split_once('.') {
            // Once, when an agent starts.
            Some(("journal", "rewriting")) => 1,
            Some(("journal" | "log" | "events", _)) => 4,
            _ => 2,
        };
        Death::At(name, self.dice.random_range(1..=most))
    }
}

struct Trial {
    fleet: Fleet,
    asks: Client,
    deck: Deck,
    kinds: Vec<Kind>,
    open: Vec<Open>,
    armed: BTreeMap<String, (Death, Instant)>,
    /// Deaths by failpoint; those at a moment have no name.
    deaths: BTreeMap<&'static str, u32>,
    ended: BTreeMap<&'static str, u32>,
}

impl Trial {
    fn new(seed: u64) -> Self {
        let fleet = Fleet::start(&Plan::default());
        fs::create_dir(fleet.work().join("marks")).expect("made");
        fs::create_dir(fleet.work().join("code")).expect("made");
        fs::write(fleet.work().join("code/many"), "40").expect("written");
        let asks = Client::new(fleet.context(), 0);
        let deck = Deck {
            dice: StdRng::seed_from_u64(seed),
            left: Vec::new(),
        };
        let mut trial = Self {
            fleet,
            asks,
            deck,
            kinds: Vec::new(),
            open: Vec::new(),
            armed: BTreeMap::new(),
            deaths: BTreeMap::new(),
            ended: BTreeMap::new(),
        };
        for node in trial.fleet.nodes() {
            trial.fleet.kill(&[&node]);
            trial.revive(&node);
        }
        trial
    }

    fn kills(&self) -> u32 {
        self.deaths.values().sum()
    }

    /// Starts a dead agent with its next death.
    fn revive(&mut self, node: &str) {
        let death = self.deck.draw();
        match death {
            Death::At(name, pass) => self.fleet.start_armed(node, &format!("{name}:{pass}")),
            Death::After(_) => self.fleet.start_one(node),
        }
        self.armed.insert(node.to_owned(), (death, Instant::now()));
    }

    /// Takes in the deaths of agents, and gives them those that are due.
    fn bury(&mut self) {
        for node in self.fleet.nodes() {
            let (death, since) = self.armed[&node];
            let name = if self.fleet.has_ended(&node) {
                let status = self.fleet.ended_with(&node);
                let Death::At(name, _) = death else {
                    panic!("{node} ended by itself: {status:?}")
                };
                assert_eq!(
                    std::os::unix::process::ExitStatusExt::signal(&status),
                    Some(9),
                    "{node} at {name}"
                );
                name
            } else {
                let due = if let Death::After(moment) = death {
                    moment
                } else {
                    ARMED
                };
                if since.elapsed() < due {
                    continue;
                }
                self.fleet.kill(&[&node]);
                // It comes up again, sooner or later.
                if let Death::At(name, _) = death {
                    self.deck.left.insert(0, name);
                }
                ""
            };
            *self.deaths.entry(name).or_default() += 1;
            self.revive(&node);
        }
    }

    fn submit(&mut self) {
        if self.kinds.is_empty() {
            self.kinds = KINDS.to_vec();
            self.kinds.shuffle(&mut self.deck.dice);
        }
        let kind = self.kinds.pop().expect("it was filled");
        let marks = format!("MARKS={}", self.fleet.work().join("marks").display());
        let (nodes, script) = (kind.nodes.to_string(), format!("{STAMP}{}", kind.script));
        let code: &[&str] = if kind.code_dir {
            &["--code", "code"]
        } else {
            &["--no-code"]
        };
        let words = [
            "--nodes", &nodes, "--env", &marks, "--", "sh", "-c", &script,
        ];
        let id = self.fleet.submit(&[code, &words].concat());
        let moment = Duration::from_millis(self.deck.dice.random_range(300..2_500));
        let cancel = (kind.state == "Cancelled").then(|| Instant::now() + moment);
        self.open.push(Open {
            id,
            kind,
            since: Instant::now(),
            cancel,
        });
    }

    /// Takes in the jobs that have ended, and judges each.
    #[track_caller]
    fn reap(&mut self) {
        let mut open = std::mem::take(&mut self.open);
        for job in &mut open {
            if job.cancel.take_if(|at| Instant::now() > *at).is_some() {
                self.fleet.mlctl(&["cancel", &job.id]).expect(0);
            }
        }
        open.retain(|job| {
            let done = self.is_done(job);
            if done {
                *self.ended.entry(job.kind.name).or_default() += 1;
            }
            assert!(
                done || job.since.elapsed() < DONE,
                "job {} ({}) is not done: {:#}",
                job.id,
                job.kind.name,
                self.fleet.job(&job.id).0
            );
            !done
        });
        self.open = open;
    }

    /// Has it ended, and is all of its log there? Whatever is wrong with it for good is the end of the test.
    #[track_caller]
    fn is_done(&mut self, job: &Open) -> bool {
        let found = self.asks.get(&job.id).expect("the coordinators are whole");
        let (id, kind) = (&job.id, job.kind);
        assert!(
            found.attempts.len() <= 1,
            "job {id} ({}) was started again: {:?}",
            kind.name,
            found.attempts
        );
        let over = ["Completed", "Failed", "Cancelled", "TimedOut"].contains(&found.state.as_str());
        if !over {
            return false;
        }
        let code = found
            .outcome
            .as_ref()
            .map_or(-1, |outcome| i64::from(outcome.exit_code));
        assert_eq!(
            (found.state.as_str(), code),
            (kind.state, kind.code),
            "job {id} ({}): {:?} {:?}",
            kind.name,
            found.outcome,
            found.attempts
        );
        // One that is cancelled early has said less, or nothing.
        let early = kind.state == "Cancelled";
        let lines = self.fleet.lines(id);
        let complete = (0..kind.nodes).all(|rank| {
            let tag = format!("[{rank}] line ");
            let said: Vec<&str> = lines
                .iter()
                .filter_map(|line| line.strip_prefix(&tag))
                .collect();
            let wrong = said
                .iter()
                .zip(1..)
                .find(|(line, number)| **line != number.to_string());
            assert_eq!(
                wrong, None,
                "job {id} ({}): the first wrong line of rank {rank}",
                kind.name
            );
            let most = kind.lines as usize;
            assert!(
                said.len() <= most,
                "job {id} ({}): {} lines of rank {rank}",
                kind.name,
                said.len()
            );
            said.len() == most || early
        });
        let strange = lines.iter().find(|line| !line.contains("] line "));
        assert_eq!(strange, None, "job {id} ({})", kind.name);
        complete
    }

    #[track_caller]
    fn nothing_is_wrong(&self) {
        let wrong = fs::read_to_string(self.fleet.work().join("marks/wrong"));
        assert!(wrong.is_err(), "{wrong:?}");
    }
}

#[test]
fn agents_killed_at_random_failpoints_cost_nothing() {
    let seed = seed();
    let wanted = if full() { KILLS_FULL } else { KILLS };
    let mut trial = Trial::new(seed);
    while trial.kills() < wanted {
        trial.bury();
        if trial.open.len() < OPEN {
            trial.submit();
        }
        trial.reap();
        trial.nothing_is_wrong();
        std::thread::sleep(Duration::from_millis(10));
    }
    for node in trial.fleet.nodes() {
        trial.fleet.signal(&node, Signal::SIGKILL);
        trial.fleet.ended_with(&node);
        trial.fleet.start_one(&node);
    }
    trial.fleet.wait_whole();
    while !trial.open.is_empty() {
        trial.reap();
    }
    trial.nothing_is_wrong();
    until(
        "nothing of any job is left",
        Duration::from_secs(20),
        || {
            let nodes = trial.fleet.nodes();
            nodes
                .iter()
                .all(|node| trial.fleet.work_of(node).is_empty())
                .then_some(())
        },
    );
    let never: Vec<&str> = failpoint::ALL
        .into_iter()
        // No job here starts again, so nothing is restored.
        .filter(|name| !name.starts_with("restore.") && !trial.deaths.contains_key(name))
        .collect();
    println!("{} kills: {:?}", trial.kills(), trial.deaths);
    println!(
        "{} jobs: {:?}",
        trial.ended.values().sum::<u32>(),
        trial.ended
    );
    println!("failpoints at which no agent died: {never:?}");
    assert!(!full() || never.is_empty(), "never: {never:?}");
}

/// It had laid everything out. The keeper that it did not come to ask for is asked for when it is back, and at once.
#[test]
fn an_agent_that_dies_before_it_asks_for_a_keeper_asks_when_it_is_back() {
    let mut fleet = Fleet::start(&Plan {
        nodes: 1,
        ..Plan::default()
    });
    for failpoint in ["prepare.plan", "keeper.asked"] {
        fleet.kill(&["n1"]);
        fleet.start_armed("n1", failpoint);
        let id = fleet.submit(&["--no-code", "--", "sh", "-c", "exit 5"]);
        fleet.ended_with("n1");
        fleet.start_one("n1");
        let begun = Instant::now();
        let job = fleet.ended(&id, Duration::from_secs(20));
        assert_eq!(
            (job.state(), job.exit_code(), job.attempts().len()),
            ("Failed", 5, 1),
            "{failpoint}: {:#}",
            job.0
        );
        let took = begun.elapsed();
        assert!(took < Duration::from_secs(4), "{failpoint}: {took:?}");
    }
}
