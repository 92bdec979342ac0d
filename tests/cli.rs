//! The command line: help, version, and invalid values of every setting.

#[path = "support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use support::process::{Launcher, NOBODY};

const PASSWORD: &str = "hunter2";

/// The binary, with its own home directory and only the variables that a test sets.
struct Program {
    home: tempfile::TempDir,
    launcher: Launcher,
}

impl Program {
    /// A program with an empty library, and with a password that must never be shown.
    fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        std::fs::create_dir(home.path().join("library")).unwrap();
        std::fs::create_dir(home.path().join("elsewhere")).unwrap();
        let mut launcher = Launcher::new(home.path());
        launcher.set("HOME", home.path().join("home")).set("DATA_DIR", "library").set("RABBITMQ_PASS", PASSWORD);
        Self { home, launcher }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    fn set(&mut self, name: &str, value: impl AsRef<OsStr>) -> &mut Self {
        self.launcher.set(name, value);
        self
    }

    fn unset(&mut self, name: &str) -> &mut Self {
        self.launcher.unset(name);
        self
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.launcher.command(arguments).output().unwrap()
    }

    /// The one line of a usage error, with the path of the home directory replaced.
    fn refused(&self, arguments: &[&str]) -> String {
        self.refusal(&mut self.launcher.command(arguments))
    }

    fn refusal(&self, command: &mut Command) -> String {
        let output = command.output().unwrap();
        let line = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{line}");
        assert_eq!(output.stdout, b"", "standard output is for messages only");
        assert!(line.starts_with("file-watcher: ") && line.ends_with('\n') && line.lines().count() == 1, "{line}");
        assert!(!line.contains(PASSWORD), "{line}");
        line.trim_end().replace(self.home.path().to_str().unwrap(), "[HOME]")
    }
}

fn text(bytes: &[u8]) -> String {
    // clap leaves spaces on its empty lines.
    String::from_utf8(bytes.to_vec()).unwrap().lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
}

#[test]
fn the_help_of_every_command_lists_every_setting() {
    let output = Program::new().run(&["--help"]);
    assert!(output.status.success() && output.stderr.is_empty());
    insta::assert_snapshot!("help", text(&output.stdout));
    for command in
        ["scan", "watch", "held", "approve", "relocate", "replay", "list", "duplicates", "events", "parked", "inspect"]
    {
        let help = text(&Program::new().run(&[command, "--help"]).stdout);
        assert_eq!(settings_in_help(&help), settings_in_help(&text(&output.stdout)));
    }
}

#[test]
fn the_help_is_printed_even_if_settings_are_invalid_and_shows_no_password() {
    let mut program = Program::new();
    program.set("BATCH_SIZE", "abc").set("RABBITMQ_URL", format!("http://{PASSWORD}")).set("DATA_DIR", "nowhere");
    std::fs::write(program.path(".env"), "no line like this").unwrap();
    for arguments in [["--help"].as_slice(), &["scan", "-h"], &["--batch-size", "x", "watch", "--help"]] {
        let output = program.run(arguments);
        assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
        assert!(text(&output.stdout).contains("RABBITMQ_PASS") && !text(&output.stdout).contains(PASSWORD));
    }
}

#[test]
fn the_version_is_the_package_s() {
    for arguments in [["--version"].as_slice(), &["-V"], &["scan", "--version"]] {
        let output = Program::new().run(arguments);
        assert!(output.status.success());
        let words = text(&output.stdout);
        assert_eq!(words.split_whitespace().last(), Some(env!("CARGO_PKG_VERSION")));
    }
}

