//! Requests to an object store, each with what was done and to which object in its error. The only file that knows `object_store`.
//! Does NOT know what the objects are for.
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use mlctl_proto::spec::{StoreAddress, StoreService};
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use object_store::{ClientConfigKey, Error, ObjectMeta, ObjectStore, ObjectStoreExt, RetryConfig};

use super::error::UploadError;

/// A request that takes longer is given up and tried again: 4 MiB at 40 kB/s.
const REQUEST_MAX: &str = "100 seconds";

/// How a remote store is used.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Requests at once, of one upload or download; each may hold two chunks (8 MiB) in memory.
    pub requests: usize,
    /// How long a request that fails for a reason that may pass is tried again, with growing pauses.
    pub retry_for: Duration,
    /// What is younger is never removed, however unneeded it looks. Below two hours only where nobody uploads: a manifest whose upload goes on is
    /// written anew each hour.
    pub guard: Duration,
    /// How long a directory may show an old listing to another node (NFS). Object stores do not, and wait for nothing.
    pub settle: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            requests: 8,
            retry_for: Duration::from_secs(180),
            guard: Duration::from_secs(24 * 3_600),
            settle: Duration::from_secs(90),
        }
    }
}

/// An object store outside the cluster. Cheap to clone. Everything but [`Remote::open`] must be called inside a tokio runtime, best the one
/// of [`quiet_runtime`](crate::transfer::quiet_runtime): compression takes a processor.
#[derive(Clone)]
pub struct Remote {
    store: Arc<dyn ObjectStore>,
    /// Its URL, for errors.
    name: Arc<str>,
    pub(super) options: Options,
}

/// What is known of an object without reading it.
#[derive(Debug, Clone)]
pub(super) struct Meta {
    pub(super) object: String,
    pub(super) bytes: u64,
    /// By the store's own clock.
    pub(super) changed: SystemTime,
}

impl Remote {
    /// Opens `s3://bucket/prefix` (also of other vendors: `AWS_ENDPOINT_URL`), `gs://bucket/prefix`, `az://container/prefix` or
    /// `file:///directory`, which must be there. No request is sent. Blocks for a directory.
    ///
    /// Credentials and settings come from the environment of this process (`AWS_*`, `GOOGLE_*`, `AZURE_*`) or the machine's own role, never
    /// from the URL. Plain HTTP is spoken where the environment names an endpoint that begins with `http://`.
    ///
    /// # Errors
    /// When the URL is none of these or holds what could be a secret, or the environment lacks something.
    pub fn open(url: &str, options: Options) -> Result<Self, UploadError> {
        let address = StoreAddress::parse(url).map_err(|why| UploadError::Address { why })?;
        // Ring is the only one there is; who was first does not matter.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut options = options;
        if address.service != StoreService::Directory {
            options.settle = Duration::ZERO;
        }
        let built = build(&address, options.retry_for);
        let store = built.map_err(|error| UploadError::Open {
            remote: address.to_string(),
            why: with_causes(&error),
        })?;
        Ok(Self::over(store, &address.to_string(), options))
    }

    /// One over any store, for tests that make it fail.
    #[doc(hidden)]
    pub fn over(store: Arc<dyn ObjectStore>, name: &str, options: Options) -> Self {
        Self {
            store,
            name: name.into(),
            options,
        }
    }

    pub(super) fn name(&self) -> String {
        self.name.to_string()
    }

    /// Writes an object: all of it is there, or what was before.
    pub(super) async fn put(&self, object: &str, bytes: Bytes) -> Result<(), UploadError> {
        let put = self.store.put(&self.path(object)?, bytes.into()).await;
        put.map(drop).map_err(self.failed("write", object))
    }

    /// All of an object, or nothing if it is not there.
    pub(super) async fn get(&self, object: &str, max: u64) -> Result<Option<Bytes>, UploadError> {
        let found = match self.store.get(&self.path(object)?).await {
            Err(Error::NotFound { .. }) => return Ok(None),
            other => other.map_err(self.failed("read", object))?,
        };
        if found.meta.size > max {
            let why = format!(
                "it has {} bytes, and {max} at most would be right",
                found.meta.size
            );
            return Err(self.damaged(object, why));
        }
        match found.bytes().await {
            Err(Error::NotFound { .. }) => Ok(None),
            other => other.map(Some).map_err(self.failed("read", object)),
        }
    }

    /// What is known of an object, or nothing if it is not there.
    pub(super) async fn head(&self, object: &str) -> Result<Option<Meta>, UploadError> {
        match self.store.head(&self.path(object)?).await {
            Ok(meta) => Ok(Some(Meta::from(meta))),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(self.failed("look at", object)(error)),
        }
    }

