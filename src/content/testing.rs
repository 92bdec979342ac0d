//! A disk with one file, and an index with one row at most, for the tests of looks.

use std::io::{self, Cursor};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::found::Found;
use super::source::Source;
use super::{Contents, Examiner, Outcome, SettlePolicy};
use crate::disk::{Disk, Entry, RootReplaced};
use crate::engine::SharedEngine;
use crate::model::{
    Cause, Content, FileStat, Fingerprint, FsEvent, LibraryPath, MemoryIndex, Metadata, MountId, Origin, Seen, Track,
};

pub(super) const SETTLE: Duration = Duration::from_secs(2);

pub(super) const HERE: &str = "a.mp3";

/// A disk with one file, at [`HERE`].
pub(super) struct OneFile {
    pub(super) stat: FileStat,
    pub(super) has_one_name: bool,
    /// Whether looks at other paths fail, as if the root had been replaced meanwhile.
    pub(super) is_root_replaced: bool,
    /// How long after a look the times of the file may stay the same although it changes.
    pub(super) time_step: Duration,
}

impl Disk for OneFile {
    type File = ();

    fn entry(&self, path: &LibraryPath) -> io::Result<Entry> {
        match *path == HERE.into() {
            true => Ok(Entry::File(self.stat)),
            false if self.is_root_replaced => Err(io::Error::other(RootReplaced)),
            false => Ok(Entry::Missing { nearest_mount: MountId::default() }),
        }
    }

    fn open(&self, _: &LibraryPath) -> io::Result<Option<((), FileStat)>> {
        Ok(Some(((), self.stat)))
    }

    fn stat(&self, (): &()) -> io::Result<FileStat> {
        Ok(self.stat)
    }

    fn has_one_name(&self, _: &LibraryPath) -> io::Result<bool> {
        Ok(self.has_one_name)
    }

    fn time_step(&self, _: MountId) -> Duration {
        self.time_step
    }
}

pub(super) struct SomeContent;

impl Contents<()> for SomeContent {
    fn read(&self, (): &(), _: &LibraryPath, _: Option<&Track>, _: Origin) -> io::Result<Track> {
        Ok(track())
    }
}

pub(super) fn track() -> Track {
    let fingerprint = Fingerprint { sha256: [1; 32], xxh128: 1 };
    Track { fingerprint, sound: None, metadata: Metadata::default() }
}

pub(super) fn age(length: Duration) -> i128 {
    i128::try_from((SystemTime::now() - length).duration_since(UNIX_EPOCH).unwrap().as_nanos()).unwrap()
}

pub(super) fn old(size: u64) -> FileStat {
    let an_hour_ago = age(Duration::from_hours(1));
    FileStat { inode: 7, size, mtime_ns: an_hour_ago, ctime_ns: an_hour_ago, ..FileStat::default() }
}

pub(super) fn examiner(found: FileStat, row: Option<(&str, FileStat)>) -> Examiner<OneFile, SomeContent, MemoryIndex> {
    Examiner {
        disk: OneFile { stat: found, has_one_name: true, is_root_replaced: false, time_step: Duration::ZERO },
        contents: SomeContent,
        index: MemoryIndex::of_files(row.map(|(path, stat)| (path.into(), stat))),
        settle_policy: SettlePolicy {
            debounce: Duration::from_millis(50),
            settle: SETTLE,
            empty: Duration::from_mins(1),
            ignore_ctime: false,
        },
        engine: SharedEngine::new(),
        verified_bytes: Arc::default(),
    }
}

pub(super) fn look(found: FileStat, row: Option<FileStat>, look: FsEvent) -> Outcome {
    examiner(found, row.map(|stat| (HERE, stat))).examine(look).outcome
}

/// The hint without the old path.
pub(super) fn unpaired(mut hint: FsEvent) -> FsEvent {
    hint.evidence.renamed_from = None;
    hint
}

/// An examiner that finds a file under another name than the index has, and the hint for its rename.
pub(super) fn renamed() -> (Examiner<OneFile, SomeContent, MemoryIndex>, FsEvent) {
    let committed = old(9);
    let renamed = FileStat { ctime_ns: committed.ctime_ns + 1, ..committed };
    let mut hint = FsEvent::new(HERE.into(), Cause::Renamed, Origin::Watch);
    hint.evidence.renamed_from = Some("b/old.mp3".into());
    (examiner(renamed, Some(("b/old.mp3", committed))), hint)
}

pub(super) fn is_read(outcome: &Outcome) -> bool {
    let (Outcome::New(observation, _) | Outcome::Observed(observation, _)) = outcome else { return false };
    matches!(observation.seen, Seen::File { content: Content::Read(_), .. })
}

/// What the reader of a format finds in these bytes. If it fails, the error text says so.
pub(super) fn read_by<'a>(
    bytes: &'a [u8],
    read: impl FnOnce(&mut Source<Cursor<&'a [u8]>>, &mut Metadata, &mut Found) -> io::Result<()>,
) -> Metadata {
    let (mut metadata, mut found) = (Metadata::default(), Found::default());
    let read = read(&mut Source::new(Cursor::new(bytes)).unwrap(), &mut metadata, &mut found);
    found.show(&mut metadata);
    if let Err(error) = read {
        metadata.add_error(&error.to_string());
    }
    metadata
}
