//! The CA and the identities it issues, through files as commands use them.
//! Whether TLS believes them is tested in `tls.rs`.
use mlctl_runtime::identity::{Bundle, Ca, IdentityError, Role};
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("there").permissions().mode() & 0o777
}

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("chmod");
}

#[test]
fn issues_what_was_asked_for() {
    let dir = tempfile::tempdir().expect("dir");
    let ca = Ca::create(&dir.path().join("ca"), "lab").expect("made");
    assert_eq!(ca.cluster_name(), "lab");
    for (bundle, role, name, admin) in [
        (ca.issue_coordinator("c1"), Role::Coordinator, "c1", false),
        (ca.issue_node("gpu-7"), Role::Node, "gpu-7", false),
        (ca.issue_user("ada", false), Role::User, "ada", false),
        (
            ca.issue_user("root-ada", true),
            Role::User,
            "root-ada",
            true,
        ),
    ] {
        let bundle = bundle.expect(name);
        let peer = bundle.peer().expect(name);
        assert_eq!(
            (peer.role, peer.name.as_str(), peer.admin),
            (role, name, admin)
        );
        assert_eq!(peer.id == name, role != Role::User, "{}", peer.id);
        assert_eq!(
            (peer.cluster.as_str(), bundle.cluster.as_str()),
            (ca.cluster(), ca.cluster())
        );
        let at = dir.path().join(name);
        bundle.write(&at).expect("written");
        assert_eq!(Bundle::read(&at).expect("read"), bundle);
        assert_eq!(mode(&at.join("key.pem")), 0o600);
        chmod(&at.join("key.pem"), 0o644);
        let refused = Bundle::read(&at).expect_err("exposed").to_string();
        assert!(refused.contains("chmod 600"), "{refused}");
    }
}

#[test]
fn a_user_keeps_the_id() {
    let dir = tempfile::tempdir().expect("dir");
    let at = dir.path().join("ca");
    let id = |ca: &Ca, name: &str, admin| {
        ca.issue_user(name, admin)
            .and_then(|b| b.peer())
            .expect(name)
            .id
    };
    let ca = Ca::create(&at, "lab").expect("made");
    let ada = id(&ca, "ada", false);
    assert_ne!(ada, id(&ca, "bob", false));
    let again = Ca::open(&at).expect("opened");
    assert_eq!(again.cluster(), ca.cluster());
    assert_eq!(id(&again, "ada", true), ada);
    // Several commands at once: nobody's id is lost, nobody shares one.
    let ids: BTreeSet<String> = std::thread::scope(|scope| {
        let issue = |n| id(&Ca::open(&at).expect("opened"), &format!("user-{n}"), false);
        let made: Vec<_> = (0..8).map(|n| scope.spawn(move || issue(n))).collect();
        made.into_iter()
            .map(|thread| thread.join().expect("joined"))
            .collect()
    });
    assert_eq!(ids.len(), 8);
    let users = fs::read_to_string(at.join("users.json")).expect("users");
    assert!(
        ids.iter()
            .chain([&ada])
            .all(|id| users.contains(id.as_str())),
        "{users}"
    );
}

#[test]
fn a_ca_is_never_overwritten() {
    let dir = tempfile::tempdir().expect("dir");
    let at = dir.path().join("deep/ca");
    let first = Ca::create(&at, "lab").expect("made");
    assert_eq!((mode(&at), mode(&at.join("ca-key.pem"))), (0o700, 0o600));
    let key = fs::read(at.join("ca-key.pem")).expect("key");
    assert!(matches!(
        Ca::create(&at, "lab"),
        Err(IdentityError::Occupied { .. })
    ));
    assert_eq!(fs::read(at.join("ca-key.pem")).expect("key"), key);
    assert_eq!(
        fs::read_dir(dir.path().join("deep")).expect("list").count(),
        1,
        "nothing left behind"
    );
    // A file of somebody else, and a file where the folder should be, are in the way just as well.
    let other = dir.path().join("other");
    fs::create_dir(&other).expect("folder");
    fs::write(other.join("notes"), "mine").expect("file");
    assert!(matches!(
        Ca::create(&other, "lab"),
        Err(IdentityError::Occupied { .. })
    ));
    assert!(matches!(
        Ca::create(&other.join("notes"), "lab"),
        Err(IdentityError::Occupied { .. })
    ));
    // An empty folder is fine, and two clusters of one name are two clusters.
    let empty = dir.path().join("empty");
    fs::create_dir(&empty).expect("folder");
    assert_ne!(
        Ca::create(&empty, "lab").expect("made").cluster(),
        first.cluster()
    );
}

#[test]
fn bad_names_change_nothing() {
    let dir = tempfile::tempdir().expect("dir");
    let at = dir.path().join("ca");
    let long = "n".repeat(64);
    let bad = [
        "", "Ada", "a b", "../x", "a/b", "-a", "a-", "ä", "a\n", "a.b", &long,
    ];
    for name in bad {
        assert!(
            matches!(Ca::create(&at, name), Err(IdentityError::BadName { .. })),
            "{name:?}"
        );
    }
    assert!(!at.exists());
    let ca = Ca::create(&at, &"n".repeat(63)).expect("63 are legal");
    let users = fs::read(at.join("users.json")).expect("users");
    for name in bad {
        let refused = [
            ca.issue_coordinator(name),
            ca.issue_node(name),
            ca.issue_user(name, false),
        ];
        assert!(
            refused
                .iter()
                .all(|r| matches!(r, Err(IdentityError::BadName { .. }))),
            "{name:?}"
        );
    }
    assert_eq!(fs::read(at.join("users.json")).expect("users"), users);
}

#[test]
fn a_damaged_ca_is_refused() {
    let dir = tempfile::tempdir().expect("dir");
    let at = dir.path().join("ca");
    assert!(matches!(Ca::open(&at), Err(IdentityError::NoCa { .. })));
    Ca::create(&at, "lab").expect("made");
    Ca::create(&dir.path().join("b"), "lab").expect("made");
    let foreign = fs::read(dir.path().join("b/ca-key.pem")).expect("key");
    let check = |file: &str, content: &[u8], want: &str| {
        let path = at.join(file);
        let old = fs::read(&path).expect("there");
        fs::write(&path, content).expect("damaged");
        let error = Ca::open(&at)
            .and_then(|ca| ca.issue_user("ada", false))
            .expect_err(file);
        assert!(error.to_string().contains(want), "{file}: {error}");
        fs::write(&path, old).expect("restored");
    };
    check(
        "ca-key.pem",
        b"-----BEGIN NONSENSE-----",
        "ca-key.pem is damaged",
    );
    check("ca-key.pem", &foreign, "not the key of ca.pem");
    check("ca.pem", b"", "ca.pem is damaged");
    check(
        "cluster.json",
        b"{\"v\":2,\"id\":\"x\",\"name\":\"y\"}",
        "cluster.json is damaged",
    );
    check("cluster.json", b"{", "cluster.json is damaged");
    check(
        "users.json",
        b"{\"v\":1,\"users\":{\"ada\":\"root\"}}",
        "users.json is damaged",
    );
    chmod(&at.join("ca-key.pem"), 0o640);
    assert!(
        Ca::open(&at)
            .expect_err("exposed")
            .to_string()
            .contains("chmod 600")
    );
    chmod(&at.join("ca-key.pem"), 0o600);
    Ca::open(&at)
        .and_then(|ca| ca.issue_user("ada", false))
        .expect("whole again");
}
