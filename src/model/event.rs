//! What is published: changes, and the messages that carry them.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{LibraryPath, Origin, Row};

/// One change of the library. One message is published for it.
#[derive(Clone, Debug, PartialEq)]
pub struct FileEvent {
    /// What happened.
    pub change: Change,
    /// What found the change.
    pub origin: Origin,
}

/// What happened to a path.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// The path had no row before. It has this one now.
    Created(Row),
    /// The content of the path changed to this row's.
    Modified(Row),
    /// The path has no file any more.
    Deleted(LibraryPath),
    /// The file at `from` is at this row's path now, with unchanged content.
    Moved {
        /// The old path.
        from: LibraryPath,
        /// The new path, with the content that the file had when it was moved.
        row: Row,
    },
}

impl Change {
    /// The path that changed; for a move, the new path.
    pub fn path(&self) -> &LibraryPath {
        match self {
            Self::Created(row) | Self::Modified(row) | Self::Moved { row, .. } => &row.path,
            Self::Deleted(path) => path,
        }
    }

    /// The event type of the message. A move within one directory is `renamed`.
    pub fn event_type(&self) -> EventType {
        match self {
            Self::Created(_) => EventType::Created,
            Self::Modified(_) => EventType::Modified,
            Self::Deleted(_) => EventType::Deleted,
            Self::Moved { from, row } if from.parent() == row.path.parent() => EventType::Renamed,
            Self::Moved { .. } => EventType::Moved,
        }
    }
}

/// The `event_type` of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum EventType {
    /// A file at a path that had none.
    Created,
    /// Other content at the same path.
    Modified,
    /// No file at the path any more.
    Deleted,
    /// The same file in another directory.
    Moved,
    /// The same file under another name in its directory.
    Renamed,
}

impl EventType {
    /// All event types, in the order in which summaries list them.
    pub const ALL: [Self; 5] = [Self::Created, Self::Modified, Self::Deleted, Self::Moved, Self::Renamed];

    /// The word in messages and in the store: `created`, `modified`, `deleted`, `moved` or `renamed`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Modified => "modified",
            Self::Deleted => "deleted",
            Self::Moved => "moved",
            Self::Renamed => "renamed",
        }
    }

    /// The routing key: `file.` and the event type.
    pub const fn routing_key(self) -> &'static str {
        match self {
            Self::Created => "file.created",
            Self::Modified => "file.modified",
            Self::Deleted => "file.deleted",
            Self::Moved => "file.moved",
            Self::Renamed => "file.renamed",
        }
    }
}

impl fmt::Display for EventType {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.as_str())
    }
}

/// A word that is not an event type.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown event type {0:?}; the event types are created, modified, deleted, moved and renamed")]
pub struct UnknownEventType(String);

impl FromStr for EventType {
    type Err = UnknownEventType;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        let known = Self::ALL.into_iter().find(|event_type| event_type.as_str() == word);
        known.ok_or_else(|| UnknownEventType(word.to_owned()))
    }
}

/// A message in the outbox, ready to be published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing {
    /// The sequence number.
    pub sequence: u64,
    /// The event type, which gives the routing key.
    pub event_type: EventType,
    /// The correlation id, the same on every redelivery; also the AMQP `message_id`.
    pub correlation_id: String,
    /// When the message was committed, in seconds since the epoch.
    pub timestamp: u64,
    /// The JSON body.
    pub body: Vec<u8>,
}

impl Outgoing {
    /// The longest allowed body, in bytes. Consumers rely on it.
    pub const LONGEST_BODY: usize = 256 * 1024;

    /// Whether the body is longer than [`Self::LONGEST_BODY`].
    pub fn is_too_large(&self) -> bool {
        self.body.len() > Self::LONGEST_BODY
    }

    /// The routing key: `file.` and the event type.
    pub fn routing_key(&self) -> &'static str {
        self.event_type.routing_key()
    }
}

/// A message that can never be delivered as it is, and the reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The sequence number of the message.
    pub sequence: u64,
    /// The reason, in words for people and without secrets.
    pub reason: String,
}

/// Which files `file-watcher verify` is asked to read again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifyRequest {
    /// Those at or under this path.
    pub under: LibraryPath,
    /// Those that were not read within this time; `None` for all.
    pub since: Option<Duration>,
    /// JSON instead of text.
    pub json: bool,
}

/// What `file-watcher parked` is asked to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ParkedRequest {
    /// List the parked messages.
    List {
        /// One JSON object per line instead of a table.
        json: bool,
    },
    /// Deliver the messages with these sequence numbers again; all of them if the list is empty.
    Retry(Vec<u64>),
    /// Delete the messages with these sequence numbers; all of them if the list is empty.
    Drop(Vec<u64>),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_event_type_is_parsed_from_its_word() {
        for event_type in EventType::ALL {
            assert_eq!(event_type.as_str().parse(), Ok(event_type));
            assert_eq!(serde_json::to_value(event_type).unwrap(), event_type.as_str());
            assert_eq!(event_type.routing_key(), format!("file.{event_type}"));
        }
        assert_eq!(format!("[{:<8}]", EventType::Moved), "[moved   ]");
    }

    #[test]
    fn an_unknown_event_type_is_an_error_that_names_it() {
        let error = "replaced".parse::<EventType>().unwrap_err();
        assert!(error.to_string().starts_with("unknown event type \"replaced\""), "{error}");
        assert!("Created".parse::<EventType>().is_err());
    }
}
