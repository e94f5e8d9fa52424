//! What clients do while something fails: submits that wait, submits that run, cancels and reads, each noted in a ledger.
//! Does NOT fail by itself: what is wrong is in the ledger.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use mlctl_proto::api::Job;
use mlctl_proto::spec::JobSpec;
use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};

use super::Fleet;
use super::client::{Client, Key};
use super::ledger::{Act, Ledger, Listed, Submit};

/// Between two operations of one client.
const PACE: Duration = Duration::from_millis(10);

/// Clients that work at the same time, each with its own connection, place in the list of coordinators, and chance.
pub struct Load {
    workers: Vec<Worker>,
}

struct Worker {
    client: Client,
    dice: StdRng,
    name: String,
    work: std::path::PathBuf,
    /// Acknowledged, not yet cancelled, never to run.
    waiting: Vec<String>,
}

/// A job that waits for ever, as long as somebody holds every GPU.
pub fn held(name: &str) -> JobSpec {
    let mut spec = JobSpec::new(vec!["true".to_owned()]);
    spec.name = Some(name.to_owned());
    spec.gpus = 1;
    spec
}

/// A job that writes its name into `starts`, and into `doubles` if another process of it is still there.
pub fn probe(name: &str, work: &Path) -> JobSpec {
    let dir = work.display();
    let script = format!(
        "exec 9>>{dir}/{name}.lock; flock -n 9 || echo {name} >>{dir}/doubles; echo {name} >>{dir}/starts; sleep 0.05"
    );
    let mut spec = JobSpec::new(["sh", "-c", &script].map(str::to_owned).to_vec());
    spec.name = Some(name.to_owned());
    spec
}

/// The job as a ledger knows it.
pub fn listed(job: &Job) -> Listed {
    Listed {
        id: job.id.clone(),
        name: job.name.clone(),
        state: job.state.clone(),
    }
}

impl Load {
    /// `count` clients of `fleet`, whose chance comes from `seed`.
    pub fn new(fleet: &Fleet, count: usize, seed: u64) -> Self {
        let worker = |number: usize| Worker {
            client: Client::new(fleet.context(), number),
            dice: StdRng::seed_from_u64(seed ^ (number as u64 + 1) << 32),
            name: format!("w{number}"),
            work: fleet.work(),
            waiting: Vec::new(),
        };
        Self {
            workers: (0..count).map(worker).collect(),
        }
    }

    /// Lets the clients work while `meanwhile` goes on, and each end what it has begun. Returns what they were told.
    ///
    /// # Panics
    /// As `meanwhile` does.
    pub fn during<T>(&mut self, meanwhile: impl FnOnce() -> T) -> (T, Ledger) {
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let over = &over;
            let running: Vec<_> = (self.workers.iter_mut())
                .map(|worker| scope.spawn(move || worker.work_until(over)))
                .collect();
            // A panic of `meanwhile` must not leave the workers running: the scope waits for them.
            let end = End(over);
            let outcome = meanwhile();
            drop(end);
            let mut ledger = Ledger::default();
            for worker in running {
                match worker.join() {
                    Ok(told) => ledger.merge(told),
                    Err(_) => ledger.wrong.push("a client panicked".to_owned()),
                }
            }
            (outcome, ledger)
        })
    }

    /// Cancels every job that is still waiting; returns what was told.
    pub fn cancel_waiting(&mut self) -> Ledger {
        let mut ledger = Ledger::default();
        for worker in &mut self.workers {
            let all = std::mem::take(&mut worker.waiting);
            if !all.is_empty() {
                worker.cancel(&mut ledger, all);
            }
        }
        ledger
    }
}

