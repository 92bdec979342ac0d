use std::collections::BTreeMap;

use super::super::tests::{encoder, file, missing, open, store_file, waiting};
use super::*;
use crate::model::EventType::{Created, Deleted};
use crate::model::{Index, Observation};
use crate::store::Store;

const LIBRARY: &[u8] = b"/music";
const PAGE: usize = 4096;

fn path(number: usize) -> LibraryPath {
    LibraryPath::from(format!("album {}/{number}.mp3", number % 10).as_str())
}

/// A store with `files` files, whose first hundred messages were delivered. Returns all messages, and those that wait.
async fn filled(folder: &Path, files: usize) -> (Vec<Outgoing>, Vec<Outgoing>) {
    let store = open(folder);
    let looks: Vec<Observation> = (0..files).map(|number| file(&path(number), 1)).collect();
    for batch in looks.chunks(100) {
        store.commit(batch.into()).await.unwrap();
    }
    let all = waiting(&store).await;
    assert_eq!(all.len(), files);
    store.remove_delivered(100).await.unwrap();
    let undelivered = waiting(&store).await;
    closed(store, folder);
    (all, undelivered)
}

/// Waits until the writer's thread has closed the file, which moves the log into it.
fn closed(store: Store, folder: &Path) {
    drop(store);
    let log = beside(&store_file(folder), "-wal");
    let begun = std::time::Instant::now();
    while log.exists() {
        assert!(begun.elapsed().as_secs() < 10, "the store does not close");
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
}

fn rebuilt(folder: &Path) -> Rebuilt {
    rebuild(&store_file(folder), LIBRARY, &encoder()).unwrap().expect("there was a store")
}

fn paths_of(store: &Store) -> Vec<LibraryPath> {
    let rows = store.index().rows_after(&LibraryPath::root(), None, usize::MAX).unwrap();
    rows.iter().map(|(path, _)| path).collect()
}

#[tokio::test]
async fn a_sound_store_is_kept_in_full_and_everything_is_published_again() {
    let folder = tempfile::tempdir().unwrap();
    let (_, undelivered) = filled(folder.path(), 250).await;
    let before = fs::read(store_file(folder.path())).unwrap();
    let Rebuilt { aside, messages, paths, whole, last_sequence, .. } = rebuilt(folder.path());
    assert_eq!((messages, paths, whole, last_sequence), (150, 250, true, 250));
    assert_eq!(fs::read(&aside).unwrap(), before);

    let store = open(folder.path());
    assert_eq!(waiting(&store).await, undelivered);
    store.remove_delivered(250).await.unwrap();
    // An unchanged file, a modified one, a deleted one and a new one.
    let looks = [file(&path(0), 1), file(&path(1), 2), missing(&path(2)), file(&path(999), 1)];
    let committed = store.commit(looks.into()).await.unwrap();
    assert_eq!(committed.other_names, []);
    let published: Vec<_> = waiting(&store).await.into_iter().map(|it| (it.sequence, it.event_type)).collect();
    let expected = [(251, Deleted), (252, Created), (253, Created), (254, Created)];
    assert_eq!(published, expected);
    // A replay leaves out paths that were not looked at yet.
    store.begin_replay(LibraryPath::root()).await.unwrap();
    while store.replay_some(100).await.unwrap() {}
    assert_eq!(waiting(&store).await.len(), 4 + 3);
}

/// Overwrites each page in turn, and cuts the file at each: whatever can still be read is the same as before.
#[tokio::test]
async fn whatever_can_be_read_of_a_corrupt_store_is_kept_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    // A free page may still have a copy of a delivered message.
    let (messages, _) = filled(folder.path(), 400).await;
    let original: BTreeMap<u64, Outgoing> = messages.into_iter().map(|message| (message.sequence, message)).collect();
    let bytes = fs::read(store_file(folder.path())).unwrap();
    let mark = fs::read(folder.path().join("index.mark")).unwrap();
    let pages = bytes.len() / PAGE;
    assert!(pages > 50, "{pages} pages");
    let all: Vec<LibraryPath> = paths_of(&open(folder.path()));
    let mut lost = Vec::new();
    for page in 0..pages {
        let overwritten = {
            let mut bytes = bytes.clone();
            let garbage = (0..PAGE).map(|at| u8::try_from((at * 7919 + page * 31 + (at >> 3)) % 251).unwrap());
            bytes.splice(page * PAGE..(page + 1) * PAGE, garbage);
            bytes
        };
        let another = {
            let mut bytes = bytes.clone();
            bytes.copy_within((pages - 1 - page) * PAGE..(pages - page) * PAGE, page * PAGE);
            bytes
        };
        let cut = bytes[..page * PAGE].to_vec();
        let cut = (page % 5 == 0).then_some(cut);
        for corrupt in [overwritten, another].into_iter().chain(cut) {
            let folder = tempfile::tempdir().unwrap();
            let file_name = store_file(folder.path());
            fs::write(&file_name, &corrupt).unwrap();
            fs::write(folder.path().join("index.mark"), &mark).unwrap();
            let rebuilt = rebuilt(folder.path());
            assert_eq!(fs::read(&rebuilt.aside).unwrap(), corrupt, "page {page}");

            let store = open(folder.path());
            let messages = waiting(&store).await;
            assert!(messages.iter().all(|message| original.get(&message.sequence) == Some(message)), "page {page}");
            assert!(messages.is_sorted_by_key(|message| message.sequence));
            let paths = paths_of(&store);
            let strange: Vec<_> = paths.iter().filter(|path| !all.contains(path)).collect();
            assert!(strange.is_empty(), "page {page}: {strange:?}");
            if rebuilt.whole {
                assert_eq!((messages.len(), paths.len()), (300, 400), "page {page}");
            }
            if corrupt.len() == bytes.len() {
                lost.push(300 - messages.len() + 400 - paths.len());
            }
            store.commit([file(&"new.mp3".into(), 9)].into()).await.unwrap();
            assert!(store.last_sequence() > 400, "page {page}: {}", store.last_sequence());
        }
    }
    // A few pages are essential; each of the others loses little.
    lost.sort_unstable();
    assert!(lost[lost.len() * 9 / 10] <= 10, "{lost:?}");
}

