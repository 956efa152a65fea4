//! An object's head: everything but the body, in one buffer, in an encoding of our own.
//!
//! Pingora's encoding (msgpack and zstd) costs 5 us at each hit. Ours is parsed once an object is
//! read a second time, and what it is parsed into is kept as long as there is room for it.

use std::sync::{Arc, LazyLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::header::HeaderName;
use http::{HeaderValue, StatusCode, Version};
use pingora::http::ResponseHeader;
use pingora_cache::CacheMeta;

use super::labels::{Labels, Mark, host_of};
use super::wire::{Reader, Writer};

/// Bytes of an encoded head. Pingora takes 1 MiB of headers; such an answer is not stored.
pub const MAX_HEAD: usize = 256 << 10;

const FORMAT: u8 = 1;
const HAS_CASE: u8 = 1;
const HAS_EPOCH: u8 = 2;
const HAS_VARIANCE: u8 = 4;

/// Why an answer cannot be stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unstorable(pub &'static str);

/// One version of an object's head. It never changes; a 304 makes another.
pub struct Head {
    /// When its fill or its revalidation began, on the store's clock.
    pub seq: u64,
    /// The hash of the key without its variance.
    pub primary: [u8; 16],
    /// What purge rules are looked up by: key, URL, host, tags.
    pub marks: Box<[Mark]>,
    wire: Bytes,
}

/// Edition head a lookup gave. Pingora carries it to the head that a 304 makes of it, which may
/// replace that one only: another may stand before another body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Edition(pub u64);

impl Edition {
    pub fn of(meta: &CacheMeta) -> Option<Edition> {
        meta.extensions().get::<Edition>().copied()
    }
}

/// A head as a hit needs it.
pub struct Parsed {
    edition: Edition,
    pub fresh_until: SystemTime,
    pub created: SystemTime,
    pub stale_while_revalidate: u32,
    pub stale_if_error: u32,
    pub epoch: Option<SystemTime>,
    pub variance: Option<[u8; 16]>,
    /// Pingora's own encoding of the times, where nothing else can bring them back.
    native: Option<Bytes>,
    pub header: ResponseHeader,
    pub labels: Arc<Labels>,
}

impl Head {
    pub fn new(seq: u64, primary: [u8; 16], meta: &CacheMeta) -> Result<Head, Unstorable> {
        Head::with_parsed(seq, primary, meta).map(|(head, _)| head)
    }

    /// The head, and what it says.
    pub fn with_parsed(
        seq: u64,
        primary: [u8; 16],
        meta: &CacheMeta,
    ) -> Result<(Head, Parsed), Unstorable> {
        let none = Labels::default();
        let labels = Labels::of(meta).unwrap_or(&none);
        if let Some(fault) = labels.fault() {
            return Err(Unstorable(fault));
        }
        let wire =
            encode(seq, &primary, meta, labels).ok_or(Unstorable("a head that is no text"))?;
        if wire.len() > MAX_HEAD {
            return Err(Unstorable("the head is too large"));
        }
        let head = Head {
            seq,
            primary,
            marks: marks(&primary, labels),
            wire: wire.into_boxed_slice().into(),
        };
        // Pingora lets origins send values that a `HeaderValue` would refuse.
        let parsed = head.parse().ok_or(Unstorable("a header that cannot be read back"))?;
        Ok((head, parsed))
    }

    /// A head of nothing, for an answer whose own cannot be kept and which is only passed on.
    pub fn bare(seq: u64, primary: [u8; 16]) -> Option<(Head, Parsed)> {
        let header = ResponseHeader::build_no_case(StatusCode::OK, Some(0)).ok()?;
        let meta = CacheMeta::new(UNIX_EPOCH, UNIX_EPOCH, 0, 0, header);
        Head::with_parsed(seq, primary, &meta).ok()
    }

    /// `None` if the bytes are not what `encode` writes.
    pub fn decode(wire: &[u8]) -> Option<Head> {
        let mut from = Reader(wire);
        (from.u8()? == FORMAT).then_some(())?;
        let seq = from.u64()?;
        let primary = from.array()?;
        let labels = Labels::read(&mut from)?;
        let marks = marks(&primary, &labels);
        let head = Head { seq, primary, marks, wire: Bytes::copy_from_slice(wire) };
        head.parse()?;
        Some(head)
    }

    pub fn encoded(&self) -> &Bytes {
        &self.wire
    }

    /// Bytes of memory besides those of `Parsed`.
    pub fn weight(&self) -> usize {
        self.wire.len() + self.marks.len() * size_of::<Mark>() + size_of::<Head>()
    }

    /// An estimate of what `parse` costs in memory: measured up to 3.8 KiB for 300 bytes.
    pub fn parsed_weight(&self) -> usize {
        1000 + self.wire.len() * 8
    }

    /// The label's URL, where prefixes match.
    pub fn url(&self) -> &str {
        let mut from = Reader(&self.wire);
        let url = from.take(1 + 8 + 16).and_then(|_| from.bytes());
        url.and_then(|url| std::str::from_utf8(url).ok()).unwrap_or_default()
    }

    pub fn parse(&self) -> Option<Parsed> {
        let mut from = Reader(&self.wire);
        from.u8()?;
        let edition = Edition(from.u64()?);
        from.take(16)?;
        let labels = Arc::new(Labels::read(&mut from)?);
        let flags = from.u8()?;
        let (fresh_until, created) = (time(from.i64()?), time(from.i64()?));
        let (stale_while_revalidate, stale_if_error) = (from.u32()?, from.u32()?);
        let epoch = (flags & HAS_EPOCH != 0).then(|| from.i64().map(time));
        let variance = (flags & HAS_VARIANCE != 0).then(|| from.array());
        let native = Some(from.bytes()?).filter(|native| !native.is_empty());
        Some(Parsed {
            edition,
            fresh_until,
            created,
            stale_while_revalidate,
            stale_if_error,
            epoch: epoch.map_or(Some(None), |epoch| epoch.map(Some))?,
            variance: variance.map_or(Some(None), |variance| variance.map(Some))?,
            native: native.map(Bytes::copy_from_slice),
            header: read_header(&mut from, flags & HAS_CASE != 0)?,
            labels,
        })
    }
}

impl Parsed {
    /// `CacheMeta` cannot be cloned, and making one anew is ten times faster than to decode it.
    pub fn meta(&self) -> CacheMeta {
        let native = self.native.as_ref().and_then(|native| {
            let mut meta = CacheMeta::deserialize(native, &EMPTY_HEADER).ok()?;
            *meta.response_header_mut() = self.header.clone();
            Some(meta)
        });
        let mut meta = native.unwrap_or_else(|| {
            CacheMeta::new(
                self.fresh_until,
                self.created,
                self.stale_while_revalidate,
                self.stale_if_error,
                self.header.clone(),
            )
        });
        if let Some(epoch) = self.epoch {
            meta.set_epoch_override(epoch);
        }
        if let Some(variance) = self.variance {
            meta.set_variance(variance);
        }
        meta.extensions_mut().insert(self.labels.clone());
        meta.extensions_mut().insert(self.edition);
        meta
    }
}

/// Pingora's encoding of a header of nothing.
static EMPTY_HEADER: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let header = ResponseHeader::build_no_case(StatusCode::OK, Some(0));
    let meta = header.map(|header| CacheMeta::new(UNIX_EPOCH, UNIX_EPOCH, 0, 0, header));
    meta.and_then(|meta| meta.serialize()).map(|(_, header)| header).unwrap_or_default()
});