/// Invalid values of each setting.
const WRONG: &[(&str, &[&[u8]])] = &[
    ("AUDIO_EXTENSIONS", &[b"mp3;flac", b"+", b","]),
    ("BATCH_SIZE", &[b"abc", b"0", b"-5", b"10001", b"1.5", b"\xff"]),
    ("DATA_DIR", &[b"nowhere", b"file"]),
    ("DEBOUNCE_MS", &[b"abc", b"2h", b"50 ticks", b"3600001"]),
    ("EXCLUDE", &[b"[z-a]", b"*.wav,{a", b"#recycle", b"\xff"]),
    ("EXCLUDE_DEFAULTS", &[b"some"]),
    ("EXCLUDE_FILE", &[b"nowhere", b"library", b"patterns", b"not-utf-8"]),
    ("FOLLOW_SYMLINKS", &[b"outside", b"2"]),
    ("HTTP_ADDR", &[b"on", b"8080", b":8080", b"localhost:8080", b"127.0.0.1:70000"]),
    ("IGNORE_CTIME", &[b"2"]),
    ("IGNORE_INODE", &[b"2"]),
    ("INSTANCE_ID", &[b"two words", b"0123456789012345678901234567890123456789012345678901234567890123x"]),
    ("IO_PRIORITY", &[b"low", b"7"]),
    ("LOG_FORMAT", &[b"xml"]),
    ("LOG_LEVEL", &[b"chatty", b"lapin=loud"]),
    ("MASS_DELETE_PERCENT", &[b"101", b"50%"]),
    ("MAX_BYTES_PER_SECOND", &[b"fast", b"10MB/s", b"-1"]),
    ("MAX_CONCURRENT_FILES", &[b"abc", b"0"]),
    ("MAX_FILES_PER_SECOND", &[b"fast", b"10K"]),
    ("METADATA_STYLE", &[b"round"]),
    (
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        &[b"localhost:4318", b"https://localhost:4318", b"http://u:hunter2@localhost:4318", b"on"],
    ),
    ("OUTBOX_MAX_EVENTS", &[b"many", b"0"]),
    ("PARTITION", &[b"1", b"0/2", b"3/2", b"1/1001", b"a/b", b"\xff"]),
    ("POLL_INTERVAL_SECS", &[b"0", b"30 moons", b"2d"]),
    ("RABBITMQ_CA_FILE", &[b"nowhere", b"library", b"file", b"file/below"]),
    ("RABBITMQ_CERT_FILE", &[b"file"]),
    (
        "RABBITMQ_HOST",
        &[
            b"amqp://u:hunter2@rabbit",
            b"u:hunter2@rabbit",
            b"two words",
            b"rabbit:port",
            b"rabbit,",
            b"[::1",
            b"rabbit:0,other",
        ],
    ),
    ("RABBITMQ_KEY_FILE", &[b"file"]),
    ("RABBITMQ_PASS", &[b"hunter2\xff"]),
    ("RABBITMQ_PASS_FILE", &[b"hunter2", b"library", b"file", b"not-utf-8"]),
    ("RABBITMQ_PORT", &[b"abc", b"0", b"65536", b"tcp://10.0.0.1:5672"]),
    (
        "RABBITMQ_URL",
        &[
            b"http://u:hunter2@rabbit/",
            b"rabbit:5672",
            b"hunter2",
            b"amqp://u:hunter2@rabbit:port/",
            b"amqp://u:#hunter2@rabbit/",
            b"amqp://u:hunt/er2@rabbit/",
            b"amqp://u:1/hunter2@rabbit/",
            b"amqp://u:hunter2@rabbit:0/",
            b"amqp://u:hunter2@rabbit/?heartbeat=often",
            b"amqp://u:hunter2@rab bit/",
            b"amqp://u:hunter2@rabbit-1:5672,,rabbit-2/",
            b"amqp://u:hunter2@rabbit,::1/",
            b"amqp://rabbit,u:hunter2/",
            b"amqp://u:hunter2@rabbit/?heartbeet=3",
            b"amqp://u:hunter2\xff@rabbit/",
        ],
    ),
    ("RABBITMQ_URL_FILE", &[b"amqp://u:hunter2@rabbit/", b"library", b"file", b"not-utf-8", b"not-a-url"]),
    ("RABBITMQ_USER", &[b"\xff"]),
    ("RABBITMQ_VHOST", &[b"\xff"]),
    ("RELOCATE_FROM", &[b"library"]),
    ("RESCAN_INTERVAL_SECS", &[b"hourly", b"31536001"]),
    ("SETTLE_MS", &[b"2 s s"]),
    ("SHUTDOWN_GRACE_SECS", &[b"long", b"3601"]),
    ("SINK", &[b"kafka", b"amqp://u:hunter2@rabbit"]),
    ("STATE_DIR", &[b"library/state", b"file", b"file/state"]),
    ("TAGS", &[b"some", b"title,artist"]),
    ("UNROUTABLE", &[b"burn"]),
    ("VERIFY_INTERVAL_DAYS", &[b"never", b"-1", b"3651"]),
    ("WATCH_MODE", &[b"inotify"]),
];

