//! The index and the outbox: one SQLite file, one writer, one transaction a batch.
//!
//! Its promises: what a commit says to consumers and what the index believes they know change
//! together or not at all; sequence numbers rise without gaps, whatever is killed when; a message
//! leaves the outbox only when it is told that the message was delivered. A file that is damaged, or not
//! ours, is never written to.
//!
//! Paths are kept as bytes relative to the root, so that their order is the walk's. The file can be
//! opened with `sqlite3`; its tables are described in `schema.rs`.

mod commit;
mod damage;
mod index;
mod mark;
mod mounts;
mod parked;
mod rebuild;
mod relocate;
mod schema;
mod state_dir;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use futures::Stream;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode};
use tokio::sync::{mpsc, oneshot, watch};

use crate::message::Encoder;
use crate::model::{LibraryPath, Observation, Outgoing, Refused};

pub use commit::Committed;
pub use damage::Damage;
pub use index::IndexReader;
pub use parked::Parked;
pub use rebuild::{Rebuilt, rebuild};
pub use relocate::{Relocated, relocate};
pub use state_dir::{StateDir, StateDirError};

use commit::Writer;
use mark::Mark;
use parked::Retries;

/// Messages read from the outbox at once.
const OUTBOX_PAGE: usize = 500;

/// How soon reading the outbox is tried again.
const READ_AGAIN: Duration = Duration::from_secs(1);

/// Why the store could not do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// SQLite refused.
    #[error("the store refused: {0}")]
    Sqlite(#[from] rusqlite::Error),
    /// SQLite refused when the file was to be opened, for a reason that may go away.
    #[error("STATE_DIR: the store {file:?} cannot be opened ({error}); see that its disk has room and can be read")]
    Unopened {
        /// Which.
        file: PathBuf,
        /// Why.
        error: rusqlite::Error,
    },
    /// The file, or a part of it, is not what was written.
    #[error(
        "STATE_DIR: the store {file:?} is damaged ({problem}) and was left as it is; put a backup in its place, or \
         run once with --rebuild-index, which keeps it aside and makes a new one"
    )]
    Damaged {
        /// Which.
        file: PathBuf,
        /// What was found.
        problem: String,
    },
    /// The file was written by a newer program.
    #[error(
        "STATE_DIR: the store {file:?} has format {found}, and this program knows formats up to {known}; use the newer \
         program, or run once with --rebuild-index, which keeps the store aside and makes a new one"
    )]
    Newer {
        /// Which.
        file: PathBuf,
        /// Its `user_version`.
        found: i64,
        /// The newest that is known here.
        known: i64,
    },
    /// The file belongs to another library.
    #[error(
        "STATE_DIR: the store {file:?} holds the index of {found:?}, not of {wanted:?}; if the library was moved, run \
         `file-watcher relocate {found:?} {wanted:?}`, and if it is another one, give it a STATE_DIR of its own"
    )]
    OtherLibrary {
        /// Which.
        file: PathBuf,
        /// The root in the store.
        found: String,
        /// The root that was asked for.
        wanted: String,
    },
    /// A relocation of the library has begun, and consumers know of some of it.
    #[error(
        "STATE_DIR: the store {file:?} is being relocated from {from:?} to {to:?}; run `file-watcher relocate {from:?} \
         {to:?}` to finish that"
    )]
    Relocating {
        /// Which.
        file: PathBuf,
        /// The old root.
        from: String,
        /// The new root.
        to: String,
    },
    /// The file belongs to another library than the one that is to be relocated.
    #[error(
        "STATE_DIR: the store {file:?} holds the index of {found:?}, not of {from:?}; to relocate it, run \
         `file-watcher relocate {found:?} {to:?}`"
    )]
    RelocatesAnother {
        /// Which.
        file: PathBuf,
        /// The root in the store.
        found: String,
        /// The root that was given as the old one.
        from: String,
        /// The root that was given as the new one.
        to: String,
    },
    /// There is no store to relocate.
    #[error(
        "STATE_DIR: there is no store {file:?} to relocate; give the STATE_DIR and the SINK that {from:?} was scanned with"
    )]
    NothingToRelocate {
        /// Which.
        file: PathBuf,
        /// The old root.
        from: String,
    },
    /// The file, or its folder, may be read and not written.
    #[error("STATE_DIR: the store {file:?} may not be written; give this user leave to write to it and to its folder")]
    ReadOnly {
        /// Which.
        file: PathBuf,
    },
    /// A file beside the store could not be read or written.
    #[error("STATE_DIR: {file:?} cannot be used: {source}")]
    File {
        /// Which.
        file: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The writer has stopped, which only a bug brings about.
    #[error("the store's writer has stopped")]
    Stopped,
}

