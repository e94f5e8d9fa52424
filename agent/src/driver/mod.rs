//! The loop that feeds the core and does what it says. One event at a time; whatever waits for somebody has its own task and deadline.
//! Does NOT decide: that is `core`.

mod attempt;
mod checkpoints;
mod keepers;
mod memory;
mod notify;
mod place;
mod prepare;
mod restart;
mod restore;
mod sealing;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use mlctl_blobs::Store;
use mlctl_proto::agent::{ProbeResult, agent_message};
use mlctl_proto::ids::{Epoch, JobId};
use mlctl_runtime::shutdown::Shutdown;
use tokio::sync::{mpsc, watch};
use tracing::{info, warn};

use crate::boottime;
use crate::bulk::Bulk;
use crate::config::Config;
use crate::copies::Vault;
use crate::core::{Action, Core, Event, Recovered, Start};
use crate::devices::dirt::Devices;
use crate::devices::watch::look;
use crate::dirs::{Dirs, attempts_on_disk};
use crate::failpoint;
use crate::journal::{Journal, JournalError};
use crate::launch::cpus::Topology;
use crate::link::copies::{CopyOrder, SealPart};
use crate::link::{Leader, Outgoing, Relay};
use crate::ram;
use crate::witness::{Question, ask};
use attempt::Order;
pub(crate) use restart::recover;

/// Events that may wait for the core.
pub(crate) const INPUTS: usize = 4_096;
/// Orders that may wait for one attempt's task. The core gives a handful; the rest is for words of the keepers of other nodes.
const ORDERS: usize = 256;

/// What reaches the driver.
#[derive(Debug)]
// One at a time, and moved once: their size does not matter.
#[allow(clippy::large_enum_variant)]
pub(crate) enum Input {
    /// A coordinator was dialled; what it is to be told goes here.
    LinkUp {
        /// Dropping it ends the session.
        outgoing: mpsc::Sender<Outgoing>,
    },
    /// Something for the core.
    Core(Event),
    /// The keeper of another node of an MPI job speaks.
    Relayed(Relay),
    /// The keeper of this node speaks to one of those.
    Relay(Relay),
    /// The leader wants to know whether a silent node is there.
    Probe(Question),
    /// Somebody there answers, or nobody does.
    Probed(ProbeResult),
    /// The leader wants something of the copies of this node, or says something of them.
    CopyOrder(CopyOrder),
    /// Another node of an attempt completed a checkpoint.
    SealPart(SealPart),
    /// What the leader is to be told of copies.
    Copies(agent_message::What),
}

/// What every attempt's task needs.
pub(crate) struct Context {
    /// This program's path.
    pub(crate) program: PathBuf,
    pub(crate) config: Config,
    /// Where the devices and the processors are; read when the agent starts.
    pub(crate) topology: Topology,
    pub(crate) dirs: Dirs,
    pub(crate) store: Store,
    pub(crate) leader: watch::Receiver<Option<Leader>>,
    pub(crate) inputs: mpsc::Sender<Input>,
    pub(crate) bulk: Bulk,
    pub(crate) devices: Arc<Devices>,
    /// Parts of checkpoints, of this node and of others.
    pub(crate) vault: Vault,
}

impl Context {
    /// Tells the core. Without a core the agent is ending, and nothing needs to be told.
    pub(crate) async fn tell(&self, event: Event) {
        let _ = self.inputs.send(Input::Core(event)).await;
    }
}

/// The agent's hands.
pub(crate) struct Driver {
    core: Core,
    journal: Journal,
    context: Arc<Context>,
    outgoing: Option<mpsc::Sender<Outgoing>>,
    attempts: BTreeMap<(JobId, Epoch), mpsc::Sender<Order>>,
    /// What the core calls dirty.
    dirty: watch::Sender<BTreeSet<String>>,
}

impl Driver {
    /// Writes the journal anew and begins to re-adopt what was running.
    ///
    /// # Errors
    /// When the journal cannot be written.
    pub(crate) async fn start(
        id: &str,
        recovered: Recovered,
        context: Context,
    ) -> Result<Self, JournalError> {
        let (core, actions) = Core::new(context.config.name.clone(), recovered, boottime::now());
        let journal = Journal::start(context.dirs.root(), id, &core.records())?;
        let context = Arc::new(context);
        memory::clear(&context);
        let mut driver = Self {
            core,
            journal,
            context,
            outgoing: None,
            attempts: BTreeMap::new(),
            dirty: watch::Sender::new(BTreeSet::new()),
        };
        driver.name_dirty();
        driver.look_at_devices();
        driver.execute_all(actions).await?;
        driver.go_on_sealing();
        Ok(driver)
    }