#[tokio::test]
async fn the_log_is_read_and_kept_too() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    store.commit([file(&path(0), 1)].into()).await.unwrap();
    // As a killed process leaves it.
    let copy = tempfile::tempdir().unwrap();
    for name in ["index.sqlite", "index.sqlite-wal", "index.mark"] {
        fs::copy(folder.path().join(name), copy.path().join(name)).unwrap();
    }
    let log = fs::read(copy.path().join("index.sqlite-wal")).unwrap();
    let rebuilt = rebuilt(copy.path());
    assert_eq!((rebuilt.messages, rebuilt.paths, rebuilt.whole), (1, 1, true));
    assert_eq!(fs::read(beside(&rebuilt.aside, "-wal")).unwrap(), log);
    let kept = Connection::open(&rebuilt.aside).unwrap();
    assert_eq!(commit::outbox_length(&kept).unwrap(), 1);
}

/// SQLite would roll back the journal of the old store in the new one.
#[tokio::test]
async fn a_journal_that_was_left_behind_is_moved_aside_too() {
    let folder = tempfile::tempdir().unwrap();
    filled(folder.path(), 250).await;
    let other = folder.path().join("other");
    fs::copy(store_file(folder.path()), &other).unwrap();
    let maker = Connection::open(&other).unwrap();
    maker
        .execute_batch("PRAGMA journal_mode = DELETE; PRAGMA cache_size = 1; BEGIN; UPDATE files SET size = 1")
        .unwrap();
    fs::copy(beside(&other, "-journal"), beside(&store_file(folder.path()), "-journal")).unwrap();
    let Rebuilt { messages, paths, whole, .. } = rebuilt(folder.path());
    assert_eq!((messages, paths, whole), (150, 250, true));
    assert!(!beside(&store_file(folder.path()), "-journal").exists());
    let names = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert_eq!(names.filter(|name| name.starts_with("index.") && name.ends_with("-journal")).count(), 1);
    let store = open(folder.path());
    assert_eq!(paths_of(&store).len(), 250);
    let row = store.index().row(&path(0)).unwrap().unwrap();
    assert!(row.is_forgotten());
}

#[tokio::test]
async fn a_rebuild_that_was_killed_half_way_is_finished_by_the_next_start() {
    for moved in 0..=2 {
        let folder = tempfile::tempdir().unwrap();
        let (_, undelivered) = filled(folder.path(), 250).await;
        let file_name = store_file(folder.path());
        let unfinished = beside(&file_name, UNFINISHED);
        make(&unfinished, &file_name, LIBRARY, &encoder()).unwrap();
        fs::rename(unfinished, beside(&file_name, REBUILT)).unwrap();
        fs::write(beside(&file_name, "-wal"), "a log").unwrap();
        for part in &PARTS[..moved] {
            fs::rename(beside(&file_name, part), beside(&folder.path().join("index.before.sqlite"), part)).unwrap();
        }
        let store = open(folder.path());
        assert_eq!(waiting(&store).await, undelivered, "{moved}");
        assert!(!beside(&file_name, REBUILT).exists());
        let kept = |suffix: &str| {
            let names = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name());
            let names: Vec<_> = names.filter_map(|name| name.into_string().ok()).collect();
            names.iter().filter(|name| name.ends_with(suffix)).count()
        };
        assert_eq!(kept("Z.sqlite-wal") + kept("before.sqlite-wal"), 1, "{moved}");
        assert_eq!(kept("Z.sqlite") + kept("before.sqlite"), 1, "{moved}");
    }
}

