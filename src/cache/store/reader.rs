//! A reader of an object: from memory, from a file, or from a fill under way.

use std::any::Any;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use pingora_cache::CacheKey;
use pingora_cache::storage::{HandleHit, Storage};
use pingora_cache::trace::SpanHandle;
use pingora_core::{Error, ErrorType, Result};
use tokio::task::{JoinHandle, spawn_blocking};

use super::disk::Stored;
use super::fill::{Fill, Found};
use super::memory::Object;
use super::{CHUNK, Store};

/// A reader's place at a fill. It is given up when this is dropped.
pub struct Seat {
    pub fill: Arc<Fill>,
    id: u64,
}

impl Seat {
    /// `None` if the start of the fill is gone already.
    pub fn take(fill: Arc<Fill>, id: u64) -> Option<Seat> {
        fill.attach(id).then(|| Seat { fill, id })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.fill.reader(self.id, None);
    }
}

enum Source {
    Memory(Arc<Object>),
    Fill(Seat),
    File(Arc<Stored>, u128, &'static Store),
}

type Pool = JoinHandle<std::io::Result<Bytes>>;

enum Step {
    Data(Bytes),
    End,
    Pool(Pool),
    Again,
}

pub struct Reader {
    source: Source,
    /// A read in the blocking pool. Kept here, as Pingora may drop the future that waits for it.
    pool: Option<Pool>,
    at: u64,
    /// Where it stops; `u64::MAX` is the body's end.
    until: u64,
}

impl Reader {
    pub fn memory(object: Arc<Object>) -> Reader {
        let until = object.body.len() as u64;
        Reader { source: Source::Memory(object), pool: None, at: 0, until }
    }

    pub fn fill(seat: Seat) -> Reader {
        Reader { source: Source::Fill(seat), pool: None, at: 0, until: u64::MAX }
    }

    pub fn file(stored: Stored, key: u128, store: &'static Store) -> Reader {
        let until = stored.layout.len;
        Reader { source: Source::File(Arc::new(stored), key, store), pool: None, at: 0, until }
    }

    fn length(&self) -> Option<u64> {
        match &self.source {
            Source::Memory(object) => Some(object.body.len() as u64),
            Source::Fill(seat) => seat.fill.length,
            Source::File(stored, ..) => Some(stored.layout.len),
        }
    }

    fn file_step(&self, stored: &Arc<Stored>) -> Result<Step> {
        let piece = self.at / CHUNK as u64;
        let now = stored.piece_now(piece).map_err(|error| self.unreadable(error))?;
        if let Some(data) = now {
            return Ok(Step::Data(self.part(data)));
        }
        let stored = stored.clone();
        Ok(Step::Pool(spawn_blocking(move || stored.piece(piece))))
    }

    /// What is wanted of the piece at which the reader is.
    fn part(&self, piece: Bytes) -> Bytes {
        let begins = self.at / CHUNK as u64 * CHUNK as u64;
        let end = piece.len().min((self.until - begins) as usize);
        piece.slice((self.at - begins) as usize..end)
    }

    async fn fill_step(&self, fill: Arc<Fill>) -> Result<Step> {
        // Listening before looking: a chunk that comes in between is not missed.
        let changed = fill.changed.notified();
        tokio::pin!(changed);
        changed.as_mut().enable();
        let count = match fill.read(self.at, self.until) {
            Found::Data(data) => return Ok(Step::Data(data)),
            Found::End => return Ok(Step::End),
            Found::Failed => return Err(failed("the fill of this object was aborted")),
            Found::Wait => {
                changed.await;
                return Ok(Step::Again);
            }
            Found::Spilled(count) => count,
        };
        let spill = fill.spill.get().cloned().ok_or_else(|| failed("a fill without its file"))?;
        let at = self.at;
        match spill.read_now(at, count) {
            Ok(Some(data)) => Ok(Step::Data(data)),
            Ok(None) => Ok(Step::Pool(spawn_blocking(move || spill.read(at, count)))),
            Err(error) => Err(self.unreadable(error)),
        }
    }

    async fn pool_read(&mut self) -> Result<Bytes> {
        let Some(pool) = &mut self.pool else { return Err(failed("nothing to wait for")) };
        let read = pool.await;
        self.pool = None;
        let read = read.unwrap_or_else(|gone| Err(std::io::Error::other(gone)));
        let data = read.map_err(|error| self.unreadable(error))?;
        let data = if let Source::File(..) = self.source { self.part(data) } else { data };
        Ok(self.took(data))
    }

    /// A file that breaks is no object any more.
    fn unreadable(&self, error: std::io::Error) -> Box<Error> {
        let text = Error::because(ErrorType::InternalError, "a cached file", error.to_string());
        if let Source::File(_, key, store) = self.source {
            spawn_blocking(move || {
                if let Some(disk) = &store.disk {
                    disk.unreadable(key, &error);
                }
            });
        }
        text
    }

    fn took(&mut self, data: Bytes) -> Bytes {
        self.at += data.len() as u64;
        if let Source::Fill(seat) = &self.source {
            seat.fill.reader(seat.id, Some(self.at));
        }
        data
    }
}

/// What a client's connection is closed with. The log says more than its text.
pub fn failed(what: &'static str) -> Box<Error> {
    Error::explain(ErrorType::InternalError, what)
}

#[async_trait]
impl HandleHit for Reader {
    async fn read_body(&mut self) -> Result<Option<Bytes>> {
        loop {
            if self.pool.is_some() {
                return self.pool_read().await.map(Some);
            }
            let step = match &self.source {
                Source::Memory(_) | Source::File(..) if self.at >= self.until => return Ok(None),
                Source::Memory(object) => {
                    Step::Data(object.body.slice(self.at as usize..self.until as usize))
                }
                Source::File(stored, ..) => self.file_step(stored)?,
                Source::Fill(seat) => self.fill_step(seat.fill.clone()).await?,
            };
            match step {
                Step::Data(data) => return Ok(Some(self.took(data))),
                Step::End => return Ok(None),
                Step::Pool(pool) => self.pool = Some(pool),
                Step::Again => {}
            }
        }
    }

    async fn finish(
        self: Box<Self>,
        _: &'static (dyn Storage + Sync),
        _: &CacheKey,
        _: &SpanHandle,
    ) -> Result<()> {
        Ok(())
    }

    fn can_seek(&self) -> bool {
        self.length().is_some()
    }

    fn can_seek_multipart(&self) -> bool {
        // A fill that is passed on keeps nothing to go back to.
        !matches!(self.source, Source::Fill(_))
    }

    fn seek(&mut self, start: usize, end: Option<usize>) -> Result<()> {
        let Some(length) = self.length() else {
            return Err(failed("no seek in a body of unknown length"));
        };
        if start as u64 >= length {
            return Err(failed("a seek beyond the end"));
        }
        self.pool = None;
        self.at = start as u64;
        self.until = end.map_or(length, |end| (end as u64).min(length));
        Ok(())
    }

    fn should_count_access(&self) -> bool {
        // The tiers count themselves.
        false
    }

    fn as_any(&self) -> &(dyn Any + Send + Sync) {
        self
    }

    fn as_any_mut(&mut self) -> &mut (dyn Any + Send + Sync) {
        self
    }
}
