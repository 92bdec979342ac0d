//! A consumer that believes every message and holds each to the contract.

use std::collections::HashMap;
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
    /// Consumers that are unique in hashes, if no two files have equal contents.
    pub(crate) strict: Option<StrictConsumers>,
    /// The first thing that was against the contract.
    pub(crate) violation: Option<String>,
}

impl Replay {
    /// `is_strict`: no two files ever have equal contents, so consumers may be unique in hashes.
    pub(crate) fn new(root: &Path, is_strict: bool) -> Self {
        Self { root: root.to_path_buf(), strict: is_strict.then(StrictConsumers::new), ..Self::default() }
    }

    /// Takes one message, in the order of arrival. Those that came before are dropped.
    pub(crate) fn take(&mut self, body: &[u8]) {
        if let Err(wrong) = self.try_take(body) {
            let message = String::from_utf8_lossy(body).into_owned();
            self.violation.get_or_insert(format!("{wrong}: {message}"));
        }
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
        let last = self.told.last().map_or(0, |told| told.sequence);
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