    /// Runs until `shutdown`. Keepers and their ranks go on without us.
    ///
    /// # Errors
    /// When the journal fails: nothing may be promised any more.
    pub(crate) async fn run(
        mut self,
        mut inputs: mpsc::Receiver<Input>,
        shutdown: Shutdown,
    ) -> Result<(), JournalError> {
        loop {
            let deadline = self.core.next_deadline();
            let event = tokio::select! {
                biased;
                () = shutdown.wait() => break,
                ticket = self.journal.synced() => Event::JournalSynced { ticket: ticket? },
                input = inputs.recv() => match input {
                    Some(Input::Core(event)) => {
                        if event == Event::LinkDown {
                            self.outgoing = None;
                        }
                        event
                    }
                    Some(Input::LinkUp { outgoing }) => {
                        self.outgoing = Some(outgoing);
                        failpoint::hit("link.up");
                        Event::Dialled
                    }
                    Some(other) => {
                        self.pass_on(other);
                        continue;
                    }
                    None => break,
                },
                () = until(deadline) => Event::Tick,
            };
            let actions = self.core.step(boottime::now(), event);
            self.execute_all(actions).await?;
            self.name_dirty();
            if self.journal.is_large() {
                self.journal.rewrite(self.core.records()).await?;
            }
        }
        self.journal.close().await;
        Ok(())
    }

    /// What the core does not need to hear.
    fn pass_on(&mut self, input: Input) {
        match input {
            Input::Relay(relay) => self.send(Outgoing::Relay(relay)),
            Input::Probe(question) => drop(tokio::spawn(probe(self.context.clone(), question))),
            Input::Probed(result) => self.send(Outgoing::Probed(result)),
            Input::Relayed(relay) => self.relayed(relay),
            Input::CopyOrder(CopyOrder::Replicate(order)) => self.context.vault.replicate(order),
            Input::CopyOrder(CopyOrder::Upload(order)) => self.context.vault.upload(order),
            Input::CopyOrder(CopyOrder::Answer(answer)) => self.context.vault.answered(answer),
            Input::SealPart(order) => self.seal_part(order),
            Input::Copies(what) => self.send(Outgoing::Copies(what)),
            // These go to the core before.
            Input::Core(_) | Input::LinkUp { .. } => {}
        }
    }

    /// Has an attempt's task seal its part, or looks for it where there is none any more.
    fn seal_part(&mut self, order: SealPart) {
        let key = (order.job, order.epoch);
        match self.attempts.get(&key) {
            Some(orders) => give(key, orders, Order::SealPart(order)),
            None => drop(tokio::spawn(checkpoints::seal_part(
                self.context.clone(),
                order,
            ))),
        }
    }

    /// What an agent before this one was sealing when it died, and what it left in memory. Of attempts that are adopted all is looked at anyway.
    fn go_on_sealing(&self) {
        for (job, epoch) in attempts_on_disk(&self.context.dirs) {
            let folder = self.context.dirs.attempt(job, epoch);
            let cut_short = sealing::was_cut_short(&folder);
            let goes_on = cut_short || ram::is_named(&folder);
            if !goes_on || self.attempts.contains_key(&(job, epoch)) {
                continue;
            }
            let context = self.context.clone();
            tokio::spawn(async move {
                // Of what is in memory this is the last look.
                checkpoints::go_on_sealing(context.clone(), (job, epoch)).await;
                memory::let_go(context, (job, epoch)).await;
            });
        }
    }

    /// The end of an attempt is on the disk. At the start of the agent it has no task any more, and [`Driver::go_on_sealing`] frees its memory.
    fn release(&mut self, (job, epoch): (JobId, Epoch)) {
        let Some(orders) = self.attempts.remove(&(job, epoch)) else {
            tokio::spawn(keepers::release(self.context.dirs.attempt(job, epoch)));
            return;
        };
        give((job, epoch), &orders, Order::Release);
        tokio::spawn(memory::let_go(self.context.clone(), (job, epoch)));
    }

    /// Looks at devices until this driver ends.
    fn look_at_devices(&self) {
        let (context, dirty) = (self.context.clone(), self.dirty.subscribe());
        tokio::spawn(async move {
            let devices = context.devices.clone();
            look(devices, dirty, |event| context.tell(event)).await;
        });
    }

    fn name_dirty(&self) {
        let core = self.core.dirty();
        self.dirty.send_if_modified(|named| {
            let changed = named.len() != core.len() || !named.iter().eq(self.core.dirty());
            if changed {
                *named = core.cloned().collect();
            }
            changed
        });
    }

    async fn execute_all(&mut self, actions: Vec<Action>) -> Result<(), JournalError> {
        for action in actions {
            self.execute(action).await?;
        }
        Ok(())
    }

