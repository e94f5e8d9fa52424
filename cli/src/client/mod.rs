//! How commands reach the cluster: any coordinator, in turn, with a deadline per try and one overall.
//! A call that may have been done is sent again with the same idempotency key. Knows no command.
mod hint;
mod upload;

use std::future::Future;
use std::time::{Duration, Instant};

use mlctl_proto::LEADER_METADATA;
use mlctl_proto::errors::{Code, Refusal};
use mlctl_proto::limits::{CLIENT_RETRY_MS, CLIENT_TRY_MS, MESSAGE_BYTES_MAX};
use mlctl_runtime::config::ContextFile;
use mlctl_runtime::identity::Bundle;
use tonic::metadata::MetadataMap;
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

use crate::args::Global;
use crate::failure::Failure;

use hint::Hint;
pub use upload::upload_code;

/// A connection to a cluster that survives the loss of the coordinator it talks to.
pub struct Client {
    bundle: Bundle,
    addresses: Vec<String>,
    at: usize,
    channel: Option<Channel>,
    hint: Option<Hint>,
}

/// 16 random bytes: the key under which a request counts once, however often it is sent.
pub fn fresh_key() -> Vec<u8> {
    rand::random::<[u8; 16]>().to_vec()
}

impl Client {
    /// Whether there is a context to open: one that was named has to be there.
    pub fn is_there(global: &Global) -> bool {
        global.context.is_some() || ContextFile::default_path().is_ok_and(|path| path.exists())
    }

    /// The cluster of the context that `global` names, or of the current one. Connects to nothing yet.
    pub fn open(global: &Global) -> Result<Self, Failure> {
        let path = match &global.context {
            Some(path) => path.clone(),
            None => ContextFile::default_path().map_err(Failure::config)?,
        };
        if !path.exists() {
            return Err(Failure::config_text(format!(
                "no context: {} does not exist; ask an admin for a context file and set MLCTL_CONFIG to it, or try `mlctl dev`",
                path.display()
            )));
        }
        let context = ContextFile::read(&path).map_err(Failure::config)?;
        let (hint, client) = (Hint::beside(&path), Self::of(&context));
        Ok(Self {
            at: hint.position(&client.addresses),
            hint: Some(hint),
            ..client
        })
    }

    /// The cluster of `context`.
    pub fn of(context: &ContextFile) -> Self {
        Self {
            bundle: context.bundle(),
            addresses: context.addresses.clone(),
            at: 0,
            channel: None,
            hint: None,
        }
    }

    /// One call, tried on one coordinator after the other until it is answered, refused, or 15 s have passed.
    pub async fn call<T, F, R>(&mut self, call: F) -> Result<T, Failure>
    where
        F: Fn(Channel) -> R,
        R: Future<Output = Result<Response<T>, Status>>,
    {
        let deadline = Instant::now() + Duration::from_millis(CLIENT_RETRY_MS);
        let mut tries = 0;
        loop {
            let failure = match self.try_once(&call).await {
                Ok(answer) => return Ok(answer),
                Err(failure) => failure,
            };
            tries += 1;
            let pause = self.after(&failure, tries);
            if !failure.may_retry() || Instant::now() + pause >= deadline {
                return Err(failure);
            }
            tokio::time::sleep(pause).await;
        }
    }

    /// A whole round without an answer is followed by a short pause, so that an election can end.
    fn after(&mut self, failure: &Failure, tries: usize) -> Duration {
        self.rotate();
        let round = tries / self.addresses.len().max(1);
        let wait = if failure.code() == Some(Code::Overloaded) {
            200
        } else {
            25
        };
        let whole_round = tries.is_multiple_of(self.addresses.len().max(1));
        Duration::from_millis(if whole_round {
            wait * (round as u64).min(8)
        } else {
            0
        })
    }

    /// Leaves the present coordinator for the next one.
    pub fn rotate(&mut self) {
        self.channel = None;
        self.at = (self.at + 1) % self.addresses.len().max(1);
    }

    async fn try_once<T, F, R>(&mut self, call: &F) -> Result<T, Failure>
    where
        F: Fn(Channel) -> R,
        R: Future<Output = Result<Response<T>, Status>>,
    {
        let channel = self.channel().await?;
        match tokio::time::timeout(Duration::from_millis(CLIENT_TRY_MS), call(channel)).await {
            Ok(Ok(answer)) => {
                self.note(answer.metadata());
                Ok(answer.into_inner())
            }
            Ok(Err(status)) => Err(Failure::from(&status)),
            Err(_) => Err(Failure::from(Refusal::new(
                Code::Unavailable,
                format!(
                    "{} did not answer within {} s",
                    self.address(),
                    CLIENT_TRY_MS / 1000
                ),
            ))),
        }
    }

    /// Who passes calls on says to whom; else whoever answered is the one to begin with the next time.
    fn note(&mut self, metadata: &MetadataMap) {
        let leader = metadata.get(LEADER_METADATA);
        let leader = leader.and_then(|value| value.to_str().ok());
        let leader = leader.unwrap_or(self.address()).to_owned();
        if let Some(hint) = self
            .hint
            .as_mut()
            .filter(|_| self.addresses.contains(&leader))
        {
            hint.note(&leader);
        }
    }

    fn address(&self) -> &str {
        self.addresses.get(self.at).map_or("", String::as_str)
    }

    /// A channel to the present coordinator, dialled if there is none.
    pub async fn channel(&mut self) -> Result<Channel, Failure> {
        if let Some(channel) = &self.channel {
            return Ok(channel.clone());
        }
        if self.addresses.is_empty() {
            return Err(Failure::config_text(
                "the context file names no coordinator address".into(),
            ));
        }
        let dialled =
            mlctl_runtime::tls::channel(&self.bundle, self.address(), Duration::from_secs(1)).await;
        let channel = dialled.map_err(Failure::dial)?;
        self.channel = Some(channel.clone());
        Ok(channel)
    }
}

macro_rules! stubs {
    ($($name:ident => $client:ty;)*) => {
        $(
            /// A stub of the service over `channel`, with the limits of every message.
            pub fn $name(channel: Channel) -> $client {
                <$client>::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX).max_encoding_message_size(MESSAGE_BYTES_MAX)
            }
        )*
    };
}
stubs! {
    jobs => mlctl_proto::api::jobs_client::JobsClient<Channel>;
    cluster => mlctl_proto::api::cluster_client::ClusterClient<Channel>;
    checkpoints => mlctl_proto::api::checkpoints_client::CheckpointsClient<Channel>;
    blobs => mlctl_proto::api::blobs_client::BlobsClient<Channel>;
    admin => mlctl_proto::api::admin_client::AdminClient<Channel>;
    teams => mlctl_proto::api::teams_client::TeamsClient<Channel>;
}

/// `message` as a request that carries the trace of this command.
pub fn traced<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    mlctl_runtime::telemetry::trace_context::inject(request.metadata_mut());
    request
}
