//! Nodes for tests: certificates of a throw-away CA in a directory, and what a node needs to talk to another on this machine.
//! Does NOT test anything itself.
use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mlctl_blobs::BlobId;
use mlctl_blobs::checkpoint::CheckpointStore;
use mlctl_blobs::transfer::protocol::{Frame, PREFIX_BYTES, frame_bytes};
use mlctl_blobs::transfer::{Authority, Node, Options, Pacer, Peer, Rate, Tls};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::{noise, open, scratch, write};

/// What every test node is asked for as a TLS server.
pub const SERVER_NAME: &str = "node.test";

/// Makes a CA and a certificate for each name in `dir`.
pub fn make_pki(dir: &Path, names: &[&str]) {
    fs::create_dir_all(dir).expect("made");
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::new(vec![]).expect("parameters");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = params.self_signed(&key).expect("signed");
    fs::write(dir.join("ca"), ca.der()).expect("written");
    let issuer = Issuer::new(params, key);
    for name in names {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(vec![SERVER_NAME.to_owned()]).expect("parameters");
        let certificate = params.signed_by(&key, &issuer).expect("signed");
        fs::write(dir.join(format!("{name}.cert")), certificate.der()).expect("written");
        fs::write(dir.join(format!("{name}.key")), key.serialize_der()).expect("written");
    }
}

/// The two configurations of node `name`.
pub fn configs(dir: &Path, name: &str) -> (ClientConfig, ServerConfig) {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    let ca = fs::read(dir.join("ca")).expect("there");
    roots.add(CertificateDer::from(ca)).expect("a CA");
    let roots = Arc::new(roots);
    let read = |end: &str| fs::read(dir.join(format!("{name}.{end}"))).expect("there");
    let chain = vec![CertificateDer::from(read("cert"))];
    let key = || PrivateKeyDer::from(PrivatePkcs8KeyDer::from(read("key")));
    let client = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .with_root_certificates(roots.clone())
        .with_client_auth_cert(chain.clone(), key())
        .expect("fits");
    let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider.clone())
        .build()
        .expect("a verifier");
    let server = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key())
        .expect("fits");
    (client, server)
}

/// The identity of node `name`; names are read by comparing certificates.
pub fn tls(dir: &Path, name: &str) -> Tls {
    let mut known = BTreeMap::new();
    for entry in fs::read_dir(dir).expect("listed") {
        let path = entry.expect("listed").path();
        if path.extension().is_some_and(|end| end == "cert") {
            let stem = path.file_stem().expect("named").to_str().expect("UTF-8");
            known.insert(fs::read(&path).expect("read"), stem.to_owned());
        }
    }
    let identify = move |der: &[u8]| known.get(der).cloned().ok_or("not a node".to_owned());
    let (client, server) = configs(dir, name);
    Tls::new(&client, &server, SERVER_NAME, Arc::new(identify)).expect("fits")
}

/// Everybody may do everything.
pub struct Open;

impl Authority for Open {
    fn may_send(&self, _: &str, _: &BlobId) -> bool {
        true
    }

    fn may_read(&self, _: &str, _: &BlobId) -> bool {
        true
    }
}

