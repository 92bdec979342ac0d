//! What tests against a real RabbitMQ share.

#![allow(dead_code, reason = "each test binary uses its own part of this")]

pub(crate) mod certificates;
pub(crate) mod consumer;
pub(crate) mod proxy;
pub(crate) mod rabbit;
pub(crate) mod strict;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use file_watcher::model::Outgoing;
use sha2::{Digest, Sha256};

/// A message as the outbox would hand it out.
pub(crate) fn outgoing(sequence: u64, event_type: &str) -> Outgoing {
    let correlation_id = uuid::Uuid::new_v4().to_string();
    let body = serde_json::json!({
        "event_type": event_type,
        "file_path": format!("/music/album/{sequence:08}.flac"),
        "correlation_id": correlation_id,
        "sequence": sequence,
        // As long as the usual message.
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

/// What is on disk beneath `root`: absolute paths, each with the SHA-256 of its file.
pub(crate) fn files_on_disk(root: &Path) -> BTreeMap<String, String> {
    let mut files = BTreeMap::new();
    let mut directories = vec![root.to_path_buf()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
            } else {
                let sha256 = Sha256::digest(fs::read(&path).unwrap());
                files.insert(path.to_str().unwrap().to_owned(), data_encoding::HEXLOWER.encode(&sha256));
            }
        }
    }
    files
}

/// Waits until `holds` says yes; panics with `what` after `limit`.
pub(crate) async fn eventually(what: &str, limit: Duration, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < limit, "not within {limit:?}: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
