//! TLS for clients: which certificate, protocol versions and client authority a connection gets.
//! Sockets and time limits are the business of `listen`.

mod files;
mod info;
mod names;
#[cfg(test)]
pub(crate) mod tests;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::{RootCertStore, ServerConfig, SupportedProtocolVersion, version};

use crate::config::listeners::{Certificate, ClientAuth, Tls, TlsVersion};

pub use info::{ClientCert, TlsInfo};

/// What kept a listener's TLS from being set up.
#[derive(Debug, thiserror::Error)]
#[error("{}: {reason}", path.display())]
pub struct TlsError {
    pub path: PathBuf,
    pub reason: String,
}

impl TlsError {
    fn new(path: &Path, reason: impl ToString) -> Self {
        TlsError { path: path.to_owned(), reason: reason.to_string() }
    }
}

/// The certificates of one listener by server name. Immutable: a reload builds another one.
#[derive(Debug)]
pub struct TlsTable {
    default: Arc<ServerConfig>,
    exact: HashMap<String, Arc<ServerConfig>>,
    /// `*.example.com` under `example.com`.
    wildcard: HashMap<String, Arc<ServerConfig>>,
}

impl TlsTable {
    /// Reads every file that `tls` names. Where two certificates carry one name, the first wins.
    pub fn load(tls: &Tls) -> Result<TlsTable, TlsError> {
        let verifier = client_verifier(&tls.client_auth)?;
        let mut loaded = Vec::with_capacity(tls.certificates.len());
        for certificate in &tls.certificates {
            loaded.push(load_certificate(certificate, tls, verifier.clone())?);
        }
        let Some((default, _)) = loaded.first() else {
            return Err(TlsError::new(Path::new(""), "no certificate"));
        };
        let mut table =
            TlsTable { default: default.clone(), exact: HashMap::new(), wildcard: HashMap::new() };
        for (config, names) in loaded {
            for name in names {
                match name.strip_prefix("*.") {
                    Some(parent) => table.wildcard.entry(parent.to_owned()),
                    None => table.exact.entry(name),
                }
                .or_insert_with(|| config.clone());
            }
        }
        Ok(table)
    }

    /// The configuration for a server name as the client sent it: the exact name, then the
    /// wildcard one label up, then the first certificate.
    pub fn choose(&self, sni: Option<&str>) -> Arc<ServerConfig> {
        let found = sni.and_then(|sni| {
            let name = sni.to_ascii_lowercase();
            let wildcard = || self.wildcard.get(name.split_once('.')?.1);
            self.exact.get(&name).or_else(wildcard)
        });
        found.unwrap_or(&self.default).clone()
    }
}

fn load_certificate(
    certificate: &Certificate,
    tls: &Tls,
    verifier: Option<Arc<dyn ClientCertVerifier>>,
) -> Result<(Arc<ServerConfig>, Vec<String>), TlsError> {
    let chain = files::chain(&certificate.cert)?;
    let key = files::private_key(&certificate.key)?;
    let names = leaf_names(&certificate.cert, &chain)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(versions(tls.min_version))
        .map_err(|e| TlsError::new(&certificate.cert, e))?;
    let asks_client = verifier.is_some();
    let builder = match verifier {
        Some(verifier) => builder.with_client_cert_verifier(verifier),
        None => builder.with_no_client_auth(),
    };
    let mut config =
        builder.with_single_cert(chain, key).map_err(|error| mismatch(certificate, error))?;
    if tls.http2 {
        config.alpn_protocols.push(b"h2".to_vec());
    }
    config.alpn_protocols.push(b"http/1.1".to_vec());
    if asks_client {
        forbid_resumption(&mut config);
    } else {
        config.ticketer = rustls::crypto::ring::Ticketer::new()
            .map_err(|e| TlsError::new(&certificate.cert, e))?;
    }
    Ok((Arc::new(config), names))
}

fn mismatch(certificate: &Certificate, error: rustls::Error) -> TlsError {
    match error {
        rustls::Error::InconsistentKeys(_) => {
            let cert = certificate.cert.display();
            TlsError::new(&certificate.key, format!("this is not the key of {cert}"))
        }
        other => TlsError::new(&certificate.key, other),
    }
}

/// A resumed session would carry the old client chain, which nobody checks again.
fn forbid_resumption(config: &mut ServerConfig) {
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
}

fn versions(min: TlsVersion) -> &'static [&'static SupportedProtocolVersion] {
    static FROM_12: &[&SupportedProtocolVersion] = &[&version::TLS13, &version::TLS12];
    static FROM_13: &[&SupportedProtocolVersion] = &[&version::TLS13];
    match min {
        TlsVersion::V12 => FROM_12,
        TlsVersion::V13 => FROM_13,
    }
}

fn leaf_names(path: &Path, chain: &[CertificateDer<'_>]) -> Result<Vec<String>, TlsError> {
    let leaf = chain.first().ok_or_else(|| TlsError::new(path, "no certificate in the file"))?;
    names::dns_names(leaf).map_err(|e| TlsError::new(path, e))
}

fn client_verifier(auth: &ClientAuth) -> Result<Option<Arc<dyn ClientCertVerifier>>, TlsError> {
    let (path, optional) = match auth {
        ClientAuth::None => return Ok(None),
        ClientAuth::Optional(path) => (path, true),
        ClientAuth::Required(path) => (path, false),
    };
    let mut roots = RootCertStore::empty();
    for authority in files::chain(path)? {
        roots.add(authority).map_err(|e| TlsError::new(path, e))?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
    let builder = if optional { builder.allow_unauthenticated() } else { builder };
    builder.build().map(Some).map_err(|e| TlsError::new(path, e))
}
