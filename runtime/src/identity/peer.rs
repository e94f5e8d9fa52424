//! The peer that a certificate names, and the strict reading of it.
//!
//! Does not check signatures or validity: TLS did that before anybody asks here.
use super::{IdentityError, server_name};
use mlctl_proto::ids::check_name;
use std::fmt;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;
use x509_parser::x509::X509Version;

/// A certificate longer than this is not one of ours, bytes.
const CERTIFICATE_BYTES_MAX: usize = 8 * 1024;
/// The scheme of every name a certificate carries.
const SCHEME: &str = "mlctl://";

/// What somebody is in a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// A member of the Raft group; the only one that serves.
    Coordinator,
    /// An agent on a machine.
    Node,
    /// A person or a program that submits jobs.
    User,
}

impl Role {
    const ALL: [Self; 3] = [Self::Coordinator, Self::Node, Self::User];

    /// The word for it, in certificates and messages.
    pub fn word(self) -> &'static str {
        match self {
            Self::Coordinator => "coordinator",
            Self::Node => "node",
            Self::User => "user",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// Who is at the other end, proven by a certificate of the cluster's CA.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// What they are.
    pub role: Role,
    /// What identifies them for good: a user's `u-xxxxxxxx`, else the name.
    pub id: String,
    /// What people call them.
    pub name: String,
    /// Whether a user administers the cluster; always false for daemons.
    pub admin: bool,
    /// The cluster's id.
    pub cluster: String,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.role, self.name)
    }
}

impl Peer {
    /// The URI that carries role and id.
    pub(super) fn uri(&self) -> String {
        format!("{SCHEME}{}/{}/{}", self.cluster, self.role, self.id)
    }

    /// Reads the peer out of a DER certificate. Everything that our CA never issues is refused: other names beside
    /// ours, two identities, the purposes of another role, a CA's own certificate.
    ///
    /// # Errors
    /// [`IdentityError::NotAPeer`] with what is wrong.
    pub fn from_der(der: &[u8]) -> Result<Self, IdentityError> {
        parse(der).map_err(IdentityError::NotAPeer)
    }
}

/// The URI that a cluster's admins carry beside their own.
pub(super) fn admin_uri(cluster: &str) -> String {
    format!("{SCHEME}{cluster}/role/admin")
}

fn parse(der: &[u8]) -> Result<Peer, String> {
    if der.len() > CERTIFICATE_BYTES_MAX {
        return Err(format!("{} bytes are too many", der.len()));
    }
    let (rest, certificate) =
        X509Certificate::from_der(der).map_err(|error| format!("not X.509: {error}"))?;
    if !rest.is_empty() {
        return Err("bytes follow the certificate".to_owned());
    }
    if certificate.version() != X509Version::V3 {
        return Err("not version 3".to_owned());
    }
    if certificate.is_ca() {
        return Err("it is a CA's own certificate".to_owned());
    }
    let name = common_name(&certificate)?;
    let names = Names::of(&certificate)?;
    let peer = names.peer(name)?;
    check_purposes(&certificate, peer.role)?;
    Ok(peer)
}

/// The display name: exactly one CN, legal as a name.
fn common_name(certificate: &X509Certificate<'_>) -> Result<String, String> {
    let mut all = certificate.subject().iter_common_name();
    let (Some(name), None) = (all.next(), all.next()) else {
        return Err("it needs one common name".to_owned());
    };
    let name = name.as_str().map_err(|_| "its common name is not text")?;
    check_name(name).map_err(|error| error.to_string())?;
    Ok(name.to_owned())
}

/// The alternative names of a certificate, sorted by kind.
struct Names {
    uris: Vec<String>,
    dns: Vec<String>,
}

impl Names {
    fn of(certificate: &X509Certificate<'_>) -> Result<Self, String> {
        let extension = certificate
            .subject_alternative_name()
            .map_err(|error| format!("alternative names: {error}"))?
            .ok_or("it has no alternative names")?;
        let mut names = Self {
            uris: Vec::new(),
            dns: Vec::new(),
        };
        for name in &extension.value.general_names {
            match name {
                GeneralName::URI(uri) => names.uris.push((*uri).to_owned()),
                GeneralName::DNSName(dns) => names.dns.push((*dns).to_owned()),
                _ => return Err("it has an alternative name of another kind".to_owned()),
            }
        }
        Ok(names)
    }

