//! `res.cache`: how the origin's response is stored.

use std::time::Duration;

use rhai::{Array, Dynamic};

use super::convert::scalar_text;
use super::objects::Response;
use super::table::Table;
use super::{Outcome, fail, invalid};
use crate::cache::policy::Wishes;

/// Tags of one response at most, and bytes of one, as the store takes them.
const MOST_TAGS: usize = 256;
const LONGEST_TAG: usize = 1024;
/// Ten years, as with durations of the configuration.
const LONGEST: f64 = 10.0 * 365.0 * 86_400.0;

#[derive(Clone)]
pub struct CacheHandle(Response);

impl CacheHandle {
    fn read<T>(&self, read: impl FnOnce(&Wishes) -> T) -> Outcome<T> {
        self.0.0.read(|draft| draft.cache.as_deref().map(read)).ok_or_else(elsewhere)
    }

    fn write(&self, write: impl FnOnce(&mut Wishes)) -> Outcome<()> {
        self.0.0.write(|draft| draft.cache.as_deref_mut().map(write)).ok_or_else(elsewhere)
    }
}

/// Later it is stored already, and what a filter makes is not stored at all.
fn elsewhere() -> super::Raised {
    fail("invalid", "res.cache is there in on_upstream_response only")
}

pub fn area(table: &mut Table) {
    table.area("Cache");
    table
        .get(
            "res.cache",
            "How the response is stored, on a route with a cache; in on_upstream_response.",
            |r: &mut Response| CacheHandle(r.clone()),
        )
        .example("res.cache.ttl == ()")
        .get(
            "cache.ttl",
            "Seconds for which it is fresh, in place of what the origin says; or `()`. Can be set.",
            |c: &mut CacheHandle| c.read(|wishes| shown(wishes.ttl)),
        )
        .example("res.cache.ttl = 60; res.cache.ttl == 60")
        .set("cache.ttl", |c: &mut CacheHandle, value: Dynamic| -> Outcome<()> {
            let time = time(&value)?;
            c.write(|wishes| wishes.ttl = time)
        })
        .get(
            "cache.stale_while_revalidate",
            "Seconds for which it is then served while it is refreshed, or `()`. Can be set.",
            |c: &mut CacheHandle| c.read(|wishes| shown(wishes.stale_while_revalidate)),
        )
        .example("res.cache.stale_while_revalidate = 5; res.cache.stale_while_revalidate == 5")
        .set("cache.stale_while_revalidate", |c: &mut CacheHandle, value: Dynamic| -> Outcome<()> {
            let time = time(&value)?;
            c.write(|wishes| wishes.stale_while_revalidate = time)
        })
        .get(
            "cache.stale_if_error",
            "Seconds for which it stands in for an origin that fails, or `()`. Can be set.",
            |c: &mut CacheHandle| c.read(|wishes| shown(wishes.stale_if_error)),
        )
        .example("res.cache.stale_if_error = 5; res.cache.stale_if_error == 5")
        .set("cache.stale_if_error", |c: &mut CacheHandle, value: Dynamic| -> Outcome<()> {
            let time = time(&value)?;
            c.write(|wishes| wishes.stale_if_error = time)
        });
    purging(table);
}

fn purging(table: &mut Table) {
    table
        .get(
            "cache.tags",
            "Names to purge it by, beside those of `Surrogate-Key` and `Cache-Tag`. Can be set.",
            |c: &mut CacheHandle| -> Outcome<Array> {
                c.read(|wishes| wishes.tags.iter().map(|tag| tag.as_str().into()).collect())
            },
        )
        .example(r#"res.cache.tags = ["a", "b"]; res.cache.tags == ["a", "b"]"#)
        .set("cache.tags", |c: &mut CacheHandle, tags: Array| -> Outcome<()> {
            let tags = tags.iter().map(tag).collect::<Outcome<Vec<_>>>()?;
            if tags.len() > MOST_TAGS {
                return Err(fail("limit", format!("a response has at most {MOST_TAGS} tags")));
            }
            c.write(|wishes| wishes.tags = tags)
        })
        .get(
            "cache.no_store",
            "Whether it is not stored, whatever the origin says. Can be set.",
            |c: &mut CacheHandle| c.read(|wishes| wishes.no_store),
        )
        .example("res.cache.no_store = true; res.cache.no_store")
        .set("cache.no_store", |c: &mut CacheHandle, value: bool| -> Outcome<()> {
            c.write(|wishes| wishes.no_store = value)
        });
}

fn shown(time: Option<Duration>) -> Dynamic {
    time.map_or(Dynamic::UNIT, |time| Dynamic::from(time.as_secs().cast_signed()))
}

/// Whole seconds, as HTTP counts them; `()` takes the wish back.
fn time(value: &Dynamic) -> Outcome<Option<Duration>> {
    if value.is_unit() {
        return Ok(None);
    }
    let seconds = value.as_float().or_else(|_| value.as_int().map(|int| int as f64));
    match seconds {
        Ok(seconds) if (0.0..=LONGEST).contains(&seconds) => {
            Ok(Some(Duration::from_secs(seconds as u64)))
        }
        Ok(_) => Err(invalid("seconds are 0 to ten years")),
        Err(_) => Err(invalid("seconds are a number")),
    }
}

fn tag(value: &Dynamic) -> Outcome<String> {
    let tag = scalar_text(value)?;
    let plain = !tag.is_empty() && tag.len() <= LONGEST_TAG && !tag.contains(char::is_control);
    match plain {
        true => Ok(tag),
        false => Err(invalid("a tag is text of 1 to 1024 bytes")),
    }
}
