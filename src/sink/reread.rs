//! Reads settings from files again before every connection: the URL, the password, certificates and keys.

use std::fmt;
use std::sync::Arc;

use super::{BrokerUrl, Tls};

/// Reads the settings of the connection that come from files. So a rotated secret needs no restart.
#[derive(Clone)]
pub struct Reread(Arc<Read>);

/// Returns the URL and the certificates, or an error text that names the wrong setting and has no secrets. May block.
type Read = dyn Fn() -> Result<(BrokerUrl, Tls), String> + Send + Sync;

impl Reread {
    /// Reads the settings with `read`, which may block. Its errors are logged, so they must not contain secrets.
    pub fn new(read: impl Fn() -> Result<(BrokerUrl, Tls), String> + Send + Sync + 'static) -> Self {
        Self(Arc::new(read))
    }

    /// Reads the settings now.
    ///
    /// # Errors
    ///
    /// A text that names the wrong setting.
    pub async fn read(&self) -> Result<(BrokerUrl, Tls), String> {
        let read = Arc::clone(&self.0);
        // A panic in `read` is a bug and must not end the connection task.
        let read = tokio::task::spawn_blocking(move || read()).await;
        read.unwrap_or_else(|_| Err("reading the files with the broker's settings failed (a bug)".to_owned()))
    }
}

impl fmt::Debug for Reread {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Reread").finish_non_exhaustive()
    }
}
