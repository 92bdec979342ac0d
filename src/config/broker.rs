//! The settings of the broker: URL, credentials and certificates.
//!
//! Errors name the setting. They never show the content of a secret file, nor its path, because a user may give the
//! password itself instead of a path.
//!
//! Files are read at start, where an error ends the program, and again before every connection.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use super::arguments::Flags;
use super::places;
use super::raw_value::{RawValue, shown};
use super::{SettingsError, Sources};
use crate::model::with_causes;
use crate::sink::{BrokerUrl, Reread, Tls, TlsError};

/// The unparsed settings.
#[derive(Clone)]
pub(super) struct Broker {
    /// The directory for relative paths.
    directory: PathBuf,
    host: RawValue,
    port: RawValue,
    user: RawValue,
    password: RawValue,
    vhost: RawValue,
    password_file: Option<RawValue>,
    url: Option<RawValue>,
    url_file: Option<RawValue>,
    authorities_file: Option<RawValue>,
    certificate_file: Option<RawValue>,
    key_file: Option<RawValue>,
}

impl Broker {
    /// The given settings. If the command never connects, the files are left out: it must work where they cannot be read.
    pub(super) fn given(sources: &Sources<'_>, flags: &Flags, may_connect: bool) -> Self {
        let directory = sources.environment.directory().to_path_buf();
        let file = |id, flag: &Option<OsString>| sources.of_optional(id, flag.as_ref()).filter(|_| may_connect);
        Self {
            directory,
            host: sources.of("rabbitmq_host", &flags.rabbitmq_host),
            port: sources.of("rabbitmq_port", &flags.rabbitmq_port),
            user: sources.of("rabbitmq_user", &flags.rabbitmq_user),
            password: sources.of("rabbitmq_pass", &flags.rabbitmq_pass),
            vhost: sources.of("rabbitmq_vhost", &flags.rabbitmq_vhost),
            password_file: file("rabbitmq_pass_file", &flags.rabbitmq_pass_file),
            url: sources.of_optional("rabbitmq_url", flags.rabbitmq_url.as_ref()),
            url_file: file("rabbitmq_url_file", &flags.rabbitmq_url_file),
            authorities_file: file("rabbitmq_ca_file", &flags.rabbitmq_ca_file),
            certificate_file: file("rabbitmq_cert_file", &flags.rabbitmq_cert_file),
            key_file: file("rabbitmq_key_file", &flags.rabbitmq_key_file),
        }
    }

    /// A function that parses the settings again; `None` if no file is used, so that they cannot change.
    pub(super) fn reread(&self) -> Option<Reread> {
        let files =
            [&self.password_file, &self.url_file, &self.authorities_file, &self.certificate_file, &self.key_file];
        files.into_iter().flatten().next()?;
        let again = self.clone();
        Some(Reread::new(move || again.read().map_err(|error| with_causes(&error))))
    }

    /// Parses the settings.
    pub(super) fn read(&self) -> Result<(BrokerUrl, Tls), SettingsError> {
        let files = Files { directory: &self.directory };
        let url = self.url(files)?;
        let tls = self.tls(files)?;
        let for_tls = [&self.authorities_file, &self.certificate_file, &self.key_file];
        match for_tls.into_iter().flatten().next() {
            // A user who gives a certificate expects an encrypted connection.
            Some(file) if !url.is_encrypted() => Err(file.wrong(
                "is for TLS, and the connection does not use TLS; set RABBITMQ_URL or RABBITMQ_URL_FILE to \
                 amqps://user:password@host:5671/vhost, or leave this out",
            )),
            _ => Ok((url, tls)),
        }
    }

    fn url(&self, files: Files<'_>) -> Result<BrokerUrl, SettingsError> {
        let given_password = Some(&self.password).filter(|password| !password.is_default);
        one_of(self.url.as_ref(), self.url_file.as_ref())?;
        one_of(given_password, self.password_file.as_ref())?;
        let password = || match &self.password_file {
            Some(file) => files.secret(file, "the password"),
            None => Ok(self.password.clone()),
        };
        let url = match (&self.url, &self.url_file) {
            (Some(url), _) => url.clone(),
            (None, Some(file)) => files.secret(file, "the broker's URL")?,
            (None, None) => {
                let nodes = self.host.nodes(self.port.number("a port", 1..=u16::MAX)?)?;
                let url = BrokerUrl::new(nodes, self.user.text()?, &password()?.text()?.into());
                return Ok(url.with_vhost(Some(self.vhost.text()?)));
            }
        };
        let url: BrokerUrl = url.parsed()?;
        let user = if url.names_user() { None } else { Some(self.user.text()?) };
        let password = if url.names_password() { None } else { Some(password()?.text()?.into()) };
        let vhost = if url.names_vhost() { None } else { Some(self.vhost.text()?) };
        Ok(url.with_credentials(user, password.as_ref()).with_vhost(vhost))
    }

