//! The program with its broker behind a proxy.

use std::ops::{Deref, DerefMut};

use lapin::types::FieldTable;

use crate::support::consumer::{Consumer, KEYS, declare};
use crate::support::process::Recorded;
use crate::support::program;
use crate::support::proxy::Proxy;
use crate::support::rabbit::Node;

/// The queue that takes everything, read or not.
const QUEUE: &str = "cataloging.file.events";

/// The program, a proxy to its broker, and a queue that is bound to all keys.
pub(crate) struct Program {
    base: program::Program,
    pub(crate) proxy: Proxy,
    /// Of the node itself.
    url: String,
}

impl Program {
    /// An empty library, a vhost of its own on the shared node, and a network that is up.
    pub(crate) async fn new() -> Self {
        Self::on(Node::shared()).await
    }

    /// The same with the broker on this node.
    pub(crate) async fn on(node: &Node) -> Self {
        let vhost = node.vhost();
        let url = node.url(&vhost);
        declare(&url, QUEUE, &KEYS, FieldTable::default()).await;
        let proxy = Proxy::to(node.port()).await;
        let through = format!("amqp://guest:guest@127.0.0.1:{}/{vhost}?connection_timeout=1000", proxy.port());
        let mut base = program::Program::new(&through);
        base.set("DATA_DIR", "music")
            .set("STATE_DIR", "state")
            .set("INSTANCE_ID", "test")
            .set("RESCAN_INTERVAL_SECS", "0")
            .set("LOG_LEVEL", "file_watcher=debug,warn");
        Self { base, proxy, url }
    }

    /// The vhost of the program and its consumers.
    pub(crate) fn vhost(&self) -> String {
        self.url.rsplit('/').next().unwrap().to_owned()
    }

    /// Reads the queue, from the first message that nobody has read.
    pub(crate) async fn consumer(&self) -> Consumer {
        Consumer::of_queue(&self.url, QUEUE).await
    }

    /// Starts `watch`, and waits until it has walked everything and committed what it found.
    pub(crate) async fn watch(&self) -> Recorded {
        let mut running = self.start(&["watch"]);
        running.wait_for_log("everything was walked").await;
        running
    }
}

impl Deref for Program {
    type Target = program::Program;

    fn deref(&self) -> &program::Program {
        &self.base
    }
}

impl DerefMut for Program {
    fn deref_mut(&mut self) -> &mut program::Program {
        &mut self.base
    }
}
