//! The commands that ask: their flags, and the questions that they mean.

use std::ffi::OsString;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::arguments::{self, Flags};
use super::broker::Broker;
use super::command::CommandArguments;
use super::places::Library;
use super::raw_value::RawValue;
use super::{Command, Exit, InspectSettings, ListenSettings, SettingsError, Sources};
use crate::message;
use crate::model::{EventType, Extensions, FileType, LibraryPath, Selection, TagCondition, VerifyRequest};
use crate::sink::ListenQueue;

/// The flags of `list`.
#[derive(Args)]
pub(super) struct ListFlags {
    /// The library. Default: DATA_DIR
    pub(super) dir: Option<OsString>,
    /// Only files at or under this path of the library.
    #[arg(long, value_name = "PREFIX")]
    path: Option<OsString>,
    /// Only files of this format: mp3, flac, wav, ogg, opus, aac, mp4, wma, or one of AUDIO_EXTENSIONS.
    #[arg(long, value_name = "FORMAT")]
    format: Option<OsString>,
    /// Only files with this tag: TAG=TEXT, or TAG~TEXT for a tag that contains the text, in any case.
    ///
    /// TAG is one of the tags of messages, such as title, artist or albumartist. `title=` finds files without a title.
    /// If given several times, all must hold.
    #[arg(long = "where", value_name = "TAG=TEXT")]
    conditions: Vec<OsString>,
    /// Print JSON, one file per line, with the fields of the messages.
    #[arg(long)]
    json: bool,
}

/// The flags of `duplicates`.
#[derive(Args)]
pub(super) struct DuplicatesFlags {
    /// The library. Default: DATA_DIR
    pub(super) dir: Option<OsString>,
    /// Only groups with a file at or under this path of the library.
    #[arg(long, value_name = "PREFIX")]
    path: Option<OsString>,
    /// Print JSON, one group per line.
    #[arg(long)]
    json: bool,
}

/// The flags of `verify`.
#[derive(Args)]
pub(super) struct VerifyFlags {
    /// The library. Default: DATA_DIR
    pub(super) dir: Option<OsString>,
    /// Only files at or under this path of the library.
    #[arg(long, value_name = "PREFIX")]
    path: Option<OsString>,
    /// Only files that were not read within the last days.
    #[arg(long, value_name = "DAYS", allow_negative_numbers = true)]
    since: Option<OsString>,
    /// Print JSON, one line per file that is not as it was published.
    #[arg(long)]
    json: bool,
}

/// The flags of `events`.
#[derive(Args)]
pub(super) struct EventsFlags {
    /// Only events of these types: created, modified, deleted, moved or renamed. Separate them by commas.
    #[arg(long = "type", value_name = "TYPES")]
    types: Option<OsString>,
    /// Only events of files at or under this absolute path, as it appears in the messages.
    #[arg(long, value_name = "PREFIX")]
    path: Option<OsString>,
    /// Stop after this many messages.
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    count: Option<OsString>,
    /// Print the messages as they are, one per line.
    #[arg(long)]
    json: bool,
    /// Read the durable queue of this name, and declare and bind it if it does not exist.
    ///
    /// Messages wait in it while nobody reads it. It is kept until you delete it. Several readers share its messages.
    /// Without this, the queue ends with the command.
    #[arg(long, value_name = "NAME")]
    durable: Option<OsString>,
}

/// The flags of `inspect`.
#[derive(Args)]
pub(super) struct InspectFlags {
    /// The files: any, in a library or not
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Print JSON, one file per line.
    #[arg(long)]
    json: bool,
}

fn given(flag: &str, value: OsString) -> RawValue {
    RawValue { label: flag.to_owned(), value, is_default: false }
}

/// `list` for a library with these audio extensions.
pub(super) fn list(flags: ListFlags, library: Library<'_>, extensions: &Extensions) -> Result<Command, SettingsError> {
    let condition = |value| given("--where", value).parsed::<TagCondition>();
    let selection = Selection {
        under: library.path_or_root(flags.path)?,
        file_type: flags.format.map(|format| file_type(&given("--format", format), extensions)).transpose()?,
        tags: flags.conditions.into_iter().map(condition).collect::<Result<_, _>>()?,
    };
    Ok(Command::List { selection, json: flags.json })
}

/// `duplicates` for a library.
pub(super) fn duplicates(flags: DuplicatesFlags, library: Library<'_>) -> Result<Command, SettingsError> {
    Ok(Command::Duplicates { under: library.path_or_root(flags.path)?, json: flags.json })
}

/// `verify` for a library.
pub(super) fn verify(flags: VerifyFlags, library: Library<'_>) -> Result<Command, SettingsError> {
    let days = |value| given("--since", value).number("a number of days", 1..=36_500);
    let since = flags.since.map(days).transpose()?;
    Ok(Command::Verify(VerifyRequest {
        under: library.path_or_root(flags.path)?,
        since: since.map(|days: u64| Duration::from_secs(days * 24 * 3600)),
        json: flags.json,
    }))
}

/// A file type that files of the library can have.
fn file_type(format: &RawValue, extensions: &Extensions) -> Result<FileType, SettingsError> {
    let of = |extension: &str| FileType::of(&LibraryPath::from(format!("x.{extension}").as_str()));
    let wanted = of(&format.text()?.trim().trim_start_matches('.').to_lowercase());
    let listed = extensions.to_string();
    let mut possible: Vec<FileType> = listed.split(',').map(of).collect();
    if possible.contains(&wanted) {
        return Ok(wanted);
    }
    possible.sort_by(|one, other| one.as_str().cmp(other.as_str()));
    possible.dedup();
    let names: Vec<&str> = possible.iter().map(FileType::as_str).collect();
    Err(format.wrong(format!(
        "{:?} is not a format of this library; give one of {}",
        wanted.as_str(),
        names.join(", ")
    )))
}

