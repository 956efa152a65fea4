//! What Pingora calls: look up, fill, purge, renew a head.

use std::any::Any;
use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use http::header::CONTENT_LENGTH;
use pingora_cache::key::{CacheHashKey, CompactCacheKey};
use pingora_cache::storage::{PurgeOutcome, PurgeTarget, PurgeType, Storage};
use pingora_cache::trace::SpanHandle;
use pingora_cache::{CacheKey, CacheMeta, HitHandler, MissHandler};
use pingora_core::{Error, ErrorType, Result};
use tokio::task::spawn_blocking;

use super::Store;
use super::disk::{Disk, Loaded};
use super::figures::{From, Refused};
use super::head::{Edition, Head};
use super::memory::Object;
use super::reader::{Reader, Seat, failed};
use super::rules::{Rule, Scope, Verdict};
use super::writer::Writer;

type Hit = Option<(CacheMeta, HitHandler)>;

#[async_trait]
impl Storage for Store {
    async fn lookup(&'static self, key: &CacheKey, _: &SpanHandle) -> Result<Hit> {
        let key = combined(key);
        if let Some(hit) = self.join(key) {
            self.figures.hit(From::Fill);
            return Ok(Some(hit));
        }
        if let Some((object, since)) = self.memory.get(key, &self.rules) {
            self.figures.hit(From::Memory);
            return Ok(self.hit(key, object, since));
        }
        match &self.disk {
            Some(disk) => Ok(self.look_on_disk(disk, key).await),
            None => Ok(None),
        }
    }

    async fn lookup_streaming_write(
        &'static self,
        key: &CacheKey,
        tag: Option<&[u8]>,
        _: &SpanHandle,
    ) -> Result<Hit> {
        let id = tag.and_then(|tag| tag.try_into().ok()).map(u64::from_be_bytes);
        let fill = id.and_then(|id| self.fills.by_id(combined(key), id));
        let seat = fill.and_then(|fill| Seat::take(fill, self.fills.id()));
        Ok(seat.map(|seat| (seat.fill.parsed.meta(), Box::new(Reader::fill(seat)) as HitHandler)))
    }

    async fn get_miss_handler(
        &'static self,
        key: &CacheKey,
        meta: &CacheMeta,
        _: &SpanHandle,
    ) -> Result<MissHandler> {
        let began = self.clock.began(key);
        let (made, unstorable) = match Head::with_parsed(began, key.primary_bin(), meta) {
            Ok(made) => (Some(made), false),
            Err(why) => {
                log::debug!("an answer is not stored: {}", why.0);
                (Head::bare(began, key.primary_bin()), true)
            }
        };
        let (head, parsed) = made.ok_or_else(|| failed("no head"))?;
        let fill = self.fills.begin(combined(key), Arc::new(head), parsed, length(meta));
        let writer = Writer::new(self, fill);
        if unstorable {
            writer.pass(Refused::Head);
        } else if self.rules.forgot(began) {
            writer.pass(Refused::Late);
        } else {
            writer.expect(length(meta));
        }
        Ok(Box::new(writer))
    }

    async fn purge(
        &'static self,
        target: PurgeTarget<'_>,
        purge_type: PurgeType,
        _: &SpanHandle,
    ) -> Result<PurgeOutcome> {
        let key = target.key();
        let known = match purge_type {
            PurgeType::Eviction => self.evict(combined(key)),
            // All variants: they are asked for by the same URL.
            PurgeType::Invalidation => self.purge_known(key, false).await?,
        };
        Ok(if known { PurgeOutcome::Purged(None) } else { PurgeOutcome::NotFound })
    }

    async fn expire(
        &'static self,
        target: PurgeTarget<'_>,
        _: &SpanHandle,
    ) -> Result<PurgeOutcome> {
        let known = self.purge_known(target.key(), true).await?;
        Ok(if known { PurgeOutcome::Expired } else { PurgeOutcome::NotFound })
    }

    async fn update_meta(
        &'static self,
        key: &CacheKey,
        meta: &CacheMeta,
        _: &SpanHandle,
    ) -> Result<bool> {
        let began = self.clock.began(key);
        let Ok(head) = Head::new(began, key.primary_bin(), meta) else {
            // The old head stays, stale as it is.
            self.figures.refuse(Refused::Head);
            return Ok(false);
        };
        Ok(self.renew(combined(key), head, Edition::of(meta)).await)
    }

    fn support_streaming_partial_write(&self) -> bool {
        true
    }

    fn as_any(&self) -> &(dyn Any + Send + Sync + 'static) {
        self
    }
}

impl Store {
    fn join(&'static self, key: u128) -> Hit {
        let (fill, verdict) = self.fills.join(key, &self.rules)?;
        let seat = Seat::take(fill, self.fills.id())?;
        let since = match verdict {
            Verdict::Stale(since) => Some(since),
            Verdict::Keep | Verdict::Gone => None,
        };
        let meta = stale_since(seat.fill.parsed.meta(), since);
        Some((meta, Box::new(Reader::fill(seat))))
    }

