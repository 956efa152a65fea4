//! Both stores by the same rules, and the file through restarts, crashes and failures.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::store::{LONGEST_KEY, Store};
use super::*;
use crate::config::state::Namespace;

fn metrics() -> Arc<Metrics> {
    Arc::new(Metrics::new().expect("registers"))
}

fn namespace(name: &str) -> Arc<Namespace> {
    let (size, max_value) = (10_000, 1000);
    Arc::new(Namespace { name: name.to_owned(), size, max_value, ttl: None })
}

fn disk(path: &Path) -> Disk {
    Disk::open(path, 1 << 20, &metrics()).expect("opens")
}

fn put(key: &str, value: &str) -> Put {
    let value = Bytes::copy_from_slice(value.as_bytes());
    Put { key: key.to_owned(), value, ttl: None, when: When::Always }
}

async fn get(store: &dyn Store, namespace: &Arc<Namespace>, key: &str) -> Option<String> {
    let found = store.get(namespace, key.to_owned()).await.expect("reads");
    found.map(|value| String::from_utf8_lossy(&value).into_owned())
}

async fn both(check: impl AsyncFn(&dyn Store)) {
    check(&Memory::default()).await;
    let folder = tempfile::tempdir().expect("a folder");
    let disk = disk(&folder.path().join("s"));
    check(&disk).await;
    disk.close();
}

#[tokio::test]
async fn namespaces_are_apart_and_conditions_hold() {
    both(async |store| {
        let (a, b) = (namespace("a"), namespace("b"));
        assert_eq!(store.put(&a, put("k", "1")).await, Ok(true));
        assert_eq!(get(store, &a, "k").await.as_deref(), Some("1"));
        assert_eq!(get(store, &b, "k").await, None);
        let absent = |value| Put { when: When::Absent, ..put("k", value) };
        assert_eq!(store.put(&a, absent("2")).await, Ok(false));
        assert_eq!(store.put(&b, absent("2")).await, Ok(true));
        let equal =
            |of: &'static str, value| Put { when: When::Equal(of.into()), ..put("k", value) };
        assert_eq!(store.put(&a, equal("0", "3")).await, Ok(false));
        assert_eq!(store.put(&a, equal("1", "3")).await, Ok(true));
        assert_eq!(get(store, &a, "k").await.as_deref(), Some("3"));
        assert_eq!(store.delete(&a, "k".into()).await, Ok(true));
        assert_eq!(store.delete(&a, "k".into()).await, Ok(false));
        assert_eq!(store.put(&a, equal("3", "4")).await, Ok(false), "gone");
        assert_eq!(get(store, &b, "k").await.as_deref(), Some("2"));
    })
    .await;
}

#[tokio::test]
async fn entries_end_and_leave_room() {
    both(async |store| {
        let of = namespace("a");
        let large = "x".repeat(900);
        for n in 0..10 {
            let brief = Put { ttl: Some(Duration::from_secs(1)), ..put(&n.to_string(), &large) };
            assert_eq!(store.put(&of, brief).await, Ok(true));
        }
        let full = store.put(&of, put("more", &large)).await;
        assert!(matches!(full, Err(StoreError::Full { .. })), "{full:?}");
        assert_eq!(store.put(&of, put("1", "small")).await, Ok(true), "an overwrite frees");
        tokio::time::sleep(Duration::from_millis(1050)).await;
        assert_eq!(get(store, &of, "0").await, None);
        assert_eq!(get(store, &of, "1").await.as_deref(), Some("small"), "it has no end any more");
        assert_eq!(store.put(&of, put("more", &large)).await, Ok(true), "the others are gone");
        let page = Page { limit: 10, ..Page::default() };
        assert_eq!(store.list(&of, page).await, Ok(vec!["1".to_owned(), "more".to_owned()]));
    })
    .await;
}

