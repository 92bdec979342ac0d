use proptest::prelude::*;

use super::*;
use crate::engine::{Intervals, Released};

fn engine() -> Engine {
    let mut engine = Engine::default();
    engine.set_mass_delete_percent(50);
    engine
}

fn now() -> Now {
    Now { instant: Instant::now(), wall: UNIX_EPOCH }
}

fn paths(count: u64) -> Vec<LibraryPath> {
    (0..count).map(|number| LibraryPath::from(format!("{}/{number}.mp3", number % 3).as_str())).collect()
}

/// A walk with the approval that waits. It missed the paths `here` on mounts that are present, and this number of files on a
/// mount that is gone.
fn walk_missing(engine: &mut Engine, here: Vec<LibraryPath>, away: u64, indexed: u64) -> FullWalk {
    let mut missing = engine.begin_full_walk();
    for path in here {
        missing.add_here(path);
    }
    for path in paths(away) {
        missing.add_away(path, MountId(7), None);
    }
    FullWalk { missing, indexed, ..FullWalk::default() }
}

fn judge(engine: &mut Engine, walk: FullWalk) -> Verdict {
    engine.missed_by_full_walk(walk, |_| None, now())
}

/// Judges a walk. Returns the number of deletes that are not held and of those that are approved.
fn walk(engine: &mut Engine, here: Vec<LibraryPath>, indexed: u64) -> (usize, usize) {
    let missed = walk_missing(engine, here, 0, indexed);
    let verdict = judge(engine, missed);
    (verdict.gone.len(), verdict.approved.len())
}

fn root() -> LibraryPath {
    LibraryPath::root()
}

#[test]
fn more_than_the_share_and_more_than_ten_are_held_until_they_are_approved_or_back() {
    let mut engine = engine();
    assert_eq!(walk(&mut engine, paths(10), 10), (10, 0));
    assert_eq!(walk(&mut engine, paths(50), 100), (50, 0));
    assert_eq!(walk(&mut engine, paths(51), 100), (0, 0));
    assert_eq!(engine.held_count(), 51);
    assert_eq!(walk(&mut engine, paths(51), 100), (0, 0));
    assert_eq!(walk(&mut engine, Vec::new(), 100), (0, 0));
    assert_eq!(engine.held_count(), 0);
    assert_eq!(walk(&mut engine, paths(100), 100), (0, 0));
    assert!(engine.approve(&root()));
    assert_eq!(walk(&mut engine, paths(100), 100), (0, 100));
    assert_eq!(engine.held_count(), 0);
}

#[test]
fn an_approval_covers_what_is_held_and_the_next_walk_only() {
    let mut engine = engine();
    assert!(!engine.approve(&root()), "nothing is held");
    assert_eq!(walk(&mut engine, paths(100), 100), (0, 0));
    assert!(!engine.approve(&"3".into()), "nothing is held there");
    assert!(engine.approve(&root()));
    // The files are back.
    assert_eq!(walk(&mut engine, Vec::new(), 100), (0, 0));
    assert_eq!(walk(&mut engine, paths(100), 100), (0, 0));
    assert_eq!(engine.held_count(), 100);
}

#[test]
fn what_was_not_held_at_the_approval_is_not_released() {
    let mut engine = engine();
    walk(&mut engine, paths(60), 100);
    assert!(engine.approve(&root()));
    // Before the walk, a disk is unmounted and other directories go missing.
    let more = (0..5).map(|number| LibraryPath::from(format!("other/{number}.mp3").as_str()));
    let missed = walk_missing(&mut engine, paths(60).into_iter().chain(more).collect(), 3, 100);
    let verdict = judge(&mut engine, missed);
    assert_eq!((verdict.gone.len(), verdict.approved.len()), (0, 60));
    assert_eq!(engine.held_count(), 8);
}

#[test]
fn approving_some_does_not_release_the_rest() {
    let mut engine = engine();
    assert_eq!(walk(&mut engine, paths(15), 20), (0, 0));
    assert!(engine.approve(&"0".into()));
    assert_eq!(walk(&mut engine, paths(15), 20), (0, 5));
    assert_eq!(engine.approval_outcome(), Some(Released { found: 5, published: 0, still_held: 0 }));
    // Ten of fifteen would not be held without the earlier approval.
    let rest: Vec<LibraryPath> = paths(15).into_iter().filter(|path| !path.is_at_or_under(&"0".into())).collect();
    assert_eq!(walk(&mut engine, rest.clone(), 15), (0, 0));
    // They are released once enough of them are back.
    assert_eq!(walk(&mut engine, rest[..5].to_vec(), 15), (5, 0));
}

