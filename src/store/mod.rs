//! The index and the outbox: one SQLite file, one writer, one transaction per batch.
//!
//! What the store guarantees:
//!
//! - The messages of a commit and its changes of the index are written together or not at all.
//! - Sequence numbers have no gaps, even if the process is killed.
//! - A message is removed from the outbox only after it was delivered.
//! - A file that is corrupt, or of another program or library, is never written to.
//!
//! Paths are stored as bytes relative to the root, so their order is that of a scan. The file can be opened with
//! `sqlite3`; `schema.rs` describes the tables.

mod columns;
mod commit;
mod corruption;
mod error;
mod figures;
mod index;
mod mark;
mod mounts;
mod parked;
mod partition;
mod rebuild;
mod relocate;
mod schema;
mod state_dir;
mod verified;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use futures::Stream;
use rusqlite::Connection;
use rusqlite::config::DbConfig;
use tokio::sync::{mpsc, oneshot, watch};

use crate::message::Encoder;
use crate::model::{LibraryPath, Observation, Outgoing, Refused};

pub use commit::Committed;
pub use corruption::Corruption;
pub use error::StoreError;
pub use figures::{DuplicateGroup, DuplicatePath, Duplicates, Figures};
pub use index::IndexReader;
pub use parked::Parked;
pub use rebuild::{Rebuilt, rebuild};
pub use relocate::{Relocated, relocate};
pub use state_dir::{StateDir, StateDirError};
pub use verified::{Due, Rotten, Verified};

use commit::Writer;
use mark::Mark;
use parked::Retries;

/// The number of messages that are read from the outbox at once.
const OUTBOX_PAGE: usize = 500;

/// The cache of the writer with little memory, in negative KiB as SQLite wants it.
const SMALL_CACHE_KIB: i32 = -1024;

/// The pause before the outbox is read again after an error.
const READ_AGAIN: Duration = Duration::from_secs(1);

type Job = Box<dyn FnOnce(&mut Writer) + Send>;

/// A handle to the store. Clones share it. The writer stops when the last one is dropped.
#[derive(Clone, Debug)]
pub struct Store {
    reader: IndexReader,
    outbox_reader: Arc<Mutex<Connection>>,
    last_sequence: watch::Receiver<u64>,
    waiting: watch::Receiver<u64>,
    parked: watch::Receiver<u64>,
    last_retry: watch::Receiver<i64>,
    corruption: Corruption,
    /// Dropped last: stops the writer, which checkpoints if no other connection is open.
    jobs: mpsc::UnboundedSender<Job>,
}

impl Store {
    /// Opens the store at `file` and creates it if it does not exist. `encoder` encodes the messages of commits.
    ///
    /// `library` is the path of the root. It is written to a new store, and must be the same bytes at each later start.
    ///
    /// # Errors
    ///
    /// If the file is corrupt, or belongs to another version or library, or cannot be written. Then it is not changed.
    pub fn open(file: &Path, library: &[u8], encoder: Encoder) -> Result<Self, StoreError> {
        rebuild::finish(file)?;
        corruption::inspect(file, Some(library))?;
        Self::open_sound(file, library, encoder).map_err(|error| error.at(file))
    }

