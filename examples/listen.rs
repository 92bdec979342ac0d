//! Prints every message of the exchange: a consumer to try things with, or to begin your own from.
//!
//! `cargo run --release --example listen`, with `RABBITMQ_URL` where the broker is not on this machine.

use futures::StreamExt as _;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions,
};
use lapin::types::FieldTable;
use lapin::{Connection, ConnectionProperties, ExchangeKind};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let url = std::env::var("RABBITMQ_URL").unwrap_or_else(|_| "amqp://guest:guest@localhost:5672/%2f".to_owned());
    let connection = Connection::connect(&url, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;

    // Whoever comes first, consumer or file-watcher, makes the exchange.
    let durable = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
    channel.exchange_declare("file_events".into(), ExchangeKind::Topic, durable, FieldTable::default()).await?;

    // A queue that lives as long as this program. A real consumer gives its queue a name and makes it
    // durable, so that it misses nothing while it is away.
    let mine = QueueDeclareOptions { exclusive: true, auto_delete: true, ..QueueDeclareOptions::default() };
    let queue = channel.queue_declare("".into(), mine, FieldTable::default()).await?;
    let bound = QueueBindOptions::default();
    channel
        .queue_bind(queue.name().clone(), "file_events".into(), "file.#".into(), bound, FieldTable::default())
        .await?;

    let consumed = BasicConsumeOptions::default();
    let mut messages = channel.basic_consume(queue.name().clone(), "".into(), consumed, FieldTable::default()).await?;
    eprintln!("listening for file.# on the exchange file_events");
    while let Some(message) = messages.next().await {
        let message = message?;
        println!("{} {}", message.routing_key, String::from_utf8_lossy(&message.data));
        message.ack(BasicAckOptions::default()).await?;
    }
    Ok(())
}
