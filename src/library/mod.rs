//! The disk as a stream of hints: watched, walked, and compared with the index.
//!
//! A hint only names a path to look at. The watcher translates events into hints, and a walk emits a hint for each path
//! at which the disk and the index differ. Both may be late or repeat a hint.

mod events;
mod filesystem;
mod held;
mod inbox;
mod left_out;

mod recheck;
mod reconcile;
mod release;
mod scan;
#[cfg(test)]
mod testing;
mod unreadable;
mod unstable_inodes;
mod walk;
mod watch;

pub use events::Handler;
pub use filesystem::{silent_filesystem, silent_mounts};
pub use held::{Held, Vanished};
pub use inbox::Inbox;
pub use left_out::LeftOut;
pub use recheck::{Recheck, RecheckThread};
pub use reconcile::{Difference, Reconcile};
pub use release::{Release, Released};
pub use scan::{Barrier, Deletions, Scanner, Tally, WalkReport};
pub use unreadable::{Retry, Unreadable, UnreadableSince};
pub use walk::{Walk, Walked};
pub use watch::{WatchError, Watcher};
