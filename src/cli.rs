//! The shell: settings in, logs on, the pipeline run, an exit code out.

use std::error::Error;
use std::ffi::OsString;
use std::io::{self, Write as _};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use crate::config::{Command, Exit, Relocation, Settings, SettingsError};
use crate::control::{self, ControlError, Request};
use crate::model::{LibraryPath, ParkedRequest};
use crate::service::{self, Service, ServiceError};
use crate::status::HeldList;
use crate::store::{StateDir, StateDirError};
use crate::telemetry;

/// The exit code of work that failed or was interrupted.
const FAILED: u8 = 1;

/// The exit code where something was asked for that cannot be.
const REFUSED: u8 = 2;

/// The exit code of a scan that could not read everything, or holds deletes.
const INCOMPLETE: u8 = 3;

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
            ServiceError::Refused(_) | ServiceError::NothingKnown(_) | ServiceError::NotParked(_) => {
                Self::Usage(error.to_string())
            }
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
            Ok(ExitCode::SUCCESS)
        }
        Err(Exit::Wrong(error)) => Err(error.into()),
    };
    match outcome {
        Ok(code) => code,
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

fn work(settings: Settings) -> Result<ExitCode, Failure> {
    if matches!(settings.command, Command::Held(_) | Command::Approve(_)) && !settings.store_file().exists() {
        say("no delete is held: this library was never scanned; nothing was changed");
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(Relocation { old_state_dir: Some(old), .. }) = &settings.relocation {
        match StateDir::take_over(old, &settings.state_dir) {
            // The new place was scanned: with the setting, which stays, that is the usual case.
            Err(StateDirError::BothThere { .. }) if settings.command != Command::Relocate => {}
            taken_over => taken_over?,
        }
    }
    let state_dir = match StateDir::open(&settings.state_dir) {
        // The service that has it does what is asked.
        Err(StateDirError::InUse(path)) if is_for_service(&settings.command) => {
            return ask_service(&path, &settings.command);
        }
        opened => opened?,
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
    if let Command::Parked(request) = settings.command.clone() {
        let command = settings.command.clone();
        let answer = runtime.block_on(service::parked_at_rest(&settings, &instance_id, request))?;
        tell(&command, &answer);
        return Ok(ExitCode::SUCCESS);
    }
    let outcome = runtime.block_on(start(settings, state_dir, instance_id));
    // A file that is being hashed is hashed again at the next start: no need to wait for its end.
    runtime.shutdown_background();
    outcome
}

/// Gives the answer to a command: what was asked to be listed to standard output, all else to people.
fn tell(command: &Command, answer: &str) {
    // Whoever closed the other end has read enough.
    let _ = match command {
        Command::Parked(ParkedRequest::List { .. }) if answer.is_empty() => Ok(()),
        Command::Parked(ParkedRequest::List { .. }) => writeln!(io::stdout(), "{answer}"),
        _ => writeln!(io::stderr(), "{answer}"),
    };
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
async fn start(settings: Settings, state_dir: StateDir, instance_id: String) -> Result<ExitCode, Failure> {
    let command = settings.command.clone();
    // To be ended is all that is left to do for one who watches; the others have not done what they were asked to.
    let interrupted = if command == Command::Watch { 0 } else { FAILED };
    let shutdown = service::shutdown_on_signals(interrupted).map_err(Failure::run)?;
    let mut sink = service::sink_of(&settings, &instance_id);
    let service = Service::open(settings, &instance_id)?;
    let damage = service.damage();
    let incomplete = ExitCode::from(INCOMPLETE);
    let work = async {
        let summary = match command {
            Command::Scan => service::scan(&service, &mut sink, shutdown).await?,
            Command::Held(json) => {
                print_held(&service::held(&service).await?, json);
                None
            }
            Command::Approve(under) => {
                service::approve(&service, under, &mut sink, shutdown, say).await?;
                None
            }
            Command::Relocate => {
                service::relocate(&service, &mut sink, shutdown, say).await?;
                None
            }
            Command::Replay(under) => service::replay(&service, under, &mut sink, shutdown).await?,
            Command::Parked(_) => None,
            Command::Watch => service::watch(Arc::new(service), &state_dir, &mut sink, shutdown).await?,
        };
        Ok(summary)
    };
    let done = Service::unless_damaged(&damage, Box::pin(work)).await;
    sink.close().await;
    match done? {
        Some(summary) => {
            // Standard output is for messages.
            say(&summary.to_string());
            Ok(if summary.is_complete() { ExitCode::SUCCESS } else { incomplete })
        }
        None => Ok(ExitCode::SUCCESS),
    }
}

/// Whether a running service carries out this command.
fn is_for_service(command: &Command) -> bool {
    matches!(command, Command::Held(_) | Command::Approve(_) | Command::Replay(_) | Command::Parked(_))
}

/// Has the service that runs on `state_dir` carry out a command, and says what it answers.
fn ask_service(state_dir: &Path, command: &Command) -> Result<ExitCode, Failure> {
    let held = |under: &LibraryPath| {
        let answer = control::ask(state_dir, &Request::Held(under.clone()))?;
        serde_json::from_str::<HeldList>(&answer).map_err(Failure::run)
    };
    match command {
        Command::Held(json) => print_held(&held(&LibraryPath::root())?, *json),
        Command::Approve(under) => {
            let held = held(under)?;
            if held.total > 0 {
                say(&held.to_string());
            }
            say(&control::ask(state_dir, &Request::Approve(under.clone()))?);
        }
        Command::Replay(under) => say(&control::ask(state_dir, &Request::Replay(under.clone()))?),
        Command::Parked(request) => tell(command, &control::ask(state_dir, &Request::Parked(request.clone()))?),
        Command::Scan | Command::Watch | Command::Relocate => {}
    }
    Ok(ExitCode::SUCCESS)
}

fn print_held(held: &HeldList, json: bool) {
    let text = if json { held.to_json() } else { held.to_string() };
    // Whoever closed standard output has read enough.
    let _ = writeln!(io::stdout(), "{text}");
}

/// Says something to the person who waits for this command.
fn say(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}
