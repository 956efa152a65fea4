//! What an upstream trusts and what it shows, read once when its pool is built.

use std::path::Path;
use std::sync::Arc;

use pingora_core::protocols::tls::{CaType, SslDigest};
use pingora_core::utils::tls::{CertKey, WrappedX509, parse_x509};
use rustls::RootCertStore;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::config::listeners::{Certificate, TlsVersion};
use crate::config::upstreams::UpstreamTls;

/// Whether the handshake with an origin came to what the configuration wants beyond what rustls
/// checks already. Nothing was sent yet.
pub(super) fn judge(config: &UpstreamTls, made: Option<&SslDigest>) -> Result<(), String> {
    let made = made.ok_or("nothing is known of the handshake")?;
    if config.min_version == TlsVersion::V13 && made.version != "TLSv1_3" {
        return Err(format!("the origin chose {}, which is too old", made.version));
    }
    let wanted = &config.fingerprints;
    if !wanted.is_empty() && !wanted.iter().any(|known| known.0[..] == made.cert_digest[..]) {
        let hex = data_encoding::HEXUPPER.encode(&made.cert_digest);
        return Err(format!("none of the fingerprints is the certificate's, {hex}"));
    }
    Ok(())
}

/// The certificates of a PEM bundle, each checked to be usable as an authority.
pub(super) fn load_authorities(path: &Path) -> Result<Arc<CaType>, String> {
    let mut store = RootCertStore::empty();
    let mut authorities = Vec::new();
    for der in certificates("ca", path)? {
        store.add(der.clone()).map_err(|error| fault("ca", path, &error))?;
        authorities.push(WrappedX509::new(der.to_vec(), parse_x509));
    }
    Ok(authorities.into())
}

/// A chain and its key, checked to belong together.
pub(super) fn load_certificate(files: &Certificate) -> Result<Arc<CertKey>, String> {
    let chain = certificates("cert", &files.cert)?;
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|e| fault("key", &files.key, &e))?;
    CertifiedKey::from_der(chain.clone(), key.clone_key(), &ring::default_provider())
        .map_err(|error| fault("key", &files.key, &error))?;
    let chain = chain.iter().map(|der| der.to_vec()).collect();
    Ok(Arc::new(CertKey::new(chain, key.secret_der().to_vec())))
}

/// At least one certificate, each of which Pingora's parser, which panics otherwise, can read.
fn certificates(what: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let found = CertificateDer::pem_file_iter(path).and_then(|found| found.collect());
    let found: Vec<CertificateDer<'_>> = found.map_err(|error| fault(what, path, &error))?;
    for der in &found {
        X509Certificate::from_der(der).map_err(|error| fault(what, path, &error))?;
    }
    if found.is_empty() {
        return Err(fault(what, path, &"no certificate in it"));
    }
    Ok(found)
}

fn fault(what: &str, path: &Path, why: &dyn std::fmt::Display) -> String {
    format!("{what} {}: {why}", path.display())
}
