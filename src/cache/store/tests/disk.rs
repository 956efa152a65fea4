//! The tier on disk: restarts, purges, damage, a disk that fails.

use proptest::collection::vec;
use proptest::prelude::{ProptestConfig, any, proptest};

use super::super::sweep::sweep;
use super::super::{OpenError, PurgeError};
use super::*;

fn combined(key: &CacheKey) -> u128 {
    u128::from_be_bytes(key.combined_bin())
}

#[tokio::test]
async fn what_was_stored_is_there_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let store = on_disk(dir.path());
    put(store, &key("a"), &labelled("h/a", &["t"], &[("v", "1")]), b"body").await;
    put(store, &variant("a", 1), &labelled("h/a", &[], &[("v", "2")]), b"other").await;
    put(store, &key("empty"), &meta(&[]), b"").await;
    let store = store.restarted(dir.path());
    let (found, mut reader) = look(store, &key("a")).await.unwrap();
    assert_eq!(found.headers()["v"], "1");
    assert_eq!(Labels::of(&found).unwrap().tags[0].as_ref(), "t");
    assert_eq!(read(&mut reader).await.unwrap(), b"body");
    assert_eq!(get(store, &variant("a", 1)).await.unwrap(), b"other");
    assert_eq!(get(store, &key("empty")).await.unwrap(), b"");
    assert!(get(store, &key("b")).await.is_none());
    let figures = store.figures();
    assert_eq!((figures.hits_disk, figures.memory.entries), (3, 3), "they are in memory now");
}

#[tokio::test]
async fn purged_is_purged_after_a_restart_too() {
    for swept in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let store = on_disk(dir.path());
        for name in ["gone", "stale", "kept", "back"] {
            put(store, &key(name), &labelled(&format!("h/{name}"), &[name], &[]), b"x").await;
        }
        store.on_disk().drain();
        store.purge(hard(Scope::Tag("gone".into()))).await.unwrap();
        store.purge(hard(Scope::Prefix("h/back".into()))).await.unwrap();
        store.purge(soft(Scope::Url("h/stale".into()))).await.unwrap();
        put(store, &key("back"), &labelled("h/back", &["back"], &[]), b"new").await;
        store.on_disk().drain();
        if swept {
            // The store's own thread may be in the middle of a sweep, which keeps them.
            for _ in 0..500 {
                sweep(store, Duration::ZERO, true);
                if store.figures().rules == 0 {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            assert_eq!(store.figures().rules, 0);
        }
        let store = store.restarted(dir.path());
        assert!(look(store, &key("gone")).await.is_none(), "swept: {swept}");
        assert!(!fresh(&look(store, &key("stale")).await.unwrap().0), "swept: {swept}");
        assert!(fresh(&look(store, &key("kept")).await.unwrap().0), "swept: {swept}");
        assert_eq!(get(store, &key("back")).await.unwrap(), b"new", "swept: {swept}");
    }
}

#[tokio::test]
async fn a_purge_of_what_still_waits_to_be_written_holds() {
    let dir = tempfile::tempdir().unwrap();
    let store = on_disk(dir.path());
    for n in 0..200 {
        put(store, &key(&n.to_string()), &labelled("h/", &["t"], &[]), &[0; 30_000]).await;
    }
    store.purge(hard(Scope::Tag("t".into()))).await.unwrap();
    let store = store.restarted(dir.path());
    for n in 0..200 {
        assert!(look(store, &key(&n.to_string())).await.is_none(), "{n}");
    }
}

#[tokio::test]
async fn an_object_leaves_memory_and_is_found_on_its_way_and_on_disk() {
    let dir = tempfile::tempdir().unwrap();
    let store = on_disk(dir.path());
    put(store, &key("a"), &meta(&[]), b"body").await;
    store.memory.remove(combined(&key("a")));
    assert_eq!(get(store, &key("a")).await.unwrap(), b"body", "waiting or written");
    store.forget_memory();
    assert_eq!(get(store, &key("a")).await.unwrap(), b"body", "written");
}

#[tokio::test]
async fn a_new_head_reaches_the_disk_and_keeps_the_body() {
    let dir = tempfile::tempdir().unwrap();
    let store = on_disk(dir.path());
    for name in ["memory", "disk"] {
        put(store, &key(name), &meta(&[("v", "0")]), name.as_bytes()).await;
    }
    store.on_disk().drain();
    store.memory.remove(combined(&key("disk")));
    for version in ["1", "2", "3"] {
        for name in ["memory", "disk"] {
            let mut key = key(name);
            store.stamp(&mut key);
            assert!(store.update_meta(&key, &meta(&[("v", version)]), &span()).await.unwrap());
        }
    }
    let store = store.restarted(dir.path());
    for name in ["memory", "disk"] {
        let (found, mut reader) = look(store, &key(name)).await.unwrap();
        assert_eq!(found.headers()["v"], "3", "{name}");
        assert_eq!(read(&mut reader).await.unwrap(), name.as_bytes());
    }
}

#[tokio::test]
async fn a_head_that_has_outgrown_its_slot_takes_the_object_away() {
    let dir = tempfile::tempdir().unwrap();
    let store = on_disk(dir.path());
    put(store, &key("a"), &meta(&[]), b"body").await;
    store.forget_memory();
    let large = meta(&[("x", &"x".repeat(5000))]);
    assert!(!store.update_meta(&key("a"), &large, &span()).await.unwrap());
    assert!(look(store, &key("a")).await.is_none());
}

#[tokio::test]
async fn a_late_304_does_not_bring_back_what_was_purged_on_disk() {
    let dir = tempfile::tempdir().unwrap();
    let store = on_disk(dir.path());
    let mut a = key("a");
    let meta = labelled("h/a", &["t"], &[]);
    put(store, &a, &meta, b"old").await;
    store.forget_memory();
    store.stamp(&mut a);
    store.purge(hard(Scope::Tag("t".into()))).await.unwrap();
    assert!(!store.update_meta(&a, &meta, &span()).await.unwrap());
    let store = store.restarted(dir.path());
    assert!(look(store, &a).await.is_none());
}

#[tokio::test]
async fn the_disk_stays_within_its_limit() {
    let dir = tempfile::tempdir().unwrap();
    let mut settings = disk_settings(dir.path());
    settings.disk.as_mut().unwrap().bytes = 2 << 20;
    let store = Store::open(&settings).unwrap();
    for n in 0..300 {
        put(store, &key(&n.to_string()), &meta(&[]), &[0; 20_000]).await;
        if n % 50 == 49 {
            store.on_disk().drain();
        }
    }
    let disk = store.figures().disk.unwrap();
    assert!(disk.bytes <= 2 << 20 && disk.bytes > 1 << 20, "{disk:?}");
    assert!(disk.evictions > 150, "{disk:?}");
    let there: u64 =
        files(&dir.path().join("objects")).iter().map(|f| f.metadata().unwrap().len()).sum();
    assert!(there <= 2 << 20, "{there} bytes in files");
    settings.disk.as_mut().unwrap().bytes = 1 << 20;
    assert!(store.resize(&settings));
    store.on_disk().drain();
    assert!(store.figures().disk.unwrap().bytes <= 1 << 20);
    settings.disk = None;
    assert!(!store.resize(&settings), "that needs a restart");
}

#[tokio::test]
async fn with_admission_at_the_second_hit_only_what_is_asked_for_again_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let mut settings = disk_settings(dir.path());
    settings.disk.as_mut().unwrap().admission = Admission::SecondHit;
    let store = Store::open(&settings).unwrap();
    for n in 0..50 {
        put(store, &key(&n.to_string()), &meta(&[]), b"x").await;
    }
    store.on_disk().drain();
    assert_eq!(store.figures().disk.unwrap().written, 0);
    for n in 0..3 {
        assert!(get(store, &key(&n.to_string())).await.is_some());
    }
    put(store, &key("7"), &meta(&[]), b"again").await;
    store.on_disk().drain();
    assert_eq!(store.figures().disk.unwrap().entries, 4);
}

