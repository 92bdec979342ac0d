//! Where messages go: RabbitMQ or standard output.
//!
//! A sink takes a batch and comes back when every message of it is delivered. It does its own
//! retrying, for as long as it takes: an error that left it would have to end the stream before it.
//! Only a message that the broker will never take is handed back, with the reason.

mod amqp;
mod broker_url;
mod connection;
mod delivery_status;
mod publish;
mod rarely;
mod refusal;
mod reread;
mod stdout;
mod suspects;
mod tls;
mod wire;

use std::future::Future;
use std::io;
use std::sync::Arc;

pub use amqp::{Amqp, AmqpSettings};
pub use broker_url::{BrokerUrl, BrokerUrlError};
pub use delivery_status::{BrokerState, DeliveryStatus, Hold};
pub use reread::Reread;
pub use stdout::Stdout;
pub use tls::{Tls, TlsError};

use crate::model::{Outgoing, Refused};

/// Takes batches of messages to where they go.
pub trait Deliver: Send {
    /// Comes back once every message of the batch is delivered or rightly let go, however long that takes; returns
    /// those, in order, that are refused for what they are and would be refused whenever they are sent.
    ///
    /// The future may be dropped at any point. Messages may then have been delivered or not, and
    /// delivering the same batch again, now or in another process, is what makes that good.
    /// Batches are to be given one after another, in order.
    fn deliver(&mut self, batch: &[Outgoing]) -> impl Future<Output = Result<Vec<Refused>, SinkError>> + Send;
}

/// Why no message will ever be delivered any more.
#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    /// Whoever read standard output has gone away.
    #[error("standard output was closed by its reader")]
    Closed,
    /// Standard output is a file or device that takes no more.
    #[error("standard output cannot be written")]
    Output(#[source] io::Error),
    /// The task that keeps the connection is gone: a bug.
    #[error("the task that keeps the connection to RabbitMQ ended (a bug)")]
    Abandoned,
}

/// One of the places where messages go.
#[derive(Debug)]
pub enum Sink {
    /// RabbitMQ.
    Amqp(Box<Amqp>),
    /// Standard output, one JSON body a line.
    Stdout(Stdout),
}

impl Sink {
    /// How delivery is doing, where that is not plain to see.
    pub fn status(&self) -> Option<Arc<DeliveryStatus>> {
        match self {
            Self::Amqp(amqp) => Some(amqp.status()),
            Self::Stdout(_) => None,
        }
    }

    /// Takes leave of the broker, within two seconds.
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
