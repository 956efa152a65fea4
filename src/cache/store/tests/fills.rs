//! Fills under way: concurrent readers, failures, lengths, answers that are too large.

use super::super::figures::Reading;
use super::*;

fn piece(n: usize) -> Bytes {
    Bytes::from(vec![n as u8; 1000 + n])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn readers_that_join_at_any_time_get_the_whole_body() {
    let store = memory_only(64 << 20);
    let a = key("a");
    let mut writer = begin(store, &a, &meta(&[("v", "1")])).await;
    let mut readers = Vec::new();
    let mut whole = Vec::new();
    for n in 0..200 {
        let (found, mut reader) = look(store, &key("a")).await.expect("a fill under way");
        assert_eq!(found.headers()["v"], "1");
        readers.push(tokio::spawn(async move { read(&mut reader).await.unwrap() }));
        whole.extend_from_slice(&piece(n));
        writer.write_body(piece(n), n == 199).await.unwrap();
        tokio::task::yield_now().await;
    }
    writer.finish().await.unwrap();
    for reader in readers {
        assert!(reader.await.unwrap() == whole, "another body");
    }
    assert!(get(store, &a).await.unwrap() == whole);
    let figures = store.figures();
    assert_eq!((figures.fills, figures.fill_bytes, figures.filled), (0, 0, 1));
}

#[tokio::test]
async fn a_filler_that_leaves_gives_its_readers_an_error_and_stores_nothing() {
    let store = memory_only(1 << 20);
    let a = key("a");
    let mut writer = begin(store, &a, &meta(&[])).await;
    let (_, mut reader) = look(store, &a).await.unwrap();
    writer.write_body(Bytes::from_static(b"half"), false).await.unwrap();
    assert_eq!(reader.read_body().await.unwrap().unwrap(), "half");
    drop(writer);
    assert!(reader.read_body().await.is_err(), "never the end of a body");
    drop(reader);
    assert!(look(store, &a).await.is_none());
    let figures = store.figures();
    assert_eq!((figures.fills, figures.fill_bytes, figures.aborted), (0, 0, 1));
}

#[tokio::test]
async fn a_body_of_another_length_than_said_is_an_error_for_all() {
    let store = memory_only(1 << 20);
    for body in ["123", "12345"] {
        let a = key(body);
        let mut writer = begin(store, &a, &meta(&[("content-length", "4")])).await;
        let (_, mut reader) = look(store, &a).await.unwrap();
        writer.write_body(Bytes::from(body), true).await.unwrap();
        assert!(writer.finish().await.is_err(), "{body}");
        assert!(read(&mut reader).await.is_err(), "{body}");
        assert!(look(store, &a).await.is_none(), "{body}");
    }
}

#[tokio::test]
async fn the_end_is_told_only_after_the_length_was_verified() {
    let store = memory_only(1 << 20);
    let a = key("a");
    let mut writer = begin(store, &a, &meta(&[("content-length", "4")])).await;
    let (_, mut reader) = look(store, &a).await.unwrap();
    writer.write_body(Bytes::from_static(b"1234"), true).await.unwrap();
    assert_eq!(reader.read_body().await.unwrap().unwrap(), "1234");
    let early = tokio::time::timeout(Duration::from_millis(20), reader.read_body()).await;
    assert!(early.is_err(), "not told before `finish`: {early:?}");
    writer.finish().await.unwrap();
    assert!(reader.read_body().await.unwrap().is_none());
}

#[tokio::test]
async fn a_range_of_a_fill_ends_where_it_ends() {
    let store = memory_only(1 << 20);
    let a = key("a");
    let mut writer = begin(store, &a, &meta(&[("content-length", "8")])).await;
    let (_, mut reader) = look(store, &a).await.unwrap();
    assert!(reader.can_seek() && !reader.can_seek_multipart());
    reader.seek(2, Some(5)).unwrap();
    writer.write_body(Bytes::from_static(b"0123"), false).await.unwrap();
    writer.write_body(Bytes::from_static(b"4567"), true).await.unwrap();
    assert_eq!(read(&mut reader).await.unwrap(), b"234", "before the fill has ended");
    writer.finish().await.unwrap();
    let (_, mut unknown) = {
        let _writer = begin(store, &key("b"), &meta(&[])).await;
        look(store, &key("b")).await.unwrap()
    };
    assert!(!unknown.can_seek());
    assert!(unknown.seek(0, Some(1)).is_err());
}

#[tokio::test]
async fn an_answer_that_outgrows_its_limit_goes_on_to_its_readers_unstored() {
    let store = memory_only(64 << 20);
    let a = key("a");
    let mut writer = begin(store, &a, &meta(&[])).await;
    let mut own = own_reader(store, &a, &writer).await;
    let (_, mut joined) = look(store, &a).await.unwrap();
    let (mut written, mut seen, mut also) = (Vec::new(), Vec::new(), Vec::new());
    for n in 0..4000 {
        writer.write_body(piece(n), false).await.unwrap();
        written.extend_from_slice(&piece(n));
        for (reader, body) in [(&mut own, &mut seen), (&mut joined, &mut also)] {
            body.extend_from_slice(&reader.read_body().await.unwrap().unwrap());
        }
        assert!(store.figures().fill_bytes < 2 << 20, "what was read is dropped");
    }
    assert!(look(store, &a).await.is_none(), "nobody else joins");
    writer.finish().await.unwrap();
    seen.extend_from_slice(&read(&mut own).await.unwrap());
    also.extend_from_slice(&read(&mut joined).await.unwrap());
    assert!(seen == written && also == written, "another body");
    assert!(look(store, &a).await.is_none());
    assert_eq!(refused(store.figures()), (1, 0, 0));
}

fn refused(figures: Reading) -> (u64, u64, u64) {
    (figures.refused_size, figures.refused_head, figures.refused_fills)
}

#[tokio::test]
async fn an_answer_that_says_that_it_is_too_large_is_never_held() {
    let store = memory_only(64 << 20);
    let a = key("a");
    let mut writer = begin(store, &a, &meta(&[("content-length", "9000000")])).await;
    let mut own = own_reader(store, &a, &writer).await;
    assert!(look(store, &a).await.is_none());
    for _ in 0..9 {
        writer.write_body(Bytes::from(vec![1; 1_000_000]), false).await.unwrap();
        assert_eq!(own.read_body().await.unwrap().unwrap().len(), 1_000_000);
    }
    writer.finish().await.unwrap();
    assert!(own.read_body().await.unwrap().is_none());
    assert_eq!(refused(store.figures()), (1, 0, 0));
}

#[tokio::test]
async fn a_passing_answer_that_nobody_reads_or_reads_too_slowly_is_stopped() {
    let store = memory_only(64 << 20);
    let a = key("a");
    let mut writer = begin(store, &a, &meta(&[("content-length", "90000000")])).await;
    let own = own_reader(store, &a, &writer).await;
    let mut stopped = 0;
    for n in 0..40 {
        if writer.write_body(Bytes::from(vec![0; 1 << 20]), false).await.is_err() {
            stopped = n;
            break;
        }
    }
    assert_eq!(stopped, 16, "MiB that wait for a slow reader");
    drop(own);
    assert!(writer.write_body(Bytes::from_static(b"x"), false).await.is_err(), "nobody reads");
    drop(writer);
    assert_eq!(store.figures().fill_bytes, 0);
}

#[tokio::test]
async fn a_head_that_cannot_be_kept_does_not_harm_its_answer() {
    let store = memory_only(1 << 20);
    let large = "x".repeat(300 << 10);
    let a = key("a");
    let mut writer = begin(store, &a, &meta(&[("x", &large)])).await;
    let mut own = own_reader(store, &a, &writer).await;
    writer.write_body(Bytes::from_static(b"body"), true).await.unwrap();
    writer.finish().await.unwrap();
    assert_eq!(read(&mut own).await.unwrap(), b"body");
    assert!(look(store, &a).await.is_none());
    assert_eq!(refused(store.figures()), (0, 1, 0));
}

#[tokio::test]
async fn fills_together_hold_no_more_than_the_cache_may() {
    let store = memory_only(1 << 20);
    let mut writers = Vec::new();
    for n in 0..40 {
        let name = key(&n.to_string());
        let mut writer = begin(store, &name, &meta(&[])).await;
        let own = own_reader(store, &name, &writer).await;
        writer.write_body(Bytes::from(vec![0; 50_000]), false).await.unwrap();
        writers.push((writer, own));
    }
    let figures = store.figures();
    assert!(figures.refused_fills > 0, "{figures:?}");
    for (writer, mut own) in writers {
        writer.finish().await.unwrap();
        assert_eq!(read(&mut own).await.unwrap().len(), 50_000);
    }
    assert_eq!(store.figures().fill_bytes, 0);
}