#[tokio::test]
async fn a_disk_that_fails_stops_nothing_and_is_tried_again() {
    for errno in [libc::ENOSPC, libc::EIO, libc::EROFS] {
        let dir = tempfile::tempdir().unwrap();
        let store = on_disk(dir.path());
        put(store, &key("a"), &labelled("h/a", &[], &[]), b"before").await;
        store.on_disk().drain();
        store.on_disk().faults.fail_with(Some(errno));
        for name in ["a", "b", "c"] {
            put(store, &key(name), &labelled("h/a", &[], &[]), b"during").await;
            store.on_disk().drain();
            assert_eq!(get(store, &key(name)).await.unwrap(), b"during");
        }
        let disk = store.figures().disk.unwrap();
        assert!(disk.paused && disk.errors == 1, "{errno}: one try in a pause: {disk:?}");
        store.forget_memory();
        assert!(get(store, &key("a")).await.is_none(), "{errno}: nothing older comes back");
        store.on_disk().recover();
        put(store, &key("d"), &meta(&[]), b"after").await;
        store.forget_memory();
        assert_eq!(get(store, &key("d")).await.unwrap(), b"after", "{errno}");
    }
}

#[tokio::test]
async fn a_purge_that_cannot_be_written_down_costs_the_tier_at_a_restart_not_the_purge() {
    let dir = tempfile::tempdir().unwrap();
    let store = on_disk(dir.path());
    for name in ["a", "b"] {
        put(store, &key(name), &labelled("h/", &[name], &[]), b"x").await;
    }
    store.on_disk().drain();
    store.on_disk().faults.fail_with(Some(libc::ENOSPC));
    store.purge(hard(Scope::Tag("a".into()))).await.unwrap();
    assert!(look(store, &key("a")).await.is_none());
    assert!(look(store, &key("b")).await.is_some());
    let store = store.restarted(dir.path());
    assert!(look(store, &key("a")).await.is_none());
}

