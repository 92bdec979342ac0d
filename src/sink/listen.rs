//! Receives copies of the messages of the exchange.

use futures::StreamExt;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicQosOptions, ExchangeDeclareOptions, QueueBindOptions,
    QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Connection, ConnectionProperties, Consumer, Error as BrokerError, ExchangeKind};
use tokio::time;

use super::connection::HANDSHAKE_TIMEOUT;
use super::refusal::{self, Failure, Step};
use super::socket::SocketGuard;
use super::{BrokerUrl, Tls};
use crate::model::EventType;

/// The most messages that wait at the broker for this listener. Older ones are dropped, so that a listener that nobody
/// reads does not fill the memory of the broker.
const LONGEST_QUEUE: i32 = 100_000;

/// The messages that the broker sends ahead.
const PREFETCH: u16 = 500;

/// Why nothing is received.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// There is no connection. A new attempt may succeed.
    #[error("no connection to RabbitMQ: {0}")]
    Lost(String),
    /// Attempts fail until the user changes something.
    #[error("{0}")]
    Refused(String),
}

/// Receives messages in a queue of its own, which ends with the connection.
pub struct Listener {
    url: BrokerUrl,
    exchange: String,
    messages: Consumer,
    _connection: Connection,
    _socket: SocketGuard,
}

impl std::fmt::Debug for Listener {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Listener").field("url", &self.url).finish_non_exhaustive()
    }
}

impl Listener {
    /// Connects, and binds a queue to the routing keys of these types.
    ///
    /// # Errors
    ///
    /// If the broker cannot be reached, or refuses something.
    pub async fn open(url: &BrokerUrl, tls: &Tls, exchange: &str, types: &[EventType]) -> Result<Self, ListenError> {
        let opened = time::timeout(2 * HANDSHAKE_TIMEOUT, Self::handshake(url, tls, exchange, types)).await;
        let refused = |(error, step): (BrokerError, Step)| error_of(&error, step, url, exchange);
        let silent = ListenError::Lost(format!("{}: no answer", url.address()));
        opened.map_or(Err(silent), |opened| opened.map_err(refused))
    }

    async fn handshake(
        url: &BrokerUrl,
        tls: &Tls,
        exchange: &str,
        types: &[EventType],
    ) -> Result<Self, (BrokerError, Step)> {
        let at = |step| move |error: BrokerError| (error, step);
        let socket = SocketGuard::default();
        let properties = ConnectionProperties::default().with_connection_name("file_watcher_events".into());
        let connection = socket.connect(url, tls, properties).await.map_err(at(Step::Connect))?;
        let channel = connection.create_channel().await.map_err(at(Step::Connect))?;
        channel.basic_qos(PREFETCH, BasicQosOptions::default()).await.map_err(at(Step::Connect))?;
        let durable = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
        channel
            .exchange_declare(exchange.into(), ExchangeKind::Topic, durable, FieldTable::default())
            .await
            .map_err(at(Step::Declare))?;
        let own = QueueDeclareOptions { exclusive: true, auto_delete: true, ..QueueDeclareOptions::default() };
        let mut limits = FieldTable::default();
        limits.insert("x-max-length".into(), AMQPValue::LongInt(LONGEST_QUEUE));
        let queue = channel.queue_declare("".into(), own, limits).await.map_err(at(Step::Listen))?;
        for event_type in types {
            let (key, bind) = (format!("file.{event_type}"), QueueBindOptions::default());
            channel
                .queue_bind(queue.name().clone(), exchange.into(), key.into(), bind, FieldTable::default())
                .await
                .map_err(at(Step::Listen))?;
        }
        let messages = channel
            .basic_consume(queue.name().clone(), "".into(), BasicConsumeOptions::default(), FieldTable::default())
            .await
            .map_err(at(Step::Listen))?;
        Ok(Self { url: url.clone(), exchange: exchange.to_owned(), messages, _connection: connection, _socket: socket })
    }

    /// Waits for the next message; returns its body.
    ///
    /// # Errors
    ///
    /// If the connection is lost.
    pub async fn next(&mut self) -> Result<Vec<u8>, ListenError> {
        let failed = |error: &BrokerError| error_of(error, Step::Publish, &self.url, &self.exchange);
        match self.messages.next().await {
            Some(Ok(message)) => {
                message.ack(BasicAckOptions::default()).await.map_err(|error| failed(&error))?;
                Ok(message.data)
            }
            Some(Err(error)) => Err(failed(&error)),
            None => Err(ListenError::Lost("the broker closed it".to_owned())),
        }
    }
}

fn error_of(error: &BrokerError, step: Step, url: &BrokerUrl, exchange: &str) -> ListenError {
    match refusal::explain(error, step, url, exchange) {
        Failure::Transient(text) | Failure::SettingsFile(text) => ListenError::Lost(text),
        Failure::NeedsOperator(text) => ListenError::Refused(text),
    }
}
