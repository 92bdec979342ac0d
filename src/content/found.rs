//! What the tags of a file say, put together from several tags.

pub(super) use crate::model::Field;
use crate::model::{Metadata, Tags};

/// The most problems in the error text of a file.
const MOST_PROBLEMS: usize = 8;

/// The most parts of tags, and the most problems, that are listed.
const MOST_LISTED: usize = 1000;

/// A part of a tag, as `inspect` lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// The kind of tag, such as `ID3v2.4`.
    pub container: &'static str,
    /// What it says.
    pub content: PartContent,
}

/// What a part of a tag says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PartContent {
    /// The text of a published field.
    Text {
        /// The field.
        field: Field,
        /// The text.
        text: String,
        /// Whether it is the one that is published: the first.
        is_published: bool,
    },
    /// A picture.
    Cover,
    /// A part that is not read, by its name in the file.
    Unread(String),
}

/// The parts of a file's tags, in the order in which they were read.
#[derive(Debug, Default)]
pub(super) struct Listing {
    pub(super) parts: Vec<Part>,
    /// How many more there are.
    pub(super) more: usize,
}

/// The values that were found, the first of each, and what could not be read.
#[derive(Debug, Default)]
pub(super) struct Found {
    tags: Tags,
    has_cover: bool,
    problems: Vec<String>,
    /// The kind of tag that is being read.
    container: &'static str,
    /// Every part; `None` if nobody asks for them.
    listing: Option<Listing>,
}

impl Found {
    /// One that lists every part of the tags.
    pub(super) fn listing() -> Self {
        Self { listing: Some(Listing::default()), ..Self::default() }
    }

    /// Another one, for tags that count after those that are read into this one.
    pub(super) fn beside(&self) -> Self {
        if self.listing.is_some() { Self::listing() } else { Self::default() }
    }

    /// Takes over what was found in tags that count after these.
    pub(super) fn append(&mut self, others: Self) {
        match others.listing {
            Some(Listing { parts, more }) => {
                for Part { container, content } in parts {
                    self.container = container;
                    match content {
                        PartContent::Text { field, text, .. } => self.set(field, Some(text)),
                        content => self.list(content),
                    }
                }
                self.listing.get_or_insert_default().more += more;
            }
            None => self.tags.fill(others.tags),
        }
        self.has_cover |= others.has_cover;
        for problem in others.problems {
            self.problem(problem);
        }
    }

    /// Begins a tag of this kind.
    pub(super) fn within(&mut self, container: &'static str) {
        self.container = container;
    }

    /// Whether there is a value of the field.
    pub(super) fn has(&self, field: Field) -> bool {
        self.tags.get(field).is_some()
    }

    /// Whether a value of the field is of use. One that is not need not be decoded.
    pub(super) fn wants(&self, field: Field) -> bool {
        self.listing.is_some() || !self.has(field)
    }

    /// Keeps a value, unless there is one already.
    pub(super) fn set(&mut self, field: Field, value: Option<String>) {
        let Some(text) = value else { return };
        let is_published = !self.has(field);
        if self.listing.is_some() {
            self.list(PartContent::Text { field, text: text.clone(), is_published });
        }
        if is_published {
            self.tags.set(field, text);
        }
    }

    /// Keeps the values by name of the fields that have none.
    pub(super) fn fill(&mut self, named: Named) {
        for (field, value) in named.0 {
            self.set(field, Some(value));
        }
    }

    /// Notes a picture.
    pub(super) fn cover(&mut self) {
        self.has_cover = true;
        self.list(PartContent::Cover);
    }

    /// Notes a part that is passed over.
    pub(super) fn unread(&mut self, name: impl FnOnce() -> String) {
        if self.listing.is_some() {
            self.list(PartContent::Unread(name()));
        }
    }

    fn list(&mut self, content: PartContent) {
        let Some(listing) = &mut self.listing else { return };
        if listing.parts.len() < MOST_LISTED {
            listing.parts.push(Part { container: self.container, content });
        } else {
            listing.more += 1;
        }
    }

    /// Notes that a part could not be read: a sentence without a full stop that begins with the name of the tag.
    pub(super) fn problem(&mut self, problem: impl Into<String>) {
        let most = if self.listing.is_some() { MOST_LISTED } else { MOST_PROBLEMS };
        if self.problems.len() < most {
            self.problems.push(problem.into());
        }
    }

