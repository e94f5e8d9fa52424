//! Keepers as the driver sees them: asked for, found again, listened to, let go.
//! Does NOT start processes (the launcher does) and does NOT judge what a keeper says.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use mlctl_proto::ids::{Epoch, JobId};
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, info, warn};

use super::attempt::{Order, Task};
use super::{Context, Input};
use crate::bulk::{self, LogNews};
use crate::checkpoints::seal::Life;
use crate::core::{Event, KeeperStatus, RankEnd};
use crate::failpoint;
use crate::keeper::client::{Connection, KeeperError, connect};
use crate::keeper::protocol::{Exit, FENCES, FromKeeper, Phase, Remote, Status, ToKeeper};
use crate::keeper::sweep::kill_leftovers;
use crate::keeper::{IDENTITY, PLAN};
use crate::keeper::{Written, read_exits};
use crate::launcher::client::{self as launcher, LauncherError, start_keeper};
use crate::link::Relay;

/// A keeper that is there but silent is asked again after this.
const AGAIN: Duration = Duration::from_secs(1);
/// A keeper that was asked for just before the agent died, or a launcher that died, may be on its way.
const STARTING: Duration = Duration::from_secs(5);
/// Between two tries to reach a keeper that may be starting.
const STARTING_PAUSE: Duration = Duration::from_millis(50);
/// Between two tries to reach a launcher that is not there.
const LAUNCHER_PAUSE: Duration = Duration::from_millis(100);
/// A keeper takes a message within this, or its connection is given up.
const TAKE: Duration = Duration::from_secs(5);

