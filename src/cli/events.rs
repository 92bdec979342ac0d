//! `events`: prints the messages of the exchange.

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::{Failure, say};
use crate::config::ListenSettings;
use crate::screen::Screen;
use crate::service::{self, ServiceError};
use crate::sink::{self, ListenError, ListenQueue, Listener};
use crate::status::LoggedEvent;

/// Prints messages until a signal, until there were enough, or until the reader closes standard output.
pub(super) fn print(settings: &ListenSettings) -> Result<ExitCode, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failure::run)?;
    let listened = runtime.block_on(async {
        let shutdown = service::shutdown_on_signals(0, &Screen::stderr()).map_err(Failure::run)?;
        listen(settings, &shutdown).await
    });
    runtime.shutdown_background();
    listened.map(|()| ExitCode::SUCCESS)
}

async fn listen(settings: &ListenSettings, shutdown: &CancellationToken) -> Result<(), Failure> {
    let ListenSettings { broker, tls, types, queue, .. } = settings;
    let mut left = settings.count.unwrap_or(u64::MAX);
    let mut pauses = sink::pauses();
    let mut was_connected = false;
    loop {
        let opened = tokio::select! {
            opened = Listener::open(broker, tls, sink::EXCHANGE, queue, types) => opened,
            () = shutdown.cancelled() => return Ok(()),
        };
        let lost = match opened {
            Ok(mut listener) => {
                let words: Vec<&str> = types.iter().map(|event_type| event_type.as_str()).collect();
                let node = listener.node();
                say(&format!("{node}: waiting for messages about files that are {}", words.join(", ")));
                say(&match queue {
                    ListenQueue::Own => "the queue ends with this command; --durable NAME keeps messages".to_owned(),
                    ListenQueue::Durable(name) => {
                        format!("the queue {name:?} keeps messages also while nobody reads it")
                    }
                });
                (was_connected, pauses) = (true, sink::pauses());
                let printed = tokio::select! {
                    printed = print_all(&mut listener, settings, &mut left) => printed,
                    () = shutdown.cancelled() => Ok(()),
                };
                match printed {
                    Ok(()) => {
                        listener.close().await;
                        return Ok(());
                    }
                    Err(End::Lost(lost)) => lost,
                    Err(End::Output(error)) => return Err(error.into()),
                }
            }
            // Wrong settings should show at once.
            Err(error) if !was_connected => return Err(of(error)),
            Err(error @ ListenError::Refused(_)) => return Err(of(error)),
            Err(lost) => lost,
        };
        say(&match queue {
            ListenQueue::Own => format!("{lost}; connecting again, and messages in between are missing here"),
            ListenQueue::Durable(_) => format!("{lost}; connecting again"),
        });
        tokio::select! {
            () = tokio::time::sleep(pauses.next().unwrap_or_default()) => {}
            () = shutdown.cancelled() => return Ok(()),
        }
    }
}

fn of(error: ListenError) -> Failure {
    match error {
        ListenError::Refused(_) => Failure::usage(error),
        ListenError::Lost(_) => Failure::run(error),
    }
}

/// Why printing ended too early.
enum End {
    /// The connection was lost.
    Lost(ListenError),
    /// Standard output cannot be written.
    Output(ServiceError),
}

impl From<ListenError> for End {
    fn from(error: ListenError) -> Self {
        Self::Lost(error)
    }
}

/// Prints the wanted messages; returns when there were enough, or the reader of standard output has enough.
async fn print_all(listener: &mut Listener, settings: &ListenSettings, left: &mut u64) -> Result<(), End> {
    while *left > 0 {
        let message = listener.next().await?;
        if let Some(line) = line_of(message.body(), settings) {
            match writeln!(io::stdout(), "{line}") {
                // The reader, such as `head`, has enough.
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
                written => written.map_err(|error| End::Output(ServiceError::Output(error)))?,
            }
            *left -= 1;
        }
        listener.acknowledge(message).await?;
    }
    Ok(())
}

/// What is printed of a message; `None` if it is not wanted.
fn line_of(body: &[u8], settings: &ListenSettings) -> Option<String> {
    if let Some(under) = &settings.under {
        let message: Value = serde_json::from_slice(body).ok()?;
        let is_under = |field: &str| message[field].as_str().is_some_and(|path| Path::new(path).starts_with(under));
        if !is_under("file_path") && !is_under("old_path") {
            return None;
        }
    }
    match LoggedEvent::of_body(body) {
        Some(event) if !settings.json => Some(event.to_string()),
        // A message of another publisher is shown as it is.
        _ => Some(String::from_utf8_lossy(body).into_owned()),
    }
}
