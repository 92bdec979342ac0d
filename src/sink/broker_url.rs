//! The URL of the broker. Its text forms contain no user name and no password.

use std::fmt;
use std::str::FromStr;

use lapin::uri::{AMQPAuthority, AMQPQueryString, AMQPScheme, AMQPUri, AMQPUserInfo, SASLMechanism};
use secrecy::{ExposeSecret, SecretString};

use super::node_address::{AddressError, AddressProblem, BareIpv6, NodeAddress};

/// The default `connection_timeout` of a URL, in milliseconds.
const CONNECTION_TIMEOUT: u64 = 3_000;

/// The default `heartbeat` of a URL, in seconds. A broker that hangs is noticed after twice this time.
const HEARTBEAT: u16 = 10;

/// The parameters that a URL may have.
const PARAMETERS: [&str; 5] = ["heartbeat", "connection_timeout", "frame_max", "channel_max", "auth_mechanism"];

const EXAMPLE: &str = "give amqp://user:password@host:5672/vhost, or amqps for TLS, the nodes of a cluster as \
                       host1:5672,host2:5672, special characters percent-encoded";

/// The addresses of RabbitMQ and the login: `amqp://user:password@host1:port,host2:port/vhost?heartbeat=10`.
///
/// `Display` and `Debug` leave out user name and password.
#[derive(Clone, PartialEq, Eq)]
pub struct BrokerUrl {
    /// With the host and the port of the first node.
    uri: AMQPUri,
    /// At least one.
    nodes: Vec<NodeAddress>,
    names_user: bool,
    names_password: bool,
    names_vhost: bool,
}

/// Why a text is not the URL of a broker.
///
/// The error text contains nothing that may be a part of a password with a special character that is not encoded: of the
/// URL only its scheme, the name of a parameter, and an address behind the `@` if there is no other one after it.
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
    /// An address of a node is invalid.
    #[error("has an address that {problem}: {address}; {EXAMPLE}")]
    Address {
        /// The address, or its place in the list.
        address: String,
        /// What is wrong with it.
        problem: AddressProblem,
    },
    /// It has a parameter with this name, which has no meaning here.
    #[error("has the unknown parameter {0:?}; give only {known}", known = PARAMETERS.join(", "))]
    UnknownParameter(String),
    /// A parameter has an invalid value.
    #[error("has an invalid value of the parameter {0}; give {1}")]
    Parameter(&'static str, &'static str),
    /// The user name, the password or the virtual host is not UTF-8 once it is decoded.
    #[error("has a user name, password or virtual host that is not UTF-8; {EXAMPLE}")]
    Unreadable,
}

impl BrokerUrl {
    /// The URL of the broker with these nodes, of which there must be one, with the virtual host `/` and without TLS.
    pub fn new(nodes: Vec<NodeAddress>, user: &str, password: &SecretString) -> Self {
        let userinfo = AMQPUserInfo { username: user.to_owned(), password: password.expose_secret().to_owned() };
        let uri = AMQPUri {
            scheme: AMQPScheme::AMQP,
            authority: AMQPAuthority { userinfo, ..AMQPAuthority::default() },
            vhost: "/".to_owned(),
            query: AMQPQueryString::default(),
        };
        Self { uri: with_defaults(uri), nodes: Vec::new(), names_user: true, names_password: true, names_vhost: false }
            .with_nodes(nodes)
    }

    fn with_nodes(mut self, nodes: Vec<NodeAddress>) -> Self {
        if let Some(first) = nodes.first() {
            first.host().clone_into(&mut self.uri.authority.host);
            self.uri.authority.port = first.port();
        }
        self.nodes = nodes;
        self
    }

    /// The same URL with this node alone.
    #[must_use]
    pub(super) fn at(&self, node: &NodeAddress) -> Self {
        self.clone().with_nodes(vec![node.clone()])
    }

    /// The nodes of the broker.
    pub fn nodes(&self) -> &[NodeAddress] {
        &self.nodes
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

    /// The host of the first node: a name or an address.
    pub fn host(&self) -> &str {
        &self.uri.authority.host
    }

    /// Host and port of each node, separated by commas.
    pub fn addresses(&self) -> String {
        self.nodes.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
    }

    /// The virtual host.
    pub fn vhost(&self) -> &str {
        &self.uri.vhost
    }

    /// The URL of the first node with the password, for the connection and nothing else.
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
        let parts = Parts::of(text);
        // The addresses are parsed here: a URL has only one.
        let url = url::Url::parse(&parts.with_host("localhost")).map_err(BrokerUrlError::Malformed)?;
        let rest = [Some(url.path()), url.query(), url.fragment()].into_iter().flatten();
        if url.fragment().is_some() || rest.into_iter().any(|part| part.contains('@')) {
            return Err(BrokerUrlError::Misplaced);
        }
        check_parameters(&url)?;
        let mut uri: AMQPUri = url.as_str().parse().map_err(|_: String| BrokerUrlError::Unreadable)?;
        // Strictly, `amqp://host/` is the vhost "". Users who write it mean "/".
        if uri.vhost.is_empty() {
            "/".clone_into(&mut uri.vhost);
        }
        let nodes = parts.nodes(uri.scheme.default_port())?;
        Ok(Self {
            uri: with_defaults(uri),
            nodes: Vec::new(),
            names_user: !url.username().is_empty(),
            names_password: url.password().is_some(),
            names_vhost: !matches!(url.path(), "" | "/"),
        }
        .with_nodes(nodes))
    }
}

