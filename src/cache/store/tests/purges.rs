//! Purged is purged: in memory, on its way, and when a 304 comes late.

use super::super::PurgeError;
use super::super::rules::{MAX_PREFIXES, RuleError};
use super::super::sweep::sweep;
use super::*;

/// Objects a1, a2 (a variant of a1), b and c on two hosts with tags.
async fn filled() -> &'static Store {
    let store = memory_only(1 << 20);
    put(store, &key("a"), &labelled("one.test/a/1", &["red", "blue"], &[]), b"a1").await;
    put(store, &variant("a", 1), &labelled("one.test/a/1", &["red"], &[]), b"a2").await;
    put(store, &key("b"), &labelled("one.test/a/2", &["blue"], &[]), b"b").await;
    put(store, &key("c"), &labelled("two.test/a/1", &[], &[]), b"c").await;
    store
}

async fn left(store: &'static Store) -> String {
    let mut left = String::new();
    for (name, key) in [("a1", key("a")), ("a2", variant("a", 1)), ("b", key("b")), ("c", key("c"))]
    {
        if let Some((meta, mut reader)) = look(store, &key).await {
            assert_eq!(read(&mut reader).await.unwrap(), name.as_bytes());
            left += name;
            left += if fresh(&meta) { " " } else { "(stale) " };
        }
    }
    left.trim_end().to_owned()
}

#[tokio::test]
async fn each_scope_takes_what_it_means_and_says_how_many() {
    let cases = [
        (Scope::Key(primary(&key("a"))), Some(1), "b c", "a1(stale) a2(stale) b c"),
        (Scope::Url("one.test/a/1".into()), Some(2), "b c", "a1(stale) a2(stale) b c"),
        (Scope::Tag("blue".into()), Some(2), "a2 c", "a1(stale) a2 b(stale) c"),
        (Scope::Tag("none".into()), Some(0), "a1 a2 b c", "a1 a2 b c"),
        (Scope::Prefix("one.test/a".into()), None, "c", "a1(stale) a2(stale) b(stale) c"),
        (Scope::Host("two.test".into()), Some(1), "a1 a2 b", "a1 a2 b c(stale)"),
        (Scope::Host("two".into()), Some(0), "a1 a2 b c", "a1 a2 b c"),
        (Scope::All, Some(4), "", "a1(stale) a2(stale) b(stale) c(stale)"),
    ];
    for (scope, count, after_hard, after_soft) in cases {
        let store = filled().await;
        let purged = store.purge(hard(scope.clone())).await.unwrap();
        assert_eq!(purged.memory, count, "{scope:?}");
        assert_eq!(left(store).await, after_hard, "{scope:?}");
        let store = filled().await;
        store.purge(soft(scope.clone())).await.unwrap();
        assert_eq!(left(store).await, after_soft, "{scope:?}");
    }
}

#[tokio::test]
async fn what_comes_after_a_purge_stays() {
    let store = filled().await;
    store.purge(hard(Scope::All)).await.unwrap();
    put(store, &key("b"), &labelled("one.test/a/2", &["blue"], &[]), b"b").await;
    assert_eq!(left(store).await, "b");
    let purged = store.purge(hard(Scope::Tag("blue".into()))).await.unwrap();
    assert!(purged.memory >= Some(1));
    assert_eq!(left(store).await, "");
}

#[tokio::test]
async fn a_purge_reaches_a_fill_under_way_and_its_readers_finish() {
    let store = memory_only(1 << 20);
    let a = key("a");
    let mut writer = begin(store, &a, &labelled("h/a", &["t"], &[])).await;
    let (_, mut early) = look(store, &a).await.unwrap();
    writer.write_body(Bytes::from_static(b"old"), false).await.unwrap();
    store.purge(hard(Scope::Tag("t".into()))).await.unwrap();
    assert!(look(store, &a).await.is_none(), "nobody joins it any more");
    writer.finish().await.unwrap();
    assert_eq!(read(&mut early).await.unwrap(), b"old", "who began before the purge may finish");
    assert!(look(store, &a).await.is_none());
}

#[tokio::test]
async fn what_was_asked_for_before_a_purge_is_purged_though_its_head_came_later() {
    let store = memory_only(1 << 20);
    let mut asked = key("a");
    store.stamp(&mut asked);
    store.purge(hard(Scope::Tag("t".into()))).await.unwrap();
    put(store, &asked, &labelled("h/a", &["t"], &[]), b"old").await;
    assert!(look(store, &key("a")).await.is_none());
}

#[tokio::test]
async fn a_late_304_does_not_bring_a_purged_object_back() {
    for swept in [false, true] {
        let store = memory_only(1 << 20);
        let mut a = key("a");
        let meta = labelled("h/a", &["t"], &[]);
        put(store, &a, &meta, b"old").await;
        store.stamp(&mut a);
        store.purge(hard(Scope::Tag("t".into()))).await.unwrap();
        if swept {
            sweep(store, Duration::ZERO, true);
        }
        assert!(!store.update_meta(&a, &meta, &span()).await.unwrap(), "swept: {swept}");
        assert!(look(store, &a).await.is_none(), "swept: {swept}");
    }
}

