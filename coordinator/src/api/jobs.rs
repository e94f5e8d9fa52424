//! The `Jobs` service: each verb to its file, each call to the leader.
use std::sync::Arc;

use futures::{StreamExt, stream};
use mlctl_proto::api::jobs_client::JobsClient;
use mlctl_proto::api::jobs_server;
use mlctl_proto::api::{
    CancelReply, CancelRequest, EditReply, ForeseeRequest, GetJobRequest, HoldRequest, Job,
    ListJobsReply, ListJobsRequest, LogLine, LogsRequest, ReleaseRequest, RetryReply, RetryRequest,
    SubmitReply, SubmitRequest, UpdateRequest, WatchEvent, WatchRequest, WhyReply, WhyRequest,
};
use mlctl_runtime::shutdown::Shutdown;
use mlctl_runtime::telemetry::trace_context;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status, Streaming};
use tracing::Instrument;

use super::auth::person;
use super::route::{no_leader, on_leader, our_word};
use super::{
    Answers, jobs_cancel, jobs_edit, jobs_foresee, jobs_read, jobs_retry, jobs_submit, logs, watch,
};
use crate::peers::Lease;
use crate::shared::Shared;

/// The service.
pub struct Jobs {
    shared: Arc<Shared>,
}

impl Jobs {
    /// A service over `shared`.
    pub fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }
}

#[tonic::async_trait]
impl jobs_server::Jobs for Jobs {
    async fn submit(
        &self,
        request: Request<SubmitRequest>,
    ) -> Result<Response<SubmitReply>, Status> {
        let person = person(&request)?;
        let span =
            tracing::info_span!("submit", user = %person.actor.name, forwarded = person.forwarded);
        join_trace(&span, request.metadata(), &request.get_ref().traceparent);
        let message = request.into_inner();
        let here = |message| jobs_submit::submit(&self.shared, &person, message);
        let there = |lease: Lease, request| async move {
            JobsClient::new(lease.channel.clone()).submit(request).await
        };
        on_leader(&self.shared, &person, &message, here, there)
            .instrument(span)
            .await
    }

    async fn list(
        &self,
        request: Request<ListJobsRequest>,
    ) -> Result<Response<ListJobsReply>, Status> {
        let person = person(&request)?;
        let message = request.into_inner();
        let here = |message| jobs_read::list(&self.shared, message);
        let there = |lease: Lease, request| async move {
            JobsClient::new(lease.channel.clone()).list(request).await
        };
        on_leader(&self.shared, &person, &message, here, there).await
    }

    async fn get(&self, request: Request<GetJobRequest>) -> Result<Response<Job>, Status> {
        let person = person(&request)?;
        let message = request.into_inner();
        let here = |message| jobs_read::get(&self.shared, message);
        let there = |lease: Lease, request| async move {
            JobsClient::new(lease.channel.clone()).get(request).await
        };
        on_leader(&self.shared, &person, &message, here, there).await
    }

    async fn cancel(
        &self,
        request: Request<CancelRequest>,
    ) -> Result<Response<CancelReply>, Status> {
        let person = person(&request)?;
        let span = tracing::info_span!("cancel", user = %person.actor.name);
        join_trace(&span, request.metadata(), "");
        let message = request.into_inner();
        let here = |message| jobs_cancel::cancel(&self.shared, &person, message);
        let there = |lease: Lease, request| async move {
            JobsClient::new(lease.channel.clone()).cancel(request).await
        };
        on_leader(&self.shared, &person, &message, here, there)
            .instrument(span)
            .await
    }

    async fn retry(&self, request: Request<RetryRequest>) -> Result<Response<RetryReply>, Status> {
        let person = person(&request)?;
        let span = tracing::info_span!("retry", user = %person.actor.name);
        join_trace(&span, request.metadata(), "");
        let message = request.into_inner();
        let here = |message| jobs_retry::retry(&self.shared, &person, message);
        let there = |lease: Lease, request| async move {
            JobsClient::new(lease.channel.clone()).retry(request).await
        };
        on_leader(&self.shared, &person, &message, here, there)
            .instrument(span)
            .await
    }

    async fn hold(&self, request: Request<HoldRequest>) -> Result<Response<EditReply>, Status> {
        let person = person(&request)?;
        let span = tracing::info_span!("hold", user = %person.actor.name);
        join_trace(&span, request.metadata(), "");
        let message = request.into_inner();
        let here = |message| jobs_edit::hold(&self.shared, &person, message);
        let there = |lease: Lease, request| async move {
            JobsClient::new(lease.channel.clone()).hold(request).await
        };
        on_leader(&self.shared, &person, &message, here, there)
            .instrument(span)
            .await
    }

