//! Where the broker is and who we are to it.

use std::fmt;

use lapin::uri::{AMQPAuthority, AMQPQueryString, AMQPScheme, AMQPUri, AMQPUserInfo};

use super::SettingsError;
use super::given::Given;

/// Seconds between heartbeats, where the URL does not say: a dead connection is noticed within twice that.
const HEARTBEAT: u16 = 10;
/// Milliseconds to wait for a connection, where the URL does not say.
const CONNECTION_TIMEOUT: u64 = 3000;

const EXAMPLE: &str = "give amqp://user:password@host:5672/vhost, or amqps for TLS, special characters percent-encoded";

/// The broker that messages go to. It shows where it is, never who we are to it.
#[derive(Clone, PartialEq, Eq)]
pub struct Broker(AMQPUri);

impl Broker {
    /// The whole truth, password included: for the connection and for nothing else.
    pub fn uri(&self) -> &AMQPUri {
        &self.0
    }

    /// The broker of the four single settings.
    pub(super) fn of_parts(host: &Given, port: &Given, user: &Given, password: &Given) -> Result<Self, SettingsError> {
        Ok(Self::with_defaults(AMQPUri {
            scheme: AMQPScheme::AMQP,
            authority: AMQPAuthority {
                host: host_name(host)?,
                port: port.number("a port", 1..=u16::MAX)?,
                userinfo: AMQPUserInfo { username: user.text()?.to_owned(), password: password.text()?.to_owned() },
            },
            vhost: "/".to_owned(),
            query: AMQPQueryString::default(),
        }))
    }

    /// The broker of a URL. Errors say nothing of it but its scheme: with a special character that is
    /// not encoded, a part of the password may stand anywhere.
    pub(super) fn of_url(given: &Given) -> Result<Self, SettingsError> {
        let wrong = |problem: &str| given.wrong(format!("{problem}; {EXAMPLE}"));
        let text = given.text()?.trim();
        match text.split_once("://") {
            Some(("amqp" | "amqps", _)) => {}
            Some((scheme, _)) if scheme.len() <= 8 && scheme.bytes().all(|byte| byte.is_ascii_lowercase()) => {
                return Err(wrong(&format!("is not an AMQP URL but one of {scheme}")));
            }
            _ => return Err(wrong("is not an AMQP URL")),
        }
        let url = url::Url::parse(text).map_err(|error| wrong(&format!("is not a URL ({error})")))?;
        let rest = [Some(url.path()), url.query(), url.fragment()].into_iter().flatten();
        if url.fragment().is_some() || rest.into_iter().any(|part| part.contains('@')) {
            return Err(wrong("has a # or an @ where none can be"));
        }
        if url.port() == Some(0) {
            return Err(wrong("has port 0"));
        }
        let mut uri: AMQPUri =
            text.parse().map_err(|_: String| wrong("has a host, virtual host or parameter that cannot be read"))?;
        // The URL type of the AMQP crate knows names only, and falls back to localhost for the rest.
        if let Some(url::Host::Ipv6(address)) = url.host() {
            uri.authority.host = address.to_string();
        }
        if uri.authority.host.is_empty() {
            uri.authority.host = AMQPAuthority::default().host;
        }
        // A slash with nothing behind it is how people write the virtual host "/".
        if uri.vhost.is_empty() {
            "/".clone_into(&mut uri.vhost);
        }
        Ok(Self::with_defaults(uri))
    }

    fn with_defaults(mut uri: AMQPUri) -> Self {
        uri.query.heartbeat.get_or_insert(HEARTBEAT);
        uri.query.connection_timeout.get_or_insert(CONNECTION_TIMEOUT);
        Self(uri)
    }
}

fn host_name(given: &Given) -> Result<String, SettingsError> {
    let host = given.text()?.trim();
    let address = host.trim_start_matches('[').trim_end_matches(']');
    if address.parse::<std::net::IpAddr>().is_ok() {
        return Ok(address.to_owned());
    }
    let of_a_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    if !host.is_empty() && host.bytes().all(of_a_name) {
        return Ok(host.to_owned());
    }
    let shown = super::given::without_secrets(host);
    Err(given.wrong(format!("{shown:?} is not a host's name or address; give one such as rabbitmq.example")))
}

impl fmt::Display for Broker {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let AMQPUri { scheme, authority: AMQPAuthority { host, port, .. }, vhost, .. } = &self.0;
        let (open, close) = if host.contains(':') { ("[", "]") } else { ("", "") };
        write!(formatter, "{scheme}://{open}{host}{close}:{port}/{}", vhost.replace('/', "%2f"))
    }
}

impl fmt::Debug for Broker {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Broker({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Result<Broker, String> {
        let given = Given { label: "RABBITMQ_URL".into(), value: text.into(), by_default: false };
        Broker::of_url(&given).map_err(|error| error.to_string())
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
            assert_eq!(url(text).unwrap().to_string(), shown, "{text}");
        }
        let broker = url("amqp://u%40x:p%23@h?heartbeat=3").unwrap();
        assert_eq!(broker.uri().authority.userinfo.username, "u@x");
        assert_eq!(broker.uri().authority.userinfo.password, "p#");
        assert_eq!(broker.uri().query.heartbeat, Some(3));
        assert_eq!(broker.uri().query.connection_timeout, Some(CONNECTION_TIMEOUT));
    }

    #[test]
    fn a_wrong_url_shows_no_more_of_itself_than_its_scheme() {
        for text in [
            "http://u:hunter2@host/",
            "hunter2",
            "hunter2:x",
            "u:hunter2@host:5672",
            "amqp://u:hunter2@host:port/",
            "amqp://u:hun/ter2@host/",
            "amqp://u:12#hunter2@host/",
            "amqp://u:12/hunter2@host/",
            "amqp://u:hunter2@host:0/",
            "amqp://u:hunter2@host/?heartbeat=hunter2",
            "amqp://u:hunter2@ho st/",
            "amqp:hunter2",
            "AMQPhunter2://",
        ] {
            let error = url(text).unwrap_err();
            assert!(!error.contains("unter2") && !error.contains("ter2"), "{error}");
            assert!(error.starts_with("RABBITMQ_URL: ") && error.contains("; give amqp://"), "{error}");
        }
    }

    #[test]
    fn a_broker_never_shows_its_password() {
        let broker = url("amqp://somebody:hunter2@host/v").unwrap();
        for shown in [format!("{broker}"), format!("{broker:?}"), format!("{broker:#?}")] {
            assert!(!shown.contains("hunter2") && !shown.contains("somebody"), "{shown}");
        }
        assert_eq!(broker.uri().authority.userinfo.password, "hunter2");
    }
}
