//! Parses the verb of the command line and the directories that are given with it.

use std::ffi::OsString;
use std::path::Path;

use super::arguments::Verb;
use super::raw_value::RawValue;
use super::{Command, SettingsError, parked, places};

/// A verb without its directories, and the directories.
pub(super) struct ParsedVerb {
    pub(super) verb: Verb,
    /// The library, if it was given.
    pub(super) library: Option<RawValue>,
    /// The old path of the library, if it was given.
    pub(super) old_library: Option<RawValue>,
}

/// Separates the verb, `watch` by default, from its directories.
pub(super) fn parse(verb: Option<Verb>) -> ParsedVerb {
    let given = |label: &str, value| RawValue { label: label.to_owned(), value, is_default: false };
    let (verb, dir) = match verb {
        Some(Verb::Relocate { old, new }) => {
            let verb = Verb::Relocate { old: OsString::new(), new: OsString::new() };
            return ParsedVerb { verb, library: Some(given("NEW", new)), old_library: Some(given("OLD", old)) };
        }
        Some(Verb::Scan { dir }) => (Verb::Scan { dir: None }, dir),
        Some(Verb::Watch { dir }) => (Verb::Watch { dir: None }, dir),
        Some(Verb::Held { dir, json }) => (Verb::Held { dir: None, json }, dir),
        Some(Verb::Approve { dir, path }) => (Verb::Approve { dir: None, path }, dir),
        Some(Verb::Replay { dir, path }) => (Verb::Replay { dir: None, path }, dir),
        Some(Verb::Parked(flags)) => parked::library_of(flags),
        None => (Verb::Watch { dir: None }, None),
    };
    ParsedVerb { verb, library: dir.map(|dir| given("DIR", dir)), old_library: None }
}

/// The command for a verb, about the library at `root`.
pub(super) fn command(verb: Verb, root: &Path) -> Result<Command, SettingsError> {
    Ok(match verb {
        Verb::Scan { .. } => Command::Scan,
        Verb::Watch { .. } => Command::Watch,
        Verb::Relocate { .. } => Command::Relocate,
        Verb::Held { json, .. } => Command::Held { json },
        Verb::Approve { path, .. } => Command::Approve(places::path_or_root(path, root)?),
        Verb::Parked(flags) => Command::Parked(parked::request(flags)?),
        Verb::Replay { path, .. } => Command::Replay(places::path_or_root(path, root)?),
    })
}
