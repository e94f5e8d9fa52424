//! Calls as a hostile or careless client would make them: own metadata, own keys, over the same TLS as everybody.
//! Does NOT retry: one call, one answer.

use std::path::Path;
use std::time::Duration;

use mlctl_proto::api::cluster_client::ClusterClient;
use mlctl_proto::api::jobs_client::JobsClient;
use mlctl_proto::api::{
    CancelReply, CancelRequest, ChangeRequest, HelloReply, HelloRequest, SubmitReply, SubmitRequest,
};
use mlctl_proto::spec::JobSpec;
use mlctl_runtime::config::ContextFile;
use tonic::metadata::{Ascii, MetadataKey, MetadataValue};
use tonic::transport::Channel;
use tonic::{Request, Status};

/// A connection to one coordinator with the certificate of a context file.
pub struct Raw {
    runtime: tokio::runtime::Runtime,
    channel: Channel,
    metadata: Vec<(String, String)>,
}

impl Raw {
    /// Connects with the certificate of `context` to the `number`th address in it.
    ///
    /// # Errors
    /// The text of whatever stood in the way.
    pub fn connect(context: &Path, number: usize) -> Result<Self, String> {
        mlctl_runtime::tls::install_crypto();
        let context = ContextFile::read(context).map_err(|error| error.to_string())?;
        let address = context.addresses.get(number).ok_or("no such address")?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| error.to_string())?;
        let dialled = runtime.block_on(mlctl_runtime::tls::channel(
            &context.bundle(),
            address,
            Duration::from_secs(5),
        ));
        Ok(Self {
            runtime,
            channel: dialled.map_err(|error| error.to_string())?,
            metadata: Vec::new(),
        })
    }

    /// The same connection, with `key: value` in the metadata of each further call.
    #[must_use]
    pub fn saying(mut self, key: &str, value: &str) -> Self {
        self.metadata.push((key.to_owned(), value.to_owned()));
        self
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.set_timeout(Duration::from_secs(10));
        for (key, value) in &self.metadata {
            let key: MetadataKey<Ascii> = key.parse().expect("tests name legal metadata keys");
            let value: MetadataValue<Ascii> =
                value.parse().expect("tests use legal metadata values");
            request.metadata_mut().insert(key, value);
        }
        request
    }

    /// Submits `spec` under `key`.
    ///
    /// # Errors
    /// The refusal.
    pub fn submit(&self, key: &[u8], spec: &JobSpec) -> Result<SubmitReply, Status> {
        self.submit_bytes(key, spec.canonical_json())
    }

    /// Submits these bytes as a spec.
    ///
    /// # Errors
    /// The refusal.
    pub fn submit_bytes(&self, key: &[u8], spec: Vec<u8>) -> Result<SubmitReply, Status> {
        self.submit_request(SubmitRequest {
            key: key.to_vec(),
            spec,
            ..SubmitRequest::default()
        })
    }

    /// Sends a whole submit as it is.
    ///
    /// # Errors
    /// The refusal.
    pub fn submit_request(&self, request: SubmitRequest) -> Result<SubmitReply, Status> {
        let mut client = JobsClient::new(self.channel.clone());
        self.runtime
            .block_on(client.submit(self.request(request)))
            .map(tonic::Response::into_inner)
    }

    /// Cancels `jobs` under `key`.
    ///
    /// # Errors
    /// The refusal.
    pub fn cancel(&self, key: &[u8], jobs: &[&str]) -> Result<CancelReply, Status> {
        let mut client = JobsClient::new(self.channel.clone());
        let request = CancelRequest {
            key: key.to_vec(),
            jobs: jobs.iter().map(|&job| job.to_owned()).collect(),
            filter: None,
        };
        self.runtime
            .block_on(client.cancel(self.request(request)))
            .map(tonic::Response::into_inner)
    }

    /// Who the cluster says we are.
    ///
    /// # Errors
    /// The refusal.
    pub fn hello(&self) -> Result<HelloReply, Status> {
        let mut client = ClusterClient::new(self.channel.clone());
        let request = HelloRequest {
            version: mlctl_proto::VERSION.into(),
            capabilities: Vec::new(),
        };
        self.runtime
            .block_on(client.hello(self.request(request)))
            .map(tonic::Response::into_inner)
    }

    /// Asks for a change that only admins may make.
    ///
    /// # Errors
    /// The refusal.
    pub fn allow_root(&self, key: &[u8], allow: bool) -> Result<(), Status> {
        let mut client = ClusterClient::new(self.channel.clone());
        let request = ChangeRequest {
            key: key.to_vec(),
            allow_root: Some(allow),
            ..ChangeRequest::default()
        };
        self.runtime
            .block_on(client.change(self.request(request)))
            .map(drop)
    }
}
