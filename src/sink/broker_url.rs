//! The URL of the broker, which shows its password to nobody.

use std::fmt;
use std::str::FromStr;

use lapin::uri::{AMQPScheme, AMQPUri};
use secrecy::{ExposeSecret, SecretString};

/// How long one attempt to reach the broker's port may take, in milliseconds, unless the URL says otherwise.
const CONNECTION_TIMEOUT: u64 = 3_000;

/// How often a sign of life is exchanged, in seconds, unless the URL says otherwise: a broker that
/// hangs is noticed after twice that.
const HEARTBEAT: u16 = 10;

/// Where RabbitMQ is and how to log in: `amqp://user:password@host:port/vhost?heartbeat=10`.
///
/// It can be shown and logged: the password is left out.
#[derive(Clone, PartialEq, Eq)]
pub struct BrokerUrl(AMQPUri);

/// A URL that names no broker. The text never repeats the URL, for that may hold the password.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum BrokerUrlError {
    /// Neither `amqp://` nor `amqps://`.
    #[error("must begin with amqp:// or amqps://")]
    Scheme,
    /// Anything else.
    #[error(
        "is not a URL such as amqp://user:password@host:5672/vhost (characters such as @ and / in a password must be percent-encoded, or given by RABBITMQ_PASS)"
    )]
    Malformed,
}

impl BrokerUrl {
    /// The same broker, with this user name and this password in place of those in the URL.
    #[must_use]
    pub fn with_credentials(mut self, user: Option<&str>, password: Option<&SecretString>) -> Self {
        if let Some(user) = user {
            user.clone_into(&mut self.0.authority.userinfo.username);
        }
        if let Some(password) = password {
            password.expose_secret().clone_into(&mut self.0.authority.userinfo.password);
        }
        self
    }

    /// The user name.
    pub fn user(&self) -> &str {
        &self.0.authority.userinfo.username
    }

    /// Host and port.
    pub fn address(&self) -> String {
        let authority = &self.0.authority;
        if authority.host.contains(':') {
            format!("[{}]:{}", authority.host, authority.port)
        } else {
            format!("{}:{}", authority.host, authority.port)
        }
    }

    /// The virtual host.
    pub fn vhost(&self) -> &str {
        &self.0.vhost
    }

    /// With the password, for the one who connects.
    pub(super) fn uri(&self) -> &AMQPUri {
        &self.0
    }

    /// `text` without the password, should it be in there. One that equals the user name is none.
    pub(super) fn without_secrets(&self, text: &str) -> String {
        let info = &self.0.authority.userinfo;
        if info.password.is_empty() || info.password == info.username {
            return text.to_owned();
        }
        text.replace(&info.password, "***")
    }
}

impl From<AMQPUri> for BrokerUrl {
    fn from(uri: AMQPUri) -> Self {
        Self(uri)
    }
}

impl FromStr for BrokerUrl {
    type Err = BrokerUrlError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.trim();
        if !text.starts_with("amqp://") && !text.starts_with("amqps://") {
            return Err(BrokerUrlError::Scheme);
        }
        let mut uri: AMQPUri = text.parse().map_err(|_| BrokerUrlError::Malformed)?;
        // The parser knows no IPv6 address and would silently take localhost instead.
        if let Some(host) = ipv6_host(text) {
            host.clone_into(&mut uri.authority.host);
        }
        // By the letter `amqp://host/` names the vhost "", which nobody has and everybody writes.
        if uri.vhost.is_empty() {
            "/".clone_into(&mut uri.vhost);
        }
        uri.query.connection_timeout.get_or_insert(CONNECTION_TIMEOUT);
        uri.query.heartbeat.get_or_insert(HEARTBEAT);
        Ok(Self(uri))
    }
}

/// The address between brackets in `amqp://user:password@[::1]:5672/`.
fn ipv6_host(text: &str) -> Option<&str> {
    let (_, rest) = text.split_once("://")?;
    let authority = rest.split(['/', '?', '#']).next()?;
    let host = authority.rsplit('@').next()?;
    host.strip_prefix('[')?.split_once(']').map(|(address, _)| address)
}

impl fmt::Display for BrokerUrl {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.0.scheme {
            AMQPScheme::AMQP => "amqp",
            AMQPScheme::AMQPS => "amqps",
        };
        let vhost = if self.0.vhost == "/" { "" } else { &self.0.vhost };
        write!(formatter, "{scheme}://{}@{}/{vhost}", self.user(), self.address())
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
    fn the_password_is_never_shown() {
        let url = url("amqp://me:s3cr%40t@music.example:5673/catalogue");
        assert_eq!(url.uri().authority.userinfo.password, "s3cr@t");
        assert_eq!(url.to_string(), "amqp://me@music.example:5673/catalogue");
        assert_eq!(format!("{url:?}"), url.to_string());
        assert_eq!(url.without_secrets("no s3cr@t here"), "no *** here");
        let replaced = url.with_credentials(Some("you"), Some(&SecretString::from("other")));
        assert_eq!(replaced.uri().authority.userinfo.password, "other");
        assert_eq!(replaced.user(), "you");
    }

    #[test]
    fn what_the_url_leaves_out_has_a_default() {
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
    fn an_ipv6_address_is_not_taken_for_localhost() {
        let url = url("amqp://me:secret@[fd00::1]:5673/v");
        assert_eq!(url.uri().authority.host, "fd00::1");
        assert_eq!(url.address(), "[fd00::1]:5673");
    }

    #[test]
    fn an_error_does_not_repeat_the_url() {
        assert_eq!("http://me:secret@host".parse::<BrokerUrl>(), Err(BrokerUrlError::Scheme));
        for malformed in ["amqp://me:secret@host:port", "amqp://me:sec/ret@host:99999/", "amqp://host?heartbeat=often"]
        {
            let error = malformed.parse::<BrokerUrl>().unwrap_err();
            assert!(!error.to_string().contains("secret@"), "{error}");
            assert_eq!(error, BrokerUrlError::Malformed, "{malformed}");
        }
    }
}
