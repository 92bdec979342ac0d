//! Keeps messages within the size limit.

use std::fmt;

use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Value, json};

use crate::model::{Metadata, Outgoing};

/// The field that is reduced if a message is too large.
const METADATA: &str = "metadata";

/// The `error` in place of the metadata of a message that was too large.
const LEFT_OUT: &str = "left out: the message would be too large";

/// Encodes a message with as much of `metadata` as fits.
pub(super) fn fit(metadata: &Metadata, encode: impl Fn(&Metadata) -> Outgoing) -> Outgoing {
    let mut kept = metadata.clone();
    // The index of an older version may have texts of any length.
    kept.cut_long_texts();
    let mut message = encode(&kept);
    while message.is_too_large() {
        let Some(field) = kept.tags.remove_longest() else { break };
        kept.add_error(&format!("{} is left out: the message would be too large", field.name()));
        message = encode(&kept);
    }
    if message.is_too_large() {
        let error = Some(LEFT_OUT.to_owned());
        message = encode(&Metadata { error, ..Metadata::default() });
    }
    message
}

/// The same message with an `error` in place of its metadata; `None` if that does not make it smaller.
pub fn without_metadata(message: &Outgoing) -> Option<Outgoing> {
    let mut fields: Fields = serde_json::from_slice(&message.body).ok()?;
    let (_, metadata) = fields.0.iter_mut().find(|(name, _)| name == METADATA)?;
    let reduced = match metadata.get("tags") {
        Some(_) => json!({"tags": {}, "error": LEFT_OUT}),
        None => json!({"error": LEFT_OUT}),
    };
    if *metadata == reduced {
        return None;
    }
    *metadata = reduced;
    let body = serde_json::to_vec(&fields).ok()?;
    (body.len() < message.body.len()).then(|| Outgoing { body, ..message.clone() })
}

/// The `file_path` of a message, for people; empty if the body cannot be parsed.
pub fn file_path(message: &Outgoing) -> String {
    #[derive(Deserialize)]
    struct Body {
        file_path: String,
    }
    serde_json::from_slice(&message.body).map(|body: Body| body.file_path).unwrap_or_default()
}

/// A JSON object that keeps the order of its fields.
struct Fields(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Fields;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(Fields(fields))
            }
        }
        deserializer.deserialize_map(InOrder)
    }
}