#[tokio::test]
async fn without_a_journal_nothing_on_disk_is_trusted() {
    let dir = tempfile::tempdir().unwrap();
    let store = on_disk(dir.path());
    put(store, &key("a"), &meta(&[]), b"x").await;
    store.on_disk().drain();
    store.on_disk().abandon();
    std::fs::remove_file(dir.path().join("journal")).unwrap();
    let store = on_disk(dir.path());
    assert!(look(store, &key("a")).await.is_none());
    put(store, &key("a"), &meta(&[]), b"y").await;
    let store = store.restarted(dir.path());
    assert_eq!(get(store, &key("a")).await.unwrap(), b"y");
}

#[tokio::test]
async fn a_directory_belongs_to_one_process() {
    let dir = tempfile::tempdir().unwrap();
    let _store = on_disk(dir.path());
    let second = Store::open(&disk_settings(dir.path()));
    assert!(matches!(second, Err(OpenError::Disk(_))), "taken");
    let text = second.err().unwrap().to_string();
    assert!(text.contains("another process uses this cache directory"), "{text}");
}

#[tokio::test]
async fn where_no_directory_can_be_the_store_goes_on_in_memory_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("file"), "x").unwrap();
    let store = Store::open(&disk_settings(&dir.path().join("file/x"))).unwrap();
    put(store, &key("a"), &meta(&[]), b"x").await;
    assert_eq!(get(store, &key("a")).await.unwrap(), b"x");
    store.purge(hard(Scope::All)).await.unwrap();
    assert!(get(store, &key("a")).await.is_none());
    assert!(store.figures().disk_unusable);
}

#[tokio::test]
async fn rules_are_refused_on_disk_as_in_memory() {
    let dir = tempfile::tempdir().unwrap();
    let store = on_disk(dir.path());
    let empty = store.purge(hard(Scope::Host(String::new()))).await;
    assert!(matches!(empty, Err(PurgeError::Rule(_))), "{empty:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4))]

    /// A damaged file gives the body that was stored or none, and if none, it is removed.
    #[test]
    fn a_damaged_file_is_a_miss_or_unharmed(places in vec(any::<(prop::Place, bool)>(), 40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let dir = tempfile::tempdir().unwrap();
            let store = on_disk(dir.path());
            for (n, (place, large)) in places.into_iter().enumerate() {
                damage(store, &key(&n.to_string()), &place, large).await;
            }
        });
    }
}

async fn damage(store: &'static Store, key: &CacheKey, place: &prop::Place, large: bool) {
    let body: Vec<u8> = (0..if large { 600_000 } else { 3000 }).map(|n| n as u8).collect();
    put(store, key, &labelled("h/a", &["t"], &[("v", "1")]), &body).await;
    store.forget_memory();
    let path = store.on_disk().file_of(combined(key));
    place.damage(&path);
    let Some((found, mut reader)) = look(store, key).await else {
        assert!(!path.exists(), "a broken file is removed");
        return;
    };
    assert_eq!(found.headers()["v"], "1");
    match read(&mut reader).await {
        Ok(read) => assert!(read == body, "another body"),
        // What was sent already cannot be called back; the client sees it break.
        Err(_) => assert!(large, "a small object is checked before it is served"),
    }
}

mod prop {
    use std::path::Path;

    use proptest::prelude::*;

    #[derive(Debug, Clone)]
    pub enum Place {
        Flip(f64),
        Cut(f64),
        Longer,
        Zeros(f64),
    }

    impl Arbitrary for Place {
        type Parameters = ();
        type Strategy = BoxedStrategy<Place>;

        fn arbitrary_with((): ()) -> BoxedStrategy<Place> {
            prop_oneof![
                (0.0..1.0f64).prop_map(Place::Flip),
                (0.0..0.02f64).prop_map(Place::Flip),
                (0.0..1.0f64).prop_map(Place::Cut),
                Just(Place::Longer),
                (0.0..1.0f64).prop_map(Place::Zeros),
            ]
            .boxed()
        }
    }

    impl Place {
        pub fn damage(&self, path: &Path) {
            let mut bytes = std::fs::read(path).unwrap();
            let at = |part: f64| ((bytes.len() as f64 * part) as usize).min(bytes.len() - 1);
            match self {
                Place::Flip(part) => {
                    let at = at(*part);
                    bytes[at] ^= 0x10;
                }
                Place::Cut(part) => bytes.truncate(at(*part)),
                Place::Longer => bytes.push(0),
                Place::Zeros(part) => {
                    let at = at(*part);
                    let end = bytes.len().min(at + 4096);
                    bytes[at..end].fill(0);
                }
            }
            std::fs::write(path, bytes).unwrap();
        }
    }
}
