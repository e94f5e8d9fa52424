//! What the URL of an object store means. A URL that could hold a secret is refused, and never repeated in an error. Pure.
//! Does NOT know credentials: those come from the environment of whoever opens the store.
#![deny(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::float_arithmetic
)]
use std::fmt;

/// Longest URL, bytes: an object's name has to stay below what stores allow (1,024).
const URL_BYTES_MAX: usize = 512;

/// Which kind of store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreService {
    /// Amazon, and what speaks like it.
    S3,
    /// Google.
    Google,
    /// Azure.
    Azure,
    /// A directory, such as an NFS mount.
    Directory,
}

/// Where a store is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreAddress {
    /// Which kind of store.
    pub service: StoreService,
    /// Bucket or container; empty for a directory.
    pub bucket: String,
    /// Names with `/` between them, none at the ends; the directory without its first `/`.
    pub prefix: String,
}

impl StoreAddress {
    /// Reads a URL.
    ///
    /// # Errors
    /// What is wrong with it, as the end of a sentence.
    pub fn parse(url: &str) -> Result<Self, &'static str> {
        if url.len() > URL_BYTES_MAX {
            return Err("is longer than 512 bytes");
        }
        if url.chars().any(|c| c.is_control() || c == '\\') {
            return Err("has a control character or a backslash in it");
        }
        let Some((scheme, rest)) = url.split_once("://") else {
            return Err("has no scheme");
        };
        if rest.contains(['?', '#']) {
            return Err(
                "has a query or a fragment: settings and credentials belong into the environment",
            );
        }
        let service = match scheme {
            "s3" => StoreService::S3,
            "gs" => StoreService::Google,
            "az" | "azure" => StoreService::Azure,
            "file" => StoreService::Directory,
            _ => return Err("has a scheme that is not known"),
        };
        let (bucket, path) = rest.split_once('/').unwrap_or((rest, ""));
        if bucket.contains('@') {
            return Err("has a user in it: credentials belong into the environment");
        }
        if service == StoreService::Directory {
            if !bucket.is_empty() {
                return Err("names a host: a directory is file:///and/its/path");
            }
        } else if !is_bucket(bucket) {
            return Err("names no bucket of 3 to 63 of a-z, 0-9, `-`, `.` and `_`");
        }
        let prefix = path.strip_suffix('/').unwrap_or(path);
        if prefix.is_empty() && service == StoreService::Directory {
            return Err("names no directory");
        }
        let bad = |name: &str| matches!(name, "" | "." | "..");
        if !prefix.is_empty() && prefix.split('/').any(bad) {
            return Err("has an empty name, `.` or `..` in its path");
        }
        if prefix.contains('%') {
            return Err("has a `%` in its path: write names as they are");
        }
        Ok(Self {
            service,
            bucket: bucket.to_owned(),
            prefix: prefix.to_owned(),
        })
    }
}

fn is_bucket(text: &str) -> bool {
    let legal = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-._".contains(&b);
    (3..=63).contains(&text.len()) && text.bytes().all(legal) && !text.contains("..")
}

impl fmt::Display for StoreAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.service {
            StoreService::S3 => "s3",
            StoreService::Google => "gs",
            StoreService::Azure => "az",
            StoreService::Directory => "file",
        };
        write!(f, "{scheme}://{}", self.bucket)?;
        if self.prefix.is_empty() {
            Ok(())
        } else {
            write!(f, "/{}", self.prefix)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_shown() {
        for (url, service, bucket, prefix, shown) in [
            ("s3://runs", StoreService::S3, "runs", "", "s3://runs"),
            ("s3://runs/", StoreService::S3, "runs", "", "s3://runs"),
            (
                "s3://runs/a/b/",
                StoreService::S3,
                "runs",
                "a/b",
                "s3://runs/a/b",
            ),
            (
                "gs://runs/a",
                StoreService::Google,
                "runs",
                "a",
                "gs://runs/a",
            ),
            (
                "az://runs/a",
                StoreService::Azure,
                "runs",
                "a",
                "az://runs/a",
            ),
            (
                "azure://runs/a",
                StoreService::Azure,
                "runs",
                "a",
                "az://runs/a",
            ),
            (
                "file:///mnt/nfs@2/ü",
                StoreService::Directory,
                "",
                "mnt/nfs@2/ü",
                "file:///mnt/nfs@2/ü",
            ),
        ] {
            let address = StoreAddress::parse(url).expect(url);
            assert_eq!(
                (
                    address.service,
                    address.bucket.as_str(),
                    address.prefix.as_str()
                ),
                (service, bucket, prefix)
            );
            assert_eq!(address.to_string(), shown);
            assert_eq!(StoreAddress::parse(shown), Ok(address));
        }
    }

    #[test]
    fn what_could_hold_a_secret_or_lead_elsewhere_is_refused() {
        let long = format!("s3://runs/{}", "a".repeat(600));
        for (url, why) in [
            ("s3://key:secret@runs/a", "user"),
            ("s3://key@runs", "user"),
            ("s3://runs/a?X-Amz-Signature=1", "query"),
            ("file:///mnt/a?b", "query"),
            ("s3://runs/a#b", "query"),
            ("s3://", "bucket"),
            ("s3:///a", "bucket"),
            ("s3://Runs/a", "bucket"),
            ("s3://runs:9000/a", "bucket"),
            ("s3://ru..ns/a", "bucket"),
            ("runs/a", "scheme"),
            ("https://runs/a", "scheme"),
            ("S3://runs/a", "scheme"),
            ("s3://runs/../a", "`..`"),
            ("s3://runs//a", "`..`"),
            ("s3://runs/./a", "`..`"),
            ("s3://runs/a%2Fb", "`%`"),
            ("s3://runs/a\nb", "control"),
            ("s3://runs/a\\b", "backslash"),
            ("file://host/a", "host"),
            ("file:///", "directory"),
            ("file://", "directory"),
            (long.as_str(), "512"),
        ] {
            let found = StoreAddress::parse(url).expect_err(url);
            assert!(found.contains(why), "{url}: {found}");
        }
    }
}
