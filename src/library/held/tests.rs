use proptest::prelude::*;

use super::*;

fn held() -> Held {
    Held::new(50, Duration::from_hours(1))
}

fn paths(count: u64) -> Vec<LibraryPath> {
    (0..count).map(|number| LibraryPath::from(format!("{}/{number}.mp3", number % 3).as_str())).collect()
}

/// A walk that missed these files on mounts that are present, sorted as by `Scanner::sort_missing`.
fn missed(here: Vec<LibraryPath>, indexed: u64, approval: Option<&Approval>) -> Missed {
    let sure = here.iter().cloned().collect();
    let mut vanished = Vanished::default();
    for path in here {
        if approval.is_some_and(|approval| approval.covers_here(&path)) {
            vanished.approved_total += 1;
            vanished.approved.push(path);
        } else {
            vanished.here_total += 1;
            vanished.here.push(path);
        }
    }
    Missed { vanished, sure, root_is_empty: false, indexed }
}

/// A walk that missed this many files on a mount that is gone.
fn away(files: u64, indexed: u64) -> Missed {
    let mut missed = Missed { indexed, ..Missed::default() };
    for path in paths(files) {
        missed.vanished.away.add(Place::of_mount(&path, MountId(7), None), 1);
    }
    missed
}

/// Judges a walk with the pending approval. Returns the number of deletes that are not held and of those that are
/// approved.
fn walk(held: &Held, here: Vec<LibraryPath>, indexed: u64) -> (usize, usize) {
    let approval = held.take_approval();
    let missed = missed(here, indexed, approval.as_ref());
    let verdict = held.judge(missed, approval, |_| None);
    (verdict.gone.len(), verdict.approved.len())
}

fn root() -> LibraryPath {
    LibraryPath::root()
}

#[test]
fn more_than_the_share_and_more_than_ten_are_held_until_they_are_approved_or_back() {
    let held = held();
    assert_eq!(walk(&held, paths(10), 10), (10, 0));
    assert_eq!(walk(&held, paths(50), 100), (50, 0));
    assert_eq!(walk(&held, paths(51), 100), (0, 0));
    assert_eq!(held.count(), 51);
    assert_eq!(walk(&held, paths(51), 100), (0, 0));
    assert_eq!(walk(&held, Vec::new(), 100), (0, 0));
    assert_eq!(held.count(), 0);
    assert_eq!(walk(&held, paths(100), 100), (0, 0));
    assert!(held.approve(&root()).is_some());
    assert_eq!(walk(&held, paths(100), 100), (0, 100));
    assert_eq!(held.count(), 0);
}

#[test]
fn an_approval_covers_what_is_held_and_the_next_walk_only() {
    let held = held();
    assert!(held.approve(&root()).is_none(), "nothing is held");
    assert_eq!(walk(&held, paths(100), 100), (0, 0));
    assert!(held.approve(&"3".into()).is_none(), "nothing is held there");
    assert!(held.approve(&root()).is_some());
    // The files are back.
    assert_eq!(walk(&held, Vec::new(), 100), (0, 0));
    assert_eq!(walk(&held, paths(100), 100), (0, 0));
    assert_eq!(held.count(), 100);
}

#[test]
fn what_was_not_held_at_the_approval_is_not_released() {
    let held = held();
    walk(&held, paths(60), 100);
    held.approve(&root()).unwrap();
    // Before the walk, a disk is unmounted and other directories go missing.
    let approval = held.take_approval().unwrap();
    let more = (0..5).map(|number| LibraryPath::from(format!("other/{number}.mp3").as_str()));
    let mut missed = missed(paths(60).into_iter().chain(more).collect(), 100, Some(&approval));
    missed.vanished.away = away(3, 0).vanished.away;
    let verdict = held.judge(missed, Some(approval), |_| None);
    assert_eq!((verdict.gone.len(), verdict.approved.len()), (0, 60));
    assert_eq!(held.count(), 8);
}

