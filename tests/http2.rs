//! HTTP/2 requests that curl would never send, frame by frame.

#![allow(clippy::expect_used, reason = "a panic is how a test fails")]
#![allow(clippy::disallowed_methods, reason = "tests have threads of their own")]

mod peers;
mod support;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use peers::{PATIENCE, PLAIN, Site, all_to, origin};

/// How a request ended.
#[derive(Debug, PartialEq, Eq)]
enum End {
    /// With a response: its header block and its body.
    Answered(Vec<u8>),
    /// With RST_STREAM or GOAWAY, or the connection's end.
    Refused,
}

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const ACK: u8 = 1;

type Field<'a> = (&'a str, &'a str);

const REQUEST: [Field<'_>; 4] =
    [(":method", "GET"), (":scheme", "http"), (":authority", "a.test"), (":path", "/x")];

fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend([kind, flags, 0, 0, 0, stream]);
    frame.extend_from_slice(payload);
    frame
}

/// A field as a literal that is not indexed, without Huffman coding (RFC 7541, 6.2.2).
fn literal((name, value): &Field<'_>) -> Vec<u8> {
    let mut field = vec![0];
    for text in [name, value] {
        field.push(u8::try_from(text.len()).ok().filter(|length| *length < 127).expect("short"));
        field.extend_from_slice(text.as_bytes());
    }
    field
}

/// Sends one request on a connection of its own.
fn ask(address: SocketAddr, fields: &[Field<'_>], body: Option<&[u8]>) -> End {
    let mut stream = TcpStream::connect(address).expect("connects");
    stream.set_read_timeout(Some(PATIENCE)).expect("set");
    let block: Vec<u8> = fields.iter().flat_map(literal).collect();
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend(frame(SETTINGS, 0, 0, &[]));
    let end = if body.is_none() { END_STREAM } else { 0 };
    bytes.extend(frame(HEADERS, END_HEADERS | end, 1, &block));
    if let Some(body) = body {
        bytes.extend(frame(DATA, END_STREAM, 1, body));
    }
    stream.write_all(&bytes).expect("sends");
    let mut answer = Vec::new();
    loop {
        let mut head = [0; 9];
        if stream.read_exact(&mut head).is_err() {
            return End::Refused;
        }
        let [a, b, c, kind, flags, ..] = head;
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        stream.read_exact(&mut payload).expect("a whole frame");
        match kind {
            SETTINGS if flags & ACK == 0 => {
                stream.write_all(&frame(SETTINGS, ACK, 0, &[])).expect("sends");
            }
            RST_STREAM | GOAWAY => return End::Refused,
            HEADERS | DATA => {
                answer.extend(payload);
                if flags & END_STREAM != 0 {
                    return End::Answered(answer);
                }
            }
            _ => {}
        }
    }
}

/// The request above with these fields instead of those of the same name, or beside them.
fn with<'a>(changed: &[Field<'a>]) -> Vec<Field<'a>> {
    let kept = REQUEST.iter().filter(|(name, _)| changed.iter().all(|(other, _)| other != name));
    let (pseudo, plain): (Vec<Field<'a>>, Vec<_>) =
        changed.iter().copied().partition(|(name, _)| name.starts_with(':'));
    pseudo.into_iter().chain(kept.copied()).chain(plain).collect()
}

#[test]
fn malformed_requests_reach_no_origin() {
    let echo = origin("[{}]");
    let site = Site::start(format!("{PLAIN}{}", all_to(echo.address)));
    let address = site.address("public");
    let plain = ask(address, &REQUEST, None);
    assert!(matches!(&plain, End::Answered(_)), "{plain:?}");
    assert_eq!(echo.take().len(), 1, "a plain request reaches the origin");

    let without = |name: &str| -> Vec<Field<'_>> {
        REQUEST.into_iter().filter(|(other, _)| *other != name).collect()
    };
    let doubled = |field| [&[field][..], &REQUEST].concat();
    let malformed: Vec<(&str, Vec<Field<'_>>)> = vec![
        ("another Host", with(&[("host", "b.test")])),
        ("no host at all", without(":authority")),
        ("two Hosts", with(&[("host", "a.test"), ("host", "a.test")])),
        ("userinfo", with(&[(":authority", "u@a.test")])),
        ("a space in the host", with(&[(":authority", "a b")])),
        ("two hosts", doubled((":authority", "a.test"))),
        ("no path", without(":path")),
        ("an empty path", with(&[(":path", "")])),
        ("a relative path", with(&[(":path", "x")])),
        ("an absolute target", with(&[(":path", "http://b.test/x")])),
        ("an asterisk", with(&[(":path", "*")])),
        ("a space in the path", with(&[(":path", "/a b")])),
        ("a line break in the path", with(&[(":path", "/a HTTP/1.1\r\nX: y")])),
        ("a control in the path", with(&[(":path", "/a\x01")])),
        ("an escaped slash", with(&[(":path", "/a%2fb")])),
        ("two methods", doubled((":method", "POST"))),
        ("a line break in the method", with(&[(":method", "GET / HTTP/1.1\r\nX: y")])),
        ("TRACE", with(&[(":method", "TRACE")])),
        ("CONNECT", vec![(":method", "CONNECT"), (":authority", "a.test:80")]),
        ("no scheme", without(":scheme")),
        ("an unknown pseudo-header", with(&[(":x", "1")])),
        ("a pseudo-header at the end", [&with(&[("x", "1")])[..], &[(":path", "/y")]].concat()),
        ("capitals in a name", with(&[("X-A", "1")])),
        ("a space in a name", with(&[("x a", "1")])),
        ("an empty name", with(&[("", "1")])),
        ("a line break in a value", with(&[("x-a", "1\r\nX-B: 2")])),
        ("a NUL in a value", with(&[("x-a", "1\0")])),
        ("Connection", with(&[("connection", "close")])),
        ("Keep-Alive", with(&[("keep-alive", "1")])),
        ("Proxy-Connection", with(&[("proxy-connection", "close")])),
        ("Upgrade", with(&[("upgrade", "websocket")])),
        ("Transfer-Encoding", with(&[("transfer-encoding", "chunked")])),
        ("another TE than trailers", with(&[("te", "gzip")])),
        ("a shadowing name", with(&[("content_length", "9")])),
        ("a signed length", with(&[("content-length", "+3")])),
        ("two lengths", with(&[("content-length", "3"), ("content-length", "4")])),
    ];
    for (what, fields) in malformed {
        for body in [None, Some(&b"abc"[..])] {
            let end = ask(address, &fields, body);
            let seen = echo.take();
            assert!(seen.is_empty(), "{what}: {end:?}, and the origin saw {seen:?}");
        }
    }
    let after = ask(address, &REQUEST, None);
    assert!(matches!(&after, End::Answered(_)), "others are served: {after:?}");
}

#[test]
fn a_body_of_another_length_than_announced_is_not_passed_on_whole() {
    let echo = origin("[{}]");
    let site = Site::start(format!("{PLAIN}{}", all_to(echo.address)));
    let post = |length| with(&[(":method", "POST"), ("content-length", length)]);
    for length in ["2", "4"] {
        let end = ask(site.address("public"), &post(length), Some(b"abc"));
        assert_eq!(end, End::Refused, "{length} instead of 3");
        // The origin remembers requests that came whole.
        assert_eq!(echo.take().len(), 0, "{length} instead of 3");
    }
    let end = ask(site.address("public"), &post("3"), Some(b"abc"));
    assert!(matches!(end, End::Answered(_)), "{end:?}");
    assert_eq!(echo.take()[0].body, b"abc");
}