    /// The first URI is the identity; an admin has one more; coordinators, and they alone, have the server name.
    fn peer(self, name: String) -> Result<Peer, String> {
        let (identity, more) = self.uris.split_first().ok_or("it has no mlctl:// name")?;
        let (cluster, role, id) =
            split_identity(identity).ok_or("its mlctl:// name is malformed")?;
        let admin = match more {
            [] => false,
            [uri] if *uri == admin_uri(cluster) && role == Role::User => true,
            _ => return Err("it has more names than its role allows".to_owned()),
        };
        let served: &[String] = match role {
            Role::Coordinator => &[server_name(cluster)],
            Role::Node | Role::User => &[],
        };
        if self.dns != served {
            return Err(format!("its DNS names are not those of a {role}"));
        }
        if role != Role::User && name != id {
            return Err("its common name is not its id".to_owned());
        }
        Ok(Peer {
            role,
            id: id.to_owned(),
            name,
            admin,
            cluster: cluster.to_owned(),
        })
    }
}

/// `mlctl://CLUSTER/ROLE/ID`, every part legal.
fn split_identity(uri: &str) -> Option<(&str, Role, &str)> {
    let mut parts = uri.strip_prefix(SCHEME)?.split('/');
    let (cluster, word, id) = (parts.next()?, parts.next()?, parts.next()?);
    let role = Role::ALL.into_iter().find(|role| role.word() == word)?;
    let legal = parts.next().is_none()
        && check_name(cluster).is_ok()
        && check_name(id).is_ok()
        && (role != Role::User || is_user_id(id));
    legal.then_some((cluster, role, id))
}

/// `u-` and eight hex digits.
pub(super) fn is_user_id(id: &str) -> bool {
    id.strip_prefix("u-").is_some_and(|hex| {
        hex.len() == 8
            && hex
                .bytes()
                .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    })
}

