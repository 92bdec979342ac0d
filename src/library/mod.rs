//! The disk as a stream of hints: watched, walked, and compared with the index.
//!
//! A hint only names a path to look at. The watcher translates events into hints, and a walk emits a hint for each path
//! at which the disk and the index differ. Both may be late or repeat a hint.

mod ahead;
mod count;
mod events;
mod excluded;
mod fanotify;
mod filesystem;
mod inbox;
mod inotify;
mod places;
mod recheck;
mod reconcile;
mod scan;
mod unstable_inodes;
mod walk;
mod watch;

pub use count::FileCount;
pub use events::Handler;
pub use excluded::ExcludedDirectories;
pub use filesystem::{silent_filesystem, silent_mounts};
pub use inbox::Inbox;
pub use recheck::{Recheck, RecheckThread};
pub use reconcile::{Difference, Reconcile};
pub use scan::{Barrier, NoWatcher, Scanner, Tally, WalkReport};
pub use walk::{Walk, Walked, WalkedPath};
pub use watch::{WatchError, Watcher};
