//! The encoding of a file event as a message. Neighbour: the same JSON from a tree that exists already.

use std::hint::black_box;

use criterion::{Criterion, Throughput};
use file_watcher::message::Stamp;
use file_watcher::model::{Change, FileEvent, LibraryPath, Origin};
use jiff::Timestamp;
use uuid::Uuid;

use crate::support;
use crate::support::rows::row;

pub(crate) fn encode(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("message");
    group.throughput(Throughput::Elements(1));
    let encoder = support::encoder();
    let stamp =
        Stamp { store_id: Uuid::new_v4(), sequence: 123_456, at: Timestamp::now(), correlation_id: Uuid::new_v4() };
    let event = |change| FileEvent { change, origin: Origin::Watch };
    let from = LibraryPath::from("Unsorted/03 - Summer Rain.flac");
    let events = [
        ("created", event(Change::Created(row(3)))),
        ("moved", event(Change::Moved { from: from.clone(), row: row(3) })),
        ("deleted", event(Change::Deleted(from))),
    ];
    for (name, event) in &events {
        group.bench_function(*name, |bencher| bencher.iter(|| encoder.encode(black_box(event), &stamp)));
    }
    group.bench_function("neighbour: created, from a tree", |bencher| {
        let tree: serde_json::Value = serde_json::from_slice(&encoder.encode(&events[0].1, &stamp).body).unwrap();
        bencher.iter(|| serde_json::to_vec(black_box(&tree)).unwrap());
    });
    group.finish();
}
