//! Logs on more than one member: what was pushed here is copied to another one, and what is missing here is asked for.
//!
//! The leader has what agents push; within a minute, and at once when an attempt has ended, each sealed piece of it lies on one other
//! member too, on both disks. Only then is a node told that it need not keep its log. Which pieces there are is known from the
//! directories alone: a log is as complete as what the members that answer have together.
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures::{Stream, StreamExt, stream};
use mlctl_proto::errors::{Code, Refusal};
use mlctl_proto::ids::{Epoch, JobId};
use mlctl_proto::limits::MESSAGE_BYTES_MAX;
use mlctl_proto::peer::peer_client::PeerClient;
use mlctl_proto::peer::{FetchLogsRequest, ListLogsRequest, LogCopy, LogNames};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tonic::{Status, Streaming};

use super::convert;
use super::exchange::is_full;
use crate::consensus::MemberId;
use crate::logs::{self, AttemptLogs, LogError, Meta, lacking};
use crate::shared::Shared;
use crate::vitals::admission::full;
use crate::vitals::space::Room;

/// So old may something become before it is copied.
const EACH: Duration = Duration::from_secs(60);
/// Logs that end at about the same time are copied together.
const TOGETHER: Duration = Duration::from_millis(300);
/// Between two looks at how many old logs there are.
const CLEAN: Duration = Duration::from_secs(600);
/// After a copy that failed.
const AGAIN: Duration = Duration::from_secs(5);
/// Attempts whose pieces go in one call.
const ATTEMPTS: usize = 256;
/// A member that does not answer within this has nothing.
const ASK: Duration = Duration::from_secs(2);
/// All pieces of one call.
const COPY: Duration = Duration::from_secs(120);
/// Names in one message: well below its limit.
const NAMES: usize = 10_000;

/// Copies what is pushed here and removes what is too much, until the process ends.
pub async fn tend(shared: Arc<Shared>) {
    tokio::join!(keep(Arc::clone(&shared)), clean(shared));
}

/// Copies what is pushed here.
async fn keep(shared: Arc<Shared>) {
    let mut all_at = Instant::now() + EACH;
    loop {
        let all = tokio::select! {
            () = sleep_until(all_at) => true,
            () = shared.logs.one_ended() => false,
            () = shared.shutdown.wait() => return,
        };
        if !all {
            tokio::select! {
                () = sleep(TOGETHER) => {}
                () = shared.shutdown.wait() => return,
            }
        }
        let copied = round(&shared, all).await;
        if let Err(reason) = &copied {
            tracing::warn!(%reason, "logs are on this coordinator alone for now; the copy is tried again");
        }
        match (copied, all) {
            (Ok(()), true) => all_at = Instant::now() + EACH,
            (Ok(()), false) => {}
            (Err(_), _) => all_at = all_at.min(Instant::now() + AGAIN),
        }
    }
}

/// Removes what is too much of old logs.
async fn clean(shared: Arc<Shared>) {
    let bytes_max = shared.config.disk.logs_bytes_max();
    loop {
        let (logs, state) = (shared.logs.clone(), shared.state());
        let look = move || {
            let open = |job, epoch| state.attempt(job, epoch).is_some_and(|one| !one.closed());
            logs::clean(logs.dir(), bytes_max, SystemTime::now(), open)
        };
        match tokio::task::spawn_blocking(look).await {
            Ok(Ok(0)) => {}
            Ok(Ok(bytes)) => {
                tracing::info!(bytes, "the oldest logs of jobs that are over were removed");
            }
            Ok(Err(error)) => tracing::warn!(%error, "old logs cannot be looked through"),
            // A panic was reported where it happened.
            Err(_) => {}
        }
        tokio::select! {
            () = sleep(CLEAN) => {}
            () = shared.shutdown.wait() => return,
        }
    }
}

/// Copies what is new of `all` attempts, or of those whose logs have all ended.
async fn round(shared: &Arc<Shared>, all: bool) -> Result<(), String> {
    let mut unkept = shared.logs.unkept();
    if !all {
        let look = move || -> Vec<_> {
            let ended = unkept.into_iter().filter(|attempt| attempt.all_ended());
            ended.collect()
        };
        let looked = tokio::task::spawn_blocking(look).await;
        unkept = looked.map_err(|error| error.to_string())?;
    }
    for attempts in unkept.chunks(ATTEMPTS) {
        for attempt in attempts {
            // Whatever is added from here on makes it unkept again.
            shared.logs.keeping(attempt);
        }
        let (mut fresh, mut ended) = (Vec::new(), Vec::new());
        let mut outcome = Ok(());
        for attempt in attempts {
            let attempt = Arc::clone(attempt);
            let taken = tokio::task::spawn_blocking(move || {
                // Before what is fresh is taken: it then holds their ends.
                let ended = attempt.ended();
                let pieces = attempt.take_fresh();
                (attempt, ended, pieces)
            });
            let (attempt, keys, pieces) = taken.await.map_err(|error| error.to_string())?;
            match pieces {
                Ok(pieces) => fresh.push((attempt, pieces)),
                Err(error) => {
                    outcome = Err(error.to_string());
                    shared.logs.not_kept(&attempt);
                    continue;
                }
            }
            ended.extend(keys);
        }
        match spread(shared, &fresh).await {
            Ok(()) => shared.logs.kept(ended),
            Err(reason) => {
                for (attempt, pieces) in &fresh {
                    attempt.give_back(pieces);
                    shared.logs.not_kept(attempt);
                }
                outcome = Err(reason);
            }
        }
        outcome?;
    }
    Ok(())
}

