//! The commands of the command line, and the directories that are given with them.

use std::ffi::OsString;

use clap::{Args, Subcommand};

use super::places::Library;
use super::raw_value::RawValue;
use super::{Command, SettingsError, inquiries, parked};
use crate::model::Extensions;

#[derive(Subcommand)]
pub(super) enum CommandArguments {
    /// Scan the library once, deliver the changes since the last run, and exit
    Scan {
        /// The library. Default: DATA_DIR
        dir: Option<OsString>,
        /// Print the summary as JSON, to standard error. LOG_FORMAT=json does the same.
        #[arg(long)]
        json: bool,
    },
    /// Scan, then publish changes as they happen until SIGTERM or SIGINT. The default command
    Watch {
        /// The library. Default: DATA_DIR
        dir: Option<OsString>,
    },
    /// List the held deletes, by reason and place
    ///
    /// A delete that a scan finds is held if the file may still exist: its filesystem is not mounted, the library is
    /// empty, or more files are missing than MASS_DELETE_PERCENT allows. A running service answers from its last scan.
    /// Without one, the library is scanned and nothing is published.
    Held {
        /// The library. Default: DATA_DIR
        dir: Option<OsString>,
        /// Print JSON instead of text.
        #[arg(long)]
        json: bool,
    },
    /// Publish the held deletes
    ///
    /// This includes deletes on a filesystem that is not mounted. It lists the held deletes, waits until they are
    /// published (for at most a minute if a service is running), and prints the result.
    Approve {
        /// The library. Default: DATA_DIR
        dir: Option<OsString>,
        /// Only files at or under this path of the library.
        #[arg(long, value_name = "PREFIX")]
        path: Option<OsString>,
    },
    /// Publish every file as moved from OLD to NEW, after the library was moved. Reads no file
    ///
    /// No service may be running on its STATE_DIR. After an interruption, run it again to continue. Until it is
    /// finished, other commands refuse the state. RELOCATE_FROM does the same at the next start.
    Relocate {
        /// The old path of the library, as it was given then
        old: OsString,
        /// The new path of the library
        new: OsString,
    },
    /// Publish all indexed files again, as created, for a consumer that lost its data
    Replay {
        /// The library. Default: DATA_DIR
        dir: Option<OsString>,
        /// Only files at or under this path of the library.
        #[arg(long, value_name = "PREFIX")]
        path: Option<OsString>,
    },
    /// Print the state of the running service, or of the index if none is running
    ///
    /// What is not in order comes first, with what to do about it. /status by HTTP has the same as JSON.
    Status {
        /// The library. Default: DATA_DIR
        dir: Option<OsString>,
        /// Print JSON instead of text.
        #[arg(long)]
        json: bool,
    },
    /// Exit with 0 if the running service is healthy, or with 1 and say why
    ///
    /// For the health checks of containers. A first scan that is running, and what only needs attention some time, are
    /// healthy.
    Healthcheck {
        /// The library. Default: DATA_DIR
        dir: Option<OsString>,
    },
    /// Let the running service read its settings again, as SIGHUP does
    ///
    /// The service has the variables with which it was started, so only what is in .env, EXCLUDE_FILE and the files
    /// with secrets can differ. The library is scanned with the new settings: files that match now are published, and
    /// those that no longer match are published as deleted. An invalid setting changes nothing and is named here.
    /// DATA_DIR, STATE_DIR, SINK, INSTANCE_ID and LOG_FORMAT cannot change.
    Reload {
        /// The library. Default: DATA_DIR
        dir: Option<OsString>,
    },
    /// List the files of the index, as a table or as JSON
    ///
    /// The index has what was last published for each file. No file of the library is read, and the service may be
    /// running. Examples:
    ///
    /// file-watcher list --path "Nina Simone" --format flac
    ///
    /// file-watcher list --where artist=björk --where date~199 --json
    ///
    /// file-watcher list --where title=
    List(inquiries::ListFlags),
    /// List the files with equal content, and how much space they waste
    ///
    /// Groups with equal SHA-256, those first that waste most, and in each group the file first that was not modified
    /// for the longest time. Hard links to one file waste nothing. Nothing is deleted. The answer comes from the index,
    /// so no file is read, and the service may be running.
    Duplicates(inquiries::DuplicatesFlags),
    /// Read published files again, to find bit rot
    ///
    /// A rotten file has another content than was published, although its size and times are the same: its disk or a
    /// cable is failing. Such files are listed, and nothing is published. A file with another size or other times is an
    /// ordinary change: the running service publishes it, and without one the library is scanned afterwards. Every
    /// file is read from its disk, within the rate limits. After an interruption, --since leaves out what was read.
    ///
    /// Exit codes: 0 all files are as they were published or have changed; 1 some are rotten; 3 some cannot be read.
    Verify(inquiries::VerifyFlags),
    /// Print the messages of the exchange as they are published, from any machine that reaches the broker
    ///
    /// It reads the settings of RabbitMQ and needs no library. Its queue ends with it, and has at most the last 100,000
    /// messages; with --durable, the queue and its messages stay. A message counts as delivered if it reaches this
    /// queue: stop this command if messages must wait for a consumer that was never there.
    Events(inquiries::EventsFlags),
    /// Print what a message would say of files, every part of their tags, and every problem
    ///
    /// It reads any file, in a library or not, and needs no broker and no STATE_DIR. A report about wrong metadata should
    /// have its output. Exit code 3: some files cannot be read.
    Inspect(inquiries::InspectFlags),
    /// Print the JSON Schema of the messages
    Schema,
    /// Print the completions of a shell: bash, zsh, fish, elvish or powershell
    ///
    /// For example: file-watcher completions bash > /etc/bash_completion.d/file-watcher
    Completions {
        /// The shell
        shell: OsString,
    },
    /// Print the manual page
    ///
    /// For example: file-watcher man | man -l -
    Man,
    /// List, retry or delete the messages that cannot be delivered
    ///
    /// If no message is parked, it says so and exits with 0.
    Parked(ParkedFlags),
}

