//! The cache's store with a million small objects: a fill, a hit, a purge by tag, memory.

use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use pingora::http::ResponseHeader;
use pingora_cache::storage::Storage;
use pingora_cache::trace::Span;
use pingora_cache::{CacheKey, CacheMeta};
use selvedge::cache::store::{Admission, DiskSettings, Labels, Rule, Scope, Settings, Store};

const OBJECTS: u64 = 1_000_000;
const BODY: usize = 1024;

fn main() {
    // `cargo test` runs benches too, without this.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.expect("a runtime").block_on(run());
}

async fn run() {
    let dir = tempfile::tempdir().expect("a directory");
    let memory = Settings { memory: 4 << 30, memory_object: 1 << 20, disk: None };
    let disk = DiskSettings {
        dir: dir.path().to_owned(),
        bytes: 1 << 30,
        object: 1 << 30,
        queue: 64 << 20,
        admission: Admission::SecondHit,
    };
    let before = resident();
    let store = Store::open(&memory).expect("a store");
    let span = Span::inactive().handle();
    let begun = Instant::now();
    for n in 0..OBJECTS {
        let mut writer = store.get_miss_handler(&key(n), &meta(n), &span).await.expect("a writer");
        writer.write_body(Bytes::from(vec![0; BODY]), true).await.expect("a write");
        writer.finish().await.expect("an object");
    }
    report("fill", begun.elapsed() / OBJECTS as u32);
    let each = (resident() - before) / OBJECTS - BODY as u64;
    println!("{:24} {each} bytes besides its body", "memory of an object");
    for pass in ["first hit", "second hit", "later hit"] {
        let begun = Instant::now();
        for n in 0..100_000 {
            let (_, mut reader) =
                store.lookup(&key(n), &span).await.expect("a look").expect("a hit");
            reader.read_body().await.expect("a body");
        }
        report(pass, begun.elapsed() / 100_000);
    }
    purge("purge in memory", store).await;
    let store = Store::open(&Settings { disk: Some(disk), ..memory }).expect("a store");
    purge("purge with a journal", store).await;
}

async fn purge(name: &str, store: &'static Store) {
    let begun = Instant::now();
    for n in 0..100 {
        let rule = Rule { scope: Scope::Tag(format!("tag{n}")), soft: false };
        store.purge(rule).await.expect("a purge");
    }
    report(name, begun.elapsed() / 100);
}

fn key(n: u64) -> CacheKey {
    CacheKey::new(n.to_le_bytes().to_vec(), "")
}

fn meta(n: u64) -> CacheMeta {
    let mut header = ResponseHeader::build(200, None).expect("a header");
    for (name, value) in [
        ("content-type", "text/html"),
        ("content-length", "1024"),
        ("cache-control", "max-age=3600"),
        ("etag", "\"0123456789abcdef\""),
        ("last-modified", "Wed, 21 Oct 2015 07:28:00 GMT"),
        ("server", "origin"),
    ] {
        header.append_header(name, value).expect("a field");
    }
    let now = SystemTime::now();
    let mut meta = CacheMeta::new(now + Duration::from_secs(3600), now, 0, 0, header);
    let tags = [Box::from(format!("tag{}", n % 1000))];
    Labels { url: format!("www.example.org/{n}").into(), tags: tags.into(), note: Bytes::new() }
        .attach(&mut meta);
    meta
}

fn report(what: &str, each: Duration) {
    println!("{what:24} {each:?}");
}

/// Bytes of memory that the process has.
fn resident() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm").expect("/proc");
    pages.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).expect("pages") * 4096
}
