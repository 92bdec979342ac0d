//! The shell: settings in, logs on, the pipeline run, an exit code out.

use std::error::Error;
use std::ffi::OsString;
use std::io::{self, Write as _};
use std::process::ExitCode;
use std::sync::Arc;

use crate::config::{Command, Exit, Settings, SettingsError};
use crate::control::{self, ControlError, Request};
use crate::service::{self, Service, ServiceError};
use crate::store::{StateDir, StateDirError};
use crate::telemetry;

/// The exit code of work that failed or was interrupted.
const FAILED: u8 = 1;

/// The exit code where something was asked for that cannot be.
const REFUSED: u8 = 2;

/// Why the program ends before its work is done.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// What was asked for cannot be done as asked.
    #[error("{0}")]
    Usage(String),
    /// The work failed.
    #[error(transparent)]
    Run(Box<dyn Error + Send + Sync>),
}

impl Failure {
    /// A failure of the work.
    pub fn run(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Run(error.into())
    }

    fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Run(_) => FAILED,
            Self::Usage(_) => REFUSED,
        })
    }
}

impl From<StateDirError> for Failure {
    fn from(error: StateDirError) -> Self {
        Self::Usage(error.to_string())
    }
}

impl From<ServiceError> for Failure {
    fn from(error: ServiceError) -> Self {
        match error {
            ServiceError::Store(ref refused) if refused.asks_for_another() => Self::Usage(error.to_string()),
            ServiceError::Refused(_) | ServiceError::NothingKnown(_) => Self::Usage(error.to_string()),
            error => Self::run(error),
        }
    }
}

impl From<ControlError> for Failure {
    fn from(error: ControlError) -> Self {
        match error {
            ControlError::Refused(_) => Self::Usage(error.to_string()),
            error => Self::run(error),
        }
    }
}

impl From<SettingsError> for Failure {
    fn from(error: SettingsError) -> Self {
        Self::Usage(error.to_string())
    }
}

/// Runs the program as `arguments` (its name first) and the environment ask.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    if let [_, verb, point] = arguments.as_slice()
        && verb == crate::disk::ASK_MOUNT
    {
        // For the process that started this one, which cannot wait itself.
        crate::disk::ask_mount(point.as_ref());
        return ExitCode::SUCCESS;
    }
    #[cfg(feature = "failpoints")]
    crate::failpoint::arm();
    let outcome = match Settings::from_env_and_args(arguments) {
        Ok(settings) => work(settings),
        Err(Exit::Answered(text)) => {
            // Whoever closed standard output has read enough.
            let _ = io::stdout().write_all(text.as_bytes());
            Ok(())
        }
        Err(Exit::Wrong(error)) => Err(error.into()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            report(&failure);
            failure.exit_code()
        }
    }
}

/// Says why the program ends: in the log where there is one, else in one plain line.
fn report(failure: &Failure) {
    let line = one_line(failure);
    if tracing::dispatcher::has_been_set() {
        tracing::error!("{line}");
    } else {
        let _ = writeln!(io::stderr(), "file-watcher: {line}");
    }
}

fn work(settings: Settings) -> Result<(), Failure> {
    let state_dir = match (StateDir::open(&settings.state_dir), request_of(&settings.command)) {
        // The service that has it does what is asked.
        (Err(StateDirError::InUse(path)), Some(request)) => {
            let answer = control::ask(&path, &request)?;
            let _ = writeln!(io::stderr(), "{answer}");
            return Ok(());
        }
        (opened, _) => opened?,
    };
    // The name on every message and every line of the log.
    let instance_id = match &settings.instance_id {
        Some(given) => given.clone(),
        None => state_dir.instance_id()?,
    };
    telemetry::start(&settings.log_level, settings.log_format, &instance_id).map_err(Failure::run)?;
    for warning in &settings.warnings {
        tracing::warn!("{warning}");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(Failure::run)?;
    let outcome = runtime.block_on(start(settings, state_dir, instance_id));
    // A file that is being hashed is hashed again at the next start: no need to wait for its end.
    runtime.shutdown_background();
    outcome
}

/// The failure and what caused it, each cause once: some errors already say what theirs was.
fn one_line(failure: &Failure) -> String {
    let mut line = failure.to_string();
    let mut source = failure.source();
    while let Some(cause) = source {
        let text = cause.to_string();
        if !line.contains(&text) {
            line.push_str(": ");
            line.push_str(&text);
        }
        source = cause.source();
    }
    line.replace('\n', " ")
}

/// The work itself.
async fn start(settings: Settings, state_dir: StateDir, instance_id: String) -> Result<(), Failure> {
    let command = settings.command.clone();
    // To be ended is all that is left to do for one who watches; the others have not done what they were asked to.
    let interrupted = if command == Command::Watch { 0 } else { FAILED };
    let shutdown = service::shutdown_on_signals(interrupted).map_err(Failure::run)?;
    let mut sink = service::sink_of(&settings, &instance_id);
    let service = Service::open(settings, &state_dir, &instance_id)?;
    let damage = service.damage();
    let work = async {
        match command {
            Command::Scan => service::scan(&service, &mut sink, shutdown).await,
            Command::Approve => {
                service.approve();
                service::scan(&service, &mut sink, shutdown).await
            }
            Command::Replay(under) => service::replay(&service, under, &mut sink, shutdown).await,
            Command::Watch => service::watch(Arc::new(service), &state_dir, &mut sink, shutdown).await,
        }
    };
    let done = Service::unless_damaged(&damage, Box::pin(work)).await;
    sink.close().await;
    if let Some(summary) = done? {
        // For people; standard output is for messages.
        let _ = writeln!(io::stderr(), "{summary}");
    }
    Ok(())
}

/// What a running service is asked for, where the command is one that it can carry out.
fn request_of(command: &Command) -> Option<Request> {
    match command {
        Command::Approve => Some(Request::Approve),
        Command::Replay(under) => Some(Request::Replay(under.clone())),
        Command::Scan | Command::Watch => None,
    }
}
