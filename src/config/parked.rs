//! The flags of `parked`.

use std::ffi::OsString;

use super::SettingsError;
use super::command::{CommandArguments, ParkedFlags};
use super::raw_value::without_secrets;
use crate::model::ParkedRequest;

/// Separates the library from the flags.
pub(super) fn library_of(mut flags: ParkedFlags) -> (CommandArguments, Option<OsString>) {
    let dir = flags.dir.take();
    let dir = dir.or_else(|| directory_after(flags.retry.as_mut().or(flags.drop.as_mut())));
    (CommandArguments::Parked(flags), dir)
}

/// Removes the library from the end of a list of sequence numbers: `clap` takes it for one of them.
fn directory_after(sequences: Option<&mut Vec<OsString>>) -> Option<OsString> {
    let sequences = sequences?;
    let last = sequences.last()?;
    let is_number = last.to_str().is_some_and(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    if is_number { None } else { sequences.pop() }
}

/// The request from the flags.
pub(super) fn request(flags: ParkedFlags) -> Result<ParkedRequest, SettingsError> {
    let ParkedFlags { json, retry, drop, .. } = flags;
    match (json, retry, drop) {
        (json, None, None) => Ok(ParkedRequest::List { json }),
        (false, Some(sequences), None) => Ok(ParkedRequest::Retry(numbers("--retry", &sequences)?)),
        (false, None, Some(sequences)) => Ok(ParkedRequest::Drop(numbers("--drop", &sequences)?)),
        (true, Some(_), _) => Err(together("--json", "--retry")),
        (true, None, Some(_)) => Err(together("--json", "--drop")),
        (false, Some(_), Some(_)) => Err(together("--retry", "--drop")),
    }
}

fn numbers(flag: &str, sequences: &[OsString]) -> Result<Vec<u64>, SettingsError> {
    let number = |text: &OsString| {
        text.to_str().and_then(|text| text.parse().ok()).ok_or_else(|| SettingsError::Value {
            setting: flag.to_owned(),
            problem: format!(
                "{:?} is not a sequence number; give numbers as `file-watcher parked` lists them, or none for all",
                without_secrets(&text.to_string_lossy())
            ),
        })
    };
    sequences.iter().map(number).collect()
}

fn together(one: &str, other: &str) -> SettingsError {
    let setting = format!("{one} and {other}");
    SettingsError::Value { setting, problem: "are both given; give one of them".to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(values: &[&str]) -> Vec<OsString> {
        values.iter().map(OsString::from).collect()
    }

    #[test]
    fn the_library_may_follow_the_numbers() {
        for (given, directory, left) in [
            (&["7", "8", "/music"][..], Some("/music"), &["7", "8"][..]),
            (&["/music"], Some("/music"), &[]),
            (&["7", "8"], None, &["7", "8"]),
            (&["7", "./8"], Some("./8"), &["7"]),
            (&[], None, &[]),
        ] {
            let mut given = values(given);
            assert_eq!(directory_after(Some(&mut given)), directory.map(OsString::from));
            assert_eq!(given, values(left));
        }
        assert_eq!(directory_after(None), None);
    }

    #[test]
    fn the_flags_exclude_each_other() {
        let sequences = |texts: &[&str]| Some(values(texts));
        let request = |json, retry, drop| request(ParkedFlags { dir: None, json, retry, drop });
        assert_eq!(request(true, None, None).unwrap(), ParkedRequest::List { json: true });
        assert_eq!(request(false, sequences(&[]), None).unwrap(), ParkedRequest::Retry(vec![]));
        assert_eq!(request(false, None, sequences(&["7", "8"])).unwrap(), ParkedRequest::Drop(vec![7, 8]));
        let wrong = |json, retry, drop| request(json, retry, drop).unwrap_err().to_string();
        assert!(wrong(false, sequences(&["x", "7"]), None).starts_with("--retry: \"x\" is not a sequence number"));
        assert!(wrong(false, sequences(&["99999999999999999999"]), None).contains("is not a sequence number"));
        assert!(wrong(false, sequences(&[]), sequences(&[])).starts_with("--retry and --drop: are both given"));
        assert!(wrong(true, sequences(&[]), None).starts_with("--json and --retry"));
        assert!(wrong(true, None, sequences(&[])).starts_with("--json and --drop"));
    }
}
