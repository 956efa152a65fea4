//! Bodies too large for memory: they go to files while they are read.

use super::*;

const LEN: usize = 5_000_000;

fn body() -> Vec<u8> {
    (0..LEN).map(|n| (n / 7) as u8).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn readers_of_a_large_fill_get_it_whole_and_memory_keeps_a_window() {
    let dir = tempfile::tempdir().unwrap();
    let store = on_disk(dir.path());
    let (a, whole) = (key("a"), body());
    let mut writer = begin(store, &a, &meta(&[("v", "1")])).await;
    let mut own = own_reader(store, &a, &writer).await;
    let early = tokio::spawn(async move { read(&mut own).await.unwrap() });
    let mut late = Vec::new();
    for (n, data) in whole.chunks(40_000).enumerate() {
        writer.write_body(Bytes::copy_from_slice(data), false).await.unwrap();
        let held = store.figures().fill_bytes;
        assert!(held <= 3 << 20, "{held} bytes in memory");
        if n % 25 == 24 {
            let (_, mut reader) = look(store, &key("a")).await.expect("a fill under way");
            late.push(tokio::spawn(async move { read(&mut reader).await.unwrap() }));
        }
    }
    writer.finish().await.unwrap();
    assert!(early.await.unwrap() == whole, "another body");
    for reader in late {
        assert!(reader.await.unwrap() == whole, "another body");
    }
    assert_eq!((store.figures().fills, store.figures().fill_bytes), (0, 0));
    assert!(get(store, &a).await.unwrap() == whole, "from its file");
    let store = store.restarted(dir.path());
    assert!(get(store, &a).await.unwrap() == whole, "after a restart");
}

#[tokio::test]
async fn ranges_of_a_large_object_are_read_from_where_they_begin() {
    let dir = tempfile::tempdir().unwrap();
    let store = on_disk(dir.path());
    let whole = body();
    let length = LEN.to_string();
    let mut writer = begin(store, &key("a"), &meta(&[("content-length", &length)])).await;
    for data in whole.chunks(100_000) {
        writer.write_body(Bytes::copy_from_slice(data), false).await.unwrap();
    }
    let (_, mut filling) = look(store, &key("a")).await.unwrap();
    let ranges = [(0, 10), (262_143, 262_146), (1_000_000, 3_000_000), (LEN - 5, LEN)];
    for (start, end) in ranges {
        // The last byte is told once all was verified.
        let end = end.min(LEN - 1);
        filling.seek(start, Some(end)).unwrap();
        assert!(read(&mut filling).await.unwrap() == whole[start..end], "{start} to {end}");
    }
    writer.finish().await.unwrap();
    let (_, mut stored) = look(store, &key("a")).await.unwrap();
    assert!(stored.can_seek_multipart());
    for (start, end) in ranges {
        stored.seek(start, Some(end)).unwrap();
        assert!(read(&mut stored).await.unwrap() == whole[start..end], "{start} to {end}");
    }
}

#[tokio::test]
async fn a_large_fill_that_is_dropped_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = on_disk(dir.path());
    for length in [None, Some("6000000")] {
        let headers: Vec<_> = length.map(|length| ("content-length", length)).into_iter().collect();
        let mut writer = begin(store, &key("a"), &meta(&headers)).await;
        let (_, mut reader) = look(store, &key("a")).await.unwrap();
        writer.write_body(Bytes::from(body()), false).await.unwrap();
        if length.is_some() {
            assert!(writer.finish().await.is_err(), "it is not as long as said");
        } else {
            drop(writer);
        }
        assert!(read(&mut reader).await.is_err());
        drop(reader);
        assert!(look(store, &key("a")).await.is_none());
        store.on_disk().drain();
        assert_eq!(files(&dir.path().join("tmp")), Vec::<std::path::PathBuf>::new());
        assert_eq!(files(&dir.path().join("objects")), Vec::<std::path::PathBuf>::new());
    }
}

#[tokio::test]
async fn a_purge_during_a_large_fill_holds() {
    let dir = tempfile::tempdir().unwrap();
    let store = on_disk(dir.path());
    let mut writer = begin(store, &key("a"), &labelled("h/a", &["t"], &[])).await;
    writer.write_body(Bytes::from(body()), false).await.unwrap();
    store.purge(hard(Scope::Tag("t".into()))).await.unwrap();
    writer.finish().await.unwrap();
    assert!(look(store, &key("a")).await.is_none());
    let store = store.restarted(dir.path());
    assert!(look(store, &key("a")).await.is_none());
}

#[tokio::test]
async fn a_disk_that_fails_during_a_large_fill_does_not_harm_its_readers() {
    for late in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let store = on_disk(dir.path());
        let whole = body();
        let mut writer = begin(store, &key("a"), &meta(&[])).await;
        let mut own = own_reader(store, &key("a"), &writer).await;
        let mut seen = Vec::new();
        for (n, data) in whole.chunks(100_000).enumerate() {
            if n == 30 && !late {
                store.on_disk().faults.fail_with(Some(libc::ENOSPC));
            }
            writer.write_body(Bytes::copy_from_slice(data), false).await.unwrap();
            if n % 2 == 0 {
                seen.extend_from_slice(&own.read_body().await.unwrap().unwrap());
            }
        }
        store.on_disk().faults.fail_with(Some(libc::ENOSPC));
        writer.finish().await.unwrap();
        seen.extend_from_slice(&read(&mut own).await.unwrap());
        assert!(seen == whole, "another body");
        assert!(look(store, &key("a")).await.is_none(), "it is not stored");
        assert!(store.figures().disk.unwrap().paused);
    }
}

#[tokio::test]
async fn an_object_larger_than_the_disk_takes_goes_on_unstored() {
    let dir = tempfile::tempdir().unwrap();
    let store = on_disk(dir.path());
    let piece = Bytes::from(vec![7; 1 << 20]);
    let mut writer = begin(store, &key("a"), &meta(&[])).await;
    let mut own = own_reader(store, &key("a"), &writer).await;
    let mut seen = 0;
    for _ in 0..40 {
        writer.write_body(piece.clone(), false).await.unwrap();
        seen += own.read_body().await.unwrap().unwrap().len();
    }
    writer.finish().await.unwrap();
    seen += read(&mut own).await.unwrap().len();
    drop(own);
    assert_eq!(seen, 40 << 20);
    assert!(look(store, &key("a")).await.is_none());
    assert_eq!(files(&dir.path().join("tmp")), Vec::<std::path::PathBuf>::new());
}

#[tokio::test]
async fn a_read_that_is_given_up_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = on_disk(dir.path());
    put(store, &key("a"), &meta(&[]), &body()).await;
    let (_, mut reader) = look(store, &key("a")).await.unwrap();
    let mut seen = Vec::new();
    loop {
        // Polled once and dropped, as `select!` does.
        let once = tokio::time::timeout(Duration::ZERO, reader.read_body()).await;
        match once {
            Ok(read) => match read.unwrap() {
                Some(data) => seen.extend_from_slice(&data),
                None => break,
            },
            Err(_) => tokio::task::yield_now().await,
        }
    }
    assert!(seen == body(), "another body");
}
