//! Messages that cannot be delivered, kept aside until a person decides.
//!
//! A parked message that is to be retried stays in this table until it is delivered, with its place in the line of
//! those. It cannot go back to the outbox, from which everything up to a number is removed at once.

use std::collections::BTreeSet;

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, TransactionBehavior, params};
use serde::{Serialize, Serializer};

use super::StoreError;
use super::commit::Writer;
use crate::message;
use crate::model::{Outgoing, Refused};

/// A message that is parked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Parked {
    /// Its place in the store's sequence.
    pub sequence: u64,
    /// `created`, `modified`, `deleted`, `moved` or `renamed`.
    pub event_type: String,
    /// The path that it is about, as text.
    pub path: String,
    /// The bytes of its body.
    pub size: u64,
    /// Why it cannot be delivered.
    pub reason: String,
    /// When it was parked.
    #[serde(serialize_with = "as_text")]
    pub since: Timestamp,
}

fn as_text<S: Serializer>(time: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(time)
}

/// What the writer remembers of parked messages.
#[derive(Debug, Default)]
pub(super) struct Retries {
    /// Those that are being retried.
    waiting: BTreeSet<u64>,
    /// The last place in their line that was given out.
    last_place: i64,
    /// What deliveries came to that could not be written down yet.
    refused: Vec<Refused>,
    delivered: Vec<u64>,
}

impl Retries {
    pub(super) fn read(connection: &Connection) -> Result<Self, rusqlite::Error> {
        let mut statement = connection.prepare("SELECT sequence, retry FROM parked WHERE retry IS NOT NULL")?;
        let mut retries = Self::default();
        for row in statement.query_map([], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?)))? {
            let (sequence, place) = row?;
            retries.waiting.insert(sequence.cast_unsigned());
            retries.last_place = retries.last_place.max(place);
        }
        Ok(retries)
    }

    /// How many messages are being retried.
    pub(super) fn waiting(&self) -> u64 {
        self.waiting.len() as u64
    }

    /// The last place in the line that was given out.
    pub(super) fn last_place(&self) -> i64 {
        self.last_place
    }
}

impl Writer {
    /// Removes these messages from the outbox: each was delivered, or is parked if it was refused.
    pub(super) fn settle(&mut self, sequences: &[u64], refused: Vec<Refused>) -> Result<(), StoreError> {
        let is_refused = |sequence: &u64| refused.iter().any(|refused| refused.sequence == *sequence);
        let retried = sequences.iter().filter(|it| self.retries.waiting.contains(it) && !is_refused(it));
        self.retries.delivered.extend(retried);
        self.retries.refused.extend(refused);
        sequences.iter().max().map_or(Ok(()), |last| self.forget(*last))
    }

    /// Whether a delivery came to more than the end of its messages in the outbox.
    pub(super) fn has_to_park(&self) -> bool {
        !self.retries.refused.is_empty() || !self.retries.delivered.is_empty()
    }

    /// Removes what was delivered up to `sequence` from the outbox and parks what was refused, in one step; returns how
    /// many messages wait no longer.
    pub(super) fn forget_and_park(&mut self, sequence: u64) -> Result<u64, StoreError> {
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
        let forgotten =
            transaction.execute("DELETE FROM outbox WHERE sequence <= ?1", params![sequence.cast_signed()])?;
        let parked = parked_length(&transaction)?;
        transaction.commit()?;
        let before = self.retries.waiting();
        self.retries.waiting.retain(|sequence| !ended.contains(sequence));
        self.retries.refused.clear();
        self.retries.delivered.clear();
        self.parked.send_replace(parked);
        Ok(u64::try_from(forgotten).unwrap_or(0) + before - self.retries.waiting())
    }

    /// What is parked, in order of sequence.
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

    /// Has these parked messages delivered again.
    pub(super) fn retry_parked(&mut self, sequences: &BTreeSet<u64>) -> Result<(), StoreError> {
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let mut place = self.retries.last_place;
        let mut retried = Vec::new();
        for sequence in sequences {
            let query = "UPDATE parked SET retry = ?2 WHERE sequence = ?1 AND retry IS NULL";
            if transaction.execute(query, params![sequence.cast_signed(), place + 1])? > 0 {
                place += 1;
                retried.push(*sequence);
            }
        }
        let parked = parked_length(&transaction)?;
        transaction.commit()?;
        self.retries.last_place = place;
        self.waiting.send_modify(|waiting| *waiting += retried.len() as u64);
        self.retries.waiting.extend(retried);
        self.parked.send_replace(parked);
        self.last_retry.send_replace(place);
        // Whoever reads the outbox looks again.
        self.announce.send_replace(self.last_sequence);
        Ok(())
    }

    /// Deletes these parked messages.
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

/// Parks a message of the outbox, or one that was parked before and retried in vain.
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

/// Puts a message into the table. With a place in the line of retries it waits for delivery.
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

/// How many messages are parked and not being retried.
pub(super) fn parked_length(connection: &Connection) -> Result<u64, rusqlite::Error> {
    let count: i64 = connection.query_row("SELECT count(*) FROM parked WHERE retry IS NULL", [], |row| row.get(0))?;
    Ok(count.cast_unsigned())
}

/// The messages that are retried with a place in the line after `place`, with their places, at most `limit` of them.
pub(super) fn retries_after(
    connection: &Connection,
    place: i64,
    limit: usize,
) -> Result<Vec<(i64, Outgoing)>, StoreError> {
    let mut statement = connection.prepare_cached(
        "SELECT sequence, event_type, correlation_id, timestamp, body, retry FROM parked
         WHERE retry > ?1 ORDER BY retry LIMIT ?2",
    )?;
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let rows =
        statement.query_map(params![place, limit], |row| Ok((row.get(5)?, super::commit::outgoing_from(row)?)))?;
    Ok(rows.collect::<Result<_, _>>()?)
}
