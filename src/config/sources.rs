//! Where the values of settings come from: flags, variables and defaults.

use std::ffi::{OsStr, OsString};

use clap::ArgMatches;
use clap::parser::ValueSource;

use super::Environment;
use super::raw_value::RawValue;

/// The settings that are secrets or name their files: a user may give a secret in place of its file.
const MASKED: [&str; 6] = [
    "rabbitmq_pass",
    "rabbitmq_pass_file",
    "rabbitmq_url",
    "rabbitmq_url_file",
    "rabbitmq_key_file",
    // Collectors take keys in the query.
    "otel_exporter_otlp_endpoint",
];

/// The sources of values. Variables are read from `environment` and not by `clap`, because of empty variables, `.env`
/// and tests.
pub(super) struct Sources<'a> {
    pub(super) declared: &'a clap::Command,
    pub(super) matches: &'a ArgMatches,
    pub(super) environment: &'a Environment,
}

impl Sources<'_> {
    /// The settings that differ from their defaults, as `NAME=value`. The values of those that are or name secrets are
    /// masked.
    pub(super) fn changed(&self) -> Vec<String> {
        let line = |argument: &clap::Arg| {
            let id = argument.get_id().as_str();
            let variable = argument.get_env()?.to_string_lossy();
            let is_flag = self.matches.value_source(id) == Some(ValueSource::CommandLine);
            let of_flag = || Some(self.matches.get_raw(id)?.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(","));
            let of_variable = || Some(self.environment.get(&*variable)?.to_string_lossy().into_owned());
            let value = if is_flag { of_flag() } else { of_variable() }?;
            let default = argument.get_default_values().first().map(|default| default.to_string_lossy());
            let is_secret = MASKED.contains(&id);
            (default.as_deref() != Some(value.as_str()))
                .then(|| if is_secret { format!("{variable}=***") } else { format!("{variable}={value}") })
        };
        self.declared.get_arguments().filter_map(line).collect()
    }

    /// Warns about variables of the broker's image that this program does not read, if they are set in vain.
    pub(super) fn warn_of_defaults(&self, warnings: &mut Vec<String>) {
        for (theirs, ours) in [("RABBITMQ_DEFAULT_USER", "RABBITMQ_USER"), ("RABBITMQ_DEFAULT_PASS", "RABBITMQ_PASS")] {
            let is_ours_given = [ours, "RABBITMQ_URL", "RABBITMQ_URL_FILE", "RABBITMQ_PASS_FILE"]
                .into_iter()
                .any(|name| self.environment.get(name).is_some());
            if self.environment.get(theirs).is_some() && !is_ours_given {
                warnings.push(format!("{theirs} is a setting of the broker and not read here; set {ours}"));
            }
        }
    }

    /// The value of a setting with a default.
    pub(super) fn of(&self, id: &str, flag: &OsString) -> RawValue {
        self.of_optional(id, Some(flag)).unwrap_or_else(|| {
            let default = self.declaration(id).and_then(|argument| argument.get_default_values().first());
            let value = default.map(OsString::from).unwrap_or_default();
            RawValue { label: id.to_uppercase(), value, is_default: true }
        })
    }

    /// The value of a setting without a default.
    pub(super) fn of_optional(&self, id: &str, flag: Option<&OsString>) -> Option<RawValue> {
        let variable = id.to_uppercase();
        if self.matches.value_source(id) == Some(ValueSource::CommandLine) {
            let long = self.declaration(id).and_then(clap::Arg::get_long).unwrap_or(id);
            let label = format!("--{long} ({variable})");
            return flag.map(|value| RawValue { label, value: value.clone(), is_default: false });
        }
        let value = self.environment.get(&variable)?.to_owned();
        Some(RawValue { label: variable, value, is_default: false })
    }

    /// `given`, or the value of the deprecated variable if `given` is the default.
    pub(super) fn or_deprecated(&self, given: RawValue, old: &str, new: &str, warnings: &mut Vec<String>) -> RawValue {
        match self.environment.get(old) {
            Some(value) if given.is_default => {
                warnings.push(format!("{old} is deprecated; use {new}"));
                RawValue { label: old.to_owned(), value: value.to_owned(), is_default: false }
            }
            _ => given,
        }
    }

    fn declaration(&self, id: &str) -> Option<&clap::Arg> {
        self.declared.get_arguments().find(|argument| argument.get_id() == id)
    }
}
