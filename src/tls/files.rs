//! PEM files: certificate chains and private keys.

use std::path::Path;

use rustls::pki_types::pem::{Error, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::TlsError;

/// Every certificate of a PEM file, in its order; at least one.
pub(super) fn chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let certificates = CertificateDer::pem_file_iter(path).and_then(|found| found.collect());
    let certificates: Vec<_> = certificates.map_err(|e| TlsError::new(path, reason(e)))?;
    if certificates.is_empty() {
        return Err(TlsError::new(path, "no certificate in the file"));
    }
    Ok(certificates)
}

/// The first private key of a PEM file.
pub(super) fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_file(path).map_err(|e| match e {
        Error::NoItemsFound => TlsError::new(path, "no private key in the file"),
        other => TlsError::new(path, reason(other)),
    })
}

fn reason(error: Error) -> String {
    match error {
        Error::Io(e) => e.to_string(),
        other => other.to_string(),
    }
}
