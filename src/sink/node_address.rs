//! The addresses of the broker's nodes, as settings list them: `a:5672,b,[::1]:5673`.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

/// The address of a node: a host name or an IP address, and a port.
///
/// `Display` is `host:port`, with an IPv6 address in brackets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeAddress {
    host: String,
    port: u16,
}

/// Why a list of addresses is invalid: which of them, and what is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddressError {
    /// The place in the list; the first one is 1.
    pub number: usize,
    /// The text of the address.
    pub text: String,
    /// What is wrong with it.
    pub problem: AddressProblem,
}

/// What is wrong with an address. The text reads after the address.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
pub enum AddressProblem {
    /// There is nothing between two commas, or before the first or after the last one.
    #[error("is empty")]
    Empty,
    /// The host is neither a name nor an address.
    #[error("is not a host name or address")]
    Host,
    /// An IPv6 address is not in brackets.
    #[error("is an IPv6 address without brackets")]
    Brackets,
    /// The port is not a number from 1 to 65535.
    #[error("has an invalid port")]
    Port,
}

/// Whether an IPv6 address may be without brackets. It then has no port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BareIpv6 {
    /// As in a list of hosts.
    Allowed,
    /// As in a URL.
    Refused,
}

impl NodeAddress {
    /// Parses addresses that are separated by commas. One without a port gets `default_port`.
    pub fn list(text: &str, default_port: u16, bare_ipv6: BareIpv6) -> Result<Vec<Self>, AddressError> {
        let one = |(index, text): (usize, &str)| {
            Self::one(text.trim(), default_port, bare_ipv6).map_err(|problem| AddressError {
                number: index + 1,
                text: text.trim().to_owned(),
                problem,
            })
        };
        text.split(',').enumerate().map(one).collect()
    }

    fn one(text: &str, default_port: u16, bare_ipv6: BareIpv6) -> Result<Self, AddressProblem> {
        if text.is_empty() {
            return Err(AddressProblem::Empty);
        }
        if text.parse::<Ipv6Addr>().is_ok() {
            return match bare_ipv6 {
                BareIpv6::Allowed => Ok(Self { host: text.to_owned(), port: default_port }),
                BareIpv6::Refused => Err(AddressProblem::Brackets),
            };
        }
        let (host, port) = match text.strip_prefix('[') {
            Some(bracketed) => {
                let (host, rest) = bracketed.split_once(']').ok_or(AddressProblem::Host)?;
                host.parse::<Ipv6Addr>().map_err(|_| AddressProblem::Host)?;
                let port =
                    if rest.is_empty() { None } else { Some(rest.strip_prefix(':').ok_or(AddressProblem::Port)?) };
                (host, port)
            }
            None => text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port))),
        };
        if !is_host(host) {
            return Err(AddressProblem::Host);
        }
        let port = port.map_or(Ok(default_port), |port| port.parse().map_err(|_| AddressProblem::Port))?;
        if port == 0 { Err(AddressProblem::Port) } else { Ok(Self { host: host.to_owned(), port }) }
    }

    /// The host: a name, or an IP address without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }
}

fn is_host(text: &str) -> bool {
    let of_a_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    text.parse::<IpAddr>().is_ok() || (!text.is_empty() && text.bytes().all(of_a_name))
}

impl fmt::Display for NodeAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        if host.contains(':') { write!(formatter, "[{host}]:{port}") } else { write!(formatter, "{host}:{port}") }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn list(text: &str) -> Result<Vec<String>, (usize, AddressProblem)> {
        let listed = NodeAddress::list(text, 5672, BareIpv6::Refused);
        listed
            .map(|addresses| addresses.iter().map(ToString::to_string).collect())
            .map_err(|error| (error.number, error.problem))
    }

    #[test]
    fn addresses_are_separated_by_commas_and_have_a_default_port() {
        assert_eq!(list("rabbit").unwrap(), ["rabbit:5672"]);
        assert_eq!(list("a:1, b ,10.0.0.1:65535").unwrap(), ["a:1", "b:5672", "10.0.0.1:65535"]);
        assert_eq!(list("[::1],[fd00::1]:5673").unwrap(), ["[::1]:5672", "[fd00::1]:5673"]);
    }

    #[test]
    fn an_ipv6_address_without_brackets_has_no_port() {
        let list = NodeAddress::list("a,fd00::1:5672", 5672, BareIpv6::Allowed).unwrap();
        assert_eq!(list[1], NodeAddress { host: "fd00::1:5672".to_owned(), port: 5672 });
        assert_eq!(list[1].to_string(), "[fd00::1:5672]:5672");
    }

    #[test]
    fn an_invalid_address_is_named_by_its_place() {
        use AddressProblem::{Brackets, Empty, Host, Port};
        for (text, number, problem) in [
            ("", 1, Empty),
            ("a,,b", 2, Empty),
            ("a,b,", 3, Empty),
            ("a:", 1, Port),
            ("a,b:0", 2, Port),
            ("a,b:65536", 2, Port),
            ("a:5672:1", 1, Port),
            (":5672", 1, Host),
            ("a b", 1, Host),
            ("u@a", 1, Host),
            ("[::1", 1, Host),
            ("[a]:1", 1, Host),
            ("[::1]5672", 1, Port),
            ("a,::1", 2, Brackets),
        ] {
            assert_eq!(list(text), Err((number, problem)), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn a_list_that_was_parsed_is_parsed_the_same_from_its_text(text in "[a-c0-9:.,\\[\\]]{0,20}") {
            if let Ok(addresses) = NodeAddress::list(&text, 5672, BareIpv6::Refused) {
                let shown: Vec<String> = addresses.iter().map(ToString::to_string).collect();
                prop_assert_eq!(NodeAddress::list(&shown.join(","), 1, BareIpv6::Refused), Ok(addresses));
            }
        }
    }
}