    async fn execute(&mut self, action: Action) -> Result<(), JournalError> {
        match action {
            Action::Journal { ticket, records } => {
                self.journal.append(records, Some(ticket)).await?
            }
            Action::JournalLazily { records } => self.journal.append(records, None).await?,
            Action::Send(message) => self.send(Outgoing::Core(message)),
            Action::Redial { why } => self.redial(&why),
            Action::Prepare(start) => {
                failpoint::hit("prepare.ordered");
                info!(job = %start.job, epoch = %start.epoch, name = start.job_name, "preparing");
                let (context, orders) = (self.context.clone(), self.orders(&start));
                tokio::spawn(attempt::begin(context, start, orders));
            }
            Action::Adopt(start) => {
                let (context, orders) = (self.context.clone(), self.orders(&start));
                tokio::spawn(attempt::adopt(context, start, orders));
            }
            Action::CancelPrepare { job, epoch } => self.order((job, epoch), Order::Cancel),
            Action::KeeperGo {
                job,
                epoch,
                rendezvous,
            } => {
                failpoint::hit("go.ordered");
                self.order((job, epoch), Order::Go(rendezvous));
            }
            Action::KeeperLease {
                job,
                epoch,
                confirmed_at,
            } => self.order((job, epoch), Order::Lease { confirmed_at }),
            Action::KeeperStop {
                job,
                epoch,
                grace_ms,
            } => {
                failpoint::hit("stop.ordered");
                self.order((job, epoch), Order::Stop { grace_ms });
            }
            Action::CheckDevices { job, epoch, uuids } => {
                tokio::spawn(check_devices(self.context.clone(), (job, epoch), uuids));
            }
            Action::ReleaseKeeper { job, epoch } => {
                failpoint::hit("release.ordered");
                self.release((job, epoch));
            }
            Action::Forget(keys) => {
                let vault = self.context.vault.clone();
                tokio::spawn(async move { vault.forget(keys).await });
            }
            Action::Announce(keys) => {
                let vault = self.context.vault.clone();
                tokio::spawn(async move { vault.announce(keys).await });
            }
            Action::SendInventory => self.send_inventory(),
            Action::Closed { job, epoch } => {
                info!(%job, %epoch, "the cluster has acknowledged the end")
            }
        }
        Ok(())
    }

    fn redial(&mut self, why: &str) {
        info!(why, "leaving this coordinator");
        self.outgoing = None;
    }

    fn send_inventory(&mut self) {
        for inventory in self.context.vault.inventory() {
            self.send(Outgoing::Copies(agent_message::What::Inventory(inventory)));
        }
    }

    /// Words between keepers are said again until they are answered: those that do not fit are left out.
    fn relayed(&mut self, relay: Relay) {
        let Some(orders) = self.attempts.get(&(relay.job, relay.epoch)) else {
            return;
        };
        match serde_json::from_slice(&relay.body) {
            Ok(what) => {
                let from = relay.node;
                let _ = orders.try_send(Order::Remote { from, what });
            }
            Err(error) => {
                warn!(job = %relay.job, %error, "another node sent what is no word of a keeper")
            }
        }
    }

    fn send(&mut self, message: Outgoing) {
        let Some(outgoing) = &self.outgoing else {
            return;
        };
        if outgoing.try_send(message).is_err() {
            // A leader that takes so little is of no use; what is unacknowledged is sent again to the next.
            warn!("the leader takes no more messages; leaving it");
            self.outgoing = None;
        }
    }

    /// The channel of orders for an attempt whose task begins.
    fn orders(&mut self, start: &Start) -> mpsc::Receiver<Order> {
        let (orders, receiver) = mpsc::channel(ORDERS);
        self.attempts.insert((start.job, start.epoch), orders);
        receiver
    }

    fn order(&mut self, key: (JobId, Epoch), order: Order) {
        if let Some(orders) = self.attempts.get(&key) {
            give(key, orders, order);
        }
    }
}

/// Asks a silent node for the leader. Whoever cannot ask says nothing.
async fn probe(context: Arc<Context>, question: Question) {
    if let Some(seen) = ask::seen(&question).await {
        let (id, node) = (question.id, question.node);
        info!(node, seen, "asked for a silent node");
        let result = ProbeResult { id, node, seen };
        // Without a driver the agent is ending.
        let _ = context.inputs.send(Input::Probed(result)).await;
    }
}

/// Says what is left on the devices of an attempt.
async fn check_devices(context: Arc<Context>, (job, epoch): (JobId, Epoch), uuids: Vec<String>) {
    let dirty = context.devices.settled(&uuids).await;
    for device in &dirty {
        warn!(%job, %epoch, device.uuid, device.why, "a device is still in use after the end of its job");
    }
    context
        .tell(Event::DevicesChecked { job, epoch, dirty })
        .await;
}

fn give((job, epoch): (JobId, Epoch), orders: &mpsc::Sender<Order>, order: Order) {
    match orders.try_send(order) {
        // Its task has ended: what it had to say about that is on its way.
        Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => {}
        Err(mpsc::error::TrySendError::Full(order)) => {
            warn!(%job, %epoch, ?order, "an attempt's task takes no orders; its keeper is not answering");
        }
    }
}

async fn until(deadline: Option<u64>) {
    match deadline {
        Some(deadline) => {
            tokio::time::sleep(Duration::from_millis(
                deadline.saturating_sub(boottime::now()),
            ))
            .await
        }
        None => std::future::pending().await,
    }
}
