//! The store's invariants, through the interface that Pingora uses.

mod disk;
mod fills;
mod heads;
mod memory;
mod purges;
mod spills;

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use pingora::http::ResponseHeader;
use pingora_cache::key::CacheHashKey;
use pingora_cache::storage::Storage;
use pingora_cache::trace::Span;
use pingora_cache::{CacheKey, CacheMeta, HitHandler, MissHandler};

use super::disk::Disk;
use super::{Admission, DiskSettings, Labels, Rule, Scope, Settings, Store};

pub fn span() -> pingora_cache::trace::SpanHandle {
    Span::inactive().handle()
}

pub fn key(name: &str) -> CacheKey {
    CacheKey::new(name.as_bytes().to_vec(), "")
}

pub fn variant(name: &str, of: u8) -> CacheKey {
    let mut key = key(name);
    key.set_variance_key([of; 16]);
    key
}

/// An answer that is fresh for a minute.
pub fn meta(headers: &[(&'static str, &str)]) -> CacheMeta {
    let now = SystemTime::now();
    let mut header = ResponseHeader::build(200, None).unwrap();
    for (name, value) in headers {
        header.append_header(*name, *value).unwrap();
    }
    CacheMeta::new(now + Duration::from_secs(60), now, 5, 7, header)
}

pub fn labelled(url: &str, tags: &[&str], headers: &[(&'static str, &str)]) -> CacheMeta {
    let mut meta = meta(headers);
    let tags = tags.iter().map(|tag| Box::from(*tag)).collect();
    Labels { url: url.into(), tags, note: Bytes::from_static(b"note") }.attach(&mut meta);
    meta
}

pub fn memory_only(bytes: u64) -> &'static Store {
    Store::open(&Settings { memory: bytes, memory_object: 1 << 20, disk: None }).unwrap()
}

/// A store with a tier on disk, and little memory: bodies above 64 KiB go to files.
pub fn on_disk(dir: &std::path::Path) -> &'static Store {
    Store::open(&disk_settings(dir)).unwrap()
}

pub fn disk_settings(dir: &std::path::Path) -> Settings {
    let disk = DiskSettings {
        dir: dir.to_owned(),
        bytes: 64 << 20,
        object: 16 << 20,
        queue: 8 << 20,
        admission: Admission::Always,
    };
    Settings { memory: 4 << 20, memory_object: 64 << 10, disk: Some(disk) }
}

impl Store {
    pub fn on_disk(&self) -> &Disk {
        self.disk.as_ref().expect("a disk tier")
    }

    /// Another process's view: what this one has on disk.
    fn restarted(&self, dir: &std::path::Path) -> &'static Store {
        self.on_disk().drain();
        self.killed(dir)
    }

    /// The same, without what was not written yet.
    fn killed(&self, dir: &std::path::Path) -> &'static Store {
        self.on_disk().abandon();
        on_disk(dir)
    }

    /// Leaves only what is on disk.
    fn forget_memory(&self) {
        self.on_disk().drain();
        for (key, _) in self.memory.iter().collect::<Vec<_>>() {
            self.memory.remove(key);
        }
    }
}

/// All files below `dir`.
pub fn files(dir: &std::path::Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

pub async fn begin(store: &'static Store, key: &CacheKey, meta: &CacheMeta) -> MissHandler {
    store.get_miss_handler(key, meta, &span()).await.unwrap()
}

pub async fn put(store: &'static Store, key: &CacheKey, meta: &CacheMeta, body: &[u8]) {
    let mut writer = begin(store, key, meta).await;
    writer.write_body(Bytes::copy_from_slice(body), true).await.unwrap();
    writer.finish().await.unwrap();
}

pub async fn look(store: &'static Store, key: &CacheKey) -> Option<(CacheMeta, HitHandler)> {
    store.lookup(key, &span()).await.unwrap()
}

pub async fn read(reader: &mut HitHandler) -> pingora_core::Result<Vec<u8>> {
    let mut body = Vec::new();
    while let Some(data) = reader.read_body().await? {
        body.extend_from_slice(&data);
    }
    Ok(body)
}

/// The reader that Pingora gives to the request which fills.
pub async fn own_reader(store: &'static Store, key: &CacheKey, writer: &MissHandler) -> HitHandler {
    let tag = writer.streaming_write_tag();
    store.lookup_streaming_write(key, tag, &span()).await.unwrap().expect("a reader of one's own").1
}

/// The stored body, or nothing.
pub async fn get(store: &'static Store, key: &CacheKey) -> Option<Vec<u8>> {
    let (_, mut reader) = look(store, key).await?;
    Some(read(&mut reader).await.unwrap())
}

pub fn hard(scope: Scope) -> Rule {
    Rule { scope, soft: false }
}

pub fn soft(scope: Scope) -> Rule {
    Rule { scope, soft: true }
}

pub fn fresh(meta: &CacheMeta) -> bool {
    meta.is_fresh(SystemTime::now())
}

pub fn primary(key: &CacheKey) -> [u8; 16] {
    key.primary_bin()
}
