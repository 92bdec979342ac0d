//! The latest file events, for people who look at the service.

use std::collections::VecDeque;
use std::fmt;
use std::num::NonZeroU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::broadcast;

use super::{duration_text, kilohertz};
use crate::model::{Change, EventType, FileEvent, printable};

/// The most new events that a listener may be behind. It misses older ones, and loads the list again.
const MAX_BEHIND: usize = 1_000;

/// The most different details that are kept once. There are as many as sample rates.
const MOST_DETAILS: usize = 64;

/// Events whose texts are kept together, each as its difference from the one before.
const BLOCK: usize = 1_000;

/// One file event.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LoggedEvent {
    /// The sequence number of its message.
    pub sequence: u64,
    /// The type.
    #[serde(rename = "type", serialize_with = "as_word")]
    pub event_type: EventType,
    /// The path in the library.
    pub path: String,
    /// The old path of a moved or renamed file.
    pub old_path: Option<String>,
    /// When it was committed, in RFC 3339.
    pub time: String,
    /// The size of the file in bytes.
    pub size: Option<u64>,
    /// The playing time.
    pub duration_seconds: Option<f64>,
    /// More about the sound, such as `44.1 kHz`.
    pub details: Option<String>,
}

/// The fields of a message that are shown.
#[derive(Deserialize)]
struct Body {
    event_type: String,
    file_path: String,
    old_path: Option<String>,
    timestamp: String,
    sequence: u64,
    size_bytes: Option<u64>,
    metadata: Option<serde_json::Map<String, Value>>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn as_word<S: serde::Serializer>(event_type: &EventType, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(event_type.as_str())
}

impl LoggedEvent {
    /// What is logged of an event.
    #[must_use]
    pub fn new(sequence: u64, event: &FileEvent, time: String) -> Self {
        let row = match &event.change {
            Change::Created(row) | Change::Modified(row) | Change::Moved { row, .. } => Some(row),
            Change::Deleted(_) => None,
        };
        let old_path = match &event.change {
            Change::Moved { from, .. } => Some(from.to_string()),
            _ => None,
        };
        let metadata = row.map(|row| &row.track.metadata);
        let sample_rate = metadata.and_then(|metadata| metadata.sample_rate);
        Self {
            sequence,
            event_type: event.change.event_type(),
            path: event.change.path().to_string(),
            old_path,
            time,
            size: row.map(|row| row.stat.size),
            duration_seconds: metadata.and_then(|metadata| metadata.duration),
            details: sample_rate.map(f64::from).map(kilohertz),
        }
    }

    /// What is shown of a message, given its body; `None` if it is not one of this program.
    #[must_use]
    pub fn of_body(body: &[u8]) -> Option<Self> {
        let body: Body = serde_json::from_slice(body).ok()?;
        let metadata = body.metadata.unwrap_or_default();
        // Numbers are texts if METADATA_STYLE is flat.
        let number = |name: &str| match metadata.get(name)? {
            Value::String(text) => text.parse().ok(),
            value => value.as_f64(),
        };
        Some(Self {
            sequence: body.sequence,
            event_type: body.event_type.parse().ok()?,
            path: body.file_path,
            old_path: body.old_path,
            time: body.timestamp,
            size: body.size_bytes,
            duration_seconds: number("duration"),
            details: number("sample_rate").map(kilohertz),
        })
    }
}

/// One line for a terminal, such as `created  Artist/Album/01.flac  3:04  44.1 kHz`.
impl fmt::Display for LoggedEvent {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:<8}  ", self.event_type.as_str())?;
        if let Some(old_path) = &self.old_path {
            write!(formatter, "{} -> ", printable(old_path))?;
        }
        write!(formatter, "{}", printable(&self.path))?;
        if let Some(seconds) = self.duration_seconds {
            write!(formatter, "  {}", duration_text(seconds))?;
        }
        self.details.as_ref().map_or(Ok(()), |details| write!(formatter, "  {}", printable(details)))
    }
}

/// Which events are wanted.
#[derive(Clone, Debug, Default)]
pub struct EventQuery {
    /// Only events before this sequence number.
    pub before: Option<u64>,
    /// Only events of this type.
    pub event_type: Option<EventType>,
    /// Only events whose path has this text, in any case.
    pub text: Option<String>,
    /// The most events.
    pub limit: usize,
}

/// Some of the latest events, the newest first.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct EventPage {
    /// The events.
    pub events: Vec<LoggedEvent>,
    /// Whether there are older ones that are wanted.
    pub has_more: bool,
}

/// The latest events, in the order of their sequence numbers.
#[derive(Debug)]
pub struct EventLog {
    kept: Mutex<KeptEvents>,
    most: usize,
    live: broadcast::Sender<Arc<LoggedEvent>>,
}

