//! An unchanged library compared with its index. Neighbours: a plain recursion that reads the metadata of every file,
//! and a walk without a comparison.

use std::fs;
use std::hint::black_box;
use std::path::Path;
use std::sync::LazyLock;

use criterion::{Criterion, SamplingMode, Throughput};
use std::sync::Arc;

use file_watcher::disk::Root;
use file_watcher::library::{Difference, Reconcile, Walk};
use file_watcher::model::LibraryPath;
use file_watcher::store::Store;

use crate::support;
use crate::support::library::Library;
use crate::support::rows::fill;

pub(crate) fn unchanged(criterion: &mut Criterion) {
    for (name, count) in [("walk/10,000 files", 10_000), ("walk/100,000 files", 100_000)] {
        let mut group = criterion.benchmark_group(name);
        group.sample_size(10).sampling_mode(SamplingMode::Flat).throughput(Throughput::Elements(count as u64));
        let library = LazyLock::new(|| Library::of_names(count));
        let indexed = LazyLock::new(|| Indexed::of(&library));

        group.bench_function("reconciled", |bencher| {
            let Indexed { root, store, .. } = &*indexed;
            bencher.iter(|| {
                let walk = Walk::new(root, LibraryPath::root());
                let compared = Reconcile::reading_ahead(walk, store.index().clone(), LibraryPath::root(), false);
                let same = compared.filter(|difference| matches!(difference, Ok(Difference::Same(..)))).count();
                assert_eq!(same, count);
            });
        });
        group.bench_function("walked only", |bencher| {
            let root = Arc::new(Root::open(library.root()).unwrap());
            bencher.iter(|| assert_eq!(Walk::new(&root, LibraryPath::root()).count(), count));
        });
        group.bench_function("neighbour: std::fs", |bencher| {
            bencher.iter(|| assert_eq!(recursion(library.root()), count));
        });
        group.finish();
    }
}

/// A library and its index.
struct Indexed {
    root: Arc<Root>,
    store: Store,
    _state: tempfile::TempDir,
}

impl Indexed {
    fn of(library: &Library) -> Self {
        let state = tempfile::tempdir().unwrap();
        let store = support::store(&state.path().join("bench.sqlite"));
        let root = Arc::new(Root::open(library.root()).unwrap());
        fill(&store, &root);
        Self { root, store, _state: state }
    }
}

fn recursion(directory: &Path) -> usize {
    let mut files = 0;
    for entry in fs::read_dir(directory).unwrap() {
        let entry = entry.unwrap();
        let metadata = entry.metadata().unwrap();
        if metadata.is_dir() {
            files += recursion(&entry.path());
        } else {
            black_box(metadata);
            files += 1;
        }
    }
    files
}
