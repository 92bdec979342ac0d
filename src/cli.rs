//! The command line: reads the settings, starts the log, runs the command, and returns the exit code.

use std::error::Error;
use std::ffi::OsString;
use std::io::{self, Write as _};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use crate::config::{Command, Exit, Relocation, Settings, SettingsError};
use crate::control::{self, ControlError, Request};
use crate::model::{LibraryPath, ParkedRequest, with_causes};
use crate::service::{self, Service, ServiceError};
use crate::status::{ConditionReport, HeldList, Report, Severity};
use crate::store::{StateDir, StateDirError};
use crate::telemetry;

/// The exit code if a command failed or was interrupted.
const FAILED: u8 = 1;

/// The exit code for invalid usage.
const INVALID_USAGE: u8 = 2;

/// The exit code if a scan could not read everything, or holds deletes.
const INCOMPLETE: u8 = 3;

/// Why a command did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// Invalid usage: the arguments, the settings or the state do not allow the command.
    #[error(transparent)]
    Usage(Box<dyn Error + Send + Sync>),
    /// The command failed.
    #[error(transparent)]
    Run(Box<dyn Error + Send + Sync>),
}

impl Failure {
    /// A failure of the command.
    fn run(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Run(error.into())
    }

    /// Invalid usage.
    fn usage(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Usage(error.into())
    }

    fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Run(_) => FAILED,
            Self::Usage(_) => INVALID_USAGE,
        })
    }
}

impl From<StateDirError> for Failure {
    fn from(error: StateDirError) -> Self {
        Self::usage(error)
    }
}

impl From<ServiceError> for Failure {
    fn from(error: ServiceError) -> Self {
        let is_usage = match &error {
            ServiceError::Store(error) => error.is_invalid_usage(),
            ServiceError::Refused(_) | ServiceError::NothingKnown(_) | ServiceError::NotParked(_) => true,
            _ => false,
        };
        if is_usage { Self::usage(error) } else { Self::run(error) }
    }
}

impl From<ControlError> for Failure {
    fn from(error: ControlError) -> Self {
        match error {
            ControlError::Refused(_) => Self::usage(error),
            error => Self::run(error),
        }
    }
}

impl From<SettingsError> for Failure {
    fn from(error: SettingsError) -> Self {
        Self::usage(error)
    }
}

/// Runs the command that `arguments` (the program's name first) and the environment select.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    if let [_, word, point] = arguments.as_slice()
        && word == crate::disk::ASK_MOUNT
    {
        // The process that started this one must not block on the mount itself.
        crate::disk::ask_mount(point.as_ref());
        return ExitCode::SUCCESS;
    }
    #[cfg(feature = "failpoints")]
    crate::failpoint::arm();
    let outcome = match Settings::from_env_and_args(arguments) {
        Ok(settings) => work(settings),
        Err(Exit::Help(text)) => {
            // The reader may have closed standard output.
            let _ = io::stdout().write_all(text.as_bytes());
            Ok(ExitCode::SUCCESS)
        }
        Err(Exit::Invalid(error)) => Err(error.into()),
    };
    match outcome {
        Ok(code) => code,
        Err(failure) => {
            report(&failure);
            failure.exit_code()
        }
    }
}

/// Prints why the command did not succeed: to the log once it is started, before that as one line.
fn report(failure: &Failure) {
    let line = with_causes(failure).replace('\n', " ");
    if tracing::dispatcher::has_been_set() {
        tracing::error!("{line}");
    } else {
        let _ = writeln!(io::stderr(), "file-watcher: {line}");
    }
}

fn work(settings: Settings) -> Result<ExitCode, Failure> {
    if matches!(settings.command, Command::Held { .. } | Command::Approve(_)) && !settings.store_file().exists() {
        say("no delete is held: this library was never scanned; nothing was changed");
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(Relocation { old_state_dir: Some(old), .. }) = &settings.relocation {
        match StateDir::take_over(old, &settings.state_dir) {
            // The new root was scanned already. This is the usual case if RELOCATE_FROM stays set.
            Err(StateDirError::BothThere { .. }) if settings.command != Command::Relocate => {}
            taken_over => taken_over?,
        }
    }
    let state_dir = match StateDir::open(&settings.state_dir) {
        // The running service carries out the command.
        Err(StateDirError::InUse(path)) if is_for_service(&settings.command) => {
            return ask_service(&path, &settings.command);
        }
        opened => opened?,
    };
    if matches!(settings.command, Command::Status { .. } | Command::Healthcheck) {
        say_to_stdout(&format!("no service is running on {}", settings.state_dir.display()));
        return Ok(ExitCode::FAILURE);
    }
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
        print_answer(&command, &answer);
        return Ok(ExitCode::SUCCESS);
    }
    let outcome = runtime.block_on(start(settings, state_dir, instance_id));
    // The next start hashes unfinished files again, so the process does not wait for them.
    runtime.shutdown_background();
    outcome
}

