//! Reads published files again: for `file-watcher verify`, and every night if `VERIFY_INTERVAL_DAYS` is set.

use std::collections::HashSet;
use std::convert::Infallible;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use data_encoding::HEXLOWER;
use rayon::iter::{IntoParallelRefIterator, ParallelIterator};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::inventory::index_of;
use super::{Service, ServiceError, open_root, readers};
use crate::config::Settings;
use crate::content::{Reader, Verification, verify as verify_file};
use crate::disk::Root;
use crate::metrics::Metrics;
use crate::model::{Index as _, LibraryPath, Row, VerifyRequest, printable};
use crate::screen::Screen;
use crate::status::{Condition, ConditionKind, Progress, ScanProgress, VerifySummary, scan_text};
use crate::store::{Due, IndexReader, Rotten, StoreError, Verified};

/// The files that are read between two records of what was read.
const PAGE: usize = 64;

/// The hours of the night, in local time.
const NIGHT: std::ops::Range<i8> = 1..6;

/// How often to check whether it is night.
const NIGHT_CHECK: Duration = Duration::from_mins(10);

/// What reads files again.
struct Files<'a> {
    root: &'a Root,
    reader: Reader,
    ignore_ctime: bool,
}

impl Files<'_> {
    fn verify(&self, row: &Row) -> Result<Verification, io::Error> {
        verify_file(self.root, &self.reader, row, self.ignore_ctime)
    }
}

/// What has files read again and records the results.
struct Verifier<'a> {
    files: Files<'a>,
    index: &'a IndexReader,
    record: Verified,
    /// The shortest time from one file to the next.
    per_file: Duration,
    summary: VerifySummary,
}

/// What one file turned out to be, if it is not as it was published.
enum Finding {
    Rotten(Rotten),
    Changed(LibraryPath),
    Failed(LibraryPath, io::Error),
}

impl Verifier<'_> {
    /// Reads the files of these rows with `verify`, and records those that are as they were published and the rotten ones.
    fn page(
        &mut self,
        rows: &[Row],
        verify: impl Fn(&Files<'_>, &[Row]) -> Vec<Result<Verification, io::Error>>,
    ) -> Result<Vec<Finding>, StoreError> {
        let begun = Instant::now();
        let verified = verify(&self.files, rows);
        let now = seconds_since_epoch();
        let (mut as_published, mut findings) = (Vec::new(), Vec::new());
        for (row, verification) in rows.iter().zip(verified) {
            self.summary.files += 1;
            match verification {
                Ok(Verification::AsPublished) => {
                    self.summary.bytes += row.stat.size;
                    as_published.push(row.clone());
                }
                Ok(Verification::Rotten { found }) => {
                    self.summary.bytes += row.stat.size;
                    // The row may have changed while the file was read.
                    if self.index.row(&row.path)?.is_none_or(|now| now.track.fingerprint != row.track.fingerprint) {
                        continue;
                    }
                    let published = row.track.fingerprint.sha256;
                    let rotten = Rotten { path: row.path.clone(), published, found, since: now };
                    self.record.record_rotten(&rotten)?;
                    self.summary.rotten += 1;
                    findings.push(Finding::Rotten(rotten));
                }
                Ok(Verification::Changed) => {
                    self.summary.changed += 1;
                    findings.push(Finding::Changed(row.path.clone()));
                }
                Err(error) => {
                    self.summary.failed += 1;
                    findings.push(Finding::Failed(row.path.clone(), error));
                }
            }
        }
        self.record.record(&as_published, now)?;
        let pause = self.per_file * u32::try_from(rows.len()).unwrap_or(u32::MAX);
        thread::sleep(pause.saturating_sub(begun.elapsed()));
        Ok(findings)
    }
}

/// Reads the files of the index again that the request selects, and writes a line to `out` for each that is not as it
/// was published. Works whether a service is running or not. After an interruption, `since` leaves out what was read.
///
/// # Errors
///
/// If the index cannot be read, the record cannot be written, or `out` cannot be written.
pub fn verify(
    settings: &Settings,
    request: &VerifyRequest,
    screen: &Screen,
    out: &mut impl Write,
) -> Result<VerifySummary, ServiceError> {
    let index = index_of(settings)?;
    let root = open_root(settings)?;
    let pool = readers(settings.max_concurrent_files)?;
    let mut verifier = Verifier {
        files: Files {
            root: &root,
            reader: Reader::new(settings.max_bytes_per_second, Metrics::new()),
            ignore_ctime: settings.ignore_ctime,
        },
        index: &index,
        record: Verified::open(&settings.store_file())?,
        per_file: per_file(settings),
        summary: VerifySummary::default(),
    };
    let mut progress = Progress::default();
    let before = |since: Duration| seconds_since_epoch() - i64::try_from(since.as_secs()).unwrap_or(0);
    let before = request.since.map_or(i64::MAX, before);
    let mut after = None;
    loop {
        let due = Due::Under { under: request.under.clone(), before, after: after.take() };
        let rows = verifier.record.due(&due, PAGE)?;
        let Some(last) = rows.last() else { break };
        after = Some(last.path.clone());
        let known: Vec<Row> = rows.into_iter().filter(|row| !row.is_forgotten()).collect();
        let read_all =
            |files: &Files<'_>, rows: &[Row]| pool.install(|| rows.par_iter().map(|row| files.verify(row)).collect());
        for finding in verifier.page(&known, read_all)? {
            screen.clear_progress();
            writeln!(out, "{}", line_of(&finding, request.json)).map_err(ServiceError::Output)?;
        }
        let summary = verifier.summary;
        let scan = ScanProgress { files: summary.files, total: None, bytes: summary.bytes };
        if let Some(pace) = progress.pace(Some(scan), Instant::now()) {
            screen.show_progress(summary.files, None, scan_text(scan, pace));
        }
    }
    screen.clear_progress();
    Ok(verifier.summary)
}

