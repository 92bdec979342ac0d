//! The command line as it is declared: every setting once, with its flag, its variable, its default
//! and its help.

use std::ffi::OsString;

use clap::error::{ContextKind, ErrorKind};
use clap::{Args, CommandFactory, Parser, Subcommand};

use super::{Exit, SettingsError};

/// Keeps every consumer of a topic exchange in step with a music library on disk.
///
/// It looks at every audio file of the library, remembers what it saw, and publishes what was
/// created, modified, deleted, moved or renamed since: to RabbitMQ, or to standard output.
#[derive(Parser)]
#[command(
    name = "file-watcher",
    version,
    propagate_version = true,
    max_term_width = 100,
    args_override_self = true,
    disable_help_subcommand = true,
    override_usage = "file-watcher [FLAGS] [scan|watch|held|approve|replay|parked] [DIR]\n       file-watcher [FLAGS] relocate OLD NEW",
    after_help = "Every setting is a flag or an environment variable; the flag wins. A variable that is set but empty \
                  counts as unset. Variables are also read from a file .env in the working directory; the real \
                  environment wins over it.\n\n\
                  Exit codes: 0 done, or watch was ended by SIGTERM or SIGINT; 1 failed, or another command was \
                  interrupted; 2 asked for something that cannot be; 3 scan is done, but could not read everything, or \
                  holds deletes. A second signal ends any of them at once, and nothing is lost."
)]
pub(super) struct Arguments {
    #[command(subcommand)]
    pub(super) verb: Option<Verb>,
    #[command(flatten)]
    pub(super) flags: Flags,
}

#[derive(Subcommand)]
pub(super) enum Verb {
    /// Look at the whole library once, deliver what changed since the last time, and end
    Scan {
        /// The library. Without it: DATA_DIR
        dir: Option<OsString>,
    },
    /// The same, then live until SIGTERM or SIGINT. Also what happens without a command
    Watch {
        /// The library. Without it: DATA_DIR
        dir: Option<OsString>,
    },
    /// List the deletes that are held, by reason and place
    ///
    /// Deletes that a walk infers are held while the files may only be out of sight: their filesystem is not mounted,
    /// the library is empty, or more is missing than MASS_DELETE_PERCENT allows. The running service is asked;
    /// without one the library is walked, and nothing is published.
    Held {
        /// The library. Without it: DATA_DIR
        dir: Option<OsString>,
        /// Print JSON instead of text.
        #[arg(long)]
        json: bool,
    },
    /// Publish the deletes that are held
    ///
    /// Also those that are held because a filesystem is not mounted. It says what is held before, waits until
    /// the deletes are published, for a minute at most if a service is running, and says what came of it.
    Approve {
        /// The library. Without it: DATA_DIR
        dir: Option<OsString>,
        /// Only what is at or beneath this path of the library.
        #[arg(long, value_name = "PREFIX")]
        path: Option<OsString>,
    },
    /// Publish every file as moved from OLD to NEW, reading none: the library has another place now
    ///
    /// No service may be running on its STATE_DIR. It can be interrupted, and goes on when it is run again; until it
    /// is done, the state is refused to every other command. RELOCATE_FROM does the same at a start.
    Relocate {
        /// Where the library was, as it was given then
        old: OsString,
        /// Where it is
        new: OsString,
    },
    /// Publish everything that is known again, as created, for a consumer that lost its memory
    Replay {
        /// The library. Without it: DATA_DIR
        dir: Option<OsString>,
        /// Only what is at or beneath this path of the library.
        #[arg(long, value_name = "PREFIX")]
        path: Option<OsString>,
    },
    /// List the messages that cannot be delivered, deliver them again, or delete them
    ///
    /// Nothing is parked: it says so, and that is no failure.
    Parked(ParkedFlags),
}

/// What is to be done about parked messages.
#[derive(Args)]
pub(super) struct ParkedFlags {
    /// The library. Without it: DATA_DIR
    pub(super) dir: Option<OsString>,
    /// List them as JSON, one message a line.
    #[arg(long)]
    pub(super) json: bool,
    /// Deliver these again, or all of them.
    ///
    /// Each keeps its sequence and its correlation_id. It goes out before messages that still wait, and after
    /// those that were delivered meanwhile.
    #[arg(long, value_name = "SEQUENCE", num_args = 0..)]
    pub(super) retry: Option<Vec<OsString>>,
    /// Delete these, or all of them, and say which they were. Consumers never get them.
    #[arg(long, value_name = "SEQUENCE", num_args = 0..)]
    pub(super) drop: Option<Vec<OsString>>,
}

