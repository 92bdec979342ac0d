use futures::StreamExt;
use proptest::prelude::*;

use super::*;
use crate::model::{Content, FileStat, Fingerprint, Index, LibraryPath, Metadata, MetadataStyle, Origin, Seen, Track};

fn open(folder: &Path) -> Store {
    let encoder = Encoder::new("test", Path::new("/music"), MetadataStyle::Nested);
    Store::open(&folder.join("index.sqlite"), b"/music", encoder).unwrap()
}

fn stat(inode: u64) -> FileStat {
    FileStat { device: 0, inode, size: 9, mtime_ns: 1, ctime_ns: 2 }
}

fn track(content: u8) -> Track {
    let metadata = Metadata { duration: Some(1.5), ..Metadata::default() };
    Track { fingerprint: Fingerprint { sha256: [content; 32], xxh128: u128::from(content) << 120 }, metadata }
}

fn file(path: &LibraryPath, content: u8) -> Observation {
    let seen = Seen::File { stat: stat(u64::MAX - 3), content: Content::Read(track(content)), candidates: vec![] };
    Observation { path: path.clone(), origin: Origin::Scan, seen }
}

fn missing(path: &LibraryPath) -> Observation {
    Observation { path: path.clone(), origin: Origin::Watch, seen: Seen::Missing }
}

/// Every message that waits now, without waiting for more.
async fn waiting(store: &Store) -> Vec<Outgoing> {
    let count = usize::try_from(store.outbox_length()).unwrap();
    store.outbox().take(count).map(Result::unwrap).collect().await
}

#[tokio::test]
async fn rows_and_messages_survive_a_reopening_and_the_sequence_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let path = LibraryPath::from_bytes(b"\xff/a.mp3");
    {
        let store = open(folder.path());
        let committed = store.commit([file(&path, 1)].into()).await.unwrap();
        assert_eq!(committed.changes[0].change.event_type(), "created");
        assert_eq!(waiting(&store).await.len(), 1);
        store.forget(1).await.unwrap();
        assert_eq!(store.outbox_length(), 0);
    }
    let store = open(folder.path());
    let row = store.index().row(&path).unwrap().unwrap();
    assert_eq!((row.stat, row.track), (stat(u64::MAX - 3), track(1)));
    assert_eq!(store.index().rows_by_inode(0, u64::MAX - 3, 9).unwrap().len(), 1);
    assert_eq!(store.index().rows_by_sha256(&[1; 32], 9).unwrap().len(), 1);
    store.commit([missing(&path)].into()).await.unwrap();
    let messages = waiting(&store).await;
    assert_eq!((messages[0].sequence, messages[0].event_type.as_str()), (2, "deleted"));
    assert!(store.index().is_empty().unwrap());
}

#[tokio::test]
async fn a_batch_that_changes_nothing_writes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let path = LibraryPath::from("a.mp3");
    store.commit([file(&path, 1)].into()).await.unwrap();
    let committed = store.commit([file(&path, 1)].into()).await.unwrap();
    assert_eq!(committed, Committed::default());
    assert_eq!(store.last_sequence(), 1);
}

#[tokio::test]
async fn a_file_that_changed_under_one_name_is_to_be_looked_at_under_its_others() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let (one, other) = (LibraryPath::from("one.mp3"), LibraryPath::from("other.mp3"));
    store.commit([file(&one, 1), file(&other, 1)].into()).await.unwrap();
    let changed = |path| {
        let Observation { path, origin, .. } = file(path, 2);
        let stat = FileStat { ctime_ns: 3, ..stat(u64::MAX - 3) };
        Observation { path, origin, seen: Seen::File { stat, content: Content::Read(track(2)), candidates: vec![] } }
    };
    for (seen, other_names) in [
        (changed(&one), vec![other.clone()]),
        (changed(&other), vec![]),
        (missing(&one), vec![other.clone()]),
        (missing(&other), vec![]),
    ] {
        assert_eq!(store.commit([seen].into()).await.unwrap().other_names, other_names);
    }
}

#[tokio::test]
async fn the_outbox_goes_on_with_what_is_committed_later() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let mut outbox = std::pin::pin!(store.outbox());
    let later = store.clone();
    let writing = tokio::spawn(async move {
        for index in 0..1200_u32 {
            later.commit([file(&LibraryPath::from(format!("{index}.mp3").as_str()), 1)].into()).await.unwrap();
        }
    });
    for expected in 1..=1200 {
        assert_eq!(outbox.next().await.unwrap().unwrap().sequence, expected);
    }
    writing.await.unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Pages of any size, over any subtree, give exactly the rows there, in order, each once.
    #[test]
    fn the_rows_of_a_subtree_are_read_in_order_whatever_the_page(
        paths in prop::collection::btree_set("[ab](/?[ab.0\u{7f}-]){0,4}", 1..40),
        under in "([ab](/[ab])?)?",
        page in 1..5_usize,
    ) {
        let folder = tempfile::tempdir().unwrap();
        let store = open(folder.path());
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let paths: Vec<LibraryPath> = paths.iter().map(|path| LibraryPath::from(path.as_str())).collect();
        runtime.block_on(store.commit(paths.iter().map(|path| file(path, 1)).collect())).unwrap();
        let under = LibraryPath::from(under.as_str());
        let expected: Vec<&LibraryPath> = paths.iter().filter(|path| path.is_at_or_under(&under)).collect();
        let mut read: Vec<LibraryPath> = Vec::new();
        loop {
            let rows = store.index().rows_after(&under, read.last(), page).unwrap();
            prop_assert!(rows.len() <= page);
            if rows.is_empty() {
                break;
            }
            read.extend(rows.into_iter().map(|(path, _)| path));
        }
        prop_assert_eq!(read.iter().collect::<Vec<_>>(), expected);
    }
}