#[test]
fn every_setting_is_checked_whether_by_variable_or_by_flag() {
    let mut lines = String::new();
    for (name, values) in WRONG {
        for value in *values {
            let value = OsStr::from_bytes(value);
            let mut program = Program::new();
            std::fs::write(program.path("file"), "").unwrap();
            std::fs::write(program.path("not-utf-8"), b"hunter2\xff\n").unwrap();
            std::fs::write(program.path("patterns"), "# two lines\n*.wav\n[z-a]\n").unwrap();
            std::fs::write(program.path("not-a-url"), "http://u:hunter2@rabbit/\n").unwrap();
            if *name == "RABBITMQ_PASS_FILE" {
                program.unset("RABBITMQ_PASS");
            }
            let by_variable = program.refusal(program.launcher.command([""; 0]).env(name, value));

            let flag = format!("--{}", name.to_lowercase().replace('_', "-"));
            let mut argument = OsString::from(format!("{flag}="));
            argument.push(value);
            let by_flag = program.refusal(&mut program.launcher.command([OsStr::new("scan"), &argument]));

            let problem = by_variable.strip_prefix(&format!("file-watcher: {name}: ")).expect(&by_variable);
            assert_eq!(by_flag, format!("file-watcher: {flag} ({name}): {problem}"));
            lines.push_str(&by_variable);
            lines.push('\n');
        }
    }
    insta::assert_snapshot!("settings", lines);
}

#[test]
fn no_setting_is_left_out_of_the_checks() {
    let help = text(&Program::new().run(&["--help"]).stdout);
    let declared: Vec<String> = settings_in_help(&help).into_keys().collect();
    let checked: Vec<&str> = WRONG.iter().map(|(name, _)| *name).collect();
    assert_eq!(checked, declared);
}

#[test]
fn the_flag_for_patterns_may_be_given_several_times_and_replaces_the_variable() {
    let mut program = Program::new();
    program.set("SINK", "stdout").set("EXCLUDE", "c.mp3");
    for name in ["a.mp3", "b, the second.mp3", "c.mp3", "d.mp3"] {
        std::fs::write(program.path("library").join(name), name).unwrap();
    }
    let published = |state: &str, arguments: &[&str]| {
        let output = program.run(&[&["scan", "--state-dir", state], arguments].concat());
        assert!(output.status.success(), "{output:?}");
        text(&output.stdout).lines().count()
    };
    assert_eq!(published("one", &[]), 3);
    assert_eq!(published("two", &["--exclude", "a.mp3", "--exclude", r"b\, the*,d.mp3"]), 1);
    assert_eq!(published("three", &["--exclude="]), 4);
}

#[test]
fn every_usage_error_is_one_line() {
    let program = Program::new();
    let cases: &[&[&str]] = &[
        &["--snik", "stdout"],
        &["--snik=amqp://u:hunter2@rabbit"],
        &["scan", "--frobnicate"],
        &["-x"],
        &["scan", "library", "elsewhere"],
        &["scan", "library", "amqp://u:hunter2@rabbit"],
        &["scna"],
        &["libary"],
        &["libary/albums"],
        &["help", "nothing"],
        &["scan", "--sink"],
        &["--batch-size", "-5"],
        &["--ignore-ctime=perhaps"],
        &["scan", ""],
        &["scan", "nowhere"],
        &["watch", "library/nowhere"],
        &["relocate"],
        &["relocate", "elsewhere"],
        &["relocate", "", "library"],
        &["relocate", "library", "library"],
        &["relocate", "elsewhere", "nowhere"],
        &["approve", "--path", "/elsewhere"],
        &["held", "--path", "a"],
        &["scan", "--state-dir", ""],
        &["scan", "--state-dir", "library"],
        &["scan", "--state-dir", "library/../library/a/b"],
        &["parked", "--retry", "seven", "8"],
        &["parked", "--retry", "7", "--drop", "8"],
        &["parked", "--json", "--drop"],
        &["parked", "--drop", "7", "nowhere"],
        &["parked", "--rebuild-index"],
        &["list", "--format", "flacc"],
        &["list", "--where", "conductor=Bach"],
        &["list", "--where", "Bach"],
        &["list", "--path", "/elsewhere"],
        &["duplicates", "nowhere"],
        &["events", "library"],
        &["events", "--type", "created,lost"],
        &["events", "--path", "a"],
        &["events", "--count", "0"],
        &["completions"],
        &["completions", "tcsh"],
        &["schema", "library"],
        &["inspect"],
        &["inspect", "a.mp3", "--tags", "some"],
    ];
    let lines: Vec<String> = cases
        .iter()
        .map(|arguments| format!("$ file-watcher {}\n{}\n", arguments.join(" "), program.refused(arguments)))
        .collect();
    insta::assert_snapshot!("slips", lines.join("\n"));
}