    async fn release(
        &self,
        request: Request<ReleaseRequest>,
    ) -> Result<Response<EditReply>, Status> {
        let person = person(&request)?;
        let span = tracing::info_span!("release", user = %person.actor.name);
        join_trace(&span, request.metadata(), "");
        let message = request.into_inner();
        let here = |message| jobs_edit::release(&self.shared, &person, message);
        let there = |lease: Lease, request| async move {
            JobsClient::new(lease.channel.clone())
                .release(request)
                .await
        };
        on_leader(&self.shared, &person, &message, here, there)
            .instrument(span)
            .await
    }

    async fn update(&self, request: Request<UpdateRequest>) -> Result<Response<EditReply>, Status> {
        let person = person(&request)?;
        let span = tracing::info_span!("update", user = %person.actor.name);
        join_trace(&span, request.metadata(), "");
        let message = request.into_inner();
        let here = |message| jobs_edit::update(&self.shared, &person, message);
        let there = |lease: Lease, request| async move {
            JobsClient::new(lease.channel.clone()).update(request).await
        };
        on_leader(&self.shared, &person, &message, here, there)
            .instrument(span)
            .await
    }

    async fn why(&self, request: Request<WhyRequest>) -> Result<Response<WhyReply>, Status> {
        let person = person(&request)?;
        let message = request.into_inner();
        let here = |message| jobs_read::why(&self.shared, message);
        let there = |lease: Lease, request| async move {
            JobsClient::new(lease.channel.clone()).why(request).await
        };
        on_leader(&self.shared, &person, &message, here, there).await
    }

    async fn foresee(
        &self,
        request: Request<ForeseeRequest>,
    ) -> Result<Response<WhyReply>, Status> {
        let person = person(&request)?;
        let message = request.into_inner();
        let here = |message| jobs_foresee::foresee(&self.shared, &person, message);
        let there = |lease: Lease, request| async move {
            JobsClient::new(lease.channel.clone())
                .foresee(request)
                .await
        };
        on_leader(&self.shared, &person, &message, here, there).await
    }

    type LogsStream = Answers<LogLine>;

    async fn logs(
        &self,
        request: Request<LogsRequest>,
    ) -> Result<Response<Self::LogsStream>, Status> {
        let person = person(&request)?;
        let message = request.into_inner();
        let here = |message| logs::open(&self.shared, message);
        let there = |lease: Lease, request| async move {
            let answer = JobsClient::new(lease.channel.clone()).logs(request).await?;
            Ok(held(answer, lease, self.shared.shutdown.clone()))
        };
        on_leader(&self.shared, &person, &message, here, there).await
    }

    type WatchStream = Answers<WatchEvent>;

    async fn watch(
        &self,
        request: Request<WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let person = person(&request)?;
        let message = request.into_inner();
        let here = |message| watch::open(&self.shared, message);
        let there = |lease: Lease, request| async move {
            let answer = JobsClient::new(lease.channel.clone())
                .watch(request)
                .await?;
            Ok(held(answer, lease, self.shared.shutdown.clone()))
        };
        on_leader(&self.shared, &person, &message, here, there).await
    }
}

/// The leader's stream as ours; it counts as a call on the connection until it ends. When the leader goes away or this
/// coordinator stops it ends with an error that asks for another try, so that nobody takes that for its end.
pub(super) fn held<T: Send + 'static>(
    answer: Response<Streaming<T>>,
    lease: Lease,
    shutdown: Shutdown,
) -> Response<Answers<T>> {
    answer.map(|stream| {
        let begin = Some((stream, lease, shutdown));
        let stream = stream::unfold(begin, |state| async move {
            let (mut stream, lease, shutdown) = state?;
            let item = tokio::select! {
                item = stream.next() => item?.map_err(our_word),
                () = shutdown.wait() => Err(no_leader()),
            };
            let goes_on = item.is_ok().then_some((stream, lease, shutdown));
            Some((item, goes_on))
        });
        Box::pin(stream) as Answers<T>
    })
}

/// Makes `span` part of the caller's trace.
fn join_trace(span: &tracing::Span, metadata: &MetadataMap, field: &str) {
    let parent = trace_context::traceparent_of(metadata)
        .or_else(|| trace_context::is_valid(field).then_some(field));
    if let Some(parent) = parent {
        trace_context::set_parent(span, parent);
    }
}
