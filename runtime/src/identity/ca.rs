//! The cluster's own certificate authority, kept as a folder of files.
//!
//! It signs what an admin on this machine asks for. It talks to nobody, renews nothing and revokes nothing.
use super::peer::{admin_uri, is_user_id};
use super::{Bundle, IdentityError, Peer, Role, server_name};
use crate::files::{self, FileError};
use mlctl_proto::ids::check_name;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PublicKeyData, SanType,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};
use x509_parser::prelude::{FromDer, X509Certificate};

const CERT: &str = "ca.pem";
const KEY: &str = "ca-key.pem";
const CLUSTER: &str = "cluster.json";
const USERS: &str = "users.json";
const LOCK: &str = "lock";

/// Version of the JSON files.
const FORMAT: u32 = 1;
const DAY: Duration = Duration::from_secs(24 * 3600);
const CA_VALIDITY: Duration = DAY.saturating_mul(3652);
const PEER_VALIDITY: Duration = DAY.saturating_mul(365);
/// Certificates are valid from this long ago: clocks of a cluster's machines differ.
const BACKDATED: Duration = Duration::from_secs(3600);
/// How long one command waits for another that changes the same CA.
const LOCK_WAIT: Duration = Duration::from_secs(5);

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ClusterFile {
    v: u32,
    id: String,
    name: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct UsersFile {
    v: u32,
    users: BTreeMap<String, String>,
}

/// A cluster's CA: `ca.pem`, `ca-key.pem` (0600), `cluster.json` and `users.json` in one folder (0700).
pub struct Ca {
    dir: PathBuf,
    cluster: ClusterFile,
    ca_pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl fmt::Debug for Ca {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ca")
            .field("dir", &self.dir)
            .field("cluster", &self.cluster.id)
            .finish_non_exhaustive()
    }
}

impl Ca {
    /// Makes a new CA in `dir`, a folder of its own that is missing or empty. It appears whole or not at all.
    ///
    /// # Errors
    /// [`IdentityError::Occupied`] when anything is in the folder; a name that is not legal; what the system refuses.
    pub fn create(dir: &Path, cluster_name: &str) -> Result<Self, IdentityError> {
        legal("cluster", cluster_name)?;
        let cluster = ClusterFile {
            v: FORMAT,
            id: format!("{:016x}", rand::random::<u64>()),
            name: cluster_name.to_owned(),
        };
        let key = KeyPair::generate().map_err(IdentityError::crypto)?;
        let certificate = ca_params(&cluster)
            .self_signed(&key)
            .map_err(IdentityError::crypto)?;
        let parent = files::folder_of(dir);
        files::make_folder(parent)?;
        // Made beside the folder and moved into place: a rename onto a folder succeeds only when it is empty, so
        // neither a crash half-way nor two commands at once leave a mixture or destroy a CA.
        let staging = tempfile_in(parent)?;
        let made = (|| {
            files::write_public(&staging.join(CERT), certificate.pem().as_bytes())?;
            files::write_private(&staging.join(KEY), key.serialize_pem().as_bytes())?;
            write_json(&staging.join(CLUSTER), &cluster)?;
            let users = BTreeMap::new();
            write_json(&staging.join(USERS), &UsersFile { v: FORMAT, users })?;
            fs::rename(&staging, dir).map_err(|source| match source.kind() {
                std::io::ErrorKind::DirectoryNotEmpty
                | std::io::ErrorKind::AlreadyExists
                | std::io::ErrorKind::NotADirectory => IdentityError::Occupied {
                    dir: dir.to_owned(),
                },
                _ => FileError::io("make the folder", dir, source).into(),
            })?;
            files::sync_folder(parent)
                .map_err(|source| IdentityError::from(FileError::io("write", dir, source)))
        })();
        if let Err(error) = made {
            // Best effort: what stays behind is a key that signs for no cluster.
            let _ = fs::remove_dir_all(&staging);
            return Err(error);
        }
        Self::open(dir)
    }

    /// Opens the CA in `dir`.
    ///
    /// # Errors
    /// [`IdentityError::NoCa`] when there is none; a key that others can read; damaged files.
    pub fn open(dir: &Path) -> Result<Self, IdentityError> {
        let key_path = dir.join(KEY);
        let key_pem = files::read_private(&key_path).map_err(|error| match error {
            FileError::Missing { .. } => IdentityError::NoCa {
                dir: dir.to_owned(),
            },
            other => other.into(),
        })?;
        let key = KeyPair::from_pem(&key_pem).map_err(|error| damaged(&key_path, error))?;
        let cert_path = dir.join(CERT);
        let ca_pem = files::read_text(&cert_path)?;
        let der = CertificateDer::from_pem_slice(ca_pem.as_bytes())
            .map_err(|error| damaged(&cert_path, error))?;
        let (_, certificate) =
            X509Certificate::from_der(&der).map_err(|error| damaged(&cert_path, error))?;
        if certificate.public_key().raw != key.subject_public_key_info() {
            return Err(damaged(&key_path, "it is not the key of ca.pem"));
        }
        let issuer =
            Issuer::from_ca_cert_der(&der, key).map_err(|error| damaged(&cert_path, error))?;
        let cluster: ClusterFile = read_json(&dir.join(CLUSTER))?;
        if cluster.v != FORMAT || check_name(&cluster.id).is_err() {
            return Err(damaged(
                &dir.join(CLUSTER),
                "no version 1 with a cluster id",
            ));
        }
        Ok(Self {
            dir: dir.to_owned(),
            cluster,
            ca_pem,
            issuer,
        })
    }

    /// The cluster's id: random, for good.
    pub fn cluster(&self) -> &str {
        &self.cluster.id
    }

    /// The cluster's name, for people.
    pub fn cluster_name(&self) -> &str {
        &self.cluster.name
    }

    /// An identity for a coordinator, valid for a year.
    ///
    /// # Errors
    /// A name that is not legal; what the cryptography library refuses.
    pub fn issue_coordinator(&self, name: &str) -> Result<Bundle, IdentityError> {
        legal("coordinator", name)?;
        self.issue(&self.peer(Role::Coordinator, name, name, false))
    }

    /// An identity for a node's agent, valid for a year.
    ///
    /// # Errors
    /// As [`issue_coordinator`](Self::issue_coordinator).
    pub fn issue_node(&self, name: &str) -> Result<Bundle, IdentityError> {
        legal("node", name)?;
        self.issue(&self.peer(Role::Node, name, name, false))
    }

    /// An identity for a user, valid for a year. The user's id is made here when the name is new and stays the same
    /// when the name is added again, with or without admin rights.
    ///
    /// # Errors
    /// As [`issue_coordinator`](Self::issue_coordinator); also when `users.json` cannot be changed.
    pub fn issue_user(&self, name: &str, admin: bool) -> Result<Bundle, IdentityError> {
        legal("user", name)?;
        let id = self.user_id(name)?;
        self.issue(&self.peer(Role::User, &id, name, admin))
    }

    fn peer(&self, role: Role, id: &str, name: &str, admin: bool) -> Peer {
        Peer {
            role,
            id: id.to_owned(),
            name: name.to_owned(),
            admin,
            cluster: self.cluster.id.clone(),
        }
    }

    fn issue(&self, peer: &Peer) -> Result<Bundle, IdentityError> {
        let key = KeyPair::generate().map_err(IdentityError::crypto)?;
        let certificate = peer_params(peer)?
            .signed_by(&key, &self.issuer)
            .map_err(IdentityError::crypto)?;
        Ok(Bundle {
            ca_pem: self.ca_pem.clone(),
            cert_pem: certificate.pem(),
            key_pem: key.serialize_pem(),
            cluster: self.cluster.id.clone(),
        })
    }

    /// The id of a user, made and written down when the name is new.
    fn user_id(&self, name: &str) -> Result<String, IdentityError> {
        let _lock = self.lock()?;
        let path = self.dir.join(USERS);
        let mut file: UsersFile = read_json(&path)?;
        if file.v != FORMAT || !file.users.values().all(|id| is_user_id(id)) {
            return Err(damaged(&path, "no version 1 with user ids"));
        }
        if let Some(id) = file.users.get(name) {
            return Ok(id.clone());
        }
        let id = loop {
            let id = format!("u-{:08x}", rand::random::<u32>());
            if !file.users.values().any(|taken| *taken == id) {
                break id;
            }
        };
        file.users.insert(name.to_owned(), id.clone());
        write_json(&path, &file)?;
        Ok(id)
    }

    /// Holds the CA against other commands until the file is dropped.
    fn lock(&self) -> Result<File, IdentityError> {
        let path = self.dir.join(LOCK);
        let failed = |source| IdentityError::from(FileError::io("lock", &path, source));
        let file = OpenOptions::new()
            .create(true)
            .write(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(failed)?;
        let start = Instant::now();
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(TryLockError::Error(source)) => return Err(failed(source)),
                Err(TryLockError::WouldBlock) if start.elapsed() < LOCK_WAIT => {
                    // Held for the time of one small write; there is no lock with a deadline to wait on.
                    std::thread::sleep(Duration::from_millis(5));
                }
                Err(TryLockError::WouldBlock) => {
                    return Err(IdentityError::Busy {
                        dir: self.dir.clone(),
                        waited_s: LOCK_WAIT.as_secs(),
                    });
                }
            }
        }
    }
}

