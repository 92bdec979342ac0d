//! The tables, and the migrations of older files.
//!
//! | table | a row is |
//! |---|---|
//! | `mounts` | a mount of the library, which rows of `files` refer to by its id |
//! | `files` | what was last published for a path: stat, hashes and metadata |
//! | `outbox` | a message that is not delivered yet, ready to be published |
//! | `parked` | a message that cannot be delivered, and why |
//! | `replays` | a subtree that is being published again, and the last path that was |
//! | `meta` | a property of the file itself, by name |

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, OptionalExtension, params};
use uuid::Uuid;

use super::StoreError;

/// The migrations from each format to the next. Append only: `user_version` is the number of applied migrations.
const MIGRATIONS: [&str; 5] = [
    "
    CREATE TABLE meta (name TEXT PRIMARY KEY, value BLOB NOT NULL);
    CREATE TABLE files (
        path BLOB PRIMARY KEY NOT NULL,
        device INTEGER NOT NULL,
        inode INTEGER NOT NULL,
        size INTEGER NOT NULL,
        mtime_ns INTEGER NOT NULL,
        ctime_ns INTEGER NOT NULL,
        sha256 BLOB NOT NULL,
        xxh128 BLOB NOT NULL,
        metadata TEXT NOT NULL
    );
    CREATE INDEX files_by_inode ON files (inode, device);
    CREATE INDEX files_by_sha256 ON files (sha256);
    CREATE TABLE outbox (
        sequence INTEGER PRIMARY KEY AUTOINCREMENT,
        event_type TEXT NOT NULL,
        correlation_id TEXT NOT NULL,
        timestamp INTEGER NOT NULL,
        body BLOB NOT NULL
    );
    ",
    // `after` is the last path that was published again; NULL before the first.
    "
    CREATE TABLE replays (id INTEGER PRIMARY KEY, under BLOB NOT NULL, after BLOB);
    ",
    // Mounts replace device numbers, which change with a reboot. The mount of a row is unknown if it was not on the
    // device of the root. `inode` is NULL if inode numbers are unstable. Times are nanoseconds since the epoch, as
    // decimal text if they do not fit an integer.
    "
    CREATE TABLE mounts (
        id INTEGER PRIMARY KEY,
        place BLOB NOT NULL,
        kind TEXT NOT NULL,
        source TEXT NOT NULL,
        filesystem TEXT,
        root_inode INTEGER NOT NULL,
        root_born_ns INTEGER,
        has_unstable_inodes INTEGER NOT NULL
    );
    ALTER TABLE files RENAME TO old_files;
    CREATE TABLE files (
        path BLOB PRIMARY KEY NOT NULL,
        mount INTEGER NOT NULL,
        inode INTEGER,
        born_ns INTEGER,
        size INTEGER NOT NULL,
        mtime_ns NOT NULL,
        ctime_ns NOT NULL,
        sha256 BLOB NOT NULL,
        xxh128 BLOB NOT NULL,
        metadata TEXT NOT NULL,
        first_published INTEGER NOT NULL
    );
    INSERT INTO files
        SELECT path, CASE device WHEN 0 THEN 0 ELSE 4294967295 END, inode, NULL, size, mtime_ns, ctime_ns,
            sha256, xxh128, metadata, 0
        FROM old_files ORDER BY path;
    DROP TABLE old_files;
    CREATE INDEX files_by_inode ON files (inode, mount);
    CREATE INDEX files_by_sha256 ON files (sha256);
    ",
    // `retry` is the position among the messages that are retried; NULL if the message is not.
    "
    CREATE TABLE parked (
        sequence INTEGER PRIMARY KEY NOT NULL,
        event_type TEXT NOT NULL,
        correlation_id TEXT NOT NULL,
        timestamp INTEGER NOT NULL,
        path TEXT NOT NULL,
        reason TEXT NOT NULL,
        parked_at INTEGER NOT NULL,
        retry INTEGER,
        body BLOB NOT NULL
    );
    CREATE INDEX parked_by_retry ON parked (retry) WHERE retry IS NOT NULL;
    ",
    // The sound without tags: XXH3 with 128 bits, and its length in bytes. Both are NULL if it is not known, as it is
    // for rows of older versions until their files are read again.
    "
    ALTER TABLE files ADD COLUMN audio_hash BLOB;
    ALTER TABLE files ADD COLUMN audio_bytes INTEGER;
    ",
];

