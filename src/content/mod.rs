//! One path as an observation: is it finished, what are its hashes, what do its tags say.

pub mod adts;
pub mod tags;

mod asf;
mod examine;
mod oggflac;
mod read;
mod source;

pub use examine::{Contents, Examined, Examiner, Outcome, Patience};
pub use read::Reader;
