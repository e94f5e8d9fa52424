//! The `Blobs` service: uploads of users. Any coordinator takes them and copies them to the others.
use std::sync::Arc;

use futures::StreamExt;
use mlctl_blobs::{BlobId, BlobIdError};
use mlctl_proto::api::{MissingReply, MissingRequest, PutBlob, PutReply, blobs_server};
use mlctl_proto::errors::{Code, Refusal};
use tonic::{Request, Response, Status, Streaming};

use super::auth::person;
use super::exchange::{self, Receiving};
use crate::shared::Shared;
use crate::vitals::admission::upload_admitted;

/// The service.
pub struct Blobs {
    shared: Arc<Shared>,
}

impl Blobs {
    /// A service over `shared`.
    pub fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }
}

/// A blob id from a message.
///
/// # Errors
/// [`Code::BadRequest`] when it is none.
pub fn parse(id: &str) -> Result<BlobId, Refusal> {
    id.parse()
        .map_err(|error: BlobIdError| Refusal::new(Code::BadRequest, error.to_string()))
}

#[tonic::async_trait]
impl blobs_server::Blobs for Blobs {
    async fn missing(
        &self,
        request: Request<MissingRequest>,
    ) -> Result<Response<MissingReply>, Status> {
        person(&request)?;
        let ids: Result<Vec<BlobId>, Refusal> = request
            .into_inner()
            .ids
            .iter()
            .map(|id| parse(id))
            .collect();
        let missing = exchange::missing(&self.shared, ids?).await?;
        Ok(Response::new(MissingReply {
            ids: missing.iter().map(ToString::to_string).collect(),
        }))
    }

    async fn put(
        &self,
        request: Request<Streaming<PutBlob>>,
    ) -> Result<Response<PutReply>, Status> {
        person(&request)?;
        let mut parts = request.into_inner();
        let none = || Refusal::new(Code::BadRequest, "the upload names no blob");
        let first = parts.next().await.ok_or_else(none)??;
        let id = parse(&first.id)?;
        upload_admitted(&self.shared.vitals.stance())?;
        if !self.shared.blobs.has(&id) {
            let mut receiving = Receiving::begin(&self.shared, id).await?;
            receiving.write(first.data).await?;
            while let Some(part) = parts.next().await {
                receiving.write(part?.data).await?;
            }
            receiving.commit().await?;
        }
        let copies = exchange::spread(&self.shared, id).await?;
        Ok(Response::new(PutReply {
            copies: u32::try_from(copies).unwrap_or(u32::MAX),
        }))
    }
}
