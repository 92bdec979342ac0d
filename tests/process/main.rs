//! The whole program as a process with a real RabbitMQ: how it ends, how it replays, and what it does while the
//! broker is away.
//!
//! A proxy between the program and the node makes the broker unreachable, silent or slow for one program only.

mod bounded;
mod health;
mod inquiries;
mod known;
mod operator;
mod outbox;
mod page;
mod parked;
mod program;
mod reload;
mod replay;
mod signals;
mod small;
#[path = "../support/mod.rs"]
mod support;
mod terminal;
mod traces;
mod verify;

use support::consumer::QUIET;
use support::process::LIMIT;