#[test]
fn settings_that_contradict_each_other_are_named() {
    let certificate = |name: &str| rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
    let (ours, theirs) = (certificate("ours"), certificate("theirs"));
    let program = |variables: &[(&str, &str)]| {
        let mut program = Program::new();
        for (name, content) in [
            ("certificate", ours.cert.pem()),
            ("key", ours.signing_key.serialize_pem()),
            ("theirs", theirs.signing_key.serialize_pem()),
            ("garbage", "-----BEGIN CERTIFICATE-----\nhunter2\n-----END CERTIFICATE-----\n".to_owned()),
            (
                "encrypted",
                "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n".to_owned(),
            ),
            ("secret", format!("{PASSWORD}\n")),
            ("plain", "amqp://u:hunter2@rabbit/\n".to_owned()),
            ("encrypting", "amqps://u:hunter2@rabbit/\n".to_owned()),
        ] {
            std::fs::write(program.path(name), content).unwrap();
        }
        for (name, value) in variables {
            program.set(name, value);
        }
        program
    };
    let encrypting = ("RABBITMQ_URL_FILE", "encrypting");
    let (ca, certificate, key) = ("RABBITMQ_CA_FILE", "RABBITMQ_CERT_FILE", "RABBITMQ_KEY_FILE");
    let cases: &[&[(&str, &str)]] = &[
        &[("RABBITMQ_PASS_FILE", "secret")],
        &[("RABBITMQ_URL", "amqp://rabbit"), ("RABBITMQ_PASS_FILE", "secret")],
        &[encrypting, ("RABBITMQ_URL", "amqps://u:hunter2@rabbit/")],
        &[encrypting, (certificate, "certificate")],
        &[encrypting, (key, "key")],
        &[(ca, "certificate")],
        &[("RABBITMQ_URL_FILE", "plain"), (certificate, "certificate"), (key, "key")],
        &[encrypting, (ca, "key")],
        &[encrypting, (ca, "garbage")],
        &[encrypting, (certificate, "nowhere"), (key, "key")],
        &[encrypting, (certificate, "key"), (key, "key")],
        &[encrypting, (certificate, "garbage"), (key, "key")],
        &[encrypting, (certificate, "certificate"), (key, "nowhere")],
        &[encrypting, (certificate, "certificate"), (key, "-----BEGIN PRIVATE KEY----- hunter2")],
        &[encrypting, (certificate, "certificate"), (key, "certificate")],
        &[encrypting, (certificate, "certificate"), (key, "encrypted")],
        &[encrypting, (certificate, "certificate"), (key, "theirs")],
    ];
    let lines: Vec<String> = cases
        .iter()
        .map(|variables| {
            let given: Vec<String> = variables.iter().map(|(name, value)| format!("{name}={value}")).collect();
            format!("$ {}\n{}\n", given.join(" ").replace(PASSWORD, "[PASSWORD]"), program(variables).refused(&[]))
        })
        .collect();
    insta::assert_snapshot!("contradictions", lines.join("\n"));

    let by_flags = program(&[encrypting]).refused(&["--rabbitmq-pass-file=secret", "--rabbitmq-url", "amqps://rabbit"]);
    assert!(by_flags.contains(": --rabbitmq-url (RABBITMQ_URL) and RABBITMQ_URL_FILE: are both given"), "{by_flags}");
    let good = program(&[encrypting, (ca, "certificate"), (certificate, "certificate"), (key, "key")]);
    assert!(good.run(&["scan", "--sink=stdout"]).status.success());
}

