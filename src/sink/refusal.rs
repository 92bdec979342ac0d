//! What a failure means for the one who runs the service: wait, or put a setting right.

use std::io;

use lapin::{Error as BrokerError, ErrorKind};
use rustls::pki_types::InvalidDnsNameError;
use rustls::{AlertDescription as Alert, CertificateError};

use super::BrokerUrl;
use super::tls::TlsSetupError;

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
    /// A file with a setting of the connection cannot be used at this moment: it may be just being replaced.
    Unreadable(String),
}

/// The reply codes of AMQP that say which setting is wrong.
const ACCESS_REFUSED: u16 = 403;
const PRECONDITION_FAILED: u16 = 406;
const NOT_ALLOWED: u16 = 530;

/// Those that say that a message cannot be taken, together with PRECONDITION_FAILED.
const CONTENT_TOO_LARGE: u16 = 311;
const FRAME_ERROR: u16 = 501;
const SYNTAX_ERROR: u16 = 502;

/// The broker closed the channel because of a message that it will never take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct MessageRefusal {
    /// What the broker says, without secrets.
    pub(super) reason: String,
    /// Whether the message is too large.
    pub(super) is_for_size: bool,
}

/// Whether `error`, which ended a connection that was publishing, refuses what was published.
pub(super) fn of_message(error: &BrokerError, url: &BrokerUrl) -> Option<MessageRefusal> {
    let ErrorKind::ProtocolError(protocol) = error.kind() else { return None };
    let code = protocol.get_id();
    if !matches!(code, CONTENT_TOO_LARGE | PRECONDITION_FAILED | FRAME_ERROR | SYNTAX_ERROR) {
        return None;
    }
    let said = url.without_secrets(&protocol.get_message().to_string());
    let is_for_size = code == CONTENT_TOO_LARGE || said.contains("size");
    Some(MessageRefusal { reason: format!("RabbitMQ refuses it with {code}: {said}"), is_for_size })
}

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
        ErrorKind::IOError(error) if step == Step::Connect => explain_tls(error, url),
        ErrorKind::IOError(error) => Trouble::Passing(format!("{}: {error}", url.address())),
        ErrorKind::ParsingError(_) if step == Step::Connect => Trouble::Refused(format!(
            "what listens at {} does not speak AMQP: correct host and port{} ({error})",
            url.address(),
            if url.is_encrypted() { "" } else { ", or, where it speaks TLS, begin RABBITMQ_URL with amqps" },
        )),
        ErrorKind::MissingHeartbeatError => Trouble::Passing("the broker gave no sign of life".to_owned()),
        _ => Trouble::Passing(format!("{error}")),
    };
    match trouble {
        Trouble::Passing(text) => Trouble::Passing(url.without_secrets(&text)),
        Trouble::Refused(text) => Trouble::Refused(url.without_secrets(&text)),
        Trouble::Unreadable(text) => Trouble::Unreadable(text),
    }
}