/// The events in few bytes, because there may be a hundred thousand.
#[derive(Debug, Default)]
struct KeptEvents {
    blocks: VecDeque<Block>,
    /// The few different details of all events.
    details: Vec<String>,
    count: usize,
}

/// Some events in order. Their texts are forgotten together.
#[derive(Debug, Default)]
struct Block {
    events: Vec<KeptEvent>,
    /// The end of the text of each event, from where it differs from the text before.
    ends_of_texts: String,
    last_text: String,
}

/// An event as it is kept. Its text is the path, and for a move a NUL, which is in no path, and the old path.
#[derive(Debug)]
struct KeptEvent {
    sequence: u64,
    /// The size, plus one.
    size: Option<NonZeroU64>,
    /// NaN if there is none.
    duration_seconds: f64,
    /// In seconds since the epoch.
    time: u32,
    /// Where the text of the next event begins.
    text_end: u32,
    /// How many bytes the text has in common with the one before.
    shared: u16,
    event_type: EventType,
    /// The place of the details in the list of all.
    details: Option<u8>,
}

impl KeptEvents {
    fn add(&mut self, event: &LoggedEvent) {
        let details = event.details.as_ref().and_then(|details| {
            let known = self.details.iter().position(|known| known == details);
            let place = known.or_else(|| {
                let is_kept = self.details.len() < MOST_DETAILS;
                is_kept.then(|| {
                    self.details.push(details.clone());
                    self.details.len() - 1
                })
            });
            place.and_then(|place| u8::try_from(place).ok())
        });
        if self.blocks.back().is_none_or(|block| block.events.len() == BLOCK) {
            self.blocks.push_back(Block::default());
        }
        if let Some(block) = self.blocks.back_mut() {
            block.add(event, details);
            self.count += 1;
        }
    }

    /// Forgets the oldest block if the others have `most` events.
    fn forget_all_but(&mut self, most: usize) {
        if let Some(oldest) = self.blocks.front()
            && self.count - oldest.events.len() >= most
        {
            self.count -= oldest.events.len();
            self.blocks.pop_front();
        }
    }

    /// All events, the newest first, each with its text.
    fn newest_first(&self) -> impl Iterator<Item = (&KeptEvent, String)> {
        self.blocks.iter().rev().flat_map(|block| block.events.iter().zip(block.texts()).rev())
    }

    fn to_logged(&self, event: &KeptEvent, text: &str) -> LoggedEvent {
        LoggedEvent {
            sequence: event.sequence,
            event_type: event.event_type,
            path: path(text).to_owned(),
            old_path: old_path(text).map(ToOwned::to_owned),
            time: Timestamp::from_second(event.time.into()).map(|time| time.to_string()).unwrap_or_default(),
            size: event.size.map(|size| size.get() - 1),
            duration_seconds: Some(event.duration_seconds).filter(|seconds| !seconds.is_nan()),
            details: event.details.and_then(|place| self.details.get(usize::from(place)).cloned()),
        }
    }
}

impl Block {
    fn add(&mut self, event: &LoggedEvent, details: Option<u8>) {
        let text = match &event.old_path {
            Some(old_path) => format!("{}\0{old_path}", event.path),
            None => event.path.clone(),
        };
        let equal = text.bytes().zip(self.last_text.bytes()).take_while(|(one, other)| one == other).count();
        let shared = text.floor_char_boundary(equal.min(usize::from(u16::MAX)));
        self.ends_of_texts.push_str(&text[shared..]);
        self.last_text = text;
        let time = event.time.parse::<Timestamp>().map_or(0, Timestamp::as_second);
        self.events.push(KeptEvent {
            sequence: event.sequence,
            size: event.size.and_then(|size| NonZeroU64::new(size.saturating_add(1))),
            duration_seconds: event.duration_seconds.unwrap_or(f64::NAN),
            time: u32::try_from(time).unwrap_or_default(),
            text_end: u32::try_from(self.ends_of_texts.len()).unwrap_or(u32::MAX),
            shared: u16::try_from(shared).unwrap_or_default(),
            event_type: event.event_type,
            details,
        });
        if self.events.len() == BLOCK {
            self.events.shrink_to_fit();
            self.ends_of_texts.shrink_to_fit();
        }
    }

    /// The texts of all events, in order.
    fn texts(&self) -> Vec<String> {
        let (mut text, mut begin) = (String::new(), 0);
        let of_event = |event: &KeptEvent| {
            let end = usize::try_from(event.text_end).unwrap_or(usize::MAX);
            text.truncate(event.shared.into());
            text.push_str(self.ends_of_texts.get(begin..end).unwrap_or_default());
            begin = end;
            text.clone()
        };
        self.events.iter().map(of_event).collect()
    }
}

/// The path in the text of an event.
fn path(text: &str) -> &str {
    text.split('\0').next().unwrap_or_default()
}

/// The old path in the text of an event.
fn old_path(text: &str) -> Option<&str> {
    text.split('\0').nth(1)
}

