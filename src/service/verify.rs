//! Reads published files again: for `file-watcher verify`, and every night if `VERIFY_INTERVAL_DAYS` is set.

use std::collections::HashSet;
use std::convert::Infallible;
use std::io::{self, Write};
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use data_encoding::HEXLOWER;
use governor::clock::{Clock, DefaultClock};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::inventory::{check_known, index_of, rotten_condition};
use super::readers::useful_readers;
use super::{Service, ServiceError, open_root};
use crate::config::Settings;
use crate::content::{Reader, Verification, verify as verify_file};
use crate::disk::Root;
use crate::metrics::Metrics;
use crate::model::{Index as _, LibraryPath, PublishedPath, Row, VerifyRequest, printable};
use crate::screen::Screen;
use crate::status::{ConditionKind, Progress, ScanProgress, VerifySummary, scan_text};
use crate::store::{Due, IndexReader, Rotten, StoreError, Verified};

/// The files that are read between two records of what was read.
const PAGE: usize = 64;

/// The hours of the night, in local time.
const NIGHT: std::ops::Range<i8> = 1..6;

/// How often the service checks whether it is night, and which files are known to be rotten.
const CHECK: Duration = Duration::from_secs(30);

/// What reads files again.
struct Files<'a> {
    root: &'a Root,
    reader: Reader,
    ignore_ctime: bool,
    per_second: Option<DefaultDirectRateLimiter>,
}

impl<'a> Files<'a> {
    fn new(root: &'a Root, reader: Reader, settings: &Settings) -> Self {
        // One file at a time may be begun: this runs for hours, beside other work.
        let limiter = |rate| RateLimiter::direct(Quota::per_second(rate).allow_burst(NonZeroU32::MIN));
        Self {
            root,
            reader,
            ignore_ctime: settings.ignore_ctime,
            per_second: settings.max_files_per_second.map(limiter),
        }
    }

    /// Reads the file of a row again, within the rate limits; `None` if `end` comes before it is begun.
    fn verify(&self, row: &Row, end: &CancellationToken) -> Option<io::Result<Verification>> {
        if let Some(limiter) = &self.per_second {
            while let Err(not_until) = limiter.check() {
                if end.is_cancelled() {
                    return None;
                }
                thread::sleep(not_until.wait_time_from(DefaultClock::default().now()));
            }
        }
        (!end.is_cancelled()).then(|| verify_file(self.root, &self.reader, row, self.ignore_ctime))
    }
}

/// Records what was read again.
struct Recorder<'a> {
    index: &'a IndexReader,
    record: Verified,
    /// Those that were as they were published, since the last record.
    as_published: Vec<Row>,
    summary: VerifySummary,
}

/// What one file turned out to be, if it is not as it was published.
enum Finding {
    Rotten(Rotten),
    Changed(LibraryPath),
    Gone(LibraryPath),
    Failed(LibraryPath, io::Error),
}

impl<'a> Recorder<'a> {
    fn open(store: &Path, index: &'a IndexReader) -> Result<Self, StoreError> {
        let record = Verified::open(store)?;
        Ok(Self { index, record, as_published: Vec::new(), summary: VerifySummary::default() })
    }

    /// Takes the result of one file. A rotten one is recorded at once.
    fn take(&mut self, row: Row, result: io::Result<Verification>) -> Result<Option<Finding>, StoreError> {
        let summary = &mut self.summary;
        summary.files += 1;
        let finding = match result {
            Ok(Verification::AsPublished) => {
                summary.bytes += row.stat.size;
                self.as_published.push(row);
                None
            }
            Ok(Verification::Rotten { found }) => {
                summary.bytes += row.stat.size;
                let published = row.track.fingerprint.sha256;
                // The row may have changed while the file was read.
                if self.index.row(&row.path)?.is_none_or(|now| now.track.fingerprint.sha256 != published) {
                    return Ok(None);
                }
                let rotten = Rotten { path: row.path, published, found, since: seconds_since_epoch() };
                self.record.record_rotten(&rotten)?;
                summary.rotten += 1;
                Some(Finding::Rotten(rotten))
            }
            Ok(Verification::Changed) => {
                summary.changed += 1;
                Some(Finding::Changed(row.path))
            }
            Ok(Verification::Gone) => {
                summary.gone += 1;
                Some(Finding::Gone(row.path))
            }
            Err(error) => {
                summary.failed += 1;
                Some(Finding::Failed(row.path, error))
            }
        };
        Ok(finding)
    }

