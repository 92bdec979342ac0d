//! A durable commit of a hundred new files, with rows and messages. Neighbour: as many bytes appended to a file and
//! synced.

use std::fs::File;
use std::io::Write;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use criterion::{Criterion, SamplingMode, Throughput};
use file_watcher::model::Observation;
use file_watcher::store::Store;
use tokio::runtime::Runtime;

use crate::support;
use crate::support::library::noise;
use crate::support::rows::{commit_all, observation};

const BATCH: usize = 100;
const ROWS: usize = 100_000;

/// Bytes of a row and a message of one file, including database indexes.
const FILE: usize = 1600;

pub(crate) fn durable(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("commit");
    group.sample_size(10).sampling_mode(SamplingMode::Flat).throughput(Throughput::Elements(BATCH as u64));
    let runtime = support::runtime();

    group.bench_function("into an empty store", |bencher| {
        bencher.iter_custom(|batches| {
            let state = tempfile::tempdir().unwrap();
            let store = support::store(&state.path().join("bench.sqlite"));
            time(&runtime, &store, 0, batches)
        });
    });
    let state = tempfile::tempdir().unwrap();
    let large = LazyLock::new(|| {
        let store = support::store(&state.path().join("bench.sqlite"));
        commit_all(&store, &(0..ROWS).map(observation).collect::<Vec<_>>());
        store
    });
    let mut next = ROWS;
    group.bench_function("into a store of 100,000 rows", |bencher| {
        bencher.iter_custom(|batches| {
            let took = time(&runtime, &large, next, batches);
            next += usize::try_from(batches).unwrap() * BATCH;
            took
        });
    });
    group.bench_function("neighbour: append and sync", |bencher| {
        let folder = tempfile::tempdir().unwrap();
        let mut file = File::create(folder.path().join("bytes")).unwrap();
        let bytes = noise(1, FILE * BATCH);
        bencher.iter(|| {
            file.write_all(&bytes).unwrap();
            file.sync_data().unwrap();
        });
    });
    group.finish();
}

/// Commits this many batches of new files, from number `first` on.
fn time(runtime: &Runtime, store: &Store, first: usize, batches: u64) -> Duration {
    let mut took = Duration::ZERO;
    for number in (first..).step_by(BATCH).take(usize::try_from(batches).unwrap()) {
        let batch: Arc<[Observation]> = (number..number + BATCH).map(observation).collect();
        runtime.block_on(async {
            let begun = Instant::now();
            let committed = store.commit(batch).await.unwrap();
            took += begun.elapsed();
            assert_eq!(committed.changes.len(), BATCH);
            // As after the delivery. This is not measured here.
            store.remove_delivered(store.last_sequence()).await.unwrap();
        });
    }
    took
}
