//! Random histories of a library in memory, run through the real looks, decisions and commits.
//!
//! A history is a random sequence of operations on a disk, delivered or lost events, looks, walks, commits in any order,
//! and crashes. The disk may change during looks, walks and commits. After any history, once the disk is quiet and the
//! root was walked once, consumers know exactly what is on disk.
//!
//! `just model 200000` runs more histories. With `MODEL_JOURNAL=1` a failing test prints each step.

mod disk;
mod operation;
mod world;

use proptest::prelude::*;
use proptest::test_runner::TestCaseResult;

use disk::Disk;
use operation::{FILES, Mtime, Op, any_op, op_with_events, op_with_own_event, permutation};
use world::{Delivery, Kernel, Step, World};

/// The number of histories, unless `PROPTEST_CASES` is set.
fn cases(default: u32) -> ProptestConfig {
    let config = ProptestConfig::default();
    let cases = if std::env::var_os("PROPTEST_CASES").is_some() { config.cases } else { default };
    ProptestConfig { cases, max_shrink_iters: 20_000, ..config }
}

fn any_meanwhile(steps: BoxedStrategy<Step>) -> impl Strategy<Value = Vec<(u8, Step)>> {
    prop_oneof![2 => Just(Vec::new()), 3 => prop::collection::vec((0..4_u8, steps), 1..4)]
}

/// Steps of a history that begins with a few files. Then operations come from `op`, and `lost` of nine events are lost.
fn steps(op: BoxedStrategy<Op>, lost: u32, crashes: bool) -> impl Strategy<Value = Vec<Step>> {
    let create = (0..FILES.len(), 1..6_u8).prop_map(|(at, content)| Step::Do(Op::Create(at, content, Mtime::Now)));
    let begin = prop::collection::vec(create, 0..5);
    let delivery =
        prop_oneof![8 - lost => Just(Delivery::Once), lost => Just(Delivery::Lost), 1 => Just(Delivery::Duplicated)];
    let deliveries = delivery.clone();
    let simple = move |looks: bool, commits: bool, crashes: bool| {
        let deliver = (prop_oneof![4 => Just(0), 1 => any::<u8>()], deliveries.clone())
            .prop_map(|(n, delivery)| Step::Deliver(n, delivery));
        prop_oneof![
            6 => op.clone().prop_map(Step::Do),
            12 => deliver,
            if looks { 6 } else { 0 } => any::<u8>().prop_map(|which| Step::Look(which, Vec::new())),
            if commits { 3 } else { 0 } =>
                (any::<u8>(), 1..4_u8).prop_map(|(first, count)| Step::Commit(first, count, Vec::new())),
            if looks { 2 } else { 0 } => any::<u8>().prop_map(|which| Step::Walk(which, Vec::new())),
            1 => Just(Step::Finish),
            u32::from(crashes) => (0..8_u8).prop_map(Step::Crash),
        ]
        .boxed()
    };
    let step = prop_oneof![
        30 => simple(false, true, crashes),
        14 => (any::<u8>(), any_meanwhile(simple(true, true, false)))
            .prop_map(|(which, meanwhile)| Step::Look(which, meanwhile)),
        4 => (any::<u8>(), any_meanwhile(simple(true, true, false)))
            .prop_map(|(which, meanwhile)| Step::Walk(which, meanwhile)),
        // One batch is committed at a time.
        4 => (any::<u8>(), 1..4_u8, any_meanwhile(simple(true, false, crashes)))
            .prop_map(|(first, count, meanwhile)| Step::Commit(first, count, meanwhile)),
        1 => Just(Step::MarkRoot),
        1 => Just(Step::Approve),
        2 => Just(Step::Rest),
    ];
    let group = prop_oneof![30 => step.prop_map(|step| vec![step]), 1 => permutation_in_steps(delivery)];
    (begin, prop::collection::vec(group, 1..80))
        .prop_map(|(begin, groups)| begin.into_iter().chain([Step::Rest]).chain(groups.into_iter().flatten()).collect())
}

