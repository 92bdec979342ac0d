//! The tags of a file, as messages have them.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value, json};

/// A field of [`Tags`], in the order of the message contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "`description` says what each one is, for the schema too")]
pub enum Field {
    Title,
    Artist,
    Album,
    Date,
    Genre,
    Track,
    AlbumArtist,
    Disc,
    Composer,
    MusicBrainzTrackId,
    MusicBrainzAlbumId,
    MusicBrainzArtistId,
    Isrc,
    Bpm,
    InitialKey,
    Comment,
    Compilation,
    ReplayGainTrackGain,
    ReplayGainAlbumGain,
}

impl Field {
    /// Every field.
    pub const ALL: [Self; 19] = [
        Self::Title,
        Self::Artist,
        Self::Album,
        Self::Date,
        Self::Genre,
        Self::Track,
        Self::AlbumArtist,
        Self::Disc,
        Self::Composer,
        Self::MusicBrainzTrackId,
        Self::MusicBrainzAlbumId,
        Self::MusicBrainzArtistId,
        Self::Isrc,
        Self::Bpm,
        Self::InitialKey,
        Self::Comment,
        Self::Compilation,
        Self::ReplayGainTrackGain,
        Self::ReplayGainAlbumGain,
    ];

    /// The name in messages: one of mutagen's easy names, except for `disc`, which is called as `track` is.
    pub fn name(self) -> &'static str {
        match self {
            Self::Title => "title",
            Self::Artist => "artist",
            Self::Album => "album",
            Self::Date => "date",
            Self::Genre => "genre",
            Self::Track => "track",
            Self::AlbumArtist => "albumartist",
            Self::Disc => "disc",
            Self::Composer => "composer",
            Self::MusicBrainzTrackId => "musicbrainz_trackid",
            Self::MusicBrainzAlbumId => "musicbrainz_albumid",
            Self::MusicBrainzArtistId => "musicbrainz_artistid",
            Self::Isrc => "isrc",
            Self::Bpm => "bpm",
            Self::InitialKey => "initialkey",
            Self::Comment => "comment",
            Self::Compilation => "compilation",
            Self::ReplayGainTrackGain => "replaygain_track_gain",
            Self::ReplayGainAlbumGain => "replaygain_album_gain",
        }
    }

    /// What it is, as the schema says it.
    fn description(self) -> &'static str {
        match self {
            Self::Title => "Title.",
            Self::Artist => "Artist.",
            Self::Album => "Album.",
            Self::Date => "Date or year, as written in the file.",
            Self::Genre => "Genre.",
            Self::Track => "Track number, `3` or `3/12`.",
            Self::AlbumArtist => "Artist of the album.",
            Self::Disc => "Number of the disc, `1` or `1/2`.",
            Self::Composer => "Composer.",
            Self::MusicBrainzTrackId => "MusicBrainz id of the recording.",
            Self::MusicBrainzAlbumId => "MusicBrainz id of the release.",
            Self::MusicBrainzArtistId => "MusicBrainz id of the artist.",
            Self::Isrc => "International Standard Recording Code.",
            Self::Bpm => "Beats per minute.",
            Self::InitialKey => "Musical key at the beginning.",
            Self::Comment => "Comment.",
            Self::Compilation => "`1` if the album is a compilation.",
            Self::ReplayGainTrackGain => "ReplayGain of the track, such as `-6.50 dB`.",
            Self::ReplayGainAlbumGain => "ReplayGain of the album, such as `-6.50 dB`.",
        }
    }

    /// The field with this name, in upper or lower case.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|field| field.name().eq_ignore_ascii_case(name))
    }

    /// Whether it is one of the six that every version publishes.
    pub fn is_basic(self) -> bool {
        self <= Self::Track
    }
}

/// The published tags of a file: the fields that the file has, each with a text.
///
/// Most files have few of them, so only those take memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tags(
    /// In the order of the fields, each at most once.
    Vec<(Field, Box<str>)>,
);

impl Tags {
    /// The text of a field.
    pub fn get(&self, field: Field) -> Option<&str> {
        self.place(field).ok().map(|at| &*self.0[at].1)
    }

    /// Sets a field, whatever it was.
    pub fn set(&mut self, field: Field, text: impl Into<Box<str>>) {
        match self.place(field) {
            Ok(at) => self.0[at].1 = text.into(),
            Err(at) => self.0.insert(at, (field, text.into())),
        }
    }

    /// Removes a field, and returns its text.
    pub fn remove(&mut self, field: Field) -> Option<Box<str>> {
        self.place(field).ok().map(|at| self.0.remove(at).1)
    }

    /// The fields that are present, by name, in the order of the message contract.
    pub fn present(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.0.iter().map(|(field, text)| (field.name(), &**text))
    }

    /// Whether there is no field.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes the fields that are missing here from `others`.
    pub fn fill(&mut self, others: Self) {
        for (field, text) in others.0 {
            if let Err(at) = self.place(field) {
                self.0.insert(at, (field, text));
            }
        }
    }

