//! Counters, progress and the summary.