impl CommandArguments {
    /// Whether the library has to be there. A service whose library is gone must still be asked how it is.
    pub(super) fn reads_library(&self) -> bool {
        !matches!(self, Self::Status { .. } | Self::Healthcheck { .. } | Self::Reload { .. } | Self::List(_))
    }
}

impl CommandArguments {
    /// Whether the command may connect to the broker itself.
    pub(super) fn may_connect(&self) -> bool {
        !matches!(
            self,
            Self::Status { .. }
                | Self::Healthcheck { .. }
                | Self::Reload { .. }
                | Self::List(_)
                | Self::Duplicates(_)
                | Self::Parked(_)
        )
    }
}

/// The flags of `parked`.
#[derive(Args)]
pub(super) struct ParkedFlags {
    /// The library. Default: DATA_DIR
    pub(super) dir: Option<OsString>,
    /// List them as JSON, one message per line.
    #[arg(long)]
    pub(super) json: bool,
    /// Deliver these messages again, or all of them.
    ///
    /// Each keeps its sequence and its correlation_id. It is published before messages that still wait, and so after
    /// later ones that were delivered in the meantime.
    #[arg(long, value_name = "SEQUENCE", num_args = 0..)]
    pub(super) retry: Option<Vec<OsString>>,
    /// Delete these messages, or all of them, and list them. Consumers never get them.
    #[arg(long, value_name = "SEQUENCE", num_args = 0..)]
    pub(super) drop: Option<Vec<OsString>>,
}

/// A command without its directories, and the directories.
pub(super) struct ParsedCommand {
    pub(super) command: CommandArguments,
    /// The library, if it was given.
    pub(super) library: Option<RawValue>,
    /// The old path of the library, if it was given.
    pub(super) old_library: Option<RawValue>,
}

