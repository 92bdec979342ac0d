//! What may happen to a library and to the program that watches it.
//!
//! An operation says what it means by numbers that are looked up in whatever is there when its turn
//! comes. So a sequence stays one when some of its operations are left out, which is what shrinking
//! does.

use crate::names::{self, NameOperation};
use crate::random::Random;

/// Bytes from which on a file takes time to hash.
const LARGE: usize = 1 << 20;

/// Stands for one of the files, directories or places that there are when the operation is done.
pub(crate) type Choice = u64;

/// The content of a file: the same number gives the same bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Content {
    pub(crate) seed: u64,
    pub(crate) length: usize,
}

impl Content {
    pub(crate) fn bytes(self) -> Vec<u8> {
        let mut bytes = Random::new(self.seed).bytes(self.length);
        if let Some(head) = bytes.first_chunk_mut::<12>().filter(|_| self.length >= LARGE) {
            // Without it a parser would search all of the noise for the beginning of something.
            *head = *b"RIFF\xff\xff\xff\x7fWAVE";
        }
        bytes
    }
}

/// One operation.
#[derive(Clone, Debug)]
pub(crate) enum Operation {
    /// Writes a whole file, over what was there.
    Write {
        at: Choice,
        content: Content,
    },
    /// Writes into a file that is there, in place and without cutting it first.
    InPlace {
        file: Choice,
        same_size: bool,
        restore_mtime: bool,
        content: Content,
    },
    /// What Picard does: writes in place, restores the modification time, renames.
    Tag {
        file: Choice,
        to: Choice,
        content: Content,
    },
    Append {
        file: Choice,
        content: Content,
    },
    Cut {
        file: Choice,
    },
    /// Writes in parts, and lets other things happen between them.
    WriteSlowly {
        at: Choice,
        cut: bool,
        parts: usize,
        pause_ms: u64,
        content: Content,
    },
    /// Writes beside a file and renames onto it.
    Replace {
        at: Choice,
        temporary: usize,
        content: Content,
    },
    Rename {
        file: Choice,
        to: Choice,
    },
    Swap {
        one: Choice,
        other: Choice,
    },
    Link {
        file: Choice,
        to: Choice,
    },
    Touch {
        file: Choice,
        when: When,
    },
    ChangeMode {
        file: Choice,
    },
    Remove {
        file: Choice,
    },
    /// Makes directories and writes into them at once.
    MakeTree {
        at: Choice,
        depth: usize,
        files: usize,
        content: Content,
    },
    CopyTree {
        directory: Choice,
        to: Choice,
    },
    RenameTree {
        directory: Choice,
        to: Choice,
        then_write: Option<Content>,
    },
    /// Renames pairs of files to and fro, one pair's renames between the other's.
    RenameStorm {
        one: Choice,
        other: Choice,
        rounds: usize,
    },
    MoveOut {
        directory: Choice,
    },
    MoveIn {
        directory: Choice,
        to: Choice,
    },
    RemoveTree {
        directory: Choice,
    },
    LinkSymbolically {
        to: Choice,
        at: Choice,
    },
    MakePipe {
        at: Choice,
    },
    WriteInTightLoop {
        file: Choice,
        content: Content,
    },
    /// Writes, replaces or removes the ignore file of a directory.
    Ignore {
        directory: Choice,
        patterns: usize,
        how: Ignoring,
    },
    /// Kills or stops the program, and starts it again with other patterns in `EXCLUDE`.
    Exclude {
        patterns: usize,
        kill: bool,
    },
    Pause {
        milliseconds: u64,
    },
    Kill,
    Terminate,
    /// Kills or stops the program, and starts it again after so many more operations.
    Down {
        kill: bool,
        operations: usize,
    },
    /// Freezes the program for a moment, in which other things happen.
    Freeze {
        milliseconds: u64,
    },
    /// Freezes the program until the kernel's queue has no room left.
    Overflow {
        one: Choice,
        other: Choice,
    },
    /// Writes a file with tags or a name that are a trouble to whoever handles them.
    Poison {
        at: Choice,
        name: usize,
        title: usize,
        seed: u64,
    },
    /// Kills or stops the program, unless it is down, and mounts the library's filesystem again under another number.
    Remount {
        kill: bool,
    },
    /// Takes the library's filesystem out, whether or not the program runs, and puts it back after so many more
    /// operations.
    Away {
        operations: usize,
        milliseconds: u64,
    },
    /// Passes names round, or changes a file that has a part in that.
    Names(NameOperation),
    /// Ends the connection to the broker, at once or in the middle of a frame.
    CutConnection {
        after_bytes: Option<u64>,
    },
    /// Makes the network to the broker silent, slow or refusing for a while.
    BadNetwork {
        kind: usize,
        milliseconds: u64,
    },
}

/// What happens to an ignore file.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Ignoring {
    Write,
    Replace,
    Remove,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum When {
    Now,
    Past,
    Future,
}

