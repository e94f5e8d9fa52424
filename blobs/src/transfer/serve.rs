//! Listens on one port for UDP and TCP alike, and gives each link to whoever serves it. Handshakes run beside one another and have a
//! deadline, and so has the first word. Does NOT know who may do what: the [`super::Authority`] is asked.
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::error::{LinkError, TransferError};
use super::give::give;
use super::link::{Link, unexpected};
use super::protocol::{Frame, Refusal};
use super::take::{Offer, take};
use super::verify::inspect;
use super::{Node, quic, tcp};
use crate::BlobId;

/// Links that are served or in a handshake; more have to wait.
const LINKS_MAX: usize = 512;
/// From the first packet to the first frame.
const FIRST_WORD: Duration = Duration::from_secs(10);
/// Pause after the system refused to accept, so that running out of files does not become a busy loop.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Ports that are tried when any will do: one may be free for TCP and taken for UDP.
const PORTS_TRIED: usize = 16;

/// Where the other nodes reach us. Serving ends when it is dropped.
pub struct Server {
    address: SocketAddr,
    quic: Option<Arc<quic::Listener>>,
    _tasks: JoinSet<()>,
}

impl Server {
    /// Where it listens, for UDP and TCP.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(quic) = &self.quic {
            quic.close();
        }
    }
}

impl Node {
    /// Serves other nodes at `address`; port 0 takes a free one. `udp` says whether QUIC is offered at all.
    ///
    /// # Errors
    /// When the address is taken, or the identity cannot serve.
    pub async fn serve(&self, address: SocketAddr, udp: bool) -> Result<Server, TransferError> {
        let tls = &self.inner.tls;
        let mut tries = if address.port() == 0 { PORTS_TRIED } else { 1 };
        let (tcp, quic) = loop {
            let tcp = tcp::Listener::bind(address, tls).await?;
            if !udp {
                break (tcp, None);
            }
            tries -= 1;
            match quic::Listener::bind(tcp.address()?, tls, self.inner.options.mtu_max) {
                Ok(quic) => break (tcp, Some(Arc::new(quic))),
                Err(error) if tries == 0 => return Err(error),
                Err(_) => {}
            }
        };
        let address = tcp.address()?;
        let mut tasks = JoinSet::new();
        let slots = Arc::new(Semaphore::new(LINKS_MAX));
        tasks.spawn(accept_tcp(self.clone(), tcp, slots.clone()));
        if let Some(quic) = quic.clone() {
            tasks.spawn(accept_quic(self.clone(), quic, slots));
        }
        Ok(Server {
            address,
            quic,
            _tasks: tasks,
        })
    }
}

async fn accept_tcp(node: Node, listener: tcp::Listener, slots: Arc<Semaphore>) {
    // What it serves ends with it.
    let mut serving = JoinSet::new();
    loop {
        let Ok(slot) = slots.clone().acquire_owned().await else {
            return;
        };
        while serving.try_join_next().is_some() {}
        match listener.next().await {
            Ok(knock) => {
                let node = node.clone();
                serving.spawn(async move {
                    welcome(&node, knock.open()).await;
                    drop(slot);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept connections; trying again");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn accept_quic(node: Node, listener: Arc<quic::Listener>, slots: Arc<Semaphore>) {
    let mut serving = JoinSet::new();
    loop {
        let Ok(slot) = slots.clone().acquire_owned().await else {
            return;
        };
        while serving.try_join_next().is_some() {}
        let Some(knock) = listener.next().await else {
            return;
        };
        let node = node.clone();
        serving.spawn(async move {
            welcome(&node, knock.open()).await;
            drop(slot);
        });
    }
}

/// One link from its handshake to its end.
async fn welcome(node: &Node, open: impl Future<Output = std::io::Result<Link>>) {
    let first = async {
        let mut link = open.await?;
        if !link.from.hello().await? {
            let text = "this node speaks another version of the transfer protocol";
            link.refuse(Refusal::Version, text).await?;
            return Ok(None);
        }
        let frame = link.from.frame().await?;
        Ok::<_, LinkError>(Some((link, frame)))
    };
    let (link, frame) = match timeout(FIRST_WORD, first).await {
        Ok(Ok(Some(known))) => known,
        Ok(Ok(None)) => return,
        Ok(Err(error)) => return tracing::info!(%error, "connection refused"),
        Err(_) => return tracing::info!("connection refused: nothing said within 10 s"),
    };
    let peer = link.node.clone();
    let served = match frame {
        Frame::Offer {
            id,
            manifest_bytes,
            near,
        } => {
            let offer = Offer {
                id,
                manifest_bytes,
                near,
            };
            take(node, link, offer).await
        }
        Frame::Join { token } => match node.inner.sessions.join(token, link) {
            Ok(()) => Ok(()),
            Err(link) => {
                let text = "there is no such transfer here";
                link.refuse(Refusal::NotAllowed, text).await
            }
        },
        Frame::Open { id, urgent } => lend(node, link, id, urgent).await,
        Frame::Verify { id } => inspect(node, link, id).await,
        _ => unexpected(),
    };
    if let Err(error) = served {
        tracing::info!(node = peer, %error, "a transfer ended early");
    }
}

/// The holding end of a pull.
async fn lend(node: &Node, mut link: Link, id: BlobId, urgent: bool) -> Result<(), LinkError> {
    if !node.inner.authority.may_read(&link.node, &id) {
        let text = format!("node {} may not read checkpoint {id} here", link.node);
        return link.refuse(Refusal::NotAllowed, &text).await;
    }
    if !node.inner.store.is_held(&id) {
        let text = format!("checkpoint {id} is not held here");
        return link.refuse(Refusal::NotHeld, &text).await;
    }
    link.say(&Frame::Opened).await?;
    let pacer = (!urgent).then(|| node.inner.pacer.clone());
    give(link, node.inner.store.clone(), id, pacer, &node.sent()).await
}
