//! What the benches share: a library as people have them, and the criterion settings.

pub(crate) mod library;
pub(crate) mod ratio;
pub(crate) mod rows;

use std::path::Path;
use std::time::Duration;

use criterion::Criterion;
use file_watcher::message::Encoder;
use file_watcher::model::MetadataStyle;
use file_watcher::store::Store;

/// Few samples and short ones: what is looked for is a factor, not a per cent.
pub(crate) fn settings() -> Criterion {
    Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_secs(1))
}

/// Where the library lies, in messages and in the store.
pub(crate) const ROOT: &str = "/data/music";

/// The encoder that the service would use.
pub(crate) fn encoder() -> Encoder {
    Encoder::new("a1b2c3d4", Path::new(ROOT), MetadataStyle::Nested)
}

/// The real store, in this file.
pub(crate) fn store(file: &Path) -> Store {
    Store::open(file, ROOT.as_bytes(), encoder()).unwrap()
}

/// The runtime of benches that need one.
pub(crate) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap()
}
