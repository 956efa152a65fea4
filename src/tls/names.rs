//! Names in a certificate: what it may be shown for, and what it says of a client.

use x509_parser::certificate::X509Certificate;
use x509_parser::error::X509Error;
use x509_parser::extensions::GeneralName;
use x509_parser::nom;
use x509_parser::prelude::FromDer;

/// The DNS names of a certificate, lower case; the common name only where there are none.
pub(super) fn dns_names(der: &[u8]) -> Result<Vec<String>, nom::Err<X509Error>> {
    let (_, certificate) = X509Certificate::from_der(der)?;
    let mut names: Vec<String> = general_names(&certificate)
        .filter_map(|name| match name {
            GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
            _ => None,
        })
        .collect();
    if names.is_empty() {
        names.extend(common_name(&certificate).map(|name| name.to_ascii_lowercase()));
    }
    Ok(names)
}

/// Subject alternative names as text: `DNS:a`, `IP:1.2.3.4`, `URI:spiffe://…`, `email:a@b`.
pub(super) fn alternative_names(certificate: &X509Certificate<'_>) -> Vec<String> {
    general_names(certificate)
        .filter_map(|name| match name {
            GeneralName::DNSName(name) => Some(format!("DNS:{name}")),
            GeneralName::URI(uri) => Some(format!("URI:{uri}")),
            GeneralName::RFC822Name(mail) => Some(format!("email:{mail}")),
            GeneralName::IPAddress(bytes) => address(bytes).map(|ip| format!("IP:{ip}")),
            _ => None,
        })
        .collect()
}

/// The first common name of the subject.
pub(super) fn common_name(certificate: &X509Certificate<'_>) -> Option<String> {
    let first = certificate.subject().iter_common_name().next()?;
    first.as_str().ok().map(str::to_owned)
}

fn general_names<'a>(
    certificate: &'a X509Certificate<'a>,
) -> impl Iterator<Item = &'a GeneralName<'a>> {
    let extension = certificate.subject_alternative_name().ok().flatten();
    extension.into_iter().flat_map(|extension| extension.value.general_names.iter())
}

fn address(bytes: &[u8]) -> Option<std::net::IpAddr> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Some(v4.into());
    }
    <[u8; 16]>::try_from(bytes).ok().map(Into::into)
}
