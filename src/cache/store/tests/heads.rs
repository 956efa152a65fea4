//! A head comes back as it went in, and what is no head is refused.

use std::time::Duration;

use proptest::prelude::*;

use super::super::head::Head;
use super::*;

fn back(meta: &CacheMeta) -> CacheMeta {
    let head = Head::new(7, [9; 16], meta).unwrap();
    let again = Head::decode(head.encoded()).expect("what was encoded");
    assert_eq!((again.seq, again.primary, &again.marks), (7, [9; 16], &head.marks));
    again.parse().unwrap().meta()
}

#[test]
fn times_headers_variance_and_labels_come_back() {
    let mut meta =
        labelled("a.test/b", &["x", "y"], &[("ETag", "\"1\""), ("x-a", "1"), ("X-A", "2")]);
    meta.set_variance([3; 16]);
    meta.set_epoch_override(meta.created() - Duration::from_secs(9));
    let found = back(&meta);
    assert_eq!(found.fresh_until(), meta.fresh_until());
    assert_eq!(found.created(), meta.created());
    assert_eq!(found.epoch(), meta.epoch());
    assert_eq!(found.variance(), Some([3; 16]));
    assert_eq!((found.stale_while_revalidate_sec(), found.stale_if_error_sec()), (5, 7));
    assert_eq!(Labels::of(&found), Labels::of(&meta));
    assert_eq!(found.headers(), meta.headers());
    let wire = |meta: &CacheMeta| {
        let mut out = Vec::new();
        meta.response_header().header_to_h1_wire(&mut out);
        String::from_utf8(out).unwrap()
    };
    assert_eq!(wire(&found), wire(&meta), "names keep their case and values their order");
}

#[test]
fn a_revalidated_head_counts_its_age_from_the_304() {
    let mut meta = meta(&[]);
    meta.update_freshness(meta.fresh_until(), 1, 2);
    assert_ne!(meta.updated(), meta.created(), "the case that is meant");
    let found = back(&meta);
    assert_eq!((found.epoch(), found.created()), (meta.updated(), meta.created()));
}

#[test]
fn a_variant_that_replaced_another_keeps_the_time_which_its_siblings_live_by() {
    // Only Pingora sets a provenance: it stands last in the encoding, which says when it was made.
    let mut old = meta(&[]);
    old.set_variance([1; 16]);
    let (native, header) = old.serialize().unwrap();
    let mut renewed = CacheMeta::deserialize(&native, &header).unwrap();
    assert_eq!(back(&renewed).provenance(), old.created());
    renewed.update_freshness(old.fresh_until(), 0, 0);
    assert_eq!(back(&renewed).provenance(), old.created());
}

#[test]
fn a_head_that_is_too_large_or_has_too_many_tags_is_refused() {
    let many: Vec<String> = (0..300).map(|n| n.to_string()).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let large = "x".repeat(300 << 10);
    for meta in [labelled("a/", &many, &[]), meta(&[("x-large", &large)])] {
        assert!(Head::new(1, [0; 16], &meta).is_err());
    }
}

#[test]
fn a_head_cut_short_is_no_head() {
    let head = Head::new(7, [9; 16], &labelled("a/", &["t"], &[("a", "b")])).unwrap();
    for end in 0..head.encoded().len() {
        assert!(Head::decode(&head.encoded()[..end]).is_none(), "cut at {end}");
    }
}

proptest! {
    #[test]
    fn no_bytes_make_a_head_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = Head::decode(&bytes);
        let mut after_format = vec![1];
        after_format.extend_from_slice(&bytes);
        let _ = Head::decode(&after_format);
    }
}