/// What it means that the way to the broker ended with `error`, where that may be a matter of TLS.
fn explain_tls(error: &io::Error, url: &BrokerUrl) -> Trouble {
    let (address, host) = (url.address(), url.host());
    let Some(cause) = error.get_ref() else { return Trouble::Passing(format!("{address}: {error}")) };
    if cause.is::<TlsSetupError>() {
        return Trouble::Refused(format!(
            "TLS with {address} is not possible: this system trusts no authority; install its certificates \
             (ca-certificates), or set RABBITMQ_CA_FILE ({error})"
        ));
    }
    match cause.downcast_ref::<rustls::Error>() {
        None if !cause.is::<InvalidDnsNameError>() => Trouble::Passing(format!("{address}: {error}")),
        // The broker's own troubles.
        Some(rustls::Error::AlertReceived(Alert::InternalError | Alert::UserCanceled | Alert::CloseNotify)) => {
            Trouble::Passing(format!("{address}: {error}"))
        }
        Some(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer)) => Trouble::Refused(format!(
            "the certificate of RabbitMQ at {address} comes from an authority that this system does not trust: \
             set RABBITMQ_CA_FILE to the certificate of that authority ({error})"
        )),
        Some(rustls::Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        )) => Trouble::Refused(format!(
            "the certificate of RabbitMQ at {address} is not for the name {host:?}: set RABBITMQ_URL to a name that \
             it is for, or give the broker a certificate for this one ({error})"
        )),
        Some(rustls::Error::InvalidCertificate(
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. },
        )) => Trouble::Refused(format!(
            "the certificate of RabbitMQ at {address} is not valid at this time: renew it, or set the clock of this \
             machine ({error})"
        )),
        Some(rustls::Error::AlertReceived(Alert::CertificateRequired)) => Trouble::Refused(format!(
            "RabbitMQ at {address} asks for a certificate of ours: set RABBITMQ_CERT_FILE and RABBITMQ_KEY_FILE \
             ({error})"
        )),
        Some(rustls::Error::AlertReceived(
            Alert::AccessDenied
            | Alert::BadCertificate
            | Alert::CertificateExpired
            | Alert::CertificateRevoked
            | Alert::CertificateUnknown
            | Alert::UnknownCA
            | Alert::UnsupportedCertificate,
        )) => Trouble::Refused(format!(
            "RabbitMQ at {address} does not accept our certificate: set RABBITMQ_CERT_FILE and RABBITMQ_KEY_FILE to \
             one from an authority that it trusts ({error})"
        )),
        _ => Trouble::Refused(format!(
            "TLS with {address} failed: check the host name in RABBITMQ_URL, that the port speaks TLS, and \
             RABBITMQ_CA_FILE, RABBITMQ_CERT_FILE and RABBITMQ_KEY_FILE ({error})"
        )),
    }
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
    fn a_certificate_that_is_refused_on_either_side_names_the_setting() {
        let url: BrokerUrl = "amqps://me:hunter2@broker/v".parse().unwrap();
        let meaning = |error: io::Error, step| explain(&error.into(), step, &url, "file_events");
        let failed = |error: rustls::Error| io::Error::new(io::ErrorKind::InvalidData, error);
        for (error, names) in [
            (rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer), "RABBITMQ_CA_FILE"),
            (rustls::Error::InvalidCertificate(CertificateError::NotValidForName), "RABBITMQ_URL"),
            (rustls::Error::InvalidCertificate(CertificateError::Expired), "clock"),
            (rustls::Error::InvalidCertificate(CertificateError::BadSignature), "RABBITMQ_CA_FILE"),
            (rustls::Error::AlertReceived(Alert::CertificateRequired), "RABBITMQ_CERT_FILE"),
            (rustls::Error::AlertReceived(Alert::UnknownCA), "RABBITMQ_CERT_FILE"),
            (rustls::Error::AlertReceived(Alert::HandshakeFailure), "RABBITMQ_CERT_FILE"),
        ] {
            let trouble = meaning(failed(error), Step::Connect);
            let Trouble::Refused(text) = trouble else { panic!("{trouble:?}") };
            assert!(text.contains(names) && text.contains("broker:5671"), "{text}");
        }
        let no_name = rustls::pki_types::ServerName::try_from("no name").unwrap_err();
        let no_name = io::Error::new(io::ErrorKind::InvalidData, no_name);
        assert!(matches!(meaning(no_name, Step::Connect), Trouble::Refused(_)));
    }

    #[test]
    fn a_connection_that_ends_within_tls_is_no_refusal() {
        let url: BrokerUrl = "amqps://broker".parse().unwrap();
        let meaning = |error: io::Error, step| explain(&error.into(), step, &url, "file_events");
        let alert = |alert| io::Error::new(io::ErrorKind::InvalidData, rustls::Error::AlertReceived(alert));
        assert!(matches!(meaning(io::ErrorKind::UnexpectedEof.into(), Step::Connect), Trouble::Passing(_)));
        assert!(matches!(meaning(alert(Alert::InternalError), Step::Connect), Trouble::Passing(_)));
        assert!(matches!(meaning(alert(Alert::BadRecordMac), Step::Publish), Trouble::Passing(_)));
    }

    #[test]
    fn only_a_reply_code_that_concerns_a_message_refuses_one() {
        let url: BrokerUrl = "amqp://me:hunter2@broker/v".parse().unwrap();
        let refusal = |kind: AMQPErrorKind, text: &str| {
            of_message(&ErrorKind::ProtocolError(AMQPError::new(kind, text.into())).into(), &url)
        };
        let too_large = refusal(AMQPSoftError::PRECONDITIONFAILED.into(), "message size 9 is larger than 8").unwrap();
        assert!(
            too_large.is_for_size && too_large.reason.contains("406") && too_large.reason.contains("larger than 8")
        );
        let unclear = refusal(AMQPSoftError::PRECONDITIONFAILED.into(), "hunter2").unwrap();
        assert!(!unclear.is_for_size && !unclear.reason.contains("hunter2"));
        assert!(refusal(AMQPSoftError::CONTENTTOOLARGE.into(), "").unwrap().is_for_size);
        assert!(refusal(AMQPHardError::FRAMEERROR.into(), "").is_some());
        assert!(refusal(AMQPHardError::SYNTAXERROR.into(), "").is_some());
        assert_eq!(refusal(AMQPSoftError::ACCESSREFUSED.into(), ""), None);
        assert_eq!(refusal(AMQPSoftError::NOTFOUND.into(), ""), None);
        assert_eq!(refusal(AMQPHardError::CONNECTIONFORCED.into(), ""), None);
        assert_eq!(refusal(AMQPHardError::INTERNALERROR.into(), ""), None);
        assert_eq!(of_message(&io::Error::from(io::ErrorKind::BrokenPipe).into(), &url), None);
    }

    #[test]
    fn an_exchange_that_vanished_will_be_back() {
        assert!(matches!(meaning(AMQPSoftError::NOTFOUND, Step::Publish), Trouble::Passing(_)));
        assert!(matches!(meaning(AMQPHardError::CONNECTIONFORCED, Step::Publish), Trouble::Passing(_)));
    }
}
