//! Reads the index, concurrently with the writer.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::{Connection, OptionalExtension, Row as SqlRow, params};
use uuid::Uuid;

use super::columns::{self, Time};
use super::{Corruption, StoreError, commit, corruption, mounts, parked, schema};
use crate::disk::KnownMount;
use crate::model::{
    FilePage, FileStat, Fingerprint, Index, InodeKind, LibraryPath, Metadata, MountId, Row, Sound, Track,
};

/// The columns of a row, in the order in which [`row_from`] reads them.
pub(super) const COLUMNS: &str = "path, mount, inode, born_ns, size, mtime_ns, ctime_ns, sha256, xxh128, metadata, \
                                  first_published, audio_hash, audio_bytes";

/// The first columns, in the order in which [`path_and_stat_from`] reads them.
const STAT_COLUMNS: &str = "path, mount, inode, born_ns, size, mtime_ns, ctime_ns";

/// Reads the index as last committed. Clones share their connections, one for each thread that reads at the same
/// time.
#[derive(Clone, Debug)]
pub struct IndexReader {
    pub(super) file: Arc<Path>,
    idle: Arc<Mutex<Vec<Connection>>>,
    corruption: Corruption,
    /// Whether rows are found by their sound.
    finds_sounds: Arc<AtomicBool>,
}

impl IndexReader {
    /// Opens the index of the store at `file` for reading only, whether a service is running on it or not.
    ///
    /// # Errors
    ///
    /// If there is no store, or it is corrupt, of another version or of another library.
    pub fn of_existing(file: &Path, library: &[u8]) -> Result<Self, StoreError> {
        if !file.exists() {
            return Err(StoreError::NeverScanned { file: file.to_path_buf() });
        }
        corruption::inspect(file, Some(library))?;
        let reader = Self::open(file, Corruption::new(file))?;
        let found = reader.with(schema::version)?;
        if found < schema::newest_version() {
            return Err(StoreError::Older { file: file.to_path_buf() });
        }
        Ok(reader)
    }

    pub(super) fn open(file: &Path, corruption: Corruption) -> Result<Self, StoreError> {
        let connection = schema::open_reader(file)?;
        let finds_sounds = Arc::new(AtomicBool::new(schema::has_index_of_sounds(&connection)?));
        let idle = Arc::new(Mutex::new(vec![connection]));
        Ok(Self { file: Arc::from(file), idle, corruption, finds_sounds })
    }

    /// Whether [`Index::rows_by_content`] finds rows by their sound.
    pub(super) fn finds_sounds(&self) -> bool {
        self.finds_sounds.load(Ordering::Relaxed)
    }

    /// Finds rows by their sound from now on.
    pub(super) fn find_sounds(&self) {
        self.finds_sounds.store(true, Ordering::Relaxed);
    }

    pub(super) fn with<T>(
        &self,
        read: impl FnOnce(&Connection) -> Result<T, rusqlite::Error>,
    ) -> Result<T, rusqlite::Error> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let connection = idle.map_or_else(|| schema::open_reader(&self.file), Ok)?;
        let result = read(&connection).inspect_err(|error| self.corruption.note(error));
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
        result
    }
}

impl IndexReader {
    /// Closes the connections that no thread uses, except one: the next reader must not wait for a new one.
    pub(super) fn close_idle(&self) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).truncate(1);
    }

    /// The id of the store, to which its sequence numbers belong.
    ///
    /// # Errors
    ///
    /// If the store cannot be read, or was made by a version without ids.
    pub fn store_id(&self) -> Result<Uuid, rusqlite::Error> {
        self.with(schema::store_id)
    }

    /// When the oldest message of the outbox was committed, in seconds since the epoch; `None` if there is none.
    ///
    /// # Errors
    ///
    /// If the store cannot be read.
    pub fn oldest_message(&self) -> Result<Option<u64>, rusqlite::Error> {
        self.with(|connection| {
            let mut statement = connection.prepare_cached("SELECT timestamp FROM outbox ORDER BY sequence LIMIT 1")?;
            let timestamp: Option<i64> = statement.query_row([], |row| row.get(0)).optional()?;
            Ok(timestamp.map(i64::cast_unsigned))
        })
    }

    /// When the oldest parked message was parked, in seconds since the epoch; `None` if there is none.
    ///
    /// # Errors
    ///
    /// If the store cannot be read.
    pub fn oldest_parked(&self) -> Result<Option<i64>, rusqlite::Error> {
        self.with(|connection| connection.query_row("SELECT min(parked_at) FROM parked", [], |row| row.get(0)))
    }

    /// The number of messages in the outbox, and of parked ones.
    ///
    /// # Errors
    ///
    /// If the store cannot be read.
    pub fn undelivered(&self) -> Result<(u64, u64), rusqlite::Error> {
        self.with(|connection| Ok((commit::outbox_length(connection)?, parked::parked_length(connection)?)))
    }

    /// The next rows after `after`, with their content; otherwise as [`Index::rows_after`].
    ///
    /// # Errors
    ///
    /// If the index cannot be read.
    pub fn full_rows_after(
        &self,
        under: &LibraryPath,
        after: Option<&LibraryPath>,
        limit: usize,
    ) -> Result<Vec<Row>, rusqlite::Error> {
        self.with(|connection| {
            let mut rows = Vec::new();
            read_after(connection, COLUMNS, under, after, limit, |row| {
                rows.push(row_from(row)?);
                Ok(())
            })?;
            Ok(rows)
        })
    }

    /// The mounts of the library.
    pub(super) fn mounts(&self) -> Result<Vec<KnownMount>, rusqlite::Error> {
        self.with(mounts::read)
    }
}