#[test]
fn an_empty_root_and_a_missing_mount_hold_even_a_single_delete() {
    let mut engine = engine();
    let missed = FullWalk { is_root_empty: true, ..walk_missing(&mut engine, paths(1), 0, 1) };
    assert!(judge(&mut engine, missed).gone.is_empty());
    assert_eq!(engine.held_deletes()[0].reason, HeldReason::RootEmpty);
    let missed = walk_missing(&mut engine, Vec::new(), 1, 1);
    assert!(judge(&mut engine, missed).gone.is_empty());
    assert_eq!((engine.held_deletes()[0].reason, engine.held_count()), (HeldReason::MountGone, 1));
}

#[test]
fn files_of_a_missing_mount_do_not_count_towards_the_limit() {
    let mut engine = engine();
    // Of a hundred files, eighty are on a mount that is gone, and eleven of the others are missing.
    for (here, released) in [(11, 0), (10, 10)] {
        let missed = walk_missing(&mut engine, paths(here), 80, 100);
        assert_eq!(judge(&mut engine, missed).gone.len(), released);
    }
    assert_eq!(engine.held_count(), 80);
}

#[test]
fn approved_deletes_beyond_the_bound_of_one_walk_follow_with_the_next() {
    let mut engine = engine();
    walk(&mut engine, paths(250), 300);
    assert!(engine.approve(&root()));
    let mut missed = walk_missing(&mut engine, paths(250), 0, 300);
    missed.missing.approved.truncate(100);
    let first = judge(&mut engine, missed).approved;
    assert_eq!(first.len(), 100);
    assert_eq!((engine.held_count(), engine.approval_outcome().unwrap().still_held), (150, 150));
    assert_eq!(engine.take_marked().len(), 1, "everything is walked again for the rest");
    // The first deletes are not committed yet.
    assert_eq!(walk(&mut engine, paths(250), 300), (0, 250));
    assert_eq!((engine.held_count(), engine.approval_outcome().unwrap().found), (0, 250));
}

#[test]
fn a_walk_that_is_judged_after_a_later_one_decides_nothing() {
    let mut engine = engine();
    walk(&mut engine, paths(20), 20);
    assert!(engine.approve(&root()));
    let early = walk_missing(&mut engine, paths(20), 0, 20);
    let late = walk_missing(&mut engine, paths(2), 3, 20);
    assert_eq!(judge(&mut engine, late).gone.len(), 2);
    let verdict = judge(&mut engine, early);
    assert_eq!((verdict.gone.len(), verdict.approved.len(), engine.held_count()), (0, 0, 3));
    // The approval is for the next walk.
    assert!(!engine.is_approval_over());
    assert_eq!(walk(&mut engine, paths(12), 20), (0, 12));
}

#[test]
fn more_than_an_approval_left_over_is_not_released() {
    let mut engine = engine();
    walk(&mut engine, paths(90), 100);
    assert!(engine.approve(&root()));
    let mut missed = walk_missing(&mut engine, paths(90), 0, 100);
    missed.missing.approved.truncate(40);
    let approved = judge(&mut engine, missed).approved;
    for (path, _) in &approved {
        engine.deleted(path);
    }
    // Fifty were left over.
    assert_eq!(walk(&mut engine, paths(90), 60), (0, 0));
}

#[test]
fn an_approval_is_over_when_every_look_is_committed_and_counts_what_was_published() {
    let mut engine = engine();
    walk(&mut engine, paths(20), 20);
    assert!(engine.approve(&root()) && !engine.is_approval_over());
    let missed = walk_missing(&mut engine, paths(20), 0, 20);
    let mut verdict = judge(&mut engine, missed);
    let last = verdict.approved.pop();
    for (path, _) in &verdict.approved {
        engine.deleted(path);
        engine.deleted(path);
    }
    engine.deleted(&"elsewhere.mp3".into());
    drop(verdict);
    assert!(!engine.is_approval_over());
    drop(last);
    assert!(engine.is_approval_over());
    assert_eq!(engine.approval_outcome(), Some(Released { found: 20, published: 19, still_held: 0 }));
}

