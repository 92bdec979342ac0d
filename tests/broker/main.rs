//! The sink and the whole program with a real RabbitMQ, and with every fault of brokers and networks.

#[path = "../support/mod.rs"]
mod support;

mod addresses;
mod contract;
mod log;
mod network;
mod outages;
mod parked;
mod pressure;
mod program;
mod refusals;
mod sharing;
mod tls;
mod unroutable;

use std::time::Duration;

use file_watcher::model::Unroutable;
use file_watcher::sink::{Amqp, AmqpSettings};
use support::consumer::QUIET;
use support::process::LIMIT;

fn settings(url: &str) -> AmqpSettings {
    log::start();
    let mut settings = AmqpSettings::new(url.parse().unwrap(), "test-instance", "/music");
    // The default is half a minute, for people.
    settings.refused_pause = Duration::from_millis(500);
    settings
}

fn sink(url: &str) -> Amqp {
    Amqp::new(settings(url))
}

fn sink_with(url: &str, unroutable: Unroutable) -> Amqp {
    Amqp::new(AmqpSettings { unroutable, ..settings(url) })
}
