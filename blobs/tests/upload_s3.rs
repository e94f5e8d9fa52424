//! `s3://` against a server that speaks as much of S3 as is needed, on this machine: requests are signed, settings come from the environment
//! alone, what fails for a moment is tried again. Does NOT check signatures, nor HTTP/2.
#![cfg(target_os = "linux")]
mod common;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use common::far::*;
use common::*;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use mlctl_blobs::BlobId;
use mlctl_blobs::checkpoint::Restore;
use mlctl_blobs::upload::{Remote, UploadError};
use rustls_pki_types::PrivatePkcs8KeyDer;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// Where a child works; without it a test of this file is not a child.
const BASE: &str = "MLCTL_BLOBS_TEST_BASE";

/// A bucket.
#[derive(Default)]
struct Bucket {
    objects: BTreeMap<String, Bytes>,
    /// Method and what was asked for, of each request.
    seen: Vec<String>,
    /// Requests that are answered as if it were overloaded.
    busy: u32,
}

type Answer = Response<Full<Bytes>>;

fn answer(status: u16, body: impl Into<Bytes>) -> Answer {
    Response::builder()
        .status(status)
        .header("ETag", "\"1\"")
        .header("Last-Modified", "Tue, 01 Jan 2030 00:00:00 GMT")
        .body(Full::new(body.into()))
        .expect("an answer")
}

/// Text of a URL as it was before it was escaped.
fn plain(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let digits = [
                rest.next().expect("two digits"),
                rest.next().expect("two digits"),
            ];
            let digits = std::str::from_utf8(&digits).expect("digits");
            bytes.push(u8::from_str_radix(digits, 16).expect("digits"));
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).expect("text")
}

impl Bucket {
    fn list(&self, prefix: &str) -> String {
        let mut xml = "<ListBucketResult><IsTruncated>false</IsTruncated>".to_owned();
        for (key, bytes) in self
            .objects
            .iter()
            .filter(|(key, _)| key.starts_with(prefix))
        {
            let size = bytes.len();
            write!(
                xml,
                "<Contents><Key>{key}</Key><LastModified>2030-01-01T00:00:00.000Z</LastModified>\
                 <ETag>\"1\"</ETag><Size>{size}</Size></Contents>"
            )
            .expect("written");
        }
        xml + "</ListBucketResult>"
    }

    fn delete(&mut self, body: &str) -> String {
        let keys = body
            .split("<Key>")
            .skip(1)
            .filter_map(|rest| rest.split("</Key>").next());
        let mut xml = "<DeleteResult>".to_owned();
        for key in keys {
            self.objects.remove(key);
            write!(xml, "<Deleted><Key>{key}</Key></Deleted>").expect("written");
        }
        xml + "</DeleteResult>"
    }

    fn serve(&mut self, method: &Method, path: &str, query: &str, body: Bytes) -> Answer {
        let key = plain(path.strip_prefix("/runs").expect("the bucket of the URL"));
        let key = key.strip_prefix('/').unwrap_or(&key).to_owned();
        let prefix = query
            .split('&')
            .find_map(|pair| pair.strip_prefix("prefix="));
        match (method.as_str(), prefix) {
            ("GET", Some(prefix)) => answer(200, self.list(&plain(&prefix.replace('+', " ")))),
            ("POST", _) if query.starts_with("delete") => {
                let text = std::str::from_utf8(&body).expect("XML").to_owned();
                answer(200, self.delete(&text))
            }
            ("PUT", _) => {
                self.objects.insert(key, body);
                answer(200, "")
            }
            ("GET" | "HEAD", _) => match self.objects.get(&key) {
                Some(bytes) => answer(200, bytes.clone()),
                None => answer(404, "<Error><Code>NoSuchKey</Code></Error>"),
            },
            other => panic!("{other:?} is not asked for"),
        }
    }
}

