//! What the tags of a file say, put together from several tags.

pub(super) use crate::model::Field;
use crate::model::{Metadata, Tags};

/// The values that were found, the first of each, and what could not be read.
#[derive(Debug, Default)]
pub(super) struct Found {
    tags: Tags,
    problems: Vec<String>,
}

impl Found {
    /// Keeps a value, unless there is one already.
    pub(super) fn set(&mut self, field: Field, value: Option<String>) {
        if let Some(value) = value.filter(|_| self.tags.get(field).is_none()) {
            self.tags.set(field, value);
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