type Fresh = Vec<(Arc<AttemptLogs>, Vec<Meta>)>;

/// Copies pieces to the first other member that takes them. A coordinator that is alone has done all it can.
async fn spread(shared: &Arc<Shared>, fresh: &Fresh) -> Result<(), String> {
    let members = by_chance(shared);
    if members.is_empty() || fresh.iter().all(|(_, pieces)| pieces.is_empty()) {
        return Ok(());
    }
    let mut reason = "no other coordinator answers".to_owned();
    for member in members {
        let sent = timeout(COPY, send(shared, member, fresh)).await;
        match sent.unwrap_or_else(|_| Err("it took too long".into())) {
            Ok(()) => return Ok(()),
            Err(why) => reason = format!("member {member}: {why}"),
        }
    }
    Err(reason)
}

/// The other members, those that were heard a moment ago first.
fn by_chance(shared: &Shared) -> Vec<MemberId> {
    let mut members = shared.peers.ids();
    members.sort_by_key(|member| !shared.peers.fresh(*member));
    members
}

async fn send(shared: &Arc<Shared>, member: MemberId, fresh: &Fresh) -> Result<(), String> {
    let lease = shared
        .peers
        .channel(member)
        .map_err(|error| error.to_string())?;
    let pieces: Vec<(Arc<AttemptLogs>, Meta)> = fresh
        .iter()
        .flat_map(|(attempt, pieces)| pieces.iter().map(|piece| (Arc::clone(attempt), *piece)))
        .collect();
    // What was replaced or rotated away meanwhile is in a newer piece, or nowhere.
    let copies = read(pieces).filter_map(|copy| async { copy.ok() });
    let sent = client(lease.channel.clone()).keep_logs(copies).await;
    sent.map(|_| ())
        .map_err(|status| status.message().to_owned())
}

/// Pieces as messages, one read at a time.
fn read(
    pieces: Vec<(Arc<AttemptLogs>, Meta)>,
) -> impl Stream<Item = Result<LogCopy, Status>> + Send + 'static {
    stream::iter(pieces).then(|(attempt, meta)| async move {
        let (job, epoch) = attempt.key();
        let read = tokio::task::spawn_blocking(move || attempt.bytes_of(&meta)).await;
        let data = read
            .map_err(|error| Status::internal(error.to_string()))?
            .map_err(refusal)?;
        Ok(LogCopy {
            job: Some(job.into()),
            epoch: Some(epoch.into()),
            name: meta.name(),
            data,
        })
    })
}

fn client(channel: tonic::transport::Channel) -> PeerClient<tonic::transport::Channel> {
    PeerClient::new(channel)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX)
}

/// Asks the other members for what is missing here of an attempt's logs. Those that do not answer have nothing.
pub async fn gather(shared: &Arc<Shared>, job: JobId, epoch: Epoch) {
    for member in by_chance(shared) {
        match timeout(COPY, gather_from(shared, member, job, epoch)).await {
            Ok(Ok(0)) => {}
            Ok(Ok(pieces)) => {
                tracing::info!(%job, %epoch, member, pieces, "pieces of its logs were taken from another coordinator");
            }
            Ok(Err(reason)) => {
                tracing::warn!(%job, %epoch, member, %reason, "this coordinator was asked in vain for pieces of its logs");
            }
            Err(_) => {
                tracing::warn!(%job, %epoch, member, "asking for pieces of its logs took too long")
            }
        }
    }
}

