//! The writer: the transactions.

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, Row as SqlRow, TransactionBehavior, params};
use tokio::sync::watch;
use uuid::Uuid;

use super::mark::Mark;
use super::mounts::KeptMounts;
use super::parked::Retries;
use super::{StoreError, columns, index};
use crate::classify::{self, Decision, RowUpdate, Rows};
use crate::failpoint::failpoint;
use crate::message::{Encoder, Stamp};
use crate::model::{FileEvent, LibraryPath, Observation, Origin, Outgoing, Row};

/// The result of a commit.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Committed {
    /// The events that were put into the outbox, in order.
    pub changes: Vec<FileEvent>,
    /// The sequence number of the last of them. The others have the numbers before it, in order.
    pub last_sequence: u64,
    /// Paths to look at again.
    pub again: Vec<LibraryPath>,
    /// Other names, by the index, of files that were committed in another state or lost a name. A write through one
    /// hard link causes no event for the others.
    pub other_names: Vec<LibraryPath>,
}

/// The only connection that writes.
pub(super) struct Writer {
    pub(super) connection: Connection,
    pub(super) encoder: Encoder,
    pub(super) store_id: Uuid,
    pub(super) mark: Mark,
    pub(super) last_sequence: u64,
    pub(super) announce: watch::Sender<u64>,
    pub(super) waiting: watch::Sender<u64>,
    pub(super) mounts: Option<KeptMounts>,
    pub(super) parked: watch::Sender<u64>,
    pub(super) last_retry: watch::Sender<i64>,
    pub(super) retries: Retries,
}

impl Writer {
    /// See [`super::Store::commit`].
    pub(super) fn commit(&mut self, batch: &[Observation]) -> Result<Committed, StoreError> {
        failpoint!("store::begin");
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let mut rows = Rows::new();
        for path in classify::paths_touched(batch) {
            rows.extend(index::row(&transaction, path)?.map(|row| (path.clone(), row)));
        }
        let decision = classify::classify(&rows, batch, Timestamp::now().as_second());

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
        let mut other_names = Vec::new();
        for update in &decision.updates {
            if let RowUpdate::Put(row) = update {
                other_names.extend(index::names_in_another_state(&transaction, row)?);
            }
            // A file that lost this name may have been written through it just before.
            if let Some(lost) = update.lost_file(&rows) {
                other_names.extend(index::names_of_inode(&transaction, lost)?);
            }
        }
        other_names.retain(|name| !decision.updates.iter().any(|update| update.path() == name));
        failpoint!("store::enqueue");
        let sequence = enqueue(&transaction, &self.encoder, self.store_id, &decision.changes, self.last_sequence)?;
        let mounts = self.mounts.as_ref().map(|mounts| mounts.write(&transaction)).transpose()?.flatten();
        // A batch that changes nothing does not wait for the disk.
        if decision.updates.is_empty() && decision.changes.is_empty() && mounts.is_none() {
            transaction.rollback()?;
        } else {
            failpoint!("store::reserve");
            self.mark.reserve(sequence)?;
            failpoint!("store::commit");
            transaction.commit()?;
            failpoint!("store::committed");
        }
        if let Some((kept, version)) = self.mounts.as_mut().zip(mounts) {
            kept.committed(version);
        }
        self.enqueued(sequence);
        let Decision { changes, again, .. } = decision;
        Ok(Committed { changes, last_sequence: sequence, again, other_names })
    }

    /// See [`super::Store::begin_replay`].
    pub(super) fn begin_replay(&mut self, under: &LibraryPath) -> Result<u64, StoreError> {
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let rows = index::count_under(&transaction, under)?;
        if rows > 0 {
            // This replay includes everything that is left of the older ones.
            let (start, end) = index::range_under(under);
            transaction.execute(
                "DELETE FROM replays WHERE under = ?1 OR (under > ?2 AND under < ?3)",
                params![under.as_bytes(), start, end],
            )?;
            transaction.execute("INSERT INTO replays (under) VALUES (?1)", params![under.as_bytes()])?;
        }
        transaction.commit()?;
        Ok(rows)
    }

    /// See [`super::Store::replay_some`].
    pub(super) fn replay_some(&mut self, limit: usize) -> Result<bool, StoreError> {
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let replay = transaction
            .query_row("SELECT id, under, after FROM replays ORDER BY id LIMIT 1", [], |row| {
                let after: Option<Vec<u8>> = row.get(2)?;
                let under = LibraryPath::from_bytes(row.get_ref(1)?.as_blob()?);
                Ok((row.get::<_, i64>(0)?, under, after.map(|after| LibraryPath::from_bytes(&after))))
            })
            .optional()?;
        let Some((id, under, after)) = replay else { return Ok(false) };
        let mut rows = Vec::new();
        for (path, _) in index::rows_after(&transaction, &under, after.as_ref(), limit)?.iter() {
            rows.extend(index::row(&transaction, &path)?);
        }
        match rows.last() {
            Some(last) => {
                transaction
                    .execute("UPDATE replays SET after = ?2 WHERE id = ?1", params![id, last.path.as_bytes()])?;
            }
            None => {
                transaction.execute("DELETE FROM replays WHERE id = ?1", params![id])?;
            }
        }
        // The next scan publishes forgotten rows, once their files are read.
        rows.retain(|row| !row.is_forgotten());
        let changes = classify::announce(rows, Origin::Replay);
        let sequence = enqueue(&transaction, &self.encoder, self.store_id, &changes, self.last_sequence)?;
        self.mark.reserve(sequence)?;
        transaction.commit()?;
        self.enqueued(sequence);
        Ok(true)
    }

