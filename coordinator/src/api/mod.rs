//! The services of a coordinator, one file each, all behind one port with mutual TLS.
//!
//! Who may call is decided in `auth`, before any service sees the call; which member serves it in `route`. What a call
//! means to a job is decided by the state machine. `convert` is the only place where api types and records meet.
mod admin;
pub mod auth;
mod blobs;
mod bulk;
mod checkpoint_parts;
mod checkpoint_upload;
mod checkpoint_usage;
mod checkpoint_verify;
mod checkpoints;
mod cluster;
mod convert;
mod exchange;
mod jobs;
mod jobs_cancel;
mod jobs_edit;
mod jobs_foresee;
mod jobs_read;
mod jobs_retry;
mod jobs_submit;
mod keeping;
mod link;
mod logs;
mod peer;
mod route;
mod shown;
mod tail;
mod teams;
mod tried;
mod watch;
mod zones;

use std::pin::Pin;
use std::sync::Arc;

use futures::Stream;
use mlctl_proto::agent::bulk_server::BulkServer;
use mlctl_proto::agent::link_server::LinkServer;
use mlctl_proto::api::admin_server::AdminServer;
use mlctl_proto::api::blobs_server::BlobsServer;
use mlctl_proto::api::checkpoints_server::CheckpointsServer;
use mlctl_proto::api::cluster_server::ClusterServer;
use mlctl_proto::api::jobs_server::JobsServer;
use mlctl_proto::api::teams_server::TeamsServer;
use mlctl_proto::limits::{MESSAGE_BYTES_MAX, RAFT_MESSAGE_BYTES_MAX};
use mlctl_proto::peer::peer_server::PeerServer;
use mlctl_runtime::tls::server_builder;
use tonic::Status;
use tonic::service::Routes;
use tonic::transport::server::Router;
use tower::layer::util::{Identity, Stack};

use crate::shared::Shared;
use auth::AuthLayer;

pub use keeping::tend as tend_logs;

/// A stream of answers.
type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Answers that may wait for one reader.
const ANSWERS: usize = 64;
/// The frame around a Raft message.
const FRAME_BYTES: usize = 64 * 1024;

/// Every service, behind the check of who may call it.
pub fn router(shared: &Arc<Shared>) -> Router<Stack<AuthLayer, Identity>> {
    let api = || Arc::clone(shared);
    let jobs = JobsServer::new(jobs::Jobs::new(api())).max_decoding_message_size(MESSAGE_BYTES_MAX);
    let cluster = ClusterServer::new(cluster::Cluster::new(api()))
        .max_decoding_message_size(MESSAGE_BYTES_MAX);
    let blobs =
        BlobsServer::new(blobs::Blobs::new(api())).max_decoding_message_size(MESSAGE_BYTES_MAX);
    let checkpoints = CheckpointsServer::new(checkpoints::Checkpoints::new(api()))
        .max_decoding_message_size(MESSAGE_BYTES_MAX);
    let teams =
        TeamsServer::new(teams::Teams::new(api())).max_decoding_message_size(MESSAGE_BYTES_MAX);
    let admin =
        AdminServer::new(admin::Admin::new(api())).max_decoding_message_size(MESSAGE_BYTES_MAX);
    let link = LinkServer::new(link::Link::new(api())).max_decoding_message_size(MESSAGE_BYTES_MAX);
    let bulk = BulkServer::new(bulk::Bulk::new(api())).max_decoding_message_size(MESSAGE_BYTES_MAX);
    let peer = PeerServer::new(peer::Peer::new(api()))
        .max_decoding_message_size(RAFT_MESSAGE_BYTES_MAX + FRAME_BYTES);
    let routes = Routes::new(jobs).add_service(cluster).add_service(blobs);
    let routes = routes.add_service(checkpoints).add_service(teams);
    let routes = routes.add_service(admin);
    let routes = routes.add_service(link).add_service(bulk).add_service(peer);
    server_builder()
        .layer(AuthLayer::new(&shared.config.members))
        .add_routes(routes)
}
