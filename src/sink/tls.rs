//! TLS with the broker: whom we trust, and who we are.

use std::io;
use std::sync::Arc;

use lapin::tcp::{RustlsConnector, RustlsConnectorConfig};
use rustls::RootCertStore;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

/// What `amqps` needs beyond the authorities that the system trusts.
#[derive(Clone, Default)]
pub struct Tls {
    authorities: Vec<CertificateDer<'static>>,
    identity: Option<Arc<Identity>>,
}

struct Identity {
    certificates: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

/// Why a certificate or a key cannot be used. The text says what a file holds, and repeats none of it.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum TlsError {
    /// There is none.
    #[error("holds no certificate in PEM")]
    NoCertificate,
    /// There is something that looks like one.
    #[error("holds a certificate that cannot be read")]
    Certificate,
    /// There is none, or it is encrypted.
    #[error("holds no private key in PEM, or one that is encrypted")]
    NoKey,
    /// There is something that looks like one.
    #[error("holds a private key that cannot be used")]
    Key,
    /// Each is good, but they don't belong together.
    #[error("holds the key of another certificate")]
    Mismatch,
}

impl Tls {
    /// Trusts these authorities too, one or more certificates in PEM.
    pub fn with_authorities(mut self, pem: &[u8]) -> Result<Self, TlsError> {
        let authorities = certificates(pem)?;
        for authority in &authorities {
            RootCertStore::empty().add(authority.clone()).map_err(|_| TlsError::Certificate)?;
        }
        self.authorities.extend(authorities);
        Ok(self)
    }

    /// Shows the broker this certificate, with those that vouch for it behind it, and proves it with
    /// its key; both in PEM.
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

    /// What makes a connection out of a socket. Made for each anew, so that what the system trusts
    /// may change without a restart.
    pub(super) fn connector(&self) -> Result<RustlsConnector, TlsSetupError> {
        let mut config = match RustlsConnectorConfig::new_with_native_certs() {
            Ok(config) => config,
            // A container may trust nobody but the authority that it is given.
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

/// TLS was not even tried: there is nobody to trust.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
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
    fn certificates_and_keys_are_told_from_what_is_none() {
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
