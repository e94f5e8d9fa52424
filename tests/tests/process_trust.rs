//! Who may do what, on real processes: the certificate decides, whatever a client says of itself.
//! Does NOT repeat the authorisation table of the coordinator's own tests.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use mlctl_proto::api::SubmitRequest;
use mlctl_proto::spec::JobSpec;
use mlctl_tests::process::raw::Raw;
use mlctl_tests::process::workload::nap;
use mlctl_tests::process::{Cluster, machine};

const SOON: Duration = Duration::from_secs(20);

fn spec(words: &[&str]) -> JobSpec {
    JobSpec::new(words.iter().map(|&word| word.to_owned()).collect())
}

#[test]
fn only_its_owner_and_admins_touch_a_job() {
    let cluster = Cluster::start(1, 0);
    let (alice, bob) = (cluster.user("alice", false), cluster.user("bob", false));
    for file in [&alice, &bob, &cluster.context()] {
        let mode = std::fs::metadata(file)
            .expect("written")
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600, "{}", file.display());
    }
    let submit = |user: &Path| {
        let output = cluster
            .mlctl_as(user, &["submit", "-q", "--no-code", "--", "sleep", &nap()])
            .expect(0);
        output.stdout.trim().to_owned()
    };
    let (hers, his) = (submit(&alice), submit(&bob));
    assert_eq!(cluster.job(&hers).0["owner"], "alice");
    cluster.wait_state(&hers, "Running", SOON);
    cluster
        .mlctl_as(&bob, &["cancel", &hers])
        .refused(77, &["alice"]);
    // Several at once: none is cancelled if one may not be.
    cluster
        .mlctl_as(&bob, &["cancel", &his, &hers])
        .refused(77, &["alice"]);
    assert!(!cluster.job(&hers).ended() && !cluster.job(&his).ended());
    cluster
        .mlctl_as(&bob, &["admin", "allow-root", "false"])
        .refused(77, &["admin"]);
    let shown = cluster.mlctl_as(&bob, &["show", &hers]).expect(0);
    assert!(
        shown.stdout.contains("alice"),
        "jobs are no secret: {}",
        shown.text()
    );
    let listed = cluster
        .mlctl_as(&bob, &["-o", "json", "jobs", "-u", "me"])
        .json();
    let ids: Vec<&str> = listed["jobs"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|job| job["id"].as_str())
        .collect();
    assert_eq!(ids, [his.as_str()]);
    cluster.mlctl_as(&bob, &["cancel", &his]).expect(0);
    cluster.mlctl(&["cancel", &hers]).expect(0);
    assert_eq!(
        (cluster.wait(&hers, SOON), cluster.wait(&his, SOON)),
        (130, 130),
        "an admin may"
    );
}

#[test]
fn nobody_becomes_another_by_saying_so() {
    let cluster = Cluster::start(1, 0);
    let (alice, bob) = (cluster.user("alice", false), cluster.user("bob", false));
    let hers = Raw::connect(&alice, 0)
        .expect("connected")
        .hello()
        .expect("answered");
    for number in 0..3 {
        let forged = Raw::connect(&bob, number).expect("connected");
        let forged = [
            ("mlctl-actor-id", hers.user_id.as_str()),
            ("mlctl-actor-name", "alice"),
            ("mlctl-actor-admin", "true"),
            ("mlctl-actor", "alice"),
            ("user", "alice"),
        ]
        .into_iter()
        .fold(forged, |raw, (key, value)| raw.saying(key, value));
        // Either answer is right as long as nobody believes it: a refusal, or an answer to bob.
        match forged.hello() {
            Ok(reply) => assert_eq!(
                (reply.user_name.as_str(), reply.admin),
                ("bob", false),
                "coordinator {number}"
            ),
            Err(status) => assert_eq!(
                status.code(),
                tonic::Code::PermissionDenied,
                "coordinator {number}: {status}"
            ),
        }
        let key = [number as u8 + 1; 16];
        match forged.submit(&key, &spec(&["true"])) {
            Ok(reply) => assert_eq!(
                cluster.job(&reply.job).0["owner"],
                "bob",
                "coordinator {number}"
            ),
            Err(status) => assert_eq!(
                status.code(),
                tonic::Code::PermissionDenied,
                "coordinator {number}: {status}"
            ),
        }
        let refused = forged.allow_root(&key, false).expect_err("not an admin");
        assert_eq!(
            refused.code(),
            tonic::Code::PermissionDenied,
            "coordinator {number}: {refused}"
        );
    }
    let owned = cluster.json(&["jobs", "-a", "-u", "alice"]);
    assert_eq!(owned["jobs"], serde_json::json!([]), "nothing is alice's");
}

