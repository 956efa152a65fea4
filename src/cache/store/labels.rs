//! What an object can be purged by, and what the policy wants to know of it again.
//!
//! The policy attaches labels to a `CacheMeta` before it is stored; each lookup gives them back.

use std::sync::Arc;

use bytes::Bytes;
use http::HeaderMap;
use pingora_cache::CacheMeta;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::wire::{Reader, Writer};

/// Tags of one object. One with more is not stored: a purge by a dropped tag would miss it.
pub const MAX_TAGS: usize = 256;
/// Bytes of one tag.
pub const MAX_TAG_BYTES: usize = 1024;

/// Names of an object besides its key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Labels {
    /// Host, path and query, without a scheme: `example.org/list?page=2`. Purges by URL, prefix and
    /// host look at this.
    pub url: Box<str>,
    pub tags: Box<[Box<str>]>,
    /// The policy's own; the store only carries it.
    pub note: Bytes,
}

impl Labels {
    /// Lets `meta` carry these into the store.
    pub fn attach(self, meta: &mut CacheMeta) {
        meta.extensions_mut().insert(Arc::new(self));
    }

    /// The labels that a lookup or `attach` left on `meta`.
    pub fn of(meta: &CacheMeta) -> Option<&Labels> {
        meta.extensions().get::<Arc<Labels>>().map(AsRef::as_ref)
    }

    /// The tags that an origin gave: `Surrogate-Key` separates them by spaces, `Cache-Tag` by commas.
    pub fn tags_of(headers: &HeaderMap) -> Vec<Box<str>> {
        let mut tags: Vec<Box<str>> = Vec::new();
        for (name, separator) in [("surrogate-key", ' '), ("cache-tag", ',')] {
            let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
            tags.extend(
                values
                    .flat_map(|value| value.split(separator))
                    .map(str::trim)
                    .filter(|tag| !tag.is_empty())
                    .map(Box::from),
            );
        }
        tags.sort_unstable();
        tags.dedup();
        tags
    }

    /// Why an object with these cannot be stored.
    pub fn fault(&self) -> Option<&'static str> {
        if self.tags.len() > MAX_TAGS {
            return Some("too many tags");
        }
        self.tags.iter().any(|tag| tag.len() > MAX_TAG_BYTES).then_some("a tag is too long")
    }

    pub(super) fn write(&self, out: &mut Writer) -> Option<()> {
        out.bytes(self.url.as_bytes())?;
        out.u16(u16::try_from(self.tags.len()).ok()?);
        for tag in &self.tags {
            out.bytes(tag.as_bytes())?;
        }
        out.bytes(&self.note)
    }

    pub(super) fn read(from: &mut Reader<'_>) -> Option<Labels> {
        let url = std::str::from_utf8(from.bytes()?).ok()?.into();
        let mut tags = Vec::new();
        for _ in 0..from.u16()? {
            tags.push(Box::from(std::str::from_utf8(from.bytes()?).ok()?));
        }
        Some(Labels { url, tags: tags.into(), note: Bytes::copy_from_slice(from.bytes()?) })
    }
}

/// The part of a label's URL before its path.
pub fn host_of(url: &str) -> &str {
    url.find(['/', '?']).map_or(url, |end| &url[..end])
}

/// A hash of something to purge by. Two that collide are purged together, which is safe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Mark(pub u64);

impl Mark {
    pub fn key(primary: &[u8; 16]) -> Mark {
        Mark(xxh3_64_with_seed(primary, 1))
    }

    pub fn url(url: &str) -> Mark {
        Mark(xxh3_64_with_seed(url.as_bytes(), 2))
    }

    pub fn host(host: &str) -> Mark {
        Mark(xxh3_64_with_seed(host.as_bytes(), 3))
    }

    pub fn tag(tag: &str) -> Mark {
        Mark(xxh3_64_with_seed(tag.as_bytes(), 4))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_of_both_headers_are_split_their_way_and_given_once() {
        let mut headers = HeaderMap::new();
        headers.append("surrogate-key", "b  a,x".parse().unwrap());
        headers.append("cache-tag", "c, b ,,d e".parse().unwrap());
        let tags = Labels::tags_of(&headers);
        assert_eq!(tags.iter().map(AsRef::as_ref).collect::<Vec<_>>(), ["a,x", "b", "c", "d e"]);
    }

    #[test]
    fn a_host_ends_at_the_path_or_the_query() {
        for (url, host) in [("a:80/b", "a:80"), ("a?b", "a"), ("a", "a"), ("", "")] {
            assert_eq!(host_of(url), host, "{url}");
        }
    }
}
