//! The sink against a real RabbitMQ: everything that a broker and a network may do to it.

#[path = "../support/mod.rs"]
mod support;

mod contract;
mod network;
mod outages;
mod parked;
mod pressure;
mod program;
mod refusals;
mod tls;
mod unroutable;

use std::time::Duration;

use file_watcher::model::Unroutable;
use file_watcher::sink::{Amqp, AmqpSettings};

/// Longer than anything here takes on a busy machine; a test that waits this long has failed.
const LIMIT: Duration = Duration::from_mins(1);

/// How long a queue must say nothing to be taken for empty.
const QUIET: Duration = Duration::from_millis(500);

fn settings(url: &str) -> AmqpSettings {
    let mut settings = AmqpSettings::new(url.parse().unwrap(), "test-instance", "/music");
    // A person has half a minute, a test has not.
    settings.refused_pause = Duration::from_millis(500);
    settings
}

fn sink(url: &str) -> Amqp {
    Amqp::new(settings(url))
}

fn sink_with(url: &str, unroutable: Unroutable) -> Amqp {
    Amqp::new(AmqpSettings { unroutable, ..settings(url) })
}
