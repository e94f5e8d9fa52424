//! Node to node over TLS, with real sockets: only nodes of the same cluster get through, whichever end they are at.
//! Does NOT move anything.
use mlctl_runtime::identity::{Bundle, Ca};
use mlctl_runtime::tls::{COORDINATOR, Dialer, NodeTls, server_config};
use rustls::{ClientConfig, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use std::path::Path;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// Connects the two; each end says a byte. What each knows of the other's certificate, or the first error.
async fn meet(
    client: Arc<ClientConfig>,
    name: &str,
    server: Arc<ServerConfig>,
) -> Result<(Vec<u8>, Vec<u8>), String> {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let address = listener.local_addr().expect("bound");
    let serving = tokio::spawn(async move {
        let (tcp, _) = listener.accept().await.expect("accepted");
        let mut tls = TlsAcceptor::from(server).accept(tcp).await?;
        tls.write_all(b"s").await?;
        tls.read_u8().await?;
        // Who does not ask for one is shown none.
        let shown = tls
            .get_ref()
            .1
            .peer_certificates()
            .and_then(|all| all.first());
        Ok::<_, std::io::Error>(shown.map(|one| one.to_vec()).unwrap_or_default())
    });
    let tcp = TcpStream::connect(address).await.expect("connected");
    let name = ServerName::try_from(name.to_owned()).expect("a name");
    let dialled = async {
        let mut tls = TlsConnector::from(client).connect(name, tcp).await?;
        tls.write_all(b"c").await?;
        tls.read_u8().await?;
        let shown = tls.get_ref().1.peer_certificates().expect("shown");
        Ok::<_, std::io::Error>(shown[0].to_vec())
    };
    let dialled = dialled.await;
    let served = serving.await.expect("ran");
    match (dialled, served) {
        (Ok(server), Ok(client)) => Ok((server, client)),
        (Err(error), Ok(_)) | (Ok(_), Err(error)) => Err(error.to_string()),
        (Err(one), Err(other)) => Err(format!("{one}; {other}")),
    }
}

/// Dials and serves with whatever identity this is, and believes everything that the CA signed.
fn any(bundle: &Bundle) -> (Arc<ClientConfig>, Arc<ServerConfig>) {
    let chain = || -> Vec<CertificateDer<'static>> {
        let all = CertificateDer::pem_slice_iter(bundle.cert_pem.as_bytes());
        all.collect::<Result<_, _>>().expect("PEM")
    };
    let key = || PrivateKeyDer::from_pem_slice(bundle.key_pem.as_bytes()).expect("PEM");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let client = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(blind::Blind(provider.clone())))
        .with_client_auth_cert(chain(), key())
        .expect("fits");
    let server = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .with_no_client_auth()
        .with_single_cert(chain(), key())
        .expect("fits");
    (Arc::new(client), Arc::new(server))
}

/// Somebody who believes any server, so that only our end can refuse.
mod blind {
    use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
    use rustls::crypto::CryptoProvider;
    use rustls::{DigitallySignedStruct, Error, SignatureScheme};
    use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
    use std::sync::Arc;

    #[derive(Debug)]
    pub struct Blind(pub Arc<CryptoProvider>);

    impl ServerCertVerifier for Blind {
        fn verify_server_cert(
            &self,
            _: &CertificateDer<'_>,
            _: &[CertificateDer<'_>],
            _: &ServerName<'_>,
            _: &[u8],
            _: UnixTime,
        ) -> Result<ServerCertVerified, Error> {
            Ok(ServerCertVerified::assertion())
        }

        fn verify_tls12_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Ok(HandshakeSignatureValid::assertion())
        }

        fn verify_tls13_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Ok(HandshakeSignatureValid::assertion())
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.0.signature_verification_algorithms.supported_schemes()
        }
    }
}

fn ca(dir: &Path, name: &str) -> Ca {
    Ca::create(&dir.join(name), name).expect("made")
}

#[tokio::test]
async fn nodes_of_one_cluster_meet_and_know_each_other() {
    let dir = tempfile::tempdir().expect("dir");
    let ca = ca(dir.path(), "ours");
    let [a, b] = ["n-a", "n-b"].map(|name| {
        let bundle = ca.issue_node(name).expect("issued");
        NodeTls::new(&bundle).expect("a node's")
    });
    let met = meet(a.client.clone(), &a.server_name, b.server.clone()).await;
    let (server, client) = met.expect("they meet");
    assert_eq!(a.node_of(&server), Ok("n-b".to_owned()));
    assert_eq!(b.node_of(&client), Ok("n-a".to_owned()));
    assert!(a.node_of(b"nothing").is_err());
}

#[tokio::test]
async fn only_nodes_of_this_cluster_are_believed_and_only_they_and_its_coordinators_get_in() {
    let dir = tempfile::tempdir().expect("dir");
    let (ours, theirs) = (ca(dir.path(), "ours"), ca(dir.path(), "theirs"));
    let node = NodeTls::new(&ours.issue_node("n-a").expect("issued")).expect("a node's");
    let strangers = [
        (
            "coordinator",
            ours.issue_coordinator("c-a").expect("issued"),
        ),
        ("user", ours.issue_user("ada", false).expect("issued")),
        ("admin", ours.issue_user("eve", true).expect("issued")),
        (
            "another CA's node",
            theirs.issue_node("n-b").expect("issued"),
        ),
    ];
    for (who, bundle) in &strangers {
        let (client, server) = any(bundle);
        let name = &node.server_name;
        let met = meet(client, name, node.server.clone()).await;
        assert_eq!(met.is_ok(), *who == "coordinator", "{who}");
        let refused = meet(node.client.clone(), name, server).await;
        assert!(refused.is_err(), "{who} was believed");
        let certificate = CertificateDer::from_pem_slice(bundle.cert_pem.as_bytes()).expect("PEM");
        let name = node.node_of(&certificate).ok();
        let wanted = (*who == "coordinator").then(|| format!("{COORDINATOR}c-a"));
        assert_eq!(name, wanted, "{who} has a node's name");
        assert_eq!(
            NodeTls::reader(bundle).is_ok(),
            *who == "coordinator",
            "{who}"
        );
        if *who != "another CA's node" {
            assert!(NodeTls::new(bundle).is_err(), "{who} is made a node");
        }
    }
    // The same way with a node's certificate gets in and is believed: it is the certificate that made the difference.
    let (client, server) = any(&ours.issue_node("n-c").expect("issued"));
    let name = &node.server_name;
    meet(client, name, node.server.clone())
        .await
        .expect("a node");
    let met = meet(node.client.clone(), name, server).await;
    let (server, _) = met.expect("believed");
    assert_eq!(node.node_of(&server), Ok("n-c".to_owned()));
}

#[tokio::test]
async fn a_node_is_no_coordinator_and_none_of_its_servers() {
    let dir = tempfile::tempdir().expect("dir");
    let ca = ca(dir.path(), "ours");
    let bundle = ca.issue_node("n-a").expect("issued");
    assert!(server_config(&bundle).is_err());
    let node = NodeTls::new(&bundle).expect("a node's");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let address = listener.local_addr().expect("bound").to_string();
    let acceptor = TlsAcceptor::from(node.server.clone());
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            // It is refused by who dials.
            let _ = acceptor.accept(tcp).await;
        }
    });
    let dialer = Dialer::new(&ca.issue_node("n-b").expect("issued")).expect("fits");
    let wait = std::time::Duration::from_secs(3);
    let error = dialer.channel(&address, wait).await.expect_err("refused");
    assert!(error.to_string().contains("not part of cluster"), "{error}");
}