    /// Records the files that were as they were published.
    fn record(&mut self) -> Result<(), StoreError> {
        self.record.record(&self.as_published, seconds_since_epoch())?;
        self.as_published.clear();
        Ok(())
    }
}

/// Reads the files of the index again that the request selects, and writes a line to `out` for each that is not as it
/// was published, at once. Works whether a service is running or not. Begins no other file after `end`; then `since`
/// leaves out what was read.
///
/// # Errors
///
/// If nothing is known at the path, the index cannot be read, the record cannot be written, or `out` cannot be written.
pub fn verify(
    settings: &Settings,
    request: &VerifyRequest,
    screen: &Screen,
    out: &mut impl Write,
    end: &CancellationToken,
) -> Result<VerifySummary, ServiceError> {
    let index = index_of(settings)?;
    check_known(&index, &request.under, settings)?;
    let root = open_root(settings)?;
    let threads = useful_readers(settings.max_concurrent_files);
    let files = Files::new(&root, Reader::new(settings.max_bytes_per_second, Metrics::new()), settings);
    let mut recorder = Recorder::open(&settings.store_file(), &index)?;
    let mut progress = Progress::default();
    let before = |since: Duration| seconds_since_epoch() - i64::try_from(since.as_secs()).unwrap_or(0);
    let before = request.since.map_or(i64::MAX, before);
    let total = recorder.record.count_due(&request.under, before)?;
    let mut after = None;
    while !end.is_cancelled() {
        let due = Due::Under { under: request.under.clone(), before, after: after.take() };
        let rows = recorder.record.due(&due, PAGE)?;
        let Some(last) = rows.last() else { break };
        after = Some(last.path.clone());
        // Tells the threads of this page to begin no other file, whatever the reason.
        let end_of_page = end.child_token();
        let _ends_page = end_of_page.clone().drop_guard();
        let rows = Mutex::new(rows.into_iter().filter(|row| !row.is_forgotten()));
        thread::scope(|scope| {
            let (results, received) = mpsc::channel();
            for _ in 0..threads {
                let (results, rows, files, end_of_page) = (results.clone(), &rows, &files, &end_of_page);
                let next = || rows.lock().unwrap_or_else(PoisonError::into_inner).next();
                let verify = move || {
                    while let Some(row) = next() {
                        if let Some(result) = files.verify(&row, end_of_page) {
                            // Nobody receives it after an error.
                            let _ = results.send((row, result));
                        }
                    }
                };
                thread::Builder::new().spawn_scoped(scope, verify).map_err(ServiceError::Threads)?;
            }
            drop(results);
            for (row, result) in received {
                let taken = recorder.take(row, result).map_err(ServiceError::from).and_then(|finding| {
                    let Some(finding) = finding else { return Ok(()) };
                    screen.clear_progress();
                    writeln!(out, "{}", line_of(&finding, settings, request.json)).map_err(ServiceError::Output)
                });
                if taken.is_err() {
                    end_of_page.cancel();
                    return taken;
                }
                let VerifySummary { files, bytes, .. } = recorder.summary;
                let scan = ScanProgress { files, total: Some(total), bytes };
                if let Some(pace) = progress.pace(Some(scan), Instant::now()) {
                    screen.show_progress(files, Some(total), scan_text(scan, pace));
                }
            }
            Ok(())
        })?;
        recorder.record()?;
    }
    screen.clear_progress();
    recorder.record.tidy()?;
    Ok(recorder.summary)
}

/// A line of `verify` as JSON.
#[derive(Serialize)]
struct JsonLine<'a> {
    problem: &'a str,
    #[serde(flatten)]
    path: PublishedPath,
    #[serde(skip_serializing_if = "Option::is_none")]
    published_sha256: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    found_sha256: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

fn line_of(finding: &Finding, settings: &Settings, json: bool) -> String {
    let (problem, path) = match finding {
        Finding::Rotten(rotten) => ("rotten", &rotten.path),
        Finding::Changed(path) => ("changed", path),
        Finding::Gone(path) => ("gone", path),
        Finding::Failed(path, _) => ("failed", path),
    };
    let hashes = match finding {
        Finding::Rotten(Rotten { published, found, .. }) => Some((HEXLOWER.encode(published), HEXLOWER.encode(found))),
        _ => None,
    };
    let error = match finding {
        Finding::Failed(_, error) => Some(error.to_string()),
        _ => None,
    };
    if json {
        let (published_sha256, found_sha256) = hashes.unzip();
        let path = PublishedPath::of(path, &settings.root);
        let line = JsonLine { problem, path, published_sha256, found_sha256, error };
        return serde_json::to_string(&line).expect("texts are always JSON");
    }
    let error = error.map(|error| format!(": {error}")).unwrap_or_default();
    format!("{problem:<8}  {}{error}", printable(&path.to_string()))
}