    /// Every object in a folder, in no order.
    pub(super) async fn list(
        &self,
        folder: &str,
        mut each: impl FnMut(Meta),
    ) -> Result<(), UploadError> {
        let mut found = self.store.list(Some(&self.path(folder)?));
        while let Some(meta) = found
            .try_next()
            .await
            .map_err(self.failed("list", folder))?
        {
            each(meta.into());
        }
        Ok(())
    }

    /// Removes objects, those included that are not there.
    pub(super) async fn delete(&self, objects: &[String]) -> Result<(), UploadError> {
        let paths: Result<Vec<Path>, UploadError> = objects.iter().map(|o| self.path(o)).collect();
        let mut gone = self
            .store
            .delete_stream(stream::iter(paths?.into_iter().map(Ok)).boxed());
        let first = objects.first().map_or("nothing", String::as_str);
        loop {
            match gone.try_next().await {
                Ok(Some(_)) | Err(Error::NotFound { .. }) => {}
                Ok(None) => return Ok(()),
                Err(error) => return Err(self.failed("remove", first)(error)),
            }
        }
    }

    pub(super) fn missing(&self, object: &str) -> UploadError {
        UploadError::Missing {
            object: object.to_owned(),
            remote: self.name(),
        }
    }

    pub(super) fn damaged(&self, object: &str, why: impl fmt::Display) -> UploadError {
        UploadError::Damaged {
            object: object.to_owned(),
            remote: self.name(),
            why: why.to_string(),
        }
    }

    fn path(&self, object: &str) -> Result<Path, UploadError> {
        // Names are made by `layout`, of characters that are legal everywhere.
        Path::parse(object).map_err(|error| UploadError::Local(error.to_string()))
    }

    fn failed(&self, doing: &'static str, object: &str) -> impl FnOnce(Error) -> UploadError {
        let (object, remote) = (object.to_owned(), self.name());
        move |error| UploadError::Request {
            doing,
            object,
            remote,
            why: with_causes(&error),
        }
    }
}

/// What went wrong and why: "builder error" alone says nothing to whoever has no root certificates.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        let more = next.to_string();
        // Many say what their cause says as well.
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = next.source();
    }
    text
}

impl From<ObjectMeta> for Meta {
    fn from(meta: ObjectMeta) -> Self {
        Self {
            object: meta.location.to_string(),
            bytes: meta.size,
            changed: meta.last_modified.into(),
        }
    }
}

fn build(
    address: &StoreAddress,
    retry_for: Duration,
) -> object_store::Result<Arc<dyn ObjectStore>> {
    let retry = RetryConfig {
        retry_timeout: retry_for,
        ..RetryConfig::default()
    };
    let limit = ClientConfigKey::Timeout;
    let bucket = address.bucket.as_str();
    let store: Arc<dyn ObjectStore> = match address.service {
        StoreService::S3 => {
            let keys = [AmazonS3ConfigKey::Endpoint, AmazonS3ConfigKey::S3Endpoint];
            let from = AmazonS3Builder::from_env();
            let plain = |key| {
                from.get_config_value(key)
                    .is_some_and(|e| e.starts_with("http://"))
            };
            let plain = keys.iter().any(plain);
            let mut builder = from.with_config(AmazonS3ConfigKey::Client(limit), REQUEST_MAX);
            if plain {
                builder = builder.with_allow_http(true);
            }
            Arc::new(builder.with_bucket_name(bucket).with_retry(retry).build()?)
        }
        StoreService::Google => {
            let builder = GoogleCloudStorageBuilder::from_env()
                .with_config(GoogleConfigKey::Client(limit), REQUEST_MAX);
            Arc::new(builder.with_bucket_name(bucket).with_retry(retry).build()?)
        }
        StoreService::Azure => {
            let builder = MicrosoftAzureBuilder::from_env()
                .with_config(AzureConfigKey::Client(limit), REQUEST_MAX);
            Arc::new(
                builder
                    .with_container_name(bucket)
                    .with_retry(retry)
                    .build()?,
            )
        }
        StoreService::Directory => {
            let directory = format!("/{}", address.prefix);
            let files = LocalFileSystem::new_with_prefix(directory)?.with_fsync(true);
            // Directories that become empty go.
            return Ok(Arc::new(files.with_automatic_cleanup(true)));
        }
    };
    if address.prefix.is_empty() {
        return Ok(store);
    }
    Ok(Arc::new(PrefixStore::new(
        store,
        Path::parse(&address.prefix)?,
    )))
}