#[test]
fn an_error_about_a_default_directory_names_the_missing_setting() {
    let mut program = Program::new();
    program.unset("HOME");
    insta::assert_snapshot!(program.refused(&[]), @"file-watcher: STATE_DIR: is not set, and HOME is not set either; give a directory outside of the library");
    program.set("HOME", program.path("library"));
    let refused = program.refused(&["scan"]);
    assert!(refused.contains("is inside the library \"[HOME]/library\""), "{refused}");
    program.set("FILE_WATCHER_SCAN_PATH", "nowhere").unset("DATA_DIR");
    insta::assert_snapshot!(program.refused(&[]), @r#"file-watcher: FILE_WATCHER_SCAN_PATH: "[HOME]/nowhere" does not exist; give the directory that contains the music"#);
}

#[test]
fn a_state_directory_that_is_in_use_or_cannot_be_created_is_refused() {
    let mut program = Program::new();
    program.set("STATE_DIR", "state");
    let held = file_watcher::store::StateDir::open(&program.path("state")).unwrap();
    let refused = program.refused(&["scan"]);
    assert!(refused.starts_with("file-watcher: STATE_DIR: \"[HOME]/state\" is in use"), "{refused}");
    drop(held);
    program.set("STATE_DIR", "/proc/state");
    let refused = program.refused(&["scan"]);
    assert!(refused.starts_with("file-watcher: STATE_DIR: \"/proc/state\" cannot be used"), "{refused}");
}

/// Runs as another user if this one is root, because root can read everything.
#[test]
fn an_unreadable_library_is_refused() {
    let mut program = Program::new();
    program.launcher.link_binary();
    let allow = |path: &Path, mode| std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    allow(program.home.path(), 0o755);
    if rustix::process::geteuid().is_root() {
        program.launcher.run_as(NOBODY);
    }
    for mode in [0o000, 0o444, 0o111] {
        allow(&program.path("library"), mode);
        let line = program.refused(&[]);
        assert_eq!(
            line,
            "file-watcher: DATA_DIR: \"[HOME]/library\" cannot be read; grant this user permission to read and enter it",
            "{mode:o}"
        );
    }
    allow(&program.path("library"), 0o755);
}

#[test]
fn dot_env_provides_variables_that_are_not_set() {
    let mut program = Program::new();
    std::fs::write(program.path(".env"), "# comment\nexport BATCH_SIZE='from .env'\nSINK=\n").unwrap();
    assert!(program.refused(&[]).contains("BATCH_SIZE: \"from .env\""));
    program.set("BATCH_SIZE", "from the environment");
    assert!(program.refused(&[]).contains("BATCH_SIZE: \"from the environment\""));
    program.set("BATCH_SIZE", "");
    assert!(program.refused(&[]).contains("BATCH_SIZE: \"from .env\""));
    assert!(program.refused(&["--batch-size=flag"]).contains("--batch-size (BATCH_SIZE): \"flag\""));

    // A `.env` in a parent directory is not read.
    program.set("DATA_DIR", "nowhere");
    let directory = program.path("elsewhere");
    let line = program.refusal(program.launcher.command([""; 0]).current_dir(directory));
    assert!(line.contains("nowhere"), "{line}");
}

#[test]
fn a_malformed_dot_env_is_named_by_its_line_and_not_shown() {
    let program = Program::new();
    std::fs::write(program.path(".env"), format!("SINK=stdout\nRABBITMQ_PASS=my {PASSWORD}\n")).unwrap();
    insta::assert_snapshot!(program.refused(&[]), @"file-watcher: .env: line 2 is not NAME=value; put quotes around a value with spaces");
    std::fs::write(program.path(".env"), b"SINK=\xff\n").unwrap();
    insta::assert_snapshot!(program.refused(&[]), @"file-watcher: .env: cannot be read: stream did not contain valid UTF-8");
}

#[test]
fn a_deprecated_variable_causes_one_warning_and_the_log_shows_no_password() {
    let mut program = Program::new();
    program.unset("DATA_DIR").set("FILE_WATCHER_SCAN_PATH", "library").set("LOG_LEVEL", "trace");
    let output = program.run(&["scan", "--sink", "stdout", "--instance-id", "tested"]);
    let log = text(&output.stderr);
    assert_eq!(log.matches("FILE_WATCHER_SCAN_PATH is deprecated; use DATA_DIR").count(), 1, "{log}");
    assert!(!log.contains(PASSWORD), "{log}");
    // The lines after the log are the summary.
    for line in log.lines().filter(|line| !line.starts_with(|first: char| first.is_ascii_lowercase())) {
        let line: serde_json::Value = serde_json::from_str(line).expect(line);
        assert_eq!(line["instance_id"], "tested");
    }
}

#[test]
fn the_documentation_and_the_help_agree_on_every_setting() {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/settings.md")).unwrap();
    let help = text(&Program::new().run(&["--help"]).stdout);
    assert_eq!(settings_in_page(&page), settings_in_help(&help));
}

/// Flag and default of each variable. The default is empty if there is none.
type Listed = BTreeMap<String, (String, String)>;

fn settings_in_help(help: &str) -> Listed {
    let mut listed = Listed::new();
    let (mut flag, mut variable) = (String::new(), String::new());
    for line in help.lines().map(str::trim) {
        if line.starts_with("--") {
            line.split([' ', '[']).next().unwrap_or_default().clone_into(&mut flag);
        }
        let bracketed = |name: &str| line.strip_prefix(name)?.strip_suffix(']');
        if let Some(name) = bracketed("[env: ") {
            name.clone_into(&mut variable);
            listed.insert(variable.clone(), (flag.clone(), String::new()));
        }
        if let Some(default) = bracketed("[default: ")
            && let Some(entry) = listed.get_mut(&variable)
        {
            default.clone_into(&mut entry.1);
        }
    }
    listed
}

/// Reads the rows "| `VARIABLE` | `--flag` | `default` | meaning |". A default in words counts as none.
fn settings_in_page(page: &str) -> Listed {
    let code = |cell: &str| cell.strip_prefix('`')?.strip_suffix('`').map(ToOwned::to_owned);
    page.lines()
        .filter_map(|line| {
            let mut cells = line.strip_prefix("| ")?.split(" | ");
            let (variable, flag) = (code(cells.next()?)?, code(cells.next()?)?);
            let default = code(cells.next()?).unwrap_or_default();
            flag.starts_with("--").then_some((variable, (flag, default)))
        })
        .collect()
}

#[test]
fn the_schema_in_the_docs_is_the_one_that_is_printed() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
    let printed = Program::new().run(&["schema"]);
    assert!(printed.status.success() && printed.stderr.is_empty());
    // To make it anew: `cargo run -- schema > docs/message.schema.json`.
    assert_eq!(std::fs::read_to_string(docs.join("message.schema.json")).unwrap(), text(&printed.stdout) + "\n");
    let asyncapi = std::fs::read_to_string(docs.join("asyncapi.json")).unwrap();
    let asyncapi: serde_json::Value = serde_json::from_str(&asyncapi).unwrap();
    let words = &asyncapi["channels"]["file_events"]["parameters"]["event_type"]["enum"];
    let schema: serde_json::Value = serde_json::from_slice(&printed.stdout).unwrap();
    let types = schema["$defs"]["EventType"]["oneOf"].as_array().unwrap().iter();
    assert_eq!(words.as_array().unwrap().len(), types.clone().count());
    for event_type in types {
        assert!(words.as_array().unwrap().contains(&event_type["const"]), "{event_type}");
    }
}

