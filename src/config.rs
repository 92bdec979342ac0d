//! The settings: read in one place, checked at start, and passed on as types that cannot be invalid.
//!
//! A flag overrides its environment variable, which overrides `.env` in the working directory, which overrides the
//! default. `config/arguments.rs` declares each setting once; this file parses it.

mod arguments;
mod broker;
mod command;
mod environment;
mod exclusions;
mod inquiries;
mod parked;
mod places;
mod raw_value;
mod sources;
mod units;
mod usage;

use std::ffi::OsString;
use std::io;
use std::net::SocketAddr;
use std::num::{NonZeroU32, NonZeroU64};
use std::path::PathBuf;
use std::time::Duration;

use clap::FromArgMatches;

use crate::model::{
    EventType, FollowSymlinks, InodeTrust, IoPriority, LibraryPath, LogFormat, MetadataStyle, ParkedRequest, Rules,
    Selection, TagSet, Unroutable, VerifyRequest, WatchMode,
};
use crate::sink::{BrokerUrl, ListenQueue, Reread, Tls};

use arguments::Arguments;
use broker::Broker;
use raw_value::shown;
use sources::Sources;

pub use environment::Environment;

/// All settings, checked.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The command to run.
    pub command: Command,
    /// The library root: an absolute path. Symbolic links in it are not resolved.
    pub root: PathBuf,
    /// The destination of messages.
    pub sink: SinkKind,
    /// The instance id; `None` for the one of the state directory.
    pub instance_id: Option<String>,
    /// The time in which the whole library is read again; `None` for never.
    pub verify_interval_days: Option<NonZeroU32>,
    /// The number of files that are read concurrently.
    pub max_concurrent_files: usize,
    /// The number of files that are committed at once, and of messages that are published at once.
    pub batch_size: usize,
    /// The URL of the broker.
    pub broker: BrokerUrl,
    /// The certificates for `amqps`, in addition to the authorities that the system trusts.
    pub tls: Tls,
    /// Reads both again; `None` if neither comes from files.
    pub reread: Option<Reread>,
    /// Which files are published.
    pub rules: Rules,
    /// How long a closed file must have no event before it is read.
    pub debounce: Duration,
    /// How long a file without a close event must be unchanged before it is read.
    pub settle: Duration,
    /// The highest number of files that are examined per second.
    pub max_files_per_second: Option<NonZeroU32>,
    /// The highest number of bytes that are read per second.
    pub max_bytes_per_second: Option<NonZeroU64>,
    /// How the program competes with others.
    pub io_priority: IoPriority,
    /// The form of the metadata in messages.
    pub metadata_style: MetadataStyle,
    /// How much of the metadata is in messages.
    pub tag_set: TagSet,
    /// The directory of the index and the outbox: an absolute path outside of the library. It may not exist yet.
    pub state_dir: PathBuf,
    /// The old path of a library that was moved.
    pub relocation: Option<Relocation>,
    /// Whether to rebuild the index in `state_dir`.
    pub rebuild_index: bool,
    /// Where `watch` serves HTTP; `None` for nowhere, and for every other command.
    pub http_addr: Option<SocketAddr>,
    /// Where traces are sent by OTLP over HTTP; `None` for nowhere.
    pub otlp_endpoint: Option<String>,
    /// Valid directives for `tracing`'s `EnvFilter`.
    pub log_level: String,
    /// The format of log lines; `None` decides by whether standard error is a terminal.
    pub log_format: Option<LogFormat>,
    /// What becomes of a message for which no queue is bound.
    pub unroutable: Unroutable,
    /// How long messages and files in flight may take to finish after a signal.
    pub shutdown_grace: Duration,
    /// The interval of full scans; `None` for none.
    pub rescan_interval: Option<Duration>,
    /// The interval of scans where the library is polled.
    pub poll_interval: Duration,
    /// How changes are detected.
    pub watch_mode: WatchMode,
    /// Deletes that a scan finds are held if they are more than this percentage of the index.
    pub mass_delete_percent: u8,
    /// Which symbolic links are followed.
    pub follow_symlinks: FollowSymlinks,
    /// Whether the ctime is ignored when files are compared with the index.
    pub ignore_ctime: bool,
    /// Whether inode numbers are used when files are compared with the index.
    pub inode_trust: InodeTrust,
    /// Intake pauses while this many messages are undelivered.
    pub outbox_max_events: u64,
    /// Warnings to log once at start.
    pub warnings: Vec<String>,
    /// The settings that differ from their defaults, as `NAME=value` without secrets.
    pub changed: Vec<String>,
    /// Whether the summary of a scan is JSON.
    pub json_summary: bool,
}

