//! What a failure of the connection means for the operator: wait, or change a setting.

use std::io;

use lapin::{Error as BrokerError, ErrorKind};
use rustls::pki_types::InvalidDnsNameError;
use rustls::{AlertDescription as Alert, CertificateError};

use super::BrokerUrl;
use super::tls::TlsSetupError;

/// The step at which the connection failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Connecting and logging in.
    Connect,
    /// Declaring the exchange.
    Declare,
    /// Publishing, or idle.
    Publish,
    /// Declaring, binding or reading a queue.
    Listen,
}

/// A failure, as text without secrets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// A new attempt may succeed.
    Transient(String),
    /// Attempts fail until the operator changes something.
    NeedsOperator(String),
    /// A file with a setting of the connection cannot be used. It may be about to be replaced.
    SettingsFile(String),
}

impl Failure {
    /// The text.
    pub(super) fn into_text(self) -> String {
        let (Self::Transient(text) | Self::NeedsOperator(text) | Self::SettingsFile(text)) = self;
        text
    }
}

// AMQP reply codes that show which setting is wrong.
const ACCESS_REFUSED: u16 = 403;
pub(super) const PRECONDITION_FAILED: u16 = 406;
const NOT_ALLOWED: u16 = 530;

// AMQP reply codes that refuse a message, as PRECONDITION_FAILED does.
const CONTENT_TOO_LARGE: u16 = 311;
const FRAME_ERROR: u16 = 501;
const SYNTAX_ERROR: u16 = 502;

/// The broker closed the channel because of a message. It would do so again each time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct MessageRefusal {
    /// The text of the broker, without secrets.
    pub(super) reason: String,
    /// Whether the message is too large.
    pub(super) is_for_size: bool,
}

/// The refusal of a published message, if `error`, which ended the connection, is one.
pub(super) fn of_message(error: &BrokerError, url: &BrokerUrl) -> Option<MessageRefusal> {
    let ErrorKind::ProtocolError(protocol) = error.kind() else { return None };
    let code = protocol.get_id();
    if !matches!(code, CONTENT_TOO_LARGE | PRECONDITION_FAILED | FRAME_ERROR | SYNTAX_ERROR) {
        return None;
    }
    let text = url.without_secrets(&protocol.get_message().to_string());
    let is_for_size = code == CONTENT_TOO_LARGE || text.contains("size");
    Some(MessageRefusal { reason: format!("RabbitMQ refused it with {code}: {text}"), is_for_size })
}

/// What `error` means at `step`.
pub(super) fn explain(error: &BrokerError, step: Step, url: &BrokerUrl, exchange: &str) -> Failure {
    let failure = match error.kind() {
        ErrorKind::ProtocolError(protocol) => {
            let text = protocol.get_message();
            match (protocol.get_id(), step) {
                (ACCESS_REFUSED, Step::Connect) => Failure::NeedsOperator(format!(
                    "RabbitMQ at {} refused the user name or password: set RABBITMQ_USER and RABBITMQ_PASS, \
                     or both in RABBITMQ_URL ({text})",
                    url.addresses()
                )),
                (ACCESS_REFUSED, Step::Declare | Step::Publish) => Failure::NeedsOperator(format!(
                    "the user {:?} may not use the exchange {exchange:?}: grant it the permissions configure and write \
                     in the vhost {:?}, or set another RABBITMQ_USER ({text})",
                    url.user(),
                    url.vhost()
                )),
                (ACCESS_REFUSED, Step::Listen) => Failure::NeedsOperator(format!(
                    "the user {:?} may not read from the exchange {exchange:?}: grant it the permissions configure, \
                     write and read in the vhost {:?}, or set another RABBITMQ_USER ({text})",
                    url.user(),
                    url.vhost()
                )),
                (NOT_ALLOWED, Step::Connect) => Failure::NeedsOperator(format!(
                    "RabbitMQ at {} refused the vhost {:?}: correct the end of RABBITMQ_URL, or create the vhost and \
                     grant the user {:?} access to it ({text})",
                    url.addresses(),
                    url.vhost(),
                    url.user()
                )),
                (PRECONDITION_FAILED, Step::Declare) => Failure::NeedsOperator(format!(
                    "the exchange {exchange:?} exists and is not a durable topic exchange: delete it, or set \
                     RABBITMQ_URL to another vhost ({text})"
                )),
                _ => Failure::Transient(format!("{}: {error}", url.addresses())),
            }
        }
        ErrorKind::IOError(error) if step == Step::Connect => explain_tls(error, url),
        ErrorKind::IOError(error) => Failure::Transient(format!("{}: {error}", url.addresses())),
        ErrorKind::ParsingError(_) if step == Step::Connect => Failure::NeedsOperator(format!(
            "{} does not answer in AMQP: correct host and port{} ({error})",
            url.addresses(),
            if url.is_encrypted() { "" } else { ", or begin RABBITMQ_URL with amqps if the port uses TLS" },
        )),
        ErrorKind::MissingHeartbeatError => {
            Failure::Transient(format!("{}: no heartbeat from the broker", url.addresses()))
        }
        _ => Failure::Transient(format!("{}: {error}", url.addresses())),
    };
    match failure {
        Failure::Transient(text) => Failure::Transient(url.without_secrets(&text)),
        Failure::NeedsOperator(text) => Failure::NeedsOperator(url.without_secrets(&text)),
        Failure::SettingsFile(text) => Failure::SettingsFile(text),
    }
}

