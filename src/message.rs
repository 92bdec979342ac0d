//! A file event as the bytes that consumers read.
