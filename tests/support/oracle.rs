//! A consumer that replays messages by the contract, and refuses the first one that breaks it.
//!
//! It knows the contract alone and shares no code with the program. Sequence numbers have no gaps, a redelivery is the
//! event that was delivered before, and each message must fit what the messages before it made known. The result is
//! compared with the disk by the tests.

use std::collections::HashMap;
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::disk::Files;

/// A message, as far as the tests look at it. Paths are relative to the root if the oracle knows one.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    pub(crate) sequence: u64,
    pub(crate) correlation_id: String,
    pub(crate) event_type: String,
    pub(crate) path: PathBuf,
    pub(crate) old_path: Option<PathBuf>,
    pub(crate) sha256: Option<String>,
    pub(crate) xxh128: Option<String>,
    pub(crate) audio_hash: Option<String>,
    pub(crate) origin: String,
    pub(crate) timestamp: String,
}

/// Which paths that are known already may be published as created.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Again {
    /// None.
    #[default]
    Nothing,
    /// Those with origin `replay`. They must be known, and with the same content.
    Replays,
    /// All, as after the index was built anew.
    Everything,
}

/// The state of the consumer.
#[derive(Default)]
pub(crate) struct Oracle {
    /// The only `watched_directory` that is right; `None` for any, and then paths are absolute.
    root: Option<PathBuf>,
    again: Again,
    /// The last sequence number that was published before this consumer came.
    missed: u64,
    /// What the library holds by the messages so far.
    pub(crate) files: Files,
    /// Every message once, in order.
    pub(crate) messages: Vec<Message>,
    /// How many messages were redelivered.
    pub(crate) redelivered: u64,
    /// The sequence number of each `correlation_id`.
    identities: HashMap<String, u64>,
}

impl Oracle {
    /// A consumer of all messages about the library at `root`.
    pub(crate) fn new(root: &Path) -> Self {
        Self { root: Some(root.to_path_buf()), ..Self::default() }
    }

    /// A consumer of a library that may be relocated. Its paths are absolute.
    pub(crate) fn of_any_root() -> Self {
        Self::default()
    }

    /// The same consumer with this rule for paths that are published again.
    pub(crate) fn expecting(mut self, again: Again) -> Self {
        self.again = again;
        self
    }

    /// The same consumer, which came after this sequence number and knows nothing of what was before.
    pub(crate) fn that_missed(mut self, sequence: u64) -> Self {
        self.missed = sequence;
        self
    }

    /// Changes the rule for paths that are published again, from the next message on.
    pub(crate) fn expect(&mut self, again: Again) {
        self.again = again;
    }

    /// The sequence number of the last new message.
    pub(crate) fn sequence(&self) -> u64 {
        self.messages.last().map_or(self.missed, |message| message.sequence)
    }

    /// Takes the JSON text of a message. Returns whether it was new.
    pub(crate) fn take_json(&mut self, text: &[u8]) -> Result<bool, String> {
        self.take(self.read_json(text)?)
    }

    /// Takes the body of a message. Returns whether it was new.
    pub(crate) fn take_body(&mut self, body: &Value) -> Result<bool, String> {
        self.take(self.read(body)?)
    }

    /// Takes a message. Returns whether it was new; what was wrong with it if it breaks the contract.
    pub(crate) fn take(&mut self, message: Message) -> Result<bool, String> {
        let (last, known_as) = (self.sequence(), self.identities.get(&message.correlation_id).copied());
        if message.sequence <= last {
            self.redelivered += 1;
            return match known_as {
                Some(sequence) if sequence == message.sequence => Ok(false),
                _ => Err("a sequence number of two events".to_owned()),
            };
        }
        if message.sequence != last + 1 {
            return Err(format!("a gap after sequence number {last}"));
        }
        if known_as.is_some() {
            return Err("a correlation_id of two events".to_owned());
        }
        self.apply(&message)?;
        self.identities.insert(message.correlation_id.clone(), message.sequence);
        self.messages.push(message);
        Ok(true)
    }

