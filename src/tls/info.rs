//! What a finished handshake says of a connection.

use data_encoding::HEXLOWER;
use ring::digest::{SHA256, digest};
use rustls::{ProtocolVersion, ServerConnection};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use super::names;

/// The TLS side of a connection, as filters and logs see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsInfo {
    /// The server name the client asked for.
    pub sni: Option<String>,
    /// `TLSv1.2` or `TLSv1.3`.
    pub version: &'static str,
    /// The cipher suite, as IANA writes it.
    pub cipher: &'static str,
    /// `h2` or `http/1.1`, if agreed on.
    pub alpn: Option<String>,
    /// Present only if it was verified.
    pub client_cert: Option<ClientCert>,
}

/// A verified client certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCert {
    pub cn: Option<String>,
    /// Alternative names with their kind: `DNS:a.test`, `URI:spiffe://…`.
    pub san: Vec<String>,
    /// Distinguished name of who signed it.
    pub issuer: String,
    /// Lower-case hex without separators.
    pub serial: String,
    /// SHA-256 of the DER, lower-case hex.
    pub fingerprint: String,
}

impl TlsInfo {
    pub(crate) fn of(connection: &ServerConnection) -> TlsInfo {
        let version = match connection.protocol_version() {
            Some(ProtocolVersion::TLSv1_3) => "TLSv1.3",
            Some(ProtocolVersion::TLSv1_2) => "TLSv1.2",
            _ => "",
        };
        let suite = connection.negotiated_cipher_suite().and_then(|s| s.suite().as_str());
        let leaf = connection.peer_certificates().and_then(|chain| chain.first());
        TlsInfo {
            sni: connection.server_name().map(str::to_ascii_lowercase),
            version,
            cipher: suite.unwrap_or(""),
            alpn: connection.alpn_protocol().map(|p| String::from_utf8_lossy(p).into_owned()),
            client_cert: leaf.and_then(|der| ClientCert::parse(der)),
        }
    }

    /// Whether both sides agreed on HTTP/2.
    pub fn is_h2(&self) -> bool {
        self.alpn.as_deref() == Some("h2")
    }
}

impl ClientCert {
    fn parse(der: &[u8]) -> Option<ClientCert> {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        Some(ClientCert {
            cn: names::common_name(&certificate),
            san: names::alternative_names(&certificate),
            issuer: certificate.issuer().to_string(),
            serial: HEXLOWER.encode(certificate.raw_serial()),
            fingerprint: HEXLOWER.encode(digest(&SHA256, der).as_ref()),
        })
    }
}
