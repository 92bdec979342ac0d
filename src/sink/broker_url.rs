//! The URL of the broker. Its text forms contain no user name and no password.

use std::fmt;
use std::str::FromStr;

use lapin::uri::{AMQPAuthority, AMQPQueryString, AMQPScheme, AMQPUri, AMQPUserInfo};
use secrecy::{ExposeSecret, SecretString};

/// The default `connection_timeout` of a URL, in milliseconds.
const CONNECTION_TIMEOUT: u64 = 3_000;

/// The default `heartbeat` of a URL, in seconds. A broker that hangs is noticed after twice this time.
const HEARTBEAT: u16 = 10;

const EXAMPLE: &str = "give amqp://user:password@host:5672/vhost, or amqps for TLS, special characters percent-encoded";

/// The address of RabbitMQ and the login: `amqp://user:password@host:port/vhost?heartbeat=10`.
///
/// `Display` and `Debug` leave out user name and password.
#[derive(Clone, PartialEq, Eq)]
pub struct BrokerUrl {
    uri: AMQPUri,
    names_user: bool,
    names_password: bool,
    names_vhost: bool,
}

/// Why a text is not the URL of a broker.
///
/// The error text contains nothing from the URL but its scheme: if a special character in the password is not encoded,
/// any part may be a part of the password.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum BrokerUrlError {
    /// It does not begin with a scheme.
    #[error("is not an AMQP URL; {EXAMPLE}")]
    NoScheme,
    /// It has another scheme than `amqp` and `amqps`.
    #[error("is not an AMQP URL but one of {0}; {EXAMPLE}")]
    Scheme(String),
    /// It is not a URL.
    #[error("is not a URL ({0}); {EXAMPLE}")]
    Malformed(url::ParseError),
    /// It has a `#` or an `@` that is probably a part of the password.
    #[error("has a # or an @ in the wrong place; {EXAMPLE}")]
    Misplaced,
    /// The port is 0.
    #[error("has port 0; {EXAMPLE}")]
    Port,
    /// The host, the virtual host or a parameter is invalid.
    #[error("has an invalid host, virtual host or parameter; {EXAMPLE}")]
    Unreadable,
}

impl BrokerUrl {
    /// The URL of the broker at this host and port, with the virtual host `/` and without TLS.
    pub fn new(host: &str, port: u16, user: &str, password: &SecretString) -> Self {
        let userinfo = AMQPUserInfo { username: user.to_owned(), password: password.expose_secret().to_owned() };
        let uri = AMQPUri {
            scheme: AMQPScheme::AMQP,
            authority: AMQPAuthority { host: host.to_owned(), port, userinfo },
            vhost: "/".to_owned(),
            query: AMQPQueryString::default(),
        };
        Self { uri: with_defaults(uri), names_user: true, names_password: true, names_vhost: false }
    }

    /// The same URL with this user name and this password, if they are given.
    #[must_use]
    pub fn with_credentials(mut self, user: Option<&str>, password: Option<&SecretString>) -> Self {
        if let Some(user) = user {
            user.clone_into(&mut self.uri.authority.userinfo.username);
            self.names_user = true;
        }
        if let Some(password) = password {
            password.expose_secret().clone_into(&mut self.uri.authority.userinfo.password);
            self.names_password = true;
        }
        self
    }

    /// The same URL with this virtual host, if it is given.
    #[must_use]
    pub fn with_vhost(mut self, vhost: Option<&str>) -> Self {
        if let Some(vhost) = vhost {
            vhost.clone_into(&mut self.uri.vhost);
            self.names_vhost = true;
        }
        self
    }

    /// The same with frames of at most this many bytes, unless the URL says otherwise.
    #[must_use]
    pub(super) fn with_frame_max(mut self, frame_max: u32) -> Self {
        self.uri.query.frame_max.get_or_insert(frame_max);
        self
    }

    /// Whether a user name was given, even if it is the default one.
    pub fn names_user(&self) -> bool {
        self.names_user
    }

    /// Whether a password was given.
    pub fn names_password(&self) -> bool {
        self.names_password
    }

    /// Whether a virtual host was given, even if it is the default one.
    pub fn names_vhost(&self) -> bool {
        self.names_vhost
    }

