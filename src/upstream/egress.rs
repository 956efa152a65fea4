//! Where scripts may connect: a name is resolved once, and what it resolves to is judged.
//!
//! The address that was judged is the one to connect to, so a second answer of the name server
//! has no say.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

/// For resolving a name.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(5);

/// Why a script may not connect somewhere.
#[derive(Debug, thiserror::Error)]
pub enum EgressError {
    #[error("`{host}` cannot be resolved")]
    Resolve { host: String, source: io::Error },
    #[error("resolving `{host}` took too long")]
    Timeout { host: String },
    #[error("`{host}` has no address")]
    NoAddress { host: String },
    #[error("`{host}` is at {address}, which is not a public address")]
    Forbidden { host: String, address: IpAddr },
}

/// The address of `host` to connect to. `named` says that the configuration allows this very
/// origin, which is what it takes to reach an address that is not public.
pub async fn resolve(host: &str, port: u16, named: bool) -> Result<SocketAddr, EgressError> {
    let host = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
    let owned = || host.to_owned();
    let addresses = tokio::time::timeout(RESOLVE_TIMEOUT, tokio::net::lookup_host((host, port)))
        .await
        .map_err(|_| EgressError::Timeout { host: owned() })?
        .map_err(|source| EgressError::Resolve { host: owned(), source })?;
    choose(host, addresses, named)
}

fn choose(
    host: &str,
    addresses: impl Iterator<Item = SocketAddr>,
    named: bool,
) -> Result<SocketAddr, EgressError> {
    let mut forbidden = None;
    for address in addresses {
        if named || is_public(address.ip()) {
            return Ok(address);
        }
        forbidden.get_or_insert(address.ip());
    }
    let host = host.to_owned();
    Err(match forbidden {
        Some(address) => EgressError::Forbidden { host, address },
        None => EgressError::NoAddress { host },
    })
}

/// Whether an address belongs to the public internet (IANA's special-purpose registries).
pub fn is_public(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => is_public_v4(ip),
        IpAddr::V6(ip) => is_public_v6(ip),
    }
}

fn is_public_v4(ip: Ipv4Addr) -> bool {
    let [a, b, c, _] = ip.octets();
    let this_network = a == 0;
    let shared = a == 100 && (64..128).contains(&b); // carrier-grade NAT
    let protocols = a == 192 && b == 0 && c == 0;
    let relay = a == 192 && b == 88 && c == 99; // 6to4
    let benchmarks = a == 198 && (18..20).contains(&b);
    let multicast_and_reserved = a >= 224;
    !(this_network
        || shared
        || protocols
        || relay
        || benchmarks
        || multicast_and_reserved
        || ip.is_loopback()
        || ip.is_private()
        || ip.is_link_local()
        || ip.is_documentation())
}

fn is_public_v6(ip: Ipv6Addr) -> bool {
    if let Some(v4) = ip.to_ipv4_mapped() {
        return is_public_v4(v4);
    }
    let [a, b, c, d, e, f, g, h] = ip.segments();
    if (a, b, c, d, e, f) == (0x64, 0xff9b, 0, 0, 0, 0) {
        // NAT64: the address behind it decides.
        let [[w, x], [y, z]] = [g.to_be_bytes(), h.to_be_bytes()];
        return is_public_v4(Ipv4Addr::new(w, x, y, z));
    }
    let global_unicast = a & 0xe000 == 0x2000; // 2000::/3; the rest is local, multicast or unassigned
    let protocols = a == 0x2001 && b < 0x200; // Teredo and others
    let documentation = (a == 0x2001 && b == 0xdb8) || (a == 0x3fff && b < 0x1000);
    let six_to_four = a == 0x2002; // holds an IPv4 address, public or not
    global_unicast && !(protocols || documentation || six_to_four)
}

#[cfg(test)]
mod tests {
    use super::*;

    const REFUSED: &[&str] = &[
        "127.0.0.1",
        "127.9.9.9",
        "10.0.0.1",
        "172.16.0.1",
        "172.31.255.255",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "100.127.255.255",
        "0.0.0.0",
        "0.1.2.3",
        "224.0.0.1",
        "255.255.255.255",
        "240.0.0.1",
        "192.0.2.1",
        "198.51.100.1",
        "203.0.113.1",
        "198.18.0.1",
        "192.0.0.1",
        "::",
        "::1",
        "fe80::1",
        "fec0::1",
        "fc00::1",
        "fd12::1",
        "ff02::1",
        "2001:db8::1",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "::127.0.0.1",
        "64:ff9b::10.0.0.1",
        "64:ff9b:1::1",
        "2002:7f00:1::",
        "2001::1",
        "3fff::1",
        "100::1",
    ];
    const ALLOWED: &[&str] = &[
        "1.1.1.1",
        "8.8.8.8",
        "100.63.0.1",
        "100.128.0.1",
        "172.15.0.1",
        "172.32.0.1",
        "2606:4700:4700::1111",
        "2001:4860:4860::8888",
        "::ffff:1.1.1.1",
        "64:ff9b::1.1.1.1",
    ];

    #[test]
    fn only_public_addresses_are_public() {
        for text in REFUSED {
            let ip: IpAddr = text.parse().unwrap();
            assert!(!is_public(ip), "{text} must be refused");
        }
        for text in ALLOWED {
            let ip: IpAddr = text.parse().unwrap();
            assert!(is_public(ip), "{text} must be allowed");
        }
    }

    #[tokio::test]
    async fn loopback_takes_a_named_origin() {
        for host in ["127.0.0.1", "localhost", "[::1]", "::1"] {
            let refused = resolve(host, 80, false).await;
            assert!(matches!(refused, Err(EgressError::Forbidden { .. })), "{host}: {refused:?}");
        }
        let address = resolve("127.0.0.1", 81, true).await.unwrap();
        assert_eq!(address, SocketAddr::from(([127, 0, 0, 1], 81)));
    }

    #[test]
    fn a_public_address_beside_a_private_one_is_taken() {
        let both = ["10.0.0.1:80".parse().unwrap(), "1.1.1.1:80".parse().unwrap()];
        let address = choose("x", both.into_iter(), false).unwrap();
        assert_eq!(address, "1.1.1.1:80".parse().unwrap());
        assert!(matches!(choose("x", [].into_iter(), true), Err(EgressError::NoAddress { .. })));
    }
}
