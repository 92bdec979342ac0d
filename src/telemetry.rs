//! The log: one line per event, to standard error, each with the instance id.
//!
//! The instance id is part of the format and not of a span, so it is on every line, from every thread and library. Spans
//! are not printed.

use std::fmt;

use jiff::Timestamp;
use serde::Serializer as _;
use serde::ser::SerializeMap as _;
use serde_json::Value;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_log::NormalizeEvent as _;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::{SubscriberInitExt as _, TryInitError};

use crate::model::{LogFormat, is_control, printable, printable_json, with_causes};
use crate::screen::Screen;

/// Starts the log of this process, on `screen`. `directives` select the lines, in the syntax of `EnvFilter`. Without a
/// `format`, it is pretty on a terminal and JSON otherwise.
///
/// # Errors
///
/// If the process has a log already.
pub fn start(
    directives: &str,
    format: Option<LogFormat>,
    instance_id: &str,
    screen: &Screen,
) -> Result<LogLevel, TryInitError> {
    let terminal = screen.is_terminal();
    let format = format.unwrap_or(if terminal { LogFormat::Pretty } else { LogFormat::Json });
    let no_colour = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let lines = Lines { format, instance_id: instance_id.to_owned(), clock: Timestamp::now };
    let screen = screen.clone();
    let (subscriber, level) = subscriber(directives, lines, move || screen.clone(), terminal && !no_colour);
    subscriber.try_init()?;
    // Panics are caught and count as the failure of one file. This logs them.
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string);
        tracing::error!(place, "a bug: {}", panic.payload_as_str().unwrap_or("it panicked"));
    }));
    Ok(level)
}

/// Selects the lines of the log.
pub struct LogLevel(Box<dyn Fn(EnvFilter) + Send + Sync>);

impl LogLevel {
    /// Selects other lines from now on. `directives` as in [`start`].
    pub fn set(&self, directives: &str) {
        (self.0)(EnvFilter::new(directives));
    }
}

impl fmt::Debug for LogLevel {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("LogLevel").finish_non_exhaustive()
    }
}

fn subscriber<W>(
    directives: &str,
    lines: Lines,
    writer: W,
    colours: bool,
) -> (impl Subscriber + Send + Sync + use<W>, LogLevel)
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let builder = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(directives))
        .with_writer(writer)
        .with_ansi(colours)
        // It would report a closed standard error to standard error, and panic.
        .log_internal_errors(false)
        .event_format(lines)
        .with_filter_reloading();
    let handle = builder.reload_handle();
    // It fails if the subscriber is gone, and then there is no log.
    (builder.finish(), LogLevel(Box::new(move |filter| drop(handle.reload(filter)))))
}

/// Formats log lines.
struct Lines {
    format: LogFormat,
    instance_id: String,
    clock: fn() -> Timestamp,
}

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let line = Line::of(event, (self.clock)());
        match self.format {
            LogFormat::Json => writeln!(writer, "{}", self.json(&line).map_err(|_| fmt::Error)?),
            LogFormat::Pretty => self.pretty(writer, &line),
        }
    }
}

impl Lines {
    /// One JSON object: the five fixed keys, then the fields.
    fn json(&self, line: &Line) -> serde_json::Result<String> {
        let mut bytes = Vec::with_capacity(256);
        let mut serializer = serde_json::Serializer::new(&mut bytes);
        let mut object = serializer.serialize_map(None)?;
        object.serialize_entry("timestamp", &format!("{:.6}", line.timestamp))?;
        object.serialize_entry("level", line.level.as_str())?;
        object.serialize_entry("message", &line.message)?;
        object.serialize_entry("target", &line.target)?;
        object.serialize_entry("instance_id", &self.instance_id)?;
        for (name, value) in &line.fields {
            // Many parsers reject an object with a duplicate key.
            match *name {
                "timestamp" | "level" | "target" | "instance_id" => {
                    object.serialize_entry(&format!("field_{name}"), value)?;
                }
                name => object.serialize_entry(name, value)?,
            }
        }
        object.end()?;
        Ok(printable_json(&String::from_utf8_lossy(&bytes)))
    }

    /// `12:03:04Z INFO  message  files=3 instance_id=ab12cd34`
    fn pretty(&self, mut writer: Writer<'_>, line: &Line) -> fmt::Result {
        let (dim, reset) = if writer.has_ansi_escapes() { ("\u{1b}[2m", "\u{1b}[0m") } else { ("", "") };
        let colour = match line.level {
            _ if !writer.has_ansi_escapes() => "",
            Level::ERROR => "\u{1b}[31m",
            Level::WARN => "\u{1b}[33m",
            Level::INFO => "\u{1b}[32m",
            Level::DEBUG => "\u{1b}[34m",
            Level::TRACE => "\u{1b}[35m",
        };
        let time = line.timestamp.strftime("%H:%M:%SZ");
        write!(
            writer,
            "{dim}{time}{reset} {colour}{:<5}{reset} {}  {dim}",
            line.level.as_str(),
            printable(&line.message)
        )?;
        for (name, value) in &line.fields {
            match value {
                Value::String(text) if is_plain(text) => write!(writer, "{name}={text} ")?,
                Value::String(text) => write!(writer, "{name}={text:?} ")?,
                value => write!(writer, "{name}={value} ")?,
            }
        }
        writeln!(writer, "instance_id={}{reset}", self.instance_id)
    }
}

