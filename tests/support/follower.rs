//! A consumer that goes on reading a queue, over as many connections and nodes as it takes.

use std::error::Error;
use std::time::Duration;

use futures::StreamExt;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::FieldTable;
use lapin::{Connection, ConnectionProperties};
use tokio::time::timeout;

use super::consumer::declare_on;

/// How long the consumer waits for anything at all.
const SILENCE: Duration = Duration::from_secs(6);

/// A durable queue for all messages, and where it is.
#[derive(Clone, Debug)]
pub(crate) struct Followed {
    /// The broker's nodes, which are used in turn.
    pub(crate) urls: Vec<String>,
    pub(crate) queue: String,
    pub(crate) arguments: FieldTable,
    /// Whether only one consumer may read it. A quorum queue has an argument for that instead.
    pub(crate) is_exclusive: bool,
}

impl Followed {
    /// Gives the body of each message to `take`, in the order of arrival, and acknowledges it then. Never returns.
    pub(crate) async fn read(self, mut take: impl FnMut(&[u8])) {
        for url in self.urls.iter().cycle() {
            // Whatever goes wrong: what was not acknowledged comes again, and in its order.
            let mut link = None;
            let _ = self.read_once(url, &mut take, &mut link).await;
            if let Some(connection) = link {
                let _ = timeout(SILENCE, connection.close(200, "again".into())).await;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Reads until something goes wrong or nothing has come for a while, which may be the same.
    async fn read_once(
        &self,
        url: &str,
        take: &mut impl FnMut(&[u8]),
        link: &mut Option<Connection>,
    ) -> Result<(), Box<dyn Error + Send + Sync>> {
        let connection = timeout(SILENCE, Connection::connect(url, ConnectionProperties::default())).await??;
        let connection = link.insert(connection);
        let channel = timeout(SILENCE, connection.create_channel()).await??;
        // As every consumer does: a node that is killed soon after a queue was declared forgets it.
        timeout(SILENCE, declare_on(&channel, &self.queue, &["file.#"], self.arguments.clone())).await??;
        timeout(SILENCE, channel.basic_qos(200, BasicQosOptions::default())).await??;
        // Nobody else may still hold messages that come before those that are read now.
        let options = BasicConsumeOptions { exclusive: self.is_exclusive, ..BasicConsumeOptions::default() };
        let begun = channel.basic_consume(self.queue.as_str().into(), "".into(), options, FieldTable::default());
        let mut consumer = timeout(SILENCE, begun).await??;
        while let Some(delivery) = timeout(SILENCE, consumer.next()).await? {
            let delivery = delivery?;
            take(&delivery.data);
            // This too waits for ever if the broker froze or died at the wrong moment.
            timeout(SILENCE, delivery.ack(BasicAckOptions::default())).await??;
        }
        Ok(())
    }
}