#[test]
fn approving_some_does_not_release_the_rest() {
    let held = held();
    assert_eq!(walk(&held, paths(15), 20), (0, 0));
    let release = held.approve(&"0".into()).unwrap();
    assert_eq!(walk(&held, paths(15), 20), (0, 5));
    assert_eq!(release.outcome(), Some(super::super::Released { found: 5, published: 0, still_held: 0 }));
    // Ten of fifteen would not be held without the earlier approval.
    let rest: Vec<LibraryPath> = paths(15).into_iter().filter(|path| !path.is_at_or_under(&"0".into())).collect();
    assert_eq!(walk(&held, rest.clone(), 15), (0, 0));
    // They are released once enough of them are back.
    assert_eq!(walk(&held, rest[..5].to_vec(), 15), (5, 0));
}

#[test]
fn an_empty_root_and_a_missing_mount_hold_even_a_single_delete() {
    let held = held();
    let verdict = held.judge(Missed { root_is_empty: true, ..missed(paths(1), 1, None) }, None, |_| None);
    assert!(verdict.gone.is_empty());
    assert_eq!(held.list()[0].reason, HeldReason::RootEmpty);
    let verdict = held.judge(away(1, 1), None, |_| None);
    assert!(verdict.gone.is_empty());
    assert_eq!((held.list()[0].reason, held.count()), (HeldReason::MountGone, 1));
}

#[test]
fn files_of_a_missing_mount_do_not_count_towards_the_limit() {
    let held = held();
    // Of a hundred files, eighty are on a mount that is gone, and eleven of the others are missing.
    let mut walked = missed(paths(11), 100, None);
    walked.vanished.away = away(80, 0).vanished.away;
    assert!(held.judge(walked, None, |_| None).gone.is_empty());
    let mut walked = missed(paths(10), 100, None);
    walked.vanished.away = away(80, 0).vanished.away;
    assert_eq!(held.judge(walked, None, |_| None).gone.len(), 10);
    assert_eq!(held.count(), 80);
}

#[test]
fn approved_deletes_beyond_the_bound_of_one_walk_follow_with_the_next() {
    let held = held();
    walk(&held, paths(250), 300);
    let release = held.approve(&root()).unwrap();
    let approval = held.take_approval();
    let mut found = missed(paths(250), 300, approval.as_ref());
    found.vanished.approved.truncate(100);
    assert_eq!(held.judge(found, approval, |_| None).approved.len(), 100);
    assert_eq!((held.count(), release.outcome().unwrap().still_held), (150, 150));
    assert!(held.is_approved());
    assert_eq!(walk(&held, paths(150), 200), (0, 150));
    assert_eq!((held.count(), release.outcome().unwrap().found), (0, 250));
    // More than was left over is not released.
    assert_eq!(walk(&held, paths(90), 100), (0, 0));
    held.approve(&root()).unwrap();
    let approval = held.take_approval();
    let mut found = missed(paths(90), 100, approval.as_ref());
    found.vanished.approved.truncate(40);
    held.judge(found, approval, |_| None);
    assert_eq!(walk(&held, paths(90), 60), (0, 0));
}

#[tokio::test]
async fn a_release_is_done_when_every_look_is_committed_and_counts_what_was_published() {
    let held = held();
    walk(&held, paths(20), 20);
    let release = held.approve(&root()).unwrap();
    let approval = held.take_approval();
    let missed = missed(paths(20), 20, approval.as_ref());
    let mut verdict = held.judge(missed, approval, |_| None);
    let last = verdict.approved.pop();
    for (path, _) in &verdict.approved {
        held.note_deleted(path);
        held.note_deleted(path);
    }
    held.note_deleted(&"elsewhere.mp3".into());
    drop(verdict);
    assert!(tokio::time::timeout(Duration::from_millis(10), release.wait()).await.is_err());
    drop(last);
    release.wait().await;
    assert_eq!(release.outcome(), Some(super::super::Released { found: 20, published: 19, still_held: 0 }));
}

