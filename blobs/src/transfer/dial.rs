//! Chooses the way to a node: QUIC, and TCP where QUIC gets no answer. Does NOT retry and remembers nothing.
use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::error::TransferError;
use super::link::{Link, Way};
use super::tls::Tls;
use super::{quic, tcp};

/// QUIC is given so long before TCP is tried beside it.
const QUIC_ALONE: Duration = Duration::from_millis(700);
/// For both together.
const DIAL_MAX: Duration = Duration::from_secs(6);

/// A node and where it listens, for UDP and TCP alike.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Its name, which its certificate must prove.
    pub node: String,
    /// Where it listens.
    pub address: SocketAddr,
}

/// A link to `peer`, by `way` if that is known already.
pub(super) async fn dial(
    tls: &Tls,
    peer: &Peer,
    way: Option<Way>,
    mtu_max: u16,
) -> Result<Link, TransferError> {
    let late = |_| Err(std::io::Error::from(std::io::ErrorKind::TimedOut));
    let by_quic = async {
        let dialled = timeout(DIAL_MAX, quic::dial(tls, peer.address, mtu_max)).await;
        dialled.unwrap_or_else(late)
    };
    let by_tcp = async {
        let dialled = timeout(DIAL_MAX, tcp::dial(tls, peer.address)).await;
        dialled.unwrap_or_else(late)
    };
    let not_tried = || std::io::Error::other("not tried");
    let dialled = match way {
        Some(Way::Quic) => by_quic.await.map_err(|e| (e, not_tried())),
        Some(Way::Tcp) => by_tcp.await.map_err(|e| (not_tried(), e)),
        None => either(by_quic, by_tcp).await,
    };
    let link = dialled.map_err(|(quic, tcp)| TransferError::Unreachable {
        node: peer.node.clone(),
        address: peer.address,
        quic: quic.to_string(),
        tcp: tcp.to_string(),
    })?;
    if link.node == peer.node {
        Ok(link)
    } else {
        Err(TransferError::WrongPeer {
            node: peer.node.clone(),
            address: peer.address,
            found: link.node,
        })
    }
}

type Dialled = std::io::Result<Link>;

/// The first that succeeds; TCP begins when QUIC has failed or has been silent for a while.
async fn either(
    quic: impl Future<Output = Dialled>,
    tcp: impl Future<Output = Dialled>,
) -> Result<Link, (std::io::Error, std::io::Error)> {
    tokio::pin!(quic, tcp);
    tokio::select! {
        done = &mut quic => return match done {
            Ok(link) => Ok(link),
            Err(error) => tcp.await.map_err(|other| (error, other)),
        },
        () = sleep(QUIC_ALONE) => {}
    }
    tokio::select! {
        done = &mut quic => match done {
            Ok(link) => Ok(link),
            Err(error) => tcp.await.map_err(|other| (error, other)),
        },
        done = &mut tcp => match done {
            Ok(link) => Ok(link),
            Err(other) => quic.await.map_err(|error| (error, other)),
        },
    }
}
