//! Declares the command line: every setting once, with its flag, variable, default and help.

use std::ffi::OsString;

use clap::{Args, CommandFactory, Parser};

use super::command::CommandArguments;

/// Publishes the changes of a music library to RabbitMQ.
///
/// It compares the audio files on disk with its index, and publishes a message for each file that was created,
/// modified, deleted, moved or renamed: to a topic exchange of RabbitMQ, or to standard output.
#[derive(Parser)]
#[command(
    name = "file-watcher",
    version,
    propagate_version = true,
    max_term_width = 100,
    args_override_self = true,
    override_usage = "file-watcher [FLAGS] [scan|watch|held|approve|replay|status|healthcheck|reload|list|duplicates|verify|parked] [DIR]\n       \
                      file-watcher [FLAGS] relocate OLD NEW\n       file-watcher [FLAGS] [events|inspect FILE...|schema|completions SHELL|man|help COMMAND]",
    after_help = "Every setting is a flag and an environment variable. The flag overrides the variable. An empty variable \
                  counts as unset. Variables are also read from a file .env in the working directory; the environment \
                  overrides it. Times can have a unit, such as 500ms, 30s, 5m or 1h.\n\n\
                  Exit codes: 0 success, or watch or events was ended by SIGTERM or SIGINT; 1 failure, or another \
                  command was interrupted, or files are rotten; 2 invalid usage; 3 scan, verify or inspect is done, \
                  but could not read everything, or deletes are held. A \
                  second signal exits at once, and nothing is lost."
)]
pub(super) struct Arguments {
    #[command(subcommand)]
    pub(super) command: Option<CommandArguments>,
    #[command(flatten)]
    pub(super) flags: Flags,
}

/// The raw values of the flags. `Settings::read` parses them, so that flags, variables and defaults pass the same checks
/// and the error can name the source.
#[derive(Args)]
#[command(next_help_heading = "The library")]
pub(super) struct Flags {
    /// The directory that contains the music.
    ///
    /// The argument DIR overrides it. FILE_WATCHER_SCAN_PATH is its deprecated name.
    #[arg(long, global = true, env = "DATA_DIR", value_name = "DIR", default_value = "/data/music")]
    pub(super) data_dir: OsString,

    /// The directory of the index and the undelivered messages.
    ///
    /// It must be outside of the library. The default is $XDG_STATE_HOME/file-watcher/NAME or
    /// ~/.local/state/file-watcher/NAME. NAME is the last part of the library's path and eight hex digits of a hash of
    /// the whole path, so two libraries never share a state.
    #[arg(long, global = true, env = "STATE_DIR", value_name = "DIR")]
    pub(super) state_dir: Option<OsString>,

    /// Rebuild the index, because it is corrupt or not trusted. With scan and watch only.
    ///
    /// The old files in STATE_DIR are kept under a name with the date. Undelivered messages are kept. Every file is
    /// read and published as created, and indexed files that no longer exist are published as deleted. The old index
    /// may be that of the library at another path. There is no variable, because it would rebuild at every start.
    #[arg(long, global = true)]
    pub(super) rebuild_index: bool,

    /// The part of the library that this instance has, such as 2/3: the second of three.
    ///
    /// Several instances share a library by the directories in its root. Each needs a STATE_DIR of its own. Files in
    /// the root itself belong to the first instance. See docs/scaling.md before you change the number of instances.
    #[arg(long, global = true, env = "PARTITION", value_name = "I/N", default_value = "1/1")]
    pub(super) partition: OsString,

    /// The old path of the library, if it was moved. With scan and watch only.
    ///
    /// Before the first scan, every indexed file is published as moved from there, and no file is read. After that it
    /// has no effect.
    #[arg(long, global = true, env = "RELOCATE_FROM", value_name = "DIR")]
    pub(super) relocate_from: Option<OsString>,

