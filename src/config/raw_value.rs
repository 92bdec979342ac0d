//! One unparsed value, and its parsers.

use std::ffi::{OsStr, OsString};
use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use super::{SettingsError, units};
use crate::model::{FollowSymlinks, MetadataStyle, TagSet};
use crate::sink::{AddressError, BareIpv6, NodeAddress};

/// A value with the name of its source, for errors.
#[derive(Clone)]
pub(super) struct RawValue {
    /// `BATCH_SIZE`, or `--batch-size (BATCH_SIZE)` if the flag was used.
    pub(super) label: String,
    pub(super) value: OsString,
    /// Whether the value is the default.
    pub(super) is_default: bool,
}

impl RawValue {
    /// The error that this value has `problem`.
    pub(super) fn wrong(&self, problem: impl Into<String>) -> SettingsError {
        SettingsError::Value { setting: self.label.clone(), problem: problem.into() }
    }

    /// The error that this value is not `what`.
    fn is_not(&self, what: &str, instead: &str) -> SettingsError {
        let shown = without_secrets(&self.value.to_string_lossy());
        self.wrong(format!("{shown:?} is not {what}; give {instead}"))
    }

    /// The value as text.
    pub(super) fn text(&self) -> Result<&str, SettingsError> {
        self.value.to_str().ok_or_else(|| self.wrong("is not UTF-8; give plain text"))
    }

    /// The value, parsed by the `FromStr` of its type.
    pub(super) fn parsed<T: FromStr<Err: std::fmt::Display>>(&self) -> Result<T, SettingsError> {
        self.text()?.parse().map_err(|error: T::Err| self.wrong(error.to_string()))
    }

    /// A whole number within `range`.
    pub(super) fn number<T>(&self, what: &str, range: RangeInclusive<T>) -> Result<T, SettingsError>
    where
        T: FromStr + PartialOrd + std::fmt::Display,
    {
        let number = self.text()?.trim().parse().ok().filter(|number| range.contains(number));
        number.ok_or_else(|| self.is_not(what, &format!("a whole number from {} to {}", range.start(), range.end())))
    }

    /// A number of files per second; `None` for 0 and `unlimited`.
    pub(super) fn files_per_second(&self) -> Result<Option<NonZeroU64>, SettingsError> {
        self.rate("a number of files", "a whole number or unlimited", |text| text.parse().ok())
    }

    /// A number of bytes per second, with or without a unit; `None` for 0 and `unlimited`.
    pub(super) fn bytes_per_second(&self) -> Result<Option<NonZeroU64>, SettingsError> {
        self.rate("a number of bytes", "a whole number, one such as 20M, 20MB or 20MiB, or unlimited", units::bytes)
    }

    fn rate(
        &self,
        what: &str,
        instead: &str,
        parse: impl Fn(&str) -> Option<u64>,
    ) -> Result<Option<NonZeroU64>, SettingsError> {
        let text = self.text()?.trim();
        if text.eq_ignore_ascii_case("unlimited") {
            return Ok(None);
        }
        parse(text).map(NonZeroU64::new).ok_or_else(|| self.is_not(what, instead))
    }

    /// A time in seconds, or with a unit.
    pub(super) fn seconds(&self, range: RangeInclusive<Duration>) -> Result<Duration, SettingsError> {
        self.duration("a number of seconds", Duration::from_secs(1), &range)
    }

    /// A time in milliseconds, or with a unit.
    pub(super) fn milliseconds(&self, range: RangeInclusive<Duration>) -> Result<Duration, SettingsError> {
        self.duration("a number of milliseconds", Duration::from_millis(1), &range)
    }

    fn duration(
        &self,
        what: &str,
        unit: Duration,
        range: &RangeInclusive<Duration>,
    ) -> Result<Duration, SettingsError> {
        let found = units::duration(self.text()?, unit).filter(|duration| range.contains(duration));
        found.ok_or_else(|| {
            let of = |duration: &Duration| duration.as_millis() / unit.as_millis();
            let (least, most) = (of(range.start()), of(range.end()));
            self.is_not(what, &format!("a whole number from {least} to {most}, or a time such as 30s, 5m or 1h"))
        })
    }

