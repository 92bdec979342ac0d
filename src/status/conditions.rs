//! The states that an operator should know, in words.

use std::time::Duration;

use super::Severity;
use crate::model::{HeldReason, counted};

/// A state that an operator should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Deletes are held until the files are back or the operator approves.
    DeletesHeld {
        /// The reason.
        reason: HeldReason,
        /// The number of deletes.
        count: u64,
        /// The places, in words.
        places: String,
    },
    /// The library root cannot be found.
    RootGone {
        /// The cause, in words.
        error: String,
    },
    /// There is no audio file under the root, or none that can be read.
    LibraryEmpty {
        /// The root.
        root: String,
        /// The number of paths that cannot be read.
        unreadable: usize,
    },
    /// Some directories are not watched.
    PartlyWatched {
        /// The cause, in words.
        reason: String,
        /// How often everything is walked meanwhile, in seconds.
        poll_s: u64,
    },
    /// Nothing is watched.
    NotWatched {
        /// The cause, in words.
        reason: String,
        /// How often everything is walked meanwhile, in seconds.
        poll_s: u64,
    },
    /// Some filesystems cause no events.
    Polled {
        /// Their types, and where they are mounted.
        filesystems: String,
        /// How often everything is walked, in seconds.
        poll_s: u64,
    },
    /// The kernel dropped events. It lasts until everything was walked.
    EventsLost,
    /// Some paths cannot be read.
    Unreadable {
        /// The number of paths, directories included.
        paths: usize,
    },
    /// The outbox has as many messages as it may have.
    OutboxFull {
        /// The limit.
        max_events: u64,
    },
    /// The store cannot be written, for example because its disk is full.
    StoreFails {
        /// The cause, in words.
        error: String,
    },
    /// There is no connection to the broker.
    BrokerAway {
        /// The error of the last attempt.
        error: String,
    },
    /// The broker refuses the connection until the operator changes something.
    BrokerRefuses {
        /// What to change.
        reason: String,
    },
    /// The broker takes no messages until it has memory or disk space again.
    BrokerBlocked {
        /// The text of the broker.
        reason: String,
    },
    /// Messages wait although there is a connection.
    DeliveryStalled {
        /// What they wait for.
        waiting_for: String,
    },
    /// Messages are parked because the broker refused them.
    MessagesParked {
        /// Their number.
        messages: u64,
    },
    /// Some files have another content than was published, although their size and times are the same.
    Rotten {
        /// Their number.
        files: u64,
        /// The path of the first one.
        first: String,
    },
    /// The first scan since the start is not finished.
    FirstScan,
}

/// The kind of a condition, without its figures. The register has at most one condition of each kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConditionKind {
    /// [`Condition::DeletesHeld`] for this reason.
    DeletesHeld(HeldReason),
    /// [`Condition::RootGone`].
    RootGone,
    /// [`Condition::LibraryEmpty`].
    LibraryEmpty,
    /// [`Condition::PartlyWatched`].
    PartlyWatched,
    /// [`Condition::NotWatched`].
    NotWatched,
    /// [`Condition::Polled`].
    Polled,
    /// [`Condition::EventsLost`].
    EventsLost,
    /// [`Condition::Unreadable`].
    Unreadable,
    /// [`Condition::OutboxFull`].
    OutboxFull,
    /// [`Condition::StoreFails`].
    StoreFails,
    /// [`Condition::BrokerAway`].
    BrokerAway,
    /// [`Condition::BrokerRefuses`].
    BrokerRefuses,
    /// [`Condition::BrokerBlocked`].
    BrokerBlocked,
    /// [`Condition::DeliveryStalled`].
    DeliveryStalled,
    /// [`Condition::MessagesParked`].
    MessagesParked,
    /// [`Condition::Rotten`].
    Rotten,
    /// [`Condition::FirstScan`].
    FirstScan,
}

impl ConditionKind {
    /// All kinds.
    pub const ALL: [Self; 19] = [
        Self::DeletesHeld(HeldReason::MountGone),
        Self::DeletesHeld(HeldReason::RootEmpty),
        Self::DeletesHeld(HeldReason::TooMany),
        Self::RootGone,
        Self::LibraryEmpty,
        Self::PartlyWatched,
        Self::NotWatched,
        Self::Polled,
        Self::EventsLost,
        Self::Unreadable,
        Self::OutboxFull,
        Self::StoreFails,
        Self::BrokerAway,
        Self::BrokerRefuses,
        Self::BrokerBlocked,
        Self::DeliveryStalled,
        Self::MessagesParked,
        Self::Rotten,
        Self::FirstScan,
    ];

