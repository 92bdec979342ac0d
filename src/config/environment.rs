//! The environment of the process: its variables and its working directory.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::{Path, PathBuf};

use super::SettingsError;

/// Environment variables and a working directory.
///
/// An empty variable counts as unset, because compose files set variables to empty values. `Debug` shows the names of the
/// variables and not their values, which may be secret.
#[derive(Clone, Default)]
pub struct Environment {
    variables: BTreeMap<OsString, OsString>,
    directory: PathBuf,
}

impl Environment {
    /// An environment with these variables and this working directory.
    pub fn new(variables: impl IntoIterator<Item = (OsString, OsString)>, directory: PathBuf) -> Self {
        let variables = variables.into_iter().filter(|(_, value)| !value.is_empty()).collect();
        Self { variables, directory }
    }

    /// The environment of this process, which overrides `.env` in its working directory.
    ///
    /// # Errors
    ///
    /// If there is no working directory, or `.env` cannot be read or parsed.
    pub fn of_process() -> Result<Self, SettingsError> {
        let directory = std::env::current_dir().map_err(SettingsError::WorkingDirectory)?;
        let mut environment = Self::new(from_file(&directory.join(".env"))?, directory);
        environment.variables.extend(std::env::vars_os().filter(|(_, value)| !value.is_empty()));
        Ok(environment)
    }

    /// The value of a variable.
    pub fn get(&self, name: impl AsRef<OsStr>) -> Option<&OsStr> {
        self.variables.get(name.as_ref()).map(OsString::as_os_str)
    }

    /// The working directory, absolute.
    pub fn directory(&self) -> &Path {
        &self.directory
    }
}

impl fmt::Debug for Environment {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Environment")
            .field("variables", &self.variables.keys())
            .field("directory", &self.directory)
            .finish()
    }
}

/// The variables in a file of the `.env` format; none if the file does not exist.
fn from_file(path: &Path) -> Result<Vec<(OsString, OsString)>, SettingsError> {
    // A directory of this name is usually a Python environment.
    if !path.exists() || path.is_dir() {
        return Ok(Vec::new());
    }
    let text = std::fs::read_to_string(path).map_err(SettingsError::DotEnvUnreadable)?;
    parse(text.trim_start_matches('\u{feff}'))
}

fn parse(text: &str) -> Result<Vec<(OsString, OsString)>, SettingsError> {
    dotenvy::from_read_iter(text.as_bytes())
        .map(|item| match item {
            Ok((name, value)) => Ok((name.into(), value.into())),
            Err(error) => Err(SettingsError::DotEnv { line: line_of(&error, text) }),
        })
        .collect()
}

/// The number of the malformed line. The line itself may contain a password and is not shown.
fn line_of(error: &dotenvy::Error, text: &str) -> usize {
    let dotenvy::Error::LineParse(fault, _) = error else { return 1 };
    let first = fault.lines().next().unwrap_or_default().trim_end();
    let at_fault = |line: &str| !line.trim_start().starts_with('#') && line.trim_end().ends_with(first);
    text.lines().position(at_fault).map_or(1, |index| index + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_malformed_line_is_named_by_its_number_and_not_shown() {
        let error = parse("# two words\nSINK=stdout\nRABBITMQ_PASS=two words\n").unwrap_err();
        assert_eq!(error.to_string(), ".env: line 3 is not NAME=value; put quotes around a value with spaces");
    }

    #[test]
    fn values_are_read_with_their_quotes_removed() {
        let variables = parse("export A='x y'\nB=\"z\" # comment\nC=\n").unwrap();
        let environment = Environment::new(variables, PathBuf::from("/"));
        assert_eq!(environment.get("A"), Some(OsStr::new("x y")));
        assert_eq!(environment.get("B"), Some(OsStr::new("z")));
        assert_eq!(environment.get("C"), None);
    }
}
