//! Histories of a library in memory, through the real looks, decisions and commits.
//!
//! A history is a random sequence of what happens to a disk, of what the kernel tells or does not
//! tell of it, of looks during which the disk goes on changing, of commits in any order, of walks and
//! of crashes. Whatever it was, once nothing changes any more and the root was walked once, consumers
//! know exactly what is on disk.
//!
//! `just model 200000` looks for longer; with `MODEL_JOURNAL=1` a failing test tells what happened.

mod disk;
mod operation;
mod world;

use proptest::prelude::*;
use proptest::test_runner::TestCaseResult;

use disk::Disk;
use operation::{FILES, Mtime, Op, any_op, op_that_is_told, permutation};
use world::{Fate, Kernel, Step, World};

/// How many histories are tried, unless `PROPTEST_CASES` says otherwise.
fn cases(default: u32) -> ProptestConfig {
    let config = ProptestConfig::default();
    let cases = if std::env::var_os("PROPTEST_CASES").is_some() { config.cases } else { default };
    ProptestConfig { cases, max_shrink_iters: 20_000, ..config }
}

fn any_meanwhile(steps: BoxedStrategy<Step>) -> impl Strategy<Value = Vec<(u8, Step)>> {
    prop_oneof![2 => Just(Vec::new()), 3 => prop::collection::vec((0..4_u8, steps), 1..4)]
}

