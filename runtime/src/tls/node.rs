//! Node to node: both ends show a node's certificate of this cluster and nothing else. For checkpoints on their way. A coordinator may dial
//! nodes too, for people who want a checkpoint; nobody dials it this way.
//!
//! A node's certificate names no server, so that it can never pose as a coordinator; which node answers is read from the certificate
//! and compared by whoever dialled. Opens no connection itself.
use super::{PROVIDER, Parts, unfit};
use crate::identity::{Bundle, IdentityError, Peer, Role};
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{verify_tls12_signature, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, OtherError,
    ServerConfig, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use std::sync::Arc;

/// Before the name of a coordinator where a node asks who has dialled. No node has such a name.
pub const COORDINATOR: &str = "coordinator/";

/// How one node talks to others: dials and serves with one identity.
#[derive(Clone, Debug)]
pub struct NodeTls {
    /// For dialling.
    pub client: Arc<ClientConfig>,
    /// For serving.
    pub server: Arc<ServerConfig>,
    /// What `client` asks every node for; it proves nothing.
    pub server_name: String,
    cluster: String,
}

impl NodeTls {
    /// Both ends of the node whose identity this is: TLS 1.3, no resumption, and nobody but nodes and coordinators of the same cluster.
    ///
    /// # Errors
    /// [`IdentityError`] when the bundle is not a node's, or its parts do not fit together.
    pub fn new(bundle: &Bundle) -> Result<Self, IdentityError> {
        let peer = bundle.peer()?;
        if peer.role != Role::Node {
            return Err(IdentityError::Unfit(format!(
                "it is that of {peer}, and only nodes exchange checkpoints; `mlctl admin cert node` makes one"
            )));
        }
        Self::of(bundle, peer.cluster)
    }

    /// For a coordinator, which dials nodes and serves nobody.
    ///
    /// # Errors
    /// [`IdentityError`] when the bundle is not a coordinator's, or its parts do not fit together.
    pub fn reader(bundle: &Bundle) -> Result<Self, IdentityError> {
        let peer = bundle.peer()?;
        if peer.role != Role::Coordinator {
            return Err(IdentityError::Unfit(format!(
                "it is that of {peer}, and only coordinators fetch checkpoints for people"
            )));
        }
        Self::of(bundle, peer.cluster)
    }

    fn of(bundle: &Bundle, cluster: String) -> Result<Self, IdentityError> {
        let parts = Parts::of(bundle)?;
        let chain = WebPkiClientVerifier::builder_with_provider(parts.roots, PROVIDER.clone())
            .build()
            .map_err(unfit)?;
        let verifier = Arc::new(NodeVerifier {
            chain,
            cluster: cluster.clone(),
        });
        let mut client = ClientConfig::builder_with_provider(PROVIDER.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(unfit)?
            .dangerous()
            .with_custom_certificate_verifier(verifier.clone())
            .with_client_auth_cert(parts.chain.clone(), parts.key.clone_key())
            .map_err(unfit)?;
        client.resumption = Resumption::disabled();
        let mut server = ServerConfig::builder_with_provider(PROVIDER.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(unfit)?
            .with_client_cert_verifier(verifier)
            .with_single_cert(parts.chain, parts.key)
            .map_err(unfit)?;
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
        Ok(Self {
            client: Arc::new(client),
            server: Arc::new(server),
            server_name: format!("node.{cluster}.mlctl"),
            cluster,
        })
    }

    /// The name of the node whose certificate (DER) this is, or [`COORDINATOR`] and the name of the coordinator.
    ///
    /// # Errors
    /// What is wrong with it, when it is neither of this cluster.
    pub fn node_of(&self, certificate: &[u8]) -> Result<String, String> {
        dialler_of(certificate, &self.cluster).map_err(|error| error.to_string())
    }
}

fn node_of(certificate: &[u8], cluster: &str) -> Result<String, IdentityError> {
    let peer = Peer::from_der(certificate)?;
    if peer.cluster != cluster {
        let why = format!("it is of cluster {}", peer.cluster);
        return Err(IdentityError::Unfit(why));
    }
    if peer.role != Role::Node {
        let why = format!("it is that of {peer}, and not of a node");
        return Err(IdentityError::Unfit(why));
    }
    Ok(peer.id)
}

/// As [`node_of`]; a coordinator may dial too.
fn dialler_of(certificate: &[u8], cluster: &str) -> Result<String, IdentityError> {
    let peer = Peer::from_der(certificate)?;
    match peer.role {
        Role::Coordinator if peer.cluster == cluster => Ok(format!("{COORDINATOR}{}", peer.id)),
        _ => node_of(certificate, cluster),
    }
}

/// Whose certificate it is, if it may be shown.
type Who = fn(&[u8], &str) -> Result<String, IdentityError>;

/// Believes certificates that our CA signed and that name a node of our cluster, at either end, or a coordinator that dials.
#[derive(Debug)]
struct NodeVerifier {
    chain: Arc<dyn ClientCertVerifier>,
    cluster: String,
}

impl NodeVerifier {
    /// A node's certificate is a client's, also where it serves: its chain, its validity and its purpose are judged as such.
    fn verify(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
        who: Who,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let chain = &self.chain;
        let verified = chain.verify_client_cert(end_entity, intermediates, now)?;
        let refuse = |why: IdentityError| CertificateError::Other(OtherError(Arc::new(why)));
        who(end_entity, &self.cluster).map_err(refuse)?;
        Ok(verified)
    }
}

impl ClientCertVerifier for NodeVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // None: a stranger who only knocks learns no name of ours.
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.verify(end_entity, intermediates, now, dialler_of)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chain.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chain.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

impl ServerCertVerifier for NodeVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.verify(end_entity, intermediates, now, node_of)
            .map(|_| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &PROVIDER.signature_verification_algorithms;
        verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &PROVIDER.signature_verification_algorithms;
        verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}
