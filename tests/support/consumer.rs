//! A consumer such as the services that read this exchange.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use futures::StreamExt;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicQosOptions, ExchangeDeclareOptions, ExchangeDeleteOptions,
    QueueBindOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties, ExchangeKind};
use serde_json::Value;
use tokio::time;

use super::oracle::Oracle;

/// The exchange of all messages.
pub(crate) const EXCHANGE: &str = "file_events";

/// The five routing keys.
pub(crate) const KEYS: [&str; 5] = ["file.created", "file.modified", "file.deleted", "file.moved", "file.renamed"];

/// How long a queue must stay empty to show that no more messages come.
pub(crate) const QUIET: Duration = Duration::from_millis(500);

/// A message as a consumer gets it.
#[derive(Clone, Debug)]
pub(crate) struct Received {
    pub(crate) exchange: String,
    pub(crate) routing_key: String,
    pub(crate) properties: BasicProperties,
    pub(crate) body: Value,
}

impl Received {
    /// A message of which only the body is known.
    pub(crate) fn of_body(body: &[u8]) -> Self {
        Self {
            exchange: EXCHANGE.to_owned(),
            routing_key: String::new(),
            properties: BasicProperties::default(),
            body: serde_json::from_slice(body).expect("a JSON body"),
        }
    }

    /// The number in the body.
    pub(crate) fn sequence(&self) -> u64 {
        self.body["sequence"].as_u64().expect("a body with a sequence")
    }

    /// Gives the message to an oracle. Returns whether it was new; panics if it breaks the contract.
    pub(crate) fn replay(&self, oracle: &mut Oracle) -> bool {
        let body = &self.body;
        assert_eq!(self.routing_key, format!("file.{}", body["event_type"].as_str().unwrap()), "{body}");
        assert_eq!(body["correlation_id"], self.message_id(), "{body}");
        assert_eq!(body["store_id"].as_str(), self.header("store_id").as_deref(), "{body}");
        oracle.take_body(body).unwrap_or_else(|violation| panic!("{violation}: {body}"))
    }

    /// The text of a header.
    pub(crate) fn header(&self, name: &str) -> Option<String> {
        match self.properties.headers().as_ref()?.inner().get(name)? {
            AMQPValue::LongString(text) => Some(text.to_string()),
            other => panic!("the header {name} is {other:?}"),
        }
    }

    /// The property by which redeliveries are known.
    pub(crate) fn message_id(&self) -> String {
        self.properties.message_id().as_ref().map(ToString::to_string).unwrap_or_default()
    }
}

/// The sequence numbers in the order of arrival, without those that came before.
pub(crate) fn first_seen(received: &[Received]) -> Vec<u64> {
    let mut seen = HashSet::new();
    received.iter().filter(|message| seen.insert(message.message_id())).map(Received::sequence).collect()
}

/// A channel to a node, retried for a while, for the node may just be starting.
pub(crate) async fn channel(url: &str) -> (Connection, Channel) {
    let begun = Instant::now();
    loop {
        match Connection::connect(url, ConnectionProperties::default()).await {
            Ok(connection) => {
                let channel = connection.create_channel().await.unwrap();
                return (connection, channel);
            }
            Err(error) => assert!(begun.elapsed() < Duration::from_secs(30), "no connection to {url}: {error}"),
        }
        time::sleep(Duration::from_millis(100)).await;
    }
}

/// Declares the exchange and a durable queue with these arguments, bound to these keys; nobody reads it yet.
pub(crate) async fn declare(url: &str, queue: &str, keys: &[&str], arguments: FieldTable) {
    let (connection, channel) = channel(url).await;
    declare_on(&channel, queue, keys, arguments).await.expect("the exchange and the queue as they are wanted");
    let _ = connection.close(200, "done".into()).await;
}

/// The same, on a channel that is there.
pub(crate) async fn declare_on(
    channel: &Channel,
    queue: &str,
    keys: &[&str],
    arguments: FieldTable,
) -> Result<(), lapin::Error> {
    let exchange = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
    channel.exchange_declare(EXCHANGE.into(), ExchangeKind::Topic, exchange, FieldTable::default()).await?;
    let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(queue.into(), durable, arguments).await?;
    for key in keys {
        let bind = QueueBindOptions::default();
        channel.queue_bind(queue.into(), EXCHANGE.into(), (*key).into(), bind, FieldTable::default()).await?;
    }
    Ok(())
}

