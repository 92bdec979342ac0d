//! A model disk whose files have true identities, correct looks at it, and consumers that check every change.

use std::collections::{BTreeMap, BTreeSet};

use super::super::{RowUpdate, Rows, paths_touched};
use crate::model::{
    Change, Content, FileEvent, FileStat, Fingerprint, InodeKind, LibraryPath, Metadata, MountId, Observation, Origin,
    Row, Seen, Sound, Track,
};

/// The time of every commit.
pub(super) const NOW: i64 = 1_000_000;

/// The first message of a row that is not young.
pub(super) const LONG_AGO: i64 = 0;

/// A file. All files have the same size, so that a reused inode number often has the size and time of the file before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct File {
    /// The true identity of the file, whatever its inode number.
    pub(super) id: u32,
    pub(super) filesystem: Filesystem,
    pub(super) inode: u64,
    pub(super) born: i64,
    pub(super) content: u32,
    pub(super) mtime: i64,
    pub(super) ctime: i64,
}

/// How a filesystem identifies its files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Filesystem {
    /// It keeps birth times.
    Births,
    /// It has inode numbers but no birth times.
    Inodes,
    /// Its inode numbers are not stable.
    Neither,
}

pub(super) type Disk = BTreeMap<LibraryPath, File>;

pub(super) fn track(content: u32) -> Track {
    let mut sha256 = [0; 32];
    sha256[..4].copy_from_slice(&content.to_be_bytes());
    sha256[31] = 1;
    let fingerprint = Fingerprint { sha256, xxh128: u128::from(content) };
    Track { fingerprint, sound: Some(sound(content)), metadata: Metadata::default() }
}

/// Of every four contents, the first two are a recording with different tags, and the others one moment of silence.
fn sound(content: u32) -> Sound {
    let is_silence = content % 4 > 1;
    let bytes = if is_silence { Sound::DISTINCTIVE - 1 } else { Sound::DISTINCTIVE };
    Sound { xxh128: if is_silence { 0 } else { u128::from(content / 4) + 1 }, bytes }
}

/// The other content with the same sound.
pub(super) fn retagged(content: u32) -> u32 {
    content ^ 1
}

impl File {
    pub(super) fn stat(&self) -> FileStat {
        FileStat {
            mount: MountId(self.filesystem as u32),
            inode: self.inode,
            inode_kind: if self.filesystem == Filesystem::Neither { InodeKind::Unstable } else { InodeKind::Stable },
            born_ns: (self.filesystem == Filesystem::Births).then_some(self.born),
            size: 100,
            mtime_ns: self.mtime.into(),
            ctime_ns: self.ctime.into(),
        }
    }
}

/// The rows of the files on a disk. `young` says which files were first published just now.
pub(super) fn rows_of(disk: &Disk, young: impl Fn(&LibraryPath) -> bool) -> Rows {
    let row = |(path, file): (&LibraryPath, &File)| {
        let first_published = if young(path) { NOW - 5 } else { LONG_AGO };
        let row = Row { path: path.clone(), stat: file.stat(), track: track(file.content).into(), first_published };
        (path.clone(), row)
    };
    disk.iter().map(row).collect()
}

/// The observation of a correct look. Its candidates are the path's own row if it is that of the file, then the rows
/// whose path is gone or has another file, by inode first.
pub(super) fn look(disk: &Disk, rows: &Rows, path: &LibraryPath, may_trust: bool) -> Observation {
    let seen = disk.get(path).map_or(Seen::Missing, |file| {
        let stat = file.stat();
        let is_here = |row: &Row| disk.get(&row.path).is_some_and(|found| is_file_of(row, found));
        let others: Vec<&Row> = rows.values().filter(|row| row.path != *path && !is_here(row)).collect();
        let by_inode: Vec<&Row> = others
            .iter()
            .copied()
            .filter(|row| {
                let same = row.stat.same_file(&stat) && row.stat.same_size_and_mtime(&stat);
                same || row.stat.is_surely_same_file(&stat)
            })
            .collect();
        let found = track(file.content);
        let is_known = rows.values().any(|row| *row.track == found);
        let by_content = |row: &&Row| {
            *row.track == found || (!is_known && row.track.has_sound_of(&found) && !disk.contains_key(&row.path))
        };
        let by_content: Vec<&Row> = others.into_iter().filter(by_content).collect();
        let unique = if by_content.len() == 1 { by_content } else { Vec::new() };
        let own = rows.get(path).filter(|row| row.stat.same_file(&stat));
        let candidates = own.into_iter().chain(by_inode.iter().copied()).chain(unique);
        let candidates = candidates.map(|row| row.path.clone()).collect();
        // A stat that is equal in every field is trusted. In this model, as on a real disk, such a file is unchanged.
        let trusted = by_inode.iter().find(|row| may_trust && row.stat == stat && *row.track == track(file.content));
        let content = match trusted {
            Some(row) => Content::MovedFrom(row.path.clone()),
            None => Content::Read(track(file.content).into()),
        };
        Seen::File { stat, content, candidates }
    });
    Observation { path: path.clone(), origin: Origin::Scan, seen }
}