    fn open_sound(file: &Path, library: &[u8], encoder: Encoder) -> Result<Self, StoreError> {
        let connection = schema::open(file, library)?;
        let store_id = schema::store_id(&connection)?;
        let last = last_sequence(&connection, file)?;
        let mark = Mark::open(file, last)?;
        if index::has_rows(&connection)? {
            schema::index_sounds(&connection)?;
        }
        let retries = Retries::read(&connection)?;
        let (waiting_now, waiting) = watch::channel(commit::outbox_length(&connection)? + retries.waiting());
        let (parked_now, parked) = watch::channel(parked::parked_length(&connection)?);
        let (last_retry_now, last_retry) = watch::channel(retries.last_position());
        let (announce, last_sequence) = watch::channel(last);
        let corruption = Corruption::new(file);
        let mut writer = Writer {
            connection,
            encoder,
            store_id,
            mark,
            last_sequence: last,
            announce,
            waiting: waiting_now,
            parked: parked_now,
            last_retry: last_retry_now,
            retries,
            mounts: None,
        };
        let (jobs, mut queue) = mpsc::unbounded_channel::<Job>();
        let spawned = thread::Builder::new().name("store".into()).spawn({
            let corruption = corruption.clone();
            move || {
                while let Some(job) = queue.blocking_recv() {
                    job(&mut writer);
                }
                if corruption.found().is_some() {
                    // Otherwise closing would move the log into the corrupt file.
                    let _ = writer.connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true);
                }
            }
        });
        if spawned.is_err() {
            return Err(StoreError::Stopped);
        }
        let outbox_reader = Arc::new(Mutex::new(schema::open_reader(file)?));
        let reader = IndexReader::open(file, corruption.clone())?;
        Ok(Self { reader, outbox_reader, last_sequence, waiting, parked, last_retry, corruption, jobs })
    }

    /// The corruption that was found since the store was opened. Once there is any, every operation fails.
    pub fn corruption(&self) -> &Corruption {
        &self.corruption
    }

    /// Lets the writer keep few pages in memory. Commits to a large index take longer then.
    pub fn use_little_memory(&self) {
        let shrink: Job = Box::new(|writer| {
            // A cache that stays large only takes memory.
            let _ = writer.connection.pragma_update(None, "cache_size", SMALL_CACHE_KIB);
        });
        // If the writer has stopped, the next commit says so.
        let _ = self.jobs.send(shrink);
    }

    /// Gives back the memory that only many reads and commits need. They get it again when they come.
    pub fn shrink(&self) {
        self.reader.close_idle();
        // If the writer has stopped, the next commit says so.
        let _ = self.jobs.send(Box::new(|writer| {
            // A cache that stays large only takes memory.
            let _ = writer.connection.execute_batch("PRAGMA shrink_memory");
        }));
    }

    /// Classifies a batch against the index, and commits the changes of rows and the messages together.
    ///
    /// # Errors
    ///
    /// If the transaction failed. Nothing was changed then, and the same batch may be committed again.
    pub async fn commit(&self, batch: Arc<[Observation]>) -> Result<Committed, StoreError> {
        self.on_writer(move |writer| writer.commit(&batch)).await
    }

    /// Lets [`Index::rows_by_content`](crate::model::Index::rows_by_content) find rows by their sound. Call this after
    /// the first scan. A store that had rows when it was opened does it anyway.
    ///
    /// # Errors
    ///
    /// If the store cannot be written.
    pub async fn index_sounds(&self) -> Result<(), StoreError> {
        if !self.reader.finds_sounds() {
            self.on_writer(|writer| Ok(schema::index_sounds(&writer.connection)?)).await?;
            self.reader.find_sounds();
        }
        Ok(())
    }

    /// The index, which any thread can read.
    pub fn index(&self) -> &IndexReader {
        &self.reader
    }

    /// The number of messages that wait for delivery: those in the outbox and the parked ones that are retried.
    pub fn outbox_length(&self) -> u64 {
        *self.waiting.borrow()
    }

    /// The number of parked messages, to read or to wait for.
    pub fn parked_length(&self) -> watch::Receiver<u64> {
        self.parked.clone()
    }

    /// The parked messages, in order of sequence, without those that are being retried.
    ///
    /// # Errors
    ///
    /// If the store cannot be read.
    pub async fn parked(&self) -> Result<Vec<Parked>, StoreError> {
        self.on_writer(Writer::parked_messages).await
    }

    /// Retries these parked messages: [`Store::outbox`] yields them again. Other sequence numbers are ignored.
    ///
    /// # Errors
    ///
    /// If the store cannot be written. Nothing was changed then.
    pub async fn retry_parked(&self, sequences: BTreeSet<u64>) -> Result<(), StoreError> {
        self.on_writer(move |writer| writer.retry_parked(&sequences)).await
    }

    /// Deletes these parked messages. Other sequence numbers are ignored.
    ///
    /// # Errors
    ///
    /// If the store cannot be written. Nothing was changed then.
    pub async fn drop_parked(&self, sequences: BTreeSet<u64>) -> Result<(), StoreError> {
        self.on_writer(move |writer| writer.drop_parked(&sequences)).await
    }

    /// Waits until no message waits for delivery.
    ///
    /// # Errors
    ///
    /// [`StoreError::Stopped`] if the writer has ended.
    pub async fn drained(&self) -> Result<(), StoreError> {
        self.room(1).await
    }

    /// The sequence number of the newest committed message, to wait for the next one.
    pub fn committed(&self) -> watch::Receiver<u64> {
        self.last_sequence.clone()
    }

    /// The sequence number of the newest committed message.
    pub fn last_sequence(&self) -> u64 {
        *self.last_sequence.borrow()
    }

    /// The messages of the outbox in order: first those that are there, then each as it is committed. Reading does not
    /// remove them. Parked messages that are retried come before those that are not read yet.
    ///
    /// The stream ends when the store is closed. It yields an error once, if the store is corrupt; after other errors it
    /// reads again.
    pub fn outbox(&self) -> impl Stream<Item = Result<Outgoing, StoreError>> + use<> {
        let mut newest = self.last_sequence.clone();
        let last_retry = self.last_retry.clone();
        let (reader, corruption) = (Arc::clone(&self.outbox_reader), self.corruption.clone());
        async_stream::try_stream! {
            let mut after = 0;
            let mut after_retry = 0;
            loop {
                newest.mark_unchanged();
                let are_retried = *last_retry.borrow() > after_retry;
                let (connection, record) = (Arc::clone(&reader), corruption.clone());
                let page = run_blocking(move || {
                    let connection = connection.lock().unwrap_or_else(PoisonError::into_inner);
                    let retried = if are_retried {
                        record_corruption(&record, parked::retries_after(&connection, after_retry, OUTBOX_PAGE))?
                    } else {
                        Vec::new()
                    };
                    let limit = OUTBOX_PAGE - retried.len();
                    Ok((retried, record_corruption(&record, commit::outbox_after(&connection, after, limit))?))
                })
                .await;
                let page = match page {
                    Err(StoreError::Sqlite(error)) if corruption.found().is_none() => {
                        // For example a full disk, on which SQLite cannot even read.
                        tracing::warn!(%error, "the outbox cannot be read; retrying");
                        tokio::time::sleep(READ_AGAIN).await;
                        continue;
                    }
                    page => page?,
                };
                let (retried, page) = page;
                let read_all = retried.len() + page.len() < OUTBOX_PAGE;
                for (position, outgoing) in retried {
                    after_retry = position;
                    yield outgoing;
                }
                for outgoing in page {
                    after = outgoing.sequence;
                    yield outgoing;
                }
                if read_all && newest.changed().await.is_err() {
                    break;
                }
            }
        }
    }

    /// Begins a replay: everything at or under `under` is to be published again. Returns the number of files.
    ///
    /// [`Store::replay_some`] carries it out, now or after a restart. Older replays of the same files are dropped,
    /// however far they are: the consumer that asks again may have lost their messages.
    ///
    /// # Errors
    ///
    /// If the store cannot be written. Nothing was changed then.
    pub async fn begin_replay(&self, under: LibraryPath) -> Result<u64, StoreError> {
        self.on_writer(move |writer| writer.begin_replay(&under)).await
    }

    /// Puts the next files of the oldest replay into the outbox, at most `limit`, with their current rows. Returns
    /// whether there may be more. A later change has a later sequence number, so a replay never overtakes a change.
    ///
    /// # Errors
    ///
    /// If the store cannot be written. Nothing was changed then.
    pub async fn replay_some(&self, limit: usize) -> Result<bool, StoreError> {
        self.on_writer(move |writer| writer.replay_some(limit)).await
    }

    /// Waits until fewer than `most` messages wait for delivery.
    ///
    /// # Errors
    ///
    /// [`StoreError::Stopped`] if the writer has ended.
    pub async fn room(&self, most: u64) -> Result<(), StoreError> {
        self.waiting.clone().wait_for(|waiting| *waiting < most).await.map_err(|_| StoreError::Stopped)?;
        Ok(())
    }

    /// Removes these messages from the outbox, in one transaction: those in `refused` are parked, the others were
    /// delivered. The messages must come from [`Store::outbox`] and include all up to the last one.
    ///
    /// # Errors
    ///
    /// If the store cannot be written. Then the next successful call of this or of [`Store::remove_delivered`] does it.
    pub async fn settle(&self, sequences: Vec<u64>, refused: Vec<Refused>) -> Result<(), StoreError> {
        self.on_writer(move |writer| writer.settle(&sequences, refused)).await
    }

    /// Removes all messages up to and including `sequence` from the outbox, after they were delivered.
    ///
    /// # Errors
    ///
    /// If the store cannot be written. Nothing was changed then.
    pub async fn remove_delivered(&self, sequence: u64) -> Result<(), StoreError> {
        self.on_writer(move |writer| writer.remove_delivered(sequence)).await
    }

    async fn on_writer<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Writer) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (reply, answer) = oneshot::channel();
        let corruption = self.corruption.clone();
        let job: Job = Box::new(move |writer| {
            // A corrupt file is not written to.
            let done = corruption.found().map_or_else(|| record_corruption(&corruption, job(writer)), Err);
            drop(reply.send(done));
        });
        self.jobs.send(job).map_err(|_| StoreError::Stopped)?;
        answer.await.map_err(|_| StoreError::Stopped)?
    }
}

