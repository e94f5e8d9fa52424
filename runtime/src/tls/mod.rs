//! Mutual TLS 1.3 between everybody in a cluster: the only way in, for servers (`server`) and clients (`client`), and from node to node
//! (`node`).
//!
//! There is no plaintext mode, no older TLS, no session resumption (every connection proves its identity anew) and
//! no early data. Who may call what is decided where calls are served.
mod client;
mod node;
mod server;

pub use client::{DialError, Dialer, channel, channel_lazy};
pub use node::{COORDINATOR, NodeTls};
pub use server::{ConnPeer, ServerStream, incoming, peer_of, server_builder, server_config};

use crate::identity::{Bundle, IdentityError};
use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::sync::{Arc, LazyLock};

/// The one protocol spoken inside TLS.
const ALPN: &[u8] = b"h2";
/// Both ends ask an idle connection whether it lives this often, and wait this long for the answer.
const KEEPALIVE_EVERY: std::time::Duration = std::time::Duration::from_secs(10);
const KEEPALIVE_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(20);
/// All headers of one call, bytes.
const HEADERS_BYTES_MAX: u32 = 16 * 1024;

static PROVIDER: LazyLock<Arc<CryptoProvider>> =
    LazyLock::new(|| Arc::new(rustls::crypto::ring::default_provider()));

/// Makes ring the process's cryptography. Everything here names ring itself; this is for libraries that ask for the
/// default, and keeps a second one from being picked. The first call counts, more do nothing.
pub fn install_crypto() {
    // An error only says that a provider is installed already.
    let _ = CryptoProvider::install_default(PROVIDER.as_ref().clone());
}

/// The parts of a bundle as rustls wants them.
struct Parts {
    roots: Arc<RootCertStore>,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl Parts {
    fn of(bundle: &Bundle) -> Result<Self, IdentityError> {
        let bad = |what: &str, why: String| IdentityError::Unfit(format!("{what}: {why}"));
        let mut roots = RootCertStore::empty();
        for root in certificates(&bundle.ca_pem).map_err(|e| bad("its CA", e.to_string()))? {
            roots.add(root).map_err(|e| bad("its CA", e.to_string()))?;
        }
        if roots.is_empty() {
            return Err(bad("its CA", "there is no certificate in it".to_owned()));
        }
        let chain =
            certificates(&bundle.cert_pem).map_err(|e| bad("its certificate", e.to_string()))?;
        let key = PrivateKeyDer::from_pem_slice(bundle.key_pem.as_bytes())
            .map_err(|e| bad("its key", e.to_string()))?;
        Ok(Self {
            roots: Arc::new(roots),
            chain,
            key,
        })
    }
}

fn certificates(text: &str) -> Result<Vec<CertificateDer<'static>>, pem::Error> {
    CertificateDer::pem_slice_iter(text.as_bytes()).collect()
}

/// What rustls says of a certificate and key that do not fit.
fn unfit(error: impl std::fmt::Display) -> IdentityError {
    IdentityError::Unfit(error.to_string())
}
