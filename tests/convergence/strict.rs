//! The strict consumers themselves: what they must refuse, and what they must not.

use crate::support::strict::{StrictConsumers, StrictMessage};

/// A message in short: `created a 1`, `renamed a b 1`, `deleted a`.
fn take(consumers: &mut StrictConsumers, message: &str) -> Result<(), String> {
    let words: Vec<&str> = message.split(' ').collect();
    let (old_path, path, hash) = match *words.as_slice() {
        ["moved" | "renamed", old_path, path, hash] => (Some(old_path), path, Some(hash)),
        ["created" | "modified", path, hash] => (None, path, Some(hash)),
        [_, path] => (None, path, None),
        _ => panic!("{message}"),
    };
    consumers.take(&StrictMessage {
        event_type: words[0],
        path: path.as_bytes(),
        old_path: old_path.map(str::as_bytes),
        sha256: hash,
        xxh128: hash,
        identity: hash.unwrap_or_default(),
    })
}

/// Whether all but the last of these are taken, and the last one is not, for this reason.
fn is_refused(messages: &[&str], reason: &str) -> bool {
    let mut consumers = StrictConsumers::new();
    let (last, first) = messages.split_last().unwrap();
    for message in first {
        take(&mut consumers, message).unwrap();
    }
    take(&mut consumers, last).is_err_and(|error| error.contains(reason))
}

#[test]
fn what_no_unique_index_allows_is_refused() {
    assert!(is_refused(&["created a 1", "created b 1"], "UNIQUE"));
    assert!(is_refused(&["created a 1", "created a 2"], "UNIQUE"));
    assert!(is_refused(&["created a 1", "created b 2", "modified a 2"], "UNIQUE"));
    assert!(is_refused(&["created a 1", "created b 2", "renamed a b 1"], "UNIQUE"));
}

#[test]
fn what_no_message_made_known_is_refused() {
    assert!(is_refused(&["renamed a b 1"], "old_path is not known"));
    assert!(is_refused(&["created a 1", "deleted a", "moved a b/a 1"], "old_path is not known"));
    assert!(is_refused(&["created a 1", "renamed a b 2"], "has the hashes"));
    assert!(is_refused(&["modified a 1"], "the path is not known"));
    assert!(is_refused(&["deleted a"], "the path is not known"));
}

#[test]
fn rows_follow_their_files_through_a_swap_and_come_back_where_they_are_kept() {
    let mut consumers = StrictConsumers::new();
    let messages = [
        "created a 1",
        "created b 2",
        "renamed a .c 1",
        "renamed b a 2",
        "renamed .c b 1",
        "modified b 3",
        "deleted a",
        "created x 2",
        "created y 4",
        "deleted y",
        "modified b 4",
    ];
    for message in messages {
        take(&mut consumers, message).unwrap();
    }
    for (deleted, rows) in consumers.rows() {
        let rows: Vec<(&str, &str, &str)> =
            rows.iter().map(|(path, row)| (path.to_str().unwrap(), &*row.sha256, &*row.identity)).collect();
        assert_eq!(rows, [("b", "4", "1"), ("x", "2", "2")], "{deleted:?}");
    }
}
