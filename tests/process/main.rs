//! The whole program as a process with a real RabbitMQ: how it ends, how it replays, and what it does while the
//! broker is away.
//!
//! A proxy between the program and the node makes the broker unreachable, silent or slow for one program only.

mod bounded;
mod health;
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