    /// A boolean.
    pub(super) fn boolean(&self) -> Result<bool, SettingsError> {
        match self.text()?.trim().to_ascii_lowercase().as_str() {
            "true" | "yes" | "on" | "1" => Ok(true),
            "false" | "no" | "off" | "0" => Ok(false),
            _ => Err(self.is_not("yes or no", "true or false")),
        }
    }

    /// Which symbolic links are followed; `true` is `inside` and `false` is `never`.
    pub(super) fn follow_symlinks(&self) -> Result<FollowSymlinks, SettingsError> {
        match self.boolean() {
            Ok(true) => Ok(FollowSymlinks::Inside),
            Ok(false) => Ok(FollowSymlinks::Never),
            Err(_) => self.choice(
                "a setting for symbolic links",
                &[("never", FollowSymlinks::Never), ("inside", FollowSymlinks::Inside), ("all", FollowSymlinks::All)],
            ),
        }
    }

    /// The form of metadata in messages.
    pub(super) fn metadata_style(&self) -> Result<MetadataStyle, SettingsError> {
        self.choice(
            "a metadata style",
            &[("nested", MetadataStyle::Nested), ("flat", MetadataStyle::Flat), ("off", MetadataStyle::Off)],
        )
    }

    /// How much of the metadata is in messages.
    pub(super) fn tag_set(&self) -> Result<TagSet, SettingsError> {
        self.choice("a set of tags", &[("all", TagSet::All), ("basic", TagSet::Basic)])
    }

    /// One of these words.
    pub(super) fn choice<T: Copy>(&self, what: &str, words: &[(&str, T)]) -> Result<T, SettingsError> {
        let text = self.text()?.trim();
        if let Some((_, choice)) = words.iter().find(|(word, _)| word.eq_ignore_ascii_case(text)) {
            return Ok(*choice);
        }
        let (last, others) = words.split_last().map_or(("", String::new()), |((last, _), others)| {
            (*last, others.iter().map(|(word, _)| *word).collect::<Vec<_>>().join(", "))
        });
        Err(self.is_not(what, &format!("{others} or {last}")))
    }

    /// The URL of an HTTP server, without credentials.
    pub(super) fn http_url(&self) -> Result<String, SettingsError> {
        let is_plain = |url: &url::Url| {
            url.scheme() == "http" && url.has_host() && url.username().is_empty() && url.password().is_none()
        };
        match self.text()?.trim().parse::<url::Url>().ok().filter(is_plain) {
            Some(url) => Ok(url.to_string()),
            None => Err(self.is_not("the URL of a collector", "one such as http://localhost:4318, without TLS")),
        }
    }

    /// An address and a port to listen on; `None` for `off`.
    pub(super) fn http_address(&self) -> Result<Option<SocketAddr>, SettingsError> {
        let text = self.text()?.trim();
        if text.eq_ignore_ascii_case("off") {
            return Ok(None);
        }
        let right = "one such as 127.0.0.1:8080 or [::1]:8080, 0.0.0.0:8080 for every address of this machine, or off";
        text.parse().map(Some).map_err(|_| self.is_not("an address with a port", right))
    }

    /// The addresses of the broker's nodes, separated by commas.
    pub(super) fn nodes(&self, default_port: u16) -> Result<Vec<NodeAddress>, SettingsError> {
        const RIGHT: &str = "a host such as rabbitmq.example, or the nodes of a cluster such as host1,host2:5673,[::1]";
        let text = self.text()?.trim();
        if text.contains('@') {
            return Err(self.is_not("a host name or address", RIGHT));
        }
        NodeAddress::list(text, default_port, BareIpv6::Allowed)
            .map_err(|AddressError { text, problem, .. }| self.wrong(format!("{text:?} {problem}; give {RIGHT}")))
    }

    /// An instance id: safe in log lines, connection names and file names.
    pub(super) fn instance_id(&self) -> Result<String, SettingsError> {
        let safe = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
        let text = self.text()?;
        if (1..=64).contains(&text.len()) && text.bytes().all(safe) {
            return Ok(text.to_owned());
        }
        Err(self.is_not("an instance name", "1 to 64 letters, digits, dots, dashes and underscores"))
    }