/// Exactly the purposes of the role: clients all, servers only coordinators.
fn check_purposes(certificate: &X509Certificate<'_>, role: Role) -> Result<(), String> {
    let extension = certificate
        .extended_key_usage()
        .map_err(|error| format!("purposes: {error}"))?
        .ok_or("it does not say what it is for")?;
    let uses = extension.value;
    let foreign = uses.any
        || uses.code_signing
        || uses.email_protection
        || uses.time_stamping
        || uses.ocsp_signing
        || !uses.other.is_empty();
    if foreign || !uses.client_auth || uses.server_auth != (role == Role::Coordinator) {
        return Err(format!("its purposes are not those of a {role}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{
        BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose as Eku, IsCa, KeyPair,
        SanType,
    };

    const C: &str = "mlctl://c1/coordinator/c-a";
    const N: &str = "mlctl://c1/node/n-a";
    const U: &str = "mlctl://c1/user/u-0123abcd";
    const DNS: &str = "coordinator.c1.mlctl";

    /// A certificate with the common name, URIs, DNS names and purposes given (`s`erver, `c`lient, `a`ny).
    fn certificate(name: &str, uris: &[&str], dns: &[&str], purposes: &str) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        let uris = uris
            .iter()
            .map(|uri| SanType::URI((*uri).try_into().expect("ascii")));
        let dns = dns
            .iter()
            .map(|dns| SanType::DnsName((*dns).try_into().expect("ascii")));
        params.subject_alt_names = uris.chain(dns).collect();
        params.extended_key_usages = purposes
            .chars()
            .map(|letter| match letter {
                's' => Eku::ServerAuth,
                'c' => Eku::ClientAuth,
                _ => Eku::Any,
            })
            .collect();
        params
    }

    fn der(params: &CertificateParams) -> Vec<u8> {
        let key = KeyPair::generate().expect("key");
        params.self_signed(&key).expect("signed").der().to_vec()
    }

    #[test]
    fn legal_certificates_name_their_peer() {
        let peer = |role, id: &str, name: &str, admin| Peer {
            role,
            id: id.into(),
            name: name.into(),
            admin,
            cluster: "c1".into(),
        };
        let admin = admin_uri("c1");
        for (params, want) in [
            (
                certificate("c-a", &[C], &[DNS], "sc"),
                peer(Role::Coordinator, "c-a", "c-a", false),
            ),
            (
                certificate("n-a", &[N], &[], "c"),
                peer(Role::Node, "n-a", "n-a", false),
            ),
            (
                certificate("ada", &[U], &[], "c"),
                peer(Role::User, "u-0123abcd", "ada", false),
            ),
            (
                certificate("ada", &[U, &admin], &[], "c"),
                peer(Role::User, "u-0123abcd", "ada", true),
            ),
        ] {
            assert_eq!(Peer::from_der(&der(&params)).expect("legal"), want);
        }
    }

    fn refused(params: &CertificateParams, reason: &str) {
        let error = Peer::from_der(&der(params)).expect_err(reason).to_string();
        assert!(error.contains(reason), "wanted {reason:?}: {error}");
    }

    // Every row below differs from a legal certificate in one thing, and is refused for that.

    #[test]
    fn malformed_names_are_refused() {
        refused(&certificate("n-a", &[], &[], "c"), "no alternative names");
        refused(&certificate("n-a", &[], &[DNS], "c"), "no mlctl://");
        let long = format!("mlctl://c1/node/{}", "n".repeat(64));
        for uri in [
            "https://c1/node/n-a",
            "mlctl://c1/node",
            "mlctl://c1/node/n-a/x",
            "mlctl://c1/node/n-a/",
            "mlctl:///node/n-a",
            "mlctl://c1/node/../coordinator",
            "mlctl://c1/Node/n-a",
            "mlctl://c1/root/n-a",
            "mlctl://c1/role/admin",
            "mlctl://c1/user/n-a",
            "mlctl://c1/user/u-0123ABCD",
            &long,
        ] {
            refused(&certificate("n-a", &[uri], &[], "c"), "malformed");
        }
        for name in ["Ada\u{1b}[31m", "", "ada lovelace"] {
            refused(&certificate(name, &[U], &[], "c"), "not a valid name");
        }
        let mut params = certificate("n-a", &[N], &[], "c");
        params.distinguished_name.remove(DnType::CommonName);
        refused(&params, "one common name");
    }

    #[test]
    fn names_of_more_than_one_peer_are_refused() {
        let admin = admin_uri("c1");
        let admin = admin.as_str();
        for (params, reason) in [
            (certificate("n-a", &[N, N], &[], "c"), "more names"),
            (certificate("n-a", &[N, C], &[DNS], "sc"), "more names"),
            (certificate("n-a", &[N, admin], &[], "c"), "more names"),
            (certificate("c-a", &[C, admin], &[DNS], "sc"), "more names"),
            (
                certificate("ada", &[U, admin, admin], &[], "c"),
                "more names",
            ),
            (
                certificate("ada", &[U, "mlctl://c2/role/admin"], &[], "c"),
                "more names",
            ),
            (certificate("ada", &[admin, U], &[], "c"), "malformed"),
            (
                certificate("n-b", &[N], &[], "c"),
                "common name is not its id",
            ),
            (
                certificate("c-b", &[C], &[DNS], "sc"),
                "common name is not its id",
            ),
        ] {
            refused(&params, reason);
        }
        let mut params = certificate("n-a", &[N], &[], "c");
        let address = SanType::IpAddress([127, 0, 0, 1].into());
        params.subject_alt_names.push(address);
        refused(&params, "another kind");
    }

    #[test]
    fn rights_of_another_role_are_refused() {
        for (params, reason) in [
            (certificate("n-a", &[N], &[DNS], "c"), "DNS names"),
            (certificate("ada", &[U], &[DNS], "c"), "DNS names"),
            (certificate("c-a", &[C], &[], "sc"), "DNS names"),
            (
                certificate("c-a", &[C], &["coordinator.c2.mlctl"], "sc"),
                "DNS names",
            ),
            (
                certificate("c-a", &[C], &[DNS, "localhost"], "sc"),
                "DNS names",
            ),
            (certificate("n-a", &[N], &[], "sc"), "purposes"),
            (certificate("n-a", &[N], &[], "ca"), "purposes"),
            (certificate("n-a", &[N], &[], ""), "what it is for"),
            (certificate("c-a", &[C], &[DNS], "c"), "purposes"),
            (certificate("c-a", &[C], &[DNS], "s"), "purposes"),
        ] {
            refused(&params, reason);
        }
        let mut params = certificate("c-a", &[C], &[DNS], "sc");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        refused(&params, "CA's own");
    }

    #[test]
    fn damaged_bytes_never_panic_and_never_widen_rights() {
        let good = der(&certificate("n-a", &[N], &[], "c"));
        for length in 0..good.len() {
            assert!(Peer::from_der(&good[..length]).is_err(), "cut at {length}");
        }
        let mut longer = good.clone();
        longer.push(0);
        assert!(Peer::from_der(&longer).is_err());
        assert!(Peer::from_der(&vec![0x30; 100_000]).is_err());
        for at in 0..good.len() {
            for bit in 0..8 {
                let mut flipped = good.clone();
                flipped[at] ^= 1 << bit;
                if let Ok(peer) = Peer::from_der(&flipped) {
                    assert!(
                        peer.role == Role::Node && !peer.admin,
                        "byte {at} bit {bit}: {peer:?}"
                    );
                }
            }
        }
    }
}