/// The first format with mounts.
pub(super) const FIRST_WITH_MOUNTS: i64 = 3;

/// In `meta`: the new root of a library that is being relocated.
pub(super) const RELOCATING_TO: &str = "relocating_to";

/// In `meta`: the last path whose `moved` message is in the outbox.
pub(super) const RELOCATED_UP_TO: &str = "relocated_up_to";

/// Opens the file for the writer: creates and migrates it, and checks that it belongs to `library`.
pub(super) fn open(file: &Path, library: &[u8]) -> Result<Connection, StoreError> {
    let connection = open_any(file)?;
    claim(&connection, file, library)?;
    Ok(connection)
}

/// Opens the file for the writer, whatever library it belongs to.
pub(super) fn open_any(file: &Path) -> Result<Connection, StoreError> {
    let mut connection = Connection::open(file)?;
    if connection.is_readonly("main")? {
        // SQLite opens a file without write permission as read-only.
        return Err(StoreError::ReadOnly { file: file.to_path_buf() });
    }
    configure(&connection)?;
    // A commit must survive a power failure, because its messages will have been published.
    connection.pragma_update(None, "synchronous", "FULL")?;
    // 4 MiB fit the upper pages of an index of a million files, and what one transaction changes.
    connection.pragma_update(None, "cache_size", -4 * 1024)?;
    migrate(&mut connection, file)?;
    let new_id = Uuid::new_v4().into_bytes();
    connection.execute("INSERT OR IGNORE INTO meta (name, value) VALUES ('store_id', ?1)", params![new_id])?;
    Ok(connection)
}

/// The name of the index that finds rows by their sound.
const INDEX_OF_SOUNDS: &str = "files_by_audio_hash";

/// Makes the index that finds rows by their sound, unless it exists.
///
/// An empty store has none: that it grows with each row would make a first scan slower, and nothing can have been retagged
/// before that.
pub(super) fn index_sounds(connection: &Connection) -> Result<(), rusqlite::Error> {
    if has_index_of_sounds(connection)? {
        return Ok(());
    }
    // The rows are sorted for it: beside the store, because memory does not grow with the library, and because the
    // program may have no other place to write to.
    if let Some(folder) = connection.path().and_then(|file| Path::new(file).parent()) {
        connection.pragma_update(None, "temp_store_directory", folder.to_string_lossy())?;
        connection.pragma_update(None, "temp_store", "FILE")?;
    }
    let made = connection.execute_batch(&format!(
        "CREATE INDEX IF NOT EXISTS {INDEX_OF_SOUNDS} ON files (audio_hash) WHERE audio_hash IS NOT NULL"
    ));
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    made
}

/// Whether that index exists.
pub(super) fn has_index_of_sounds(connection: &Connection) -> Result<bool, rusqlite::Error> {
    connection.prepare("SELECT 1 FROM sqlite_schema WHERE type = 'index' AND name = ?1")?.exists([INDEX_OF_SOUNDS])
}

/// The id of the store. It is made with the store, and sequence numbers belong to it.
pub(super) fn store_id(connection: &Connection) -> Result<Uuid, rusqlite::Error> {
    let bytes: [u8; 16] =
        connection.query_row("SELECT value FROM meta WHERE name = 'store_id'", [], |row| row.get(0))?;
    Ok(Uuid::from_bytes(bytes))
}

/// Opens the file for reading, concurrently with the writer.
pub(super) fn open_to_read(file: &Path) -> Result<Connection, rusqlite::Error> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_URI;
    let connection = Connection::open_with_flags(file, flags)?;
    configure(&connection)?;
    Ok(connection)
}

