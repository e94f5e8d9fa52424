//! The task of one attempt: prepares or re-adopts it, then carries words between its keeper and the core until it is released.
//! Does NOT decide: every order comes from the core, everything seen goes there.

use std::sync::Arc;
use std::time::Duration;

use mlctl_proto::ids::{Epoch, JobId};
use mlctl_proto::limits::GANG_READY_MS;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tracing::{Instrument, info_span, warn};

use super::checkpoints::{self, Checkpoints};
use super::{Context, keepers, prepare, restore};
use crate::checkpoints::seal::Life;
use crate::core::{BoottimeMs, Event, Rendezvous, Start};
use crate::failpoint;
use crate::keeper::protocol::Remote;
use crate::launch::port::PortLease;
use crate::link::copies::SealPart;

/// What the core wants of an attempt's task.
#[derive(Debug)]
pub(crate) enum Order {
    /// Give up preparing.
    Cancel,
    /// Start the ranks.
    Go(Rendezvous),
    /// A heartbeat was confirmed.
    Lease {
        /// When it was sent.
        confirmed_at: BoottimeMs,
    },
    /// End the ranks.
    Stop {
        /// Between TERM and KILL, milliseconds.
        grace_ms: u32,
    },
    /// The end is on disk.
    Release,
    /// Another node completed a checkpoint.
    SealPart(SealPart),
    /// The keeper of another node of an MPI job speaks.
    Remote {
        /// That node.
        from: String,
        /// What it says.
        what: Remote,
    },
}

/// What a task has in its hands.
pub(super) struct Task {
    pub(super) context: Arc<Context>,
    pub(super) start: Arc<Start>,
    pub(super) orders: mpsc::Receiver<Order>,
    /// Held until the ranks start.
    pub(super) lease: Option<PortLease>,
    pub(super) master_port: u16,
    pub(super) checkpoints: Checkpoints,
}

impl Task {
    pub(super) fn key(&self) -> (JobId, Epoch) {
        (self.start.job, self.start.epoch)
    }

    pub(super) async fn tell(&self, event: Event) {
        self.context.tell(event).await;
    }

    /// Reports every complete checkpoint that is there now that all ranks have ended; the core knows which are news.
    pub(super) async fn report_checkpoints(&self, life: Life) {
        self.checkpoints.end(&self.context, &self.start, life).await;
    }
}

/// Prepares the attempt and stays with its keeper.
pub(super) async fn begin(context: Arc<Context>, start: Arc<Start>, orders: mpsc::Receiver<Order>) {
    let span =
        info_span!("attempt", job = %start.job, epoch = %start.epoch, node = %context.config.name);
    if !start.traceparent.is_empty()
        && !mlctl_runtime::telemetry::trace_context::set_parent(&span, &start.traceparent)
    {
        warn!(job = %start.job, "the trace context of this job is malformed; its trace begins here");
    }
    let mut task = Task {
        context,
        start,
        orders,
        lease: None,
        master_port: 0,
        checkpoints: Checkpoints::default(),
    };
    async move {
        match task.prepare().await {
            Ok(connection) => {
                let (job, epoch) = task.key();
                keepers::tell_probe(&task, &connection.status).await;
                task.tell(Event::Prepared {
                    job,
                    epoch,
                    master_port: task.master_port,
                })
                .await;
                keepers::own(&mut task, connection).await;
            }
            Err(why) => {
                let (job, epoch) = task.key();
                task.tell(Event::PrepareFailed { job, epoch, why }).await;
            }
        }
        linger(task).await;
    }
    .instrument(span)
    .await;
}

impl Task {
    async fn prepare(&mut self) -> Result<crate::keeper::client::Connection, String> {
        let laying_out = lay_out(&self.context, &self.start);
        let laid = tokio::select! {
            laid = laying_out => laid?,
            () = cancelled(&mut self.orders) => return Err("stopped before it was prepared".into()),
        };
        self.master_port = laid.lease.as_ref().map_or(0, PortLease::port);
        self.lease = laid.lease;
        // From here on a keeper may be there: no giving up half way. What lies in the checkpoint directory before any rank runs is
        // looked at meanwhile.
        let (job, epoch) = (self.start.job, self.start.epoch);
        let starting = keepers::start(&self.context, job, epoch);
        let following = Checkpoints::follow(&self.context, &self.start, false);
        let (connection, checkpoints) = tokio::join!(starting, following);
        self.checkpoints = checkpoints;
        connection.map_err(|error| error.to_string())
    }
}

/// Everything that a keeper needs. A checkpoint takes as long as it takes, the rest does not.
async fn lay_out(context: &Context, start: &Start) -> Result<prepare::Laid, String> {
    prepare::make_folders(context, start).map_err(|error| error.to_string())?;
    restore::restore(context, start)
        .await
        .map_err(|error| error.to_string())?;
    let deadline = Duration::from_millis(GANG_READY_MS);
    match timeout(deadline, prepare::lay_out(context, start)).await {
        Ok(laid) => laid.map_err(|error| error.to_string()),
        Err(_) => Err(format!(
            "code and directories were not ready within {} s",
            deadline.as_secs()
        )),
    }
}

/// Waits for the order to give up. Other orders cannot come before a keeper is there.
async fn cancelled(orders: &mut mpsc::Receiver<Order>) {
    while let Some(order) = orders.recv().await {
        if matches!(order, Order::Cancel) {
            return;
        }
    }
    // The agent ends: the preparation is taken up again at the next start.
    std::future::pending().await
}

/// After a restart: finds the keeper of an attempt that the journal calls open.
pub(super) async fn adopt(context: Arc<Context>, start: Arc<Start>, orders: mpsc::Receiver<Order>) {
    let (job, epoch) = (start.job, start.epoch);
    let master_port = prepare::noted_port(&context.dirs.attempt(job, epoch));
    let mut task = Task {
        context,
        start,
        orders,
        lease: None,
        master_port,
        checkpoints: Checkpoints::default(),
    };
    match keepers::find_or_start(&task.context, job, epoch).await {
        keepers::Found::Alive(connection) => {
            task.checkpoints = Checkpoints::follow(&task.context, &task.start, true).await;
            failpoint::hit("adopt.connected");
            keepers::report_status(&task, &connection.status).await;
            keepers::own(&mut task, connection).await;
        }
        keepers::Found::Gone => {
            task.report_checkpoints(Life::EndedBadly).await;
            keepers::report_loss(&task).await;
        }
        keepers::Found::NeverStarted => task.tell(Event::KeeperNeverStarted { job, epoch }).await,
    }
    linger(task).await;
}

/// Nothing of it runs here any more. Until it is released other nodes may ask after its checkpoints, or have asked while its keeper was looked for.
async fn linger(task: Task) {
    let Task {
        context,
        mut orders,
        ..
    } = task;
    while let Some(order) = orders.recv().await {
        match order {
            Order::SealPart(order) => {
                drop(tokio::spawn(checkpoints::seal_part(context.clone(), order)));
            }
            Order::Release => return,
            Order::Cancel
            | Order::Go(_)
            | Order::Lease { .. }
            | Order::Stop { .. }
            | Order::Remote { .. } => {}
        }
    }
}
