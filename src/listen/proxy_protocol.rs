//! The PROXY protocol, versions 1 and 2: the addresses a trusted sender states before the first
//! byte of its client.

use std::io;
use std::net::{IpAddr, SocketAddr};

use tokio::io::{AsyncRead, AsyncReadExt};

/// What starts a header of version 2.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// The longest header of version 1, with its line end.
const V1_MAX: usize = 107;
/// Two IPv6 addresses with ports; what follows them are TLVs, which are skipped.
const V2_ADDRESSES_MAX: usize = 36;

/// What a header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Header {
    /// A connection relayed for `client`, who had connected to `local`.
    Proxied { client: SocketAddr, local: SocketAddr },
    /// The sender's own connection (a health check), or one of an unknown family.
    Own,
}

/// Why a header was not understood.
#[derive(Debug, thiserror::Error)]
pub(super) enum HeaderError {
    #[error("no PROXY header")]
    Missing,
    #[error("malformed PROXY v1 header")]
    V1,
    #[error("malformed PROXY v2 header")]
    V2,
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Reads one header, and not a byte more.
pub(super) async fn read<S: AsyncRead + Unpin>(stream: &mut S) -> Result<Header, HeaderError> {
    // 12 bytes tell the versions apart, and both headers have more.
    let mut start = [0; 12];
    stream.read_exact(&mut start).await?;
    if &start == SIGNATURE {
        return read_v2(stream).await;
    }
    if !start.starts_with(b"PROXY ") {
        return Err(HeaderError::Missing);
    }
    let mut line = start.to_vec();
    while !line.ends_with(b"\r\n") {
        if line.len() == V1_MAX {
            return Err(HeaderError::V1);
        }
        line.push(stream.read_u8().await?);
    }
    let text = std::str::from_utf8(&line[..line.len() - 2]).map_err(|_| HeaderError::V1)?;
    parse_v1(text).ok_or(HeaderError::V1)
}

fn parse_v1(text: &str) -> Option<Header> {
    let mut words = text.split(' ').skip(1);
    let v4 = match words.next()? {
        "UNKNOWN" => return Some(Header::Own),
        "TCP4" => true,
        "TCP6" => false,
        _ => return None,
    };
    let client: IpAddr = words.next()?.parse().ok()?;
    let local: IpAddr = words.next()?.parse().ok()?;
    let (client_port, local_port) = (port(words.next()?)?, port(words.next()?)?);
    if words.next().is_some() || client.is_ipv4() != v4 || local.is_ipv4() != v4 {
        return None;
    }
    let (client, local) = ((client, client_port).into(), (local, local_port).into());
    Some(Header::Proxied { client, local })
}

/// Digits only, and no leading zero, where `u16::from_str` would also take a sign.
fn port(text: &str) -> Option<u16> {
    let digits = text.bytes().all(|b| b.is_ascii_digit());
    let padded = text.len() > 1 && text.starts_with('0');
    if digits && !padded { text.parse().ok() } else { None }
}

async fn read_v2<S: AsyncRead + Unpin>(stream: &mut S) -> Result<Header, HeaderError> {
    let mut fixed = [0; 4];
    stream.read_exact(&mut fixed).await?;
    let [version_command, family, high, low] = fixed;
    let length = usize::from(u16::from_be_bytes([high, low]));
    let mut addresses = [0; V2_ADDRESSES_MAX];
    let taken = length.min(V2_ADDRESSES_MAX);
    stream.read_exact(&mut addresses[..taken]).await?;
    let rest = (length - taken) as u64;
    let skipped = tokio::io::copy(&mut stream.take(rest), &mut tokio::io::sink()).await?;
    if skipped < rest {
        return Err(HeaderError::Io(io::ErrorKind::UnexpectedEof.into()));
    }
    match version_command {
        0x20 => Ok(Header::Own),
        0x21 => parse_v2(family, &addresses[..taken]).ok_or(HeaderError::V2),
        _ => Err(HeaderError::V2),
    }
}

fn parse_v2(family: u8, addresses: &[u8]) -> Option<Header> {
    let port = |at: usize| Some(u16::from_be_bytes([*addresses.get(at)?, *addresses.get(at + 1)?]));
    let v4 = |at: usize| <[u8; 4]>::try_from(addresses.get(at..at + 4)?).ok();
    let v6 = |at: usize| <[u8; 16]>::try_from(addresses.get(at..at + 16)?).ok();
    match family {
        0x11 => Some(Header::Proxied {
            client: (v4(0)?, port(8)?).into(),
            local: (v4(4)?, port(10)?).into(),
        }),
        0x21 => Some(Header::Proxied {
            client: (v6(0)?, port(32)?).into(),
            local: (v6(16)?, port(34)?).into(),
        }),
        // Unspecified, datagrams, Unix sockets: the socket's own addresses stand.
        0x00 | 0x12 | 0x22 | 0x31 | 0x32 => Some(Header::Own),
        _ => None,
    }
}