#[tokio::test]
async fn lists_come_in_order_and_in_pages() {
    both(async |store| {
        let of = namespace("b");
        for other in ["a", "c"] {
            assert_eq!(store.put(&namespace(other), put("u:0", "")).await, Ok(true));
        }
        for key in ["u:3", "u:1", "v:1", "u:2", "t"] {
            assert_eq!(store.put(&of, put(key, "")).await, Ok(true));
        }
        let list = |prefix: &str, after: Option<&str>, limit| {
            let (prefix, after) = (prefix.to_owned(), after.map(str::to_owned));
            store.list(&of, Page { prefix, after, limit })
        };
        assert_eq!(list("u:", None, 2).await.expect("reads"), ["u:1", "u:2"]);
        assert_eq!(list("u:", Some("u:2"), 2).await.expect("reads"), ["u:3"]);
        assert_eq!(list("u:", Some("a"), 9).await.expect("reads"), ["u:1", "u:2", "u:3"]);
        assert_eq!(list("u:", Some("z"), 9).await.expect("reads"), [""; 0]);
        assert_eq!(list("", None, 9).await.expect("reads").len(), 5);
    })
    .await;
}

#[tokio::test]
async fn what_is_too_large_is_refused() {
    both(async |store| {
        let of = namespace("a");
        for key in ["", &"k".repeat(LONGEST_KEY + 1)] {
            let refused = store.put(&of, put(key, "")).await;
            assert!(matches!(refused, Err(StoreError::Invalid(_))), "{refused:?}");
            assert!(store.get(&of, key.to_owned()).await.is_err());
            assert!(store.delete(&of, key.to_owned()).await.is_err());
        }
        let refused = store.put(&of, put("k", &"v".repeat(1001))).await;
        assert!(matches!(refused, Err(StoreError::TooLarge { .. })), "{refused:?}");
        assert_eq!(
            store.put(&of, put(&"k".repeat(LONGEST_KEY), &"v".repeat(1000))).await,
            Ok(true)
        );
    })
    .await;
}

#[tokio::test]
async fn what_was_answered_survives_a_restart() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("s");
    let of = namespace("a");
    let first = disk(&path);
    let in_use = Disk::open(&path, 1 << 20, &metrics()).map(|_| ()).expect_err("open twice");
    assert!(in_use.to_string().contains("in use by another process"), "{in_use}");
    let hour = Some(Duration::from_secs(3600));
    assert_eq!(first.put(&of, Put { ttl: hour, ..put("k", "1") }).await, Ok(true));
    first.close();
    assert!(first.put(&of, put("k", "2")).await.is_err(), "closed");
    assert!(first.get(&of, "k".into()).await.is_err(), "closed");
    let metrics = metrics();
    let second = Disk::open(&path, 1 << 20, &metrics).expect("opens");
    assert_eq!(get(&second, &of, "k").await.as_deref(), Some("1"));
    let page = metrics.render().expect("renders");
    assert!(page.contains("selvedge_kv_bytes{namespace=\"a\"} 66"), "{page}");
    second.close();
}

#[tokio::test]
async fn writes_that_wait_together_are_all_answered() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = Arc::new(disk(&folder.path().join("s")));
    let of = Arc::new(Namespace { size: 1 << 20, ..Namespace::clone(&namespace("a")) });
    let tasks = (0..1000).map(|n| {
        let (store, of) = (Arc::clone(&store), Arc::clone(&of));
        // All for the same ten keys.
        let once = Put { when: When::Absent, ..put(&format!("k{}", n % 10), "v") };
        tokio::spawn(async move { store.put(&of, once).await.expect("writes") })
    });
    let mut won = 0;
    for task in tasks.collect::<Vec<_>>() {
        won += usize::from(task.await.expect("joins"));
    }
    assert_eq!(won, 10, "each key is put once");
    store.close();
}

#[test]
fn a_file_that_is_no_store_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("s");
    std::fs::write(&path, "not a store".repeat(1000)).expect("writes");
    let error = Disk::open(&path, 1 << 20, &metrics()).map(|_| ()).expect_err("no store");
    assert!(error.to_string().contains("cannot be opened"), "{error}");
    assert!(Disk::open(&folder.path().join("none/s"), 1 << 20, &metrics()).is_err());
}