impl Index for IndexReader {
    type Error = rusqlite::Error;

    fn row(&self, path: &LibraryPath) -> Result<Option<Row>, rusqlite::Error> {
        self.with(|connection| row(connection, path))
    }

    fn rows_by_inode(&self, mount: MountId, inode: u64, limit: usize) -> Result<Vec<Row>, rusqlite::Error> {
        self.with(|connection| {
            let query = format!("SELECT {COLUMNS} FROM files WHERE inode = ?1 AND mount = ?2 LIMIT ?3");
            let mut statement = connection.prepare_cached(&query)?;
            let arguments = params![inode.cast_signed(), mount.0, i64::try_from(limit).unwrap_or(i64::MAX)];
            statement.query_map(arguments, row_from)?.collect()
        })
    }

    fn rows_by_content(&self, track: &Track, limit: usize) -> Result<Vec<Row>, rusqlite::Error> {
        self.with(|connection| {
            let query = format!("SELECT {COLUMNS} FROM files WHERE sha256 = ?1 LIMIT ?2");
            let mut statement = connection.prepare_cached(&query)?;
            let limit = i64::try_from(limit).unwrap_or(i64::MAX);
            let rows = statement.query_map(params![track.fingerprint.sha256, limit], row_from)?;
            let rows: Vec<Row> = rows.collect::<Result<_, _>>()?;
            let sound = track.sound.filter(|sound| sound.is_distinctive() && rows.is_empty() && self.finds_sounds());
            let Some(sound) = sound else { return Ok(rows) };
            let query = format!("SELECT {COLUMNS} FROM files WHERE audio_hash = ?1 LIMIT ?2");
            let mut statement = connection.prepare_cached(&query)?;
            statement.query_map(params![sound.xxh128.to_be_bytes(), limit], row_from)?.collect()
        })
    }

    fn rows_after(
        &self,
        under: &LibraryPath,
        after: Option<&LibraryPath>,
        limit: usize,
    ) -> Result<FilePage, rusqlite::Error> {
        self.with(|connection| rows_after(connection, under, after, limit))
    }

    fn len(&self) -> Result<u64, rusqlite::Error> {
        let count: i64 =
            self.with(|connection| connection.query_row("SELECT count(*) FROM files", [], |row| row.get(0)))?;
        Ok(count.cast_unsigned())
    }
}

/// See [`Index::rows_after`].
pub(super) fn rows_after(
    connection: &Connection,
    under: &LibraryPath,
    after: Option<&LibraryPath>,
    limit: usize,
) -> Result<FilePage, rusqlite::Error> {
    let mut page = FilePage::default();
    read_after(connection, STAT_COLUMNS, under, after, limit, |row| {
        page.push(row.get_ref(0)?.as_blob()?, stat_from(row)?);
        Ok(())
    })?;
    Ok(page)
}

