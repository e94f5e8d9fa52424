//! TLS over real loopback sockets, with a real tonic server and channel: who gets in, who does not, and what both
//! are told. The service answers every call with the name of its caller.
use mlctl_runtime::identity::{Bundle, Ca, server_name};
use mlctl_runtime::tls::{
    DialError, Dialer, channel, channel_lazy, incoming, install_crypto, peer_of, server_builder,
    server_config,
};
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, Issuer, KeyPair, SanType};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio_stream::StreamExt;
use tonic::body::Body;
use tonic::server::NamedService;
use tonic::transport::Channel;
use tower::{Service, ServiceExt};

const WAIT: Duration = Duration::from_secs(3);

/// A free port of a loopback address that no other process of the tests uses, so that nobody takes it when it is
/// given up for a moment.
fn loopback() -> (Ipv4Addr, u16) {
    let [_, a, b, c] = std::process::id().to_be_bytes();
    (Ipv4Addr::new(127, 64 + a % 128, b, c), 0)
}

/// Answers with `grpc-message: ROLE NAME ADMIN` of the caller.
#[derive(Clone)]
struct WhoAmI;

impl NamedService for WhoAmI {
    const NAME: &'static str = "test.WhoAmI";
}

impl Service<http::Request<Body>> for WhoAmI {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = std::future::Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let (parts, ()) = request.map(|_| ()).into_parts();
        let mut request = tonic::Request::new(());
        *request.extensions_mut() = parts.extensions;
        let status = match peer_of(&request) {
            Ok(peer) => tonic::Status::aborted(format!("{peer} {}", peer.admin)),
            Err(status) => status,
        };
        std::future::ready(Ok(status.into_http()))
    }
}

/// Who the server says we are.
async fn who_am_i(mut channel: Channel) -> Result<String, tonic::transport::Error> {
    let request = http::Request::post("http://any/test.WhoAmI/Call")
        .body(Body::empty())
        .expect("legal request");
    let response = channel.ready().await?.call(request).await?;
    let status = tonic::Status::from_header_map(response.headers()).expect("a status");
    Ok(status.message().to_owned())
}

/// A coordinator on loopback; it stops when this is dropped.
struct Server {
    address: SocketAddr,
    _stop: oneshot::Sender<()>,
}

impl Server {
    async fn start(bundle: &Bundle) -> Self {
        let listener = TcpListener::bind(loopback()).await.expect("bound");
        let address = listener.local_addr().expect("address");
        let connections = incoming(listener, server_config(bundle).expect("config"));
        let (stop, stopped) = oneshot::channel::<()>();
        tokio::spawn(
            server_builder()
                .add_service(WhoAmI)
                .serve_with_incoming_shutdown(connections, async {
                    let _ = stopped.await;
                }),
        );
        Self {
            address,
            _stop: stop,
        }
    }

    async fn ask(&self, bundle: &Bundle) -> Result<String, DialError> {
        let channel = channel(bundle, &self.address.to_string(), WAIT).await?;
        Ok(who_am_i(channel).await.expect("answered"))
    }
}

fn ca(dir: &tempfile::TempDir, name: &str) -> Ca {
    Ca::create(&dir.path().join(name), name).expect("made")
}

#[tokio::test]
async fn everybody_of_the_cluster_gets_in_and_is_known() {
    install_crypto();
    install_crypto();
    let dir = tempfile::tempdir().expect("dir");
    let ca = ca(&dir, "lab");
    let server = Server::start(&ca.issue_coordinator("c1").expect("issued")).await;
    for (bundle, want) in [
        (ca.issue_coordinator("c2"), "coordinator c2 false"),
        (ca.issue_node("n1"), "node n1 false"),
        (ca.issue_user("ada", false), "user ada false"),
        (ca.issue_user("bob", true), "user bob true"),
    ] {
        assert_eq!(server.ask(&bundle.expect(want)).await.as_deref(), Ok(want));
    }
    let lazy = channel_lazy(
        &ca.issue_node("n2").expect("issued"),
        &server.address.to_string(),
        WAIT,
    );
    assert_eq!(
        who_am_i(lazy.expect("made")).await.expect("answered"),
        "node n2 false"
    );
}

