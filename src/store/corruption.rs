//! Detects a corrupt store, before it is opened for writing and while it is in use.
//!
//! The check before opening takes the same time for any number of files: it reads the headers, the format, and both ends
//! of every table and index. A corrupt page in between is found when it is read. Then the program ends, because every
//! further attempt would fail too.

use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, Error, ErrorCode, OptionalExtension};
use tokio::sync::watch;

use super::mark::Mark;
use super::{StoreError, beside, schema};

/// The first bytes of every SQLite file.
const MAGIC: &[u8; 16] = b"SQLite format 3\0";

/// The first bytes of every write-ahead log, in both byte orders, and those of one that was never written to.
const LOG_MAGIC: [[u8; 4]; 3] = [0x377f_0682_u32.to_be_bytes(), 0x377f_0683_u32.to_be_bytes(), [0; 4]];

/// The length of a log's header, in bytes. A shorter log is empty.
const LOG_HEADER: u64 = 32;

/// Reads both ends of each table and of each index.
const ENDS: [&str; 10] = [
    "SELECT * FROM files ORDER BY rowid",
    "SELECT * FROM files ORDER BY rowid DESC",
    "SELECT path FROM files ORDER BY path",
    "SELECT path FROM files ORDER BY path DESC",
    "SELECT inode FROM files ORDER BY inode",
    "SELECT inode FROM files ORDER BY inode DESC",
    "SELECT sha256 FROM files ORDER BY sha256",
    "SELECT sha256 FROM files ORDER BY sha256 DESC",
    "SELECT sequence, event_type, correlation_id, timestamp, body FROM outbox ORDER BY sequence",
    "SELECT sequence, event_type, correlation_id, timestamp, body FROM outbox ORDER BY sequence DESC",
];

/// The same for a table that older formats do not have.
const PARKED_ENDS: [&str; 4] = [
    "SELECT sequence, event_type, correlation_id, timestamp, path, reason, parked_at, retry, body FROM parked
     ORDER BY sequence",
    "SELECT sequence, event_type, correlation_id, timestamp, path, reason, parked_at, retry, body FROM parked
     ORDER BY sequence DESC",
    "SELECT retry FROM parked WHERE retry IS NOT NULL ORDER BY retry",
    "SELECT retry FROM parked WHERE retry IS NOT NULL ORDER BY retry DESC",
];

/// Checks a store before it is opened for writing, without changing it. With a `library`, the store must belong to it.
pub(super) fn inspect(file: &Path, library: Option<&[u8]>) -> Result<(), StoreError> {
    let corrupt = |problem: &str| StoreError::Corrupt { file: file.to_path_buf(), problem: problem.to_owned() };
    // SQLite uses a journal only while it creates the file. The process was killed then, and the next start rolls back.
    if length(&beside(file, "-journal"))?.is_some_and(|length| length > 0) {
        return Ok(());
    }
    let log = beside(file, "-wal");
    let has_log = length(&log)?.is_some_and(|length| length >= LOG_HEADER);
    match length(file)? {
        // SQLite would delete the log.
        None if has_log => return Err(corrupt("it is missing, and its -wal is not")),
        Some(0) if has_log || Mark::read(file).is_some_and(|mark| mark.committed > 0) => {
            return Err(corrupt("it is empty, and was not before"));
        }
        None | Some(0) => return Ok(()),
        Some(_) if !begins_with(file, &[MAGIC])? => return Err(corrupt("it is not a database")),
        Some(_) => {}
    }
    // A process that is closing the store may remove the log at any moment.
    if has_log && !begins_with(&log, &LOG_MAGIC.each_ref())? {
        return Err(corrupt("its -wal is not a write-ahead log"));
    }
    let outcome =
        open_untouched(file).map_err(StoreError::from).and_then(|connection| read(&connection, file, library));
    outcome.map_err(|error| error.at(file))
}

/// Opens a store for reading, without changing the file or its log.
pub(super) fn open_untouched(file: &Path) -> Result<Connection, Error> {
    let connection = schema::open_to_read(file)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    Ok(connection)
}

fn read(connection: &Connection, file: &Path, library: Option<&[u8]>) -> Result<(), StoreError> {
    let version = schema::version(connection)?;
    let tables: i64 = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    if version == 0 && tables == 0 {
        return Ok(()); // The process was killed while it created the file.
    }
    schema::check_version(version, file)?;
    if let Some(library) = library {
        schema::check_library(connection, file, library)?;
    }
    let has_parked: i64 =
        connection.query_row("SELECT count(*) FROM sqlite_schema WHERE name = 'parked'", [], |row| row.get(0))?;
    let parked_ends = if has_parked > 0 || version == schema::newest_version() { &PARKED_ENDS[..] } else { &[] };
    for end in ENDS.iter().chain(parked_ends) {
        connection.query_row(&format!("{end} LIMIT 1"), [], |_| Ok(())).optional()?;
    }
    Ok(())
}

fn length(file: &Path) -> Result<Option<u64>, StoreError> {
    match fs::metadata(file) {
        Ok(metadata) => Ok(Some(metadata.len())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(source) => Err(StoreError::File { file: file.to_path_buf(), source }),
    }
}

/// Whether a file begins with one of these, or has just been removed.
fn begins_with(file: &Path, beginnings: &[&(impl AsRef<[u8]> + ?Sized)]) -> Result<bool, StoreError> {
    let mut read = Vec::new();
    match File::open(file).and_then(|file| file.take(16).read_to_end(&mut read)) {
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(true),
        Err(source) => return Err(StoreError::File { file: file.to_path_buf(), source }),
    }
    Ok(beginnings.iter().any(|beginning| read.starts_with(beginning.as_ref())))
}

/// The description of the problem, if an error means that the file is corrupt.
pub(super) fn problem_of(error: &Error) -> Option<String> {
    match error {
        // The column has a value that is never written there.
        Error::FromSqlConversionFailure(..) | Error::InvalidColumnType(..) | Error::IntegralValueOutOfRange(..) => {
            Some(error.to_string())
        }
        _ => matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase))
            .then(|| error.to_string()),
    }
}

/// The corruption that was found in an open store. Clones share it.
#[derive(Clone, Debug)]
pub struct Corruption {
    file: Arc<Path>,
    problem: watch::Sender<Option<String>>,
}

impl Corruption {
    pub(super) fn new(file: &Path) -> Self {
        Self { file: Arc::from(file), problem: watch::Sender::new(None) }
    }

    /// Records an error, if it means that the file is corrupt. Only the first is kept; others may be consequences.
    pub(super) fn note(&self, error: &Error) {
        if let Some(problem) = problem_of(error) {
            self.problem.send_if_modified(|first| {
                let is_first = first.is_none();
                first.get_or_insert(problem);
                is_first
            });
        }
    }

    /// The error for the corruption, if any was found.
    pub fn found(&self) -> Option<StoreError> {
        let problem = self.problem.borrow().clone()?;
        Some(StoreError::Corrupt { file: PathBuf::from(&*self.file), problem })
    }

    /// Waits until corruption is found, which may never happen.
    pub async fn wait(&self) -> StoreError {
        loop {
            // `self` has a sender, so the channel is open.
            let _ = self.problem.subscribe().wait_for(Option::is_some).await;
            if let Some(found) = self.found() {
                return found;
            }
        }
    }
}