/// Separates the command, `watch` by default, from its directories.
pub(super) fn parse(command: Option<CommandArguments>) -> ParsedCommand {
    let given = |label: &str, value| RawValue { label: label.to_owned(), value, is_default: false };
    let (command, dir) = match command {
        Some(CommandArguments::Relocate { old, new }) => {
            let command = CommandArguments::Relocate { old: OsString::new(), new: OsString::new() };
            return ParsedCommand { command, library: Some(given("NEW", new)), old_library: Some(given("OLD", old)) };
        }
        Some(CommandArguments::Scan { dir, json }) => (CommandArguments::Scan { dir: None, json }, dir),
        Some(CommandArguments::Watch { dir }) => (CommandArguments::Watch { dir: None }, dir),
        Some(CommandArguments::Held { dir, json }) => (CommandArguments::Held { dir: None, json }, dir),
        Some(CommandArguments::Status { dir, json }) => (CommandArguments::Status { dir: None, json }, dir),
        Some(CommandArguments::Healthcheck { dir }) => (CommandArguments::Healthcheck { dir: None }, dir),
        Some(CommandArguments::Approve { dir, path }) => (CommandArguments::Approve { dir: None, path }, dir),
        Some(CommandArguments::Replay { dir, path }) => (CommandArguments::Replay { dir: None, path }, dir),
        Some(CommandArguments::Reload { dir }) => (CommandArguments::Reload { dir: None }, dir),
        Some(CommandArguments::Parked(flags)) => parked::library_of(flags),
        Some(CommandArguments::List(mut flags)) => {
            let dir = flags.dir.take();
            (CommandArguments::List(flags), dir)
        }
        Some(CommandArguments::Duplicates(mut flags)) => {
            let dir = flags.dir.take();
            (CommandArguments::Duplicates(flags), dir)
        }
        Some(CommandArguments::Verify(mut flags)) => {
            let dir = flags.dir.take();
            (CommandArguments::Verify(flags), dir)
        }
        Some(
            command @ (CommandArguments::Events(_)
            | CommandArguments::Inspect(_)
            | CommandArguments::Schema
            | CommandArguments::Completions { .. }
            | CommandArguments::Man),
        ) => (command, None),
        None => (CommandArguments::Watch { dir: None }, None),
    };
    ParsedCommand { command, library: dir.map(|dir| given("DIR", dir)), old_library: None }
}

/// The command that these arguments ask for, about a library with these audio extensions.
///
/// # Panics
///
/// If the command needs no library: [`inquiries::without_library`] has it.
pub(super) fn of(
    command: CommandArguments,
    library: Library<'_>,
    extensions: &Extensions,
) -> Result<Command, SettingsError> {
    Ok(match command {
        CommandArguments::Scan { .. } => Command::Scan,
        CommandArguments::Watch { .. } => Command::Watch,
        CommandArguments::Relocate { .. } => Command::Relocate,
        CommandArguments::Held { json, .. } => Command::Held { json },
        CommandArguments::Status { json, .. } => Command::Status { json },
        CommandArguments::Healthcheck { .. } => Command::Healthcheck,
        CommandArguments::Reload { .. } => Command::Reload,
        CommandArguments::Approve { path, .. } => Command::Approve(library.path_or_root(path)?),
        CommandArguments::Parked(flags) => Command::Parked(parked::request(flags)?),
        CommandArguments::Replay { path, .. } => Command::Replay(library.path_or_root(path)?),
        CommandArguments::List(flags) => inquiries::list(flags, library, extensions)?,
        CommandArguments::Duplicates(flags) => inquiries::duplicates(flags, library)?,
        CommandArguments::Verify(flags) => inquiries::verify(flags, library)?,
        CommandArguments::Events(_)
        | CommandArguments::Inspect(_)
        | CommandArguments::Schema
        | CommandArguments::Completions { .. }
        | CommandArguments::Man => unreachable!("these commands need no library"),
    })
}