#[tokio::test]
async fn a_channel_finds_a_coordinator_that_came_back() {
    let dir = tempfile::tempdir().expect("dir");
    let ca = ca(&dir, "lab");
    let bundle = ca.issue_coordinator("c1").expect("issued");
    let server = Server::start(&bundle).await;
    let address = server.address;
    let user = ca.issue_user("ada", false).expect("issued");
    let channel = channel(&user, &address.to_string(), WAIT)
        .await
        .expect("connected");
    assert_eq!(
        who_am_i(channel.clone()).await.expect("answered"),
        "user ada false"
    );
    drop(server);
    let down = loop {
        match who_am_i(channel.clone()).await {
            Ok(_) => tokio::task::yield_now().await,
            Err(error) => match DialError::find(&error) {
                Some(found) => break found.clone(),
                None => continue,
            },
        }
    };
    assert!(matches!(down, DialError::Unreachable { .. }), "{down}");
    let listener = TcpListener::bind(address).await.expect("bound again");
    let connections = incoming(listener, server_config(&bundle).expect("config"));
    tokio::spawn(
        server_builder()
            .add_service(WhoAmI)
            .serve_with_incoming(connections),
    );
    assert_eq!(who_am_i(channel).await.expect("answered"), "user ada false");
}

#[tokio::test]
async fn strangers_are_told_apart() {
    let dir = tempfile::tempdir().expect("dir");
    let (ours, theirs) = (ca(&dir, "ours"), ca(&dir, "theirs"));
    let server = Server::start(&ours.issue_coordinator("c1").expect("issued")).await;
    let user = theirs.issue_user("eve", true).expect("issued");
    // A user of another cluster notices that this is not theirs.
    let error = server.ask(&user).await.expect_err("another cluster");
    let DialError::WrongCluster { cluster, .. } = &error else {
        panic!("{error}")
    };
    assert_eq!(cluster, theirs.cluster());
    let start = format!(
        "the server at {} is not part of cluster {cluster}",
        server.address
    );
    assert!(error.to_string().starts_with(&start), "{error}");
    // Even if she trusts our CA, we do not trust hers.
    let mixed = Bundle {
        ca_pem: ours.issue_node("n").expect("issued").ca_pem,
        ..user
    };
    let error = Dialer::new(&mixed)
        .expect("parts fit")
        .channel(&server.address.to_string(), WAIT)
        .await;
    assert!(
        matches!(error, Err(DialError::WrongCluster { .. })),
        "another server name: {error:?}"
    );
    let claims = with_certificate_of(&ours, &theirs);
    let error = server.ask(&claims).await.expect_err("another CA");
    assert!(
        matches!(error, DialError::CertificateRefused { .. }),
        "{error}"
    );
    // A certificate that our CA did sign and that names nobody.
    let odd = odd_certificate(&dir.path().join("ours"), &ours);
    let error = raw_call(server.address, &odd, &server_name(ours.cluster())).await;
    assert!(error.contains("CertificateUnknown"), "{error}");
    // One that our CA signed when somebody had changed its cluster's id.
    let moved = "{\"v\":1,\"id\":\"elsewhere\",\"name\":\"ours\"}";
    std::fs::write(dir.path().join("ours/cluster.json"), moved).expect("changed");
    let moved = Ca::open(&dir.path().join("ours"))
        .and_then(|ca| ca.issue_node("n1"))
        .expect("issued");
    let error = raw_call(server.address, &moved, &server_name(ours.cluster())).await;
    assert!(error.contains("CertificateUnknown"), "{error}");
    // The same way with a good certificate gets in: it is the certificate that made the difference.
    let good = ours.issue_node("n1").expect("issued");
    assert_eq!(
        raw_call(server.address, &good, &server_name(ours.cluster())).await,
        "read 1"
    );
}

