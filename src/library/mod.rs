//! The disk as a stream of hints.