/// Why there is no keeper.
#[derive(Debug, thiserror::Error)]
pub(super) enum StartError {
    /// The launcher.
    #[error("the keeper could not be started: {0}")]
    Launcher(#[from] LauncherError),
    /// It was started and does not answer.
    #[error("the keeper was started and does not answer: {0}")]
    Keeper(#[from] KeeperError),
}

/// What became of a keeper while the agent was away.
// One at a time, and moved once: their size does not matter.
#[allow(clippy::large_enum_variant)]
pub(super) enum Found {
    Alive(Connection),
    Gone,
    NeverStarted,
}

/// Has the launcher start the keeper of an attempt that is laid out, and connects to it. It takes connections by then.
pub(super) async fn start(
    context: &Context,
    job: JobId,
    epoch: Epoch,
) -> Result<Connection, StartError> {
    let folder = context.dirs.attempt(job, epoch);
    let socket = context.dirs.launcher_socket();
    let end = Instant::now() + STARTING;
    loop {
        match start_keeper(&socket, &folder).await {
            Ok(pid) => {
                failpoint::hit("keeper.asked");
                debug!(%job, %epoch, pid, "keeper started");
                break;
            }
            // It may have died and is started again in a moment.
            Err(LauncherError::Unreachable { .. }) if Instant::now() < end => {
                sleep(LAUNCHER_PAUSE).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
    let connection = connect(&folder).await?;
    failpoint::hit("keeper.connected");
    Ok(connection)
}

/// After a restart: finds the keeper of an attempt, or has it started if the agent died before it could ask for one.
pub(super) async fn find_or_start(context: &Context, job: JobId, epoch: Epoch) -> Found {
    let folder = context.dirs.attempt(job, epoch);
    // Who a keeper is lies there before it takes its first order: without that nothing of the attempt ever ran. Should one be on its way,
    // its lock refuses the second.
    if folder.join(PLAN).exists() && !folder.join(IDENTITY).exists() {
        match start(context, job, epoch).await {
            Ok(connection) => return Found::Alive(connection),
            Err(error) => info!(%job, %epoch, %error, "no second keeper was started"),
        }
    }
    find(&folder, true).await
}

/// Looks for the keeper of an attempt. Asks for ever while one is there and silent; `starting`: it may not be there yet.
pub(super) async fn find(folder: &Path, starting: bool) -> Found {
    let mut told = false;
    loop {
        match connect(folder).await {
            Ok(connection) => return Found::Alive(connection),
            Err(error) if error.is_gone() => match plan_age(folder) {
                None => return Found::NeverStarted,
                Some(age) if starting && age < STARTING => sleep(STARTING_PAUSE).await,
                Some(_) => return Found::Gone,
            },
            Err(error) => {
                if !std::mem::replace(&mut told, true) {
                    warn!(%error, "a keeper is there and cannot be spoken with; asking again");
                }
                sleep(AGAIN).await;
            }
        }
    }
}

/// How long ago the plan was written, which is just before a keeper is asked for. `None`: it was not.
fn plan_age(folder: &Path) -> Option<Duration> {
    let written = std::fs::metadata(folder.join(PLAN)).ok()?.modified().ok()?;
    // After a clock was set back nothing can be told from it: then no keeper is waited for.
    Some(
        SystemTime::now()
            .duration_since(written)
            .unwrap_or(Duration::MAX),
    )
}

/// Carries orders and words between the core and a keeper until it is released, lost, or the agent ends.
pub(super) async fn own(task: &mut Task, mut connection: Connection) {
    let mut ended = connection.status.all_ended();
    let vault = &task.context.vault;
    let here = vault.attempt_here(task.key(), connection.status.pid);
    if is_ending(&connection.status) {
        here.ends();
    }
    loop {
        tokio::select! {
            message = connection.receiver.recv() => match message {
                Some(message) => {
                    ended |= matches!(message, FromKeeper::AllEnded { .. });
                    if says_end(&message) {
                        here.ends();
                    }
                    heard(task, message).await;
                }
                None => match again(task, ended).await {
                    Some(renewed) => {
                        ended = renewed.status.all_ended();
                        if is_ending(&renewed.status) {
                            here.ends();
                        }
                        report_status(task, &renewed.status).await;
                        connection = renewed;
                    }
                    None => return,
                },
            },
            order = task.orders.recv() => {
                let message = match order {
                    None => return,
                    Some(Order::Release) => {
                        let_go(connection).await;
                        return;
                    }
                    // The keeper is there already; the core will tell it to stop.
                    Some(Order::Cancel) => continue,
                    Some(Order::SealPart(order)) => {
                        task.checkpoints.seal_part(&task.context, order).await;
                        continue;
                    }
                    Some(Order::Go(rendezvous)) => {
                        // Held to the last moment; the rank that binds the port is started next.
                        task.lease = None;
                        ToKeeper::Go { master_address: rendezvous.address, master_port: rendezvous.port }
                    }
                    // A keeper that knows no fences keeps no attempt that needs one.
                    Some(Order::Lease { .. }) if connection.protocol < FENCES => continue,
                    Some(Order::Lease { confirmed_at }) => ToKeeper::Lease { confirmed_at_ms: confirmed_at },
                    Some(Order::Stop { grace_ms }) => {
                        here.ends();
                        ToKeeper::Stop { grace_ms }
                    }
                    Some(Order::Remote { from, what }) => ToKeeper::Remote { from, what },
                };
                if timeout(TAKE, connection.sender.send(message)).await.is_err() {
                    let (job, epoch) = task.key();
                    warn!(%job, %epoch, "the keeper takes no orders");
                }
            }
        }
    }
}

/// Were the ranks of this keeper told to end?
fn is_ending(status: &Status) -> bool {
    let told = status.timed_out.is_some() || status.fenced.is_some();
    told || status.phase == Phase::Stopping
}

/// Does a keeper say that it has told its ranks to end? `TimedOut` comes with the notice, while they still have time to save.
fn says_end(message: &FromKeeper) -> bool {
    matches!(
        message,
        FromKeeper::TimedOut { .. } | FromKeeper::Fenced { .. }
    )
}

/// The connection broke: is the keeper still there?
async fn again(task: &Task, ended: bool) -> Option<Connection> {
    let (job, epoch) = task.key();
    match find(&task.context.dirs.attempt(job, epoch), false).await {
        Found::Alive(connection) => Some(connection),
        Found::Gone | Found::NeverStarted => {
            if !ended {
                task.report_checkpoints(Life::EndedBadly).await;
                report_loss(task).await;
            }
            None
        }
    }
}

async fn heard(task: &Task, message: FromKeeper) {
    let (job, epoch) = task.key();
    let bulk = &task.context.bulk;
    match message {
        FromKeeper::Hello { status, .. } => report_status(task, &status).await,
        FromKeeper::RanksStarted => {
            failpoint::hit("ranks.started");
            task.tell(Event::RanksStarted { job, epoch }).await;
        }
        FromKeeper::Fenced { why } => task.tell(Event::Fenced { job, epoch, why }).await,
        FromKeeper::TimedOut { why } => task.tell(Event::TimedOut { job, epoch, why }).await,
        FromKeeper::LaunchFailed { why } => {
            task.tell(Event::LaunchFailed { job, epoch, why }).await
        }
        FromKeeper::LogGrew { rank, .. } => bulk.tell(LogNews::Grew { job, epoch, rank }).await,
        FromKeeper::LogEnded { rank, dropped, .. } => {
            bulk.tell(LogNews::Ended {
                job,
                epoch,
                rank,
                dropped,
            })
            .await
        }
        FromKeeper::RankExited(exit) => {
            failpoint::hit("rank.exited");
            task.tell(Event::RankExited {
                job,
                epoch,
                exit: rank_end(exit),
            })
            .await
        }
        FromKeeper::TasksEnded(ends) => task.tell(Event::TasksEnded { job, epoch, ends }).await,
        FromKeeper::AllEnded {
            exits,
            launch_failed,
        } => {
            failpoint::hit("ranks.ended");
            let failed = exits.iter().any(is_failure);
            let life = life_after(failed || launch_failed.is_some());
            task.report_checkpoints(life).await;
            if let Some(why) = launch_failed {
                task.tell(Event::LaunchFailed { job, epoch, why }).await;
            }
            for exit in exits {
                task.tell(Event::RankExited {
                    job,
                    epoch,
                    exit: rank_end(exit),
                })
                .await;
            }
            if failed {
                collect_dumps(task).await;
            }
            bulk.tell(LogNews::AllEnded { job, epoch }).await;
            task.tell(Event::AllRanksEnded { job, epoch }).await;
        }
        FromKeeper::Remote { to, what } => relay(task, to, &what).await,
        FromKeeper::Refused { why } => debug!(%job, %epoch, why, "the keeper refused an order"),
    }
}

fn is_failure(exit: &Exit) -> bool {
    exit.code != 0 || exit.signal != 0
}

fn life_after(failed: bool) -> Life {
    if failed {
        Life::EndedBadly
    } else {
        Life::EndedWell
    }
}

/// What a hung collective left goes with the logs.
async fn collect_dumps(task: &Task) {
    let (job, epoch) = task.key();
    let dirs = &task.context.dirs;
    let (work, logs) = (dirs.work(job, epoch), dirs.logs(job, epoch));
    // A panic was reported where it happened; the attempt ends all the same.
    let _ = tokio::task::spawn_blocking(move || bulk::collect_dumps(&work, &logs)).await;
}

/// Carries a keeper's word to that of another node.
async fn relay(task: &Task, node: String, what: &Remote) {
    let (job, epoch) = task.key();
    match serde_json::to_vec(what) {
        Ok(body) => {
            let relay = Relay {
                job,
                epoch,
                node,
                body,
            };
            // Without a driver the agent is ending; the keeper says it again to the next.
            let _ = task.context.inputs.send(Input::Relay(relay)).await;
        }
        Err(error) => warn!(%job, %epoch, %error, "a keeper's word cannot be passed on"),
    }
}

/// Tells the core where a keeper answers witnesses.
pub(super) async fn tell_probe(task: &Task, status: &Status) {
    if let Some(probe) = status.probe {
        let (job, epoch) = task.key();
        task.tell(Event::ProbePort { job, epoch, probe }).await;
    }
}

/// Tells the core, and the logs, everything that a keeper says when it is found again.
pub(super) async fn report_status(task: &Task, status: &Status) {
    let (job, epoch) = task.key();
    info!(%job, %epoch, phase = ?status.phase, pid = status.pid, "keeper connected");
    tell_probe(task, status).await;
    let bulk = &task.context.bulk;
    for log in &status.ranks {
        let (rank, dropped) = (log.rank, log.log_dropped);
        let ended = LogNews::Ended {
            job,
            epoch,
            rank,
            dropped,
        };
        bulk.tell(if log.log_ended {
            ended
        } else {
            LogNews::Grew { job, epoch, rank }
        })
        .await;
    }
    if status.all_ended() {
        let failed = status.exits().iter().any(is_failure);
        let life = life_after(failed || status.launch_failed.is_some());
        task.report_checkpoints(life).await;
    }
    let status = KeeperStatus {
        started: status.started,
        exits: status.exits().into_iter().map(rank_end).collect(),
        all_ended: status.all_ended(),
        launch_failed: status.launch_failed.clone(),
        master_port: task.master_port,
        fenced: status.fenced.clone(),
        timed_out: status.timed_out.clone(),
        tasks: status.tasks.clone(),
    };
    task.tell(Event::KeeperConnected { job, epoch, status })
        .await;
}

/// The keeper is gone and had not said that all has ended: its ranks died with it, what they left behind is killed here,
/// and what it had written down is told.
pub(super) async fn report_loss(task: &Task) {
    let (job, epoch) = task.key();
    let folder = task.context.dirs.attempt(job, epoch);
    let at = folder.clone();
    let sweep = move || {
        let folder = at;
        let written = read_exits(&folder).unwrap_or_else(|error| {
            warn!(folder = %folder.display(), %error, "what the keeper wrote down cannot be read");
            Written::default()
        });
        (kill_leftovers(&folder), written)
    };
    // It finds those too that wiped their environment, and may kill those of another user.
    let socket = task.context.dirs.launcher_socket();
    if let Err(error) = launcher::sweep(&socket, &folder).await {
        warn!(%job, %epoch, %error, "the launcher did not end what the keeper left");
    }
    let (killed, written) = tokio::task::spawn_blocking(sweep).await.unwrap_or_default();
    warn!(%job, %epoch, killed, "the keeper is gone");
    collect_dumps(task).await;
    task.context
        .bulk
        .tell(LogNews::AllEnded { job, epoch })
        .await;
    let all_ended = written.all_ended;
    let began = !written.exits.is_empty() || !written.tasks.is_empty();
    if all_ended || began {
        let status = KeeperStatus {
            started: began,
            exits: written.exits.into_iter().map(rank_end).collect(),
            all_ended,
            launch_failed: written.launch_failed,
            master_port: task.master_port,
            fenced: written.fenced,
            timed_out: written.timed_out,
            tasks: written.tasks,
        };
        task.tell(Event::KeeperConnected { job, epoch, status })
            .await;
    }
    if !all_ended {
        let why =
            "the process that owned the ranks on this node is gone, and they with it".to_owned();
        task.tell(Event::KeeperLost { job, epoch, why }).await;
    }
}

/// Lets the keeper of an ended attempt go, if there still is one.
pub(super) async fn release(folder: PathBuf) {
    match connect(&folder).await {
        Ok(connection) => let_go(connection).await,
        Err(error) if error.is_gone() => {}
        Err(error) => warn!(%error, "a keeper that has nothing left to own cannot be told to go"),
    }
}

async fn let_go(mut connection: Connection) {
    if connection.sender.send(ToKeeper::Release).await.is_err() {
        return;
    }
    let closed = async { while connection.receiver.recv().await.is_some() {} };
    if timeout(TAKE, closed).await.is_err() {
        warn!("a keeper was told to go and stays");
    }
    failpoint::hit("release.done");
}

fn rank_end(exit: Exit) -> RankEnd {
    RankEnd {
        rank: exit.rank,
        code: exit.code,
        signal: exit.signal,
        killed_by_us: exit.killed_by_us,
        oom: exit.oom,
    }
}
