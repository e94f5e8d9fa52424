//! The two sides of a comparison, ours and etcd's, as one thing to write to. The same bytes, one connection per client.
//! Does NOT retry: `failover` does, for both in the same way.

use std::time::Duration;

use anyhow::{Context, Result};
use mlctl_proto::api::jobs_client::JobsClient;
use mlctl_proto::api::{CancelRequest, SubmitRequest};
use mlctl_proto::limits::MESSAGE_BYTES_MAX;
use mlctl_proto::spec::JobSpec;
use mlctl_runtime::config::ContextFile;
use mlctl_runtime::tls::Dialer;
use tonic::Status;
use tonic::transport::Channel;

use crate::peers::{Etcd, EtcdClient};
use crate::process::Cluster;

/// Bytes of a job's spec, and of an etcd value.
pub const PAYLOAD_BYTES: usize = 256;

/// How to connect to ours: as any user does.
#[derive(Clone)]
pub struct Ours {
    dialer: Dialer,
    payload: Vec<u8>,
}

/// One open connection.
#[derive(Clone)]
pub enum Connection {
    /// To a coordinator, and what it submits.
    Ours(JobsClient<Channel>, Vec<u8>),
    /// To an etcd member.
    Etcd(EtcdClient),
}

/// Where the members of a side are.
#[derive(Clone)]
pub enum Side {
    /// Coordinators.
    Ours(Ours, Vec<String>),
    /// etcd.
    Etcd(Vec<String>),
}

impl Ours {
    /// The side of `cluster`. Its jobs ask for the one GPU that there is: they wait.
    ///
    /// # Errors
    /// When the context cannot be used.
    pub fn of(cluster: &Cluster) -> Result<Self> {
        mlctl_runtime::tls::install_crypto();
        let context = ContextFile::read(&cluster.context())?;
        Ok(Self {
            dialer: Dialer::new(&context.bundle())?,
            payload: payload(),
        })
    }

    /// A connection to the coordinator at `address`.
    ///
    /// # Errors
    /// When it cannot be reached.
    pub async fn connect(&self, address: &str) -> Result<JobsClient<Channel>> {
        let channel = self.dialer.channel(address, Duration::from_secs(1)).await?;
        Ok(JobsClient::new(channel)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX))
    }
}

/// A spec of exactly [`PAYLOAD_BYTES`].
fn payload() -> Vec<u8> {
    let spec = |padding: usize| {
        let mut spec = JobSpec::new(vec!["true".into(), "x".repeat(padding)]);
        spec.gpus = 1;
        spec.canonical_json()
    };
    spec(PAYLOAD_BYTES.saturating_sub(spec(0).len()))
}

impl Side {
    /// Ours.
    ///
    /// # Errors
    /// When the context cannot be used.
    pub fn ours(cluster: &Cluster) -> Result<Self> {
        let coordinators = cluster.daemons().into_iter();
        let addresses = coordinators.filter(|one| one.role == "coordinator");
        let addresses = addresses.map(|one| one.address).collect();
        Ok(Self::Ours(Ours::of(cluster)?, addresses))
    }

    /// etcd's.
    pub fn etcd(etcd: &Etcd) -> Self {
        Self::Etcd(etcd.addresses())
    }

    /// For tables and files.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Ours(..) => "mlctl",
            Self::Etcd(_) => "etcd",
        }
    }

    /// `host:port` of each member.
    pub fn addresses(&self) -> &[String] {
        match self {
            Self::Ours(_, addresses) | Self::Etcd(addresses) => addresses,
        }
    }

    /// A new connection to `address`.
    ///
    /// # Errors
    /// When nobody answers there.
    pub async fn connect(&self, address: &str) -> Result<Connection> {
        Ok(match self {
            Self::Ours(ours, _) => {
                Connection::Ours(ours.connect(address).await?, ours.payload.clone())
            }
            Self::Etcd(_) => Connection::Etcd(EtcdClient::connect(address).await?),
        })
    }
}

impl Connection {
    /// One durable write under `key`. Returns the id of the job, if it made one.
    ///
    /// # Errors
    /// Whatever the other end or the connection says.
    pub async fn write(&mut self, key: [u8; 16]) -> Result<Option<String>, Status> {
        match self {
            Self::Ours(jobs, spec) => {
                let request = SubmitRequest {
                    key: key.to_vec(),
                    spec: spec.clone(),
                    ..SubmitRequest::default()
                };
                let answer = jobs.submit(request).await?;
                Ok(Some(answer.into_inner().job))
            }
            Self::Etcd(etcd) => {
                etcd.put(key.to_vec(), vec![b'x'; PAYLOAD_BYTES]).await?;
                Ok(None)
            }
        }
    }
}

/// Ends `jobs`, as many in one call as a message takes.
///
/// # Errors
/// When the cluster refuses.
pub async fn cancel(connection: &mut Connection, jobs: &[String]) -> Result<()> {
    let Connection::Ours(client, _) = connection else {
        return Ok(());
    };
    for some in jobs.chunks(20_000) {
        let request = CancelRequest {
            key: rand::random::<[u8; 16]>().to_vec(),
            jobs: some.to_vec(),
            filter: None,
        };
        client
            .cancel(request)
            .await
            .context("jobs that were submitted can be cancelled")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sides_write_as_much() {
        assert_eq!(payload().len(), PAYLOAD_BYTES);
    }
}
