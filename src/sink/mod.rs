//! Delivers messages: to RabbitMQ or to standard output.
//!
//! A sink takes a batch and returns when every message of it is delivered. It retries without a limit; an error would
//! end the stream of messages. Only a message that the broker will never take is returned, with the reason.

mod amqp;
mod broker_url;
mod connection;
mod delivery_status;
mod exchange;
mod listen;
mod log_throttle;
mod node_address;
mod pacing;
mod publish;
mod refusal;
mod renewal;
mod reread;
mod round;
mod socket;
mod stdout;
mod suspects;
mod tls;

use std::future::Future;
use std::io;
use std::sync::Arc;

pub use amqp::{Amqp, AmqpSettings};
pub use broker_url::{BrokerUrl, BrokerUrlError};
pub use connection::pauses;
pub use delivery_status::{BrokerState, DeliveryStatus, Stall};
pub use listen::{ListenError, ListenQueue, Listener, Received};
pub use node_address::{AddressError, AddressProblem, BareIpv6, NodeAddress};
pub use reread::Reread;
pub use stdout::Stdout;
pub use tls::{Tls, TlsError};

use crate::model::{Outgoing, Refused};

/// The exchange that messages are published to.
pub const EXCHANGE: &str = "file_events";

/// Delivers batches of messages.
pub trait Deliver: Send {
    /// Delivers the messages of a batch in order, and waits for that without a limit. A message without a queue may be
    /// dropped, as `UNROUTABLE` allows. Returns the messages, in order, that can never be delivered because of their
    /// size or format.
    ///
    /// The future may be dropped at any time. Then it is not known which messages were delivered, and the same batch
    /// must be delivered again, by this process or another one. Batches must be passed in order, one at a time.
    ///
    /// # Errors
    ///
    /// No message can be delivered any more: see [`SinkError`].
    fn deliver(&mut self, batch: &[Outgoing]) -> impl Future<Output = Result<Vec<Refused>, SinkError>> + Send;
}

/// Why no message can be delivered any more.
#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    /// The reader of standard output closed it.
    #[error("standard output was closed by its reader")]
    Closed,
    /// Writing to standard output failed.
    #[error("failed to write to standard output")]
    Output(#[source] io::Error),
    /// The connection task ended, which is a bug.
    #[error("the task for the connection to RabbitMQ ended (a bug)")]
    Abandoned,
}

/// A destination of messages.
#[derive(Debug)]
pub enum Sink {
    /// RabbitMQ.
    Amqp(Box<Amqp>),
    /// Standard output, one JSON body per line.
    Stdout(Stdout),
}

impl Sink {
    /// The status of the delivery to RabbitMQ; `None` for standard output.
    pub fn status(&self) -> Option<Arc<DeliveryStatus>> {
        match self {
            Self::Amqp(amqp) => Some(amqp.status()),
            Self::Stdout(_) => None,
        }
    }

    /// Closes the connection gracefully, within half a second.
    pub async fn close(self) {
        if let Self::Amqp(amqp) = self {
            amqp.close().await;
        }
    }
}

impl Deliver for Sink {
    async fn deliver(&mut self, batch: &[Outgoing]) -> Result<Vec<Refused>, SinkError> {
        match self {
            Self::Amqp(amqp) => amqp.deliver(batch).await,
            Self::Stdout(stdout) => stdout.deliver(batch).await,
        }
    }
}
