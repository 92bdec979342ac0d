//! Answers from the index alone, whether a service is running on it or not.

use std::io::Write;
use std::path::Path;
use std::time::SystemTime;

use data_encoding::HEXLOWER;

use super::ServiceError;
use super::reporter::{age, condition_report, rfc3339};
use crate::config::Settings;
use crate::message::Encoder;
use crate::model::{FileType, LibraryPath, PublishedPath, Row, Selection, printable};
use crate::status::{
    Active, Condition, DuplicateFile, DuplicatesLine, DuplicatesReport, IndexReport, OutboxReport, Report,
    duration_text, human_bytes, kilohertz,
};
use crate::store::{DuplicateGroup, DuplicatePath, Duplicates, IndexReader, Rotten, StoreError, Verified};

/// The rows that are read at once. A longer read would keep the service from shortening its log.
const PAGE: usize = 1_000;

/// How `list` ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Listed {
    /// The number of listed files.
    pub files: u64,
    /// The sum of their sizes.
    pub bytes: u64,
}

/// Writes the selected files of the index to `out`: a table, or JSON with one file per line.
///
/// # Errors
///
/// If the index cannot be read, or `out` cannot be written.
pub fn list(
    settings: &Settings,
    selection: &Selection,
    json: bool,
    out: &mut impl Write,
) -> Result<Listed, ServiceError> {
    let index = index_of(settings)?;
    check_known(&index, &selection.under, settings)?;
    let encoder = Encoder::new("", &settings.root, settings.metadata_style).with_tags(settings.tag_set);
    let mut listed = Listed::default();
    let mut after: Option<LibraryPath> = None;
    loop {
        let rows = index.full_rows_after(&selection.under, after.as_ref(), PAGE).map_err(StoreError::from)?;
        let Some(last) = rows.last() else { return Ok(listed) };
        after = Some(last.path.clone());
        for row in rows.iter().filter(|row| !row.is_forgotten() && selection.contains(row)) {
            if listed.files == 0 && !json {
                writeln!(out, "{TABLE_HEAD}").map_err(ServiceError::Output)?;
            }
            let line = if json { encoder.describe(row) } else { table_line(row) };
            writeln!(out, "{line}").map_err(ServiceError::Output)?;
            listed.files += 1;
            listed.bytes += row.stat.size;
        }
    }
}

/// The groups of files with equal content of which one is at or under `under`, at most `limit`.
///
/// # Errors
///
/// If the index cannot be read.
pub fn duplicates(settings: &Settings, under: &LibraryPath, limit: usize) -> Result<DuplicatesReport, ServiceError> {
    let index = index_of(settings)?;
    check_known(&index, under, settings)?;
    let found = index.duplicates(under, limit).map_err(StoreError::from)?;
    Ok(report_of(found, &settings.root))
}

/// What is known while no service is running.
///
/// # Errors
///
/// If the index cannot be read.
pub fn status_at_rest(settings: &Settings, instance_id: &str) -> Result<Report, ServiceError> {
    let index = index_of(settings)?;
    let (files, bytes) = index.totals().map_err(StoreError::from)?;
    let (messages, parked) = index.undelivered().map_err(StoreError::from)?;
    let oldest = index.oldest_message().map_err(StoreError::from)?;
    let rotten = Verified::rotten_of(&settings.store_file())?;
    let since = rotten.iter().map(|rotten| rotten.since).min().unwrap_or_default();
    let rotten = rotten_condition(&rotten).map(|condition| condition_report(&Active { condition, since }));
    let parked_messages = (parked > 0).then_some(Condition::MessagesParked { messages: parked });
    let since = index.oldest_parked().map_err(StoreError::from)?.unwrap_or_default();
    let parked_messages = parked_messages.map(|condition| condition_report(&Active { condition, since }));
    Ok(Report {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        instance_id: instance_id.to_owned(),
        library: settings.root.display().to_string(),
        now: rfc3339(SystemTime::now()),
        index: IndexReport { files, bytes },
        outbox: OutboxReport {
            messages,
            oldest_seconds: oldest.map(|at| age(at).as_secs_f64()),
            limit: settings.outbox_max_events,
        },
        parked,
        conditions: rotten.into_iter().chain(parked_messages).collect(),
        ..Report::default()
    })
}

/// The condition that these files are rotten, if there are any.
pub(super) fn rotten_condition(rotten: &[Rotten]) -> Option<Condition> {
    let first = rotten.first()?.path.to_string();
    Some(Condition::Rotten { files: rotten.len() as u64, first })
}

/// Refuses a path that the index knows nothing at or under.
pub(super) fn check_known(index: &IndexReader, under: &LibraryPath, settings: &Settings) -> Result<(), ServiceError> {
    if under.is_root() || !index.full_rows_after(under, None, 1).map_err(StoreError::from)?.is_empty() {
        return Ok(());
    }
    Err(ServiceError::NothingKnown(under.to_absolute(&settings.root)))
}

pub(super) fn index_of(settings: &Settings) -> Result<IndexReader, ServiceError> {
    use std::os::unix::ffi::OsStrExt;

    Ok(IndexReader::of_existing(&settings.store_file(), settings.root.as_os_str().as_bytes())?)
}

pub(super) fn report_of(found: Duplicates, root: &Path) -> DuplicatesReport {
    let file = |DuplicatePath { path, modified, is_hard_link }: DuplicatePath| DuplicateFile {
        path: path.to_string(),
        published: PublishedPath::of(&path, root),
        modified: jiff::Timestamp::from_second(modified).map(|time| time.to_string()).unwrap_or_default(),
        is_hard_link,
    };
    let group = |DuplicateGroup { sha256, size, wasted_bytes, files }: DuplicateGroup| DuplicatesLine {
        sha256_hash: HEXLOWER.encode(&sha256),
        size,
        wasted_bytes,
        files: files.into_iter().map(file).collect(),
    };
    DuplicatesReport {
        groups: found.groups.into_iter().map(group).collect(),
        total_groups: found.total_groups,
        wasted_bytes: found.wasted_bytes,
    }
}

const TABLE_HEAD: &str = "FORMAT    LENGTH      RATE       SIZE  PATH";

fn table_line(row: &Row) -> String {
    let metadata = &row.track.metadata;
    let length = metadata.duration.map(duration_text).unwrap_or_default();
    let rate = metadata.sample_rate.map(|rate| kilohertz(f64::from(rate))).unwrap_or_default();
    let size = human_bytes(row.stat.size as f64);
    let file_type = FileType::of(&row.path);
    format!("{:<6}  {length:>8}  {rate:>8}  {size:>9}  {}", file_type.as_str(), printable(&row.path.to_string()))
}
