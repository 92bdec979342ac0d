//! TLS with the broker: trusted authorities and the client certificate.

use std::io;
use std::sync::Arc;

use lapin::tcp::{RustlsConnector, RustlsConnectorConfig};
use rustls::RootCertStore;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

/// The certificates for `amqps`, in addition to the authorities that the system trusts.
#[derive(Clone, Default)]
pub struct Tls {
    authorities: Vec<CertificateDer<'static>>,
    identity: Option<Arc<Identity>>,
}

struct Identity {
    certificates: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

/// Why a certificate or a key cannot be used. The text reads after the name of a file and contains nothing from it.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum TlsError {
    /// The file has no certificate.
    #[error("contains no certificate in PEM")]
    NoCertificate,
    /// The certificate is malformed.
    #[error("contains a malformed certificate")]
    Certificate,
    /// The file has no private key, or an encrypted one.
    #[error("contains no private key in PEM, or an encrypted one")]
    NoKey,
    /// The private key is malformed or of an unknown kind.
    #[error("contains a malformed or unsupported private key")]
    Key,
    /// The certificate and the key do not belong together.
    #[error("contains the key of another certificate")]
    Mismatch,
}

impl Tls {
    /// Also trusts these authorities: one or more certificates in PEM.
    ///
    /// # Errors
    ///
    /// [`TlsError::NoCertificate`] or [`TlsError::Certificate`].
    pub fn with_authorities(mut self, pem: &[u8]) -> Result<Self, TlsError> {
        let authorities = certificates(pem)?;
        for authority in &authorities {
            RootCertStore::empty().add(authority.clone()).map_err(|_| TlsError::Certificate)?;
        }
        self.authorities.extend(authorities);
        Ok(self)
    }

    /// Uses this client certificate, followed by its chain, and its private key; both in PEM.
    ///
    /// # Errors
    ///
    /// Each variant of [`TlsError`].
    pub fn with_identity(mut self, certificate: &[u8], key: &[u8]) -> Result<Self, TlsError> {
        let certificates = certificates(certificate)?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| TlsError::NoKey)?;
        CertifiedKey::from_der(certificates.clone(), key.clone_key(), &ring::default_provider()).map_err(|error| {
            match error {
                rustls::Error::InconsistentKeys(_) => TlsError::Mismatch,
                rustls::Error::InvalidCertificate(_) => TlsError::Certificate,
                _ => TlsError::Key,
            }
        })?;
        self.identity = Some(Arc::new(Identity { certificates, key }));
        Ok(self)
    }

    /// The connector for one connection. It reads the authorities of the system, so that a change of these needs no
    /// restart.
    pub(super) fn connector(&self) -> Result<RustlsConnector, TlsSetupError> {
        let mut config = match RustlsConnectorConfig::new_with_native_certs() {
            Ok(config) => config,
            // A container may have no authorities but the given ones.
            Err(_) if !self.authorities.is_empty() => RustlsConnectorConfig::default(),
            Err(error) => return Err(TlsSetupError(error)),
        };
        config.add_parsable_certificates(self.authorities.clone());
        match self.identity.as_deref() {
            Some(Identity { certificates, key }) => {
                config.connector_with_single_cert(certificates.clone(), key.clone_key())
            }
            None => config.connector_with_no_client_auth(),
        }
        .map_err(TlsSetupError)
    }
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Tls")
            .field("authorities", &self.authorities.len())
            .field("identity", &self.identity.is_some())
            .finish()
    }
}

/// TLS was not attempted: there is no trusted authority.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub(super) struct TlsSetupError(io::Error);

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let certificates: Vec<_> =
        CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().map_err(|_| TlsError::Certificate)?;
    if certificates.is_empty() { Err(TlsError::NoCertificate) } else { Ok(certificates) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (String, String) {
        let made = rcgen::generate_simple_self_signed(["client".to_owned()]).unwrap();
        (made.cert.pem(), made.signing_key.serialize_pem())
    }

    #[test]
    fn certificates_and_keys_are_checked() {
        let ((certificate, key), (_, other)) = (pair(), pair());
        let (certificate, key, other) = (certificate.as_bytes(), key.as_bytes(), other.as_bytes());
        let garbage = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        let cut = &certificate[..certificate.len() / 2];
        let unusable = b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
        let encrypted = b"-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";

        let trusting = |pem: &[u8]| Tls::default().with_authorities(pem).map(|tls| tls.authorities.len());
        assert_eq!(trusting(certificate), Ok(1));
        assert_eq!(trusting(&[certificate, key, b"a word\n", certificate].concat()), Ok(2));
        assert_eq!(trusting(b""), Err(TlsError::NoCertificate));
        assert_eq!(trusting(key), Err(TlsError::NoCertificate));
        assert_eq!(trusting(garbage), Err(TlsError::Certificate));
        assert_eq!(trusting(cut), Err(TlsError::Certificate));

        let known = |certificate: &[u8], key: &[u8]| Tls::default().with_identity(certificate, key).map(drop);
        assert_eq!(known(certificate, key), Ok(()));
        let both = [key, certificate].concat();
        assert_eq!(known(&both, &both), Ok(()), "one file may hold both");
        assert_eq!(known(key, key), Err(TlsError::NoCertificate));
        assert_eq!(known(garbage, key), Err(TlsError::Certificate));
        assert_eq!(known(certificate, b"hunter2"), Err(TlsError::NoKey));
        assert_eq!(known(certificate, encrypted), Err(TlsError::NoKey));
        assert_eq!(known(certificate, unusable), Err(TlsError::Key));
        assert_eq!(known(certificate, other), Err(TlsError::Mismatch));
    }

    #[test]
    fn a_key_is_never_shown() {
        let (certificate, key) = pair();
        let tls = Tls::default().with_identity(certificate.as_bytes(), key.as_bytes()).unwrap();
        assert_eq!(format!("{tls:?}"), "Tls { authorities: 0, identity: true }");
    }
}