/// Whether the file at the path of a row can be taken for the file of the row.
fn is_file_of(row: &Row, found: &File) -> bool {
    let stat = found.stat();
    let same_content = *row.track == track(found.content);
    match found.filesystem {
        Filesystem::Births => row.stat.same_file(&stat),
        Filesystem::Inodes => row.stat.same_file(&stat) && (row.stat.same_size_and_mtime(&stat) || same_content),
        Filesystem::Neither => row.stat.mount == stat.mount && same_content,
    }
}

/// A strict consumer: every change must be consistent with the changes before it.
pub(super) struct Consumer {
    /// The content of each path, and the file that the consumer takes the row for.
    pub(super) rows: BTreeMap<LibraryPath, (Fingerprint, Option<u32>)>,
    /// Whether no two rows may have the same content.
    pub(super) is_unique: bool,
}

impl Consumer {
    pub(super) fn of(disk: &Disk, is_unique: bool) -> Self {
        let rows = disk.iter().map(|(path, file)| (path.clone(), (track(file.content).fingerprint, Some(file.id))));
        Self { rows: rows.collect(), is_unique }
    }

    pub(super) fn contents(&self) -> BTreeMap<LibraryPath, Fingerprint> {
        self.rows.iter().map(|(path, (content, _))| (path.clone(), *content)).collect()
    }

    pub(super) fn replay(&mut self, changes: &[FileEvent]) -> Result<(), String> {
        changes.iter().try_for_each(|event| {
            self.take(&event.change).map_err(|wrong| format!("{wrong}: {}", words(&event.change)))
        })
    }

    fn take(&mut self, change: &Change) -> Result<(), &'static str> {
        match change {
            Change::Created(row) => {
                self.insert(row, None)?;
            }
            Change::Modified(row) => {
                let (old, file) = self.rows.remove(&row.path).ok_or("modified what was not known")?;
                if old == row.track.fingerprint {
                    return Err("modified to the same");
                }
                self.insert(row, file)?;
            }
            Change::Deleted(path) => {
                self.rows.remove(path).ok_or("deleted what was not known")?;
            }
            Change::Moved { from, row } => {
                if self.rows.contains_key(&row.path) {
                    return Err("moved onto what was known");
                }
                let (old, file) = self.rows.remove(from).ok_or("moved what was not known")?;
                if old != row.track.fingerprint {
                    return Err("moved with another content");
                }
                self.insert(row, file)?;
            }
        }
        Ok(())
    }

    fn insert(&mut self, row: &Row, file: Option<u32>) -> Result<(), &'static str> {
        let content = row.track.fingerprint;
        if self.is_unique && self.rows.values().any(|(other, _)| *other == content) {
            return Err("two rows with one content");
        }
        let before = self.rows.insert(row.path.clone(), (content, file));
        if before.is_some() { Err("created what was known") } else { Ok(()) }
    }
}

pub(super) fn words(change: &Change) -> String {
    match change {
        Change::Moved { from, row } => format!("{} {from} -> {}", change.event_type(), row.path),
        change => format!("{} {}", change.event_type(), change.path()),
    }
}

pub(super) fn contents(disk: &Disk) -> BTreeMap<LibraryPath, Fingerprint> {
    disk.iter().map(|(path, file)| (path.clone(), track(file.content).fingerprint)).collect()
}

pub(super) fn apply(rows: &mut Rows, updates: Vec<RowUpdate>) {
    let paths: BTreeSet<LibraryPath> = updates.iter().map(|update| update.path().clone()).collect();
    assert_eq!(paths.len(), updates.len(), "a path occurs once");
    for update in updates {
        match update {
            RowUpdate::Put(row) => drop(rows.insert(row.path.clone(), row)),
            RowUpdate::Remove(path) => assert!(rows.remove(&path).is_some(), "{path} had no row"),
        }
    }
}

pub(super) fn touched(rows: &Rows, batch: &[Observation]) -> Rows {
    paths_touched(batch).into_iter().filter_map(|path| Some((path.clone(), rows.get(path)?.clone()))).collect()
}