/// Whether a seed, as so many of a hundred, is about names.
pub(crate) fn is_about_names(seed: u64, names_percent: usize) -> bool {
    // Drawn from another sequence, so that it does not change that of the seed.
    Random::new(!seed).percent(names_percent)
}

/// The first `count` operations of a seed, which is about names or not, and whose filesystem can be taken out or not.
pub(crate) fn operations(
    seed: u64,
    count: usize,
    with_broker: bool,
    is_about_names: bool,
    can_go: bool,
) -> Vec<Operation> {
    let mut random = Random::new(seed);
    let mut rare = Random::new(!seed.rotate_left(16));
    let draw = if is_about_names { names::operation } else { operation };
    (0..count)
        .map(|_| {
            let usual = draw(&mut random, with_broker);
            rare_operation(&mut rare, is_about_names, can_go).unwrap_or(usual)
        })
        .collect()
}

/// An operation to do instead of another one.
fn rare_operation(random: &mut Random, is_about_names: bool, can_go: bool) -> Option<Operation> {
    let (at, seed) = (random.next(), random.next());
    let (name, title, number) = (random.below(100), random.below(100), random.below(1_000));
    // Long enough to be noticed, or not.
    let milliseconds = random.next() % if number.is_multiple_of(3) { 3_000 } else { 300 };
    match random.below(100) {
        0..=1 if can_go => Some(Operation::Remount { kill: number.is_multiple_of(2) }),
        2..=3 if can_go => Some(Operation::Away { operations: number % 12, milliseconds }),
        4..=6 if !is_about_names => Some(Operation::Poison { at, name, title, seed }),
        _ => None,
    }
}

fn operation(random: &mut Random, with_broker: bool) -> Operation {
    use Operation as Op;

    // Drawn for every operation, so that how many numbers one needs does not matter to the next.
    let (one, other) = (random.next(), random.next());
    let content = content(random);
    let milliseconds = random.next() % 300;
    let number = random.below(1_000);
    let few = random.between(1, 8);
    match random.below(if with_broker { 104 } else { 100 }) {
        0..=12 => Op::Write { at: one, content },
        13..=17 => Op::InPlace {
            file: one,
            same_size: number.is_multiple_of(2),
            restore_mtime: number.is_multiple_of(3),
            content,
        },
        18..=20 => Op::Tag { file: one, to: other, content },
        21..=23 => Op::Append { file: one, content },
        24..=25 => Op::Cut { file: one },
        26..=29 => {
            let pause_ms = 5 + milliseconds / 2;
            Op::WriteSlowly { at: one, cut: number.is_multiple_of(3), parts: few, pause_ms, content }
        }
        30..=34 => Op::Replace { at: one, temporary: number, content },
        35..=43 => Op::Rename { file: one, to: other },
        44..=46 => Op::Swap { one, other },
        47..=48 => Op::Link { file: one, to: other },
        49..=51 => Op::Touch { file: one, when: [When::Now, When::Now, When::Past, When::Future][number % 4] },
        52 => Op::ChangeMode { file: one },
        53..=56 => Op::Remove { file: one },
        57..=60 => Op::MakeTree { at: one, depth: few % 3 + 1, files: few, content },
        61..=63 => Op::CopyTree { directory: one, to: other },
        64..=68 => {
            Op::RenameTree { directory: one, to: other, then_write: number.is_multiple_of(2).then_some(content) }
        }
        69 => Op::RenameStorm { one, other, rounds: few },
        70..=71 => Op::MoveOut { directory: one },
        72..=73 => Op::MoveIn { directory: one, to: other },
        74..=75 => Op::RemoveTree { directory: one },
        76 => Op::LinkSymbolically { to: one, at: other },
        77 => Op::MakePipe { at: one },
        78 => Op::WriteInTightLoop { file: one, content },
        79..=80 => {
            let how = [Ignoring::Write, Ignoring::Replace, Ignoring::Remove][few % 3];
            Op::Ignore { directory: one, patterns: number, how }
        }
        81 => Op::Exclude { patterns: number, kill: few.is_multiple_of(2) },
        82..=91 => Op::Pause { milliseconds },
        92..=93 => Op::Kill,
        94 => Op::Terminate,
        95..=96 => Op::Down { kill: number.is_multiple_of(2), operations: few },
        97..=98 => Op::Freeze { milliseconds },
        99 => Op::Overflow { one, other },
        100..=101 => Op::CutConnection { after_bytes: number.is_multiple_of(2).then_some(number as u64 * 40) },
        _ => Op::BadNetwork { kind: number, milliseconds: milliseconds * 10 },
    }
}

/// Small as a rule, now and then large enough that its hashing meets the next change; and one in five
/// of those that others have too.
fn content(random: &mut Random) -> Content {
    let large = random.percent(4);
    let length = if large { random.between(LARGE, 8 * LARGE) } else { random.between(0, 3_000) };
    let seed = random.next();
    if random.percent(20) && !large {
        return Content { seed: seed % 4, length: 1_000 + usize::try_from(seed % 4).unwrap() };
    }
    Content { seed, length }
}
