//! Rebuilds a store that is corrupt or not trusted.
//!
//! What is kept: every undelivered message that can be read, to be delivered first; every path that can be read, as a
//! path that was published; and the sequence, which continues after every number that was given out. Stats, hashes and
//! metadata are not kept: each file is read again and published as created, and a path without a file is published as
//! deleted. So consumers agree with the disk afterwards, except about files that were deleted in the meantime and whose
//! rows could not be read.
//!
//! The old files are only renamed, to a free name. The new store is made next to them and replaces them when it is
//! complete. [`finish`] completes that if the process was killed in between.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use jiff::Timestamp;
use rusqlite::{Connection, Row as SqlRow, params};
use serde::Deserialize;
use uuid::Uuid;

use super::mark::{Mark, Marked};
use super::{StoreError, beside, commit, corruption, index, mounts, parked, schema, sync_directory};
use crate::failpoint::failpoint;
use crate::message::{Encoder, Stamp};
use crate::model::{Change, EventType, FileEvent, LibraryPath, MountId, Origin, Outgoing, Row};

/// The suffixes of the files of a store.
const PARTS: [&str; 3] = ["", "-wal", "-shm"];

/// The suffix of a rollback journal. SQLite uses one only while it creates the file; next to a store it is foreign.
const JOURNAL: &str = "-journal";

// The suffixes of the new store, until it is complete and after that.
const UNFINISHED: &str = ".unfinished";
const REBUILT: &str = ".rebuilt";

/// The number of rows that are turned into messages at once.
const DELETED_AT_ONCE: usize = 1000;

/// The number of keys that are tried after an unreadable row. One lost page has far fewer.
const MOST_MISSES: u32 = 20_000;

/// No sequence number is higher: JavaScript cannot represent larger integers exactly. A higher one was read wrongly.
const HIGHEST: u64 = 1 << 53;

/// The result of a rebuild.
#[derive(Debug)]
pub struct Rebuilt {
    /// The new path of the old file.
    pub aside: PathBuf,
    /// The number of undelivered messages that were kept.
    pub messages: u64,
    /// The number of parked messages that were kept.
    pub parked: u64,
    /// The number of paths that were kept.
    pub paths: u64,
    /// Whether all messages and paths could be read.
    pub whole: bool,
    /// The sequence continues after this number.
    pub last_sequence: u64,
    /// The root of the old store, if it is another one. Its paths are published as deleted.
    pub old_library: Option<String>,
}

/// Renames the store at `file` and makes a new one for `library`. `encoder` encodes its messages. Returns `None` if there
/// is no store.
///
/// If the old store belongs to another library, every path in it is published as deleted there.
///
/// # Errors
///
/// If a file cannot be read, renamed or written, or if the store is being relocated. The old store is kept.
pub fn rebuild(file: &Path, library: &[u8], encoder: &Encoder) -> Result<Option<Rebuilt>, StoreError> {
    finish(file)?;
    if !is_any_there(file)? {
        return Ok(None);
    }
    let unfinished = beside(file, UNFINISHED);
    for part in PARTS {
        let leftover = beside(&unfinished, part);
        match fs::remove_file(&leftover) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(StoreError::File { file: leftover, source: error });
            }
            _ => {}
        }
    }
    // SQLite would roll it back before it reads the old store, and would apply it to the new one.
    let journal = beside(file, JOURNAL);
    if journal.exists() {
        let moved = free_name(file).and_then(|aside| fs::rename(&journal, beside(&aside, JOURNAL)));
        moved.map_err(|source| StoreError::File { file: journal, source })?;
    }
    let mut rebuilt = make(&unfinished, file, library, encoder).map_err(|error| error.at(&unfinished))?;
    failpoint!("rebuild::made");
    let ready = beside(file, REBUILT);
    let renamed = File::open(&unfinished)
        .and_then(|whole| whole.sync_all())
        .and_then(|()| fs::rename(&unfinished, &ready))
        .and_then(|()| sync_directory(&ready));
    renamed.map_err(|source| StoreError::File { file: unfinished, source })?;
    rebuilt.aside = finish(file)?.unwrap_or_default();
    Ok(Some(rebuilt))
}