#[tokio::test]
async fn a_release_without_a_walk_ends_without_an_outcome() {
    let held = held();
    walk(&held, paths(20), 20);
    let release = held.approve(&root()).unwrap();
    drop(held.take_approval());
    release.wait().await;
    assert_eq!(release.outcome(), None);
}

#[tokio::test(start_paused = true)]
async fn walks_for_held_deletes_become_rarer_until_something_changes() {
    let held = Held::new(50, Duration::from_mins(10));
    let inbox = Inbox::new();
    let rechecks = {
        let (held, inbox) = (held.clone(), inbox.clone());
        tokio::spawn(async move { held.recheck(&inbox).await })
    };
    let started = Instant::now();
    let mut waits = Vec::new();
    let mut files = 20;
    walk(&held, paths(files), 20);
    let mut last = started;
    while waits.len() < 9 {
        let round = inbox.next_round().await;
        assert!(round.is_of_everything());
        inbox.engine().with(|engine| engine.found_all(round.id));
        waits.push((Instant::now() - last).as_secs() / 60);
        last = Instant::now();
        if waits.len() == 6 {
            files = 19;
        }
        walk(&held, paths(files), 20);
    }
    assert_eq!(waits, [1, 2, 4, 8, 10, 10, 1, 2, 4]);
    // Nothing is held any more.
    walk(&held, Vec::new(), 20);
    let marked = tokio::time::timeout(Duration::from_hours(24), inbox.next_round()).await;
    assert!(marked.is_err());
    rechecks.abort();
}

#[test]
fn places_are_listed_up_to_a_bound_and_keep_their_first_time() {
    let held = held();
    let many: Vec<LibraryPath> =
        (0..150).map(|number| LibraryPath::from(format!("{number:03}/x.mp3").as_str())).collect();
    walk(&held, many.clone(), 150);
    let listed = held.list();
    assert_eq!((listed.len(), listed[0].place.clone(), listed[0].count), (101, None, 50));
    held.state().since.values_mut().for_each(|since| *since = 5);
    walk(&held, many, 150);
    assert!(held.list().iter().all(|held| held.since == 5));
    assert_eq!(
        held.list_under(&"007/a".into()).len(),
        2,
        "the place above it and the sum of the places beyond the bound"
    );
}

proptest! {
    #[test]
    fn every_missing_file_is_either_held_or_released(
        here in prop::collection::btree_set("[abc]/[a-z]{1,2}", 0..40),
        away_files in 0_u64..30,
        others in 0_u64..60,
        root_is_empty: bool,
        approved in prop::option::of("[abc]?"),
    ) {
        let held = held();
        let here: Vec<LibraryPath> = here.iter().map(|path| LibraryPath::from(path.as_str())).collect();
        let count = here.len() as u64;
        let walked = |approval: Option<Approval>| {
            let mut missed = missed(here.clone(), count + away_files + others, approval.as_ref());
            missed.vanished.away = away(away_files, 0).vanished.away;
            missed.root_is_empty = root_is_empty;
            held.judge(missed, approval, |_| None)
        };
        let verdict = walked(None);
        let passed = verdict.gone.len() as u64;
        prop_assert!(passed == count || passed == 0);
        prop_assert_eq!(held.count(), away_files + count - passed);
        prop_assert!(passed == 0 || !root_is_empty);

        // An approval releases what it covers and nothing else.
        let Some(under) = approved.map(|under| LibraryPath::from(under.as_str())) else { return Ok(()) };
        let held_before = held.count();
        let release = held.approve(&under);
        let verdict = walked(held.take_approval());
        prop_assert_eq!(held.count() + verdict.approved.len() as u64, held_before);
        prop_assert!(verdict.approved.iter().all(|(path, _)| path.is_at_or_under(&under)));
        if let Some(outcome) = release.and_then(|release| release.outcome()) {
            prop_assert_eq!(outcome.found, verdict.approved.len() as u64);
        }
    }
}
