//! The `Cluster` service: who we are, the nodes, and what admins change.
use std::sync::Arc;

use mlctl_proto::api::cluster_client::ClusterClient;
use mlctl_proto::api::{
    ChangeReply, ChangeRequest, DeclareLostReply, DeclareLostRequest, HelloReply, HelloRequest,
    Member, NodesReply, NodesRequest, cluster_server,
};
use mlctl_proto::errors::{Code, Refusal};
use mlctl_proto::ids::clip;
use mlctl_proto::{CAPABILITIES, VERSION};
use prost::Message;
use tonic::{Request, Response, Status};

use super::auth::{Person, person};
use super::convert;
use super::jobs_submit::key;
use super::route::on_leader;
use crate::peers::Lease;
use crate::shared::{CallError, Shared};
use crate::state::Body;
use crate::state::commands::{ChangeSettings, DeclareNodeLost, LossProof};

/// The service.
pub struct Cluster {
    shared: Arc<Shared>,
}

impl Cluster {
    /// A service over `shared`.
    pub fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }
}

#[tonic::async_trait]
impl cluster_server::Cluster for Cluster {
    /// Answered by whichever coordinator is asked: it is about this connection, and works without a leader.
    async fn hello(&self, request: Request<HelloRequest>) -> Result<Response<HelloReply>, Status> {
        let person = person(&request)?;
        let shared = &self.shared;
        let (leader, raft) = {
            let status = shared.raft.status();
            let status = status.borrow();
            (status.leader, Arc::clone(&status.members))
        };
        let members = shared.members().into_iter().map(|member| {
            let self_ = member.name == shared.config.name;
            let (condition, note) = if self_ {
                let (condition, note) = shared.vitals.condition();
                (condition.word().to_owned(), note)
            } else {
                shared.vitals.condition_of(member.id)
            };
            Member {
                leader: leader == Some(member.id),
                self_,
                condition,
                note,
                // Who joins again has a name that others know, and may not have heard yet that its new id was let in.
                learner: raft.joins(member.id) || !raft.votes(member.id),
                name: member.name,
                address: member.address,
            }
        });
        let state = shared.state();
        let settings = state.settings();
        Ok(Response::new(HelloReply {
            version: VERSION.to_owned(),
            capabilities: CAPABILITIES.iter().map(|word| (*word).to_owned()).collect(),
            cluster_id: shared.cluster.clone(),
            cluster_name: settings.map_or_else(
                || shared.config.cluster_name.clone(),
                |s| s.cluster_name.clone(),
            ),
            members: members.collect(),
            user_id: person.actor.user_id,
            user_name: person.actor.name,
            admin: person.actor.admin,
            applied: state.applied_index(),
            dev: settings.map_or(shared.config.dev, |settings| settings.dev),
        }))
    }

    async fn nodes(&self, request: Request<NodesRequest>) -> Result<Response<NodesReply>, Status> {
        let person = person(&request)?;
        let message = request.into_inner();
        let here = |_| nodes(&self.shared);
        let there = |lease: Lease, request| async move {
            ClusterClient::new(lease.channel.clone())
                .nodes(request)
                .await
        };
        on_leader(&self.shared, &person, &message, here, there).await
    }

    async fn change(
        &self,
        request: Request<ChangeRequest>,
    ) -> Result<Response<ChangeReply>, Status> {
        let person = person(&request)?;
        let message = request.into_inner();
        let here = |message| change(&self.shared, &person, message);
        let there = |lease: Lease, request| async move {
            ClusterClient::new(lease.channel.clone())
                .change(request)
                .await
        };
        on_leader(&self.shared, &person, &message, here, there).await
    }

    async fn declare_lost(
        &self,
        request: Request<DeclareLostRequest>,
    ) -> Result<Response<DeclareLostReply>, Status> {
        let person = person(&request)?;
        let message = request.into_inner();
        let here = |message| declare_lost(&self.shared, &person, message);
        let there = |lease: Lease, request| async move {
            ClusterClient::new(lease.channel.clone())
                .declare_lost(request)
                .await
        };
        on_leader(&self.shared, &person, &message, here, there).await
    }
}

async fn nodes(shared: &Arc<Shared>) -> Result<NodesReply, CallError> {
    shared.read().await?;
    let state = shared.state();
    Ok(NodesReply {
        nodes: state
            .nodes()
            .map(|node| convert::node::node(&state, node))
            .collect(),
        index: state.applied_index(),
        pauses: state
            .pauses(shared.clock.now_ms())
            .map(convert::decision::pause)
            .collect(),
    })
}

async fn change(
    shared: &Arc<Shared>,
    person: &Person,
    request: ChangeRequest,
) -> Result<ChangeReply, CallError> {
    let nothing = ChangeRequest {
        key: request.key.clone(),
        ..ChangeRequest::default()
    };
    if request == nothing {
        return Err(Refusal::new(Code::BadRequest, "the request changes nothing").into());
    }
    let bare = ChangeRequest {
        key: Vec::new(),
        ..request.clone()
    };
    let hash = *blake3::hash(&bare.encode_to_vec()).as_bytes();
    let key = key(&request.key, hash)?;
    let body = Body::ChangeSettings(ChangeSettings {
        allow_root: request.allow_root,
        keep_finished: request.keep_finished,
        keep_finished_days: request.keep_finished_days,
    });
    let committed = shared
        .propose(person.actor.clone(), &person.source, Some(key), body)
        .await?;
    Ok(ChangeReply {
        index: committed.index,
    })
}

async fn declare_lost(
    shared: &Arc<Shared>,
    person: &Person,
    request: DeclareLostRequest,
) -> Result<DeclareLostReply, CallError> {
    let bare = DeclareLostRequest {
        key: Vec::new(),
        ..request.clone()
    };
    let hash = *blake3::hash(&bare.encode_to_vec()).as_bytes();
    let key = key(&request.key, hash)?;
    shared.read().await?;
    let state = shared.state();
    let Some(node) = state.node(&request.node) else {
        let why = format!(
            "there is no node {}: `mlctl nodes` lists all",
            clip(&request.node)
        );
        return Err(Refusal::new(Code::NotFound, why).into());
    };
    // Of the boot that it has now: one that comes up meanwhile is not meant.
    let body = Body::DeclareNodeLost(DeclareNodeLost {
        node: request.node.clone(),
        boot_id: node.facts.boot_id.clone(),
        proof: LossProof::DeclaredByAdmin,
    });
    let held = state.open_allocations_on(&request.node);
    let committed = shared
        .propose(person.actor.clone(), &person.source, Some(key), body)
        .await?;
    Ok(DeclareLostReply {
        index: committed.index,
        jobs: held.iter().map(|(job, _)| job.to_string()).collect(),
    })
}
