//! Relocates the store of a library whose root has a new path: each file is published as moved, and none is read.
//!
//! Paths in the store are relative to the root, so the rows do not change. The messages are put into the outbox in
//! chunks, each in one transaction with the last path of the chunk. An interrupted relocation continues where it
//! stopped. Until it is finished, the store can be used for nothing else.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use jiff::Timestamp;
use rusqlite::{Connection, TransactionBehavior, params};
use uuid::Uuid;

use super::mark::Mark;
use super::{StoreError, commit, corruption, index, last_sequence, rebuild, schema};
use crate::failpoint::failpoint;
use crate::message::{Encoder, Stamp};
use crate::model::{Change, FileEvent, LibraryPath, Origin};

/// The number of files whose messages are committed at once.
const CHUNK: usize = 1000;

/// The result of a relocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relocated {
    /// The store belongs to the new root now.
    Done {
        /// The number of messages that this call added to the outbox.
        messages: u64,
    },
    /// The store belonged to the new root already.
    AlreadyThere,
}

/// Relocates the store at `file` from the library at `from` to the one at `to`, and adds a message for each of its files
/// to the outbox. `encoder` is the one for the library at `to`. Blocks.
///
/// # Errors
///
/// If there is no store, if it belongs to another library, or if it cannot be written. A relocation that fails half-way
/// continues with the next call.
pub fn relocate(file: &Path, from: &Path, to: &Path, encoder: &Encoder) -> Result<Relocated, StoreError> {
    rebuild::finish(file)?;
    if !file.exists() {
        let from = from.to_string_lossy().into_owned();
        return Err(StoreError::NothingToRelocate { file: file.to_path_buf(), from });
    }
    corruption::inspect(file, None)?;
    let relocated = Relocation::begin(file, from, to, encoder).and_then(|begun| {
        let Some(mut relocation) = begun else { return Ok(Relocated::AlreadyThere) };
        let first = relocation.sequence;
        while relocation.step(CHUNK)? {}
        Ok(Relocated::Done { messages: relocation.sequence - first })
    });
    relocated.map_err(|error| error.at(file))
}

/// A relocation in progress.
struct Relocation<'a> {
    connection: Connection,
    mark: Mark,
    sequence: u64,
    from: &'a Path,
    to: &'a Path,
    encoder: &'a Encoder,
}

impl<'a> Relocation<'a> {
    /// Begins a relocation or continues one; `None` if there is nothing to do.
    fn begin(file: &Path, from: &'a Path, to: &'a Path, encoder: &'a Encoder) -> Result<Option<Self>, StoreError> {
        let connection = schema::open_any(file)?;
        let (old, new) = (from.as_os_str().as_bytes(), to.as_os_str().as_bytes());
        let library = schema::library_of(&connection)?;
        match schema::meta(&connection, schema::RELOCATING_TO)? {
            None if library.as_deref().is_none_or(|library| library == new) => return Ok(None),
            None => schema::check_library(&connection, file, old).map_err(|error| error.for_relocation(from, to))?,
            Some(target) if target == new && library.as_deref() == Some(old) => {}
            Some(_) => schema::check_library(&connection, file, old)?,
        }
        let sequence = last_sequence(&connection, file)?;
        let mark = Mark::open(file, sequence)?;
        set(&connection, schema::RELOCATING_TO, new)?;
        Ok(Some(Self { connection, mark, sequence, from, to, encoder }))
    }

    /// Relocates the next files, at most `limit`; returns whether there may be more.
    fn step(&mut self, limit: usize) -> Result<bool, StoreError> {
        failpoint!("relocate::step");
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let after = schema::meta(&transaction, schema::RELOCATED_UP_TO)?.map(|path| LibraryPath::from_bytes(&path));
        let files = index::rows_after(&transaction, &LibraryPath::root(), after.as_ref(), limit)?;
        let Some(last) = files.last_path() else {
            set(&transaction, "library", self.to.as_os_str().as_bytes())?;
            let begun = params![schema::RELOCATING_TO, schema::RELOCATED_UP_TO];
            transaction.execute("DELETE FROM meta WHERE name IN (?1, ?2)", begun)?;
            transaction.commit()?;
            return Ok(false);
        };
        let (store_id, at) = (schema::store_id(&transaction)?, Timestamp::now());
        let mut sequence = self.sequence;
        for (path, _) in files.iter() {
            let Some(row) = index::row(&transaction, &path)? else { continue };
            sequence += 1;
            let stamp = Stamp { store_id, sequence, at, correlation_id: Uuid::new_v4() };
            let message = if row.is_forgotten() {
                // Its content is unknown. The next scan publishes the file at its new path, if it exists.
                transaction.execute("DELETE FROM files WHERE path = ?1", params![path.as_bytes()])?;
                let gone = FileEvent { change: Change::Deleted(path), origin: Origin::Scan };
                self.encoder.at(self.from).encode(&gone, &stamp)
            } else {
                self.encoder.encode_relocated(row, self.from, &stamp)
            };
            commit::insert(&transaction, &message)?;
        }
        set(&transaction, schema::RELOCATED_UP_TO, last.as_bytes())?;
        self.mark.reserve(sequence)?;
        failpoint!("relocate::commit");
        transaction.commit()?;
        self.sequence = sequence;
        self.mark.committed(sequence);
        Ok(true)
    }
}

fn set(connection: &Connection, name: &str, value: &[u8]) -> Result<(), StoreError> {
    connection.execute("INSERT OR REPLACE INTO meta (name, value) VALUES (?1, ?2)", params![name, value])?;
    Ok(())
}

#[cfg(test)]
mod tests;
