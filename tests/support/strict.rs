//! Consumers as strict as the services that read this exchange.
//!
//! Each is a SQLite table of files that is unique in paths and in both hashes, and whose rows change nothing but
//! their path when a file is moved. A second table refers to the rows by their ids, as tracklists do. It has the
//! identity that a file had when its row was made, so that it shows at the end whether each row is still that of
//! its file.
//!
//! They take nothing from the program. Whatever does not fit is an error in words.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use rusqlite::{Connection, OptionalExtension, params};

use super::oracle::Message;

const SCHEMA: &str = "
    CREATE TABLE files (
        id INTEGER PRIMARY KEY,
        path BLOB UNIQUE,
        sha256 TEXT NOT NULL UNIQUE,
        xxh128 TEXT NOT NULL UNIQUE
    );
    CREATE TABLE tracklists (
        file_id INTEGER NOT NULL REFERENCES files (id) ON DELETE CASCADE,
        identity TEXT NOT NULL
    );
    PRAGMA foreign_keys = ON;";

/// A message, as far as these consumers look at it. Paths are relative to the library's root.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StrictMessage<'a> {
    pub(crate) event_type: &'a str,
    pub(crate) path: &'a [u8],
    pub(crate) old_path: Option<&'a [u8]>,
    pub(crate) sha256: Option<&'a str>,
    pub(crate) xxh128: Option<&'a str>,
    /// Names the file, if the message is the first one about it. Used for `created` alone.
    pub(crate) identity: &'a str,
}

impl<'a> StrictMessage<'a> {
    /// The message of a history in which no two files ever have equal contents: the first content names the file.
    pub(crate) fn about_unique_content(message: &'a Message) -> Self {
        Self {
            event_type: &message.event_type,
            path: message.path.as_os_str().as_bytes(),
            old_path: message.old_path.as_ref().map(|path| path.as_os_str().as_bytes()),
            sha256: message.sha256.as_deref(),
            xxh128: message.xxh128.as_deref(),
            identity: message.sha256.as_deref().unwrap_or_default(),
        }
    }
}

/// What a consumer does with the row of a file that was deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Deleted {
    /// It goes, and what refers to it goes along.
    Forgotten,
    /// It stays without a path, and comes back when a file with its hash is created, as in the existing catalogue.
    Kept,
}

/// What a consumer has at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StrictRow {
    pub(crate) sha256: String,
    /// The identity that was given when the row was made.
    pub(crate) identity: String,
}

/// Both consumers, side by side.
pub(crate) struct StrictConsumers([StrictConsumer; 2]);

impl StrictConsumers {
    pub(crate) fn new() -> Self {
        Self([StrictConsumer::new(Deleted::Forgotten), StrictConsumer::new(Deleted::Kept)])
    }

    /// Gives a message to both.
    pub(crate) fn take(&mut self, message: &StrictMessage) -> Result<(), String> {
        self.0.iter_mut().try_for_each(|consumer| consumer.take(message))
    }

    /// What each of them has.
    pub(crate) fn rows(&self) -> Vec<(Deleted, BTreeMap<PathBuf, StrictRow>)> {
        self.0.iter().map(|consumer| (consumer.deleted, consumer.rows())).collect()
    }
}

/// One of them.
struct StrictConsumer {
    database: Connection,
    deleted: Deleted,
}

impl StrictConsumer {
    fn new(deleted: Deleted) -> Self {
        let database = Connection::open_in_memory().unwrap();
        database.execute_batch(SCHEMA).unwrap();
        Self { database, deleted }
    }