/// Replaces the old store with a complete new one, if there is one; returns the new path of the old store.
pub(super) fn finish(file: &Path) -> Result<Option<PathBuf>, StoreError> {
    let ready = beside(file, REBUILT);
    let failed = |file: &Path| {
        let file = file.to_path_buf();
        move |source| StoreError::File { file, source }
    };
    if !ready.try_exists().map_err(failed(&ready))? {
        return Ok(None);
    }
    let aside = free_name(file).map_err(failed(file))?;
    for part in PARTS {
        failpoint!("rebuild::move");
        let old = beside(file, part);
        match fs::rename(&old, beside(&aside, part)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(&old)(error)),
            _ => {}
        }
    }
    fs::rename(&ready, file).and_then(|()| sync_directory(file)).map_err(failed(&ready))?;
    Ok(Some(aside))
}

fn is_any_there(file: &Path) -> Result<bool, StoreError> {
    for part in &PARTS[..2] {
        let file = beside(file, part);
        if file.try_exists().map_err(|source| StoreError::File { file, source })? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// A free name with the date.
fn free_name(file: &Path) -> io::Result<PathBuf> {
    let date = Timestamp::now().strftime("%Y-%m-%dT%H%M%SZ").to_string();
    let mut number = 1_u32;
    loop {
        let more = if number == 1 { String::new() } else { format!("-{number}") };
        let name = file.with_extension(format!("{date}{more}.sqlite"));
        let mut is_free = true;
        for part in PARTS.iter().chain(&[JOURNAL]) {
            is_free &= !beside(&name, part).try_exists()?;
        }
        if is_free {
            return Ok(name);
        }
        number += 1;
    }
}

/// Makes the new store at `unfinished` from what can be read of the old one.
fn make(unfinished: &Path, file: &Path, library: &[u8], encoder: &Encoder) -> Result<Rebuilt, StoreError> {
    // A file without read permission is not corrupt, and may have messages.
    let opened = file.exists().then(|| corruption::open_untouched(file)).transpose();
    let old = opened.map_err(|error| StoreError::from(error).at(file))?;
    let mut old_library = None;
    if let Some(old) = &old {
        match schema::check_library(old, file, library) {
            Err(StoreError::OtherLibrary { .. } | StoreError::OtherPath { .. }) => {
                old_library = schema::library_of(old)?;
            }
            Err(relocating @ StoreError::Relocating { .. }) => return Err(relocating),
            // An unreadable store is taken for one of this library.
            _ => {}
        }
    }
    let mut new = schema::open(unfinished, library)?;
    let transaction = new.transaction()?;
    let mut whole = false;
    if let Some(old) = &old {
        whole = take_messages(old, &transaction)?;
        whole &= take_parked(old, &transaction)?;
        whole &= take_paths(old, &transaction)?;
    }
    let last_parked: i64 =
        transaction.query_row("SELECT coalesce(max(sequence), 0) FROM parked", [], |row| row.get(0))?;
    let highest_message = commit::last_sequence(&transaction)?.max(last_parked.cast_unsigned());
    let mut last_sequence = sequence_after(old.as_ref(), Mark::read(file), highest_message);
    transaction.execute("DELETE FROM sqlite_sequence WHERE name = 'outbox'", [])?;
    let sequence = params![last_sequence.cast_signed()];
    transaction.execute("INSERT INTO sqlite_sequence (name, seq) VALUES ('outbox', ?1)", sequence)?;
    let count = |query| transaction.query_row(query, [], |row| row.get::<_, i64>(0));
    let paths = count("SELECT count(*) FROM files")?.cast_unsigned();
    if let Some(old_library) = &old_library {
        let old_root = Path::new(OsStr::from_bytes(old_library));
        last_sequence = publish_deletes(&transaction, &encoder.at(old_root), last_sequence)?;
    }
    let parked = count("SELECT count(*) FROM parked")?.cast_unsigned();
    let messages = commit::outbox_length(&transaction)?;
    transaction.commit()?;
    new.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
    let old_library = old_library.map(|library| schema::text(&library));
    Ok(Rebuilt { aside: PathBuf::new(), messages, parked, paths, whole, last_sequence, old_library })
}

/// Replaces every row with a `deleted` message; returns the last sequence number.
fn publish_deletes(new: &Connection, encoder: &Encoder, mut sequence: u64) -> Result<u64, StoreError> {
    let (store_id, at) = (schema::store_id(new)?, Timestamp::now());
    let mut after = None;
    loop {
        let rows = index::rows_after(new, &LibraryPath::root(), after.as_ref(), DELETED_AT_ONCE)?;
        let Some(last) = rows.last_path() else { break };
        after = Some(last);
        for (path, _) in rows.iter() {
            sequence += 1;
            let event = FileEvent { change: Change::Deleted(path), origin: Origin::Scan };
            let stamp = Stamp { store_id, sequence, at, correlation_id: Uuid::new_v4() };
            commit::insert(new, &encoder.encode(&event, &stamp))?;
        }
    }
    new.execute("DELETE FROM files", [])?;
    new.execute("DELETE FROM mounts", [])?;
    Ok(sequence)
}

/// Copies the undelivered messages; returns whether all could be read.
fn take_messages(old: &Connection, new: &Connection) -> Result<bool, StoreError> {
    let query = "SELECT sequence, event_type, correlation_id, timestamp, body FROM outbox
                 WHERE sequence > ?1 ORDER BY sequence";
    let mut last = None;
    let mut gaps = false;
    let whole = salvage(old, query, message_from, |message| {
        gaps |= last.is_some_and(|last| last + 1 != message.sequence);
        last = Some(message.sequence);
        let is_new = commit::outbox_after(new, message.sequence - 1, 1)?
            .first()
            .is_none_or(|it| it.sequence != message.sequence);
        if is_new { commit::insert(new, &message) } else { Ok(()) }
    })?;
    let ends_early = last.is_some() && last != commit::last_sequence(old).ok();
    Ok(whole && !gaps && !ends_early)
}

/// Copies the parked messages; returns whether all could be read.
fn take_parked(old: &Connection, new: &Connection) -> Result<bool, StoreError> {
    let table = "SELECT count(*) FROM sqlite_schema WHERE name = 'parked'";
    match old.query_row(table, [], |row| row.get::<_, i64>(0)) {
        // An older format, unless the format cannot be read.
        Ok(0) => return Ok(schema::version(old).is_ok_and(|version| version < schema::newest_version())),
        Ok(_) => {}
        Err(_) => return Ok(false),
    }
    let query = "SELECT sequence, event_type, correlation_id, timestamp, body, reason, parked_at, retry FROM parked
                 WHERE sequence > ?1 ORDER BY sequence";
    let read = |row: &SqlRow<'_>| {
        let message = message_from(row)?;
        let rest: (String, i64, Option<i64>) = (row.get(5)?, row.get(6)?, row.get(7)?);
        Ok(message.zip(Some(rest)))
    };
    salvage(old, query, read, |(message, (reason, since, retry))| parked::insert(new, &message, &reason, since, retry))
}

/// Copies the paths; returns whether all could be read.
fn take_paths(old: &Connection, new: &Connection) -> Result<bool, StoreError> {
    let has_mounts = schema::version(old).is_ok_and(|version| version >= schema::FIRST_WITH_MOUNTS);
    let mut known = Vec::new();
    if has_mounts && let Ok(mounts) = mounts::read(old) {
        for mount in &mounts {
            mounts::put(new, mount)?;
        }
        known = mounts;
    }
    // A row with an unknown mount is assumed to be on the mount of the root.
    let mount_of = |id: u32| known.iter().map(|mount| mount.id).find(|known| known.0 == id).unwrap_or_default();
    let column = if has_mounts { "mount" } else { "0" };
    let query = format!("SELECT rowid, path, {column} FROM files NOT INDEXED WHERE rowid > ?1 ORDER BY rowid");
    let read = |row: &SqlRow<'_>| Ok(path_from(row, 1)?.zip(Some(mount_of(row.get(2)?))));
    let mut whole = salvage(old, &query, read, |(path, mount)| commit::put(new, &Row::forgotten(path, mount)))?;
    // The index on paths contains all paths too, and can be read from both ends.
    for query in ["SELECT path FROM files ORDER BY path", "SELECT path FROM files ORDER BY path DESC"] {
        let IndexRead { added, end } = take_paths_of_index(old, query, new)?;
        whole &= end == IndexEnd::Reached && added == 0;
        if end == IndexEnd::Reached {
            break;
        }
    }
    Ok(whole)
}

/// The result of reading the index on paths in one direction.
struct IndexRead {
    /// The number of paths that were not copied before.
    added: u64,
    end: IndexEnd,
}

/// Why reading the index on paths ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum IndexEnd {
    /// All paths were read.
    Reached,
    /// The rest could not be read.
    Unreadable,
}