fn line_of(finding: &Finding, json: bool) -> String {
    let (problem, path) = match finding {
        Finding::Rotten(rotten) => ("rotten", &rotten.path),
        Finding::Changed(path) => ("changed", path),
        Finding::Failed(path, _) => ("failed", path),
    };
    let hex = |sha256: &[u8; 32]| HEXLOWER.encode(sha256);
    match (finding, json) {
        (Finding::Rotten(Rotten { published, found, .. }), true) => {
            json!({"problem": problem, "path": path.to_string(), "published_sha256": hex(published), "found_sha256": hex(found)})
                .to_string()
        }
        (Finding::Failed(_, error), true) => {
            json!({"problem": problem, "path": path.to_string(), "error": error.to_string()}).to_string()
        }
        (Finding::Changed(_), true) => json!({"problem": problem, "path": path.to_string()}).to_string(),
        (Finding::Failed(_, error), false) => format!("{problem:<8}  {}: {error}", printable(&path.to_string())),
        (_, false) => format!("{problem:<8}  {}", printable(&path.to_string())),
    }
}

fn per_file(settings: &Settings) -> Duration {
    settings.max_files_per_second.map_or(Duration::ZERO, |rate| Duration::from_secs(1) / rate.get())
}

fn seconds_since_epoch() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_secs()).unwrap_or(i64::MAX)
}

impl Service {
    /// Reads a part of the library again every night, if that is wanted, and keeps the condition about rotten files.
    /// Never returns.
    pub(super) async fn verify_nightly(self: &Arc<Self>, end_of_run: CancellationToken) -> Infallible {
        let store = self.settings.store_file();
        let mut last_night = None;
        loop {
            self.note_rotten(&store).await;
            let now = jiff::ZonedDateTime::now();
            let is_due = NIGHT.contains(&now.hour()) && last_night != Some(now.date());
            if let Some(days) = self.settings.verify_interval_days.filter(|_| is_due) {
                last_night = Some(now.date());
                self.verify_slice(store.clone(), days.get(), end_of_run.clone()).await;
                self.note_rotten(&store).await;
            }
            tokio::time::sleep(NIGHT_CHECK).await;
        }
    }

    /// Reads the files again that were not read for the longest time: so many that the whole library takes `days`.
    async fn verify_slice(self: &Arc<Self>, store: PathBuf, days: u32, end: CancellationToken) {
        let service = Arc::clone(self);
        let begun = Instant::now();
        let verified = tokio::task::spawn_blocking(move || service.verify_slice_now(&store, days, &end)).await;
        match verified {
            Ok(Ok(VerifySummary { files, bytes, rotten, changed, failed })) => tracing::info!(
                files,
                bytes,
                rotten,
                changed,
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
        let mut verifier = Verifier {
            files: Files {
                root: &self.root,
                reader: self.examiner.contents.beside(),
                ignore_ctime: self.settings.ignore_ctime,
            },
            index,
            record: Verified::open(store)?,
            per_file: per_file(&self.settings),
            summary: VerifySummary::default(),
        };
        // What this night reads is not due a second time, also if it cannot be read.
        let due = Due::Oldest { before: seconds_since_epoch() };
        let mut tried = HashSet::new();
        while verifier.summary.bytes < slice && !end.is_cancelled() {
            let mut rows = verifier.record.due(&due, PAGE + tried.len())?;
            rows.retain(|row| !tried.contains(&row.path) && !row.is_forgotten());
            rows.truncate(PAGE);
            if rows.is_empty() {
                break;
            }
            // One after the other: the machine has other work.
            let one_by_one = |files: &Files<'_>, rows: &[Row]| rows.iter().map(|row| files.verify(row)).collect();
            let before = verifier.summary;
            let findings = verifier.page(&rows, one_by_one)?;
            self.metrics.count_verified(verifier.summary.files - before.files, verifier.summary.bytes - before.bytes);
            for finding in findings {
                match finding {
                    Finding::Rotten(Rotten { path, .. }) => {
                        tracing::warn!(%path, "rotten: another content than was published, with the same size and times");
                        tried.insert(path);
                    }
                    Finding::Changed(path) => {
                        self.inbox.mark(path.clone(), Duration::ZERO);
                        tried.insert(path);
                    }
                    Finding::Failed(path, error) => {
                        tracing::warn!(%path, %error, "cannot be verified");
                        tried.insert(path);
                    }
                }
            }
        }
        Ok(verifier.summary)
    }

    /// Keeps the condition about rotten files, whoever found them.
    async fn note_rotten(&self, store: &Path) {
        let store = store.to_path_buf();
        let count = move || if Verified::exists(&store) { Verified::open(&store)?.rotten() } else { Ok(Vec::new()) };
        match tokio::task::spawn_blocking(count).await {
            Ok(Ok(rotten)) => {
                self.metrics.set_rotten(rotten.len() as u64);
                let first = rotten.first().map(|rotten| rotten.path.to_string()).unwrap_or_default();
                let condition = Condition::Rotten { files: rotten.len(), first };
                self.conditions.set_or_clear(ConditionKind::Rotten, (!rotten.is_empty()).then_some(condition));
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
