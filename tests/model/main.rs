//! Histories of a library in memory, through the real looks, decisions and commits.
//!
//! A history is a random sequence of what happens to a disk, of what the kernel tells or does not
//! tell of it, of looks during which the disk goes on changing, of commits in any order, of walks and
//! of crashes. Whatever it was, once nothing changes any more and the root was walked once, consumers
//! know exactly what is on disk.
//!
//! `PROPTEST_CASES=200000 cargo test --release --test model` looks for longer.

mod disk;
mod world;

use proptest::prelude::*;
use proptest::test_runner::TestCaseResult;

use disk::{Mtime, Op, any_op};
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

/// Steps of a history whose disk does only what `op` says.
fn steps(op: BoxedStrategy<Op>, crashes: bool) -> impl Strategy<Value = Vec<Step>> {
    let fate = prop_oneof![6 => Just(Fate::Heard), 2 => Just(Fate::Lost), 1 => Just(Fate::HeardTwice)];
    let simple = move |looks: bool| {
        let hear =
            (prop_oneof![3 => Just(0), 1 => any::<u8>()], fate.clone()).prop_map(|(n, fate)| Step::Hear(n, fate));
        prop_oneof![
            6 => op.clone().prop_map(Step::Do),
            6 => hear,
            if looks { 3 } else { 0 } => any::<u8>().prop_map(|which| Step::Look(which, Vec::new())),
            3 => (any::<u8>(), 1..4_u8).prop_map(|(first, count)| Step::Commit(first, count)),
            if looks { 2 } else { 0 } => any::<u8>().prop_map(|which| Step::Walk(which, Vec::new())),
            1 => Just(Step::Finish),
            1 => Just(Step::MarkRoot),
        ]
        .boxed()
    };
    let step = prop_oneof![
        20 => simple(false),
        8 => (any::<u8>(), any_meanwhile(simple(true))).prop_map(|(which, meanwhile)| Step::Look(which, meanwhile)),
        3 => (any::<u8>(), any_meanwhile(simple(true))).prop_map(|(which, meanwhile)| Step::Walk(which, meanwhile)),
        u32::from(crashes) => Just(Step::Crash),
    ];
    prop::collection::vec(step, 1..60)
}

fn verdict(world: World) -> TestCaseResult {
    let faults = world.faults.take();
    let told = world.told();
    world.end();
    prop_assert!(faults.is_empty(), "{}\nafter {told:#?}", faults.join("\n"));
    Ok(())
}

/// Any history at all: hints lost, repeated and reordered, crashes; then one walk of the root.
fn one_walk_of_the_root_brings_consumers_in_step(history: &[Step]) -> TestCaseResult {
    let world = World::new(Kernel::Treacherous);
    for step in history {
        world.take(step);
    }
    world.hints_stop();
    world.look_at_the_root();
    world.settle();
    world.check_consumers();
    // What was out of sight comes back.
    world.disk.borrow_mut().heal();
    world.look_at_the_root();
    world.settle();
    world.check_consumers();
    world.check_index();
    verdict(world)
}

/// Nothing is lost or out of order: then consumers are in step without any walk of the root.
fn hints_alone_bring_consumers_in_step(history: &[Step]) -> TestCaseResult {
    let world = World::new(Kernel::Faithful);
    for step in history {
        world.take(step);
    }
    world.hear_all();
    world.settle();
    world.check_consumers();
    verdict(world)
}

/// What a faithful kernel can tell of: not every name of a file that has several, not what was
/// hidden meanwhile.
fn op_that_is_told() -> impl Strategy<Value = Op> {
    any_op()
        .prop_filter("not told of wholly", |op| !matches!(op, Op::Link(..) | Op::ToggleReadable(_) | Op::ToggleMount))
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
            (any::<u8>(), 1..4_u8).prop_map(|(first, count)| Step::Commit(first, count)),
        ];
        any_meanwhile(step.boxed())
    };
    let renaming = prop_oneof![
        4 => (any::<u8>(), any::<u8>()).prop_map(|(from, to)| Renaming::File(from, to)),
        2 => (any::<u8>(), any::<u8>()).prop_map(|(from, to)| Renaming::Directory(from, to)),
        6 => Just(Renaming::Step(Step::Hear(0, Fate::Heard))),
        5 => (any::<u8>(), meanwhile()).prop_map(|(which, steps)| Renaming::Step(Step::Look(which, steps))),
        3 => (any::<u8>(), 1..4_u8).prop_map(|(first, count)| Renaming::Step(Step::Commit(first, count))),
        3 => (any::<u8>(), meanwhile()).prop_map(|(which, steps)| Renaming::Step(Step::Walk(which, steps))),
        1 => Just(Renaming::Step(Step::Finish)),
    ];
    prop::collection::vec(renaming, 1..50)
}

/// Nothing but renames: nothing but moves is told, whether they are heard of or found by a walk.
fn renames_keep_identity(history: &[Renaming], live: bool) -> TestCaseResult {
    let world = World::new(Kernel::Faithful);
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
            world.faults.borrow_mut().push(format!("no move: {told}"));
        }
    }
    verdict(world)
}

proptest! {
    #![proptest_config(cases(3_000))]

    #[test]
    fn whatever_happened_one_walk_of_the_root_brings_consumers_in_step(history in steps(any_op().boxed(), true)) {
        one_walk_of_the_root_brings_consumers_in_step(&history)?;
    }

    #[test]
    fn where_every_hint_comes_no_walk_is_needed(history in steps(op_that_is_told().boxed(), false)) {
        hints_alone_bring_consumers_in_step(&history)?;
    }

    #[test]
    fn renames_are_told_as_moves_and_nothing_else(history in renamings(), live: bool) {
        renames_keep_identity(&history, live)?;
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
    vec![Step::Look(0, Vec::new()), Step::Commit(0, 9)]
}

/// A history in which a file was created and committed before `then`.
fn with_a_file(then: impl IntoIterator<Item = Vec<Step>>) -> Vec<Step> {
    let begin = [vec![Step::Do(Op::Create(HERE, 1, Mtime::Now))], hear(2), looked_at_and_committed()];
    begin.into_iter().chain(then).flatten().collect()
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
    one_walk_of_the_root_brings_consumers_in_step(&history).unwrap();
}