#[tokio::test]
async fn what_was_kept_aside_is_never_overwritten() {
    let folder = tempfile::tempdir().unwrap();
    filled(folder.path(), 1).await;
    let aside: std::collections::BTreeSet<PathBuf> = (0..5).map(|_| rebuilt(folder.path()).aside).collect();
    assert_eq!(aside.len(), 5);
    assert!(aside.iter().all(|aside| aside.exists()));
}

#[tokio::test]
async fn the_store_of_another_place_is_not_opened_and_rebuilt_with_a_delete_for_each_of_its_paths() {
    let folder = tempfile::tempdir().unwrap();
    let (_, undelivered) = filled(folder.path(), 2_250).await;
    let file_name = store_file(folder.path());
    let bytes = fs::read(&file_name).unwrap();
    assert!(matches!(corruption::inspect(&file_name, Some(b"/other")), Err(StoreError::OtherLibrary { .. })));
    assert_eq!(fs::read(&file_name).unwrap(), bytes);

    let other = encoder().at(Path::new("/other"));
    let rebuilt = rebuild(&file_name, b"/other", &other).unwrap().unwrap();
    assert_eq!(rebuilt.old_library.as_deref(), Some("/music"));
    assert_eq!((rebuilt.paths, rebuilt.last_sequence), (2_250, 4_500));
    assert!(rebuild(&file_name, b"/other", &other).unwrap().unwrap().old_library.is_none());

    let store = Store::open(&file_name, b"/other", other).unwrap();
    assert!(store.index().is_empty().unwrap());
    let messages = waiting(&store).await;
    let (before, deleted) = messages.split_at(undelivered.len());
    assert_eq!(before, undelivered);
    let mut paths = std::collections::BTreeSet::new();
    for (message, sequence) in deleted.iter().zip(2_251..) {
        assert_eq!((message.sequence, message.event_type), (sequence, Deleted));
        let body: serde_json::Value = serde_json::from_slice(&message.body).unwrap();
        paths.insert(body["file_path"].as_str().unwrap().to_owned());
    }
    assert_eq!(paths, (0..2_250).map(|number| format!("/music/{}", path(number))).collect());
    store.commit([file(&"new.mp3".into(), 9)].into()).await.unwrap();
    assert_eq!(store.last_sequence(), 4_501);
}

/// No sequence number is used twice, whatever is lost.
#[tokio::test]
async fn the_sequence_goes_on_above_every_number_that_was_given_out() {
    async fn next(folder: &Path) -> u64 {
        let store = open(folder);
        store.commit([file(&"new.mp3".into(), 9)].into()).await.unwrap();
        store.last_sequence()
    }
    type Lose = (&'static str, fn(&Path));
    let lose: [Lose; 4] = [
        ("the store", |folder| fs::remove_file(store_file(folder)).unwrap()),
        ("the newest commits", |folder| fs::rename(folder.join("older"), store_file(folder)).unwrap()),
        ("every page, rebuilt", |folder| {
            fs::write(store_file(folder), "garbage").unwrap();
            rebuilt(folder);
        }),
        ("every page and the mark, rebuilt", |folder| {
            fs::write(store_file(folder), "garbage").unwrap();
            fs::write(folder.join("index.mark"), "garbage").unwrap();
            rebuilt(folder);
        }),
    ];
    for (what, lose) in lose {
        let folder = tempfile::tempdir().unwrap();
        filled(folder.path(), 120).await;
        fs::copy(store_file(folder.path()), folder.path().join("older")).unwrap();
        let store = open(folder.path());
        store.commit([file(&"one more.mp3".into(), 2)].into()).await.unwrap();
        closed(store, folder.path());
        lose(folder.path());
        let first = next(folder.path()).await;
        assert!(first > 121 && first < HIGHEST, "{what}: {first}");
        // Without a further gap.
        let store = open(folder.path());
        store.commit([missing(&"new.mp3".into())].into()).await.unwrap();
        assert_eq!(store.last_sequence(), first + 1, "{what}");
    }
}

#[tokio::test]
async fn parked_messages_are_kept_and_so_are_those_that_are_retried() {
    let folder = tempfile::tempdir().unwrap();
    let (all, _) = filled(folder.path(), 103).await;
    {
        let store = open(folder.path());
        let refused = (101..=103).map(|sequence| crate::model::Refused { sequence, reason: "too large".into() });
        store.settle(vec![101, 102, 103], refused.collect()).await.unwrap();
        store.retry_parked(std::collections::BTreeSet::from([102])).await.unwrap();
        closed(store, folder.path());
    }
    let Rebuilt { messages, parked, whole, last_sequence, .. } = rebuilt(folder.path());
    assert_eq!((messages, parked, whole, last_sequence), (0, 3, true, 103));
    let store = open(folder.path());
    assert_eq!(waiting(&store).await, [all[101].clone()]);
    let parked = store.parked().await.unwrap();
    assert_eq!(parked.iter().map(|it| it.sequence).collect::<Vec<_>>(), [101, 103]);
    assert_eq!(parked[0].reason, "too large");
}
