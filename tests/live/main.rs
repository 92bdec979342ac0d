//! The real binary on real directories, under the conditions that libraries of users meet.
//!
//! Some tests need root, for mounts, other users and limits. Without root they fail and say so.

mod brake;
mod counts;
mod fanotify;
mod files;
mod held;
mod identity;
mod links;
mod links_out;
mod names;
mod offline;
mod partition;
mod priority;
mod relocation;
mod roots;
mod rules;
mod silent;
mod space;
mod special;
mod store;
#[path = "../support/mod.rs"]
mod support;
mod trees;
mod trouble;
