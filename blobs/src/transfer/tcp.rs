//! Links over TLS and TCP, for networks that let no UDP through. One connection a link.
//! Does NOT choose between ways.
use std::io;
use std::net::SocketAddr;

use bytes::Bytes;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, WriteHalf, split};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::error::TransferError;
use super::link::{Inlet, Later, Link, Outlet, Way};
use super::tls::Tls;

/// Somebody who listens.
pub(super) struct Listener {
    listener: TcpListener,
    tls: Tls,
}

impl Listener {
    pub(super) async fn bind(address: SocketAddr, tls: &Tls) -> Result<Self, TransferError> {
        let bound = TcpListener::bind(address).await;
        let bad = |error| TransferError::Local(format!("cannot listen on TCP {address}: {error}"));
        Ok(Self {
            listener: bound.map_err(bad)?,
            tls: tls.clone(),
        })
    }

    pub(super) fn address(&self) -> Result<SocketAddr, TransferError> {
        let address = self.listener.local_addr();
        address.map_err(|error| TransferError::Local(error.to_string()))
    }

    /// The next connection attempt, to be completed elsewhere.
    pub(super) async fn next(&self) -> io::Result<Knock> {
        let (tcp, _) = self.listener.accept().await?;
        let tls = self.tls.clone();
        Ok(Knock { tcp, tls })
    }
}

/// Somebody who wants in.
pub(super) struct Knock {
    tcp: TcpStream,
    tls: Tls,
}

impl Knock {
    /// Completes the handshake.
    pub(super) async fn open(self) -> io::Result<Link> {
        self.tcp.set_nodelay(true)?;
        let acceptor = TlsAcceptor::from(self.tls.server.clone());
        let stream = acceptor.accept(self.tcp).await?;
        let node = name(&self.tls, stream.get_ref().1.peer_certificates())?;
        Ok(link(node, stream))
    }
}

/// Connects to `address`.
pub(super) async fn dial(tls: &Tls, address: SocketAddr) -> io::Result<Link> {
    let tcp = TcpStream::connect(address).await?;
    tcp.set_nodelay(true)?;
    let name_asked = ServerName::try_from(tls.server_name.clone()).map_err(io::Error::other)?;
    let connector = TlsConnector::from(tls.client.clone());
    let stream = connector.connect(name_asked, tcp).await?;
    let node = name(tls, stream.get_ref().1.peer_certificates())?;
    Ok(link(node, stream))
}

fn name(tls: &Tls, certificates: Option<&[CertificateDer<'_>]>) -> io::Result<String> {
    let leaf = certificates.and_then(|all| all.first());
    tls.name_of(leaf.map(|leaf| leaf.as_ref()))
}

fn link<S>(node: String, stream: S) -> Link
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (from, to) = split(stream);
    Link {
        node,
        way: Way::Tcp,
        from: Inlet(Box::new(from)),
        to: Box::new(Sending(to)),
    }
}

struct Sending<S>(WriteHalf<S>);

impl<S: AsyncRead + AsyncWrite + Send> Outlet for Sending<S> {
    fn put(&mut self, bytes: Bytes) -> Later<'_, io::Result<()>> {
        Box::pin(async move {
            self.0.write_all(&bytes).await?;
            self.0.flush().await
        })
    }

    fn finish(&mut self) -> Later<'_, io::Result<()>> {
        Box::pin(async move { self.0.shutdown().await })
    }
}