fn marks(primary: &[u8; 16], labels: &Labels) -> Box<[Mark]> {
    let mut marks = vec![Mark::key(primary)];
    if !labels.url.is_empty() {
        marks.push(Mark::url(&labels.url));
        marks.push(Mark::host(host_of(&labels.url)));
    }
    for tag in &labels.tags {
        let mark = Mark::tag(tag);
        // Counted once, however often an origin names it.
        if !marks.contains(&mark) {
            marks.push(mark);
        }
    }
    marks.into()
}

/// Nanoseconds since 1970, as far as 64 bits reach (1677 to 2262).
fn nanos(time: SystemTime) -> i64 {
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => i64::try_from(after.as_nanos()).unwrap_or(i64::MAX),
        Err(before) => i64::try_from(before.duration().as_nanos()).map_or(i64::MIN, |n| -n),
    }
}

fn time(nanos: i64) -> SystemTime {
    let distance = Duration::from_nanos(nanos.unsigned_abs());
    let time = match nanos {
        0.. => UNIX_EPOCH.checked_add(distance),
        _ => UNIX_EPOCH.checked_sub(distance),
    };
    time.unwrap_or(UNIX_EPOCH)
}

fn encode(seq: u64, primary: &[u8; 16], meta: &CacheMeta, labels: &Labels) -> Option<Vec<u8>> {
    let mut out = Writer::default();
    out.u8(FORMAT);
    out.u64(seq);
    out.0.extend_from_slice(primary);
    labels.write(&mut out)?;
    // A revalidated object's age counts from its 304, and `updated` has no setter.
    let revalidated = (meta.updated() != meta.created()).then(|| meta.updated());
    let epoch = meta.epoch_override().or(revalidated);
    let header = meta.response_header();
    let case = if header.has_case() { HAS_CASE } else { 0 };
    let has_epoch = if epoch.is_some() { HAS_EPOCH } else { 0 };
    let has_variance = if meta.variance().is_some() { HAS_VARIANCE } else { 0 };
    out.u8(case | has_epoch | has_variance);
    out.i64(nanos(meta.fresh_until()));
    out.i64(nanos(meta.created()));
    out.u32(meta.stale_while_revalidate_sec());
    out.u32(meta.stale_if_error_sec());
    if let Some(epoch) = epoch {
        out.i64(nanos(epoch));
    }
    if let Some(variance) = meta.variance() {
        out.0.extend_from_slice(&variance);
    }
    // Variants that are older than the primary's provenance are dead, and it has no setter either.
    let native = meta.variance().is_some() && meta.provenance() != meta.created();
    let native = if native { meta.serialize().ok()?.0 } else { Vec::new() };
    out.bytes(&native)?;
    write_header(&mut out, header)?;
    Some(out.0)
}

