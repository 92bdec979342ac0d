//! What the tags of a file say, put together from several tags.

use crate::model::{Metadata, Tags};

/// A published tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Field {
    Title,
    Artist,
    Album,
    Date,
    Genre,
    Track,
}

/// The values that were found, the first of each, and what could not be read.
#[derive(Debug, Default)]
pub(super) struct Found {
    tags: Tags,
    problems: Vec<String>,
}

impl Found {
    /// Keeps a value, unless there is one already.
    pub(super) fn set(&mut self, field: Field, value: Option<String>) {
        let place = match field {
            Field::Title => &mut self.tags.title,
            Field::Artist => &mut self.tags.artist,
            Field::Album => &mut self.tags.album,
            Field::Date => &mut self.tags.date,
            Field::Genre => &mut self.tags.genre,
            Field::Track => &mut self.tags.track,
        };
        if place.is_none() {
            *place = value;
        }
    }

    /// Notes that a part could not be read: a sentence without a full stop that begins with the name of the tag.
    pub(super) fn problem(&mut self, problem: impl Into<String>) {
        const MOST: usize = 8;

        if self.problems.len() < MOST {
            self.problems.push(problem.into());
        }
    }

    /// Shows the tags, and what could not be read.
    pub(super) fn show(self, metadata: &mut Metadata) {
        metadata.tags.fill(self.tags);
        for problem in self.problems {
            metadata.add_error(&problem);
        }
    }
}
