//! Encodes file events as messages.
//!
//! The body is a public interface: existing consumers of the exchange parse it. Fields may be added, and never renamed
//! or removed. Their order is that of the message contract.

mod bounds;
mod headers;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use data_encoding::HEXLOWER;
use jiff::Timestamp;
use schemars::generate::SchemaSettings;
use schemars::transform::RecursiveTransform;
use schemars::{JsonSchema, Schema};
use serde::Serialize;
use serde_json::Value;
use uuid::Uuid;

use crate::model::{
    Change, EventType, FileEvent, FileType, Metadata, MetadataStyle, Origin, Outgoing, PublishedPath, Row, TagSet,
};

pub use bounds::{file_path, without_metadata};
pub use headers::Headers;

/// Encodes messages. It holds what is the same in every message of one process.
#[derive(Clone, Debug)]
pub struct Encoder {
    instance_id: String,
    root: PathBuf,
    watched_directory: String,
    metadata_style: MetadataStyle,
    tag_set: TagSet,
}

/// The parts of a message that do not come from its event.
#[derive(Clone, Copy, Debug)]
pub struct Stamp {
    /// The id of the store.
    pub store_id: Uuid,
    /// The sequence number, which increases in this store.
    pub sequence: u64,
    /// When the transaction is committed.
    pub at: Timestamp,
    /// The correlation id, the same on every delivery.
    pub correlation_id: Uuid,
}

impl Encoder {
    /// An encoder for the library at `root`, with all tags.
    pub fn new(instance_id: impl Into<String>, root: &Path, metadata_style: MetadataStyle) -> Self {
        Self {
            instance_id: instance_id.into(),
            root: root.to_path_buf(),
            watched_directory: root.to_string_lossy().into_owned(),
            metadata_style,
            tag_set: TagSet::All,
        }
    }

    /// The same with these tags.
    #[must_use]
    pub fn with_tags(self, tag_set: TagSet) -> Self {
        Self { tag_set, ..self }
    }

    /// An encoder for the library at another root, otherwise the same.
    #[must_use]
    pub fn at(&self, root: &Path) -> Self {
        Self::new(self.instance_id.clone(), root, self.metadata_style).with_tags(self.tag_set)
    }

    /// Encodes an event.
    ///
    /// If the body would be longer than [`Outgoing::LONGEST_BODY`], the largest tags are left out, and finally all of
    /// the metadata; `error` in the metadata names what was left out. Only an extremely long path makes the body longer.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::path::Path;
    ///
    /// use file_watcher::message::{Encoder, Stamp};
    /// use file_watcher::model::{Change, FileEvent, MetadataStyle, Origin};
    ///
    /// let encoder = Encoder::new("ab12cd34", Path::new("/music"), MetadataStyle::Nested);
    /// let event = FileEvent { change: Change::Deleted("album/1.mp3".into()), origin: Origin::Watch };
    /// let id = uuid::Uuid::nil();
    /// let stamp = Stamp { store_id: id, sequence: 7, at: jiff::Timestamp::UNIX_EPOCH, correlation_id: id };
    /// let message = encoder.encode(&event, &stamp);
    /// assert_eq!(message.routing_key(), "file.deleted");
    /// let body: serde_json::Value = serde_json::from_slice(&message.body).unwrap();
    /// assert_eq!(body["file_path"], "/music/album/1.mp3");
    /// ```
    pub fn encode(&self, event: &FileEvent, stamp: &Stamp) -> Outgoing {
        self.encode_as(event, Naming { event_type: event.change.event_type(), old_root: &self.root }, stamp)
    }

    /// Encodes the move of a file whose library was at `old_root` before. The path within the library is the same. The
    /// event type is `moved`, because the directory is another one.
    pub fn encode_relocated(&self, row: Row, old_root: &Path, stamp: &Stamp) -> Outgoing {
        let change = Change::Moved { from: row.path.clone(), row };
        self.encode_as(
            &FileEvent { change, origin: Origin::Scan },
            Naming { event_type: EventType::Moved, old_root },
            stamp,
        )
    }

