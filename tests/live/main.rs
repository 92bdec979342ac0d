//! The real binary against real folders: every condition that people's libraries meet.
//!
//! Some of these need to be root, for mounts, other users and limits of their own; who is not root
//! sees those fail with words that say so.

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
#[path = "../support/mod.rs"]
mod support;
mod trees;
mod trouble;
