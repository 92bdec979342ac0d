//! The benches, a file for each stage, and the whole program against what people would use in its place.
//!
//! A figure means little without its neighbour: what one could not do without, or would do instead.
//! Each group has one, and what takes more than twice as long as its neighbour is worth a look.

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
    targets = hash::hash, tags::tags, classify::batches, debounce::burst, walk::unchanged, commit::durable,
        message::encode, sink::deliver
}

criterion_group! {
    name = programs;
    config = support::ratio::settings();
    targets = chain::chain
}

criterion_main!(stages, programs);
