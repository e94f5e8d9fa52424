//! Nodes that hold a checkpoint upload it to an object store now, because a person waits for that. Whoever asks owns the job or is an admin: nodes write
//! there with their agents' credentials. Does NOT upload anything here, and what a node has begun goes on when the person has gone.
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use mlctl_proto::api::{UploadCheckpointRequest, UploadState, UploadedPart};
use mlctl_proto::errors::{Code, Refusal};
use mlctl_proto::ids::{JobId, clip};
use mlctl_proto::limits::DETAIL_BYTES_MAX;
use mlctl_proto::spec::StoreAddress;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::Answers;
use super::auth::Person;
use super::jobs_read::{not_found, parse};
use super::route::no_leader;
use crate::leader::copies::{Store, WantedPart, wanted};
use crate::leader::{AskedUpload, Input, Port};
use crate::shared::{CallError, Shared};
use crate::state::State;
use crate::state::records::{Checkpoint, Job};
use crate::state::rules::checkpoint_rules;

/// Answers that may wait for one reader.
const WAITING: usize = 16;
/// A reader that waits is told so.
const EVERY: Duration = Duration::from_secs(5);
/// Parts of one call that a node is told of at once: it does one at a time.
const AT_ONCE: usize = 2;
/// Holders that are asked for one part.
const TRIES: usize = 2;
/// A node that is connected and says nothing of a part for so long has failed: the leader gives its own orders as long.
const PATIENCE: Duration = Duration::from_secs(6 * 3_600);

type Found = mpsc::Sender<Result<UploadedPart, Status>>;

/// Serves the call on the leader.
pub async fn open(
    shared: &Arc<Shared>,
    person: &Person,
    request: UploadCheckpointRequest,
) -> Result<Answers<UploadedPart>, CallError> {
    let id = parse(&request.job)?;
    shared.read().await?;
    let state = shared.state();
    let Asked {
        job,
        checkpoint,
        store,
    } = asked(&state, person, id, &request)?;
    let port = shared.leader.borrow().clone();
    let port = port.ok_or(CallError::Elsewhere)?;
    let connected = connected(&port, &checkpoint).await?;
    let parts = wanted(&state, &job, &checkpoint, &connected, &store);
    tracing::info!(job = %id, checkpoint.name, url = store.url, user = person.actor.name, "a person has a checkpoint uploaded");
    let (found, answers) = mpsc::channel(WAITING);
    let gate = |node: &String| (node.clone(), Semaphore::new(AT_ONCE));
    let nodes = parts.iter().flat_map(|part| &part.nodes);
    let run = Run {
        shared: Arc::clone(shared),
        port,
        gates: nodes.map(gate).collect(),
        found,
        url: store.url,
        parts: u32::try_from(parts.len()).unwrap_or(u32::MAX),
    };
    tokio::spawn(all(Arc::new(run), parts));
    Ok(Box::pin(ReceiverStream::new(answers)))
}

/// What a person asks for, and may.
#[derive(Debug)]
struct Asked {
    job: Arc<Job>,
    checkpoint: Checkpoint,
    store: Store,
}

fn asked(
    state: &State,
    person: &Person,
    id: JobId,
    request: &UploadCheckpointRequest,
) -> Result<Asked, Refusal> {
    let job = match state.job(id) {
        Some(job) => job,
        None if state.is_archived(id) => {
            let why = format!(
                "job {id} ended long ago; it is history, and its checkpoints stay as they are: `mlctl checkpoint get {id}` still fetches them"
            );
            return Err(Refusal::new(Code::Conflict, why));
        }
        None => return Err(not_found(id)),
    };
    if job.owner_id != person.actor.user_id && !person.actor.admin {
        let owner = clip(&job.owner_name);
        let why = format!("job {id} and its checkpoints belong to {owner}: ask them, or an admin");
        return Err(Refusal::new(Code::Denied, why));
    }
    let named = |one: &&Checkpoint| {
        one.is_whole() && one.name == request.name && one.epoch.counter == request.attempt
    };
    let name = clip(&request.name);
    let Some(checkpoint) = job.checkpoints.iter().rev().find(named) else {
        let why = format!(
            "checkpoint {name} of job {id} is not there any more: `mlctl checkpoint ls {id}` lists what is"
        );
        return Err(Refusal::new(Code::NotFound, why));
    };
    if !checkpoint.is_portable() || checkpoint.filled().next().is_none() {
        let nodes = checkpoint.holders().join(", ");
        let why = format!(
            "{name} of job {id} is only a directory on {nodes} and was never sealed, so it cannot be uploaded: copy it from there"
        );
        return Err(Refusal::new(Code::Conflict, why));
    }
    let rules = checkpoint_rules(state, job);
    Ok(Asked {
        job: Arc::clone(job),
        checkpoint: checkpoint.clone(),
        store: store(id, rules.upload.as_deref(), &request.url)?,
    })
}

/// Where it goes to: to the store of the spec, or to one that a person names.
fn store(id: JobId, of_spec: Option<&str>, named: &str) -> Result<Store, Refusal> {
    let bad = |why| Refusal::new(Code::BadRequest, why);
    if named.is_empty() {
        let url = of_spec.ok_or_else(|| {
            bad(format!(
                "the spec of job {id} names no object store: say where to with `--to s3://bucket/prefix`; of a job that is submitted with upload = \"s3://bucket/prefix\" in [checkpoint] each checkpoint is uploaded by itself"
            ))
        })?;
        return Ok(Store {
            url: url.to_owned(),
            elsewhere: false,
        });
    }
    // Not repeated: it may hold a secret.
    let address = StoreAddress::parse(named).map_err(|why| {
        bad(format!(
            "the URL of the object store {why}; use s3://bucket/prefix, gs://bucket/prefix, az://container/prefix or file:///directory"
        ))
    })?;
    // The same place counts, however it is written.
    let same = |url: &&str| StoreAddress::parse(url).is_ok_and(|own| own == address);
    let own = of_spec.filter(same);
    Ok(Store {
        url: own.unwrap_or(named).to_owned(),
        elsewhere: own.is_none(),
    })
}