/// Every value is kept as it was given; `Settings::read` makes sense of it, so that flags, variables
/// and defaults pass through the same checks and the error can say which of them was wrong.
#[derive(Args)]
#[command(next_help_heading = "The library")]
pub(super) struct Flags {
    /// The directory that holds the music.
    ///
    /// The argument DIR goes before it. FILE_WATCHER_SCAN_PATH is its deprecated name.
    #[arg(long, global = true, env = "DATA_DIR", value_name = "DIR", default_value = "/data/music")]
    pub(super) data_dir: OsString,

    /// Where the index and the undelivered messages are kept.
    ///
    /// Exactly this directory, never inside the library. Without it a directory of the user's own:
    /// $XDG_STATE_HOME/file-watcher/NAME or ~/.local/state/file-watcher/NAME, where NAME is the
    /// library's last name and eight hex digits of a hash of its whole path, so that two libraries
    /// never share a state.
    #[arg(long, global = true, env = "STATE_DIR", value_name = "DIR")]
    pub(super) state_dir: Option<OsString>,

    /// Make a new index, once: the old one is damaged, or not believed any more.
    ///
    /// The old files in STATE_DIR are kept under a name with the date. Undelivered messages are taken
    /// over. Then every file is read and told as created, and what the old index knew and is gone is
    /// told as deleted. The old index may be that of the library at another place. For scan and watch. There is no variable for it: it would be done again at
    /// every start.
    #[arg(long, global = true)]
    pub(super) rebuild_index: bool,

    /// Where the library was, if it has another place now.
    ///
    /// Once, before anything is looked at, every file that is known is published as moved from there to the
    /// library's place, and no file is read. Afterwards it has no effect. For scan and watch.
    #[arg(long, global = true, env = "RELOCATE_FROM", value_name = "DIR")]
    pub(super) relocate_from: Option<OsString>,