/// Steps of a history that begins with a few files, whose disk then does only what `op` says, and whose
/// kernel loses so many hints of nine.
fn steps(op: BoxedStrategy<Op>, lost: u32, crashes: bool) -> impl Strategy<Value = Vec<Step>> {
    let create = (0..FILES.len(), 1..6_u8).prop_map(|(at, content)| Step::Do(Op::Create(at, content, Mtime::Now)));
    let begin = prop::collection::vec(create, 0..5);
    let fate = prop_oneof![8 - lost => Just(Fate::Heard), lost => Just(Fate::Lost), 1 => Just(Fate::HeardTwice)];
    let fates = fate.clone();
    let simple = move |looks: bool, commits: bool, crashes: bool| {
        let hear =
            (prop_oneof![4 => Just(0), 1 => any::<u8>()], fates.clone()).prop_map(|(n, fate)| Step::Hear(n, fate));
        prop_oneof![
            6 => op.clone().prop_map(Step::Do),
            12 => hear,
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
        2 => Just(Step::Rest),
    ];
    let group = prop_oneof![30 => step.prop_map(|step| vec![step]), 1 => permutation_in_steps(fate)];
    (begin, prop::collection::vec(group, 1..80))
        .prop_map(|(begin, groups)| begin.into_iter().chain([Step::Rest]).chain(groups.into_iter().flatten()).collect())
}

/// Names that are passed round, while things are heard, looked at and committed.
fn permutation_in_steps(fate: impl Strategy<Value = Fate> + 'static) -> impl Strategy<Value = Vec<Step>> {
    let between = prop_oneof![
        3 => fate.prop_map(|fate| Step::Hear(0, fate)),
        2 => any::<u8>().prop_map(|which| Step::Look(which, Vec::new())),
        1 => (any::<u8>(), 1..4_u8).prop_map(|(first, count)| Step::Commit(first, count, Vec::new())),
    ];
    (permutation(), prop::collection::vec(prop::collection::vec(between, 0..4), 5)).prop_map(|(ops, between)| {
        let steps = ops.into_iter().zip(between);
        steps.flat_map(|(op, between)| [Step::Do(op)].into_iter().chain(between)).collect()
    })
}

fn verdict(world: &World) -> TestCaseResult {
    let faults = world.faults.take();
    prop_assert!(faults.is_empty(), "{}\nafter {:#?}", faults.join("\n"), world.told());
    Ok(())
}

/// Any history at all: hints lost, repeated and reordered, crashes; then one walk of the root.
fn one_walk_of_the_root_brings_consumers_in_step(history: &[Step], keeps_births: bool) -> TestCaseResult {
    let world = World::new(Kernel::Treacherous, keeps_births);
    for step in history {
        world.take(step);
    }
    world.hints_stop();
    world.look_at_the_root();
    world.settle();
    world.check_consumers();
    // What was out of sight comes back.
    world.happen(Disk::heal);
    world.look_at_the_root();
    world.settle();
    world.check_consumers();
    world.check_index();
    verdict(&world)
}

/// Nothing is lost or out of order: then consumers are in step without any walk of the root.
fn hints_alone_bring_consumers_in_step(history: &[Step], keeps_births: bool) -> TestCaseResult {
    let world = World::new(Kernel::Faithful, keeps_births);
    for step in history {
        world.take(step);
    }
    world.hear_all();
    world.settle();
    world.check_consumers();
    verdict(&world)
}

/// One rename, to a name that was never used before: of a file to a directory, or of a directory into one.
#[derive(Clone, Debug)]
enum Renaming {
    File(u8, u8),
    Directory(u8, u8),
    Step(Step),
}

fn renamings() -> impl Strategy<Value = Vec<Renaming>> {
    let meanwhile = || {
        let step = prop_oneof![
            Just(Step::Hear(0, Fate::Heard)),
            any::<u8>().prop_map(|which| Step::Look(which, Vec::new())),
            (any::<u8>(), 1..4_u8).prop_map(|(first, count)| Step::Commit(first, count, Vec::new())),
        ];
        any_meanwhile(step.boxed())
    };
    let renaming = prop_oneof![
        4 => (any::<u8>(), any::<u8>()).prop_map(|(from, to)| Renaming::File(from, to)),
        2 => (any::<u8>(), any::<u8>()).prop_map(|(from, to)| Renaming::Directory(from, to)),
        6 => Just(Renaming::Step(Step::Hear(0, Fate::Heard))),
        5 => (any::<u8>(), meanwhile()).prop_map(|(which, steps)| Renaming::Step(Step::Look(which, steps))),
        3 => (any::<u8>(), 1..4_u8)
            .prop_map(|(first, count)| Renaming::Step(Step::Commit(first, count, Vec::new()))),
        3 => (any::<u8>(), meanwhile()).prop_map(|(which, steps)| Renaming::Step(Step::Walk(which, steps))),
        1 => Just(Renaming::Step(Step::Finish)),
    ];
    prop::collection::vec(renaming, 1..50)
}

/// Nothing but renames: nothing but moves is told, whether they are heard of or found by a walk.
fn renames_keep_identity(history: &[Renaming], live: bool, keeps_births: bool) -> TestCaseResult {
    let world = World::new(Kernel::Faithful, keeps_births);
    for (content, place) in (1..).zip([0, 1, 2, 4, 5, 8]) {
        world.take(&Step::Do(Op::Create(place, content, Mtime::Now)));
    }
    world.hear_all();
    world.settle();
    let before = world.told().len();
    for (number, renaming) in history.iter().enumerate() {
        match renaming {
            Renaming::File(from, to) => world.happen(|disk| disk.rename_to_new(*from, *to, number)),
            Renaming::Directory(from, to) => world.happen(|disk| disk.rename_directory_to_new(*from, *to, number)),
            Renaming::Step(step) if live => world.take(step),
            Renaming::Step(_) => {}
        }
    }
    if live {
        world.hear_all();
    } else {
        world.hints_stop();
        world.look_at_the_root();
    }
    world.settle();
    world.check_consumers();
    for told in &world.told()[before..] {
        if !told.starts_with("moved") && !told.starts_with("renamed") {
            world.fault(format!("no move: {told}"));
        }
    }
    verdict(&world)
}

/// A library of a few files that is only walked, and one rename at some time of it, whatever goes on then.
fn one_rename_among_walks() -> impl Strategy<Value = Vec<Step>> {
    // To names that nothing has.
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

/// Where only walks find anything, what is renamed is not called deleted, whatever else was under way.
fn a_rename_that_nobody_tells_of_keeps_identity(history: &[Step], keeps_births: bool) -> TestCaseResult {
    let world = World::new(Kernel::Silent, keeps_births);
    for (content, place) in (1..).zip([0, 1, 2, 4, 5, 8]) {
        world.take(&Step::Do(Op::Create(place, content, Mtime::Now)));
    }
    world.look_at_the_root();
    world.settle();
    for step in history {
        world.take(step);
    }
    world.settle();
    world.look_at_the_root();
    world.settle();
    world.check_consumers();
    for told in world.told() {
        if told.starts_with("deleted") {
            world.fault(format!("it was only renamed: {told}"));
        }
    }
    verdict(&world)
}

proptest! {
    #![proptest_config(cases(4_000))]

    #[test]
    fn whatever_happened_one_walk_of_the_root_brings_consumers_in_step(
        history in prop_oneof![steps(any_op().boxed(), 2, true), steps(any_op().boxed(), 0, true)],
        keeps_births: bool,
    ) {
        one_walk_of_the_root_brings_consumers_in_step(&history, keeps_births)?;
    }

    #[test]
    fn where_every_hint_comes_no_walk_is_needed(
        history in steps(op_that_is_told().boxed(), 0, false),
        keeps_births: bool,
    ) {
        hints_alone_bring_consumers_in_step(&history, keeps_births)?;
    }

    #[test]
    fn where_only_walks_find_anything_a_rename_is_no_delete(history in one_rename_among_walks(), keeps_births: bool) {
        a_rename_that_nobody_tells_of_keeps_identity(&history, keeps_births)?;
    }

    #[test]
    fn renames_are_told_as_moves_and_nothing_else(history in renamings(), live: bool, keeps_births: bool) {
        renames_keep_identity(&history, live, keeps_births)?;
    }
}

/// A place in `FILES`.
const HERE: usize = 0;
const THERE: usize = 1;

fn hear(count: usize) -> Vec<Step> {
    vec![Step::Hear(0, Fate::Heard); count]
}

fn lose(count: usize) -> Vec<Step> {
    vec![Step::Hear(0, Fate::Lost); count]
}

fn looked_at_and_committed() -> Vec<Step> {
    vec![Step::Look(0, Vec::new()), Step::Commit(0, 9, Vec::new())]
}

/// A history in which a file was created and committed before `then`.
fn with_a_file(then: impl IntoIterator<Item = Vec<Step>>) -> Vec<Step> {
    let begin = [vec![Step::Do(Op::Create(HERE, 1, Mtime::Now))], hear(2), looked_at_and_committed()];
    begin.into_iter().chain(then).flatten().collect()
}

#[test]
fn a_rename_is_not_believed_where_a_rewrite_after_it_is_never_heard_of() {
    let history = with_a_file([
        vec![Step::Do(Op::Rename(0, THERE))],
        vec![Step::Finish, Step::MarkRoot, Step::Rest, Step::Do(Op::Rename(0, HERE))],
        hear(2),
        vec![Step::Do(Op::Rewrite(0, 2, false, Mtime::Restored))],
        vec![Step::Look(1, Vec::new()), Step::Commit(0, 9, Vec::new()), Step::Crash(9)],
    ]);
    one_walk_of_the_root_brings_consumers_in_step(&history, false).unwrap();
}

#[test]
fn a_rename_is_not_believed_for_ever_where_whoever_wrote_before_it_closes_after_the_end() {
    let history = with_a_file([
        vec![Step::Do(Op::RewriteAndKeepOpen(0, 2)), Step::Do(Op::Rename(0, THERE))],
        hear(3),
        looked_at_and_committed(),
        vec![Step::Crash(9), Step::Do(Op::CloseAll)],
    ]);
    one_walk_of_the_root_brings_consumers_in_step(&history, false).unwrap();
}

#[test]
fn a_rename_is_not_believed_for_ever_where_the_hint_of_a_rewrite_before_it_was_lost() {
    let history = with_a_file([
        vec![Step::Do(Op::Rewrite(0, 2, false, Mtime::Restored))],
        lose(2),
        vec![Step::Do(Op::Rename(0, THERE))],
        hear(3),
        looked_at_and_committed(),
    ]);
    one_walk_of_the_root_brings_consumers_in_step(&history, false).unwrap();
}

#[test]
fn a_rename_is_not_believed_where_the_look_that_found_the_rewrite_before_it_came_to_nothing() {
    let history = with_a_file([
        vec![Step::Rest, Step::Do(Op::Rewrite(0, 2, false, Mtime::Restored))],
        hear(2),
        vec![Step::Look(0, Vec::new()), Step::Do(Op::Rename(0, THERE)), Step::Commit(0, 1, Vec::new())],
    ]);
    hints_alone_bring_consumers_in_step(&history, false).unwrap();
}
