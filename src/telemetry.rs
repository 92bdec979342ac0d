//! The logs.