    /// The extensions of audio files, in any case.
    ///
    /// A list replaces these; a list that begins with a plus, such as +aiff,ape, adds to them.
    #[arg(
        long,
        global = true,
        env = "AUDIO_EXTENSIONS",
        value_name = "LIST",
        default_value = "mp3,flac,wav,wave,ogg,oga,aac,opus,m4a,m4b,m4p,m4v,m4r,mp4,wma"
    )]
    pub(super) audio_extensions: OsString,

    /// What is left out: patterns in the syntax of .gitignore, relative to the library.
    ///
    /// Several are separated by commas or newlines, or given by several flags; a comma in a name is
    /// written \, and a # or ! at the begin of one \# or \!. A pattern with ! in front includes again
    /// what an earlier one, EXCLUDE_FILE or the defaults leave out. What no longer matches is published
    /// as deleted. A file .ignore-music with the same syntax applies to the directory that it is in
    /// and goes before all of these.
    #[arg(long, global = true, env = "EXCLUDE", value_name = "PATTERNS")]
    pub(super) exclude: Vec<OsString>,

    /// A file with such patterns, one a line, which is read at start.
    #[arg(long, global = true, env = "EXCLUDE_FILE", value_name = "FILE")]
    pub(super) exclude_file: Option<OsString>,

    /// Whether to leave out what systems, network storage and sync tools keep for themselves.
    ///
    /// Such as ._*, @eaDir, #recycle, .Trash-*, .snapshots, .stversions and lost+found; the README
    /// has the list.
    #[arg(
        long, global = true, env = "EXCLUDE_DEFAULTS", value_name = "BOOL", default_value = "true",
        num_args = 0..=1, require_equals = true, default_missing_value = "true"
    )]
    pub(super) exclude_defaults: OsString,

    /// Which symbolic links to follow: never (or false), inside (or true) or all.
    ///
    /// What they lead to is then told at the link's path too. inside follows links to files and directories
    /// of the library, but none that is behind another link. all also follows links that lead out of the
    /// library, for libraries made of links: each place outside once, by the first of the links to it. A
    /// link to a directory that holds it is never followed.
    #[arg(
        long, global = true, env = "FOLLOW_SYMLINKS", value_name = "WHICH", default_value = "false",
        num_args = 0..=1, require_equals = true, default_missing_value = "true"
    )]
    pub(super) follow_symlinks: OsString,

    /// Whether to trust a file whose size and modification time are unchanged, whatever its ctime
    /// says: for file systems where the ctime lies.
    #[arg(
        long, global = true, env = "IGNORE_CTIME", value_name = "BOOL", default_value = "false",
        num_args = 0..=1, require_equals = true, default_missing_value = "true"
    )]
    pub(super) ignore_ctime: OsString,

    /// Whether to leave inode numbers out of comparisons: auto, true or false.
    ///
    /// Some file systems (FAT, exFAT, many FUSE and some network ones) give every file another inode
    /// number at each mount. There size and modification time alone say whether a file is unchanged,
    /// and moves are found by content. auto decides by the file system's type, else by what a walk
    /// notices after a remount.
    #[arg(long, global = true, env = "IGNORE_INODE", value_name = "WHEN", default_value = "auto")]
    pub(super) ignore_inode: OsString,

    /// How changes are noticed: auto, native or poll.
    ///
    /// native is by the kernel's events, poll is by walking the library; auto polls where events
    /// don't come: NFS, SMB, FUSE and 9p.
    #[arg(
        long,
        global = true,
        env = "WATCH_MODE",
        value_name = "MODE",
        default_value = "auto",
        help_heading = "Watching"
    )]
    pub(super) watch_mode: OsString,

    /// How long a closed file must be quiet before it is read, in milliseconds.
    #[arg(
        long,
        global = true,
        env = "DEBOUNCE_MS",
        value_name = "MS",
        default_value = "50",
        allow_negative_numbers = true,
        help_heading = "Watching"
    )]
    pub(super) debounce_ms: OsString,

    /// How long a file that nobody was seen to close must be unchanged before it is read, in milliseconds.
    #[arg(
        long,
        global = true,
        env = "SETTLE_MS",
        value_name = "MS",
        default_value = "2000",
        allow_negative_numbers = true,
        help_heading = "Watching"
    )]
    pub(super) settle_ms: OsString,

    /// How often the whole library is walked to be sure, in seconds; 0 is never.
    ///
    /// FILE_WATCHER_SCAN_INTERVAL is its deprecated name.
    #[arg(
        long,
        global = true,
        env = "RESCAN_INTERVAL_SECS",
        value_name = "SECS",
        default_value = "3600",
        allow_negative_numbers = true,
        help_heading = "Watching"
    )]
    pub(super) rescan_interval_secs: OsString,

    /// How often the library is walked where it is polled, in seconds.
    #[arg(
        long,
        global = true,
        env = "POLL_INTERVAL_SECS",
        value_name = "SECS",
        default_value = "30",
        allow_negative_numbers = true,
        help_heading = "Watching"
    )]
    pub(super) poll_interval_secs: OsString,

    /// Deletes of more than this share of the library that nobody saw happen are held back; 100 holds none for that
    /// reason.
    #[arg(
        long,
        global = true,
        env = "MASS_DELETE_PERCENT",
        value_name = "PERCENT",
        default_value = "50",
        allow_negative_numbers = true,
        help_heading = "Watching"
    )]
    pub(super) mass_delete_percent: OsString,

    /// How many files are read at the same time.
    #[arg(
        long,
        global = true,
        env = "MAX_CONCURRENT_FILES",
        value_name = "N",
        default_value = "100",
        allow_negative_numbers = true,
        help_heading = "Speed"
    )]
    pub(super) max_concurrent_files: OsString,

    /// How many files are committed, and how many messages sent, together.
    #[arg(
        long,
        global = true,
        env = "BATCH_SIZE",
        value_name = "N",
        default_value = "100",
        allow_negative_numbers = true,
        help_heading = "Speed"
    )]
    pub(super) batch_size: OsString,

    /// How many files are looked at in a second at most.
    #[arg(
        long,
        global = true,
        env = "MAX_FILES_PER_SECOND",
        value_name = "N",
        default_value = "unlimited",
        allow_negative_numbers = true,
        help_heading = "Speed"
    )]
    pub(super) max_files_per_second: OsString,

    /// How many bytes are read in a second at most; K, M and G are 1024, 1024² and 1024³.
    #[arg(
        long,
        global = true,
        env = "MAX_BYTES_PER_SECOND",
        value_name = "N",
        default_value = "unlimited",
        allow_negative_numbers = true,
        help_heading = "Speed"
    )]
    pub(super) max_bytes_per_second: OsString,

    /// Where messages go: amqp (RabbitMQ) or stdout (one JSON message a line).
    #[arg(
        long,
        global = true,
        env = "SINK",
        value_name = "SINK",
        default_value = "amqp",
        help_heading = "Messages and their delivery"
    )]
    pub(super) sink: OsString,

    /// The name of this instance, in every message and every line of the log.
    ///
    /// Without it eight hex digits that stay the same for one STATE_DIR.
    #[arg(long, global = true, env = "INSTANCE_ID", value_name = "NAME", help_heading = "Messages and their delivery")]
    pub(super) instance_id: Option<OsString>,

    /// How metadata stands in a message: nested (numbers and an object of tags), flat (one level of
    /// strings) or off (not at all).
    #[arg(
        long,
        global = true,
        env = "METADATA_STYLE",
        value_name = "STYLE",
        default_value = "nested",
        help_heading = "Messages and their delivery"
    )]
    pub(super) metadata_style: OsString,

    /// What becomes of a message for which no queue is bound: auto, hold or drop.
    ///
    /// hold keeps it and sends it again until a queue is bound; drop lets it go, counted; auto holds
    /// until a first message of the connection found a queue, and drops after that.
    #[arg(
        long,
        global = true,
        env = "UNROUTABLE",
        value_name = "WHAT",
        default_value = "auto",
        help_heading = "Messages and their delivery"
    )]
    pub(super) unroutable: OsString,

    /// How many undelivered messages are kept before looking at files pauses.
    #[arg(
        long,
        global = true,
        env = "OUTBOX_MAX_EVENTS",
        value_name = "N",
        default_value = "1000000",
        allow_negative_numbers = true,
        help_heading = "Messages and their delivery"
    )]
    pub(super) outbox_max_events: OsString,

    /// How long what is in flight may take to finish after SIGTERM or SIGINT, in seconds.
    #[arg(
        long,
        global = true,
        env = "SHUTDOWN_GRACE_SECS",
        value_name = "SECS",
        default_value = "10",
        allow_negative_numbers = true,
        help_heading = "Messages and their delivery"
    )]
    pub(super) shutdown_grace_secs: OsString,

    /// The broker's name or address.
    #[arg(
        long,
        global = true,
        env = "RABBITMQ_HOST",
        value_name = "HOST",
        default_value = "localhost",
        help_heading = "RabbitMQ"
    )]
    pub(super) rabbitmq_host: OsString,

    /// The broker's port.
    #[arg(
        long,
        global = true,
        env = "RABBITMQ_PORT",
        value_name = "PORT",
        default_value = "5672",
        allow_negative_numbers = true,
        help_heading = "RabbitMQ"
    )]
    pub(super) rabbitmq_port: OsString,

    /// The user.
    #[arg(
        long,
        global = true,
        env = "RABBITMQ_USER",
        value_name = "USER",
        default_value = "guest",
        help_heading = "RabbitMQ"
    )]
    pub(super) rabbitmq_user: OsString,

    /// The password. Better given as a variable: other users of the machine can read a command line.
    #[arg(
        long,
        global = true,
        env = "RABBITMQ_PASS",
        value_name = "PASSWORD",
        default_value = "guest",
        allow_hyphen_values = true,
        help_heading = "RabbitMQ"
    )]
    pub(super) rabbitmq_pass: OsString,

    /// A file that holds the password, and nothing else but a newline at its end.
    ///
    /// This and the other files below are read again at every connection, so they may be replaced at any time.
    #[arg(long, global = true, env = "RABBITMQ_PASS_FILE", value_name = "FILE", help_heading = "RabbitMQ")]
    pub(super) rabbitmq_pass_file: Option<OsString>,

    /// All of it in one: amqp://user:password@host:5672/vhost, or amqps for TLS.
    ///
    /// It goes before the single settings; the user and the password are taken from those where it
    /// has none. Special characters are percent-encoded. Without a virtual host it is "/"; heartbeat
    /// (seconds) and connection_timeout (milliseconds) are understood after a question mark.
    #[arg(long, global = true, env = "RABBITMQ_URL", value_name = "URL", help_heading = "RabbitMQ")]
    pub(super) rabbitmq_url: Option<OsString>,

    /// A file that holds the URL, and nothing else but a newline at its end.
    #[arg(long, global = true, env = "RABBITMQ_URL_FILE", value_name = "FILE", help_heading = "RabbitMQ")]
    pub(super) rabbitmq_url_file: Option<OsString>,

    /// A file with certificates, in PEM, of authorities to trust beside those that the system trusts.
    ///
    /// This and the two below are for amqps.
    #[arg(long, global = true, env = "RABBITMQ_CA_FILE", value_name = "FILE", help_heading = "RabbitMQ")]
    pub(super) rabbitmq_ca_file: Option<OsString>,

    /// A file with the certificate, in PEM, that shows the broker who we are.
    #[arg(long, global = true, env = "RABBITMQ_CERT_FILE", value_name = "FILE", help_heading = "RabbitMQ")]
    pub(super) rabbitmq_cert_file: Option<OsString>,

    /// A file with the private key of that certificate, in PEM, not encrypted.
    #[arg(long, global = true, env = "RABBITMQ_KEY_FILE", value_name = "FILE", help_heading = "RabbitMQ")]
    pub(super) rabbitmq_key_file: Option<OsString>,

    /// How much is logged: error, warn, info, debug or trace.
    ///
    /// Or a list such as debug,lapin=info, the whole language of tracing's EnvFilter; the libraries
    /// underneath say only errors unless they are named.
    #[arg(
        long,
        global = true,
        env = "LOG_LEVEL",
        value_name = "LEVEL",
        default_value = "info",
        help_heading = "Logs, on standard error"
    )]
    pub(super) log_level: OsString,

    /// How a line looks: json, pretty, or auto, which is pretty on a terminal and json elsewhere.
    #[arg(
        long,
        global = true,
        env = "LOG_FORMAT",
        value_name = "FORMAT",
        default_value = "auto",
        help_heading = "Logs, on standard error"
    )]
    pub(super) log_format: OsString,
}