/// Says that it is over, also when it is dropped by a panic.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Worker {
    fn work_until(&mut self, over: &AtomicBool) -> Ledger {
        let mut ledger = Ledger::default();
        while !over.load(Ordering::Relaxed) {
            match self.dice.random_range(0..100) {
                0..50 => self.submit(&mut ledger, false),
                50..60 => self.submit(&mut ledger, true),
                60..80 => self.cancel_some(&mut ledger),
                80..95 => self.look(&mut ledger),
                _ => self.page(&mut ledger),
            }
            std::thread::sleep(PACE);
        }
        ledger
    }

    fn key(&mut self) -> Key {
        let mut key = [0; 16];
        self.dice.fill_bytes(&mut key);
        key
    }

    fn submit(&mut self, ledger: &mut Ledger, probing: bool) {
        let key = self.key();
        let name = format!("{}-{:016x}", self.name, u64::from_le_bytes(half(&key)));
        let spec = if probing {
            probe(&name, &self.work)
        } else {
            held(&name)
        };
        let spec = spec.canonical_json();
        let begun = Instant::now();
        let answer = self.client.submit(key, &spec);
        let mut submit = Submit {
            key,
            name,
            spec,
            job: None,
            probe: probing,
        };
        match answer {
            Ok(reply) => {
                if !probing {
                    self.waiting.push(reply.job.clone());
                }
                note(
                    ledger,
                    format!("submit of {}", reply.job),
                    begun,
                    reply.index,
                    true,
                );
                submit.job = Some(reply.job);
            }
            Err(refusal) => ledger.wrong.push(format!(
                "no client may be left without an answer: submit: {refusal}"
            )),
        }
        ledger.submits.push(submit);
    }

    fn cancel_some(&mut self, ledger: &mut Ledger) {
        let count = self.dice.random_range(1..=3).min(self.waiting.len());
        let some: Vec<String> = (0..count)
            .map(|_| {
                let place = self.dice.random_range(0..self.waiting.len());
                self.waiting.swap_remove(place)
            })
            .collect();
        if !some.is_empty() {
            self.cancel(ledger, some);
        }
    }

    fn cancel(&mut self, ledger: &mut Ledger, jobs: Vec<String>) {
        let key = self.key();
        let begun = Instant::now();
        match self.client.cancel(key, jobs.clone()) {
            Ok(reply) => {
                note(
                    ledger,
                    format!("cancel of {jobs:?}"),
                    begun,
                    reply.index,
                    true,
                );
                if !reply.already_ended.is_empty() {
                    let early = reply.already_ended;
                    ledger
                        .wrong
                        .push(format!("{early:?} ended before they were cancelled"));
                }
                ledger.cancelled.extend(reply.cancelled);
            }
            Err(refusal) => ledger.wrong.push(format!(
                "no client may be left without an answer: cancel: {refusal}"
            )),
        }
    }

    /// A read that began after an acknowledgement shows it.
    fn look(&mut self, ledger: &mut Ledger) {
        let mut acknowledged = ledger
            .submits
            .iter()
            .rev()
            .filter_map(|one| one.job.as_ref());
        let Some(id) = acknowledged.next().cloned() else {
            return;
        };
        let begun = Instant::now();
        match self.client.get(&id) {
            Ok(job) => {
                note(ledger, format!("show of {id}"), begun, job.index, false);
                let gone = ["Stopping", "Cancelled"].contains(&job.state.as_str());
                if ledger.cancelled.contains(&id) && !gone {
                    ledger.wrong.push(format!(
                        "{id} was cancelled, a later read shows {}",
                        job.state
                    ));
                }
            }
            Err(refusal) => ledger
                .wrong
                .push(format!("{id} was acknowledged, a later read: {refusal}")),
        }
    }

    fn page(&mut self, ledger: &mut Ledger) {
        let after = self.waiting.last().cloned().unwrap_or_default();
        let begun = Instant::now();
        match self.client.page(&after, 20) {
            Ok(reply) => note(
                ledger,
                format!("list after {after}"),
                begun,
                reply.index,
                false,
            ),
            Err(refusal) => ledger.wrong.push(format!(
                "no client may be left without an answer: list: {refusal}"
            )),
        }
    }
}

fn half(key: &Key) -> [u8; 8] {
    let mut half = [0; 8];
    half.copy_from_slice(&key[..8]);
    half
}

fn note(ledger: &mut Ledger, what: String, begun: Instant, index: u64, write: bool) {
    let ended = Instant::now();
    ledger.acts.push(Act {
        what,
        begun,
        ended,
        index,
        write,
    });
}
