//! Parked messages: they cannot be delivered, and are kept until the operator retries or drops them.
//!
//! A parked message that is retried stays in this table until it is delivered, with its position among the retries. It
//! cannot go back to the outbox, because all messages up to a sequence number are removed from there at once.

use std::collections::BTreeSet;

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, TransactionBehavior, params};
use serde::{Serialize, Serializer};

use super::StoreError;
use super::commit::Writer;
use crate::message;
use crate::model::{EventType, Outgoing, Refused};

/// A parked message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Parked {
    /// The sequence number.
    pub sequence: u64,
    /// The event type.
    pub event_type: EventType,
    /// The `file_path` of the message.
    pub path: String,
    /// The size of the body, in bytes.
    pub size: u64,
    /// Why the message cannot be delivered.
    pub reason: String,
    /// When the message was parked.
    #[serde(serialize_with = "as_text")]
    pub since: Timestamp,
}

fn as_text<S: Serializer>(time: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(time)
}

/// The state of the writer that concerns parked messages.
#[derive(Debug, Default)]
pub(super) struct Retries {
    /// The sequence numbers that are being retried.
    waiting: BTreeSet<u64>,
    /// The last position that was given to a retry.
    last_position: i64,
    /// Outcomes of deliveries that are not written yet.
    refused: Vec<Refused>,
    delivered: Vec<u64>,
}

impl Retries {
    pub(super) fn read(connection: &Connection) -> Result<Self, rusqlite::Error> {
        let mut statement = connection.prepare("SELECT sequence, retry FROM parked WHERE retry IS NOT NULL")?;
        let mut retries = Self::default();
        for row in statement.query_map([], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?)))? {
            let (sequence, position) = row?;
            retries.waiting.insert(sequence.cast_unsigned());
            retries.last_position = retries.last_position.max(position);
        }
        Ok(retries)
    }

    /// The number of messages that are being retried.
    pub(super) fn waiting(&self) -> u64 {
        self.waiting.len() as u64
    }

    /// The last position that was given to a retry.
    pub(super) fn last_position(&self) -> i64 {
        self.last_position
    }
}

impl Writer {
    /// See [`super::Store::settle`].
    pub(super) fn settle(&mut self, sequences: &[u64], refused: Vec<Refused>) -> Result<(), StoreError> {
        let is_refused = |sequence: &u64| refused.iter().any(|refused| refused.sequence == *sequence);
        let retried = sequences.iter().filter(|it| self.retries.waiting.contains(it) && !is_refused(it));
        self.retries.delivered.extend(retried);
        self.retries.refused.extend(refused);
        sequences.iter().max().map_or(Ok(()), |last| self.remove_delivered(*last))
    }

    /// Whether messages must be parked, or delivered retries removed.
    pub(super) fn has_to_park(&self) -> bool {
        !self.retries.refused.is_empty() || !self.retries.delivered.is_empty()
    }

    /// Removes the messages up to `sequence` from the outbox and parks the refused ones, in one transaction. Returns how
    /// many fewer messages wait.
    pub(super) fn remove_and_park(&mut self, sequence: u64) -> Result<u64, StoreError> {
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let mut ended = BTreeSet::new();
        for refused in &self.retries.refused {
            park(&transaction, refused)?;
            ended.insert(refused.sequence);
        }
        for delivered in &self.retries.delivered {
            let number = delivered.cast_signed();
            transaction.execute("DELETE FROM parked WHERE sequence = ?1 AND retry IS NOT NULL", params![number])?;
            ended.insert(*delivered);
        }
        let removed =
            transaction.execute("DELETE FROM outbox WHERE sequence <= ?1", params![sequence.cast_signed()])?;
        let parked = parked_length(&transaction)?;
        transaction.commit()?;
        let before = self.retries.waiting();
        self.retries.waiting.retain(|sequence| !ended.contains(sequence));
        self.retries.refused.clear();
        self.retries.delivered.clear();
        self.parked.send_replace(parked);
        Ok(u64::try_from(removed).unwrap_or(0) + before - self.retries.waiting())
    }