/// Opens the file for one of many concurrent readers.
pub(super) fn open_reader(file: &Path) -> Result<Connection, rusqlite::Error> {
    let connection = open_to_read(file)?;
    // Each commit invalidates this cache. The page cache of the kernel serves all readers.
    connection.pragma_update(None, "cache_size", -256)?;
    Ok(connection)
}

fn configure(connection: &Connection) -> Result<(), rusqlite::Error> {
    connection.busy_timeout(Duration::from_secs(10))?;
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    connection.set_prepared_statement_cache_capacity(32);
    // Otherwise SQLite plans a query again for every new value of `LIMIT ?`, which takes longer than the query.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    if !connection.is_readonly("main")? {
        connection.pragma_update(None, "journal_mode", "WAL")?;
    }
    Ok(())
}

/// The format of a file.
pub(super) fn version(connection: &Connection) -> Result<i64, rusqlite::Error> {
    connection.pragma_query_value(None, "user_version", |row| row.get(0))
}

/// Fails if the format is newer than this version knows.
pub(super) fn check_version(found: i64, file: &Path) -> Result<(), StoreError> {
    let known = newest_version();
    if (0..=known).contains(&found) {
        return Ok(());
    }
    Err(StoreError::Newer { file: file.to_path_buf(), found, known })
}

/// The newest format.
pub(super) fn newest_version() -> i64 {
    i64::try_from(MIGRATIONS.len()).unwrap_or(i64::MAX)
}

fn migrate(connection: &mut Connection, file: &Path) -> Result<(), StoreError> {
    let transaction = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    let found = version(&transaction)?;
    check_version(found, file)?;
    if found == newest_version() {
        return Ok(());
    }
    for migration in MIGRATIONS.iter().skip(usize::try_from(found).unwrap_or(0)) {
        transaction.execute_batch(migration)?;
    }
    transaction.pragma_update(None, "user_version", newest_version())?;
    transaction.commit()?;
    Ok(())
}

fn claim(connection: &Connection, file: &Path, library: &[u8]) -> Result<(), StoreError> {
    if library_of(connection)?.is_some() {
        return check_library(connection, file, library);
    }
    connection.execute("INSERT INTO meta (name, value) VALUES ('library', ?1)", params![library])?;
    Ok(())
}

/// The root of the library that a store belongs to.
pub(super) fn library_of(connection: &Connection) -> Result<Option<Vec<u8>>, rusqlite::Error> {
    meta(connection, "library")
}

/// A property of the file.
pub(super) fn meta(connection: &Connection, name: &str) -> Result<Option<Vec<u8>>, rusqlite::Error> {
    connection.query_row("SELECT value FROM meta WHERE name = ?1", [name], |row| row.get(0)).optional()
}

/// Fails if the store belongs to another library, or is being relocated.
pub(super) fn check_library(connection: &Connection, file: &Path, wanted: &[u8]) -> Result<(), StoreError> {
    let Some(found) = library_of(connection)? else { return Ok(()) };
    if let Some(target) = meta(connection, RELOCATING_TO)? {
        return Err(StoreError::Relocating { file: file.to_path_buf(), from: text(&found), to: text(&target) });
    }
    if found == wanted {
        return Ok(());
    }
    let (file, is_same) = (file.to_path_buf(), is_same_directory(&found, wanted));
    let (found, wanted) = (text(&found), text(wanted));
    Err(if is_same {
        StoreError::OtherPath { file, found, wanted }
    } else {
        StoreError::OtherLibrary { file, found, wanted }
    })
}

/// Whether two paths lead to one directory, through symbolic links.
fn is_same_directory(one: &[u8], other: &[u8]) -> bool {
    let canonical = |path: &[u8]| Path::new(OsStr::from_bytes(path)).canonicalize().ok();
    canonical(one).is_some_and(|one| Some(one) == canonical(other))
}

