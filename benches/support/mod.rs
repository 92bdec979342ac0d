//! Shared by the benches: a realistic library, and the criterion settings.

pub(crate) mod library;
pub(crate) mod ratio;
pub(crate) mod rows;

use std::path::Path;
use std::time::Duration;

use criterion::Criterion;
use file_watcher::message::Encoder;
use file_watcher::model::MetadataStyle;
use file_watcher::store::Store;

/// Few and short samples: the benches look for factors, not for per cents.
pub(crate) fn settings() -> Criterion {
    Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_secs(1))
}

/// The root of the library in messages and in the store.
pub(crate) const ROOT: &str = "/data/music";

/// The encoder that the service uses.
pub(crate) fn encoder() -> Encoder {
    Encoder::new("a1b2c3d4", Path::new(ROOT), MetadataStyle::Nested)
}

/// The real store, in `file`.
pub(crate) fn store(file: &Path) -> Store {
    Store::open(file, ROOT.as_bytes(), encoder()).unwrap()
}

/// The runtime of benches that need one.
pub(crate) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap()
}
