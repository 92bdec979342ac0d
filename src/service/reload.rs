//! Reads the settings again while `watch` runs: at SIGHUP, and for `file-watcher reload`.
//!
//! The run with the old settings finishes what is in flight, and one with the new settings begins, in the same process.
//! Its first scan finds the files that match now, and publishes those that no longer match as deleted.

use std::convert::Infallible;
use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::config::{Settings, SettingsError};
use crate::model::with_causes;
use crate::screen::Screen;

type Read = Box<dyn Fn() -> Result<Settings, SettingsError> + Send + Sync>;

/// The settings of the next run, once they were read.
pub struct Reload {
    read: Read,
    next: Mutex<Next>,
    /// `None` on a terminal: there the signal means that the terminal was closed.
    hangups: tokio::sync::Mutex<Option<Signal>>,
}

/// Whether the new address can be listened on, as far as that can be known while the old one is in use.
fn check_port(old: Option<SocketAddr>, new: Option<SocketAddr>) -> Result<(), String> {
    let Some(new) = new.filter(|new| old.is_none_or(|old| old.port() != new.port())) else { return Ok(()) };
    match TcpListener::bind(new) {
        Ok(_) => Ok(()),
        Err(error) => Err(format!("HTTP_ADDR: cannot listen on {new}: {error}; give another address and port, or off")),
    }
}

#[derive(Default)]
struct Next {
    settings: Option<Box<Settings>>,
    /// Ends the run that is going on.
    end_of_run: CancellationToken,
}

impl fmt::Debug for Reload {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Reload").finish_non_exhaustive()
    }
}

impl Reload {
    /// Reads the settings by this function. To be called once per process, in a Tokio runtime.
    ///
    /// # Errors
    /// If the signal handler cannot be installed.
    pub fn new(
        screen: &Screen,
        read: impl Fn() -> Result<Settings, SettingsError> + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let hangups = if screen.is_terminal() { None } else { Some(signal(SignalKind::hangup())?) };
        Ok(Self { read: Box::new(read), next: Mutex::default(), hangups: tokio::sync::Mutex::new(hangups) })
    }

    /// The token that ends the run that begins now.
    #[must_use]
    pub fn begin_run(&self) -> CancellationToken {
        let mut next = self.next();
        *next = Next::default();
        next.end_of_run.clone()
    }

    /// The settings of the next run, if there is to be one.
    pub fn take(&self) -> Option<Settings> {
        self.next().settings.take().map(|settings| *settings)
    }

    /// Reads the settings again. The run that is going on ends when the guard is dropped.
    ///
    /// # Errors
    /// If the new settings are invalid, or change what cannot change. Then nothing happens.
    pub(super) fn prepare(&self, current: &Settings) -> Result<DropGuard, String> {
        let mut settings = (self.read)().map_err(|error| with_causes(&error))?;
        // That was for the start.
        settings.rebuild_index = false;
        if let Some(fixed) = current.fixed_difference(&settings) {
            return Err(format!("{fixed} cannot change while the service runs; restart it for that"));
        }
        check_port(current.http_addr, settings.http_addr)?;
        let mut next = self.next();
        next.settings = Some(Box::new(settings));
        Ok(next.end_of_run.clone().drop_guard())
    }

    /// Reads the settings again at each SIGHUP. Never returns.
    pub(super) async fn on_hangups(&self, current: &Settings) -> Infallible {
        let mut hangups = self.hangups.lock().await;
        loop {
            match hangups.as_mut() {
                Some(hangups) => {
                    hangups.recv().await;
                }
                None => std::future::pending().await,
            }
            match self.prepare(current) {
                Ok(_ends_run) => {
                    tracing::info!("SIGHUP: the settings were read again; the library is scanned with them");
                }
                Err(error) => tracing::error!(error, "SIGHUP: the settings stay as they are"),
            }
        }
    }

    fn next(&self) -> MutexGuard<'_, Next> {
        self.next.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_port_must_be_free() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let taken_address = taken.local_addr().unwrap();
        let error = check_port(None, Some(taken_address)).unwrap_err();
        assert!(error.starts_with(&format!("HTTP_ADDR: cannot listen on {taken_address}: ")), "{error}");
        assert_eq!(check_port(Some(taken_address), Some(taken_address)), Ok(()), "it is the service's own");
        assert_eq!(check_port(Some(taken_address), None), Ok(()));
        drop(taken);
        assert_eq!(check_port(None, Some(taken_address)), Ok(()));
    }
}