    /// The identifier in JSON and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::DeletesHeld(HeldReason::MountGone) => "deletes_held_mount_gone",
            Self::DeletesHeld(HeldReason::RootEmpty) => "deletes_held_root_empty",
            Self::DeletesHeld(HeldReason::TooMany) => "deletes_held_too_many",
            Self::RootGone => "root_gone",
            Self::LibraryEmpty => "library_empty",
            Self::PartlyWatched => "partly_watched",
            Self::NotWatched => "not_watched",
            Self::Polled => "polled",
            Self::EventsLost => "events_lost",
            Self::Unreadable => "unreadable",
            Self::OutboxFull => "outbox_full",
            Self::StoreFails => "store_fails",
            Self::BrokerAway => "broker_away",
            Self::BrokerRefuses => "broker_refuses",
            Self::BrokerBlocked => "broker_blocked",
            Self::DeliveryStalled => "delivery_stalled",
            Self::MessagesParked => "messages_parked",
            Self::Rotten => "rotten",
            Self::FirstScan => "first_scan",
        }
    }

    /// How bad such conditions are.
    pub fn severity(self) -> Severity {
        match self {
            Self::RootGone
            | Self::OutboxFull
            | Self::StoreFails
            | Self::BrokerAway
            | Self::BrokerRefuses
            | Self::BrokerBlocked
            | Self::DeliveryStalled => Severity::Error,
            Self::DeletesHeld(_)
            | Self::LibraryEmpty
            | Self::PartlyWatched
            | Self::NotWatched
            | Self::EventsLost
            | Self::Unreadable
            | Self::Rotten
            | Self::MessagesParked => Severity::Warning,
            Self::Polled | Self::FirstScan => Severity::Info,
        }
    }

    /// Whether the service is not ready while such a condition is in effect. Polling is how some libraries are
    /// followed, rotten files are published as they were before, and so are single paths that cannot be read.
    pub fn prevents_readiness(self) -> bool {
        !matches!(self, Self::Polled | Self::Rotten | Self::Unreadable)
    }

    /// Whether the begin and the end of such conditions are logged by the part of the program that finds them, because
    /// it logs more: each path, each attempt.
    pub(super) fn is_logged_where_found(self) -> bool {
        match self {
            Self::Unreadable
            | Self::StoreFails
            | Self::BrokerAway
            | Self::BrokerRefuses
            | Self::BrokerBlocked
            | Self::DeliveryStalled
            | Self::FirstScan => true,
            Self::DeletesHeld(_)
            | Self::RootGone
            | Self::LibraryEmpty
            | Self::PartlyWatched
            | Self::NotWatched
            | Self::Polled
            | Self::EventsLost
            | Self::OutboxFull
            | Self::Rotten
            | Self::MessagesParked => false,
        }
    }

    /// The shortest time between two log lines about the begin of such conditions. With a slow broker the outbox is full
    /// again and again.
    pub(super) fn quiet_time(self) -> Duration {
        if self == Self::OutboxFull { Duration::from_mins(1) } else { Duration::ZERO }
    }
}

impl Condition {
    /// The kind of the condition.
    pub fn kind(&self) -> ConditionKind {
        match self {
            Self::DeletesHeld { reason, .. } => ConditionKind::DeletesHeld(*reason),
            Self::RootGone { .. } => ConditionKind::RootGone,
            Self::LibraryEmpty { .. } => ConditionKind::LibraryEmpty,
            Self::PartlyWatched { .. } => ConditionKind::PartlyWatched,
            Self::NotWatched { .. } => ConditionKind::NotWatched,
            Self::Polled { .. } => ConditionKind::Polled,
            Self::EventsLost => ConditionKind::EventsLost,
            Self::Unreadable { .. } => ConditionKind::Unreadable,
            Self::OutboxFull { .. } => ConditionKind::OutboxFull,
            Self::StoreFails { .. } => ConditionKind::StoreFails,
            Self::BrokerAway { .. } => ConditionKind::BrokerAway,
            Self::BrokerRefuses { .. } => ConditionKind::BrokerRefuses,
            Self::BrokerBlocked { .. } => ConditionKind::BrokerBlocked,
            Self::DeliveryStalled { .. } => ConditionKind::DeliveryStalled,
            Self::MessagesParked { .. } => ConditionKind::MessagesParked,
            Self::Rotten { .. } => ConditionKind::Rotten,
            Self::FirstScan => ConditionKind::FirstScan,
        }
    }