    /// Notifies the readers that the messages up to `sequence` are in the outbox.
    fn enqueued(&mut self, sequence: u64) {
        let added = sequence - self.last_sequence;
        if added > 0 {
            self.mark.committed(sequence);
            self.last_sequence = sequence;
            self.waiting.send_modify(|waiting| *waiting += added);
            self.announce.send_replace(sequence);
        }
    }

    /// See [`super::Store::remove_delivered`].
    pub(super) fn remove_delivered(&mut self, sequence: u64) -> Result<(), StoreError> {
        failpoint!("store::forget");
        // Not synced to the disk: after a power failure, the messages would only be delivered again. The next commit
        // syncs this too.
        self.connection.pragma_update(None, "synchronous", "NORMAL")?;
        let removed =
            if self.has_to_park() { self.remove_and_park(sequence) } else { self.remove_from_outbox(sequence) };
        self.connection.pragma_update(None, "synchronous", "FULL")?;
        let removed = removed?;
        failpoint!("store::forgotten");
        self.waiting.send_modify(|waiting| *waiting = waiting.saturating_sub(removed));
        Ok(())
    }

    fn remove_from_outbox(&self, sequence: u64) -> Result<u64, StoreError> {
        let mut statement = self.connection.prepare_cached("DELETE FROM outbox WHERE sequence <= ?1")?;
        Ok(u64::try_from(statement.execute(params![sequence.cast_signed()])?).unwrap_or(0))
    }
}

/// Inserts or replaces a row of the index.
pub(super) fn put(connection: &Connection, row: &Row) -> Result<(), StoreError> {
    let metadata = serde_json::to_string(&row.track.metadata).expect("strings and finite numbers are always JSON");
    let [mtime_ns, ctime_ns] = columns::times(&row.stat);
    connection
        .prepare_cached(
            "INSERT INTO files (path, mount, inode, born_ns, size, mtime_ns, ctime_ns, sha256, xxh128, metadata,
                 first_published, audio_hash, audio_bytes)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)
             ON CONFLICT (path) DO UPDATE SET mount = ?2, inode = ?3, born_ns = ?4, size = ?5, mtime_ns = ?6,
                 ctime_ns = ?7, sha256 = ?8, xxh128 = ?9, metadata = ?10, first_published = ?11,
                 audio_hash = ?12, audio_bytes = ?13",
        )?
        .execute(params![
            row.path.as_bytes(),
            row.stat.mount.0,
            columns::inode(&row.stat),
            row.stat.born_ns,
            row.stat.size.cast_signed(),
            mtime_ns,
            ctime_ns,
            &row.track.fingerprint.sha256[..],
            &row.track.fingerprint.xxh128.to_be_bytes()[..],
            metadata,
            row.first_published,
            row.track.sound.map(|sound| sound.xxh128.to_be_bytes()),
            row.track.sound.map(|sound| sound.bytes.cast_signed()),
        ])?;
    Ok(())
}

/// Puts a message for each change into the outbox, with sequence numbers after `last_sequence`; returns the last one.
fn enqueue(
    connection: &Connection,
    encoder: &Encoder,
    store_id: Uuid,
    changes: &[FileEvent],
    last_sequence: u64,
) -> Result<u64, StoreError> {
    let at = Timestamp::now();
    let mut sequence = last_sequence;
    for event in changes {
        sequence += 1;
        let stamp = Stamp { store_id, sequence, at, correlation_id: Uuid::new_v4() };
        insert(connection, &encoder.encode(event, &stamp))?;
    }
    Ok(sequence)
}

/// Puts a message into the outbox.
pub(super) fn insert(connection: &Connection, message: &Outgoing) -> Result<(), StoreError> {
    connection
        .prepare_cached(
            "INSERT INTO outbox (sequence, event_type, correlation_id, timestamp, body) VALUES (?1, ?2, ?3, ?4, ?5)",
        )?
        .execute(params![
            message.sequence.cast_signed(),
            message.event_type,
            message.correlation_id,
            message.timestamp.cast_signed(),
            message.body,
        ])?;
    Ok(())
}

/// The next messages after the sequence number `after`, at most `limit`.
pub(super) fn outbox_after(connection: &Connection, after: u64, limit: usize) -> Result<Vec<Outgoing>, StoreError> {
    let mut statement = connection.prepare_cached(
        "SELECT sequence, event_type, correlation_id, timestamp, body FROM outbox
         WHERE sequence > ?1 ORDER BY sequence LIMIT ?2",
    )?;
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let rows = statement.query_map(params![after.cast_signed(), limit], outgoing_from)?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// The message in a row whose first columns are those of the outbox, in order.
pub(super) fn outgoing_from(row: &SqlRow<'_>) -> Result<Outgoing, rusqlite::Error> {
    Ok(Outgoing {
        sequence: row.get::<_, i64>(0)?.cast_unsigned(),
        event_type: row.get(1)?,
        correlation_id: row.get(2)?,
        timestamp: row.get::<_, i64>(3)?.cast_unsigned(),
        body: row.get(4)?,
    })
}

/// The number of messages in the outbox.
pub(super) fn outbox_length(connection: &Connection) -> Result<u64, rusqlite::Error> {
    let count: i64 = connection.query_row("SELECT count(*) FROM outbox", [], |row| row.get(0))?;
    Ok(count.cast_unsigned())
}

/// The last sequence number that was given out, even if the message is removed: AUTOINCREMENT keeps it.
pub(super) fn last_sequence(connection: &Connection) -> Result<u64, StoreError> {
    let newest: i64 = connection.query_row(
        "SELECT coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'outbox'), 0)",
        [],
        |row| row.get(0),
    )?;
    Ok(newest.cast_unsigned())
}