/// An identity that says it is of cluster `ours`, signed by the other CA.
fn with_certificate_of(ours: &Ca, theirs: &Ca) -> Bundle {
    let dir = tempfile::tempdir().expect("dir");
    let at = dir.path().join("forged");
    Ca::create(&at, "forged").expect("made");
    let cluster = format!(
        "{{\"v\":1,\"id\":\"{}\",\"name\":\"ours\"}}",
        ours.cluster()
    );
    std::fs::write(at.join("cluster.json"), cluster).expect("forged");
    assert_ne!(ours.cluster(), theirs.cluster());
    let forged = Ca::open(&at)
        .expect("opens")
        .issue_user("eve", true)
        .expect("issued");
    Bundle {
        ca_pem: ours.issue_node("n").expect("issued").ca_pem,
        ..forged
    }
}

/// A client certificate of the CA in `dir` that carries no name of ours.
fn odd_certificate(dir: &Path, ca: &Ca) -> Bundle {
    let read = |file: &str| std::fs::read_to_string(dir.join(file)).expect("there");
    let ca_key = KeyPair::from_pem(&read("ca-key.pem")).expect("key");
    let issuer = Issuer::from_ca_cert_pem(&read("ca.pem"), ca_key).expect("issuer");
    let key = KeyPair::generate().expect("key");
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "odd");
    params.subject_alt_names = vec![SanType::DnsName("odd".try_into().expect("ascii"))];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    Bundle {
        ca_pem: read("ca.pem"),
        cert_pem: params.signed_by(&key, &issuer).expect("signed").pem(),
        key_pem: key.serialize_pem(),
        cluster: ca.cluster().to_owned(),
    }
}

fn parts(
    bundle: &Bundle,
) -> (
    rustls::RootCertStore,
    Vec<CertificateDer<'static>>,
    PrivateKeyDer<'static>,
) {
    let mut roots = rustls::RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_slice(bundle.ca_pem.as_bytes()).expect("pem"))
        .expect("root");
    let cert = CertificateDer::from_pem_slice(bundle.cert_pem.as_bytes()).expect("pem");
    let key = PrivateKeyDer::from_pem_slice(bundle.key_pem.as_bytes()).expect("pem");
    (roots, vec![cert], key)
}

/// Dials as a program of somebody else would, reads, and tells how it ended.
async fn raw_call(address: SocketAddr, bundle: &Bundle, name: &str) -> String {
    install_crypto();
    let (roots, cert, key) = parts(bundle);
    let config = rustls::ClientConfig::builder()
        .with_root_certificates(roots)
        .with_client_auth_cert(cert, key);
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config.expect("config")));
    let tcp = TcpStream::connect(address).await.expect("connected");
    let name = name.to_owned().try_into().expect("name");
    let mut tls = match connector.connect(name, tcp).await {
        Ok(tls) => tls,
        Err(error) => return error.to_string(),
    };
    let mut byte = [0];
    match tls.read(&mut byte).await {
        Ok(count) => format!("read {count}"),
        Err(error) => error.to_string(),
    }
}

#[tokio::test]
async fn no_certificate_no_entry() {
    install_crypto();
    let dir = tempfile::tempdir().expect("dir");
    let ca = ca(&dir, "lab");
    let server = Server::start(&ca.issue_coordinator("c1").expect("issued")).await;
    let (roots, ..) = parts(&ca.issue_node("n").expect("issued"));
    let config = rustls::ClientConfig::builder()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let tcp = TcpStream::connect(server.address).await.expect("connected");
    let name = server_name(ca.cluster()).try_into().expect("name");
    let mut tls = tokio_rustls::TlsConnector::from(Arc::new(config))
        .connect(name, tcp)
        .await
        .expect("half-way");
    let error = tls.read(&mut [0]).await.expect_err("refused").to_string();
    assert!(error.contains("CertificateRequired"), "{error}");
}