/// The parts of a URL: scheme and login, addresses, and the rest.
struct Parts<'a> {
    before: &'a str,
    addresses: &'a str,
    after: &'a str,
    has_login: bool,
}

impl<'a> Parts<'a> {
    /// The parts of a text that has a scheme.
    fn of(text: &'a str) -> Self {
        let start = text.find("://").map_or(0, |colon| colon + 3);
        let end = text[start..].find(['/', '?', '#']).map_or(text.len(), |end| start + end);
        let login = text[start..end].rfind('@').map(|at| start + at + 1);
        let host = login.unwrap_or(start);
        Self { before: &text[..host], addresses: &text[host..end], after: &text[end..], has_login: login.is_some() }
    }

    fn with_host(&self, host: &str) -> String {
        [self.before, host, self.after].concat()
    }

    fn nodes(&self, default_port: u16) -> Result<Vec<NodeAddress>, BrokerUrlError> {
        let addresses = if self.addresses.is_empty() { "localhost" } else { self.addresses };
        NodeAddress::list(addresses, default_port, BareIpv6::Refused).map_err(|error| {
            let AddressError { number, text, problem } = error;
            // Without an `@`, this may be a login whose host was forgotten.
            let address = if self.has_login { format!("{text:?}") } else { format!("address {number}") };
            BrokerUrlError::Address { address, problem }
        })
    }
}

/// Fails if there is a parameter that is unknown or has an invalid value.
fn check_parameters(url: &url::Url) -> Result<(), BrokerUrlError> {
    for (name, value) in url.query_pairs() {
        let (is_valid, expected) = match &*name {
            "heartbeat" => (value.parse::<u16>().is_ok(), "a number of seconds from 0 to 65535"),
            "connection_timeout" => (value.parse::<u64>().is_ok(), "a number of milliseconds"),
            "frame_max" => (value.parse::<u32>().is_ok(), "a number of bytes"),
            "channel_max" => (value.parse::<u16>().is_ok(), "a number of channels from 0 to 65535"),
            "auth_mechanism" => (value.parse::<SASLMechanism>().is_ok(), "plain, amqplain, anonymous or external"),
            _ => {
                // Anything else may be a part of a password.
                let is_name = name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
                return Err(BrokerUrlError::UnknownParameter(if is_name { name.into_owned() } else { "***".into() }));
            }
        };
        if let Some(name) = PARAMETERS.into_iter().find(|known| *known == name && !is_valid) {
            return Err(BrokerUrlError::Parameter(name, expected));
        }
    }
    Ok(())
}

fn with_defaults(mut uri: AMQPUri) -> AMQPUri {
    uri.query.connection_timeout.get_or_insert(CONNECTION_TIMEOUT);
    uri.query.heartbeat.get_or_insert(HEARTBEAT);
    uri
}

