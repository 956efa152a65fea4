//! W3C trace context (`traceparent`) and request ids.
//!
//! Ids come from a generator per thread, xoshiro256++ seeded by the system: unique, cheap, but
//! guessable by one who sees enough of them. They name things; they must never guard them.

use std::cell::RefCell;
use std::hash::{BuildHasher, RandomState};
use std::time::SystemTime;

use http::HeaderValue;

/// Length of a version 00 `traceparent`.
const TRACEPARENT: usize = 55;
/// The flag bit that says that the caller records this trace.
const SAMPLED: u8 = 0x01;

/// Where in which trace a request is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceContext {
    /// Never 0.
    pub trace_id: u128,
    /// Never 0.
    pub span_id: u64,
    pub sampled: bool,
}

impl TraceContext {
    /// The first span of a new trace.
    pub fn root(sampled: bool) -> Self {
        let trace_id = (u128::from(random()) << 64) | u128::from(random_id());
        Self { trace_id, span_id: random_id(), sampled }
    }

    /// A new span of the same trace.
    pub fn child(&self) -> Self {
        Self { span_id: random_id(), ..*self }
    }

    /// Reads a `traceparent`; None if it is not well-formed, and a new trace is to be begun.
    ///
    /// Of versions after 00, the part that 00 has is read, as the recommendation asks.
    pub fn parse(header: &[u8]) -> Option<Self> {
        let head = header.get(..TRACEPARENT)?;
        let version = hex(&head[..2])?;
        let rest = &header[TRACEPARENT..];
        let well_ended = rest.is_empty() || (version != 0 && rest[0] == b'-');
        if version == 0xff || !well_ended || [head[2], head[35], head[52]] != *b"---" {
            return None;
        }
        let trace_id = hex(&head[3..35]).filter(|id| *id != 0)?;
        let span_id = hex(&head[36..52]).filter(|id| *id != 0)?;
        let flags = u8::try_from(hex(&head[53..])?).ok()?;
        Some(Self {
            trace_id,
            span_id: u64::try_from(span_id).ok()?,
            sampled: flags & SAMPLED != 0,
        })
    }

    /// As a version 00 `traceparent`.
    pub fn header(&self) -> HeaderValue {
        let mut text = [b'-'; TRACEPARENT];
        write_hex(&mut text[..2], 0);
        write_hex(&mut text[3..35], self.trace_id);
        write_hex(&mut text[36..52], self.span_id.into());
        write_hex(&mut text[53..], if self.sampled { SAMPLED.into() } else { 0 });
        header(&text)
    }

    /// The trace id as it is written: 32 lower-case hex digits.
    pub fn trace_id_text(&self) -> String {
        format!("{:032x}", self.trace_id)
    }
}

/// Up to 32 hex digits; upper case is not allowed in a `traceparent`.
fn hex(digits: &[u8]) -> Option<u128> {
    digits.iter().try_fold(0, |value: u128, digit| {
        let digit = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some((value << 4) | u128::from(digit))
    })
}

/// A new request id: the text of a version 4 UUID.
pub fn request_id() -> HeaderValue {
    let high = (random() & !0xf000) | 0x4000;
    let low = (random() & !(0b11 << 62)) | (0b10 << 62);
    let mut text = *b"00000000-0000-0000-0000-000000000000";
    write_hex(&mut text[..8], (high >> 32).into());
    write_hex(&mut text[9..13], (high >> 16).into());
    write_hex(&mut text[14..18], high.into());
    write_hex(&mut text[19..23], (low >> 48).into());
    write_hex(&mut text[24..], low.into());
    header(&text)
}

/// The last digits of `value` in lower-case hex, as many as there is room for.
fn write_hex(room: &mut [u8], mut value: u128) {
    for digit in room.iter_mut().rev() {
        *digit = b"0123456789abcdef"[(value & 0xf) as usize];
        value >>= 4;
    }
}

fn header(text: &[u8]) -> HeaderValue {
    // Digits and hyphens are always a valid value.
    HeaderValue::from_bytes(text).unwrap_or(HeaderValue::from_static("-"))
}