    /// The parked messages, in order of sequence.
    pub(super) fn parked_messages(&mut self) -> Result<Vec<Parked>, StoreError> {
        let mut statement = self.connection.prepare(
            "SELECT sequence, event_type, path, length(body), reason, parked_at FROM parked
             WHERE retry IS NULL ORDER BY sequence",
        )?;
        let rows = statement.query_map([], |row| {
            Ok(Parked {
                sequence: row.get::<_, i64>(0)?.cast_unsigned(),
                event_type: row.get(1)?,
                path: row.get(2)?,
                size: row.get::<_, i64>(3)?.cast_unsigned(),
                reason: row.get(4)?,
                since: Timestamp::from_second(row.get(5)?).unwrap_or_default(),
            })
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// See [`super::Store::retry_parked`].
    pub(super) fn retry_parked(&mut self, sequences: &BTreeSet<u64>) -> Result<(), StoreError> {
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let mut position = self.retries.last_position;
        let mut retried = Vec::new();
        for sequence in sequences {
            let query = "UPDATE parked SET retry = ?2 WHERE sequence = ?1 AND retry IS NULL";
            if transaction.execute(query, params![sequence.cast_signed(), position + 1])? > 0 {
                position += 1;
                retried.push(*sequence);
            }
        }
        let parked = parked_length(&transaction)?;
        transaction.commit()?;
        self.retries.last_position = position;
        self.waiting.send_modify(|waiting| *waiting += retried.len() as u64);
        self.retries.waiting.extend(retried);
        self.parked.send_replace(parked);
        self.last_retry.send_replace(position);
        // Wakes the readers of the outbox.
        self.announce.send_replace(self.last_sequence);
        Ok(())
    }

    /// See [`super::Store::drop_parked`].
    pub(super) fn drop_parked(&mut self, sequences: &BTreeSet<u64>) -> Result<(), StoreError> {
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        for sequence in sequences {
            let query = "DELETE FROM parked WHERE sequence = ?1 AND retry IS NULL";
            transaction.execute(query, params![sequence.cast_signed()])?;
        }
        let parked = parked_length(&transaction)?;
        transaction.commit()?;
        self.parked.send_replace(parked);
        Ok(())
    }
}

/// Parks a message of the outbox, or one that was parked before and whose retry failed.
fn park(connection: &Connection, refused: &Refused) -> Result<(), StoreError> {
    let (sequence, now) = (refused.sequence.cast_signed(), Timestamp::now().as_second());
    let retried = connection.execute(
        "UPDATE parked SET retry = NULL, reason = ?2, parked_at = ?3 WHERE sequence = ?1",
        params![sequence, refused.reason, now],
    )?;
    if retried > 0 {
        return Ok(());
    }
    let message = connection
        .query_row(
            "SELECT sequence, event_type, correlation_id, timestamp, body FROM outbox WHERE sequence = ?1",
            params![sequence],
            super::commit::outgoing_from,
        )
        .optional()?;
    message.map_or(Ok(()), |message| insert(connection, &message, &refused.reason, now, None))
}

/// Inserts a message into the table. With a position among the retries it waits for delivery.
pub(super) fn insert(
    connection: &Connection,
    message: &Outgoing,
    reason: &str,
    since: i64,
    retry: Option<i64>,
) -> Result<(), StoreError> {
    connection.execute(
        "INSERT OR REPLACE INTO parked
             (sequence, event_type, correlation_id, timestamp, path, reason, parked_at, retry, body)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
        params![
            message.sequence.cast_signed(),
            message.event_type,
            message.correlation_id,
            message.timestamp.cast_signed(),
            message::file_path(message),
            reason,
            since,
            retry,
            message.body,
        ],
    )?;
    Ok(())
}

/// The number of parked messages that are not being retried.
pub(super) fn parked_length(connection: &Connection) -> Result<u64, rusqlite::Error> {
    let count: i64 = connection.query_row("SELECT count(*) FROM parked WHERE retry IS NULL", [], |row| row.get(0))?;
    Ok(count.cast_unsigned())
}

/// The next retries after a position, each with its position, at most `limit`.
pub(super) fn retries_after(
    connection: &Connection,
    position: i64,
    limit: usize,
) -> Result<Vec<(i64, Outgoing)>, StoreError> {
    let mut statement = connection.prepare_cached(
        "SELECT sequence, event_type, correlation_id, timestamp, body, retry FROM parked
         WHERE retry > ?1 ORDER BY retry LIMIT ?2",
    )?;
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let rows =
        statement.query_map(params![position, limit], |row| Ok((row.get(5)?, super::commit::outgoing_from(row)?)))?;
    Ok(rows.collect::<Result<_, _>>()?)
}
