//! A part goes to the object store that its job's spec names, or to one that a person named, as the leader ordered it: few at a time, on threads
//! that come last, paced as all copies are. When all of it is in the store of the spec the core is told. The leader is told in any case, and orders
//! again what failed.
//! Does NOT choose anything and removes nothing there. Credentials come from the agent's own environment, never with an order.

use std::path::{Path, PathBuf};

use mlctl_blobs::BlobId;
use mlctl_blobs::upload::{Entry, Options, Remote, UploadError, Uploaded};
use mlctl_proto::agent::{self, agent_message::What};
use mlctl_proto::spec::{StoreAddress, StoreService};
use tracing::{info, warn};

use super::ledger::blob;
use super::{Vault, lock};
use crate::core::Event;
use crate::link::copies::{Upload, part_to_wire};

/// Parts that are uploaded at the same time. A job has two of them at most, unless people want more: one that may only go slowly, or whose store does
/// not answer, does not hold up all others.
pub(super) const AT_ONCE: usize = 4;
/// Of those that people want so many wait at most.
const WANTED_MAX: usize = 16;

impl Vault {
    /// Uploads a part, and says what became of it. One that is on its way there already goes on; to another store is another upload.
    pub(crate) fn upload(&self, order: Upload) {
        let going = (order.key.clone(), order.url.clone());
        let mut uploads = lock(&self.inner.uploads);
        let known = uploads.contains(&going);
        let full = order.elsewhere && !known && uploads.len() >= WANTED_MAX;
        if !full && !uploads.insert(going.clone()) {
            return;
        }
        drop(uploads);
        let vault = self.clone();
        self.inner.quiet.handle().spawn(async move {
            if full {
                return vault.say_full(order).await;
            }
            let error = match vault.send_up(&order).await {
                Ok(()) => String::new(),
                Err(error) => {
                    let key = &order.key;
                    warn!(job = %key.job, epoch = %key.epoch, key.name, key.index, url = order.url, error, "a checkpoint was not uploaded");
                    error
                }
            };
            lock(&vault.inner.uploads).remove(&going);
            // Its event promises that the store of the spec has it.
            if error.is_empty() && !order.elsewhere {
                vault.shared().tell(Event::CopyUploaded(order.key.clone())).await;
            }
            let told = What::Uploaded(agent::Uploaded {
                key: Some(part_to_wire(&order.key)),
                error,
                url: order.url,
            });
            vault.shared().say(told).await;
        });
    }

    /// Too many wait already.
    async fn say_full(&self, order: Upload) {
        let told = What::Uploaded(agent::Uploaded {
            key: Some(part_to_wire(&order.key)),
            error: format!(
                "{WANTED_MAX} other uploads wait on this node: try again when some are done"
            ),
            url: order.url,
        });
        self.shared().say(told).await;
    }

    async fn send_up(&self, order: &Upload) -> Result<(), String> {
        let _turn = self.inner.uploading.acquire().await;
        let _counted = self.counted();
        let (key, id) = (&order.key, blob(&order.key.manifest));
        let held = self.shared().ledger.get(key).is_some();
        if !held || !self.shared().store.is_held(&id) {
            self.lose(key.clone()).await;
            return Err("it is not held here".into());
        }
        let pacer = match order.rate {
            Some(rate) => self.pacer_of(key.job, rate),
            None => self.inner.pacer.clone(),
        };
        let entry = entry(order);
        let sending = async {
            let remote = self.remote(&order.url).await?;
            let store = &self.shared().store;
            remote.upload(store, id, &entry, &pacer).await
        };
        let Uploaded {
            sent_bytes,
            sent_chunks,
            skipped_chunks,
            wall,
        } = sending.await.map_err(|error| error.to_string())?;
        info!(job = %key.job, epoch = %key.epoch, key.name, key.index, url = order.url, sent_bytes, sent_chunks, skipped_chunks, wall_ms = wall.as_millis(), "a checkpoint was uploaded");
        Ok(())
    }

    /// Fetches a part from an object store into this node's own.
    pub(super) async fn download(&self, url: &str, id: BlobId) -> Result<u64, UploadError> {
        let remote = self.remote(url).await?;
        let came = remote.download(&self.shared().store, id).await?;
        Ok(came.received_bytes)
    }

    /// The store that a URL names. No request is sent.
    async fn remote(&self, url: &str) -> Result<Remote, UploadError> {
        let address = StoreAddress::parse(url).map_err(|why| UploadError::Address { why })?;
        if !may_use(self.inner.upload_dirs.as_deref(), &address) {
            let why = "names a directory that this node's agent was not told to use: its administrator adds it to `upload_dirs` in agent.toml";
            return Err(UploadError::Address { why });
        }
        let url = url.to_owned();
        let opened = self.quietly(move || Remote::open(&url, Options::default()));
        let opened = opened.await;
        opened.map_err(|error| UploadError::Local(error.to_string()))?
    }
}

/// Whether a directory is one of those, or below one: an agent may write where the job's user may not.
fn may_use(dirs: Option<&[PathBuf]>, address: &StoreAddress) -> bool {
    let Some(dirs) = dirs.filter(|_| address.service == StoreService::Directory) else {
        return true;
    };
    // Without `..`: the address was checked for that.
    let path = Path::new("/").join(&address.prefix);
    dirs.iter().any(|dir| path.starts_with(dir))
}

/// What is said of the part in the store, for whoever looks there without the cluster.
fn entry(order: &Upload) -> Entry {
    let (key, sealed) = (&order.key, &order.sealed);
    Entry {
        job: key.job.to_string(),
        epoch: key.epoch.to_string(),
        name: key.name.clone(),
        index: key.index,
        parts: sealed.parts.max(1),
        step: sealed.step,
        metric: sealed.metric,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_are_bounded_and_buckets_are_not() {
        let address = |url: &str| StoreAddress::parse(url).expect(url);
        let dirs: [PathBuf; 2] = ["/mnt/ckpt".into(), "/srv".into()];
        for (url, may) in [
            ("file:///mnt/ckpt", true),
            ("file:///mnt/ckpt/a", true),
            ("file:///mnt/ckpt2", false),
            ("file:///mnt", false),
            ("file:///etc", false),
            ("file:///srv/x", true),
            ("s3://runs/a", true),
        ] {
            assert_eq!(may_use(Some(&dirs[..]), &address(url)), may, "{url}");
            assert!(may_use(None, &address(url)), "{url}");
        }
        assert!(!may_use(Some(&[]), &address("file:///srv")));
    }
}