#[tokio::test]
async fn nodes_and_users_cannot_pose_as_coordinators() {
    install_crypto();
    let dir = tempfile::tempdir().expect("dir");
    let ca = ca(&dir, "lab");
    let user = ca.issue_user("ada", false).expect("issued");
    for impostor in [ca.issue_node("n1"), ca.issue_user("eve", true)] {
        let impostor = impostor.expect("issued");
        let refused = server_config(&impostor)
            .expect_err("not ours to serve with")
            .to_string();
        assert!(refused.contains("only coordinators serve"), "{refused}");
        // So they write their own server.
        let (_, cert, key) = parts(&impostor);
        let mut config = rustls::ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(cert, key)
            .expect("config");
        config.alpn_protocols = vec![b"h2".to_vec()];
        let listener = TcpListener::bind(loopback()).await.expect("bound");
        let address = listener.local_addr().expect("address").to_string();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        tokio::spawn(async move {
            let (tcp, _) = listener.accept().await.expect("accepted");
            acceptor.accept(tcp).await.map(drop)
        });
        let error = channel(&user, &address, WAIT)
            .await
            .expect_err("an impostor");
        let DialError::WrongCluster { why, .. } = &error else {
            panic!("{error}")
        };
        assert!(why.contains("not a coordinator's"), "{error}");
    }
}

#[tokio::test]
async fn what_is_not_tls_is_refused_and_harms_nobody() {
    let dir = tempfile::tempdir().expect("dir");
    let ca = ca(&dir, "lab");
    let user = ca.issue_user("ada", false).expect("issued");
    let server = Server::start(&ca.issue_coordinator("c1").expect("issued")).await;
    let garbage = vec![0x16_u8; 70_000];
    for bytes in [
        &b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..],
        b"GET / HTTP/1.1\r\n\r\n",
        b"",
        &garbage,
    ] {
        let mut tcp = TcpStream::connect(server.address).await.expect("connected");
        // The server may hang up in the middle of it.
        let _ = tcp.write_all(bytes).await;
        let _ = tcp.shutdown().await;
        let mut answer = Vec::new();
        let _ = tokio::time::timeout(WAIT, tcp.read_to_end(&mut answer))
            .await
            .expect("hung up");
        assert!(answer.len() < 16, "an alert at most: {answer:?}");
    }
    assert_eq!(server.ask(&user).await.as_deref(), Ok("user ada false"));
}

/// What a client is told when `serve` answers its connection.
async fn told<F: Future<Output = ()> + Send + 'static>(
    serve: impl FnOnce(TcpStream) -> F + Send + 'static,
) -> DialError {
    let dir = tempfile::tempdir().expect("dir");
    let user = ca(&dir, "lab").issue_user("ada", false).expect("issued");
    let listener = TcpListener::bind(loopback()).await.expect("bound");
    let address = listener.local_addr().expect("address").to_string();
    tokio::spawn(async move { serve(listener.accept().await.expect("accepted").0).await });
    let error = channel(&user, &address, Duration::from_millis(400))
        .await
        .expect_err("not a coordinator");
    assert!(error.to_string().contains(&address), "{error}");
    error
}

#[tokio::test]
async fn servers_that_are_something_else_are_told_apart() {
    let http = told(|mut tcp| async move {
        let _ = tcp.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        let _ = tcp.read(&mut [0; 4096]).await;
    });
    let http = http.await;
    assert!(matches!(http, DialError::NotACoordinator { .. }), "{http}");
    let closed = told(|tcp| async move { drop(tcp) }).await;
    assert!(
        matches!(closed, DialError::NotACoordinator { .. }),
        "{closed}"
    );
    let silent = told(|tcp| async move {
        tokio::time::sleep(WAIT).await;
        drop(tcp);
    });
    let silent = silent.await;
    assert!(
        matches!(silent, DialError::Timeout { waited_ms: 400, .. }),
        "{silent}"
    );
}

