//! Histories about names: tracks of a few albums whose names are passed round, and whose contents are all different.
//!
//! As no two files ever have equal contents, consumers may be unique in hashes, and their rows are compared with
//! the files at the end.

use std::path::{Path, PathBuf};

use crate::operation::{Choice, Content, Operation};
use crate::random::Random;
use crate::tree::LIBRARY;

/// How many of a hundred histories are about names, unless `CHAOS_NAMES_PERCENT` says otherwise.
pub(crate) const NAMES_PERCENT: u64 = 30;

/// The directories of the albums. Two are in each other, and the last one is for files that are moved away.
const ALBUMS: [&str; 4] = ["a", "a/b", "d", "away"];

/// The album for files that are moved away.
pub(crate) const AWAY: usize = 3;

/// One operation with tracks. `album` counts in the albums, `choice` stands for one of the tracks that there are.
#[derive(Clone, Debug)]
pub(crate) enum NameOperation {
    /// Writes new tracks behind the last one.
    Add {
        album: usize,
        count: usize,
        content: Content,
    },
    /// Renames each track from this number on to the next number, the last one first.
    RenumberUp {
        album: usize,
        from: u64,
    },
    /// Renames each track from this number on to the number before, the first one first, if that is free.
    RenumberDown {
        album: usize,
        from: u64,
    },
    /// Passes the names of some tracks round, by way of another name.
    Rotate {
        albums: [usize; 4],
        choices: [Choice; 4],
        count: usize,
        pause_ms: u64,
    },
    /// Lets two tracks exchange their names, in one step.
    Exchange {
        albums: [usize; 2],
        choices: [Choice; 2],
    },
    /// Moves a track away and writes a new one in its place.
    MoveAwayAndWrite {
        album: usize,
        choice: Choice,
        content: Content,
    },
    /// Saves as taggers do: writes beside the track, and renames over it.
    Save {
        album: usize,
        choice: Choice,
        pause_ms: u64,
        content: Content,
    },
    /// Writes a track in place.
    Retag {
        album: usize,
        choice: Choice,
        content: Content,
    },
    Remove {
        album: usize,
        choice: Choice,
    },
}

/// A track by its album and number, from which it has its path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Track {
    pub(crate) album: usize,
    pub(crate) number: u64,
}

impl Track {
    /// Its path in the folder of the history.
    pub(crate) fn path(&self) -> PathBuf {
        Path::new(LIBRARY).join(ALBUMS[self.album]).join(format!("{}.mp3", self.number))
    }

    /// The track with this path.
    pub(crate) fn at(path: &Path) -> Option<Self> {
        let number = path.file_name()?.to_str()?.strip_suffix(".mp3")?.parse().ok()?;
        let album = path.parent()?.strip_prefix(LIBRARY).ok()?;
        let album = ALBUMS.iter().position(|name| Path::new(name) == album)?;
        Some(Self { album, number })
    }
}

/// Whether operations are of this kind, so that no two files ever have equal contents.
pub(crate) fn are_about_names(operations: &[Operation]) -> bool {
    let may_occur = |operation: &Operation| {
        matches!(
            operation,
            Operation::Names(_)
                | Operation::Pause { .. }
                | Operation::Kill
                | Operation::Terminate
                | Operation::Down { .. }
                | Operation::Freeze { .. }
                | Operation::CutConnection { .. }
                | Operation::BadNetwork { .. }
                | Operation::Remount { .. }
                | Operation::Away { .. }
        )
    };
    operations.iter().all(may_occur)
}

/// Draws an operation for a history about names.
pub(crate) fn operation(random: &mut Random, with_broker: bool) -> Operation {
    use NameOperation as Op;

    // Drawn for every operation, so that how many numbers one needs does not matter to the next.
    let albums = [0; 4].map(|_| if random.percent(60) { 0 } else { random.below(AWAY) });
    let choices = [0; 4].map(|_: u64| random.next());
    let (album, choice) = (albums[0], choices[0]);
    let from = random.next() % 6 + 1;
    let content = Content { seed: random.next(), length: random.between(500, 3_000) };
    let few = random.between(2, 4);
    let milliseconds = random.next() % 300;
    let pause_ms = if random.percent(70) { 0 } else { milliseconds };
    let number = random.below(1_000);
    Operation::Names(match random.below(if with_broker { 104 } else { 100 }) {
        0..=13 => Op::Add { album, count: few, content },
        14..=24 => Op::RenumberUp { album, from },
        25..=35 => Op::RenumberDown { album, from: from + 1 },
        36..=46 => Op::Rotate { albums, choices, count: few, pause_ms: pause_ms / 20 },
        47..=52 => Op::Exchange { albums: [albums[0], albums[1]], choices: [choices[0], choices[1]] },
        53..=58 => Op::MoveAwayAndWrite { album, choice, content },
        59..=65 => Op::Save { album, choice, pause_ms, content },
        66..=69 => Op::Retag { album, choice, content },
        70..=72 => Op::Remove { album, choice },
        73..=89 => return Operation::Pause { milliseconds },
        90..=92 => return Operation::Kill,
        93 => return Operation::Terminate,
        94..=97 => return Operation::Down { kill: number.is_multiple_of(2), operations: few },
        98..=99 => return Operation::Freeze { milliseconds },
        100..=101 => {
            let after_bytes = number.is_multiple_of(2).then_some(number as u64 * 40);
            return Operation::CutConnection { after_bytes };
        }
        _ => return Operation::BadNetwork { kind: number, milliseconds: milliseconds * 10 },
    })
}