/// Whether a request id from outside may be taken over: 8 to 64 letters, digits and hyphens.
pub fn valid_request_id(id: &str) -> bool {
    (8..=64).contains(&id.len())
        && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

thread_local! {
    static GENERATOR: RefCell<Xoshiro> = RefCell::new(Xoshiro::seeded());
}

fn random() -> u64 {
    GENERATOR.with_borrow_mut(Xoshiro::next)
}

/// As [`random`], but never 0, which is not a valid id.
fn random_id() -> u64 {
    random().max(1)
}

/// xoshiro256++ 1.0 of Blackman and Vigna.
struct Xoshiro([u64; 4]);

impl Xoshiro {
    fn seeded() -> Self {
        let mut seed = [0; 32];
        if getrandom::fill(&mut seed).is_err() {
            // No entropy from the system: std's hasher keys, which differ per process, and time.
            return Self([(); 4].map(|()| RandomState::new().hash_one(SystemTime::now()) | 1));
        }
        let mut state = [0; 4];
        for (word, bytes) in state.iter_mut().zip(seed.chunks_exact(8)) {
            *word = bytes.iter().fold(0, |word, byte| (word << 8) | u64::from(*byte));
        }
        // All zeros is the one state that the generator cannot leave.
        state[0] |= 1;
        Self(state)
    }

    fn next(&mut self) -> u64 {
        let [s0, s1, s2, s3] = &mut self.0;
        let result = s0.wrapping_add(*s3).rotate_left(23).wrapping_add(*s0);
        let shifted = *s1 << 17;
        *s2 ^= *s0;
        *s3 ^= *s1;
        *s1 ^= *s2;
        *s0 ^= *s3;
        *s2 ^= shifted;
        *s3 = s3.rotate_left(45);
        result
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    const VALID: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn reads_and_writes() {
        let context = TraceContext::parse(VALID.as_bytes()).expect("valid");
        assert_eq!(context.header(), VALID);
        assert_eq!(context.trace_id_text(), &VALID[3..35]);
        let child = context.child();
        assert_eq!((child.trace_id, child.sampled), (context.trace_id, true));
        assert_ne!(child.span_id, context.span_id);
        let root = TraceContext::root(false);
        assert_eq!(TraceContext::parse(root.header().as_bytes()), Some(root));
    }

    #[test]
    fn reads_strictly() {
        let none = |text: &str| assert_eq!(TraceContext::parse(text.as_bytes()), None, "{text}");
        none("");
        none(&VALID[..54]);
        none(&format!("{VALID}-00"));
        none(&VALID.replace('f', "F"));
        none(&VALID.replacen("00", "ff", 1));
        none(&VALID.replacen('-', "_", 1));
        none(&VALID.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)));
        none(&VALID.replace("00f067aa0ba902b7", &"0".repeat(16)));
        none(&format!(" {VALID}"));
        none(&VALID.replace("-01", "-0x"));
        none(&format!("{}.what", VALID.replacen("00", "01", 1)));
        let later = format!("{}-what", VALID.replacen("00", "01", 1));
        assert!(TraceContext::parse(later.as_bytes()).is_some(), "a later version");
        assert!(TraceContext::parse("é".repeat(40).as_bytes()).is_none());
    }

    #[test]
    fn request_ids() {
        let id = || request_id().to_str().expect("text").to_owned();
        let ids: HashSet<String> = (0..1000).map(|_| id()).collect();
        assert_eq!(ids.len(), 1000);
        for id in &ids {
            assert!(valid_request_id(id) && id.len() == 36, "{id}");
            assert_eq!(&id[14..15], "4", "{id}");
            assert!("89ab".contains(&id[19..20]), "{id}");
        }
        for bad in ["", "1234567", "with space", "with_underscore", &"a".repeat(65)] {
            assert!(!valid_request_id(bad), "{bad}");
        }
    }

    #[test]
    fn the_generator_is_xoshiro() {
        // First outputs of the reference implementation for the state 1, 2, 3, 4.
        let mut generator = Xoshiro([1, 2, 3, 4]);
        let first: [u64; 3] = std::array::from_fn(|_| generator.next());
        assert_eq!(first, [41_943_041, 58_720_359, 3_588_806_011_781_223]);
    }
}
