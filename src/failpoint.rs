//! Points between two writes at which a test may end the process, as a kill would, and one at which it may end the
//! watcher's thread, as a bug would. Only tests have them: without the feature `failpoints` none of this is compiled.
//!
//! `FILE_WATCHER_ABORT_AT=store::commit:3` ends the process when it comes by that point for the third time.

/// Every point by its name, in the order in which a change comes by them.
pub const POINTS: [&str; 14] = [
    "store::begin",
    "store::enqueue",
    "store::reserve",
    "store::commit",
    "store::committed",
    "sink::publish",
    "sink::published",
    "sink::confirmed",
    "store::forget",
    "store::forgotten",
    "rebuild::made",
    "rebuild::move",
    "relocate::step",
    "relocate::commit",
];

/// The point at which not the process ends but the thread that handles what the kernel tells.
pub const WATCHER: &str = "watch::handle";

/// A point at which a test may end something.
macro_rules! failpoint {
    ($name:literal) => {
        #[cfg(feature = "failpoints")]
        fail::fail_point!($name);
    };
}
pub(crate) use failpoint;

/// The variable that says where to end the process.
#[cfg(feature = "failpoints")]
const VARIABLE: &str = "FILE_WATCHER_ABORT_AT";

/// Does what the environment says. A slip in it is a test that tests nothing, and so ends the process too.
#[cfg(feature = "failpoints")]
pub fn arm() {
    use std::sync::atomic::{AtomicU32, Ordering};

    let Ok(value) = std::env::var(VARIABLE) else { return };
    let (point, hits) = value.rsplit_once(':').expect("POINT:HITS");
    let hits: u32 = hits.parse().expect("a number of hits");
    let is_watcher = point == WATCHER;
    assert!(is_watcher || POINTS.contains(&point), "there is no failpoint {point}");
    let left = AtomicU32::new(hits);
    fail::cfg_callback(point, move || {
        if left.fetch_sub(1, Ordering::SeqCst) == 1 {
            assert!(!is_watcher, "the watcher's thread ends here, as it was asked to");
            // Nothing is flushed, closed or dropped.
            std::process::abort();
        }
    })
    .expect("a callback is a valid action");
}
