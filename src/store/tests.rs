use futures::StreamExt;
use proptest::prelude::*;

use super::*;
use crate::model::{
    Content, EventType, FileStat, Fingerprint, Index, LibraryPath, Metadata, MetadataStyle, MountId, Origin, Seen,
    Sound, Track,
};

pub(super) fn store_file(folder: &Path) -> PathBuf {
    folder.join("index.sqlite")
}

pub(super) fn encoder() -> Encoder {
    Encoder::new("test", Path::new("/music"), MetadataStyle::Nested)
}

pub(super) fn open(folder: &Path) -> Store {
    Store::open(&store_file(folder), b"/music", encoder()).unwrap()
}

fn stat(inode: u64) -> FileStat {
    FileStat { inode, size: 9, mtime_ns: 1, ctime_ns: 2, ..FileStat::default() }
}

fn track(content: u8) -> Track {
    let metadata = Metadata { duration: Some(1.5), ..Metadata::default() };
    let fingerprint = Fingerprint { sha256: [content; 32], xxh128: u128::from(content) << 120 };
    let sound = Some(Sound { xxh128: u128::from(content) << 100, bytes: 1 << 20 });
    Track { fingerprint, sound, metadata }
}

pub(super) fn file(path: &LibraryPath, content: u8) -> Observation {
    let seen =
        Seen::File { stat: stat(u64::MAX - 3), content: Content::Read(track(content).into()), candidates: vec![] };
    Observation { path: path.clone(), origin: Origin::Scan, seen }
}

pub(super) fn missing(path: &LibraryPath) -> Observation {
    Observation { path: path.clone(), origin: Origin::Watch, seen: Seen::Missing }
}

/// Every message that waits now.
pub(super) async fn waiting(store: &Store) -> Vec<Outgoing> {
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
        assert_eq!(committed.changes[0].change.event_type(), EventType::Created);
        assert_eq!(waiting(&store).await.len(), 1);
        store.remove_delivered(1).await.unwrap();
        assert_eq!(store.outbox_length(), 0);
    }
    let store = open(folder.path());
    let row = store.index().row(&path).unwrap().unwrap();
    assert_eq!((row.stat, &*row.track), (stat(u64::MAX - 3), &track(1)));
    let distant = FileStat { mtime_ns: i128::from(i64::MAX) * 3, ctime_ns: i128::from(i64::MIN) * 2, ..stat(1) };
    let seen = Seen::File { stat: distant, content: Content::Read(track(2).into()), candidates: vec![] };
    store.commit([Observation { seen, ..file(&"b.mp3".into(), 2) }].into()).await.unwrap();
    assert_eq!(store.index().row(&"b.mp3".into()).unwrap().unwrap().stat, distant);
    store.commit([missing(&"b.mp3".into())].into()).await.unwrap();
    store.remove_delivered(3).await.unwrap();
    assert_eq!(store.index().rows_by_inode(MountId(0), u64::MAX - 3, 9).unwrap().len(), 1);
    assert_eq!(store.index().rows_by_content(&track(1), 9).unwrap().len(), 1);
    // There were no rows when it was opened.
    store.index_sounds().await.unwrap();
    let with = |sound| store.index().rows_by_content(&Track { sound, ..track(3) }, 9).unwrap().len();
    let sound = track(1).sound.unwrap();
    assert_eq!([with(Some(sound)), with(None), with(Some(Sound { xxh128: 5, ..sound }))], [1, 0, 0]);
    store.commit([missing(&path)].into()).await.unwrap();
    let messages = waiting(&store).await;
    assert_eq!((messages[0].sequence, messages[0].event_type), (4, EventType::Deleted));
    assert!(store.index().is_empty().unwrap());
}

