//! The decision about a batch of a hundred observations. Neighbour: a copy of the rows, which any decision needs.

use std::hint::black_box;

use criterion::{Criterion, Throughput};
use file_watcher::classify::{Rows, classify};
use file_watcher::model::{LibraryPath, Observation, Origin, Seen};

use crate::support::rows::{observation, row};

const BATCH: usize = 100;

pub(crate) fn batches(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("classify");
    group.throughput(Throughput::Elements(BATCH as u64));
    let known = || (0..BATCH).map(row).map(|row| (row.path.clone(), row)).collect::<Rows>();
    let seen = || (0..BATCH).map(observation).collect::<Vec<_>>();

    let cases = [
        ("all new", Rows::new(), seen(), BATCH),
        ("all unchanged", known(), seen(), 0),
        ("all moved", known(), moved(seen()), BATCH),
    ];
    for (name, rows, observations, changes) in cases {
        assert_eq!(classify(&rows, &observations, 0).changes.len(), changes, "{name}");
        group.bench_function(name, |bencher| bencher.iter(|| classify(black_box(&rows), black_box(&observations), 0)));
    }
    group.bench_function("neighbour: copy the rows", |bencher| {
        let rows = known();
        bencher.iter(|| black_box(&rows).clone());
    });
    group.finish();
}

/// The same files, each found in another directory and missing at its former path.
fn moved(observations: Vec<Observation>) -> Vec<Observation> {
    let (arrived, gone): (Vec<_>, Vec<_>) = observations
        .into_iter()
        .map(|observation| {
            let from = observation.path.clone();
            let path = LibraryPath::from("sorted").join(from.as_bytes());
            let Seen::File { stat, content, .. } = observation.seen else { unreachable!("all are files") };
            let seen = Seen::File { stat, content, candidates: vec![from.clone()] };
            let arrived = Observation { path, origin: Origin::Scan, seen };
            (arrived, Observation { path: from, origin: Origin::Scan, seen: Seen::Missing })
        })
        .unzip();
    arrived.into_iter().chain(gone).collect()
}
