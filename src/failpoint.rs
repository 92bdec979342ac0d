//! Points between two writes at which a test can abort the process, as a kill would, and one at which it can make the
//! watcher thread panic, as a bug would. They are only compiled with the feature `failpoints`.
//!
//! `FILE_WATCHER_ABORT_AT=store::commit:3` aborts the process when it reaches that point for the third time.

/// The names of all points, in the order in which a change passes them.
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

/// The point at which the thread that handles inotify events panics.
pub const WATCHER: &str = "watch::handle";

/// A point at which a test can abort the process.
macro_rules! failpoint {
    ($name:literal) => {
        #[cfg(feature = "failpoints")]
        fail::fail_point!($name);
    };
}
pub(crate) use failpoint;

/// The environment variable that selects a point.
#[cfg(feature = "failpoints")]
const VARIABLE: &str = "FILE_WATCHER_ABORT_AT";

/// Arms the point that the environment selects.
///
/// # Panics
///
/// If the variable is malformed: the test would test nothing.
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
            assert!(!is_watcher, "the watcher thread panics at its failpoint");
            // Nothing is flushed, closed or dropped.
            std::process::abort();
        }
    })
    .expect("a callback is a valid action");
}
