//! What the test binaries share: the binary as a process, an oracle for its messages, and what surrounds both.

#![allow(dead_code, reason = "each test binary uses its own part of this")]

pub(crate) mod certificates;
pub(crate) mod cluster;
pub(crate) mod consumer;
pub(crate) mod disk;
pub(crate) mod follower;
pub(crate) mod hosts;
pub(crate) mod library;
pub(crate) mod medium;
pub(crate) mod mirror;
pub(crate) mod oracle;
pub(crate) mod process;
pub(crate) mod program;
pub(crate) mod proxy;
pub(crate) mod rabbit;
pub(crate) mod strict;
pub(crate) mod usage;

use std::time::{Duration, Instant};

use file_watcher::model::Outgoing;

/// A message as the outbox would hand it out.
pub(crate) fn outgoing(sequence: u64, event_type: &str) -> Outgoing {
    let correlation_id = uuid::Uuid::new_v4().to_string();
    let body = serde_json::json!({
        "event_type": event_type,
        "file_path": format!("/music/album/{sequence:08}.flac"),
        "correlation_id": correlation_id,
        "sequence": sequence,
        // About the length of a real message.
        "padding": "x".repeat(600),
    });
    Outgoing {
        sequence,
        event_type: event_type.parse().unwrap(),
        correlation_id,
        timestamp: 1_700_000_000 + sequence,
        body: serde_json::to_vec(&body).unwrap(),
    }
}

/// `created` messages with these sequence numbers.
pub(crate) fn created(sequences: impl IntoIterator<Item = u64>) -> Vec<Outgoing> {
    sequences.into_iter().map(|sequence| outgoing(sequence, "created")).collect()
}

/// Waits until `holds` is true; panics with `what` after `limit`.
pub(crate) async fn eventually(what: &str, limit: Duration, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < limit, "not within {limit:?}: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
