//! The disk as a stream of hints: watched, walked, and compared with the index.
//!
//! Nothing here says what happened. The watcher says which paths to look at, the walk finds where
//! the disk and the index differ, and both may repeat themselves or be late.

mod reconcile;
mod walk;

pub use reconcile::{Difference, Reconcile};
pub use walk::{Walk, Walked};
