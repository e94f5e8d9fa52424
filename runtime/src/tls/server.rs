//! The serving side: handshakes off the accept loop, and the proven peer of every call.
//!
//! Serves nothing itself and counts nothing per address.
use super::{ALPN, HEADERS_BYTES_MAX, KEEPALIVE_EVERY, KEEPALIVE_TIMEOUT, PROVIDER, Parts, unfit};
use crate::identity::{Bundle, IdentityError, Peer, Role};
use mlctl_proto::limits::CALLS_PER_CONNECTION_MAX;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, OtherError, ServerConfig,
    SignatureScheme,
};
use rustls_pki_types::{CertificateDer, UnixTime};
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::Connected;

/// Handshakes in flight; connections beyond wait in the kernel's queue.
const HANDSHAKES_MAX: usize = 256;
/// From accept to the end of the handshake.
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(5);
/// Pause after the system refused to accept, so that running out of files does not become a busy loop.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Connections that are through and wait to be served.
const READY_MAX: usize = 64;

/// Believes certificates that our CA signed and that name a peer of our cluster.
#[derive(Debug)]
struct ClusterVerifier {
    chain: Arc<dyn ClientCertVerifier>,
    cluster: String,
}

impl ClientCertVerifier for ClusterVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // None: a stranger who only knocks learns no name of ours.
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let verified = self
            .chain
            .verify_client_cert(end_entity, intermediates, now)?;
        let refuse = |why: IdentityError| CertificateError::Other(OtherError(Arc::new(why)));
        let peer = Peer::from_der(end_entity).map_err(refuse)?;
        if peer.cluster != self.cluster {
            let why = IdentityError::Unfit(format!("it is of cluster {}", peer.cluster));
            return Err(refuse(why).into());
        }
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chain.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chain.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

/// How a coordinator serves: TLS 1.3, and nobody without a certificate of this cluster gets past the handshake.
///
/// # Errors
/// [`IdentityError`] when the bundle is not a coordinator's, or its parts do not fit together.
pub fn server_config(bundle: &Bundle) -> Result<Arc<ServerConfig>, IdentityError> {
    let peer = bundle.peer()?;
    if peer.role != Role::Coordinator {
        return Err(IdentityError::Unfit(format!(
            "it is that of {peer}, and only coordinators serve; `mlctl admin cert coordinator` makes one"
        )));
    }
    let parts = Parts::of(bundle)?;
    let chain = WebPkiClientVerifier::builder_with_provider(parts.roots, PROVIDER.clone())
        .build()
        .map_err(unfit)?;
    let verifier = ClusterVerifier {
        chain,
        cluster: peer.cluster,
    };
    let mut config = ServerConfig::builder_with_provider(PROVIDER.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(unfit)?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_single_cert(parts.chain, parts.key)
        .map_err(unfit)?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

/// A tonic server with the limits that every server of a cluster has: calls per connection, header bytes, keepalive.
pub fn server_builder() -> tonic::transport::Server {
    let calls = u32::try_from(CALLS_PER_CONNECTION_MAX).unwrap_or(u32::MAX);
    tonic::transport::Server::builder()
        .max_concurrent_streams(calls)
        .http2_max_header_list_size(HEADERS_BYTES_MAX)
        .http2_keepalive_interval(Some(KEEPALIVE_EVERY))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
}

/// Who is at the other end of a connection; tonic puts it into every request.
#[derive(Debug, Clone)]
pub struct ConnPeer {
    /// Who they are, proven.
    pub peer: Arc<Peer>,
    /// Where they come from.
    pub remote: SocketAddr,
}

/// The proven caller of a request.
///
/// # Errors
/// `Unauthenticated` when the request came by another way than [`incoming`].
pub fn peer_of<T>(request: &tonic::Request<T>) -> Result<Arc<Peer>, tonic::Status> {
    match request.extensions().get::<ConnPeer>() {
        Some(conn) => Ok(conn.peer.clone()),
        None => Err(tonic::Status::unauthenticated(
            "the caller is unknown: this call did not come over mutual TLS",
        )),
    }
}

/// A connection whose other end proved who it is.
pub struct ServerStream {
    tls: TlsStream<TcpStream>,
    conn: ConnPeer,
}

/// The connections of `listener` that made it through the handshake, for tonic's `serve_with_incoming_shutdown`.
/// Handshakes run beside one another, at most 256 at once and 5 s each; those that fail are logged and forgotten.
/// Never yields an error. Accepting ends when the stream is dropped. Must be called inside a tokio runtime.
pub fn incoming(
    listener: TcpListener,
    config: Arc<ServerConfig>,
) -> ReceiverStream<io::Result<ServerStream>> {
    let (ready, stream) = mpsc::channel(READY_MAX);
    tokio::spawn(accept(listener, TlsAcceptor::from(config), ready));
    ReceiverStream::new(stream)
}

type Ready = mpsc::Sender<io::Result<ServerStream>>;

async fn accept(listener: TcpListener, acceptor: TlsAcceptor, ready: Ready) {
    let slots = Arc::new(Semaphore::new(HANDSHAKES_MAX));
    loop {
        let next = async {
            let slot = slots.clone().acquire_owned().await.ok();
            (slot, listener.accept().await)
        };
        let (slot, accepted) = tokio::select! {
            () = ready.closed() => return,
            next = next => next,
        };
        match accepted {
            Ok((tcp, remote)) => {
                let (acceptor, ready) = (acceptor.clone(), ready.clone());
                tokio::spawn(async move {
                    match greet(tcp, remote, &acceptor).await {
                        // An error says that the server has stopped; the connection closes with it.
                        Ok(stream) => drop(ready.send(Ok(stream)).await),
                        Err(error) => tracing::info!(%remote, %error, "connection refused"),
                    }
                    drop(slot);
                });
            }
            Err(error) if one_connection_only(&error) => {}
            Err(error) => {
                tracing::warn!(%error, "cannot accept connections; trying again");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Whether an accept error is about a connection that went away, not about us.
fn one_connection_only(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionReset | Interrupted
    )
}

async fn greet(
    tcp: TcpStream,
    remote: SocketAddr,
    acceptor: &TlsAcceptor,
) -> io::Result<ServerStream> {
    tcp.set_nodelay(true)?;
    let tls = tokio::time::timeout(HANDSHAKE_DEADLINE, acceptor.accept(tcp))
        .await
        .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "no TLS handshake within 5 s"))??;
    let certificates = tls.get_ref().1.peer_certificates();
    let certificate = certificates.and_then(|all| all.first());
    let peer = match certificate {
        Some(der) => Peer::from_der(der).map_err(io::Error::other)?,
        None => return Err(io::Error::other("no client certificate")),
    };
    let conn = ConnPeer {
        peer: Arc::new(peer),
        remote,
    };
    Ok(ServerStream { tls, conn })
}

impl Connected for ServerStream {
    type ConnectInfo = ConnPeer;

    fn connect_info(&self) -> ConnPeer {
        self.conn.clone()
    }
}

impl AsyncRead for ServerStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_read(cx, buf)
    }
}

impl AsyncWrite for ServerStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tls).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tls).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.tls.is_write_vectored()
    }
}
