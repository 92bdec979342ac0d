//! When each file was last read and found as it was published, and which files were not.
//!
//! This is a file of its own beside the store, so that `verify` can write it while a service runs, and so that it can be
//! deleted at any time: then every file counts as read when its first message was committed.
//!
//! | table | a row is |
//! |---|---|
//! | `verified` | a path, and when its file was last read and had this hash |
//! | `rotten` | a path whose file has another content than was published, with the same size and times |

use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, params};

use super::index::{COLUMNS, range_under, row_from};
use super::{StoreError, beside};
use crate::model::{LibraryPath, Row};

const TABLES: &str = "
    CREATE TABLE IF NOT EXISTS verified (path BLOB PRIMARY KEY NOT NULL, sha256 BLOB NOT NULL, at INTEGER NOT NULL)
        WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS rotten (
        path BLOB PRIMARY KEY NOT NULL, published BLOB NOT NULL, found BLOB NOT NULL, since INTEGER NOT NULL
    ) WITHOUT ROWID;
";

/// The rows `f` that were not read since `?1`, and those that were rotten.
const DUE: &str = "FROM store.files AS f
    LEFT JOIN main.verified AS v ON v.path = f.path AND v.sha256 = f.sha256
    WHERE (coalesce(v.at, f.first_published) < ?1 OR f.path IN (SELECT path FROM main.rotten))";

/// A file with another content than was published, although its size and times are the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rotten {
    /// The path.
    pub path: LibraryPath,
    /// The published SHA-256.
    pub published: [u8; 32],
    /// The SHA-256 of the content that was found.
    pub found: [u8; 32],
    /// When that was found first, in seconds since the epoch.
    pub since: i64,
}

/// Which rows to verify, and in which order.
#[derive(Clone, Debug)]
pub enum Due {
    /// Those at or under a path that were not read since this time or were rotten, in the order of paths, after a path.
    Under {
        /// The path.
        under: LibraryPath,
        /// The time, in seconds since the epoch.
        before: i64,
        /// The path after which they are.
        after: Option<LibraryPath>,
    },
    /// The same in the whole library, those first that were not read for the longest time.
    Oldest {
        /// The time, in seconds since the epoch.
        before: i64,
    },
}

/// The record of verifications of one store.
#[derive(Debug)]
pub struct Verified {
    connection: Connection,
}

impl Verified {
    /// Opens the record beside the store at `store`, and creates it if it does not exist.
    ///
    /// # Errors
    ///
    /// If it or the store cannot be opened.
    pub fn open(store: &Path) -> Result<Self, StoreError> {
        let file = Self::file(store);
        Self::open_both(&file, store).map_err(|error| StoreError::from(error).at(&file))
    }

    /// The file of the record.
    fn file(store: &Path) -> PathBuf {
        beside(&store.with_extension(""), ".verified.sqlite")
    }

    fn open_both(file: &Path, store: &Path) -> Result<Self, rusqlite::Error> {
        let connection = Connection::open(file)?;
        connection.busy_timeout(Duration::from_secs(10))?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        // What a power failure takes is verified again.
        connection.pragma_update(None, "synchronous", "NORMAL")?;
        connection.execute_batch(TABLES)?;
        let mut url =
            url::Url::from_file_path(store).map_err(|()| rusqlite::Error::InvalidPath(store.to_path_buf()))?;
        url.set_query(Some("mode=ro"));
        connection.execute("ATTACH ?1 AS store", params![url.as_str()])?;
        Ok(Self { connection })
    }

    /// The rotten files of the store at `store`: none if nothing of it was ever verified.
    ///
    /// # Errors
    ///
    /// If the record cannot be read.
    pub fn rotten_of(store: &Path) -> Result<Vec<Rotten>, StoreError> {
        if Self::file(store).exists() { Self::open(store)?.rotten() } else { Ok(Vec::new()) }
    }

    /// The number of rows to verify at or under a path.
    ///
    /// # Errors
    ///
    /// If the index or the record cannot be read.
    pub fn count_due(&self, under: &LibraryPath, before: i64) -> Result<u64, StoreError> {
        let (start, end) = range_under(under);
        let counted = format!("SELECT count(*) {DUE} AND (f.path = ?2 OR (f.path > ?3 AND f.path < ?4))");
        let files: i64 =
            self.connection.query_row(&counted, params![before, under.as_bytes(), start, end], |row| row.get(0))?;
        Ok(files.cast_unsigned())
    }

    /// The next rows to verify, at most `limit`.
    ///
    /// # Errors
    ///
    /// If the index or the record cannot be read.
    pub fn due(&self, due: &Due, limit: usize) -> Result<Vec<Row>, StoreError> {
        let columns: Vec<String> = COLUMNS.split(", ").map(|column| format!("f.{}", column.trim())).collect();
        let rows = format!("SELECT {} {DUE}", columns.join(", "));
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let rows: Result<Vec<Row>, rusqlite::Error> = match due {
            Due::Under { under, before, after } => {
                let (start, end) = range_under(under);
                let after = after.as_ref().map_or(&b""[..], LibraryPath::as_bytes);
                let of_path = "AND (f.path = ?2 OR (f.path > ?3 AND f.path < ?4)) AND f.path > ?5";
                let mut statement =
                    self.connection.prepare_cached(&format!("{rows} {of_path} ORDER BY f.path LIMIT ?6"))?;
                let found =
                    statement.query_map(params![before, under.as_bytes(), start, end, after, limit], row_from)?;
                found.collect()
            }
            Due::Oldest { before } => {
                let oldest = "ORDER BY coalesce(v.at, f.first_published), f.path LIMIT ?2";
                let mut statement = self.connection.prepare_cached(&format!("{rows} {oldest}"))?;
                let found = statement.query_map(params![before, limit], row_from)?;
                found.collect()
            }
        };
        Ok(rows?)
    }

