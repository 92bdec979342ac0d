//! A consumer that believes every message and holds each to the contract.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::support::strict::{StrictConsumers, StrictMessage};
use crate::tree::{Hash, Library};

/// A message, as the consumer understood it.
#[derive(Clone, Debug)]
pub(crate) struct Told {
    pub(crate) sequence: u64,
    pub(crate) event_type: String,
    pub(crate) path: PathBuf,
    pub(crate) old_path: Option<PathBuf>,
    pub(crate) hash: Option<Hash>,
    pub(crate) origin: String,
    pub(crate) timestamp: String,
}

/// What the messages so far add up to.
#[derive(Default)]
pub(crate) struct Replay {
    root: PathBuf,
    pub(crate) library: Library,
    pub(crate) told: Vec<Told>,
    pub(crate) duplicates: u64,
    identities: HashMap<u64, String>,
    /// The largest message that arrives. What is larger is parked, and those behind it come before it is known.
    largest: Option<usize>,
    /// Messages that wait for parked ones in front of them, by sequence.
    waiting: BTreeMap<u64, Vec<u8>>,
    /// How many messages were parked.
    pub(crate) parked: u64,
    /// Consumers that are unique in hashes, if no two files have equal contents.
    pub(crate) strict: Option<StrictConsumers>,
    /// The first thing that was against the contract.
    pub(crate) violation: Option<String>,
}

impl Replay {
    /// `is_strict`: no two files ever have equal contents, so consumers may be unique in hashes.
    pub(crate) fn new(root: &Path, is_strict: bool, largest: Option<usize>) -> Self {
        let strict = is_strict.then(StrictConsumers::new);
        Self { root: root.to_path_buf(), strict, largest, ..Self::default() }
    }

    /// Whether no message waits for one in front of it.
    pub(crate) fn is_whole(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Takes one message, in the order of arrival. Those that came before are dropped.
    pub(crate) fn take(&mut self, body: &[u8]) {
        let taken = self.try_take(body);
        self.note(taken, body);
        self.take_waiting();
    }

    /// Takes the messages that were parked so far, each in its place.
    pub(crate) fn take_parked(&mut self, parked: Vec<(u64, Vec<u8>)>) {
        for (sequence, body) in parked {
            if sequence == self.last() + 1 {
                self.parked += 1;
                let taken = self.is_too_large(&body).and_then(|()| self.try_take(&body));
                self.note(taken, &body);
                self.take_waiting();
            }
        }
    }

    fn take_waiting(&mut self) {
        while let Some(body) = self.waiting.remove(&(self.last() + 1)) {
            let taken = self.try_take(&body);
            self.note(taken, &body);
        }
    }

    /// Whether no broker would take it, without its metadata either.
    fn is_too_large(&self, body: &[u8]) -> Result<(), String> {
        let mut message: Value = serde_json::from_slice(body).map_err(|error| format!("no JSON ({error})"))?;
        message.as_object_mut().ok_or("no object")?.remove("metadata");
        let is_too_large = self.largest.is_some_and(|largest| message.to_string().len() > largest);
        if is_too_large { Ok(()) } else { Err("parked, and not too large".into()) }
    }

    fn note(&mut self, taken: Result<(), String>, body: &[u8]) {
        if let Err(wrong) = taken {
            let message = String::from_utf8_lossy(body).into_owned();
            self.violation.get_or_insert(format!("{wrong}: {message}"));
        }
    }

    fn last(&self) -> u64 {
        self.told.last().map_or(0, |told| told.sequence)
    }

    fn try_take(&mut self, body: &[u8]) -> Result<(), String> {
        let message: Value = serde_json::from_slice(body).map_err(|error| format!("no JSON ({error})"))?;
        let text = |field: &str| message[field].as_str().map(str::to_owned);
        let required = |field: &str| text(field).ok_or(format!("no {field}"));
        let sequence = message["sequence"].as_u64().ok_or("no sequence")?;
        let identity = required("correlation_id")?;
        if let Some(before) = self.identities.get(&sequence) {
            self.duplicates += 1;
            return if *before == identity { Ok(()) } else { Err("another correlation_id than before".into()) };
        }
        let last = self.last();
        if sequence > last + 1 && self.largest.is_some() {
            self.duplicates += u64::from(self.waiting.insert(sequence, body.to_vec()).is_some());
            return Ok(());
        }
        if sequence != last + 1 {
            return Err(format!("a gap after {last}"));
        }
        self.identities.insert(sequence, identity);
        let told = Told {
            sequence,
            event_type: required("event_type")?,
            path: self.path(&message, "file_path").ok_or("no file_path")?,
            old_path: self.path(&message, "old_path"),
            hash: text("sha256_hash"),
            origin: required("origin")?,
            timestamp: required("timestamp")?,
        };
        self.told.push(told.clone());
        if let Some(strict) = &mut self.strict {
            strict.take(&StrictMessage {
                event_type: &told.event_type,
                path: told.path.as_os_str().as_bytes(),
                old_path: told.old_path.as_ref().map(|path| path.as_os_str().as_bytes()),
                sha256: told.hash.as_deref(),
                xxh128: message["xxh128_hash"].as_str(),
                // No other file ever has it.
                identity: told.hash.as_deref().unwrap_or_default(),
            })?;
        }
        self.apply(told)
    }

    fn apply(&mut self, told: Told) -> Result<(), String> {
        let known = self.library.get(&told.path);
        match (told.event_type.as_str(), told.hash, told.old_path) {
            ("created", Some(hash), None) => {
                if known.is_some() {
                    return Err("created, and it was there".into());
                }
                self.library.insert(told.path, hash);
            }
            ("modified", Some(hash), None) => {
                if known.is_none_or(|known| *known == hash) {
                    return Err(format!("modified, and it was {known:?}"));
                }
                self.library.insert(told.path, hash);
            }
            ("deleted", None, None) => {
                if self.library.remove(&told.path).is_none() {
                    return Err("deleted, and it was not there".into());
                }
            }
            (moved @ ("moved" | "renamed"), Some(hash), Some(old_path)) => {
                if known.is_some() {
                    return Err("moved onto a file that is there".into());
                }
                if (old_path.parent() == told.path.parent()) != (moved == "renamed") {
                    return Err("moved is to another directory, renamed within one".into());
                }
                match self.library.remove(&old_path) {
                    Some(known) if known == hash => {}
                    known => return Err(format!("moved, and at old_path was {known:?}")),
                }
                self.library.insert(told.path, hash);
            }
            _ => return Err("not a message of the contract".into()),
        }
        Ok(())
    }

    fn path(&self, message: &Value, field: &str) -> Option<PathBuf> {
        let lossy = message[field].as_str()?;
        let path = match message[format!("{field}_bytes")].as_str() {
            Some(encoded) => {
                let bytes = data_encoding::BASE64.decode(encoded.as_bytes()).ok()?;
                PathBuf::from(OsStr::from_bytes(&bytes))
            }
            None => PathBuf::from(lossy),
        };
        Some(path.strip_prefix(&self.root).ok()?.to_path_buf())
    }
}