    fn take(&mut self, message: &StrictMessage) -> Result<(), String> {
        let taken = match (message.event_type, message.sha256, message.xxh128, message.old_path) {
            ("created", Some(sha256), Some(xxh128), None) => self.create(message, sha256, xxh128),
            ("modified", Some(sha256), Some(xxh128), None) => self.modify(message.path, sha256, xxh128),
            ("deleted", None, None, None) => self.delete(message.path),
            ("moved" | "renamed", Some(sha256), Some(xxh128), Some(old_path)) => {
                self.rename(old_path, message.path, sha256, xxh128)
            }
            _ => Err("no message of the contract".to_owned()),
        };
        taken.map_err(|wrong| {
            let (path, old_path) = (lossy(message.path), message.old_path.map(lossy).unwrap_or_default());
            format!("a strict consumer ({:?}): {wrong}: {} {old_path} {path}", self.deleted, message.event_type)
        })
    }

    fn create(&self, message: &StrictMessage, sha256: &str, xxh128: &str) -> Result<(), String> {
        let revived = self.execute(
            "UPDATE files SET path = ?1 WHERE path IS NULL AND sha256 = ?2 AND xxh128 = ?3",
            params![message.path, sha256, xxh128],
        )?;
        if revived == 0 {
            let values = params![message.path, sha256, xxh128];
            self.execute("INSERT INTO files (path, sha256, xxh128) VALUES (?1, ?2, ?3)", values)?;
            let id = self.database.last_insert_rowid();
            let values = params![id, message.identity];
            self.execute("INSERT INTO tracklists (file_id, identity) VALUES (?1, ?2)", values)?;
        }
        Ok(())
    }

    fn modify(&self, path: &[u8], sha256: &str, xxh128: &str) -> Result<(), String> {
        // A file that is gone gives way to one that is there.
        self.execute("DELETE FROM files WHERE path IS NULL AND sha256 = ?1", params![sha256])?;
        let values = params![path, sha256, xxh128];
        self.one("UPDATE files SET sha256 = ?2, xxh128 = ?3 WHERE path = ?1", values, "the path is not known")
    }

    fn delete(&self, path: &[u8]) -> Result<(), String> {
        let statement = match self.deleted {
            Deleted::Forgotten => "DELETE FROM files WHERE path = ?1",
            Deleted::Kept => "UPDATE files SET path = NULL WHERE path = ?1",
        };
        self.one(statement, params![path], "the path is not known")
    }

    fn rename(&self, old_path: &[u8], path: &[u8], sha256: &str, xxh128: &str) -> Result<(), String> {
        let query = "SELECT sha256, xxh128 FROM files WHERE path = ?1";
        let known: Option<(String, String)> = self
            .database
            .query_row(query, params![old_path], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()
            .map_err(|error| error.to_string())?;
        match known {
            None => return Err("old_path is not known".to_owned()),
            Some(known) if known != (sha256.to_owned(), xxh128.to_owned()) => {
                return Err(format!("old_path has the hashes {known:?}"));
            }
            Some(_) => {}
        }
        self.one("UPDATE files SET path = ?2 WHERE path = ?1", params![old_path, path], "old_path is not known")
    }

    fn rows(&self) -> BTreeMap<PathBuf, StrictRow> {
        let query = "SELECT path, sha256, identity FROM files JOIN tracklists ON file_id = id WHERE path IS NOT NULL";
        let mut statement = self.database.prepare(query).unwrap();
        let rows = statement
            .query_map([], |row| {
                let path: Vec<u8> = row.get(0)?;
                Ok((OsString::from_vec(path).into(), StrictRow { sha256: row.get(1)?, identity: row.get(2)? }))
            })
            .unwrap();
        rows.collect::<Result<_, _>>().unwrap()
    }

    /// Changes exactly one row.
    fn one(&self, statement: &str, values: impl rusqlite::Params, otherwise: &str) -> Result<(), String> {
        if self.execute(statement, values)? == 1 { Ok(()) } else { Err(otherwise.to_owned()) }
    }

    fn execute(&self, statement: &str, values: impl rusqlite::Params) -> Result<usize, String> {
        self.database
            .prepare_cached(statement)
            .and_then(|mut statement| statement.execute(values))
            .map_err(|error| error.to_string())
    }
}

fn lossy(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}