#[test]
fn completions_and_the_manual_name_every_command() {
    let program = Program::new();
    for arguments in [&["completions", "bash"][..], &["completions", "fish"], &["man"]] {
        let printed = program.run(arguments);
        assert!(printed.status.success() && printed.stderr.is_empty());
        let printed = String::from_utf8(printed.stdout).unwrap().replace('\\', "");
        for command in ["scan", "watch", "duplicates", "verify", "healthcheck", "inspect"] {
            assert!(printed.contains(command), "{arguments:?}: {command}");
        }
        assert!(!printed.contains(PASSWORD));
    }
}

fn fixture(name: &str) -> String {
    format!("{}/tests/fixtures/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// The lines of a block of `inspect`, without their indent.
fn block<'a>(text: &'a str, title: &str) -> Vec<&'a str> {
    let lines = text.lines().skip_while(|line| line.trim() != title).skip(1);
    lines.take_while(|line| line.starts_with("    ")).map(str::trim).collect()
}

#[test]
fn a_file_is_inspected_without_a_library_a_broker_or_settings() {
    let mut program = Program::new();
    program.unset("HOME").unset("DATA_DIR");
    let output = program.run(&["inspect", &fixture("mp3/tagged-id3v24-and-v1.mp3")]);
    let printed = text(&output.stdout);
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    assert_eq!(printed.lines().next(), Some(&*fixture("mp3/tagged-id3v24-and-v1.mp3")));
    let has = |title: &str, words: &[&str]| {
        block(&printed, title).iter().any(|line| line.split_whitespace().take(words.len()).eq(words.iter().copied()))
    };
    assert!(has("message", &["file_type", "mp3"]) && has("metadata", &["codec", "mp3"]), "{printed}");
    assert!(has("tags", &["genre", "Fusión"]), "{printed}");
    assert!(has("parts of the tags", &["ID3v2.4", "album:", "Ünïcödé"]), "{printed}");
    let second = block(&printed, "parts of the tags").into_iter().find(|line| line.starts_with("ID3v1"));
    assert!(second.is_some_and(|line| line.ends_with("(not published: the first one counts)")), "{printed}");
    assert!(block(&printed, "problems").is_empty());
    let printed = text(&program.run(&["inspect", &fixture("mp3/tagged-all-id3v23.mp3")]).stdout);
    let parts = block(&printed, "parts of the tags");
    let has = |container: &str, content: &str| {
        parts.iter().any(|line| line.starts_with(container) && line.ends_with(&format!(" {content}")))
    };
    assert!(has("ID3v2.3", "a picture") && has("ID3v2.3", "COMM:iTunNORM (not read)"), "{printed}");
    assert!(has("ID3v2.3", "isrc: FRZ039800212"), "{printed}");
}

