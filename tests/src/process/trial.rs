//! A fleet under load that something happens to, again and again, and everything that must be true of it afterwards.
//! Does NOT decide what happens to it.

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

use mlctl_proto::api::Job;

use super::client::Client;
use super::fleet::{Fleet, Plan};
use super::ledger::{Ledger, Listed, wrong_starts};
use super::load::{Load, held, listed};
use super::until;

/// Clients at work at the same time.
const CLIENTS: usize = 4;
/// When every job that was started has to be done after a round.
const DONE: Duration = Duration::from_secs(20);

/// What a random run begins with: `MLCTL_TEST_SEED`, else a new one. It is printed.
///
/// # Panics
/// When the variable is no whole number.
pub fn seed() -> u64 {
    let seed = match std::env::var("MLCTL_TEST_SEED") {
        Ok(text) => text.parse().expect("MLCTL_TEST_SEED is a whole number"),
        Err(_) => rand::random(),
    };
    println!("seed {seed}; again with MLCTL_TEST_SEED={seed}");
    seed
}

/// A fleet under load, everything that its clients were told, and a client that asks in the end.
pub struct Trial {
    /// The fleet.
    pub fleet: Fleet,
    load: Load,
    told: Ledger,
    asks: Client,
    blockers: Vec<String>,
}

impl Trial {
    /// A fleet as `plan` says, with a GPU on each node, whose clients' chance comes from `seed`.
    ///
    /// # Panics
    /// When it does not come up.
    pub fn new(plan: Plan, seed: u64) -> Self {
        let fleet = Fleet::start(&Plan { gpus: 1, ..plan });
        let load = Load::new(&fleet, CLIENTS, seed);
        let mut asks = Client::new(fleet.context(), 0);
        // They hold every GPU, to the end: a fault of mlctl's own daemons costs no job anything.
        let nodes = u8::try_from(fleet.nodes().len()).expect("a handful of nodes");
        let blockers = (0..nodes)
            .map(|number| {
                let mut spec = held(&format!("blocker-{number}"));
                spec.command.0 = ["sleep", "1000"].map(str::to_owned).to_vec();
                let reply = asks.submit([number; 16], &spec.canonical_json());
                reply.expect("a whole fleet takes jobs").job
            })
            .collect();
        let mut trial = Self {
            fleet,
            load,
            told: Ledger::default(),
            asks,
            blockers,
        };
        let blockers = trial.blockers.clone();
        until("the blockers", DONE, || {
            let mut runs = |id: &String| trial.asks.get(id).is_ok_and(|job| job.state == "Running");
            blockers.iter().all(&mut runs).then_some(())
        });
        trial
    }

    /// Lets `meanwhile` happen under load, and checks everything once the fleet is whole again.
    ///
    /// # Panics
    /// When the fleet does not become whole, or anything is wrong with it; the text begins with what `meanwhile` returned.
    #[track_caller]
    pub fn round<T: std::fmt::Debug>(&mut self, meanwhile: impl FnOnce(&mut Fleet) -> T) -> T {
        let fleet = &mut self.fleet;
        let (outcome, told) = self.load.during(|| meanwhile(fleet));
        self.fleet.wait_whole();
        let wrong = self.wrong(told);
        assert!(wrong.is_empty(), "after {outcome:?}: {wrong:#?}");
        outcome
    }

    /// Acknowledged so far: submits, and everything.
    pub fn counts(&self) -> (usize, usize) {
        (self.told.submits.len(), self.told.acts.len())
    }

    /// Everything that is wrong with the cluster, given what it said before and in this round.
    fn wrong(&mut self, mut told: Ledger) -> Vec<String> {
        told.merge(self.load.cancel_waiting());
        let mut wrong = self.repeat_submits(&told);
        let probes: Vec<String> = (told.submits.iter())
            .filter(|submit| submit.probe)
            .map(|submit| submit.name.clone())
            .collect();
        self.told.merge(told);
        let jobs = self.settled(&probes);
        wrong.extend(
            self.told
                .contradictions(&jobs.values().cloned().collect::<Vec<_>>()),
        );
        let starts = fs::read_to_string(self.fleet.work().join("starts")).unwrap_or_default();
        let probes: Vec<&Listed> = probes.iter().filter_map(|name| jobs.get(name)).collect();
        wrong.extend(wrong_starts(&starts, &probes));
        wrong.extend(self.at_odds());
        if let Ok(doubles) = fs::read_to_string(self.fleet.work().join("doubles")) {
            wrong.push(format!("two processes of one job at once: {doubles}"));
        }
        for blocker in &self.blockers {
            let found = self.asks.get(blocker);
            let same = |job: &Job| job.state == "Running" && job.attempts.len() == 1;
            if !found.as_ref().is_ok_and(same) {
                wrong.push(format!("a job that ran all the time: {found:?}"));
            }
        }
        wrong
    }

    /// Coordinators that do not agree with the others on the state, by their own comparison of digests each second.
    fn at_odds(&mut self) -> Vec<String> {
        let hellos = self.fleet.hellos();
        let members = hellos.values().flat_map(|reply| &reply.members);
        let bad = members.filter(|one| ["ReadOnly", "Diverged"].contains(&one.condition.as_str()));
        bad.map(|one| format!("{one:?}")).collect()
    }

    /// Checks once more that all coordinators agree, after they have had the time to compare. Call it last.
    ///
    /// # Panics
    /// When they do not, or one of them has ended for it.
    #[track_caller]
    pub fn agree(mut self) {
        // Two comparisons.
        std::thread::sleep(Duration::from_millis(2_200));
        self.fleet.wait_whole();
        let wrong = self.at_odds();
        assert!(wrong.is_empty(), "{wrong:#?}");
    }

    /// The same submit under the same key is the same job, however often and whenever it comes.
    fn repeat_submits(&mut self, told: &Ledger) -> Vec<String> {
        let step = (told.submits.len() / 20).max(1);
        let again = told.submits.iter().step_by(step);
        let repeated = again.filter_map(|submit| {
            let reply = self.asks.submit(submit.key, &submit.spec);
            let same = reply
                .as_ref()
                .is_ok_and(|reply| Some(&reply.job) == submit.job.as_ref());
            (!same).then(|| format!("sent again: {:?} is {reply:?}", submit.job))
        });
        repeated.collect()
    }

    /// All jobs by name, once every probe has ended; or as they are when [`DONE`] has passed.
    fn settled(&mut self, probes: &[String]) -> BTreeMap<String, Listed> {
        let begun = Instant::now();
        loop {
            let all = self.asks.list().expect("a whole fleet lists its jobs");
            let count = all.len();
            let jobs: BTreeMap<String, Listed> = (all.iter().map(listed))
                .map(|job| (job.name.clone(), job))
                .collect();
            assert_eq!(count, jobs.len(), "a name is there twice");
            let done = |name: &String| jobs.get(name).is_none_or(|job| job.state == "Completed");
            if probes.iter().all(done) || begun.elapsed() > DONE {
                return jobs;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}
