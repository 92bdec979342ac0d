//! What a failure means for the one who runs the service: wait, or put a setting right.

use std::io;

use lapin::{Error as BrokerError, ErrorKind};

use super::BrokerUrl;
use super::wire::TlsFailure;

/// Where on the way it failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Reaching the broker and logging in.
    Connect,
    /// Declaring the exchange.
    Declare,
    /// Publishing, or being idle.
    Publish,
}

/// A failure in words without secrets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// It may be over the next time.
    Passing(String),
    /// It will not be over until a person puts something right.
    Refused(String),
}

/// The reply codes of AMQP that say which setting is wrong.
const ACCESS_REFUSED: u16 = 403;
const PRECONDITION_FAILED: u16 = 406;
const NOT_ALLOWED: u16 = 530;

/// Says what `error` means at `step`.
pub(super) fn explain(error: &BrokerError, step: Step, url: &BrokerUrl, exchange: &str) -> Trouble {
    let trouble = match error.kind() {
        ErrorKind::ProtocolError(protocol) => {
            let said = protocol.get_message();
            match (protocol.get_id(), step) {
                (ACCESS_REFUSED, Step::Connect) => Trouble::Refused(format!(
                    "RabbitMQ at {} refuses the user name or password: set RABBITMQ_USER and RABBITMQ_PASS, \
                     or both in RABBITMQ_URL ({said})",
                    url.address()
                )),
                (ACCESS_REFUSED, Step::Declare | Step::Publish) => Trouble::Refused(format!(
                    "the user {:?} may not use the exchange {exchange:?}: give it the permissions configure and write \
                     in the vhost {:?}, or set another RABBITMQ_USER ({said})",
                    url.user(),
                    url.vhost()
                )),
                (NOT_ALLOWED, Step::Connect) => Trouble::Refused(format!(
                    "RabbitMQ at {} refuses the vhost {:?}: correct the end of RABBITMQ_URL, or create the vhost and \
                     let the user {:?} use it ({said})",
                    url.address(),
                    url.vhost(),
                    url.user()
                )),
                (PRECONDITION_FAILED, Step::Declare) => Trouble::Refused(format!(
                    "the exchange {exchange:?} is there and is not a durable topic exchange: delete it, or set \
                     RABBITMQ_URL to another vhost ({said})"
                )),
                _ => Trouble::Passing(format!("{error}")),
            }
        }
        ErrorKind::IOError(error) if tls_failure(error).is_some() => Trouble::Refused(format!(
            "TLS with {} failed: check the host name in RABBITMQ_URL, that the port speaks TLS, and RABBITMQ_CA_FILE, \
             RABBITMQ_CERT_FILE and RABBITMQ_KEY_FILE ({error})",
            url.address()
        )),
        ErrorKind::IOError(error) => Trouble::Passing(format!("{}: {error}", url.address())),
        ErrorKind::MissingHeartbeatError => Trouble::Passing("the broker gave no sign of life".to_owned()),
        _ => Trouble::Passing(format!("{error}")),
    };
    match trouble {
        Trouble::Passing(text) => Trouble::Passing(url.without_secrets(&text)),
        Trouble::Refused(text) => Trouble::Refused(url.without_secrets(&text)),
    }
}

fn tls_failure(error: &io::Error) -> Option<&TlsFailure> {
    error.get_ref()?.downcast_ref()
}

#[cfg(test)]
mod tests {
    use lapin::protocol::{AMQPError, AMQPErrorKind, AMQPHardError, AMQPSoftError};

    use super::*;

    fn meaning(kind: impl Into<AMQPErrorKind>, step: Step) -> Trouble {
        let url: BrokerUrl = "amqp://me:hunter2@broker/v".parse().unwrap();
        let error = ErrorKind::ProtocolError(AMQPError::new(kind.into(), "not with hunter2".into()));
        explain(&error.into(), step, &url, "file_events")
    }

    #[test]
    fn a_refusal_names_the_setting_and_no_password() {
        for (trouble, setting) in [
            (meaning(AMQPSoftError::ACCESSREFUSED, Step::Connect), "RABBITMQ_PASS"),
            (meaning(AMQPSoftError::ACCESSREFUSED, Step::Publish), "RABBITMQ_USER"),
            (meaning(AMQPHardError::NOTALLOWED, Step::Connect), "RABBITMQ_URL"),
            (meaning(AMQPSoftError::PRECONDITIONFAILED, Step::Declare), "file_events"),
        ] {
            let Trouble::Refused(text) = trouble else { panic!("{trouble:?}") };
            assert!(text.contains(setting) && !text.contains("hunter2"), "{text}");
        }
    }

    #[test]
    fn an_exchange_that_vanished_will_be_back() {
        assert!(matches!(meaning(AMQPSoftError::NOTFOUND, Step::Publish), Trouble::Passing(_)));
        assert!(matches!(meaning(AMQPHardError::CONNECTIONFORCED, Step::Publish), Trouble::Passing(_)));
    }
}
