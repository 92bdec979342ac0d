use proptest::prelude::*;

use super::super::tests::{encoder, file, open, store_file, waiting};
use super::*;
use crate::model::{Index, MountId, Row};
use crate::store::{Outgoing, Store};

const OLD: &str = "/music";
const NEW: &str = "/data/music";

/// A store of the library at [`OLD`] with `files` files, one forgotten row, and two undelivered messages.
async fn filled(folder: &Path, files: usize) -> Vec<Outgoing> {
    let store = open(folder);
    let looks: Vec<_> =
        (0..files).map(|number| file(&LibraryPath::from(format!("{number:02}/x.mp3").as_str()), 1)).collect();
    store.commit(looks.into()).await.unwrap();
    let forgotten = Row::forgotten("forgotten.mp3".into(), MountId::default());
    commit::put(&schema::open_any(&store_file(folder)).unwrap(), &forgotten).unwrap();
    store.remove_delivered(files.saturating_sub(2) as u64).await.unwrap();
    waiting(&store).await
}

fn new_encoder() -> Encoder {
    encoder().at(Path::new(NEW))
}

fn run(folder: &Path) -> Result<Relocated, StoreError> {
    relocate(&store_file(folder), Path::new(OLD), Path::new(NEW), &new_encoder())
}

/// Event type, old path and path of the messages.
fn summaries(messages: &[Outgoing]) -> Vec<(String, Option<String>, String)> {
    let summaries = messages.iter().map(|message| {
        let body: serde_json::Value = serde_json::from_slice(&message.body).unwrap();
        let text = |field: &str| body[field].as_str().map(str::to_owned);
        (message.event_type.to_string(), text("old_path"), text("file_path").unwrap())
    });
    summaries.collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// Interrupted between any two chunks, and continued by the next call.
    #[test]
    fn a_relocation_that_is_interrupted_anywhere_publishes_every_file_once_and_in_sequence(
        files in 2_usize..30,
        limit in 1_usize..12,
        interruptions in prop::collection::vec(0_usize..4, 0..5),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let folder = tempfile::tempdir().unwrap();
            let undelivered = filled(folder.path(), files).await;
            let new = new_encoder();
            let (from, to) = (Path::new(OLD), Path::new(NEW));
            for steps in interruptions {
                let begun = Relocation::begin(&store_file(folder.path()), from, to, &new).unwrap();
                let Some(mut relocation) = begun else { break };
                let goes_on = (0..steps).all(|_| relocation.step(limit).unwrap());
                drop(relocation);
                if goes_on {
                    for root in [OLD, NEW] {
                        let opened = Store::open(&store_file(folder.path()), root.as_bytes(), new.clone());
                        assert!(matches!(opened, Err(StoreError::Relocating { .. })), "{root}");
                    }
                }
            }
            run(folder.path()).unwrap();
            assert_eq!(run(folder.path()).unwrap(), Relocated::AlreadyThere);

            let store = Store::open(&store_file(folder.path()), NEW.as_bytes(), new).unwrap();
            let messages = waiting(&store).await;
            let first = undelivered[0].sequence;
            assert!(messages.iter().map(|message| message.sequence).eq(first..first + messages.len() as u64));
            let (before, relocated) = messages.split_at(undelivered.len());
            assert_eq!(before, undelivered);
            let moved = |number| {
                let old = format!("{OLD}/{number:02}/x.mp3");
                ("moved".to_owned(), Some(old), format!("{NEW}/{number:02}/x.mp3"))
            };
            let mut expected: Vec<_> = (0..files).map(moved).collect();
            expected.push(("deleted".to_owned(), None, format!("{OLD}/forgotten.mp3")));
            assert_eq!(summaries(relocated), expected);
            assert_eq!(store.index().len().unwrap(), files as u64, "the rows stay, but for the forgotten one");
        });
    }
}

#[tokio::test]
async fn another_library_and_a_missing_store_are_errors_that_name_it() {
    let folder = tempfile::tempdir().unwrap();
    let missing = run(folder.path()).unwrap_err();
    assert!(matches!(missing, StoreError::NothingToRelocate { .. }) && !store_file(folder.path()).exists());
    filled(folder.path(), 3).await;
    let (file, new) = (store_file(folder.path()), new_encoder());
    let refused = relocate(&file, Path::new("/elsewhere"), Path::new(NEW), &new).unwrap_err();
    assert!(refused.is_invalid_usage());
    let text = refused.to_string();
    assert!(text.contains("contains the index of \"/music\", not of \"/elsewhere\""), "{text}");
    assert!(text.contains("relocate \"/music\" \"/data/music\""), "{text}");
    // A relocation in progress cannot change its target.
    Relocation::begin(&file, Path::new(OLD), Path::new(NEW), &new).unwrap();
    let refused = relocate(&file, Path::new(OLD), Path::new("/third"), &new).unwrap_err();
    assert!(matches!(refused, StoreError::Relocating { .. }), "{refused}");
    run(folder.path()).unwrap();
}
