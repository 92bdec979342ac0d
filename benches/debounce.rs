//! A burst of 100,000 hints for 10,000 paths. Neighbour: a map that keeps only the newest hint of each path.

use std::collections::HashMap;
use std::hint::black_box;
use std::time::Duration;

use criterion::{BatchSize, Criterion, Throughput};
use file_watcher::model::{Cause, FsEvent, LibraryPath, Origin};
use file_watcher::stream::{HintStreamExt, Settle};
use futures::{StreamExt, stream};

use crate::support::library::path;

const HINTS: usize = 100_000;
const PATHS: usize = 10_000;

pub(crate) fn burst(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("debounce");
    group.throughput(Throughput::Elements(HINTS as u64));
    let paths: Vec<LibraryPath> = (0..PATHS).map(path).collect();
    // Ten hints per path, interleaved over a hundred paths, as from an encoder or a copy.
    let burst = |quiet| {
        let hint = move |path: &LibraryPath| FsEvent::new(path.clone(), quiet, Origin::Watch);
        paths.chunks(100).flat_map(move |some| (0..HINTS / PATHS).flat_map(move |_| some.iter().map(hint)))
    };
    // The clock is paused, so that the work is measured and not the wait.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let settle = Settle { debounce: Duration::from_millis(50), settle: Duration::from_secs(2) };
    for (name, quiet, left) in [("merged", Cause::Closed, PATHS), ("passed on", Cause::Found, HINTS)] {
        group.bench_function(name, |bencher| {
            bencher.iter_batched(
                || burst(quiet).collect::<Vec<_>>(),
                |hints| {
                    let settled = runtime.block_on(stream::iter(hints).debounce(settle).count());
                    assert_eq!(settled, left);
                },
                BatchSize::LargeInput,
            );
        });
    }
    group.bench_function("neighbour: a map", |bencher| {
        bencher.iter_batched(
            || burst(Cause::Closed).collect::<Vec<_>>(),
            |hints| {
                let mut newest = HashMap::new();
                for hint in hints {
                    newest.insert(hint.path.clone(), hint);
                }
                assert_eq!(newest.len(), PATHS);
                black_box(newest);
            },
            BatchSize::LargeInput,
        );
    });
    group.finish();
}
