//! A process that uses the cache's disk tier is killed at any moment, again and again. Nothing
//! torn, mixed or purged may ever be served, before or after.
//!
//! The test starts itself as that process. It reports on stdout what was acknowledged.

#![allow(clippy::disallowed_methods, reason = "the test has a thread of its own")]

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use libtest_mimic::{Arguments, Trial};
use pingora::http::ResponseHeader;
use pingora_cache::storage::Storage;
use pingora_cache::trace::Span;
use pingora_cache::{CacheKey, CacheMeta};
use selvedge::cache::store::{Admission, DiskSettings, Labels, Rule, Scope, Settings, Store};

const ROUNDS: u64 = 12;
const KEYS: u64 = 48;
const TAGS: u64 = 6;
/// Where the process that is killed finds its directory.
const DIR: &str = "SELVEDGE_CACHE_KILL_DIR";

fn main() {
    if let Ok(dir) = std::env::var(DIR) {
        return victim(Path::new(&dir));
    }
    let test = Trial::test("a_cache_that_is_killed_serves_nothing_torn_or_purged", || {
        rounds();
        Ok(())
    });
    libtest_mimic::run(&Arguments::from_args(), vec![test]).exit();
}

fn rounds() {
    let dir = tempfile::tempdir().unwrap();
    let (mut reads, mut found, mut purges) = (0, 0, 0);
    for round in 0..ROUNDS {
        let mut victim = Command::new(std::env::current_exe().unwrap())
            .env(DIR, dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(victim.stdout.take().unwrap()).lines();
        let (sender, ready) = std::sync::mpsc::sync_channel(1);
        let reader = std::thread::spawn(move || {
            let lines: Vec<String> = lines
                .map_while(Result::ok)
                .inspect(|line| {
                    if line.starts_with("found") {
                        sender.send(()).expect("somebody waits");
                    }
                })
                .collect();
            lines
        });
        ready.recv_timeout(Duration::from_secs(30)).expect("the process reads what is on disk");
        std::thread::sleep(Duration::from_millis(100 + 67 * round % 400));
        victim.kill().unwrap();
        victim.wait().unwrap();
        let lines = reader.join().unwrap();
        let floors = dir.path().join("floors");
        let mut floors = std::fs::File::options().append(true).create(true).open(floors).unwrap();
        for line in lines {
            assert!(!line.starts_with("BAD"), "round {round}: {line}");
            let number = || line.rsplit(' ').next().unwrap().parse::<u64>().unwrap();
            match line.split(' ').next() {
                Some("found") => found += number(),
                Some("reads") => reads += number(),
                Some("purged") => {
                    purges += 1;
                    writeln!(floors, "{line}").unwrap();
                }
                _ => panic!("round {round}: {line}"),
            }
        }
    }
    println!("{reads} reads, {found} objects found after a kill, {purges} purges");
    assert!(found > ROUNDS, "only {found} objects came back");
    assert!(reads > 100 * ROUNDS && purges > 5 * ROUNDS, "{reads} reads, {purges} purges");
}

struct State {
    store: &'static Store,
    /// The lowest version of each key that may be served.
    floors: Vec<AtomicU64>,
    versions: AtomicU64,
    reads: AtomicU64,
}

fn victim(dir: &Path) {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(3).enable_all().build();
    runtime.unwrap().block_on(async {
        let disk = DiskSettings {
            dir: dir.join("cache"),
            bytes: 12 << 20,
            object: 4 << 20,
            queue: 4 << 20,
            admission: Admission::Always,
        };
        let settings = Settings { memory: 1 << 20, memory_object: 64 << 10, disk: Some(disk) };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros() as u64;
        let state = Arc::new(State {
            store: Store::open(&settings).unwrap(),
            floors: (0..KEYS).map(|_| AtomicU64::new(0)).collect(),
            versions: AtomicU64::new(now),
            reads: AtomicU64::new(0),
        });
        read_floors(&state, dir);
        let mut found = 0;
        for n in 0..KEYS {
            found += u64::from(state.read(n).await);
        }
        println!("found {found}");
        for seed in 0..6 {
            tokio::spawn(client(state.clone(), now ^ (seed << 40)));
        }
        // Until the kill.
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(60) {
            tokio::time::sleep(Duration::from_millis(20)).await;
            println!("reads {}", state.reads.swap(0, Ordering::Relaxed));
        }
    });
}

fn read_floors(state: &State, dir: &Path) {
    let floors = std::fs::read_to_string(dir.join("floors")).unwrap_or_default();
    for line in floors.lines() {
        let fields: Vec<&str> = line.split(' ').collect();
        let floor: u64 = fields[2].parse().unwrap();
        for n in means(fields[1]) {
            state.floors[n as usize].fetch_max(floor, Ordering::AcqRel);
        }
    }
}

/// The keys that a purge names: `k7` is one, `t3` all with a tag, `all` all.
fn means(what: &str) -> Vec<u64> {
    let keys = 0..KEYS;
    match what.split_at(1) {
        ("k", n) => vec![n.parse().unwrap()],
        ("t", tag) => keys.filter(|n| n % TAGS == tag.parse::<u64>().unwrap()).collect(),
        _ => keys.collect(),
    }
}

async fn client(state: Arc<State>, mut random: u64) {
    loop {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let n = (random >> 8) % KEYS;
        match random % 100 {
            0..3 => state.purge(&format!("k{n}"), Scope::Url(format!("h/{n}"))).await,
            3..6 => {
                state.purge(&format!("t{}", n % TAGS), Scope::Tag((n % TAGS).to_string())).await
            }
            6 if n == 0 => state.purge("all", Scope::All).await,
            7..12 => state.revalidate(n).await,
            _ => {
                if !state.read(n).await {
                    state.fill(n, random).await;
                }
            }
        }
    }
}

impl State {
    fn key(&self, n: u64) -> CacheKey {
        let mut key = CacheKey::new(n.to_string().into_bytes(), "");
        self.store.stamp(&mut key);
        key
    }

    fn meta(&self, n: u64, version: u64) -> CacheMeta {
        let mut header = ResponseHeader::build(200, None).unwrap();
        header.append_header("version", version.to_string()).unwrap();
        let now = SystemTime::now();
        let mut meta = CacheMeta::new(now + Duration::from_secs(600), now, 0, 0, header);
        let tags = [Box::from((n % TAGS).to_string())];
        Labels { url: format!("h/{n}").into(), tags: tags.into(), note: Bytes::new() }
            .attach(&mut meta);
        meta
    }

    async fn fill(&self, n: u64, random: u64) {
        let key = self.key(n);
        let version = self.versions.fetch_add(1, Ordering::AcqRel);
        let meta = self.meta(n, version);
        let span = Span::inactive().handle();
        let mut writer = self.store.get_miss_handler(&key, &meta, &span).await.unwrap();
        // One of eight is large and spills.
        let words = if (random >> 20).is_multiple_of(8) { 20_000 } else { random >> 54 };
        let body = body(n, version, words);
        for piece in body.chunks(50_000) {
            if writer.write_body(Bytes::copy_from_slice(piece), false).await.is_err() {
                return;
            }
        }
        if !(random >> 30).is_multiple_of(32) {
            let _ = writer.finish().await;
        }
    }

    /// Whether there was anything. Prints what is wrong with it.
    async fn read(&self, n: u64) -> bool {
        let floor = self.floors[n as usize].load(Ordering::Acquire);
        let span = Span::inactive().handle();
        let Some((meta, mut reader)) = self.store.lookup(&self.key(n), &span).await.unwrap() else {
            return false;
        };
        let mut found = Vec::new();
        loop {
            match reader.read_body().await {
                Ok(Some(data)) => found.extend_from_slice(&data),
                Ok(None) => break,
                // A fill that was given up.
                Err(_) => return true,
            }
        }
        self.reads.fetch_add(1, Ordering::Relaxed);
        let version: u64 = meta.headers()["version"].to_str().unwrap().parse().unwrap();
        if found != body(n, version, found.len() as u64 / 16) {
            println!("BAD: key {n} version {version} has a body of another, or a torn one");
        }
        if version < floor {
            println!("BAD: key {n} version {version} was purged before {floor}");
        }
        true
    }

    async fn revalidate(&self, n: u64) {
        let (key, span) = (self.key(n), Span::inactive().handle());
        let Some((meta, _)) = self.store.lookup(&key, &span).await.unwrap() else { return };
        let version = meta.headers()["version"].to_str().unwrap().parse().unwrap();
        tokio::time::sleep(Duration::from_micros(300)).await;
        // As Pingora does: what the lookup attached goes along.
        let mut renewed = self.meta(n, version);
        *renewed.extensions_mut() = meta.extensions().clone();
        let _ = self.store.update_meta(&key, &renewed, &span).await;
    }

    async fn purge(&self, what: &str, scope: Scope) {
        // All versions so far are older than the purge.
        let floor = self.versions.load(Ordering::Acquire);
        self.store.purge(Rule { scope, soft: false }).await.unwrap();
        for n in means(what) {
            self.floors[n as usize].fetch_max(floor, Ordering::AcqRel);
        }
        println!("purged {what} {floor}");
    }
}

/// Every word says whose it is, and where.
fn body(n: u64, version: u64, words: u64) -> Vec<u8> {
    let mut body = vec![0; 16 * words as usize];
    for (at, word) in body.chunks_exact_mut(16).enumerate() {
        word[..8].copy_from_slice(&(n << 32 | at as u64).to_le_bytes());
        word[8..].copy_from_slice(&version.to_le_bytes());
    }
    body
}