#[tokio::test]
async fn a_batch_that_changes_nothing_writes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let path = LibraryPath::from("a.mp3");
    store.commit([file(&path, 1)].into()).await.unwrap();
    let committed = store.commit([file(&path, 1)].into()).await.unwrap();
    assert_eq!(committed, Committed { last_sequence: 1, ..Committed::default() });
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
        Observation {
            path,
            origin,
            seen: Seen::File { stat, content: Content::Read(track(2).into()), candidates: vec![] },
        }
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
async fn a_file_whose_name_another_one_took_is_to_be_looked_at_under_its_others() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let (one, other) = (LibraryPath::from("one.mp3"), LibraryPath::from("other.mp3"));
    store.commit([file(&one, 1), file(&other, 1)].into()).await.unwrap();
    let content = Content::Read(track(2).into());
    let seen = Seen::File { stat: stat(5), content, candidates: vec![] };
    let taken = Observation { path: one, origin: Origin::Watch, seen };
    assert_eq!(store.commit([taken].into()).await.unwrap().other_names, [other]);
}

/// SQLite creates a file with a rollback journal, and switches to a write-ahead log afterwards.
#[tokio::test]
async fn a_store_whose_creation_was_killed_is_created_by_the_next_start() {
    let folder = tempfile::tempdir().unwrap();
    let half_made = folder.path().join("half made");
    let maker = Connection::open(&half_made).unwrap();
    maker.execute_batch("PRAGMA cache_size = 1; BEGIN; CREATE TABLE part (content)").unwrap();
    for _ in 0..20 {
        maker.execute("INSERT INTO part VALUES (zeroblob(4000))", []).unwrap();
    }
    for part in ["", "-journal"] {
        std::fs::copy(beside(&half_made, part), beside(&store_file(folder.path()), part)).unwrap();
    }
    let store = open(folder.path());
    store.commit([file(&"a.mp3".into(), 1)].into()).await.unwrap();
    assert_eq!(waiting(&store).await.len(), 1);
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

#[tokio::test]
async fn a_new_replay_replaces_the_rest_of_older_ones_under_it() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let paths = ["a/1.mp3", "a/2.mp3", "ab/1.mp3", "b/1.mp3"].map(LibraryPath::from);
    store.commit(paths.iter().map(|path| file(path, 1)).collect()).await.unwrap();
    store.remove_delivered(4).await.unwrap();
    assert_eq!(store.begin_replay("x".into()).await.unwrap(), 0);
    assert!(!store.replay_some(9).await.unwrap(), "there is nothing to do");

    assert_eq!(store.begin_replay("a".into()).await.unwrap(), 2);
    assert!(store.replay_some(1).await.unwrap());
    assert_eq!(store.begin_replay("ab".into()).await.unwrap(), 1);
    assert_eq!(store.begin_replay("a".into()).await.unwrap(), 2);
    while store.replay_some(9).await.unwrap() {}
    assert_eq!(paths_after(&store, 4).await, ["a/1.mp3", "ab/1.mp3", "a/1.mp3", "a/2.mp3"]);

    store.begin_replay("b".into()).await.unwrap();
    store.begin_replay(LibraryPath::root()).await.unwrap();
    while store.replay_some(9).await.unwrap() {}
    assert_eq!(paths_after(&store, 8).await, ["a/1.mp3", "a/2.mp3", "ab/1.mp3", "b/1.mp3"]);
}

/// The paths of the messages after `sequence`, relative to the root.
async fn paths_after(store: &Store, sequence: u64) -> Vec<String> {
    let path = |message: &Outgoing| {
        let body: serde_json::Value = serde_json::from_slice(&message.body).unwrap();
        body["file_path"].as_str().unwrap().trim_start_matches("/music/").to_owned()
    };
    waiting(store).await.iter().filter(|message| message.sequence > sequence).map(path).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Pages of any size, over any subtree, yield exactly its rows, in order, each once.
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
            read.extend(rows.iter().map(|(path, _)| path));
        }
        prop_assert_eq!(read.iter().collect::<Vec<_>>(), expected);
    }
}