#[test]
fn an_approval_without_a_walk_ends_without_an_outcome() {
    let mut engine = engine();
    walk(&mut engine, paths(20), 20);
    assert!(engine.approve(&root()));
    let walk = engine.begin_full_walk();
    assert!(!engine.is_approval_over());
    drop(walk);
    assert!(engine.is_approval_over() && engine.approval_outcome().is_none());
}

#[test]
fn walks_for_held_deletes_become_rarer_until_something_changes() {
    let mut engine = engine();
    engine.follow(Intervals { rescan: Some(Duration::from_mins(10)), ..Intervals::default() });
    let mut now = now();
    let walked = |engine: &mut Engine, files, now| {
        let missed = walk_missing(engine, paths(files), 0, 20);
        engine.missed_by_full_walk(missed, |_| None, now)
    };
    let mut waits = Vec::new();
    walked(&mut engine, 20, now);
    while waits.len() < 9 {
        let due = engine.next_deadline().unwrap();
        waits.push((due - now.instant).as_secs() / 60);
        now.instant = due;
        engine.tick(now.instant);
        let round = engine.begin_round(now.instant).unwrap();
        assert!(round.is_of_everything);
        engine.round_ended(round.id);
        walked(&mut engine, if waits.len() < 6 { 20 } else { 19 }, now);
    }
    assert_eq!(waits, [1, 2, 4, 8, 10, 10, 1, 2, 4]);
    // Nothing is held any more.
    walked(&mut engine, 0, now);
    assert_eq!(engine.next_deadline(), None);
}

#[test]
fn a_single_scan_walks_nothing_again_for_held_deletes() {
    let mut engine = engine();
    walk(&mut engine, paths(20), 20);
    assert_eq!((engine.held_count(), engine.next_deadline()), (20, None));
}

#[test]
fn places_are_listed_up_to_a_bound_and_keep_their_first_time() {
    let mut engine = engine();
    let many: Vec<LibraryPath> =
        (0..150).map(|number| LibraryPath::from(format!("{number:03}/x.mp3").as_str())).collect();
    walk(&mut engine, many.clone(), 150);
    let listed = engine.held_deletes();
    assert_eq!((listed.len(), listed[0].place.clone(), listed[0].count), (101, None, 50));
    let later = Now { wall: UNIX_EPOCH + Duration::from_secs(5), ..now() };
    let missed = walk_missing(&mut engine, many, 0, 150);
    engine.missed_by_full_walk(missed, |_| None, later);
    assert!(engine.held_deletes().iter().all(|held| held.since == 0));
    assert_eq!(
        engine.held_deletes_under(&"007/a".into()).len(),
        2,
        "the place above it and the sum of the places beyond the bound"
    );
}

proptest! {
    #[test]
    fn every_missing_file_is_either_held_or_released(
        here in prop::collection::btree_set("[abc]/[a-z]{1,2}", 0..40),
        away in 0_u64..30,
        others in 0_u64..60,
        is_root_empty: bool,
        approved in prop::option::of("[abc]?"),
    ) {
        let mut engine = engine();
        let here: Vec<LibraryPath> = here.iter().map(|path| LibraryPath::from(path.as_str())).collect();
        let count = here.len() as u64;
        let walked = |engine: &mut Engine| {
            let missed = walk_missing(engine, here.clone(), away, count + away + others);
            judge(engine, FullWalk { is_root_empty, ..missed })
        };
        let verdict = walked(&mut engine);
        let passed = verdict.gone.len() as u64;
        prop_assert!(passed == count || passed == 0);
        prop_assert_eq!(engine.held_count(), away + count - passed);
        prop_assert!(passed == 0 || !is_root_empty);

        // An approval releases what it covers and nothing else.
        let Some(under) = approved.map(|under| LibraryPath::from(under.as_str())) else { return Ok(()) };
        let held_before = engine.held_count();
        let is_approved = engine.approve(&under);
        let verdict = walked(&mut engine);
        prop_assert_eq!(engine.held_count() + verdict.approved.len() as u64, held_before);
        prop_assert!(verdict.approved.iter().all(|(path, _)| path.is_at_or_under(&under)));
        prop_assert!(is_approved || verdict.approved.is_empty());
        if let Some(outcome) = engine.approval_outcome() {
            prop_assert_eq!(outcome.found, verdict.approved.len() as u64);
        }
    }
}