impl StoreError {
    /// Whether nothing failed, and what was given as STATE_DIR is not for this program, library or user.
    pub fn asks_for_another(&self) -> bool {
        use io::ErrorKind::{PermissionDenied, ReadOnlyFilesystem};
        match self {
            Self::Newer { .. }
            | Self::OtherLibrary { .. }
            | Self::Relocating { .. }
            | Self::RelocatesAnother { .. }
            | Self::NothingToRelocate { .. }
            | Self::ReadOnly { .. } => true,
            Self::File { source, .. } => matches!(source.kind(), PermissionDenied | ReadOnlyFilesystem),
            _ => false,
        }
    }

    /// What an error that came of opening `file` says of it.
    fn at(self, file: &Path) -> Self {
        let Self::Sqlite(source) = self else { return self };
        let file = file.to_path_buf();
        if let Some(problem) = damage::problem_of(&source) {
            return Self::Damaged { file, problem };
        }
        match source.sqlite_error_code() {
            Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied | ErrorCode::CannotOpen) => Self::ReadOnly { file },
            // The tables are not ours.
            Some(ErrorCode::Unknown) => Self::Damaged { file, problem: source.to_string() },
            _ => Self::Unopened { file, error: source },
        }
    }
}

type Job = Box<dyn FnOnce(&mut Writer) + Send>;

/// A handle on the store; clones share it. The writer stops when the last one is dropped.
#[derive(Clone, Debug)]
pub struct Store {
    reader: IndexReader,
    outbox_reader: Arc<Mutex<Connection>>,
    last_sequence: watch::Receiver<u64>,
    waiting: watch::Receiver<u64>,
    parked: watch::Receiver<u64>,
    last_retry: watch::Receiver<i64>,
    damage: Damage,
    /// The last to go, for with it goes the writer, who tidies up if nobody else has the file open.
    jobs: mpsc::UnboundedSender<Job>,
}

impl Store {
    /// Opens the store at `file`, making it where there is none, for messages of `encoder`.
    ///
    /// `library` is what the store says it belongs to: the root's path, whose bytes must be the same next time.
    pub fn open(file: &Path, library: &[u8], encoder: Encoder) -> Result<Self, StoreError> {
        rebuild::finish(file)?;
        damage::inspect(file, Some(library))?;
        Self::open_sound(file, library, encoder).map_err(|error| error.at(file))
    }