async fn handle(bucket: Arc<Mutex<Bucket>>, request: Request<Incoming>) -> Answer {
    let (head, body) = request.into_parts();
    let body = body.collect().await.expect("it comes").to_bytes();
    let header = |name: &str| {
        head.headers
            .get(name)
            .and_then(|v| v.to_str().ok())
            .unwrap_or("")
    };
    let (path, query) = (head.uri.path(), head.uri.query().unwrap_or(""));
    let mut bucket = bucket.lock().expect("not poisoned");
    bucket.seen.push(format!("{} {}", head.method, plain(path)));
    let signed = header("authorization");
    let whole = header("x-amz-date").len() == 16 && header("x-amz-content-sha256").len() == 64;
    if !whole
        || !signed.starts_with("AWS4-HMAC-SHA256 Credential=the-key/")
        || !signed.contains("/eu-north-1/s3/aws4_request")
    {
        return answer(403, "<Error><Code>SignatureDoesNotMatch</Code></Error>");
    }
    if bucket.busy > 0 {
        bucket.busy -= 1;
        return answer(503, "<Error><Code>SlowDown</Code></Error>");
    }
    bucket.serve(&head.method, path, query, body)
}

async fn serve(bucket: Arc<Mutex<Bucket>>, tls: Option<TlsAcceptor>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (bucket, tls) = (bucket.clone(), tls.clone());
            tokio::spawn(async move {
                match tls {
                    None => converse(stream, bucket).await,
                    Some(tls) => converse(tls.accept(stream).await.expect("TLS"), bucket).await,
                }
            });
        }
    });
    address
}

async fn converse(stream: impl AsyncRead + AsyncWrite + Unpin, bucket: Arc<Mutex<Bucket>>) {
    let service = service_fn(|request| {
        let bucket = bucket.clone();
        async move { Ok::<_, Infallible>(handle(bucket, request).await) }
    });
    let http = hyper::server::conn::http1::Builder::new();
    // The other end may go whenever it likes.
    let _ = http.serve_connection(TokioIo::new(stream), service).await;
}

/// A server for `localhost`; whoever believes what it writes to `file` believes it.
fn certified(file: &Path) -> TlsAcceptor {
    let pair = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("made");
    std::fs::write(file, pair.cert.pem()).expect("written");
    let key = PrivatePkcs8KeyDer::from(pair.signing_key.serialize_der());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring knows them")
        .with_no_client_auth()
        .with_single_cert(vec![pair.cert.der().clone()], key.into())
        .expect("fits");
    TlsAcceptor::from(Arc::new(config))
}

/// Runs one of the tests below as a process with this environment and nothing else.
async fn child(test: &str, base: &Path, key: &str, endpoint: String) {
    let mut command = Command::new(std::env::current_exe().expect("known"));
    command
        .args(["--exact", test, "--nocapture"])
        .env_clear()
        .env(BASE, base)
        .env("AWS_ENDPOINT_URL", endpoint)
        .env("SSL_CERT_FILE", base.join("roots"))
        .env("AWS_REGION", "eu-north-1")
        .env("AWS_ACCESS_KEY_ID", key)
        .env("AWS_SECRET_ACCESS_KEY", "the-secret");
    let done = tokio::task::spawn_blocking(move || command.output().expect("a child runs"));
    let done = done.await.expect("it ends");
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{said}");
    assert!(!said.contains("the-secret"), "{said}");
}