    /// The same without the fields that older versions did not publish.
    #[must_use]
    pub fn basic(&self) -> Self {
        Self(self.0.iter().filter(|(field, _)| field.is_basic()).cloned().collect())
    }

    /// Truncates every text of more than `longest` bytes, at a character boundary. Returns the fields.
    pub fn cut(&mut self, longest: usize) -> Vec<Field> {
        let too_long = self.0.iter_mut().filter(|(_, text)| text.len() > longest);
        too_long
            .map(|(field, text)| {
                *text = text[..text.floor_char_boundary(longest)].into();
                *field
            })
            .collect()
    }

    /// Removes the field with the longest text, and returns which it was.
    pub fn remove_longest(&mut self) -> Option<Field> {
        let (at, _) = self.0.iter().enumerate().max_by_key(|(_, (_, text))| text.len())?;
        Some(self.0.remove(at).0)
    }

    /// Where the field is, or where it belongs.
    fn place(&self, field: Field) -> Result<usize, usize> {
        self.0.binary_search_by_key(&field, |(field, _)| *field)
    }
}

impl<T: Into<Box<str>>> FromIterator<(Field, T)> for Tags {
    fn from_iter<I: IntoIterator<Item = (Field, T)>>(fields: I) -> Self {
        let mut tags = Self::default();
        for (field, text) in fields {
            tags.set(field, text);
        }
        tags
    }
}

impl Serialize for Tags {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.present())
    }
}

/// Names that are not known, such as those of a later version, are passed over.
impl<'de> Deserialize<'de> for Tags {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ByName;
        impl<'de> Visitor<'de> for ByName {
            type Value = Tags;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object of tags")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Tags, A::Error> {
                let mut tags = Tags::default();
                while let Some((name, value)) = map.next_entry::<Cow<'de, str>, Value>()? {
                    if let (Some(field), Value::String(text)) = (Field::named(&name), value) {
                        tags.set(field, text);
                    }
                }
                Ok(tags)
            }
        }
        deserializer.deserialize_map(ByName)
    }
}

impl JsonSchema for Tags {
    fn schema_name() -> Cow<'static, str> {
        "Tags".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let property =
            |field: Field| (field.name().to_owned(), json!({"description": field.description(), "type": "string"}));
        let properties: Map<String, Value> = Field::ALL.into_iter().map(property).collect();
        json_schema!({
            "description": "The published tags, each as it is in the file. One that the file does not have is absent.",
            "type": "object",
            "properties": properties,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tags() -> impl Strategy<Value = Tags> {
        let field = prop::sample::select(&Field::ALL[..]);
        prop::collection::vec((field, "\\PC{0,9}"), 0..30).prop_map(|fields| fields.into_iter().collect())
    }

    #[test]
    fn every_field_is_in_its_place_and_has_its_own_name() {
        assert!(Field::ALL.is_sorted() && Field::ALL.iter().all(|field| Field::named(field.name()) == Some(*field)));
        assert_eq!(Field::ALL.iter().filter(|field| field.is_basic()).count(), 6);
        assert_eq!(Field::named("ISRC"), Some(Field::Isrc));
    }

    #[test]
    fn what_another_version_wrote_is_read() {
        let stored = r#"{"title": "T", "mood": "sad", "track": null, "lyricist": null, "isrc": "I"}"#;
        let tags: Tags = serde_json::from_str(stored).unwrap();
        assert_eq!(tags.present().collect::<Vec<_>>(), [("title", "T"), ("isrc", "I")]);
    }

    #[test]
    fn the_longest_text_goes_first() {
        let mut tags: Tags = [(Field::Comment, "ccc"), (Field::Title, "t"), (Field::Album, "aa")].into_iter().collect();
        let removed: Vec<_> = std::iter::from_fn(|| tags.remove_longest()).collect();
        assert_eq!(removed, [Field::Comment, Field::Album, Field::Title]);
    }

    proptest! {
        #[test]
        fn tags_are_a_map_in_the_order_of_the_fields(
            fields in prop::collection::vec((prop::sample::select(&Field::ALL[..]), "\\PC{0,9}"), 0..30)
        ) {
            let tags: Tags = fields.iter().cloned().collect();
            let model: std::collections::BTreeMap<Field, String> = fields.into_iter().collect();
            let expected: Vec<_> = model.iter().map(|(field, text)| (field.name(), text.as_str())).collect();
            prop_assert_eq!(tags.present().collect::<Vec<_>>(), expected);
            prop_assert!(Field::ALL.iter().all(|field| tags.get(*field) == model.get(field).map(String::as_str)));
        }

        #[test]
        fn tags_are_the_same_after_they_were_stored(tags in tags()) {
            let stored = serde_json::to_string(&tags).unwrap();
            prop_assert_eq!(serde_json::from_str::<Tags>(&stored).unwrap(), tags);
        }

        #[test]
        fn filling_keeps_what_is_there_and_adds_the_rest(one in tags(), other in tags()) {
            let mut both = one.clone();
            both.fill(other.clone());
            for field in Field::ALL {
                prop_assert_eq!(both.get(field), one.get(field).or(other.get(field)));
            }
        }
    }
}
