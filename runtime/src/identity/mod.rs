//! Who is who in a cluster: roles, the peer that a certificate names, the CA that issues certificates.
//!
//! A certificate says who somebody is and nothing about what they may do to a job: that is decided where calls
//! are served. Certificates are not revoked here.
mod bundle;
mod ca;
mod peer;

pub use bundle::Bundle;
pub use ca::Ca;
pub use peer::{Peer, Role};

use crate::files::FileError;
use std::path::PathBuf;

/// The only server name in a cluster: what coordinators' certificates carry, and nobody else's, so that neither
/// a node nor a user can pose as a coordinator. Clients verify it whatever address they dialled.
pub fn server_name(cluster: &str) -> String {
    format!("coordinator.{cluster}.mlctl")
}

/// Why an identity could not be made, read or believed.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A name that cannot stand in a certificate.
    #[error("cannot name a {what} so: {why}")]
    BadName {
        /// What should have been named.
        what: &'static str,
        /// What is wrong with the name.
        why: String,
    },
    /// A CA is never overwritten.
    #[error("{} is not empty, and a CA is never overwritten; choose another folder", dir.display())]
    Occupied {
        /// The folder.
        dir: PathBuf,
    },
    /// There is no CA in that folder.
    #[error("there is no CA in {}; `mlctl admin init` makes one", dir.display())]
    NoCa {
        /// The folder.
        dir: PathBuf,
    },
    /// Somebody else is issuing with this CA.
    #[error("another command has been changing the CA in {} for {waited_s} s; try again when it is done", dir.display())]
    Busy {
        /// The folder.
        dir: PathBuf,
        /// How long it was waited for, seconds.
        waited_s: u64,
    },
    /// A file could not be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// A file is there and is not what it should be.
    #[error("{} is damaged: {why}; restore it from a backup", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A certificate that names no peer of any cluster, or more than one.
    #[error("not a certificate of mlctl: {0}")]
    NotAPeer(String),
    /// Certificate, key and CA do not fit together, or are not what is needed here.
    #[error("this identity cannot be used: {0}")]
    Unfit(String),
    /// The cryptography library refused.
    #[error("cannot make a key or a certificate: {0}")]
    Crypto(String),
}

impl IdentityError {
    fn crypto(error: rcgen::Error) -> Self {
        Self::Crypto(error.to_string())
    }
}
