//! Reading again, at every connection, what stands in files: the URL, the password, certificates and keys.

use std::fmt;
use std::sync::Arc;

use super::{BrokerUrl, Tls};

/// Reads the settings of the connection that come from files, so that a rotated secret needs no restart.
#[derive(Clone)]
pub struct Reread(Arc<Read>);

/// Gives the broker's URL and what TLS takes, or says which setting is wrong, without secrets. It may block.
type Read = dyn Fn() -> Result<(BrokerUrl, Tls), String> + Send + Sync;

impl Reread {
    /// Reads them by `read`, which may block, and whose errors are logged and so must show no secrets.
    pub fn new(read: impl Fn() -> Result<(BrokerUrl, Tls), String> + Send + Sync + 'static) -> Self {
        Self(Arc::new(read))
    }

    /// Reads them now; an error says which setting is wrong.
    pub async fn read(&self) -> Result<(BrokerUrl, Tls), String> {
        let read = Arc::clone(&self.0);
        // A panic is a bug of the reader, and must not end the task that keeps the connection.
        let read = tokio::task::spawn_blocking(move || read()).await;
        read.unwrap_or_else(|_| Err("the files with the broker's settings could not be read (a bug)".to_owned()))
    }
}

impl fmt::Debug for Reread {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Reread")
    }
}
