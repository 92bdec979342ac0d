//! `inspect`: prints what a message would say of a file, every part of its tags, and every problem.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, absolute};
use std::process::ExitCode;

use serde_json::{Map, Value, json};

use super::{Failure, INCOMPLETE, put, say};
use crate::config::InspectSettings;
use crate::content::tags::{self, Listed};
use crate::content::{Contents, Part, PartContent, Reader};
use crate::message::Encoder;
use crate::model::{FileStat, LibraryPath, Origin, Row, printable, printable_json};

/// Prints each file. One that cannot be read is named, and the others are printed.
pub(super) fn print(settings: &InspectSettings) -> Result<ExitCode, Failure> {
    let mut code = ExitCode::SUCCESS;
    for (number, path) in settings.files.iter().enumerate() {
        match inspect(path, settings) {
            Ok(inspected) if settings.json => put(&inspected.json())?,
            Ok(inspected) => {
                let gap = if number > 0 { "\n" } else { "" };
                put(&format!("{gap}{}", inspected.text()))?;
            }
            Err(error) => {
                say(&format!("file-watcher: {}: {error}", printable(&path.to_string_lossy())));
                code = INCOMPLETE.into();
            }
        }
    }
    Ok(code)
}

/// What is known of a file.
struct Inspected {
    /// The fields of a message that come from the file.
    message: Map<String, Value>,
    listed: Listed,
}

fn inspect(path: &Path, settings: &InspectSettings) -> io::Result<Inspected> {
    // Opening a pipe would wait for somebody who writes into it.
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::other("it is not a file"));
    }
    let path = absolute(path)?;
    let file = File::open(&path)?;
    let stat = file.metadata()?;
    let (root, name) = (path.parent().unwrap_or(&path), path.file_name().unwrap_or_default());
    let name = LibraryPath::from_bytes(name.as_bytes());
    let track = Reader::default().read(&file, &name, None, Origin::Watch)?;
    let listed = tags::list(&file, &name);
    let after = file.metadata()?;
    let times = |stat: &fs::Metadata| (stat.len(), stat.mtime(), stat.mtime_nsec());
    if times(&stat) != times(&after) {
        return Err(io::Error::other("it changed while it was read"));
    }
    let mtime_ns = i128::from(stat.mtime()) * 1_000_000_000 + i128::from(stat.mtime_nsec());
    let stat = FileStat { size: stat.len(), mtime_ns, ..FileStat::default() };
    let row = Row { path: name, stat, track: track.into(), first_published: 0 };
    let described = Encoder::new("", root, settings.metadata_style).with_tags(settings.tag_set).describe(&row);
    let message = serde_json::from_str(&described).map_err(io::Error::other)?;
    Ok(Inspected { message, listed })
}

impl Inspected {
    /// One line of JSON: the fields of the message, `parts` and `problems`.
    fn json(mut self) -> String {
        let parts: Vec<Value> = self.listed.parts.iter().map(json_of).collect();
        self.message.insert("parts".to_owned(), parts.into());
        self.message.insert("more_parts".to_owned(), self.listed.more_parts.into());
        self.message.insert("problems".to_owned(), self.listed.problems.into());
        printable_json(&Value::from(self.message).to_string()) + "\n"
    }

    /// Lines for people, in blocks.
    fn text(mut self) -> String {
        let mut text = String::new();
        let path = self.message.remove("file_path");
        let _ = writeln!(text, "{}", shown(&path.unwrap_or_default()));
        let mut metadata = match self.message.remove("metadata") {
            Some(Value::Object(metadata)) => metadata,
            _ => Map::new(),
        };
        let tags = match metadata.remove("tags") {
            Some(Value::Object(tags)) => tags,
            _ => Map::new(),
        };
        for (title, fields) in [("message", self.message), ("metadata", metadata), ("tags", tags)] {
            write_block(&mut text, title, fields.iter().map(|(name, value)| format!("{name:<24}{}", shown(value))));
        }
        write_block(&mut text, "parts of the tags", self.listed.parts.iter().map(line_of));
        if self.listed.more_parts > 0 {
            let _ = writeln!(text, "    and {} more", self.listed.more_parts);
        }
        write_block(&mut text, "problems", self.listed.problems.iter().map(|problem| printable(problem)));
        text
    }
}

/// Writes a title and lines, if there are any.
fn write_block(text: &mut String, title: &str, lines: impl Iterator<Item = String>) {
    let mut lines = lines.peekable();
    if lines.peek().is_some() {
        let _ = writeln!(text, "  {title}");
    }
    for line in lines {
        let _ = writeln!(text, "    {line}");
    }
}

/// A value as people read it.
fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => printable(text),
        value => value.to_string(),
    }
}

fn json_of(part: &Part) -> Value {
    let container = part.container;
    match &part.content {
        PartContent::Text { field, text, is_published } => {
            json!({"container": container, "tag": field.name(), "text": text, "is_published": is_published})
        }
        PartContent::Cover => json!({"container": container, "picture": true}),
        PartContent::Unread(name) => json!({"container": container, "unread": name}),
    }
}

fn line_of(part: &Part) -> String {
    let content = match &part.content {
        PartContent::Text { field, text, is_published: true } => format!("{}: {text}", field.name()),
        PartContent::Text { field, text, is_published: false } => {
            format!("{}: {text} (not published: the first one counts)", field.name())
        }
        PartContent::Cover => "a picture".to_owned(),
        PartContent::Unread(name) => format!("{name} (not read)"),
    };
    printable(&format!("{:<24}{content}", part.container))
}
