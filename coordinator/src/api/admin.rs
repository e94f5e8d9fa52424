//! The `Admin` service: what admins decide about scheduling, and what is decided now. Whether a decision is sound is decided when it is applied; a dry run
//! applies it to a copy of the state.
use std::sync::Arc;

use mlctl_proto::api::admin_client::AdminClient;
use mlctl_proto::api::{DecideReply, DecideRequest, Decisions, ShowDecisionsRequest, admin_server};
use mlctl_proto::errors::{Code, Refusal};
use mlctl_proto::limits::DECISION_EDITS_MAX;
use prost::Message;
use tonic::{Request, Response, Status};

use super::auth::{Person, person};
use super::convert::{decision as convert, team};
use super::jobs_submit::{key, unexpected};
use super::route::on_leader;
use super::tried::tried;
use crate::peers::Lease;
use crate::shared::{CallError, Shared};
use crate::state::commands::Decide;
use crate::state::records::Reply;
use crate::state::{Body, Command};

/// The service.
pub struct Admin {
    shared: Arc<Shared>,
}

impl Admin {
    /// A service over `shared`.
    pub fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }
}

#[tonic::async_trait]
impl admin_server::Admin for Admin {
    async fn decide(
        &self,
        request: Request<DecideRequest>,
    ) -> Result<Response<DecideReply>, Status> {
        let person = person(&request)?;
        let message = request.into_inner();
        let here = |message| decide(&self.shared, &person, message);
        let there = |lease: Lease, request| async move {
            AdminClient::new(lease.channel.clone())
                .decide(request)
                .await
        };
        on_leader(&self.shared, &person, &message, here, there).await
    }

    async fn show(
        &self,
        request: Request<ShowDecisionsRequest>,
    ) -> Result<Response<Decisions>, Status> {
        let person = person(&request)?;
        let message = request.into_inner();
        let here = |_| show(&self.shared);
        let there = |lease: Lease, request| async move {
            AdminClient::new(lease.channel.clone()).show(request).await
        };
        on_leader(&self.shared, &person, &message, here, there).await
    }
}

async fn decide(
    shared: &Arc<Shared>,
    person: &Person,
    request: DecideRequest,
) -> Result<DecideReply, CallError> {
    let bare = DecideRequest {
        key: Vec::new(),
        ..request.clone()
    };
    let hash = *blake3::hash(&bare.encode_to_vec()).as_bytes();
    let key = key(&request.key, hash)?;
    if request.edits.len() > DECISION_EDITS_MAX {
        let why = format!(
            "{} changes at once; at most {DECISION_EDITS_MAX}: make several requests of it",
            request.edits.len()
        );
        return Err(Refusal::new(Code::LimitExceeded, why).into());
    }
    let edits = request.edits.into_iter().map(convert::edit);
    let body = Body::Decide(Decide {
        edits: edits.collect::<Result<_, _>>()?,
    });
    let (reply, index) = if request.dry_run {
        shared.read().await?;
        let state = shared.state();
        let command = Command {
            actor: person.actor.clone(),
            source: person.source.clone(),
            time_ms: shared.clock.stamp(state.now_ms()),
            key: None,
            body,
        };
        (tried(&state, &command)?.1, 0)
    } else {
        let committed = shared
            .propose(person.actor.clone(), &person.source, Some(key), body)
            .await?;
        (committed.reply, committed.index)
    };
    let Reply::Decided { changes, notes } = reply else {
        return Err(unexpected().into());
    };
    Ok(DecideReply {
        changes: changes.into_iter().map(team::change).collect(),
        notes,
        index,
    })
}

async fn show(shared: &Arc<Shared>) -> Result<Decisions, CallError> {
    shared.read().await?;
    let state = shared.state();
    let now_ms = shared.clock.stamp(state.now_ms());
    Ok(convert::shown(&state, now_ms))
}