    /// Directives for `tracing`'s `EnvFilter`, from a level or a list of directives.
    ///
    /// A bare level applies to this program. Other libraries log only errors unless a directive names them: their
    /// warnings, such as about a malformed tag, are handled and reported by this program.
    pub(super) fn log_directives(&self) -> Result<String, SettingsError> {
        // Also the names of Python, which existing deployments use.
        const LEVELS: [(&str, &str); 9] = [
            ("error", "error"),
            ("warn", "warn"),
            ("info", "info"),
            ("debug", "debug"),
            ("trace", "trace"),
            ("warning", "warn"),
            ("critical", "error"),
            ("fatal", "error"),
            ("notset", "trace"),
        ];
        let unclear = || self.is_not("a level", "error, warn, info, debug, trace, or a list such as debug,lapin=info");
        let text = self.text()?;
        let mut level = "info";
        let mut named = Vec::new();
        for directive in text.split(',').map(str::trim) {
            match LEVELS.into_iter().find(|(name, _)| name.eq_ignore_ascii_case(directive)) {
                Some((_, bare)) => level = bare,
                // EnvFilter would take a misspelt level for the name of a module.
                None if directive.contains(['=', '[', ']']) => named.push(directive),
                None => return Err(unclear()),
            }
        }
        let mut directives = format!("error,lapin=off,file_watcher={level}");
        for directive in named {
            directives.push(',');
            directives.push_str(directive);
        }
        match tracing_subscriber::EnvFilter::try_new(&directives) {
            Ok(_) => Ok(directives),
            Err(_) => Err(unclear()),
        }
    }
}

/// `text` with the part before an `@` masked, because it may be the password of a URL.
pub(super) fn without_secrets(text: &str) -> String {
    let Some(at) = text.rfind('@') else { return text.to_owned() };
    let scheme = text.find("://").filter(|&colon| !text[..colon].contains('@'));
    let start = scheme.map_or(0, |colon| colon + 3).min(at);
    format!("{}***{}", &text[..start], &text[at..])
}

/// A path, quoted for errors.
pub(super) fn shown(path: impl AsRef<OsStr>) -> String {
    format!("{:?}", path.as_ref().to_string_lossy())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(value: &str) -> RawValue {
        RawValue { label: "X".into(), value: value.into(), is_default: false }
    }

    #[test]
    fn a_rate_is_a_number_with_or_without_a_unit_or_no_limit() {
        let rate = |text| given(text).bytes_per_second().ok().map(|rate| rate.map_or(0, NonZeroU64::get));
        assert_eq!(rate("1000"), Some(1000));
        assert_eq!(rate("20M"), Some(20 << 20));
        assert_eq!(rate("1k"), Some(1024));
        assert_eq!(rate("3G"), Some(3 << 30));
        assert_eq!(rate("0"), Some(0));
        assert_eq!(rate("Unlimited"), Some(0));
        for wrong in ["", "M", "-1", "1.5M", "1T", "18446744073709551615K", "éK"] {
            assert_eq!(rate(wrong), None, "{wrong}");
        }
        assert!(given("1K").files_per_second().is_err());
    }

    #[test]
    fn a_level_applies_to_this_program_and_other_libraries_log_only_errors() {
        let directives = |text| given(text).log_directives().ok();
        assert_eq!(directives("DEBUG").as_deref(), Some("error,lapin=off,file_watcher=debug"));
        assert_eq!(directives("error").as_deref(), Some("error,lapin=off,file_watcher=error"));
        assert_eq!(directives("lapin=debug").as_deref(), Some("error,lapin=off,file_watcher=info,lapin=debug"));
        assert_eq!(directives("debug, lapin=trace").as_deref(), Some("error,lapin=off,file_watcher=debug,lapin=trace"));
        for wrong in ["chatty", "verbose,lapin=debug", "lapin=loud", "", "info,"] {
            assert_eq!(directives(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn the_part_before_an_at_sign_is_masked() {
        assert_eq!(without_secrets("amqp://u:p@ss@host/"), "amqp://***@host/");
        assert_eq!(without_secrets("u:p@host"), "***@host");
        assert_eq!(without_secrets("p@s://s"), "***@s://s");
        assert_eq!(without_secrets("plain"), "plain");
    }
}