/// Declares the exchange with this type and these arguments, whatever the contract says.
pub(crate) async fn declare_exchange(url: &str, kind: ExchangeKind, arguments: FieldTable) {
    let (_connection, channel) = channel(url).await;
    let durable = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
    channel.exchange_declare(EXCHANGE.into(), kind, durable, arguments).await.unwrap();
}

/// Binds a durable queue to an exchange that is there, whatever its arguments are.
pub(crate) async fn bind_queue(url: &str, queue: &str, key: &str) {
    let (_connection, channel) = channel(url).await;
    let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(queue.into(), durable, FieldTable::default()).await.unwrap();
    let bind = QueueBindOptions::default();
    channel.queue_bind(queue.into(), EXCHANGE.into(), key.into(), bind, FieldTable::default()).await.unwrap();
}

/// Deletes the exchange.
pub(crate) async fn delete_exchange(url: &str) {
    let (_connection, channel) = channel(url).await;
    channel.exchange_delete(EXCHANGE.into(), ExchangeDeleteOptions::default()).await.unwrap();
}

/// Reads a queue, acknowledging what it reads.
pub(crate) struct Consumer {
    stream: lapin::Consumer,
    _channel: Channel,
    _connection: Connection,
}

impl Consumer {
    /// Declares a queue bound to the five keys, and reads it.
    pub(crate) async fn of_all_keys(url: &str) -> Self {
        Self::of_keys(url, &KEYS).await
    }

    /// Declares a queue bound to these keys, and reads it.
    pub(crate) async fn of_keys(url: &str, keys: &[&str]) -> Self {
        let queue = format!("cataloging.{}", uuid::Uuid::new_v4());
        declare(url, &queue, keys, FieldTable::default()).await;
        Self::of_queue(url, &queue).await
    }

    /// Reads a queue that is there.
    pub(crate) async fn of_queue(url: &str, queue: &str) -> Self {
        let (connection, channel) = channel(url).await;
        channel.basic_qos(500, BasicQosOptions::default()).await.unwrap();
        let stream = channel
            .basic_consume(queue.into(), "".into(), BasicConsumeOptions::default(), FieldTable::default())
            .await
            .unwrap();
        Self { stream, _channel: channel, _connection: connection }
    }

    /// The next message, if one comes within `limit`.
    pub(crate) async fn next(&mut self, limit: Duration) -> Option<Received> {
        let delivery = time::timeout(limit, self.stream.next()).await.ok()?;
        let delivery = delivery.expect("the queue is still there").expect("the connection is still there");
        delivery.ack(BasicAckOptions::default()).await.unwrap();
        Some(Received {
            exchange: delivery.exchange.to_string(),
            routing_key: delivery.routing_key.to_string(),
            properties: delivery.properties,
            body: serde_json::from_slice(&delivery.data).expect("a JSON body"),
        })
    }

    /// Exactly this many messages, however often each; panics if they do not come within `limit`.
    pub(crate) async fn expect(&mut self, messages: usize, limit: Duration) -> Vec<Received> {
        let begun = Instant::now();
        let mut received = Vec::with_capacity(messages);
        while received.len() < messages {
            let left = limit.saturating_sub(begun.elapsed());
            match self.next(left).await {
                Some(message) => received.push(message),
                None => panic!("{} of {messages} messages within {limit:?}", received.len()),
            }
        }
        received
    }

    /// Everything until so many different messages have come, and until nothing has come for `quiet` then;
    /// panics if they do not come within `limit`.
    pub(crate) async fn expect_different(
        &mut self,
        messages: usize,
        limit: Duration,
        quiet: Duration,
    ) -> Vec<Received> {
        let begun = Instant::now();
        let mut received = Vec::with_capacity(messages);
        let mut different = HashSet::new();
        while different.len() < messages {
            let left = limit.saturating_sub(begun.elapsed());
            let Some(message) = self.next(left).await else {
                panic!("{} of {messages} different messages within {limit:?}", different.len());
            };
            different.insert(message.message_id());
            received.push(message);
        }
        received.extend(self.drain_until_quiet(quiet).await);
        received
    }

    /// Everything until nothing has come for `quiet`.
    pub(crate) async fn drain_until_quiet(&mut self, quiet: Duration) -> Vec<Received> {
        let mut received = Vec::new();
        while let Some(message) = self.next(quiet).await {
            received.push(message);
        }
        received
    }
}
