//! Links over QUIC: the only place that knows quinn. One socket and one connection a link, with one stream in it.
//! Does NOT choose between ways.
//!
//! Defaults of quinn but for: windows of 4 MiB (a kill loses what is in them), segmentation offload on (it halves the processor time) unless
//! packets may be larger than Ethernet's, a sign of life every 3 s and an end after 10 s without one.
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls_pki_types::CertificateDer;

use super::error::TransferError;
use super::link::{Inlet, Later, Link, Outlet, Way};
use super::tls::Tls;

/// Of a stream, each way, bytes.
const WINDOW_BYTES: u32 = 4 << 20;
/// The largest packet that Ethernet carries, and what quinn tries by itself, bytes.
pub(super) const MTU_USUAL: u16 = 1_452;

fn transport(mtu_max: u16) -> Arc<quinn::TransportConfig> {
    let mut config = quinn::TransportConfig::default();
    config
        .max_concurrent_bidi_streams(1_u8.into())
        .max_concurrent_uni_streams(0_u8.into())
        .stream_receive_window(WINDOW_BYTES.into())
        .send_window(WINDOW_BYTES.into())
        .datagram_receive_buffer_size(None)
        .keep_alive_interval(Some(Duration::from_secs(3)))
        .max_idle_timeout(Some(quinn::VarInt::from_u32(10_000).into()));
    if mtu_max > MTU_USUAL {
        let mut discovery = quinn::MtuDiscoveryConfig::default();
        discovery.upper_bound(mtu_max);
        // Batches of large packets are dropped on the way, and are then taken for a path that carries only small ones.
        config
            .mtu_discovery_config(Some(discovery))
            .enable_segmentation_offload(false);
    }
    Arc::new(config)
}

fn endpoint(
    server: Option<quinn::ServerConfig>,
    address: SocketAddr,
    mtu_max: u16,
) -> io::Result<quinn::Endpoint> {
    let mut config = quinn::EndpointConfig::default();
    config
        .max_udp_payload_size(mtu_max.max(MTU_USUAL))
        .map_err(io::Error::other)?;
    let socket = std::net::UdpSocket::bind(address)?;
    quinn::Endpoint::new(config, server, socket, Arc::new(quinn::TokioRuntime))
}

/// Somebody who listens.
pub(super) struct Listener {
    endpoint: quinn::Endpoint,
    tls: Tls,
}

impl Listener {
    pub(super) fn bind(
        address: SocketAddr,
        tls: &Tls,
        mtu_max: u16,
    ) -> Result<Self, TransferError> {
        let bad = |why: String| TransferError::Local(why);
        let crypto = QuicServerConfig::try_from(tls.server.clone());
        let crypto = crypto.map_err(|e| bad(e.to_string()))?;
        let mut config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
        config.transport_config(transport(mtu_max));
        let made = endpoint(Some(config), address, mtu_max);
        Ok(Self {
            endpoint: made.map_err(|e| bad(format!("cannot listen on UDP {address}: {e}")))?,
            tls: tls.clone(),
        })
    }

    /// The next connection attempt, to be completed elsewhere; `None` when it has been closed.
    pub(super) async fn next(&self) -> Option<Knock> {
        let incoming = self.endpoint.accept().await?;
        let tls = self.tls.clone();
        Some(Knock { incoming, tls })
    }

    pub(super) fn close(&self) {
        self.endpoint.close(0_u8.into(), b"stopping");
    }
}

/// Somebody who wants in.
pub(super) struct Knock {
    incoming: quinn::Incoming,
    tls: Tls,
}

impl Knock {
    /// Completes the handshake and waits for the stream.
    pub(super) async fn open(self) -> io::Result<Link> {
        let connection = self.incoming.await.map_err(io::Error::other)?;
        let (to, from) = connection.accept_bi().await.map_err(io::Error::other)?;
        link(&self.tls, connection, None, to, from)
    }
}

/// Connects to `address`.
pub(super) async fn dial(tls: &Tls, address: SocketAddr, mtu_max: u16) -> io::Result<Link> {
    let crypto = QuicClientConfig::try_from(tls.client.clone()).map_err(io::Error::other)?;
    let mut config = quinn::ClientConfig::new(Arc::new(crypto));
    config.transport_config(transport(mtu_max));
    let any: SocketAddr = if address.is_ipv4() {
        (Ipv4Addr::UNSPECIFIED, 0).into()
    } else {
        (Ipv6Addr::UNSPECIFIED, 0).into()
    };
    let endpoint = endpoint(None, any, mtu_max)?;
    let connecting = endpoint.connect_with(config, address, &tls.server_name);
    let connection = connecting.map_err(io::Error::other)?;
    let connection = connection.await.map_err(io::Error::other)?;
    let (to, from) = connection.open_bi().await.map_err(io::Error::other)?;
    link(tls, connection, Some(endpoint), to, from)
}

fn link(
    tls: &Tls,
    connection: quinn::Connection,
    endpoint: Option<quinn::Endpoint>,
    to: quinn::SendStream,
    from: quinn::RecvStream,
) -> io::Result<Link> {
    let identity = connection.peer_identity();
    let certificates = identity.and_then(|any| any.downcast::<Vec<CertificateDer<'static>>>().ok());
    let leaf = certificates.as_ref().and_then(|all| all.first());
    Ok(Link {
        node: tls.name_of(leaf.map(|leaf| leaf.as_ref()))?,
        way: Way::Quic,
        from: Inlet(Box::new(from)),
        to: Box::new(Sending {
            to,
            _connection: connection,
            _endpoint: endpoint,
        }),
    })
}

/// The connection ends with its sending half.
struct Sending {
    to: quinn::SendStream,
    _connection: quinn::Connection,
    _endpoint: Option<quinn::Endpoint>,
}

impl Outlet for Sending {
    fn put(&mut self, bytes: Bytes) -> Later<'_, io::Result<()>> {
        Box::pin(async move { Ok(self.to.write_chunk(bytes).await?) })
    }

    fn finish(&mut self) -> Later<'_, io::Result<()>> {
        Box::pin(async move {
            // Dropped earlier, the connection would throw away what has not arrived.
            let _ = self.to.finish();
            let _ = self.to.stopped().await;
            Ok(())
        })
    }
}