/// Copies the paths that were not copied before.
fn take_paths_of_index(old: &Connection, query: &str, new: &Connection) -> Result<IndexRead, StoreError> {
    let mut added = 0;
    let unreadable = |added| Ok(IndexRead { added, end: IndexEnd::Unreadable });
    let Ok(mut statement) = old.prepare(query) else { return unreadable(added) };
    let Ok(mut rows) = statement.query([]) else { return unreadable(added) };
    loop {
        let path = match rows.next() {
            Ok(Some(row)) => path_from(row, 0),
            Ok(None) => return Ok(IndexRead { added, end: IndexEnd::Reached }),
            Err(_) => return unreadable(added),
        };
        if let Ok(Some(path)) = path
            && index::row(new, &path)?.is_none()
        {
            commit::put(new, &Row::forgotten(path, MountId::default()))?;
            added += 1;
        }
    }
}

/// Takes every row that can be read, and skips the others; returns whether all could be read.
///
/// `query` is ordered by its first column, the key. Its parameter is the key after which it begins.
fn salvage<T>(
    old: &Connection,
    query: &str,
    read: impl Fn(&SqlRow<'_>) -> Result<Option<T>, rusqlite::Error>,
    mut take: impl FnMut(T) -> Result<(), StoreError>,
) -> Result<bool, StoreError> {
    let Ok(mut statement) = old.prepare(query) else { return Ok(false) };
    let mut after = 0_i64;
    let mut misses = 0;
    let mut whole = true;
    while misses < MOST_MISSES {
        let Ok(mut rows) = statement.query([after]) else { break };
        loop {
            let row = match rows.next() {
                Ok(Some(row)) => row,
                Ok(None) => return Ok(whole),
                Err(_) => break,
            };
            let Ok(key) = row.get::<_, i64>(0) else { break };
            match read(row) {
                Ok(Some(row)) => {
                    // A page in place of another one yields rows out of order, or twice.
                    whole &= key > after;
                    after = after.max(key);
                    misses = 0;
                    take(row)?;
                }
                Ok(None) | Err(_) => whole = false,
            }
        }
        whole = false;
        misses += 1;
        after = after.saturating_add(1);
    }
    Ok(false)
}

/// A message, if its columns agree with its body: a corrupt page may look like a row.
fn message_from(row: &SqlRow<'_>) -> Result<Option<Outgoing>, rusqlite::Error> {
    #[derive(Deserialize)]
    struct Body {
        sequence: u64,
        event_type: EventType,
        correlation_id: String,
    }
    let message = Outgoing {
        sequence: row.get::<_, i64>(0)?.cast_unsigned(),
        event_type: row.get(1)?,
        correlation_id: row.get(2)?,
        timestamp: row.get::<_, i64>(3)?.cast_unsigned(),
        body: row.get(4)?,
    };
    let is_itself = serde_json::from_slice(&message.body).is_ok_and(|body: Body| {
        (body.sequence, body.event_type, body.correlation_id)
            == (message.sequence, message.event_type, message.correlation_id.clone())
    });
    Ok(is_itself.then_some(message))
}

/// A path, if it can be one of an audio file: a corrupt page may look like a row.
fn path_from(row: &SqlRow<'_>, column: usize) -> Result<Option<LibraryPath>, rusqlite::Error> {
    let bytes = row.get_ref(column)?.as_blob()?;
    let is_name = |name: &[u8]| !matches!(name, b"" | b"." | b"..") && !name.contains(&0);
    let is_path = bytes.split(|&byte| byte == b'/').all(is_name);
    let mut after_dots = bytes.rsplit(|&byte| byte == b'.');
    let extension = after_dots.next().filter(|_| after_dots.next().is_some());
    let has_extension = extension
        .is_some_and(|it| !it.is_empty() && it.iter().all(|&byte| byte.is_ascii_alphanumeric() || byte == b'_'));
    Ok((is_path && has_extension).then(|| LibraryPath::from_bytes(bytes)))
}

/// A sequence number that is at least as high as every one that was given out.
fn sequence_after(old: Option<&Connection>, mark: Option<Marked>, highest_message: u64) -> u64 {
    let known = old.and_then(|old| commit::last_sequence(old).ok()).filter(|known| *known < HIGHEST);
    let last = match (known, mark) {
        (Some(known), Some(mark)) if known < mark.committed => mark.reserved,
        (Some(known), _) => known,
        (None, Some(mark)) => mark.reserved,
        // Microseconds since the epoch exceed any number of messages.
        (None, None) => SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .ok()
            .and_then(|since| u64::try_from(since.as_micros()).ok())
            .unwrap_or(HIGHEST),
    };
    last.max(highest_message)
}

#[cfg(test)]
mod tests;