/// Only the named ones.
#[derive(Default)]
pub struct Only {
    pub send: Vec<(&'static str, BlobId)>,
    pub read: Vec<(&'static str, BlobId)>,
}

impl Authority for Only {
    fn may_send(&self, node: &str, id: &BlobId) -> bool {
        self.send.contains(&(name(node), *id))
    }

    fn may_read(&self, node: &str, id: &BlobId) -> bool {
        self.read.contains(&(name(node), *id))
    }
}

fn name(node: &str) -> &'static str {
    let known = ["a", "b", "c", "d"].into_iter().find(|name| *name == node);
    known.unwrap_or("?")
}

/// A node with the rights of everybody.
pub fn node(pki: &Path, name: &str, store: &CheckpointStore) -> Node {
    node_at(pki, name, store, Rate::Unlimited, Arc::new(Open))
}

pub fn node_at(
    pki: &Path,
    name: &str,
    store: &CheckpointStore,
    rate: Rate,
    authority: Arc<dyn Authority>,
) -> Node {
    let (tls, pacer) = (tls(pki, name), Pacer::new(rate));
    Node::new(store.clone(), tls, authority, pacer, Options::default())
}

pub fn here() -> SocketAddr {
    ([127, 0, 0, 1], 0).into()
}

pub fn peer(node: &str, address: SocketAddr) -> Peer {
    let node = node.to_owned();
    Peer { node, address }
}

/// A link over TCP that says whatever a test wants.
pub struct Raw(Box<dyn Both>);

/// What a link consists of.
pub trait Both: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Both for T {}

const ALPN: &[u8] = b"mlctl-blobs";

impl Raw {
    /// Connects as node `name`.
    pub async fn dial(pki: &Path, name: &str, address: SocketAddr) -> Self {
        let (mut client, _) = configs(pki, name);
        client.alpn_protocols = vec![ALPN.to_vec()];
        let tcp = TcpStream::connect(address).await.expect("connected");
        let asked = ServerName::try_from(SERVER_NAME).expect("a name");
        let connector = TlsConnector::from(Arc::new(client));
        let stream = connector.connect(asked, tcp).await.expect("believed");
        Self(Box::new(stream))
    }

    /// Serves as node `name`: each link goes to `serve`. UDP is not answered.
    pub async fn serve<F>(
        pki: &Path,
        name: &str,
        serve: impl Fn(Raw) -> F + Send + 'static,
    ) -> SocketAddr
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (_, mut server) = configs(pki, name);
        server.alpn_protocols = vec![ALPN.to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(server));
        let listener = TcpListener::bind(here()).await.expect("bound");
        let address = listener.local_addr().expect("known");
        tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                if let Ok(stream) = acceptor.accept(tcp).await {
                    tokio::spawn(serve(Self(Box::new(stream))));
                }
            }
        });
        address
    }

    pub async fn put(&mut self, bytes: &[u8]) {
        // The other end may have had enough of us.
        let _ = self.0.write_all(bytes).await;
        let _ = self.0.flush().await;
    }

    pub async fn say(&mut self, frame: &Frame) {
        self.put(&frame.encode()).await;
    }

    pub async fn bytes(&mut self, count: usize) -> Option<Vec<u8>> {
        let mut bytes = vec![0; count];
        self.0.read_exact(&mut bytes).await.ok()?;
        Some(bytes)
    }

    /// The next frame; `None` at the end.
    pub async fn hear(&mut self) -> Option<Frame> {
        let mut prefix = [0; PREFIX_BYTES];
        self.0.read_exact(&mut prefix).await.ok()?;
        let body = self.bytes(frame_bytes(prefix).expect("a frame")).await?;
        Some(Frame::decode(&body).expect("a frame"))
    }

    /// The next frame that says something.
    pub async fn hear_news(&mut self) -> Option<Frame> {
        loop {
            match self.hear().await {
                Some(Frame::Still { .. }) => {}
                other => return other,
            }
        }
    }
}

/// Two stores, one of which holds a checkpoint of one file.
pub struct Pair {
    _dir: tempfile::TempDir,
    pub pki: PathBuf,
    pub a: CheckpointStore,
    pub b: CheckpointStore,
    /// What `a` holds.
    pub id: BlobId,
}

/// A pair whose checkpoint has so many bytes, and certificates for these nodes.
pub fn pair(bytes: u64, nodes: &[&str]) -> Pair {
    let dir = scratch();
    let pki = dir.path().join("pki");
    make_pki(&pki, nodes);
    let source = dir.path().join("source");
    write(&source, "w", &noise(1, bytes as usize));
    let a = open(&dir.path().join("a"));
    let id = a.seal(&source).expect("sealed").id;
    let b = open(&dir.path().join("b"));
    Pair {
        _dir: dir,
        pki,
        a,
        b,
        id,
    }
}