    /// The file of a row as one JSON object, in the fields of the messages about it.
    pub fn describe(&self, row: &Row) -> String {
        let file_type = FileType::of(&row.path);
        let path = PublishedPath::of(&row.path, &self.root);
        let metadata = self.published(row);
        let file = Described {
            file_path: path.file_path,
            content: ContentFields::of(row, &metadata, self.metadata_style),
            file_type: file_type.as_str(),
            format_family: file_type.format_family(),
            file_path_bytes: path.file_path_bytes,
        };
        serde_json::to_string(&file).expect("strings and finite numbers are always JSON")
    }

    fn encode_as(&self, event: &FileEvent, naming: Naming<'_>, stamp: &Stamp) -> Outgoing {
        let row = match &event.change {
            Change::Created(row) | Change::Modified(row) | Change::Moved { row, .. } => Some(row),
            Change::Deleted(_) => None,
        };
        let metadata = row.map(|row| self.published(row));
        let metadata = metadata.as_deref();
        let message = self.encode_with(event, naming, stamp, metadata);
        match metadata.filter(|_| self.metadata_style != MetadataStyle::Off) {
            Some(metadata) if message.is_too_large() || metadata.has_long_texts() => {
                bounds::fit(metadata, |metadata| self.encode_with(event, naming, stamp, Some(metadata)))
            }
            _ => message,
        }
    }

    /// The metadata of a row, without what the setting leaves out.
    fn published<'row>(&self, row: &'row Row) -> Cow<'row, Metadata> {
        match self.tag_set {
            TagSet::All => Cow::Borrowed(&row.track.metadata),
            TagSet::Basic => Cow::Owned(row.track.metadata.basic()),
        }
    }

    /// Encodes an event with this metadata in place of its own.
    fn encode_with(
        &self,
        event: &FileEvent,
        naming: Naming<'_>,
        stamp: &Stamp,
        metadata: Option<&Metadata>,
    ) -> Outgoing {
        let Naming { event_type, old_root } = naming;
        let change = &event.change;
        let (row, from) = match change {
            Change::Created(row) | Change::Modified(row) => (Some(row), None),
            Change::Moved { from, row } => (Some(row), Some(from)),
            Change::Deleted(_) => (None, None),
        };
        let file_type = FileType::of(change.path());
        let path = PublishedPath::of(change.path(), &self.root);
        let old_path = from.map(|from| PublishedPath::of(from, old_root));
        let correlation_id = stamp.correlation_id.to_string();
        let body = Body {
            event_type,
            file_path: path.file_path,
            timestamp: format!("{:.6}", stamp.at),
            instance_id: &self.instance_id,
            content: row.zip(metadata).map(|(row, metadata)| ContentFields::of(row, metadata, self.metadata_style)),
            old_path: old_path.as_ref().map(|path| path.file_path.as_str()),
            correlation_id: &correlation_id,
            sequence: stamp.sequence,
            store_id: stamp.store_id.to_string(),
            origin: event.origin.as_str(),
            watched_directory: &self.watched_directory,
            file_type: file_type.as_str(),
            format_family: file_type.format_family(),
            file_path_bytes: path.file_path_bytes,
            old_path_bytes: old_path.as_ref().and_then(|path| path.file_path_bytes.as_deref()),
        };
        Outgoing {
            sequence: stamp.sequence,
            event_type,
            correlation_id: correlation_id.clone(),
            timestamp: u64::try_from(stamp.at.as_second()).unwrap_or(0),
            body: serde_json::to_vec(&body).expect("strings and finite numbers are always JSON"),
        }
    }
}

/// The ids of the trace and the span of a message. They follow from its correlation id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceIds {
    /// The id of the trace: the correlation id.
    pub trace: u128,
    /// The id of the span: a hash of the correlation id.
    pub span: u64,
}

impl TraceIds {
    /// The ids for a correlation id; `None` if it is not a UUID.
    pub fn of(correlation_id: &str) -> Option<Self> {
        let uuid = Uuid::try_parse(correlation_id).ok()?;
        let span = xxhash_rust::xxh3::xxh3_64(uuid.as_bytes()).max(1);
        Some(Self { trace: uuid.as_u128(), span })
    }