    fn tls(&self, files: Files<'_>) -> Result<Tls, SettingsError> {
        const AUTHORITY: &str = "an authority's certificate in PEM";
        const CERTIFICATE: &str = "the client certificate in PEM";
        const KEY: &str = "the private key of RABBITMQ_CERT_FILE in PEM, not encrypted";

        let mut tls = Tls::default();
        if let Some(file) = &self.authorities_file {
            let pem = files.content(file, AUTHORITY, Show::Path)?;
            tls = tls.with_authorities(&pem).map_err(|error| instead(file, error, AUTHORITY))?;
        }
        match (&self.certificate_file, &self.key_file) {
            (None, None) => Ok(tls),
            (Some(certificate_file), Some(key_file)) => {
                let certificate = files.content(certificate_file, CERTIFICATE, Show::Path)?;
                let key = files.content(key_file, KEY, Show::Nothing)?;
                tls.with_identity(&certificate, &key).map_err(|error| match error {
                    TlsError::NoCertificate | TlsError::Certificate => instead(certificate_file, error, CERTIFICATE),
                    TlsError::NoKey | TlsError::Key | TlsError::Mismatch => instead(key_file, error, KEY),
                })
            }
            (Some(alone), None) => Err(alone.wrong("is given without RABBITMQ_KEY_FILE; give both or neither")),
            (None, Some(alone)) => Err(alone.wrong("is given without RABBITMQ_CERT_FILE; give both or neither")),
        }
    }
}

/// The error that a file has `problem`. `what` is the expected content.
fn instead(file: &RawValue, problem: impl std::fmt::Display, what: &str) -> SettingsError {
    file.wrong(format!("{problem}; give the path of a file that contains {what}"))
}

/// Fails if a value is given both directly and in a file: it is not clear which of them is current.
fn one_of(value: Option<&RawValue>, file: Option<&RawValue>) -> Result<(), SettingsError> {
    match (value, file) {
        (Some(value), Some(file)) => Err(SettingsError::Value {
            setting: format!("{} and {}", value.label, file.label),
            problem: "are both given; give one of them".to_owned(),
        }),
        _ => Ok(()),
    }
}

/// Reads files that settings name.
#[derive(Clone, Copy)]
struct Files<'a> {
    directory: &'a Path,
}

/// What an error may show about a file.
#[derive(Clone, Copy)]
enum Show {
    Path,
    Nothing,
}

impl Files<'_> {
    /// The content of a file as a value, without a newline at the end, which most editors add.
    fn secret(self, given: &RawValue, what: &str) -> Result<RawValue, SettingsError> {
        let mut content = self.content(given, what, Show::Nothing)?;
        if content.ends_with(b"\n") {
            content.pop();
            if content.ends_with(b"\r") {
                content.pop();
            }
        }
        if content.is_empty() {
            return Err(instead(given, "names a file that is empty", what));
        }
        Ok(RawValue { label: given.label.clone(), value: OsString::from_vec(content), is_default: false })
    }

    fn content(self, given: &RawValue, what: &str, show: Show) -> Result<Vec<u8>, SettingsError> {
        let path = places::absolute(self.directory, Path::new(&given.value));
        std::fs::read(&path).map_err(|error| {
            let problem = match error.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => "does not exist".to_owned(),
                io::ErrorKind::IsADirectory => "is a directory".to_owned(),
                io::ErrorKind::PermissionDenied => "cannot be read by this user".to_owned(),
                _ => format!("cannot be read ({error})"),
            };
            match show {
                Show::Path => instead(given, format!("{} {problem}", shown(&path)), what),
                Show::Nothing => instead(given, format!("names a file that {problem}"), what),
            }
        })
    }
}