/// The relocation of a library that was moved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relocation {
    /// The old root: an absolute path, which need not exist.
    pub from: PathBuf,
    /// The default state directory of the old root, if `state_dir` is a default too.
    pub old_state_dir: Option<PathBuf>,
}

/// A command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Scan the library once, deliver the messages, and exit.
    Scan,
    /// Scan the library, then publish changes until a signal.
    Watch,
    /// Publish every file as moved from the old root.
    Relocate,
    /// List the held deletes.
    Held {
        /// JSON instead of text.
        json: bool,
    },
    /// Publish the held deletes at or under a path.
    Approve(LibraryPath),
    /// Publish the files at or under a path again.
    Replay(LibraryPath),
    /// List, retry or drop parked messages.
    Parked(ParkedRequest),
    /// List files of the index.
    List {
        /// Which.
        selection: Selection,
        /// JSON instead of a table.
        json: bool,
    },
    /// List the files with equal content.
    Duplicates {
        /// Where one of each group is.
        under: LibraryPath,
        /// JSON instead of text.
        json: bool,
    },
    /// Read published files again.
    Verify(VerifyRequest),
    /// Print the state of the running service.
    Status {
        /// JSON instead of text.
        json: bool,
    },
    /// Exit with 0 if the running service is healthy, or else with 1.
    Healthcheck,
    /// Let the running service read its settings again.
    Reload,
}

/// The destination of messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SinkKind {
    /// RabbitMQ.
    Amqp,
    /// Standard output, one message per line.
    Stdout,
}

impl SinkKind {
    /// The value of `SINK`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Amqp => "amqp",
            Self::Stdout => "stdout",
        }
    }
}

/// The longest waits that make sense.
const AN_HOUR: Duration = Duration::from_hours(1);
const A_DAY: Duration = Duration::from_hours(24);
const A_YEAR: Duration = Duration::from_hours(24 * 365);

/// How changes may be detected, by the words of `WATCH_MODE`.
const WATCH_MODES: [(&str, WatchMode); 4] = [
    ("auto", WatchMode::Auto),
    ("native", WatchMode::Native),
    ("fanotify", WatchMode::Fanotify),
    ("poll", WatchMode::Poll),
];

/// What to do instead of a command on a library.
#[derive(Debug)]
pub enum Exit {
    /// Print this text to standard output: the help, the version, or what a command made of the declared settings.
    Print(String),
    /// Print the messages of the exchange.
    Listen(Box<ListenSettings>),
    /// Print what is known of files.
    Inspect(InspectSettings),
    /// A setting or an argument is invalid.
    Invalid(SettingsError),
}

/// The settings of `events`, checked.
#[derive(Clone, Debug)]
pub struct ListenSettings {
    /// The URL of the broker.
    pub broker: BrokerUrl,
    /// The certificates for `amqps`.
    pub tls: Tls,
    /// The types of the wanted events.
    pub types: Vec<EventType>,
    /// The absolute path at or under which the files are; `None` for all.
    pub under: Option<PathBuf>,
    /// The number of messages after which to stop.
    pub count: Option<u64>,
    /// The messages as they are, instead of a line for people.
    pub json: bool,
    /// The queue.
    pub queue: ListenQueue,
}