#[tokio::test]
async fn nobody_at_the_address_is_found_out_early_or_late() {
    let dir = tempfile::tempdir().expect("dir");
    let user = ca(&dir, "lab").issue_user("ada", false).expect("issued");
    let listener = TcpListener::bind(loopback()).await.expect("bound");
    let free = listener.local_addr().expect("address").to_string();
    drop(listener);
    let refused = channel(&user, &free, WAIT).await.expect_err("nobody there");
    assert!(
        matches!(refused, DialError::Unreachable { .. }),
        "{refused}"
    );
    assert!(refused.to_string().contains(&free), "{refused}");
    let lazy = channel_lazy(&user, &free, WAIT).expect("made");
    let late = who_am_i(lazy).await.expect_err("nobody there");
    assert_eq!(DialError::find(&late), Some(&refused));
    let status = tonic::Status::from_error(Box::new(late));
    assert_eq!(status.code(), tonic::Code::Unavailable);
    assert_eq!(DialError::find(&status), Some(&refused));
}

#[tokio::test]
async fn slow_clients_block_nobody_and_are_hung_up_on() {
    let dir = tempfile::tempdir().expect("dir");
    let ca = ca(&dir, "lab");
    let user = ca.issue_user("ada", false).expect("issued");
    let server = Server::start(&ca.issue_coordinator("c1").expect("issued")).await;
    let mut slow = Vec::new();
    for _ in 0..100 {
        let mut tcp = TcpStream::connect(server.address).await.expect("connected");
        tcp.write_all(&[0x16, 3, 1])
            .await
            .expect("a first few bytes");
        slow.push(tcp);
    }
    let start = Instant::now();
    assert_eq!(server.ask(&user).await.as_deref(), Ok("user ada false"));
    assert!(
        start.elapsed() < Duration::from_secs(2),
        "{:?}",
        start.elapsed()
    );
    let mut left = slow.pop().expect("one of them");
    let ended = tokio::time::timeout(Duration::from_secs(7), left.read(&mut [0; 16])).await;
    assert!(matches!(
        ended.expect("within its deadline"),
        Ok(0) | Err(_)
    ));
}

#[tokio::test]
async fn identities_that_do_not_fit_are_named() {
    let dir = tempfile::tempdir().expect("dir");
    let ca = ca(&dir, "lab");
    let good = ca.issue_coordinator("c1").expect("issued");
    let other = ca.issue_coordinator("c2").expect("issued");
    let check = |what: &str, bundle: Bundle, word: &str| {
        let server = server_config(&bundle).expect_err(what).to_string();
        let client = Dialer::new(&bundle).expect_err(what).to_string();
        assert!(
            server.contains(word) && client.contains(word),
            "{what}: {server} / {client}"
        );
        assert!(!server.contains("PRIVATE") && !client.contains("PRIVATE"));
    };
    check(
        "foreign key",
        Bundle {
            key_pem: other.key_pem,
            ..good.clone()
        },
        "cannot be used",
    );
    check(
        "no key",
        Bundle {
            key_pem: String::new(),
            ..good.clone()
        },
        "its key",
    );
    check(
        "no CA",
        Bundle {
            ca_pem: String::new(),
            ..good.clone()
        },
        "its CA",
    );
    check(
        "no certificate",
        Bundle {
            cert_pem: String::new(),
            ..good.clone()
        },
        "not a certificate of mlctl",
    );
    check(
        "other cluster",
        Bundle {
            cluster: "c9".into(),
            ..good.clone()
        },
        "not c9",
    );
    assert!(server_config(&good).is_ok() && Dialer::new(&good).is_ok());
}

#[tokio::test]
async fn accepting_ends_with_the_stream() {
    let dir = tempfile::tempdir().expect("dir");
    let bundle = ca(&dir, "lab").issue_coordinator("c1").expect("issued");
    let listener = TcpListener::bind(loopback()).await.expect("bound");
    let address = listener.local_addr().expect("address");
    let mut connections = incoming(listener, server_config(&bundle).expect("config"));
    assert!(
        tokio::time::timeout(Duration::from_millis(50), connections.next())
            .await
            .is_err()
    );
    drop(connections);
    let start = Instant::now();
    while TcpListener::bind(address).await.is_err() {
        assert!(start.elapsed() < WAIT, "the port is still taken");
        tokio::task::yield_now().await;
    }
}
