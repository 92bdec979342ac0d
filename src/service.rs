//! The service: the parts assembled from the settings. They run once (`scan`) or until stopped (`watch`).

mod announce;
mod commit;
mod conditions;
mod delivery;
mod held;
mod inventory;
mod latency;
mod memory;
mod observed;
mod parked;
mod priority;
mod progress;
mod readers;
mod reload;
mod relocation;
mod replay;
mod reporter;
mod rest;
mod scan;
mod supervisor;
mod systemd;
mod verify;
mod watch;
mod watch_limit;

use std::fmt;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use backon::BackoffBuilder;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::config::{Command, Relocation, Settings, SinkKind};
use crate::content::{Examiner, Reader, SettlePolicy};
use crate::control::ControlError;
use crate::disk::Root;
use crate::http::HttpError;
use crate::library::{ExcludedDirectories, Inbox, Scanner, Tally, Watcher};
use crate::message::Encoder;
use crate::model::Index as _;
use crate::pipeline::Chain;
use crate::screen::Screen;
use crate::sink::{Amqp, AmqpSettings, Sink, SinkError, Stdout};
use crate::status::{Conditions, Counters, EventCounts};
use crate::store::{Corruption, IndexReader, Rebuilt, Relocated, Store, StoreError};
use crate::stream::{Leases, Pace, Settle};
use crate::traces::Traces;

use latency::Latencies;
use readers::Readers;

pub use held::{approve, held};
pub use inventory::{duplicates, list, status_at_rest};
pub use observed::Observed;
pub use parked::parked_at_rest;
pub use priority::set_priority;
pub use reload::Reload;
pub use relocation::relocate;
pub use replay::replay;
pub use scan::scan;
pub use verify::verify;
pub use watch::watch;

/// How long a file must have been empty before it is published. A download may create its file long before the first
/// byte arrives.
const EMPTY_FILE_WAIT: Duration = Duration::from_mins(1);

/// The largest frame with little memory, in bytes. RabbitMQ accepts no limit below half of it.
const SMALL_FRAME: u32 = 16 * 1024;