    /// The condition and what to do about it, in one sentence.
    pub fn description(&self) -> String {
        match self {
            Self::DeletesHeld { reason, .. } => format!(
                "deletes are held: {}; they are published only if `file-watcher approve DIR` confirms that the files are \
                 gone",
                reason.description()
            ),
            Self::RootGone { .. } => "the library root is gone; no deletes are published until it is back".to_owned(),
            Self::LibraryEmpty { unreadable: 1.., .. } => "no audio file in the library can be read".to_owned(),
            Self::LibraryEmpty { .. } => {
                "there is no audio file in the library; is it the right directory, and is it mounted?".to_owned()
            }
            Self::PartlyWatched { .. } => {
                "some directories are not watched; everything is walked at an interval".to_owned()
            }
            Self::NotWatched { .. } => "changes are found only by walking, until watching works".to_owned(),
            Self::Polled { .. } => "some filesystems cause no events; everything is walked at an interval".to_owned(),
            Self::EventsLost => "the kernel lost events; the watcher is restarted and everything is walked".to_owned(),
            Self::Unreadable { .. } => "some paths cannot be read; their files stay in the index".to_owned(),
            Self::OutboxFull { .. } => "the outbox is full; intake waits for the broker".to_owned(),
            Self::StoreFails { .. } => "the index cannot be written; intake waits".to_owned(),
            Self::BrokerAway { .. } => "there is no connection to RabbitMQ; messages wait".to_owned(),
            Self::BrokerRefuses { .. } => "RabbitMQ refuses the connection; messages wait".to_owned(),
            Self::BrokerBlocked { .. } => "RabbitMQ is blocked and takes no messages; they wait".to_owned(),
            Self::DeliveryStalled { .. } => "messages wait, although there is a connection to RabbitMQ".to_owned(),
            Self::MessagesParked { .. } => {
                "messages are parked; `file-watcher parked DIR` lists, retries and drops them".to_owned()
            }
            Self::Rotten { .. } => {
                "some files are rotten: their content changed, and their size and times did not".to_owned()
            }
            Self::FirstScan => "the first scan is running".to_owned(),
        }
    }

    /// The figures and causes, in words; empty if there are none.
    pub fn details(&self) -> String {
        let every = |poll_s: &u64| format!("everything is walked every {poll_s} s");
        match self {
            Self::DeletesHeld { count, places, .. } => format!("{} at {places}", counted(*count, "delete")),
            Self::RootGone { error } | Self::StoreFails { error } | Self::BrokerAway { error } => error.clone(),
            Self::LibraryEmpty { root, .. } => root.clone(),
            Self::PartlyWatched { reason, poll_s } | Self::NotWatched { reason, poll_s } => {
                format!("{reason}; {}", every(poll_s))
            }
            Self::Polled { filesystems, poll_s } => format!("{filesystems}; {}", every(poll_s)),
            Self::Unreadable { paths } => counted(*paths as u64, "path"),
            Self::OutboxFull { max_events } => counted(*max_events, "message"),
            Self::BrokerRefuses { reason } | Self::BrokerBlocked { reason } => reason.clone(),
            Self::DeliveryStalled { waiting_for } => format!("they wait for {waiting_for}"),
            Self::MessagesParked { messages } => counted(*messages, "message"),
            Self::Rotten { files, first } => format!("{}, the first one is {first}", counted(*files, "file")),
            Self::EventsLost | Self::FirstScan => String::new(),
        }
    }

