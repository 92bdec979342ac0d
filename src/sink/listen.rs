//! Receives copies of the messages of the exchange.

use futures::StreamExt;
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Connection, ConnectionProperties, Consumer, Error as BrokerError};
use tokio::time;

use super::connection::HANDSHAKE_TIMEOUT;
use super::exchange::channel_with_exchange;
use super::refusal::{self, Failure, Step};
use super::round::{Candidate, Round};
use super::socket::SocketGuard;
use super::{BrokerUrl, Tls};
use crate::model::EventType;

/// The most messages that wait at the broker for this listener. Older ones are dropped, so that a listener that nobody
/// reads does not fill the memory of the broker.
const LONGEST_QUEUE: i32 = 100_000;

/// The AMQP reply code of an orderly close.
const REPLY_SUCCESS: u16 = 200;

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

/// The queue in which messages are received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenQueue {
    /// One that ends with the connection.
    Own,
    /// A durable one of this name, in which messages wait while nobody listens.
    Durable(String),
}

/// A received message. The broker sends it again unless it is acknowledged.
#[derive(Debug)]
pub struct Received(Delivery);

impl Received {
    /// The body.
    pub fn body(&self) -> &[u8] {
        &self.0.data
    }
}

/// Receives messages in a queue.
pub struct Listener {
    node: Candidate,
    exchange: String,
    messages: Consumer,
    connection: Connection,
    _socket: SocketGuard,
}

impl std::fmt::Debug for Listener {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Listener").field("node", &self.node).finish_non_exhaustive()
    }
}

impl Listener {
    /// Connects to one of the nodes, and binds a queue to the routing keys of these types.
    ///
    /// # Errors
    ///
    /// If no node of the broker can be reached, or one refuses something.
    pub async fn open(
        url: &BrokerUrl,
        tls: &Tls,
        exchange: &str,
        queue: &ListenQueue,
        types: &[EventType],
    ) -> Result<Self, ListenError> {
        let mut round = Round::new(url);
        while let Some(node) = round.next().await {
            let opened =
                time::timeout(2 * HANDSHAKE_TIMEOUT, Self::handshake(&node, tls, exchange, queue, types)).await;
            match opened {
                Ok(Ok(listener)) => return Ok(listener),
                Ok(Err((error, step))) => round.failed(refusal::explain(&error, step, &node.url, exchange)),
                Err(_) => round.failed(Failure::Transient(format!("{}: no answer", node.name()))),
            }
        }
        Err(round.into_failure().into())
    }

    /// The node that this listener is connected to: host and port.
    pub fn node(&self) -> String {
        self.node.name()
    }

    async fn handshake(
        node: &Candidate,
        tls: &Tls,
        exchange: &str,
        queue: &ListenQueue,
        types: &[EventType],
    ) -> Result<Self, (BrokerError, Step)> {
        let at = |step| move |error: BrokerError| (error, step);
        let socket = SocketGuard::default();
        let properties = ConnectionProperties::default().with_connection_name("file_watcher_events".into());
        let connection = socket.connect(node, tls, properties).await.map_err(at(Step::Connect))?;
        let channel = channel_with_exchange(&connection, exchange).await.map_err(at(Step::Declare))?;
        channel.basic_qos(PREFETCH, BasicQosOptions::default()).await.map_err(at(Step::Connect))?;
        let options = QueueDeclareOptions::default();
        let mut limits = FieldTable::default();
        let (name, options) = match queue {
            ListenQueue::Durable(name) => (name.as_str(), QueueDeclareOptions { durable: true, ..options }),
            ListenQueue::Own => {
                limits.insert("x-max-length".into(), AMQPValue::LongInt(LONGEST_QUEUE));
                ("", QueueDeclareOptions { exclusive: true, auto_delete: true, ..options })
            }
        };
        let queue = channel.queue_declare(name.into(), options, limits).await.map_err(at(Step::Listen))?;
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
        Ok(Self { node: node.clone(), exchange: exchange.to_owned(), messages, connection, _socket: socket })
    }

    /// Waits for the next message.
    ///
    /// # Errors
    ///
    /// If the connection is lost.
    pub async fn next(&mut self) -> Result<Received, ListenError> {
        match self.messages.next().await {
            Some(Ok(message)) => Ok(Received(message)),
            Some(Err(error)) => Err(self.failed(&error)),
            None => Err(ListenError::Lost("the broker closed it".to_owned())),
        }
    }

    /// Acknowledges a message, after everything was done with it.
    ///
    /// # Errors
    ///
    /// If the connection is lost.
    pub async fn acknowledge(&self, message: Received) -> Result<(), ListenError> {
        let acknowledged = message.0.ack(BasicAckOptions::default()).await;
        acknowledged.map(|_| ()).map_err(|error| self.failed(&error))
    }

    /// Closes the connection, so that the last acknowledgement reaches the broker.
    pub async fn close(self) {
        let closing = self.connection.close(REPLY_SUCCESS, "".into());
        // It ends anyway.
        let _ = time::timeout(HANDSHAKE_TIMEOUT, closing).await;
    }

    fn failed(&self, error: &BrokerError) -> ListenError {
        refusal::explain(error, Step::Publish, &self.node.url, &self.exchange).into()
    }
}

impl From<Failure> for ListenError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Transient(text) | Failure::SettingsFile(text) => Self::Lost(text),
            Failure::NeedsOperator(text) => Self::Refused(text),
        }
    }
}
