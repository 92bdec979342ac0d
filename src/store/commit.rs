//! The writer: what happens inside a transaction.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use jiff::Timestamp;
use rusqlite::{Connection, TransactionBehavior, params};
use tokio::sync::watch;
use uuid::Uuid;

use super::{StoreError, index};
use crate::classify::{self, RowUpdate, Rows};
use crate::message::{Encoder, Stamp};
use crate::model::{LibraryPath, Observation, Outgoing, Row};

/// What a commit came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Committed {
    /// How many messages of each event type went into the outbox.
    pub events: BTreeMap<&'static str, u64>,
    /// How many observations changed nothing that consumers know.
    pub unchanged: u64,
    /// Paths to look at again.
    pub again: Vec<LibraryPath>,
}

/// The one connection that writes.
pub(super) struct Writer {
    connection: Connection,
    encoder: Encoder,
    last_sequence: u64,
    announce: watch::Sender<u64>,
    waiting: Arc<AtomicU64>,
}

impl Writer {
    pub(super) fn new(
        connection: Connection,
        encoder: Encoder,
        announce: watch::Sender<u64>,
        waiting: Arc<AtomicU64>,
    ) -> Result<Self, StoreError> {
        let last_sequence = last_sequence(&connection)?;
        Ok(Self { connection, encoder, last_sequence, announce, waiting })
    }

    pub(super) fn commit(&mut self, batch: &[Observation]) -> Result<Committed, StoreError> {
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let mut rows = Rows::new();
        for path in classify::paths_touched(batch) {
            rows.extend(index::row(&transaction, path)?.map(|row| (path.clone(), row)));
        }
        let decision = classify::classify(&rows, batch);

        for update in &decision.updates {
            match update {
                RowUpdate::Put(row) => put(&transaction, row)?,
                RowUpdate::Remove(path) => {
                    transaction
                        .prepare_cached("DELETE FROM files WHERE path = ?1")?
                        .execute(params![path.as_bytes()])?;
                }
            }
        }
        let at = Timestamp::now();
        let mut committed = Committed { again: decision.again, ..Committed::default() };
        let mut sequence = self.last_sequence;
        for event in &decision.changes {
            sequence += 1;
            let stamp = Stamp { sequence, at, correlation_id: Uuid::new_v4() };
            enqueue(&transaction, &self.encoder.encode(event, &stamp))?;
            *committed.events.entry(event.change.event_type()).or_default() += 1;
        }
        // A batch that changes nothing needs no disk.
        if !decision.updates.is_empty() || !decision.changes.is_empty() {
            transaction.commit()?;
        }
        self.waiting.fetch_add(sequence - self.last_sequence, Ordering::Relaxed);
        self.last_sequence = sequence;
        self.announce.send_if_modified(|newest| std::mem::replace(newest, sequence) != sequence);
        let told = u64::try_from(decision.changes.len()).unwrap_or(u64::MAX);
        committed.unchanged = u64::try_from(batch.len()).unwrap_or(u64::MAX).saturating_sub(told);
        Ok(committed)
    }

    pub(super) fn forget(&mut self, sequence: u64) -> Result<(), StoreError> {
        // Were this lost with the power, the messages would only be delivered once more: no need to
        // wait for the disk, which the next commit makes up for.
        self.connection.pragma_update(None, "synchronous", "NORMAL")?;
        let forgotten = self
            .connection
            .prepare_cached("DELETE FROM outbox WHERE sequence <= ?1")
            .and_then(|mut statement| statement.execute(params![sequence.cast_signed()]));
        self.connection.pragma_update(None, "synchronous", "FULL")?;
        self.waiting.fetch_sub(u64::try_from(forgotten?).unwrap_or(0), Ordering::Relaxed);
        Ok(())
    }
}

fn put(connection: &Connection, row: &Row) -> Result<(), StoreError> {
    let metadata = serde_json::to_string(&row.track.metadata).expect("strings and finite numbers are always JSON");
    connection
        .prepare_cached(
            "INSERT INTO files (path, device, inode, size, mtime_ns, ctime_ns, sha256, xxh128, metadata)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)
             ON CONFLICT (path) DO UPDATE SET device = ?2, inode = ?3, size = ?4, mtime_ns = ?5, ctime_ns = ?6,
                 sha256 = ?7, xxh128 = ?8, metadata = ?9",
        )?
        .execute(params![
            row.path.as_bytes(),
            row.stat.device.cast_signed(),
            row.stat.inode.cast_signed(),
            row.stat.size.cast_signed(),
            row.stat.mtime_ns,
            row.stat.ctime_ns,
            &row.track.fingerprint.sha256[..],
            &row.track.fingerprint.xxh128.to_be_bytes()[..],
            metadata,
        ])?;
    Ok(())
}

fn enqueue(connection: &Connection, outgoing: &Outgoing) -> Result<(), StoreError> {
    connection
        .prepare_cached(
            "INSERT INTO outbox (sequence, event_type, correlation_id, timestamp, body) VALUES (?1, ?2, ?3, ?4, ?5)",
        )?
        .execute(params![
            outgoing.sequence.cast_signed(),
            outgoing.event_type,
            outgoing.correlation_id,
            outgoing.timestamp.cast_signed(),
            outgoing.body,
        ])?;
    Ok(())
}

/// The messages after `after`, in order, at most `limit` of them.
pub(super) fn outbox_after(connection: &Connection, after: u64, limit: usize) -> Result<Vec<Outgoing>, StoreError> {
    let mut statement = connection.prepare_cached(
        "SELECT sequence, event_type, correlation_id, timestamp, body FROM outbox
         WHERE sequence > ?1 ORDER BY sequence LIMIT ?2",
    )?;
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let rows = statement.query_map(params![after.cast_signed(), limit], |row| {
        Ok(Outgoing {
            sequence: row.get::<_, i64>(0)?.cast_unsigned(),
            event_type: row.get(1)?,
            correlation_id: row.get(2)?,
            timestamp: row.get::<_, i64>(3)?.cast_unsigned(),
            body: row.get(4)?,
        })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

pub(super) fn outbox_length(connection: &Connection) -> Result<u64, StoreError> {
    let count: i64 = connection.query_row("SELECT count(*) FROM outbox", [], |row| row.get(0))?;
    Ok(count.cast_unsigned())
}

/// The newest sequence number ever given out, delivered or not: AUTOINCREMENT remembers it.
pub(super) fn last_sequence(connection: &Connection) -> Result<u64, StoreError> {
    let newest: i64 = connection.query_row(
        "SELECT coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'outbox'), 0)",
        [],
        |row| row.get(0),
    )?;
    Ok(newest.cast_unsigned())
}
