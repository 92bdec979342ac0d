//! The service: everything assembled from the settings, run once (`scan`) or for good (`watch`).

mod commit;
mod delivery;
mod held;
mod parked;
mod relocation;
mod replay;
mod scan;
mod supervisor;
mod watch;

use std::collections::HashMap;
use std::convert::Infallible;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use backon::BackoffBuilder;
use rayon::{ThreadPool, ThreadPoolBuildError, ThreadPoolBuilder};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::config::{Command, Relocation, Settings, SinkKind};
use crate::content::{Examiner, Reader, SettlePolicy};
use crate::control::ControlError;
use crate::disk::Root;
use crate::library::{Held, Inbox, LeftOut, Scanner, Tally, Unreadable, Watcher};
use crate::message::Encoder;
use crate::model::{LibraryPath, Token};
use crate::pipeline::Chain;
use crate::sink::{Amqp, AmqpSettings, Sink, SinkError, Stdout};
use crate::status::{Conditions, Counters, Progress};
use crate::store::{Corruption, IndexReader, Rebuilt, Relocated, Store, StoreError};
use crate::stream::{Leases, Pace, Settle};

pub use held::{approve, held};
pub use parked::parked_at_rest;
pub use relocation::relocate;
pub use replay::replay;
pub use scan::scan;
pub use watch::watch;

/// How long a file must have been empty before it is published: downloads create their file first, and may get
/// their first byte much later.
const EMPTY: Duration = Duration::from_mins(1);

/// The longest wait before an unreadable path is tried again if there is no regular walk of everything.
const LONGEST_UNREADABLE_RETRY: Duration = Duration::from_hours(1);

