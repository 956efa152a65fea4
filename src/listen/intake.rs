//! What Pingora was given of an HTTP/1 connection, as far as it tells how long a head is and
//! whether a request's end is also the end of what was given. Parsing stays Pingora's business.

use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use pingora::http::RequestHeader;

/// Header lines that Pingora can take in.
const PARSER_LINES: usize = 256;

/// The bytes of the current request.
#[derive(Debug, Default)]
pub(super) struct Intake {
    head_bytes: usize,
    lines: usize,
    /// The line that the last byte belongs to is empty so far.
    empty_line: bool,
    /// Bytes after the empty line that ended the head.
    past_head: Option<u64>,
    last: [u8; 4],
}

/// Where the bytes given end, once a request is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// With the request.
    Exact,
    /// With a chunked body, but that of this request or of a later one.
    Perhaps,
    /// Within the body, or within what follows it.
    Elsewhere,
}

impl Intake {
    /// Bytes that Pingora asked for while it reads a head: it has used up what it had before.
    pub fn head(&mut self, bytes: &[u8]) {
        if self.past_head.is_some() {
            // The next head, whose beginning came with the request before it.
            let empty_line = self.last.ends_with(b"\n") || self.last.ends_with(b"\n\r");
            *self = Intake { empty_line, last: self.last, ..Intake::default() };
        }
        for (index, byte) in bytes.iter().enumerate() {
            match byte {
                b'\n' if self.empty_line => {
                    self.head_bytes += index + 1;
                    self.past_head = Some((bytes.len() - index - 1) as u64);
                    self.remember(bytes);
                    return;
                }
                b'\n' => {
                    self.lines += 1;
                    self.empty_line = true;
                }
                b'\r' => {}
                _ => self.empty_line = false,
            }
        }
        self.head_bytes += bytes.len();
        self.remember(bytes);
    }

    /// Bytes that Pingora asked for after the head.
    pub fn body(&mut self, bytes: &[u8]) {
        if let Some(past) = &mut self.past_head {
            *past += bytes.len() as u64;
        }
        self.remember(bytes);
    }

    /// The head so far.
    pub fn head_bytes(&self) -> usize {
        self.head_bytes
    }

    /// More lines than Pingora parses; the first line is no header.
    pub fn too_many_lines(&self) -> bool {
        self.lines > PARSER_LINES + 1
    }

    /// Where the bytes end after a request with such a body; see `body_length`.
    pub fn end(&self, body: Option<u64>) -> End {
        match (self.past_head, body) {
            (None, _) => End::Exact,
            (Some(past), Some(length)) if past == length => End::Exact,
            (Some(1..), None) if self.last == *b"\r\n\r\n" => End::Perhaps,
            _ => End::Elsewhere,
        }
    }

    fn remember(&mut self, bytes: &[u8]) {
        let from = bytes.len().saturating_sub(4);
        let new = &bytes[from..];
        self.last.rotate_left(new.len());
        self.last[4 - new.len()..].copy_from_slice(new);
    }
}

/// The length of the body as the head says; `None` where only the body itself tells.
pub(super) fn body_length(head: &RequestHeader) -> Option<u64> {
    if head.headers.contains_key(TRANSFER_ENCODING) {
        return None;
    }
    match head.headers.get(CONTENT_LENGTH) {
        None => Some(0),
        Some(length) => length.to_str().ok()?.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";

    /// Fed in pieces of each size, as heads may come.
    fn heads(bytes: &[u8], check: impl Fn(&Intake, usize)) {
        for size in 1..=bytes.len() {
            let mut intake = Intake::default();
            let mut given = 0;
            for piece in bytes.chunks(size) {
                if intake.past_head.is_none() {
                    intake.head(piece);
                } else {
                    intake.body(piece);
                }
                given += piece.len();
            }
            assert_eq!(given, bytes.len());
            check(&intake, size);
        }
    }

    #[test]
    fn a_request_without_a_body_ends_with_its_head() {
        heads(GET, |intake, size| {
            assert_eq!(intake.end(Some(0)), End::Exact, "pieces of {size}");
            assert_eq!((intake.head_bytes(), intake.lines), (GET.len(), 2), "pieces of {size}");
        });
        heads(b"GET / HTTP/1.1\nHost: a\n\n", |intake, size| {
            assert_eq!(intake.end(Some(0)), End::Exact, "bare line feeds, pieces of {size}");
        });
    }

    #[test]
    fn what_follows_a_request_is_seen() {
        heads(&[GET, GET].concat(), |intake, size| {
            assert_eq!(intake.end(Some(0)), End::Elsewhere, "pieces of {size}");
        });
        heads(&[GET, b"abc"].concat(), |intake, size| {
            assert_eq!(intake.end(Some(3)), End::Exact, "pieces of {size}");
            assert_eq!(intake.end(Some(4)), End::Elsewhere, "pieces of {size}");
            assert_eq!(intake.end(Some(2)), End::Elsewhere, "pieces of {size}");
        });
    }

    #[test]
    fn a_chunked_body_may_have_ended() {
        for (body, expected) in [
            (&b""[..], End::Elsewhere),
            (b"3\r\nabc\r\n", End::Elsewhere),
            (b"3\r\nabc\r\n0\r\n\r\n", End::Perhaps),
            (b"0\r\n\r\nGE", End::Elsewhere),
        ] {
            heads(&[GET, body].concat(), |intake, size| {
                assert_eq!(intake.end(None), expected, "{body:?} in pieces of {size}");
            });
        }
    }

    #[test]
    fn the_next_head_may_begin_with_the_request_before() {
        let mut intake = Intake::default();
        intake.head(&[GET, b"GET / HTTP/1.1\r\nHost: a\r\n\r"].concat());
        assert_eq!(intake.end(Some(0)), End::Elsewhere);
        intake.head(b"\n");
        assert_eq!(intake.end(Some(0)), End::Exact, "its last byte");
    }

    #[test]
    fn lines_are_counted_up_to_what_the_parser_takes() {
        let head = |count| format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(count));
        for (count, many) in [(PARSER_LINES, false), (PARSER_LINES + 1, true)] {
            let mut intake = Intake::default();
            intake.head(head(count).as_bytes());
            assert_eq!(intake.too_many_lines(), many, "{count} lines");
        }
    }
}