/// The settings of `inspect`, checked.
#[derive(Clone, Debug)]
pub struct InspectSettings {
    /// The files, which need not be in a library.
    pub files: Vec<PathBuf>,
    /// JSON instead of text.
    pub json: bool,
    /// The form of the metadata in messages.
    pub metadata_style: MetadataStyle,
    /// How much of the metadata is in messages.
    pub tag_set: TagSet,
}

impl Exit {
    /// The error. The command line was valid before, so there is nothing else.
    #[must_use]
    pub fn into_error(self) -> SettingsError {
        match self {
            Self::Invalid(error) => error,
            Self::Print(_) | Self::Listen(_) | Self::Inspect(_) => {
                SettingsError::Usage("no command on a library".to_owned())
            }
        }
    }
}

impl From<SettingsError> for Exit {
    fn from(error: SettingsError) -> Self {
        Self::Invalid(error)
    }
}

/// An invalid setting or argument. The text is one line that says how to fix it, and contains no password.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The command line has an unknown or superfluous argument, or lacks one.
    #[error("{0}")]
    Usage(String),
    /// A setting has an invalid value.
    #[error("{setting}: {problem}")]
    Value {
        /// The variable, and the flag if it was used.
        setting: String,
        /// What is wrong, and what to give instead.
        problem: String,
    },
    /// A path that existed a moment ago cannot be resolved.
    #[error("{path}: cannot be resolved")]
    Path {
        /// The path.
        path: String,
        /// The error of the operating system.
        #[source]
        source: io::Error,
    },
    /// `.env` has a malformed line.
    #[error(".env: line {line} is not NAME=value; put quotes around a value with spaces")]
    DotEnv {
        /// The number of the line.
        line: usize,
    },
    /// `.env` exists and cannot be read.
    #[error(".env: cannot be read")]
    DotEnvUnreadable(#[source] io::Error),
    /// The working directory does not exist or is not accessible.
    #[error("the working directory cannot be found")]
    WorkingDirectory(#[source] io::Error),
}

impl Settings {
    /// The file of the store. Each kind of sink has its own, because each has received other messages.
    pub fn store_file(&self) -> PathBuf {
        self.store_file_of(self.sink)
    }

    /// The file of the store of a kind of sink.
    pub fn store_file_of(&self, sink: SinkKind) -> PathBuf {
        self.state_dir.join(format!("{}.sqlite", sink.as_str()))
    }

    /// The first setting that cannot change while a service runs and that differs in `new`, with both values.
    #[must_use]
    pub fn fixed_difference(&self, new: &Self) -> Option<String> {
        let not_set = || "not set".to_owned();
        let fixed = |settings: &Self| {
            [
                ("DATA_DIR", shown(&settings.root)),
                ("STATE_DIR", shown(&settings.state_dir)),
                ("SINK", settings.sink.as_str().to_owned()),
                ("INSTANCE_ID", settings.instance_id.clone().unwrap_or_else(not_set)),
                ("IO_PRIORITY", format!("{:?}", settings.io_priority).to_lowercase()),
                ("LOG_FORMAT", settings.log_format.map_or_else(not_set, |format| format.as_str().to_owned())),
            ]
        };
        let (old, new) = (fixed(self), fixed(new));
        let ((name, old), (_, new)) = old.into_iter().zip(new).find(|(old, new)| old != new)?;
        Some(format!("{name} (from {old} to {new})"))
    }

    /// Whether to use as little memory and as few threads as possible: one file at a time was asked for.
    #[must_use]
    pub fn is_low_resource(&self) -> bool {
        self.max_concurrent_files == 1
    }

    /// Reads the settings from `arguments` (the program's name first) and from the environment of the process.
    ///
    /// # Errors
    ///
    /// What to do instead: see [`Exit`].
    pub fn from_env_and_args(arguments: impl IntoIterator<Item = OsString>) -> Result<Self, Exit> {
        let arguments: Vec<OsString> = arguments.into_iter().collect();
        // `--help` works even if the environment is invalid.
        match Environment::of_process() {
            Ok(environment) => Self::read(arguments, &environment),
            Err(error) => Err(usage::parse(&arguments::command(), arguments).err().unwrap_or_else(|| error.into())),
        }
    }

    /// Reads the settings from `arguments` (the program's name first) and from `environment`.
    ///
    /// # Errors
    ///
    /// What to do instead: see [`Exit`].
    pub fn read(arguments: impl IntoIterator<Item = OsString>, environment: &Environment) -> Result<Self, Exit> {
        let declared = arguments::command();
        let matches = usage::parse(&declared, arguments.into_iter().collect())?;
        let Arguments { command, flags } =
            Arguments::from_arg_matches(&matches).map_err(|error| usage::exit_of(&error))?;
        let sources = Sources { declared: &declared, matches: &matches, environment };

        // The value of a field of `Flags`, from flag, variable or default; `?` for a setting without a default.
        macro_rules! given {
            ($field:ident) => {
                sources.of(stringify!($field), &flags.$field)
            };
            ($field:ident ?) => {
                sources.of_optional(stringify!($field), flags.$field.as_ref())
            };
        }

        if let Some(exit) = inquiries::without_library(command.as_ref(), &sources, &flags) {
            return Err(exit?);
        }
        let command::ParsedCommand { command, library, old_library } = command::parse(command);
        let relocate_from = old_library.or_else(|| given!(relocate_from?));
        let mut warnings = Vec::new();
        let dir = library.unwrap_or_else(|| {
            sources.or_deprecated(given!(data_dir), "FILE_WATCHER_SCAN_PATH", "DATA_DIR", &mut warnings)
        });
        let rescan_interval = sources.or_deprecated(
            given!(rescan_interval_secs),
            "FILE_WATCHER_SCAN_INTERVAL",
            "RESCAN_INTERVAL_SECS",
            &mut warnings,
        );
        let root = places::library(&dir, command.reads_library(), environment)?;
        let rules = exclusions::rules(&sources, &flags, environment)?;
        let library = places::Library { root: &root, working_directory: environment.directory() };
        let given_broker = Broker::given(&sources, &flags, command.may_connect());
        let wants_json = matches!(command, command::CommandArguments::Scan { json: true, .. });
        let command = command::of(command, library, rules.extensions())?;
        check_rebuild(flags.rebuild_index, &command)?;
        let relocation = match relocate_from {
            Some(from) if matches!(command, Command::Scan | Command::Watch | Command::Relocate) => {
                let has_default_state = given!(state_dir?).is_none();
                Some(places::relocation(&from, &root, has_default_state, rules.partition(), environment)?)
            }
            _ => None,
        };
        // The setting is checked for every command, so that a wrong value shows at once.
        let http_addr = given!(http_addr).http_address()?.filter(|_| command == Command::Watch);
        let (broker, tls) = given_broker.read()?;
        sources.warn_of_defaults(&mut warnings);
        let log_format = given!(log_format).choice(
            "a log format",
            &[("auto", None), ("json", Some(LogFormat::Json)), ("pretty", Some(LogFormat::Pretty))],
        )?;
        let json_summary = wants_json || log_format == Some(LogFormat::Json);
        Ok(Self {
            command,
            state_dir: places::state(given!(state_dir?).as_ref(), &root, rules.partition(), environment)?,
            relocation,
            rebuild_index: flags.rebuild_index,
            root,
            rules,
            follow_symlinks: given!(follow_symlinks).follow_symlinks()?,
            ignore_ctime: given!(ignore_ctime).boolean()?,
            inode_trust: given!(ignore_inode).choice(
                "a setting for inode numbers",
                &[("auto", InodeTrust::Auto), ("true", InodeTrust::Ignored), ("false", InodeTrust::Trusted)],
            )?,
            watch_mode: given!(watch_mode).choice("a watch mode", &WATCH_MODES)?,
            debounce: given!(debounce_ms).milliseconds(Duration::ZERO..=AN_HOUR)?,
            settle: given!(settle_ms).milliseconds(Duration::ZERO..=AN_HOUR)?,
            rescan_interval: Some(rescan_interval.seconds(Duration::ZERO..=A_YEAR)?).filter(|it| !it.is_zero()),
            poll_interval: given!(poll_interval_secs).seconds(Duration::from_secs(1)..=A_DAY)?,
            mass_delete_percent: given!(mass_delete_percent).number("a percentage", 0..=100)?,
            verify_interval_days: NonZeroU32::new(given!(verify_interval_days).number("a number of days", 0..=3650)?),
            max_concurrent_files: given!(max_concurrent_files).number("a number of files", 1..=10_000)?,
            batch_size: given!(batch_size).number("a number of files", 1..=10_000)?,
            max_files_per_second: given!(max_files_per_second).files_per_second()?.map(saturating),
            max_bytes_per_second: given!(max_bytes_per_second).bytes_per_second()?,
            io_priority: given!(io_priority)
                .choice("a priority", &[("normal", IoPriority::Normal), ("idle", IoPriority::Idle)])?,
            sink: given!(sink).choice("a sink", &[("amqp", SinkKind::Amqp), ("stdout", SinkKind::Stdout)])?,
            instance_id: given!(instance_id?).map(|given| given.instance_id()).transpose()?,
            metadata_style: given!(metadata_style).metadata_style()?,
            tag_set: given!(tags).tag_set()?,
            unroutable: given!(unroutable).choice(
                "a setting for unroutable messages",
                &[("auto", Unroutable::Auto), ("hold", Unroutable::Hold), ("drop", Unroutable::Drop)],
            )?,
            outbox_max_events: given!(outbox_max_events).number("a number of messages", 1..=1_000_000_000)?,
            shutdown_grace: given!(shutdown_grace_secs).seconds(Duration::ZERO..=AN_HOUR)?,
            broker,
            tls,
            reread: given_broker.reread(),
            http_addr,
            otlp_endpoint: given!(otel_exporter_otlp_endpoint?).map(|given| given.http_url()).transpose()?,
            log_level: given!(log_level).log_directives()?,
            log_format,
            warnings,
            changed: sources.changed(),
            json_summary,
        })
    }
}

/// `--rebuild-index` is for commands that read the library again.
fn check_rebuild(is_wanted: bool, command: &Command) -> Result<(), SettingsError> {
    if is_wanted && !matches!(command, Command::Scan | Command::Watch) {
        let problem = "works only with scan and watch, which read the library again; use it with one of them";
        return Err(SettingsError::Value { setting: "--rebuild-index".to_owned(), problem: problem.to_owned() });
    }
    Ok(())
}

/// Limits a rate to the highest one that fits. No machine reaches it.
fn saturating(rate: NonZeroU64) -> NonZeroU32 {
    NonZeroU32::try_from(rate).unwrap_or(NonZeroU32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Extensions, with_causes};

    struct Case {
        temporary: tempfile::TempDir,
        variables: Vec<(OsString, OsString)>,
    }

    impl Case {
        fn new(variables: &[(&str, &str)]) -> Self {
            let temporary = tempfile::tempdir().unwrap();
            std::fs::create_dir(temporary.path().join("library")).unwrap();
            std::fs::create_dir(temporary.path().join("other")).unwrap();
            let mut all: Vec<(OsString, OsString)> =
                vec![("HOME".into(), temporary.path().join("home").into()), ("DATA_DIR".into(), "library".into())];
            all.extend(variables.iter().map(|(name, value)| (name.into(), value.into())));
            Self { temporary, variables: all }
        }

        fn read(&self, arguments: &str) -> Result<Settings, String> {
            let environment = Environment::new(self.variables.clone(), self.temporary.path().to_path_buf());
            let arguments = ["file-watcher"].into_iter().chain(arguments.split_whitespace()).map(OsString::from);
            Settings::read(arguments, &environment).map_err(|exit| match exit {
                Exit::Print(text) => text,
                Exit::Listen(settings) => format!("{settings:?}"),
                Exit::Inspect(settings) => format!("{settings:?}"),
                Exit::Invalid(error) => with_causes(&error),
            })
        }
    }

    #[test]
    fn the_defaults_are_those_of_the_help() {
        let case = Case::new(&[]);
        let settings = case.read("").unwrap();
        assert_eq!(settings.command, Command::Watch);
        assert_eq!(settings.root, case.temporary.path().join("library"));
        assert_eq!(settings.sink, SinkKind::Amqp);
        assert_eq!(settings.instance_id, None);
        assert_eq!((settings.max_concurrent_files, settings.batch_size), (100, 100));
        assert_eq!(settings.broker.to_string(), "amqp://localhost:5672/%2f");
        assert_eq!(settings.broker.uri().authority.userinfo.username, "guest");
        assert_eq!(settings.broker.uri().authority.userinfo.password, "guest");
        assert_eq!(*settings.rules.extensions(), Extensions::default());
        assert_eq!(settings.debounce, Duration::from_millis(50));
        assert_eq!(settings.settle, Duration::from_secs(2));
        assert_eq!((settings.max_files_per_second, settings.max_bytes_per_second), (None, None));
        assert_eq!(settings.metadata_style, MetadataStyle::Nested);
        assert_eq!(settings.tag_set, TagSet::All);
        assert_eq!(settings.log_level, "error,lapin=off,file_watcher=info");
        assert_eq!(settings.log_format, None);
        assert_eq!(settings.unroutable, Unroutable::Auto);
        assert_eq!(settings.shutdown_grace, Duration::from_secs(8));
        assert_eq!(settings.rescan_interval, Some(Duration::from_hours(1)));
        assert_eq!(settings.poll_interval, Duration::from_secs(30));
        assert_eq!(settings.watch_mode, WatchMode::Auto);
        assert_eq!(settings.mass_delete_percent, 50);
        assert!(!settings.ignore_ctime && settings.follow_symlinks == FollowSymlinks::Never);
        assert_eq!(settings.inode_trust, InodeTrust::Auto);
        assert_eq!(settings.outbox_max_events, 1_000_000);
        assert!(settings.warnings.is_empty());
    }

    #[test]
    fn what_cannot_change_while_a_service_runs_is_named_with_both_values() {
        let case = Case::new(&[]);
        let settings = case.read("watch").unwrap();
        assert_eq!(settings.fixed_difference(&case.read("watch --batch-size 7 --exclude x").unwrap()), None);
        let sink = settings.fixed_difference(&case.read("watch --sink stdout").unwrap()).unwrap();
        assert_eq!(sink, "SINK (from amqp to stdout)");
        let library = settings.fixed_difference(&case.read("watch other").unwrap()).unwrap();
        assert!(library.starts_with("DATA_DIR (from "), "{library}");
    }

    #[test]
    fn a_flag_is_the_same_before_and_after_the_command_and_wins_over_its_variable() {
        let case = Case::new(&[("BATCH_SIZE", "7"), ("SINK", "stdout"), ("IGNORE_CTIME", "yes")]);
        assert_eq!(case.read("scan").unwrap().batch_size, 7);
        for arguments in ["--batch-size 3 scan other", "scan --batch-size 3 other", "scan other --batch-size=3"] {
            let settings = case.read(arguments).unwrap();
            assert_eq!(settings.command, Command::Scan, "{arguments}");
            assert_eq!(settings.batch_size, 3, "{arguments}");
            assert_eq!(settings.sink, SinkKind::Stdout, "{arguments}");
            assert_eq!(settings.root, case.temporary.path().join("other"), "{arguments}");
            assert!(settings.ignore_ctime, "{arguments}");
        }
        assert!(!case.read("watch --ignore-ctime=false").unwrap().ignore_ctime);
        assert!(case.read("--ignore-ctime watch").unwrap().ignore_ctime);
        assert_eq!(case.read("--batch-size 3 watch --batch-size 4").unwrap().batch_size, 4);
    }

    #[test]
    fn the_library_is_the_argument_then_data_dir_then_its_deprecated_name() {
        let case = Case::new(&[("FILE_WATCHER_SCAN_PATH", "other")]);
        let root = |name| case.temporary.path().join(name);
        let settings = case.read("").unwrap();
        assert_eq!((settings.root, settings.warnings.len()), (root("library"), 0));
        let case = Case { variables: case.variables[2..].to_vec(), ..case };
        let without_home = case.read("scan --state-dir home").unwrap();
        assert_eq!(without_home.root, case.temporary.path().join("other"));
        assert_eq!(without_home.warnings, ["FILE_WATCHER_SCAN_PATH is deprecated; use DATA_DIR"]);
        let by_argument = case.read("scan library --state-dir home").unwrap();
        assert_eq!(by_argument.root, case.temporary.path().join("library"));
        assert!(by_argument.warnings.is_empty());
        let case = Case { variables: Vec::new(), ..case };
        assert!(case.read("scan").unwrap_err().starts_with("DATA_DIR: \"/data/music\" "));
    }

    #[test]
    fn the_old_name_of_the_rescan_interval_still_works() {
        let case = Case::new(&[("FILE_WATCHER_SCAN_INTERVAL", "0")]);
        let settings = case.read("").unwrap();
        assert_eq!(settings.rescan_interval, None);
        assert_eq!(settings.warnings, ["FILE_WATCHER_SCAN_INTERVAL is deprecated; use RESCAN_INTERVAL_SECS"]);
        let settings = case.read("--rescan-interval-secs 60").unwrap();
        assert_eq!((settings.rescan_interval, settings.warnings.len()), (Some(Duration::from_mins(1)), 0));
        let wrong = Case::new(&[("FILE_WATCHER_SCAN_INTERVAL", "often")]).read("").unwrap_err();
        assert!(wrong.starts_with("FILE_WATCHER_SCAN_INTERVAL: \"often\" is not a number of seconds"), "{wrong}");
    }

    #[test]
    fn an_empty_variable_counts_as_unset() {
        let case = Case::new(&[("BATCH_SIZE", ""), ("RABBITMQ_URL", ""), ("INSTANCE_ID", ""), ("STATE_DIR", "")]);
        assert_eq!(case.read("").unwrap().batch_size, 100);
    }

    #[test]
    fn a_url_replaces_the_four_single_settings() {
        let case = Case::new(&[("RABBITMQ_URL", "amqps://u:p@host/v"), ("RABBITMQ_PORT", "tcp://10.0.0.1:5672")]);
        assert_eq!(case.read("").unwrap().broker.to_string(), "amqps://host:5671/v");
        let case = Case::new(&[("RABBITMQ_HOST", "::1"), ("RABBITMQ_PASS", "p@ss/w#rd%")]);
        let broker = case.read("--rabbitmq-user=me").unwrap().broker;
        assert_eq!(broker.to_string(), "amqp://[::1]:5672/%2f");
        assert_eq!(broker.uri().authority.userinfo.password, "p@ss/w#rd%");
    }

    #[test]
    fn the_nodes_of_a_cluster_are_given_as_a_url_or_as_hosts() {
        let case = Case::new(&[("RABBITMQ_URL", "amqp://u:p@a:5672,b,[::1]:5673/v")]);
        assert_eq!(case.read("").unwrap().broker.to_string(), "amqp://a:5672,b:5672,[::1]:5673/v");
        let case = Case::new(&[("RABBITMQ_HOST", "a, b:5673,::1"), ("RABBITMQ_PORT", "5674")]);
        assert_eq!(case.read("").unwrap().broker.to_string(), "amqp://a:5674,b:5673,[::1]:5674/%2f");
        let error = Case::new(&[("RABBITMQ_HOST", "a,,b")]).read("").unwrap_err();
        assert!(error.starts_with("RABBITMQ_HOST: \"\" is empty; give a host"), "{error}");
        let error = Case::new(&[("RABBITMQ_HOST", "u:hun,ter2@a")]).read("").unwrap_err();
        assert!(error.contains("\"***@a\" is not a host name"), "{error}");
    }

    #[test]
    fn missing_credentials_of_a_url_are_taken_from_the_single_settings() {
        let read = |variables: &[(&str, &str)]| {
            let userinfo = Case::new(variables).read("").unwrap().broker.uri().authority.userinfo.clone();
            (userinfo.username, userinfo.password)
        };
        let (user, password) = (("RABBITMQ_USER", "me"), ("RABBITMQ_PASS", "secret"));
        let pair = |user: &str, password: &str| (user.to_owned(), password.to_owned());
        assert_eq!(read(&[("RABBITMQ_URL", "amqps://host"), user, password]), pair("me", "secret"));
        assert_eq!(read(&[("RABBITMQ_URL", "amqps://you@host"), user, password]), pair("you", "secret"));
        assert_eq!(read(&[("RABBITMQ_URL", "amqps://you:own@host"), user, password]), pair("you", "own"));
        assert_eq!(read(&[("RABBITMQ_URL", "amqps://host")]), pair("guest", "guest"));
    }

    #[test]
    fn a_secret_is_read_from_its_file_without_the_newline_at_its_end() {
        for (content, password) in
            [("p@ss", "p@ss"), ("p@ss\n", "p@ss"), ("p@ss\r\n", "p@ss"), (" p@ss \n\n", " p@ss \n")]
        {
            let case = Case::new(&[("RABBITMQ_PASS_FILE", "secret")]);
            std::fs::write(case.temporary.path().join("secret"), content).unwrap();
            assert_eq!(case.read("").unwrap().broker.uri().authority.userinfo.password, password, "{content:?}");
        }
        let case = Case::new(&[("RABBITMQ_URL_FILE", "url"), ("RABBITMQ_PASS_FILE", "secret")]);
        std::fs::write(case.temporary.path().join("secret"), "hunter2\n").unwrap();
        std::fs::write(case.temporary.path().join("url"), "amqps://me@host/v\n").unwrap();
        let settings = case.read("").unwrap();
        assert_eq!(settings.broker.to_string(), "amqps://host:5671/v");
        assert_eq!(settings.broker.uri().authority.userinfo.password, "hunter2");
        assert!(!format!("{settings:#?}").contains("hunter2"));
    }

    #[tokio::test]
    async fn settings_in_files_are_read_again_and_errors_name_the_setting() {
        assert!(Case::new(&[("RABBITMQ_URL", "amqps://me:hunter2@host")]).read("").unwrap().reread.is_none());
        for (variable, contents, wrong) in [
            ("RABBITMQ_PASS_FILE", ["old", "new"], ""),
            ("RABBITMQ_URL_FILE", ["amqp://guest:old@host", "amqp://guest:new@host"], "amqp://guest:hun#ter2@host"),
        ] {
            let case = Case::new(&[(variable, "secret")]);
            let file = case.temporary.path().join("secret");
            std::fs::write(&file, contents[0]).unwrap();
            let reread = case.read("").unwrap().reread.unwrap();
            std::fs::write(&file, contents[1]).unwrap();
            let (broker, _) = reread.read().await.unwrap();
            assert_eq!(broker.uri().authority.userinfo.password, "new");
            std::fs::write(&file, wrong).unwrap();
            let error = reread.read().await.unwrap_err();
            assert!(error.starts_with(variable) && !error.contains("ter2"), "{error}");
            std::fs::remove_file(&file).unwrap();
            let error = reread.read().await.unwrap_err();
            assert!(error.starts_with(variable) && error.contains("does not exist"), "{error}");
        }
    }

    #[test]
    fn settings_never_show_the_password() {
        let case = Case::new(&[("RABBITMQ_PASS", "hunter2")]);
        let shown = format!("{:#?}", case.read("").unwrap());
        assert!(!shown.contains("hunter2"), "{shown}");
    }
}