impl EventLog {
    /// An empty log that keeps at most `most` events.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self { kept: Mutex::default(), most, live: broadcast::Sender::new(MAX_BEHIND) }
    }

    /// Adds the newest event.
    pub fn add(&self, event: LoggedEvent) {
        let mut kept = self.kept();
        kept.add(&event);
        kept.forget_all_but(self.most);
        drop(kept);
        // Usually nobody listens.
        if self.live.receiver_count() > 0 {
            let _ = self.live.send(Arc::new(event));
        }
    }

    /// The events that are wanted.
    pub fn find(&self, query: &EventQuery) -> EventPage {
        let text = query.text.as_ref().map(|text| text.to_lowercase());
        let has_text = |path: &str| text.as_ref().is_none_or(|text| path.to_lowercase().contains(text));
        let is_wanted = |(event, text): &(&KeptEvent, String)| {
            query.before.is_none_or(|before| event.sequence < before)
                && query.event_type.is_none_or(|event_type| event.event_type == event_type)
                && (has_text(path(text)) || old_path(text).is_some_and(has_text))
        };
        let kept = self.kept();
        // Of the oldest block, some may be more than are to be kept.
        let wanted = kept.newest_first().take(self.most).filter(is_wanted).take(query.limit + 1);
        let mut found: Vec<LoggedEvent> = wanted.map(|(event, text)| kept.to_logged(event, &text)).collect();
        let has_more = found.len() > query.limit;
        found.truncate(query.limit);
        EventPage { events: found, has_more }
    }

    /// The events from now on.
    pub fn live(&self) -> broadcast::Receiver<Arc<LoggedEvent>> {
        self.live.subscribe()
    }

    fn kept(&self) -> MutexGuard<'_, KeptEvents> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Origin;

    fn log_of(paths: &[&str]) -> EventLog {
        let log = EventLog::new(100);
        for (sequence, path) in (1..).zip(paths) {
            let event = FileEvent { change: Change::Deleted((*path).into()), origin: Origin::Watch };
            log.add(LoggedEvent::new(sequence, &event, String::new()));
        }
        log
    }

    fn found(log: &EventLog, query: &EventQuery) -> (Vec<u64>, bool) {
        let page = log.find(query);
        (page.events.iter().map(|event| event.sequence).collect(), page.has_more)
    }

    #[test]
    fn events_are_found_newest_first_by_text_and_type_and_in_pages() {
        let log = log_of(&["A/one.mp3", "a/two.mp3", "b/three.mp3", "a/Ä.mp3"]);
        let all = EventQuery { limit: 10, ..EventQuery::default() };
        assert_eq!(found(&log, &all), (vec![4, 3, 2, 1], false));
        assert_eq!(found(&log, &EventQuery { limit: 2, ..all.clone() }), (vec![4, 3], true));
        assert_eq!(found(&log, &EventQuery { before: Some(3), ..all.clone() }), (vec![2, 1], false));
        assert_eq!(found(&log, &EventQuery { text: Some("a/".to_owned()), ..all.clone() }), (vec![4, 2, 1], false));
        assert_eq!(found(&log, &EventQuery { text: Some("ä".to_owned()), ..all.clone() }), (vec![4], false));
        assert_eq!(found(&log, &EventQuery { event_type: Some(EventType::Created), ..all }), (vec![], false));
    }

    #[test]
    fn an_event_is_kept_as_it_was() {
        let event = LoggedEvent {
            sequence: 7,
            event_type: EventType::Moved,
            path: "b/Ä.mp3".to_owned(),
            old_path: Some("a/Ä.mp3".to_owned()),
            time: "2026-01-02T03:04:05Z".to_owned(),
            size: Some(42),
            duration_seconds: Some(0.731),
            details: Some("44.1 kHz".to_owned()),
        };
        let deleted = LoggedEvent {
            event_type: EventType::Deleted,
            old_path: None,
            size: None,
            duration_seconds: None,
            details: None,
            ..event.clone()
        };
        let log = EventLog::new(10);
        log.add(event.clone());
        log.add(deleted.clone());
        assert_eq!(log.find(&EventQuery { limit: 2, ..EventQuery::default() }).events, [deleted, event]);
        assert!(size_of::<KeptEvent>() <= 40);
    }

    #[test]
    fn only_the_latest_events_are_kept() {
        for count in [103, 2 * BLOCK + 50, 2 * BLOCK + 150] {
            let names: Vec<String> = (1..=count).map(|number| format!("ä/ö {number}.mp3")).collect();
            let log = log_of(&names.iter().map(String::as_str).collect::<Vec<_>>());
            let all = log.find(&EventQuery { limit: 1000, ..EventQuery::default() }).events;
            assert!(all.iter().map(|event| &event.path).eq(names.iter().rev().take(100)), "{count}");
            assert!(log.kept().count <= 100 + BLOCK);
        }
    }
}
