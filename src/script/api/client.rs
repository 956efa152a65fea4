//! `req.client`: who sent the request.

use std::sync::Arc;

use rhai::{Array, Dynamic};

use super::table::Table;
use crate::script::exchange::{CertInfo, Client, TlsInfo};

#[derive(Clone)]
pub struct ClientHandle(pub Arc<Client>);
#[derive(Clone)]
pub struct Tls(Arc<TlsInfo>);
#[derive(Clone)]
pub struct Cert(Arc<CertInfo>);

fn optional(text: &Option<String>) -> Dynamic {
    text.clone().map_or(Dynamic::UNIT, Into::into)
}

pub fn area(table: &mut Table) {
    table.area("Client");
    table
        .get("client.ip", "The address, as text.", |c: &mut ClientHandle| c.0.ip.to_string())
        .example(r#"req.client.ip == "127.0.0.1""#)
        .get("client.port", "The port.", |c: &mut ClientHandle| i64::from(c.0.port))
        .example("req.client.port == 40000")
        .get("client.tls", "The TLS session, or `()`.", |c: &mut ClientHandle| {
            c.0.tls.clone().map_or(Dynamic::UNIT, |tls| Dynamic::from(Tls(Arc::new(tls))))
        })
        .example("req.client.tls != ()")
        .get("tls.version", "As `TLSv1.3`.", |t: &mut Tls| t.0.version.clone())
        .example(r#"req.client.tls.version == "TLSv1.3""#)
        .get("tls.cipher", "The cipher suite.", |t: &mut Tls| t.0.cipher.clone())
        .example(r#"req.client.tls.cipher.starts_with("TLS13_AES")"#)
        .get("tls.sni", "The name asked for, or `()`.", |t: &mut Tls| optional(&t.0.sni))
        .example(r#"req.client.tls.sni == "shop.test""#)
        .get("tls.alpn", "The protocol agreed on, or `()`.", |t: &mut Tls| optional(&t.0.alpn))
        .example(r#"req.client.tls.alpn == "h2""#)
        .get("tls.cert", "The client's certificate, or `()`.", |t: &mut Tls| {
            t.0.cert.clone().map_or(Dynamic::UNIT, |cert| Dynamic::from(Cert(Arc::new(cert))))
        })
        .example("req.client.tls.cert != ()")
        .get("cert.cn", "The subject's common name.", |c: &mut Cert| c.0.cn.clone())
        .example(r#"req.client.tls.cert.cn == "ann""#)
        .get("cert.san", "The subject's other names.", |c: &mut Cert| -> Array {
            c.0.san.iter().map(|name| name.as_str().into()).collect()
        })
        .example(r#"req.client.tls.cert.san == ["ann.test"]"#)
        .get("cert.issuer", "The issuer.", |c: &mut Cert| c.0.issuer.clone())
        .example(r#"req.client.tls.cert.issuer == "ca""#)
        .get("cert.serial", "The serial number, in hex.", |c: &mut Cert| c.0.serial.clone())
        .example(r#"req.client.tls.cert.serial == "01""#)
        .get("cert.fingerprint", "SHA-256 of the certificate, in hex.", |c: &mut Cert| {
            c.0.fingerprint.clone()
        })
        .example(r#"req.client.tls.cert.fingerprint == "ab""#);
}