#[test]
fn the_same_key_is_the_same_job() {
    let cluster = Cluster::start(1, 0);
    let user = cluster.user("alice", false);
    let other = cluster.user("bob", false);
    let key = *b"0123456789abcdef";
    let first = Raw::connect(&user, 0)
        .expect("connected")
        .submit(&key, &spec(&["true"]))
        .expect("queued");
    for number in [0, 1, 2, 0] {
        let again = Raw::connect(&user, number)
            .expect("connected")
            .submit(&key, &spec(&["true"]))
            .expect("answered");
        assert_eq!(again.job, first.job, "by coordinator {number}");
    }
    let raw = Raw::connect(&user, 1).expect("connected");
    let clash = raw
        .submit(&key, &spec(&["false"]))
        .expect_err("another body under the same key");
    assert_eq!(clash.code(), tonic::Code::AlreadyExists, "{clash}");
    let theirs = Raw::connect(&other, 2)
        .expect("connected")
        .submit(&key, &spec(&["true"]))
        .expect("a key is a user's own");
    assert_ne!(theirs.job, first.job);
    let short = raw
        .submit(b"short", &spec(&["true"]))
        .expect_err("a key has 16 bytes");
    assert_eq!(short.code(), tonic::Code::InvalidArgument, "{short}");
    // What no command line would send.
    for (bytes, why) in [
        (&b"\xff\xfe"[..], "no UTF-8"),
        (b"", "nothing"),
        (
            b"{\"command\":[\"true\"],\"nodes\":0}",
            "an impossible count",
        ),
        (
            b"{\"command\":[\"true\"],\"owner\":\"alice\"}",
            "an unknown key",
        ),
    ] {
        let refused = raw.submit_bytes(&[9; 16], bytes.to_vec()).expect_err(why);
        assert_eq!(
            refused.code(),
            tonic::Code::InvalidArgument,
            "{why}: {refused}"
        );
    }
    for manifest in ["../../etc/passwd", "00", &"0".repeat(64)] {
        let request = SubmitRequest {
            key: vec![7; 16],
            spec: spec(&["true"]).canonical_json(),
            code_manifest: manifest.to_owned(),
            ..SubmitRequest::default()
        };
        let refused = raw
            .submit_request(request)
            .expect_err("nobody has such code");
        let known = [tonic::Code::InvalidArgument, tonic::Code::NotFound];
        assert!(known.contains(&refused.code()), "{manifest}: {refused}");
    }
    let all = cluster.json(&["jobs", "-a"]);
    assert_eq!(all["jobs"].as_array().map(Vec::len), Some(2), "{all}");
}

/// The TCP ports that the processes of `pids` listen on, from the kernel's tables.
fn listening(pids: &[i32]) -> Vec<String> {
    let mut sockets = Vec::new();
    for pid in pids {
        let links = std::fs::read_dir(format!("/proc/{pid}/fd"))
            .into_iter()
            .flatten()
            .flatten();
        let targets = links.filter_map(|link| std::fs::read_link(link.path()).ok());
        let inode = |target: std::path::PathBuf| {
            Some(
                target
                    .to_str()?
                    .strip_prefix("socket:[")?
                    .strip_suffix(']')?
                    .to_owned(),
            )
        };
        sockets.extend(targets.filter_map(inode));
    }
    let table = std::fs::read_to_string("/proc/net/tcp").expect("a table of sockets");
    let rows = table
        .lines()
        .skip(1)
        .map(|row| row.split_whitespace().collect::<Vec<_>>());
    let ours = rows.filter(|row| {
        row.get(3) == Some(&"0A")
            && row
                .get(9)
                .is_some_and(|inode| sockets.iter().any(|own| own == inode))
    });
    ours.filter_map(|row| address(row.get(1)?)).collect()
}

/// `0100007F:1F90` is 127.0.0.1:8080.
fn address(text: &str) -> Option<String> {
    let (host, port) = text.split_once(':')?;
    let host = std::net::Ipv4Addr::from(u32::from_str_radix(host, 16).ok()?.swap_bytes());
    Some(format!("{host}:{}", u16::from_str_radix(port, 16).ok()?))
}

#[test]
fn there_is_no_plaintext_port() {
    let cluster = Cluster::start(2, 0);
    // A job with ranks on both nodes, so that every port that a gang needs is open too.
    let id = cluster.submit_shell(2, &format!("echo up; sleep {}", nap()));
    cluster.wait_line(&id, "[1] up", SOON);
    let daemons = cluster.daemons();
    let mlctl: Vec<i32> = daemons
        .iter()
        .filter(|one| one.pid > 1)
        .map(|one| one.pid)
        .collect();
    let supervisor = machine::around(&cluster.dir())
        .into_iter()
        .find(|one| one.words.contains("dev-supervisor"))
        .expect("a supervisor")
        .pid;
    let ports = listening(&[&mlctl[..], &[supervisor]].concat());
    let coordinators: Vec<&str> = daemons
        .iter()
        .filter(|one| one.role == "coordinator")
        .map(|one| one.address.as_str())
        .collect();
    assert!(
        coordinators
            .iter()
            .all(|address| ports.iter().any(|port| port == address)),
        "{coordinators:?} {ports:?}"
    );
    for port in &ports {
        for greeting in [
            &b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"[..],
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
            b"\0\0\0\0\0\0\0\0",
        ] {
            let mut stream =
                TcpStream::connect(port).unwrap_or_else(|error| panic!("{port}: {error}"));
            stream
                .set_read_timeout(Some(Duration::from_secs(15)))
                .expect("a timeout");
            stream.write_all(greeting).expect("sent");
            let mut answer = Vec::new();
            // A reset is an end too; nothing but a TLS alert (type 21) may come before it.
            let ended = stream
                .read_to_end(&mut answer)
                .err()
                .is_none_or(|error| error.kind() == std::io::ErrorKind::ConnectionReset);
            assert!(ended, "{port} keeps a plaintext connection open");
            assert!(
                answer.is_empty() || answer[0] == 21,
                "{port} answered {answer:?}"
            );
        }
    }
    cluster.mlctl(&["cancel", &id]).expect(0);
    assert_eq!(cluster.wait(&id, SOON), 130);
}