/// Why the service could not do its work.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// The library cannot be looked at.
    #[error("the library {path} cannot be looked at")]
    Library {
        /// Its root.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The store cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Messages cannot be delivered, now or later.
    #[error(transparent)]
    Sink(#[from] SinkError),
    /// The threads that read could not be started.
    #[error("the threads that read files cannot be started")]
    Threads(#[from] ThreadPoolBuildError),
    /// Other invocations could not reach this one.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// The broker is there and will not have us until a person puts something right.
    #[error("{0}")]
    Refused(String),
    /// The walk could not be finished.
    #[error("the walk could not be finished: {0}")]
    Walk(String),
    /// Of the path that was asked for no file is known.
    #[error("nothing is known at or under {0:?}; give a path of the library as in its messages")]
    NothingKnown(PathBuf),
    /// A sequence number was given of which no message is parked.
    #[error("{0} is not the sequence number of a parked message; `file-watcher parked` lists them")]
    NotParked(u64),
    /// A signal came before the work was done.
    #[error("interrupted; the next start goes on where this one stopped")]
    Interrupted,
}

/// The parts that both ways of running share.
pub struct Service {
    settings: Settings,
    root: Arc<Root>,
    store: Store,
    inbox: Inbox,
    /// What tells of changes, while there is such a thing.
    watcher: Arc<Mutex<Option<Watcher>>>,
    /// Directories that the rules leave out, so that they are not watched for long.
    left_out: LeftOut,
    chain: Chain,
    examiner: Arc<Examiner<Arc<Root>, Reader, IndexReader>>,
    scanner: Scanner<IndexReader>,
    counters: Counters,
    conditions: Conditions,
    /// What the relocation that was asked for came to.
    relocated: Option<Relocated>,
    /// Held by an approval until it is known what came of it.
    approving: tokio::sync::Mutex<()>,
    /// Whether a look found that its file's mount is gone, which the last walk of everything did not know.
    is_mount_missed: AtomicBool,
    /// Threads that look at files: enough to keep the processors and the disk busy, and few enough not to fight over
    /// them. The other files in flight wait their turn.
    readers: ThreadPool,
    replay_begun: Notify,
    /// Paths that could not be looked at, in doubt until they can be.
    failures: Mutex<HashMap<LibraryPath, Token>>,
    /// When it was last said that the outbox is full.
    full_said: Mutex<Option<Instant>>,
}

impl Service {
    /// Opens the library and the store.
    pub fn open(settings: Settings, instance_id: &str) -> Result<Self, ServiceError> {
        use std::os::unix::ffi::OsStrExt;

        let root = Root::open(&settings.root)
            .and_then(|root| root.trusting_inodes(settings.inode_trust))
            .map_err(|source| ServiceError::Library { path: settings.root.display().to_string(), source })?;
        let root = root.with_rules(settings.rules.clone());
        let root = Arc::new(root.following_links(settings.follow_symlinks));
        let encoder = Encoder::new(instance_id, &settings.root, settings.metadata_style);
        let file = settings.store_file();
        let relocated = relocate_store(&settings, &file, &encoder)?;
        if settings.rebuild_index {
            rebuild(&file, settings.root.as_os_str().as_bytes(), &encoder)?;
        }
        let store = Store::open(&file, settings.root.as_os_str().as_bytes(), encoder)?;
        store.keep_mounts(root.mounts())?;
        root.own_mount_at_start()
            .map_err(|source| ServiceError::Library { path: settings.root.display().to_string(), source })?;
        let inbox = Inbox::new();
        let examiner = Examiner {
            disk: Arc::clone(&root),
            contents: Reader::new(settings.max_bytes_per_second),
            index: store.index().clone(),
            settle_policy: SettlePolicy {
                debounce: settings.debounce,
                settle: settings.settle,
                empty: EMPTY,
                ignore_ctime: settings.ignore_ctime,
            },
            engine: inbox.engine().clone(),
            verified_bytes: Arc::default(),
        };
        let left_out = LeftOut::default();
        let scanner = Scanner {
            left_out: left_out.clone(),
            root: Arc::clone(&root),
            index: store.index().clone(),
            ignore_ctime: settings.ignore_ctime,
            held: Held::new(settings.mass_delete_percent, settings.rescan_interval.unwrap_or(LONGEST_HELD_RECHECK)),
            engine: inbox.engine().clone(),
            unreadable: Unreadable::new(settings.rescan_interval.unwrap_or(LONGEST_UNREADABLE_RETRY)),
            tally: Arc::new(Tally::default()),
        };
        let chain = Chain {
            extensions: settings.rules.extensions().clone(),
            pace: Pace::new(Settle { debounce: settings.debounce, settle: settings.settle }),
            files_per_second: settings.max_files_per_second,
            leases: Leases::new(),
            max_concurrent_files: settings.max_concurrent_files,
            batch_size: settings.batch_size,
        };
        Ok(Self {
            settings,
            root,
            store,
            inbox,
            watcher: Arc::default(),
            left_out,
            chain,
            examiner: Arc::new(examiner),
            scanner,
            counters: Counters::default(),
            conditions: Conditions::default(),
            relocated,
            approving: tokio::sync::Mutex::default(),
            is_mount_missed: AtomicBool::new(false),
            readers: readers()?,
            replay_begun: Notify::new(),
            failures: Mutex::default(),
            full_said: Mutex::default(),
        })
    }

    /// Does `work`, which ends in any case when the store is found damaged: nothing would succeed any more.
    pub async fn unless_corrupt<T>(
        corruption: &Corruption,
        work: impl Future<Output = Result<T, ServiceError>>,
    ) -> Result<T, ServiceError> {
        let done = tokio::select! {
            done = work => done,
            found = corruption.wait() => Err(found.into()),
        };
        // The work may have failed of it before it was told.
        match (done, corruption.found()) {
            (Err(_), Some(found)) => Err(found.into()),
            (done, _) => done,
        }
    }

    /// Does something with the store that is tried again after an error. Where the store was found damaged
    /// that never ends: the program does, and has said why.
    async fn to_be_tried_again<T>(&self, work: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        let done = work.await;
        if done.is_err() && self.store.corruption().found().is_some() {
            return std::future::pending().await;
        }
        done
    }

    /// Whether the store was found damaged.
    pub fn corruption(&self) -> Corruption {
        self.store.corruption().clone()
    }

    /// Says how far the work has come, soon after it begins and then seldom, until it is dropped.
    async fn say_progress(&self) -> Infallible {
        let mut progress = Progress::default();
        let mut said = false;
        loop {
            tokio::time::sleep(if said { SELDOM } else { SOON }).await;
            let seen = self.scanner.tally.seen.load(Ordering::Relaxed);
            let bytes = self.examiner.contents.bytes_read();
            said = progress.log(self.counters.events.now(), seen, bytes, self.store.outbox_length());
        }
    }
}

/// Makes a new store in the place of the one at `file`, and says what was kept of that.
fn rebuild(file: &Path, library: &[u8], encoder: &Encoder) -> Result<(), StoreError> {
    match crate::store::rebuild(file, library, encoder)? {
        None => tracing::info!("there is no index to rebuild; a new one is made"),
        Some(Rebuilt { aside, messages, parked, paths, whole, last_sequence, old_library }) => {
            let aside = aside.display();
            if let Some(old_library) = old_library {
                tracing::warn!(
                    old_library,
                    paths,
                    "the old index is that of another place: all its paths are published as deleted"
                );
            }
            if whole {
                tracing::warn!(%aside, messages, parked, paths, last_sequence, "a new index takes the place of the old one");
            } else {
                tracing::error!(
                    %aside, messages, parked, paths, last_sequence,
                    "a new index takes the place of the old one, which could not be read in full: undelivered \
                     messages may be missing, and so may deletes of files that went while nobody watched"
                );
            }
        }
    }
    Ok(())
}

/// Publishes the files of a library that was moved as moved, if that was asked for and is not done yet.
fn relocate_store(settings: &Settings, file: &Path, encoder: &Encoder) -> Result<Option<Relocated>, StoreError> {
    let Some(Relocation { from, .. }) = &settings.relocation else { return Ok(None) };
    let relocated = match crate::store::relocate(file, from, &settings.root, encoder) {
        // A first start has nothing to relocate.
        Err(StoreError::NothingToRelocate { .. }) if settings.command != Command::Relocate => return Ok(None),
        relocated => relocated?,
    };
    if let Relocated::Done { messages } = relocated {
        let (from, to) = (from.display(), settings.root.display());
        tracing::info!(%from, %to, messages, "the library was relocated; its files are published as moved");
    }
    Ok(Some(relocated))
}

/// Where the settings want messages to go.
pub fn sink_of(settings: &Settings, instance_id: &str) -> Sink {
    match settings.sink {
        SinkKind::Stdout => Sink::Stdout(Stdout::new()),
        SinkKind::Amqp => {
            let watched_directory = settings.root.to_string_lossy();
            let amqp = AmqpSettings {
                tls: settings.tls.clone(),
                reread: settings.reread.clone(),
                unroutable: settings.unroutable,
                ..AmqpSettings::new(settings.broker.clone(), instance_id, &watched_directory)
            };
            Sink::Amqp(Box::new(Amqp::new(amqp)))
        }
    }
}

fn readers() -> Result<ThreadPool, ThreadPoolBuildError> {
    ThreadPoolBuilder::new()
        .num_threads(thread::available_parallelism().map_or(8, |cores| readers_for(cores.get())))
        .thread_name(|number| format!("reader {number}"))
        // Who waits for the look hears of it by that no answer comes.
        .panic_handler(|_| {})
        .build()
}

/// Each reader has its buffer and its view of the index, so there are not as many as there could be files:
/// four for a processor, which waits for disks most of the time, until those are many.
fn readers_for(cores: usize) -> usize {
    (cores * 4).min(cores.max(32))
}

/// How soon new work is told of in the log, and how often work that goes on.
const SOON: Duration = Duration::from_secs(1);
const SELDOM: Duration = Duration::from_secs(10);

/// The longest wait between walks while deletes are held, if the library is not walked at an interval anyway.
const LONGEST_HELD_RECHECK: Duration = Duration::from_hours(1);

/// The longest wait before the store is tried again.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

fn retry_waits() -> impl Iterator<Item = Duration> {
    backon::ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(100))
        .with_max_delay(LONGEST_WAIT)
        .with_jitter()
        .without_max_times()
        .build()
}

/// A token that is cancelled by the first SIGTERM or SIGINT. The second ends the process at once, with `exit_code`.
pub fn shutdown_on_signals(exit_code: u8) -> std::io::Result<CancellationToken> {
    use tokio::signal::unix::{SignalKind, signal};

    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let token = CancellationToken::new();
    let cancelled = token.clone();
    tokio::spawn(async move {
        for is_first in [true, false] {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            if is_first {
                tracing::info!("stopping: finishing what is in flight; a second signal stops at once");
                cancelled.cancel();
            }
        }
        // Everything that matters is committed, or will be found again.
        tracing::warn!("interrupted at once; the next start goes on where this one stopped");
        std::process::exit(exit_code.into());
    });
    Ok(token)
}
