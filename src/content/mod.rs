//! One look at one path: is it settled, what are its hashes, and what do its tags say.

pub mod adts;
#[cfg(any(fuzzing, test))]
pub mod fuzzing;
pub mod tags;

mod aac;
mod adif;
mod aiff;
mod asf;
mod batch;
mod chunks;
mod codecs;
mod comments;
mod confirm;
mod container;
mod end_tags;
mod examine;
mod flac;
mod found;
mod genres;
mod id3v2;
mod mp4;
mod mp4_boxes;
mod mp4_sound;
mod mpeg;
mod names;
mod ogg;
mod ogg_pages;
mod outcome;
mod page_cache;
mod plausible;
mod previous;
mod read;
mod settle;
mod sound;
mod source;
mod tail;
#[cfg(test)]
mod testing;
mod text;
mod values;
mod verify;
mod wav;

pub use examine::{Contents, Examiner};
pub use found::{Part, PartContent};
pub use outcome::{Examined, Outcome};
pub use read::{Reader, free_buffer};
pub use settle::SettlePolicy;
pub use verify::{Verification, verify};