/// Prints the answer to a command about parked messages: a list to standard output, other answers to standard error.
fn print_answer(command: &Command, answer: &str) {
    match command {
        Command::Parked(ParkedRequest::List { .. }) if answer.is_empty() => {}
        Command::Parked(ParkedRequest::List { .. }) => say_to_stdout(answer),
        _ => say(answer),
    }
}

/// Runs a command that needs the store.
async fn start(settings: Settings, state_dir: StateDir, instance_id: String) -> Result<ExitCode, Failure> {
    let command = settings.command.clone();
    // A signal is the normal exit of watch. It interrupts the other commands.
    let interrupted = if command == Command::Watch { 0 } else { FAILED };
    let shutdown = service::shutdown_on_signals(interrupted).map_err(Failure::run)?;
    let mut sink = service::sink_of(&settings, &instance_id);
    let service = Service::open(settings, &instance_id)?;
    let corruption = service.corruption();
    let incomplete = ExitCode::from(INCOMPLETE);
    let work = async {
        let summary = match command {
            Command::Scan => service::scan(&service, &mut sink, shutdown).await?,
            Command::Held { json } => {
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
            Command::Parked(_) | Command::Status { .. } | Command::Healthcheck => None,
            Command::Watch => service::watch(Arc::new(service), &state_dir, &mut sink, shutdown).await?,
        };
        Ok(summary)
    };
    let done = Service::unless_corrupt(&corruption, Box::pin(work)).await;
    sink.close().await;
    match done? {
        Some(summary) => {
            // Standard output is for messages only.
            say(&summary.to_string());
            Ok(if summary.is_complete() { ExitCode::SUCCESS } else { incomplete })
        }
        None => Ok(ExitCode::SUCCESS),
    }
}

/// Whether a running service carries out this command.
fn is_for_service(command: &Command) -> bool {
    !matches!(command, Command::Scan | Command::Watch | Command::Relocate)
}

/// Sends a command to the service that runs on `state_dir`, and prints the answer.
fn ask_service(state_dir: &Path, command: &Command) -> Result<ExitCode, Failure> {
    let held = |under: &LibraryPath| {
        let answer = control::ask(state_dir, &Request::Held(under.clone()))?;
        serde_json::from_str::<HeldList>(&answer).map_err(Failure::run)
    };
    match command {
        Command::Held { json } => print_held(&held(&LibraryPath::root())?, *json),
        Command::Approve(under) => {
            let held = held(under)?;
            if held.total > 0 {
                say(&held.to_string());
            }
            say(&control::ask(state_dir, &Request::Approve(under.clone()))?);
        }
        Command::Replay(under) => say(&control::ask(state_dir, &Request::Replay(under.clone()))?),
        Command::Parked(request) => print_answer(command, &control::ask(state_dir, &Request::Parked(request.clone()))?),
        Command::Status { json: true } => say_to_stdout(&control::ask(state_dir, &Request::Status)?),
        Command::Status { json: false } => say_to_stdout(&ask_report(state_dir)?.to_string()),
        Command::Healthcheck => return Ok(check_health(&ask_report(state_dir)?)),
        Command::Scan | Command::Watch | Command::Relocate => {}
    }
    Ok(ExitCode::SUCCESS)
}

fn ask_report(state_dir: &Path) -> Result<Report, Failure> {
    serde_json::from_str(&control::ask(state_dir, &Request::Status)?).map_err(Failure::run)
}

/// Prints in one line whether the service is healthy, and why not.
fn check_health(report: &Report) -> ExitCode {
    let is_severe = |condition: &&ConditionReport| condition.severity == Severity::Error;
    let reasons: Vec<String> = report
        .conditions
        .iter()
        .filter(is_severe)
        .map(|condition| format!("{} ({})", condition.summary, condition.details))
        .collect();
    if reasons.is_empty() {
        say_to_stdout("healthy");
        return ExitCode::SUCCESS;
    }
    say_to_stdout(&format!("unhealthy: {}", reasons.join("; ")));
    ExitCode::FAILURE
}

/// Prints the answer to a question. The reader may have closed standard output.
fn say_to_stdout(text: &str) {
    let _ = writeln!(io::stdout(), "{text}");
}

fn print_held(held: &HeldList, json: bool) {
    say_to_stdout(&if json { held.to_json() } else { held.to_string() });
}

/// Prints a text for the user to standard error.
fn say(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}