/// Names are permuted, while events are delivered and paths are looked at and committed.
fn permutation_in_steps(delivery: impl Strategy<Value = Delivery> + 'static) -> impl Strategy<Value = Vec<Step>> {
    let between = prop_oneof![
        3 => delivery.prop_map(|delivery| Step::Deliver(0, delivery)),
        2 => any::<u8>().prop_map(|which| Step::Look(which, Vec::new())),
        1 => (any::<u8>(), 1..4_u8).prop_map(|(first, count)| Step::Commit(first, count, Vec::new())),
    ];
    (permutation(), prop::collection::vec(prop::collection::vec(between, 0..4), 5)).prop_map(|(ops, between)| {
        let steps = ops.into_iter().zip(between);
        steps.flat_map(|(op, between)| [Step::Do(op)].into_iter().chain(between)).collect()
    })
}

fn verdict(world: &World) -> TestCaseResult {
    let failures = world.failures.take();
    prop_assert!(failures.is_empty(), "{}\nafter {:#?}", failures.join("\n"), world.messages());
    Ok(())
}

/// Any history, with lost, repeated and reordered events and crashes. Then the root is walked once.
fn one_walk_of_the_root_brings_consumers_in_step(history: &[Step], keeps_births: bool) -> TestCaseResult {
    let world = World::new(Kernel::Unreliable, keeps_births, false);
    for step in history {
        world.take(step);
    }
    world.drop_events();
    world.walk_root();
    world.settle();
    world.check_consumers();
    world.check_mounts_are_held();
    // Hidden files become visible again.
    world.happen(Disk::restore_access);
    world.walk_root();
    world.settle();
    world.check_consumers();
    world.check_index();
    world.check_held();
    verdict(&world)
}

/// No event is lost or reordered. Then consumers are in step without a walk of the root, and without help of the ctime.
fn hints_alone_bring_consumers_in_step(history: &[Step], keeps_births: bool, ignore_ctime: bool) -> TestCaseResult {
    let world = World::new(Kernel::Reliable, keeps_births, ignore_ctime);
    for step in history {
        world.take(step);
    }
    world.deliver_all();
    world.settle();
    world.check_consumers();
    verdict(&world)
}

/// One rename to a name that was never used before: of a file or a directory into a directory.
#[derive(Clone, Debug)]
enum Renaming {
    File(u8, u8),
    Directory(u8, u8),
    Step(Step),
}

fn renamings() -> impl Strategy<Value = Vec<Renaming>> {
    let meanwhile = || {
        let step = prop_oneof![
            Just(Step::Deliver(0, Delivery::Once)),
            any::<u8>().prop_map(|which| Step::Look(which, Vec::new())),
            (any::<u8>(), 1..4_u8).prop_map(|(first, count)| Step::Commit(first, count, Vec::new())),
        ];
        any_meanwhile(step.boxed())
    };
    let renaming = prop_oneof![
        4 => (any::<u8>(), any::<u8>()).prop_map(|(from, to)| Renaming::File(from, to)),
        2 => (any::<u8>(), any::<u8>()).prop_map(|(from, to)| Renaming::Directory(from, to)),
        6 => Just(Renaming::Step(Step::Deliver(0, Delivery::Once))),
        5 => (any::<u8>(), meanwhile()).prop_map(|(which, steps)| Renaming::Step(Step::Look(which, steps))),
        3 => (any::<u8>(), 1..4_u8)
            .prop_map(|(first, count)| Renaming::Step(Step::Commit(first, count, Vec::new()))),
        3 => (any::<u8>(), meanwhile()).prop_map(|(which, steps)| Renaming::Step(Step::Walk(which, steps))),
        1 => Just(Renaming::Step(Step::Finish)),
    ];
    prop::collection::vec(renaming, 1..50)
}

