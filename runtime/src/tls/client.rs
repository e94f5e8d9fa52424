//! The dialling side: tonic channels to coordinators, and errors that say which of the two ends is at fault.
//!
//! Picks no address and retries nothing: callers rotate and back off.
use super::{ALPN, HEADERS_BYTES_MAX, KEEPALIVE_EVERY, KEEPALIVE_TIMEOUT, PROVIDER, Parts, unfit};
use crate::identity::{Bundle, IdentityError, server_name};
use http::Uri;
use hyper_util::rt::TokioIo;
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::{AlertDescription, CertificateError, ClientConfig};
use rustls_pki_types::ServerName;
use std::error::Error;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncBufReadExt;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint};

/// Why there is no connection.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DialError {
    /// Not `host:port`.
    #[error("`{address}` is not an address: {why}; write host:port")]
    BadAddress {
        /// What was given.
        address: String,
        /// What is wrong with it.
        why: String,
    },
    /// Nobody answers there: refused, unreachable, no such host.
    #[error("cannot reach {address}: {why}")]
    Unreachable {
        /// Where.
        address: String,
        /// What the system said.
        why: String,
    },
    /// Somebody may be there and did not answer in time.
    #[error("{address} did not answer within {waited_ms} ms")]
    Timeout {
        /// Where.
        address: String,
        /// How long it was waited for, milliseconds.
        waited_ms: u128,
    },
    /// Who answers is not a coordinator of our cluster.
    #[error(
        "the server at {address} is not part of cluster {cluster} ({why}); check the address, or use the context file of its cluster"
    )]
    WrongCluster {
        /// Where.
        address: String,
        /// The cluster that was expected.
        cluster: String,
        /// What is wrong with its certificate.
        why: String,
    },
    /// It does not want our certificate.
    #[error(
        "the server at {address} refuses this certificate ({why}); ask an admin of cluster {cluster} for a new one"
    )]
    CertificateRefused {
        /// Where.
        address: String,
        /// The cluster.
        cluster: String,
        /// The TLS alert.
        why: String,
    },
    /// Something else listens there, or the connection broke in the middle of the handshake.
    #[error(
        "the server at {address} does not speak as a coordinator does ({why}); check the address"
    )]
    NotACoordinator {
        /// Where.
        address: String,
        /// What came instead.
        why: String,
    },
    /// Our own certificate, key or CA cannot be used.
    #[error("{why}")]
    Identity {
        /// What is wrong with it.
        why: String,
    },
}

impl DialError {
    /// The dial error that `error` was made of, if any: a call on a channel that could not connect fails with a
    /// `tonic::Status` that has it among its sources.
    pub fn find<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a Self> {
        let mut next = Some(error);
        while let Some(error) = next {
            if let Some(found) = error.downcast_ref() {
                return Some(found);
            }
            next = error.source();
        }
        None
    }
}

impl From<IdentityError> for DialError {
    fn from(error: IdentityError) -> Self {
        Self::Identity {
            why: error.to_string(),
        }
    }
}

/// Connects to the coordinator at `address` (`host:port`) and returns when both sides have accepted each other. When
/// the connection breaks, the channel dials again at the next call.
///
/// # Errors
/// [`DialError`], at the latest after `connect_timeout`.
pub async fn channel(
    bundle: &Bundle,
    address: &str,
    connect_timeout: Duration,
) -> Result<Channel, DialError> {
    Dialer::new(bundle)?.channel(address, connect_timeout).await
}

/// As [`channel`], but dials at the first call, which then fails with the error if there is one; see
/// [`DialError::find`]. Must be called inside a tokio runtime.
///
/// # Errors
/// [`DialError::BadAddress`] and [`DialError::Identity`] only.
pub fn channel_lazy(
    bundle: &Bundle,
    address: &str,
    connect_timeout: Duration,
) -> Result<Channel, DialError> {
    Dialer::new(bundle)?.channel_lazy(address, connect_timeout)
}

