//! Certificates made by `openssl` in a directory that goes away, and what a table makes of them.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConnection};

use super::*;

pub(crate) struct Files(tempfile::TempDir);

impl Files {
    pub(crate) fn new() -> Files {
        Files(tempfile::tempdir().expect("makes a directory"))
    }

    /// A self-signed certificate for `dns`, as `(cert, key)`.
    pub(crate) fn certificate(&self, file: &str, dns: &str) -> (PathBuf, PathBuf) {
        let cert = self.0.path().join(format!("{file}.pem"));
        let key = self.0.path().join(format!("{file}.key"));
        let output = Command::new("openssl")
            .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"])
            .args(["-nodes", "-days", "2", "-subj", &format!("/CN=cn-{file}")])
            .args(["-addext", &format!("subjectAltName=DNS:{dns}")])
            .args(["-addext", "basicConstraints=critical,CA:FALSE"])
            .arg("-keyout")
            .arg(&key)
            .arg("-out")
            .arg(&cert)
            .output()
            .expect("openssl runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        (cert, key)
    }

    fn tls(&self, names: &[(&str, &str)]) -> Tls {
        let certificates = names.iter().map(|(file, dns)| {
            let (cert, key) = self.certificate(file, dns);
            Certificate { cert, key }
        });
        Tls {
            certificates: certificates.collect(),
            min_version: TlsVersion::V12,
            client_auth: ClientAuth::None,
            http2: true,
        }
    }
}

fn client_config(root: &Path) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    for certificate in files::chain(root).expect("reads") {
        roots.add(certificate).expect("is a certificate");
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider);
    let builder = builder.with_safe_default_protocol_versions().expect("has versions");
    builder.with_root_certificates(roots).with_no_client_auth()
}

/// A client that trusts this certificate.
pub(crate) fn client(root: &Path) -> tokio_rustls::TlsConnector {
    Arc::new(client_config(root)).into()
}

/// Both ends of a handshake, in memory.
fn handshake(client: ClientConfig, server: Arc<ServerConfig>) -> Result<TlsInfo, rustls::Error> {
    let name = ServerName::try_from("a.test").expect("is a name");
    let mut client = ClientConnection::new(Arc::new(client), name)?;
    let mut server = ServerConnection::new(server)?;
    for _ in 0..10 {
        let mut wire = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut wire).expect("writes to memory");
        }
        let mut rest = wire.as_slice();
        while !rest.is_empty() {
            server.read_tls(&mut rest).expect("reads from memory");
            server.process_new_packets()?;
        }
        let mut wire = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut wire).expect("writes to memory");
        }
        let mut rest = wire.as_slice();
        while !rest.is_empty() {
            client.read_tls(&mut rest).expect("reads from memory");
            client.process_new_packets()?;
        }
    }
    assert!(!server.is_handshaking(), "done within ten rounds");
    Ok(TlsInfo::of(&server))
}

#[test]
fn names_come_from_the_certificates() {
    let files = Files::new();
    let tls = files.tls(&[("first", "first.test"), ("exact", "A.Test"), ("wild", "*.b.test")]);
    let table = TlsTable::load(&tls).expect("loads");
    let chosen = |sni| table.choose(sni);
    let default = chosen(None);
    assert!(Arc::ptr_eq(&default, &chosen(Some("first.test"))));
    assert!(!Arc::ptr_eq(&default, &chosen(Some("a.TEST"))), "case does not matter");
    let wild = chosen(Some("x.b.test"));
    assert!(!Arc::ptr_eq(&default, &wild));
    assert!(!Arc::ptr_eq(&wild, &chosen(Some("a.test"))));
    for other in ["b.test", "x.y.b.test", "unknown.test"] {
        assert!(Arc::ptr_eq(&default, &chosen(Some(other))), "{other} gets the first one");
    }
}

#[test]
fn client_certificates_are_verified_and_described() {
    let files = Files::new();
    let mut tls = files.tls(&[("server", "a.test")]);
    let (ca, key) = files.certificate("client", "client.test");
    tls.client_auth = ClientAuth::Required(ca.clone());
    let server = TlsTable::load(&tls).expect("loads").choose(None);
    let trusting = || client_config(&tls.certificates[0].cert);
    assert!(handshake(trusting(), server.clone()).is_err(), "a certificate is required");

    let mut with_cert = trusting();
    let chain = files::chain(&ca).expect("reads");
    let key = files::private_key(&key).expect("reads");
    let provider = rustls::crypto::ring::default_provider();
    let certified = rustls::sign::CertifiedKey::from_der(chain, key, &provider).expect("fit");
    with_cert.client_auth_cert_resolver = Arc::new(rustls::sign::SingleCertAndKey::from(certified));
    let info = handshake(with_cert, server).expect("shakes hands");
    let cert = info.client_cert.expect("was shown");
    assert_eq!(cert.cn.as_deref(), Some("cn-client"));
    assert_eq!(cert.san, ["DNS:client.test"]);
    assert_eq!(cert.issuer, "CN=cn-client");
    assert_eq!(cert.fingerprint.len(), 64);
    assert_eq!((info.version, info.sni.as_deref()), ("TLSv1.3", Some("a.test")));

    tls.client_auth = ClientAuth::Optional(ca);
    let server = TlsTable::load(&tls).expect("loads").choose(None);
    let info = handshake(trusting(), server).expect("shakes hands without");
    assert_eq!(info.client_cert, None);
}

#[test]
fn a_broken_file_is_named() {
    let files = Files::new();
    let mut tls = files.tls(&[("a", "a.test"), ("b", "b.test")]);
    tls.certificates[0].key = tls.certificates[1].key.clone();
    let error = TlsTable::load(&tls).expect_err("the key is another's");
    assert_eq!(error.path, tls.certificates[0].key);
    tls.certificates[0].cert = "/nowhere.pem".into();
    let error = TlsTable::load(&tls).expect_err("there is no such file").to_string();
    assert!(error.starts_with("/nowhere.pem: "), "{error}");
}