/// Holders that can be told something.
async fn connected(port: &Port, checkpoint: &Checkpoint) -> Result<BTreeSet<String>, CallError> {
    let (answer, answered) = oneshot::channel();
    let holders = checkpoint.holders().into_iter();
    let nodes = holders.map(str::to_owned).collect();
    let asked = port.inputs.send(Input::Peers { nodes, answer }).await;
    asked.map_err(|_| CallError::Elsewhere)?;
    let known = answered.await.map_err(|_| CallError::Elsewhere)?;
    Ok(known.into_iter().map(|peer| peer.node).collect())
}

/// One call.
struct Run {
    shared: Arc<Shared>,
    port: Port,
    gates: BTreeMap<String, Semaphore>,
    found: Found,
    url: String,
    parts: u32,
}

/// All parts at once; ends early when nobody listens any more.
async fn all(run: Arc<Run>, parts: Vec<WantedPart>) {
    let mut going = JoinSet::new();
    for part in parts {
        let run = Arc::clone(&run);
        going.spawn(async move { run.part(&part).await });
    }
    loop {
        let over = tokio::select! {
            done = going.join_next() => match done {
                Some(Ok(Err(status))) => status,
                // One that died has no end, and whoever reads misses it.
                Some(Ok(Ok(())) | Err(_)) => continue,
                None => return,
            },
            () = tokio::time::sleep(EVERY) => {
                // Who does not take even that has too many waiting.
                let _ = run.found.try_send(Ok(UploadedPart::default()));
                continue;
            }
            () = run.found.closed() => return,
            () = run.shared.shutdown.wait() => no_leader(),
        };
        // The reader may be gone already.
        let _ = run.found.send(Err(over)).await;
        return;
    }
}

impl Run {
    /// Has one part uploaded by one of its holders. An error: this member leads no more.
    async fn part(&self, part: &WantedPart) -> Result<(), Status> {
        let mut failed: Option<(&str, String)> = None;
        for node in part.nodes.iter().take(TRIES) {
            let Some(gate) = self.gates.get(node) else {
                continue;
            };
            // It is never closed.
            let _turn = gate.acquire().await;
            let before = failed.as_ref().map_or(String::new(), before);
            self.say(part, UploadState::Going, node, &before).await;
            let Some(error) = self.ask(part, node).await? else {
                self.say(part, UploadState::There, node, "").await;
                return Ok(());
            };
            let why = match before.is_empty() {
                true => error,
                false => format!("{error}; before that, {before}"),
            };
            failed = Some((node.as_str(), why));
        }
        match failed {
            Some((node, why)) => self.say(part, UploadState::Failed, node, &why).await,
            None if part.there => self.say(part, UploadState::There, "", "").await,
            None => {
                let why = nobody(&part.holders);
                self.say(part, UploadState::Failed, "", &why).await;
            }
        }
        Ok(())
    }

    /// Has `node` upload a part; `None`: it is there, else why not.
    async fn ask(&self, part: &WantedPart, node: &str) -> Result<Option<String>, Status> {
        let (done, told) = oneshot::channel();
        let asked = AskedUpload {
            node: node.to_owned(),
            order: part.order.clone(),
            done,
        };
        let sent = self.port.inputs.send(Input::Upload(Box::new(asked))).await;
        sent.map_err(|_| no_leader())?;
        match tokio::time::timeout(PATIENCE, told).await {
            Ok(Ok(error)) if error.is_empty() => Ok(None),
            Ok(Ok(error)) => Ok(Some(error.chars().take(DETAIL_BYTES_MAX).collect())),
            Ok(Err(_)) if self.leads() => Ok(Some(
                "it is not connected any more: what it has sent stays there and does not go again, so give the same command when it is back".to_owned(),
            )),
            Ok(Err(_)) => Err(no_leader()),
            Err(_) => Ok(Some(format!(
                "it said nothing of it for {} h: its agent's log says what it does",
                PATIENCE.as_secs() / 3_600
            ))),
        }
    }

    /// Still in the term in which this began.
    fn leads(&self) -> bool {
        let port = self.shared.leader.borrow();
        port.as_ref()
            .is_some_and(|port| port.term == self.port.term)
    }

    async fn say(&self, part: &WantedPart, state: UploadState, node: &str, error: &str) {
        let told = UploadedPart {
            index: part.index,
            state: state.into(),
            node: node.to_owned(),
            bytes: part.bytes,
            error: error.to_owned(),
            url: self.url.clone(),
            parts: self.parts,
        };
        // Whoever reads may be gone; all of this ends then.
        let _ = self.found.send(Ok(told)).await;
    }
}

/// What the node before has said.
fn before((node, why): &(&str, String)) -> String {
    format!("{node}: {why}")
}

fn nobody(holders: &[String]) -> String {
    match holders {
        [] => "no node has it: it is in the object store that the job's spec names alone, and comes to a node when the job resumes from it".to_owned(),
        holders => format!(
            "no node that has it is connected: {}; try again when one is",
            holders.join(", ")
        ),
    }
}

#[cfg(test)]
#[path = "checkpoint_upload_tests.rs"]
mod tests;