    fn open_sound(file: &Path, library: &[u8], encoder: Encoder) -> Result<Self, StoreError> {
        let connection = schema::open(file, library)?;
        let last = last_sequence(&connection, file)?;
        let mark = Mark::open(file, last)?;
        let retries = Retries::read(&connection)?;
        let (waiting_now, waiting) = watch::channel(commit::outbox_length(&connection)? + retries.waiting());
        let (parked_now, parked) = watch::channel(parked::parked_length(&connection)?);
        let (last_retry_now, last_retry) = watch::channel(retries.last_place());
        let (announce, last_sequence) = watch::channel(last);
        let damage = Damage::none_yet(file);
        let mut writer = Writer {
            connection,
            encoder,
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
            let damage = damage.clone();
            move || {
                while let Some(job) = queue.blocking_recv() {
                    job(&mut writer);
                }
                if damage.found().is_some() {
                    // Closing it would move the log into the file.
                    let _ = writer.connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true);
                }
            }
        });
        if spawned.is_err() {
            return Err(StoreError::Stopped);
        }
        let outbox_reader = Arc::new(Mutex::new(schema::open_reader(file)?));
        let reader = IndexReader::open(file, damage.clone())?;
        Ok(Self { reader, outbox_reader, last_sequence, waiting, parked, last_retry, damage, jobs })
    }

    /// Whether the store was found damaged since it was opened: then nothing will succeed any more.
    pub fn damage(&self) -> &Damage {
        &self.damage
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

    /// How many messages wait for delivery, in the outbox or retried.
    pub fn outbox_length(&self) -> u64 {
        *self.waiting.borrow()
    }

    /// How many messages are parked, to look at or to wait on.
    pub fn parked_length(&self) -> watch::Receiver<u64> {
        self.parked.clone()
    }

    /// The messages that are parked, in order of sequence, without those that are being retried.
    pub async fn parked(&self) -> Result<Vec<Parked>, StoreError> {
        self.on_writer(Writer::parked_messages).await
    }

    /// Has these parked messages delivered again, as soon as there is a sink; others are left alone.
    pub async fn retry_parked(&self, sequences: BTreeSet<u64>) -> Result<(), StoreError> {
        self.on_writer(move |writer| writer.retry_parked(&sequences)).await
    }

    /// Deletes these parked messages; others are left alone.
    pub async fn drop_parked(&self, sequences: BTreeSet<u64>) -> Result<(), StoreError> {
        self.on_writer(move |writer| writer.drop_parked(&sequences)).await
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
    ///
    /// A parked message that is retried comes before those that were not read yet.
    pub fn outbox(&self) -> impl Stream<Item = Result<Outgoing, StoreError>> + use<> {
        let mut newest = self.last_sequence.clone();
        let last_retry = self.last_retry.clone();
        let (reader, damage) = (Arc::clone(&self.outbox_reader), self.damage.clone());
        async_stream::try_stream! {
            let mut after = 0;
            let mut after_retry = 0;
            loop {
                newest.mark_unchanged();
                let are_retried = *last_retry.borrow() > after_retry;
                let (connection, noted) = (Arc::clone(&reader), damage.clone());
                let page = run_blocking(move || {
                    let connection = connection.lock().unwrap_or_else(PoisonError::into_inner);
                    let retried = if are_retried {
                        told(&noted, parked::retries_after(&connection, after_retry, OUTBOX_PAGE))?
                    } else {
                        Vec::new()
                    };
                    let limit = OUTBOX_PAGE - retried.len();
                    Ok((retried, told(&noted, commit::outbox_after(&connection, after, limit))?))
                })
                .await;
                let page = match page {
                    Err(StoreError::Sqlite(error)) if damage.found().is_none() => {
                        // Such as a disk that has no room even for reading: what waits can wait.
                        tracing::warn!(%error, "the outbox cannot be read; that is tried again");
                        tokio::time::sleep(READ_AGAIN).await;
                        continue;
                    }
                    page => page?,
                };
                let (retried, page) = page;
                let read_all = retried.len() + page.len() < OUTBOX_PAGE;
                for (place, outgoing) in retried {
                    after_retry = place;
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

    /// Begins to publish everything at or beneath `under` again, and says how many files that are now.
    /// [`Store::replay_some`] does it, now or after a restart. An older replay of all or some of that is
    /// dropped, however far it came: whoever asks again may have lost what it told.
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

    /// Removes these messages, which came from [`Store::outbox`] and include every one before the last of them: they
    /// were delivered, or they are parked if they are among `refused`. Both happens in one step.
    ///
    /// After an error it is done by the next call of this or of [`Store::forget`] that succeeds.
    pub async fn settle(&self, sequences: Vec<u64>, refused: Vec<Refused>) -> Result<(), StoreError> {
        self.on_writer(move |writer| writer.settle(&sequences, refused)).await
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
        let damage = self.damage.clone();
        let job: Job = Box::new(move |writer| {
            // What is damaged is left as it is.
            let done = damage.found().map_or_else(|| told(&damage, job(writer)), Err);
            drop(reply.send(done));
        });
        self.jobs.send(job).map_err(|_| StoreError::Stopped)?;
        answer.await.map_err(|_| StoreError::Stopped)?
    }
}

/// `outcome`, of which `damage` is told where it is an error.
fn told<T>(damage: &Damage, outcome: Result<T, StoreError>) -> Result<T, StoreError> {
    if let Err(StoreError::Sqlite(error)) = &outcome {
        damage.note(error);
    }
    outcome
}

/// The number after which the next message is numbered.
fn last_sequence(connection: &Connection, file: &Path) -> Result<u64, StoreError> {
    let known = commit::last_sequence(connection)?;
    match Mark::read(file) {
        Some(mark) if known < mark.committed => {
            tracing::error!(
                store = %file.display(),
                known_to_it = known,
                was_given_out = mark.committed,
                goes_on_after = mark.reserved,
                "the store is older than what was published from it, or new: its log was lost, or another file is in \
                 its place; sequence numbers go on after a gap, so that none comes twice"
            );
            Ok(mark.reserved)
        }
        _ => Ok(known),
    }
}

/// The path of a file that SQLite, or we, keep beside the store under its name.
fn beside(store: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(store);
    name.push(suffix);
    name.into()
}

/// Makes the names in the directory of `file` durable.
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
