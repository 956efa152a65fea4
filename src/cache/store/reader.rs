//! A reader of an object: from memory, or from a fill under way.

use std::any::Any;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use pingora_cache::CacheKey;
use pingora_cache::storage::{HandleHit, Storage};
use pingora_cache::trace::SpanHandle;
use pingora_core::{Error, ErrorType, Result};

use super::fill::{Fill, Found};
use super::memory::Object;

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
}

pub struct Reader {
    source: Source,
    at: u64,
    /// Where it stops; `u64::MAX` is the body's end.
    until: u64,
}

impl Reader {
    pub fn memory(object: Arc<Object>) -> Reader {
        let until = object.body.len() as u64;
        Reader { source: Source::Memory(object), at: 0, until }
    }

    pub fn fill(seat: Seat) -> Reader {
        Reader { source: Source::Fill(seat), at: 0, until: u64::MAX }
    }

    fn length(&self) -> Option<u64> {
        match &self.source {
            Source::Memory(object) => Some(object.body.len() as u64),
            Source::Fill(seat) => seat.fill.length,
        }
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
            let fill = match &self.source {
                Source::Memory(_) if self.at >= self.until => return Ok(None),
                Source::Memory(object) => {
                    let data = object.body.slice(self.at as usize..self.until as usize);
                    return Ok(Some(self.took(data)));
                }
                Source::Fill(seat) => seat.fill.clone(),
            };
            // Listening before looking: a chunk that comes in between is not missed.
            let changed = fill.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            match fill.read(self.at, self.until) {
                Found::Data(data) => return Ok(Some(self.took(data))),
                Found::End => return Ok(None),
                Found::Failed => return Err(failed("the fill of this object was aborted")),
                Found::Spilled(_) => return Err(failed("a fill without a file")),
                Found::Wait => changed.await,
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
        matches!(self.source, Source::Memory(_))
    }

    fn seek(&mut self, start: usize, end: Option<usize>) -> Result<()> {
        let Some(length) = self.length() else {
            return Err(failed("no seek in a body of unknown length"));
        };
        if start as u64 >= length {
            return Err(failed("a seek beyond the end"));
        }
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