#[test]
fn a_file_is_inspected_as_a_scan_publishes_it() {
    let program = Program::new();
    let file = program.path("library").join("a\n\u{1b}[2J.m4a");
    std::fs::copy(fixture("m4a/tagged-aac.m4a"), &file).unwrap();
    let lines = |arguments: &[&str]| -> Vec<serde_json::Value> {
        let output = program.run(arguments);
        assert!(output.status.success(), "{output:?}");
        text(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    for (number, flags) in [&[][..], &["--tags", "basic"], &["--metadata-style=flat"]].into_iter().enumerate() {
        let state = number.to_string();
        let scan = [&["scan", "--sink=stdout", "--settle-ms=0", "--state-dir", &state], flags].concat();
        let message = lines(&scan).remove(0);
        let inspected = lines(&[&["inspect", "--json", file.to_str().unwrap()], flags].concat()).remove(0);
        assert_eq!((inspected["problems"].as_array().map(Vec::len), &inspected["more_parts"]), (Some(0), &0.into()));
        let part =
            serde_json::json!({"container": "MP4", "tag": "genre", "text": "Électronique", "is_published": true});
        assert!(inspected["parts"].as_array().unwrap().contains(&part));
        for (field, value) in inspected.as_object().unwrap() {
            let is_own = ["parts", "more_parts", "problems"].contains(&field.as_str());
            assert!(is_own || message[field] == *value, "{field}: {value}");
        }
        assert_eq!(inspected["metadata"]["codec"].is_null(), flags == ["--tags", "basic"]);
    }
    let printed = text(&program.run(&["inspect", file.to_str().unwrap()]).stdout);
    assert!(printed.lines().next().unwrap().ends_with(r"/library/a\n\u{1b}[2J.m4a"), "{printed}");
}

#[test]
fn a_file_that_cannot_be_read_is_named_and_the_others_are_inspected() {
    let program = Program::new();
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    rustix::fs::mknodat(rustix::fs::CWD, program.path("pipe"), rustix::fs::FileType::Fifo, mode, 0).unwrap();
    let output =
        program.run(&["inspect", "--json", "nowhere.mp3", "library", "pipe", &fixture("damaged/truncated.mp3")]);
    assert_eq!(output.status.code(), Some(3));
    let errors = text(&output.stderr);
    let errors: Vec<&str> = errors.lines().collect();
    assert!(errors.len() == 3 && errors[0].starts_with("file-watcher: nowhere.mp3: No such file"), "{errors:?}");
    assert!(errors[1..] == ["file-watcher: library: it is not a file", "file-watcher: pipe: it is not a file"]);
    let inspected: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let error = inspected["metadata"]["error"].as_str().unwrap();
    let problems: Vec<&str> = inspected["problems"].as_array().unwrap().iter().filter_map(|it| it.as_str()).collect();
    assert!(!problems.is_empty() && error == problems.join("; "), "{error} {problems:?}");
}
