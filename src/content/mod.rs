//! One path as an observation.

pub mod adts;
pub mod tags;

mod asf;
mod container;
mod mp4;
mod oggflac;
mod source;
mod wav;
