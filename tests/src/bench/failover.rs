//! How long nothing can be written after the leader is killed: ours beside etcd's, kill by kill in turn, under a steady load of writes.
//! A client tries again inside its call, the same way on both sides. Does NOT cut networks or freeze processes.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use mlctl_proto::limits::{CLIENT_RETRY_MS, CLIENT_TRY_MS};
use serde_json::{Map, json};
use tokio::sync::{Mutex, mpsc};

use super::report::Report;
use super::samples::Samples;
use super::side::{Connection, Side};
use crate::peers::Etcd;
use crate::process::{Cluster, machine, until};

/// Between two writes.
const EVERY: Duration = Duration::from_millis(10);
/// Load before a kill, and after it when all is well again.
const AROUND: Duration = Duration::from_millis(700);
/// A gap ends within this, or the figure is this.
const LONGEST: Duration = Duration::from_secs(15);
/// After a round over all members without an answer, so that an election can end.
const PAUSE: Duration = Duration::from_millis(25);

/// One client for a side: a connection to each member, kept while it works.
struct Client {
    side: Side,
    connections: Vec<Mutex<Option<Connection>>>,
    preferred: AtomicUsize,
}

/// Kills each side's leader `kills` times.
///
/// # Errors
/// When a side cannot be had, or does not come back.
pub fn run(kills: usize) -> Result<()> {
    let report = Report::begin("failover");
    let cluster = Cluster::start(1, 1);
    super::release(&cluster)?;
    super::submits::hold_the_gpu(&cluster);
    let mut etcd = Etcd::start(&cluster.dir())?;
    let runtime = super::runtime()?;
    let clients = [
        Arc::new(Client::new(Side::etcd(&etcd))),
        Arc::new(Client::new(Side::ours(&cluster)?)),
    ];
    let mut gaps = [Vec::new(), Vec::new()];
    for kill in 0..kills {
        for turn in 0..2 {
            let who = (kill + turn) % 2;
            let client = Arc::clone(&clients[who]);
            let gap = if who == 0 {
                let leader = runtime.block_on(etcd.leader())?;
                let gap = runtime.block_on(gap(client, || etcd.kill(leader)))?;
                etcd.restart(leader)?;
                runtime.block_on(etcd.leader())?;
                gap
            } else {
                let leader = cluster.leader().pid;
                let gap = runtime.block_on(gap(client, || {
                    machine::kill(leader);
                    Ok(())
                }))?;
                whole_again(&cluster, leader);
                gap
            };
            gaps[who].push(gap.as_secs_f64() * 1000.0);
        }
        let [theirs, ours] = [&gaps[0], &gaps[1]].map(|all| all.last().copied().unwrap_or(0.0));
        eprintln!(
            "failover: {} of {kills}: mlctl {ours:.0} ms, etcd {theirs:.0} ms",
            kill + 1
        );
    }
    let mut figures = Map::new();
    let mut table =
        String::from("| write gap, ms | p50 | lowest | highest | kills |\n|---|---|---|---|---|\n");
    for who in [1, 0] {
        let name = clients[who].side.name();
        let samples = Samples(vec![gaps[who].clone()]);
        table += &format!(
            "| {name} | {:.0} | {:.0} | {:.0} | {kills} |\n",
            samples.percentile(50.0),
            samples.percentile(0.0),
            samples.percentile(100.0)
        );
        figures.insert(name.to_owned(), json!({ "gaps_ms": gaps[who] }));
    }
    report.end(figures, &table)
}

/// The killed coordinator runs again and all three know a leader; a little time for it to catch up.
fn whole_again(cluster: &Cluster, killed: i32) {
    until("all coordinators", Duration::from_secs(30), || {
        let daemons = cluster.daemons();
        let coordinators: Vec<_> = daemons
            .iter()
            .filter(|one| one.role == "coordinator")
            .collect();
        let alive = coordinators
            .iter()
            .all(|one| one.pid > 1 && one.pid != killed);
        (alive && coordinators.iter().any(|one| one.leader)).then_some(())
    });
    std::thread::sleep(Duration::from_secs(1));
}

