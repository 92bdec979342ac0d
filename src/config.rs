//! The settings: read in one place, checked at start, passed on as types that cannot be wrong.
//!
//! A flag goes before its environment variable, and that before the default. `.env` in the working
//! directory stands in for variables that are not set. `config/arguments.rs` declares each setting
//! once; this file says what it becomes.

mod arguments;
mod broker;
mod environment;
mod exclusions;
mod given;
mod parked;
mod places;
mod verb;

use std::ffi::OsString;
use std::io;
use std::num::{NonZeroU32, NonZeroU64};
use std::path::PathBuf;
use std::time::Duration;

use clap::parser::ValueSource;
use clap::{ArgMatches, FromArgMatches};

use crate::model::{
    FollowSymlinks, InodeTrust, LibraryPath, LogFormat, MetadataStyle, ParkedRequest, Rules, Unroutable, WatchMode,
};
use crate::sink::{BrokerUrl, Reread, Tls};

use arguments::Arguments;
use broker::Broker;
use given::Given;

pub use environment::Environment;

/// Everything that a person can decide, checked.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What to do.
    pub command: Command,
    /// The library's root: absolute, its symbolic links as they were given.
    pub root: PathBuf,
    /// Where messages go.
    pub sink: SinkKind,
    /// The name of this instance; `None` leaves it to the state.
    pub instance_id: Option<String>,
    /// How many files are read at the same time.
    pub max_concurrent_files: usize,
    /// How many files are committed, and how many messages sent, together.
    pub batch_size: usize,
    /// The broker.
    pub broker: BrokerUrl,
    /// What TLS with it takes beyond the authorities that the system trusts.
    pub tls: Tls,
    /// Reads both again, if any of it comes from files.
    pub reread: Option<Reread>,
    /// Which files are published.
    pub rules: Rules,
    /// How long a closed file must be quiet.
    pub debounce: Duration,
    /// How long a file that nobody was seen to close must be unchanged.
    pub settle: Duration,
    /// How many files are looked at in a second at most.
    pub max_files_per_second: Option<NonZeroU32>,
    /// How many bytes are read in a second at most.
    pub max_bytes_per_second: Option<NonZeroU64>,
    /// How metadata stands in a message.
    pub metadata_style: MetadataStyle,
    /// Where the index and the outbox are: absolute, outside the library, perhaps not made yet.
    pub state_dir: PathBuf,
    /// Where the library was before it was moved.
    pub relocation: Option<Relocation>,
    /// Whether a new index takes the place of the one in `state_dir`, which is kept aside.
    pub rebuild_index: bool,
    /// Directives of `tracing`'s `EnvFilter`, valid.
    pub log_level: String,
    /// How a line of the log looks; `None` lets standard error decide.
    pub log_format: Option<LogFormat>,
    /// What becomes of a message for which no queue is bound.
    pub unroutable: Unroutable,
    /// How long what is in flight may take to finish at the end.
    pub shutdown_grace: Duration,
    /// How often the whole library is walked to be sure; `None` is never.
    pub rescan_interval: Option<Duration>,
    /// How often the library is walked where it is polled.
    pub poll_interval: Duration,
    /// How changes are noticed.
    pub watch_mode: WatchMode,
    /// Inferred deletes of more than this share of the index are held back.
    pub mass_delete_percent: u8,
    /// Which symbolic links are followed.
    pub follow_symlinks: FollowSymlinks,
    /// Whether the ctime is left out of comparisons.
    pub ignore_ctime: bool,
    /// Whether inode numbers are left out of comparisons.
    pub inode_trust: InodeTrust,
    /// How many undelivered messages are kept before intake pauses.
    pub outbox_max_events: u64,
    /// What to tell the user once, as soon as there is a log.
    pub warnings: Vec<String>,
}

/// The old place of a library that has another one now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relocation {
    /// The old root, absolute; nothing need be there.
    pub from: PathBuf,
    /// Where its state is by default, if `state_dir` is by default too.
    pub old_state_dir: Option<PathBuf>,
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Look at the whole library once, deliver, end.
    Scan,
    /// The same, then live until told to stop.
    Watch,
    /// Publish every file as moved from the old place of the library.
    Relocate,
    /// List the deletes that are held; as JSON if this is set.
    Held(bool),
    /// Publish the deletes that are held at or beneath a path.
    Approve(LibraryPath),
    /// Publish what is known at or beneath a path again.
    Replay(LibraryPath),
    /// Show or change what is parked.
    Parked(ParkedRequest),
}

/// Where messages go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SinkKind {
    /// To RabbitMQ.
    Amqp,
    /// To standard output, one message a line.
    Stdout,
}

impl SinkKind {
    /// The word that `SINK` has for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Amqp => "amqp",
            Self::Stdout => "stdout",
        }
    }
}

/// Why there are no settings.
#[derive(Debug)]
pub enum Exit {
    /// The user asked for the help or the version: this is it, for standard output.
    Answered(String),
    /// Something that was given is wrong.
    Wrong(SettingsError),
}

impl From<SettingsError> for Exit {
    fn from(error: SettingsError) -> Self {
        Self::Wrong(error)
    }
}