/// What an IO error while connecting means. It may wrap an error of TLS.
fn explain_tls(error: &io::Error, url: &BrokerUrl) -> Failure {
    let (address, host) = (url.addresses(), url.host());
    let Some(cause) = error.get_ref() else { return Failure::Transient(format!("{address}: {error}")) };
    if cause.is::<TlsSetupError>() {
        return Failure::NeedsOperator(format!(
            "TLS with {address} is not possible because this system trusts no authority: install ca-certificates, or set \
             RABBITMQ_CA_FILE ({error})"
        ));
    }
    match cause.downcast_ref::<rustls::Error>() {
        None if !cause.is::<InvalidDnsNameError>() => Failure::Transient(format!("{address}: {error}")),
        // Failures of the broker itself.
        Some(rustls::Error::AlertReceived(Alert::InternalError | Alert::UserCanceled | Alert::CloseNotify)) => {
            Failure::Transient(format!("{address}: {error}"))
        }
        Some(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer)) => Failure::NeedsOperator(format!(
            "the certificate of RabbitMQ at {address} was issued by an authority that this system does not trust: \
             set RABBITMQ_CA_FILE to the certificate of that authority ({error})"
        )),
        Some(rustls::Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        )) => Failure::NeedsOperator(format!(
            "the certificate of RabbitMQ at {address} is not valid for the name {host:?}: set RABBITMQ_URL to a name \
             that it is valid for, or give the broker a certificate for this name ({error})"
        )),
        Some(rustls::Error::InvalidCertificate(
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. },
        )) => Failure::NeedsOperator(format!(
            "the certificate of RabbitMQ at {address} is not valid at this time: renew it, or set the clock of this \
             machine ({error})"
        )),
        Some(rustls::Error::AlertReceived(Alert::CertificateRequired)) => Failure::NeedsOperator(format!(
            "RabbitMQ at {address} requires a client certificate: set RABBITMQ_CERT_FILE and RABBITMQ_KEY_FILE \
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
        )) => Failure::NeedsOperator(format!(
            "RabbitMQ at {address} does not accept the client certificate: set RABBITMQ_CERT_FILE and RABBITMQ_KEY_FILE to \
             one from an authority that it trusts ({error})"
        )),
        _ => Failure::NeedsOperator(format!(
            "TLS with {address} failed: check the host name in RABBITMQ_URL, that the port uses TLS, and \
             RABBITMQ_CA_FILE, RABBITMQ_CERT_FILE and RABBITMQ_KEY_FILE ({error})"
        )),
    }
}

#[cfg(test)]
mod tests {
    use lapin::protocol::{AMQPError, AMQPErrorKind, AMQPHardError, AMQPSoftError};

    use super::*;

    fn meaning(kind: impl Into<AMQPErrorKind>, step: Step) -> Failure {
        let url: BrokerUrl = "amqp://me:hunter2@broker/v".parse().unwrap();
        let error = ErrorKind::ProtocolError(AMQPError::new(kind.into(), "not with hunter2".into()));
        explain(&error.into(), step, &url, "file_events")
    }

    #[test]
    fn a_refusal_names_the_setting_and_no_password() {
        for (failure, setting) in [
            (meaning(AMQPSoftError::ACCESSREFUSED, Step::Connect), "RABBITMQ_PASS"),
            (meaning(AMQPSoftError::ACCESSREFUSED, Step::Publish), "RABBITMQ_USER"),
            (meaning(AMQPHardError::NOTALLOWED, Step::Connect), "RABBITMQ_URL"),
            (meaning(AMQPSoftError::PRECONDITIONFAILED, Step::Declare), "file_events"),
        ] {
            let Failure::NeedsOperator(text) = failure else { panic!("{failure:?}") };
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
            let failure = meaning(failed(error), Step::Connect);
            let Failure::NeedsOperator(text) = failure else { panic!("{failure:?}") };
            assert!(text.contains(names) && text.contains("broker:5671"), "{text}");
        }
        let no_name = rustls::pki_types::ServerName::try_from("no name").unwrap_err();
        let no_name = io::Error::new(io::ErrorKind::InvalidData, no_name);
        assert!(matches!(meaning(no_name, Step::Connect), Failure::NeedsOperator(_)));
    }

    #[test]
    fn a_connection_that_ends_during_tls_is_a_transient_failure() {
        let url: BrokerUrl = "amqps://broker".parse().unwrap();
        let meaning = |error: io::Error, step| explain(&error.into(), step, &url, "file_events");
        let alert = |alert| io::Error::new(io::ErrorKind::InvalidData, rustls::Error::AlertReceived(alert));
        assert!(matches!(meaning(io::ErrorKind::UnexpectedEof.into(), Step::Connect), Failure::Transient(_)));
        assert!(matches!(meaning(alert(Alert::InternalError), Step::Connect), Failure::Transient(_)));
        assert!(matches!(meaning(alert(Alert::BadRecordMac), Step::Publish), Failure::Transient(_)));
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
    fn a_deleted_exchange_is_a_transient_failure() {
        assert!(matches!(meaning(AMQPSoftError::NOTFOUND, Step::Publish), Failure::Transient(_)));
        assert!(matches!(meaning(AMQPHardError::CONNECTIONFORCED, Step::Publish), Failure::Transient(_)));
    }
}