    /// Records that these files had their published content at this time, in seconds since the epoch.
    ///
    /// # Errors
    ///
    /// If the record cannot be written.
    pub fn record(&mut self, rows: &[Row], at: i64) -> Result<(), StoreError> {
        let transaction = self.connection.transaction()?;
        for row in rows {
            let (path, sha256) = (row.path.as_bytes(), row.track.fingerprint.sha256);
            transaction
                .prepare_cached("INSERT OR REPLACE INTO verified VALUES (?1, ?2, ?3)")?
                .execute(params![path, sha256, at])?;
            transaction.prepare_cached("DELETE FROM rotten WHERE path = ?1")?.execute(params![path])?;
        }
        Ok(transaction.commit()?)
    }

    /// Records a rotten file. The time of an earlier record is kept.
    ///
    /// # Errors
    ///
    /// If the record cannot be written.
    pub fn record_rotten(&mut self, rotten: &Rotten) -> Result<(), StoreError> {
        self.connection.execute(
            "INSERT INTO rotten VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT (path) DO UPDATE SET published = excluded.published, found = excluded.found",
            params![rotten.path.as_bytes(), rotten.published, rotten.found, rotten.since],
        )?;
        Ok(())
    }

    /// Forgets what concerns paths that are not in the index any more, and rotten files that were published anew.
    ///
    /// # Errors
    ///
    /// If the record cannot be written.
    pub fn tidy(&self) -> Result<(), StoreError> {
        Ok(self.connection.execute_batch(
            "DELETE FROM rotten WHERE NOT EXISTS
                (SELECT 1 FROM store.files AS f WHERE f.path = rotten.path AND f.sha256 = rotten.published);
             DELETE FROM verified WHERE path NOT IN (SELECT path FROM store.files);",
        )?)
    }

    /// The rotten files, without those that were published anew or as deleted since.
    ///
    /// # Errors
    ///
    /// If the record cannot be read.
    pub fn rotten(&self) -> Result<Vec<Rotten>, StoreError> {
        let mut statement = self.connection.prepare_cached(
            "SELECT path, published, found, since FROM rotten WHERE EXISTS
                (SELECT 1 FROM store.files AS f WHERE f.path = rotten.path AND f.sha256 = rotten.published)
             ORDER BY path",
        )?;
        let rows = statement.query_map([], |row| {
            let path = LibraryPath::from_bytes(row.get_ref(0)?.as_blob()?);
            Ok(Rotten { path, published: row.get(1)?, found: row.get(2)?, since: row.get(3)? })
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::tests::{file, open};

    #[tokio::test]
    async fn what_was_verified_is_not_due_until_its_time_and_rot_is_kept_until_it_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let store = open(folder.path());
        for (number, name) in ["a/x.mp3", "a/y.mp3", "b.mp3"].iter().enumerate() {
            let content = u8::try_from(number).unwrap() + 1;
            store.commit([file(&(*name).into(), content)].into()).await.unwrap();
        }
        let mut verified = Verified::open(&store.index().file).unwrap();
        let root = LibraryPath::root;
        let names = |verified: &Verified, due: &Due| -> Vec<String> {
            verified.due(due, 10).unwrap().iter().map(|row| row.path.to_string()).collect()
        };
        let all = Due::Under { under: root(), before: i64::MAX, after: None };
        assert_eq!(names(&verified, &all), ["a/x.mp3", "a/y.mp3", "b.mp3"]);
        let later = Due::Under { under: "a".into(), before: i64::MAX, after: Some("a/x.mp3".into()) };
        assert_eq!(names(&verified, &later), ["a/y.mp3"]);
        let now = 4_000_000_000;
        let rows = verified.due(&all, 1).unwrap();
        verified.record(&rows, now).unwrap();
        assert_eq!(names(&verified, &Due::Under { under: root(), before: now, after: None }), ["a/y.mp3", "b.mp3"]);
        let due = |under: &str| verified.count_due(&under.into(), now).unwrap();
        assert_eq!((due(""), due("a"), due("b.mp3"), due("c")), (2, 1, 1, 0));
        assert_eq!(names(&verified, &Due::Oldest { before: i64::MAX }), ["a/y.mp3", "b.mp3", "a/x.mp3"]);

        let row = verified.due(&all, 10).unwrap().pop().unwrap();
        let (path, published) = (row.path.clone(), row.track.fingerprint.sha256);
        let rotten = Rotten { path, published, found: [9; 32], since: now };
        verified.record_rotten(&rotten).unwrap();
        verified.record_rotten(&Rotten { since: now + 5, ..rotten.clone() }).unwrap();
        assert_eq!(verified.rotten().unwrap(), [rotten]);
        store.commit([file(&"b.mp3".into(), 7)].into()).await.unwrap();
        assert_eq!(verified.rotten().unwrap(), [], "the new content was published");
        verified.tidy().unwrap();
        let rows = |table: &str| -> i64 {
            let count = format!("SELECT count(*) FROM {table}");
            verified.connection.query_row(&count, [], |row| row.get(0)).unwrap()
        };
        assert_eq!((rows("rotten"), rows("verified")), (0, 1));
    }
}
