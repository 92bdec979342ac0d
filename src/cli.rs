//! The command line: reads the settings, starts the log, runs the command, and returns the exit code.

mod events;
mod inspect;

use std::error::Error;
use std::ffi::OsString;
use std::io::{self, BufWriter, Write as _};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use crate::config::{Command, Exit, Relocation, Settings, SettingsError, SinkKind};
use crate::control::{self, ControlError, Request};
use crate::model::{LibraryPath, ParkedRequest, VerifyRequest, counted, printable, with_causes};
use crate::screen::Screen;
use crate::service::{self, Observed, Reload, Service, ServiceError};
use crate::sink::SinkError;
use crate::status::{ConditionReport, HeldList, Report, Severity, VerifySummary, human_bytes};
use crate::store::{StateDir, StateDirError, StoreError};
use crate::telemetry::{self, LogLevel};

/// The exit code if a command failed or was interrupted.
const FAILED: u8 = 1;

/// The exit code for invalid usage.
const INVALID_USAGE: u8 = 2;

/// The exit code if a command could not read everything, or a scan holds deletes.
const INCOMPLETE: u8 = 3;

/// The most groups that `duplicates` prints for people.
const MOST_GROUPS: usize = 1_000;

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

    fn service_error(&self) -> Option<&ServiceError> {
        let (Self::Run(error) | Self::Usage(error)) = self;
        error.downcast_ref()
    }

    /// Whether a signal was the cause. That is no error.
    fn is_interruption(&self) -> bool {
        matches!(self.service_error(), Some(ServiceError::Interrupted))
    }

    /// Whether the reader of standard output has enough, such as `head`. It does not expect a text.
    fn is_quiet(&self) -> bool {
        matches!(self.service_error(), Some(ServiceError::Sink(SinkError::Closed)))
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
    let outcome = match Settings::from_env_and_args(arguments.clone()) {
        Ok(settings) => work(settings, arguments),
        Err(Exit::Print(text)) => put(&text).map(|()| ExitCode::SUCCESS),
        Err(Exit::Listen(settings)) => events::print(&settings),
        Err(Exit::Inspect(settings)) => inspect::print(&settings),
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
    if failure.is_quiet() {
        return;
    }
    if failure.is_interruption() {
        say(&line);
        return;
    }
    if tracing::dispatcher::has_been_set() {
        tracing::error!("{line}");
    } else {
        let _ = writeln!(io::stderr(), "file-watcher: {line}");
    }
}

fn work(settings: Settings, arguments: Vec<OsString>) -> Result<ExitCode, Failure> {
    if matches!(settings.command, Command::Held { .. } | Command::Approve(_)) && !settings.store_file().exists() {
        say("no delete is held: this library was never scanned; nothing was changed");
        return Ok(ExitCode::SUCCESS);
    }
    if matches!(settings.command, Command::Replay(_)) && !settings.store_file().exists() {
        return Err(Failure::usage(StoreError::NeverScanned { file: settings.store_file() }));
    }
    if let Command::List { .. } | Command::Duplicates { .. } = settings.command {
        return inquire(&settings);
    }
    if let Command::Verify(request) = &settings.command {
        let request = request.clone();
        return verify(settings, &request, arguments);
    }
    if is_about_service(&settings.command) && !settings.state_dir.exists() {
        // A question makes no STATE_DIR.
        return without_service(&settings, "");
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
    let instance_id = match &settings.instance_id {
        Some(given) => given.clone(),
        None => state_dir.instance_id()?,
    };
    if is_about_service(&settings.command) {
        return without_service(&settings, &instance_id);
    }
    let screen = Screen::stderr();
    let level =
        telemetry::start(&settings.log_level, settings.log_format, &instance_id, &screen).map_err(Failure::run)?;
    for warning in &settings.warnings {
        tracing::warn!("{warning}");
    }
    if let Err(error) = service::set_priority(settings.io_priority) {
        tracing::warn!(%error, "IO_PRIORITY has no effect");
    }
    let mut runtime = if settings.is_low_resource() {
        tokio::runtime::Builder::new_current_thread()
    } else {
        tokio::runtime::Builder::new_multi_thread()
    };
    let runtime = runtime.enable_all().build().map_err(Failure::run)?;
    if let Command::Parked(request) = settings.command.clone() {
        let command = settings.command.clone();
        print_parked(&command, &runtime.block_on(service::parked_at_rest(&settings, &instance_id, request))?)?;
        return Ok(ExitCode::SUCCESS);
    }
    let outcome = runtime.block_on(async {
        if settings.command == Command::Watch {
            watch(settings, arguments, &state_dir, &instance_id, &screen, &level).await
        } else {
            start(settings, &instance_id, screen).await
        }
    });
    // The next start hashes unfinished files again, so the process does not wait for them.
    runtime.shutdown_background();
    outcome
}

/// Whether a command is about the running service.
fn is_about_service(command: &Command) -> bool {
    matches!(command, Command::Status { .. } | Command::Healthcheck | Command::Reload)
}

/// Runs a command about the running service, when there is none.
fn without_service(settings: &Settings, instance_id: &str) -> Result<ExitCode, Failure> {
    let nobody = format!("no service is running on {}", settings.state_dir.display());
    match settings.command {
        Command::Status { json } => {
            let report = service::status_at_rest(settings, instance_id)?;
            answer(&if json { report.to_json() } else { report.to_string() })?;
            return Ok(ExitCode::SUCCESS);
        }
        Command::Healthcheck => answer(&format!("unhealthy: {nobody}"))?,
        _ => say(&nobody),
    }
    Ok(ExitCode::FAILURE)
}

/// Runs a command that only reads the index, whether a service is running or not.
fn inquire(settings: &Settings) -> Result<ExitCode, Failure> {
    match &settings.command {
        Command::List { selection, json } => {
            let mut out = BufWriter::new(io::stdout().lock());
            let listed = service::list(settings, selection, *json, &mut out)
                .and_then(|listed| out.flush().map(|()| listed).map_err(ServiceError::Output));
            match listed {
                Ok(_) if *json => {}
                Ok(listed) => say(&format!("{}, {}", counted(listed.files, "file"), human_bytes(listed.bytes as f64))),
                // The reader, such as `head`, has enough.
                Err(ServiceError::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => {}
                Err(error) => return Err(error.into()),
            }
        }
        Command::Duplicates { under, json } => {
            let most = if *json { usize::MAX } else { MOST_GROUPS };
            let found = service::duplicates(settings, under, most)?;
            match (json, found.groups.is_empty()) {
                (true, true) => {}
                (true, false) => answer(&found.to_json())?,
                (false, _) => answer(&found.to_string())?,
            }
        }
        _ => {}
    }
    Ok(ExitCode::SUCCESS)
}

/// Reads published files again. Scans the library if some have changed and no service runs that publishes them.
fn verify(mut settings: Settings, request: &VerifyRequest, arguments: Vec<OsString>) -> Result<ExitCode, Failure> {
    let screen = Screen::stderr();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failure::run)?;
    let (verified, is_interrupted) = runtime.block_on(async {
        let end = service::shutdown_on_signals(FAILED, &screen).map_err(Failure::run)?;
        let (settings, request, screen, ended) = (settings.clone(), request.clone(), screen.clone(), end.clone());
        let reading = move || service::verify(&settings, &request, &screen, &mut io::stdout(), &ended);
        let verified = tokio::task::spawn_blocking(reading).await.map_err(Failure::run)?;
        Ok::<_, Failure>((verified, end.is_cancelled()))
    })?;
    let summary = match verified {
        // The reader, such as `head`, has enough.
        Err(ServiceError::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(FAILED.into()),
        verified => verified?,
    };
    let is_json = request.json || settings.json_summary;
    say(&if is_json { summary.to_json() } else { summary.to_string() });
    if is_interrupted {
        say("interrupted; --since leaves out what was read");
        return Ok(FAILED.into());
    }
    let is_running = matches!(StateDir::open(&settings.state_dir), Err(StateDirError::InUse(_)));
    let mut code = ExitCode::SUCCESS;
    match (summary.changed + summary.gone > 0, is_running, settings.sink) {
        (false, ..) => {}
        (true, true, _) => say("the running service publishes the changed files"),
        // Its messages would be mixed with the answer.
        (true, false, SinkKind::Stdout) => say("`file-watcher scan` publishes the changed files"),
        (true, false, SinkKind::Amqp) => {
            say("scanning, to publish the changed files");
            settings.command = Command::Scan;
            code = work(settings, arguments)?;
        }
    }
    Ok(match summary {
        VerifySummary { rotten: 1.., .. } => ExitCode::from(FAILED),
        VerifySummary { failed: 1.., .. } => ExitCode::from(INCOMPLETE),
        _ => code,
    })
}

/// Prints the answer to a command about parked messages: a list to standard output, other answers to standard error.
fn print_parked(command: &Command, text: &str) -> Result<(), Failure> {
    match command {
        Command::Parked(ParkedRequest::List { .. }) if text.is_empty() => {}
        Command::Parked(ParkedRequest::List { .. }) => answer(text)?,
        _ => say(text),
    }
    Ok(())
}

/// Follows the library until a signal, with other settings after each request to read them again.
async fn watch(
    mut settings: Settings,
    arguments: Vec<OsString>,
    state_dir: &StateDir,
    instance_id: &str,
    screen: &Screen,
    level: &LogLevel,
) -> Result<ExitCode, Failure> {
    // A signal is the normal exit.
    let shutdown = service::shutdown_on_signals(0, screen).map_err(Failure::run)?;
    let read = move || Settings::from_env_and_args(arguments.clone()).map_err(Exit::into_error);
    let reload = Reload::new(screen, read).map_err(Failure::run)?;
    let observed = Arc::new(Observed::new(&settings));
    loop {
        let mut sink = service::sink_of(&settings, instance_id);
        let service = Service::open(settings, instance_id, screen.clone(), Arc::clone(&observed))?;
        let corruption = service.corruption();
        let watching = service::watch(Arc::new(service), state_dir, &mut sink, shutdown.clone(), &reload);
        let done = Service::unless_corrupt(&corruption, Box::pin(watching)).await;
        sink.close().await;
        done?;
        match reload.take() {
            Some(next) if !shutdown.is_cancelled() => settings = next,
            _ => return Ok(ExitCode::SUCCESS),
        }
        level.set(&settings.log_level);
    }
}

/// Runs another command that needs the store.
async fn start(settings: Settings, instance_id: &str, screen: Screen) -> Result<ExitCode, Failure> {
    let (command, json_summary) = (settings.command.clone(), settings.json_summary);
    let (is_scan, root) = (command == Command::Scan, settings.root.display().to_string());
    let shutdown = service::shutdown_on_signals(FAILED, &screen).map_err(Failure::run)?;
    let mut sink = service::sink_of(&settings, instance_id);
    let observed = Arc::new(Observed::new(&settings));
    let service = Service::open(settings, instance_id, screen, observed)?;
    let corruption = service.corruption();
    let incomplete = ExitCode::from(INCOMPLETE);
    let mut held = None;
    let work = async {
        let summary = match command {
            Command::Scan => service::scan(&service, &mut sink, shutdown).await?,
            Command::Held { json } => {
                held = Some((service::held(&service).await?, json));
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
            Command::Watch
            | Command::Parked(_)
            | Command::Status { .. }
            | Command::Healthcheck
            | Command::Reload
            | Command::List { .. }
            | Command::Duplicates { .. }
            | Command::Verify(_) => None,
        };
        Ok(summary)
    };
    let done = Service::unless_corrupt(&corruption, Box::pin(work)).await;
    sink.close().await;
    let done = done?;
    if let Some((held, json)) = held {
        print_held(&held, json)?;
    }
    match done {
        Some(summary) => {
            // Standard output is for messages only.
            say(&if json_summary { summary.to_json() } else { summary.to_string() });
            if summary.seen == 0 && summary.held == 0 && is_scan && !json_summary {
                say(&format!("there is no audio file in {root}; is it the right directory, and is it mounted?"));
            }
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
        Command::Held { json } => print_held(&held(&LibraryPath::root())?, *json)?,
        Command::Approve(under) => {
            let held = held(under)?;
            if held.total > 0 {
                if !under.is_root() {
                    say(HeldList::AT_PATH);
                }
                say(&held.to_string());
            }
            say(&control::ask(state_dir, &Request::Approve(under.clone()))?);
        }
        Command::Replay(under) => say(&control::ask(state_dir, &Request::Replay(under.clone()))?),
        Command::Parked(request) => {
            print_parked(command, &control::ask(state_dir, &Request::Parked(request.clone()))?)?;
        }
        Command::Status { json: true } => answer(&control::ask(state_dir, &Request::Status)?)?,
        Command::Status { json: false } => answer(&ask_report(state_dir)?.to_string())?,
        Command::Healthcheck => return check_health(&ask_report(state_dir)?),
        Command::Reload => say(&control::ask(state_dir, &Request::Reload)?),
        Command::Scan
        | Command::Watch
        | Command::Relocate
        | Command::List { .. }
        | Command::Duplicates { .. }
        | Command::Verify(_) => {}
    }
    Ok(ExitCode::SUCCESS)
}

fn ask_report(state_dir: &Path) -> Result<Report, Failure> {
    serde_json::from_str(&control::ask(state_dir, &Request::Status)?).map_err(Failure::run)
}

/// Prints in one line whether the service is healthy, and why not.
fn check_health(report: &Report) -> Result<ExitCode, Failure> {
    let is_severe = |condition: &&ConditionReport| condition.severity == Severity::Error;
    let reasons: Vec<String> = report
        .conditions
        .iter()
        .filter(is_severe)
        .map(|condition| format!("{} ({})", condition.summary, condition.details))
        .collect();
    if reasons.is_empty() {
        answer("healthy")?;
        return Ok(ExitCode::SUCCESS);
    }
    answer(&format!("unhealthy: {}", printable(&reasons.join("; "))))?;
    Ok(ExitCode::FAILURE)
}

/// Prints the answer to a question.
fn answer(text: &str) -> Result<(), Failure> {
    put(&format!("{text}\n"))
}

/// Writes to standard output. The reader, such as `head`, may have enough.
fn put(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(ServiceError::Output(error).into()),
        _ => Ok(()),
    }
}

fn print_held(held: &HeldList, json: bool) -> Result<(), Failure> {
    answer(&if json { held.to_json() } else { held.to_string() })
}

/// Prints a text for the user to standard error.
fn say(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}
