//! A fill under way: one writer, any number of readers, and the bytes between them.
//!
//! The end of the body is told only once its length was verified. A fill that fails tells its
//! readers so; a short body never looks whole.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::disk::Spill;
use super::head::{Head, Parsed};
use super::rules::{Rules, Verdict};

/// Bytes of a passing answer (one that will not be stored) that wait for its slowest reader.
///
/// The writer cannot wait for readers: Pingora drives a request's writer and reader in one task.
pub const MAX_LAG: u64 = 16 << 20;
/// Bytes that a reader of a passing answer takes at once, so that it keeps up with the writer.
const GULP: usize = 1 << 20;
const SHARDS: usize = 64;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Complete,
    Failed,
}

#[derive(Default)]
struct State {
    /// Chunks with the offset of their first byte.
    chunks: VecDeque<(u64, Bytes)>,
    /// The offset of the first byte in `chunks`.
    base: u64,
    len: u64,
    end: Option<End>,
    /// It will not be stored: what all readers have had is dropped.
    passing: bool,
    /// Bytes from the start that a file holds.
    spilled: u64,
    /// Where each reader is.
    readers: HashMap<u64, u64>,
}

/// What a reader finds.
pub enum Found {
    Data(Bytes),
    /// So many bytes from there on, in the file.
    Spilled(usize),
    Wait,
    End,
    Failed,
}

/// Why a writer must stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Stop {
    #[error("too large to be stored, and its reader is too slow to pass it on")]
    Lag,
    #[error("too large to be stored, and nobody reads it")]
    Unread,
}

pub struct Fill {
    pub key: u128,
    pub id: u64,
    pub head: Arc<Head>,
    pub parsed: Parsed,
    /// What the answer's Content-Length says.
    pub length: Option<u64>,
    pub changed: Notify,
    /// Its file, once it has become too large for memory.
    pub spill: OnceLock<Arc<Spill>>,
    state: Mutex<State>,
    /// Bytes that all fills hold in memory.
    held: Arc<AtomicI64>,
}

impl Drop for Fill {
    fn drop(&mut self) {
        let state = self.state.get_mut();
        let left: usize = state.chunks.iter().map(|(_, chunk)| chunk.len()).sum();
        self.held.fetch_sub(left as i64, Ordering::AcqRel);
    }
}

impl Fill {
    pub fn write(&self, data: Bytes) -> Result<u64, Stop> {
        let mut state = self.state.lock();
        self.held.fetch_add(data.len() as i64, Ordering::AcqRel);
        let offset = state.len;
        state.len += data.len() as u64;
        state.chunks.push_back((offset, data));
        if state.passing {
            self.trim(&mut state);
            if state.readers.is_empty() {
                return Err(Stop::Unread);
            }
            if state.len - state.base > MAX_LAG {
                return Err(Stop::Lag);
            }
        }
        let len = state.len;
        drop(state);
        self.changed.notify_waiters();
        Ok(len)
    }

    /// From here on it is handed to its readers and not stored.
    pub fn pass(&self) {
        let mut state = self.state.lock();
        state.passing = true;
        self.trim(&mut state);
    }

    pub fn passing(&self) -> bool {
        self.state.lock().passing
    }

    pub fn end(&self, end: End) {
        let mut state = self.state.lock();
        if state.end.is_none() {
            state.end = Some(end);
        }
        drop(state);
        self.changed.notify_waiters();
    }

    pub fn len(&self) -> u64 {
        self.state.lock().len
    }

    /// The whole body, if all of it is in memory.
    pub fn body(&self) -> Option<Bytes> {
        let state = self.state.lock();
        if state.base > 0 {
            return None;
        }
        match state.chunks.front() {
            // A chunk may be a small part of a large buffer, as HTTP/2 reads them: copy it.
            Some((_, only)) if state.chunks.len() == 1 && only.len() > 64 << 10 => {
                Some(only.clone())
            }
            _ => {
                let mut body = Vec::with_capacity(state.len as usize);
                for (_, chunk) in &state.chunks {
                    body.extend_from_slice(chunk);
                }
                Some(body.into())
            }
        }
    }

    /// Up to `most` bytes that no file holds yet, and where they begin.
    pub fn unspilled(&self, most: usize) -> (u64, Bytes) {
        let state = self.state.lock();
        (state.spilled, gather(&state, state.spilled, most))
    }

    /// A file holds `count` bytes more; memory keeps the last `window`.
    pub fn spilled(&self, count: usize, window: u64) {
        let mut state = self.state.lock();
        state.spilled += count as u64;
        let keep = state.spilled.saturating_sub(window);
        self.drop_until(&mut state, keep);
    }

    /// What is at `at`, for a reader that wants to go to `until`.
    pub fn read(&self, at: u64, until: u64) -> Found {
        let state = self.state.lock();
        if state.end == Some(End::Failed) {
            return Found::Failed;
        }
        let limit = until.min(state.len);
        if at < limit {
            if at < state.base {
                let there = limit.min(state.base).min(state.spilled);
                let count = there.saturating_sub(at).min(super::CHUNK as u64) as usize;
                return if count > 0 { Found::Spilled(count) } else { Found::Failed };
            }
            return Found::Data(if state.passing {
                gather(&state, at, GULP.min((limit - at) as usize))
            } else {
                piece(&state, at, limit)
            });
        }
        // Whoever reads to the body's end learns of it when it was verified.
        let inner = self.length.is_some_and(|length| until < length);
        if state.end == Some(End::Complete) || (inner && at >= until) {
            return Found::End;
        }
        Found::Wait
    }