/// What is wrong with what was given: one line that says how to mend it, and shows no password.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The command line has something that it should not, or lacks something.
    #[error("{0}")]
    Usage(String),
    /// A setting has a value that it cannot have.
    #[error("{setting}: {problem}")]
    Value {
        /// Its variable, and its flag where that was used.
        setting: String,
        /// What is wrong and what would be right.
        problem: String,
    },
    /// A path that was there a moment ago cannot be resolved.
    #[error("{path}: cannot be resolved ({source})")]
    Path {
        /// The path.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// `.env` has a line that cannot be understood.
    #[error(".env: line {line} is not NAME=value; put quotes around a value with spaces")]
    DotEnv {
        /// Its number.
        line: usize,
    },
    /// `.env` is there and cannot be read.
    #[error(".env: cannot be read ({0})")]
    DotEnvUnreadable(#[source] io::Error),
    /// There is no working directory.
    #[error("the working directory cannot be found ({0})")]
    WorkingDirectory(#[source] io::Error),
}

impl Settings {
    /// The file of the store: what one sink was sent says nothing about what another one knows.
    pub fn store_file(&self) -> PathBuf {
        self.state_dir.join(format!("{}.sqlite", self.sink.as_str()))
    }

    /// The settings that `arguments` (the program's name first) and the process's environment give.
    pub fn from_env_and_args(arguments: impl IntoIterator<Item = OsString>) -> Result<Self, Exit> {
        let arguments: Vec<OsString> = arguments.into_iter().collect();
        // Somebody who asks for help gets it, whatever is wrong with the environment.
        match Environment::of_process() {
            Ok(environment) => Self::read(arguments, &environment),
            Err(error) => match arguments::command().try_get_matches_from(arguments) {
                Ok(_) => Err(error.into()),
                Err(told) => Err(arguments::exit_of(&told)),
            },
        }
    }

    /// The settings that `arguments` (the program's name first) and `environment` give.
    pub fn read(arguments: impl IntoIterator<Item = OsString>, environment: &Environment) -> Result<Self, Exit> {
        const AN_HOUR_IN_MS: u64 = 3_600_000;
        const A_YEAR_IN_SECS: u64 = 31_536_000;

        let declared = arguments::command();
        let matches = declared.clone().try_get_matches_from(arguments).map_err(|error| arguments::exit_of(&error))?;
        let Arguments { verb, flags } =
            Arguments::from_arg_matches(&matches).map_err(|error| arguments::exit_of(&error))?;
        let sources = Sources { declared: &declared, matches: &matches, environment };

        // The value of a field of `Flags`, from wherever it was given; `?` for those without a default.
        macro_rules! given {
            ($field:ident) => {
                sources.of(stringify!($field), &flags.$field)
            };
            ($field:ident ?) => {
                sources.of_optional(stringify!($field), flags.$field.as_ref())
            };
        }

        let verb::Parted { verb, library, old_library } = verb::part(verb);
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
        let root = places::library(&dir, environment)?;
        let command = verb::command(verb, &root)?;
        if flags.rebuild_index && !matches!(command, Command::Scan | Command::Watch) {
            let problem = "is for scan and watch, which read the library again; use it with one of them";
            return Err(
                SettingsError::Value { setting: "--rebuild-index".to_owned(), problem: problem.to_owned() }.into()
            );
        }
        let relocation = match relocate_from {
            Some(from) if matches!(command, Command::Scan | Command::Watch | Command::Relocate) => {
                let is_by_default = given!(state_dir?).is_none();
                Some(places::relocation(&from, &root, is_by_default, environment)?)
            }
            _ => None,
        };
        let given_broker = Broker::given(&sources, &flags);
        let (broker, tls) = given_broker.read()?;
        Ok(Self {
            command,
            state_dir: places::state(given!(state_dir?).as_ref(), &root, environment)?,
            relocation,
            rebuild_index: flags.rebuild_index,
            root,
            rules: exclusions::rules(&sources, &flags, environment)?,
            follow_symlinks: given!(follow_symlinks).follow_symlinks()?,
            ignore_ctime: given!(ignore_ctime).boolean()?,
            inode_trust: given!(ignore_inode).choice(
                "a way with inode numbers",
                &[("auto", InodeTrust::Auto), ("true", InodeTrust::Ignored), ("false", InodeTrust::Trusted)],
            )?,
            watch_mode: given!(watch_mode).choice(
                "a watch mode",
                &[("auto", WatchMode::Auto), ("native", WatchMode::Native), ("poll", WatchMode::Poll)],
            )?,
            debounce: Duration::from_millis(given!(debounce_ms).number("a number of milliseconds", 0..=AN_HOUR_IN_MS)?),
            settle: Duration::from_millis(given!(settle_ms).number("a number of milliseconds", 0..=AN_HOUR_IN_MS)?),
            rescan_interval: match rescan_interval.number("a number of seconds", 0..=A_YEAR_IN_SECS)? {
                0 => None,
                seconds => Some(Duration::from_secs(seconds)),
            },
            poll_interval: Duration::from_secs(given!(poll_interval_secs).number("a number of seconds", 1..=86_400)?),
            mass_delete_percent: given!(mass_delete_percent).number("a percentage", 0..=100)?,
            max_concurrent_files: given!(max_concurrent_files).number("a number of files", 1..=10_000)?,
            batch_size: given!(batch_size).number("a number of files", 1..=10_000)?,
            max_files_per_second: given!(max_files_per_second).rate("a number of files", false)?.map(saturating),
            max_bytes_per_second: given!(max_bytes_per_second).rate("a number of bytes", true)?,
            sink: given!(sink).choice("a sink", &[("amqp", SinkKind::Amqp), ("stdout", SinkKind::Stdout)])?,
            instance_id: given!(instance_id?).map(|given| given.instance_id()).transpose()?,
            metadata_style: given!(metadata_style).choice(
                "a metadata style",
                &[("nested", MetadataStyle::Nested), ("flat", MetadataStyle::Flat), ("off", MetadataStyle::Off)],
            )?,
            unroutable: given!(unroutable).choice(
                "a way with unroutable messages",
                &[("auto", Unroutable::Auto), ("hold", Unroutable::Hold), ("drop", Unroutable::Drop)],
            )?,
            outbox_max_events: given!(outbox_max_events).number("a number of messages", 1..=1_000_000_000)?,
            shutdown_grace: Duration::from_secs(given!(shutdown_grace_secs).number("a number of seconds", 0..=3600)?),
            broker,
            tls,
            reread: given_broker.reread(),
            log_level: given!(log_level).log_directives()?,
            log_format: given!(log_format).choice(
                "a log format",
                &[("auto", None), ("json", Some(LogFormat::Json)), ("pretty", Some(LogFormat::Pretty))],
            )?,
            warnings,
        })
    }
}

/// A rate of files beyond what a machine can do is as good as the highest that fits.
fn saturating(rate: NonZeroU64) -> NonZeroU32 {
    NonZeroU32::try_from(rate).unwrap_or(NonZeroU32::MAX)
}

/// Where values come from. The environment is ours alone: `clap`'s own look at the process's
/// variables is passed over, so that empty ones, `.env` and tests have their say.
struct Sources<'a> {
    declared: &'a clap::Command,
    matches: &'a ArgMatches,
    environment: &'a Environment,
}

impl Sources<'_> {
    /// A setting that has a default.
    fn of(&self, id: &str, flag: &OsString) -> Given {
        self.of_optional(id, Some(flag)).unwrap_or_else(|| {
            let default = self.declaration(id).and_then(|argument| argument.get_default_values().first());
            let value = default.map(OsString::from).unwrap_or_default();
            Given { label: id.to_uppercase(), value, by_default: true }
        })
    }

    /// A setting that may be absent.
    fn of_optional(&self, id: &str, flag: Option<&OsString>) -> Option<Given> {
        let variable = id.to_uppercase();
        if self.matches.value_source(id) == Some(ValueSource::CommandLine) {
            let long = self.declaration(id).and_then(clap::Arg::get_long).unwrap_or(id);
            let label = format!("--{long} ({variable})");
            return flag.map(|value| Given { label, value: value.clone(), by_default: false });
        }
        let value = self.environment.get(&variable)?.to_owned();
        Some(Given { label: variable, value, by_default: false })
    }

    /// `given`, or what its old variable says where nobody used the new one.
    fn or_deprecated(&self, given: Given, old: &str, new: &str, warnings: &mut Vec<String>) -> Given {
        match self.environment.get(old) {
            Some(value) if given.by_default => {
                warnings.push(format!("{old} is deprecated; use {new}"));
                Given { label: old.to_owned(), value: value.to_owned(), by_default: false }
            }
            _ => given,
        }
    }

    fn declaration(&self, id: &str) -> Option<&clap::Arg> {
        self.declared.get_arguments().find(|argument| argument.get_id() == id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Extensions;

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
                Exit::Answered(text) => text,
                Exit::Wrong(error) => error.to_string(),
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
        assert_eq!(settings.log_level, "error,lapin=off,file_watcher=info");
        assert_eq!(settings.log_format, None);
        assert_eq!(settings.unroutable, Unroutable::Auto);
        assert_eq!(settings.shutdown_grace, Duration::from_secs(10));
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
    fn a_url_stands_for_the_four_single_settings() {
        let case = Case::new(&[("RABBITMQ_URL", "amqps://u:p@host/v"), ("RABBITMQ_PORT", "tcp://10.0.0.1:5672")]);
        assert_eq!(case.read("").unwrap().broker.to_string(), "amqps://host:5671/v");
        let case = Case::new(&[("RABBITMQ_HOST", "::1"), ("RABBITMQ_PASS", "p@ss/w#rd%")]);
        let broker = case.read("--rabbitmq-user=me").unwrap().broker;
        assert_eq!(broker.to_string(), "amqp://[::1]:5672/%2f");
        assert_eq!(broker.uri().authority.userinfo.password, "p@ss/w#rd%");
    }

    #[test]
    fn what_a_url_leaves_out_is_taken_from_the_single_settings() {
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
    async fn what_stands_in_files_is_read_again_and_an_error_then_names_the_setting() {
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
