//! The whole program as a process, with a real RabbitMQ: how it ends, how it publishes again, and what it
//! makes of a broker that stays away.
//!
//! Between the program and the node stands a proxy, so that the broker can be away, silent or slow for one
//! program and there for all others.

mod bounded;
mod known;
mod outbox;
mod parked;
mod program;
mod replay;
mod signals;
#[path = "../support/mod.rs"]
mod support;

use support::consumer::QUIET;
use support::process::LIMIT;