    /// The extensions of audio files, case-insensitive.
    ///
    /// A list replaces the default; a list that begins with a plus, such as +aiff,ape, adds to it.
    #[arg(
        long,
        global = true,
        env = "AUDIO_EXTENSIONS",
        value_name = "LIST",
        default_value = "mp3,flac,wav,wave,ogg,oga,aac,opus,m4a,m4b,m4p,m4v,m4r,mp4,wma"
    )]
    pub(super) audio_extensions: OsString,

    /// Files to exclude: patterns in the syntax of .gitignore, relative to the library.
    ///
    /// Separate patterns by commas or newlines, or give the flag several times. Write \, for a comma in a name, and \#
    /// or \! for a # or ! at its beginning. A pattern with a leading ! includes files again that an earlier pattern,
    /// EXCLUDE_FILE or the defaults exclude. Indexed files that are excluded now are published as deleted. A file
    /// .ignore-music with the same syntax applies to its directory and overrides all of these.
    #[arg(long, global = true, env = "EXCLUDE", value_name = "PATTERNS")]
    pub(super) exclude: Vec<OsString>,

    /// A file with such patterns, one per line, read at start.
    #[arg(long, global = true, env = "EXCLUDE_FILE", value_name = "FILE")]
    pub(super) exclude_file: Option<OsString>,

    /// Whether to exclude the internal files of systems, network storage and sync tools.
    ///
    /// Examples are ._*, @eaDir, #recycle, .Trash-*, .snapshots, .stversions and lost+found. docs/settings.md has the list.
    #[arg(
        long, global = true, env = "EXCLUDE_DEFAULTS", value_name = "BOOL", default_value = "true",
        num_args = 0..=1, require_equals = true, default_missing_value = "true"
    )]
    pub(super) exclude_defaults: OsString,

    /// Which symbolic links to follow: never (or false), inside (or true) or all.
    ///
    /// The target of a followed link is published at the path of the link too. inside follows links to files and
    /// directories in the library, but no link behind another link. all also follows links out of the library, for
    /// libraries that are made of links: each target once, through the first link to it. A link to a directory that
    /// contains the link is never followed.
    #[arg(
        long, global = true, env = "FOLLOW_SYMLINKS", value_name = "WHICH", default_value = "false",
        num_args = 0..=1, require_equals = true, default_missing_value = "true"
    )]
    pub(super) follow_symlinks: OsString,

    /// Whether to compare files by size and modification time and ignore the ctime, for filesystems with an
    /// unreliable ctime.
    #[arg(
        long, global = true, env = "IGNORE_CTIME", value_name = "BOOL", default_value = "false",
        num_args = 0..=1, require_equals = true, default_missing_value = "true"
    )]
    pub(super) ignore_ctime: OsString,

    /// Whether to ignore inode numbers when files are compared: auto, true or false.
    ///
    /// Some filesystems (FAT, exFAT, many FUSE and some network filesystems) assign new inode numbers at each mount.
    /// With true, files are compared by size and modification time only, and moves are found by content. auto decides
    /// by the type of the filesystem, or by the inode numbers that a scan finds after a remount.
    #[arg(long, global = true, env = "IGNORE_INODE", value_name = "WHEN", default_value = "auto")]
    pub(super) ignore_inode: OsString,

    /// How to detect changes: auto, native, fanotify or poll.
    ///
    /// native uses inotify, poll scans the library. auto uses inotify, and polls filesystems without events: NFS,
    /// SMB, FUSE and 9p. fanotify does the same with whole filesystems, so it needs no watch for each directory, but
    /// the capabilities CAP_SYS_ADMIN and CAP_DAC_READ_SEARCH.
    #[arg(
        long,
        global = true,
        env = "WATCH_MODE",
        value_name = "MODE",
        default_value = "auto",
        help_heading = "Watching"
    )]
    pub(super) watch_mode: OsString,

    /// How long a closed file must have no event before it is read, in milliseconds.
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

    /// How long a file without a close event must be unchanged before it is read, in milliseconds.
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

    /// The interval of full scans, in seconds; 0 disables them.
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

    /// The interval of scans where the library is polled, in seconds.
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

    /// Hold the deletes that a scan finds if they are more than this percentage of the library; 100 disables this.
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

    /// Read the whole library again within this number of days, a part of it every night; 0 disables this.
    ///
    /// Bit rot is found by it: files whose content changed and whose size and times did not. They are named in the log
    /// and in the status, and nothing is published. The night is from 1 to 6 o'clock in the time zone TZ.
    #[arg(
        long,
        global = true,
        env = "VERIFY_INTERVAL_DAYS",
        value_name = "DAYS",
        default_value = "0",
        allow_negative_numbers = true,
        help_heading = "Watching"
    )]
    pub(super) verify_interval_days: OsString,

    /// How many files are read concurrently.
    ///
    /// With 1, the program runs with as few threads and as little memory as possible.
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

    /// How many files are committed, and how many messages published, at once.
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

    /// How many files are examined per second at most.
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

    /// How many bytes are read per second at most.
    ///
    /// A number, or one with a unit: 20M and 20MiB are 20 · 1024² bytes, 20MB is 20 · 1000² bytes.
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

    /// The priority of reading and writing: normal or idle.
    ///
    /// With idle, other programs come first: the class of input and output is idle, which the schedulers BFQ and
    /// mq-deadline obey, and the niceness is 19.
    #[arg(
        long,
        global = true,
        env = "IO_PRIORITY",
        value_name = "PRIORITY",
        default_value = "normal",
        help_heading = "Speed"
    )]
    pub(super) io_priority: OsString,

    /// The destination of messages: amqp (RabbitMQ) or stdout (one JSON message per line).
    #[arg(
        long,
        global = true,
        env = "SINK",
        value_name = "SINK",
        default_value = "amqp",
        help_heading = "Messages and their delivery"
    )]
    pub(super) sink: OsString,

    /// The name of this instance, in every message and log line.
    ///
    /// The default is eight hex digits that stay the same for one STATE_DIR.
    #[arg(long, global = true, env = "INSTANCE_ID", value_name = "NAME", help_heading = "Messages and their delivery")]
    pub(super) instance_id: Option<OsString>,

    /// The form of metadata in messages: nested (numbers and an object of tags), flat (one level of strings) or off
    /// (no metadata).
    #[arg(
        long,
        global = true,
        env = "METADATA_STYLE",
        value_name = "STYLE",
        default_value = "nested",
        help_heading = "Messages and their delivery"
    )]
    pub(super) metadata_style: OsString,

    /// How much of the metadata is in messages: all, or basic for consumers that know only the first six tags.
    ///
    /// basic leaves out all tags but title, artist, album, date, genre and track, and also codec, bits_per_sample and
    /// has_cover. The index has all of them.
    #[arg(
        long,
        global = true,
        env = "TAGS",
        value_name = "WHICH",
        default_value = "all",
        help_heading = "Messages and their delivery"
    )]
    pub(super) tags: OsString,

    /// What to do with a message for which no queue is bound: auto, hold or drop.
    ///
    /// hold publishes it again until a queue is bound. drop drops and counts it. auto holds until the first message
    /// of the connection was routed to a queue, and drops after that.
    #[arg(
        long,
        global = true,
        env = "UNROUTABLE",
        value_name = "WHAT",
        default_value = "auto",
        help_heading = "Messages and their delivery"
    )]
    pub(super) unroutable: OsString,

    /// How many undelivered messages to keep before examining files pauses.
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

    /// How long work in progress may take to finish after SIGTERM or SIGINT, in seconds.
    ///
    /// Docker kills a container ten seconds after it asks it to stop.
    #[arg(
        long,
        global = true,
        env = "SHUTDOWN_GRACE_SECS",
        value_name = "SECS",
        default_value = "8",
        allow_negative_numbers = true,
        help_heading = "Messages and their delivery"
    )]
    pub(super) shutdown_grace_secs: OsString,

    /// The broker's name or address. For a cluster, those of its nodes, separated by commas, each with or without a port.
    #[arg(
        long,
        global = true,
        env = "RABBITMQ_HOST",
        value_name = "HOST",
        default_value = "localhost",
        help_heading = "RabbitMQ"
    )]
    pub(super) rabbitmq_host: OsString,

    /// The broker's port, for addresses without one.
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

    /// The user name.
    #[arg(
        long,
        global = true,
        env = "RABBITMQ_USER",
        value_name = "USER",
        default_value = "guest",
        help_heading = "RabbitMQ"
    )]
    pub(super) rabbitmq_user: OsString,

    /// The virtual host.
    #[arg(
        long,
        global = true,
        env = "RABBITMQ_VHOST",
        value_name = "VHOST",
        default_value = "/",
        help_heading = "RabbitMQ"
    )]
    pub(super) rabbitmq_vhost: OsString,

    /// The password. Prefer the variable: other users of the machine can read the command line.
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

    /// A file with the password and an optional newline at the end.
    ///
    /// This and the other files below are read again before every connection, so they may be replaced at any time.
    #[arg(long, global = true, env = "RABBITMQ_PASS_FILE", value_name = "FILE", help_heading = "RabbitMQ")]
    pub(super) rabbitmq_pass_file: Option<OsString>,

    /// The URL of the broker: amqp://user:password@host:5672/vhost, or amqps for TLS.
    ///
    /// It overrides the single settings, except for a user, password or virtual host that it does not have. Special characters must
    /// be percent-encoded. A cluster has the addresses of all nodes: amqp://user:password@host1:5672,host2:5672/vhost.
    /// They are tried in random order. The parameters heartbeat (seconds), connection_timeout
    /// (milliseconds), frame_max (bytes), channel_max and auth_mechanism may follow after a question mark.
    #[arg(long, global = true, env = "RABBITMQ_URL", value_name = "URL", help_heading = "RabbitMQ")]
    pub(super) rabbitmq_url: Option<OsString>,

    /// A file with the URL and an optional newline at the end.
    #[arg(long, global = true, env = "RABBITMQ_URL_FILE", value_name = "FILE", help_heading = "RabbitMQ")]
    pub(super) rabbitmq_url_file: Option<OsString>,

    /// A PEM file with certificates of authorities to trust, in addition to those of the system.
    ///
    /// This and the two below are for amqps.
    #[arg(long, global = true, env = "RABBITMQ_CA_FILE", value_name = "FILE", help_heading = "RabbitMQ")]
    pub(super) rabbitmq_ca_file: Option<OsString>,

    /// A PEM file with the client certificate.
    #[arg(long, global = true, env = "RABBITMQ_CERT_FILE", value_name = "FILE", help_heading = "RabbitMQ")]
    pub(super) rabbitmq_cert_file: Option<OsString>,

    /// A PEM file with the private key of the client certificate, not encrypted.
    #[arg(long, global = true, env = "RABBITMQ_KEY_FILE", value_name = "FILE", help_heading = "RabbitMQ")]
    pub(super) rabbitmq_key_file: Option<OsString>,

    /// Where watch serves health, metrics and status by HTTP: an address and a port, or off.
    ///
    /// /livez, /readyz, /status (JSON) and /metrics (Prometheus). Anyone who can reach the port can read the names of
    /// files. There is no password, so give an address that only trusted hosts reach.
    #[arg(
        long,
        global = true,
        env = "HTTP_ADDR",
        value_name = "ADDRESS",
        default_value = "127.0.0.1:8080",
        help_heading = "HTTP and OpenTelemetry"
    )]
    pub(super) http_addr: OsString,

    /// The collector of OpenTelemetry traces: a URL such as http://localhost:4318.
    ///
    /// There is one span for each message, from the event of the kernel to the confirm of the broker, sent by OTLP over
    /// HTTP as JSON. Messages then have the header traceparent. Without this setting there are no traces.
    #[arg(
        long,
        global = true,
        env = "OTEL_EXPORTER_OTLP_ENDPOINT",
        value_name = "URL",
        help_heading = "HTTP and OpenTelemetry"
    )]
    pub(super) otel_exporter_otlp_endpoint: Option<OsString>,

    /// The log level: error, warn, info, debug or trace.
    ///
    /// The names of Python work too, such as WARNING and CRITICAL.
    /// Or a list such as debug,lapin=info in the syntax of tracing's EnvFilter. Other libraries log only errors
    /// unless they are named.
    #[arg(
        long,
        global = true,
        env = "LOG_LEVEL",
        value_name = "LEVEL",
        default_value = "info",
        help_heading = "Logs, on standard error"
    )]
    pub(super) log_level: OsString,

    /// The format of log lines: json, pretty, or auto (pretty on a terminal, json elsewhere).
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

/// The declared command line. Its help does not show the values of variables, which may be secret.
pub(super) fn command() -> clap::Command {
    Arguments::command().mut_args(|argument| argument.hide_env_values(true))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Extensions;

    #[test]
    fn the_declaration_is_valid() {
        command().debug_assert();
    }

    #[test]
    fn the_usage_names_every_command() {
        let usage = command().render_usage().to_string();
        for name in command().get_subcommands().map(clap::Command::get_name) {
            assert!(usage.split(|letter: char| !letter.is_alphabetic()).any(|word| word == name), "{name}: {usage}");
        }
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
