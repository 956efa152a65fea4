//! The writer of a fill: bytes in, and an object out if the body was whole.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use pingora_cache::storage::{HandleMiss, MissFinishType};
use pingora_core::{Error, ErrorType, Result};

use super::Store;
use super::figures::Refused;
use super::fill::{End, Fill};
use super::reader::failed;

pub struct Writer {
    store: &'static Store,
    fill: Arc<Fill>,
    tag: [u8; 8],
    done: bool,
}

impl Writer {
    pub fn new(store: &'static Store, fill: Arc<Fill>) -> Writer {
        let tag = fill.id.to_be_bytes();
        Writer { store, fill, tag, done: false }
    }

    /// Takes an answer of a known length, or passes it on if that is too much.
    pub fn expect(&self, length: Option<u64>) {
        if let Some(why) = self.bound(length.unwrap_or(0)) {
            self.pass(why);
        }
    }

    /// Goes on without storing.
    pub fn pass(&self, why: Refused) {
        if !self.fill.passing() {
            self.store.figures.refuse(why);
            self.fill.pass();
        }
    }

    /// Whether so many bytes can be kept.
    fn bound(&self, len: u64) -> Option<Refused> {
        if len > self.store.memory.largest() {
            return Some(Refused::Size);
        }
        let fills = self.store.fills.held() > self.store.memory.limit();
        fills.then_some(Refused::Fills)
    }

    fn keep(&self) {
        let Some(body) = self.fill.body() else { return };
        let object = self.store.memory.object(self.fill.head.clone(), body);
        self.store.memory.put(self.fill.key, object);
    }
}

#[async_trait]
impl HandleMiss for Writer {
    async fn write_body(&mut self, data: Bytes, _: bool) -> Result<()> {
        if data.is_empty() {
            return Ok(());
        }
        let written = self.fill.write(data);
        let len =
            written.map_err(|stop| Error::because(ErrorType::InternalError, "cache", stop))?;
        if let Some(why) = self.bound(len) {
            self.pass(why);
        }
        Ok(())
    }

    async fn finish(mut self: Box<Self>) -> Result<MissFinishType> {
        let len = self.fill.len();
        if self.fill.length.is_some_and(|length| length != len) {
            // Dropped now, which tells the readers.
            return Err(failed("the body is not as long as its Content-Length"));
        }
        if !self.fill.passing() {
            self.keep();
        }
        self.done = true;
        self.store.fills.remove(&self.fill);
        self.fill.end(End::Complete);
        self.store.figures.filled();
        Ok(MissFinishType::Created(usize::try_from(len).unwrap_or(usize::MAX)))
    }

    fn streaming_write_tag(&self) -> Option<&[u8]> {
        Some(&self.tag)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if !self.done {
            self.store.fills.remove(&self.fill);
            self.fill.end(End::Failed);
            self.store.figures.aborted();
        }
    }
}