/// An identity made ready for dialling; cheap to clone. Worth keeping by whoever dials more than once.
#[derive(Clone, Debug)]
pub struct Dialer {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
    cluster: String,
}

impl Dialer {
    /// A dialer with this identity.
    ///
    /// # Errors
    /// When certificate, key and CA do not fit together.
    pub fn new(bundle: &Bundle) -> Result<Self, IdentityError> {
        let cluster = bundle.peer()?.cluster;
        let parts = Parts::of(bundle)?;
        let verifier = WebPkiServerVerifier::builder_with_provider(parts.roots, PROVIDER.clone())
            .build()
            .map_err(unfit)?;
        let mut config = ClientConfig::builder_with_provider(PROVIDER.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(unfit)?
            .with_webpki_verifier(verifier)
            .with_client_auth_cert(parts.chain, parts.key)
            .map_err(unfit)?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.resumption = Resumption::disabled();
        Ok(Self {
            config: Arc::new(config),
            name: ServerName::try_from(server_name(&cluster)).map_err(unfit)?,
            cluster,
        })
    }

    /// See [`channel`].
    ///
    /// # Errors
    /// [`DialError`], at the latest after `connect_timeout`.
    pub async fn channel(
        &self,
        address: &str,
        connect_timeout: Duration,
    ) -> Result<Channel, DialError> {
        let connector = self.connector(address, connect_timeout);
        let endpoint = endpoint(address)?;
        let connected = endpoint
            .connect_with_connector(tower::service_fn(connector))
            .await;
        connected.map_err(|error| {
            DialError::find(&error)
                .cloned()
                .unwrap_or_else(|| DialError::NotACoordinator {
                    address: address.to_owned(),
                    why: error.source().unwrap_or(&error).to_string(),
                })
        })
    }

    /// See [`channel_lazy`].
    ///
    /// # Errors
    /// [`DialError::BadAddress`] only.
    pub fn channel_lazy(
        &self,
        address: &str,
        connect_timeout: Duration,
    ) -> Result<Channel, DialError> {
        let connector = self.connector(address, connect_timeout);
        Ok(endpoint(address)?.connect_with_connector_lazy(tower::service_fn(connector)))
    }

    fn connector(
        &self,
        address: &str,
        timeout: Duration,
    ) -> impl Fn(Uri) -> Dialling + Send + use<> {
        let (dialer, address) = (self.clone(), address.to_owned());
        move |_| {
            let (dialer, address) = (dialer.clone(), address.clone());
            Box::pin(async move { dialer.dial(&address, timeout).await.map(TokioIo::new) })
        }
    }

    async fn dial(
        &self,
        address: &str,
        timeout: Duration,
    ) -> Result<TlsStream<TcpStream>, DialError> {
        tokio::time::timeout(timeout, self.handshake(address))
            .await
            .unwrap_or_else(|_| {
                Err(DialError::Timeout {
                    address: address.to_owned(),
                    waited_ms: timeout.as_millis(),
                })
            })
    }

    async fn handshake(&self, address: &str) -> Result<TlsStream<TcpStream>, DialError> {
        let unreachable = |error: io::Error| DialError::Unreachable {
            address: address.to_owned(),
            why: error.to_string(),
        };
        let tcp = TcpStream::connect(address).await.map_err(unreachable)?;
        tcp.set_nodelay(true).map_err(unreachable)?;
        let mut tls = TlsConnector::from(self.config.clone())
            .connect(self.name.clone(), tcp)
            .await
            .map_err(|error| self.explain(address, &error))?;
        // In TLS 1.3 the handshake ends here before the server has looked at our certificate. It greets first in
        // HTTP/2, so its first bytes, or its alert, tell whether we are accepted. They stay in the buffer.
        match tls.fill_buf().await {
            Ok([]) => Err(DialError::NotACoordinator {
                address: address.to_owned(),
                why: "it closed the connection".to_owned(),
            }),
            Ok(_) => Ok(tls),
            Err(error) => Err(self.explain(address, &error)),
        }
    }

    /// Which end a failed handshake is the fault of.
    fn explain(&self, address: &str, error: &io::Error) -> DialError {
        let (address, cluster) = (address.to_owned(), self.cluster.clone());
        let tls = error.get_ref().and_then(|inner| inner.downcast_ref());
        match tls {
            Some(rustls::Error::InvalidCertificate(reason)) => DialError::WrongCluster {
                address,
                cluster,
                why: describe(reason),
            },
            Some(rustls::Error::AlertReceived(alert)) if about_certificate(*alert) => {
                DialError::CertificateRefused {
                    address,
                    cluster,
                    why: format!("{alert:?}"),
                }
            }
            Some(other) => DialError::NotACoordinator {
                address,
                why: other.to_string(),
            },
            None => DialError::NotACoordinator {
                address,
                why: error.to_string(),
            },
        }
    }
}

type Dialling = std::pin::Pin<
    Box<dyn Future<Output = Result<TokioIo<TlsStream<TcpStream>>, DialError>> + Send>,
>;

/// The endpoint of an address; the scheme says `http` because TLS is ours, not tonic's.
fn endpoint(address: &str) -> Result<Endpoint, DialError> {
    let bad = |why: String| DialError::BadAddress {
        address: mlctl_proto::ids::clip(address),
        why,
    };
    let authority: http::uri::Authority = address
        .parse()
        .map_err(|error: http::uri::InvalidUri| bad(error.to_string()))?;
    if authority.host().is_empty() || authority.as_str().contains('@') {
        return Err(bad("it has no plain host".to_owned()));
    }
    match authority.port_u16() {
        None | Some(0) => return Err(bad("it has no port".to_owned())),
        Some(_) => {}
    }
    let endpoint =
        Endpoint::from_shared(format!("http://{authority}")).map_err(|e| bad(e.to_string()))?;
    Ok(endpoint
        .http2_keep_alive_interval(KEEPALIVE_EVERY)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .http2_max_header_list_size(HEADERS_BYTES_MAX))
}

/// A server's certificate problem in words.
fn describe(reason: &CertificateError) -> String {
    use CertificateError as E;
    match reason {
        E::UnknownIssuer | E::BadSignature => "another CA signed its certificate".to_owned(),
        E::NotValidForName
        | E::NotValidForNameContext { .. }
        | E::InvalidPurpose
        | E::InvalidPurposeContext { .. } => "its certificate is not a coordinator's".to_owned(),
        E::Expired | E::ExpiredContext { .. } => {
            "its certificate has expired, or the clock of this machine is wrong".to_owned()
        }
        E::NotValidYet | E::NotValidYetContext { .. } => {
            "its certificate is not valid yet, or the clock of this machine is wrong".to_owned()
        }
        other => format!("its certificate: {other:?}"),
    }
}

/// Whether an alert complains about the certificate that we sent.
fn about_certificate(alert: AlertDescription) -> bool {
    use AlertDescription as A;
    matches!(
        alert,
        A::NoCertificate
            | A::BadCertificate
            | A::UnsupportedCertificate
            | A::CertificateRevoked
            | A::CertificateExpired
            | A::CertificateUnknown
            | A::UnknownCA
            | A::AccessDenied
            | A::DecryptError
            | A::CertificateRequired
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_host_and_port_are_addresses() {
        for good in ["127.0.0.1:7070", "[::1]:7070", "c1.example.org:1"] {
            endpoint(good).expect(good);
        }
        for bad in [
            "",
            "host",
            ":7070",
            "host:",
            "host:0",
            "host:70000",
            "host:port",
            "http://host:1",
            "a@host:1",
            "host:1/path",
            "a b:1",
            "host:1\n",
        ] {
            assert!(
                matches!(endpoint(bad), Err(DialError::BadAddress { .. })),
                "{bad:?}"
            );
        }
    }
}