    /// What an operator can do about it.
    pub fn what_to_do(&self) -> &'static str {
        match self {
            Self::DeletesHeld { reason: HeldReason::MountGone | HeldReason::RootEmpty, .. } => {
                "Mount the filesystem. If the files are gone for good, run `file-watcher approve DIR` (in a container: `docker exec \
                 CONTAINER file-watcher approve`)."
            }
            Self::DeletesHeld { reason: HeldReason::TooMany, .. } => {
                "Check that the files are gone, then run `file-watcher approve DIR` (in a container: `docker exec CONTAINER \
                 file-watcher approve`)."
            }
            Self::RootGone { .. } => "Mount the library, or correct DATA_DIR.",
            Self::LibraryEmpty { unreadable: 1.., .. } => {
                "Give the user of the service permission to read the library. The log names what it cannot read."
            }
            Self::LibraryEmpty { .. } => {
                "Mount the library, or correct DATA_DIR. In a container, check the folder of the host; a mount that the \
                 host made after the container's start needs the option rslave."
            }
            Self::PartlyWatched { .. } | Self::NotWatched { .. } => {
                "Raise the limit that is named, such as with `sysctl fs.inotify.max_user_watches=1048576`, give the right that \
                 is named, or set WATCH_MODE=poll."
            }
            Self::Polled { .. } => "Nothing. Changes on such filesystems are found by walking.",
            Self::EventsLost => "Nothing. A walk of everything finds what was lost.",
            Self::Unreadable { .. } => "Give the user of the service permission to read them. The log names them.",
            Self::OutboxFull { .. } => "Restore the connection to RabbitMQ, or raise OUTBOX_MAX_EVENTS.",
            Self::StoreFails { .. } => "Free space on the disk of STATE_DIR, and make it writable.",
            Self::BrokerAway { .. } => "Start RabbitMQ, or correct its address.",
            Self::BrokerRefuses { .. } => "Correct the setting that the message names.",
            Self::BrokerBlocked { .. } => "Free memory or disk space on the host of RabbitMQ.",
            Self::DeliveryStalled { .. } => {
                "Bind a queue for the routing key, make room in the full queue, or start the nodes of the cluster."
            }
            Self::MessagesParked { .. } => "Run `file-watcher parked DIR`, and retry or drop the messages.",
            Self::Rotten { .. } => {
                "Run `file-watcher verify DIR`, which lists them. Check the disk, and restore them from a backup."
            }
            Self::FirstScan => "Wait until it is done.",
        }
    }

    pub(super) fn log(&self, lasted: Duration) {
        let lasted_s = lasted.as_secs();
        match self {
            Self::DeletesHeld { reason, count, places } => {
                tracing::warn!(reason = reason.as_str(), held = count, places, lasted_s, "{}", self.description());
            }
            Self::RootGone { error } => tracing::error!(error, lasted_s, "{}", self.description()),
            Self::LibraryEmpty { root, .. } => tracing::warn!(root, lasted_s, "{}", self.description()),
            Self::PartlyWatched { reason, poll_s } | Self::NotWatched { reason, poll_s } => {
                tracing::error!(reason, every_s = poll_s, lasted_s, "{}", self.description());
            }
            Self::Polled { filesystems, poll_s } => {
                tracing::info!(filesystems, every_s = poll_s, lasted_s, "{}", self.description());
            }
            Self::Unreadable { paths } => tracing::warn!(paths, lasted_s, "{}", self.description()),
            Self::OutboxFull { max_events } => {
                tracing::warn!(outbox_max_events = max_events, lasted_s, "{}", self.description());
            }
            Self::StoreFails { error } | Self::BrokerAway { error } => {
                tracing::error!(error, lasted_s, "{}", self.description());
            }
            Self::BrokerBlocked { reason } => tracing::warn!(reason, lasted_s, "{}", self.description()),
            Self::BrokerRefuses { reason } => tracing::error!(reason, lasted_s, "{}", self.description()),
            Self::DeliveryStalled { waiting_for } => tracing::warn!(waiting_for, lasted_s, "{}", self.description()),
            Self::EventsLost => tracing::warn!(lasted_s, "{}", self.description()),
            Self::FirstScan => tracing::info!(lasted_s, "{}", self.description()),
            Self::MessagesParked { messages } => tracing::warn!(messages, lasted_s, "{}", self.description()),
            Self::Rotten { files, first } => tracing::warn!(files, first, lasted_s, "{}", self.description()),
        }
    }

    pub(super) fn log_end(&self, lasted: Duration) {
        let lasted_s = lasted.as_secs();
        match self {
            Self::DeletesHeld { reason, .. } => {
                tracing::info!(reason = reason.as_str(), lasted_s, "no deletes are held for this reason any more");
            }
            Self::RootGone { .. } => tracing::info!(lasted_s, "the library root is back"),
            Self::LibraryEmpty { .. } => tracing::info!(lasted_s, "there are audio files in the library"),
            Self::PartlyWatched { .. } | Self::NotWatched { .. } => {
                tracing::info!(lasted_s, "everything is watched again");
            }
            Self::Polled { .. } => tracing::info!(lasted_s, "every filesystem causes events"),
            Self::EventsLost => tracing::info!(lasted_s, "everything was walked after the lost events"),
            Self::OutboxFull { .. } => tracing::info!(lasted_s, "the outbox has room; intake continues"),
            Self::MessagesParked { .. } => tracing::info!(lasted_s, "no messages are parked any more"),
            Self::StoreFails { .. } => tracing::info!(lasted_s, "the index can be written again"),
            Self::Rotten { .. } => tracing::info!(lasted_s, "no file is rotten any more"),
            // The end is logged where it is found.
            Self::Unreadable { .. }
            | Self::BrokerAway { .. }
            | Self::BrokerRefuses { .. }
            | Self::BrokerBlocked { .. }
            | Self::DeliveryStalled { .. }
            | Self::FirstScan => {}
        }
    }
}