fn write_header(out: &mut Writer, header: &ResponseHeader) -> Option<()> {
    out.u16(header.status.as_u16());
    out.u8(match header.version {
        Version::HTTP_10 => 10,
        Version::HTTP_2 => 20,
        _ => 11,
    });
    out.bytes(header.get_reason_phrase().unwrap_or_default().as_bytes())?;
    out.u16(u16::try_from(header.headers.len()).ok()?);
    if header.has_case() {
        for (name, value) in header.case_header_iter() {
            out.bytes(name.as_slice())?;
            out.bytes(value.as_bytes())?;
        }
        return Some(());
    }
    for (name, value) in &header.headers {
        out.bytes(name.as_str().as_bytes())?;
        out.bytes(value.as_bytes())?;
    }
    Some(())
}

fn read_header(from: &mut Reader<'_>, has_case: bool) -> Option<ResponseHeader> {
    let status = StatusCode::from_u16(from.u16()?).ok()?;
    let version = match from.u8()? {
        10 => Version::HTTP_10,
        20 => Version::HTTP_2,
        _ => Version::HTTP_11,
    };
    let reason = std::str::from_utf8(from.bytes()?).ok()?;
    let count = usize::from(from.u16()?);
    let build = if has_case { ResponseHeader::build } else { ResponseHeader::build_no_case };
    let mut header = build(status, Some(count)).ok()?;
    header.set_version(version);
    if Some(reason) != status.canonical_reason() {
        header.set_reason_phrase(Some(reason)).ok()?;
    }
    for _ in 0..count {
        let name = from.bytes()?;
        let value = HeaderValue::from_bytes(from.bytes()?).ok()?;
        if has_case {
            header.append_header(String::from_utf8(name.to_vec()).ok()?, value).ok()?;
        } else {
            header.append_header(HeaderName::from_bytes(name).ok()?, value).ok()?;
        }
    }
    Some(header)
}