/// Only renames: only moves are published, whether events are delivered or a walk finds them.
fn renames_keep_identity(history: &[Renaming], live: bool, keeps_births: bool) -> TestCaseResult {
    let world = World::new(Kernel::Reliable, keeps_births, false);
    for (content, place) in (1..).zip([0, 1, 2, 4, 5, 8]) {
        world.take(&Step::Do(Op::Create(place, content, Mtime::Now)));
    }
    world.deliver_all();
    world.settle();
    let before = world.messages().len();
    for (number, renaming) in history.iter().enumerate() {
        match renaming {
            Renaming::File(from, to) => world.happen(|disk| disk.rename_to_new(*from, *to, number)),
            Renaming::Directory(from, to) => world.happen(|disk| disk.rename_directory_to_new(*from, *to, number)),
            Renaming::Step(step) if live => world.take(step),
            Renaming::Step(_) => {}
        }
    }
    if live {
        world.deliver_all();
    } else {
        world.drop_events();
        world.walk_root();
    }
    world.settle();
    world.check_consumers();
    for message in &world.messages()[before..] {
        if !message.starts_with("moved") && !message.starts_with("renamed") {
            world.fail(format!("no move: {message}"));
        }
    }
    verdict(&world)
}

/// A library of a few files that is only walked, with one rename at any time.
fn one_rename_among_walks() -> impl Strategy<Value = Vec<Step>> {
    // To names that no file has.
    let rename = prop_oneof![
        2 => (any::<u8>(), prop_oneof![Just(6), Just(7)]).prop_map(|(from, to)| Step::Do(Op::Rename(from, to))),
        1 => any::<u8>().prop_map(|from| Step::Do(Op::RenameDirectory(from, 2))),
    ];
    let step = || {
        prop_oneof![
            3 => Just(Step::MarkRoot),
            4 => any::<u8>().prop_map(|which| Step::Walk(which, Vec::new())),
            8 => any::<u8>().prop_map(|which| Step::Look(which, Vec::new())),
            4 => (any::<u8>(), 1..4_u8).prop_map(|(first, count)| Step::Commit(first, count, Vec::new())),
            2 => Just(Step::Finish),
            1 => any::<u8>().prop_map(|which| Step::Do(Op::Chmod(which))),
            1 => Just(Step::Rest),
        ]
    };
    let meanwhile = rename.prop_flat_map(|rename| (0..12_u8, Just(rename))).prop_map(|step| vec![step]);
    let renamed = prop_oneof![
        meanwhile.clone().prop_map(|mut meanwhile| meanwhile.remove(0).1),
        (any::<u8>(), meanwhile.clone()).prop_map(|(which, meanwhile)| Step::Look(which, meanwhile)),
        (any::<u8>(), meanwhile.clone()).prop_map(|(which, meanwhile)| Step::Walk(which, meanwhile)),
        (any::<u8>(), 1..4_u8, meanwhile).prop_map(|(first, count, meanwhile)| Step::Commit(first, count, meanwhile)),
    ];
    (prop::collection::vec(step(), 0..30), renamed, prop::collection::vec(step(), 0..15))
        .prop_map(|(before, renamed, after)| before.into_iter().chain([renamed]).chain(after).collect())
}

/// If only walks find changes, a renamed file is not published as deleted, whatever else was in flight.
fn a_rename_without_events_keeps_identity(history: &[Step], keeps_births: bool) -> TestCaseResult {
    let world = World::new(Kernel::Silent, keeps_births, false);
    for (content, place) in (1..).zip([0, 1, 2, 4, 5, 8]) {
        world.take(&Step::Do(Op::Create(place, content, Mtime::Now)));
    }
    world.walk_root();
    world.settle();
    for step in history {
        world.take(step);
    }
    world.settle();
    world.walk_root();
    world.settle();
    world.check_consumers();
    for message in world.messages() {
        if message.starts_with("deleted") {
            world.fail(format!("it was only renamed: {message}"));
        }
    }
    verdict(&world)
}

