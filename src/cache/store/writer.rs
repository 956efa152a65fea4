//! The writer of a fill: bytes in, and an object out if the body was whole.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use pingora_cache::storage::{HandleMiss, MissFinishType};
use pingora_core::{Error, ErrorType, Result};
use tokio::task::spawn_blocking;

use super::disk::{Disk, Spill};
use super::figures::Refused;
use super::fill::{End, Fill};
use super::reader::failed;
use super::{CHUNK, Store};

/// Bytes of a spilled fill that stay in memory for readers that are close behind.
const WINDOW: u64 = 2 << 20;

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

    /// Why so many bytes cannot be kept.
    fn bound(&self, len: u64) -> Option<Refused> {
        if len > self.store.memory.largest() {
            let Some(disk) = self.disk(len) else { return Some(Refused::Size) };
            return (!disk.writable()).then_some(Refused::Disk);
        }
        let fills = self.store.fills.held() > self.store.memory.limit();
        fills.then_some(Refused::Fills)
    }

    /// The disk, if so many bytes may be there.
    fn disk(&self, len: u64) -> Option<&'static Disk> {
        self.store.disk.as_ref().filter(|disk| len <= disk.largest())
    }

    fn keep(&self) {
        let Some(body) = self.fill.body() else { return };
        let object = self.store.memory.object(self.fill.head.clone(), body);
        let kept = self.store.memory.put(self.fill.key, object.clone());
        if let (true, Some(disk)) = (kept, &self.store.disk) {
            disk.admit_fill(self.fill.key, &object);
        }
    }

    /// Brings what is too much for memory into the file: whole pieces, or at the end `all`.
    ///
    /// The writer waits for the disk, so an origin is read no faster than it can be kept.
    async fn spill(&self, disk: &'static Disk, all: bool) -> std::io::Result<()> {
        let (fill, key) = (self.fill.clone(), self.fill.key);
        let spill = match fill.spill.get() {
            Some(spill) => spill.clone(),
            None => {
                let head = fill.head.clone();
                let made = blocking(move || Spill::create(disk, key, &head)).await?;
                fill.spill.get_or_init(|| Arc::new(made)).clone()
            }
        };
        loop {
            let (at, piece) = fill.unspilled(CHUNK);
            if piece.is_empty() || (piece.len() < CHUNK && !all) {
                return Ok(());
            }
            let (spill, count) = (spill.clone(), piece.len());
            blocking(move || spill.write(disk, at, &piece)).await?;
            fill.spilled(count, WINDOW);
        }
    }

    /// Makes the file an object. The body is whole, so its readers are served if this fails too.
    async fn publish(&self, disk: &'static Disk, len: u64) -> std::io::Result<bool> {
        self.spill(disk, true).await?;
        let (store, fill) = (self.store, self.fill.clone());
        let Some(spill) = fill.spill.get().cloned() else { return Ok(false) };
        let published = blocking(move || spill.publish(store, disk, &fill.head, len));
        let published = published.await?;
        if published {
            // What is in memory is older; it was not, if it is newer.
            self.store.memory.remove_older(self.fill.key, self.fill.head.seq);
        }
        Ok(published)
    }

    fn disk_failed(&self, disk: &Disk, error: &std::io::Error) {
        disk.write_failed(error);
        self.pass(Refused::Disk);
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> std::io::Result<T> {
    spawn_blocking(work).await.unwrap_or_else(|gone| Err(std::io::Error::other(gone)))
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
        if self.fill.passing() {
            return Ok(());
        }
        if let Some(why) = self.bound(len) {
            self.pass(why);
        } else if len > self.store.memory.largest()
            && let Some(disk) = self.disk(len)
            && let Err(error) = self.spill(disk, false).await
        {
            self.disk_failed(disk, &error);
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
            match (&self.store.disk, self.fill.spill.get()) {
                (Some(disk), Some(_)) => {
                    if let Err(error) = self.publish(disk, len).await {
                        self.disk_failed(disk, &error);
                    }
                }
                _ => self.keep(),
            }
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