    /// The header `traceparent`, as in W3C Trace Context.
    pub fn traceparent(&self) -> String {
        format!("00-{:032x}-{:016x}-01", self.trace, self.span)
    }
}

/// The event type, and the root of the old path.
#[derive(Clone, Copy)]
struct Naming<'a> {
    event_type: EventType,
    old_root: &'a Path,
}

/// A message of file-watcher, published to the topic exchange file_events.
#[derive(Serialize, JsonSchema)]
#[schemars(title = "file event")]
struct Body<'a> {
    /// What happened to the file. A file that is moved goes to another directory, one that is renamed stays in its own.
    event_type: EventType,
    /// The absolute path of the file, as file-watcher sees it.
    file_path: String,
    /// When the change was committed: RFC 3339 in UTC with microseconds.
    #[schemars(extend("format" = "date-time"))]
    timestamp: String,
    /// The name of the instance that published the message.
    instance_id: &'a str,
    #[serde(flatten)]
    content: Option<ContentFields<'a>>,
    /// The old path, if the event is moved or renamed. An earlier message published it.
    #[serde(skip_serializing_if = "Option::is_none")]
    old_path: Option<&'a str>,
    /// The same on every redelivery; also the message_id of the AMQP properties.
    correlation_id: &'a str,
    /// Increases by one with each message of a store, so that duplicates and gaps can be detected.
    sequence: u64,
    /// The id of the store, to which the sequence belongs. A new index has a new one. Also an AMQP header.
    #[schemars(extend("format" = "uuid"))]
    store_id: String,
    /// What found the change: watch (an event of the kernel), scan, or replay.
    origin: &'static str,
    /// The root of the library.
    watched_directory: &'a str,
    /// The type by the extension: mp3, flac, wav, ogg, opus, aac, mp4, wma, or another extension.
    file_type: &'a str,
    /// ogg_vorbis for ogg and oga.
    #[serde(skip_serializing_if = "Option::is_none")]
    format_family: Option<&'static str>,
    /// The bytes of file_path in base64, if they are not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    file_path_bytes: Option<String>,
    /// The bytes of old_path in base64, if they are not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    old_path_bytes: Option<&'a str>,
}

/// The JSON Schema of the message bodies, as text.
pub fn schema() -> String {
    // A field is absent rather than null.
    let absent = RecursiveTransform(|schema: &mut Schema| {
        if let Some(Value::Array(types)) = schema.get_mut("type")
            && let [kind, Value::String(null)] = &types[..]
            && null == "null"
        {
            let kind = kind.clone();
            schema.insert("type".to_owned(), kind);
        }
    });
    let settings = SchemaSettings::draft2020_12().for_serialize().with_transform(absent);
    let schema = settings.into_generator().into_root_schema_for::<Body<'_>>();
    let mut text = serde_json::to_string_pretty(&schema).expect("a schema is always JSON");
    text.push('\n');
    text
}

/// A file of the index, without the fields of an event.
#[derive(Serialize)]
struct Described<'a> {
    file_path: String,
    #[serde(flatten)]
    content: ContentFields<'a>,
    file_type: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    format_family: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    file_path_bytes: Option<String>,
}

/// The fields that every message but a `deleted` one has.
#[derive(Serialize, JsonSchema)]
struct ContentFields<'a> {
    /// The SHA-256 of the whole file, as sha256sum prints it.
    sha256_hash: String,
    /// The XXH3 hash of the whole file with 128 bits, as xxhsum -H128 prints it.
    xxh128_hash: String,
    /// The XXH3 hash of the sound alone with 128 bits: the same after retagging. Absent if it is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    audio_hash: Option<String>,
    /// What the tags and the stream headers say. Absent if METADATA_STYLE is off.
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<MetadataField<'a>>,
    /// The size of the hashed file.
    size_bytes: u64,
    /// The modification time of the hashed file: RFC 3339 in UTC with nanoseconds. Absent outside of the years 0 to 9999.
    #[schemars(extend("format" = "date-time"))]
    #[serde(skip_serializing_if = "Option::is_none")]
    modified_time: Option<String>,
}

