//! `listeners`: where clients connect, and what a connection must bring. Nothing here opens a socket.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use ipnet::IpNet;

use super::problem::Problems;
use super::read::{At, Named, choice, section};
use super::values::Bind;

/// One address that accepts connections.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    pub name: Arc<str>,
    pub address: SocketAddr,
    pub tls: Option<Tls>,
    /// Peers that send a PROXY protocol header; empty means that nobody does.
    pub proxy_protocol: Vec<IpNet>,
    /// HTTP/2 with prior knowledge on a plaintext listener.
    pub h2c: bool,
}

/// TLS as one listener offers it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    /// The first one also answers clients that send no or an unknown server name.
    pub certificates: Vec<Certificate>,
    pub min_version: TlsVersion,
    pub client_auth: ClientAuth,
    /// Offer `h2` by ALPN beside `http/1.1`.
    pub http2: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    pub cert: PathBuf,
    pub key: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsVersion {
    V12,
    V13,
}

/// Whether a client shows a certificate, and who must have signed it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientAuth {
    None,
    Optional(PathBuf),
    Required(PathBuf),
}

section! {
    /// One address that accepts connections.
    pub struct RawListener as "listener" {
        /// Where to listen: `127.0.0.1:8080`, `[::1]:8080`; `:8080` means every IPv4 address.
        address: At<Bind>,
        /// Terminate TLS here.
        tls: Option<RawTls>,
        /// Peers that must send a PROXY protocol header (v1 or v2); nobody else may.
        proxy_protocol: Vec<IpNet> = "[]",
        /// Accept HTTP/2 with prior knowledge; left out, yes where there is no TLS.
        h2c: Option<At<bool>>,
    }
}

section! {
    /// TLS as a listener offers it.
    pub struct RawTls as "tls" {
        /// Certificates, chosen by the names in them; the first one is also the default.
        certificates: At<Vec<RawCertificate>>,
        /// The lowest version accepted.
        min_version: TlsVersion = "\"1.2\"",
        /// Whether clients show a certificate; `optional` and `required` need `client_ca`.
        client_auth: At<RawClientAuth> = "none",
        /// PEM bundle of the authorities that sign client certificates.
        client_ca: Option<PathBuf>,
        /// Offer HTTP/2 by ALPN.
        http2: bool = "true",
    }
}

section! {
    /// A certificate chain and its key, both PEM.
    pub struct RawCertificate as "certificate" {
        /// The chain, leaf first.
        cert: PathBuf,
        /// The private key.
        key: PathBuf,
    }
}

impl From<RawCertificate> for Certificate {
    fn from(raw: RawCertificate) -> Self {
        Self { cert: raw.cert, key: raw.key }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RawClientAuth {
    None,
    Optional,
    Required,
}

choice!(TlsVersion { "1.2" => TlsVersion::V12, "1.3" => TlsVersion::V13 });
choice!(RawClientAuth {
    "none" => RawClientAuth::None,
    "optional" => RawClientAuth::Optional,
    "required" => RawClientAuth::Required,
});

/// All listeners; at least one, no address twice.
pub fn resolve(raw: Named<RawListener>, problems: &mut Problems) -> Vec<Listener> {
    let mut listeners: Vec<Listener> = Vec::with_capacity(raw.0.len());
    for (name, raw) in raw.0 {
        let address = raw.address.value.0;
        if let Some(other) = listeners.iter().find(|l| overlap(l.address, address)) {
            let message = format!("{address} is also the address of listener \"{}\"", other.name);
            raw.address.problem(problems, message, None);
        }
        if let (Some(h2c), Some(_)) = (&raw.h2c, &raw.tls) {
            h2c.problem(problems, "h2c is for plaintext; with TLS it is tls.http2", None);
        }
        listeners.push(Listener {
            name: name.value.as_str().into(),
            address,
            tls: raw.tls.and_then(|tls| resolve_tls(tls, problems)),
            proxy_protocol: raw.proxy_protocol,
            h2c: raw.h2c.is_none_or(|h2c| h2c.value),
        });
    }
    listeners
}

/// Whether one socket cannot listen while the other does. A port of 0 is always another one.
pub fn overlap(a: SocketAddr, b: SocketAddr) -> bool {
    let same_family = a.is_ipv4() == b.is_ipv4();
    let covers = a.ip() == b.ip() || a.ip().is_unspecified() || b.ip().is_unspecified();
    a.port() == b.port() && a.port() != 0 && same_family && covers
}

fn resolve_tls(raw: RawTls, problems: &mut Problems) -> Option<Tls> {
    if raw.certificates.value.is_empty() {
        raw.certificates.problem(problems, "TLS needs at least one certificate", None);
    }
    let client_auth = match (raw.client_auth.value, raw.client_ca) {
        (RawClientAuth::None, None) => ClientAuth::None,
        (RawClientAuth::Optional, Some(ca)) => ClientAuth::Optional(ca),
        (RawClientAuth::Required, Some(ca)) => ClientAuth::Required(ca),
        (RawClientAuth::None, Some(_)) => {
            let message = "client_ca has no effect while client_auth is none";
            raw.client_auth.problem(problems, message, None);
            return None;
        }
        (_, None) => {
            raw.client_auth.problem(problems, "client certificates need a client_ca", None);
            return None;
        }
    };
    let certificates = raw.certificates.value.into_iter();
    Some(Tls {
        certificates: certificates.map(Certificate::from).collect(),
        min_version: raw.min_version,
        client_auth,
        http2: raw.http2,
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn addresses_overlap_by_port_family_and_wildcard() {
        let overlap = |a: &str, b: &str| {
            super::overlap(a.parse().expect("an address"), b.parse().expect("an address"))
        };
        assert!(overlap("127.0.0.1:80", "0.0.0.0:80"));
        assert!(overlap("[::]:80", "[::1]:80"));
        assert!(!overlap("127.0.0.1:80", "127.0.0.2:80"));
        assert!(!overlap("0.0.0.0:80", "[::]:80"), "IPv6 sockets take IPv6 only");
        assert!(!overlap("127.0.0.1:0", "127.0.0.1:0"), "0 is another port each time");
    }
}