/// Whether a value needs no quotes.
fn is_plain(text: &str) -> bool {
    !text.is_empty() && !text.contains(|letter: char| letter.is_whitespace() || is_control(letter) || letter == '"')
}

/// The content of a log line.
struct Line {
    timestamp: Timestamp,
    level: Level,
    target: String,
    message: String,
    fields: Vec<(&'static str, Value)>,
}

impl Line {
    fn of(event: &Event<'_>, timestamp: Timestamp) -> Self {
        // An event from the `log` crate has its level and target in its fields.
        let normalized = event.normalized_metadata();
        let metadata = normalized.as_ref().unwrap_or_else(|| event.metadata());
        let mut line = Self {
            timestamp,
            level: *metadata.level(),
            target: metadata.target().to_owned(),
            message: String::new(),
            fields: Vec::new(),
        };
        event.record(&mut line);
        line
    }

    fn push(&mut self, field: &Field, value: Value) {
        match (field.name(), value) {
            ("message", Value::String(text)) => self.message = text,
            ("message", value) => self.message = value.to_string(),
            (name, _) if name.starts_with("log.") => {}
            (name, value) => self.fields.push((name, value)),
        }
    }
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.push(field, Value::String(format!("{value:?}")));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.push(field, Value::from(value));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.push(field, Value::from(value));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.push(field, Value::from(value));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.push(field, Value::from(value));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.push(field, Value::from(value));
    }

    /// An error with its causes.
    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.push(field, Value::String(with_causes(value)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Captured(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Captured {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// The log that `log` writes, with a fixed time.
    fn captured(directives: &str, format: LogFormat, colours: bool, log: impl FnOnce()) -> String {
        let captured = Captured::default();
        let writer = captured.clone();
        let clock = || Timestamp::new(1_767_225_600 + 43_384, 50_000_000).unwrap();
        let lines = Lines { format, instance_id: "ab12cd34".to_owned(), clock };
        let (subscriber, _) = subscriber(directives, lines, move || writer.clone(), colours);
        tracing::subscriber::with_default(subscriber, log);
        let bytes = captured.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[derive(Debug, thiserror::Error)]
    #[error("failed to open the store")]
    struct Outer(#[source] io::Error);

    #[test]
    fn a_line_of_json_has_the_fixed_keys_first_and_then_the_fields() {
        let text = captured("info", LogFormat::Json, false, || {
            let error = Outer(io::Error::other("disk on fire"));
            tracing::info!(target: "file_watcher::x", files = 3_u64, rate = 1.5, name = %"a\nb", done = true, "batch committed");
            tracing::warn!(target: "file_watcher::x", error = &error as &dyn std::error::Error, level = "loud", "not {}", "good");
        });
        insta::assert_snapshot!(text, @r#"
        {"timestamp":"2026-01-01T12:03:04.050000Z","level":"INFO","message":"batch committed","target":"file_watcher::x","instance_id":"ab12cd34","files":3,"rate":1.5,"name":"a\nb","done":true}
        {"timestamp":"2026-01-01T12:03:04.050000Z","level":"WARN","message":"not good","target":"file_watcher::x","instance_id":"ab12cd34","error":"failed to open the store: disk on fire","field_level":"loud"}
        "#);
        for line in text.lines() {
            serde_json::from_str::<Value>(line).unwrap();
        }
    }

    #[test]
    fn a_pretty_line_is_short_and_escapes_control_characters() {
        let text = captured("info", LogFormat::Pretty, false, || {
            tracing::info!(files = 3, path = "a b", "batch committed");
            tracing::error!(path = %"\u{1b}[2J", "bad\nname \u{1b}[2J");
        });
        insta::assert_snapshot!(text, @r#"
        12:03:04Z INFO  batch committed  files=3 path="a b" instance_id=ab12cd34
        12:03:04Z ERROR bad\nname \u{1b}[2J  path="\u{1b}[2J" instance_id=ab12cd34
        "#);
    }

    #[test]
    fn a_terminal_gets_colours() {
        let text = captured("info", LogFormat::Pretty, true, || tracing::warn!(files = 3, "slow"));
        assert_eq!(
            text,
            "\u{1b}[2m12:03:04Z\u{1b}[0m \u{1b}[33mWARN \u{1b}[0m slow  \u{1b}[2mfiles=3 instance_id=ab12cd34\u{1b}[0m\n"
        );
    }

    #[test]
    fn other_libraries_log_only_warnings() {
        let text = captured("warn,file_watcher=info", LogFormat::Pretty, false, || {
            tracing::info!(target: "lapin::channel", "chatter");
            tracing::warn!(target: "lapin::channel", "trouble");
            tracing::info!(target: "file_watcher::store", "ours");
        });
        insta::assert_snapshot!(text, @"
        12:03:04Z WARN  trouble  instance_id=ab12cd34
        12:03:04Z INFO  ours  instance_id=ab12cd34
        ");
    }

    #[test]
    fn a_line_of_the_log_crate_looks_like_any_other() {
        let text = captured("info", LogFormat::Json, false, || {
            let mut record = tracing_log::log::Record::builder();
            let record = record.level(tracing_log::log::Level::Warn).target("lofty::id3");
            tracing_log::format_trace(&record.args(format_args!("odd frame")).build()).unwrap();
        });
        insta::assert_snapshot!(text, @r#"{"timestamp":"2026-01-01T12:03:04.050000Z","level":"WARN","message":"odd frame","target":"lofty::id3","instance_id":"ab12cd34"}"#);
    }
}