proptest! {
    #![proptest_config(cases(4_000))]

    #[test]
    fn one_walk_of_the_root_brings_consumers_in_step_after_any_history(
        history in prop_oneof![steps(any_op().boxed(), 2, true), steps(any_op().boxed(), 0, true)],
        keeps_births: bool,
    ) {
        one_walk_of_the_root_brings_consumers_in_step(&history, keeps_births)?;
    }

    #[test]
    fn no_walk_of_the_root_is_needed_if_no_event_is_lost(
        history in steps(op_with_events().boxed(), 0, false),
        keeps_births: bool,
    ) {
        hints_alone_bring_consumers_in_step(&history, keeps_births, false)?;
    }

    #[test]
    fn no_walk_has_to_repair_what_a_rename_was_trusted_with(
        history in steps(op_with_own_event().boxed(), 0, false),
        keeps_births: bool,
    ) {
        hints_alone_bring_consumers_in_step(&history, keeps_births, true)?;
    }

    #[test]
    fn a_rename_that_only_walks_find_is_not_published_as_deleted(history in one_rename_among_walks(), keeps_births: bool) {
        a_rename_without_events_keeps_identity(&history, keeps_births)?;
    }

    #[test]
    fn renames_are_published_as_moves_only(history in renamings(), live: bool, keeps_births: bool) {
        renames_keep_identity(&history, live, keeps_births)?;
    }
}

/// Indices of [`FILES`].
const OLD_NAME: usize = 0;
const NEW_NAME: usize = 1;

fn deliver(count: usize) -> Vec<Step> {
    vec![Step::Deliver(0, Delivery::Once); count]
}

fn lose(count: usize) -> Vec<Step> {
    vec![Step::Deliver(0, Delivery::Lost); count]
}

fn looked_at_and_committed() -> Vec<Step> {
    vec![Step::Look(0, Vec::new()), Step::Commit(0, 9, Vec::new())]
}

/// A history in which a file was created and committed before `then`.
fn with_a_file(then: impl IntoIterator<Item = Vec<Step>>) -> Vec<Step> {
    let begin = [vec![Step::Do(Op::Create(OLD_NAME, 1, Mtime::Now))], deliver(2), looked_at_and_committed()];
    begin.into_iter().chain(then).flatten().collect()
}

#[test]
fn a_rename_is_hashed_if_the_event_of_a_later_rewrite_is_lost() {
    let history = with_a_file([
        vec![Step::Do(Op::Rename(0, NEW_NAME))],
        vec![Step::Finish, Step::MarkRoot, Step::Rest, Step::Do(Op::Rename(0, OLD_NAME))],
        deliver(2),
        vec![Step::Do(Op::Rewrite(0, 2, false, Mtime::Restored))],
        vec![Step::Look(1, Vec::new()), Step::Commit(0, 9, Vec::new()), Step::Crash(9)],
    ]);
    one_walk_of_the_root_brings_consumers_in_step(&history, false).unwrap();
}

#[test]
fn a_rename_is_hashed_in_the_end_if_an_earlier_writer_closes_after_a_crash() {
    let history = with_a_file([
        vec![Step::Do(Op::RewriteAndKeepOpen(0, 2)), Step::Do(Op::Rename(0, NEW_NAME))],
        deliver(3),
        looked_at_and_committed(),
        vec![Step::Crash(9), Step::Do(Op::CloseAll)],
    ]);
    one_walk_of_the_root_brings_consumers_in_step(&history, false).unwrap();
}

#[test]
fn a_rename_is_hashed_in_the_end_if_the_event_of_an_earlier_rewrite_was_lost() {
    let history = with_a_file([
        vec![Step::Do(Op::Rewrite(0, 2, false, Mtime::Restored))],
        lose(2),
        vec![Step::Do(Op::Rename(0, NEW_NAME))],
        deliver(3),
        looked_at_and_committed(),
    ]);
    one_walk_of_the_root_brings_consumers_in_step(&history, false).unwrap();
}

#[test]
fn a_rename_is_hashed_if_the_look_that_found_an_earlier_rewrite_was_discarded() {
    let history = with_a_file([
        vec![Step::Rest, Step::Do(Op::Rewrite(0, 2, false, Mtime::Restored))],
        deliver(2),
        vec![Step::Look(0, Vec::new()), Step::Do(Op::Rename(0, NEW_NAME)), Step::Commit(0, 1, Vec::new())],
    ]);
    hints_alone_bring_consumers_in_step(&history, false, false).unwrap();
}
