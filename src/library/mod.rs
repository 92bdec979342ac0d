//! The disk as a stream of hints: watched, walked, and compared with the index.
//!
//! Nothing here says what happened. The watcher says which paths to look at, the walk finds where
//! the disk and the index differ, and both may repeat themselves or be late.

mod events;
mod filesystem;
mod held;
mod inbox;
mod left_out;
mod passing_inodes;
mod recheck;
mod reconcile;
mod release;
mod scan;
#[cfg(test)]
mod testing;
mod unreadable;
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
