//! One path as an observation: is it finished, what are its hashes, what do its tags say.

pub mod adts;
pub mod tags;

mod asf;
mod batch;
mod confirm;
mod container;
mod examine;
mod mp4;
mod oggflac;
mod read;
mod source;
mod values;
mod wav;

pub use examine::{Contents, Examined, Examiner, Outcome, Patience};
pub use read::Reader;