#[tokio::test]
async fn a_304_that_was_asked_for_before_a_soft_purge_does_not_make_fresh() {
    for swept in [false, true] {
        let store = memory_only(1 << 20);
        let (mut before, mut after) = (key("a"), key("a"));
        let meta = labelled("h/a", &["t"], &[]);
        put(store, &before, &meta, b"body").await;
        store.stamp(&mut before);
        store.purge(soft(Scope::Tag("t".into()))).await.unwrap();
        if swept {
            sweep(store, Duration::ZERO, true);
        }
        store.update_meta(&before, &meta, &span()).await.unwrap();
        assert!(!fresh(&look(store, &before).await.unwrap().0), "swept: {swept}");
        store.stamp(&mut after);
        assert!(store.update_meta(&after, &meta, &span()).await.unwrap());
        assert!(fresh(&look(store, &after).await.unwrap().0), "swept: {swept}");
    }
}

#[tokio::test]
async fn a_sweep_removes_the_dead_keeps_the_stale_and_forgets_the_rules() {
    let store = filled().await;
    store.purge(hard(Scope::Tag("red".into()))).await.unwrap();
    store.purge(soft(Scope::Prefix("two".into()))).await.unwrap();
    assert_eq!(store.figures().memory.entries, 4);
    sweep(store, Duration::from_secs(60), true);
    assert_eq!(store.figures().memory.entries, 2, "what was purged is gone");
    assert_eq!(store.figures().rules, 2, "rules are kept for a while");
    sweep(store, Duration::ZERO, true);
    assert_eq!(store.figures().rules, 0);
    assert_eq!(left(store).await, "b c(stale)", "the object itself is stale now");
}

#[tokio::test]
async fn a_rule_outlives_a_sweep_as_long_as_an_older_fill_is_under_way() {
    let store = memory_only(1 << 20);
    let a = key("a");
    let mut writer = begin(store, &a, &labelled("h/a", &["t"], &[])).await;
    store.purge(hard(Scope::Tag("t".into()))).await.unwrap();
    sweep(store, Duration::ZERO, true);
    assert_eq!(store.figures().rules, 1);
    writer.write_body(Bytes::from_static(b"old"), true).await.unwrap();
    writer.finish().await.unwrap();
    assert!(look(store, &a).await.is_none());
    sweep(store, Duration::ZERO, true);
    assert_eq!(store.figures().rules, 0);
    assert!(look(store, &a).await.is_none());
}

#[tokio::test]
async fn what_was_asked_for_before_a_forgotten_rule_is_not_stored() {
    let store = memory_only(1 << 20);
    let mut asked = key("a");
    store.stamp(&mut asked);
    store.purge(hard(Scope::Tag("t".into()))).await.unwrap();
    sweep(store, Duration::ZERO, true);
    assert_eq!(store.figures().rules, 0);
    let mut writer = begin(store, &asked, &labelled("h/a", &["t"], &[])).await;
    let mut own = own_reader(store, &asked, &writer).await;
    writer.write_body(Bytes::from_static(b"old"), true).await.unwrap();
    writer.finish().await.unwrap();
    assert_eq!(read(&mut own).await.unwrap(), b"old", "its own client gets it");
    assert!(look(store, &key("a")).await.is_none());
    assert_eq!(store.figures().refused_late, 1);
}

#[tokio::test]
async fn pingoras_own_purge_takes_all_variants_and_leaves_no_rule_for_what_is_unknown() {
    use pingora_cache::storage::{PurgeOutcome, PurgeTarget, PurgeType};
    let store = filled().await;
    let unknown = key("x").to_compact();
    let outcome = store.purge_target(PurgeTarget::Active(&unknown), PurgeType::Invalidation).await;
    assert_eq!((outcome, store.figures().rules), (PurgeOutcome::NotFound, 0));
    let known = key("a").to_compact();
    let outcome = store.purge_target(PurgeTarget::Active(&known), PurgeType::Invalidation).await;
    assert_eq!(outcome, PurgeOutcome::Purged(None));
    assert_eq!(left(store).await, "b c");
    let expired =
        Storage::expire(store, PurgeTarget::Active(&key("b").to_compact()), &span()).await;
    assert_eq!(expired.unwrap(), PurgeOutcome::Expired);
    assert_eq!(left(store).await, "b(stale) c");
}

impl Store {
    async fn purge_target(
        &'static self,
        target: pingora_cache::storage::PurgeTarget<'_>,
        why: pingora_cache::storage::PurgeType,
    ) -> pingora_cache::storage::PurgeOutcome {
        Storage::purge(self, target, why, &span()).await.unwrap()
    }
}

#[tokio::test]
async fn rules_are_bounded_and_refused_by_name() {
    let store = memory_only(1 << 20);
    for n in 0..MAX_PREFIXES {
        store.purge(hard(Scope::Prefix(format!("h/{n}")))).await.unwrap();
    }
    let again = store.purge(hard(Scope::Prefix("h/1".into()))).await;
    assert!(again.is_ok(), "one that is there already: {again:?}");
    let one_more = store.purge(hard(Scope::Prefix("x".into()))).await;
    assert!(matches!(one_more, Err(PurgeError::Rule(RuleError::PrefixesFull))), "{one_more:?}");
    let empty = store.purge(hard(Scope::Tag(String::new()))).await;
    assert!(matches!(empty, Err(PurgeError::Rule(RuleError::Empty))), "{empty:?}");
    let long = store.purge(hard(Scope::Url("x".repeat(9000)))).await;
    assert!(matches!(long, Err(PurgeError::Rule(RuleError::Long))), "{long:?}");
}
