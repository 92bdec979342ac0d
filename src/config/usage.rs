//! The command line as users write it, and its errors, each as one line.

use std::ffi::{OsStr, OsString};
use std::path::Path;

use clap::error::{ContextKind, ErrorKind};
use clap::{ArgMatches, Command};

use super::raw_value::without_secrets;
use super::{Exit, SettingsError, arguments};
use crate::model::printable;

/// The flags whose value can be left out. Their next argument is their value only if it is one of these words.
const OPTIONAL_VALUES: [(&str, &[&str]); 3] = [
    ("--exclude-defaults", &BOOLEANS),
    ("--ignore-ctime", &BOOLEANS),
    ("--follow-symlinks", &{
        let [a, b, c, d, e, f, g, h] = BOOLEANS;
        [a, b, c, d, e, f, g, h, "never", "inside", "all"]
    }),
];

const BOOLEANS: [&str; 8] = ["true", "yes", "on", "1", "false", "no", "off", "0"];

/// A word is suggested if at most one letter in this many differs from the one that was given, and at least one may.
const LETTERS_PER_DIFFERENCE: usize = 4;

/// Parses the arguments, the program's name first. `file-watcher DIR` means `file-watcher watch DIR`.
pub(super) fn parse(declared: &Command, arguments: Vec<OsString>) -> Result<ArgMatches, Exit> {
    let arguments = with_values(arguments);
    if let Some(problem) = stray_value(declared, &arguments) {
        return Err(Exit::Invalid(SettingsError::Usage(problem)));
    }
    match declared.clone().try_get_matches_from(&arguments) {
        Ok(matches) => Ok(matches),
        Err(error) => match as_watch(declared, &error, &arguments) {
            Some(arguments) => declared.clone().try_get_matches_from(arguments).map_err(|error| exit_of(&error)),
            None => Err(exit_of(&error)),
        },
    }
}

/// Joins the flags whose value can be left out with the value that follows: `--ignore-ctime true` is
/// `--ignore-ctime=true`, and `--ignore-ctime scan` is not.
fn with_values(arguments: Vec<OsString>) -> Vec<OsString> {
    let mut joined: Vec<OsString> = Vec::with_capacity(arguments.len());
    for argument in arguments {
        let is_value = joined.last().is_some_and(|flag| is_value_of(flag, &argument));
        match joined.last_mut() {
            Some(flag) if is_value => {
                flag.push("=");
                flag.push(argument);
            }
            _ => joined.push(argument),
        }
    }
    joined
}

/// What is wrong with a word behind a flag whose value can be left out, if it is neither a value, a command nor a directory.
fn stray_value(declared: &Command, arguments: &[OsString]) -> Option<String> {
    let options = arguments.split(|argument| argument == "--").next()?;
    options.iter().zip(options.iter().skip(1)).find_map(|(flag, word)| {
        let (name, values) = OPTIONAL_VALUES.into_iter().find(|(name, _)| flag == name)?;
        let text = word.to_string_lossy();
        let is_command = declared.get_subcommands().any(|command| text == command.get_name());
        let is_other = text.starts_with('-') || text.contains('/') || is_command || Path::new(word).is_dir();
        (!is_other).then(|| {
            let given = without_secrets(&text);
            format!("{given:?} is no value of {name} ({}), no command and no directory", values.join(", "))
        })
    })
}

fn is_value_of(flag: &OsStr, argument: &OsStr) -> bool {
    let values = OPTIONAL_VALUES.into_iter().find(|(name, _)| flag == *name).map_or(&[][..], |(_, values)| values);
    values.iter().any(|value| argument.eq_ignore_ascii_case(value))
}