    fn apply(&mut self, message: &Message) -> Result<(), String> {
        let Message { event_type, path, old_path, sha256, origin, .. } = message;
        let known = self.files.get(path);
        match (event_type.as_str(), sha256, old_path) {
            ("created", Some(sha256), None) => {
                let is_replay = self.again == Again::Replays && origin == "replay";
                if is_replay && known != Some(sha256) {
                    return Err(format!("replayed, and the content was {known:?}"));
                }
                if known.is_some() && self.again != Again::Everything && !is_replay {
                    return Err("created, and the path was known".to_owned());
                }
                self.files.insert(path.clone(), sha256.clone());
            }
            ("modified", Some(sha256), None) => {
                if known.is_none_or(|known| known == sha256) {
                    return Err(format!("modified, and the content was {known:?}"));
                }
                self.files.insert(path.clone(), sha256.clone());
            }
            ("deleted", None, None) => {
                if self.files.remove(path).is_none() {
                    return Err("deleted, and the path was not known".to_owned());
                }
            }
            (kind @ ("moved" | "renamed"), Some(sha256), Some(old_path)) => {
                if known.is_some() {
                    return Err("moved to a path that was known".to_owned());
                }
                if (old_path.parent() == path.parent()) != (kind == "renamed") {
                    return Err("moved is to another directory, renamed within one".to_owned());
                }
                match self.files.remove(old_path) {
                    Some(known) if known == *sha256 => {}
                    known => return Err(format!("moved, and the content at old_path was {known:?}")),
                }
                self.files.insert(path.clone(), sha256.clone());
            }
            _ => return Err("not a message of the contract".to_owned()),
        }
        Ok(())
    }

    /// Reads the JSON text of a message, and checks its fields.
    pub(crate) fn read_json(&self, text: &[u8]) -> Result<Message, String> {
        self.read(&serde_json::from_slice(text).map_err(|error| format!("not JSON: {error}"))?)
    }

    fn read(&self, body: &Value) -> Result<Message, String> {
        let text = |field: &str| body.get(field).and_then(Value::as_str).map(str::to_owned);
        let required = |field: &str| text(field).ok_or_else(|| format!("no {field}"));
        for field in ["instance_id", "file_type"] {
            required(field)?;
        }
        let watched = required("watched_directory")?;
        if self.root.as_ref().is_some_and(|root| root.as_os_str().as_bytes() != watched.as_bytes()) {
            return Err("another watched_directory".to_owned());
        }
        let message = Message {
            sequence: body.get("sequence").and_then(Value::as_u64).ok_or("no sequence")?,
            correlation_id: required("correlation_id")?,
            event_type: required("event_type")?,
            path: self.path(body, "file_path")?.ok_or("no file_path")?,
            old_path: self.path(body, "old_path")?,
            sha256: text("sha256_hash"),
            xxh128: text("xxh128_hash"),
            audio_hash: text("audio_hash"),
            origin: required("origin")?,
            timestamp: required("timestamp")?,
        };
        let has_file = message.event_type != "deleted";
        for field in ["sha256_hash", "xxh128_hash", "metadata", "size_bytes", "modified_time"] {
            is_as_expected(field, body.get(field).is_some(), has_file)?;
        }
        let is_move = ["moved", "renamed"].contains(&message.event_type.as_str());
        is_as_expected("old_path", message.old_path.is_some(), is_move)?;
        Ok(message)
    }

    /// A path of a message: its exact bytes if it is not UTF-8.
    fn path(&self, body: &Value, field: &str) -> Result<Option<PathBuf>, String> {
        let Some(text) = body.get(field).and_then(Value::as_str) else { return Ok(None) };
        let bytes = match body.get(format!("{field}_bytes")).and_then(Value::as_str) {
            Some(encoded) => {
                let bytes = data_encoding::BASE64.decode(encoded.as_bytes()).map_err(|error| error.to_string())?;
                if String::from_utf8_lossy(&bytes) != text || std::str::from_utf8(&bytes).is_ok() {
                    return Err(format!("{field} and {field}_bytes are not the same path"));
                }
                bytes
            }
            None => text.as_bytes().to_vec(),
        };
        let relative = match &self.root {
            Some(root) => {
                let prefix = [root.as_os_str().as_bytes(), b"/"].concat();
                bytes.strip_prefix(prefix.as_slice()).ok_or_else(|| format!("{field} is not in the library"))?
            }
            None => bytes.strip_prefix(b"/").ok_or_else(|| format!("{field} is not absolute"))?,
        };
        // Two spellings of one path would be equal as `Path`, and are two paths to other consumers.
        if relative.split(|byte| *byte == b'/').any(|name| [b"".as_slice(), b".", b".."].contains(&name)) {
            return Err(format!("{field} has a name that is empty or dots"));
        }
        let path = if self.root.is_some() { relative.to_vec() } else { bytes };
        Ok(Some(OsString::from_vec(path).into()))
    }
}

fn is_as_expected(field: &str, is_there: bool, is_expected: bool) -> Result<(), String> {
    match (is_there, is_expected) {
        (true, false) => Err(format!("{field} in a message that must not have it")),
        (false, true) => Err(format!("no {field}")),
        _ => Ok(()),
    }
}

impl Message {
    /// The message in a few words: `moved a.mp3 -> b/a.mp3`.
    pub(crate) fn short(&self) -> String {
        let path = self.path.to_string_lossy();
        match &self.old_path {
            Some(old_path) => format!("{} {} -> {path}", self.event_type, old_path.to_string_lossy()),
            None => format!("{} {path}", self.event_type),
        }
    }
}