async fn gather_from(
    shared: &Arc<Shared>,
    member: MemberId,
    job: JobId,
    epoch: Epoch,
) -> Result<usize, String> {
    let text = |status: Status| status.message().to_owned();
    let lease = shared
        .peers
        .channel(member)
        .map_err(|error| error.to_string())?;
    let mut client = client(lease.channel.clone());
    let request = ListLogsRequest {
        job: Some(job.into()),
        epoch: Some(epoch.into()),
    };
    let names = timeout(ASK, client.list_logs(request)).await;
    let names = names.map_err(|_| "it does not answer".to_owned())?;
    let mut names = names.map_err(text)?.into_inner();
    let mut theirs = Vec::new();
    while let Some(some) = names.message().await.map_err(text)? {
        theirs.extend(some.names.iter().filter_map(|name| Meta::parse(name)));
    }
    let (logs, known) = (shared.logs.clone(), theirs.clone());
    let compare = move || -> Result<_, LogError> {
        let attempt = logs.attempt(job, epoch)?;
        let mut wanted = lacking(&known, &attempt.settle()?);
        wanted.sort_unstable();
        Ok((attempt, wanted))
    };
    let (attempt, wanted) = blocking(compare).await.map_err(|refusal| refusal.message)?;
    for some in wanted.chunks(NAMES) {
        let request = FetchLogsRequest {
            job: Some(job.into()),
            epoch: Some(epoch.into()),
            names: some.iter().map(Meta::name).collect(),
        };
        let copies = client.fetch_logs(request).await.map_err(text)?.into_inner();
        take(shared, copies, Some(&attempt))
            .await
            .map_err(|status| status.message().to_owned())?;
    }
    Ok(wanted.len())
}

/// Stores the pieces of a stream and syncs them. With `only` those of that attempt alone.
///
/// # Errors
/// When one is not what it says it is, there is no room, or the disk fails.
pub async fn take(
    shared: &Arc<Shared>,
    mut copies: Streaming<LogCopy>,
    only: Option<&Arc<AttemptLogs>>,
) -> Result<(), Status> {
    let mut taken: Vec<(Arc<AttemptLogs>, Vec<Meta>)> = Vec::new();
    while let Some(copy) = copies.next().await {
        let copy = copy?;
        let (job, epoch) = convert::agent::key(copy.job, copy.epoch)?;
        let meta = Meta::parse(&copy.name).ok_or_else(|| {
            let why = format!("`{}` is no name of a piece of a log", copy.name);
            Refusal::new(Code::BadRequest, why)
        })?;
        if only.is_some_and(|only| only.key() != (job, epoch)) {
            return Err(Refusal::new(Code::BadRequest, "a piece of another log came").into());
        }
        if shared.vitals.room() != Room::Enough {
            return Err(full(&shared.vitals.tight(), "no copies are taken").into());
        }
        let logs = shared.logs.clone();
        let last = taken.last().map(|(attempt, _)| Arc::clone(attempt));
        let last = last.filter(|attempt| attempt.key() == (job, epoch));
        let put = move || {
            let attempt = last.map_or_else(|| logs.attempt(job, epoch), Ok)?;
            attempt.put(meta, &copy.data).map(|()| attempt)
        };
        let attempt = blocking(put).await?;
        match taken.last_mut() {
            Some((last, pieces)) if Arc::ptr_eq(last, &attempt) => pieces.push(meta),
            _ => taken.push((attempt, vec![meta])),
        }
    }
    let sync = move || {
        taken
            .iter()
            .try_for_each(|(attempt, pieces)| attempt.sync(pieces))
    };
    Ok(blocking(sync).await?)
}

/// The names of the pieces of an attempt's logs that are here; what was open is sealed first.
///
/// # Errors
/// When the disk fails.
pub async fn list(shared: &Arc<Shared>, request: ListLogsRequest) -> Result<Vec<LogNames>, Status> {
    let (job, epoch) = convert::agent::key(request.job, request.epoch)?;
    let logs = shared.logs.clone();
    let pieces = blocking(move || logs.attempt(job, epoch)?.settle()).await?;
    let names = |some: &[Meta]| LogNames {
        names: some.iter().map(Meta::name).collect(),
    };
    Ok(pieces.chunks(NAMES).map(names).collect())
}

/// Pieces by their names; those that are not here are left out.
///
/// # Errors
/// When the disk fails.
pub async fn give(
    shared: &Arc<Shared>,
    request: FetchLogsRequest,
) -> Result<impl Stream<Item = Result<LogCopy, Status>> + Send + 'static, Status> {
    let (job, epoch) = convert::agent::key(request.job, request.epoch)?;
    let logs = shared.logs.clone();
    let attempt = blocking(move || logs.attempt(job, epoch)).await?;
    let wanted = request.names.iter().filter_map(|name| Meta::parse(name));
    let pieces = wanted.map(|meta| (Arc::clone(&attempt), meta)).collect();
    Ok(read(pieces).filter_map(|copy| async { copy.ok().map(Ok) }))
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, LogError> + Send + 'static,
) -> Result<T, Refusal> {
    let outcome = tokio::task::spawn_blocking(work).await;
    outcome
        .map_err(|error| Refusal::new(Code::Internal, error.to_string()))?
        .map_err(refusal)
}

fn refusal(error: LogError) -> Refusal {
    let code = match &error {
        LogError::Damaged { .. } => Code::BadRequest,
        LogError::Io { source, .. } if is_full(source) => Code::DiskFull,
        LogError::Io { .. } => Code::Internal,
    };
    Refusal::new(code, error.to_string())
}
