//! A TCP proxy that makes a network slow, silent or unreachable, and cuts connections.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time;

/// The state of the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Network {
    /// Everything passes.
    Up,
    /// Connections are half-open: they stay, new ones are accepted, and no byte passes.
    Silent,
    /// Connections are refused or end at once.
    Down,
    /// This many bytes a second pass in each direction.
    Slow(u32),
}

/// Stands between a client and a port on 127.0.0.1, until dropped.
pub(crate) struct Proxy {
    port: u16,
    network: watch::Sender<Network>,
    cut: watch::Sender<u64>,
    budget: Arc<AtomicU64>,
    _tasks: JoinSet<()>,
}

impl Proxy {
    /// Listens on a port of its own for connections to `port`.
    pub(crate) async fn to(port: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let own = listener.local_addr().unwrap().port();
        let network = watch::Sender::new(Network::Up);
        let cut = watch::Sender::new(0);
        let budget = Arc::new(AtomicU64::new(u64::MAX));
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, port, network.clone(), cut.clone(), Arc::clone(&budget)));
        Self { port: own, network, cut, budget, _tasks: tasks }
    }

    /// The port to connect to.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Sets the state of the network, also for open connections.
    pub(crate) fn set(&self, network: Network) {
        self.network.send_replace(network);
    }

    /// Ends all connections now.
    pub(crate) fn cut(&self) {
        self.cut.send_modify(|cuts| *cuts += 1);
    }

    /// Ends one connection after this many more bytes from clients, also in the middle of a frame.
    pub(crate) fn cut_after(&self, bytes: u64) {
        self.budget.store(bytes, Ordering::SeqCst);
    }
}

async fn accept(
    listener: TcpListener,
    port: u16,
    network: watch::Sender<Network>,
    cut: watch::Sender<u64>,
    budget: Arc<AtomicU64>,
) {
    let mut connections = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        while connections.try_join_next().is_some() {}
        if *network.borrow() == Network::Down {
            continue;
        }
        let (network, mut cut, budget) = (network.subscribe(), cut.subscribe(), Arc::clone(&budget));
        connections.spawn(async move {
            let Ok(server) = TcpStream::connect(("127.0.0.1", port)).await else { return };
            // Otherwise each batch waits 40 ms for its last segment.
            let _ = (client.set_nodelay(true), server.set_nodelay(true));
            let (from_client, to_client) = client.into_split();
            let (from_server, to_server) = server.into_split();
            let mut down = network.clone();
            tokio::select! {
                () = pass(from_client, to_server, network.clone(), Some(budget)) => {}
                () = pass(from_server, to_client, network, None) => {}
                _ = cut.changed() => {}
                _ = down.wait_for(|network| *network == Network::Down) => {}
            }
        });
    }
}

async fn pass(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    mut network: watch::Receiver<Network>,
    budget: Option<Arc<AtomicU64>>,
) {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        if network.wait_for(|network| *network != Network::Silent).await.is_err() {
            return;
        }
        let size = match *network.borrow() {
            Network::Slow(rate) => (rate as usize / 20).clamp(1, buffer.len()),
            _ => buffer.len(),
        };
        let Ok(read @ 1..) = from.read(&mut buffer[..size]).await else { return };
        // Bytes that were read before the silence began are delayed, as TCP does.
        if network.wait_for(|network| *network != Network::Silent).await.is_err() {
            return;
        }
        let pass = match &budget {
            Some(budget) => {
                let left = budget.load(Ordering::SeqCst);
                if left == u64::MAX { read } else { read.min(usize::try_from(left).unwrap_or(read)) }
            }
            None => read,
        };
        if to.write_all(&buffer[..pass]).await.is_err() {
            return;
        }
        if let Some(budget) = &budget {
            let left = budget.load(Ordering::SeqCst);
            if left != u64::MAX {
                let left = left.saturating_sub(pass as u64);
                budget.store(if left == 0 { u64::MAX } else { left }, Ordering::SeqCst);
                if left == 0 {
                    return;
                }
            }
        }
        let slow = matches!(*network.borrow(), Network::Slow(_));
        if slow {
            time::sleep(Duration::from_millis(50)).await;
        }
    }
}
