//! Authorities trusted for an upstream, read once when its pool is built.

use std::path::Path;
use std::sync::Arc;

use pingora_core::protocols::tls::CaType;
use pingora_core::utils::tls::{WrappedX509, parse_x509};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use x509_parser::prelude::{FromDer, X509Certificate};

/// The certificates of a PEM bundle, each checked to be usable as an authority.
pub(super) fn load_authorities(path: &Path) -> Result<Arc<CaType>, String> {
    let fault = |what: &dyn std::fmt::Display| format!("ca {}: {what}", path.display());
    let mut store = RootCertStore::empty();
    let mut authorities = Vec::new();
    for der in CertificateDer::pem_file_iter(path).map_err(|error| fault(&error))? {
        let der = der.map_err(|error| fault(&error))?;
        // Pingora's parser panics on what this one refuses.
        X509Certificate::from_der(&der).map_err(|error| fault(&error))?;
        store.add(der.clone()).map_err(|error| fault(&error))?;
        authorities.push(WrappedX509::new(der.to_vec(), parse_x509));
    }
    if authorities.is_empty() {
        return Err(fault(&"no certificate in it"));
    }
    Ok(authorities.into())
}
