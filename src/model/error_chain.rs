//! An error as text, with its causes.

use std::error::Error;
use std::fmt::Write as _;

/// The text of an error and of all its sources, separated by colons.
///
/// # Examples
///
/// ```
/// use file_watcher::model::with_causes;
///
/// let error = "x".parse::<u32>().unwrap_err();
/// assert_eq!(with_causes(&error), "invalid digit found in string");
/// ```
pub fn with_causes(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        // Writing to a string cannot fail.
        let _ = write!(text, ": {cause}");
        source = cause.source();
    }
    text
}