fn seconds_since_epoch() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_secs()).unwrap_or(i64::MAX)
}

impl Service {
    /// Reads a part of the library again every night. Never returns.
    pub(super) async fn verify_nightly(self: &Arc<Self>, end_of_run: CancellationToken) -> Infallible {
        let Some(days) = self.settings.verify_interval_days else { return std::future::pending().await };
        let mut last_night = None;
        loop {
            let now = jiff::ZonedDateTime::now();
            if NIGHT.contains(&now.hour()) && last_night != Some(now.date()) {
                last_night = Some(now.date());
                self.verify_slice(self.settings.store_file(), days.get(), end_of_run.clone()).await;
                self.note_rotten(&self.settings.store_file()).await;
            }
            tokio::time::sleep(CHECK).await;
        }
    }

    /// Keeps the condition about rotten files, whoever found them. Never returns.
    pub(super) async fn watch_rotten(&self) -> Infallible {
        let store = self.settings.store_file();
        loop {
            self.note_rotten(&store).await;
            tokio::time::sleep(CHECK).await;
        }
    }

    /// Reads the files again that were not read for the longest time: so many that the whole library takes `days`.
    async fn verify_slice(self: &Arc<Self>, store: PathBuf, days: u32, end: CancellationToken) {
        let service = Arc::clone(self);
        let begun = Instant::now();
        let verified = tokio::task::spawn_blocking(move || service.verify_slice_now(&store, days, &end)).await;
        match verified {
            Ok(Ok(VerifySummary { files, bytes, rotten, changed, gone, failed })) => tracing::info!(
                files,
                bytes,
                rotten,
                changed,
                gone,
                failed,
                took_s = begun.elapsed().as_secs(),
                "a part of the library was verified"
            ),
            Ok(Err(error)) => {
                tracing::error!(error = &error as &dyn std::error::Error, "the library cannot be verified");
            }
            Err(_) => tracing::error!("the library cannot be verified: a bug"),
        }
    }

    fn verify_slice_now(&self, store: &Path, days: u32, end: &CancellationToken) -> Result<VerifySummary, StoreError> {
        let index = self.store.index();
        let (_, total) = index.totals()?;
        let slice = total.div_ceil(u64::from(days));
        let files = Files::new(&self.root, self.examiner.contents.beside(), &self.settings);
        let mut recorder = Recorder::open(store, index)?;
        // What this night reads is not due a second time, also if it cannot be read.
        let due = Due::Oldest { before: seconds_since_epoch() };
        let mut tried = HashSet::new();
        while recorder.summary.bytes < slice && !end.is_cancelled() {
            let mut rows = recorder.record.due(&due, PAGE + tried.len())?;
            rows.retain(|row| !tried.contains(&row.path) && !row.is_forgotten());
            rows.truncate(PAGE);
            if rows.is_empty() {
                break;
            }
            // One after the other: the machine has other work.
            for row in rows {
                let before = recorder.summary.bytes;
                let Some(result) = files.verify(&row, end) else { break };
                let finding = recorder.take(row, result)?;
                self.observed.metrics.count_verified(1, recorder.summary.bytes - before);
                tried.extend(finding.map(|finding| self.report_finding(finding)));
            }
            recorder.record()?;
        }
        recorder.record.tidy()?;
        Ok(recorder.summary)
    }

    /// Logs a finding of the night, or has the change published; returns its path.
    fn report_finding(&self, finding: Finding) -> LibraryPath {
        match finding {
            Finding::Rotten(Rotten { path, .. }) => {
                tracing::warn!(%path, "rotten: another content than was published, with the same size and times");
                path
            }
            Finding::Changed(path) | Finding::Gone(path) => {
                self.inbox.mark(path.clone(), Duration::ZERO);
                path
            }
            Finding::Failed(path, error) => {
                tracing::warn!(%path, %error, "cannot be verified");
                path
            }
        }
    }

    async fn note_rotten(&self, store: &Path) {
        let store = store.to_path_buf();
        match tokio::task::spawn_blocking(move || Verified::rotten_of(&store)).await {
            Ok(Ok(rotten)) => {
                self.observed.metrics.set_rotten(rotten.len() as u64);
                self.conditions.set_or_clear(ConditionKind::Rotten, rotten_condition(&rotten));
            }
            Ok(Err(error)) => {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "the record of verified files cannot be read"
                );
            }
            Err(_) => {}
        }
    }
}
