//! The index and the outbox: one SQLite file, one writer, one transaction a batch.
//!
//! Its promises: what a commit says to consumers and what the index believes they know change
//! together or not at all; sequence numbers rise without gaps, whatever is killed when; a message
//! leaves the outbox only when it is told that the message was delivered.
//!
//! Paths are kept as bytes relative to the root, so that their order is the walk's. The file can be
//! opened with `sqlite3`; its tables are described in `schema.rs`.

mod commit;
mod index;
mod schema;
mod state_dir;

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use futures::Stream;
use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot, watch};

use crate::message::Encoder;
use crate::model::{LibraryPath, Observation, Outgoing};

pub use commit::Committed;
pub use index::IndexReader;
pub use state_dir::{StateDir, StateDirError};

use commit::Writer;

/// Messages read from the outbox at once.
const OUTBOX_PAGE: usize = 500;

/// Why the store could not do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// SQLite refused.
    #[error("the store refused: {0}")]
    Sqlite(#[from] rusqlite::Error),
    /// The file was written by a newer program.
    #[error("the store has format {found}, and this program knows formats up to {known}; use the newer program")]
    Newer {
        /// Its `user_version`.
        found: i64,
        /// The newest that is known here.
        known: i64,
    },
    /// The file belongs to another library.
    #[error("the store holds the index of {found}, not of {wanted}; give each library a STATE_DIR of its own")]
    OtherLibrary {
        /// The root in the store.
        found: String,
        /// The root that was asked for.
        wanted: String,
    },
    /// The writer has stopped, which only a bug brings about.
    #[error("the store's writer has stopped")]
    Stopped,
}

type Job = Box<dyn FnOnce(&mut Writer) + Send>;

/// A handle on the store; clones share it. The writer stops when the last one is dropped.
#[derive(Clone, Debug)]
pub struct Store {
    jobs: mpsc::UnboundedSender<Job>,
    reader: IndexReader,
    outbox_reader: Arc<Mutex<Connection>>,
    last_sequence: watch::Receiver<u64>,
    waiting: watch::Receiver<u64>,
}

impl Store {
    /// Opens the store at `file`, making it where there is none, for messages of `encoder`.
    ///
    /// `library` is what the store says it belongs to: the root's path, whose bytes must be the same next time.
    pub fn open(file: &Path, library: &[u8], encoder: Encoder) -> Result<Self, StoreError> {
        let connection = schema::open(file, library)?;
        let (waiting_now, waiting) = watch::channel(commit::outbox_length(&connection)?);
        let (announce, last_sequence) = watch::channel(commit::last_sequence(&connection)?);
        let mut writer = Writer::new(connection, encoder, announce, waiting_now)?;
        let (jobs, mut queue) = mpsc::unbounded_channel::<Job>();
        let spawned = thread::Builder::new().name("store".into()).spawn(move || {
            while let Some(job) = queue.blocking_recv() {
                job(&mut writer);
            }
        });
        if spawned.is_err() {
            return Err(StoreError::Stopped);
        }
        let outbox_reader = Arc::new(Mutex::new(schema::open_reader(file)?));
        Ok(Self { jobs, reader: IndexReader::open(file)?, outbox_reader, last_sequence, waiting })
    }

    /// Classifies a batch against the index and commits what it comes to: rows and messages together.
    ///
    /// After an error nothing was changed, and the same batch may be tried again.
    pub async fn commit(&self, batch: Arc<[Observation]>) -> Result<Committed, StoreError> {
        self.on_writer(move |writer| writer.commit(&batch)).await
    }

    /// The index, to be read from any thread.
    pub fn index(&self) -> &IndexReader {
        &self.reader
    }

    /// How many messages wait in the outbox.
    pub fn outbox_length(&self) -> u64 {
        *self.waiting.borrow()
    }

    /// Waits until nothing waits in the outbox.
    pub async fn drained(&self) -> Result<(), StoreError> {
        self.room(1).await
    }

    /// The sequence number of the newest message ever committed.
    pub fn last_sequence(&self) -> u64 {
        *self.last_sequence.borrow()
    }

    /// The messages of the outbox in order, first those that were left there, then each as it is
    /// committed; it ends with the store. Reading forgets nothing.
    pub fn outbox(&self) -> impl Stream<Item = Result<Outgoing, StoreError>> + use<> {
        let mut newest = self.last_sequence.clone();
        let reader = Arc::clone(&self.outbox_reader);
        async_stream::try_stream! {
            let mut after = 0;
            loop {
                newest.mark_unchanged();
                let connection = Arc::clone(&reader);
                let page = run_blocking(move || {
                    let connection = connection.lock().unwrap_or_else(PoisonError::into_inner);
                    commit::outbox_after(&connection, after, OUTBOX_PAGE)
                })
                .await?;
                let read_all = page.len() < OUTBOX_PAGE;
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

    /// Begins to publish everything at or beneath `under` again, and says how many files that are now.
    /// [`Store::replay_some`] does it, now or after a restart.
    pub async fn begin_replay(&self, under: LibraryPath) -> Result<u64, StoreError> {
        self.on_writer(move |writer| writer.begin_replay(&under)).await
    }

    /// Puts the next files of a replay into the outbox, at most `limit`, as they are known now; returns
    /// whether there may be more. What changes later is told later, so no replay overtakes a change.
    pub async fn replay_some(&self, limit: usize) -> Result<bool, StoreError> {
        self.on_writer(move |writer| writer.replay_some(limit)).await
    }

    /// Waits until fewer than `most` messages wait in the outbox.
    pub async fn room(&self, most: u64) -> Result<(), StoreError> {
        self.waiting.clone().wait_for(|waiting| *waiting < most).await.map_err(|_| StoreError::Stopped)?;
        Ok(())
    }

    /// Forgets every message up to and including `sequence`: they were delivered.
    pub async fn forget(&self, sequence: u64) -> Result<(), StoreError> {
        self.on_writer(move |writer| writer.forget(sequence)).await
    }

    async fn on_writer<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Writer) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (reply, answer) = oneshot::channel();
        let job: Job = Box::new(move |writer| drop(reply.send(job(writer))));
        self.jobs.send(job).map_err(|_| StoreError::Stopped)?;
        answer.await.map_err(|_| StoreError::Stopped)?
    }
}

async fn run_blocking<T: Send + 'static>(
    job: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    tokio::task::spawn_blocking(job).await.map_err(|_| StoreError::Stopped)?
}

#[cfg(test)]
mod tests;
