//! Declares the exchange.

use lapin::options::ExchangeDeclareOptions;
use lapin::types::FieldTable;
use lapin::{Channel, Connection, Error as BrokerError, ErrorKind, ExchangeKind};

use super::refusal::PRECONDITION_FAILED;

/// The properties that the exchange must have. RabbitMQ compares them before the arguments.
const NECESSARY: [&str; 4] = ["type", "durable", "auto_delete", "internal"];

/// Opens a channel on which the durable topic exchange of this name is declared. An existing one may have arguments, such
/// as `alternate-exchange`: they are the operator's choice.
pub(super) async fn channel_with_exchange(connection: &Connection, exchange: &str) -> Result<Channel, BrokerError> {
    let channel = connection.create_channel().await?;
    let durable = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
    match declare(&channel, exchange, durable).await {
        Ok(()) => Ok(channel),
        Err(error) if differs_in_arguments(&error) => {
            // The refusal closed the channel.
            let channel = connection.create_channel().await?;
            declare(&channel, exchange, ExchangeDeclareOptions { passive: true, ..durable }).await?;
            Ok(channel)
        }
        Err(error) => Err(error),
    }
}

async fn declare(channel: &Channel, exchange: &str, options: ExchangeDeclareOptions) -> Result<(), BrokerError> {
    channel.exchange_declare(exchange.into(), ExchangeKind::Topic, options, FieldTable::default()).await
}

/// Whether the exchange is a durable topic exchange and was declared with other arguments.
fn differs_in_arguments(error: &BrokerError) -> bool {
    let ErrorKind::ProtocolError(protocol) = error.kind() else { return false };
    let text = protocol.get_message().to_string();
    let differing = text.split_once("inequivalent arg '").and_then(|(_, rest)| rest.split_once('\''));
    protocol.get_id() == PRECONDITION_FAILED && differing.is_some_and(|(argument, _)| !NECESSARY.contains(&argument))
}