#[tokio::test]
async fn a_store_that_gave_memory_back_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    for number in 0..3 {
        let path = LibraryPath::from(format!("{number}.mp3").as_str());
        store.commit(Arc::from([file(&path, 1)])).await.unwrap();
        // As many connections as threads that read at once.
        let readers: Vec<_> =
            (0..4).map(|_| store.index().clone()).map(|index| thread::spawn(move || index.len())).collect();
        assert!(readers.into_iter().all(|reader| reader.join().unwrap().unwrap() == number + 1));
        store.shrink();
        assert!(store.index().row(&path).unwrap().is_some());
    }
}

/// The same store, opened again once its writer thread has closed it.
fn reopened(store: Store, folder: &Path) -> Store {
    drop(store);
    let log = beside(&store_file(folder), "-wal");
    let begun = std::time::Instant::now();
    while log.exists() {
        assert!(begun.elapsed().as_secs() < 10, "the store does not close");
        thread::sleep(Duration::from_millis(1));
    }
    open(folder)
}

fn refused(sequence: u64) -> Refused {
    Refused { sequence, reason: format!("{sequence} is too large") }
}

async fn parked(store: &Store) -> Vec<u64> {
    let parked = store.parked().await.unwrap();
    assert_eq!(*store.parked_length().borrow(), parked.len() as u64);
    parked.into_iter().map(|message| message.sequence).collect()
}

/// A store with `count` undelivered messages.
async fn with_messages(folder: &Path, count: u8) -> (Store, Vec<Outgoing>) {
    let store = open(folder);
    let looks: Vec<_> = (0..count).map(|it| file(&LibraryPath::from(format!("{it}.mp3").as_str()), it)).collect();
    store.commit(looks.into()).await.unwrap();
    let messages = waiting(&store).await;
    (store, messages)
}

#[tokio::test]
async fn refused_messages_are_parked_in_the_transaction_that_removes_the_rest_and_survive_a_reopening() {
    let folder = tempfile::tempdir().unwrap();
    let (store, messages) = with_messages(folder.path(), 5).await;
    store.settle(vec![1, 2, 3], vec![refused(2)]).await.unwrap();
    let store = reopened(store, folder.path());
    assert_eq!(store.outbox_length(), 2);
    assert_eq!(waiting(&store).await, messages[3..]);
    let [only] = &store.parked().await.unwrap()[..] else { panic!("one is parked") };
    assert_eq!((only.sequence, only.event_type, only.path.as_str()), (2, EventType::Created, "/music/1.mp3"));
    assert_eq!((only.size, only.reason.as_str()), (messages[1].body.len() as u64, "2 is too large"));
    assert_eq!(parked(&store).await, [2]);
    store.settle(vec![4, 5], vec![refused(4), refused(5)]).await.unwrap();
    assert_eq!((parked(&store).await, store.outbox_length()), (vec![2, 4, 5], 0));
    // The highest number is parked, and is not used again.
    let store = reopened(store, folder.path());
    store.commit([file(&"later.mp3".into(), 9)].into()).await.unwrap();
    assert_eq!(waiting(&store).await[0].sequence, 6);
}

#[tokio::test]
async fn a_retried_message_comes_again_as_it_was_and_before_those_that_wait() {
    let folder = tempfile::tempdir().unwrap();
    let (store, messages) = with_messages(folder.path(), 4).await;
    store.settle(vec![1, 2, 3], vec![refused(1), refused(2), refused(3)]).await.unwrap();
    store.retry_parked(BTreeSet::from([3, 1, 99])).await.unwrap();
    assert_eq!((parked(&store).await, store.outbox_length()), (vec![2], 3));
    let expected = [&messages[0], &messages[2], &messages[3]].map(Clone::clone);
    assert_eq!(waiting(&store).await, expected);
    // Also after a restart, until it is delivered.
    let store = reopened(store, folder.path());
    assert_eq!(waiting(&store).await, expected);
    store.settle(vec![1], vec![]).await.unwrap();
    assert_eq!(store.outbox_length(), 2);
    store.settle(vec![3, 4], vec![Refused { sequence: 3, reason: "still".into() }]).await.unwrap();
    assert_eq!((parked(&store).await, store.outbox_length()), (vec![2, 3], 0));
    assert_eq!(store.parked().await.unwrap()[1].reason, "still");
    store.drop_parked(BTreeSet::from([2, 3, 4])).await.unwrap();
    assert_eq!(parked(&store).await, [0_u64; 0]);
}