#[derive(Serialize, JsonSchema)]
#[serde(untagged)]
enum MetadataField<'a> {
    /// METADATA_STYLE nested, the default.
    Nested(&'a Metadata),
    /// METADATA_STYLE flat: one level of texts.
    Flat(BTreeMap<&'static str, String>),
}

impl<'a> ContentFields<'a> {
    fn of(row: &Row, metadata: &'a Metadata, style: MetadataStyle) -> Self {
        Self {
            sha256_hash: HEXLOWER.encode(&row.track.fingerprint.sha256),
            xxh128_hash: format!("{:032x}", row.track.fingerprint.xxh128),
            audio_hash: row.track.sound.map(|sound| format!("{:032x}", sound.xxh128)),
            metadata: match style {
                MetadataStyle::Nested => Some(MetadataField::Nested(metadata)),
                MetadataStyle::Flat => Some(MetadataField::Flat(flat(metadata))),
                MetadataStyle::Off => None,
            },
            size_bytes: row.stat.size,
            modified_time: modified_time(row.stat.mtime_ns),
        }
    }
}

/// RFC 3339 with nanoseconds; `None` for a time outside of the years 0 to 9999, which RFC 3339 cannot express.
fn modified_time(nanoseconds: i128) -> Option<String> {
    Some(format!("{:.9}", Timestamp::from_nanosecond(nanoseconds).ok().filter(|time| time.as_second() >= YEAR_ZERO)?))
}

/// The first second of the year 0, in seconds since the epoch.
const YEAR_ZERO: i64 = -62_167_219_200;

/// One level of strings, for consumers that store metadata as keys and values.
fn flat(metadata: &Metadata) -> BTreeMap<&'static str, String> {
    let properties = [
        // As Python prints a float, because that is what these consumers have stored so far.
        ("duration", metadata.duration.map(|seconds| format!("{seconds:?}"))),
        ("bitrate", metadata.bitrate.map(|number| number.to_string())),
        ("sample_rate", metadata.sample_rate.map(|number| number.to_string())),
        ("channels", metadata.channels.map(|number| number.to_string())),
        ("format", metadata.format.clone()),
        ("codec", metadata.codec.clone()),
        ("bits_per_sample", metadata.bits_per_sample.map(|number| number.to_string())),
        ("has_cover", metadata.has_cover.then(|| true.to_string())),
        ("error", metadata.error.clone()),
    ];
    let tags = metadata.tags.present().map(|(name, value)| (name, value.to_owned()));
    properties.into_iter().filter_map(|(name, value)| Some((name, value?))).chain(tags).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use data_encoding::BASE64;
    use serde_json::json;

    use super::*;
    use crate::model::{Field, FileStat, Fingerprint, LibraryPath, Sound, Track};

    fn row(path: LibraryPath) -> Row {
        let metadata = Metadata {
            duration: Some(180.5),
            bitrate: Some(320_000),
            sample_rate: Some(44_100),
            format: Some("audio/mp3".into()),
            codec: Some("mp3".into()),
            has_cover: true,
            tags: [(Field::Title, "Où"), (Field::Track, "3/12"), (Field::Isrc, "FRZ039800212")].into_iter().collect(),
            ..Metadata::default()
        };
        Row {
            path,
            stat: FileStat { inode: 1, size: 42, mtime_ns: 1_700_000_000_000_000_007, ..FileStat::default() },
            track: Arc::new(Track {
                fingerprint: Fingerprint { sha256: [0xab; 32], xxh128: 0x0f },
                sound: Some(Sound { xxh128: 0xa0, bytes: 30 }),
                metadata,
            }),
            first_published: 0,
        }
    }

    fn encode(change: Change, style: MetadataStyle) -> (Outgoing, Value) {
        let encoder = Encoder::new("ab12cd34", Path::new("/data/music"), style);
        let stamp = Stamp {
            store_id: Uuid::from_u128(4),
            sequence: 7,
            at: "2026-11-23T10:00:00.5Z".parse().unwrap(),
            correlation_id: Uuid::from_u128(5),
        };
        let outgoing = encoder.encode(&FileEvent { change, origin: Origin::Watch }, &stamp);
        let body = serde_json::from_slice(&outgoing.body).unwrap();
        (outgoing, body)
    }

    #[test]
    fn a_moved_message_has_every_field_of_the_contract() {
        let change = Change::Moved { from: "a/x.oga".into(), row: row("b/x.oga".into()) };
        let (outgoing, body) = encode(change, MetadataStyle::Nested);
        assert_eq!(outgoing.routing_key(), "file.moved");
        assert_eq!(
            body,
            json!({
                "event_type": "moved",
                "file_path": "/data/music/b/x.oga",
                "timestamp": "2026-11-23T10:00:00.500000Z",
                "instance_id": "ab12cd34",
                "sha256_hash": "ab".repeat(32),
                "xxh128_hash": "0000000000000000000000000000000f",
                "audio_hash": "000000000000000000000000000000a0",
                "old_path": "/data/music/a/x.oga",
                "metadata": {
                    "duration": 180.5, "bitrate": 320_000, "sample_rate": 44_100, "format": "audio/mp3",
                    "codec": "mp3", "has_cover": true,
                    "tags": {"title": "Où", "track": "3/12", "isrc": "FRZ039800212"},
                },
                "correlation_id": "00000000-0000-0000-0000-000000000005",
                "sequence": 7,
                "store_id": "00000000-0000-0000-0000-000000000004",
                "origin": "watch",
                "watched_directory": "/data/music",
                "size_bytes": 42,
                "modified_time": "2023-11-14T22:13:20.000000007Z",
                "file_type": "ogg",
                "format_family": "ogg_vorbis",
            })
        );
    }

    #[test]
    fn basic_tags_are_those_of_older_versions() {
        for style in [MetadataStyle::Nested, MetadataStyle::Flat] {
            let encoder = Encoder::new("ab12cd34", Path::new("/music"), style).with_tags(TagSet::Basic);
            let described = encoder.at(Path::new("/other")).describe(&row("x.mp3".into()));
            let metadata = &serde_json::from_str::<Value>(&described).unwrap()["metadata"];
            let names = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
            if style == MetadataStyle::Nested {
                assert_eq!(names(metadata), ["bitrate", "duration", "format", "sample_rate", "tags"]);
                assert_eq!(names(&metadata["tags"]), ["title", "track"]);
            } else {
                assert_eq!(names(metadata), ["bitrate", "duration", "format", "sample_rate", "title", "track"]);
            }
        }
    }

    #[test]
    fn the_schema_describes_every_message_and_every_field() {
        let schema: Value = serde_json::from_str(&schema()).unwrap();
        let validator = jsonschema::validator_for(&schema).unwrap();
        let from = LibraryPath::from_bytes(b"\xfe.mp3");
        let odd = row(LibraryPath::from_bytes(b"a\xff.oga"));
        for style in [MetadataStyle::Nested, MetadataStyle::Flat, MetadataStyle::Off] {
            let moved = Change::Moved { from: from.clone(), row: odd.clone() };
            for change in [Change::Created(odd.clone()), Change::Deleted(from.clone()), moved] {
                let (_, body) = encode(change, style);
                validator.validate(&body).unwrap_or_else(|error| panic!("{error}: {body}"));
                let unknown = body.as_object().unwrap().keys().find(|field| schema["properties"].get(field).is_none());
                assert_eq!(unknown, None);
            }
        }
        let required = schema["required"].as_array().unwrap();
        assert!(required.contains(&json!("correlation_id")) && !required.contains(&json!("sha256_hash")));
        assert!(!validator.is_valid(&json!({"event_type": "created"})));
    }

    #[test]
    fn a_relocated_file_is_moved_from_the_old_root_even_if_it_is_right_in_it() {
        let encoder = Encoder::new("ab12cd34", Path::new("/music"), MetadataStyle::Nested);
        let stamp = Stamp {
            store_id: Uuid::from_u128(4),
            sequence: 7,
            at: Timestamp::UNIX_EPOCH,
            correlation_id: Uuid::from_u128(5),
        };
        let outgoing = encoder.encode_relocated(row("x.mp3".into()), Path::new("/data/music"), &stamp);
        let body: Value = serde_json::from_slice(&outgoing.body).unwrap();
        assert_eq!((outgoing.routing_key(), &body["event_type"]), ("file.moved", &json!("moved")));
        assert_eq!((&body["old_path"], &body["file_path"]), (&json!("/data/music/x.mp3"), &json!("/music/x.mp3")));
        assert_eq!(body["watched_directory"], "/music");
    }

    #[test]
    fn a_deleted_message_has_no_content_fields() {
        let (_, body) = encode(Change::Deleted("x.mp3".into()), MetadataStyle::Nested);
        for field in ["sha256_hash", "xxh128_hash", "audio_hash", "metadata", "size_bytes", "modified_time", "old_path"]
        {
            assert!(body.get(field).is_none(), "{field}");
        }
        assert_eq!(body["event_type"], "deleted");
        assert_eq!(body["file_type"], "mp3");
    }

    #[test]
    fn the_ids_of_a_trace_follow_from_the_correlation_id() {
        let ids = TraceIds::of("d265a2ad-00ac-47b1-80b6-6a258a2b3752").unwrap();
        let header = ids.traceparent();
        assert_eq!((header.len(), &header[..36]), (55, "00-d265a2ad00ac47b180b66a258a2b3752-"));
        assert_eq!(TraceIds::of("7"), None);
    }

    #[test]
    fn flat_metadata_is_one_level_of_strings() {
        let (_, body) = encode(Change::Created(row("x.mp3".into())), MetadataStyle::Flat);
        assert_eq!(
            body["metadata"],
            json!({"duration": "180.5", "bitrate": "320000", "sample_rate": "44100", "format": "audio/mp3",
                "codec": "mp3", "has_cover": "true", "isrc": "FRZ039800212",
                   "title": "Où", "track": "3/12"})
        );
        let (_, body) = encode(Change::Created(row("x.mp3".into())), MetadataStyle::Off);
        assert!(body.get("metadata").is_none());
    }

    #[test]
    fn a_path_that_is_not_utf8_comes_with_its_bytes() {
        let from = LibraryPath::from_bytes(b"\xfe.mp3");
        let change = Change::Moved { from, row: row(LibraryPath::from_bytes(b"a\xff.mp3")) };
        let (_, body) = encode(change, MetadataStyle::Nested);
        assert_eq!(body["file_path"], "/data/music/a\u{fffd}.mp3");
        assert_eq!(body["file_path_bytes"], BASE64.encode(b"/data/music/a\xff.mp3"));
        assert_eq!(body["old_path_bytes"], BASE64.encode(b"/data/music/\xfe.mp3"));
    }

    #[test]
    fn times_before_the_epoch_and_far_in_the_future_are_encoded() {
        let mut strange = row("x.mp3".into());
        let year = 31_556_952_i128 * 1_000_000_000;
        for nanoseconds in [-1, i128::from(i64::MIN) - 1, i128::from(i64::MAX) + 1, 400 * year, -1900 * year] {
            strange.stat.mtime_ns = nanoseconds;
            let (_, body) = encode(Change::Created(strange.clone()), MetadataStyle::Nested);
            let parsed: Timestamp = body["modified_time"].as_str().unwrap().parse().unwrap();
            assert_eq!(parsed.as_nanosecond(), nanoseconds);
        }
        for nanoseconds in [i128::MAX, i128::MIN, 9_000_000 * year, -3_000 * year] {
            strange.stat.mtime_ns = nanoseconds;
            let (_, body) = encode(Change::Created(strange.clone()), MetadataStyle::Nested);
            assert_eq!(body.get("modified_time"), None);
        }
    }
}
