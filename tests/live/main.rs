//! The real binary against real folders: every condition that people's libraries meet.
//!
//! Some of these need to be root, for mounts, other users and limits of their own; who is not root
//! sees those fail with words that say so.

#[path = "../support/library.rs"]
mod library;
#[path = "../support/strict.rs"]
mod strict;

mod brake;
mod files;
mod held;
mod identity;
mod links;
mod links_out;
mod names;
mod offline;
mod relocation;
mod roots;
mod rules;
mod silent;
mod space;
mod special;
mod store;
mod trees;
mod trouble;
