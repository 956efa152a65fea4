//! The tier in memory: bounds, what stays, new heads, ranges, what people are told.

use super::super::{Place, Which};
use super::*;

#[tokio::test]
async fn what_is_put_is_read_back_without_a_copy() {
    let store = memory_only(1 << 20);
    let a = key("a");
    put(store, &a, &meta(&[("x", "1")]), b"hello").await;
    let (found, mut one) = look(store, &a).await.unwrap();
    assert_eq!(found.headers()["x"], "1");
    let (_, mut two) = look(store, &a).await.unwrap();
    let (one, two) =
        (one.read_body().await.unwrap().unwrap(), two.read_body().await.unwrap().unwrap());
    assert_eq!(&one[..], b"hello");
    assert_eq!(one.as_ptr(), two.as_ptr(), "two hits share the body");
    assert!(look(store, &key("b")).await.is_none());
}

#[tokio::test]
async fn the_tier_stays_within_its_limit_and_a_reload_changes_it() {
    let store = memory_only(4 << 20);
    for n in 0..2000 {
        put(store, &key(&n.to_string()), &meta(&[]), &[0; 8 << 10]).await;
    }
    let full = store.figures().memory;
    assert!(full.bytes <= 4 << 20, "{full:?}");
    assert!(full.bytes > 2 << 20, "the limit is made use of: {full:?}");
    assert!(full.evictions > 1000, "{full:?}");
    store.resize(&Settings { memory: 1 << 20, memory_object: 1 << 20, disk: None });
    let less = store.figures().memory;
    assert!(less.bytes <= 1 << 20 && less.limit == 1 << 20, "{less:?}");
}

#[tokio::test]
async fn a_scan_does_not_wash_out_what_is_in_use() {
    let store = memory_only(8 << 20);
    let hot: Vec<CacheKey> = (0..200).map(|n| key(&format!("hot{n}"))).collect();
    for key in &hot {
        put(store, key, &meta(&[]), &[0; 4 << 10]).await;
    }
    for key in hot.iter().chain(&hot) {
        assert!(look(store, key).await.is_some());
    }
    for n in 0..10_000 {
        put(store, &key(&format!("scan{n}")), &meta(&[]), &[0; 4 << 10]).await;
    }
    let mut left = 0;
    for key in &hot {
        left += usize::from(look(store, key).await.is_some());
    }
    assert!(left >= 195, "only {left} of 200 are left");
}

#[tokio::test]
async fn parsed_heads_stay_within_the_limit_too() {
    let store = memory_only(1 << 20);
    for n in 0..3000 {
        let name = key(&n.to_string());
        put(store, &name, &meta(&[("a", "b"), ("c", "d")]), b"x").await;
        for _ in 0..3 {
            let _ = look(store, &name).await;
        }
    }
    let memory = store.figures().memory;
    assert!(memory.bytes <= 1 << 20, "{memory:?}");
}

#[tokio::test]
async fn a_new_head_keeps_the_body() {
    let store = memory_only(1 << 20);
    let mut a = key("a");
    put(store, &a, &meta(&[("v", "1")]), b"body").await;
    store.stamp(&mut a);
    assert!(store.update_meta(&a, &meta(&[("v", "2")]), &span()).await.unwrap());
    let (found, mut reader) = look(store, &a).await.unwrap();
    assert_eq!(found.headers()["v"], "2");
    assert_eq!(read(&mut reader).await.unwrap(), b"body");
    assert!(!store.update_meta(&key("none"), &meta(&[]), &span()).await.unwrap());
}

#[tokio::test]
async fn the_head_of_an_older_answer_is_not_put_before_a_newer_body() {
    let store = memory_only(1 << 20);
    let mut revalidation = key("a");
    put(store, &revalidation, &meta(&[("v", "1")]), b"one").await;
    store.stamp(&mut revalidation);
    put(store, &key("a"), &meta(&[("v", "2")]), b"two").await;
    assert!(!store.update_meta(&revalidation, &meta(&[("v", "1")]), &span()).await.unwrap());
    assert_eq!(look(store, &key("a")).await.unwrap().0.headers()["v"], "2");
}

#[tokio::test]
async fn a_304_is_not_put_before_the_body_of_a_fill_that_began_earlier_and_ended_meanwhile() {
    let store = memory_only(1 << 20);
    let mut a = key("a");
    put(store, &a, &meta(&[("v", "1")]), b"one").await;
    let mut other = begin(store, &a, &meta(&[("v", "2")])).await;
    store.stamp(&mut a);
    let object = store.memory.peek(u128::from_be_bytes(primary(&a))).unwrap();
    let mut renewed = store.memory.meta(&object, 0).unwrap();
    other.write_body(Bytes::from_static(b"two"), true).await.unwrap();
    other.finish().await.unwrap();
    renewed.update_freshness(renewed.fresh_until(), 0, 0);
    assert!(!store.update_meta(&a, &renewed, &span()).await.unwrap());
    let (found, mut reader) = look(store, &a).await.unwrap();
    assert_eq!(found.headers()["v"], "2");
    assert_eq!(read(&mut reader).await.unwrap(), b"two");
}

#[tokio::test]
async fn an_older_fill_that_ends_later_does_not_replace_a_newer_one() {
    let store = memory_only(1 << 20);
    let a = key("a");
    let mut older = begin(store, &a, &meta(&[])).await;
    put(store, &a, &meta(&[]), b"newer").await;
    older.write_body(Bytes::from_static(b"older"), true).await.unwrap();
    older.finish().await.unwrap();
    assert_eq!(get(store, &a).await.unwrap(), b"newer");
}

#[tokio::test]
async fn ranges_are_read_from_where_they_begin() {
    let store = memory_only(1 << 20);
    put(store, &key("a"), &meta(&[]), b"0123456789").await;
    let (_, mut reader) = look(store, &key("a")).await.unwrap();
    assert!(reader.can_seek() && reader.can_seek_multipart());
    for (start, end, wanted) in [(2, Some(5), "234"), (7, None, "789"), (0, Some(99), "0123456789")]
    {
        reader.seek(start, end).unwrap();
        assert_eq!(read(&mut reader).await.unwrap(), wanted.as_bytes());
    }
    assert!(reader.seek(10, None).is_err(), "there is nothing at the end");
}

#[tokio::test]
async fn people_are_told_what_is_stored_for_a_url() {
    let store = memory_only(1 << 20);
    put(store, &key("a"), &labelled("h/a?1", &["t"], &[]), b"12345").await;
    put(store, &variant("a", 1), &labelled("h/a?1", &[], &[]), b"1").await;
    put(store, &key("b"), &labelled("h/b", &[], &[]), b"").await;
    let mut found = store.explain(Which::Url("h/a?1".to_owned())).await;
    found.sort_by_key(|entry| entry.bytes);
    assert_eq!(found.len(), 2, "{found:?}");
    assert_eq!((found[1].bytes, found[1].status, found[1].place), (5, 200, Place::Memory));
    assert_eq!(found[1].tags, ["t"]);
    let by_key = store.explain(Which::Key(primary(&key("b")))).await;
    assert_eq!(by_key.len(), 1);
    store.purge(hard(Scope::Url("h/a?1".to_owned()))).await.unwrap();
    assert_eq!(store.explain(Which::Url("h/a?1".to_owned())).await, []);
}
