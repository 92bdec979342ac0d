//! The whole program as a process, with a real RabbitMQ: how it ends, how it publishes again, and what it
//! makes of a broker that stays away.
//!
//! Between the program and the node stands a proxy, so that the broker can be away, silent or slow for one
//! program and there for all others.

mod bounded;
mod library;
mod outbox;
mod parked;
mod program;
mod replay;
mod signals;
#[path = "../support/mod.rs"]
mod support;

use std::time::Duration;

/// Longer than anything here takes on a busy machine; a test that waits this long has failed.
const LIMIT: Duration = Duration::from_mins(1);

/// How long a queue must say nothing to be taken for empty.
const QUIET: Duration = Duration::from_millis(500);