    /// Takes a reader at the start, as long as the start is there.
    pub fn attach(&self, id: u64) -> bool {
        let mut state = self.state.lock();
        if state.passing && state.base > 0 {
            return false;
        }
        state.readers.insert(id, 0);
        true
    }

    /// Notes where a reader is; `None` is: gone.
    pub fn reader(&self, id: u64, at: Option<u64>) {
        let mut state = self.state.lock();
        match at {
            Some(at) => state.readers.insert(id, at),
            None => state.readers.remove(&id),
        };
        if state.passing {
            self.trim(&mut state);
        }
    }

    fn trim(&self, state: &mut State) {
        let keep = state.readers.values().copied().min().unwrap_or(state.len);
        self.drop_until(state, keep);
    }

    fn drop_until(&self, state: &mut State, keep: u64) {
        while let Some((offset, chunk)) = state.chunks.front() {
            let end = offset + chunk.len() as u64;
            if end > keep {
                break;
            }
            self.held.fetch_sub(chunk.len() as i64, Ordering::AcqRel);
            state.base = end;
            state.chunks.pop_front();
        }
    }
}

fn position(state: &State, at: u64) -> usize {
    state.chunks.partition_point(|(offset, chunk)| offset + chunk.len() as u64 <= at)
}

/// The rest of the chunk at `at`, up to `limit`.
fn piece(state: &State, at: u64, limit: u64) -> Bytes {
    let (offset, chunk) = &state.chunks[position(state, at)];
    chunk.slice((at - offset) as usize..chunk.len().min((limit - offset) as usize))
}

fn gather(state: &State, from: u64, most: usize) -> Bytes {
    let count = most.min((state.len - from) as usize);
    let mut gathered = BytesMut::with_capacity(count);
    let mut index = position(state, from);
    while gathered.len() < count {
        let (offset, chunk) = &state.chunks[index];
        let start = (from + gathered.len() as u64 - offset) as usize;
        let end = chunk.len().min(start + count - gathered.len());
        gathered.extend_from_slice(&chunk[start..end]);
        index += 1;
    }
    gathered.freeze()
}

type ByKey = HashMap<u128, Vec<Arc<Fill>>>;

/// The fills under way, by key. There are several of one key after a purge, or without a lock.
pub struct Fills {
    shards: Box<[Mutex<ByKey>]>,
    count: AtomicU64,
    ids: AtomicU64,
    held: Arc<AtomicI64>,
}

impl Default for Fills {
    fn default() -> Fills {
        Fills {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            count: AtomicU64::new(0),
            ids: AtomicU64::new(1),
            held: Arc::default(),
        }
    }
}

impl Fills {
    pub fn begin(
        &self,
        key: u128,
        head: Arc<Head>,
        parsed: Parsed,
        length: Option<u64>,
    ) -> Arc<Fill> {
        let fill = Arc::new(Fill {
            key,
            id: self.id(),
            head,
            parsed,
            length,
            changed: Notify::new(),
            spill: OnceLock::new(),
            state: Mutex::default(),
            held: self.held.clone(),
        });
        self.count.fetch_add(1, Ordering::AcqRel);
        self.shard(key).lock().entry(key).or_default().push(fill.clone());
        fill
    }

    pub fn remove(&self, fill: &Fill) {
        let mut shard = self.shard(fill.key).lock();
        let Some(fills) = shard.get_mut(&fill.key) else { return };
        let before = fills.len();
        fills.retain(|other| other.id != fill.id);
        self.count.fetch_sub((before - fills.len()) as u64, Ordering::AcqRel);
        if fills.is_empty() {
            shard.remove(&fill.key);
        }
    }

    /// The newest fill that a lookup may join, and since when it is stale by a rule.
    pub fn join(&self, key: u128, rules: &Rules) -> Option<(Arc<Fill>, Verdict)> {
        if self.count() == 0 {
            return None;
        }
        let shard = self.shard(key).lock();
        let open = shard.get(&key)?.iter().rev().filter(|fill| !fill.passing());
        let mut judged = open.map(|fill| (fill, rules.verdict(&fill.head)));
        let (fill, verdict) = judged.find(|(_, verdict)| *verdict != Verdict::Gone)?;
        Some((fill.clone(), verdict))
    }

    /// The fill with this id, whatever became of it.
    pub fn by_id(&self, key: u128, id: u64) -> Option<Arc<Fill>> {
        self.shard(key).lock().get(&key)?.iter().find(|fill| fill.id == id).cloned()
    }

    pub fn has(&self, key: u128) -> bool {
        self.shard(key).lock().contains_key(&key)
    }

    /// All that are under way now.
    pub fn all(&self) -> Vec<Arc<Fill>> {
        let shards = self.shards.iter();
        shards
            .flat_map(|shard| shard.lock().values().flatten().cloned().collect::<Vec<_>>())
            .collect()
    }

    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Acquire)
    }

    /// Bytes in memory.
    pub fn held(&self) -> u64 {
        self.held.load(Ordering::Acquire).max(0) as u64
    }

    /// A number for a fill or one of its readers.
    pub fn id(&self) -> u64 {
        self.ids.fetch_add(1, Ordering::Relaxed)
    }

    fn shard(&self, key: u128) -> &Mutex<ByKey> {
        &self.shards[key as usize % SHARDS]
    }
}