/// What a command does that needs no library; `None` if it needs one.
pub(super) fn without_library(
    command: Option<&CommandArguments>,
    sources: &Sources<'_>,
    flags: &Flags,
) -> Option<Result<Exit, SettingsError>> {
    Some(match command? {
        CommandArguments::Schema => Ok(Exit::Print(message::schema())),
        CommandArguments::Man => Ok(Exit::Print(manual())),
        CommandArguments::Completions { shell } => completions(&given("SHELL", shell.clone())).map(Exit::Print),
        CommandArguments::Events(events) => {
            listening(events, sources, flags).map(|settings| Exit::Listen(settings.into()))
        }
        CommandArguments::Inspect(inspect) => inspecting(inspect, sources, flags).map(Exit::Inspect),
        _ => return None,
    })
}

fn inspecting(inspect: &InspectFlags, sources: &Sources<'_>, flags: &Flags) -> Result<InspectSettings, SettingsError> {
    Ok(InspectSettings {
        files: inspect.files.clone(),
        json: inspect.json,
        metadata_style: sources.of("metadata_style", &flags.metadata_style).metadata_style()?,
        tag_set: sources.of("tags", &flags.tags).tag_set()?,
    })
}

fn listening(events: &EventsFlags, sources: &Sources<'_>, flags: &Flags) -> Result<ListenSettings, SettingsError> {
    let broker = Broker::given(sources, flags, true);
    let (url, tls) = broker.read()?;
    let count = events.count.clone().map(|count| given("--count", count).number("a number of messages", 1..=u64::MAX));
    Ok(ListenSettings {
        broker: url,
        tls,
        types: events
            .types
            .clone()
            .map_or_else(|| Ok(EventType::ALL.to_vec()), |types| event_types(&given("--type", types)))?,
        under: events.path.clone().map(|path| absolute(&given("--path", path))).transpose()?,
        count: count.transpose()?,
        json: events.json,
        queue: events.durable.clone().map_or(Ok(ListenQueue::Own), |name| queue(&given("--durable", name)))?,
    })
}

/// The name of a queue: RabbitMQ allows 255 bytes, and reserves the names that begin with `amq.`.
fn queue(name: &RawValue) -> Result<ListenQueue, SettingsError> {
    let text = name.text()?;
    if (1..=255).contains(&text.len()) && !text.starts_with("amq.") {
        return Ok(ListenQueue::Durable(text.to_owned()));
    }
    Err(name.wrong(format!("{text:?} is not the name of a queue; give 1 to 255 bytes that do not begin with amq.")))
}

fn event_types(types: &RawValue) -> Result<Vec<EventType>, SettingsError> {
    let one = |word: &str| {
        word.trim().to_lowercase().parse::<EventType>().map_err(|_| {
            types.wrong(format!("{word:?} is not an event type; give created, modified, deleted, moved or renamed"))
        })
    };
    let words = types.text()?.trim();
    // A comma at the end separates nothing.
    words.strip_suffix(',').unwrap_or(words).split(',').map(one).collect()
}

fn absolute(path: &RawValue) -> Result<PathBuf, SettingsError> {
    let text = path.text()?;
    let given = Path::new(text);
    let is_plain = |part: Component<'_>| matches!(part, Component::Normal(_) | Component::RootDir | Component::CurDir);
    if given.is_absolute() && given.components().all(is_plain) {
        return Ok(given.components().collect());
    }
    Err(path.wrong(format!("{text:?} is not an absolute path; give one as it appears in file_path of the messages")))
}

fn completions(shell: &RawValue) -> Result<String, SettingsError> {
    let shells = clap_complete::Shell::value_variants();
    let names: Vec<String> = shells.iter().map(ToString::to_string).collect();
    let words: Vec<(&str, clap_complete::Shell)> =
        names.iter().map(String::as_str).zip(shells.iter().copied()).collect();
    let shell = shell.choice("a shell", &words)?;
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut arguments::command(), "file-watcher", &mut text);
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// The manual page, in roff: the program, each command, and the settings.
fn manual() -> String {
    let mut text = Vec::new();
    let rendered = clap_mangen::Man::new(arguments::command()).render(&mut text);
    rendered.expect("a vector takes everything");
    String::from_utf8_lossy(&text).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_format_is_one_that_the_library_can_have() {
        let extensions: Extensions = "+ape".parse().unwrap();
        let of =
            |format: &str| file_type(&given("--format", format.into()), &extensions).map(|it| it.as_str().to_owned());
        assert_eq!(of("FLAC").unwrap(), "flac");
        assert_eq!((of("m4a").unwrap(), of(".ape").unwrap()), ("mp4".to_owned(), "ape".to_owned()));
        let error = of("flacc").unwrap_err().to_string();
        assert!(
            error.starts_with("--format: \"flacc\" is not a format of this library; give one of aac, ape, flac"),
            "{error}"
        );
    }

    #[test]
    fn a_path_of_messages_is_absolute_and_plain() {
        let of = |path: &str| absolute(&given("--path", path.into()));
        assert_eq!(of("/music//a/").unwrap(), Path::new("/music/a"));
        assert!(of("music").is_err() && of("/music/../a").is_err());
    }
}