/// The same arguments with the command `watch`, if the word that is no command is a directory.
fn as_watch(declared: &Command, error: &clap::Error, arguments: &[OsString]) -> Option<Vec<OsString>> {
    let word = error.get(ContextKind::InvalidSubcommand).or_else(|| error.get(ContextKind::InvalidArg))?.to_string();
    let is_directory = word.contains('/') || Path::new(&word).is_dir();
    let place = arguments.iter().skip(1).position(|argument| *argument == *word)? + 1;
    let is_unknown = matches!(error.kind(), ErrorKind::InvalidSubcommand | ErrorKind::UnknownArgument);
    let is_command = |argument: &OsString| declared.get_subcommands().any(|command| *argument == *command.get_name());
    let is_first = !arguments[..place].iter().any(|argument| is_command(argument) || argument == "--");
    (is_directory && is_unknown && is_first && !word.starts_with('-')).then(|| {
        let mut with_command = arguments.to_vec();
        with_command.insert(place, "watch".into());
        with_command
    })
}

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
                format!("there is no flag {}", printable(flag.split('=').next().unwrap_or_default()))
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
            let missing = context(ContextKind::InvalidArg).unwrap_or_default();
            if missing.contains("SHELL") {
                "completions needs a shell: bash, zsh, fish, elvish or powershell".to_owned()
            } else if missing.contains("FILE") {
                "inspect needs a file: file-watcher inspect FILE...".to_owned()
            } else {
                "relocate needs the old and the new directory: file-watcher relocate OLD NEW".to_owned()
            }
        }
        // This declaration causes no other kind. If it does, its own text is good enough.
        _ => error.to_string().lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned(),
    };
    let given = named(ContextKind::InvalidArg).or_else(|| context(ContextKind::InvalidSubcommand));
    let meant = named(ContextKind::SuggestedArg).or_else(|| context(ContextKind::SuggestedSubcommand));
    let near: Vec<String> = meant
        .unwrap_or_default()
        .split(", ")
        .filter(|meant| !meant.is_empty() && given.as_ref().is_some_and(|given| is_near(given, meant)))
        .map(ToOwned::to_owned)
        .collect();
    if near.is_empty() {
        return format!("{problem}; see file-watcher --help");
    }
    format!("{problem}; did you mean {}? See file-watcher --help", near.join(" or "))
}

/// Whether a word can be a misspelt form of another. clap's own suggestions are less strict.
fn is_near(given: &str, meant: &str) -> bool {
    let (given, meant) = (given.trim_start_matches('-'), meant.trim_start_matches('-'));
    let differing = strsim::damerau_levenshtein(given, meant);
    meant.starts_with(given) || differing <= (meant.len() / LETTERS_PER_DIFFERENCE).max(1)
}

/// The names of all commands: `a, b and c`.
fn command_names() -> String {
    let declared = arguments::command();
    let names: Vec<&str> = declared.get_subcommands().map(clap::Command::get_name).collect();
    let (last, others) = names.split_last().expect("there are commands");
    format!("{} and {last}", others.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_word_that_is_near_is_suggested() {
        assert!(is_near("--rabitmq-host", "--rabbitmq-host") && is_near("--sinc", "--sink") && is_near("scna", "scan"));
        assert!(is_near("--rabbitmq", "--rabbitmq-url"));
        assert!(!is_near("--frobnicate", "--unroutable") && !is_near("xyz", "scan") && !is_near("ls", "list"));
    }

    #[test]
    fn a_value_that_can_be_left_out_is_only_one_of_its_words() {
        let joined = |arguments: &str| {
            let arguments = arguments.split(' ').map(OsString::from).collect();
            let words: Vec<String> =
                with_values(arguments).into_iter().map(|word| word.into_string().unwrap()).collect();
            words.join(" ")
        };
        assert_eq!(joined("x --ignore-ctime true scan"), "x --ignore-ctime=true scan");
        assert_eq!(joined("x --ignore-ctime scan"), "x --ignore-ctime scan");
        assert_eq!(joined("x --follow-symlinks All watch"), "x --follow-symlinks=All watch");
        assert_eq!(joined("x scan true"), "x scan true");
    }

    #[test]
    fn a_word_that_is_no_value_is_not_blamed_on_the_directory() {
        let parse = |arguments: &str| {
            let arguments = arguments.split(' ').map(OsString::from).collect();
            parse(&arguments::command(), arguments).err().map(|exit| format!("{exit:?}"))
        };
        for arguments in ["x --ignore-ctime maybe lib", "x scan --ignore-ctime maybe lib", "x --ignore-ctime maybe"] {
            let error = parse(arguments).unwrap();
            assert!(error.contains("maybe") && error.contains("is no value of --ignore-ctime (true, "), "{error}");
        }
        for arguments in ["x scan --ignore-ctime ./lib", "x --ignore-ctime scan lib", "x scan -- --ignore-ctime"] {
            assert_eq!(parse(arguments), None, "{arguments}");
        }
    }
}