/// Runs a child that does everything, and looks at what the server saw.
async fn takes_and_gives(tls: bool) {
    let dir = scratch();
    let bucket = Arc::new(Mutex::new(Bucket {
        busy: 3,
        ..Bucket::default()
    }));
    // Without any root no client is made, of plain HTTP neither.
    let acceptor = certified(&dir.path().join("roots"));
    let acceptor = tls.then_some(acceptor);
    let port = serve(bucket.clone(), acceptor).await.port();
    let endpoint = if tls {
        format!("https://localhost:{port}")
    } else {
        format!("http://127.0.0.1:{port}")
    };
    child(
        "uploads_downloads_and_removes",
        dir.path(),
        "the-key",
        endpoint,
    )
    .await;
    let bucket = bucket.lock().expect("not poisoned");
    let met = |method: &str| bucket.seen.iter().any(|line| line.starts_with(method));
    assert!(
        ["PUT", "GET", "HEAD", "POST"].into_iter().all(met),
        "{:?}",
        bucket.seen
    );
    assert_eq!(bucket.busy, 0, "it was met and waited for");
    let keys: Vec<&String> = bucket.objects.keys().collect();
    assert!(
        keys.iter().all(|key| key.starts_with("team a/pre/")),
        "{keys:?}"
    );
    let part = "team a/pre/jobs/2-12/3-step=40!20!ce!b1/part-0.json";
    assert!(bucket.objects.contains_key(part), "{keys:?}");
}

#[tokio::test]
async fn a_bucket_takes_and_gives_checkpoints() {
    takes_and_gives(false).await;
}

#[tokio::test]
async fn over_tls_as_well() {
    takes_and_gives(true).await;
}

#[tokio::test]
async fn who_may_not_is_told_at_once() {
    let dir = scratch();
    certified(&dir.path().join("roots"));
    let bucket = Arc::new(Mutex::new(Bucket::default()));
    let endpoint = format!("http://{}", serve(bucket.clone(), None).await);
    child("is_refused", dir.path(), "another-key", endpoint).await;
    assert_eq!(
        bucket.lock().expect("not poisoned").seen.len(),
        1,
        "not tried again"
    );
}

#[tokio::test]
async fn uploads_downloads_and_removes() {
    let Some(base) = std::env::var_os(BASE) else {
        return;
    };
    let base = Path::new(&base);
    let source = base.join("source");
    write_everything(&source, 1);
    let store = open(&base.join("store"));
    let id = store.seal(&source).expect("sealed").id;
    let remote = Remote::open("s3://runs/team a/pre/", at_once()).expect("opens");
    let name = "step=40 α";
    let up = remote
        .upload(&store, id, &entry(name), &unpaced())
        .await
        .expect("uploaded");
    assert!(up.sent_chunks > 4 && up.skipped_chunks == 0);
    let again = remote
        .upload(&store, id, &entry("second"), &unpaced())
        .await
        .expect("uploaded");
    assert_eq!(
        (again.sent_chunks, again.skipped_chunks),
        (0, up.sent_chunks)
    );
    let to = open(&base.join("to"));
    let down = remote.download(&to, id).await.expect("downloaded");
    assert_eq!(
        (down.chunks, down.received_bytes),
        (up.sent_chunks, up.sent_bytes)
    );
    let how = Restore {
        share: false,
        hash: true,
    };
    to.restore(&id, &base.join("dest"), how).expect("restored");
    assert_eq!(look(&base.join("dest")), look(&source));
    let parts = remote.list_parts(Some("2-12")).await.expect("listed").parts;
    assert_eq!(parts.len(), 2);
    remote
        .remove(&entry("second"), Some(id))
        .await
        .expect("removed");
    assert_eq!(
        remote.list_parts(None).await.expect("listed").parts.len(),
        1
    );
    assert_eq!(remote.collect_remote().await.expect("collected").chunks, 0);
    let nothing = BlobId::of(b"nothing");
    let error = remote
        .download(&to, nothing)
        .await
        .expect_err("never uploaded");
    assert!(matches!(error, UploadError::Missing { .. }), "{error}");
}

#[tokio::test]
async fn is_refused() {
    let Some(base) = std::env::var_os(BASE) else {
        return;
    };
    let store = open(&Path::new(&base).join("store"));
    let remote = Remote::open("s3://runs", at_once()).expect("opens");
    let error = remote
        .download(&store, BlobId::of(b"x"))
        .await
        .expect_err("refused");
    let text = error.to_string();
    assert!(
        matches!(error, UploadError::Request { doing: "read", .. }),
        "{text}"
    );
    assert!(
        text.contains("s3://runs") && !text.contains("the-secret"),
        "{text}"
    );
}
