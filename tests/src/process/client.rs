//! A client with an open connection that goes on trying, under the same key, on one coordinator after the other.
//! Does NOT check anything: what it was told is for a ledger.

use std::time::{Duration, Instant};

use mlctl_proto::api::cluster_client::ClusterClient;
use mlctl_proto::api::jobs_client::JobsClient;
use mlctl_proto::api::{
    CancelReply, CancelRequest, GetJobRequest, HelloReply, HelloRequest, Job, ListJobsReply,
    ListJobsRequest, NodesReply, NodesRequest, SubmitReply, SubmitRequest,
};
use mlctl_proto::errors::{Code, Refusal};
use mlctl_proto::limits::MESSAGE_BYTES_MAX;
use mlctl_runtime::config::ContextFile;
use mlctl_runtime::tls::Dialer;
use tokio::runtime::Runtime;
use tonic::transport::Channel;
use tonic::{Response, Status};

/// One try, dialling included.
const TRY: Duration = Duration::from_millis(1_000);
/// After a try that was not answered.
const PAUSE: Duration = Duration::from_millis(10);
/// When a call is given up.
pub const GIVE_UP: Duration = Duration::from_secs(15);

/// A key for idempotent requests.
pub type Key = [u8; 16];

/// A client.
pub struct Client {
    runtime: Runtime,
    dialer: Dialer,
    addresses: Vec<String>,
    at: usize,
    channel: Option<Channel>,
}

impl Client {
    /// The user of `context`, who begins with its `first` address.
    ///
    /// # Panics
    /// When the context makes no sense.
    pub fn new(context: &ContextFile, first: usize) -> Self {
        mlctl_runtime::tls::install_crypto();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime without threads can be had");
        Self {
            runtime,
            dialer: Dialer::new(&context.bundle()).expect("the context's parts fit together"),
            addresses: context.addresses.clone(),
            at: first % context.addresses.len(),
            channel: None,
        }
    }

    /// One call, again and again until it is answered, refused for good, or [`GIVE_UP`] has passed.
    fn call<T, F, R>(&mut self, call: F) -> Result<T, Refusal>
    where
        F: Fn(Channel) -> R,
        R: Future<Output = Result<Response<T>, Status>>,
    {
        let deadline = Instant::now() + GIVE_UP;
        loop {
            let refusal = match self.once(self.at, &call) {
                Ok(answer) => return Ok(answer),
                Err(refusal) => refusal,
            };
            self.channel = None;
            self.at = (self.at + 1) % self.addresses.len();
            let again = matches!(refusal.code, Code::Unavailable | Code::Overloaded);
            if !again || Instant::now() > deadline {
                return Err(refusal);
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// One try at the `place`th address; the connection is kept if it is the usual one.
    fn once<T, F, R>(&mut self, place: usize, call: &F) -> Result<T, Refusal>
    where
        F: Fn(Channel) -> R,
        R: Future<Output = Result<Response<T>, Status>>,
    {
        let kept = self.channel.clone().filter(|_| place == self.at);
        let (dialer, address) = (&self.dialer, &self.addresses[place]);
        let tried = self.runtime.block_on(async {
            let work = async {
                let channel = match kept {
                    Some(channel) => channel,
                    None => dialer
                        .channel(address, TRY)
                        .await
                        .map_err(|error| unavailable(&error.to_string()))?,
                };
                let answer = call(channel.clone()).await;
                let answer = answer.map_err(|status| Refusal::from(&status))?;
                Ok((answer.into_inner(), channel))
            };
            tokio::time::timeout(TRY, work)
                .await
                .unwrap_or_else(|_| Err(unavailable("no answer in time")))
        });
        let (answer, channel) = tried?;
        if place == self.at {
            self.channel = Some(channel);
        }
        Ok(answer)
    }

    /// Submits a spec under `key`.
    ///
    /// # Errors
    /// The refusal, or the last one of many.
    pub fn submit(&mut self, key: Key, spec: &[u8]) -> Result<SubmitReply, Refusal> {
        let request = SubmitRequest {
            key: key.to_vec(),
            spec: spec.to_vec(),
            ..SubmitRequest::default()
        };
        self.call(|channel| {
            let request = request.clone();
            async move { JobsClient::new(channel).submit(request).await }
        })
    }

    /// Cancels `jobs` under `key`.
    ///
    /// # Errors
    /// As [`Client::submit`].
    pub fn cancel(&mut self, key: Key, jobs: Vec<String>) -> Result<CancelReply, Refusal> {
        let request = CancelRequest {
            key: key.to_vec(),
            jobs,
            filter: None,
        };
        self.call(|channel| {
            let request = request.clone();
            async move { JobsClient::new(channel).cancel(request).await }
        })
    }

    /// One job.
    ///
    /// # Errors
    /// As [`Client::submit`].
    pub fn get(&mut self, job: &str) -> Result<Job, Refusal> {
        let request = GetJobRequest {
            job: job.to_owned(),
        };
        self.call(|channel| {
            let request = request.clone();
            async move { JobsClient::new(channel).get(request).await }
        })
    }

    /// One page of all jobs that ever were, after job `after`.
    ///
    /// # Errors
    /// As [`Client::submit`].
    pub fn page(&mut self, after: &str, limit: u32) -> Result<ListJobsReply, Refusal> {
        let request = ListJobsRequest {
            all: true,
            history: true,
            after: after.to_owned(),
            limit,
            ..ListJobsRequest::default()
        };
        self.call(|channel| {
            let request = request.clone();
            async move {
                JobsClient::new(channel)
                    .max_decoding_message_size(MESSAGE_BYTES_MAX)
                    .list(request)
                    .await
            }
        })
    }

    /// Every job, page by page.
    ///
    /// # Errors
    /// As [`Client::submit`].
    pub fn list(&mut self) -> Result<Vec<Job>, Refusal> {
        let mut all: Vec<Job> = Vec::new();
        loop {
            let after = all.last().map_or(String::new(), |job| job.id.clone());
            let reply = self.page(&after, 0)?;
            all.extend(reply.jobs);
            if !reply.more {
                return Ok(all);
            }
        }
    }

    /// The nodes.
    ///
    /// # Errors
    /// As [`Client::submit`].
    pub fn nodes(&mut self) -> Result<NodesReply, Refusal> {
        self.call(|channel| async move { ClusterClient::new(channel).nodes(NodesRequest {}).await })
    }

    /// What the coordinator at the `place`th address says of itself; asked once.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn hello(&mut self, place: usize) -> Result<HelloReply, Refusal> {
        let request = HelloRequest {
            version: mlctl_proto::VERSION.into(),
            capabilities: Vec::new(),
        };
        self.once(place, &|channel| {
            let request = request.clone();
            async move { ClusterClient::new(channel).hello(request).await }
        })
    }
}

fn unavailable(why: &str) -> Refusal {
    Refusal::new(Code::Unavailable, why)
}