/// The declaration. The values of variables, which may be secret, are not in its help.
pub(super) fn command() -> clap::Command {
    Arguments::command().mut_args(|argument| argument.hide_env_values(true))
}

/// What `clap` has to say instead of the arguments: the help, the version, or one line.
pub(super) fn exit_of(error: &clap::Error) -> Exit {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Exit::Answered(error.render().to_string()),
        _ => Exit::Wrong(SettingsError::Usage(one_line(error))),
    }
}

fn one_line(error: &clap::Error) -> String {
    let context = |kind| error.get(kind).map(ToString::to_string).filter(|text| !text.is_empty());
    // clap names a flag with its placeholder: `--sink <SINK>`.
    let named = |kind| context(kind).map(|text| text.split([' ', '=']).next().unwrap_or_default().to_owned());
    let problem = match error.kind() {
        ErrorKind::UnknownArgument => match context(ContextKind::InvalidArg) {
            Some(flag) if flag.starts_with('-') => {
                format!("there is no flag {}", flag.split('=').next().unwrap_or_default())
            }
            Some(extra) => format!("{:?} is one argument too many", super::given::without_secrets(&extra)),
            None => "there is an argument too many".to_owned(),
        },
        ErrorKind::InvalidSubcommand => format!(
            "{:?} is not a command; the commands are scan, watch, held, approve, relocate, replay and parked",
            super::given::without_secrets(&context(ContextKind::InvalidSubcommand).unwrap_or_default())
        ),
        ErrorKind::InvalidValue => {
            format!("{} needs a value", named(ContextKind::InvalidArg).unwrap_or_else(|| "a flag".to_owned()))
        }
        ErrorKind::MissingRequiredArgument => {
            "relocate needs the old and the new directory: file-watcher relocate OLD NEW".to_owned()
        }
        // None of the other kinds can come of this declaration; their own words will do if one does.
        _ => error.to_string().lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned(),
    };
    let meant = named(ContextKind::SuggestedArg).or_else(|| context(ContextKind::SuggestedSubcommand));
    match meant {
        Some(meant) => format!("{problem}; did you mean {meant}? See file-watcher --help"),
        None => format!("{problem}; see file-watcher --help"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Extensions;

    #[test]
    fn the_declaration_holds_together() {
        command().debug_assert();
    }

    #[test]
    fn every_flag_has_the_name_of_its_variable() {
        for argument in command().get_arguments().filter(|argument| argument.get_id() != "help") {
            let Some(variable) = argument.get_env() else { continue };
            let flag = argument.get_long().unwrap_or_default();
            assert_eq!(variable.to_string_lossy(), flag.replace('-', "_").to_uppercase());
        }
    }

    #[test]
    fn the_extensions_in_the_help_are_the_fifteen() {
        let command = command();
        let argument = command.get_arguments().find(|argument| argument.get_id() == "audio_extensions").unwrap();
        let listed = argument.get_default_values()[0].to_str().unwrap();
        assert_eq!(listed.parse::<Extensions>().unwrap(), Extensions::default());
    }
}
