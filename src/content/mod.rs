//! One path as an observation.

pub mod adts;
pub mod tags;

mod asf;
mod oggflac;
mod source;
