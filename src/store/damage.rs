//! Finding out that a store is damaged before anything is written to it, and saying so once it runs.
//!
//! What is looked at when a store is opened costs the same for a million files as for none: the headers,
//! the format, and both ends of every table and index. A damaged page between the ends is found by whoever
//! comes to read it, and then the program ends: trying again would find the same for ever.

use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, Error, ErrorCode, OptionalExtension};
use tokio::sync::watch;

use super::mark::Mark;
use super::{StoreError, beside, schema};

/// How every SQLite file begins.
const MAGIC: &[u8; 16] = b"SQLite format 3\0";

/// How every write-ahead log begins, in either byte order, and how one that was never written to may.
const LOG_MAGIC: [[u8; 4]; 3] = [0x377f_0682_u32.to_be_bytes(), 0x377f_0683_u32.to_be_bytes(), [0; 4]];

/// Length of a log's header: what is shorter holds nothing.
const LOG_HEADER: u64 = 32;

/// Both ends of each table and of each index.
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

/// The same of the table that older formats do not have.
const PARKED_ENDS: [&str; 4] = [
    "SELECT sequence, event_type, correlation_id, timestamp, path, reason, parked_at, retry, body FROM parked
     ORDER BY sequence",
    "SELECT sequence, event_type, correlation_id, timestamp, path, reason, parked_at, retry, body FROM parked
     ORDER BY sequence DESC",
    "SELECT retry FROM parked WHERE retry IS NOT NULL ORDER BY retry",
    "SELECT retry FROM parked WHERE retry IS NOT NULL ORDER BY retry DESC",
];

/// Looks at a store before it is opened for writing, and changes nothing in it. Without a `library` it may be that
/// of any.
pub(super) fn inspect(file: &Path, library: Option<&[u8]>) -> Result<(), StoreError> {
    let damaged = |problem: &str| StoreError::Damaged { file: file.to_path_buf(), problem: problem.to_owned() };
    // Only until a file is made does SQLite keep that: its maker was killed, and the next one undoes what it did.
    if length(&beside(file, "-journal"))?.is_some_and(|length| length > 0) {
        return Ok(());
    }
    let log = beside(file, "-wal");
    let has_log = length(&log)?.is_some_and(|length| length >= LOG_HEADER);
    match length(file)? {
        // SQLite would throw the log away.
        None if has_log => return Err(damaged("its -wal is there, and it is not")),
        Some(0) if has_log || Mark::read(file).is_some_and(|mark| mark.committed > 0) => {
            return Err(damaged("it is empty, and it was not"));
        }
        None | Some(0) => return Ok(()),
        Some(_) if !begins_with(file, &[MAGIC])? => return Err(damaged("it is not a database")),
        Some(_) => {}
    }
    // Whoever is closing the store meanwhile removes the log.
    if has_log && !begins_with(&log, &LOG_MAGIC.each_ref())? {
        return Err(damaged("its -wal is not one"));
    }
    let outcome =
        open_untouched(file).map_err(StoreError::from).and_then(|connection| read(&connection, file, library));
    outcome.map_err(|error| error.at(file))
}

/// Opens a store to read it, in a way that leaves it and its log as they are.
pub(super) fn open_untouched(file: &Path) -> Result<Connection, Error> {
    let connection = schema::open_to_read(file)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    Ok(connection)
}

fn read(connection: &Connection, file: &Path, library: Option<&[u8]>) -> Result<(), StoreError> {
    let version = schema::version(connection)?;
    let tables: i64 = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    if version == 0 && tables == 0 {
        return Ok(()); // Its maker was killed before it was one.
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

/// Whether a file begins with one of these; one that has just been removed says nothing.
fn begins_with(file: &Path, beginnings: &[&(impl AsRef<[u8]> + ?Sized)]) -> Result<bool, StoreError> {
    let mut read = Vec::new();
    match File::open(file).and_then(|file| file.take(16).read_to_end(&mut read)) {
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(true),
        Err(source) => return Err(StoreError::File { file: file.to_path_buf(), source }),
    }
    Ok(beginnings.iter().any(|beginning| read.starts_with(beginning.as_ref())))
}

/// What an error says of the file, where it says that it is damaged.
pub(super) fn problem_of(error: &Error) -> Option<String> {
    match error {
        // Not what was ever written into that column.
        Error::FromSqlConversionFailure(..) | Error::InvalidColumnType(..) | Error::IntegralValueOutOfRange(..) => {
            Some(error.to_string())
        }
        _ => matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase))
            .then(|| error.to_string()),
    }
}

/// Whether a store that runs was found damaged. Clones share it.
#[derive(Clone, Debug)]
pub struct Damage {
    file: Arc<Path>,
    problem: watch::Sender<Option<String>>,
}

impl Damage {
    pub(super) fn none_yet(file: &Path) -> Self {
        Self { file: Arc::from(file), problem: watch::Sender::new(None) }
    }

    /// Remembers what an error says of the file. The first one stays: the others may come of it.
    pub(super) fn note(&self, error: &Error) {
        if let Some(problem) = problem_of(error) {
            self.problem.send_if_modified(|first| {
                let is_first = first.is_none();
                first.get_or_insert(problem);
                is_first
            });
        }
    }

    /// What was found so far.
    pub fn found(&self) -> Option<StoreError> {
        let problem = self.problem.borrow().clone()?;
        Some(StoreError::Damaged { file: PathBuf::from(&*self.file), problem })
    }

    /// Waits until damage is found, which may be for ever.
    pub async fn wait(&self) -> StoreError {
        loop {
            // This is itself a sender, so there is always one.
            let _ = self.problem.subscribe().wait_for(Option::is_some).await;
            if let Some(found) = self.found() {
                return found;
            }
        }
    }
}