/// Records the corruption that `outcome` shows, if it does; returns `outcome`.
fn record_corruption<T>(corruption: &Corruption, outcome: Result<T, StoreError>) -> Result<T, StoreError> {
    if let Err(StoreError::Sqlite(error)) = &outcome {
        corruption.note(error);
    }
    outcome
}

/// The last sequence number that was given out.
fn last_sequence(connection: &Connection, file: &Path) -> Result<u64, StoreError> {
    let known = commit::last_sequence(connection)?;
    match Mark::read(file) {
        Some(mark) if known < mark.committed => {
            tracing::error!(
                store = %file.display(),
                known_to_it = known,
                was_given_out = mark.committed,
                goes_on_after = mark.reserved,
                "the store is older than the messages that were published from it: its log was lost, or the file was \
                 replaced; sequence numbers continue after a gap, so that none is used twice"
            );
            Ok(mark.reserved)
        }
        _ => Ok(known),
    }
}

/// The path of a file next to the store: the name of the store and a suffix.
fn beside(store: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(store);
    name.push(suffix);
    name.into()
}

/// Syncs the directory of `file`, so that renames in it survive a power failure.
fn sync_directory(file: &Path) -> io::Result<()> {
    file.parent().map_or(Ok(()), |directory| File::open(directory)?.sync_all())
}

async fn run_blocking<T: Send + 'static>(
    job: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    tokio::task::spawn_blocking(job).await.map_err(|_| StoreError::Stopped)?
}

#[cfg(test)]
mod tests;
