//! Identities for the ends of a copy: a CA of the run's own, and a certificate for each host, in the run's own directory.
//! Does NOT touch any other identity, and makes none that anybody else would believe.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use mlctl_blobs::transfer::Tls;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

/// What every host is asked for as a TLS server.
const SERVER_NAME: &str = "node.bench";

/// Makes a CA and a certificate for each name in `dir`.
///
/// # Errors
/// When a file cannot be written.
pub fn make(dir: &Path, names: &[&str]) -> Result<()> {
    fs::create_dir_all(dir)?;
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(vec![])?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = params.self_signed(&key)?;
    fs::write(dir.join("ca"), ca.der())?;
    let issuer = Issuer::new(params, key);
    for name in names {
        let key = KeyPair::generate()?;
        let params = CertificateParams::new(vec![SERVER_NAME.to_owned()])?;
        let certificate = params.signed_by(&key, &issuer)?;
        fs::write(dir.join(format!("{name}.cert")), certificate.der())?;
        fs::write(dir.join(format!("{name}.key")), key.serialize_der())?;
    }
    Ok(())
}

fn configs(dir: &Path, name: &str) -> Result<(ClientConfig, ServerConfig)> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let read = |file: String| fs::read(dir.join(&file)).with_context(|| file);
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from(read("ca".to_owned())?))?;
    let roots = Arc::new(roots);
    let chain = vec![CertificateDer::from(read(format!("{name}.cert"))?)];
    let key = PrivatePkcs8KeyDer::from(read(format!("{name}.key"))?);
    let client = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots.clone())
        .with_client_auth_cert(chain.clone(), PrivateKeyDer::from(key.clone_key()))?;
    let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider.clone()).build()?;
    let server = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, PrivateKeyDer::from(key))?;
    Ok((client, server))
}

/// The identity of host `name`. Others are known by their certificates in `dir`.
///
/// # Errors
/// When a file is not there or is none of [`make`]'s.
pub fn identity(dir: &Path, name: &str) -> Result<Tls> {
    let mut known = BTreeMap::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let stem = path.file_stem().and_then(|stem| stem.to_str());
        if let Some(stem) = stem.filter(|_| path.extension().is_some_and(|end| end == "cert")) {
            known.insert(fs::read(&path)?, stem.to_owned());
        }
    }
    let identify = move |der: &[u8]| known.get(der).cloned().ok_or("not a host".to_owned());
    let (client, server) = configs(dir, name)?;
    let identity = Tls::new(&client, &server, SERVER_NAME, Arc::new(identify))?;
    Ok(identity)
}