/// The errors of the service.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// The library root cannot be read.
    #[error("the library {path} cannot be read")]
    Library {
        /// The library root.
        path: String,
        /// The error of the operating system.
        #[source]
        source: std::io::Error,
    },
    /// The store cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Messages cannot be delivered, and a retry would not help.
    #[error(transparent)]
    Sink(#[from] SinkError),
    /// A thread could not be started.
    #[error("a thread cannot be started")]
    Threads(#[source] std::io::Error),
    /// The control socket cannot be used.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// The HTTP server cannot listen.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// The broker refuses the connection, and an operator has to fix the cause.
    #[error("{0}")]
    Refused(String),
    /// The walk could not be finished, because the index could not be read.
    #[error("the walk could not be finished: {0}")]
    Walk(String),
    /// The index has no file at or under the given path.
    #[error("nothing is known at or under {0:?}; give a path as it appears in the messages")]
    NothingKnown(PathBuf),
    /// No parked message has the given sequence number.
    #[error("{0} is not the sequence number of a parked message; `file-watcher parked` lists them")]
    NotParked(u64),
    /// The client for the collector of traces could not be made.
    #[error("OTEL_EXPORTER_OTLP_ENDPOINT: the client for the collector cannot be made")]
    Traces(#[from] opentelemetry_otlp::ExporterBuildError),
    /// The answer could not be written.
    #[error("failed to write to standard output")]
    Output(#[source] std::io::Error),
    /// A signal stopped the process before the work was done.
    #[error("interrupted; the next start continues where this one stopped")]
    Interrupted,
}

/// The parts that `scan` and `watch` share.
pub struct Service {
    settings: Settings,
    screen: Screen,
    root: Arc<Root>,
    store: Store,
    inbox: Inbox,
    /// The watcher, while one is running.
    watcher: Arc<Mutex<Option<Watcher>>>,
    /// Directories that the rules exclude. Their watches are removed.
    excluded: ExcludedDirectories,
    chain: Chain,
    examiner: Arc<Examiner<Arc<Root>, Reader, IndexReader>>,
    scanner: Scanner<IndexReader>,
    counters: Counters,
    observed: Arc<Observed>,
    /// The events of runs with other settings before this one.
    events_before: EventCounts<u64>,
    /// Spans for OpenTelemetry, if a collector is given.
    traces: Option<Traces>,
    conditions: Conditions,
    instance_id: String,
    /// Whether the index was created at this start.
    is_index_new: bool,
    /// When the events came whose messages are not confirmed yet.
    latencies: Mutex<Latencies>,
    /// The result of the requested relocation.
    relocated: Option<Relocated>,
    /// Locked by an approval until its outcome is known.
    approving: tokio::sync::Mutex<()>,
    readers: Readers,
    replay_begun: Notify,
}

impl fmt::Debug for Service {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Service").field("root", &self.root).finish_non_exhaustive()
    }
}

impl Service {
    /// Opens the library and the store.
    ///
    /// # Errors
    /// If the library root cannot be read, the store cannot be opened, relocated or rebuilt, or threads cannot be started.
    pub fn open(
        settings: Settings,
        instance_id: &str,
        screen: Screen,
        observed: Arc<Observed>,
    ) -> Result<Self, ServiceError> {
        use std::os::unix::ffi::OsStrExt;

        let root = Arc::new(open_root(&settings)?);
        let encoder = Encoder::new(instance_id, &settings.root, settings.metadata_style).with_tags(settings.tag_set);
        let file = settings.store_file();
        let relocated = relocate_store(&settings, &file, &encoder)?;
        if settings.rebuild_index {
            rebuild(&file, settings.root.as_os_str().as_bytes(), &encoder)?;
        }
        let store = Store::open(&file, settings.root.as_os_str().as_bytes(), encoder)?;
        let partition = settings.rules.partition();
        let forgotten = store.keep_only(partition)?;
        if forgotten > 0 {
            tracing::info!(%partition, files = forgotten, "files that belong to other instances now were forgotten");
        }
        if memory::is_little(&settings) {
            store.use_little_memory();
        }
        store.keep_mounts(root.mounts())?;
        root.own_mount_at_start()
            .map_err(|source| ServiceError::Library { path: settings.root.display().to_string(), source })?;
        let is_index_new = store.index().is_empty().unwrap_or(false);
        let inbox = Inbox::new();
        inbox.engine().with(|engine| engine.set_mass_delete_percent(settings.mass_delete_percent));
        let examiner = Examiner {
            disk: Arc::clone(&root),
            contents: Reader::new(settings.max_bytes_per_second, observed.metrics.clone()),
            index: store.index().clone(),
            settle_policy: SettlePolicy {
                debounce: settings.debounce,
                settle: settings.settle,
                empty: EMPTY_FILE_WAIT,
                ignore_ctime: settings.ignore_ctime,
            },
            engine: inbox.engine().clone(),
            verified_bytes: Arc::default(),
        };
        let readers = Readers::start(settings.max_concurrent_files).map_err(ServiceError::Threads)?;
        let traces =
            settings.otlp_endpoint.as_deref().map(|endpoint| Traces::new(endpoint, instance_id)).transpose()?;
        let excluded = ExcludedDirectories::default();
        let scanner = Scanner {
            excluded: excluded.clone(),
            root: Arc::clone(&root),
            index: store.index().clone(),
            ignore_ctime: settings.ignore_ctime,
            inbox: inbox.clone(),
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
            screen,
            root,
            store,
            inbox,
            watcher: Arc::default(),
            excluded,
            chain,
            examiner: Arc::new(examiner),
            scanner,
            counters: Counters::default(),
            events_before: observed.events.now(),
            observed,
            traces,
            instance_id: instance_id.to_owned(),
            is_index_new,
            latencies: Mutex::default(),
            conditions: Conditions::default(),
            relocated,
            approving: tokio::sync::Mutex::default(),
            readers,
            replay_begun: Notify::new(),
        })
    }

    /// Does `work`, unless the store turns out to be corrupt: then nothing would succeed any more.
    ///
    /// # Errors
    /// The error of `work`, or that of the corrupt store.
    pub async fn unless_corrupt<T>(
        corruption: &Corruption,
        work: impl Future<Output = Result<T, ServiceError>>,
    ) -> Result<T, ServiceError> {
        let done = tokio::select! {
            done = work => done,
            found = corruption.wait() => Err(found.into()),
        };
        // The work may have failed because of the corruption, and may have ended first.
        match (done, corruption.found()) {
            (Err(_), Some(found)) => Err(found.into()),
            (done, _) => done,
        }
    }

    /// Does `work` on the store, which the caller retries after an error. Never returns an error of a corrupt store, as a
    /// retry would fail too: [`Service::unless_corrupt`] then ends the program.
    async fn or_wait_if_corrupt<T>(&self, work: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        let done = work.await;
        if done.is_err() && self.store.corruption().found().is_some() {
            return std::future::pending().await;
        }
        done
    }

    /// The corruption of the store, if any is found.
    #[must_use]
    pub fn corruption(&self) -> Corruption {
        self.store.corruption().clone()
    }
}

/// Opens the library with the rules of the settings.
fn open_root(settings: &Settings) -> Result<Root, ServiceError> {
    let root = Root::open(&settings.root)
        .and_then(|root| root.trusting_inodes(settings.inode_trust))
        .map_err(|source| ServiceError::Library { path: settings.root.display().to_string(), source })?;
    Ok(root.with_rules(settings.rules.clone()).following_links(settings.follow_symlinks))
}

/// Replaces the store at `file` by a new one, and logs what was kept of the old one.
fn rebuild(file: &Path, library: &[u8], encoder: &Encoder) -> Result<(), StoreError> {
    match crate::store::rebuild(file, library, encoder)? {
        None => tracing::info!("there is no index to rebuild; a new one is created"),
        Some(Rebuilt { aside, messages, parked, paths, whole, last_sequence, old_library }) => {
            let aside = aside.display();
            if let Some(old_library) = old_library {
                tracing::warn!(
                    old_library,
                    paths,
                    "the old index belongs to another library path: all its paths are published as deleted"
                );
            }
            if whole {
                tracing::warn!(%aside, messages, parked, paths, last_sequence, "a new index replaces the old one");
            } else {
                tracing::error!(
                    %aside, messages, parked, paths, last_sequence,
                    "a new index replaces the old one, which could not be read completely: undelivered messages may \
                     be missing, and deletes of files that were removed while the watcher did not run"
                );
            }
        }
    }
    Ok(())
}

/// Publishes all files of a moved library as moved, if a relocation was requested and is not done yet.
fn relocate_store(settings: &Settings, file: &Path, encoder: &Encoder) -> Result<Option<Relocated>, StoreError> {
    let Some(Relocation { from, .. }) = &settings.relocation else { return Ok(None) };
    let relocated = match crate::store::relocate(file, from, &settings.root, encoder) {
        // On a first start there is nothing to relocate.
        Err(StoreError::NothingToRelocate { .. }) if settings.command != Command::Relocate => return Ok(None),
        relocated => relocated?,
    };
    if let Relocated::Done { messages } = relocated {
        let (from, to) = (from.display(), settings.root.display());
        tracing::info!(%from, %to, messages, "the library was relocated; its files are published as moved");
    }
    Ok(Some(relocated))
}

/// The sink of the settings.
#[must_use]
pub fn sink_of(settings: &Settings, instance_id: &str) -> Sink {
    match settings.sink {
        SinkKind::Stdout => {
            if std::fs::read_link("/proc/self/fd/1").is_ok_and(|target| target == Path::new("/dev/null")) {
                tracing::warn!("standard output is closed or /dev/null: messages go nowhere and count as delivered");
            }
            Sink::Stdout(Stdout::new())
        }
        SinkKind::Amqp => {
            let watched_directory = settings.root.to_string_lossy();
            let amqp = AmqpSettings {
                tls: settings.tls.clone(),
                reread: settings.reread.clone(),
                unroutable: settings.unroutable,
                is_traced: settings.otlp_endpoint.is_some(),
                frame_max: memory::is_little(settings).then_some(SMALL_FRAME),
                ..AmqpSettings::new(settings.broker.clone(), instance_id, &watched_directory)
            };
            Sink::Amqp(Box::new(Amqp::new(amqp)))
        }
    }
}

/// The longest wait before an operation on the store is retried.
const MAX_RETRY_WAIT: Duration = Duration::from_secs(30);

fn retry_waits() -> impl Iterator<Item = Duration> {
    backon::ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(100))
        .with_max_delay(MAX_RETRY_WAIT)
        .with_jitter()
        .without_max_times()
        .build()
}

/// A token that the first SIGTERM or SIGINT cancels. The second one exits the process at once with `exit_code`.
///
/// # Errors
/// If the signal handlers cannot be installed.
pub fn shutdown_on_signals(exit_code: u8, screen: &Screen) -> std::io::Result<CancellationToken> {
    use tokio::signal::unix::{SignalKind, signal};

    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let token = CancellationToken::new();
    let cancelled = token.clone();
    let screen = screen.clone();
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
        // Whatever is not committed is found again at the next start.
        tracing::warn!("interrupted at once; the next start continues where this one stopped");
        screen.clear_progress();
        std::process::exit(exit_code.into());
    });
    Ok(token)
}