/// The longest time between two acknowledgements around a kill.
async fn gap(client: Arc<Client>, kill: impl FnOnce() -> Result<()>) -> Result<Duration> {
    let (acknowledged, mut acknowledgements) = mpsc::unbounded_channel::<Instant>();
    let load = tokio::spawn(async move {
        let mut clock = tokio::time::interval(EVERY);
        loop {
            clock.tick().await;
            let (client, acknowledged) = (Arc::clone(&client), acknowledged.clone());
            tokio::spawn(async move {
                if client.write().await.is_ok() {
                    // Whoever does not listen any more has its figure.
                    let _ = acknowledged.send(Instant::now());
                }
            });
        }
    });
    tokio::time::sleep(AROUND).await;
    let before = drain(&mut acknowledgements);
    ensure!(
        before.len() > 20,
        "only {} writes before the kill",
        before.len()
    );
    let killed = Instant::now();
    tokio::task::block_in_place(kill)?;
    let mut all: Vec<Instant> = before;
    let mut well_since = None;
    while killed.elapsed() < LONGEST {
        tokio::time::sleep(Duration::from_millis(50)).await;
        all.extend(drain(&mut acknowledgements));
        let last = all
            .last()
            .copied()
            .context("there was one before the kill")?;
        // Answers that were under way come just after the kill: well is who has gone on answering for a while.
        let well = last > killed + Duration::from_millis(20)
            && last.elapsed() < Duration::from_millis(150);
        well_since = well_since
            .filter(|_| well)
            .or_else(|| well.then(Instant::now));
        if killed.elapsed() > AROUND
            && well_since.is_some_and(|since: Instant| since.elapsed() > AROUND)
        {
            break;
        }
    }
    load.abort();
    all.sort();
    let after = all.iter().position(|at| *at >= killed).unwrap_or(all.len());
    let around = &all[after.saturating_sub(1)..];
    let longest = around.windows(2).map(|pair| pair[1] - pair[0]).max();
    Ok(longest.unwrap_or(LONGEST))
}

fn drain(acknowledgements: &mut mpsc::UnboundedReceiver<Instant>) -> Vec<Instant> {
    std::iter::from_fn(|| acknowledgements.try_recv().ok()).collect()
}

impl Client {
    fn new(side: Side) -> Self {
        let connections = side.addresses().iter().map(|_| Mutex::new(None)).collect();
        Self {
            side,
            connections,
            preferred: AtomicUsize::new(0),
        }
    }

    /// One write under one key, tried on one member after the other until it is acknowledged.
    async fn write(&self) -> Result<()> {
        let (key, began) = (rand::random(), Instant::now());
        let mut at = self.preferred.load(Ordering::Relaxed);
        for tries in 1.. {
            let attempt =
                tokio::time::timeout(Duration::from_millis(CLIENT_TRY_MS), self.once(at, key));
            if let Ok(Ok(())) = attempt.await {
                self.preferred.store(at, Ordering::Relaxed);
                return Ok(());
            }
            ensure!(
                began.elapsed().as_millis() < u128::from(CLIENT_RETRY_MS),
                "no answer in time"
            );
            at = (at + 1) % self.connections.len();
            if tries % self.connections.len() == 0 {
                tokio::time::sleep(PAUSE).await;
            }
        }
        Ok(())
    }

    async fn once(&self, at: usize, key: [u8; 16]) -> Result<()> {
        let mut connection = self.connection(at).await?;
        if let Err(status) = connection.write(key).await {
            // It dials anew at the next try.
            *self.connections[at].lock().await = None;
            return Err(status.into());
        }
        Ok(())
    }

    async fn connection(&self, at: usize) -> Result<Connection> {
        let mut held = self.connections[at].lock().await;
        if let Some(connection) = &*held {
            return Ok(connection.clone());
        }
        let connection = self.side.connect(&self.side.addresses()[at]).await?;
        *held = Some(connection.clone());
        Ok(connection)
    }
}
