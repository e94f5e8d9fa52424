//! Where a call is served: here when this member leads, else by the leader, to which it is passed on with its actor.
//!
//! Nobody is redirected. A call is passed on once: whoever gets it from a coordinator serves it or says that it cannot.
use std::sync::Arc;
use std::time::Duration;

use mlctl_proto::LEADER_METADATA;
use mlctl_proto::errors::{Code, Refusal};
use mlctl_proto::limits::CLIENT_TRY_MS;
use mlctl_runtime::telemetry::trace_context;
use tokio::time::Instant;
use tonic::{Request, Response, Status};

use super::auth::Person;
use crate::consensus::MemberId;
use crate::peers::Lease;
use crate::shared::{CallError, Shared};

/// A coordinator without a leader waits this long for one.
const LEADER_WAIT: Duration = Duration::from_secs(2);
/// A call that was passed on and is not answered within this; clients give up a try a little later.
const PATIENCE: Duration = Duration::from_millis(CLIENT_TRY_MS - 500);
/// Between two tries while the old leader is still the one that is known.
const PAUSE: Duration = Duration::from_millis(20);

enum Place {
    Here,
    There(MemberId),
}

/// Serves a call `here` if this member leads, else `there` through a connection to the leader. Both may be tried more
/// than once: a call is either a read or carries an idempotency key.
pub async fn on_leader<T, R, H, HF, F, FF>(
    shared: &Arc<Shared>,
    person: &Person,
    message: &T,
    here: H,
    there: F,
) -> Result<Response<R>, Status>
where
    T: Clone,
    H: Fn(T) -> HF,
    HF: Future<Output = Result<R, CallError>>,
    F: Fn(Lease, Request<T>) -> FF,
    FF: Future<Output = Result<Response<R>, Status>>,
{
    let deadline = Instant::now() + LEADER_WAIT;
    loop {
        let last = match place(shared, deadline).await? {
            Place::Here => match here(message.clone()).await {
                Ok(reply) => return Ok(Response::new(reply)),
                // Leadership moved under it: the next try finds out what became of it, by the call's key.
                Err(CallError::Refused(refusal)) if refusal.code == Code::Unavailable => {
                    refusal.into()
                }
                Err(CallError::Refused(refusal)) => return Err(refusal.into()),
                Err(CallError::Elsewhere) => no_leader(),
            },
            Place::There(_) if person.forwarded => return Err(no_leader()),
            Place::There(leader) => match pass_on(shared, person, message, leader, &there).await {
                Err(status) if worth_another_try(&status) => status,
                outcome => return outcome,
            },
        };
        if Instant::now() + PAUSE >= deadline {
            return Err(our_word(last));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn pass_on<T: Clone, R, F, FF>(
    shared: &Arc<Shared>,
    person: &Person,
    message: &T,
    leader: MemberId,
    there: &F,
) -> Result<Response<R>, Status>
where
    F: Fn(Lease, Request<T>) -> FF,
    FF: Future<Output = Result<Response<R>, Status>>,
{
    let lease = shared.peers.channel(leader);
    let lease = lease.map_err(|error| Status::unavailable(error.to_string()))?;
    let mut request = Request::new(message.clone());
    person.put(request.metadata_mut())?;
    trace_context::inject(request.metadata_mut());
    let answer = tokio::time::timeout(PATIENCE, there(lease, request)).await;
    let answer = answer.unwrap_or_else(|_| {
        Err(Refusal::new(Code::Unavailable, "the leader does not answer; try again").into())
    });
    answer.map(|reply| saying_who(shared, leader, reply))
}

/// Tells the caller whom to ask directly the next time. A hint: whoever is asked answers.
fn saying_who<R>(shared: &Shared, leader: MemberId, mut reply: Response<R>) -> Response<R> {
    let members = shared.config.members.iter();
    let mut found = members.filter(|member| member.id == leader);
    if let Some(address) = found.next().and_then(|one| one.address.parse().ok()) {
        reply.metadata_mut().insert(LEADER_METADATA, address);
    }
    reply
}

/// Who leads, once somebody does.
async fn place(shared: &Arc<Shared>, deadline: Instant) -> Result<Place, Status> {
    let mut status = shared.raft.status();
    let mut leading = shared.published.leading();
    let own = status.borrow().id;
    loop {
        if leading.borrow_and_update().is_some() && shared.state().settings().is_some() {
            return Ok(Place::Here);
        }
        let leader = status.borrow_and_update().leader;
        let other = leader.filter(|leader| *leader != own);
        if let Some(leader) = other.filter(|leader| shared.peers.fresh(*leader)) {
            return Ok(Place::There(leader));
        }
        // Nobody leads, the leader seems to be gone, or it is this member and it has not yet applied what came before.
        let mut applied = shared.published.applied();
        let changed = async {
            tokio::select! {
                changed = status.changed() => changed.is_ok(),
                changed = leading.changed() => changed.is_ok(),
                changed = applied.changed(), if leader == Some(own) => changed.is_ok(),
                () = shared.peers.hears(), if other.is_some() => true,
                () = shared.shutdown.wait() => false,
            }
        };
        match (tokio::time::timeout_at(deadline, changed).await, other) {
            (Ok(true), _) => {}
            // Silent, but nobody else leads either: it may only be slow.
            (Err(_), Some(leader)) => return Ok(Place::There(leader)),
            (Ok(false) | Err(_), _) => return Err(no_leader()),
        }
    }
}

/// The leader went away under the call, or does not lead any more.
fn worth_another_try(status: &Status) -> bool {
    let from_us = status.metadata().contains_key("mlctl-code");
    let refusal = Refusal::from(status);
    if from_us {
        return refusal.code == Code::Unavailable;
    }
    // What the transport says when a connection breaks or cannot be made.
    matches!(
        status.code(),
        tonic::Code::Unavailable
            | tonic::Code::Unknown
            | tonic::Code::Cancelled
            | tonic::Code::Internal
    )
}

/// What the transport says when a connection breaks is no answer: the call may be made again.
pub fn our_word(status: Status) -> Status {
    if status.metadata().contains_key("mlctl-code") {
        status
    } else {
        no_leader()
    }
}

/// Nobody serves the call at the moment.
pub fn no_leader() -> Status {
    let why = "no coordinator leads at the moment; try again in a second";
    Refusal::new(Code::Unavailable, why).into()
}