    /// Moves the tags into `metadata`, and adds what could not be read to its error text.
    pub(super) fn show(&mut self, metadata: &mut Metadata) {
        metadata.tags = std::mem::take(&mut self.tags);
        metadata.has_cover = self.has_cover;
        for problem in self.problems.iter().take(MOST_PROBLEMS) {
            metadata.add_error(problem);
        }
    }

    /// Every part, and every problem.
    pub(super) fn into_lists(self) -> (Listing, Vec<String>) {
        (self.listing.unwrap_or_default(), self.problems)
    }
}

/// Values under names that are not a format's own. They count for the fields that the format's own names leave empty.
#[derive(Debug, Default)]
pub(super) struct Named(Vec<(Field, String)>);

impl Named {
    /// Whether a value of the field is of use, beside those in `found`.
    pub(super) fn wants(&self, field: Field, found: &Found) -> bool {
        found.listing.is_some() || (found.wants(field) && !self.0.iter().any(|(known, _)| *known == field))
    }

    /// Keeps a value, until those of the format's own names were read.
    pub(super) fn set(&mut self, field: Field, value: Option<String>) {
        self.0.extend(value.map(|value| (field, value)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(mut found: Found) -> Found {
        found.within("A");
        found.set(Field::Title, Some("first".into()));
        found.set(Field::Artist, None);
        found.unread(|| "X".into());
        found.within("B");
        found.set(Field::Title, Some("second".into()));
        found.cover();
        for number in 0..20 {
            found.problem(format!("problem {number}"));
        }
        found
    }

    #[test]
    fn the_first_value_wins_and_the_others_are_only_listed() {
        let text =
            |text: &str, is_published| PartContent::Text { field: Field::Title, text: text.into(), is_published };
        let parts = [
            ("A", text("first", true)),
            ("A", PartContent::Unread("X".into())),
            ("B", text("second", false)),
            ("B", PartContent::Cover),
        ];
        for (mut found, expected, problems_listed) in
            [(found(Found::default()), &[][..], MOST_PROBLEMS), (found(Found::listing()), &parts, 20)]
        {
            let mut metadata = Metadata::default();
            found.show(&mut metadata);
            assert_eq!(metadata.tags.present().collect::<Vec<_>>(), [("title", "first")]);
            assert!(metadata.has_cover && metadata.error.unwrap().ends_with("problem 7"));
            let (listing, problems) = found.into_lists();
            let expected: Vec<Part> =
                expected.iter().cloned().map(|(container, content)| Part { container, content }).collect();
            assert_eq!((listing.parts, listing.more), (expected, 0));
            assert_eq!(problems.len(), problems_listed);
        }
    }

    #[test]
    fn a_name_without_a_value_takes_no_room() {
        let (mut named, found) = (Named::default(), Found::default());
        named.set(Field::Isrc, None);
        assert!(named.0.is_empty() && named.wants(Field::Isrc, &found));
        named.set(Field::Isrc, Some("I".into()));
        assert!(!named.wants(Field::Isrc, &found));
    }

    #[test]
    fn tags_that_count_later_fill_the_gaps() {
        for (mut one, listed) in [(Found::default(), 0), (Found::listing(), 3)] {
            let mut other = one.beside();
            one.set(Field::Title, Some("first".into()));
            other.set(Field::Title, Some("second".into()));
            other.set(Field::Artist, Some("artist".into()));
            other.cover();
            other.problem("it is bad");
            one.append(other);
            let mut metadata = Metadata::default();
            one.show(&mut metadata);
            assert_eq!(metadata.tags.present().collect::<Vec<_>>(), [("title", "first"), ("artist", "artist")]);
            assert_eq!((metadata.has_cover, metadata.error.as_deref()), (true, Some("it is bad")));
            let texts = one.into_lists().0.parts;
            let published = |part: &&Part| matches!(part.content, PartContent::Text { is_published: true, .. });
            assert_eq!((texts.iter().filter(published).count(), texts.len().min(3)), (listed.min(2), listed));
        }
    }

    #[test]
    fn a_list_is_bounded() {
        let mut found = Found::listing();
        for _ in 0..MOST_LISTED + 5 {
            found.unread(String::new);
            found.problem("it is bad");
        }
        let (listing, problems) = found.into_lists();
        assert_eq!((listing.parts.len(), listing.more, problems.len()), (MOST_LISTED, 5, MOST_LISTED));
    }
}
