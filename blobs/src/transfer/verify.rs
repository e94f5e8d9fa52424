//! Has a node read a checkpoint that it holds again from its disk. What it finds damaged it holds no more, and says so.
//! Does NOT move anything and does not mend: whoever keeps the copies has another one made.
use tokio::sync::AcquireError;

use super::dial::{Peer, dial};
use super::error::{LinkError, TransferError};
use super::link::{Link, unexpected};
use super::protocol::{Frame, Refusal};
use super::take::busy;
use super::{Node, blocking};
use crate::BlobId;

impl Node {
    /// Asks `at` to read the checkpoint `id` again, and waits until it has, however long that takes.
    ///
    /// # Errors
    /// [`TransferError::Refused`] when it does not hold it, or holds it no more because it is damaged; what the connection says.
    pub async fn verify(&self, at: &Peer, id: BlobId) -> Result<(), TransferError> {
        let mut link = dial(&self.inner.tls, at, None, self.inner.options.mtu_max).await?;
        let asked = async {
            link.begin(&Frame::Verify { id }).await?;
            loop {
                match link.from.frame().await? {
                    Frame::Still { .. } => {}
                    Frame::Held { id: held } if held == id => return Ok(()),
                    _ => return unexpected(),
                }
            }
        };
        asked.await.map_err(|error: LinkError| error.of(&at.node))
    }
}

/// The holding end. One checkpoint is read at a time: the disk has other things to do.
pub(super) async fn inspect(node: &Node, mut link: Link, id: BlobId) -> Result<(), LinkError> {
    if !node.inner.authority.may_read(&link.node, &id) {
        let text = format!("node {} may not read checkpoint {id} here", link.node);
        return link.refuse(Refusal::NotAllowed, &text).await;
    }
    let (store, turns) = (node.inner.store.clone(), node.inner.inspecting.clone());
    let reading = async {
        let turn = turns.acquire_owned().await.map_err(closed)?;
        // Whoever asked may go away; the next one waits for the disk all the same.
        let reading = move || {
            let read = store.verify(&id);
            drop(turn);
            read
        };
        blocking(reading).await
    };
    let read = busy(link.to.as_mut(), 0, reading).await??;
    match read.map_err(LinkError::from) {
        Ok(_) => link.end(&Frame::Held { id }).await,
        Err(LinkError::Refused { why, text }) => link.refuse(why, &text).await,
        Err(error) => Err(error),
    }
}

fn closed(error: AcquireError) -> std::io::Error {
    std::io::Error::other(error)
}
