//! An identity as files or as PEM text: certificate, private key, and the CA to trust.
//!
//! Issues nothing and verifies no signature.
use super::{IdentityError, Peer};
use crate::files;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use std::fmt;
use std::path::Path;

const CERT: &str = "cert.pem";
const KEY: &str = "key.pem";
const CA: &str = "ca.pem";

/// What somebody needs to be somebody in a cluster.
#[derive(Clone, PartialEq, Eq)]
pub struct Bundle {
    /// The cluster's CA certificate, PEM.
    pub ca_pem: String,
    /// Their certificate, PEM.
    pub cert_pem: String,
    /// Their private key, PEM.
    pub key_pem: String,
    /// The cluster's id.
    pub cluster: String,
}

impl fmt::Debug for Bundle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bundle")
            .field("cluster", &self.cluster)
            .finish_non_exhaustive()
    }
}

impl Bundle {
    /// Writes `cert.pem`, `key.pem` (0600) and `ca.pem` into `dir`, which is made where it is missing. Each file is
    /// replaced whole; between two of them a reader may see an old one beside a new one, which TLS then refuses.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn write(&self, dir: &Path) -> Result<(), IdentityError> {
        files::write_public(&dir.join(CA), self.ca_pem.as_bytes())?;
        files::write_private(&dir.join(KEY), self.key_pem.as_bytes())?;
        files::write_public(&dir.join(CERT), self.cert_pem.as_bytes())?;
        Ok(())
    }

    /// Reads what [`write`](Self::write) wrote; the cluster comes from the certificate.
    ///
    /// # Errors
    /// When a file is missing, the key is readable by others, or the certificate names no peer.
    pub fn read(dir: &Path) -> Result<Self, IdentityError> {
        let mut bundle = Self {
            ca_pem: files::read_text(&dir.join(CA))?,
            cert_pem: files::read_text(&dir.join(CERT))?,
            key_pem: files::read_private(&dir.join(KEY))?,
            cluster: String::new(),
        };
        let peer = bundle.subject().map_err(|error| IdentityError::Damaged {
            path: dir.join(CERT),
            why: error.to_string(),
        })?;
        bundle.cluster = peer.cluster;
        Ok(bundle)
    }

    /// Whose identity this is.
    ///
    /// # Errors
    /// When the certificate is damaged, or is of another cluster than the bundle says.
    pub fn peer(&self) -> Result<Peer, IdentityError> {
        let peer = self.subject()?;
        if peer.cluster != self.cluster {
            return Err(IdentityError::Unfit(format!(
                "the certificate is of cluster {}, not {}",
                peer.cluster, self.cluster
            )));
        }
        Ok(peer)
    }

    fn subject(&self) -> Result<Peer, IdentityError> {
        let der = CertificateDer::from_pem_slice(self.cert_pem.as_bytes())
            .map_err(|error| IdentityError::NotAPeer(format!("not PEM: {error}")))?;
        Peer::from_der(&der)
    }
}