impl Serialize for Fields {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (name, value)))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use jiff::Timestamp;
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;
    use crate::message::{Encoder, Stamp};
    use crate::model::{
        Change, EventType, Field, FileEvent, FileStat, Fingerprint, LibraryPath, MetadataStyle, Origin, Row, Tags,
        Track,
    };

    fn created(path: LibraryPath, tags: Tags, style: MetadataStyle) -> (Outgoing, Value) {
        let fingerprint = Fingerprint { sha256: [7; 32], xxh128: 7 };
        let format = Some("f".repeat(2_000));
        let metadata = Metadata { duration: Some(1.5), format, tags, ..Metadata::default() };
        let stat = FileStat { inode: 1, size: 42, mtime_ns: 7, ..FileStat::default() };
        let change = Change::Created(Row {
            path,
            stat,
            track: Track { fingerprint, sound: None, metadata }.into(),
            first_published: 0,
        });
        let stamp =
            Stamp { store_id: Uuid::nil(), sequence: 7, at: Timestamp::UNIX_EPOCH, correlation_id: Uuid::nil() };
        let encoder = Encoder::new("test", Path::new("/music"), style);
        let message = encoder.encode(&FileEvent { change, origin: Origin::Scan }, &stamp);
        let body = serde_json::from_slice(&message.body).unwrap();
        (message, body)
    }

    fn text(kibibytes: usize) -> String {
        "x".repeat(kibibytes * 1024)
    }

    #[test]
    fn a_message_that_is_too_large_loses_its_largest_tags_and_nothing_else() {
        let tags = || {
            let long =
                [(Field::Title, 60), (Field::Artist, 64), (Field::Album, 50), (Field::Genre, 63), (Field::Track, 40)];
            let mut tags: Tags = long.into_iter().map(|(field, kibibytes)| (field, text(kibibytes))).collect();
            tags.set(Field::Date, "1999");
            tags
        };
        let (message, body) = created("a.mp3".into(), tags(), MetadataStyle::Nested);
        assert!(!message.is_too_large());
        let kept: Vec<_> = body["metadata"]["tags"].as_object().unwrap().keys().cloned().collect();
        assert_eq!(kept, ["album", "date", "genre", "title", "track"]);
        assert_eq!(body["metadata"]["error"], "artist is left out: the message would be too large");
        assert_eq!(body["metadata"]["duration"], 1.5);

        let (message, body) = created("a.mp3".into(), tags(), MetadataStyle::Flat);
        assert!(!message.is_too_large());
        let kept: Vec<_> = body["metadata"].as_object().unwrap().keys().cloned().collect();
        assert_eq!(kept, ["album", "date", "duration", "error", "format", "genre", "title", "track"]);
    }

    #[test]
    fn the_texts_of_an_older_index_are_bounded_too() {
        for kibibytes in [65, 3000] {
            let tags = [(Field::Title, text(kibibytes))].into_iter().collect();
            let (message, body) = created("a.mp3".into(), tags, MetadataStyle::Nested);
            assert!(!message.is_too_large());
            assert_eq!(body["metadata"]["tags"]["title"].as_str().unwrap().len(), Metadata::LONGEST_TEXT);
            assert_eq!(body["metadata"]["error"], "title is cut to 64 KiB");
        }
    }

    #[test]
    fn a_long_path_leaves_out_the_metadata_and_then_exceeds_the_bound() {
        // Each byte takes six bytes in JSON, and about two more in `file_path_bytes`.
        let path = |length: usize| LibraryPath::from_bytes(&[&vec![1; length][..], b"\xff.mp3"].concat());
        let tags = || [(Field::Title, text(1))].into_iter().collect();
        let just_fits = (35_000..36_000).step_by(100).find(|length| {
            let (message, body) = created(path(*length), tags(), MetadataStyle::Nested);
            !message.is_too_large() && body["metadata"]["error"] == "left out: the message would be too large"
        });
        assert!(just_fits.is_some());
        for style in [MetadataStyle::Nested, MetadataStyle::Flat, MetadataStyle::Off] {
            let (message, _) = created(path(60_000), tags(), style);
            assert!(message.is_too_large() && without_metadata(&message).is_none());
        }
    }

    #[test]
    fn without_its_metadata_a_message_keeps_its_fields_in_their_order() {
        let tags = || [(Field::Title, text(60))].into_iter().collect();
        for style in [MetadataStyle::Nested, MetadataStyle::Flat] {
            let (message, body) = created(LibraryPath::from_bytes(b"a\xff.ogg"), tags(), style);
            let reduced = without_metadata(&message).unwrap();
            assert_eq!((reduced.sequence, &reduced.correlation_id), (7, &message.correlation_id));
            let mut expected = body;
            expected["metadata"] = match style {
                MetadataStyle::Nested => json!({"tags": {}, "error": LEFT_OUT}),
                _ => json!({"error": LEFT_OUT}),
            };
            assert_eq!(serde_json::from_slice::<Value>(&reduced.body).unwrap(), expected);
            let names = |message: &Outgoing| -> Vec<String> {
                let fields: Fields = serde_json::from_slice(&message.body).unwrap();
                fields.0.into_iter().map(|(name, _)| name).collect()
            };
            assert_eq!(names(&reduced), names(&message));
            assert_eq!(without_metadata(&reduced), None);
            assert_eq!(file_path(&reduced), "/music/a\u{fffd}.ogg");
        }
        let (message, _) = created("a.ogg".into(), tags(), MetadataStyle::Off);
        assert_eq!(without_metadata(&message), None);
    }

    #[test]
    fn a_body_that_is_no_json_has_no_path() {
        let message = Outgoing {
            sequence: 1,
            event_type: EventType::Created,
            correlation_id: String::new(),
            timestamp: 0,
            body: b"{".into(),
        };
        assert_eq!((file_path(&message), without_metadata(&message)), (String::new(), None));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn every_message_of_a_usual_path_is_within_the_bound(
            lengths in prop::collection::vec(0..90_000_usize, Field::ALL.len()),
            pattern in "[\\x01-\\u{1f3b5}]{1,3}",
            nested: bool,
        ) {
            let texts = lengths.into_iter().map(|length| pattern.repeat(length / pattern.len()));
            let tags: Tags = Field::ALL.into_iter().zip(texts).collect();
            let style = if nested { MetadataStyle::Nested } else { MetadataStyle::Flat };
            let (message, body) = created("a.mp3".into(), tags.clone(), style);
            prop_assert!(!message.is_too_large());
            prop_assert_eq!(&body["sha256_hash"], &json!("07".repeat(32)));
            let sent = if nested { &body["metadata"]["tags"] } else { &body["metadata"] };
            for (name, text) in tags.present() {
                // A tag is whole, or cut or left out and named in the error.
                let is_whole = sent[name] == text;
                prop_assert!(is_whole || body["metadata"]["error"].as_str().is_some_and(|it| it.contains(name)));
            }
        }
    }
}