#[tokio::test]
async fn an_open_stream_yields_a_retried_message_each_time() {
    let folder = tempfile::tempdir().unwrap();
    let (store, messages) = with_messages(folder.path(), 2).await;
    let mut outbox = std::pin::pin!(store.outbox());
    for message in &messages {
        assert_eq!(outbox.next().await.unwrap().unwrap(), *message);
    }
    store.settle(vec![1, 2], vec![refused(1)]).await.unwrap();
    for _ in 0..2 {
        store.retry_parked(BTreeSet::from([1])).await.unwrap();
        assert_eq!(outbox.next().await.unwrap().unwrap(), messages[0]);
        // It cannot be dropped or retried in the meantime.
        store.drop_parked(BTreeSet::from([1])).await.unwrap();
        store.retry_parked(BTreeSet::from([1])).await.unwrap();
        store.settle(vec![1], vec![refused(1)]).await.unwrap();
        assert_eq!(parked(&store).await, [1]);
    }
    store.commit([file(&"later.mp3".into(), 9)].into()).await.unwrap();
    assert_eq!(outbox.next().await.unwrap().unwrap().sequence, 3);
}

/// A full disk must not lose a message that was neither delivered nor parked.
#[tokio::test]
async fn a_message_that_could_not_be_parked_is_parked_by_the_next_removal() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _) = with_messages(folder.path(), 4).await;
    let other = Connection::open(store_file(folder.path())).unwrap();
    other.execute_batch("CREATE TRIGGER full BEFORE INSERT ON parked BEGIN SELECT RAISE(ABORT, 'full'); END").unwrap();
    store.settle(vec![1, 2], vec![refused(2)]).await.unwrap_err();
    store.settle(vec![3], vec![]).await.unwrap_err();
    assert_eq!((store.outbox_length(), parked(&store).await), (4, vec![]));
    other.execute_batch("DROP TRIGGER full").unwrap();
    store.remove_delivered(3).await.unwrap();
    assert_eq!((store.outbox_length(), parked(&store).await), (1, vec![2]));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn every_message_is_delivered_parked_or_dropped_whatever_is_refused_and_retried(
        count in 1..40_u8,
        batch in 1..9_usize,
        fails in prop::collection::vec(0..4_u8, 1..24),
        reopen in prop::collection::vec(any::<bool>(), 1..8),
    ) {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
            let folder = tempfile::tempdir().unwrap();
            let (mut store, messages) = with_messages(folder.path(), count).await;
            let all: BTreeSet<u64> = messages.iter().map(|message| message.sequence).collect();
            let mut delivered = BTreeSet::new();
            let mut turn = 0;
            for (round, reopen) in reopen.iter().enumerate() {
                let now = waiting(&store).await;
                for messages in now.chunks(batch) {
                    let sequences: Vec<u64> = messages.iter().map(|message| message.sequence).collect();
                    let mut failed = Vec::new();
                    for sequence in &sequences {
                        turn += 1;
                        if fails[turn % fails.len()] == 0 {
                            failed.push(refused(*sequence));
                        } else {
                            assert!(delivered.insert(*sequence), "{sequence} is delivered twice");
                        }
                    }
                    store.settle(sequences, failed).await.unwrap();
                }
                assert_eq!(store.outbox_length(), 0);
                let aside: BTreeSet<u64> = parked(&store).await.into_iter().collect();
                assert_eq!(&aside | &delivered, all.clone());
                assert!(aside.is_disjoint(&delivered));
                let half: BTreeSet<u64> = aside.iter().copied().skip(round % 2).step_by(2).collect();
                store.retry_parked(half).await.unwrap();
                if *reopen {
                    store = reopened(store, folder.path());
                }
            }
        });
    }
}