impl fmt::Display for BrokerUrl {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}://{}/{}", self.uri.scheme, self.addresses(), self.vhost().replace('/', "%2f"))
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
            ("amqp://u:p@a,b:5673,[::1]:1/v", "amqp://a:5672,b:5673,[::1]:1/v"),
            ("amqps://a,b", "amqps://a:5671,b:5671/%2f"),
            ("amqp://u:p,w@a", "amqp://a:5672/%2f"),
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
        assert_eq!((plain.addresses().as_str(), plain.vhost(), plain.user()), ("broker:5672", "/", "guest"));
        assert_eq!(plain.uri().query.heartbeat, Some(10));
        assert_eq!(plain.uri().query.connection_timeout, Some(3_000));
        assert_eq!(url("amqp://broker/").vhost(), "/");
        assert_eq!(url("amqp://broker/%2f").vhost(), "/");
        assert_eq!(url("amqps://broker").addresses(), "broker:5671");
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
        let nodes = NodeAddress::list("::1", 5672, BareIpv6::Allowed).unwrap();
        let made = BrokerUrl::new(nodes, "somebody", &SecretString::from("hunter2"));
        assert_eq!(format!("{made:?}"), "amqp://[::1]:5672/%2f");
        assert_eq!(made.uri().authority.userinfo.password, "hunter2");
    }

    #[test]
    fn an_ipv6_address_is_not_taken_for_localhost() {
        let url = url("amqp://me:secret@[fd00::1]:5673/v");
        assert_eq!(url.uri().authority.host, "fd00::1");
        assert_eq!(url.addresses(), "[fd00::1]:5673");
    }

    #[test]
    fn a_node_of_several_has_a_url_of_its_own() {
        let cluster = url("amqps://me:secret@a,b:5673/v?heartbeat=3");
        let node = cluster.at(&cluster.nodes()[1]);
        assert_eq!(
            (node.to_string().as_str(), node.host(), node.uri().authority.port),
            ("amqps://b:5673/v", "b", 5673)
        );
        assert_eq!((node.uri().authority.userinfo.password.as_str(), node.uri().query.heartbeat), ("secret", Some(3)));
    }

    #[test]
    fn only_parameters_with_a_meaning_are_accepted() {
        let all = url("amqp://a?heartbeat=3&connection_timeout=5&frame_max=9000&channel_max=7&auth_mechanism=external");
        let query = &all.uri().query;
        assert_eq!((query.frame_max, query.channel_max), (Some(9_000), Some(7)));
        assert_eq!(query.auth_mechanism, Some(SASLMechanism::External));
        let error = |text: &str| text.parse::<BrokerUrl>().unwrap_err().to_string();
        assert_eq!(
            error("amqp://a?heartbeet=3"),
            "has the unknown parameter \"heartbeet\"; give only heartbeat, connection_timeout, frame_max, channel_max, \
             auth_mechanism"
        );
        assert!(error("amqp://a?Hunter2").starts_with("has the unknown parameter \"***\";"));
        assert!(error("amqp://a?heartbeat=70000").contains("heartbeat; give a number of seconds from 0 to 65535"));
        assert!(error("amqp://a?auth_mechanism=none").contains("auth_mechanism; give plain"));
    }

    #[test]
    fn a_wrong_url_shows_no_more_of_itself_than_its_scheme() {
        let address = |address: &str, problem| BrokerUrlError::Address { address: address.to_owned(), problem };
        for (text, expected) in [
            ("http://u:hunter2@host/", BrokerUrlError::Scheme("http".to_owned())),
            ("hunter2", BrokerUrlError::NoScheme),
            ("hunter2:x", BrokerUrlError::NoScheme),
            ("u:hunter2@host:5672", BrokerUrlError::NoScheme),
            ("amqp:hunter2", BrokerUrlError::NoScheme),
            ("AMQPhunter2://", BrokerUrlError::NoScheme),
            ("amqp://u:hunter2@host:port/", address("\"host:port\"", AddressProblem::Port)),
            ("amqp://u:hunter2@a:1,,b/", address("\"\"", AddressProblem::Empty)),
            ("amqp://u:hunter2@a,::1/", address("\"::1\"", AddressProblem::Brackets)),
            ("amqp://u:hunter2", address("address 1", AddressProblem::Port)),
            ("amqp://a,u:hunter2/v", address("address 2", AddressProblem::Port)),
            ("amqp://u:hun/ter2@host:99999/", BrokerUrlError::Misplaced),
            ("amqp://u:hunter2@ho st/", address("\"ho st\"", AddressProblem::Host)),
            ("amqp://u:12#hunter2@host/", BrokerUrlError::Misplaced),
            ("amqp://u:12/hunter2@host/", BrokerUrlError::Misplaced),
            ("amqp://u:12?hunter2@host/", BrokerUrlError::Misplaced),
            ("amqp://u:hunter2@a/v,amqp://u:hunter2@b/v", BrokerUrlError::Misplaced),
            ("amqp://u:hunter2@host:0/", address("\"host:0\"", AddressProblem::Port)),
            ("amqp://u:hunter2@host/%ff", BrokerUrlError::Unreadable),
        ] {
            let error = text.parse::<BrokerUrl>().unwrap_err();
            let text = error.to_string();
            assert!(!text.contains("unter2") && !text.contains("ter2"), "{text}");
            assert!(text.contains("; give amqp://"), "{text}");
            assert_eq!(error, expected, "{text}");
        }
        let error = "amqp://u:hunter2@host/?heartbeat=hunter2".parse::<BrokerUrl>().unwrap_err();
        assert_eq!(error, BrokerUrlError::Parameter("heartbeat", "a number of seconds from 0 to 65535"));
    }
}
