//! The benches, one file per stage, and the whole program against the tools that it replaces.
//!
//! A figure means little without a neighbour: the work that cannot be avoided, or another tool for the same work.
//! Each group has one. A stage that takes more than twice as long as its neighbour should be examined.

mod chain;
mod classify;
mod commit;
mod debounce;
mod hash;
mod message;
mod sink;
mod support;
mod tags;
mod walk;

#[path = "../tests/support/mod.rs"]
mod testing;

use criterion::{criterion_group, criterion_main};

criterion_group! {
    name = stages;
    config = support::settings();
    targets = hash::hash, hash::sound, tags::tags, classify::batches, debounce::burst, walk::unchanged, commit::durable,
        message::encode, sink::deliver
}

criterion_group! {
    name = programs;
    config = support::ratio::settings();
    targets = chain::chain
}

criterion_main!(stages, programs);
