//! Who this node is, and how it knows who the others are: the caller's TLS configurations, and its way to read a name from a certificate.
//! Does NOT verify certificates: the configurations do.
use std::sync::Arc;

use rustls::{ClientConfig, ServerConfig};
use rustls_pki_types::ServerName;

use super::error::TransferError;

/// The one protocol spoken inside TLS and QUIC.
const ALPN: &[u8] = b"mlctl-blobs";

/// Reads a node's name from its certificate (DER), which TLS has verified; `Err` with what is wrong if it is no node's.
pub type Identify = Arc<dyn Fn(&[u8]) -> Result<String, String> + Send + Sync>;

/// An identity made ready for both ends. Cheap to clone.
#[derive(Clone)]
pub struct Tls {
    pub(super) client: Arc<ClientConfig>,
    pub(super) server: Arc<ServerConfig>,
    pub(super) server_name: String,
    identify: Identify,
}

impl Tls {
    /// `client` must present a certificate and `server` must demand one, both TLS 1.3. `server_name` is the name that `client` asks every
    /// node for; which node it is says its certificate.
    ///
    /// # Errors
    /// When `server_name` can be no name, or a configuration lacks what QUIC needs.
    pub fn new(
        client: &ClientConfig,
        server: &ServerConfig,
        server_name: &str,
        identify: Identify,
    ) -> Result<Self, TransferError> {
        let bad = |why: String| TransferError::Local(why);
        ServerName::try_from(server_name.to_owned()).map_err(|e| bad(e.to_string()))?;
        let (mut client, mut server) = (client.clone(), server.clone());
        client.alpn_protocols = vec![ALPN.to_vec()];
        server.alpn_protocols = vec![ALPN.to_vec()];
        // Every connection proves its identity anew, and nothing is said before that.
        client.resumption = rustls::client::Resumption::disabled();
        client.enable_early_data = false;
        server.max_early_data_size = 0;
        server.send_tls13_tickets = 0;
        Ok(Self {
            client: Arc::new(client),
            server: Arc::new(server),
            server_name: server_name.to_owned(),
            identify,
        })
    }

    /// The node whose certificates these are.
    pub(super) fn name_of(&self, certificates: Option<&[u8]>) -> std::io::Result<String> {
        let leaf = certificates.ok_or_else(|| std::io::Error::other("it shows no certificate"))?;
        (self.identify)(leaf).map_err(std::io::Error::other)
    }
}