pub(super) fn text(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{LibraryPath, MountId, Sound};
    use crate::store::{commit, index};

    #[test]
    fn opening_twice_applies_every_migration_once() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("x.sqlite");
        for _ in 0..2 {
            let connection = open(&file, b"/music").unwrap();
            let version: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0)).unwrap();
            assert_eq!(usize::try_from(version).unwrap(), MIGRATIONS.len());
        }
    }

    #[test]
    fn an_older_format_is_not_corrupt_and_is_migrated() {
        for steps in 0..MIGRATIONS.len() {
            let folder = tempfile::tempdir().unwrap();
            let file = folder.path().join("x.sqlite");
            let connection = Connection::open(&file).unwrap();
            for step in &MIGRATIONS[..steps] {
                connection.execute_batch(step).unwrap();
            }
            connection.pragma_update(None, "user_version", i64::try_from(steps).unwrap()).unwrap();
            drop(connection);
            super::super::corruption::inspect(&file, Some(b"/music")).unwrap();
            assert_eq!(version(&open(&file, b"/music").unwrap()).unwrap(), newest_version());
        }
    }

    #[test]
    fn rows_of_older_versions_have_no_sound_until_they_are_written_again() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("x.sqlite");
        let old = Connection::open(&file).unwrap();
        for step in &MIGRATIONS[..4] {
            old.execute_batch(step).unwrap();
        }
        old.pragma_update(None, "user_version", 4).unwrap();
        old.execute(
            "INSERT INTO files VALUES (x'782e6d7033', 0, 7, 8, 9, 10, 11, zeroblob(32), zeroblob(16), '{}', 12)",
            [],
        )
        .unwrap();
        drop(old);
        let writer = open(&file, b"/music").unwrap();
        let read = || index::row(&writer, &"x.mp3".into()).unwrap().unwrap();
        let mut row = read();
        assert_eq!((row.stat.size, row.first_published, row.track.sound), (9, 12, None));
        std::sync::Arc::make_mut(&mut row.track).sound = Some(Sound { xxh128: 1 << 90, bytes: 5 });
        commit::put(&writer, &row).unwrap();
        assert_eq!(read(), row);
    }

    #[test]
    fn rows_with_device_numbers_become_rows_with_mounts() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("x.sqlite");
        let old = Connection::open(&file).unwrap();
        for step in &MIGRATIONS[..2] {
            old.execute_batch(step).unwrap();
        }
        old.pragma_update(None, "user_version", 2).unwrap();
        let times = [1_700_000_000_123_456_789, -1, -2_000_000_000, i64::MIN, i64::MAX];
        for (number, time) in times.iter().enumerate() {
            let path = format!("{number}.mp3").into_bytes();
            let device = i64::from(number > 0);
            old.execute(
                "INSERT INTO files VALUES (?1, ?2, 7, 9, ?3, ?3, zeroblob(32), zeroblob(16), '{}')",
                params![path, device, time],
            )
            .unwrap();
        }
        drop(old);
        drop(open(&file, b"/music").unwrap());
        let new = open_reader(&file).unwrap();
        for (number, time) in times.iter().enumerate() {
            let row = index::row(&new, &LibraryPath::from(format!("{number}.mp3").as_str())).unwrap().unwrap();
            let mount = if number > 0 { MountId::UNKNOWN } else { MountId(0) };
            assert_eq!((row.stat.mount, row.stat.inode, row.stat.born_ns, row.stat.size), (mount, 7, None, 9));
            assert_eq!((row.stat.mtime_ns, row.stat.ctime_ns), (i128::from(*time), i128::from(*time)));
        }
    }

    #[test]
    fn a_newer_file_and_another_library_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("x.sqlite");
        let connection = open(&file, b"/music").unwrap();
        assert!(matches!(open(&file, b"/other"), Err(StoreError::OtherLibrary { .. })));
        connection.pragma_update(None, "user_version", 99).unwrap();
        assert!(matches!(open(&file, b"/music"), Err(StoreError::Newer { found: 99, .. })));
    }
}