fn legal(what: &'static str, name: &str) -> Result<(), IdentityError> {
    check_name(name).map_err(|error| IdentityError::BadName {
        what,
        why: error.to_string(),
    })
}

fn damaged(path: &Path, why: impl fmt::Display) -> IdentityError {
    IdentityError::Damaged {
        path: path.to_owned(),
        why: why.to_string(),
    }
}

/// A fresh private folder inside `parent`.
fn tempfile_in(parent: &Path) -> Result<PathBuf, IdentityError> {
    let path = parent.join(format!(".ca-{:016x}.tmp", rand::random::<u64>()));
    files::make_folder(&path)?;
    Ok(path)
}

fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, IdentityError> {
    serde_json::from_str(&files::read_text(path)?).map_err(|error| damaged(path, error))
}

fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<(), IdentityError> {
    let mut text = serde_json::to_string_pretty(value).map_err(|error| damaged(path, error))?;
    text.push('\n');
    Ok(files::write_private(path, text.as_bytes())?)
}

/// Parameters that everything we sign has in common.
fn params(common_name: &str, validity: Duration) -> CertificateParams {
    let now = SystemTime::now();
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::CommonName, common_name);
    params.not_before = (now - BACKDATED).into();
    params.not_after = (now + validity).into();
    params
}

fn ca_params(cluster: &ClusterFile) -> CertificateParams {
    // The id in the name keeps the CAs of two clusters apart in error messages and in chain building.
    let mut params = params(
        &format!("mlctl CA {} {}", cluster.name, cluster.id),
        CA_VALIDITY,
    );
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn peer_params(peer: &Peer) -> Result<CertificateParams, IdentityError> {
    let text = |text: String| text.try_into().map_err(IdentityError::crypto);
    let mut params = params(&peer.name, PEER_VALIDITY);
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params.subject_alt_names = vec![SanType::URI(text(peer.uri())?)];
    if peer.admin {
        params
            .subject_alt_names
            .push(SanType::URI(text(admin_uri(&peer.cluster))?));
    }
    if peer.role == Role::Coordinator {
        params
            .extended_key_usages
            .push(ExtendedKeyUsagePurpose::ServerAuth);
        params
            .subject_alt_names
            .push(SanType::DnsName(text(server_name(&peer.cluster))?));
    }
    Ok(params)
}