/// Reads these columns of the next rows after `after`, at or under `under`, and passes each row to `read`.
fn read_after(
    connection: &Connection,
    columns: &str,
    under: &LibraryPath,
    after: Option<&LibraryPath>,
    limit: usize,
    mut read: impl FnMut(&SqlRow<'_>) -> Result<(), rusqlite::Error>,
) -> Result<(), rusqlite::Error> {
    let mut limit = i64::try_from(limit).unwrap_or(i64::MAX);
    // The path itself comes before the paths under it. Names such as `name.mp3` are in between.
    if after.is_none() && !under.is_root() {
        let mut statement = connection.prepare_cached(&format!("SELECT {columns} FROM files WHERE path = ?1"))?;
        let own = statement.query_row(params![under.as_bytes()], |row| read(row)).optional()?;
        limit -= i64::from(own.is_some());
    }
    let (start, end) = range_under(under);
    let start = after.map_or(&start[..], |after| after.as_bytes().max(&start));
    let query = format!("SELECT {columns} FROM files WHERE path > ?1 AND path < ?2 ORDER BY path LIMIT ?3");
    let mut statement = connection.prepare_cached(&query)?;
    let mut rows = statement.query(params![start, end, limit])?;
    while let Some(row) = rows.next()? {
        read(row)?;
    }
    Ok(())
}

/// The paths of the rows with the same inode as `row` and another size or time.
pub(super) fn names_in_another_state(connection: &Connection, row: &Row) -> Result<Vec<LibraryPath>, rusqlite::Error> {
    let mut statement = connection.prepare_cached(
        "SELECT path FROM files
         WHERE inode = ?1 AND mount = ?2 AND path <> ?3
             AND (size, mtime_ns, ctime_ns) <> (?4, ?5, ?6)",
    )?;
    let FileStat { mount, size, .. } = row.stat;
    let [mtime_ns, ctime_ns] = columns::times(&row.stat);
    let (inode, size) = (columns::inode(&row.stat), size.cast_signed());
    let arguments = params![inode, mount.0, row.path.as_bytes(), size, mtime_ns, ctime_ns];
    let paths = statement.query_map(arguments, |row| Ok(LibraryPath::from_bytes(row.get_ref(0)?.as_blob()?)))?;
    paths.collect()
}

/// The paths of the rows with this inode.
pub(super) fn names_of_inode(connection: &Connection, stat: &FileStat) -> Result<Vec<LibraryPath>, rusqlite::Error> {
    let mut statement = connection.prepare_cached("SELECT path FROM files WHERE inode = ?1 AND mount = ?2")?;
    let arguments = params![columns::inode(stat), stat.mount.0];
    let paths = statement.query_map(arguments, |row| Ok(LibraryPath::from_bytes(row.get_ref(0)?.as_blob()?)))?;
    paths.collect()
}

/// Whether there is any row.
pub(super) fn has_rows(connection: &Connection) -> Result<bool, rusqlite::Error> {
    connection.prepare("SELECT 1 FROM files LIMIT 1")?.exists([])
}

/// The number of rows at or under a path.
pub(super) fn count_under(connection: &Connection, under: &LibraryPath) -> Result<u64, rusqlite::Error> {
    let (start, end) = range_under(under);
    let count: i64 = connection.query_row(
        "SELECT count(*) FROM files WHERE path = ?1 OR (path > ?2 AND path < ?3)",
        params![under.as_bytes(), start, end],
        |row| row.get(0),
    )?;
    Ok(count.cast_unsigned())
}

/// The range of the paths under a directory, without its ends: they begin with `name/`, and `0` follows `/`.
pub(super) fn range_under(directory: &LibraryPath) -> (Vec<u8>, Vec<u8>) {
    if directory.is_root() {
        // A name has at most 255 bytes, so every path is less than this.
        return (Vec::new(), vec![0xff; 256]);
    }
    let start = directory.join(b"").as_bytes().to_vec();
    let mut end = start.clone();
    end.pop();
    end.push(b'/' + 1);
    (start, end)
}

pub(super) fn row(connection: &Connection, path: &LibraryPath) -> Result<Option<Row>, rusqlite::Error> {
    let query = format!("SELECT {COLUMNS} FROM files WHERE path = ?1");
    connection.prepare_cached(&query)?.query_row(params![path.as_bytes()], row_from).optional()
}

fn stat_from(row: &SqlRow<'_>) -> Result<FileStat, rusqlite::Error> {
    let mount = MountId(row.get(1)?);
    let (inode, mtime_ns, ctime_ns) = (row.get(2)?, row.get::<_, Time>(5)?, row.get::<_, Time>(6)?);
    if columns::is_unknown(inode, mtime_ns, ctime_ns) {
        return Ok(FileStat::unknown(mount));
    }
    Ok(FileStat {
        mount,
        inode: inode.unwrap_or_default().cast_unsigned(),
        inode_kind: if inode.is_some() { InodeKind::Stable } else { InodeKind::Unstable },
        born_ns: row.get(3)?,
        size: row.get::<_, i64>(4)?.cast_unsigned(),
        mtime_ns: mtime_ns.0,
        ctime_ns: ctime_ns.0,
    })
}

pub(super) fn row_from(row: &SqlRow<'_>) -> Result<Row, rusqlite::Error> {
    let (path, stat) = (LibraryPath::from_bytes(row.get_ref(0)?.as_blob()?), stat_from(row)?);
    let fingerprint = Fingerprint { sha256: row.get(7)?, xxh128: u128::from_be_bytes(row.get(8)?) };
    // Metadata that cannot be parsed is lost. The next read of the file restores it.
    let metadata: Metadata = serde_json::from_str(row.get_ref(9)?.as_str()?).unwrap_or_default();
    let audio_hash: Option<[u8; 16]> = row.get(11)?;
    let bytes: Option<i64> = row.get(12)?;
    let sound = audio_hash
        .zip(bytes)
        .map(|(hash, bytes)| Sound { xxh128: u128::from_be_bytes(hash), bytes: bytes.cast_unsigned() });
    let track = Arc::new(Track { fingerprint, sound, metadata });
    Ok(Row { path, stat, track, first_published: row.get(10)? })
}
