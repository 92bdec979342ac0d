//! What consumers are told.

use super::{LibraryPath, Origin, Row};

/// One change of the library, as one message says it.
#[derive(Clone, Debug, PartialEq)]
pub struct FileEvent {
    /// What happened.
    pub change: Change,
    /// Who noticed.
    pub origin: Origin,
}

/// What happened to a path.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// Nothing was known there; now this is.
    Created(Row),
    /// The content is this now.
    Modified(Row),
    /// Nothing is there any more.
    Deleted(LibraryPath),
    /// What was known at `from` is at this row's path now, with the content that it had.
    Moved {
        /// Where it was.
        from: LibraryPath,
        /// Where it is, and what it was when it was moved.
        row: Row,
    },
}

impl Change {
    /// The path that the change is about; for a move the new one.
    pub fn path(&self) -> &LibraryPath {
        match self {
            Self::Created(row) | Self::Modified(row) | Self::Moved { row, .. } => &row.path,
            Self::Deleted(path) => path,
        }
    }

    /// The `event_type` of the message: a move within one directory is called renamed.
    pub fn event_type(&self) -> &'static str {
        match self {
            Self::Created(_) => "created",
            Self::Modified(_) => "modified",
            Self::Deleted(_) => "deleted",
            Self::Moved { from, row } if from.parent() == row.path.parent() => "renamed",
            Self::Moved { .. } => "moved",
        }
    }
}

/// A message as it lies in the outbox, ready to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing {
    /// Its place in the store's sequence.
    pub sequence: u64,
    /// `created`, `modified`, `deleted`, `moved` or `renamed`.
    pub event_type: String,
    /// The same on every redelivery; also the AMQP `message_id`.
    pub correlation_id: String,
    /// When it was committed, in seconds since the epoch.
    pub timestamp: u64,
    /// The JSON body.
    pub body: Vec<u8>,
}

impl Outgoing {
    /// The most bytes that a body may have. Consumers rely on it.
    pub const LONGEST_BODY: usize = 256 * 1024;

    /// Whether the body is larger than a message may be.
    pub fn is_too_large(&self) -> bool {
        self.body.len() > Self::LONGEST_BODY
    }

    /// `file.` and the event type.
    pub fn routing_key(&self) -> String {
        format!("file.{}", self.event_type)
    }
}

/// A message that can never be delivered as it is, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Its place in the store's sequence.
    pub sequence: u64,
    /// Why, in words for people and without secrets.
    pub reason: String,
}

/// What a person wants to be done about parked messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ParkedRequest {
    /// List them, as one JSON object a line or as a table.
    List {
        /// Whether as JSON.
        json: bool,
    },
    /// Deliver these sequence numbers again; all of them if none is given.
    Retry(Vec<u64>),
    /// Delete these sequence numbers; all of them if none is given.
    Drop(Vec<u64>),
}
