//! Which files of the index a question is about.

use super::{Field, FileType, LibraryPath, Row, Tags};

/// A selection of files: those for which all parts hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selection {
    /// The path at or under which the files are.
    pub under: LibraryPath,
    /// Their type; `None` for every type.
    pub file_type: Option<FileType>,
    /// What their tags must be.
    pub tags: Vec<TagCondition>,
}

impl Selection {
    /// Whether the file of this row is selected. The rows are those at or under [`Selection::under`].
    pub fn contains(&self, row: &Row) -> bool {
        self.file_type.as_ref().is_none_or(|wanted| *wanted == FileType::of(&row.path))
            && self.tags.iter().all(|condition| condition.holds(&row.track.metadata.tags))
    }
}

/// A condition on one tag, such as `artist=Björk` or `title~live`. Case does not matter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TagCondition {
    field: Field,
    comparison: Comparison,
    /// In lower case.
    text: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Comparison {
    /// The tag is the text. An absent tag is the empty text.
    Is,
    /// The tag contains the text.
    Contains,
}

/// Why a text is not a condition.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TagConditionError {
    /// It has no operator.
    #[error("{0:?} is not a condition; give TAG=TEXT, or TAG~TEXT for tags that contain the text")]
    NoOperator(String),
    /// There is no such tag.
    #[error("{0:?} is not a tag; give {names}", names = names())]
    UnknownTag(String),
}

/// The names of all fields: `a, b or c`.
fn names() -> String {
    let names = Field::ALL.map(Field::name);
    let (last, others) = names.split_last().expect("there are fields");
    format!("{} or {last}", others.join(", "))
}

impl std::str::FromStr for TagCondition {
    type Err = TagConditionError;

    fn from_str(text: &str) -> Result<Self, TagConditionError> {
        let operator = text.find(['=', '~']).ok_or_else(|| TagConditionError::NoOperator(text.to_owned()))?;
        let (name, value) = (text[..operator].trim(), &text[operator + 1..]);
        let field = Field::named(name).ok_or_else(|| TagConditionError::UnknownTag(name.to_owned()))?;
        let comparison = if text[operator..].starts_with('=') { Comparison::Is } else { Comparison::Contains };
        Ok(Self { field, comparison, text: value.to_lowercase() })
    }
}

impl TagCondition {
    fn holds(&self, tags: &Tags) -> bool {
        let value = tags.get(self.field).map(str::to_lowercase);
        match self.comparison {
            Comparison::Is => value.unwrap_or_default() == self.text,
            Comparison::Contains => value.is_some_and(|value| value.contains(&self.text)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holds(condition: &str, tags: &Tags) -> bool {
        condition.parse::<TagCondition>().unwrap().holds(tags)
    }

    #[test]
    fn a_condition_compares_one_tag_without_case() {
        let tags = [(Field::Artist, "BJÖRK"), (Field::Date, "1995=96")].into_iter().collect();
        assert!(holds("artist=björk", &tags) && holds("ARTIST~jör", &tags) && holds("date=1995=96", &tags));
        assert!(!holds("artist=bj", &tags) && !holds("artist~x", &tags));
        assert!(holds("title=", &tags) && !holds("artist=", &tags) && !holds("title~", &tags));
    }

    #[test]
    fn an_error_says_what_to_give() {
        let error = |text: &str| text.parse::<TagCondition>().unwrap_err().to_string();
        assert!(error("artist").contains("TAG=TEXT"));
        assert!(error("conductor=Bach").contains("\"conductor\" is not a tag; give title, artist"));
        assert!(error("conductor=Bach").ends_with(", replaygain_track_gain or replaygain_album_gain"));
    }
}
