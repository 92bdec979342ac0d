//! A disk with one file and an index with one row, for the tests of looks.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::{Contents, Examiner, Outcome, SettlePolicy};
use crate::disk::{Disk, Entry, RootReplaced};
use crate::engine::SharedEngine;
use crate::model::{
    Cause, Content, FileStat, Fingerprint, FsEvent, Index, LibraryPath, Metadata, MountId, Origin, Row, Seen, Track,
};

pub(super) const SETTLE: Duration = Duration::from_secs(2);

pub(super) const HERE: &str = "a.mp3";

/// A disk with one file, at [`HERE`].
pub(super) struct OneFile {
    pub(super) stat: FileStat,
    pub(super) has_one_name: bool,
    /// Whether looks at other paths fail, as if the root had been replaced meanwhile.
    pub(super) is_root_replaced: bool,
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
}

pub(super) struct SomeContent;

impl Contents<()> for SomeContent {
    fn read(&self, (): &(), _: &LibraryPath, _: Option<&Track>) -> io::Result<Track> {
        Ok(track())
    }
}

pub(super) struct OneRow(Option<Row>);

impl Index for OneRow {
    type Error = Infallible;

    fn row(&self, path: &LibraryPath) -> Result<Option<Row>, Infallible> {
        Ok(self.0.clone().filter(|row| row.path == *path))
    }

    fn rows_by_inode(&self, _: MountId, _: u64, _: usize) -> Result<Vec<Row>, Infallible> {
        Ok(self.0.iter().cloned().collect())
    }

    fn rows_by_sha256(&self, _: &[u8; 32], _: usize) -> Result<Vec<Row>, Infallible> {
        Ok(Vec::new())
    }

    fn rows_after(
        &self,
        under: &LibraryPath,
        after: Option<&LibraryPath>,
        _: usize,
    ) -> Result<Vec<(LibraryPath, FileStat)>, Infallible> {
        let is_next = |row: &&Row| row.path.is_at_or_under(under) && after.is_none_or(|after| row.path > *after);
        Ok(self.0.iter().filter(is_next).map(|row| (row.path.clone(), row.stat)).collect())
    }

    fn len(&self) -> Result<u64, Infallible> {
        Ok(1)
    }
}

pub(super) fn track() -> Track {
    Track { fingerprint: Fingerprint { sha256: [1; 32], xxh128: 1 }, metadata: Metadata::default() }
}

pub(super) fn age(length: Duration) -> i128 {
    i128::try_from((SystemTime::now() - length).duration_since(UNIX_EPOCH).unwrap().as_nanos()).unwrap()
}

pub(super) fn old(size: u64) -> FileStat {
    let an_hour_ago = age(Duration::from_hours(1));
    FileStat { inode: 7, size, mtime_ns: an_hour_ago, ctime_ns: an_hour_ago, ..FileStat::default() }
}

pub(super) fn examiner(found: FileStat, row: Option<(&str, FileStat)>) -> Examiner<OneFile, SomeContent, OneRow> {
    Examiner {
        disk: OneFile { stat: found, has_one_name: true, is_root_replaced: false },
        contents: SomeContent,
        index: OneRow(row.map(|(path, stat)| Row { path: path.into(), stat, track: track(), first_published: 0 })),
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
pub(super) fn renamed() -> (Examiner<OneFile, SomeContent, OneRow>, FsEvent) {
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
