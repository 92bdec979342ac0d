//! Errors of the command line, each as one line.

use clap::error::{ContextKind, ErrorKind};

use super::raw_value::without_secrets;
use super::{Exit, SettingsError, arguments};

/// Converts an error of `clap`: the help, the version, or one line.
pub(super) fn exit_of(error: &clap::Error) -> Exit {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Exit::Print(error.render().to_string()),
        _ => Exit::Invalid(SettingsError::Usage(one_line(error))),
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
            Some(extra) => format!("{:?} is one argument too many", without_secrets(&extra)),
            None => "there is one argument too many".to_owned(),
        },
        ErrorKind::InvalidSubcommand => {
            let given = without_secrets(&context(ContextKind::InvalidSubcommand).unwrap_or_default());
            format!("{given:?} is not a command; the commands are {}", command_names())
        }
        ErrorKind::InvalidValue => {
            format!("{} needs a value", named(ContextKind::InvalidArg).unwrap_or_else(|| "a flag".to_owned()))
        }
        ErrorKind::MissingRequiredArgument => {
            if context(ContextKind::InvalidArg).is_some_and(|missing| missing.contains("SHELL")) {
                "completions needs a shell: bash, zsh, fish, elvish or powershell".to_owned()
            } else {
                "relocate needs the old and the new directory: file-watcher relocate OLD NEW".to_owned()
            }
        }
        // This declaration causes no other kind. If it does, its own text is good enough.
        _ => error.to_string().lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned(),
    };
    let meant = named(ContextKind::SuggestedArg).or_else(|| context(ContextKind::SuggestedSubcommand));
    let meant = meant.map(|meant| meant.replace(", ", " or "));
    match meant {
        Some(meant) => format!("{problem}; did you mean {meant}? See file-watcher --help"),
        None => format!("{problem}; see file-watcher --help"),
    }
}

/// The names of all commands: `a, b and c`.
fn command_names() -> String {
    let declared = arguments::command();
    let names: Vec<&str> = declared.get_subcommands().map(clap::Command::get_name).collect();
    let (last, others) = names.split_last().expect("there are commands");
    format!("{} and {last}", others.join(", "))
}