    fn hit(&self, key: u128, object: Arc<Object>, since: Option<SystemTime>) -> Hit {
        let hits = object.hit();
        if let Some(disk) = self.disk.as_ref().filter(|_| hits == 0) {
            disk.admit_hit(key, &object);
        }
        let meta = self.memory.meta(&object, hits)?;
        Some((stale_since(meta, since), Box::new(Reader::memory(object))))
    }

    async fn look_on_disk(&'static self, disk: &'static Disk, key: u128) -> Hit {
        if let Some(object) = disk.pending(key) {
            let since = match object.judge(&self.rules) {
                Verdict::Gone => return None,
                Verdict::Stale(since) => Some(since),
                Verdict::Keep => None,
            };
            self.figures.hit(From::Disk);
            return self.hit(key, object, since);
        }
        if !disk.may_have(key) {
            return None;
        }
        let found = spawn_blocking(move || self.load(disk, key)).await.ok().flatten();
        found.inspect(|_| self.figures.hit(From::Disk))
    }

    /// Reads from the disk: a small object whole, and into memory. Blocks.
    fn load(&'static self, disk: &'static Disk, key: u128) -> Hit {
        let epoch = self.sweeper.epoch();
        let Loaded { stored, head } = disk.load(key)?;
        let since = match self.rules.verdict(&head) {
            Verdict::Gone => {
                disk.discard(key);
                return None;
            }
            Verdict::Stale(since) => Some(since),
            Verdict::Keep => None,
        };
        if stored.layout.len > self.memory.largest() {
            let meta = stale_since(head.parse()?.meta(), since);
            return Some((meta, Box::new(Reader::file(stored, key, self))));
        }
        let body = stored.body().map_err(|error| disk.unreadable(key, &error)).ok()?;
        let object = self.memory.object(Arc::new(head), body);
        let _moving = self.sweeper.moving();
        // A sweep that began meanwhile may have dropped the rule that kills this object.
        if self.sweeper.epoch() == epoch {
            self.memory.put(key, object.clone());
        }
        let meta = self.memory.meta(&object, 0)?;
        Some((stale_since(meta, since), Box::new(Reader::memory(object))))
    }

    /// Takes an object off, by Pingora's order. Other keys stay.
    fn evict(&'static self, key: u128) -> bool {
        let in_memory = self.memory.remove(key);
        let Some(disk) = self.disk.as_ref().filter(|disk| disk.contains(key)) else {
            return in_memory;
        };
        disk.outdate(key, u64::MAX);
        true
    }

    /// Purges by key if there is anything of that key: clients cause it, and rules are bounded.
    async fn purge_known(&'static self, key: &CompactCacheKey, soft: bool) -> Result<bool> {
        let primary = key.primary_bin();
        let keys = [u128::from_be_bytes(primary), combined(key)];
        let known = keys.iter().any(|key| {
            let on_disk = || self.disk.as_ref().is_some_and(|disk| disk.may_have(*key));
            self.fills.has(*key) || self.memory.peek(*key).is_some() || on_disk()
        });
        if known {
            let purged = self.purge(Rule { scope: Scope::Key(primary), soft }).await;
            purged.map_err(|e| Error::because(ErrorType::InternalError, "purge", e))?;
        }
        Ok(known)
    }

    /// Puts a newer head before a body, unless the object was purged or replaced meanwhile.
    async fn renew(&'static self, key: u128, head: Head, of: Option<Edition>) -> bool {
        let head = {
            let _moving = self.sweeper.moving();
            if self.rules.forgot(head.seq) {
                return false;
            }
            // A soft purge since the request began: what it brings is stale already.
            let head = match self.rules.verdict(&head) {
                Verdict::Stale(since) => head.expired(since, head.seq),
                Verdict::Keep | Verdict::Gone => Some(head),
            };
            let Some(head) = head.map(Arc::new) else { return false };
            let renewed = self.memory.renew(key, |old| {
                let alive = self.rules.verdict(&old.head) != Verdict::Gone;
                // A newer body must not get an older answer's head.
                let same = of.is_none_or(|of| of.0 == old.head.seq);
                (alive && same && old.head.seq <= head.seq).then(|| head.clone())
            });
            if let Some(object) = renewed {
                if let Some(disk) = &self.disk {
                    disk.renewed(key, &object);
                }
                return true;
            }
            head
        };
        let in_memory = self.memory.peek(key).is_some();
        match &self.disk {
            Some(disk) if !in_memory && disk.may_have(key) => {
                spawn_blocking(move || disk.renew(self, key, &head, of)).await.unwrap_or(false)
            }
            _ => false,
        }
    }
}

fn combined(key: &impl CacheHashKey) -> u128 {
    u128::from_be_bytes(key.combined_bin())
}

fn length(meta: &CacheMeta) -> Option<u64> {
    meta.headers().get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// `meta` as a soft purge leaves it.
fn stale_since(mut meta: CacheMeta, since: Option<SystemTime>) -> CacheMeta {
    if let Some(since) = since {
        meta.expire_at(since);
    }
    meta
}
