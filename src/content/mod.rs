//! One path as an observation: is it finished, what are its hashes, what do its tags say.

mod adts;
mod asf;
mod examine;
mod oggflac;
mod read;
mod source;
pub mod tags;

pub use examine::{Contents, Examined, Examiner, Outcome, Patience};
pub use read::Reader;