    /// Whether the connection uses TLS: the scheme is `amqps`.
    pub fn is_encrypted(&self) -> bool {
        self.uri.scheme == AMQPScheme::AMQPS
    }

    /// The user name.
    pub fn user(&self) -> &str {
        &self.uri.authority.userinfo.username
    }

    /// The host: a name or an address.
    pub fn host(&self) -> &str {
        &self.uri.authority.host
    }

    /// Host and port.
    pub fn address(&self) -> String {
        let AMQPAuthority { host, port, .. } = &self.uri.authority;
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
    }

    /// The virtual host.
    pub fn vhost(&self) -> &str {
        &self.uri.vhost
    }

    /// The URL with the password, for the connection and nothing else.
    pub(crate) fn uri(&self) -> &AMQPUri {
        &self.uri
    }

    /// `text` with the password masked. A password that equals the user name is not masked.
    pub(super) fn without_secrets(&self, text: &str) -> String {
        let info = &self.uri.authority.userinfo;
        if info.password.is_empty() || info.password == info.username {
            return text.to_owned();
        }
        text.replace(&info.password, "***")
    }
}

impl FromStr for BrokerUrl {
    type Err = BrokerUrlError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.trim();
        match text.split_once("://") {
            Some(("amqp" | "amqps", _)) => {}
            Some((scheme, _)) if scheme.len() <= 8 && scheme.bytes().all(|byte| byte.is_ascii_lowercase()) => {
                return Err(BrokerUrlError::Scheme(scheme.to_owned()));
            }
            _ => return Err(BrokerUrlError::NoScheme),
        }
        let url = url::Url::parse(text).map_err(BrokerUrlError::Malformed)?;
        let rest = [Some(url.path()), url.query(), url.fragment()].into_iter().flatten();
        if url.fragment().is_some() || rest.into_iter().any(|part| part.contains('@')) {
            return Err(BrokerUrlError::Misplaced);
        }
        if url.port() == Some(0) {
            return Err(BrokerUrlError::Port);
        }
        let mut uri: AMQPUri = text.parse().map_err(|_: String| BrokerUrlError::Unreadable)?;
        // `AMQPUri` accepts only names as hosts and falls back to localhost otherwise.
        if let Some(url::Host::Ipv6(address)) = url.host() {
            uri.authority.host = address.to_string();
        }
        if uri.authority.host.is_empty() {
            uri.authority.host = AMQPAuthority::default().host;
        }
        // Strictly, `amqp://host/` is the vhost "". Users who write it mean "/".
        if uri.vhost.is_empty() {
            "/".clone_into(&mut uri.vhost);
        }
        Ok(Self {
            uri: with_defaults(uri),
            names_user: !url.username().is_empty(),
            names_password: url.password().is_some(),
            names_vhost: !matches!(url.path(), "" | "/"),
        })
    }
}

fn with_defaults(mut uri: AMQPUri) -> AMQPUri {
    uri.query.connection_timeout.get_or_insert(CONNECTION_TIMEOUT);
    uri.query.heartbeat.get_or_insert(HEARTBEAT);
    uri
}

impl fmt::Display for BrokerUrl {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}://{}/{}", self.uri.scheme, self.address(), self.vhost().replace('/', "%2f"))
    }
}

impl fmt::Debug for BrokerUrl {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{self}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> BrokerUrl {
        text.parse().unwrap()
    }

    #[test]
    fn a_url_is_read_with_its_defaults() {
        for (text, shown) in [
            ("amqp://host", "amqp://host:5672/%2f"),
            ("amqp://host/", "amqp://host:5672/%2f"),
            ("amqps://host/v", "amqps://host:5671/v"),
            ("amqp://u:p@[::1]:5673/%2f", "amqp://[::1]:5673/%2f"),
            ("amqp://u:p@10.0.0.1/", "amqp://10.0.0.1:5672/%2f"),
            ("amqp://", "amqp://localhost:5672/%2f"),
        ] {
            assert_eq!(url(text).to_string(), shown, "{text}");
        }
        let broker = url("amqp://u%40x:p%23@h?heartbeat=3");
        assert_eq!(broker.uri().authority.userinfo.username, "u@x");
        assert_eq!(broker.uri().authority.userinfo.password, "p#");
        assert_eq!(broker.uri().query.heartbeat, Some(3));
        assert_eq!(broker.uri().query.connection_timeout, Some(CONNECTION_TIMEOUT));
    }

    #[test]
    fn missing_parts_of_a_url_have_defaults() {
        let plain = url("amqp://broker");
        assert_eq!((plain.address().as_str(), plain.vhost(), plain.user()), ("broker:5672", "/", "guest"));
        assert_eq!(plain.uri().query.heartbeat, Some(10));
        assert_eq!(plain.uri().query.connection_timeout, Some(3_000));
        assert_eq!(url("amqp://broker/").vhost(), "/");
        assert_eq!(url("amqp://broker/%2f").vhost(), "/");
        assert_eq!(url("amqps://broker").address(), "broker:5671");
        assert_eq!(url("amqp://broker/?heartbeat=2&connection_timeout=500").uri().query.heartbeat, Some(2));
    }

    #[test]
    fn missing_credentials_are_noticed() {
        let named = |text| (url(text).names_user(), url(text).names_password());
        assert_eq!(named("amqp://broker"), (false, false));
        assert_eq!(named("amqp://me@broker"), (true, false));
        assert_eq!(named("amqp://me:secret@broker"), (true, true));
        assert!(url("amqps://broker").is_encrypted() && !url("amqp://broker").is_encrypted());
    }

    #[test]
    fn the_password_is_never_shown() {
        let url = url("amqp://somebody:s3cr%40t@music.example:5673/catalogue");
        assert_eq!(url.uri().authority.userinfo.password, "s3cr@t");
        assert_eq!(url.to_string(), "amqp://music.example:5673/catalogue");
        for shown in [format!("{url:?}"), format!("{url:#?}")] {
            assert_eq!(shown, url.to_string());
        }
        assert_eq!(url.without_secrets("no s3cr@t here"), "no *** here");
        let replaced = url.with_credentials(Some("you"), Some(&SecretString::from("other")));
        assert_eq!(replaced.uri().authority.userinfo.password, "other");
        assert_eq!(replaced.user(), "you");
        let made = BrokerUrl::new("::1", 5672, "somebody", &SecretString::from("hunter2"));
        assert_eq!(format!("{made:?}"), "amqp://[::1]:5672/%2f");
        assert_eq!(made.uri().authority.userinfo.password, "hunter2");
    }

    #[test]
    fn an_ipv6_address_is_not_taken_for_localhost() {
        let url = url("amqp://me:secret@[fd00::1]:5673/v");
        assert_eq!(url.uri().authority.host, "fd00::1");
        assert_eq!(url.address(), "[fd00::1]:5673");
    }

    #[test]
    fn a_wrong_url_shows_no_more_of_itself_than_its_scheme() {
        use url::ParseError;

        for (text, expected) in [
            ("http://u:hunter2@host/", BrokerUrlError::Scheme("http".to_owned())),
            ("hunter2", BrokerUrlError::NoScheme),
            ("hunter2:x", BrokerUrlError::NoScheme),
            ("u:hunter2@host:5672", BrokerUrlError::NoScheme),
            ("amqp:hunter2", BrokerUrlError::NoScheme),
            ("AMQPhunter2://", BrokerUrlError::NoScheme),
            ("amqp://u:hunter2@host:port/", BrokerUrlError::Malformed(ParseError::InvalidPort)),
            ("amqp://u:hun/ter2@host:99999/", BrokerUrlError::Malformed(ParseError::InvalidPort)),
            ("amqp://u:hunter2@ho st/", BrokerUrlError::Malformed(ParseError::InvalidDomainCharacter)),
            ("amqp://u:12#hunter2@host/", BrokerUrlError::Misplaced),
            ("amqp://u:12/hunter2@host/", BrokerUrlError::Misplaced),
            ("amqp://u:hunter2@host:0/", BrokerUrlError::Port),
            ("amqp://u:hunter2@host/?heartbeat=hunter2", BrokerUrlError::Unreadable),
            ("amqp://host?heartbeat=often", BrokerUrlError::Unreadable),
        ] {
            let error = text.parse::<BrokerUrl>().unwrap_err();
            let text = error.to_string();
            assert!(!text.contains("unter2") && !text.contains("ter2"), "{text}");
            assert!(text.contains("; give amqp://"), "{text}");
            assert_eq!(error, expected, "{text}");
        }
    }
}
